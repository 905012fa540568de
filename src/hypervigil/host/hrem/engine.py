"""Turns sweeps into reports for HSEM: rates per VM, pairs named by the host, notices of overload.

Every sweep becomes a report of its own interval, in which bursts show; once a second another one sums up the second,
from which histories are made. What was not seen is NaN.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from hypervigil.host.hrem.overload import Overload
from hypervigil.model.ids import HOST, Instant, PortId, VmId
from hypervigil.model.metric import Metric
from hypervigil.model.observation import PortSample, ResourceSample, Sweep
from hypervigil.model.report import ForgedCount, HostReport, LimitedCount, PairRate
from hypervigil.model.traffic import Direction, ForgedKind, TrafficClass
from hypervigil.model.vm import Inventory

WHOLE_S = 1.0
STALE_S = 5.0
"""After this long without statistics a VM's resources are unseen."""
MAX_PAIRS = 20_000

Row = npt.NDArray[np.float32]

_N = len(Metric)
_ADDED = [m for m in Metric if m <= Metric.NEW_DESTINATIONS or m is Metric.FAILURES]
"""Columns whose counts add up over time."""
_STATES = [m for m in Metric if m < Metric.CPU and m not in _ADDED]
"""Columns of which a second's value is the highest seen in it."""
_RESOURCES: tuple[tuple[Metric, str], ...] = (
    (Metric.CPU, "cpu"),
    (Metric.CPU_WAIT, "cpu_wait"),
    (Metric.MEMORY, "memory"),
    (Metric.MEMORY_RSS, "memory_rss"),
    (Metric.BLOCK_READS, "block_reads"),
    (Metric.BLOCK_WRITES, "block_writes"),
    (Metric.BLOCK_BYTES, "block_bytes"),
    (Metric.EXITS, "exits"),
    (Metric.HYPERCALLS, "hypercalls"),
    (Metric.DEVICE_REQUESTS, "device_requests"),
)


class AddressLookup(Protocol):
    """Whose an address or a MAC is."""

    def owner(self, address: str, mac: str = "") -> VmId:
        """The VM, or ``OUTSIDE``."""


class Hrem:
    """One host's observer."""

    def __init__(self, book: AddressLookup) -> None:
        self._book = book
        self._ports: dict[VmId, tuple[PortId, ...]] = {}
        self._seconds: dict[VmId, Row] = {}
        """Counts since the last whole second; NaN where something was not seen."""
        self._resources: dict[VmId, tuple[Instant, Row]] = {}
        self._since = 0.0
        self._overload = Overload()
        self.pairs_dropped = 0

    def inventory(self, inventory: Inventory) -> None:
        """These VMs run now."""
        self._ports = {HOST: (), **{vm.vm: tuple(nic.port for nic in vm.nics) for vm in inventory.vms}}
        for gone in (self._seconds.keys() | self._resources.keys()) - self._ports.keys():
            self._seconds.pop(gone, None)
            self._resources.pop(gone, None)
            self._overload.forget(gone)

    def observe(self, sweep: Sweep, now: Instant) -> list[HostReport]:
        """One report of this sweep's interval, and one of the second when a second is full."""
        for sample in sweep.resources:
            if sample.vm in self._ports:
                self._resources[sample.vm] = (now, _resources(sample))
        unseen = set(sweep.unseen)
        by_vm: dict[VmId, list[PortSample]] = {}
        for port in sweep.ports:
            if port.vm in self._ports:
                by_vm.setdefault(port.vm, []).append(port)
        vms = tuple(by_vm) if sweep.partial else tuple(self._ports)
        interval = max(sweep.interval_s, 0.001)
        counts = np.zeros((len(vms), _N), np.float32)
        pairs: list[PairRate] = []
        forged: list[ForgedCount] = []
        limited: list[LimitedCount] = []
        for row, vm in enumerate(vms):
            samples = by_vm.get(vm)
            if samples is not None:
                _add_up(counts[row], samples)
                pairs += self._pairs(samples, interval)
                forged += _forged(vm, samples)
                limited += _limited(vm, samples)
            if not self._ports[vm] or not unseen.isdisjoint(self._ports[vm]):
                counts[row, : Metric.CPU] = np.nan
            counts[row, Metric.CPU :] = self._resources_of(vm, now)[Metric.CPU :]
        self._add(vms, counts)
        self.pairs_dropped += max(0, len(pairs) - MAX_PAIRS)
        values = counts.copy()
        values[:, _ADDED] /= interval
        reports = [
            HostReport(
                now,
                interval,
                vms,
                values.data,
                tuple(pairs[:MAX_PAIRS]),
                forged=tuple(forged),
                limited=tuple(limited),
                partial=sweep.partial,
            )
        ]
        if not sweep.partial:
            self._since += interval
            if self._since >= WHOLE_S - 0.01:
                reports.append(self._whole(now))
        return reports

    def _add(self, vms: tuple[VmId, ...], counts: Row) -> None:
        for vm, row in zip(vms, counts, strict=True):
            second = self._seconds.get(vm)
            if second is None:
                second = self._seconds[vm] = np.zeros(_N, np.float32)
            second[_ADDED] += row[_ADDED]
            second[_STATES] = np.maximum(second[_STATES], row[_STATES])

    def _whole(self, now: Instant) -> HostReport:
        vms = tuple(self._ports)
        seconds, self._since = self._since, 0.0
        values = np.full((len(vms), _N), np.nan, np.float32)
        for row, vm in enumerate(vms):
            counts = self._seconds.pop(vm, None)
            if counts is not None and self._ports[vm]:
                values[row] = counts
                values[row, _ADDED] /= seconds
            values[row, Metric.CPU :] = self._resources_of(vm, now)[Metric.CPU :]
        notices = self._overload.see(vms, values, now)
        return HostReport(now, seconds, vms, values.data, notices=tuple(notices), whole=True)

    def _resources_of(self, vm: VmId, now: Instant) -> Row:
        at, row = self._resources.get(vm, (Instant(-STALE_S), _UNSEEN))
        return row if now - at < STALE_S else _UNSEEN

    def _pairs(self, samples: Sequence[PortSample], interval: float) -> list[PairRate]:
        elsewhere = _by_address(samples) if len(samples) > 1 else {}
        pairs = []
        for sample in samples:
            for peer in sample.peers:
                answers, resets = peer.answers, peer.resets
                if not answers:  # of several NICs another may have the way back
                    answers, resets = elsewhere.get((peer.direction, peer.address), (0, 0))
                pairs.append(
                    PairRate(
                        vm=sample.vm,
                        direction=peer.direction,
                        other=self._book.owner(peer.address, peer.mac),
                        address=peer.address,
                        packets=peer.packets / interval,
                        octets=peer.octets / interval,
                        openings=peer.openings / interval,
                        answers=answers / interval,
                        resets=resets / interval,
                        ports=peer.ports,
                        new=peer.new,
                        services=peer.services,
                    )
                )
        return pairs


def _by_address(samples: Iterable[PortSample]) -> dict[tuple[Direction, str], tuple[int, int]]:
    """Answers, and how many of them may be resets, by direction and address of what they answer, by whichever NIC."""
    found: dict[tuple[Direction, str], tuple[int, int]] = {}
    for sample in samples:
        for peer in sample.peers:
            out = peer.direction is Direction.OUT
            key = (Direction.IN if out else Direction.OUT, peer.address)
            answers, resets = found.get(key, (0, 0))
            may_reset = (sample.out if out else sample.into).packets[TrafficClass.RST]
            found[key] = (answers + peer.packets, resets + min(peer.packets, may_reset))
    return found


_UNSEEN: Row = np.full(_N, np.nan, np.float32)


def _add_up(row: Row, samples: Iterable[PortSample]) -> None:
    """Add all NICs of a VM."""
    for sample in samples:
        row[: Metric.IN_SYN] += sample.out.packets
        row[Metric.IN_SYN : Metric.OUT_BYTES] += sample.into.packets
        row[Metric.OUT_BYTES] += sum(sample.out.octets)
        row[Metric.IN_BYTES] += sum(sample.into.octets)
        row[Metric.FORGED] += sum(sample.forged)
        row[Metric.NEW_DESTINATIONS] += sample.new_destinations
        row[Metric.FAILURES] += sample.failures
        row[Metric.FAN_OUT] += sample.fan_out
        row[Metric.FAN_IN] += sample.fan_in
        tried = max((peer.ports for peer in sample.peers if peer.direction is Direction.OUT), default=0)
        row[Metric.PORTS_TRIED] = max(row[Metric.PORTS_TRIED], tried)


def _limited(vm: VmId, samples: Iterable[PortSample]) -> list[LimitedCount]:
    return [
        LimitedCount(vm, direction, TrafficClass(traffic), packets)
        for sample in samples
        for direction, counts in ((Direction.OUT, sample.out), (Direction.IN, sample.into))
        for traffic, packets in enumerate(counts.limited)
        if packets
    ]


def _forged(vm: VmId, samples: Iterable[PortSample]) -> list[ForgedCount]:
    return [
        ForgedCount(vm, ForgedKind(kind), frames)
        for sample in samples
        for kind, frames in enumerate(sample.forged)
        if frames
    ]


def _resources(sample: ResourceSample) -> Row:
    row = _UNSEEN.copy()
    for metric, name in _RESOURCES:
        value = getattr(sample, name)
        if value is not None:
            row[metric] = value
    return row
