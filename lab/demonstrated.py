"""From what was seen of a demonstration to a table of what was expected and what was decided. Pure.

Times are seconds since warm-up began; ``after_s`` counts from the beginning of an act. Where a promise is a ratio of
small numbers, the slack that it is given is stated beside it.
"""

import math
from collections.abc import Iterable, Sequence

import msgspec

from lab import grab, liar
from lab.capture import Slice
from lab.checked import Check, after, because, counted, end, in_ms, limit_words, overlap, role_of, start
from lab.figures import percentile
from lab.grab import GRABBER, GrabAct
from lab.liar import LIAR, LiarAct
from lab.outcome import GRACE_S
from lab.place import WorkSample
from lab.watched import Case, Limit

GUESTS = ("a", "b", "c")
ATTACKER, VICTIM, CLIENT = GUESTS
SURGE = "surge"
"""Under this name the requests of the surge stand among the guests' work."""

LIMITED_WITHIN_S = 2.0
RATE_KEPT = 0.95
LATENCY_FACTOR = 1.5
DELIVERED_FACTOR = 1.2
DELIVERED_SLACK = 10
"""Packets that may pass besides, for each limit put in force: its bucket is full at first."""
LEFT_OF_SURGE = 0.5
SETTLING_S = 5.0
"""At the beginning of warm-up clients find their pace."""
NOTEWORTHY = 0.15
"""A share of the host's CPU that others use, above which they are mentioned: they disturb what is measured."""
BIN_S = 0.5
"""Of what guests offer during the surge."""


class Offer(msgspec.Struct, frozen=True):
    """What one guest offered of one class of packets: counts per ``BIN_S`` from the beginning of the surge."""

    guest: str
    direction: str
    traffic: str
    counts: tuple[int, ...]


class Used(msgspec.Struct, frozen=True, array_like=True):
    """Shares of the host's CPU since the time before: in use at all, and by others than guests, lab and product."""

    at_s: float
    share: float
    others: float


class SurgeAct(msgspec.Struct, frozen=True):
    """The second act. ``rate`` is what was asked for, ``usual`` what B serves all day, in requests a second."""

    began_s: float
    ended_s: float
    rate: float
    usual: float


class FloodAct(msgspec.Struct, frozen=True):
    """The third act. ``onset_s``: its first packet at A's tap. Both counts are the lab's own."""

    began_s: float
    ended_s: float
    onset_s: float | None
    command: str
    sent: tuple[Slice, ...]
    delivered: tuple[Slice, ...]
    problem: str | None = None


class JournalSeen(msgspec.Struct, frozen=True):
    """What ``hypervigil journal verify`` and ``replay`` said."""

    ok: bool
    records: int
    heads: int
    problem: str | None
    verdicts: int
    mismatches: int


class Demonstration(msgspec.Struct, frozen=True):
    """All that was seen."""

    made_at: float
    host: dict[str, str]
    took_s: dict[str, float]
    warmup_s: float
    ended_s: float
    grab: GrabAct
    surge: SurgeAct
    flood: FloodAct
    work: dict[str, tuple[WorkSample, ...]]
    offers: tuple[Offer, ...]
    busy: tuple[Used, ...]
    cases: tuple[Case, ...]
    limits: tuple[Limit, ...]
    journal: JournalSeen
    lie: LiarAct
    residue: tuple[str, ...]


class Stretch(msgspec.Struct, frozen=True):
    """The work of some seconds."""

    rate: float
    p95_s: float | None
    ok: int
    failed: int


def checks(seen: Demonstration) -> list[Check]:
    """Everything that was promised, in the order in which it was played."""
    return [*_grab(seen), *_surge(seen), *_flood(seen), *_lie(seen), *_afterwards(seen)]


def stretch(seconds: Iterable[WorkSample], low_s: float, high_s: float) -> Stretch:
    """What was done in the seconds that lie in a time by half or more."""
    inside = [second for second in seconds if low_s <= second.at_s - 0.5 <= high_s]
    ok = sum(second.ok for second in inside)
    latencies = [latency for second in inside for latency in second.latencies_s]
    return Stretch(ok / max(1, len(inside)), percentile(latencies, 0.95), ok, sum(second.failed for second in inside))


def before(seen: Demonstration, name: str) -> Stretch:
    """A guest's ordinary day."""
    return stretch(seen.work[name], SETTLING_S, seen.grab.began_s)


def during(seen: Demonstration, name: str) -> Stretch:
    """The same guest from the first packet of the flood to its end."""
    return stretch(seen.work[name], _onset(seen), seen.flood.ended_s)


def allowed_latency_s(usual_s: float) -> float:
    """How large C's p95 may be."""
    return LATENCY_FACTOR * usual_s


def deciding(seen: Demonstration, name: str, low_s: float, high_s: float) -> Case | None:
    """Of the cases of one guest that were opened in some time, the one with the gravest verdict."""
    gravity = {None: -1, "cleared": 0, "overloaded": 1, "victim": 2, "reflector": 3, "attacker": 4}
    own = [case for case in seen.cases if case.name == name and low_s <= case.opened_at < high_s]
    return max(own, key=lambda case: gravity.get(case.role, 0), default=None)


def in_force(seen: Demonstration, name: str | None = None) -> list[Limit]:
    """Limits that were in force at some time, of one guest or of all, in order."""
    own = [limit for limit in seen.limits if limit.in_force_at is not None and name in (None, limit.name)]
    return sorted(own, key=start)


def busy(seen: Demonstration, low_s: float, high_s: float) -> Used | None:
    """The means over some time."""
    some = [used for used in seen.busy if low_s < used.at_s <= high_s]
    if not some:
        return None
    return Used(high_s, sum(used.share for used in some) / len(some), sum(used.others for used in some) / len(some))


# --- the first act ---


def _grab(seen: Demonstration) -> list[Check]:
    low, high = seen.grab.began_s, seen.surge.began_s
    case = deciding(seen, GRABBER, low, high)
    limits = [limit for limit in in_force(seen, GRABBER) if overlap(limit, low, high) > 0]
    usual, hit = before(seen, CLIENT), stretch(seen.work[CLIENT], low, seen.grab.ended_s)
    kept = hit.rate / usual.rate if usual.rate else 0.0
    return [
        *grab.checks(seen.grab, case, limits),
        Check(
            "grab",
            CLIENT.upper(),
            f"≥ {RATE_KEPT:.0%} of its rate",
            f"{kept:.0%}",
            f"{seen.grab.ended_s - low:.0f} s long",
            f"{hit.rate:.2f} requests/s, before {usual.rate:.2f}; {hit.failed} failed",
            kept >= RATE_KEPT,
        ),
    ]


# --- the second act ---


def _surge(seen: Demonstration) -> list[Check]:
    low, high = seen.surge.began_s, seen.flood.began_s
    act = "surge"
    asked = stretch(seen.work[SURGE], low, high)
    served = stretch(seen.work[VICTIM], low + 1, seen.surge.ended_s - 1)
    verdicts = []
    for name in GUESTS:
        case = deciding(seen, name, low, high)
        role = case.role if case is not None else None
        if name == VICTIM:
            why = f"{served.rate:.0f} requests/s instead of {seen.surge.usual:.0f}"
        else:
            why = "does what it always does"
        verdicts.append(
            Check(
                act,
                name.upper(),
                "innocent",
                "no case" if case is None else role or "no verdict",
                after(case.decided_at if case else None, low),
                because(case) or why,
                role in (None, "cleared"),
            )
        )
    limited = [limit for limit in in_force(seen) if overlap(limit, low, high) > 0]
    kept = [(limit, _kept(seen, limit)) for limit in limited]
    standing = [limit for limit in limited if end(limit) > seen.surge.ended_s]
    least = min((share for _, share in kept if share is not None), default=None)
    too_small = [limit for limit, share in kept if share is not None and share < LEFT_OF_SURGE]
    return [
        *verdicts,
        Check(
            act,
            "all",
            f"no limit below {LEFT_OF_SURGE:.0%} of what is offered",
            f"{counted(len(limited), 'limit')}" + (f", the smallest {least:.0%}" if least is not None else ""),
            after(start(limited[0]) if limited else None, low),
            "; ".join(limit_words(limit) for limit in too_small or limited) or "nothing was held back",
            not too_small,
        ),
        Check(
            act,
            "all",
            "nobody is limited at its end",
            ", ".join(sorted({(limit.name or "?").upper() for limit in standing})) or "nobody",
            after(seen.surge.ended_s, low),
            "; ".join(limit_words(limit) for limit in standing) or "no limit stands",
            not standing,
        ),
        _unfailed(act, "the crowd", asked),
        _unfailed(act, CLIENT.upper(), stretch(seen.work[CLIENT], low, high)),
    ]


def _unfailed(act: str, of: str, done: Stretch) -> Check:
    total = done.ok + done.failed
    p95 = f"95 % within {in_ms(done.p95_s)}" if done.p95_s is not None else "none was answered"
    return Check(
        act, of, "no request fails", f"{done.failed} of {total:,} failed", "", p95, done.ok > 0 and not done.failed
    )


def _kept(seen: Demonstration, limit: Limit) -> float | None:
    """A limit as a share of what was offered of its classes while it was in force; None where it is not comparable.

    A limit that is no rate of packets leaves nothing.
    """
    if limit.kind != "packets" or limit.value is None:
        return 0.0
    low, high = max(start(limit), seen.surge.began_s), min(end(limit), seen.surge.ended_s)
    first = math.floor((low - seen.surge.began_s) / BIN_S)
    last = max(first + 1, math.ceil((high - seen.surge.began_s) / BIN_S))
    offered = 0.0
    for offer in seen.offers:
        same = offer.guest == limit.name and offer.direction == limit.direction
        if same and (not limit.classes or offer.traffic in limit.classes):
            counts = offer.counts[first:last]
            offered += sum(counts) / (BIN_S * len(counts)) if counts else 0.0
    return limit.value / offered if offered else None


# --- the third act ---


def _flood(seen: Demonstration) -> list[Check]:
    onset = _onset(seen)
    act = "flood"
    attacker = deciding(seen, ATTACKER, seen.flood.began_s, math.inf)
    victim = deciding(seen, VICTIM, seen.flood.began_s, seen.lie.began_s)
    client = deciding(seen, CLIENT, seen.flood.began_s, math.inf)
    limits = [limit for limit in in_force(seen, ATTACKER) if end(limit) > onset]
    limited = min((start(limit) for limit in limits), default=None)
    first = limits[0] if limits else None
    on_client = [limit for limit in in_force(seen, CLIENT) if end(limit) > onset]
    role = attacker.role if attacker else None
    return [
        Check(
            act,
            "A",
            "attacker: flood",
            role_of(attacker),
            after(attacker.decided_at if attacker else None, onset),
            because(attacker) or seen.flood.problem or "",
            role == "attacker"
            and attacker is not None
            and attacker.attack == "flood"
            and seen.flood.onset_s is not None,
        ),
        Check(
            act,
            "A",
            f"limited within {LIMITED_WITHIN_S:g} s",
            "limited" if limited is not None else "not limited",
            after(limited, onset),
            limit_words(first) if first is not None else "",
            limited is not None and limited - onset <= LIMITED_WITHIN_S,
        ),
        _delivered(seen, limits, limited),
        Check(
            act,
            "B",
            "victim of A",
            role_of(victim) + (f" of {victim.target.upper()}" if victim and victim.target else ""),
            after(victim.decided_at if victim else None, onset),
            because(victim),
            victim is not None and victim.role == "victim" and victim.target == ATTACKER,
        ),
        Check(
            act,
            "C",
            "innocent, not limited",
            ("no case" if client is None else role_of(client)) + (", limited" if on_client else ""),
            after(client.decided_at if client else None, onset),
            because(client) or "does what it always does",
            (client is None or client.role in (None, "cleared")) and not on_client,
        ),
        *_client(seen),
    ]


def _delivered(seen: Demonstration, limits: Sequence[Limit], limited: float | None) -> Check:
    sent = sum(part.frames for part in seen.flood.sent)
    expected = f"≤ {DELIVERED_FACTOR:g} × limit + {DELIVERED_SLACK} packets per limit reach B"
    if limited is None:
        arrived = sum(part.frames for part in seen.flood.delivered)
        return Check("flood", "A", expected, f"{arrived:,} of {sent:,}", "", "no limit was in force", ok=False)
    low, high = limited + GRACE_S, seen.flood.ended_s
    early = sum(part.frames for part in seen.flood.delivered if part.from_s < low)
    late = sum(part.frames for part in seen.flood.delivered if part.from_s >= low)
    packets = [limit for limit in limits if limit.kind == "packets" and limit.value is not None]
    passed = sum((limit.value or 0.0) * overlap(limit, low, high) for limit in packets)
    allowed = DELIVERED_FACTOR * passed + DELIVERED_SLACK * len(limits)
    return Check(
        "flood",
        "A",
        expected,
        f"{late:,}, allowed {allowed:,.0f}",
        f"{max(0.0, high - low):.1f} s long",
        f"{sent:,} sent; {early:,} had passed before",
        late <= allowed,
    )


def _client(seen: Demonstration) -> list[Check]:
    usual, hit = before(seen, CLIENT), during(seen, CLIENT)
    loaded = busy(seen, _onset(seen), seen.flood.ended_s)
    cores = "CPU not measured"
    if loaded is not None:
        cores = f"{loaded.share:.0%} of the host's CPU in use"
        cores += f", {loaded.others:.0%} by others than this" if loaded.others > NOTEWORTHY else ""
    kept = hit.rate / usual.rate if usual.rate else 0.0
    rate = Check(
        "flood",
        "C",
        f"≥ {RATE_KEPT:.0%} of its rate",
        f"{kept:.0%}",
        f"{seen.flood.ended_s - _onset(seen):.0f} s long",
        f"{hit.rate:.2f} requests/s, before {usual.rate:.2f}; {hit.failed} failed; {cores}",
        kept >= RATE_KEPT,
    )
    expected = f"p95 ≤ {LATENCY_FACTOR:g} ×"
    if usual.p95_s is None or hit.p95_s is None:
        return [rate, Check("flood", "C", expected, "no answer", "", "", ok=False)]
    latency = Check(
        "flood",
        "C",
        expected,
        in_ms(hit.p95_s),
        f"{seen.flood.ended_s - _onset(seen):.0f} s long",
        f"before {in_ms(usual.p95_s)}, allowed {in_ms(allowed_latency_s(usual.p95_s))}",
        hit.p95_s <= allowed_latency_s(usual.p95_s),
    )
    return [rate, latency]


# --- the fourth act ---


def _lie(seen: Demonstration) -> list[Check]:
    case = deciding(seen, LIAR, seen.lie.began_s, math.inf)
    limits = [limit for limit in in_force(seen, LIAR) if end(limit) > seen.lie.began_s]
    return liar.checks(seen.lie, case, limits)


# --- afterwards ---


def _afterwards(seen: Demonstration) -> list[Check]:
    act = "after"
    lied_s = seen.lie.began_s if seen.lie.onset_s is None else seen.lie.onset_s
    guilty = {ATTACKER: _onset(seen), LIAR: lied_s}
    attackers = {(case.name, case.opened_at) for case in seen.cases if case.role == "attacker" and case.name}
    blamed = sorted({name for name, at in attackers if at < guilty.get(name, math.inf)})
    journal = seen.journal
    good = journal.ok and journal.problem is None and journal.records > 0
    return [
        *(_free(seen, name, onset) for name, onset in guilty.items()),
        Check(
            act,
            "all",
            "nobody is wrongly blamed",
            ", ".join((name or "?").upper() for name in blamed) or "nobody",
            "",
            f"{counted(len(seen.cases), 'case')} in all",
            not blamed,
        ),
        Check(
            act,
            "journal",
            "whole, and leads to the same verdicts",
            f"{'good' if good else 'broken'}, {journal.mismatches} of {counted(journal.verdicts, 'verdict')} differ",
            "",
            journal.problem or f"{journal.records:,} records, {counted(journal.heads, 'signed head')}",
            good and journal.verdicts > 0 and not journal.mismatches,
        ),
        Check(
            act,
            "host",
            "nothing is left",
            f"{counted(len(seen.residue), 'thing')} left" if seen.residue else "nothing",
            "",
            "; ".join(seen.residue) or "compared with before",
            not seen.residue,
        ),
    ]


def _free(seen: Demonstration, name: str, onset_s: float) -> Check:
    """Whether one who was limited for good reason is free in the end."""
    limits = [limit for limit in in_force(seen, name) if end(limit) > onset_s]
    standing = [limit for limit in limits if limit.lifted_at is None]
    freed = max((end(limit) for limit in limits), default=None)
    return Check(
        "after",
        name.upper(),
        "free again once it is calm",
        "limited" if standing or freed is None else "free",
        "" if standing else after(freed, onset_s),
        "; ".join(limit_words(limit) for limit in standing) or "every limit has an end",
        bool(limits) and not standing,
    )


# --- times ---


def _onset(seen: Demonstration) -> float:
    return seen.flood.began_s if seen.flood.onset_s is None else seen.flood.onset_s
