"""Evidence and sentences that a person can act on: the cause, and the few numbers against their history. Pure."""

from collections.abc import Sequence

from hypervigil.host.hsem.facts import Accusation, Facts, Surge
from hypervigil.host.hsem.resources import Forks, Grab, Resource
from hypervigil.host.hsem.sides import Peer
from hypervigil.model.ids import HOST, OUTSIDE, VmId
from hypervigil.model.status import Evidence, Origin, Role
from hypervigil.model.traffic import Direction, ForgedKind, TrafficClass

_NAMES = {
    TrafficClass.SYN: "connection tries (SYN)",
    TrafficClass.SYNACK: "SYN-ACKs",
    TrafficClass.RST: "resets",
    TrafficClass.TCP: "TCP packets",
    TrafficClass.DNS: "DNS packets",
    TrafficClass.UDP: "UDP packets",
    TrafficClass.ICMP: "ICMP packets",
    TrafficClass.ARP: "ARP and neighbour requests",
    TrafficClass.FRAGMENT: "fragments",
    TrafficClass.MULTICAST: "multicast and broadcast frames",
    TrafficClass.OTHER: "packets of other protocols",
}


def surge(vm: VmId, one: Surge) -> Evidence:
    """More of a class than history explains."""
    way = "sends" if one.direction is Direction.OUT else "gets"
    kind = "outbound-surge" if one.direction is Direction.OUT else "inbound-surge"
    known = "own 95th percentile" if one.samples else "presumed 95th percentile"
    return Evidence(
        vm=vm,
        kind=kind,
        origin=Origin.HOST_OBSERVED,
        at=one.last_at,
        value=one.rate,
        baseline=one.tail,
        unit="packets/s",
        text=f"{vm} {way} {one.rate:,.0f} {_NAMES[one.traffic]} a second; its {known} is {one.tail:,.0f}",
    )


def surges(facts: Facts) -> list[Evidence]:
    """Every surge of the case."""
    return [surge(facts.vm, one) for one in facts.surges]


LOGINS = "logins at one service"
EMPTY = "connections on which nothing is said"
"""What an accusation counts instead of packets."""


def _fact(facts: Facts, kind: str, value: float, unit: str, text: str) -> Evidence:
    return Evidence(facts.vm, kind, Origin.HOST_OBSERVED, facts.at, float(value), None, unit, text)


def flood(facts: Facts, worst: Surge, peers: Sequence[Peer]) -> list[Evidence]:
    """A surge, to or from whom, and what became of the tries."""
    found = [surge(facts.vm, worst)]
    for peer in peers:
        way = "to" if peer.direction is Direction.OUT else "from"
        found.append(
            _fact(
                facts, "pair", peer.packets, "packets", f"{peer.packets:,.0f} packets {way} {_end(peer)} in this case"
            )
        )
    out = worst.direction is Direction.OUT
    asked = facts.of(worst.direction, TrafficClass.SYN)
    if worst.traffic is TrafficClass.SYN and asked:
        answered = facts.of(Direction.IN if out else Direction.OUT, TrafficClass.SYNACK) / asked
        broken = facts.of(worst.direction, TrafficClass.RST) / asked
        text = f"{answered:.0%} of the tries were answered, {broken:.0%} broken off by the one who asked"
        found.append(_fact(facts, "unanswered", answered, "of tries", text))
    elif peers and peers[0].packets:
        answered = peers[0].answers / peers[0].packets
        found.append(_fact(facts, "unanswered", answered, "of packets", f"{answered:.0%} of the packets were answered"))
    return found


def held(facts: Facts) -> list[Evidence]:
    """Connections that it hoards meanwhile."""
    text = (
        f"{facts.held:,.0f} connections, beyond what its history allows, were accepted of it, and it asks nothing there"
    )
    return [_fact(facts, "held", facts.held, "connections", text)]


def flood_cause(facts: Facts, worst: Surge, peers: Sequence[Peer]) -> str:
    """One sentence."""
    times = f"{worst.rate / worst.tail:,.0f} times" if worst.tail >= 1 else "far above"
    whom = f" to {_end(peers[0])}" if peers else ""
    full = f": {facts.held:,.0f} others were accepted, and it asks nothing on them"
    return (
        f"{facts.vm} sends {worst.rate:,.0f} {_NAMES[worst.traffic]} a second{whom}, {times} its usual peak of "
        f"{worst.tail:,.0f}, and they lead to nothing{full if hoards(facts, worst) else ''}"
    )


def hoards(facts: Facts, worst: Surge) -> bool:
    """Whether tries lead to nothing because the server is full of what they came to before."""
    return worst.traffic is TrafficClass.SYN and worst.direction is Direction.OUT and facts.held > 0


def flooded_cause(facts: Facts, worst: Surge) -> str:
    """One sentence."""
    sources = f"{facts.fan_in:,.0f} source{'' if facts.fan_in == 1 else 's'}"
    return (
        f"{facts.vm} gets {worst.rate:,.0f} {_NAMES[worst.traffic]} a second from {sources} outside, against a usual "
        f"peak of {worst.tail:,.0f}, and they lead to nothing"
    )


def flood_counterfactual(traffic: TrafficClass) -> str:
    """What would have to be different."""
    if traffic is TrafficClass.SYN:
        return "would be CLEARED if at least half of the tries were answered and then taken up"
    if traffic is TrafficClass.ICMP:
        return "would be CLEARED if it only answered what others ask"
    return "would be CLEARED if at least half of the packets were answered"


def accused(facts: Facts) -> list[Evidence]:
    """Who attacks it, by what was attempted before any limit."""
    found = surges(facts)
    for one in facts.accusations:
        what = _counted(one)
        text = f"{one.attacker} attempted {one.packets:,.0f} {what} at it (case {one.case})"
        found.append(_fact(facts, "attacked-by", one.packets, what.split()[0], text))
    return found


def accused_cause(facts: Facts, worst: Accusation) -> str:
    """One sentence."""
    article = "an" if worst.attack.startswith("o") else "a"
    what = f"{article} {worst.attack} of {worst.packets:,.0f} {_counted(worst)}"
    return f"{facts.vm} is the target of {what} by {worst.attacker}"


def _counted(one: Accusation) -> str:
    return one.traffic if one.traffic in {LOGINS, EMPTY} else f"packets ({one.traffic})"


def ports(facts: Facts, peer: Peer) -> list[Evidence]:
    """Many ports of one host."""
    completed = (peer.answers - peer.resets) / peer.openings if peer.openings else 0.0
    return [
        _fact(
            facts, "ports-tried", peer.ports, "ports", f"at least {peer.ports} ports of {_end(peer)} within two seconds"
        ),
        _fact(
            facts,
            "unanswered",
            max(completed, 0.0),
            "of tries",
            f"{max(completed, 0.0):.0%} of the tries were accepted",
        ),
    ]


def ports_cause(facts: Facts, peer: Peer) -> str:
    """One sentence."""
    return f"{facts.vm} tries port after port of {_end(peer)} ({peer.openings:,.0f} tries), and hardly any is accepted"


def hosts(facts: Facts) -> list[Evidence]:
    """Many hosts."""
    text = f"{facts.new_destinations:,.0f} addresses that it never talked to, up to {facts.fan_out:,.0f} in a second"
    return [
        _fact(facts, "fan-out", facts.new_destinations, "addresses", text),
        _fact(facts, "failures", facts.failures, "tries", f"{facts.failures:,.0f} tries were refused or unreachable"),
    ]


def hosts_cause(facts: Facts) -> str:
    """One sentence."""
    return f"{facts.vm} tries {facts.new_destinations:,.0f} addresses that it never talked to, and hardly any answers"


def vain(facts: Facts) -> list[Evidence]:
    """Tries in vain over hours."""
    known = facts.vain
    hosts = f"{known.hosts} addresses that it never talked to were tried in {_span(known.seconds)}, and none answered"
    ports = f"{known.ports} ports of {known.address} were tried, and none accepted"
    return [
        _fact(facts, "slow-fan-out", known.hosts, "addresses", hosts),
        _fact(facts, "slow-ports", known.ports, "ports", ports),
    ]


def vain_cause(facts: Facts, *, ports: bool) -> str:
    """One sentence."""
    known = facts.vain
    what = f"{known.ports} ports of {known.address}" if ports else f"{known.hosts} addresses that it never talked to"
    return f"{facts.vm} tries {what} one after the other within {_span(known.seconds)}, and none answers"


def guessed(facts: Facts) -> list[Evidence]:
    """Dialogues that ended alike."""
    known = facts.guessed
    ends = f"{known.dialogues} dialogues with {_service(facts)} in {_span(known.seconds)} that ended alike"
    varied = f"in {known.varied} of them the client said more or less than in the one before"
    lasted = f"each took {known.lasted_s:.1f} s, as where whoever is refused is made to wait"
    return [
        _fact(facts, "refused-alike", known.dialogues, "dialogues", ends),
        _fact(facts, "varied", known.varied, "dialogues", varied),
        _fact(facts, "lasted", known.lasted_s, "s", lasted),
    ]


def guessed_cause(facts: Facts) -> str:
    """One sentence."""
    known = facts.guessed
    tries = f"{known.dialogues} tries in {_span(known.seconds)}"
    if known.direction is Direction.OUT:
        return f"{facts.vm} guesses at what {_service(facts)} asks for: {tries}, refused alike each time"
    return f"{known.address} outside guesses at what {_service(facts)} asks for: {tries}, refused alike each time"


def _service(facts: Facts) -> str:
    known = facts.guessed
    if known.direction is Direction.IN:
        return f"port {known.port} of {facts.vm}"
    return f"port {known.port} of " + (f"{known.address} outside" if known.other == OUTSIDE else str(known.other))


def _span(seconds: float) -> str:
    return f"{seconds / 60:,.0f} minutes" if seconds >= 120 else f"{seconds:,.0f} s"


def unasked(facts: Facts) -> list[Evidence]:
    """SYN-ACKs that it asked nobody for."""
    known = facts.found.unasked
    hosts = f"{known.hosts} host{'' if known.hosts == 1 else 's'} outside"
    text = f"{known.packets:,.0f} SYN-ACKs of {hosts} in {_span(known.seconds)}, and it had asked none of them"
    return [_fact(facts, "unasked", known.packets, "packets", text)]


def unasked_cause(facts: Facts) -> str:
    """One sentence."""
    known = facts.found.unasked
    hosts = f"{known.hosts} host{'' if known.hosts == 1 else 's'} outside"
    return (
        f"{facts.vm} gets SYN-ACKs of {hosts} that it asked nothing, {known.packets:,.0f} in {_span(known.seconds)}: "
        "somebody sends connection tries in its name"
    )


def suspicions(facts: Facts) -> list[Evidence]:
    """What it does with hosts outside, and cannot be told from what others do there for good reason."""
    found, beacon, upload = [], facts.found.beacon, facts.found.upload
    if upload.octets:
        text = (
            f"{facts.vm} sends {upload.rate:,.0f} octets a second to {upload.address} outside, "
            f"{upload.octets / 1e6:,.1f} MB in {upload.seconds:,.0f} s; the 95th percentile of all that it sends is "
            f"{upload.tail:,.0f}"
        )
        unit = "octets/s"
        found.append(
            Evidence(facts.vm, "upload", Origin.HOST_OBSERVED, upload.at, upload.rate, upload.tail, unit, text)
        )
        back = upload.back / upload.octets
        found.append(_fact(facts, "one-sided", back, "of octets", f"{back:.1%} of as many octets came back"))
    if beacon.dialogues:
        text = (
            f"{beacon.dialogues} dialogues of {facts.vm} with {beacon.address} outside, one each {beacon.beat_s:.1f} s "
            f"within {beacon.spread_s:.1f} s, about {beacon.said:,.0f} octets there and {beacon.heard:,.0f} back"
        )
        found.append(_fact(facts, "beacon", beacon.beat_s, "s", text))
    mining = facts.found.mining
    if mining.seconds:
        text = (
            f"{facts.vm} has used {mining.cpu:.0%} and more of its CPU for {_span(mining.seconds)}, usually at most "
            f"{mining.cpu_tail:.0%}, and meanwhile one small talk with {mining.address} outside went on: "
            f"{mining.said / mining.seconds:,.0f} octets a second there and {mining.heard / mining.seconds:,.0f} back, "
            f"in {mining.messages} of the seconds"
        )
        found.append(_fact(facts, "mining-like", mining.seconds, "s", text))
    return found


def upload_cause(facts: Facts) -> str:
    """One sentence."""
    known = facts.found.upload
    times = f"{known.rate / known.tail:,.0f} times" if known.tail >= 1 else "far above"
    return (
        f"{facts.vm} copied {known.octets / 1e6:,.1f} MB and more to {known.address} outside, {times} what it usually "
        "sends in all: a backup looks the same, so nobody is blamed; whoever knows of none looks into it, and closes "
        "the address in the policy"
    )


def mining_cause(facts: Facts) -> str:
    """One sentence."""
    known = facts.found.mining
    return (
        f"{facts.vm} computes at its capacity, as never before, and all the while is told a little by {known.address} "
        "outside and says a little, as miners do: whoever computes for others looks the same, so nobody is blamed; "
        "whoever knows of no such work looks into it"
    )


def beacon_cause(facts: Facts) -> str:
    """One sentence."""
    known = facts.found.beacon
    return (
        f"{facts.vm} began to say the same to {known.address} outside each {known.beat_s:.1f} s: a program that asks "
        "for news looks the same, so nobody is blamed; whoever knows of none looks into it, and closes the address in "
        "the policy"
    )


def forged(facts: Facts) -> list[Evidence]:
    """Forged frames by kind."""
    return [
        _fact(facts, "forged", frames, "frames", f"{frames:,} frames with a forged {ForgedKind(kind).words}")
        for kind, frames in enumerate(facts.forged)
        if frames
    ]


def forged_cause(facts: Facts) -> str:
    """One sentence."""
    worst = ForgedKind(max(range(len(facts.forged)), key=lambda kind: facts.forged[kind]))
    count = f"{sum(facts.forged):,} frames that are not its to send"
    return f"{facts.vm} sent {count}, most with a forged {worst.words}"


def capacity(facts: Facts) -> list[Evidence]:
    """How near to its capacity, against its history, who waits meanwhile, and what it was asked for."""
    found = []
    if facts.cpu is not None:
        text = f"{facts.vm} uses {facts.cpu:.0%} of its CPU; its own 95th percentile is {facts.cpu_tail:.0%}"
        found.append(
            Evidence(facts.vm, "cpu", Origin.HOST_OBSERVED, facts.at, facts.cpu, facts.cpu_tail, "of its CPU", text)
        )
    if facts.contention:
        text = f"another VM waits for a CPU {facts.contention:.0%} of the time"
        found.append(_fact(facts, "contention", facts.contention, "of the time", text))
    return [*found, *surges(facts)]


def _amount(grab: Grab, value: float) -> str:
    match grab.resource:
        case Resource.CPU:
            return f"{value:.0%} of its CPU"
        case Resource.MEMORY:
            return f"{value / 1e6:,.0f} MB of memory"
        case Resource.DISK:
            return f"{value / 1e6:,.1f} MB/s of the disk"
        case _:
            return f"{value:,.0f} {grab.resource} a second"


def grabs(facts: Facts) -> list[Evidence]:
    """Resources far above history, what that costs others, and what was asked first."""
    found = []
    for one in facts.grabs:
        unit = "of its CPU" if one.resource is Resource.CPU else "bytes" if one.resource is Resource.MEMORY else "/s"
        text = f"{facts.vm} takes {_amount(one, one.rate)}; its own 95th percentile is {_amount(one, one.tail)}"
        found.append(
            Evidence(facts.vm, "resource-grab", Origin.HOST_OBSERVED, one.last_at, one.rate, one.tail, unit, text)
        )
        if one.cost >= 1:
            what = "suffers" if not one.waits else f"waits {one.waits:.0%} of the time for a CPU,"
            if one.denied:
                what = f"leaves {one.denied:.0%} of what others begin there without an answer,"
            if one.unended:
                what = f"has {one.unended:,.0f} connections of it on which it ends nothing that it begins to say,"
            text = f"{_whom(one)} {what} {one.cost:.1f} times of what is bearable"
            found.append(_fact(facts, "at-others-cost", one.cost, "times", text))
        if one.forks is not None:
            found.append(_forks(facts, one, one.forks))
        if one.storm is not None:
            rate, usual = one.storm.rate, one.storm.tail
            text = f"it asks the hypervisor {rate:,.0f} times a second; its own 95th percentile is {usual:,.0f}"
            found.append(
                Evidence(facts.vm, "request-storm", Origin.HOST_OBSERVED, one.last_at, rate, usual, "/s", text)
            )
        if one.beyond and one.bound is not None:
            text = f"it was given {_amount(one, one.bound)}"
            found.append(_fact(facts, "beyond-its-grant", one.rate / one.bound, "times", text))
        if one.asked_at is not None:
            ahead = one.first_at - one.asked_at
            text = f"more than usual was asked of it {abs(ahead):,.0f} s {'before' if ahead >= 0 else 'after'} that"
            found.append(_fact(facts, "asked-first", ahead, "s", text))
    return [*found, *surges(facts)]


def _forks(facts: Facts, one: Grab, forks: Forks) -> Evidence:
    text = f"its own agent tells of {forks.rate:,.0f} forks a second; it used to tell of {forks.tail:,.0f} at most"
    value, usual = forks.rate, forks.tail
    return Evidence(facts.vm, "forks-told", Origin.GUEST_REPORTED, one.last_at, value, usual, "forks/s", text)


def _whom(grab: Grab) -> str:
    return "the host" if grab.sufferer in {None, HOST} else str(grab.sufferer)


def grab_cause(facts: Facts, worst: Grab, role: Role) -> str:
    """One sentence."""
    what = f"{facts.vm} takes {_amount(worst, worst.rate)}, usually at most {_amount(worst, worst.tail)}"
    if role is Role.OVERLOADED and not worst.harmful:
        return f"{what}, at its capacity, within what it was given, and hurts nobody"
    how = f"at the cost of {_whom(worst)}" if worst.cost >= 1 else "more than it was given"
    if worst.waits:
        how += f", which waits {worst.waits:.0%} of the time for a CPU"
    if worst.denied:
        how += f", which leaves {worst.denied:.0%} of what others begin there without an answer"
    if worst.unended:
        how += f", which has {worst.unended:,.0f} connections of it on which it ends nothing that it begins to say"
    if worst.storm is not None:
        how += f", while it asks the hypervisor {worst.storm.rate:,.0f} times a second"
    if role is Role.ATTACKER and worst.forks is not None:
        how += f", while its own agent tells of {worst.forks.rate:,.0f} forks a second"
    why = "because others ask for so much" if role is Role.VICTIM else "and nobody asked for it"
    return f"{what}, {how}, {why}"


def grab_counterfactual(role: Role, worst: Grab) -> str:
    """What would have to be different."""
    if role is Role.ATTACKER and worst.forks is not None:
        return "would be OVERLOADED if it hurt nobody, or began no more processes than it used to"
    if role is Role.OVERLOADED:
        return "would be CLEARED if it stayed below its capacity"
    if role is Role.VICTIM:
        return "would be an ATTACKER if it had grown before what is asked of it"
    return "would be OVERLOADED if it hurt nobody and kept to what it was given"


def pressed_cause(facts: Facts, one: Surge, few: Sequence[Peer]) -> str:
    """One sentence."""
    share = sum(peer.openings for peer in few) / max(1.0, facts.of(Direction.IN, one.traffic))
    who = _end(few[0]) if len(few) == 1 else f"{len(few)} sources, {_end(few[0])} first,"
    return (
        f"{facts.vm} has no CPU left because {who} brought {share:.0%} of up to {one.rate:,.0f} {_NAMES[one.traffic]} "
        f"a second, each in order; together all others used to bring at most {one.tail:,.0f}"
    )


def overloaded_cause(facts: Facts) -> str:
    """One sentence."""
    asked, answered = facts.of(Direction.IN, TrafficClass.SYN), facts.of(Direction.OUT, TrafficClass.SYNACK)
    if any(s.direction is Direction.IN for s in facts.surges) and asked:
        return (
            f"{facts.vm} is asked for more than usual and is at its capacity: {min(answered, asked):,.0f} of "
            f"{asked:,.0f} connections were accepted"
        )
    cost = ", at the cost of others" if facts.contention else ""
    return f"{facts.vm} is at its capacity by its own work{cost}, and no traffic explains it"


def cleared_cause(facts: Facts) -> str:
    """One sentence."""
    if facts.drawn:
        return f"{facts.vm}'s agent finds it unusual, and the host sees nothing of it that is reason for suspicion"
    if not facts.surges:
        return f"{facts.vm} did nothing more that its history does not explain"
    busiest = max(facts.surges, key=lambda s: s.rate)
    way = "sent" if busiest.direction is Direction.OUT else "got"
    said = f"{facts.vm} {way} up to {busiest.rate:,.0f} {_NAMES[busiest.traffic]} a second, more than usual, but "
    if not facts.ever[1 - busiest.direction]:
        return said + "of the other direction nothing was ever seen, so that no answer to so little proves nothing"
    return said + "they were answered and taken up, or it only answered others"


def _end(peer: Peer) -> str:
    return f"{peer.address} outside" if peer.other == OUTSIDE else str(peer.other)
