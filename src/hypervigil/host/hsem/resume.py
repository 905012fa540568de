"""Takes up a case where another process of ours left it. Pure."""

from dataclasses import dataclass

from hypervigil.host.hsem.facts import Dossier, Facts, reopened
from hypervigil.host.hsem.judge import accused_by, judge
from hypervigil.host.hsem.levels import VERDICTS, State, step
from hypervigil.host.hsem.watched import Watched, place_of
from hypervigil.model.ids import CaseId, Instant, VmId
from hypervigil.model.limits import Limit
from hypervigil.model.status import AttackClass, Role

RECHECK_S = 4.0
"""An attacker's limit outlasts its hold by this, the time to look whether it goes on."""
_UNKNOWN = Instant(float("inf"))
"""When a VM was last stirred, if nobody looked: as late as it can be."""


@dataclass(frozen=True, slots=True)
class Resumed:
    """A case that another process of ours left open, as the journal tells it."""

    vm: VmId
    case: CaseId
    role: Role | None
    since: Instant
    facts: Facts | None
    limits: tuple[Limit, ...]


def take_up(record: Watched, one: Resumed, fresh: Dossier) -> None:
    """Put a VM where it stood; ``fresh`` is its dossier where the facts of the case are lost."""
    record.dossier = reopened(one.facts) if one.facts is not None else fresh
    record.dossier.case = one.case
    record.limits = {place_of(limit): limit for limit in one.limits}
    record.state = State.LEVEL2
    record.stirred_at = _UNKNOWN
    verdict = judge(one.facts) if one.facts is not None else None
    if one.role is not None and one.role is not Role.CLEARED:
        record.role = one.role
        record.attack = verdict.attack if verdict is not None else AttackClass.NONE
        record.state = step(State.LEVEL2, VERDICTS[one.role])
    if one.role is Role.ATTACKER:
        ends = [limit.until for limit in one.limits]
        record.hold_until = Instant(max(ends, default=one.since) - RECHECK_S)
        if one.facts is not None and verdict is not None:
            record.repetition = max(record.repetition, one.facts.repetition + 1)
            record.targets = frozenset(accused_by(one.facts, verdict))
