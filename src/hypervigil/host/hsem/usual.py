"""All that is usual of VMs: percentiles, ranges of all metrics together, habits by the hour. Pure.

The percentiles judge. What the other two find is told with a case. What agents tell of the rest goes back to them.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace

from hypervigil.host.hsem.brief import Brief, brief
from hypervigil.host.hsem.history import History, Remembered
from hypervigil.host.hsem.outside import Outside
from hypervigil.host.hsem.ports import UsualPorts
from hypervigil.host.hsem.seasonal import Seasonal
from hypervigil.host.hsem.table import Matrix
from hypervigil.host.hsem.told import ToldHistory
from hypervigil.model.guest import MISMATCH
from hypervigil.model.ids import Instant, VmId
from hypervigil.model.status import Evidence

MAX_HISTORIES = 20_000
"""Above this, VMs that do not run are forgotten."""


class Usual:
    """Learns each whole second from those who are above suspicion."""

    def __init__(self) -> None:
        self.history = History()
        self.told = ToldHistory()
        self.ports = UsualPorts()
        self._outside = Outside()
        self._seasonal = Seasonal()

    def clock(self, ahead_s: float) -> None:
        """As ``Seasonal``."""
        self._seasonal.clock(ahead_s)

    def keep(self, running: Collection[VmId]) -> None:
        """Only these run; the history and habits of others are kept while there is room for them."""
        self._outside.keep(running)
        self._seasonal.keep(running)
        self.told.keep(running)
        if len(self.history.vms) > MAX_HISTORIES:
            self.history.keep(running)
            self._seasonal.forget_others(running)
            self.told.forget_others(running)
            self.ports.forget_others(running)

    def learn(self, vms: Sequence[VmId], values: Matrix, suspects: set[int], now: Instant) -> list[Evidence]:
        """Take in a second of these VMs, shape ``(len(vms), len(Metric))``, NaN where unseen; facts about them.

        ``suspects``: places in ``vms``. They teach nothing.
        """
        if suspects:
            rows = [row for row in range(len(vms)) if row not in suspects]
            self.history.learn([vms[row] for row in rows], values[rows])
        else:
            self.history.learn(vms, values)
        self.told.learn({vms[row] for row in suspects})
        facts = self._outside.see(vms, values, suspects, now)
        return facts + self._seasonal.see(vms, self.history.ungranted(vms, values), suspects, now)

    def hear(self, fact: Evidence) -> None:
        """A fact about an agent: one that contradicts the host teaches nothing for a while."""
        if fact.kind == MISMATCH:
            self.told.doubt(fact.vm, fact.at)

    def brief(self, vm: VmId) -> Brief:
        """What the VM's agent is to be told."""
        return brief(self.history, self.told, self.ports, vm)

    def remember(self) -> Remembered:
        """History and habits of all, and what agents told."""
        known = self.history.remember()
        habits = self._seasonal.remember(known.vms)
        return replace(known, habits=habits, told=self.told.remember(), ports=self.ports.remember())

    def recall(self, known: Remembered) -> None:
        """Take over what ``remember`` gave of its VMs; ``ValueError`` otherwise, and nothing is changed."""
        if len({*self.history.vms, *known.vms}) > MAX_HISTORIES:
            raise ValueError(f"there would be more than {MAX_HISTORIES:,} VMs")
        self._seasonal.check(len(known.vms), known.habits)
        if known.told is not None:
            self.told.check(known.told)
        if known.ports is not None:
            self.ports.check(known.ports)
        known = known.of(known.vms)  # and what it says of others is nobody's
        self.history.recall(known)
        self._seasonal.recall(known.vms, known.habits)
        self.told.forget(known.vms)
        self.told.recall(known.told)
        self.ports.forget(known.vms)
        self.ports.recall(known.ports)
