"""One port: what it counts, and what its limits let through (``handle`` in ``bpf/hypervigil.bpf.c``)."""

from collections import deque
from dataclasses import dataclass, field
from enum import Enum

from hypervigil.hypervisor.adapters.ebpf import layout
from hypervigil.hypervisor.adapters.ebpf.dataplane import Gate
from hypervigil.hypervisor.adapters.ebpf.reader import Trip
from hypervigil.hypervisor.reference.bucket import NO_RATE, Bucket, Rate
from hypervigil.hypervisor.reference.dialogues import Dialogues
from hypervigil.hypervisor.reference.fabric import Denial, Fabric
from hypervigil.hypervisor.reference.frame import ICMP, ICMPV6, Frame
from hypervigil.hypervisor.reference.identity import Identity, link_local
from hypervigil.hypervisor.reference.leases import ACK, DECLINE, RELEASE, Leases, answered, mapped, of_dhcp
from hypervigil.hypervisor.reference.leases import asked as asked_for
from hypervigil.hypervisor.reference.neighbours import Neighbours
from hypervigil.hypervisor.reference.peers import Peers, remember
from hypervigil.hypervisor.reference.proof import Asked, asked
from hypervigil.model.traffic import Direction, TrafficClass

WINDOW_NS = 100_000_000
MAX_EVENTS = 2047
"""Events that the ring buffer holds."""

Place = tuple[Direction, TrafficClass | None]
"""A class in a direction; ``None`` is all classes together."""


@dataclass(slots=True)
class Source:
    """The limit of one source."""

    rate: Rate
    bucket: Bucket = field(default_factory=Bucket)


@dataclass(slots=True)
class Slot:
    """What stays when a port goes: the next port of the slot counts on."""

    number: int
    counters: layout.Counters
    rates: dict[Place, Rate] = field(default_factory=dict)
    new_destinations: Rate = NO_RATE
    gate: Gate = Gate.OPEN
    gate_end_ns: int = 0
    proof_end_ns: int = 0
    buckets: dict[Place, Bucket] = field(default_factory=dict)
    fresh_bucket: Bucket = field(default_factory=Bucket)
    tripwires: dict[Place, int] = field(default_factory=dict)
    windows: dict[Place, tuple[int, int]] = field(default_factory=dict)
    """Number of the 100 ms, and packets in it."""
    sources: dict[bytes, Source] = field(default_factory=dict)
    cells: tuple[tuple[layout.ClassCounters, ...], ...] = ()
    """The counters of each class in each direction."""

    @property
    def limited(self) -> bool:
        """Whether there is any limit, in force or not."""
        limits = self.rates or self.sources or self.gate is not Gate.OPEN or self.proof_end_ns
        return bool(limits) or self.new_destinations is not NO_RATE

    def __post_init__(self) -> None:
        self.cells = tuple(tuple(self.counters.by_class[way][traffic] for traffic in TrafficClass) for way in Direction)

    def clear(self) -> None:
        """No limit, no tripwire, no limited source."""
        self.rates.clear()
        self.new_destinations, self.gate, self.gate_end_ns, self.proof_end_ns = NO_RATE, Gate.OPEN, 0, 0
        self.tripwires.clear()
        self.sources.clear()


class Handover(Enum):
    """What the program at the sender's port has done already for the one at the receiver's."""

    NOTHING = 0
    DECIDED = 1
    DONE = 2
    """It has decided and counted."""


class Told(Enum):
    """What the host's firewall is told of a frame that goes on by way of the bridge or the host."""

    NOTHING = 0
    PASSED = 1
    ELSEWHERE = 2
    """It passed, and is for nobody on the host itself."""


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of a frame."""

    passes: bool
    device: int = 0
    """It goes straight to this one; 0: on to the bridge."""
    handover: Handover = Handover.NOTHING
    told: Told = Told.NOTHING


_PASSES, _DROPPED = Fate(passes=True), Fate(passes=False)


@dataclass(slots=True)
class Memory:
    """What all ports of a host share."""

    slots: list[Slot]
    peers: Peers
    dialogues: Dialogues
    events: deque[Trip]
    fabric: Fabric
    neighbours: Neighbours
    leases: Leases

    def count(self, slot: Slot, direction: Direction, frame: Frame, now: int) -> None:
        """Count a frame, whatever becomes of it."""
        cell = slot.cells[direction][frame.traffic]
        cell.packets += frame.packets
        cell.octets += frame.octets
        self._trip(slot, direction, frame, now)

    def note(self, slot: Slot, direction: Direction, frame: Frame, now: int) -> bool:
        """Signs of failure, and who is talked to; whether that is somebody to whom no frame was let through yet."""
        counters = slot.counters
        if direction is Direction.IN and (frame.traffic is TrafficClass.RST or _unreachable(frame)):
            counters.failures += 1
        if direction is Direction.OUT and frame.multicast and frame.traffic is not TrafficClass.ARP:
            return False
        fresh, stranger = remember(self.peers, self.dialogues, (slot.number, counters), direction, frame, now=now)
        if fresh:
            counters.peers_created += 1
            if direction is Direction.OUT:
                counters.new_destinations += 1
        return stranger

    def _trip(self, slot: Slot, direction: Direction, frame: Frame, now: int) -> None:
        place = (direction, frame.traffic)
        threshold = slot.tripwires.get(place, 0)
        if not threshold:
            return
        window = now // WINDOW_NS
        number, before = slot.windows.get(place, (0, 0))
        before = before if number == window else 0
        after = before + frame.packets
        slot.windows[place] = (window, after)
        if before >= threshold or after < threshold:
            return
        if len(self.events) >= MAX_EVENTS:
            slot.counters.events_lost += 1
            return
        self.events.append(Trip(now, slot.number, direction, frame.traffic, after))


@dataclass(slots=True)
class Port:
    """A port with its identity and its slot."""

    slot: Slot
    identity: Identity
    enforce: bool
    allows: frozenset[bytes]
    """Who may be talked to in quarantine."""
    segment: int
    """Where its link-local addresses mean it."""
    memory: Memory

    def handle(self, direction: Direction, frame: Frame, now: int, handover: Handover = Handover.NOTHING) -> Fate:
        """Count a frame, and what becomes of it."""
        slot = self.slot
        self.memory.count(slot, direction, frame, now)
        if direction is Direction.OUT:
            kind = self.identity.forgery(
                frame, lambda address: self._owns(address, now), lambda address: self._leased(address, now), self._asks
            )
            if kind is not None:
                slot.counters.forged[kind] += 1
                if self.enforce:
                    return _DROPPED
        elif handover is Handover.NOTHING and frame.advertises_routes and link_local(frame.source):
            self.memory.neighbours.heed_router((self.segment, frame.source), now)
        proof = Asked.NOTHING
        if direction is Direction.IN and slot.proof_end_ns > now:
            proof = asked(self.identity, frame)
            frame.unproven = proof is not Asked.NOTHING
        stranger = self.memory.note(slot, direction, frame, now) if frame.readable else False
        if slot.limited and self._limited(direction, frame, now, stranger=stranger):
            slot.cells[direction][frame.traffic].limited += frame.packets
            if self.enforce:
                return _DROPPED
        fate = _PASSES if handover is not Handover.NOTHING else self._cross(direction, frame, now)
        if stranger and fate.passes:
            peer = self.memory.peers.find((slot.number, Direction.OUT, frame.destination))
            if peer is not None:
                peer.admitted = 1
        if direction is Direction.IN and frame.readable and fate.passes:
            self._heed_answer(frame, now)
        return _DROPPED if frame.unproven and fate.passes and self._withheld(frame, proof) else fate

    def _owns(self, address: bytes, now: int) -> bool:
        routes = self.identity.may_advertise_routes
        return self.memory.neighbours.owns(self.slot.number, (self.segment, address), now, routes=routes)

    def _others(self, address: bytes, now: int) -> bool:
        routes = self.identity.may_advertise_routes
        return self.memory.neighbours.others(self.slot.number, (self.segment, address), now, routes=routes)

    def _leased(self, address: bytes, now: int) -> bool:
        identity = self.identity
        free = identity.leasing is not None and identity.leasing.free and not identity.addresses
        return self.memory.leases.gives(self.slot.number, (self.segment, address), now, free=free)

    def _asks(self, frame: Frame) -> bool:
        """Whether a request is understood, and in the port's own name. What it gives back is its own no more."""
        said = asked_for(frame, self.identity.mac)
        if said is not None and said.kind in {RELEASE, DECLINE}:
            address = said.own if said.kind == RELEASE else said.requested
            self.memory.leases.give_back(self.slot.number, (self.segment, mapped(address)))
        return said is not None

    def _heed_answer(self, frame: Frame, now: int) -> None:
        """A trusted server may give the port an address."""
        leasing, number = self.identity.leasing, self.slot.number
        if leasing is None or frame.vlan or not of_dhcp(frame, Direction.IN) or frame.source_mac not in leasing.servers:
            return
        said = answered(frame, self.identity.mac)
        if said is None or said.kind != ACK or not said.lease_s:
            return
        if leasing.may_give(said.yours):
            self.memory.leases.give(number, (self.segment, mapped(said.yours)), said.lease_s, now)
        else:
            self.memory.leases.refuse(number)

    def _withheld(self, frame: Frame, proof: Asked) -> bool:
        """Whether a frame is kept from its port since its source has not proven its address; it is counted."""
        self.slot.cells[Direction.IN][frame.traffic].limited += frame.packets
        if self.enforce and proof is Asked.ANSWER:
            self.slot.counters.answered += 1
        return self.enforce

    def _cross(self, direction: Direction, frame: Frame, now: int) -> Fate:
        """Whether the network policy lets it pass, and past the bridge."""
        number, fabric = self.slot.number, self.memory.fabric
        flooded = direction is Direction.IN and self.identity.none_of_its_business(
            frame, lambda address: self._others(address, now), lambda address: self._leased(address, now)
        )
        way = fabric.cross(number, direction, frame, now, flooded=flooded)
        if self.enforce and isinstance(way, Denial):
            return _DROPPED
        seat = fabric.directory.seats.get(number)
        if direction is Direction.IN or seat is None:
            return _PASSES
        if isinstance(way, Denial) or not self.enforce or seat.perimeter is None:
            return Fate(passes=True, told=Told.PASSED if seat.routed else Told.NOTHING)
        if not way.device or seat.routed:
            told = Told.ELSEWHERE if way.elsewhere else Told.PASSED if seat.routed else Told.NOTHING
            return Fate(passes=True, told=told)
        fabric.crossings[number].straight += frame.packets
        receiver = self.memory.slots[way.slot]
        if receiver.limited or of_dhcp(frame, Direction.IN):  # what it is given its own port has to see
            return Fate(passes=True, device=way.device, handover=Handover.DECIDED)
        self.memory.count(receiver, Direction.IN, frame, now)
        self.memory.note(receiver, Direction.IN, frame, now)
        return Fate(passes=True, device=way.device, handover=Handover.DONE)

    def _limited(self, direction: Direction, frame: Frame, now: int, *, stranger: bool) -> bool:
        """Whether a limit on the port, or one on the frame's source, stops it."""
        return (
            self._gated(direction, frame, now)
            or self._beyond_limits(direction, frame, now, stranger=stranger)
            or (direction is Direction.IN and self._beyond_source(frame, now))
        )

    def _gated(self, direction: Direction, frame: Frame, now: int) -> bool:
        slot = self.slot
        if slot.gate is Gate.OPEN or slot.gate_end_ns <= now:
            return False
        other = frame.destination if direction is Direction.OUT else frame.source
        return slot.gate is Gate.ISOLATE or other not in self.allows

    def _beyond_limits(self, direction: Direction, frame: Frame, now: int, *, stranger: bool) -> bool:
        slot = self.slot
        chosen: list[tuple[Rate, Bucket, int]] = []
        for place in ((direction, frame.traffic), (direction, None)):
            rate = slot.rates.get(place)
            if rate is not None and rate.in_force(now):
                chosen.append((rate, slot.buckets.setdefault(place, Bucket()), frame.packets))
        if stranger and slot.new_destinations.in_force(now):
            chosen.append((slot.new_destinations, slot.fresh_bucket, 1))
        for rate, bucket, _ in chosen:
            bucket.refill(rate, now)
        if not all(bucket.covers(rate) for rate, bucket, _ in chosen):
            return True
        for rate, bucket, packets in chosen:
            bucket.spend(rate, packets, 0 if bucket is slot.fresh_bucket else frame.octets)
        return False

    def _beyond_source(self, frame: Frame, now: int) -> bool:
        source = self.slot.sources.get(frame.source)
        if source is None or source.rate.end_ns <= now:
            return False
        source.bucket.refill(source.rate, now)
        if not source.rate.packets_per_s_x1000 or source.bucket.packets < 1_000_000:
            return True
        source.bucket.packets -= frame.packets * 1_000_000
        return False


def _unreachable(frame: Frame) -> bool:
    return frame.traffic is TrafficClass.ICMP and (frame.protocol, frame.icmp_type) in {(ICMP, 3), (ICMPV6, 1)}
