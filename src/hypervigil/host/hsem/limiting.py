"""Which limits an anomaly calls for and how large they are. Pure; every limit it gives has an end.

A provisional limit touches only the classes that are abnormal, outbound first, and is sized by the VM's own history:
``L = clamp(k × own p95, floor, cap)``.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from hypervigil.host.hsem.conduct import Conduct
from hypervigil.host.hsem.crowd import FEW, MOST_OF_IT, pressed
from hypervigil.host.hsem.facts import Facts, Surge
from hypervigil.host.hsem.forged import SENDERS_TO_ASK, played, senders
from hypervigil.host.hsem.judge import (
    HELD_S,
    amplified,
    from_outside,
    hit,
    hostile_surges,
    set_going,
)
from hypervigil.host.hsem.outbound import TIMES
from hypervigil.host.hsem.resources import Grab, Resource
from hypervigil.host.hsem.sides import Peer
from hypervigil.model.ids import OUTSIDE
from hypervigil.model.limits import LimitKind
from hypervigil.model.metric import packet_metric
from hypervigil.model.policy import Bounds
from hypervigil.model.status import AttackClass, Verdict
from hypervigil.model.traffic import Direction, TrafficClass

KEPT_OF_UNCLEAR = 0.5
"""An excess that may be honest keeps this share of what it offers."""
GROWING = 1.2
"""So much more than was seen of it is offered in the end: it is measured while it grows, and its bursts are cut."""
PROOF_S = 5.0
"""By then proof of source has stopped most of a flood from invented addresses, or never will."""

LEAST_CPU = 0.1
"""An attacker keeps this share of each of its CPUs, to do its ordinary work and to be looked at."""

LEAST_MEMORY_KIB = 131_072.0
"""No balloon is made smaller than this: a guest without memory can do nothing, and cannot be looked at either."""
LEAST_DISK = 1e6
LEAST_BLOCK = 50.0
"""Bytes and requests per second that a disk keeps."""

GUESSES_PPS = 1.0
"""Packets per second that a guesser may send to whom it guesses at, whatever their way: a dialogue takes a dozen."""
OF_GUESSES, LEAST_GUESSES_PPS = 0.25, 0.1
"""At a service outside nothing but all new connections can be limited: to this share of the guesses, and at least."""

LADDER = {
    "quarantine": LimitKind.QUARANTINE,
    "isolate": LimitKind.ISOLATE,
    "pause": LimitKind.PAUSE,
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """A limit without name and time."""

    kind: LimitKind
    reason: str
    value: float | None = None
    direction: Direction = Direction.OUT
    traffic: TrafficClass | None = None
    peer: str | None = None

    @property
    def place(self) -> tuple[object, ...]:
        """What it limits: two limits of one place differ only in value and time."""
        return self.kind, self.direction, self.traffic, self.peer


def size(tail: float, bounds: Bounds) -> float:
    """``L`` of a class whose own 95th percentile is ``tail``, packets per second."""
    return min(max(bounds.factor * tail, bounds.floor_pps), bounds.cap_pps)


def provisional(facts: Facts, bounds: Bounds) -> list[Wanted]:
    """What a first look calls for."""
    wanted = []
    for surge in facts.surges:
        meant = facts.conduct(surge.direction, surge.traffic)
        if meant <= Conduct.HONEST:
            continue
        least = KEPT_OF_UNCLEAR * GROWING * surge.rate if meant is Conduct.UNCLEAR else 0.0
        if surge.direction is Direction.OUT:
            wanted.append(_class_limit(surge, bounds, least))
        elif meant is Conduct.HOSTILE and from_outside(facts):
            wanted += _inbound(facts, surge, bounds)
    return _distinct([*wanted, *_disguised(facts, bounds), *copying(facts)])


def _disguised(facts: Facts, bounds: Bounds) -> list[Wanted]:
    """What is left to one that plays somebody's part, or sends as somebody else."""
    wanted = [_fixed(TrafficClass.ARP, facts, bounds)] if played(facts.forged) else []
    return [*wanted, _new_destinations(bounds)] if senders(facts.forged) >= SENDERS_TO_ASK else wanted


def copying(facts: Facts) -> list[Wanted]:
    """What holds a copy to outside while somebody looks."""
    upload = facts.found.upload
    if not upload.octets or facts.at - upload.held_from >= HELD_S:
        return []
    reason = f"sends {upload.rate:,.0f} octets/s to {upload.address} outside, usually at most {upload.tail:,.0f} in all"
    value = max(TIMES * upload.tail, KEPT_OF_UNCLEAR * upload.rate)
    return [Wanted(LimitKind.OCTETS, reason, round(value, 1), traffic=TrafficClass.TCP)]


def hardened(facts: Facts, verdict: Verdict, bounds: Bounds, rung: str) -> list[Wanted]:
    """What an attacker meets."""
    if verdict.attack is AttackClass.OVERFLOW:
        taken = [one for grab in facts.grabs for one in _taken(grab, facts, bounds)]
        tries = [_class_limit(surge, bounds) for surge in hostile_surges(facts)]
        return _distinct([*taken, *tries, *_rung(facts, rung)])
    surges = hostile_surges(facts) or [s for s in facts.surges if s.direction is Direction.OUT]
    wanted = [_class_limit(surge, bounds) for surge in surges]
    if verdict.attack is AttackClass.SCAN:
        wanted += [_new_destinations(bounds), _fixed(TrafficClass.SYN, facts, bounds)]
    if verdict.attack is AttackClass.BRUTE_FORCE:
        wanted.append(_guessing(facts, bounds))
    if verdict.attack is AttackClass.SPOOF:
        wanted += [_new_destinations(bounds), *_disguised(facts, bounds)]
    return _distinct([*wanted, *_rung(facts, rung)])


def _rung(facts: Facts, rung: str) -> list[Wanted]:
    return [Wanted(LADDER[rung], f"found an attacker {facts.repetition + 1} times")] if rung in LADDER else []


def _taken(grab: Grab, facts: Facts, bounds: Bounds) -> list[Wanted]:
    """What holds a grab to the VM's own history: only of what it grabs."""
    reason = f"takes far more {grab.resource} than its history explains"
    value = bounds.factor * grab.tail
    match grab.resource:
        case Resource.CPU:
            return [] if grab.forks is None else slowed(grab.rate, grab.tail, bounds)  # see ``shared``
        case Resource.MEMORY:
            return [Wanted(LimitKind.MEMORY, reason, max(grab.tail / 1024, LEAST_MEMORY_KIB))]
        case Resource.DISK:
            return [Wanted(LimitKind.BLOCK_OCTETS, reason, max(value, LEAST_DISK))]
        case Resource.BLOCK:
            return [Wanted(LimitKind.BLOCK_OPERATIONS, reason, max(value, LEAST_BLOCK))]
        case Resource.CONNECTIONS:
            return [_new_destinations(bounds), _fixed(TrafficClass.SYN, facts, bounds)]


def relief(facts: Facts, bounds: Bounds) -> list[Wanted]:
    """What keeps a flood from outside away from its victim; attackers of this host are limited where they are.

    What a victim takes of others' CPU of its own accord it shares like everybody, and none is of use as a reflector.
    """
    own = tuple(grab for grab in facts.grabs if not set_going(facts, grab))
    wanted = shared(replace(facts, grabs=own), bounds)
    wanted += _throttled(facts, bounds) if facts.near_capacity else []
    reflected = amplified(facts)
    if reflected is not None:
        wanted.append(_class_limit(reflected[0], bounds))
    known = facts.guessed
    if known.dialogues and known.direction is Direction.IN:
        reason = f"{known.address} guesses at what port {known.port} asks for"
        wanted.append(Wanted(LimitKind.PEER, reason, GUESSES_PPS, Direction.IN, peer=known.address))
    if from_outside(facts):
        for surge in hostile_surges(facts, Direction.IN):
            wanted += _inbound(facts, surge, bounds)
    return _distinct(wanted)


def _throttled(facts: Facts, bounds: Bounds) -> list[Wanted]:
    """What leaves a service CPU for others: the few that press it keep a part each, since what they ask is in order."""
    found = pressed(facts)
    if found is None:
        return []
    surge, few = found
    return [
        Wanted(
            LimitKind.PEER,
            f"{peer.address} asks for more than all used to, and no CPU is left for others",
            round(max(size(surge.tail, bounds), KEPT_OF_UNCLEAR * peer.packets / facts.seconds), 1),
            Direction.IN,
            peer=peer.address,
        )
        for peer in few
    ]


def shared(facts: Facts, bounds: Bounds) -> list[Wanted]:
    """What leaves others CPU, of one that computes more than ever while they wait; it keeps a part, as no attacker."""
    return [
        Wanted(
            LimitKind.CPU,
            f"uses {grab.rate:.0%} of its CPU, usually at most {grab.tail:.0%}, while others wait for one",
            round(min(max(bounds.factor * grab.tail, KEPT_OF_UNCLEAR * grab.rate, LEAST_CPU), 1.0), 3),
        )
        for grab in facts.grabs
        if grab.resource is Resource.CPU and grab.harmful
    ]


def slowed(cpu: float, tail: float, bounds: Bounds) -> list[Wanted]:
    """What an attacker meets that uses more of its CPUs than its history explains while others wait for one.

    ``cpu`` and ``tail``, its own 95th percentile, are shares of its CPUs.
    """
    value = min(max(bounds.factor * tail, LEAST_CPU), 1.0)
    if cpu <= value:
        return []
    reason = f"uses {cpu:.0%} of its CPU, usually at most {tail:.0%}, while the host has none left"
    return [Wanted(LimitKind.CPU, reason, round(value, 3))]


def muffled(facts: Facts, bounds: Bounds) -> list[Wanted]:
    """What keeps a reflector from being of use."""
    return [_class_limit(s, bounds) for s in facts.surges if s.direction is Direction.OUT]


def _class_limit(surge: Surge, bounds: Bounds, least: float = 0.0) -> Wanted:
    value = max(size(surge.tail, bounds), least)
    way = "sends" if surge.direction is Direction.OUT else "gets"
    reason = f"{way} {surge.rate:,.0f} packets/s of class {surge.traffic.name}, usually at most {surge.tail:,.0f}"
    return Wanted(LimitKind.PACKETS, reason, value, surge.direction, surge.traffic)


def _fixed(traffic: TrafficClass, facts: Facts, bounds: Bounds) -> Wanted:
    tail = facts.tails[packet_metric(Direction.OUT, traffic)]
    return Wanted(LimitKind.PACKETS, "used for the attack", size(tail, bounds), Direction.OUT, traffic)


def _guessing(facts: Facts, bounds: Bounds) -> Wanted:
    """Fewer new connections; a VM of this host that is guessed at is kept from the guesser at its own port besides."""
    known, usual = facts.guessed, _fixed(TrafficClass.SYN, facts, bounds)
    if known.other != OUTSIDE or usual.value is None:
        return usual
    value = max(OF_GUESSES * known.dialogues / max(known.seconds, 1.0), LEAST_GUESSES_PPS)
    return replace(usual, value=round(min(usual.value, value), 3))


def _new_destinations(bounds: Bounds) -> Wanted:
    return Wanted(LimitKind.NEW_DESTINATIONS, "tries addresses that it has no business with", bounds.floor_pps)


def _inbound(facts: Facts, surge: Surge, bounds: Bounds) -> list[Wanted]:
    """By source where few sources outside send most of it; else SYNs by proof of source, other classes as a whole."""
    peers = facts.busiest(Direction.IN)
    inside = sum(peer.packets for peer in peers if peer.other != OUTSIDE)  # limited where they are
    total = max(sum(facts.side(Direction.IN).tried), sum(peer.packets for peer in peers)) - inside
    sources: list[Peer] = [peer for peer in hit(facts, surge) if peer.other == OUTSIDE][:FEW]
    if total and sum(peer.packets for peer in sources) >= MOST_OF_IT * total:
        value = size(surge.tail, bounds)
        return [
            Wanted(
                LimitKind.PEER,
                f"{peer.address} sends most of {surge.rate:,.0f} packets/s of class {surge.traffic.name}",
                value,
                Direction.IN,
                peer=peer.address,
            )
            for peer in sources
        ]
    if surge.traffic is not TrafficClass.SYN:
        return [_class_limit(surge, bounds)]
    reason = f"gets {surge.rate:,.0f} SYN/s, usually at most {surge.tail:,.0f}, and no few sources send most of it"
    proof = Wanted(LimitKind.SOURCE_PROOF, reason, direction=Direction.IN)
    return [proof, _class_limit(surge, bounds)] if _proven(facts) else [proof]


def _proven(facts: Facts) -> bool:
    """Whether sources prove themselves and flood all the same: of what a limit looks at, most is let through."""
    syns = facts.side(Direction.IN)
    tried, passed = syns.tried[TrafficClass.SYN], syns.passed[TrafficClass.SYN]
    return facts.seconds >= PROOF_S and 0 < tried - passed < (1 - MOST_OF_IT) * tried


def _distinct(wanted: Iterable[Wanted]) -> list[Wanted]:
    return list({one.place: one for one in reversed(list(wanted))}.values())[::-1]
