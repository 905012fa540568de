"""The two ends of what is judged: whom a VM talks with, and the counts of either side. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

from hypervigil.model.ids import VmId
from hypervigil.model.traffic import Direction, TrafficClass

BEGUN = 0.5
"""Of a peer's packets, this share begins something: the sender is the one who asks."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Everything attempted between a VM and one address in some time."""

    direction: Direction
    other: VmId
    address: str
    packets: float
    octets: float
    openings: float
    answers: float
    resets: float
    ports: int
    unseen: float = 0.0
    """Of the answers, those that the other end was seen to send and this one was not seen to get."""
    services: int = 0
    """Which destination ports, as a set of 64 hashes."""
    served: int = 0
    """Of these, those that had accepted it in the hours before (see ``Served``)."""

    @property
    def asks(self) -> bool:
        """Whether most of it begins something."""
        return self.openings >= BEGUN * self.packets


@dataclass(slots=True)
class Asked:
    """What a VM asks of another."""

    begun: float = 0.0
    octets: float = 0.0
    """Sent there, in so many packets."""
    packets: float = 0.0
    heard: float = 0.0
    """Of all octets that it gets, the share that comes from there."""
    back: float = 0.0
    """Octets that come from there, in so many packets."""
    replies: float = 0.0
    resets: float = 0.0
    """Of what is sent there, what refused what came from there."""
    accepted: float = 1.0
    """The share of its tries to connect that were accepted, wherever they went."""


def asked_of(peers: Iterable[Peer], accepted: float = 1.0) -> dict[VmId, Asked]:
    """Of whom one asks something that has these peers."""
    known = list(peers)
    found: dict[VmId, Asked] = {}
    for peer in known:
        if peer.direction is Direction.OUT and peer.openings:
            asked = found.setdefault(peer.other, Asked(accepted=accepted))
            asked.begun += peer.openings
            asked.octets += peer.octets
            asked.packets += peer.packets
    octets = sum(peer.octets for peer in known if peer.direction is Direction.IN)
    for peer in known:
        if peer.direction is Direction.IN and peer.other in found and octets:
            asked = found[peer.other]
            asked.heard += peer.octets / octets
            asked.back += peer.octets
            asked.replies += peer.packets
            asked.resets += peer.resets
    return found


@dataclass(frozen=True, slots=True)
class Side:
    """Counts of one end, indexed by ``TrafficClass``."""

    tried: tuple[float, ...]
    """What was attempted."""
    passed: tuple[float, ...]
    """Of it, what no limit of ours stopped: only this can have been answered."""
    usual: tuple[float, ...]
    """What the VM's history explains of them in that time."""
    fresh: tuple[float, ...]
    """What is so new that answers may still be under way."""
    asked: float
    """SYNs that may still be answered again (see ``Facts.asked``)."""
    seconds: float
    """The time that the counts stand for."""

    def excess(self, traffic: TrafficClass) -> float:
        """Attempted packets that history does not explain."""
        return max(0.0, self.tried[traffic] - self.usual[traffic])

    def unusual(self, traffic: TrafficClass) -> float:
        """What is to be judged: the excess, but never so little of the whole that honest work could look like it."""
        return max(self.excess(traffic), self.tried[traffic] / 2)

    def share_passed(self, traffic: TrafficClass) -> float:
        """Of the attempted packets, the share that no limit stopped."""
        return self.passed[traffic] / self.tried[traffic] if self.tried[traffic] else 1.0

    def share_ripe(self, traffic: TrafficClass) -> float:
        """Of the attempted packets, the share that is old enough to have been answered."""
        return max(0.0, 1.0 - self.fresh[traffic] / self.tried[traffic]) if self.tried[traffic] else 1.0
