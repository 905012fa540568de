"""Resources of every domain by one bulk call that waits for no domain's lock; deltas of counters to rates (pure).

What libvirt does not report is ``None``, never zero. Some fields are zero where the kernel or guest tells nothing
(``vcpu.N.delay`` without scheduler statistics, ``balloon.last-update`` without a guest driver): those are unseen too.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import libvirt

from hypervigil.hypervisor.adapters.libvirt.connection import LibvirtUnreachableError, told
from hypervigil.model.ids import Instant, VmId
from hypervigil.model.observation import ResourceSample

_GROUPS = (
    libvirt.VIR_DOMAIN_STATS_STATE
    | libvirt.VIR_DOMAIN_STATS_CPU_TOTAL
    | libvirt.VIR_DOMAIN_STATS_BALLOON
    | libvirt.VIR_DOMAIN_STATS_VCPU
    | libvirt.VIR_DOMAIN_STATS_BLOCK
    | libvirt.VIR_DOMAIN_STATS_VM
)
_FLAGS = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT | libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE

SHORTEST_S = 0.05
"""Intervals below say nothing: the kernel counts CPU time in steps of up to 10 ms."""
BALLOON_STALE_S = 15.0
"""A guest's memory statistics older than this are unseen."""

_NS = 1e9


@dataclass(frozen=True, slots=True)
class Record:
    """One domain's statistics at one time, under libvirt's names (``virsh help domstats``)."""

    vm: VmId
    domain_id: int
    """Changes when the domain is started again: its counters then begin anew."""
    values: Mapping[str, object]


def read_all(connection: libvirt.virConnect) -> list[Record]:
    """Statistics of all running domains; of a domain whose lock somebody holds, only what needs no lock."""
    try:
        answer = connection.getAllDomainStats(_GROUPS, _FLAGS)
    except libvirt.libvirtError as error:
        raise LibvirtUnreachableError(f"libvirt gives no statistics: {told(error)}") from error
    return [Record(VmId(domain.UUIDString()), domain.ID(), values) for domain, values in answer]


class ResourceMeter:
    """Turns successive records into rates; it holds one record per running domain and nothing of those that ended."""

    def __init__(self) -> None:
        self._last: dict[VmId, tuple[Record, Instant]] = {}

    def copy(self) -> "ResourceMeter":
        """One that knows the same and goes on by itself."""
        other = ResourceMeter()
        other._last = dict(self._last)
        return other

    def update(self, records: Iterable[Record], now: Instant, wall: float) -> tuple[ResourceSample, ...]:
        """One sample for every domain. ``wall`` is Unix time: guests' balloon statistics are stamped with it."""
        before, self._last = self._last, {}
        samples = []
        for record in records:
            last, at = before.get(record.vm, (record, now))
            if last.domain_id != record.domain_id:
                last, at = record, now
            if last is not record and now - at < SHORTEST_S:
                self._last[record.vm] = (last, at)
                continue
            self._last[record.vm] = (record, now)
            samples.append(resource_sample(last, record, now - at, wall))
        return tuple(samples)


def resource_sample(before: Record, after: Record, seconds: float, wall: float) -> ResourceSample:
    """What happened between two records of one run of one domain; at its first record only states are known."""
    old, new = before.values, after.values

    def rate(*parts: float | None) -> float | None:
        known = [part for part in parts if part is not None]
        return sum(known) / seconds if len(known) == len(parts) and seconds > 0 else None

    def grown(group: str, *fields: str) -> float | None:
        return _growth(_total(old, group, fields), _total(new, group, fields))

    vcpus = _number(new, "vcpu.current")
    cpu = rate(_growth(_number(old, "cpu.time"), _number(new, "cpu.time")))
    waited = rate(_unless_never(grown("vcpu", "delay"), _total(new, "vcpu", ("delay",))))
    if waited is None:
        waited = rate(_unless_never(grown("vcpu", "wait"), _total(new, "vcpu", ("wait",))))
    requests = grown("block", "rd.reqs", "wr.reqs", "fl.reqs")
    balloon = _number(new, "balloon.current")
    waited_ns, served = grown("block", "rd.times", "wr.times"), grown("block", "rd.reqs", "wr.reqs")
    resized = None if balloon is None else float(balloon != _number(old, "balloon.current"))
    rss = _number(new, "balloon.rss")
    return ResourceSample(
        vm=after.vm,
        cpu=_fraction(cpu, vcpus),
        cpu_wait=_fraction(waited, vcpus),
        memory=_memory(new, wall),
        memory_rss=None if rss is None else rss * 1024,
        balloon_kib=balloon,
        block_reads=rate(grown("block", "rd.reqs")),
        block_writes=rate(grown("block", "wr.reqs")),
        block_bytes=rate(grown("block", "rd.bytes", "wr.bytes")),
        exits=rate(_accelerator(old, new, "exits")),
        hypercalls=rate(_accelerator(old, new, "hypercalls")),
        device_requests=rate(requests, resized),
        block_wait=None if waited_ns is None or not served else waited_ns / served / _NS,
    )


def _number(values: Mapping[str, object], name: str) -> float | None:
    value = values.get(name)
    return float(value) if isinstance(value, int | float) and 0 <= value < math.inf else None


def _total(values: Mapping[str, object], group: str, fields: Iterable[str]) -> float | None:
    """The sum over all devices of a group; ``None`` where one device lacks one field. No device at all sums to 0."""
    count = _number(values, f"{group}.maximum" if group == "vcpu" else f"{group}.count")
    if count is None:
        return None
    total, seen = 0.0, 0
    for index in range(min(int(count), 4096)):
        if group == "vcpu" and f"vcpu.{index}.state" not in values:
            continue  # numbers of vCPUs that are unplugged are left out
        for field in fields:
            value = _number(values, f"{group}.{index}.{field}")
            if value is None:
                return None
            total += value
        seen += 1
    return total if seen or group != "vcpu" else None


def _growth(old: float | None, new: float | None) -> float | None:
    """A counter that shrank began anew in between: nothing is known of the interval."""
    return None if old is None or new is None or new < old else new - old


def _unless_never(growth: float | None, total: float | None) -> float | None:
    """A counter that never moved since the domain's start is one that this kernel does not keep."""
    return growth if total else None


def _fraction(ns_per_s: float | None, vcpus: float | None) -> float | None:
    return None if ns_per_s is None or not vcpus else min(1.0, ns_per_s / _NS / vcpus)


def _memory(values: Mapping[str, object], wall: float) -> float | None:
    """Used part of the balloon as the guest's driver tells it, if it told lately."""
    told_at = _number(values, "balloon.last-update")
    available = _number(values, "balloon.available")
    free = _number(values, "balloon.usable")
    if free is None:
        free = _number(values, "balloon.unused")
    if not told_at or not available or free is None or abs(wall - told_at) > BALLOON_STALE_S:
        return None
    return min(1.0, max(0.0, 1.0 - free / available))


def _accelerator(old: Mapping[str, object], new: Mapping[str, object], name: str) -> float | None:
    """Growth of one of KVM's own counters over all vCPUs (QEMU 7.1, libvirt 8.9 and later; not under TCG)."""
    return _growth(_sum_of(old, name), _sum_of(new, name))


def _sum_of(values: Mapping[str, object], name: str) -> float | None:
    found = [
        value
        for key in values
        if key.endswith(f".{name}.sum") and key.startswith(("vcpu.", "vm."))
        if (value := _number(values, key)) is not None
    ]
    return sum(found) if found else None
