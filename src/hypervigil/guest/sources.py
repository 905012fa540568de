"""Where the agent looks: the kernel's files, its socket dumps, sampled headers, other processes. Thin, no judgement."""

from __future__ import annotations

import posix
from _socket import htons, if_nametoindex, socket
from struct import pack, unpack

from hypervigil.guest.sockets import Sockets, question
from hypervigil.guest.vsem import frames
from hypervigil.guest.vsem.special import Setup
from hypervigil.guest.vsem.transmitters import Owner

FILES = ("stat", "meminfo", "diskstats", "interrupts", "vmstat", "net/dev", "net/snmp", "net/snmp6")
SELDOM = ("net/netstat",)
_CHUNK = 16_384
_WHOLE_FILE = 1 << 20
_AF_NETLINK, _AF_PACKET, _SOCK_RAW, _SOCK_DIAG = 16, 17, 3, 4
_SOL_SOCKET, _SO_RCVBUF, _SO_RCVTIMEO, _SO_ATTACH_FILTER = 1, 8, 20, 26
_PATIENCE_US = 200_000
_SOL_PACKET, _PACKET_STATISTICS = 263, 6
_EVERYTHING = 3  # ETH_P_ALL
_DUMP_READS = 8
SAMPLED = 50
"""Headers read per second and direction."""
_WEIGHT_MAX = 1 << 20
_SAMPLE_OCTETS = 32_768
_PIDS_A_SECOND = 96
_LINKS_A_PID = 256
_PROMISCUOUS = 0x100
_NICS = 8


def read_file(path: str) -> bytes | None:
    """A small file, or nothing."""
    try:
        fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        return None
    try:
        return posix.read(fd, _CHUNK)
    except OSError:
        return None
    finally:
        posix.close(fd)


def names(path: str) -> list[str]:
    """What lies in a directory; nothing when it cannot be read."""
    try:
        return posix.listdir(path)
    except OSError:
        return []


class Files:
    """Files of ``/proc`` that are read again and again, kept open."""

    def __init__(self) -> None:
        self._fds: dict[str, int] = {}
        self.missing: list[str] = []
        for name in FILES + SELDOM:
            try:
                self._fds[name] = posix.open("/proc/" + name, posix.O_RDONLY | posix.O_CLOEXEC)
            except OSError:
                self.missing.append(name)

    def read(self) -> dict[str, bytes]:
        """All that are read each second, as they are now; what is missing is empty."""
        return {name: self.one(name) for name in FILES}

    def one(self, name: str) -> bytes:
        """One of them."""
        text = b""
        try:
            while len(text) < _WHOLE_FILE:
                chunk = posix.pread(self._fds[name], _CHUNK, len(text))
                if not chunk:
                    break
                text += chunk
        except (OSError, KeyError):
            return b""
        return text

    def close(self) -> None:
        """Read no more."""
        for fd in self._fds.values():
            posix.close(fd)
        self._fds.clear()


class SocketDump:
    """TCP sockets by netlink."""

    def __init__(self) -> None:
        self._link: socket | None = None
        self.missing = False

    def read(self, *, with_info: bool) -> Sockets | None:
        """The sockets now, or nothing."""
        found = Sockets()
        try:
            link = self._open()
            link.send(question(with_info=with_info))
            for _ in range(_DUMP_READS):
                if not found.read(link.recv(2 * _CHUNK)):
                    break
            if not found.whole:
                self.close()  # what is left of a long dump would be taken for the next one
        except OSError:
            self.close()
            self.missing = True
            return None
        self.missing = False
        return found

    def _open(self) -> socket:
        if self._link is None:
            self._link = socket(_AF_NETLINK, _SOCK_RAW, _SOCK_DIAG)
            self._link.setsockopt(_SOL_SOCKET, _SO_RCVTIMEO, pack("ll", 0, _PATIENCE_US))
        return self._link

    def close(self) -> None:
        """Let go of it; the next look opens it again."""
        if self._link is not None:
            self._link.close()
            self._link = None


class Sample:
    """Headers of one direction since the last look. ``seen`` passed the filter, each for ``weight`` frames."""

    __slots__ = ("frames", "seen", "weight")

    def __init__(self, found: list[bytes], seen: int, weight: int) -> None:
        self.frames = found
        self.seen = max(len(found), seen)
        self.weight = weight

    def total(self, counted: int | None) -> int:
        """How many frames these stand for: as many as the NICs counted, unless none was left out.

        Where the NICs counted less than half of what was estimated, they did not count what was tried in vain.
        """
        read, estimate = len(self.frames), self.seen * self.weight
        if estimate == read or counted is None or 2 * counted < estimate:
            return estimate
        return max(read, counted)

    def weights(self, total: int) -> list[int]:
        """For how many frames each header stands, ``total`` together."""
        read = len(self.frames)
        shares = [total * place // read for place in range(read + 1)] if read else [0]
        return [after - before for before, after in zip(shares, shares[1:])]


class Headers:
    """Sampled headers of one direction, behind a filter in the kernel."""

    def __init__(self, way: int) -> None:
        self._way = way
        self._link: socket | None = None
        self._weight = 1
        self._interfaces: list[int] = []
        self.missing = False

    def read(self, interfaces: list[int]) -> Sample:
        """What passed these NICs since the last call."""
        if not interfaces:
            self.close()
            return Sample([], 0, 1)
        try:
            if self._link is None or interfaces != self._interfaces:
                self._link = self._open(interfaces)
            self.missing = False
            return self._read(self._link)
        except OSError:
            self.close()
            self.missing = True
            return Sample([], 0, 1)

    def _open(self, interfaces: list[int]) -> socket:
        self.close()
        self._interfaces = list(interfaces)
        link = socket(_AF_PACKET, _SOCK_RAW, htons(_EVERYTHING))
        link.setblocking(False)
        link.setsockopt(_SOL_SOCKET, _SO_RCVBUF, _SAMPLE_OCTETS)
        self._attach(link)
        return link

    def _attach(self, link: socket) -> None:
        program = frames.sampling_filter(self._way, self._weight, self._interfaces)
        # The kernel wants to know where the program lies. ``ctypes`` and ``array`` can tell, for a megabyte; CPython
        # keeps the content of ``bytes`` at the end of the object, and the kernel checks what it finds there.
        address = id(program) + bytes.__basicsize__ - 1
        link.setsockopt(_SOL_SOCKET, _SO_ATTACH_FILTER, pack("HP", len(program) // 8, address))
        try:
            for _ in range(4 * SAMPLED):
                link.recv(1)  # what passed before
        except BlockingIOError:
            pass
        link.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)

    def _read(self, link: socket) -> Sample:
        found: list[bytes] = []
        try:
            while len(found) < SAMPLED:
                found.append(link.recv(frames.SNAP))
        except BlockingIOError:
            pass
        passed = unpack("II", link.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))[0]
        sample = Sample(found, passed, self._weight)
        self._adapt(link, sample.seen)
        return sample

    def _adapt(self, link: socket, seen: int) -> None:
        """So that the next second passes about as many as are read. What waits unread was counted, and goes."""
        wanted = self._weight
        while seen > SAMPLED and wanted < _WEIGHT_MAX:
            seen, wanted = seen // 2, wanted * 2
        while seen < SAMPLED // 4 and wanted > 1:
            seen, wanted = max(1, seen * 2), wanted // 2
        if wanted != self._weight:
            self._weight = wanted
            self._attach(link)

    def close(self) -> None:
        """Hear no more."""
        if self._link is not None:
            self._link.close()
            self._link = None


class Processes:
    """Which process owns which sockets, a part of all processes at a time."""

    def __init__(self) -> None:
        self._next = 0

    def look(self, raw_inodes: frozenset[int]) -> tuple[list[Owner], frozenset[int]]:
        """Some processes with their sockets, and the pids among those looked at that have none."""
        pids = sorted([int(name) for name in names("/proc") if name.isdigit()])
        later = [pid for pid in pids if pid > self._next]
        part = (later or pids)[:_PIDS_A_SECOND]
        self._next = part[-1] if part else 0
        owners = [owner for owner in [self._owner(pid, raw_inodes) for pid in part] if owner is not None]
        return owners, frozenset(part) - frozenset([owner.pid for owner in owners])

    def _owner(self, pid: int, raw_inodes: frozenset[int]) -> Owner | None:
        place = "/proc/%d/" % pid  # noqa: UP031 - measured: the fastest
        inodes = _socket_inodes(place)
        if not inodes:
            return None
        name = (read_file(place + "comm") or b"").decode("ascii", "replace").strip()
        return Owner(pid, name, inodes, len(raw_inodes & inodes))


def _socket_inodes(place: str) -> frozenset[int]:
    """Of the process whose directory this is."""
    found = []
    for name in names(place + "fd")[:_LINKS_A_PID]:
        try:
            link = posix.readlink(place + "fd/" + name)
        except OSError:
            continue
        if link.startswith("socket:["):
            found.append(int(link[8:-1]))
    return frozenset(found)


def raw_sockets() -> frozenset[int] | None:
    """Inodes of all raw and packet sockets but the agent's own."""
    found = set()
    readable = False
    for name, column in (("raw", 9), ("raw6", 9), ("packet", 8)):
        text = read_file("/proc/net/" + name)
        if text is None:
            continue
        readable = True
        for line in text.split(b"\n")[1:]:
            fields = line.split()
            if len(fields) > column and fields[column].isdigit():
                found.add(int(fields[column]))
    return frozenset(found - _socket_inodes("/proc/self/")) if readable else None


def setup(nics: list[str], clock_ms: int, raw: frozenset[int] | None) -> Setup:
    """What the guest loads and allows now."""
    flags = [(nic, read_file("/sys/class/net/" + nic + "/flags")) for nic in nics]
    modules = names("/sys/module")
    forwarding = read_file("/proc/sys/net/ipv4/ip_forward")
    return Setup(
        clock_ms,
        promiscuous=frozenset([nic for nic, text in flags if text is not None and int(text, 16) & _PROMISCUOUS]),
        modules=frozenset(modules) if modules else None,
        raw_sockets=len(raw) if raw is not None else None,
        forwarding=forwarding.strip() == b"1" if forwarding is not None else None,
    )


class Nics:
    """Which NICs lead out of the guest: those with a device behind them, or all where none has (a container)."""

    def __init__(self) -> None:
        self._known: frozenset[str] = frozenset()
        self.real: frozenset[str] = frozenset()
        self.indices: list[int] = []

    def update(self, found: frozenset[str]) -> None:
        """These are there now; loopback is not among them."""
        if found == self._known:
            return
        self._known = found
        self.real = frozenset([nic for nic in found if "device" in names("/sys/class/net/" + nic)]) or found
        self.indices = []
        for nic in sorted(self.real)[:_NICS]:
            try:
                self.indices.append(if_nametoindex(nic))
            except OSError:
                continue  # gone again
