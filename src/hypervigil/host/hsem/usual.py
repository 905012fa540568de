"""All that is usual of VMs: percentiles, ranges of all metrics together, habits by the hour. Pure.

The percentiles judge. What the other two find is told with a case.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace

from hypervigil.host.hsem.history import History, Remembered
from hypervigil.host.hsem.outside import Outside
from hypervigil.host.hsem.seasonal import Seasonal
from hypervigil.host.hsem.table import Matrix
from hypervigil.model.ids import Instant, VmId
from hypervigil.model.status import Evidence

MAX_HISTORIES = 20_000
"""Above this, VMs that do not run are forgotten."""


class Usual:
    """Learns each whole second from those who are above suspicion."""

    def __init__(self) -> None:
        self.history = History()
        self._outside = Outside()
        self._seasonal = Seasonal()

    def clock(self, ahead_s: float) -> None:
        """As ``Seasonal``."""
        self._seasonal.clock(ahead_s)

    def keep(self, running: Collection[VmId]) -> None:
        """Only these run; the history and habits of others are kept while there is room for them."""
        self._outside.keep(running)
        self._seasonal.keep(running)
        if len(self.history.vms) > MAX_HISTORIES:
            self.history.keep(running)
            self._seasonal.forget_others(running)

    def learn(self, vms: Sequence[VmId], values: Matrix, suspects: set[int], now: Instant) -> list[Evidence]:
        """Take in a second of these VMs, shape ``(len(vms), len(Metric))``, NaN where unseen; facts about them.

        ``suspects``: places in ``vms``. They teach nothing.
        """
        if suspects:
            rows = [row for row in range(len(vms)) if row not in suspects]
            self.history.learn([vms[row] for row in rows], values[rows])
        else:
            self.history.learn(vms, values)
        facts = self._outside.see(vms, values, suspects, now)
        return facts + self._seasonal.see(vms, self.history.ungranted(vms, values), suspects, now)

    def remember(self) -> Remembered:
        """History and habits of all."""
        known = self.history.remember()
        return replace(known, habits=self._seasonal.remember(known.vms))

    def recall(self, known: Remembered) -> None:
        """Replace them by what ``remember`` gave; ``ValueError`` otherwise, and nothing is changed."""
        self._seasonal.check(len(known.vms), known.habits)
        self.history.recall(known)
        self._seasonal.recall(known.vms, known.habits)
