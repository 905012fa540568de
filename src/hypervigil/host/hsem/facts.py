"""What is known in a case. ``Facts`` are frozen and complete: judging them again gives the same verdict. Pure."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from hypervigil.host.hsem.conduct import Conduct, conduct, mixed, unheard
from hypervigil.host.hsem.findings import NOTHING_FOUND, Findings
from hypervigil.host.hsem.resources import Grab, Resource
from hypervigil.host.hsem.sides import Peer, Side
from hypervigil.model.ids import OUTSIDE, CaseId, Instant, VmId
from hypervigil.model.metric import Metric, packet_metric
from hypervigil.model.status import Evidence
from hypervigil.model.traffic import Direction, ForgedKind, TrafficClass

MAX_PEERS = 256
"""Of a case, while not too many are open at once."""
MAX_FACTS = 1000
"""Cases whose last facts are kept to be told; the journal keeps all."""
A_MOMENT_S, MOST_OF_IT = 0.15, 0.7
"""Of a surge of tries, so much without a connection accepted is a service that is away."""
A_PACKET = 0.5
"""What is left of one that is remembered never fades to nothing."""
MAX_TOLD = 16
FEW_PACKETS = 20.0
"""Whoever was sent fewer was tried; more is work."""
REFUSED_S = 1.6
"""A port that is still closed says so again within this time (``icmp_ratelimit``: once a second)."""
TOLD_PEERS = 12
"""Of a case's peers, the busiest so many of each direction are kept as facts."""
LEAST_PEERS = 2 * TOLD_PEERS
"""So many peers every case may have."""

_CLASSES = len(TrafficClass)


@dataclass(frozen=True, slots=True)
class Surge:
    """More of one class in one direction than the VM's history explains."""

    direction: Direction
    traffic: TrafficClass
    rate: float
    """Packets per second at its highest."""
    tail: float
    """The VM's own 95th percentile, or the prior."""
    samples: int
    first_at: Instant
    last_at: Instant

    @property
    def metric(self) -> Metric:
        """Its column."""
        return packet_metric(self.direction, self.traffic)


@dataclass(frozen=True, slots=True)
class Accusation:
    """Another VM was found to attack this one, by what it attempted at its own NIC, before any limit."""

    attacker: VmId
    case: CaseId
    attack: str
    traffic: str
    packets: float


@dataclass(frozen=True, slots=True)
class Tries:
    """Whom a VM tried, of all those that its case had room for: who was sent a few packets that begin something."""

    hosts: int = 0
    answered: int = 0
    """Of these hosts, those that sent something back, or with whom it went on where nothing is ever seen to come."""
    reset: int = 0
    """Of these hosts, those that sent back resets only, as far as that is known."""
    mixed: bool = False
    """Whether the hosts were tried at so many ports that it is not one service that was looked for."""


@dataclass(frozen=True, slots=True)
class Vain:
    """What a VM tried in vain in the last hours, with whatever pauses in between."""

    hosts: int = 0
    """That it never talked to before, and that did not answer."""
    spared: float = 0.0
    """Hosts that speak for it: new ones that answered, and those it knew that are silent now."""
    seconds: float = 0.0
    """Since the first of these tries, as far as it is remembered."""
    ports: int = 0
    """At the one host where most of them were tried (an estimate: not more than there were)."""
    mixed: bool = False
    """As ``Tries.mixed``."""
    address: str = ""
    """Of that host."""
    other: VmId = OUTSIDE
    """Whose that is."""


@dataclass(frozen=True, slots=True)
class Guessed:
    """Dialogues with one service, one after the other, that ended alike, as one VM's NIC saw them."""

    vm: VmId = OUTSIDE
    dialogues: int = 0
    varied: int = 0
    """Of these, in how many the client said more or less than in the one before."""
    seconds: float = 0.0
    """Since the first of them."""
    lasted_s: float = 0.0
    """Each, on average."""
    excused: float = 0.0
    """How many are no ground for suspicion, since the VM got work done at such services."""
    direction: Direction = Direction.OUT
    """OUT: the VM is the client. IN: the service is its own."""
    address: str = ""
    """The other end's."""
    port: int = 0
    other: VmId = OUTSIDE
    """Who the other end is."""


@dataclass(frozen=True, slots=True)
class Facts:
    """All that HSEM knows of one case when it judges."""

    case: CaseId
    vm: VmId
    opened_at: Instant
    at: Instant
    reports: int
    seconds: float
    """The time that the counts stand for: since the case began, and shortly before."""
    surges: tuple[Surge, ...]
    counts: tuple[float, ...]
    """Packets, all classes out and then all classes in."""
    limited: tuple[float, ...]
    """Of these, what a limit of ours stopped."""
    fresh: tuple[float, ...]
    """Of these, what came in the last interval."""
    asked: tuple[float, float]
    """SYNs since the case began, and what was more than usual in the minute before, out and in."""
    tails: tuple[float, ...]
    """The VM's own 95th percentile of each of them, per second."""
    forged: tuple[int, ...]
    """Frames by ``ForgedKind``."""
    failures: float
    new_destinations: float
    fan_out: float
    fan_in: float
    cpu: float | None
    cpu_tail: float
    near_capacity: bool
    contention: float
    """The share of time that another VM waited for a CPU meanwhile."""
    peers: tuple[Peer, ...]
    accusations: tuple[Accusation, ...]
    repetition: int
    """How often this VM was found an attacker before."""
    tries: Tries = Tries()
    vain: Vain = Vain()
    told: tuple[Evidence, ...] = ()
    """Facts about the VM's agent: shown with a verdict, and no ground for one."""
    refused_at: Instant | None = None
    """When it was last told that a port or host cannot be reached."""
    away_s: float = 0.0
    """For so long it got more tries to connect than usual and accepted next to none."""
    grabs: tuple[Grab, ...] = ()
    guessed: Guessed = Guessed()
    ever: tuple[bool, bool] = (True, True)
    """Whether anything at all was ever seen of a direction, out and in."""
    held: float = 0.0
    """Connections on which it asks nothing, accepted of it beyond what its history allows; few are not told."""
    found: Findings = NOTHING_FOUND
    drawn: bool = False
    """Its agent's word drew the case, and the host itself sees no reason for one so far."""

    def of(self, direction: Direction, traffic: TrafficClass) -> float:
        """Packets of a class in a direction."""
        return self.counts[packet_metric(direction, traffic)]

    def side(self, direction: Direction) -> Side:
        """The counts of one direction."""
        part = slice(direction * _CLASSES, (direction + 1) * _CLASSES)
        usual = tuple(tail * self.seconds for tail in self.tails[part])
        tried = self.counts[part]
        passed = tuple(max(0.0, all_ - stopped) for all_, stopped in zip(tried, self.limited[part], strict=True))
        return Side(tried, passed, usual, self.fresh[part], self.asked[direction], self.seconds)

    def busiest(self, direction: Direction) -> list[Peer]:
        """The peers of one direction, the busiest first."""
        return sorted((p for p in self.peers if p.direction is direction), key=lambda p: -p.packets)

    def conduct(self, direction: Direction, traffic: TrafficClass) -> Conduct:
        """How the excess of a class in a direction is meant by whoever sends it."""
        surges = [surge for surge in self.surges if (surge.direction, surge.traffic) == (direction, traffic)]
        peak = max((surge.rate for surge in surges), default=0.0)
        lasted_s = max((surge.last_at - surge.first_at for surge in surges), default=0.0)
        back = {peer.address: peer for peer in self.peers if peer.direction is not direction}
        blind = not self.ever[1 - direction]
        known = partial(conduct, traffic, *self._ends(direction), peak, back=back, lasted_s=lasted_s, blind=blind)
        if direction is Direction.IN:
            return known(sources=self.fan_in, away=self.away_s >= max(A_MOMENT_S, MOST_OF_IT * lasted_s))
        refusals = self.failures - self.of(Direction.IN, TrafficClass.RST)
        last = max((surge.last_at for surge in surges), default=self.at)
        return known(refusals=refusals, listens=self.refused_at is not None and last - self.refused_at > REFUSED_S)

    def unheard(self, direction: Direction, traffic: TrafficClass) -> bool:
        """Whether those to whom most datagrams of a class go never said anything by it."""
        return unheard(traffic, *self._ends(direction))

    def _ends(self, direction: Direction) -> tuple[Side, Side, tuple[Peer, ...]]:
        other = Direction.IN if direction is Direction.OUT else Direction.OUT
        return self.side(direction), self.side(other), tuple(p for p in self.peers if p.direction is direction)

    @property
    def last_surge_at(self) -> Instant:
        """When it was last more than usual."""
        return max((surge.last_at for surge in self.surges), default=self.opened_at)


@dataclass(slots=True)
class Dossier:
    """The facts of an open case as they grow; bounded."""

    case: CaseId
    vm: VmId
    opened_at: Instant
    tails: tuple[float, ...]
    cpu_tail: float
    samples: int
    reports: int = 0
    seconds: float = 0.0
    surges: dict[int, Surge] = field(default_factory=dict)
    counts: list[float] = field(default_factory=lambda: [0.0] * (2 * _CLASSES))
    limited: list[float] = field(default_factory=lambda: [0.0] * (2 * _CLASSES))
    fresh: tuple[float, ...] = (0.0,) * (2 * _CLASSES)
    asked: tuple[float, float] = (0.0, 0.0)
    forged: list[int] = field(default_factory=lambda: [0] * len(ForgedKind))
    failures: float = 0.0
    new_destinations: float = 0.0
    fan_out: float = 0.0
    fan_in: float = 0.0
    cpu: float | None = None
    near_capacity: bool = False
    contention: float = 0.0
    peers: dict[tuple[Direction, str], Peer] = field(default_factory=dict)
    peers_dropped: int = 0
    vain: Vain = Vain()
    guessed: Guessed = Guessed()
    found: Findings = NOTHING_FOUND
    accusations: dict[VmId, Accusation] = field(default_factory=dict)
    told: list[Evidence] = field(default_factory=list)
    refused_at: Instant | None = None
    away_s: float = 0.0
    grabs: dict[Resource, Grab] = field(default_factory=dict)
    held: float = 0.0
    ever: tuple[bool, bool] = (False, False)
    drawn: bool = False

    def count(self, packets: tuple[float, ...], seconds: float, *, fresh: tuple[float, ...]) -> None:
        """Add packets of all classes, out and then in."""
        self.counts = [old + new for old, new in zip(self.counts, packets, strict=True)]
        self.fresh = fresh
        self.seconds += seconds
        self.asked = (self.asked[0] + packets[Metric.OUT_SYN], self.asked[1] + packets[Metric.IN_SYN])

    def ask_before(self, asked: Sequence[float], usual: Sequence[float]) -> None:
        """So many SYNs of the last minute, out and in, of which these are usual: they were taken up, as usual.

        ``usual`` by the median: by the 95th percentile sixty bursts a minute would be usual where one is.
        """
        out, into = (max(0.0, all_ - known) for all_, known in zip(asked, usual, strict=True))
        self.asked = (max(self.asked[0], out), max(self.asked[1], into))

    def surge(self, direction: Direction, traffic: TrafficClass, rate: float, now: Instant) -> None:
        """A class is above its allowance now."""
        column = packet_metric(direction, traffic)
        old = self.surges.get(column)
        if old is None:
            self.surges[column] = Surge(direction, traffic, rate, self.tails[column], self.samples, now, now)
        else:
            self.surges[column] = replace(old, rate=max(old.rate, rate), last_at=now)

    def add_peer(self, seen: Peer, room: int = MAX_PEERS) -> None:
        """Add what was exchanged with one address; a new one only if there is room."""
        key = (seen.direction, seen.address)
        old = self.peers.get(key)
        if old is None:
            if len(self.peers) >= room:
                self.peers_dropped += 1
                return
            self.peers[key] = seen
            return
        self.peers[key] = Peer(
            seen.direction,
            seen.other,
            seen.address,
            old.packets + seen.packets,
            old.octets + seen.octets,
            old.openings + seen.openings,
            old.answers + seen.answers,
            old.resets + seen.resets,
            max(old.ports, seen.ports),
            old.unseen + seen.unseen,
            old.services | seen.services,
            old.served & ~seen.services | seen.served,
        )

    def facts(self, at: Instant, repetition: int) -> Facts:
        """The facts as they are now."""
        busiest = sorted(self.peers.values(), key=lambda p: -p.packets)
        told = [p for d in Direction for p in [q for q in busiest if q.direction is d][:TOLD_PEERS]]
        return Facts(
            case=self.case,
            vm=self.vm,
            opened_at=self.opened_at,
            at=at,
            reports=self.reports,
            seconds=self.seconds,
            surges=tuple(self.surges.values()),
            counts=tuple(self.counts),
            limited=tuple(self.limited),
            fresh=self.fresh,
            asked=self.asked,
            tails=self.tails,
            forged=tuple(self.forged),
            failures=self.failures,
            new_destinations=self.new_destinations,
            fan_out=self.fan_out,
            fan_in=self.fan_in,
            cpu=self.cpu,
            cpu_tail=self.cpu_tail,
            near_capacity=self.near_capacity,
            contention=self.contention,
            peers=tuple(told),
            accusations=tuple(self.accusations.values()),
            repetition=repetition,
            tries=self._tries(),
            vain=self.vain,
            told=tuple(self.told),
            refused_at=self.refused_at,
            away_s=self.away_s,
            grabs=tuple(self.grabs.values()),
            guessed=self.guessed,
            held=self.held,
            ever=self.ever,
            found=self.found,
            drawn=self.by_word,
        )

    @property
    def by_word(self) -> bool:
        """Whether its agent's word drew the case, and nothing that the host found is reason for it."""
        if not self.drawn:
            return False
        found = (self.grabs, self.near_capacity, self.accusations, any(self.forged), self.found != NOTHING_FOUND)
        return not any(found) and self.vain == Vain() and self.guessed == Guessed()

    def _tries(self) -> Tries:
        asks_by_arp = self.counts[packet_metric(Direction.OUT, TrafficClass.ARP)] >= A_PACKET
        tried = [
            peer
            for (direction, _), peer in self.peers.items()
            if direction is Direction.OUT and peer.packets < FEW_PACKETS and (peer.openings or asks_by_arp)
        ]
        reset = [peer for peer in tried if 0 < peer.answers <= peer.resets]
        answered = [
            peer
            for peer in tried
            if peer.answers > peer.resets
            or (not peer.answers and (Direction.IN, peer.address) in self.peers)
            or (not self.ever[Direction.IN] and peer.packets > peer.openings)  # heard elsewhere: it goes on
        ]
        return Tries(len(tried), len(answered), len(reset), mixed([peer.services for peer in tried]))


class LastFacts:
    """What was known at the last verdict of each case (or at its opening), of the latest cases."""

    def __init__(self) -> None:
        self._of: OrderedDict[CaseId, Facts] = OrderedDict()

    def __getitem__(self, case: CaseId) -> Facts:
        return self._of[case]

    def add(self, facts: Facts) -> None:
        """These are the last ones of their case."""
        self._of[facts.case] = facts
        self._of.move_to_end(facts.case)

    def forget(self) -> None:
        """Keep to ``MAX_FACTS``. Not while decisions are made: one report's may be about more cases than that."""
        while len(self._of) > MAX_FACTS:
            self._of.popitem(last=False)


def reopened(facts: Facts) -> Dossier:
    """A dossier that goes on where these facts end."""
    return Dossier(
        case=facts.case,
        vm=facts.vm,
        opened_at=facts.opened_at,
        tails=facts.tails,
        cpu_tail=facts.cpu_tail,
        samples=max((s.samples for s in facts.surges), default=0),
        reports=facts.reports,
        seconds=facts.seconds,
        surges={surge.metric: surge for surge in facts.surges},
        counts=list(facts.counts),
        limited=list(facts.limited),
        fresh=facts.fresh,
        asked=facts.asked,
        forged=list(facts.forged),
        failures=facts.failures,
        new_destinations=facts.new_destinations,
        fan_out=facts.fan_out,
        fan_in=facts.fan_in,
        cpu=facts.cpu,
        near_capacity=facts.near_capacity,
        contention=facts.contention,
        peers={(peer.direction, peer.address): peer for peer in facts.peers},
        vain=facts.vain,
        guessed=facts.guessed,
        found=facts.found,
        accusations={accusation.attacker: accusation for accusation in facts.accusations},
        told=list(facts.told),
        refused_at=facts.refused_at,
        away_s=facts.away_s,
        grabs={grab.resource: grab for grab in facts.grabs},
        held=facts.held,
        ever=facts.ever,
        drawn=facts.drawn,
    )
