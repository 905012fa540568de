"""Who tries port after port of one host, or host after host, and what becomes of the tries. Pure."""

from hypervigil.host.hsem.conduct import SAID, Conduct
from hypervigil.host.hsem.facts import Facts, Vain
from hypervigil.host.hsem.sides import Peer
from hypervigil.model.metric import packet_metric
from hypervigil.model.traffic import Direction, TrafficClass

SCAN_PORTS = 24
FEW_PORTS = 8
"""Ports of one host tried at once that are a scan too, if none accepts and nothing else is said."""
SCAN_HOSTS = 20.0
LEAST_TRIED = 4
"""Hosts on file that were tried: new ones may all be clients, and the one that is silent an old friend."""
FEW_COMPLETED = 0.5
NEARLY_ALL = 0.9
"""For so many of the ports a try came to nothing: what went well beside them was for a port or two."""
TRIES_PER_PORT = 4.0
"""Tries per port by which a scan shows beside datagrams to the same host."""
MANY_TRIES = 60.0
"""Tries of many services on many hosts that are a scan, if next to none is accepted."""
HARDLY_ANY = 0.05
SLOW_HOSTS = 8
"""Hosts without an answer within hours that are a scan for one service, if next to nothing speaks for the VM."""
EXCUSED = 4
"""So many more it takes for each host that does."""
SLOW_PORTS = 16
"""Ports of one host, one after the other within hours, all in vain, that are a scan."""


def scanned(facts: Facts, least: float = SCAN_PORTS) -> list[Peer]:
    """Hosts of which port after port is tried, ``least`` of them so long ago that hardly any will still accept."""
    return [peer for peer in facts.busiest(Direction.OUT) if _probed(facts, peer, least) or _knocked(facts, peer)]


def _probed(facts: Facts, peer: Peer, least: float) -> bool:
    fresh = sum(facts.fresh[packet_metric(Direction.OUT, traffic)] for traffic in _ASKED)
    ripe = peer.openings - fresh
    if peer.ports < SCAN_PORTS or ripe < least:
        return False
    answering = peer.ports - sum(facts.of(Direction.OUT, traffic) for traffic in _ANSWERS) < SCAN_PORTS
    if answering and not peer.asks and peer.openings < TRIES_PER_PORT * peer.ports:
        return False  # the many ports may be those of whom it answers
    # Honest work with the same host is answered too: no more tries were accepted than the VM got acceptances in all.
    accepted = sum(facts.of(Direction.IN, traffic) for traffic in _ACCEPTED)
    resets = max(0.0, peer.resets - _refused_answers(facts, peer))
    completed = max(0.0, min(peer.answers - resets, peer.openings - resets, accepted))
    return completed < FEW_COMPLETED * ripe or min(resets, ripe - completed) >= max(NEARLY_ALL * peer.ports, SCAN_PORTS)


def _refused_answers(facts: Facts, peer: Peer) -> float:
    """Of a host's resets, how many may refuse what it was answered: they say nothing of the VM's own tries."""
    back = [one for one in facts.peers if one.direction is Direction.IN and one.address == peer.address]
    if not back:
        return facts.of(Direction.OUT, TrafficClass.SYNACK)
    begun = sum(one.openings for one in back)
    return max(0.0, begun - max(0.0, sum(one.packets for one in back) - begun - peer.resets) / SAID)


def _knocked(facts: Facts, peer: Peer) -> bool:
    """Whether a handful of ports were tried at once, with nothing but SYNs, and all in vain."""
    syns, fresh = facts.of(Direction.OUT, TrafficClass.SYN), facts.fresh[packet_metric(Direction.OUT, TrafficClass.SYN)]
    only_tries = peer.packets == peer.openings and peer.openings <= syns
    accepted = facts.of(Direction.IN, TrafficClass.SYNACK)
    return peer.ports >= FEW_PORTS and only_tries and peer.answers <= peer.resets and not fresh and not accepted


_ANSWERS = (TrafficClass.DNS, TrafficClass.UDP)
"""What may go first to a port that the other end chose."""
_ASKED = (TrafficClass.SYN, TrafficClass.DNS, TrafficClass.UDP, TrafficClass.ICMP)
_ACCEPTED = (TrafficClass.SYNACK, TrafficClass.DNS, TrafficClass.UDP, TrafficClass.ICMP)


def swept(facts: Facts) -> bool:
    """Whether it tries many addresses that it never talked to, and few of them answer."""
    tries = facts.tries
    if facts.new_destinations < SCAN_HOSTS or facts.fan_out < SCAN_HOSTS / 2 or tries.hosts < LEAST_TRIED:
        return False
    if tries.mixed:
        asked, accepted = facts.of(Direction.OUT, TrafficClass.SYN), facts.of(Direction.IN, TrafficClass.SYNACK)
        return asked >= MANY_TRIES and accepted <= HARDLY_ANY * asked
    by = any(
        facts.of(Direction.OUT, traffic) >= SCAN_HOSTS / 2 and facts.conduct(Direction.OUT, traffic) >= Conduct.UNCLEAR
        for traffic in (*_ASKED, TrafficClass.ARP)
    )
    # Where it was not seen what came back, it was a reset if most of what came back was.
    late = facts.of(Direction.IN, TrafficClass.RST) > tries.reset + tries.answered / 2
    return by and tries.hosts - (0 if late else tries.answered) >= FEW_COMPLETED * tries.hosts


def slow_sweep(vain: Vain) -> bool:
    """Whether host after host was tried for one service, over hours."""
    return not vain.mixed and vain.hosts >= SLOW_HOSTS + EXCUSED * vain.spared


def slow_probe(vain: Vain) -> bool:
    """Whether port after port of one host was tried, over hours."""
    return vain.ports >= SLOW_PORTS
