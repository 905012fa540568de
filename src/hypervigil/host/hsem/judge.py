"""From the facts of a case to a verdict, or to none yet. Pure: the same facts give the same verdict, whenever asked."""

from hypervigil.host.hsem import explain
from hypervigil.host.hsem.conduct import EVERYWHERE, MOST, STREAM_PPS, Conduct
from hypervigil.host.hsem.crowd import pressed
from hypervigil.host.hsem.facts import Accusation, Facts, Surge
from hypervigil.host.hsem.forged import AGAIN_S, MIN_PARTS, MIN_SENDERS, played, senders
from hypervigil.host.hsem.guesses import guesses
from hypervigil.host.hsem.resources import Grab, Resource
from hypervigil.host.hsem.ruling import of_mining, of_outside, of_unasked, ruling
from hypervigil.host.hsem.scans import FEW_COMPLETED, scanned, slow_probe, slow_sweep, swept
from hypervigil.host.hsem.sides import Peer
from hypervigil.host.hsem.unasked import unasked
from hypervigil.model.guest import UNANSWERED
from hypervigil.model.ids import OUTSIDE, VmId
from hypervigil.model.status import AttackClass, Role, Verdict
from hypervigil.model.traffic import Direction, TrafficClass

MIN_REPORTS = 3
MIN_SURGE_S = 0.4
"""A verdict needs to see an anomaly this long in at least ``MIN_REPORTS`` reports, or to have seen its end."""
ENDED_S = 0.6
MIN_PACKETS = 100.0
"""A burst is an attack only if it was at least this many packets above what is usual."""
CLEAR_AFTER_S = 3.0
"""Whoever conducts himself honestly for so long is cleared."""
UNHEARD_S = 4.0
"""A stream that nobody answers for so long is no conversation: receivers report at first after 2.5 s (RFC 3550)."""
REFUSED_FOR_S = 5.0
"""Who asks by UDP, no faster than a stream, may be so much ahead of a service that starts."""
AWAIT_ACCUSER_S = 10.0
"""Whoever is hit from inside waits so long for the verdict on the other end."""
AWAIT_ANSWER_S = 10.0
"""Whose agent reports and leaves a question unanswered is cleared no sooner: no answer is no all-clear. Nor is it a
ground for anything: who hurts nobody is cleared then all the same."""
GIVE_UP_S = 29.0
"""Whoever is under suspicion for so long without a verdict is cleared: limits before proof are bounded."""
HELD_S = 20.0
"""A copy to outside is held for so long."""
AMPLIFIED = 10.0
"""Bytes answered per byte asked: what a reflector is abused for. An ordinary DNS answer is a few times its question."""
_REQUESTS = frozenset({TrafficClass.UDP, TrafficClass.DNS, TrafficClass.FRAGMENT, TrafficClass.OTHER})
"""Besides what is a request by its kind (see ``grabs``)."""
MIN_UNREACHABLE = 3.0
"""So often the abused address says that it asked for nothing, before UDP other than DNS is taken for reflection."""


def judge(facts: Facts) -> Verdict | None:
    """The verdict that these facts allow, or ``None`` while they allow none."""
    for rule in (
        _spoof,
        _scan,
        _guessed,
        _flood,
        _seized,
        _accused,
        _flooded,
        _unasked,
        _reflected,
        _pressed,
        _mining,
        _grabbed,
        _overloaded,
        _suspected,
        _cleared,
    ):
        verdict = rule(facts)
        if verdict is not None:
            return verdict
    return None


def settled(facts: Facts) -> bool:
    """Whether enough was seen to judge: long enough, or to its end."""
    last = facts.last_surge_at
    if facts.reports >= MIN_REPORTS and last - facts.opened_at >= MIN_SURGE_S:
        return True
    return facts.at - last >= ENDED_S


def _spoof(facts: Facts) -> Verdict | None:
    parts, others = played(facts.forged), senders(facts.forged)
    if parts < MIN_PARTS and others < MIN_SENDERS:
        return None
    return ruling(
        facts,
        Role.ATTACKER,
        AttackClass.SPOOF,
        evidence=explain.forged(facts),
        cause=explain.forged_cause(facts),
        counterfactual="would be CLEARED if its frames bore its own MAC and the addresses that are bound to it; if "
        "they are its own, add them to the policy",
        confidence=0.95 if others >= MIN_SENDERS else 0.85,
    )


def _scan(facts: Facts) -> Verdict | None:
    """Many ports of one host, or many hosts, and few of the tries come to anything."""
    for peer in scanned(facts):
        return ruling(
            facts,
            Role.ATTACKER,
            AttackClass.SCAN,
            evidence=explain.ports(facts, peer),
            cause=explain.ports_cause(facts, peer),
            counterfactual=f"would be CLEARED if more than {FEW_COMPLETED:.0%} of its tries were accepted",
            confidence=0.9,
            target=peer.other,
        )
    if slow_sweep(facts.vain) or slow_probe(facts.vain):
        return ruling(
            facts,
            Role.ATTACKER,
            AttackClass.SCAN,
            evidence=explain.vain(facts),
            cause=explain.vain_cause(facts, ports=slow_probe(facts.vain)),
            counterfactual="would be CLEARED if those that it tried had answered, or others that it newly tries",
            confidence=0.8,
            target=facts.vain.other if slow_probe(facts.vain) else None,
        )
    if not swept(facts):
        return None
    return ruling(
        facts,
        Role.ATTACKER,
        AttackClass.SCAN,
        evidence=explain.hosts(facts),
        cause=explain.hosts_cause(facts),
        counterfactual=f"would be CLEARED if more than {FEW_COMPLETED:.0%} of the addresses that it tries answered",
        confidence=0.85,
    )


def _guessed(facts: Facts) -> Verdict | None:
    """One short dialogue with a service after the other, and each ends alike."""
    known = facts.guessed
    out = known.direction is Direction.OUT
    if not guesses(known) or not (out or known.other == OUTSIDE):
        return None
    return ruling(
        facts,
        Role.ATTACKER if out else Role.VICTIM,
        AttackClass.BRUTE_FORCE,
        evidence=explain.guessed(facts),
        cause=explain.guessed_cause(facts),
        counterfactual="would be CLEARED if one of these dialogues had come to more than the others, or if the "
        "same had been said in each",
        confidence=0.85 if known.varied >= 2 else 0.75,
        target=known.other,
    )


def hostile_surges(facts: Facts, direction: Direction = Direction.OUT) -> list[Surge]:
    """Surges that are attacks by the one who sends, by how they are meant, the largest first."""
    found = [
        surge
        for surge in facts.surges
        if surge.direction is direction
        and facts.side(direction).excess(surge.traffic) >= MIN_PACKETS / 2
        and _is_hostile(facts, surge)
    ]
    return sorted(found, key=lambda s: -facts.of(direction, s.traffic))


def _is_hostile(facts: Facts, surge: Surge) -> bool:
    meant = facts.conduct(surge.direction, surge.traffic)
    if meant is not Conduct.UNCLEAR or surge.traffic not in {TrafficClass.UDP, TrafficClass.DNS}:
        return meant is Conduct.HOSTILE and not _too_early(facts, surge)
    return surge.last_at - surge.first_at >= UNHEARD_S and facts.unheard(surge.direction, surge.traffic)


def _too_early(facts: Facts, surge: Surge) -> bool:
    """Whether datagrams that are refused, no faster than a stream, may only be ahead of a service that starts."""
    return (
        (surge.direction, surge.traffic) == (Direction.OUT, TrafficClass.UDP)
        and surge.rate <= STREAM_PPS
        and facts.at - surge.last_at < ENDED_S
        and surge.last_at - surge.first_at < REFUSED_FOR_S
    )


def hit(facts: Facts, surge: Surge) -> list[Peer]:
    """Whom a surge hits: the peers that it can have gone to, the busiest first."""
    peers = facts.busiest(surge.direction)
    if surge.traffic is TrafficClass.RST:  # only what goes back tells by which kind it went
        resets = {p.address: p.resets for p in facts.peers if p.direction is not surge.direction}
        most = max((resets.get(peer.address, 0.0) for peer in peers), default=0.0)
        peers = [peer for peer in peers if resets.get(peer.address, 0.0) >= MOST * most]
    elif surge.traffic is TrafficClass.TCP:  # with whom it converses it has nothing to do
        peers = [peer for peer in peers if peer.answers - peer.resets < 0.5 * peer.packets] or peers
    else:
        peers = [peer for peer in peers if peer.openings >= 0.4 * peer.packets] or peers
    return [p for p in peers if p.packets >= max(MIN_PACKETS / 2, 0.2 * peers[0].packets)]


def _flood(facts: Facts) -> Verdict | None:
    surges = hostile_surges(facts)
    if not surges or not settled(facts):
        return None
    worst = surges[0]
    if facts.side(Direction.OUT).excess(worst.traffic) < MIN_PACKETS:
        return None
    peers = hit(facts, worst)
    hoards = explain.hoards(facts, worst)
    return ruling(
        facts,
        Role.ATTACKER,
        # Tries of which a server that is full takes no more: its table is what was attacked.
        AttackClass.OVERFLOW if hoards else AttackClass.FLOOD,
        evidence=[*explain.flood(facts, worst, peers[:1]), *(explain.held(facts) if hoards else [])],
        cause=explain.flood_cause(facts, worst, peers[:1]),
        counterfactual=explain.flood_counterfactual(worst.traffic),
        confidence=0.95 if facts.reports >= MIN_REPORTS else 0.8,
        target=peers[0].other if peers else None,
    )


def accused_by(facts: Facts, verdict: Verdict) -> dict[VmId, Accusation]:
    """Whom an attacker attacks, by what it attempted."""
    found: dict[VmId, tuple[float, str]] = {}
    if verdict.attack is AttackClass.SCAN:
        if slow_probe(facts.vain):
            found[facts.vain.other] = (facts.vain.ports, "tries of many ports over hours")
        found |= {peer.other: (peer.packets, "tries of many ports") for peer in scanned(facts)}
    elif verdict.attack is AttackClass.BRUTE_FORCE:
        found[facts.guessed.other] = (facts.guessed.dialogues, explain.LOGINS)
    elif verdict.attack in {AttackClass.FLOOD, AttackClass.OVERFLOW}:
        for grab in facts.grabs:
            if grab.resource is Resource.CONNECTIONS and grab.harmful and grab.sufferer is not None:
                begun = sum(peer.openings for peer in facts.busiest(Direction.OUT) if peer.other == grab.sufferer)
                found[grab.sufferer] = (max(begun, grab.rate), explain.EMPTY)
        for surge in hostile_surges(facts):
            for peer in hit(facts, surge):
                found.setdefault(peer.other, (peer.packets, surge.traffic.name))
    return {
        other: Accusation(facts.vm, facts.case, str(verdict.attack), traffic, packets)
        for other, (packets, traffic) in found.items()
        if other not in {facts.vm, OUTSIDE}
    }


def _accused(facts: Facts) -> Verdict | None:
    """Whom an attacker of this host tried to hit is its victim, however soon it was contained."""
    if not facts.accusations:
        return None
    worst = max(facts.accusations, key=lambda a: a.packets)
    return ruling(
        facts,
        Role.VICTIM,
        AttackClass(worst.attack),
        evidence=explain.accused(facts),
        cause=explain.accused_cause(facts, worst),
        counterfactual=f"would be CLEARED if {worst.attacker} were not found to attack it",
        confidence=0.9,
        target=worst.attacker,
    )


def from_outside(facts: Facts) -> bool:
    """Whether most of what comes in comes from outside."""
    peers = facts.busiest(Direction.IN)
    outside = [peer for peer in peers if peer.other == OUTSIDE]
    total = sum(peer.packets for peer in peers)
    if outside and sum(peer.packets for peer in outside) >= total / 2:
        return True
    # Many sources of few packets each: most are not told by name, and are like most of those that are.
    into = facts.side(Direction.IN)
    untold = sum(into.tried) - total
    if len(outside) <= len(peers) / 2:
        return False
    # A neighbour may flood as well, and by more: what comes from everywhere beside it is a flood for all that.
    return untold >= total or (facts.fan_in >= EVERYWHERE and untold >= sum(into.usual) + MIN_PACKETS)


def _flooded(facts: Facts) -> Verdict | None:
    """A flood from outside: nobody of this host is to blame."""
    surges = hostile_surges(facts, Direction.IN)
    if not surges or not from_outside(facts) or not settled(facts):
        return None
    worst = surges[0]
    if facts.side(Direction.IN).excess(worst.traffic) < MIN_PACKETS:
        return None
    return ruling(
        facts,
        Role.VICTIM,
        AttackClass.FLOOD,
        evidence=explain.flood(facts, worst, [p for p in hit(facts, worst) if p.other == OUTSIDE][:1]),
        cause=explain.flooded_cause(facts, worst),
        counterfactual=explain.flood_counterfactual(worst.traffic),
        confidence=0.85,
        target=OUTSIDE,
    )


def _unasked(facts: Facts) -> Verdict | None:
    """Others answer what somebody asked in its name: it is meant to bear that, or is only the name."""
    if not unasked(facts.found.unasked):
        return None
    return of_unasked(facts)


def amplified(facts: Facts) -> tuple[Surge, Peer, float] | None:
    """A surge of answers to one address, whose requests surge too, and how many times larger they are."""
    asked = {p.address: p for p in facts.peers if p.direction is Direction.IN and p.asks and p.octets}
    surges = {(surge.direction, surge.traffic): surge for surge in facts.surges}
    for traffic in (TrafficClass.DNS, TrafficClass.UDP):
        surge = surges.get((Direction.OUT, traffic))
        if surge is None or (Direction.IN, traffic) not in surges:
            continue
        if traffic is TrafficClass.UDP and facts.failures < MIN_UNREACHABLE:
            continue
        for peer in facts.busiest(Direction.OUT)[:3]:
            request = asked.get(peer.address)
            if request is not None and peer.openings <= peer.packets / 5:
                times = peer.octets / request.octets
                if times >= AMPLIFIED:
                    return surge, peer, times
    return None


def _reflected(facts: Facts) -> Verdict | None:
    """It answers, much larger, what somebody asks in a surge: whoever asked forged the sender, or soon will."""
    found = amplified(facts)
    if found is None or not settled(facts):
        return None
    surge, peer, times = found
    return ruling(
        facts,
        Role.REFLECTOR,
        AttackClass.REFLECTION,
        evidence=explain.flood(facts, surge, [peer]),
        cause=f"{facts.vm} answers {peer.address} with {times:.0f} times the bytes of what it is asked: it amplifies "
        "somebody's forged requests",
        counterfactual="would be CLEARED if its answers were not much larger than what it is asked",
        confidence=0.8,
        target=peer.other,
    )


def _worst_grab(facts: Facts) -> Grab | None:
    return max(facts.grabs, key=_weight, default=None)


def _weight(grab: Grab) -> tuple[bool, float, float]:
    """Harmful ones first."""
    return grab.harmful, grab.cost, grab.rate / max(grab.tail, 1e-9)


def _seized(facts: Facts) -> Verdict | None:
    """Far more of a resource than ever, others bear it, and nobody had set it going: whatever comes in since.

    To compute is no attack, however much: the host shares its CPUs, and may have too few. Of who begins processes
    instead, in such numbers as never before, the host would know nothing without the VM's own word.
    """
    # What is no attack hides none that goes on beside it, at however much less cost.
    blamed = max((one for one in facts.grabs if one.blamable), key=_weight, default=None)
    worst = _worst_grab(facts)
    if blamed is None or worst is None or hostile_surges(facts):
        return None
    if any(set_going(facts, one) for one in (blamed, worst)):
        return None
    return _of_grab(facts, blamed, Role.ATTACKER, blamed.sufferer)


def _grabbed(facts: Facts) -> Verdict | None:
    """The same, set going by others, or its own business."""
    worst = _worst_grab(facts)
    if worst is None or hostile_surges(facts, Direction.IN) or hostile_surges(facts):
        return None
    if worst.harmful and (worst.resource is not Resource.CPU or set_going(facts, worst)):
        return _of_grab(facts, worst, Role.VICTIM, _most_asking(facts))
    return _of_grab(facts, worst, Role.OVERLOADED, None)


def _of_grab(facts: Facts, worst: Grab, role: Role, target: VmId | None) -> Verdict:
    return ruling(
        facts,
        role,
        AttackClass.OVERFLOW if worst.harmful else AttackClass.NONE,
        evidence=explain.grabs(facts),
        cause=explain.grab_cause(facts, worst, role),
        counterfactual=explain.grab_counterfactual(role, worst),
        confidence=0.8 if worst.harmful else 0.7,
        target=target,
    )


def set_going(facts: Facts, grab: Grab) -> bool:
    """Whether others began to ask for more, or to attack, before it; answers to its own questions are neither."""
    if grab.caused:
        return True
    before = [s for s in facts.surges if s.direction is Direction.IN and s.first_at <= grab.first_at]
    asked = any(peer.asks for peer in facts.busiest(Direction.IN)[:1])
    return any((s.traffic in _REQUESTS and asked) or _is_hostile(facts, s) for s in before)


def _most_asking(facts: Facts) -> VmId:
    peers = facts.busiest(Direction.IN)
    return peers[0].other if peers else OUTSIDE


def _pressed(facts: Facts) -> Verdict | None:
    """A few ask for more than it has CPU for, each request in order: they need not be attackers, it is their victim."""
    found = pressed(facts) if facts.near_capacity else None
    if found is None:
        return None
    surge, few = found
    return ruling(
        facts,
        Role.VICTIM,
        AttackClass.FLOOD,
        evidence=[*explain.capacity(facts), *explain.flood(facts, surge, few[:1])[1:]],
        cause=explain.pressed_cause(facts, surge, few),
        counterfactual="would be OVERLOADED if the requests came from many, and CLEARED if its CPU sufficed for them",
        confidence=0.8,
        target=few[0].other,
    )


def _mining(facts: Facts) -> Verdict | None:
    """At its capacity by its own work, on the word of somebody outside: that is told, and proves nothing."""
    if not facts.found.mining.seconds or hostile_surges(facts, Direction.IN) or hostile_surges(facts):
        return None
    return of_mining(facts)


def _overloaded(facts: Facts) -> Verdict | None:
    """At its capacity, by its own work or by more honest requests than it can serve."""
    if not facts.near_capacity or hostile_surges(facts, Direction.IN) or hostile_surges(facts):
        return None
    return ruling(
        facts,
        Role.OVERLOADED,
        AttackClass.OVERFLOW if facts.contention and not _asked(facts) else AttackClass.NONE,
        evidence=explain.capacity(facts),
        cause=explain.overloaded_cause(facts),
        counterfactual="would be CLEARED if it stayed below its capacity",
        confidence=0.7,
    )


def _asked(facts: Facts) -> bool:
    """Whether more than usual is asked of it."""
    return any(surge.direction is Direction.IN for surge in facts.surges)


def _suspected(facts: Facts) -> Verdict | None:
    """What it does outside is told, and proves nothing; a copy is held for a while first, so that somebody may look."""
    upload, beacon = facts.found.upload, facts.found.beacon
    if _too_soon(facts) or not (upload.octets or beacon.dialogues):
        return None
    if upload.octets and facts.at - upload.held_from < HELD_S and facts.at - facts.opened_at < GIVE_UP_S:
        return None
    if facts.at - facts.opened_at < GIVE_UP_S and (hostile_surges(facts) or _unclear(facts)):
        return None
    return of_outside(facts)


def _cleared(facts: Facts) -> Verdict | None:
    age = facts.at - facts.opened_at
    if _too_soon(facts):
        return None
    if age < GIVE_UP_S and (hostile_surges(facts) or _unclear(facts)):
        return None
    if age < AWAIT_ACCUSER_S and hostile_surges(facts, Direction.IN):
        return None
    if facts.found.upload.octets and age < GIVE_UP_S:
        return None
    if played(facts.forged) and age < AGAIN_S:
        return None
    return ruling(
        facts,
        Role.CLEARED,
        AttackClass.NONE,
        evidence=explain.surges(facts),
        cause=explain.cleared_cause(facts),
        counterfactual="would be an ATTACKER if its tries were ignored or broken off",
        confidence=0.9 if age < GIVE_UP_S else 0.5,
    )


def _too_soon(facts: Facts) -> bool:
    """Whether its case is too young for it to be cleared."""
    owes = any(fact.kind == UNANSWERED for fact in facts.told)
    return facts.at - facts.opened_at < (AWAIT_ANSWER_S if owes else CLEAR_AFTER_S)


def _unclear(facts: Facts) -> bool:
    """Whether a surge that is going on may still turn out to be an attack."""
    going_on = [surge for surge in facts.surges if facts.at - surge.last_at < ENDED_S]
    if any(_too_early(facts, s) and facts.conduct(s.direction, s.traffic) is Conduct.HOSTILE for s in going_on):
        return True
    unclear = any(facts.conduct(surge.direction, surge.traffic) is Conduct.UNCLEAR for surge in going_on)
    return unclear and facts.at - facts.opened_at < 2 * UNHEARD_S
