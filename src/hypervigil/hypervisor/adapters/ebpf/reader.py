"""The data plane as the sensors read it: without any right, by descriptors that the enforcer handed over."""

import ctypes
import mmap
import os
import select
import struct
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hypervigil.hypervisor.adapters.ebpf import kernel, layout
from hypervigil.model.traffic import Direction, TrafficClass

COUNTERS = np.dtype(layout.Counters)
PORTS = np.dtype([("ifindex", "<u4"), ("port", np.dtype(layout.Port))])
CROSSINGS = np.dtype(layout.Crossings)
PEERS = np.dtype([("key", np.dtype(layout.PeerKey)), ("peer", np.dtype(layout.Peer))])
GREETERS = np.dtype([("key", np.dtype(layout.GreeterKey)), ("greeter", np.dtype(layout.Greeter))])
LEASES = np.dtype(layout.Leases)
_PAGE = mmap.PAGESIZE
_BUSY, _DISCARD, _LENGTH = 1 << 31, 1 << 30, (1 << 30) - 1
_CHUNK = 4096

Records = npt.NDArray[np.void]


@dataclass(frozen=True, slots=True)
class Trip:
    """A tripwire's word: this class had its threshold within 100 ms."""

    at_ns: int
    slot: int
    direction: Direction
    traffic: TrafficClass
    count: int


class DataPlaneReader:
    """Reads ports, counters, peers and events. ``OSError`` means that the maps cannot be read any more."""

    def __init__(self, fds: Mapping[str, int]) -> None:
        self._fds = dict(fds)
        self._cpus = _possible_cpus()
        self._max_ports = kernel.max_entries(self._fds["hv_counters"])
        self._ports = _Table(self._fds["hv_ports"], 4, ctypes.sizeof(layout.Port), self._max_ports)
        self._counters = _Table(self._fds["hv_counters"], 4, COUNTERS.itemsize * self._cpus, self._max_ports)
        self._peers = _Table(
            self._fds["hv_peers"], ctypes.sizeof(layout.PeerKey), ctypes.sizeof(layout.Peer), self._max_ports * 64
        )
        self._greeters = _Table(
            self._fds["hv_greeters"],
            ctypes.sizeof(layout.GreeterKey),
            ctypes.sizeof(layout.Greeter),
            kernel.max_entries(self._fds["hv_greeters"]),
        )
        self._crossings = _Table(self._fds["hv_crossings"], 4, CROSSINGS.itemsize * self._cpus, self._max_ports)
        self._leases = _Table(self._fds["hv_leases"], 4, LEASES.itemsize, self._max_ports)
        self._events = _Events(self._fds["hv_events"])

    def close(self) -> None:
        """Close the descriptors."""
        self._events.close()
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()

    @property
    def event_fd(self) -> int:
        """Readable when a tripwire spoke."""
        return self._fds["hv_events"]

    def ports(self) -> Records:
        """Attached ports: ``ifindex`` and ``port`` (slot, generation, mac, mode …)."""
        count, keys, values = self._ports.read()
        found = np.empty(count, PORTS)
        found["ifindex"] = np.frombuffer(keys, "<u4", count)
        found["port"] = np.frombuffer(values, np.dtype(layout.Port), count)
        return found

    def counters(self) -> Records:
        """Counters of every slot since it was attached, shape ``(max_ports,)``, summed over CPUs."""
        count, keys, values = self._counters.read()
        words = np.frombuffer(values, "<u8", count * self._cpus * (COUNTERS.itemsize // 8))
        summed = words.reshape(count, self._cpus, -1).sum(axis=1, dtype=np.uint64)
        out = np.zeros((self._max_ports, COUNTERS.itemsize // 8), np.uint64)
        out[np.frombuffer(keys, "<u4", count)] = summed
        return out.view(COUNTERS).reshape(self._max_ports)

    def leases(self) -> Records:
        """What DHCP gave each slot's port, ended or not, and what it lost or was refused: shape ``(max_ports,)``."""
        count, keys, values = self._leases.read()
        out = np.zeros(self._max_ports, LEASES)
        out[np.frombuffer(keys, "<u4", count)] = np.frombuffer(values, LEASES, count)
        return out

    def crossings(self) -> Records:
        """What each slot's port counted of who may reach whom, by CPU: shape ``(max_ports, cpus)``."""
        count, keys, values = self._crossings.read()
        out = np.zeros((self._max_ports, self._cpus), CROSSINGS)
        out[np.frombuffer(keys, "<u4", count)] = np.frombuffer(values, CROSSINGS, count * self._cpus).reshape(count, -1)
        return out

    def denied(self) -> npt.NDArray[np.uint64]:
        """Packets that were denied, summed over CPUs: shape ``(max_ports, directions * kinds)``, directions first."""
        found: npt.NDArray[np.uint64] = self.crossings()["denied"].sum(axis=1, dtype=np.uint64)
        return found.reshape(self._max_ports, -1)

    def peers(self) -> Records:
        """Everybody talked to: ``key`` (slot, direction, address) and ``peer`` (packets, octets, openings …)."""
        return _records(self._peers, PEERS, "peer")

    def greeters(self) -> Records:
        """Services that speak first: ``key`` (slot, direction, address, port), ``greeter`` (ended, curt, alike …)."""
        return _records(self._greeters, GREETERS, "greeter")

    def wait(self, timeout_s: float) -> list[Trip]:
        """Wait for tripwires at most so long; those that spoke since the last call."""
        select.select([self.event_fd], [], [], max(0.0, timeout_s))
        return self._events.take()


class _Table:
    """One map read in batches into buffers that are made once."""

    def __init__(self, fd: int, key_size: int, value_size: int, entries: int) -> None:
        self._fd = fd
        self._key_size = key_size
        self._value_size = value_size
        self._entries = entries
        self._keys = (ctypes.c_uint8 * (key_size * entries))()
        self._values = (ctypes.c_uint8 * (value_size * entries))()
        self._state = (ctypes.c_uint8 * max(64, key_size))()

    def read(self) -> tuple[int, memoryview, memoryview]:
        done, more = 0, True
        while more and done < self._entries:
            read, more = self._step(done, min(self._entries - done, _CHUNK), first=done == 0)
            done += read
            if not read:
                break
        return done, memoryview(self._keys), memoryview(self._values)

    def _step(self, done: int, room: int, *, first: bool) -> tuple[int, bool]:
        keys = ctypes.addressof(self._keys) + done * self._key_size
        values = ctypes.addressof(self._values) + done * self._value_size
        return kernel.read_batch(self._fd, keys, values, room, self._state, first=first)


class _Events:
    """The ring buffer's consumer side (kernel: Documentation/bpf/ringbuf.rst)."""

    def __init__(self, fd: int) -> None:
        size = kernel.max_entries(fd)
        self._mask = size - 1
        self._consumer = mmap.mmap(fd, _PAGE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._producer = mmap.mmap(fd, _PAGE + 2 * size, mmap.MAP_SHARED, mmap.PROT_READ, offset=_PAGE)

    def take(self) -> list[Trip]:
        trips = []
        (at,) = struct.unpack_from("<Q", self._consumer, 0)
        (end,) = struct.unpack_from("<Q", self._producer, 0)
        while at < end:
            where = _PAGE + (at & self._mask)
            (header,) = struct.unpack_from("<I", self._producer, where)
            if header & _BUSY:
                break
            if not header & _DISCARD:
                event = layout.Event.from_buffer_copy(
                    self._producer[where + 8 : where + 8 + ctypes.sizeof(layout.Event)]
                )
                if event.direction < len(Direction) and event.traffic < len(TrafficClass):
                    trips.append(
                        Trip(
                            event.at_ns,
                            event.slot,
                            Direction(event.direction),
                            TrafficClass(event.traffic),
                            event.count,
                        )
                    )
            at += (8 + (header & _LENGTH) + 7) & ~7
        struct.pack_into("<Q", self._consumer, 0, at)
        return trips

    def close(self) -> None:
        self._consumer.close()
        self._producer.close()


def _records(table: _Table, kind: np.dtype[np.void], value: str) -> Records:
    """All entries of a table: ``key``, and the field that is called ``value``."""
    count, keys, values = table.read()
    found = np.empty(count, kind)
    for field, raw in (("key", keys), (value, values)):
        found[field] = np.frombuffer(raw, kind[field], count)
    return found


def _possible_cpus() -> int:
    with open("/sys/devices/system/cpu/possible", encoding="ascii") as possible:  # noqa: PTH123
        return int(possible.read().strip().split("-")[-1].split(",")[-1]) + 1
