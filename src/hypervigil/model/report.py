"""What HREM tells HSEM, and what HSEM decides. HSEM collects nothing itself: this is all it ever hears."""

from dataclasses import dataclass

from hypervigil.model.ids import CaseId, Instant, LimitId, VmId
from hypervigil.model.limits import Limit
from hypervigil.model.status import Evidence, Role, Verdict
from hypervigil.model.traffic import DenialKind, Direction, ForgedKind, TrafficClass


@dataclass(frozen=True, slots=True)
class PairRate:
    """Attempted traffic from one end to another as rates per second, seen from the NIC of ``vm``.

    ``vm`` sent it when ``direction`` is OUT, received it when IN. ``other`` is a VM of this host where the frame's
    address or MAC is one of ours, else ``OUTSIDE``.
    """

    vm: VmId
    direction: Direction
    other: VmId
    address: str
    packets: float
    octets: float
    openings: float
    """Packets among them that begin something (see ``PeerCount.openings``)."""
    answers: float
    resets: float
    ports: int
    new: bool
    services: int = 0
    """Which ports (see ``PeerCount.services``)."""


@dataclass(frozen=True, slots=True)
class ForgedCount:
    """Frames of one kind that a VM forged in the interval."""

    vm: VmId
    kind: ForgedKind
    frames: int


@dataclass(frozen=True, slots=True)
class DeniedCount:
    """Packets that did not cross the VM's NIC in the interval because of who may reach whom, or of its budget."""

    vm: VmId
    direction: Direction
    kind: DenialKind
    packets: int


@dataclass(frozen=True, slots=True)
class LimitedCount:
    """Packets of one class that a limit on the VM's NIC stopped in the interval."""

    vm: VmId
    direction: Direction
    traffic: TrafficClass
    packets: int


@dataclass(frozen=True, slots=True)
class DialogueCount:
    """Dialogues of a VM with one service that speaks first, ended in the interval (see ``GreeterCount``)."""

    vm: VmId
    direction: Direction
    other: VmId
    address: str
    port: int
    ended: int
    curt: int
    alike: int
    varied: int
    lasted_s: float


@dataclass(frozen=True, slots=True)
class HostReport:
    """One tick of HREM: rates for every VM, the busiest pairs, and notices. Origin is HOST_OBSERVED by construction."""

    at: Instant
    interval_s: float
    vms: tuple[VmId, ...]
    values: memoryview
    """float32, C order, shape ``(len(vms), len(Metric))``; NaN is unseen. Rates over the last ``interval_s``."""
    pairs: tuple[PairRate, ...] = ()
    notices: tuple[Evidence, ...] = ()
    """Overload, overflow and noisy-neighbour findings of HREM's own (the paper's "overflow attack" notification)."""
    forged: tuple[ForgedCount, ...] = ()
    limited: tuple[LimitedCount, ...] = ()
    whole: bool = False
    """The values are those of a whole second, made for the history; the windows between tell the same frames finer."""
    partial: bool = False
    """Only the listed VMs were looked at (a tripwire asked); the others are not silent, just not looked at."""
    denied: tuple[DeniedCount, ...] = ()
    dialogues: tuple[DialogueCount, ...] = ()
    taken: memoryview | None = None
    """Where the host has no CPU left: the share of its own CPUs that each VM takes; float32, shape ``(len(vms),)``, NaN
    where it was not seen just now."""


@dataclass(frozen=True, slots=True)
class EnterLevel2:
    """A case is opened; the VM is watched at Level 2 from now."""

    vm: VmId
    case: CaseId
    at: Instant
    evidence: tuple[Evidence, ...]


@dataclass(frozen=True, slots=True)
class OrderLimit:
    """Put this limit in force (monitor mode: say that it would be)."""

    limit: Limit


@dataclass(frozen=True, slots=True)
class LiftLimit:
    """End this limit now."""

    limit: LimitId
    vm: VmId
    at: Instant
    reason: str


@dataclass(frozen=True, slots=True)
class Decide:
    """A verdict."""

    verdict: Verdict


@dataclass(frozen=True, slots=True)
class LeaveLevel2:
    """The case is closed; the VM is back at Level 1."""

    vm: VmId
    case: CaseId
    at: Instant
    last_role: Role
    reason: str


Decision = EnterLevel2 | OrderLimit | LiftLimit | Decide | LeaveLevel2
