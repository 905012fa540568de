"""The data plane as the enforcer uses it: each call is one atomic change of the kernel, and can be read back.

Protection does not depend on this process: programs, maps and links are pinned, so what was put stays in force until
it is taken away, its hard end comes, or its device goes.
"""

import contextlib
import ctypes
import os
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from hypervigil.hypervisor.adapters.ebpf import kernel, layout, program
from hypervigil.hypervisor.adapters.ebpf.attachment import attachment, detach_all
from hypervigil.hypervisor.adapters.ebpf.doors import Doors
from hypervigil.hypervisor.adapters.ebpf.entry import entry_of
from hypervigil.hypervisor.adapters.ebpf.fabric import FabricMaps
from hypervigil.hypervisor.adapters.ebpf.locals import LocalMaps
from hypervigil.hypervisor.adapters.ebpf.program import DEFAULT_PORTS, LARGER, DataPlaneError
from hypervigil.model.ids import PortId
from hypervigil.model.port_policy import FabricChange, PortPolicy
from hypervigil.model.traffic import Direction, TrafficClass

_SENSOR_MAPS = ("hv_ports", "hv_counters", "hv_peers", "hv_events", "hv_crossings", "hv_greeters", "hv_leases")


class Gate(IntEnum):
    """What passes a port at all."""

    OPEN = 0
    ISOLATE = 1
    QUARANTINE = 2


@dataclass(frozen=True, slots=True)
class RateInForce:
    """A rate as the kernel holds it. ``direction`` None: new destinations; ``traffic`` None: all classes together."""

    direction: Direction | None
    traffic: TrafficClass | None
    packets_per_s: float
    octets_per_s: int
    end_ns: int


@dataclass(frozen=True, slots=True)
class Drift:
    """Something of ours that the kernel no longer holds as it was put."""

    port: PortId
    what: str


class DataPlane:
    """Programs, maps and links of one host."""

    def __init__(self, pin_dir: Path) -> None:
        """Not for callers: use ``open``."""
        self._pin_dir = pin_dir
        self._maps = {name: kernel.pinned(pin_dir / name) for name in program.MAPS}
        self._programs = {name: kernel.pinned(pin_dir / name) for name in program.PROGRAMS}
        self._attachment = attachment(pin_dir, self._programs)
        self._max_ports = kernel.max_entries(self._maps["hv_limits"])
        self._entries: dict[PortId, tuple[int, bytes]] = {}
        self._policies: dict[PortId, PortPolicy] = {}
        self._limits: dict[PortId, bytes] = {}
        self._sources: dict[PortId, dict[str, layout.Source]] = {}
        self._generation = 0
        self._used: set[int] = set()
        """Slots that are taken."""
        self._doors = Doors(self._maps)
        self._fabric = FabricMaps(self._maps)
        self._locals = LocalMaps(self._maps)
        self._recall()

    @classmethod
    def open(cls, pin_dir: Path, *, max_ports: int = DEFAULT_PORTS) -> "DataPlane":
        """The pinned data plane as it is, or loaded for so many ports. ``DataPlaneError`` with the mend."""
        mount_bpffs(pin_dir)
        whole = pin_dir / f"abi-{layout.ABI}"
        if not whole.exists():
            if any(pin_dir.glob("abi-*")):
                raise DataPlaneError(
                    f"another version's data plane is pinned at {pin_dir}: 'hypervigil off' removes it"
                )
            program.load(pin_dir, max_ports=max_ports)
        try:
            return cls(pin_dir)
        except OSError as error:
            raise DataPlaneError(
                f"the data plane pinned at {pin_dir} is not whole ({error.strerror}): 'hypervigil off' removes it"
            ) from error

    def close(self) -> None:
        """Let go of the descriptors; everything stays in force."""
        for fd in (*self._maps.values(), *self._programs.values()):
            os.close(fd)
        self._maps.clear()
        self._programs.clear()

    def _recall(self) -> None:
        """What an earlier process put, by the kernel's own word."""
        for key in kernel.keys(self._maps["hv_ports"], ctypes.c_uint32):
            entry = layout.Port()
            if not kernel.lookup(self._maps["hv_ports"], key, entry):
                continue
            port = PortId(layout.unpack_mac(bytes(entry.mac)))
            self._entries[port] = (key.value, bytes(entry))
            self._used.add(entry.slot)
            self._generation = max(self._generation, entry.generation)
            limits = layout.Limits()
            kernel.lookup(self._maps["hv_limits"], ctypes.c_uint32(entry.slot), limits)
            self._limits[port] = bytes(limits)
            self._sources[port] = {}
        self._fabric.recall(self._used)
        slots = {layout.Port.from_buffer_copy(raw).slot: port for port, (_, raw) in self._entries.items()}
        for source_key in kernel.keys(self._maps["hv_sources"], layout.SourceKey):
            source = layout.Source()
            owner = slots.get(source_key.slot)
            if owner is not None and kernel.lookup(self._maps["hv_sources"], source_key, source):
                self._sources[owner][layout.unpack_address(bytes(source_key.address))] = source

    # --- ports ---
    def ports(self) -> dict[PortId, int]:
        """Attached ports and their slots."""
        return {port: layout.Port.from_buffer_copy(raw).slot for port, (_, raw) in self._entries.items()}

    def attach(self, policy: PortPolicy) -> int:
        """Bind a port to its policy and attach the programs to its device; its slot. Doing it again is no error."""
        old = self._entries.get(policy.port)
        if old is not None and old[0] != policy.ifindex:
            self._detach_device(old[0])
        slot = layout.Port.from_buffer_copy(old[1]).slot if old is not None else self._free_slot()
        self._generation += 1
        entry = entry_of(policy, slot, self._generation)
        if old is not None and (before := layout.Port.from_buffer_copy(old[1]).segment) != entry.segment:
            self._locals.forget_claims(slot, before)
        if old is None:
            self._limits[policy.port] = bytes(layout.Limits())
            self._sources[policy.port] = {}
            self._write_limits(policy.port, layout.Limits(), slot)
            kernel.update(self._maps["hv_tripwires"], ctypes.c_uint32(slot), layout.Tripwires())
        self._locals.put(slot, policy, entry.segment)
        self._doors.put(policy.ifindex, entry)
        self._entries[policy.port] = (policy.ifindex, bytes(entry))
        self._policies[policy.port] = policy
        self._used.add(slot)
        self._fabric.bind(slot, policy)
        try:
            self._attachment.attach(policy.ifindex)
        except OSError as error:
            raise DataPlaneError(
                f"cannot attach to {policy.interface} (index {policy.ifindex}): {error.strerror}; is it still there?"
            ) from error
        return slot

    def detach(self, port: PortId) -> None:
        """Let a port go: no policy, no programs, no limits. Doing it again is no error."""
        entry = self._entries.pop(port, None)
        if entry is None:
            return
        self._detach_device(entry[0])
        slot = layout.Port.from_buffer_copy(entry[1]).slot
        kernel.update(self._maps["hv_limits"], ctypes.c_uint32(slot), layout.Limits())
        kernel.update(self._maps["hv_tripwires"], ctypes.c_uint32(slot), layout.Tripwires())
        for address in self._sources.pop(port, {}):
            kernel.delete(self._maps["hv_sources"], _source_key(slot, address))
        self._fabric.release(slot)
        self._locals.release(slot, layout.Port.from_buffer_copy(entry[1]).segment)
        self._used.discard(slot)
        self._limits.pop(port, None)
        self._policies.pop(port, None)

    def change_fabric(self, change: FabricChange) -> None:
        """Put who may reach whom in force, in one step and for all that was attached; it leads on from the last."""
        self._fabric.change(change)

    def _free_slot(self) -> int:
        # Round robin, so that a slot's remembered peers are old before another port inherits them.
        start = self._generation % self._max_ports
        for step in range(self._max_ports):
            slot = (start + step) % self._max_ports
            if slot not in self._used:
                return slot
        raise DataPlaneError(f"all {self._max_ports} NICs of the data plane are taken: {LARGER}")

    def _detach_device(self, ifindex: int) -> None:
        self._attachment.detach(ifindex)
        self._doors.delete(ifindex)

    # --- limits ---
    def set_limit(
        self,
        port: PortId,
        direction: Direction,
        traffic: TrafficClass | None,
        *,
        packets_per_s: float = 0.0,
        octets_per_s: float = 0.0,
        end_ns: int,
    ) -> None:
        """Limit a class (``None``: all classes together) in one direction; 0 is no limit of that unit."""
        rate = _rate(packets_per_s, octets_per_s, end_ns)
        self._change(port, lambda limits: _put(limits.rate[direction], _index(traffic), rate))

    def clear_limit(self, port: PortId, direction: Direction, traffic: TrafficClass | None) -> None:
        """End a limit."""
        self._change(port, lambda limits: _put(limits.rate[direction], _index(traffic), layout.Rate()))

    def set_new_destinations(self, port: PortId, per_s: float, end_ns: int) -> None:
        """Limit first packets to addresses that the port has not talked to."""
        rate = _rate(per_s, 0, end_ns)
        self._change(port, lambda limits: setattr(limits, "new_destinations", rate))

    def clear_new_destinations(self, port: PortId) -> None:
        """End that limit."""
        self._change(port, lambda limits: setattr(limits, "new_destinations", layout.Rate()))

    def set_gate(self, port: PortId, gate: Gate, end_ns: int) -> None:
        """Close (or open) a port as a whole; quarantine lets the policy's quarantine addresses through."""

        def change(limits: layout.Limits) -> None:
            limits.gate = gate
            limits.gate_end_ns = end_ns if gate is not Gate.OPEN else 0

        self._change(port, change)

    def set_proof(self, port: PortId, end_ns: int) -> None:
        """Until then who begins a TCP connection to the port has to prove its address; 0 ends it."""
        self._change(port, lambda limits: setattr(limits, "proof_end_ns", end_ns))

    def set_peer(self, port: PortId, address: str, packets_per_s: float, end_ns: int) -> None:
        """Limit what one source may send to the port; 0 packets/s blocks it."""
        source = layout.Source(rate=_rate(packets_per_s, 0, end_ns))
        sources = self._sources[self._known(port)]
        try:
            kernel.update(self._maps["hv_sources"], _source_key(self._slot(port), address), source)
        except OSError as error:
            raise DataPlaneError(
                f"no room for one more limited source ({error.strerror}): lift others first"
            ) from error
        sources[str(address)] = source
        self._change(port, lambda _: None)

    def clear_peer(self, port: PortId, address: str) -> None:
        """End a source's limit."""
        if port in self._entries:
            kernel.delete(self._maps["hv_sources"], _source_key(self._slot(port), address))
            self._sources[port].pop(str(address), None)
            self._change(port, lambda _: None)

    def set_tripwires(self, port: PortId, thresholds: Iterable[tuple[Direction, TrafficClass, int]]) -> None:
        """Set packets per 100 ms at which the sensors are woken; classes not named keep theirs, 0 is off."""
        slot = ctypes.c_uint32(self._slot(port))
        wires = layout.Tripwires()
        kernel.lookup(self._maps["hv_tripwires"], slot, wires)
        for direction, traffic, packets in thresholds:
            wires.packets_per_100ms[direction][traffic] = packets
        kernel.update(self._maps["hv_tripwires"], slot, wires)

    def rates(self, port: PortId) -> list[RateInForce]:
        """Every rate that the kernel holds for a port, read from it now."""
        limits = self._read_limits(port)
        found = []
        for direction in Direction:
            for index in range(layout.BUCKETS):
                traffic = None if index == layout.ALL else TrafficClass(index)
                found += _in_force(direction, traffic, limits.rate[direction][index])
        return found + _in_force(None, None, limits.new_destinations)

    def gate(self, port: PortId) -> Gate:
        """Whether the port is open, by the kernel's word."""
        return Gate(self._read_limits(port).gate)

    def proof(self, port: PortId) -> int:
        """Until when sources have to prove their address, by the kernel's word; 0: they need not."""
        return int(self._read_limits(port).proof_end_ns)

    def peers(self, port: PortId) -> dict[str, float]:
        """Limited sources and their packets per second, by the kernel's word."""
        found = {}
        for address in self._sources[self._known(port)]:
            source = layout.Source()
            if kernel.lookup(self._maps["hv_sources"], _source_key(self._slot(port), address), source):
                found[address] = source.rate.packets_per_s_x1000 / 1000
        return found

    def _slot(self, port: PortId) -> int:
        return int(layout.Port.from_buffer_copy(self._entries[self._known(port)][1]).slot)

    def _known(self, port: PortId) -> PortId:
        if port not in self._entries:
            raise DataPlaneError(f"port {port} is not bound: its VM may be gone")
        return port

    def _read_limits(self, port: PortId) -> layout.Limits:
        limits = layout.Limits()
        kernel.lookup(self._maps["hv_limits"], ctypes.c_uint32(self._slot(port)), limits)
        return limits

    def _change(self, port: PortId, change: Callable[[layout.Limits], None]) -> None:
        limits = layout.Limits.from_buffer_copy(self._limits[self._known(port)])
        change(limits)
        limits.armed = 0
        limits.armed = any(bytes(limits)) or bool(self._sources[port])
        self._write_limits(port, limits, self._slot(port))
        self._limits[port] = bytes(limits)

    def _write_limits(self, port: PortId, limits: layout.Limits, slot: int) -> None:
        try:
            kernel.update(self._maps["hv_limits"], ctypes.c_uint32(slot), limits)
        except OSError as error:
            raise DataPlaneError(f"the kernel refused the limits of port {port}: {error.strerror}") from error

    # --- drift ---
    def drift(self) -> list[Drift]:
        """What the kernel no longer holds as it was put. A device that is gone is no drift."""
        found = []
        for port, (ifindex, raw) in self._entries.items():
            if not _device_there(ifindex):
                continue
            if self._doors.read(ifindex) != {raw}:
                found.append(Drift(port, "its policy was changed"))
            if not self._attachment.there(ifindex):
                found.append(Drift(port, "its programs were detached"))
            if bytes(self._read_limits(port)) != self._limits[port]:
                found.append(Drift(port, "its limits were changed"))
            slot = self._slot(port)
            if self._locals.drifted(slot):
                found.append(Drift(port, "its addresses were changed"))
            for address, wanted in self._sources[port].items():
                source = layout.Source()
                there = kernel.lookup(self._maps["hv_sources"], _source_key(slot, address), source)
                if not there or bytes(source.rate) != bytes(wanted.rate):
                    found.append(Drift(port, f"the limit on its source {address} was changed"))
        if self._entries and self._fabric.drifted():
            found.append(Drift(next(iter(self._entries)), "who may reach whom was changed"))
        return found

    def repair(self, port: PortId) -> None:
        """Put a port back as it was put, and who may reach whom with it."""
        if self._fabric.drifted():
            self._fabric.repair()
        ifindex, raw = self._entries[self._known(port)]
        entry = layout.Port.from_buffer_copy(raw)
        self._doors.put(ifindex, entry)
        self._locals.repair(entry.slot)
        self._write_limits(port, layout.Limits.from_buffer_copy(self._limits[port]), entry.slot)
        for address, source in self._sources[port].items():
            kernel.update(self._maps["hv_sources"], _source_key(entry.slot, address), source)
        try:
            self._attachment.attach(ifindex)
        except OSError as error:
            raise DataPlaneError(f"cannot attach to device {ifindex} again: {error.strerror}") from error

    # --- sensors ---
    def sensor_fds(self) -> dict[str, int]:
        """Descriptors to hand to the sensors, theirs to close: read-only but for the events' consumer position."""
        return {name: kernel.pinned(self._pin_dir / name, read_only=name != "hv_events") for name in _SENSOR_MAPS}

    def remove(self) -> None:
        """Detach everything and unpin it."""
        self.close()
        remove_all(self._pin_dir)


def remove_all(pin_dir: Path) -> bool:
    """Unpin everything under ``pin_dir``, with or without a process of ours; whether there was anything."""
    if not pin_dir.is_dir():
        return False
    detach_all(pin_dir)
    for path in list(pin_dir.iterdir()):
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink(missing_ok=True)
    pin_dir.rmdir()
    return True


def mount_bpffs(pin_dir: Path) -> None:
    """Make sure that ``pin_dir`` lies on a BPF file system."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    roots = [Path(fields[1]) for fields in mounts if fields[2] == "bpf"]
    if any(pin_dir.is_relative_to(root) for root in roots):
        return
    root = Path("/sys/fs/bpf")
    if not pin_dir.is_relative_to(root):
        raise DataPlaneError(f"{pin_dir} is not on a BPF file system: choose a directory below {root}")
    libc = ctypes.CDLL(None, use_errno=True)
    # PRIVILEGED: mounting is root's; done once where the host has not mounted bpffs itself.
    if libc.mount(b"bpf", os.fsencode(root), b"bpf", 0, None):
        reason = os.strerror(ctypes.get_errno())
        raise DataPlaneError(f"cannot mount a BPF file system at {root} ({reason}): run 'mount -t bpf bpf {root}'")


def _source_key(slot: int, address: str) -> layout.SourceKey:
    try:
        return layout.SourceKey(slot, layout.Address.from_buffer_copy(layout.pack_address(address)))
    except ValueError:
        raise DataPlaneError("a limited source is named by its IP address or its MAC") from None


def _index(traffic: TrafficClass | None) -> int:
    return layout.ALL if traffic is None else int(traffic)


def _rate(packets_per_s: float, octets_per_s: float, end_ns: int) -> layout.Rate:
    return layout.Rate(round(packets_per_s * 1000), round(octets_per_s), end_ns)


def _put(rates: "ctypes.Array[layout.Rate]", index: int, rate: layout.Rate) -> None:
    rates[index] = rate


def _in_force(direction: Direction | None, traffic: TrafficClass | None, rate: layout.Rate) -> list[RateInForce]:
    if not rate.end_ns:
        return []
    return [RateInForce(direction, traffic, rate.packets_per_s_x1000 / 1000, rate.octets_per_s, rate.end_ns)]


def _device_there(ifindex: int) -> bool:
    with contextlib.suppress(OSError):
        socket.if_indextoname(ifindex)
        return True
    return False
