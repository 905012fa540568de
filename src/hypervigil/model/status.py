"""Levels, roles, evidence and verdicts (the paper's VI.B; DESIGN "Levels and limits", "Verdicts")."""

from dataclasses import dataclass
from enum import StrEnum

from hypervigil.model.ids import CaseId, Instant, VmId


class Level(StrEnum):
    """How closely a VM is watched. Level 2 always belongs to a case."""

    LEVEL1 = "level1"
    LEVEL2 = "level2"


class Role(StrEnum):
    """A verdict: what the VM is in the event that raised its case."""

    ATTACKER = "attacker"
    VICTIM = "victim"
    REFLECTOR = "reflector"
    """Abused by forged requests: it answers them to somebody who never asked; not to blame."""
    OVERLOADED = "overloaded"
    """At its capacity by nobody's attack."""
    CLEARED = "cleared"


class AttackClass(StrEnum):
    """What kind of event it is."""

    FLOOD = "flood"
    SCAN = "scan"
    SPOOF = "spoof"
    OVERFLOW = "overflow"
    REFLECTION = "reflection"
    BRUTE_FORCE = "brute-force"
    EXFILTRATION = "exfiltration"
    """Suspected: a copy to outside. Like the next one, no count proves it, and nobody is blamed for it."""
    BEACONING = "beaconing"
    MINING = "mining"
    NONE = "none"


class Origin(StrEnum):
    """Who says so. The host's own count always outweighs a guest's report."""

    HOST_OBSERVED = "host-observed"
    GUEST_REPORTED = "guest-reported"


@dataclass(frozen=True, slots=True)
class Evidence:
    """One fact that speaks for or against a verdict, with the numbers a person can check."""

    vm: VmId
    kind: str
    """A name from ``docs/glossary.md``, e.g. ``outbound-surge``, ``unanswered``, ``fan-out``, ``inbound-surge``."""
    origin: Origin
    at: Instant
    value: float
    baseline: float | None
    """The VM's own history for this value (its p95), or the policy prior while there are fewer than 30 samples."""
    unit: str
    text: str
    """One sentence."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """HSEM's decision about one VM in one case. Replaying its evidence gives the same verdict."""

    case: CaseId
    vm: VmId
    role: Role
    attack: AttackClass
    at: Instant
    confidence: float
    """0..1."""
    evidence: tuple[Evidence, ...]
    cause: str
    """One sentence that a person can act on."""
    counterfactual: str
    """What would have to be different: "would be CLEARED if …"."""
    target: VmId | None = None
    """Of an attacker: whom it attacks. Of a victim: who attacks it."""
