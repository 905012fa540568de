"""From what was seen of trials to whether they were judged rightly. Pure."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from lab.capture import Slice
from lab.figures import lower_bound, percentile, upper_bound
from lab.kinds import GUESTS, Family, Trial
from lab.outcome import SUCCESS_SHARE
from lab.watched import Case, Limit

_GRAVITY = {None: -1, "cleared": 0, "overloaded": 1, "victim": 2, "reflector": 3, "attacker": 4}
_MOST_KEPT = 1.0


@dataclass(frozen=True)
class Flow:
    """An attack's frames, or those of the measured honest traffic. Times are seconds since warm-up began."""

    on: str
    sent: int
    delivered: int
    first_s: float | None
    arrived: tuple[Slice, ...] = ()
    """When what was delivered arrived."""


@dataclass(frozen=True)
class TrialSeen:
    """A trial as it went, with the cases and limits of its time; ``cases`` is None without the product."""

    trial: Trial
    began_s: float
    ended_s: float
    attacks: tuple[Flow, ...]
    honest: Flow | None
    cases: tuple[Case, ...] | None
    limits: tuple[Limit, ...] = ()
    problems: tuple[str, ...] = ()


class Latency(msgspec.Struct, frozen=True):
    """Of one attacker, seconds from its first frame."""

    guest: str
    level2_s: float | None
    limit_s: float | None
    verdict_s: float | None


class TrialOutcome(msgspec.Struct, frozen=True):
    """One trial. ``kept``: the share of honest traffic that passed; ``limited_s``: the longest time of one limit."""

    number: int
    kind: str
    family: str
    choice: str
    actor: str
    target: str
    began_s: float
    expected: dict[str, list[str]]
    judged: dict[str, str]
    right: bool
    wrong_blame: list[str]
    missed: list[str]
    sent: int
    delivered: int
    latency: list[Latency]
    kept: float | None
    limited_s: float
    cases: list[str]
    problems: list[str]
    known: list[Any] = []
    """What the judge knew, where it judged wrongly."""


class Counted(msgspec.Struct, frozen=True):
    """Trials of one kind."""

    trials: int
    right: int
    wrong_blame: int


class Summary(msgspec.Struct, frozen=True):
    """All trials. Bounds are one-sided and exact (Clopper and Pearson), at 95 % confidence."""

    control: bool
    seed: int
    count: int
    right: int
    right_share: float
    right_at_least: float
    wrong_blame: int
    wrong_blame_at_most: float
    verdict_p50_s: float | None
    verdict_p95_s: float | None
    kept_least: float | None
    limited_most_s: float
    kinds: dict[str, Counted]
    trials: list[TrialOutcome]
    problems: list[str]
    ok: bool


def score(seen: TrialSeen) -> TrialOutcome:
    """Whether one trial was judged rightly."""
    trial = seen.trial
    judged = {name: _gravest(seen.cases or (), name) for name in GUESTS} if seen.cases is not None else {}
    wrong = [name for name, role in judged.items() if role == "attacker" and name not in trial.attackers]
    missed = [name for name, role in judged.items() if role not in trial.expected[name]]
    sent, delivered = sum(flow.sent for flow in seen.attacks), sum(flow.delivered for flow in seen.attacks)
    problems = [*seen.problems, *(f"no frame of the attack on {flow.on}" for flow in seen.attacks if not flow.sent)]
    if seen.cases is None and sent and delivered < SUCCESS_SHARE * sent and "spoof" not in trial.kind:
        problems.append(f"only {delivered} of {sent} frames arrived, though nobody hindered it")
    return TrialOutcome(
        number=trial.number,
        kind=trial.kind,
        family=str(trial.family),
        choice=trial.choice,
        actor=trial.actor,
        target=trial.target,
        began_s=round(seen.began_s, 2),
        expected={name: sorted(roles) for name, roles in sorted(trial.expected.items())},
        judged=judged,
        right=not missed,
        wrong_blame=wrong,
        missed=missed,
        sent=sent,
        delivered=delivered,
        latency=[_latency(seen, flow) for flow in seen.attacks if flow.on in GUESTS] if judged else [],
        kept=_kept(seen.honest),
        limited_s=round(max((_lasted(limit, seen) for limit in seen.limits), default=0.0), 2),
        cases=[f"{case.case} {case.name} {case.role or 'open'}" for case in seen.cases or ()],
        problems=problems,
    )


def summary(outcomes: Sequence[TrialOutcome], seed: int, *, control: bool, problems: Iterable[str] = ()) -> Summary:
    """All trials together; right is a run without wrong blame in which every trial was carried out."""
    count = len(outcomes)
    right = sum(one.right for one in outcomes)
    wrong = sum(bool(one.wrong_blame) for one in outcomes)
    verdicts = [latency.verdict_s for one in outcomes for latency in one.latency]
    kept = [one.kept for one in outcomes if one.kept is not None and one.family == Family.BENIGN]
    all_problems = [
        *problems,
        *(f"trial {one.number} ({one.kind}): {what}" for one in outcomes for what in one.problems),
    ]
    return Summary(
        control=control,
        seed=seed,
        count=count,
        right=right,
        right_share=round(right / count, 4) if count else 0.0,
        right_at_least=round(lower_bound(right, count), 4) if count else 0.0,
        wrong_blame=wrong,
        wrong_blame_at_most=round(upper_bound(wrong, count), 4),
        verdict_p50_s=percentile(verdicts, 0.5),
        verdict_p95_s=percentile(verdicts, 0.95),
        kept_least=min(kept, default=None),
        limited_most_s=max((one.limited_s for one in outcomes if one.family == Family.BENIGN), default=0.0),
        kinds={
            kind: _counted([one for one in outcomes if one.kind == kind]) for kind in sorted({o.kind for o in outcomes})
        },
        trials=list(outcomes),
        problems=all_problems,
        ok=bool(count) and not wrong and not all_problems,
    )


def _counted(outcomes: Sequence[TrialOutcome]) -> Counted:
    return Counted(len(outcomes), sum(one.right for one in outcomes), sum(bool(one.wrong_blame) for one in outcomes))


def _gravest(cases: Sequence[Case], name: str) -> str:
    return (
        max((case.role for case in cases if case.name == name), key=lambda role: _GRAVITY[role], default=None) or "none"
    )


def _latency(seen: TrialSeen, flow: Flow) -> Latency:
    onset = flow.first_s if flow.first_s is not None else seen.began_s
    own = [case for case in seen.cases or () if case.name == flow.on]
    decided = [case.decided_at for case in own if case.role == "attacker" and case.decided_at is not None]
    limits = [limit.in_force_at for limit in seen.limits if limit.name == flow.on and limit.in_force_at is not None]
    return Latency(
        flow.on,
        _after(onset, min((case.opened_at for case in own), default=None)),
        _after(onset, min(limits, default=None)),
        _after(onset, min(decided, default=None)),
    )


def _after(onset: float, at: float | None) -> float | None:
    return None if at is None else round(at - onset, 3)


def _kept(flow: Flow | None) -> float | None:
    return round(min(_MOST_KEPT, flow.delivered / flow.sent), 4) if flow is not None and flow.sent else None


def _lasted(limit: Limit, seen: TrialSeen) -> float:
    if limit.in_force_at is None:
        return 0.0
    end = limit.lifted_at if limit.lifted_at is not None else min(limit.to, seen.ended_s)
    return max(0.0, end - limit.in_force_at) if math.isfinite(end) else 0.0
