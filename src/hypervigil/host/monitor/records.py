"""Bodies of the journal's records that are not already values of the model."""

from dataclasses import dataclass

from hypervigil.model.ids import CaseId, Instant, LimitId
from hypervigil.model.limits import Limit


@dataclass(frozen=True, slots=True)
class InventoryNames:
    """VMs that came and went."""

    appeared: tuple[str, ...]
    gone: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CaseFacts:
    """All that the judge knew of a case when it decided: enough to judge again."""

    case: CaseId
    facts: object


@dataclass(frozen=True, slots=True)
class Withheld:
    """A limit that was not put in force, and why not."""

    limit: Limit
    reason: str


@dataclass(frozen=True, slots=True)
class LimitOutcome:
    """What the enforcer read back after putting a limit in force."""

    limit: LimitId
    ok: bool
    at: Instant
    detail: str


@dataclass(frozen=True, slots=True)
class LimitEnded:
    """A limit that ended without the monitor's word."""

    limit: LimitId
    reason: str


@dataclass(frozen=True, slots=True)
class PortOutcome:
    """A port whose policy could not be put into the kernel."""

    port: str
    ok: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Repair:
    """Somebody else changed what was in force."""

    subject: str
    ok: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Blindness:
    """The sensors lost (or regained) sight of something."""

    what: str
    blind: bool


@dataclass(frozen=True, slots=True)
class Gap:
    """The monitor was away, in wall-clock seconds."""

    since: float
    until: float


@dataclass(frozen=True, slots=True)
class OperatorAct:
    """What an operator did."""

    act: str
    name: str
    by: str


@dataclass(frozen=True, slots=True)
class Exemption:
    """An operator exempted a VM for so long (0 ended it)."""

    name: str
    for_s: float
    by: str


@dataclass(frozen=True, slots=True)
class PolicyChange:
    """The policy changed."""

    changes: tuple[str, ...]
    by: str
