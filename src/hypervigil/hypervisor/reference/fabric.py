"""Who may reach whom, frame by frame (``cross`` and ``mediate`` in ``bpf/fabric.h``).

A frame passes when its sender's perimeter was granted its service at the receiver's, or when it answers such a frame.
Specified by decision 0012 and ``network.decide``; what the kernel's programs keep to be quick is not here. Pure.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum

from hypervigil.hypervisor.adapters.ebpf import layout
from hypervigil.hypervisor.reference.bucket import Bucket, Rate
from hypervigil.hypervisor.reference.conversations import Key, conversation, fragments
from hypervigil.hypervisor.reference.directory import NONE, Directory, Granted, Seat, gateway
from hypervigil.hypervisor.reference.frame import ARP, ICMP, ICMPV6, IPV4, IPV6, RARP, Frame
from hypervigil.hypervisor.reference.identity import link_local
from hypervigil.model.ids import PerimeterId
from hypervigil.model.port_policy import FabricChange, PortPolicy
from hypervigil.model.services import NEIGHBOUR, canonical
from hypervigil.model.traffic import Direction
from hypervigil.network.compile import OUTSIDE, is_gateway

_TICK_SHIFT = 30
_WORD = 0xFFFF_FFFF
_BEGINS, _ANSWERS = {ICMP: 8, ICMPV6: 128}, {ICMP: 0, ICMPV6: 129}
_ADDRESSED = frozenset({ARP, IPV4, IPV6})


class Denial(IntEnum):
    """Why a frame may not cross."""

    STRANGER = 0
    """Nobody honest can be at the other end."""
    PATH = 1
    FLOODED = 2
    """It was not for this port."""
    BUDGET = 3
    BROADCAST = 4
    """Too many frames to groups."""


@dataclass(slots=True)
class Crossings:
    """What a port was denied, and what was remembered for it."""

    denied: list[list[int]] = field(default_factory=lambda: [[0] * layout.DENIALS for _ in Direction])
    """Packets, by direction and ``Denial``."""
    straight: int = 0
    """Packets that went past the bridge."""
    flows: int = 0
    """Conversations remembered."""
    evicted: int = 0
    """Those that had to go for others while they were alive."""


@dataclass(frozen=True, slots=True)
class Way:
    """Where a frame goes that may cross."""

    device: int = 0
    """Straight there; 0: the bridge decides."""
    slot: int = 0
    """Whose device that is."""
    elsewhere: bool = True
    """It is for nobody on the host itself, as it would be if that is the gateway."""


_BRIDGE = Way()


class Fabric:
    """The network policy in force. Ports are told of by ``bind``; ``change`` puts all in force at once."""

    def __init__(self, seed: int = 1, generation: Callable[[int], int] | None = None) -> None:
        self.seed = seed
        """Chooses where conversations are kept."""
        self.directory = Directory(generation or _Generations())
        self.crossings: defaultdict[int, Crossings] = defaultdict(Crossings)
        self._bound: dict[int, PortPolicy] = {}

    def bind(self, slot: int, policy: PortPolicy) -> None:
        """Take up a port's policy, to be put in force by the next change."""
        self._bound[slot] = policy
        self.directory.bind(slot, policy)

    def release(self, slot: int) -> None:
        """The port is gone, at once."""
        self._bound.pop(slot, None)
        self.directory.release(slot)

    def change(self, change: FabricChange) -> None:
        """Put a change, and what was bound since the last, in force."""
        self.directory.change(change, self._bound)
        self._bound.clear()

    def cross(self, slot: int, direction: Direction, frame: Frame, now: int, *, flooded: bool) -> Way | Denial:
        """What becomes of a frame that everything else lets pass; denials are counted.

        ``flooded``: it is on its way to a port whose business it is not.
        """
        here = self.directory.seats.get(slot)
        if here is None:
            return _BRIDGE
        way = self._cross(here, direction, frame, now, flooded=flooded)
        if isinstance(way, Denial):
            self.crossings[slot].denied[direction][way] += frame.packets
        return way

    def _cross(self, here: Seat, direction: Direction, frame: Frame, now: int, *, flooded: bool) -> Way | Denial:
        if direction is Direction.OUT and self._beyond_budget(here, frame, now):
            return Denial.BUDGET
        if direction is Direction.OUT and frame.multicast and self._beyond_broadcasts(here, frame, now):
            return Denial.BROADCAST
        if here.perimeter is None:
            return _BRIDGE
        if not frame.readable:
            return Denial.STRANGER
        if direction is Direction.OUT:
            return self._to_group(here.perimeter, frame) if frame.multicast else self._sent(here, frame, now)
        if flooded:
            return Denial.FLOODED
        return self._received(here, frame, now)

    def _to_group(self, perimeter: PerimeterId, frame: Frame) -> Way | Denial:
        """Frames to a group pass where their sender may begin their service with anybody; receivers decide again."""
        granted = self.directory.to_groups.get(perimeter, NONE)
        return _BRIDGE if granted.everything or (not _later(frame) and _service(frame) in granted) else Denial.PATH

    def _sent(self, here: Seat, frame: Frame, now: int) -> Way | Denial:
        found = self._other_end(here, frame, frame.destination_mac, frame.destination)
        if found is None:
            return Denial.STRANGER
        other, perimeter, device = found
        why = self._decide(here, (here.named, perimeter), (here, other or here), frame, now)
        if why is not None:
            return why
        return Way(device, other.slot) if other is not None else Way(elsewhere=not is_gateway(perimeter))

    def _received(self, here: Seat, frame: Frame, now: int) -> Way | Denial:
        found = self._other_end(here, frame, frame.source_mac, frame.source)
        if found is None:
            return Denial.STRANGER
        other, perimeter, device = found
        if device not in (0, frame.ingress):
            return Denial.STRANGER
        why = self._decide(here, (perimeter, here.named), (other or here, here), frame, now)
        return _BRIDGE if why is None else why

    def _other_end(
        self, here: Seat, frame: Frame, mac: bytes, address: bytes
    ) -> tuple[Seat | None, PerimeterId, int] | None:
        """Who is at the end that is not here: a port's seat, the perimeter, a device on the same segment.

        ``None`` when nobody honest can be. A member of the segment is known by its MAC, everybody else by address.
        """
        directory = self.directory
        member = directory.members.get((here.network, mac))
        if member is not None:
            return member[0], member[0].named, member[1]
        if frame.ethertype == IPV6 and link_local(address):
            return None, gateway(here), 0
        if frame.ethertype not in _ADDRESSED:
            return None, OUTSIDE, 0
        home = directory.homes.get(address)
        if home is None:
            return None, directory.perimeter_of(address), 0
        # A member of the same segment speaks for itself; in a routed network the host speaks for all.
        if home.network == here.network and not here.routed:
            return None
        return home, home.named, 0

    def _decide(
        self, here: Seat, pair: tuple[PerimeterId, PerimeterId], ends: tuple[Seat, Seat], frame: Frame, now: int
    ) -> Denial | None:
        """Whether a frame may go from the first perimeter to the second, as this port's doing.

        The ``ends``, sender and receiver, remember what each began; for one that is no port this port does it.
        """
        sender, receiver = ends
        granted = self.directory.granted.get(pair, NONE)
        if _later(frame):
            # Its first fragment was decided, and remembered here.
            known = granted.everything or self._knows(here, fragments(frame, here.generation), now)
            return None if known else Denial.PATH
        back = self.directory.granted.get((pair[1], pair[0]), NONE)
        service = _service(frame)
        if service in granted:
            one_way = not back.everything and not frame.multicast and service != NEIGHBOUR and not frame.unproven
            if one_way and _answer_to(frame) not in back:
                begun = conversation(frame, sender.generation, answers=False)
                if begun is not None and not self._remembers(here, sender, begun, now):
                    return Denial.BUDGET
        elif not self._is_answer(frame, service, receiver, back, now):
            return Denial.PATH
        if frame.fragment and not self._remembers(here, here, fragments(frame, here.generation), now):
            return Denial.BUDGET
        return None

    def _is_answer(self, frame: Frame, service: int, receiver: Seat, back: Granted, now: int) -> bool:
        """Whether its receiver began, and may still begin, that very conversation."""
        if frame.multicast or service == NEIGHBOUR:
            return False
        begun = conversation(frame, receiver.generation, answers=True)
        asked = frame.protocol << 16 | _BEGINS.get(frame.protocol, frame.source_port)
        return begun is not None and asked in back and self._knows(receiver, begun, now)

    # --- what is remembered ---
    def _knows(self, seat: Seat, key: Key, now: int) -> bool:
        return seat.table.knows(key, self.seed, _tick(now))

    def _remembers(self, here: Seat, owner: Seat, key: Key, now: int) -> bool:
        """Make sure that it is remembered; false when the owner's budget has no room for a new one."""
        if owner.table.knows(key, self.seed, _tick(now)):
            return True
        allowance = owner.allowance
        if allowance.flows.packets_per_s_x1000 and not _may(allowance.flows, allowance.flow_bucket, 1, 0, now):
            return False
        crossings = self.crossings[here.slot]
        crossings.flows += 1
        crossings.evicted += owner.table.enter(key, self.seed, _tick(now), allowance.room)
        return True

    def _beyond_budget(self, here: Seat, frame: Frame, now: int) -> bool:
        rate = here.allowance.rate
        if not rate.packets_per_s_x1000 and not rate.octets_per_s:
            return False
        return not _may(rate, here.allowance.bucket, frame.packets, frame.octets, now)

    def _beyond_broadcasts(self, here: Seat, frame: Frame, now: int) -> bool:
        rate, bucket = here.allowance.broadcasts, here.allowance.broadcast_bucket
        if not rate.packets_per_s_x1000:
            return False
        bucket.refill_to_a_second(rate, now)
        if not bucket.covers(rate):
            return True
        bucket.spend(rate, frame.packets, 0)
        return False


class _Generations:
    """Another number for each port that a slot holds, so that what one began is nothing to the next."""

    def __init__(self) -> None:
        self._last = 0

    def __call__(self, slot: int) -> int:  # noqa: ARG002 - where numbers are lent, they are by slot
        self._last = self._last + 1 & 0xFFFF
        return self._last


def _may(rate: Rate, bucket: Bucket, packets: int, octets: int, now: int) -> bool:
    bucket.refill(rate, now)
    if not bucket.covers(rate):
        return False
    bucket.spend(rate, packets, octets)
    return True


def _tick(now: int) -> int:
    return now >> _TICK_SHIFT & _WORD


def _later(frame: Frame) -> bool:
    """Whether it is a fragment without the transport header."""
    return frame.fragment and not frame.l4


def _service(frame: Frame) -> int:
    """What the frame would begin (see ``model.services``)."""
    if frame.ethertype in {ARP, RARP}:
        return NEIGHBOUR
    if frame.protocol in _BEGINS:
        return canonical(frame.protocol << 16 | frame.icmp_type)
    return frame.protocol << 16 | frame.destination_port


def _answer_to(frame: Frame) -> int:
    """What an answer to the frame is, as if it were begun."""
    return frame.protocol << 16 | _ANSWERS.get(frame.protocol, frame.source_port)
