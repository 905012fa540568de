"""What agents tell of the processes that their guests begin: far more than ever speaks against the speaker. Pure.

A guest's word decides nothing by itself. This one is heard where the host sees the harm, and only against the VM whose
agent says it: a lie can bring a VM what many processes would, and what silence brings it has without an agent.
"""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field

from hypervigil.host.hsem.resources import Forks
from hypervigil.model.guest import GuestMetric, GuestReport
from hypervigil.model.ids import NEVER, Instant, VmId

LEAST_FORKS = 50.0
"""A second and vCPU: fewer are no surge of processes, whatever was usual. A compiler that has something to do begins
fewer; a script of small programs may begin more."""
TIMES = 10.0
TOLD_S = 1.5
"""So long it must be told of without a pause: a moment of many processes is how programs start."""
LATELY_S = 3.0
LEAST_REPORTS = 60
"""So many reports it takes to know what is usual."""
MOST_REPORTS = 6 * 3600
"""From so many on all lose half their weight: what was hours ago fades."""

_BINS = 48
"""Two to the octave, from one a second to more than any kernel begins."""


@dataclass(slots=True)
class _Told:
    bins: "array[int]" = field(default_factory=lambda: array("H", bytes(2 * _BINS)))
    reports: int = 0
    over_s: float = 0.0
    """For how long it has been far above what is usual."""
    rate: float = 0.0
    usual: float = 0.0
    at: Instant = NEVER

    def tail(self) -> float:
        """The 95th percentile, rounded up."""
        left, number = 0.05 * self.reports, _BINS
        while number > 0 and left >= 0:
            number -= 1
            left -= self.bins[number]
        return float(2.0 ** (number / 2))

    def learn(self, rate: float) -> None:
        number = 0
        while number < _BINS - 1 and rate > 2.0 ** (number / 2):
            number += 1
        self.bins[number] += 1
        self.reports += 1
        if self.reports >= MOST_REPORTS:
            self.bins = array("H", [count // 2 for count in self.bins])
            self.reports = sum(self.bins)


class ToldForks:
    """Of each VM whose agent has told one record of fixed size."""

    def __init__(self) -> None:
        self._told: dict[VmId, _Told] = {}
        self._running: frozenset[VmId] = frozenset()

    def keep(self, vms: Iterable[VmId]) -> None:
        """These VMs run: forget all others, and hear no others."""
        self._running = frozenset(vms)
        self._told = {vm: told for vm, told in self._told.items() if vm in self._running}

    def hear(self, report: GuestReport, *, vcpus: int, usual: bool) -> None:
        """An agent's report that came in time; ``usual``: whether what it tells may be learned from."""
        value = report.values[GuestMetric.FORKS]
        if report.vm not in self._running or value < 0 or report.interval_s <= 0:
            return
        told = self._told.setdefault(report.vm, _Told())
        rate = value / report.interval_s
        tail = told.tail() if told.reports >= LEAST_REPORTS else float("inf")
        over = rate >= max(TIMES * tail, LEAST_FORKS * vcpus)
        if not over or report.at - told.at > LATELY_S:
            told.over_s = told.rate = 0.0
        if over:
            told.over_s += report.interval_s
            told.rate, told.usual, told.at = max(told.rate, rate), tail, report.at
        if usual:
            told.learn(rate)

    def of(self, vm: VmId, now: Instant) -> Forks | None:
        """What an agent tells now, if that is far more than ever."""
        told = self._told.get(vm)
        if told is None or told.over_s < TOLD_S or now - told.at > LATELY_S:
            return None
        return Forks(told.rate, told.usual)
