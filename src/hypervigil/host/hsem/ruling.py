"""A verdict made up from the facts that it rests on. Pure."""

from collections.abc import Sequence

from hypervigil.host.hsem.facts import Facts
from hypervigil.model.ids import VmId
from hypervigil.model.status import AttackClass, Evidence, Role, Verdict


def ruling(
    facts: Facts,
    role: Role,
    attack: AttackClass,
    *,
    evidence: Sequence[Evidence],
    cause: str,
    counterfactual: str,
    confidence: float,
    target: VmId | None = None,
) -> Verdict:
    """The verdict on the VM of a case."""
    return Verdict(
        case=facts.case,
        vm=facts.vm,
        role=role,
        attack=attack,
        at=facts.at,
        confidence=confidence,
        # Shown beside what decided: whatever an agent tells, or is silent about, decides nothing by itself.
        evidence=(*evidence, *facts.told),
        cause=cause,
        counterfactual=counterfactual,
        target=target,
    )
