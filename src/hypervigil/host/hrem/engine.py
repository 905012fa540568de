"""Turns sweeps into reports for HSEM: rates per VM, pairs named by the host, notices of overload.

Every sweep becomes a report of its own interval, in which bursts show; once a second another one sums up the second,
from which histories are made. What was not seen is NaN.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import count
from operator import attrgetter
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from hypervigil.host.hrem.overload import Overload
from hypervigil.host.hrem.strain import Strain
from hypervigil.model.ids import HOST, Instant, PortId, VmId
from hypervigil.model.metric import Metric
from hypervigil.model.observation import PeerCount, PortSample, ResourceSample, Sweep
from hypervigil.model.report import DeniedCount, DialogueCount, ForgedCount, HostReport, LimitedCount, PairRate
from hypervigil.model.traffic import DenialKind, Direction, ForgedKind, TrafficClass
from hypervigil.model.vm import Inventory

WHOLE_S = 1.0
STALE_S = 5.0
"""After this long without statistics a VM's resources are unseen."""
MAX_PAIRS = 20_000

Row = npt.NDArray[np.float32]
Rows = npt.NDArray[np.intp]
Picked = Rows | slice
"""Some rows, or all."""

_N = len(Metric)
_SUMS = slice(Metric.NEW_DESTINATIONS + 1)
"""Columns whose counts add up over time, as ``FAILURES`` do."""
_STATES = [Metric.FAN_OUT, Metric.FAN_IN, Metric.PORTS_TRIED]
"""Columns of which a second's value is the highest seen in it."""
_FEW = _N - Metric.CPU
_told: Callable[[ResourceSample], tuple[float | None, ...]] = attrgetter(
    *("cpu", "cpu_wait", "memory", "memory_rss", "block_reads", "block_writes", "block_bytes"),
    *("exits", "hypercalls", "device_requests", "block_wait"),
)
"""A VM's resources in the order of their columns."""


class AddressLookup(Protocol):
    """Whose an address or a MAC is."""

    def owner(self, address: str, mac: str = "") -> VmId:
        """The VM, or ``OUTSIDE``."""


class Hrem:
    """One host's observer: what is kept of each VM is a row of arrays, for a host has thousands."""

    def __init__(self, book: AddressLookup) -> None:
        self._book = book
        self._ports: dict[VmId, tuple[PortId, ...]] = {}
        self._vms: tuple[VmId, ...] = ()
        self._rows: dict[VmId, int] = {}
        self._portless = np.zeros(0, bool)
        """By row: VMs without a NIC of ours, of whose traffic nothing is ever seen."""
        self._seconds = np.zeros((0, Metric.CPU), np.float32)
        """By row: counts since the last whole second; NaN where something was not seen."""
        self._begun = np.zeros(0, bool)
        """By row: whether anything was told of it since."""
        self._resources = np.zeros((0, _FEW), np.float32)
        self._told_at = np.zeros(0)
        """By row: when its resources were last told."""
        self._since = 0.0
        self._overload = Overload()
        self._strain = Strain()
        self.pairs_dropped = 0

    def inventory(self, inventory: Inventory) -> None:
        """These VMs run now."""
        self._ports = {HOST: (), **{vm.vm: tuple(nic.port for nic in vm.nics) for vm in inventory.vms}}
        before, self._rows = self._rows, {vm: row for row, vm in enumerate(self._ports)}
        for gone in before.keys() - self._rows.keys():
            self._overload.forget(gone)
        self._vms = tuple(self._ports)
        self._portless = np.array([not ports for ports in self._ports.values()])
        kept = [(row, before[vm]) for vm, row in self._rows.items() if vm in before]
        new, old = np.array(kept, np.intp).reshape(-1, 2).T
        self._seconds = _moved(self._seconds, old, np.zeros((len(self._vms), Metric.CPU), np.float32), new)
        self._begun = _moved(self._begun, old, np.zeros(len(self._vms), bool), new)
        self._resources = _moved(self._resources, old, np.zeros((len(self._vms), _FEW), np.float32), new)
        self._told_at = _moved(self._told_at, old, np.full(len(self._vms), -np.inf), new)

    def observe(self, sweep: Sweep, now: Instant) -> list[HostReport]:
        """One report of this sweep's interval, and one of the second when a second is full."""
        self._take_resources(sweep.resources, now)
        known = [port for port in sweep.ports if port.vm in self._rows]
        vms = tuple(dict.fromkeys(port.vm for port in known)) if sweep.partial else self._vms
        rows = np.fromiter((self._rows[vm] for vm in vms), np.intp, len(vms)) if sweep.partial else slice(None)
        strained = not sweep.partial and self._strain.see(sweep, now)
        interval = max(sweep.interval_s, 0.001)
        counts = self._counts(known, vms, rows, sweep.unseen, now)
        self._add(rows, counts)
        pairs: list[PairRate] = []
        forged: list[ForgedCount] = []
        limited: list[LimitedCount] = []
        denied: list[DeniedCount] = []
        dialogues: list[DialogueCount] = []
        by_vm: dict[VmId, list[PortSample]] = {}
        for sample in known:
            by_vm.setdefault(sample.vm, []).append(sample)
        most = _fair_share([sum(len(one.peers) for one in ports) for ports in by_vm.values()], MAX_PAIRS)
        for vm in sorted(by_vm, key=self._rows.__getitem__) if not sweep.partial else by_vm:
            pairs += self._pairs(vm, by_vm[vm], interval, most)
            forged += _forged(vm, by_vm[vm])
            limited += _limited(vm, by_vm[vm])
            denied += _denied(vm, by_vm[vm])
            dialogues += self._dialogues(vm, by_vm[vm])
        counts[:, : Metric.CPU] /= _divisors(interval)
        reports = [
            HostReport(
                now,
                interval,
                vms,
                counts.data,
                tuple(pairs),
                forged=tuple(forged),
                limited=tuple(limited),
                partial=sweep.partial,
                denied=tuple(denied),
                dialogues=tuple(dialogues),
                taken=self._taken(now).data if strained else None,
            )
        ]
        if not sweep.partial:
            self._since += interval
            if self._since >= WHOLE_S - 0.01:
                reports.append(self._whole(now))
        return reports

    def _take_resources(self, samples: Sequence[ResourceSample], now: Instant) -> None:
        told = [sample for sample in samples if sample.vm in self._rows]
        if told:
            rows = np.fromiter((self._rows[sample.vm] for sample in told), np.intp, len(told))
            self._resources[rows] = np.array([_told(one) for one in told], np.float64)  # None becomes NaN
            self._told_at[rows] = now

    def _counts(
        self, samples: Sequence[PortSample], vms: Sequence[VmId], rows: Picked, unseen: Iterable[PortId], now: Instant
    ) -> Row:
        """Counts of an interval, all NICs of a VM together, and its resources; a row for each of ``vms``."""
        counts = np.zeros((len(vms), _N), np.float32)
        counts[:, : Metric.CPU] = _added_up(samples, vms)
        blind = self._portless[rows].copy()
        nobody = set(unseen)
        if nobody:
            blind |= np.fromiter((not nobody.isdisjoint(self._ports[vm]) for vm in vms), bool, len(vms))
        counts[blind, : Metric.CPU] = np.nan
        counts[:, Metric.CPU :] = self._resources_now(rows, now)
        return counts

    def _add(self, rows: Picked, counts: Row) -> None:
        second = self._seconds[rows]  # a copy where rows are picked, the array itself where all are meant
        second[:, _SUMS] += counts[:, _SUMS]
        second[:, Metric.FAILURES] += counts[:, Metric.FAILURES]
        for highest in _STATES:
            second[:, highest] = np.maximum(second[:, highest], counts[:, highest])
        self._seconds[rows] = second
        self._begun[rows] = True

    def _whole(self, now: Instant) -> HostReport:
        seconds, self._since = self._since, 0.0
        values = np.empty((len(self._vms), _N), np.float32)
        values[:, : Metric.CPU] = self._seconds / _divisors(seconds)
        values[~self._begun | self._portless, : Metric.CPU] = np.nan
        values[:, Metric.CPU :] = self._resources_now(slice(None), now)
        self._seconds[:] = 0.0
        self._begun[:] = False
        notices = self._overload.see(self._vms, values, now)
        return HostReport(now, seconds, self._vms, values.data, notices=tuple(notices), whole=True)

    def _taken(self, now: Instant) -> Row:
        return self._strain.taken(self._resources[:, 0], self._told_at, self._rows, now)

    def _resources_now(self, rows: Picked, now: Instant) -> Row:
        fresh = now - self._told_at[rows] < STALE_S
        found: Row = np.where(fresh[:, None], self._resources[rows], np.float32(np.nan))
        return found

    def _pairs(self, vm: VmId, samples: Sequence[PortSample], interval: float, most: int) -> list[PairRate]:
        elsewhere = _by_address(samples) if len(samples) > 1 else {}
        known = [peer for sample in samples for peer in sample.peers]
        told = _busiest(known, most) if len(known) > most else known
        self.pairs_dropped += len(known) - len(told)
        pairs = []
        for peer in told:
            answers, resets = peer.answers, peer.resets
            if not answers:  # of several NICs another may have the way back
                answers, resets = elsewhere.get((peer.direction, peer.address), (0, 0))
            pairs.append(
                PairRate(
                    vm=vm,
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

    def _dialogues(self, vm: VmId, samples: Iterable[PortSample]) -> list[DialogueCount]:
        return [
            DialogueCount(
                vm,
                one.direction,
                self._book.owner(one.address, one.mac),
                one.address,
                one.port,
                one.ended,
                one.curt,
                one.alike,
                one.varied,
                one.lasted_s,
            )
            for sample in samples
            for one in sample.greeters
        ]


def _fair_share(wanted: Sequence[int], room: int) -> int:
    """What each may have, so that all together keep to ``room``: who wants less leaves it to the others."""
    left = room
    for place, one in enumerate(sorted(wanted)):
        share = left // (len(wanted) - place)
        if one > share:
            return share
        left -= one
    return room


def _busiest(peers: Sequence[PeerCount], most: int) -> list[PeerCount]:
    """So many of a VM's peers, the busiest of both directions by turns."""
    order = sorted(peers, key=lambda peer: -peer.packets)
    ranks = {Direction.OUT: count(), Direction.IN: count()}
    ranked = sorted((next(ranks[peer.direction]), n) for n, peer in enumerate(order))
    return [order[n] for _, n in ranked[:most]]


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


def _moved(old: npt.NDArray[Any], from_: Rows, new: npt.NDArray[Any], to: Rows) -> npt.NDArray[Any]:
    new[to] = old[from_]
    return new


def _divisors(seconds: float) -> Row:
    """What makes rates of an interval's counts and leaves states as they are."""
    divisors = np.full(Metric.CPU, seconds, np.float32)
    divisors[_STATES] = 1.0
    return divisors


def _added_up(samples: Sequence[PortSample], vms: Sequence[VmId]) -> Row:
    """All NICs of a VM together, without its resources."""
    counts = np.zeros((len(vms), Metric.CPU), np.float32)
    if samples:
        row_of = {vm: row for row, vm in enumerate(vms)}
        rows = np.fromiter((row_of[sample.vm] for sample in samples), np.intp, len(samples))
        order = np.argsort(rows, kind="stable")
        told = np.array([_columns(sample) for sample in samples], np.float64)[order]
        firsts = np.flatnonzero(np.diff(rows[order], prepend=-1))
        counts[rows[order][firsts]] = np.add.reduceat(told, firsts)
        tried = told[:, Metric.PORTS_TRIED]
        counts[rows[order][firsts], Metric.PORTS_TRIED] = np.maximum.reduceat(tried, firsts)
    return counts


def _columns(sample: PortSample) -> tuple[int, ...]:
    """One NIC's counts in the order of the columns."""
    tried = max((peer.ports for peer in sample.peers if peer.direction is Direction.OUT), default=0)
    return (
        *sample.out.packets,
        *sample.into.packets,
        sum(sample.out.octets),
        sum(sample.into.octets),
        sum(sample.forged),
        sample.new_destinations,
        sample.fan_out,
        sample.fan_in,
        sample.failures,
        tried,
    )


def _limited(vm: VmId, samples: Iterable[PortSample]) -> list[LimitedCount]:
    return [
        LimitedCount(vm, direction, TrafficClass(traffic), packets)
        for sample in samples
        for direction, counts in ((Direction.OUT, sample.out), (Direction.IN, sample.into))
        for traffic, packets in enumerate(counts.limited)
        if packets
    ]


def _denied(vm: VmId, samples: Iterable[PortSample]) -> list[DeniedCount]:
    return [
        DeniedCount(vm, Direction(direction), DenialKind(kind), packets)
        for sample in samples
        for direction, kinds in enumerate(sample.denied)
        for kind, packets in enumerate(kinds)
        if packets
    ]


def _forged(vm: VmId, samples: Iterable[PortSample]) -> list[ForgedCount]:
    return [
        ForgedCount(vm, ForgedKind(kind), frames)
        for sample in samples
        for kind, frames in enumerate(sample.forged)
        if frames
    ]
