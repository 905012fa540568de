"""One VM as HSEM sees it: its state, its open case, its limits. Pure."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from hypervigil.host.hsem.facts import MAX_TOLD, Dossier
from hypervigil.host.hsem.forged import Forged
from hypervigil.host.hsem.levels import State
from hypervigil.host.hsem.limiting import Wanted, slowed
from hypervigil.host.hsem.scans import FEW_PORTS
from hypervigil.host.hsem.sides import Asked, asked_of
from hypervigil.model.guest import ACCOUNTS, Question
from hypervigil.model.ids import NEVER, Instant, LimitId, VmId
from hypervigil.model.limits import Limit, LimitKind
from hypervigil.model.metric import Metric
from hypervigil.model.policy import Bounds
from hypervigil.model.report import Decision, ForgedCount, LiftLimit, OrderLimit
from hypervigil.model.status import AttackClass, Evidence, Role
from hypervigil.model.traffic import Direction, TrafficClass

MUCH_STRICTER = 0.6
TOO_STRICT = 0.9
"""A limit that is less than this share of what is wanted now gives way: half of a surge is half as it grows."""
SOFTEN_S = 1.0
"""So long a limit stands before a looser one may take its place: evidence turns quickly in its first moments."""
AWAIT_ANSWERS_S = 1.0
TOLD_S = 60.0
"""What was told of an agent so long before a case is told with it."""

Place = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Quiet:
    """A surge that was cleared: until when it opens no new case, and up to twice which rate."""

    until: Instant
    rate: float
    agreed: bool
    """Whether it was a stream to somebody who had said a word by it."""

    def covers(self, rate: float, now: Instant) -> bool:
        """Whether it still speaks for a surge of that rate."""
        return now < self.until and rate <= 2 * self.rate


_WAITS = frozenset({LimitKind.CPU, LimitKind.BLOCK_OPERATIONS, LimitKind.BLOCK_OCTETS, LimitKind.PAUSE})


@dataclass(slots=True)
class Watched:
    """What is kept of a VM besides its history."""

    vm: VmId
    next_limit: Callable[[], LimitId]
    state: State = State.LEVEL1
    dossier: Dossier | None = None
    """Of its open case."""
    draft: Dossier | None = None
    """What may become one."""
    limits: dict[Place, Limit] = field(default_factory=dict)
    repetition: int = 0
    """How often it was found an attacker."""
    decided_at: Instant = NEVER
    hold_until: Instant = NEVER
    stirred_at: Instant = NEVER
    """When it was last more than usual, or last attacked."""
    role: Role = Role.CLEARED
    attack: AttackClass = AttackClass.NONE
    targets: frozenset[VmId] = frozenset()
    quiet: dict[tuple[Direction, TrafficClass], Quiet] = field(default_factory=dict)
    """Surges that were cleared."""
    forged: Forged = field(default_factory=Forged)
    told: tuple[Evidence, ...] = ()
    """Facts about its agent."""

    @property
    def held_back(self) -> bool:
        """Whether a limit of ours makes it wait for a CPU or its disk."""
        return any(limit.kind in _WAITS for limit in self.limits.values())

    def hear(self, fact: Evidence) -> None:
        """A fact about its agent, for its case if it has one, or one that may be opened soon."""
        if fact.kind in ACCOUNTS:
            if self.dossier is not None:  # of each the newest, beside all else: they crowd nothing out
                self.dossier.told = [*[one for one in self.dossier.told if one.kind != fact.kind], fact]
            return
        self.told = (*self.told, fact)[-MAX_TOLD:]
        for dossier in (self.dossier, self.draft):
            if dossier is not None:
                accounts = [one for one in dossier.told if one.kind in ACCOUNTS]
                others = [one for one in dossier.told if one.kind not in ACCOUNTS]
                dossier.told = [*[*others, fact][-MAX_TOLD:], *accounts]

    def told_lately(self, now: Instant) -> list[Evidence]:
        """Facts about its agent that are not too old to belong to what happens now."""
        return [fact for fact in self.told if now - fact.at <= TOLD_S]

    def questions(self) -> tuple[Question, ...]:
        """What is to be asked of its agent: nothing without a case, and its load where capacity is in question."""
        known = self.dossier
        if known is None:
            return ()
        full = known.near_capacity or known.grabs or known.contention or known.found.mining.seconds
        return (Question.TOP, Question.FLOWS, Question.LOAD) if full else (Question.TOP, Question.FLOWS)

    def asks(self) -> dict[VmId, Asked]:
        """Of whom it asks something, if it is conspicuous."""
        dossier = self.dossier or self.draft
        if dossier is None:
            return {}
        tried, accepted = dossier.counts[Metric.OUT_SYN], dossier.counts[Metric.IN_SYNACK]
        return asked_of(dossier.peers.values(), min(1.0, accepted / tried) if tried else 1.0)

    def awaits(self, now: Instant) -> bool:
        """Whether its next interval is of interest even if nothing happens in it: of tries nobody has answered yet."""
        if self.dossier is not None or self.draft is None:
            return self.dossier is not None
        recent = now - self.draft.opened_at <= AWAIT_ANSWERS_S
        return recent and any(peer.ports >= FEW_PORTS for peer in self.draft.peers.values())

    def count_forged(self, one: ForgedCount, now: Instant) -> bool:
        """Add up forged frames; whether they are reason to ask."""
        if self.dossier is not None:
            self.dossier.forged[one.kind] += one.frames
            self.stirred_at = now
            return False
        self.forged.add(one, now)
        return self.forged.suspicious(now)

    def put(self, wanted: Iterable[Wanted], now: Instant, for_s: float, *, whole: bool = False) -> list[Decision]:
        """Order what is not yet in force so, and lift what it takes the place of; ``whole``: for all that time."""
        orders: list[Decision] = []
        lifts: list[Decision] = []
        for one in wanted:
            old = self.limits.get(one.place)
            if old is not None and not _better(one, old, now, for_s) and not (whole and old.until < now + for_s):
                continue
            limit = Limit(
                id=self.next_limit(),
                vm=self.vm,
                kind=one.kind,
                since=now,
                until=Instant(now + for_s),
                reason=one.reason,
                value=one.value,
                direction=one.direction,
                classes=frozenset() if one.traffic is None else frozenset({one.traffic}),
                peer=one.peer,
                case=self.dossier.case if self.dossier is not None else None,
            )
            self.limits[one.place] = limit
            orders.append(OrderLimit(limit))
            if old is not None:
                lifts.append(LiftLimit(old.id, self.vm, now, f"replaced by {limit.id}"))
        return orders + lifts

    def slow(self, cpu: float, bounds: Bounds, now: Instant, after_s: float) -> list[Decision]:
        """The host has no CPU left: an attacker that takes more than ever gets what it is used to, while it is one.

        ``cpu`` is the share of its CPUs that it takes, ``after_s`` by how much a limit outlasts the hold.
        """
        if self.state is not State.ATTACKER or self.dossier is None:
            return []
        for_s = max(self.hold_until - now, 0.0) + after_s
        return self.put(slowed(cpu, self.dossier.cpu_tail, bounds), now, for_s)

    def swap(self, wanted: Sequence[Wanted], now: Instant, for_s: float) -> list[Decision]:
        """Exactly these limits and no others."""
        decisions = self.put(wanted, now, for_s, whole=True)
        return decisions + self.lift(now, "the verdict calls for others", keep={one.place for one in wanted})

    def lift(self, now: Instant, reason: str, keep: Iterable[Place] = ()) -> list[Decision]:
        """Lift all limits but those of these places."""
        gone = [place for place in self.limits if place not in set(keep)]
        return [LiftLimit(self.limits.pop(place).id, self.vm, now, reason) for place in gone]

    def expire(self, now: Instant) -> list[Decision]:
        """Lift what is over."""
        kept = [place for place, limit in self.limits.items() if limit.until > now]
        return self.lift(now, "its time is over", keep=kept)


def place_of(limit: Limit) -> Place:
    """What a limit limits, as ``Wanted.place``."""
    return limit.kind, limit.direction, next(iter(limit.classes), None), limit.peer


def _better(one: Wanted, old: Limit, now: Instant, for_s: float) -> bool:
    """Whether a limit in force is worth replacing: much stricter, or looser after some time, or soon over."""
    if one.value is not None and old.value is not None:
        if one.value < MUCH_STRICTER * old.value:
            return True
        if old.value < TOO_STRICT * one.value and now - old.since >= SOFTEN_S:
            return True
    return now + for_s - old.until > for_s / 2
