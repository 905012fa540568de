"""From the scoreboard's trials to its cells: kind and rate, how soon, how rightly, and with what certainty. Pure."""

from collections.abc import Iterable, Sequence

import msgspec

from lab.cells import UNCOUNTED
from lab.figures import lower_bound, percentile, upper_bound
from lab.kinds import Family
from lab.outcome import GRACE_S
from lab.score import TrialOutcome, TrialSeen, score

MOST_LIMITED_P50_S, MOST_LIMITED_P95_S = 1.0, 2.0
LEAST_KEPT = 0.5
"""A benign surge keeps so much of what it offers."""
MOST_BENIGN_LIMIT_S = 30.0


class Played(msgspec.Struct, frozen=True):
    """One trial of a cell."""

    outcome: TrialOutcome
    delivered_after: int | None
    """Frames of the attack that arrived after its first limit came into force; None without one."""
    limit_s: float | None
    """From onset to the first limit on whoever attacks, or, of an attack from outside, on its target."""


class Cell(msgspec.Struct, frozen=True):
    """All trials of one kind at one rate. Bounds are one-sided and exact, at 95 % confidence."""

    kind: str
    rate: str
    family: str
    trials: int
    right: int
    right_at_least: float
    wrong_blame: int
    wrong_blame_at_most: float
    level2: int
    """Trials in which a case of whoever acts was opened."""
    level2_p50_s: float | None
    level2_p95_s: float | None
    limited: int
    limit_p50_s: float | None
    limit_p95_s: float | None
    verdict_p50_s: float | None
    verdict_p95_s: float | None
    sent: int
    delivered: int
    delivered_after: int | None
    kept_least: float | None
    limited_most_s: float
    missed: list[str]
    """Who was judged otherwise than is right, and how often."""


class Board(msgspec.Struct, frozen=True):
    """All cells, and all trials."""

    seed: int
    trials: int
    right: int
    right_at_least: float
    wrong_blame: int
    wrong_blame_at_most: float
    cells: list[Cell]
    missed: list[str]
    """Targets that are missed, in sentences."""
    problems: list[str]
    played: list[Played]
    ok: bool
    """Whether all was carried out and nobody was blamed wrongly; what was not found is told, and is no failure."""


def played(seen: TrialSeen) -> Played:
    """One trial, scored."""
    outcome = score(seen)
    if seen.trial.kind in UNCOUNTED:
        kept = [problem for problem in outcome.problems if not problem.startswith("no frame of the attack")]
        outcome = msgspec.structs.replace(outcome, problems=kept)
    since = _limited_at(seen)
    onset = min((flow.first_s for flow in seen.attacks if flow.first_s is not None), default=seen.began_s)
    if since is None:
        return Played(outcome, None, None)
    after = sum(part.frames for flow in seen.attacks for part in flow.arrived if part.from_s >= since + GRACE_S)
    return Played(outcome, after, round(since - onset, 3))


def _limited_at(seen: TrialSeen) -> float | None:
    """When the first limit was in force on an attacker; on who is attacked from outside, or acts without attacking."""
    trial = seen.trial
    names = trial.attackers or ({trial.target, trial.actor} if seen.attacks else {trial.actor})
    found = [limit.in_force_at for limit in seen.limits if limit.name in names and limit.in_force_at is not None]
    return min(found, default=None)


def board(those: Sequence[Played], seed: int, problems: Iterable[str] = ()) -> Board:
    """The whole scoreboard."""
    by_cell: dict[tuple[str, str], list[Played]] = {}
    for one in those:
        by_cell.setdefault((one.outcome.kind, one.outcome.choice), []).append(one)
    cells = [_cell(kind, rate, group) for (kind, rate), group in sorted(by_cell.items())]
    count, right = len(those), sum(one.outcome.right for one in those)
    wrong = sum(bool(one.outcome.wrong_blame) for one in those)
    all_problems = [
        *problems,
        *(f"trial {one.outcome.number} ({one.outcome.kind}): {what}" for one in those for what in one.outcome.problems),
    ]
    return Board(
        seed=seed,
        trials=count,
        right=right,
        right_at_least=round(lower_bound(right, count), 4) if count else 0.0,
        wrong_blame=wrong,
        wrong_blame_at_most=round(upper_bound(wrong, count), 4),
        cells=cells,
        missed=[sentence for cell in cells for sentence in missed(cell)],
        problems=all_problems,
        played=list(those),
        ok=bool(count) and not wrong and not all_problems,
    )


def _cell(kind: str, rate: str, those: Sequence[Played]) -> Cell:
    outcomes = [one.outcome for one in those]
    count, right = len(outcomes), sum(one.right for one in outcomes)
    wrong = sum(bool(one.wrong_blame) for one in outcomes)
    firsts = [one.latency[0] if one.latency else None for one in outcomes]
    attacked = outcomes[0].family != Family.BENIGN
    level2 = [first.level2_s if first is not None else None for first in firsts] if attacked else []
    verdicts = [first.verdict_s if first is not None else None for first in firsts] if attacked else []
    limits = [one.limit_s for one in those] if attacked else []
    after = [one.delivered_after for one in those if one.delivered_after is not None]
    kept = [one.kept for one in outcomes if one.kept is not None and not attacked]
    told: dict[str, int] = {}
    for one in outcomes:
        for name in one.missed:
            who = {one.actor: "X", one.target: "T"}.get(name, "O")
            what = f"{who} is {one.judged.get(name, 'none')}"
            told[what] = told.get(what, 0) + 1
    return Cell(
        kind=kind,
        rate=rate,
        family=outcomes[0].family,
        trials=count,
        right=right,
        right_at_least=round(lower_bound(right, count), 4),
        wrong_blame=wrong,
        wrong_blame_at_most=round(upper_bound(wrong, count), 4),
        level2=sum(any(one.judged.get(name) != "none" for name in (one.actor, one.target)) for one in outcomes),
        level2_p50_s=percentile(level2, 0.5),
        level2_p95_s=percentile(level2, 0.95),
        limited=sum(one.limit_s is not None for one in those),
        limit_p50_s=percentile(limits, 0.5),
        limit_p95_s=percentile(limits, 0.95),
        verdict_p50_s=percentile(verdicts, 0.5),
        verdict_p95_s=percentile(verdicts, 0.95),
        sent=sum(one.sent for one in outcomes),
        delivered=sum(one.delivered for one in outcomes),
        delivered_after=sum(after) if after else None,
        kept_least=min(kept, default=None),
        limited_most_s=max(one.limited_s for one in outcomes),
        missed=[f"{what} ({times} of {count})" for what, times in sorted(told.items())],
    )


def missed(cell: Cell) -> list[str]:
    """What of the targets a cell misses."""
    where = f"{cell.kind} {cell.rate}".strip()
    found = []
    if cell.wrong_blame:
        found.append(f"{where}: somebody is blamed for what another did in {cell.wrong_blame} of {cell.trials}")
    if cell.right < cell.trials:
        found.append(f"{where}: right in {cell.right} of {cell.trials}: {', '.join(cell.missed)}")
    if cell.family == Family.BENIGN:
        if cell.kept_least is not None and cell.kept_least < LEAST_KEPT:
            found.append(f"{where}: honest work kept {cell.kept_least:.0%}, promised is {LEAST_KEPT:.0%}")
        if cell.limited_most_s > MOST_BENIGN_LIMIT_S:
            found.append(f"{where}: honest work is limited for {cell.limited_most_s:.0f} s")
    elif cell.limited:
        for name, value, most in (
            ("p50", cell.limit_p50_s, MOST_LIMITED_P50_S),
            ("p95", cell.limit_p95_s, MOST_LIMITED_P95_S),
        ):
            if value is None or value > most:
                late = "never" if value is None else f"{value:.2f} s"
                found.append(f"{where}: onset to limit {name} is {late}, promised is {most:g} s")
    return found
