"""A guest's word against the host's own counts. Pure.

What left a VM's NICs after its last report was heard, and before its new one can have been made, must be in the new
one; and likewise of several reports that follow each other. So an honest report is never contradicted, whatever the
traffic does. When a report was made is known by the guest's own clock: it is as late as that clock says, and at most
``LEAST_S`` more, because of all reports of the last minute one surely came so soon.

Only that a guest tells of less than the host saw is a contradiction: it may well count more than reaches its NICs. What
it only estimates, from headers that it sampled, must be less than chance could make it.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import log, log1p

import numpy as np

from hypervigil.host.hrem.seen import Counts, Seen
from hypervigil.model.guest import MISMATCH, GuestMetric, GuestReport, Sampled
from hypervigil.model.ids import NEVER, Instant, VmId
from hypervigil.model.metric import Metric, packet_metric
from hypervigil.model.report import HostReport
from hypervigil.model.status import Evidence, Origin
from hypervigil.model.traffic import Direction, TrafficClass

DELAY_S = 1.25
"""A report is at most so late; a later one is of no use here."""
LEAST_S = 0.35
"""The least late report of ``MINUTE_S`` was at most so late."""
MINUTE_S = 60.0
ENOUGH = 8
"""So many reports tell how late the least late one is."""
SHARE = 0.85
"""Who tells of less than this share contradicts the host: repeated headers are at most 11 % of what it sent."""
SMALL_SEGMENTS, SMALL_SHARE = (100.0, 450.0), 0.3
"""Where most packets are of TCP and of so many octets on average, their repeated headers may be most of them."""
CHAINS = (1, 2, 8)
"""So many reports together are compared: one shows that nothing is told, two that half is, many what chance hides."""
SURE = log(1e9)
"""Six sigma: so unlikely is what is no chance."""
SHORTEST_S, LONGEST_S = 0.5, 5.0
"""Intervals that can be compared."""
GAP_S = 0.25
"""A report that was lost leaves more untold than this; who leaves out less does so himself."""
TOLD_EVERY_S = 30.0

SINGLE = (
    TrafficClass.SYN,
    TrafficClass.SYNACK,
    TrafficClass.RST,
    TrafficClass.DNS,
    TrafficClass.ICMP,
    TrafficClass.ARP,
)
"""Classes whose frames are packets: no guest sends several of them as one large frame, to be cut on the way."""

_OCTETS, _PACKETS, _TCP, _SINGLES, _CLASSES = 0, 1, 2, 3, 4
_COLUMNS = _CLASSES + len(SINGLE)
_OUT = [packet_metric(Direction.OUT, one) for one in TrafficClass]
_COLUMN_OF = np.zeros((len(Metric), _COLUMNS))
"""Which metrics make up which column."""
_COLUMN_OF[Metric.OUT_BYTES, _OCTETS] = _COLUMN_OF[Metric.OUT_TCP, _TCP] = 1.0
_COLUMN_OF[_OUT, _PACKETS] = 1.0
for _place, _one in enumerate(SINGLE):
    _COLUMN_OF[_OUT[_one], [_SINGLES, _CLASSES + _place]] = 1.0


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that both ends count."""

    seen: int
    """The column of what the host saw."""
    told: GuestMetric
    sampled: bool
    """The guest estimates it from headers."""
    floor: float
    """Below so much a second nothing is compared."""
    unit: str
    text: str


CHECKS = (
    Check(_OCTETS, GuestMetric.OUT_BYTES, sampled=False, floor=4_000.0, unit="bytes", text="bytes"),
    Check(_SINGLES, GuestMetric.OUT_PACKETS, sampled=False, floor=50.0, unit="packets", text="packets"),
    *(
        Check(
            _CLASSES + place,
            GuestMetric(GuestMetric.OUT_SYN + one),
            sampled=True,
            floor=20.0,
            unit="packets",
            text=f"{one.name} packets",
        )
        for place, one in enumerate(SINGLE)
    ),
)
"""Counts of one and the same thing. THREAT_MODEL.md says why nothing else is compared."""
_SEEN = [check.seen for check in CHECKS]
_FLOORS = np.array([check.floor for check in CHECKS])


@dataclass(slots=True)
class _Told:
    """What the agent of one VM told lately."""

    chain: deque[GuestReport] = field(default_factory=lambda: deque(maxlen=max(CHAINS) + 1))
    """Reports of one agent, each beginning where the one before ended."""
    ahead: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=2 * int(MINUTE_S)))
    """By how much the host's clock was ahead of the guest's, and when: the least first, then the least since then."""
    heard: int = 0
    wrong: bool = False
    """Its newest reports contradict the host."""
    said_at: Instant = NEVER

    def made(self, report: GuestReport) -> float:
        """The earliest that a report can have been made, by the host's clock."""
        ahead = report.at - report.guest_at_s
        while self.ahead and self.ahead[-1][0] >= ahead:
            self.ahead.pop()
        self.ahead.append((ahead, report.at))
        while report.at - self.ahead[0][1] > MINUTE_S:
            self.ahead.popleft()
        self.heard += 1
        late_s = ahead - self.ahead[0][0] + LEAST_S if self.heard > ENOUGH else DELAY_S
        return report.at - min(DELAY_S, late_s)

    def follows(self, report: GuestReport) -> None:
        """Take it into the chain, or begin another with it."""
        last = self.chain[-1] if self.chain else None
        if (
            last is None
            or last.agent != report.agent
            or report.guest_at_s <= last.guest_at_s
            or report.guest_at_s - report.interval_s - last.guest_at_s > GAP_S
        ):
            self.chain.clear()
        self.chain.append(report)


def comparable(report: GuestReport) -> bool:
    """Whether its interval is one that an agent tells of. Any other one would only evade the comparison."""
    return SHORTEST_S <= report.interval_s <= LONGEST_S


class CrossCheck:
    """Of one host; keeps counts only of VMs whose agents report."""

    def __init__(self) -> None:
        self._seen: dict[VmId, Seen] = {}
        self._told: dict[VmId, _Told] = {}

    def keep(self, vms: set[VmId]) -> None:
        """Forget all others."""
        for vm in self._seen.keys() - vms:
            self.forget(vm)

    def forget(self, vm: VmId) -> None:
        """Begin anew with a VM."""
        self._seen.pop(vm, None)
        self._told.pop(vm, None)

    def saw(self, report: HostReport, begun: Instant) -> None:
        """What the host counted, of sweeps and of single looks alike; ``begun`` is when it began to read."""
        if report.whole or not self._seen:
            return
        rows = [row for row, vm in enumerate(report.vms) if vm in self._seen]
        rates = np.asarray(report.values, np.float32).reshape(len(report.vms), len(Metric))[rows]
        counts = np.nan_to_num(rates.astype(np.float64) * report.interval_s) @ _COLUMN_OF
        for row, found in zip(rows, counts, strict=True):
            self._seen[report.vms[row]].add(begun, report.at, found, report.interval_s)

    def heard(self, report: GuestReport) -> list[Evidence]:
        """A report that came in time: that it contradicts the host, and in what first, once in ``TOLD_EVERY_S``."""
        seen = self._seen.setdefault(report.vm, Seen(_COLUMNS, _PACKETS))
        told = self._told.setdefault(report.vm, _Told())
        made = told.made(report)
        if not comparable(report):
            return []
        told.follows(report)
        found: list[tuple[int, Evidence]] = []
        chain = list(told.chain)
        for length in CHAINS:
            if len(chain) <= length:
                break
            sure = seen.surely(chain[-length - 1].at, made)
            if sure is not None:
                found += _contradictions(chain[-length:], *sure)
        told.wrong = bool(found)
        if not found or report.at - told.said_at < TOLD_EVERY_S:
            return []
        told.said_at = report.at
        return [min(found, key=lambda one: one[0])[1]]

    def contradicted(self, vm: VmId) -> bool:
        """Whether the newest reports of a VM's agent contradict the host."""
        return vm in self._told and self._told[vm].wrong


def _contradictions(chain: list[GuestReport], seen: Counts, seconds: float) -> Iterator[tuple[int, Evidence]]:
    """Checks that these reports together fail against the least that the host saw in ``seconds`` of theirs."""
    span = max(1.0, seconds)
    for number in np.flatnonzero(seen[_SEEN] >= _FLOORS * span).tolist():
        check = CHECKS[number]
        least = float(seen[check.seen])
        told = _told(chain, check)
        if told is None or told >= _share(check, seen) * least:
            continue
        if not check.sampled or not _by_chance(told, least, _weight(chain)):
            yield number, _mismatch(chain, check, told, least, seconds)


def _share(check: Check, seen: Counts) -> float:
    if check.seen == _OCTETS and 2 * seen[_TCP] > seen[_PACKETS]:
        low, high = SMALL_SEGMENTS
        if low <= seen[_OCTETS] / seen[_PACKETS] <= high:
            return SMALL_SHARE
    return SHARE


def _told(chain: list[GuestReport], check: Check) -> float | None:
    """The most that these reports tell of it; ``None`` where one tells nothing that can be compared."""
    total = 0.0
    for report in chain:
        value = report.values[check.told]
        unheard = _unheard(report) if check.sampled else 0.0
        if value < 0 or unheard is None:
            return None
        total += value + unheard
    return total


def _unheard(report: GuestReport) -> float | None:
    """Frames that its NICs counted and nobody could sample, and may have been of any class; ``None``: unknown."""
    sent, frames, faults = report.sent, report.values[GuestMetric.OUT_PACKETS], report.values[GuestMetric.OUT_FAULTS]
    if sent is None or sent.passed > sent.read or frames < 0:
        return None  # the first headers of an interval are no fair sample of it
    return max(0.0, frames + max(0, faults) - sent.passed * sent.one_in)


def _weight(chain: list[GuestReport]) -> int:
    """For how many frames a header stands at most; 0 where all were read."""
    return max(_stands_for(report.sent) for report in chain if report.sent is not None)


def _stands_for(sent: Sampled) -> int:
    return max(sent.weight, sent.one_in) + 1 if sent.one_in > 1 else 0


def _by_chance(told: float, least: float, weight: int) -> bool:
    """Whether an honest sample, each header of which stands for ``weight``, may show so little of ``least``.

    Chernoff's bound for sums of independent parts of at most ``weight``; it holds for draws without replacement too
    (Hoeffding, 1963).
    """
    if not weight:
        return False
    missed = 1.0 - told / least
    exponent = missed + (1.0 - missed) * log1p(-missed) if missed < 1.0 else 1.0
    return least / weight * exponent < SURE


def _mismatch(chain: list[GuestReport], check: Check, told: float, least: float, seconds: float) -> Evidence:
    last = chain[-1]
    told, seen = told / sum(report.interval_s for report in chain), least / seconds
    sent = f"{told:,.0f} {check.text} a second, and its NICs {seen:,.0f} at least"
    return Evidence(
        vm=last.vm,
        kind=MISMATCH,
        origin=Origin.GUEST_REPORTED,
        at=last.at,
        value=told,
        baseline=None,
        unit=f"{check.unit}/s",
        text=f"{last.vm}'s agent says that it sent {sent}",
    )
