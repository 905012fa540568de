"""Limits of CPU, block I/O, memory and running at all, set on live domains through libvirt and read back from it."""

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from xml.etree import ElementTree as ET

import libvirt

from hypervigil.hypervisor.adapters.libvirt import marks
from hypervigil.hypervisor.adapters.libvirt.channel import agent_channel
from hypervigil.hypervisor.adapters.libvirt.marks import Original
from hypervigil.model.ids import VmId
from hypervigil.model.limits import LimitKind

PERIOD_US = 20_000
"""A VM at its quota runs at full speed until its share of the period is used: the longer the period, the longer its
neighbours wait. Shorter than a few ticks of the kernel (4 ms) the share is not held."""
LEAST_QUOTA_US = 1000
"""The kernel's own least."""
SHARES = 8
"""Of a CPU that others want as well; usual are 1024 (cgroup v1) or 100 (v2). Within its quota, too, a limited VM gives
way to whoever wakes."""
OBEY_WITHIN_S = 4.0
_LIVE = libvirt.VIR_DOMAIN_AFFECT_LIVE
_UNLIMITED_US = 1 << 40
_BLOCK_FIELDS = {LimitKind.BLOCK_OPERATIONS: "total_iops_sec", LimitKind.BLOCK_OCTETS: "total_bytes_sec"}

T = TypeVar("T")
Domain = Any
"""A ``libvirt.virDomain``; the types it declares are wrong (dictionaries are said to be strings)."""


class DomainError(Exception):
    """One sentence: what could not be done to a domain and the mend."""


class DomainGoneError(DomainError):
    """The domain does not run any more."""


class DomainLimits:
    """The read-write side of libvirt. Calls may take long (domain locks): never call them from a loop."""

    def __init__(self, uri: str = "qemu:///system") -> None:
        self._uri = uri
        self._connection: libvirt.virConnect | None = None
        libvirt.registerErrorHandler(lambda *_: None, None)

    def original(self, vm: VmId, kind: LimitKind) -> Original:
        """What is in force now for what ``kind`` limits."""
        domain = self._domain(vm)
        return self._try(vm, lambda: _read(domain, kind))

    def put(self, vm: VmId, kind: LimitKind, value: float, above: Original | None = None) -> str:
        """Put a limit in force and say what libvirt now tells of it; with ``above``, a grant: more than was before."""
        domain = self._domain(vm)
        return self._try(vm, lambda: _put(domain, kind, value, above))

    def restore(self, vm: VmId, kind: LimitKind, original: Original) -> None:
        """Put back what was before."""
        domain = self._domain(vm)
        self._try(vm, lambda: _restore(domain, kind, original))

    def holds(self, vm: VmId, kind: LimitKind, value: float, above: Original | None = None) -> bool:
        """Whether the limit is still as it was put. A balloon moves by itself, so only the guest's obedience varies."""
        domain = self._domain(vm)
        return self._try(vm, lambda: _holds(domain, kind, value, above))

    def mark(self, vm: VmId, originals: Mapping[LimitKind, Original]) -> None:
        """Write into the domain what was before what limits it now."""
        domain = self._domain(vm)
        self._try(vm, lambda: marks.write(domain, originals))

    def marks(self, vm: VmId) -> dict[LimitKind, Original]:
        """What is written there, also by another host's enforcer; ``DomainError`` while it comes or goes."""
        domain = self._domain(vm)
        if self._try(vm, lambda: int(domain.jobInfo()[0])) != libvirt.VIR_DOMAIN_JOB_NONE:
            raise DomainError(f"domain {vm} migrates, or is saved: it can be changed when that is over")
        return self._try(vm, lambda: marks.read(domain))

    def channel(self, vm: VmId) -> str:
        """The host's end of its agent's port."""
        domain = self._domain(vm)
        path = self._try(vm, lambda: agent_channel(_tree(domain)))
        if path is None:
            raise DomainError(f"domain {vm} has no port for an agent")
        return path

    def _domain(self, vm: VmId) -> Domain:
        try:
            if self._connection is None or not self._connection.isAlive():
                # PRIVILEGED: changing domains needs libvirt's read-write socket.
                self._connection = libvirt.open(self._uri)
            domain = self._connection.lookupByUUIDString(vm)
            if not domain.isActive():
                raise DomainGoneError(f"domain {vm} does not run any more")
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                raise DomainGoneError(f"domain {vm} is gone") from error
            self._connection = None
            raise DomainError(f"libvirt does not answer ({error.get_error_message()}): is libvirtd running?") from error
        return domain

    @staticmethod
    def _try(vm: VmId, do: Callable[[], T]) -> T:
        try:
            return do()
        except libvirt.libvirtError as error:
            if error.get_error_code() in {libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_OPERATION_INVALID}:
                raise DomainGoneError(f"domain {vm} is gone: {error.get_error_message()}") from error
            raise DomainError(f"libvirt refused: {error.get_error_message()}") from error


def _tree(domain: Domain) -> ET.Element:
    return ET.fromstring(domain.XMLDesc())  # noqa: S314 - libvirt's own XML, from root's socket


def _disks(domain: Domain) -> list[str]:
    return [
        target.get("dev", "")
        for disk in _tree(domain).iterfind("devices/disk")
        if disk.get("device", "disk") == "disk" and (target := disk.find("target")) is not None
    ]


def _read(domain: Domain, kind: LimitKind) -> Original:
    match kind:
        case LimitKind.CPU:
            parameters = domain.schedulerParametersFlags(_LIVE)
            return {name: int(parameters[name]) for name in ("vcpu_quota", "vcpu_period", "cpu_shares")}
        case LimitKind.BLOCK_OPERATIONS | LimitKind.BLOCK_OCTETS:
            field = _BLOCK_FIELDS[kind]
            return {disk: int(domain.blockIoTune(disk, _LIVE)[field]) for disk in _disks(domain)}
        case LimitKind.MEMORY:
            return {"kib": int(domain.info()[2])}
        case LimitKind.PAUSE:
            return {"paused": int(domain.state()[0] == libvirt.VIR_DOMAIN_PAUSED)}
        case _:
            raise DomainError(f"a limit of kind {kind} is not a domain's")


def _put(domain: Domain, kind: LimitKind, value: float, above: Original | None = None) -> str:
    if above is not None and not _is_more(kind, value, above):
        raise DomainError("it has as much without a grant: nothing is changed")
    match kind:
        case LimitKind.CPU:
            domain.setSchedulerParametersFlags(_quota(value, above), _LIVE)
            read = _read(domain, kind)
            return f"vcpu_quota {read['vcpu_quota']} of {read['vcpu_period']} us"
        case LimitKind.BLOCK_OPERATIONS | LimitKind.BLOCK_OCTETS:
            for disk in _disks(domain):
                domain.setBlockIoTune(disk, {_BLOCK_FIELDS[kind]: max(1, round(value))}, _LIVE)
            return ", ".join(f"{disk} {was}" for disk, was in _read(domain, kind).items()) or "no disk"
        case LimitKind.MEMORY:
            wanted = round(value)
            domain.setMemoryFlags(wanted, _LIVE)
            return _obeyed(domain, wanted)
        case LimitKind.PAUSE:
            if domain.state()[0] != libvirt.VIR_DOMAIN_PAUSED:
                domain.suspend()
            return "paused"
        case _:
            raise DomainError(f"a limit of kind {kind} is not a domain's")


def _quota(value: float, above: Original | None) -> Original:
    """The scheduler's parameters of a VM that may use ``value`` of each of its CPUs."""
    return {
        "vcpu_quota": max(LEAST_QUOTA_US, round(value * PERIOD_US)),
        "vcpu_period": PERIOD_US,
        "cpu_shares": SHARES if above is None else above["cpu_shares"],
    }


def _is_more(kind: LimitKind, value: float, before: Original) -> bool:
    """Whether a grant gives more than was before: it must never take away."""
    if kind is LimitKind.CPU:
        quota = before["vcpu_quota"]
        return 0 < quota < _UNLIMITED_US and value * before["vcpu_period"] > quota
    return kind is LimitKind.MEMORY and value > before["kib"]


def _obeyed(domain: Domain, wanted_kib: int) -> str:
    deadline = time.monotonic() + OBEY_WITHIN_S
    while (actual := int(domain.memoryStats().get("actual", 0))) > wanted_kib and time.monotonic() < deadline:
        time.sleep(0.1)
    if actual > wanted_kib:
        return f"not obeyed: asked for {wanted_kib} KiB, the guest still has {actual} KiB"
    return f"balloon {actual} KiB"


def _restore(domain: Domain, kind: LimitKind, original: Original) -> None:
    match kind:
        case LimitKind.CPU:
            quota = original["vcpu_quota"]
            unlimited = quota <= 0 or quota >= _UNLIMITED_US
            domain.setSchedulerParametersFlags(original | {"vcpu_quota": -1 if unlimited else quota}, _LIVE)
        case LimitKind.BLOCK_OPERATIONS | LimitKind.BLOCK_OCTETS:
            for disk in set(_disks(domain)) & original.keys():  # one may be unplugged by now
                domain.setBlockIoTune(disk, {_BLOCK_FIELDS[kind]: original[disk]}, _LIVE)
        case LimitKind.MEMORY:
            domain.setMemoryFlags(original["kib"], _LIVE)
        case LimitKind.PAUSE:
            if not original["paused"] and domain.state()[0] == libvirt.VIR_DOMAIN_PAUSED:
                domain.resume()
        case _:
            raise DomainError(f"a limit of kind {kind} is not a domain's")


def _holds(domain: Domain, kind: LimitKind, value: float, above: Original | None = None) -> bool:
    match kind:
        case LimitKind.CPU:
            return _read(domain, kind) == _quota(value, above)
        case LimitKind.BLOCK_OPERATIONS | LimitKind.BLOCK_OCTETS:
            return all(was == max(1, round(value)) for was in _read(domain, kind).values())
        case LimitKind.PAUSE:
            return bool(_read(domain, kind)["paused"])
        case _:
            return True
