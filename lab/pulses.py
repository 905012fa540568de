"""``python -m lab pulses``: floods at one rate, again and again on the same guests; how soon each is limited, and how.

Onset and what is delivered are the lab's own counts at the taps. When a limit came into force is what
``hypervigil limits`` says (``in_force_at``: the enforcer's reading back), on the same host's clock.
"""

import argparse
import itertools
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from lab.capture import Counter, Slice
from lab.figures import percentile
from lab.frames import WORK_TOS, Alternatives, Heading, Scene, Test, View, delivered, sent
from lab.image import image
from lab.outcome import GRACE_S, Judged
from lab.residue import look, residue
from lab.rounds import history_path, known, recall, release, warm_up
from lab.run import ask, check_root, check_writable, write
from lab.scenario import GuestTable, Limits, NetworkTable, Scenario, Step
from lab.stage import Act, Stage, staged
from lab.watched import Case, Limit

P50_S, P95_S = 1.0, 2.0
MOST_DELIVERED = 1.2
"""Of what the limit allows."""
LEAST_KEPT = 0.95
_WARMUP_S = 60.0
_PULSE_S = 6.0
_AFTER_S = 3.0
"""So long after its limit came into force an attack is measured."""

_NOTHING_PASSES = {"quarantine", "isolate", "pause"}
_PROTOCOL = {"syn": 6, "udp": 17, "icmp": 1}
_COMMANDS = {
    "syn": "hping3 -q $pace -S -p 80 $ip_b",
    "udp": "hping3 -q $pace --udp -p 9 -d 64 $ip_b",
    "icmp": "hping3 -q $pace -1 $ip_b",
}
_STEADY = """exec python3 -c '
import socket, time
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sender.connect(("$ip_b", 9))
due = time.monotonic()
while True:
    while due <= time.monotonic():
        try:
            sender.send(bytes(64))
        except OSError:
            pass
        due += 1 / $pace
    time.sleep(0.002)
'"""
"""Under slow emulation hping3 sends some 1,300 a second at most, unless it floods."""
_AT_ONCE = "for n in $(seq {count}); do {command} & done; wait"
_IS_SYN = Test(47, 1, frozenset({0x02}), mask=0x12)
_IS_WORK = (Test(12, 2, frozenset({0x0800})), Test(15, 1, frozenset({WORK_TOS}), mask=0xFC))


@dataclass(frozen=True)
class Profile:
    """A rate: how A floods, what it does of each class all day (a second), and which floods that fits."""

    at_once: int
    """So many processes flood."""
    pace: str
    """Of hping3, or packets a second of what keeps that rate."""
    syn: float
    udp: float
    icmp: float
    floods: tuple[str, ...]


PROFILES = {
    "100": Profile(1, "-i u10000", 10, 10, 10, ("syn", "udp", "icmp")),
    "200": Profile(2, "-i u10000", 20, 20, 20, ("syn", "udp", "icmp")),
    "2000": Profile(1, "2000", 8, 200, 10, ("udp",)),
    "full": Profile(1, "--flood", 8, 20, 10, ("syn", "udp", "icmp")),
}


class PulseOutcome(msgspec.Struct, frozen=True):
    """One pulse. Times are seconds from onset; what did not happen is None."""

    number: int
    flood: str
    sent: int
    sent_pps: float
    level2_s: float | None
    limit_s: float | None
    verdict_s: float | None
    right: bool
    judged: dict[str, str]
    wrong_blame: list[str]
    limit_value: float | None
    delivered_after: int | None
    allowed_after: float | None
    delivered_share: float | None
    """``delivered_after`` by ``allowed_after``, the limit times the seconds."""
    others_sent: int
    others_delivered: int
    problems: list[str]
    known: list[Any] = []
    """What the judge knew, where it judged wrongly."""


class PulsesOutcome(msgspec.Struct, frozen=True):
    """All pulses of one rate."""

    rate: str
    seed: int
    count: int
    limited: int
    right: int
    wrong_blame: int
    level2_p50_s: float | None
    level2_p95_s: float | None
    limit_p50_s: float | None
    limit_p95_s: float | None
    verdict_p50_s: float | None
    verdict_p95_s: float | None
    delivered_share_p50: float | None
    delivered_share_most: float | None
    others_sent: int
    others_kept: float | None
    pulses: list[PulseOutcome]
    failures: list[str]
    ok: bool


@dataclass(frozen=True)
class PulseSeen:
    """A pulse as it went. Times are seconds since warm-up began."""

    number: int
    flood: str
    ended_s: float
    onset_s: float | None
    sent: tuple[Slice, ...]
    delivered: tuple[Slice, ...]
    others_sent: tuple[Slice, ...]
    others_delivered: tuple[Slice, ...]
    judged: Judged
    problems: tuple[str, ...] = ()


def arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("--rate", choices=PROFILES, required=True, help="packets a second")
    parser.add_argument("--count", type=int, default=30, metavar="N", help="how many pulses (default 30)")
    parser.add_argument("--seed", type=int, default=0, help="of the order of kinds of flood (default 0)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="where to write the outcome")


def main(options: argparse.Namespace) -> int:
    """Run them; 0 if all is as promised, 1 if not."""
    check_writable(options.json)
    check_root()

    def keep(result: PulsesOutcome) -> None:
        if options.json is not None:
            write(options.json, msgspec.json.format(msgspec.json.encode(result)) + b"\n")

    result = run(options.rate, options.count, options.seed, keep)
    keep(result)
    print("\n".join(told(result)))
    return 0 if result.ok else 1


def run(rate: str, count: int, seed: int, keep: Callable[[PulsesOutcome], None]) -> PulsesOutcome:
    """Boot once, warm up once, flood again and again, undo; ``keep`` is given what there is after each pulse."""
    before = look()
    image()
    profile = PROFILES[rate]
    dice = random.Random(seed)
    outcomes: list[PulseOutcome] = []
    try:
        with staged(_scenario(profile, seed), watched=True) as stage:
            stage.begin()
            _work(stage, profile)
            warm_up(stage, _WARMUP_S)
            print(_HEADINGS, flush=True)
            for number in range(1, count + 1):
                time.sleep(dice.uniform(0.0, 1.0))  # so that onsets meet the sensors' beat anywhere
                began = time.time()
                outcome = measured(_pulse(stage, number, dice.choice(profile.floods), profile))
                if stage.product is not None and not outcome.right:
                    outcome = msgspec.structs.replace(outcome, known=known(stage.product, began))
                outcomes.append(outcome)
                print(_row(outcome), flush=True)
                keep(summed(rate, seed, outcomes, [], unfinished=number < count))
    finally:
        history_path().unlink(missing_ok=True)
    return summed(rate, seed, outcomes, residue(before))


# --- one pulse ---


def command(flood: str, profile: Profile) -> str:
    """What A runs to flood B."""
    one = (_STEADY if profile.pace.isdigit() else _COMMANDS[flood]).replace("$pace", profile.pace)
    return one if profile.at_once == 1 else _AT_ONCE.format(count=profile.at_once, command=one)


def _pulse(stage: Stage, number: int, flood: str, profile: Profile) -> PulseSeen:
    product = stage.product
    assert product is not None
    began = stage.now_s
    flooding, arriving, working, arrived = counters = [
        [stage.capture.count(stage.interface(view.place), view) for view in views]
        for views in (*attack_views(stage.scene, flood), *work_views(stage.scene, flood))
    ]
    act = stage.act(Step(1.0, "a", command(flood, profile)), began + _PULSE_S)
    time.sleep(max(0.0, began + _PULSE_S - stage.now_s))
    stage.settle(act)
    stage.capture.end(*(counter for group in counters for counter in group))
    release(product)
    judged = ask(stage, product)
    recall(product)
    first = flooding[0].first_at_s
    return PulseSeen(
        number=number,
        flood=flood,
        ended_s=began + _PULSE_S,
        onset_s=stage.since(first) if first is not None else None,
        sent=_slices(stage, flooding),
        delivered=_slices(stage, arriving),
        others_sent=_slices(stage, working),
        others_delivered=_slices(stage, arrived),
        judged=Judged(
            tuple(case for case in judged.cases if case.opened_at >= began),
            tuple(limit for limit in judged.limits if limit.in_force_at is not None and limit.in_force_at >= began),
        ),
        problems=_problems(act),
    )


def _problems(act: Act) -> tuple[str, ...]:
    if act.problem is not None:
        return (act.problem,)
    return (f"'{act.step.run}' could not be run",) if act.exit in {126, 127} else ()


def _slices(stage: Stage, counters: Sequence[Counter]) -> tuple[Slice, ...]:
    return tuple(
        replace(part, from_s=stage.since(part.from_s), to_s=stage.since(part.to_s))
        for counter in counters
        for part in counter.slices
    )


def attack_views(scene: Scene, flood: str) -> tuple[list[View], list[View]]:
    """The flood's own packets, as they leave A and as they reach B; not what A's kernel answers to B's answers."""
    of_class = (Test(23, 1, frozenset({_PROTOCOL[flood]})), *((_IS_SYN,) if flood == "syn" else ()))

    def narrowed(view: View) -> View:
        ip = [tests for tests in view.alternatives if tests[0].values == frozenset({0x0800})]
        return replace(view, alternatives=[(*tests, *of_class) for tests in ip])

    at_target = [view for view in delivered(scene, "a", "b") if view.place == "b"]
    return [narrowed(sent(scene, "a", "b"))], [narrowed(view) for view in at_target]


def work_views(scene: Scene, flood: str) -> tuple[list[View], list[View]]:
    """What A sends of other classes as its ordinary work, as it leaves A and as it reaches B and C."""
    protocol = _PROTOCOL[flood]
    others: list[tuple[Test, ...]] = [(*_IS_WORK, Test(23, 1, frozenset({protocol}), among=False))]
    if flood == "syn":
        others.append((*_IS_WORK, Test(23, 1, frozenset({protocol})), replace(_IS_SYN, among=False)))
    mac = scene.parties["a"].mac or ""
    by_a = Test(8, 4, frozenset({int.from_bytes(bytes.fromhex(mac.replace(":", ""))[2:])}))
    from_a: Alternatives = others
    to_others: Alternatives = [(by_a, *tests) for tests in others]
    return [View("a", Heading.FROM_PLACE, from_a)], [View(name, Heading.TO_PLACE, to_others) for name in ("b", "c")]


# --- what it says. Pure ---


def measured(seen: PulseSeen) -> PulseOutcome:
    """The figures of one pulse."""
    onset = seen.onset_s
    own = [case for case in seen.judged.cases if case.name == "a"]
    limits = [limit for limit in seen.judged.limits if _against(limit, seen.flood)]
    since = min((limit.in_force_at for limit in limits if limit.in_force_at is not None), default=None)
    judged = {name: _gravest(seen.judged.cases, name) for name in ("a", "b", "c")}
    decided = [case.decided_at for case in own if case.role == "attacker" and case.decided_at is not None]
    after = allowed = kept_sent = kept = None
    if since is not None:
        low, high = since + GRACE_S, min(since + GRACE_S + _AFTER_S, seen.ended_s)
        after = _counted(seen.delivered, low, high)
        allowed = _allowed(limits, low, high)
        kept_sent, kept = _counted(seen.others_sent, low, high), _counted(seen.others_delivered, low, high)
    total = sum(part.frames for part in seen.sent)
    problems = [*seen.problems, *([] if onset is not None else ["no packet of the flood was seen"])]
    return PulseOutcome(
        number=seen.number,
        flood=seen.flood,
        sent=total,
        sent_pps=round(total / max(0.1, seen.ended_s - onset), 1) if onset is not None else 0.0,
        level2_s=_from(onset, min((case.opened_at for case in own), default=None)),
        limit_s=_from(onset, since),
        verdict_s=_from(onset, min(decided, default=None)),
        right=judged == {"a": "attacker", "b": "victim", "c": judged["c"]} and judged["c"] in {"none", "cleared"},
        judged=judged,
        wrong_blame=[name for name in ("b", "c") if judged[name] == "attacker"],
        limit_value=next((limit.value for limit in limits if limit.in_force_at == since), None),
        delivered_after=after,
        allowed_after=round(allowed, 1) if allowed is not None else None,
        delivered_share=round(after / allowed, 3) if after is not None and allowed else None,
        others_sent=kept_sent or 0,
        others_delivered=kept or 0,
        problems=problems,
    )


def summed(
    rate: str, seed: int, pulses: Sequence[PulseOutcome], left: Sequence[str], *, unfinished: bool = False
) -> PulsesOutcome:
    """All pulses together, and what of the promise does not hold."""
    limits = [pulse.limit_s for pulse in pulses]
    shares = [pulse.delivered_share for pulse in pulses if pulse.delivered_share is not None]
    sent_others = sum(pulse.others_sent for pulse in pulses)
    kept = sum(pulse.others_delivered for pulse in pulses) / sent_others if sent_others else None
    p50, p95 = percentile(limits, 0.5), percentile(limits, 0.95)
    failures = [f"pulse {pulse.number}: {problem}" for pulse in pulses for problem in pulse.problems]
    failures += [f"pulse {pulse.number}: no limit came into force" for pulse in pulses if pulse.limit_s is None]
    if p50 is None or p50 > P50_S:
        failures.append(f"onset to limit in force: p50 is {_seconds(p50)}, promised is {P50_S:g} s")
    if p95 is None or p95 > P95_S:
        failures.append(f"onset to limit in force: p95 is {_seconds(p95)}, promised is {P95_S:g} s")
    if shares and max(shares) > MOST_DELIVERED:
        failures.append(
            f"delivered after the limit: up to {max(shares):.2f} times the limit, promised is {MOST_DELIVERED:g}"
        )
    if kept is None or kept < LEAST_KEPT:
        failures.append(f"other classes kept {kept or 0.0:.1%}, promised is {LEAST_KEPT:.0%}")
    failures += [
        f"pulse {p.number}: judged {', '.join(f'{name} {role}' for name, role in p.judged.items())}"
        for p in pulses
        if not p.right
    ]
    failures += [
        f"pulse {p.number}: {name} is blamed for an attack that it did not make"
        for p in pulses
        for name in p.wrong_blame
    ]
    failures += [f"left on the host: {thing}" for thing in left]
    if unfinished:
        failures.append("it was stopped before its end")
    return PulsesOutcome(
        rate=rate,
        seed=seed,
        count=len(pulses),
        limited=sum(limit is not None for limit in limits),
        right=sum(pulse.right for pulse in pulses),
        wrong_blame=sum(bool(pulse.wrong_blame) for pulse in pulses),
        level2_p50_s=percentile([pulse.level2_s for pulse in pulses], 0.5),
        level2_p95_s=percentile([pulse.level2_s for pulse in pulses], 0.95),
        limit_p50_s=p50,
        limit_p95_s=p95,
        verdict_p50_s=percentile([pulse.verdict_s for pulse in pulses], 0.5),
        verdict_p95_s=percentile([pulse.verdict_s for pulse in pulses], 0.95),
        delivered_share_p50=percentile(shares, 0.5),
        delivered_share_most=max(shares, default=None),
        others_sent=sent_others,
        others_kept=round(kept, 4) if kept is not None else None,
        pulses=list(pulses),
        failures=failures,
        ok=bool(pulses) and not failures,
    )


def _against(limit: Limit, flood: str) -> bool:
    """Whether a limit holds the packets that A sends of this class."""
    if limit.name != "a" or limit.direction != "out":
        return False
    return limit.kind in _NOTHING_PASSES or (limit.kind == "packets" and (not limit.classes or flood in limit.classes))


def _allowed(limits: Sequence[Limit], low: float, high: float) -> float:
    """Packets that the strictest limit in force at each moment lets pass; where none is, those of the last one."""
    edges = {low, high}
    for limit in limits:
        edges |= {at for at in (limit.in_force_at, limit.lifted_at) if at is not None and low < at < high}
    ordered = sorted(edges)
    total, value = 0.0, 0.0
    for start, end in itertools.pairwise(ordered):
        values = [limit.value or 0.0 for limit in limits if _in_force(limit, (start + end) / 2)]
        value = min(values, default=value)
        total += value * (end - start)
    return total


def _in_force(limit: Limit, at: float) -> bool:
    end = limit.lifted_at if limit.lifted_at is not None else limit.to
    return limit.in_force_at is not None and limit.in_force_at <= at < end


def _counted(slices: Sequence[Slice], low: float, high: float) -> int:
    return sum(part.frames for part in slices if part.from_s >= low and part.to_s <= high)


def _gravest(cases: Sequence[Case], name: str) -> str:
    order = ("none", "cleared", "overloaded", "victim", "reflector", "attacker")
    return max((case.role or "none" for case in cases if case.name == name), key=order.index, default="none")


def _from(onset: float | None, at: float | None) -> float | None:
    return None if onset is None or at is None else round(at - onset, 3)


# --- the places ---


def _scenario(profile: Profile, seed: int) -> Scenario:
    """A is a client of B, and both talk with C."""
    return Scenario(
        name="pulses",
        network=(NetworkTable("net1", "10.60.0.0/24"),),
        guest=(
            GuestTable("a", "net1", "red", work=f"web-client:b --rate {profile.syn:g}"),
            GuestTable("b", "net1", "blue", work="web-server"),
            GuestTable("c", "net1", "green"),
        ),
        limits=Limits(3600.0),
        seed=seed,
    )


def _work(stage: Stage, profile: Profile) -> None:
    """What A does all day besides being B's client."""
    stage.guests["b"].spawn("hv-udp serve --port 7")
    for command in (
        f"hv-udp send $ip_b --port 7 --rate {profile.udp:g}",
        f"ping -q -Q {WORK_TOS} -i {1 / profile.icmp:g} $ip_c",
    ):
        stage.guests["a"].spawn(stage.put_in("a", command))


# --- for people ---

_HEADINGS = "  # flood    sent/s  level 2    limit  verdict      L  after/L  others  judged"


def _row(one: PulseOutcome) -> str:
    others = f"{one.others_delivered / one.others_sent:.0%}" if one.others_sent else "–"
    share = f"{one.delivered_share:.2f}" if one.delivered_share is not None else "–"
    value = f"{one.limit_value:.0f}" if one.limit_value is not None else "–"
    judged = " ".join(f"{name} {role}" for name, role in one.judged.items())
    mark = "  WRONG BLAME" if one.wrong_blame else "" if one.right else "  wrong"
    times = "".join(f"{_seconds(value):>9}" for value in (one.level2_s, one.limit_s, one.verdict_s))
    problems = f"  {'; '.join(one.problems)}" if one.problems else ""
    figures = f"{one.number:>3} {one.flood:<6}{one.sent_pps:>9.0f}{times}{value:>7}{share:>9}{others:>8}"
    return f"{figures}  {judged}{mark}{problems}"


def _seconds(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f} s"


def told(result: PulsesOutcome) -> list[str]:
    """The summary in a few lines."""
    right = f"right {result.right} of {result.count}, wrong blame {result.wrong_blame}"
    most = f"p50 {result.delivered_share_p50}, most {result.delivered_share_most}"
    return [
        f"pulses at {result.rate} packets/s, seed {result.seed}: {result.limited} of {result.count} limited",
        f"  onset to Level 2: p50 {_seconds(result.level2_p50_s)}, p95 {_seconds(result.level2_p95_s)}",
        f"  onset to limit in force: p50 {_seconds(result.limit_p50_s)}, p95 {_seconds(result.limit_p95_s)}",
        f"  onset to verdict: p50 {_seconds(result.verdict_p50_s)}, p95 {_seconds(result.verdict_p95_s)}; {right}",
        f"  delivered after the limit, by the limit: {most}",
        f"  other classes kept {result.others_kept} of {result.others_sent} packets",
        *(f"  wrong: {failure}" for failure in result.failures),
        "ok" if result.ok else "NOT ok",
    ]
