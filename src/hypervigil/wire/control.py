"""What the command line asks of the monitor, and its answers. Answers carry plain values, ready for people or JSON."""

from typing import Any

import msgspec

from hypervigil.model.ids import CaseId
from hypervigil.model.limits import LimitKind
from hypervigil.model.traffic import Direction, TrafficClass


class _Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="is", kw_only=True):
    pass


class ShowStatus(_Message, frozen=True, kw_only=True, tag="status"):
    """How the system itself is."""


class ShowVms(_Message, frozen=True, kw_only=True, tag="vms"):
    """Every VM with its level, mode, role, limits, and what is heard of its agent."""


class ShowCases(_Message, frozen=True, kw_only=True, tag="cases"):
    """Cases, newest first."""

    closed: bool = True


class ShowCase(_Message, frozen=True, kw_only=True, tag="case"):
    """One case with all its evidence."""

    case: CaseId


class ShowLimits(_Message, frozen=True, kw_only=True, tag="limits"):
    """Limits in force; with ``ended`` those of the past too."""

    ended: bool = False


class ShowDrops(_Message, frozen=True, kw_only=True, tag="drops"):
    """What did not cross the NICs of one VM, or of all, and why."""

    name: str | None = None


class ShowTopology(_Message, frozen=True, kw_only=True, tag="topology"):
    """Units, networks, ports and their bindings."""


class ShowNetwork(_Message, frozen=True, kw_only=True, tag="network"):
    """The policy in force and the inventory: all that who may reach whom follows from."""


class Release(_Message, frozen=True, kw_only=True, tag="release"):
    """End every limit of a VM and close its case as cleared by the operator."""

    name: str
    by: str = ""


class PutLimit(_Message, frozen=True, kw_only=True, tag="limit"):
    """An operator's own limit."""

    name: str
    kind: LimitKind
    value: float | None
    for_s: float
    direction: Direction = Direction.OUT
    classes: frozenset[TrafficClass] = frozenset()
    peer: str | None = None
    by: str = ""


class Exempt(_Message, frozen=True, kw_only=True, tag="exempt"):
    """Judge a VM as always, but put no limit on it for so long (0 ends the exemption)."""

    name: str
    for_s: float
    by: str = ""


class ApplyPolicy(_Message, frozen=True, kw_only=True, tag="policy"):
    """Swap the policy; with ``dry_run`` only say what would change."""

    text: str
    dry_run: bool = False
    by: str = ""


class ExportHistory(_Message, frozen=True, kw_only=True, tag="history-export"):
    """The judge's memory as bytes."""

    names: tuple[str, ...] = ()
    """Of these VMs, by name or UUID; of all, if there are none."""


class ImportHistory(_Message, frozen=True, kw_only=True, tag="history-import"):
    """Take over what was exported of its VMs."""

    data: bytes
    by: str = ""


class SignNow(_Message, frozen=True, kw_only=True, tag="sign"):
    """Have the journal's head signed and copied out now."""


Request = (
    ShowStatus
    | ShowVms
    | ShowCases
    | ShowCase
    | ShowLimits
    | ShowDrops
    | ShowTopology
    | ShowNetwork
    | Release
    | PutLimit
    | Exempt
    | ApplyPolicy
    | ExportHistory
    | ImportHistory
    | SignNow
)


class Answer(_Message, frozen=True, kw_only=True, tag="answer"):
    """What was asked for."""

    body: dict[str, Any]


class Denied(_Message, frozen=True, kw_only=True, tag="denied"):
    """One sentence: why not, and the mend."""

    reason: str


Response = Answer | Denied
