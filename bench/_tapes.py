"""What the sensors would have seen of ordinary hosts in captures, kept to be lived through again and again.

Counting is the product's own: the reference model of its data plane, its comparison of snapshots, its observer.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from hypervigil.entrypoints.replay.capture import Capture
from hypervigil.entrypoints.replay.census import Census
from hypervigil.entrypoints.replay.drive import PERIOD_NS, Drive
from hypervigil.entrypoints.replay.links import seen
from hypervigil.entrypoints.replay.stations import everybody
from hypervigil.hypervisor.sensors.sweep import compare
from hypervigil.model.ids import OUTSIDE, Instant, VmId
from hypervigil.model.metric import Metric
from hypervigil.model.observation import PortSample, Sweep
from hypervigil.model.policy import Policy
from hypervigil.model.report import ForgedCount, HostReport, PairRate
from hypervigil.model.traffic import Direction

BEAT_S = PERIOD_NS / 1e9
STATES = (Metric.FAN_OUT, Metric.FAN_IN, Metric.PORTS_TRIED)
"""Columns that are states and no counts."""
_TCP_OUT = (Metric.OUT_SYN, Metric.OUT_SYNACK, Metric.OUT_RST, Metric.OUT_TCP)
_TCP_IN = (Metric.IN_SYN, Metric.IN_SYNACK, Metric.IN_RST, Metric.IN_TCP)

Row = npt.NDArray[np.float32]
Told = TypeVar("Told", PairRate, ForgedCount)


@dataclass(frozen=True, slots=True, eq=False)
class Moment:
    """What one host did in one interval; rates in ``pairs`` are of that interval."""

    counts: Row
    """Shape ``(Metric.CPU,)``: counts, and the states as they are."""
    pairs: tuple[PairRate, ...]
    forged: tuple[ForgedCount, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Tape:
    """One host of one capture. What it did, by the number of the interval; in others it was silent."""

    name: str
    beat_s: float
    moments: Mapping[int, Moment]
    length: int
    """Intervals."""


@dataclass(slots=True)
class _Recorded:
    moments: dict[VmId, dict[int, Moment]] = field(default_factory=dict)

    def take(self, number: int, report: HostReport) -> None:
        """Keep what is not silence."""
        values = np.asarray(report.values, np.float32).reshape(len(report.vms), len(Metric))[:, : Metric.CPU]
        pairs = by_vm(report.pairs)
        forged = by_vm(report.forged)
        for row, vm in enumerate(report.vms):
            counts = np.nan_to_num(values[row]) * _factors(report.interval_s)
            if not counts.any():
                continue
            moment = Moment(counts.astype(np.float32), tuple(pairs.get(vm, ())), tuple(forged.get(vm, ())))
            self.moments.setdefault(vm, {})[number] = moment


class _Recorder(Drive):
    """A replay that judges nobody: what its observer says is kept."""

    recorded: _Recorded

    def _sweep(self, at: int) -> None:
        samples: tuple[PortSample, ...] = ()
        if self._busy:
            after = self._look(at)
            samples = compare(self._before, after, self._owners)
            self._before, self._busy = after, False
        self._plane.events.clear()
        self._sequence += 1
        now = Instant(at / 1e9)
        for report in self._hrem.observe(Sweep(self._sequence, now, BEAT_S, samples), now):
            if not report.whole and samples:
                self.recorded.take(self._sequence, report)


def by_vm(those: Iterable[Told]) -> dict[VmId, list[Told]]:
    """What is told, by whom it is told of."""
    found: dict[VmId, list[Told]] = {}
    for one in those:
        found.setdefault(one.vm, []).append(one)
    return found


def record(path: Path) -> list[Tape]:
    """A tape of each host that a capture shows."""
    capture = Capture(path)
    try:
        census = Census()
        for captured in capture:
            one = seen(captured)
            if one is not None:
                census.see(one, captured.at_ns)
        drive = _Recorder(everybody(census), Policy())
        drive.recorded = _Recorded()
        for captured in capture:
            drive.frame(captured)
        drive.finish()
    finally:
        capture.close()
    return [
        Tape(f"{path.name} {vm}", BEAT_S, moments, max(moments) + 1) for vm, moments in drive.recorded.moments.items()
    ]


def seen_from_one_side(tape: Tape) -> bool:
    """Whether a capture shows only one direction of a host's TCP: its NIC carried both, or there were no TCP."""
    counts = np.sum([moment.counts for moment in tape.moments.values()], axis=0)
    out, into = (sum(counts[one] for one in those) for those in (_TCP_OUT, _TCP_IN))
    return bool((counts[Metric.OUT_TCP] and not into) or (counts[Metric.IN_TCP] and not out))


def slower(tape: Tape, times: int) -> Tape:
    """The same as seen by sensors that look so many times less often."""
    if times == 1:
        return tape
    groups: dict[int, list[Moment]] = {}
    for number, moment in tape.moments.items():
        groups.setdefault(number // times, []).append(moment)
    moments = {number: _together(those, times) for number, those in groups.items()}
    return Tape(tape.name, tape.beat_s * times, moments, max(moments, default=-1) + 1)


def _together(moments: Sequence[Moment], times: int) -> Moment:
    counts = np.sum([moment.counts for moment in moments], axis=0)
    for state in STATES:
        counts[state] = max(moment.counts[state] for moment in moments)
    pairs: dict[tuple[Direction, str], PairRate] = {}
    for pair in (pair for moment in moments for pair in moment.pairs):
        key = (pair.direction, pair.address)
        pairs[key] = _added(pairs[key], pair) if key in pairs else pair
    forged = tuple(one for moment in moments for one in moment.forged)
    return Moment(counts.astype(np.float32), tuple(rated(pair, pair.vm, 1 / times) for pair in pairs.values()), forged)


def _added(one: PairRate, other: PairRate) -> PairRate:
    return PairRate(
        one.vm,
        one.direction,
        one.other,
        one.address,
        one.packets + other.packets,
        one.octets + other.octets,
        one.openings + other.openings,
        one.answers + other.answers,
        one.resets + other.resets,
        max(one.ports, other.ports),
        new=one.new or other.new,
        services=one.services | other.services,
    )


def rated(pair: PairRate, vm: VmId, factor: float = 1.0) -> PairRate:
    """A tape's pair as a VM's own; whoever is at its other end is no VM of this host."""
    return PairRate(
        vm,
        pair.direction,
        OUTSIDE,
        pair.address,
        pair.packets * factor,
        pair.octets * factor,
        pair.openings * factor,
        pair.answers * factor,
        pair.resets * factor,
        pair.ports,
        new=pair.new,
        services=pair.services,
    )


def _factors(interval_s: float) -> Row:
    """What makes counts of an interval's rates and leaves states as they are."""
    factors = np.full(Metric.CPU, interval_s, np.float32)
    factors[list(STATES)] = 1.0
    return factors
