"""Whether a VM does what it usually does at this hour and on this day of the week: a fact told with its case. Pure.

It grounds no case and no verdict: what is unusual may be a new service, and an attack may keep to the usual. Of four
metrics the mean of each minute is held against the VM's habits, in UTC. VMs have their minutes by turns, so that a
second has about a sixtieth of them to look at. Of a VM above suspicion the onset of something surprising is noted, for
a case that may begin soon. A suspect teaches nothing, nor does a minute of which it was one for a part; it is looked at
each second, as if it did nothing more in the rest of its minute: what is told is the least that can come of it.
"""

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

import numpy as np

from hypervigil.host.hsem.habits import Habits, Onsets, Surprise, Times
from hypervigil.host.hsem.table import Copies, Matrix, Table
from hypervigil.host.hsem.turns import MAX_LOOKS
from hypervigil.model.ids import Instant, VmId
from hypervigil.model.metric import Metric
from hypervigil.model.status import Evidence, Origin

METRICS: tuple[Metric, ...] = (Metric.OUT_BYTES, Metric.IN_BYTES, Metric.CPU, Metric.BLOCK_BYTES)
"""Each takes a VM some 190 bytes: there is no room for a fifth."""
MINUTE_S = 60.0
SECONDS = 60
"""A VM's minute ends once in so many seconds."""
LEAST_SEEN = 30
"""A minute of which fewer seconds were seen is none."""
LEAST_MINUTES = 24 * 60
"""Before it has seen a day of a metric nothing is said of it."""
SURPRISING = 7.0
"""As surprising is one ordinary value in 11,000: so it is of 170,000 of NAB's real series outside anomaly windows."""
TOLD_EVERY_S = 30.0

_COLUMNS = np.array(METRICS)
_DOES = dict(zip(METRICS, ("sends", "receives", "uses", "reads and writes"), strict=True))


class Seasonal:
    """The habits of all VMs, the minute that each is in, and what was told of them."""

    def __init__(self) -> None:
        self._habits = Habits(len(METRICS))
        each = (len(METRICS),)
        self._minute = Table({"seen": each, "suspected": (1,)}, total=each, **Onsets.ROOM)
        self._onsets = Onsets(table=self._minute)
        self._told_at: dict[VmId, Instant] = {}
        self._turn = 0
        self._ahead_s = 0.0

    def clock(self, ahead_s: float) -> None:
        """By how many seconds UTC (since any midnight of a Thursday, as 1970 began) is ahead of ``Instant`` from now.

        ``ValueError`` where it is no number.
        """
        if not math.isfinite(ahead_s):
            raise ValueError(f"a clock cannot be ahead by {ahead_s} s")
        self._ahead_s = ahead_s

    def keep(self, vms: Collection[VmId]) -> None:
        """Only these run; what others are used to is kept."""
        self._minute.keep(vms)
        self._told_at = {vm: at for vm, at in self._told_at.items() if vm in vms}

    def forget_others(self, vms: Iterable[VmId]) -> None:
        """Forget the habits of all but these."""
        self._habits.keep(vms)

    def remember(self, vms: Sequence[VmId]) -> Copies:
        """As ``Habits``."""
        return self._habits.remember(vms)

    def check(self, vms: int, known: Copies | None) -> None:
        """``ValueError`` if these are habits, and none of so many VMs that ``recall`` takes."""
        if known is not None:
            self._habits.check(vms, known)

    def recall(self, vms: Sequence[VmId], known: Copies | None) -> None:
        """As ``Habits``; without habits these VMs have none. The minutes that they are in begin anew."""
        self._minute.drop(vms)
        if known is None:
            self._habits.forget(vms)
        else:
            self._habits.recall(vms, known)

    def see(self, vms: Sequence[VmId], values: Matrix, suspects: Collection[int], now: Instant) -> list[Evidence]:
        """Take in a whole second; facts about VMs. ``suspects``: places in ``vms``.

        ``values``: shape ``(len(vms), len(Metric))``, NaN where unseen.
        """
        rows = self._minute.rows(vms)
        second = values[:, _COLUMNS]
        seen = np.isfinite(second)
        self._minute["total"][rows] += np.where(seen, second, np.float32(0.0))
        counted = self._minute.counts("seen")[rows] + seen
        self._minute.counts("seen")[rows] = counted
        looked = sorted(suspects)
        self._minute.counts("suspected")[rows[looked]] = 1
        facts = self._look(self._in_turn([vms[n] for n in looked if self._untold(vms[n], now)]), now)
        self._turn += 1
        due = ((rows + self._turn) % SECONDS == 0) | (counted.max(axis=1) >= 2 * SECONDS)
        return facts + self._end_minute([vms[n] for n in np.flatnonzero(due).tolist()], now)

    def _in_turn(self, vms: Sequence[VmId]) -> Sequence[VmId]:
        """As many as there is time for, others each second."""
        if len(vms) <= MAX_LOOKS:
            return vms
        start = self._turn * MAX_LOOKS % len(vms)
        return [*vms[start:], *vms[:start]][:MAX_LOOKS]

    def _look(self, vms: Sequence[VmId], now: Instant) -> list[Evidence]:
        """Facts of suspects that do more than is usual at this hour."""
        if not vms:
            return []
        rows = self._minute.rows(vms)
        counted = self._minute.counts("seen")[rows]
        least: Matrix = (self._minute["total"][rows] / np.maximum(counted, SECONDS)).astype(np.float32)
        least[counted == 0] = np.nan
        found = self._known(vms, self._habits.above(vms, least, *self._times(len(vms), now)))
        return self._facts(vms, least, found, found.surprise.max(axis=1), now, least=True)

    def _end_minute(self, vms: Sequence[VmId], now: Instant) -> list[Evidence]:
        """Let these VMs' minutes teach; facts of those above suspicion that begin with what is unusual."""
        if not vms:
            return []
        rows = self._minute.rows(vms)
        counted = self._minute.counts("seen")[rows]
        learn = self._minute.counts("suspected")[rows, 0] == 0
        mean: Matrix = (self._minute["total"][rows] / np.maximum(counted, 1)).astype(np.float32)
        mean[counted < LEAST_SEEN] = np.nan
        for name in ("total", "seen", "suspected"):
            self._minute[name][rows] = 0
        found = self._known(vms, self._habits.take_in(vms, mean, *self._times(len(vms), now), learn))
        onsets = self._onsets.see(vms, np.where(learn, found.surprise.max(axis=1), np.float32(0.0)))
        return self._facts(vms, mean, found, onsets, now, least=False)

    def _times(self, vms: int, now: Instant) -> tuple[Times, Times]:
        return np.full(vms, now + self._ahead_s), np.full(vms, MINUTE_S)

    def _known(self, vms: Sequence[VmId], found: Surprise) -> Surprise:
        """Without the surprises of metrics that have not taught for long enough."""
        enough = self._habits.samples(vms) >= LEAST_MINUTES
        return replace(found, surprise=np.where(enough, found.surprise, np.float32(0.0)))

    def _facts(
        self, vms: Sequence[VmId], means: Matrix, found: Surprise, onsets: Matrix, now: Instant, *, least: bool
    ) -> list[Evidence]:
        """Of each VM whose onset, shape ``(len(vms),)``, is surprising enough: its most surprising metric."""
        facts = []
        for n in np.flatnonzero(onsets >= SURPRISING).tolist():
            self._told_at[vms[n]] = now
            column = int(found.surprise[n].argmax())
            told, usual, surprise = (float(array[n, column]) for array in (means, found.usual, found.surprise))
            metric = METRICS[column]
            when = "at this hour " if found.seasonal[n, column] else ""
            amount = f"{'at least ' if least else ''}{_amount(metric, told)}"
            often = _often(surprise, float(self._habits.samples([vms[n]])[0, column]))
            text = f"{vms[n]} {_DOES[metric]} {amount}, {when}usually about {_amount(metric, usual)}: {often} from that"
            facts.append(
                Evidence(
                    vm=vms[n],
                    kind="unusual-for-the-hour",
                    origin=Origin.HOST_OBSERVED,
                    at=now,
                    value=told,
                    baseline=usual,
                    unit="of its CPU" if metric is Metric.CPU else "bytes/s",
                    text=text,
                )
            )
        return facts

    def _untold(self, vm: VmId, now: Instant) -> bool:
        return vm not in self._told_at or now - self._told_at[vm] >= TOLD_EVERY_S


def _amount(metric: Metric, value: float) -> str:
    if metric is Metric.CPU:
        return f"{value:.{0 if value >= 0.1 else 1}%} of its CPU"
    return f"{value / 1e6:,.1f} MB/s" if value >= 1e5 else f"{value / 1e3:,.1f} kB/s"


def _often(surprise: float, minutes: float) -> str:
    """How often that is, by one of the two distances; nothing is called rarer than once in all minutes that taught."""
    power = min(surprise / 2, math.log10(minutes))
    of = f"of {float(f'{10.0**power:.1g}'):,.0f} minutes"
    return f"{of} {'one' if power == surprise / 2 else 'not one'} is so far"
