"""One port: what it counts, and what its limits let through (``handle`` in ``bpf/hypervigil.bpf.c``)."""

from collections import deque
from dataclasses import dataclass, field

from hypervigil.hypervisor.adapters.ebpf import layout
from hypervigil.hypervisor.adapters.ebpf.dataplane import Gate
from hypervigil.hypervisor.adapters.ebpf.reader import Trip
from hypervigil.hypervisor.reference.bucket import Bucket, Rate
from hypervigil.hypervisor.reference.frame import ICMP, ICMPV6, Frame
from hypervigil.hypervisor.reference.identity import Identity, link_local
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
    new_destinations: Rate = field(default_factory=Rate)
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

    def __post_init__(self) -> None:
        self.cells = tuple(tuple(self.counters.by_class[way][traffic] for traffic in TrafficClass) for way in Direction)

    def clear(self) -> None:
        """No limit, no tripwire, no limited source."""
        self.rates.clear()
        self.new_destinations, self.gate, self.gate_end_ns, self.proof_end_ns = Rate(), Gate.OPEN, 0, 0
        self.tripwires.clear()
        self.sources.clear()


@dataclass(slots=True)
class Port:
    """A port with its identity and its slot."""

    slot: Slot
    identity: Identity
    enforce: bool
    allows: frozenset[bytes]
    """Who may be talked to in quarantine."""
    peers: Peers
    events: deque[Trip]
    neighbours: Neighbours
    segment: int

    def handle(self, direction: Direction, frame: Frame, now: int) -> bool:
        """Count a frame, and whether it passes."""
        slot, counters = self.slot, self.slot.counters
        cell = slot.cells[direction][frame.traffic]
        cell.packets += frame.packets
        cell.octets += frame.octets
        self._trip(direction, frame, now)
        if direction is Direction.OUT:
            kind = self.identity.forgery(frame, lambda address: self._owns(address, now))
            if kind is not None:
                counters.forged[kind] += 1
                if self.enforce:
                    return False
        elif frame.traffic is TrafficClass.RST or _unreachable(frame):
            counters.failures += 1
        if direction is Direction.IN and frame.advertises_routes and link_local(frame.source):
            self.neighbours.heed_router((self.segment, frame.source), now)
        stranger = self._remember(direction, frame, now) if frame.readable else False
        if (
            self._gated(direction, frame, now)
            or self._beyond_limits(direction, frame, now, stranger=stranger)
            or (direction is Direction.IN and self._beyond_source(frame, now))
        ):
            cell.limited += frame.packets
            if self.enforce:
                return False
        if stranger:
            peer = self.peers.find((slot.number, Direction.OUT, frame.destination))
            if peer is not None:
                peer.admitted = 1
        return direction is Direction.OUT or not self._withheld(frame, cell, now)

    def _withheld(self, frame: Frame, cell: layout.ClassCounters, now: int) -> bool:
        """Whether a frame is kept from its port since its source has not proven its address."""
        found = asked(self.identity, frame) if self.slot.proof_end_ns > now else Asked.NOTHING
        if found is Asked.NOTHING:
            return False
        cell.limited += frame.packets
        if self.enforce and found is Asked.ANSWER:
            self.slot.counters.answered += 1
        return self.enforce

    def _owns(self, address: bytes, now: int) -> bool:
        routes = self.identity.may_advertise_routes
        return self.neighbours.owns(self.slot.number, (self.segment, address), now, routes=routes)

    def _remember(self, direction: Direction, frame: Frame, now: int) -> bool:
        """Whether the frame goes to somebody to whom none was let through yet."""
        if direction is Direction.OUT and frame.multicast and frame.traffic is not TrafficClass.ARP:
            return False
        fresh, stranger = remember(self.peers, self.slot.number, direction, frame, now)
        if fresh:
            self.slot.counters.peers_created += 1
            if direction is Direction.OUT:
                self.slot.counters.new_destinations += 1
        return stranger

    def _trip(self, direction: Direction, frame: Frame, now: int) -> None:
        slot, place = self.slot, (direction, frame.traffic)
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
