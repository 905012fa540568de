"""How traffic of a class is meant: begun or answering, answered or ignored, taken up or broken off. Pure.

The same reading serves the first look, which may limit, and the verdict. Only what exceeds the VM's own history is
judged, so honest work beside an attack does not excuse it, and shares are counts at the VM's own NIC, so they hold at
any rate.
"""

from collections.abc import Collection, Iterator, Mapping
from enum import IntEnum
from types import MappingProxyType

from hypervigil.host.hsem.sides import BEGUN, Peer, Side
from hypervigil.model.traffic import TrafficClass

LED_TO_NOTHING = 0.7
"""Of the excess, this share led to nothing: it was not meant to."""
MOSTLY_WELL = 0.4
"""Below this share of failures an excess is honest."""
DOES_WHAT_IT_CAN = 0.1
"""If this share of an excess of tries is taken up, the rest may be what an overloaded host has no time for."""
ANSWERED = 0.5
IGNORED = 0.3
"""Of packets that ask, these shares were answered: the other end takes part, or does not."""
ACKNOWLEDGED = 0.008
"""Acknowledgements per data packet: with offloading one comes per two frames of 64 KiB, to a flood none."""
ACKNOWLEDGEMENT = 150.0
"""Octets of a TCP packet that carries little or nothing."""
HEARD = 0.002
"""Packets that come back per packet of a stream that answers something: a receiver's reports are few."""
REFUSALS = 3.0
"""Messages that nobody listens, by which datagrams are no stream; a kernel gives a few, then one a second."""
TALKS = 0.02
"""Packets that come back per datagram of a conversation that goes mostly one way: QUIC acknowledges several at once."""
STREAM_PPS = 500.0
"""Up to here datagrams that nobody answers yet may be a stream whose receiver reports every few seconds (RFC 3550)."""
FULL_OCTETS, FULL_PPS = 1000.0, 2500.0
"""Octets per datagram of a stream that fills its packets, and up to where it may be one if whoever gets it said a word
by it: a film of 25 Mbit/s, or a measurement of speed, which agrees by one word each and then goes one way."""
TRICKLE_PPS = 60.0
"""Up to here datagrams to one address harm nobody, answered or not: measurements, telemetry, logs."""
PINGS_PPS = 35.0
"""The same of pings, if they are answered: to measure a path takes a few a second, and who sends more wants more."""
MEETING_PPS = 250.0
"""The same of what goes to many at ports of their own, of whom others must have told: a sharer of files that begins."""
CALL_PPS = 100.0
"""The same of what goes to a port that the receiver chose itself: the voice and pictures of a call."""
EVERYWHERE = 30.0
"""Answers by so many who were asked nothing are forged requests' answers: nobody streams to one from everywhere."""
STORM_PPS = 2000.0
"""Above this nothing that is sent to all or to a group is meant well: a film for everybody takes half of it."""
AIMED = 0.5
"""Of pings, this share goes to one address: not a survey of many."""
ONE_SERVICE = 4
"""Up to so many ports are one service."""
MIXED = 1 / 3
"""Ports per host of those who were not found by looking for one service."""
FEW = 4
"""So many addresses are no survey of many."""
MOST = 0.5
"""What holds for this share of an excess holds for it."""
REPEATED = 6.0
"""SYN-ACKs per SYN that nobody takes up: the first and five repetitions (Linux's ``tcp_synack_retries``)."""
TRIED = 7.0
"""SYNs per connection that nobody answers: the first and six repetitions (Linux's ``tcp_syn_retries``)."""
HARDLY_ANY = 0.05
"""Of tries, so few answers: those of whoever else is asked."""
AGAIN_PPS = 100.0
"""Up to here, from all VMs of the host to one address, tries again at a service that is gone harm nobody."""
SAID = 3.0
"""Packets of a connection besides its SYN: an acknowledgement, a request, an end."""
GONE = 24.0
"""Resets per connection that a client began in the time, once it is gone: frames of each were still to come, and it may
have held more than it began lately."""
GONE_S, GONE_UNSAID = 2.0, 4.0
"""After so long nothing is under way to who is gone but what is said anew: so many packets that carry next to nothing,
of data as many as before, for downloads may be broken off one after the other."""
REFUSED = 1.5
"""Resets per packet that they refuse."""
ENDED = 2.0
"""Resets per connection begun, by which one of both ends breaks it off, or both do."""
SLACK = 20.0
"""Packets by which answers may exceed what was asked, for retransmission."""
_NO_TCP = frozenset(TrafficClass) - {TrafficClass.SYN, TrafficClass.SYNACK, TrafficClass.RST, TrafficClass.TCP}


class Conduct(IntEnum):
    """What an excess of one class looks like; the larger, the worse."""

    ANSWERING = 0
    """It only answers what others began."""
    HONEST = 1
    UNCLEAR = 2
    HOSTILE = 3


def conduct(
    traffic: TrafficClass,
    mine: Side,
    theirs: Side,
    peers: tuple[Peer, ...],
    peak_pps: float,
    *,
    sources: float = 1.0,
    refusals: float | None = None,
    listens: bool = False,
    back: Mapping[str, Peer] = MappingProxyType({}),
    lasted_s: float = 0.0,
    blind: bool = False,
    away: bool = False,
) -> Conduct:
    """How ``mine`` of a class is meant by whoever sends it; ``peers`` are those it was sent to (or came from).

    ``sources``: how many of them there are at least, where ``peers`` has no room for all. ``refusals``: messages that a
    port or host cannot be reached, where they are counted; ``listens``: they came earlier, and no more, as of a service
    that has started.
    ``back``: by address, what the other end sent meanwhile. ``lasted_s``: from the surge's beginning
    to when it was last seen. ``blind``: nothing at all was ever seen of the other direction, as behind a mirror of one
    direction or where answers take another way. There, that a little is not answered proves nothing; what could harm
    is judged as everywhere, since anybody can make up one side of it. ``away``: next to no connection was accepted
    while the surge lasted, as by a service that starts again.
    """
    match traffic:
        case TrafficClass.SYN:
            found = _connecting(mine, theirs, peers, back, away=away)
            if found is Conduct.HOSTILE and peak_pps <= AGAIN_PPS and _tries_again(mine, theirs, peers, back):
                return Conduct.UNCLEAR
            return min(found, Conduct.UNCLEAR) if blind and peak_pps <= TRICKLE_PPS and _go_on(mine, peers) else found
        case TrafficClass.SYNACK:
            return _in_reply(mine.tried[traffic], REPEATED * theirs.asked)
        case TrafficClass.RST:
            asked = sum(theirs.tried[c] for c in (TrafficClass.SYN, TrafficClass.SYNACK, TrafficClass.TCP))
            found = _in_reply(mine.tried[traffic], REFUSED * asked)
            stray = _stray(peers, back) if lasted_s >= GONE_S else 0.0
            return Conduct.HOSTILE if stray >= max(SLACK, IGNORED * mine.excess(traffic)) else found
        case TrafficClass.TCP:
            gone = {p.address: _gone(p, lasted_s) * back[p.address].openings for p in peers if p.address in back}
            return _streaming(mine, theirs, peers, gone, slow=peak_pps <= STREAM_PPS, blind=blind)
        case TrafficClass.ICMP:
            return _pinging(mine, theirs, peers, peak_pps)
        case TrafficClass.UDP | TrafficClass.DNS:
            # What the other end sends of ICMP beyond answers to pings are messages, where they are not counted apart.
            messages = theirs.excess(TrafficClass.ICMP) - mine.tried[TrafficClass.ICMP]
            refused = not listens and (messages >= 1.0 if refusals is None else refusals >= REFUSALS)
            found = _datagrams(traffic, mine, theirs, peers, peak_pps, refused=refused)
            unasked = sources >= EVERYWHERE and peak_pps > STREAM_PPS and found is Conduct.UNCLEAR
            return Conduct.HOSTILE if unasked and theirs.tried[traffic] < HEARD * mine.tried[traffic] else found
        case TrafficClass.ARP:
            return _by_answers(traffic, mine, theirs, peers)
        case TrafficClass.MULTICAST:
            return _spreading(peak_pps)
        case _:
            asking = tuple(p for p in peers if p.asks)
            return max(Conduct.UNCLEAR, _by_answers(traffic, mine, theirs, asking, share_ripe=1.0))


def _connecting(mine: Side, theirs: Side, peers: tuple[Peer, ...], back: Mapping[str, Peer], *, away: bool) -> Conduct:
    """Of SYNs: whether they are answered, and whether the one who asked takes the answer up."""
    passed = mine.passed[TrafficClass.SYN]
    ripe = passed - mine.fresh[TrafficClass.SYN]
    answered = theirs.passed[TrafficClass.SYNACK]
    unanswered = max(0.0, ripe - answered)
    taken_up = _taken_up(mine, peers, back)
    broken = min(answered, mine.excess(TrafficClass.RST))
    refused = max(0.0, answered - theirs.fresh[TrafficClass.SYNACK] - taken_up)
    excess = passed - min(mine.usual[TrafficClass.SYN], passed / 2)
    # Of what is new nothing is known: it counts as what is ripe does.
    judged = max(1.0, min(excess, ripe))
    ended = broken * mine.share_ripe(TrafficClass.SYN)
    found = _by_share((unanswered + max(refused, ended)) / judged)
    if unanswered >= LED_TO_NOTHING * judged and _repeated(mine) and (away or _silence(mine, theirs)):
        return min(found, Conduct.UNCLEAR)
    went_well = min(answered, taken_up) - broken - mine.usual[TrafficClass.SYN]
    if went_well >= DOES_WHAT_IT_CAN * excess and theirs.passed[TrafficClass.RST] < MOST * unanswered:
        return min(found, Conduct.UNCLEAR)
    return found


def _silence(mine: Side, theirs: Side) -> bool:
    """Whether there is now not a word from the server."""
    said = theirs.fresh[TrafficClass.SYNACK] + theirs.fresh[TrafficClass.RST]
    return said <= HARDLY_ANY * mine.fresh[TrafficClass.SYN]


def _tries_again(mine: Side, theirs: Side, peers: tuple[Peer, ...], back: Mapping[str, Peer]) -> bool:
    """Whether services that used to accept are tried, and whatever they accept of it now is taken up.

    A service whose table a flood has filled accepted the first of it, which nobody took up, and goes on saying so.
    """
    passed = mine.passed[TrafficClass.SYN]
    fresh = mine.fresh[TrafficClass.SYN] * mine.share_passed(TrafficClass.SYN)
    now = theirs.fresh[TrafficClass.SYNACK]
    taken_up = _taken_up(mine, peers, back)
    left = theirs.passed[TrafficClass.SYNACK] - now - taken_up
    if left > HARDLY_ANY * passed or (left >= 1.0 and HARDLY_ANY * fresh < now < MOST * fresh):
        return False
    known = sum(peer.openings for peer in peers if peer.served and peer.served == peer.services)
    known -= max(0.0, sum(peer.openings for peer in peers) - mine.tried[TrafficClass.SYN])  # pings, look-ups
    return known >= LED_TO_NOTHING * mine.tried[TrafficClass.SYN]


def _repeated(mine: Side) -> bool:
    """Whether a server that is away explains as many SYNs: its clients' tries, repeated."""
    return mine.tried[TrafficClass.SYN] <= TRIED * mine.usual[TrafficClass.SYN]


def _taken_up(mine: Side, peers: tuple[Peer, ...], back: Mapping[str, Peer]) -> float:
    """How many connections can have gone on after the handshake, by peer, so that no long one speaks for others."""
    share = mine.share_passed(TrafficClass.SYN)
    opened = share * sum(peer.openings for peer in peers)
    resets = {address: peer.resets for address, peer in back.items()}
    told = sum(min(share * p.openings, max(0.0, p.packets - p.openings - resets.get(p.address, 0.0))) for p in peers)
    # Of those that are not told by name only the sum is known: TCP that is not the told ones'.
    others = sum(mine.tried[c] for c in TrafficClass if c not in {TrafficClass.SYN, TrafficClass.TCP})
    theirs = max(0.0, sum(peer.packets - peer.openings for peer in peers) - others)
    rest = min(mine.passed[TrafficClass.SYN] - opened, mine.passed[TrafficClass.TCP] - theirs)
    return told + max(0.0, rest)


def _by_share(led_to_nothing: float) -> Conduct:
    if led_to_nothing >= LED_TO_NOTHING:
        return Conduct.HOSTILE
    return Conduct.UNCLEAR if led_to_nothing >= MOSTLY_WELL else Conduct.HONEST


def _in_reply(sent: float, asked: float) -> Conduct:
    return Conduct.ANSWERING if sent <= asked + SLACK else Conduct.HOSTILE


def _stray(peers: tuple[Peer, ...], back: Mapping[str, Peer]) -> float:
    """How many resets refuse nothing: no try, no packet that was left without another answer, no connection of late."""
    begun = {peer.address: peer.openings for peer in peers}
    found = 0.0
    for peer in back.values():
        if peer.address in begun:
            unanswered = max(0.0, peer.packets - (peer.answers - peer.resets))
            due = REFUSED * unanswered + ENDED * (peer.openings + begun[peer.address])
            found += max(0.0, peer.resets - due)
    return found


def _go_on(mine: Side, peers: tuple[Peer, ...]) -> bool:
    """Whether most tries are followed by what only follows an answer, wherever that came by."""
    ripe = mine.tried[TrafficClass.SYN] - mine.fresh[TrafficClass.SYN]
    gone_on = sum(min(peer.openings, (peer.packets - peer.openings) / SAID) for peer in peers)
    return gone_on >= (1 - LED_TO_NOTHING) * max(1.0, ripe)


def _little(mine: Side, peers: tuple[Peer, ...]) -> bool:
    """Whether all that is sent is no more than mere acknowledgements of a stream are, in octets."""
    packets, octets = sum(peer.packets for peer in peers), sum(peer.octets for peer in peers)
    rate = octets / max(packets, 1.0) * sum(mine.tried) / max(mine.seconds, 0.001)
    return rate <= ACKNOWLEDGEMENT * STREAM_PPS


def _gone(peer: Peer, lasted_s: float) -> float:
    """How often a client that is gone may reset what its server still says, for each connection that it began."""
    return GONE if lasted_s < GONE_S or peer.octets > ACKNOWLEDGEMENT * peer.packets else GONE_UNSAID


def _streaming(
    mine: Side, theirs: Side, peers: tuple[Peer, ...], may_reset: Mapping[str, float], *, slow: bool, blind: bool
) -> Conduct:
    """TCP beyond the handshake: acknowledged, not reset, by those to whom most of it goes.

    Clients that are gone reset what their server still says, each so often by its address: ``may_reset``.
    """
    gone = {peer.address: min(peer.resets, may_reset.get(peer.address, 0.0)) for peer in peers}
    share = mine.share_passed(TrafficClass.TCP)
    sent = mine.unusual(TrafficClass.TCP) * share
    # What refuses a handshake says nothing of those who converse.
    resets = theirs.passed[TrafficClass.RST] - mine.passed[TrafficClass.SYN] - mine.passed[TrafficClass.SYNACK]
    resets -= sum(gone.values())
    if resets >= max(1.0, IGNORED * sent):
        return Conduct.HOSTILE
    if mine.share_ripe(TrafficClass.TCP) < MOST / 2:
        return Conduct.HONEST  # the first acknowledgements are still on their way
    least = (HEARD if slow else ACKNOWLEDGED) * share
    deaf = sum(p.packets - p.openings for p in peers if p.answers - p.resets + gone[p.address] < least * p.packets)
    deaf -= _unheard_besides(mine, theirs, peers)
    back = theirs.passed[TrafficClass.TCP] + sum(p.unseen for p in peers)
    if share * deaf < max(1.0, MOST * sent) and back >= least * mine.unusual(TrafficClass.TCP):
        return Conduct.HONEST
    # Acknowledgements and a few requests: what they are for may come another way, where nobody looks.
    return Conduct.UNCLEAR if blind and slow and _little(mine, peers) else Conduct.HOSTILE


def _unheard_besides(mine: Side, theirs: Side, peers: tuple[Peer, ...]) -> float:
    """Packets of who does not answer that are no TCP and begin nothing: calls, pictures, files for a group."""
    silent = sum(mine.tried[c] for c in _NO_TCP if theirs.tried[c] < HEARD * mine.tried[c])
    begun = sum(peer.openings for peer in peers) - mine.tried[TrafficClass.SYN]
    return max(0.0, silent - max(0.0, begun))


def _spreading(peak_pps: float) -> Conduct:
    """What is sent to all or to a group: nobody answers it, so only its rate tells."""
    if peak_pps > STORM_PPS:
        return Conduct.HOSTILE
    return Conduct.UNCLEAR if peak_pps > STREAM_PPS else Conduct.HONEST


def _pinging(mine: Side, theirs: Side, peers: tuple[Peer, ...], peak_pps: float) -> Conduct:
    asking = tuple(p for p in peers if p.asks)
    if not asking and peers:
        return Conduct.ANSWERING
    if peak_pps <= PINGS_PPS and theirs.passed[TrafficClass.ICMP] >= ANSWERED * mine.passed[TrafficClass.ICMP]:
        return Conduct.HONEST
    if not asking or max(p.packets for p in asking) >= AIMED * mine.unusual(TrafficClass.ICMP):
        return Conduct.HOSTILE
    return _by_answers(TrafficClass.ICMP, mine, theirs, asking)


def _datagrams(
    traffic: TrafficClass, mine: Side, theirs: Side, peers: tuple[Peer, ...], peak_pps: float, *, refused: bool
) -> Conduct:
    asking = tuple(p for p in peers if p.asks)
    may_be_stream = traffic is TrafficClass.UDP and not refused and bool(peers)
    if may_be_stream and peak_pps <= MEETING_PPS and _meets(mine.tried[traffic], peers, peak_pps):
        return Conduct.HONEST
    if sum(p.packets for p in asking) >= BEGUN * mine.excess(traffic) or not peers:
        # What comes back may be ordinary traffic with the same host: not of a port that is closed, nor at such a rate.
        heard = TALKS if peak_pps > STORM_PPS else HEARD
        found = _by_answers(traffic, mine, theirs, asking, heard=heard if may_be_stream else None)
        aimed = max((p.packets for p in asking), default=0.0) >= AIMED * mine.unusual(traffic)
        if may_be_stream and aimed and peak_pps <= TRICKLE_PPS:
            return min(found, Conduct.HONEST)
        slow = peak_pps <= (FULL_PPS if _agreed(traffic, mine, theirs, asking) else STREAM_PPS)
        return min(found, Conduct.UNCLEAR) if may_be_stream and slow else found
    streams = tuple(p for p in peers if not p.asks)
    share = mine.share_passed(traffic)
    heard = sum(answers for _, answers in _answered(traffic, theirs, streams))
    sent = share * sum(p.packets for p in streams)
    if heard >= max(1.0, HEARD * sent):
        return Conduct.ANSWERING
    silent = [p for p in streams if p.answers - p.resets < HEARD * p.packets]  # conversations by TCP are not
    few = len(asking) <= FEW and len(silent) <= FEW
    return Conduct.HONEST if may_be_stream and few and peak_pps <= CALL_PPS else Conduct.UNCLEAR


def _meets(sent: float, peers: tuple[Peer, ...], peak_pps: float) -> bool:
    """Whether it goes to many at ports of their own, and to none of them enough to harm, answered or not."""
    most = max((peer.packets for peer in peers), default=0.0)
    return peak_pps * most <= TRICKLE_PPS * max(1.0, sent) and mixed([p.services for p in peers if p.services])


def _agreed(traffic: TrafficClass, mine: Side, theirs: Side, asking: tuple[Peer, ...]) -> bool:
    """Whether most of a class are full datagrams to one that speaks too, and a word of the class came, from whomever.

    Of a peer's words it is not known of which class they were.
    """
    most = max(asking, key=lambda peer: peer.packets, default=None)
    if most is None or most.packets < MOST * mine.unusual(traffic) or most.octets < FULL_OCTETS * most.packets:
        return False
    return most.answers - most.resets >= 1.0 and theirs.tried[traffic] + most.unseen >= 1.0


def mixed(services: Collection[int]) -> bool:
    """Whether hosts are asked for so many services that somebody must have told their addresses and ports.

    Whoever looks for a service asks all hosts for it, or for a few like it. ``services`` of each, as ``Peer`` has them.
    """
    asked = 0
    for one in services:
        asked |= one
    return asked.bit_count() > max(ONE_SERVICE, MIXED * len(services))


def unheard(traffic: TrafficClass, mine: Side, theirs: Side, peers: tuple[Peer, ...]) -> bool:
    """Whether most datagrams of a class ask somebody who never said a word by it."""
    asking = tuple(peer for peer in peers if peer.asks)
    if _agreed(traffic, mine, theirs, asking):
        return False
    deaf = sum(peer.packets for peer, answers in _answered(traffic, theirs, asking) if answers < 1.0)
    return deaf >= MOST * mine.unusual(traffic)


def _answered(traffic: TrafficClass, theirs: Side, peers: tuple[Peer, ...]) -> Iterator[tuple[Peer, float]]:
    """How often each peer can have answered this class; a peer's own counts are of all classes.

    Of this class no more answers came than the NIC saw; they are most likely those of who answers best.
    """
    left = theirs.tried[traffic] + sum(peer.unseen for peer in peers)
    for peer in sorted(peers, key=lambda p: (p.resets - p.answers) / p.packets if p.packets else 0.0):
        answers = min(max(0.0, peer.answers - peer.resets), left)
        left -= min(answers, peer.packets)
        yield peer, answers


def _by_answers(
    traffic: TrafficClass,
    mine: Side,
    theirs: Side,
    peers: tuple[Peer, ...],
    *,
    share_ripe: float | None = None,
    heard: float | None = None,
) -> Conduct:
    """Of packets that are answered one by one: by peer, so that no answer excuses what another ignores.

    ``heard``: it may also be a stream, whose receiver acknowledges several at once, or reports now and then, but sends
    this share of what it gets at least.
    """
    passed = mine.share_passed(traffic)
    share = passed * (mine.share_ripe(traffic) if share_ripe is None else share_ripe)
    ignored = answered = 0.0
    for peer, answers in _answered(traffic, theirs, peers):
        talks = heard is not None and answers >= max(1.0, TALKS * passed * peer.packets)
        if talks or answers >= ANSWERED * share * peer.packets:
            answered += peer.packets
        elif answers < IGNORED * share * peer.packets:
            reports = heard is not None and answers >= max(1.0, heard * passed * peer.packets)
            ignored += 0.0 if reports else peer.packets
    judged = min(mine.unusual(traffic), sum(peer.packets for peer in peers))
    if not judged or ignored >= MOST * judged:
        return Conduct.HOSTILE
    return Conduct.HONEST if answered >= MOST * judged else Conduct.UNCLEAR
