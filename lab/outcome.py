"""From what was seen of a run to its outcome: who was judged how and when, and whether that was right. Pure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from lab.capture import Slice
from lab.place import WorkSample
from lab.scenario import Expectation, Scenario, Step
from lab.watched import Case, Limit

GRACE_S = 0.05
"""After a limit came into force, frames already under way may still arrive."""
SUCCESS_SHARE = 0.5
"""What of an attack must arrive when nobody defends."""
_SETTLING_S = 5.0
"""At the beginning of warm-up clients find their pace."""
_NOT_RUN = {126: "may not be run", 127: "is not there"}
_GRAVITY = {None: -1, "cleared": 0, "overloaded": 1, "victim": 2, "reflector": 3, "attacker": 4}


@dataclass(frozen=True)
class StepSeen:
    """A step as it went. All times here are seconds since warm-up began."""

    step: Step
    began_s: float
    ended_s: float
    exit: int | None = None
    problem: str | None = None
    first_s: float | None = None
    sent: int = 0
    delivered: tuple[Slice, ...] = ()

    @property
    def onset_s(self) -> float:
        """Its first attack frame at the attacker's tap; for what sends none its beginning."""
        return self.began_s if self.first_s is None else self.first_s


@dataclass(frozen=True)
class Judged:
    """What the product said at the end, with the scenario's names; its times are seconds since warm-up began, too."""

    cases: tuple[Case, ...]
    limits: tuple[Limit, ...]


@dataclass(frozen=True)
class Seen:
    """All that is known of a run but what it left on the host. ``judged`` is None without the product."""

    scenario: Scenario
    steps: tuple[StepSeen, ...]
    work: Mapping[str, Sequence[WorkSample]]
    judged: Judged | None


class LimitOutcome(msgspec.Struct, frozen=True):
    """A limit that was in force; ``to_s`` is its planned end where it still is."""

    type: str
    value: float | None
    from_s: float
    to_s: float


class GuestOutcome(msgspec.Struct, frozen=True):
    """What became of a guest. ``onset_s`` and the limits' times count from warm-up, the other times from onset."""

    verdict: str | None
    attack_class: str | None = msgspec.field(name="class")
    expected: str | None
    onset_s: float | None
    level2_s: float | None
    limit_s: float | None
    verdict_s: float | None
    released_s: float | None
    limits: list[LimitOutcome]
    evidence: list[dict[str, Any]]
    work_before: float | None
    work_during: float | None
    work_after: float | None
    latency_p95_before_s: float | None
    latency_p95_during_s: float | None
    latency_p95_after_s: float | None
    failed_before: int | None
    failed_during: int | None
    failed_after: int | None


class StepOutcome(msgspec.Struct, frozen=True):
    """A step; the counts are the lab's own, and None where it is no attack."""

    on: str
    target: str | None
    attack: bool
    began_s: float
    ended_s: float
    exit: int | None
    onset_s: float | None
    sent: int | None
    delivered_before_limit: int | None
    delivered_after_limit: int | None


class Outcome(msgspec.Struct, frozen=True):
    """The whole document. ``failures`` says in sentences why ``ok`` is false."""

    name: str
    control: bool
    seed: int
    image: str
    scenario: str
    guests: dict[str, GuestOutcome]
    steps: list[StepOutcome]
    wrong_blame: list[str]
    residue: list[str]
    failures: list[str]
    ok: bool


def outcome(seen: Seen, *, image: str, residue: Sequence[str]) -> Outcome:
    """The document of one run."""
    scenario = seen.scenario
    expected = {expectation.guest: expectation for expectation in scenario.expect}
    guests = {table.name: _guest(seen, table.name, expected.get(table.name)) for table in scenario.guest}
    steps = [_step(seen, step) for step in seen.steps]
    attackers = {step.on for step in scenario.step if step.attack}
    cases = seen.judged.cases if seen.judged else ()
    blamed = {case.name for case in cases if case.role == "attacker" and case.name is not None}
    wrong_blame = sorted(name for name in blamed if name in guests and name not in attackers)
    failures = [failure for number, step in enumerate(seen.steps, 1) for failure in _unrun(number, step)]
    if seen.judged is None:
        failures += [failure for number, step in enumerate(seen.steps, 1) for failure in _unsuccessful(number, step)]
        failures += [failure for one in scenario.expect for failure in _unhurt(one, guests[one.guest])]
    else:
        for expectation in scenario.expect:
            failures += _unmet(seen, expectation, guests[expectation.guest])
        failures += [failure for number, step in enumerate(seen.steps, 1) for failure in _unstopped(number, step)]
    failures += [f"{name} is blamed for an attack that it did not make" for name in wrong_blame]
    failures += [f"left on the host: {thing}" for thing in residue]
    return Outcome(
        name=scenario.name,
        control=seen.judged is None,
        seed=scenario.seed,
        image=image,
        scenario=scenario.hash,
        guests=guests,
        steps=steps,
        wrong_blame=wrong_blame,
        residue=list(residue),
        failures=failures,
        ok=not failures,
    )


# --- the product's word ---


def _guest(seen: Seen, name: str, expected: Expectation | None) -> GuestOutcome:
    onset = _onset(seen, name)
    case = _deciding(seen, name)
    limits = _in_force(seen, name)
    relevant = [limit for limit in limits if onset is None or _end(limit) > onset]
    standing = [limit for limit in limits if _stands(limit, seen)]
    work = [_stretch(seen, name, window) for window in _windows(seen)]
    return GuestOutcome(
        verdict=None if seen.judged is None else (case.role if case is not None and case.role else "none"),
        attack_class=case.attack if case else None,
        expected=expected.verdict if expected else None,
        onset_s=_rounded(onset),
        level2_s=_from(onset, case.opened_at if case else None),
        limit_s=_from(onset, min((_start(limit) for limit in relevant), default=None)),
        verdict_s=_from(onset, case.decided_at if case else None),
        released_s=_from(onset, max((_end(limit) for limit in limits), default=None)) if not standing else None,
        limits=[
            LimitOutcome(limit.kind, limit.value, round(_start(limit), 3), round(_end(limit), 3)) for limit in limits
        ],
        evidence=[msgspec.to_builtins(fact) for fact in case.evidence] if case else [],
        work_before=work[0].rate,
        work_during=work[1].rate,
        work_after=work[2].rate,
        latency_p95_before_s=work[0].latency_p95_s,
        latency_p95_during_s=work[1].latency_p95_s,
        latency_p95_after_s=work[2].latency_p95_s,
        failed_before=work[0].failed,
        failed_during=work[1].failed,
        failed_after=work[2].failed,
    )


def _onset(seen: Seen, name: str) -> float | None:
    """Of the guest's own attack; else of one aimed at it, else of the first attack, else of the first step."""
    attacks = [step for step in seen.steps if step.step.attack]
    own = [step for step in attacks if step.step.on == name]
    aimed = [step for step in attacks if step.step.target == name]
    return min((step.onset_s for step in own or aimed or attacks or seen.steps), default=None)


def _deciding(seen: Seen, name: str) -> Case | None:
    """The case with the gravest verdict, the earliest of them."""
    own = [case for case in (seen.judged.cases if seen.judged else ()) if case.name == name]
    return min(own, key=lambda case: (-_GRAVITY.get(case.role, 0), case.decided_at or case.opened_at), default=None)


def _in_force(seen: Seen, name: str) -> list[Limit]:
    """Limits that came into force, in order."""
    own = [limit for limit in (seen.judged.limits if seen.judged else ()) if limit.name == name]
    return sorted((limit for limit in own if limit.in_force_at is not None), key=_start)


def _start(limit: Limit) -> float:
    return limit.in_force_at if limit.in_force_at is not None else math.inf


def _end(limit: Limit) -> float:
    return limit.lifted_at if limit.lifted_at is not None else limit.to


def _stands(limit: Limit, seen: Seen) -> bool:
    return limit.lifted_at is None and limit.to > seen.scenario.limits.duration_s


def _unmet(seen: Seen, expectation: Expectation, got: GuestOutcome) -> list[str]:
    """What of an expectation does not hold."""
    name = expectation.guest
    right = {"cleared", "none"} if expectation.verdict == "innocent" else {expectation.verdict}
    if got.verdict not in right:
        return [f"{name} should be {expectation.verdict}, and the verdict is {got.verdict}"]
    failures = []
    if expectation.attack_class not in (None, got.attack_class):
        failures.append(f"{name}: the class should be {expectation.attack_class}, and is {got.attack_class}")
    late = expectation.within_s
    if late is not None and got.verdict_s is not None and got.verdict_s > late:
        failures.append(f"{name}: the verdict came {got.verdict_s:.1f} s after onset, {late:g} s were allowed")
    kept, share = _kept(got), expectation.keeps
    if share is not None and (kept is None or kept < share):
        did = f"{got.work_during} a second instead of {got.work_before}"
        failures.append(f"{name} should keep {share:.0%} of its work, and did {did}")
    free = not any(_stands(limit, seen) for limit in _in_force(seen, name))
    if expectation.released not in (None, free):
        failures.append(f"{name} is {'free of limits' if free else 'still limited'} at the end")
    return failures


def _unhurt(expectation: Expectation, got: GuestOutcome) -> list[str]:
    """Why the control run proves nothing: the guest kept its work although nobody held the other back."""
    kept, loses = _kept(got), expectation.loses
    if loses is None or (kept is not None and kept <= 1 - loses):
        return []
    did = f"{got.work_during} a second instead of {got.work_before}"
    return [f"{expectation.guest} should lose {loses:.0%} of its work without the product, and did {did}"]


def _kept(got: GuestOutcome) -> float | None:
    """Which share of its work of before it did while steps ran; ``None`` where it has no work."""
    before, during = got.work_before, got.work_during
    return None if not before or during is None else during / before


# --- the lab's own counts ---


def _step(seen: Seen, step: StepSeen) -> StepOutcome:
    attack = step.step.attack
    limited = _limited_s(seen, step)
    after = sum(part.frames for part in step.delivered if limited is not None and part.from_s >= limited + GRACE_S)
    return StepOutcome(
        on=step.step.on,
        target=step.step.target,
        attack=attack,
        began_s=round(step.began_s, 3),
        ended_s=round(step.ended_s, 3),
        exit=step.exit,
        onset_s=_rounded(step.first_s),
        sent=step.sent if attack else None,
        delivered_before_limit=_arrived(step) - after if attack else None,
        delivered_after_limit=after if attack else None,
    )


def _limited_s(seen: Seen, step: StepSeen) -> float | None:
    """When the first limit against a step was in force: on its guest; for ``ext``, which has none, on its target."""
    names = {table.name for table in seen.scenario.guest}
    limited = next(({name} for name in (step.step.on, step.step.target) if name in names), names)
    found = [limit for name in limited for limit in _in_force(seen, name) if _end(limit) > step.onset_s]
    return min((_start(limit) for limit in found), default=None)


def _arrived(step: StepSeen) -> int:
    return sum(part.frames for part in step.delivered)


def _unrun(number: int, step: StepSeen) -> list[str]:
    """Why a step did not do what it should, if so."""
    where = f"step {number} on {step.step.on}"
    if step.exit in _NOT_RUN:
        return [f"{where}: its command {_NOT_RUN[step.exit]}"]
    if step.step.attack and step.step.target is not None and step.sent == 0:
        return [f"{where}: no attack was seen, {step.problem or 'nothing left the attacker'}"]
    return []


def _unsuccessful(number: int, step: StepSeen) -> list[str]:
    """Why an attack that nobody hindered failed, if so. What sends nothing by design cannot be counted here."""
    if not step.step.attack or step.sent == 0 or _arrived(step) >= SUCCESS_SHARE * step.sent:
        return []
    arrived = _arrived(step)
    return [f"step {number} on {step.step.on}: only {arrived} of {step.sent} frames arrived, though nobody hindered it"]


def _unstopped(number: int, step: StepSeen) -> list[str]:
    """Why too much of an attack arrived, if so."""
    share, arrived = step.step.passes, _arrived(step)
    if share is None or arrived <= share * step.sent:
        return []
    return [f"step {number} on {step.step.on}: {arrived} of {step.sent} frames arrived, {share:.0%} were allowed"]


# --- the guests' work ---


@dataclass(frozen=True)
class _Stretch:
    rate: float | None = None
    latency_p95_s: float | None = None
    failed: int | None = None


Window = Sequence[tuple[float, float]]


def _windows(seen: Seen) -> tuple[Window, Window, Window]:
    """Before, during and after the steps."""
    end = seen.scenario.limits.duration_s
    if not seen.steps:
        return [(_SETTLING_S, end)], [], []
    first = min(step.began_s for step in seen.steps)
    last = max(step.ended_s for step in seen.steps)
    return [(_SETTLING_S, first)], [(step.began_s, step.ended_s) for step in seen.steps], [(last, end)]


def _stretch(seen: Seen, name: str, windows: Window) -> _Stretch:
    """The work done in the seconds that lie in the windows by half or more; where none does, in those they touch."""
    seconds = seen.work.get(name, ())
    inside = [second for second in seconds if any(low <= second.at_s - 0.5 <= high for low, high in windows)]
    if not inside:
        real = [(low, high) for low, high in windows if low < high]
        inside = [
            second for second in seconds if any(low < second.at_s and second.at_s - 1 < high for low, high in real)
        ]
    if not inside:
        return _Stretch()
    latencies = sorted(latency for second in inside for latency in second.latencies_s)
    p95 = latencies[math.ceil(0.95 * len(latencies)) - 1] if latencies else None
    rate = sum(second.ok for second in inside) / len(inside)
    return _Stretch(round(rate, 3), _rounded(p95), sum(second.failed for second in inside))


def _from(onset: float | None, at: float | None) -> float | None:
    return None if onset is None or at is None else round(at - onset, 3)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
