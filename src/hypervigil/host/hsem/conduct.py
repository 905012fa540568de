"""How traffic of a class is meant: begun or answering, answered or ignored, taken up or broken off. Pure.

The same reading serves the first look, which may limit, and the verdict. Only what exceeds the VM's own history is
judged, so honest work beside an attack does not excuse it, and shares are counts at the VM's own NIC, so they hold at
any rate.
"""

from dataclasses import dataclass
from enum import IntEnum

from hypervigil.model.ids import VmId
from hypervigil.model.traffic import Direction, TrafficClass

LED_TO_NOTHING = 0.7
"""Of the excess, this share led to nothing: it was not meant to."""
MOSTLY_WELL = 0.4
"""Below this share of failures an excess is honest."""
ANSWERED = 0.5
IGNORED = 0.3
"""Of packets that ask, these shares were answered: the other end takes part, or does not."""
ACKNOWLEDGED = 0.02
"""Acknowledgements per data packet: offloading and delayed ACKs leave few, a blind sender gets none."""
HEARD = 0.002
"""Packets that come back per packet of a stream that answers something: a receiver's reports are few."""
BEGUN = 0.5
"""Of a peer's packets, this share begins something: the sender is the one who asks."""
AIMED = 0.5
"""Of pings, this share goes to one address: not a survey of many."""
SLACK = 20.0
"""Packets by which answers may exceed what was asked, for retransmission."""


class Conduct(IntEnum):
    """What an excess of one class looks like; the larger, the worse."""

    ANSWERING = 0
    """It only answers what others began."""
    HONEST = 1
    UNCLEAR = 2
    HOSTILE = 3


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

    @property
    def asks(self) -> bool:
        """Whether most of it begins something."""
        return self.openings >= BEGUN * self.packets


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

    def excess(self, traffic: TrafficClass) -> float:
        """Attempted packets that history does not explain."""
        return max(0.0, self.tried[traffic] - self.usual[traffic])

    def share_passed(self, traffic: TrafficClass) -> float:
        """Of the attempted packets, the share that no limit stopped."""
        return self.passed[traffic] / self.tried[traffic] if self.tried[traffic] else 1.0


def conduct(traffic: TrafficClass, mine: Side, theirs: Side, peers: tuple[Peer, ...]) -> Conduct:
    """How ``mine`` of a class is meant by whoever sends it; ``peers`` are those it was sent to (or came from)."""
    passed = mine.share_passed(traffic)
    match traffic:
        case TrafficClass.SYN:
            return _connecting(mine, theirs)
        case TrafficClass.SYNACK:
            return _in_reply(mine.passed[traffic], theirs.passed[TrafficClass.SYN])
        case TrafficClass.RST:
            asked = sum(theirs.passed[c] for c in (TrafficClass.SYN, TrafficClass.SYNACK, TrafficClass.TCP))
            return _in_reply(mine.passed[traffic], asked)
        case TrafficClass.TCP:
            return _streaming(mine, theirs)
        case TrafficClass.ICMP:
            return _pinging(mine.excess(traffic), peers, passed)
        case TrafficClass.UDP | TrafficClass.DNS:
            return _datagrams(mine.excess(traffic), peers, passed)
        case TrafficClass.ARP:
            return _by_answers(peers, passed)
        case _:
            return max(Conduct.UNCLEAR, _by_answers(tuple(p for p in peers if p.asks), passed))


def _connecting(mine: Side, theirs: Side) -> Conduct:
    """Of SYNs: whether they are answered, and whether the one who asked takes the answer up."""
    ripe = mine.passed[TrafficClass.SYN] - mine.fresh[TrafficClass.SYN]
    answered = theirs.passed[TrafficClass.SYNACK]
    unanswered = max(0.0, ripe - answered)
    refused = max(0.0, answered - theirs.fresh[TrafficClass.SYNACK] - mine.passed[TrafficClass.TCP])
    led_to_nothing = unanswered + max(refused, min(answered, mine.excess(TrafficClass.RST)))
    excess = mine.passed[TrafficClass.SYN] - min(mine.usual[TrafficClass.SYN], mine.passed[TrafficClass.SYN] / 2)
    # Of what is new nothing is known: it counts as what is ripe does.
    return _by_share(led_to_nothing / max(1.0, min(excess, ripe)))


def _by_share(led_to_nothing: float) -> Conduct:
    if led_to_nothing >= LED_TO_NOTHING:
        return Conduct.HOSTILE
    return Conduct.UNCLEAR if led_to_nothing >= MOSTLY_WELL else Conduct.HONEST


def _in_reply(sent: float, asked: float) -> Conduct:
    return Conduct.ANSWERING if sent <= 1.5 * asked + SLACK else Conduct.HOSTILE


def _streaming(mine: Side, theirs: Side) -> Conduct:
    """TCP beyond the handshake: acknowledged, not reset."""
    sent = mine.excess(TrafficClass.TCP) * mine.share_passed(TrafficClass.TCP)
    if theirs.passed[TrafficClass.RST] >= IGNORED * sent:
        return Conduct.HOSTILE
    return Conduct.HONEST if theirs.passed[TrafficClass.TCP] >= ACKNOWLEDGED * sent else Conduct.HOSTILE


def _pinging(excess: float, peers: tuple[Peer, ...], passed: float) -> Conduct:
    asking = tuple(p for p in peers if p.asks)
    if not asking and peers:
        return Conduct.ANSWERING
    if not asking or max(p.packets for p in asking) >= AIMED * excess:
        return Conduct.HOSTILE
    return _by_answers(asking, passed)


def _datagrams(excess: float, peers: tuple[Peer, ...], passed: float) -> Conduct:
    asking = tuple(p for p in peers if p.asks)
    if sum(p.packets for p in asking) >= BEGUN * excess or not peers:
        return _by_answers(asking, passed)
    streams = [p for p in peers if not p.asks]
    heard = sum(p.answers for p in streams) >= max(1.0, passed * HEARD * sum(p.packets for p in streams))
    return Conduct.ANSWERING if heard else Conduct.UNCLEAR


def _by_answers(peers: tuple[Peer, ...], passed: float) -> Conduct:
    asked = passed * sum(p.packets for p in peers)
    answers = sum(p.answers - p.resets for p in peers)
    if asked and answers >= ANSWERED * asked:
        return Conduct.HONEST
    return Conduct.HOSTILE if answers < IGNORED * asked or not asked else Conduct.UNCLEAR
