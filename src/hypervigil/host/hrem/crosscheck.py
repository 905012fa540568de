"""A guest's word against the host's own counts. Pure.

Only that a guest tells of less than the host saw is a contradiction: it may well count more than reaches its NIC. When
the interval ended that a report tells of is known no better than to ``DELAY_S``, so it is held against the least that
the host saw in any interval of that length which ended so shortly before. So an honest report is never contradicted,
whatever the traffic does, as long as it is not later than that; and two in a row must be wrong.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from hypervigil.model.guest import GuestMetric, GuestReport
from hypervigil.model.ids import Instant, VmId
from hypervigil.model.metric import Metric
from hypervigil.model.report import HostReport
from hypervigil.model.status import Evidence, Origin

DELAY_S = 1.25
"""A report is at most so much older than it should be; a later one is of no use here."""
SHARE = 0.6
"""Who tells of less than this share of what the host saw contradicts it; headers and rounding are a few percent."""
IN_A_ROW = 2
SHORTEST_S, LONGEST_S = 0.5, 5.0
"""Intervals that can be compared."""
KEPT_S = LONGEST_S + DELAY_S + 1.0
MOST_LOOKS = 256
"""Looks at a VM that are kept; a tripwire may ask for many."""
TOLD_EVERY_S = 30.0


@dataclass(frozen=True, slots=True)
class Check:
    """One column that both ends count."""

    host: Metric
    guest: GuestMetric
    floor: float
    """Below so much a second nothing is compared."""
    text: str


CHECKS = (
    Check(
        host=Metric.OUT_BYTES,
        guest=GuestMetric.OUT_BYTES,
        floor=4_000.0,
        text="sent {told:,.0f} bytes a second, and its NICs sent {seen:,.0f}",
    ),
)
"""Counts of one and the same thing. What others send to a VM may be lost on the way, and a vCPU that waits in a loop is
busy to the host alone: such columns are no one's lie."""


@dataclass(slots=True)
class _Seen:
    """What the host counted of one VM: sums since the beginning, by when they were reached."""

    at: deque[float] = field(default_factory=deque)
    sums: deque[tuple[float, ...]] = field(default_factory=deque)

    def add(self, at: float, counts: Sequence[float], interval_s: float) -> None:
        """One interval more. What was not seen is missing in the sums, which only makes the host say less."""
        if not self.at:
            self.at.append(at - interval_s)
            self.sums.append((0.0,) * len(CHECKS))
        self.sums.append(tuple(old + new for old, new in zip(self.sums[-1], counts, strict=True)))
        self.at.append(max(at, self.at[-1]))
        while self.at[-1] - self.at[0] > KEPT_S or len(self.at) > MOST_LOOKS:
            self.at.popleft()
            self.sums.popleft()

    def least(self, column: int, until: float, length_s: float) -> float | None:
        """The least of any interval of this length that ended later than ``DELAY_S`` before; ``None`` if unknown."""
        if not self.at or until - DELAY_S - length_s < self.at[0] or self.at[-1] < until - DELAY_S:
            return None
        at = np.array(self.at)
        sums = np.array([one[column] for one in self.sums])
        # Between two looks the sum grows evenly, as far as is known: the least is where either end is at a look.
        ends = np.concatenate(([until - DELAY_S], at, at + length_s))
        ends = ends[(ends >= until - DELAY_S) & (ends <= at[-1])]
        return float((np.interp(ends, at, sums) - np.interp(ends - length_s, at, sums)).min())


@dataclass(slots=True)
class _Told:
    wrong: int = 0
    said_at: Instant = field(default=Instant(float("-inf")))


def comparable(report: GuestReport) -> bool:
    """Whether its interval is one that an agent tells of. Any other one would only evade the comparison."""
    return SHORTEST_S <= report.interval_s <= LONGEST_S


class CrossCheck:
    """Of one host; keeps counts only of VMs whose agents report."""

    def __init__(self) -> None:
        self._seen: dict[VmId, _Seen] = {}
        self._told: dict[tuple[VmId, int], _Told] = {}

    def keep(self, vms: set[VmId]) -> None:
        """Forget all others."""
        for vm in self._seen.keys() - vms:
            self.forget(vm)

    def forget(self, vm: VmId) -> None:
        """Begin anew with a VM."""
        self._seen.pop(vm, None)
        for column in range(len(CHECKS)):
            self._told.pop((vm, column), None)

    def saw(self, report: HostReport) -> None:
        """What the host counted, of sweeps and of single looks alike."""
        if report.whole or not self._seen:
            return
        columns = [check.host for check in CHECKS]
        rates = np.asarray(report.values, np.float32).reshape(len(report.vms), len(Metric))[:, columns]
        for row, vm in enumerate(report.vms):
            seen = self._seen.get(vm)
            if seen is not None:
                counts = np.nan_to_num(rates[row].astype(float) * report.interval_s)
                seen.add(report.at, counts.tolist(), report.interval_s)

    def heard(self, report: GuestReport) -> list[Evidence]:
        """A report that came in time: where it contradicts the host, told once in ``TOLD_EVERY_S``."""
        seen = self._seen.setdefault(report.vm, _Seen())
        found: list[Evidence] = []
        for column, check in enumerate(CHECKS):
            told = self._told.setdefault((report.vm, column), _Told())
            value = report.values[check.guest]
            if value < 0 or not comparable(report):
                continue
            least = seen.least(column, report.at, report.interval_s)
            if least is None:
                continue
            wrong = least >= check.floor * report.interval_s and value < SHARE * least
            told.wrong = told.wrong + 1 if wrong else 0
            if told.wrong >= IN_A_ROW and report.at - told.said_at >= TOLD_EVERY_S:
                told.said_at = report.at
                found.append(_mismatch(report, check, value / report.interval_s, least / report.interval_s))
        return found

    def contradicted(self, vm: VmId) -> bool:
        """Whether the newest reports of a VM's agent contradict the host."""
        return any(
            told.wrong >= IN_A_ROW
            for column in range(len(CHECKS))
            if (told := self._told.get((vm, column))) is not None
        )


def _mismatch(report: GuestReport, check: Check, told: float, seen: float) -> Evidence:
    return Evidence(
        vm=report.vm,
        kind="agent-mismatch",
        origin=Origin.GUEST_REPORTED,
        at=report.at,
        value=told,
        baseline=None,
        unit="bytes/s",
        text=f"{report.vm}'s agent says that it {check.text.format(told=told, seen=seen)} at least",
    )
