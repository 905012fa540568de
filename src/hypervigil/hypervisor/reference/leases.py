"""Addresses that DHCP gives ports (``bpf/leases.h``). Pure."""

from dataclasses import dataclass, field

from hypervigil.hypervisor.adapters.ebpf import layout
from hypervigil.hypervisor.reference.frame import ETH_HLEN, IPV4, UDP, V4_MAPPED, Frame
from hypervigil.hypervisor.reference.neighbours import Holder, Neighbours, Place
from hypervigil.model.traffic import Direction

MAX_OPTIONS = 64
CLIENT, SERVER = 68, 67
DECLINE, ACK, RELEASE = 4, 5, 7
_ASKS, _ANSWERS = 1, 2
_COOKIE = bytes((99, 130, 83, 99))
_OPTIONS = 240
_END, _PAD = 255, 0
_REQUESTED, _LEASE, _MESSAGE = 50, 51, 53
_LENGTHS = {_REQUESTED: 4, _LEASE: 4, _MESSAGE: 1}
_SECOND_NS = 1_000_000_000
_TICK_SHIFT = 30


@dataclass(frozen=True, slots=True)
class Message:
    """What is read of a message of DHCP."""

    kind: int
    own: bytes
    """The address that the client has."""
    yours: bytes
    """The address that it is given."""
    requested: bytes
    lease_s: int


@dataclass(frozen=True, slots=True)
class Leasing:
    """Whose word about a port's addresses is taken."""

    servers: frozenset[bytes]
    free: bool = False
    """Until they give the port an address, where it has none, it may use what is nobody else's."""
    within: bytes = bytes(4)
    mask: bytes = bytes(4)

    def may_give(self, address: bytes) -> bool:
        """Whether an IPv4 address is in the network's range, and one host's."""
        if not address[0] or address[0] == 127 or address[0] >= 224:
            return False
        return all(not (a ^ b) & m for a, b, m in zip(address, self.within, self.mask, strict=True))


@dataclass(slots=True)
class Lease:
    """Who may use an address until when; 0: it is over."""

    address: bytes = bytes(16)
    at_ns: int = 0
    end_ns: int = 0


@dataclass(slots=True)
class Held:
    """One slot's leases, and what became of others."""

    leases: list[Lease] = field(default_factory=lambda: [Lease() for _ in range(layout.LEASES)])
    evicted: int = 0
    refused: int = 0

    def running(self, address: bytes, now: int) -> bool:
        """Whether one of them gives the address."""
        return any(lease.end_ns > now and lease.address == address for lease in self.leases)


@dataclass(slots=True)
class Leases:
    """Those of all ports of a host."""

    neighbours: Neighbours
    held: dict[int, Held] = field(default_factory=dict)

    def gives(self, slot: int, place: Place, now: int, *, free: bool) -> bool:
        """Whether a lease of the port gives it an address, and it is still its own; ``free``: or it has none at all."""
        held = self.held.get(slot, Held())
        holder = self.neighbours.holders.get(place)
        if held.running(place[1], now):
            return holder is not None and holder.slot == slot
        if not free or any(lease.end_ns > now for lease in held.leases):
            return False
        return holder is None or holder.slot == slot or (bool(holder.tick) and not self._runs(holder.slot, place, now))

    def give(self, slot: int, place: Place, lease_s: int, now: int) -> None:
        """A server gives an address; what another holds it cannot give, and what is the port's own it need not."""
        held = self.held.setdefault(slot, Held())
        holder = self.neighbours.holders.get(place)
        if holder is not None and holder.slot == slot and not holder.tick:
            return
        another = holder is not None and holder.slot != slot
        if holder is not None and another and (not holder.tick or self._runs(holder.slot, place, now)):
            held.refused += 1
            return
        known = [lease for lease in held.leases if lease.end_ns and lease.address == place[1]]
        lease = known[0] if known else min(held.leases, key=lambda one: one.at_ns if one.end_ns > now else -1)
        if not known:
            held.evicted += lease.end_ns > now
            self._end(slot, lease, place[0])
        self.neighbours.holders[place] = Holder(slot, (now >> _TICK_SHIFT) + 1)
        lease.address, lease.at_ns, lease.end_ns = place[1], now, now + lease_s * _SECOND_NS

    def give_back(self, slot: int, place: Place) -> None:
        """The port has no use for an address any more."""
        for lease in self.held.get(slot, Held()).leases:
            if lease.end_ns and lease.address == place[1]:
                self._end(slot, lease, place[0])

    def refuse(self, slot: int) -> None:
        """A server gives what it may not."""
        self.held.setdefault(slot, Held()).refused += 1

    def free(self, slot: int, segment: int) -> None:
        """The port is gone, or elsewhere."""
        for lease in self.held.pop(slot, Held()).leases:
            self._end(slot, lease, segment)

    def _runs(self, slot: int, place: Place, now: int) -> bool:
        return self.held.get(slot, Held()).running(place[1], now)

    def _end(self, slot: int, lease: Lease, segment: int) -> None:
        lease.end_ns = 0
        holder = self.neighbours.holders.get((segment, lease.address))
        if holder is not None and holder.slot == slot and holder.tick:
            del self.neighbours.holders[segment, lease.address]


def of_dhcp(frame: Frame, direction: Direction) -> bool:
    """Whether a frame may be a client's message to a server, or the answer to one."""
    if frame.protocol != UDP or frame.ethertype != IPV4 or not frame.l4:
        return False
    if direction is Direction.OUT:
        return frame.destination_port == SERVER
    return (frame.source_port, frame.destination_port) == (SERVER, CLIENT)


def asked(frame: Frame, mac: bytes) -> Message | None:
    """What a client asks in the name of this MAC; ``None`` where its server may read another thing, or nothing."""
    return _read(frame, mac, _ASKS)


def answered(frame: Frame, mac: bytes) -> Message | None:
    """What a server answers who has this MAC; ``None`` where it is another's, or says nothing."""
    return _read(frame, mac, _ANSWERS)


def mapped(address: bytes) -> bytes:
    """An IPv4 address as 16 bytes."""
    return V4_MAPPED + address


def _read(frame: Frame, mac: bytes, operation: int) -> Message | None:
    head = frame.load(frame.l4 + 8, 34) if frame.l4 and not frame.fragment and not frame.gso_size else None
    if head is None or head[:3] != bytes((operation, 1, 6)) or head[28:] != mac:
        return None
    said = _options(frame)
    if said is None or not any(said.get(_MESSAGE, b"\0")):
        return None
    lease_s = int.from_bytes(said.get(_LEASE, b""))
    return Message(said[_MESSAGE][0], head[12:16], head[16:20], said.get(_REQUESTED, bytes(4)), lease_s)


def _options(frame: Frame) -> dict[int, bytes] | None:
    """What it says in its options, of those that are looked at; ``None`` where that may be read in two ways."""
    total, size = frame.load(ETH_HLEN + 2, 2), frame.load(frame.l4 + 4, 2)
    if total is None or size is None:
        return None
    length = int.from_bytes(size)
    end, at = frame.l4 + length, frame.l4 + 8 + _OPTIONS
    if length < 8 + _OPTIONS or end > min(ETH_HLEN + int.from_bytes(total), frame.length):
        return None
    if frame.load(at - 4, 4) != _COOKIE:
        return None
    said: dict[int, bytes] = {}
    for _ in range(MAX_OPTIONS):
        option = frame.load(at, 1) if at < end else None
        if option is None:
            return None
        if option[0] == _END:
            return said
        if option[0] == _PAD:
            at += 1
            continue
        head = frame.load(at, 2)
        if head is None or at + 2 + head[1] > end:
            return None
        if head[0] in _LENGTHS:
            value = frame.load(at + 2, head[1])
            if head[0] in said or head[1] != _LENGTHS[head[0]] or value is None:
                return None
            said[head[0]] = value
        at += 2 + head[1]
    return None
