"""A verdict made up from the facts that it rests on. Pure."""

from collections.abc import Sequence

from hypervigil.host.hsem import explain
from hypervigil.host.hsem.facts import Facts
from hypervigil.model.ids import OUTSIDE, VmId
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


def of_unasked(facts: Facts) -> Verdict:
    """Somebody asks others in its name."""
    return ruling(
        facts,
        Role.VICTIM,
        AttackClass.REFLECTION,
        evidence=explain.unasked(facts),
        cause=explain.unasked_cause(facts),
        counterfactual="would be CLEARED if it had asked those who answer, or said anything to them but resets",
        confidence=0.8,
        target=OUTSIDE,
    )


def of_outside(facts: Facts) -> Verdict:
    """What it does outside, and others do for good reason."""
    upload = facts.found.upload
    return ruling(
        facts,
        Role.CLEARED,
        AttackClass.EXFILTRATION if upload.octets else AttackClass.BEACONING,
        evidence=[*explain.suspicions(facts), *explain.surges(facts)],
        cause=explain.upload_cause(facts) if upload.octets else explain.beacon_cause(facts),
        counterfactual="would be CLEARED of this too if it had gone on before: each place is told once",
        confidence=0.5,
        target=OUTSIDE,
    )


def of_mining(facts: Facts) -> Verdict:
    """At its capacity, on the word of somebody outside."""
    return ruling(
        facts,
        Role.OVERLOADED,
        AttackClass.MINING,
        evidence=[*explain.suspicions(facts), *explain.capacity(facts)],
        cause=explain.mining_cause(facts),
        counterfactual="would be OVERLOADED and no more if that talk stopped, or said more than some words at a time",
        confidence=0.5,
        target=OUTSIDE,
    )
