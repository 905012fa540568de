"""Typed limits, and grants, which are limits raised for a time. Every one has an end."""

from dataclasses import dataclass
from enum import StrEnum

from hypervigil.model.ids import CaseId, Instant, LimitId, VmId
from hypervigil.model.traffic import Direction, TrafficClass


class LimitKind(StrEnum):
    """What is limited, and the unit of ``Limit.value``."""

    PACKETS = "packets"  # packets per second
    OCTETS = "octets"  # bytes per second
    NEW_DESTINATIONS = "new-destinations"  # first packets to new addresses, per second
    PEER = "peer"  # packets per second from one source address (inbound only)
    SOURCE_PROOF = "source-proof"  # who begins TCP has to prove its address (inbound only); no value
    ISOLATE = "isolate"  # no traffic at all; no value
    QUARANTINE = "quarantine"  # no traffic but with the policy's quarantine addresses; no value
    CPU = "cpu"  # fraction of one physical CPU per vCPU, 0..1
    BLOCK_OPERATIONS = "block-operations"  # operations per second, per disk
    BLOCK_OCTETS = "block-octets"  # bytes per second, per disk
    MEMORY = "memory"  # balloon target in KiB
    PAUSE = "pause"  # no value


NIC_KINDS = frozenset(
    {
        LimitKind.PACKETS,
        LimitKind.OCTETS,
        LimitKind.NEW_DESTINATIONS,
        LimitKind.PEER,
        LimitKind.SOURCE_PROOF,
        LimitKind.ISOLATE,
        LimitKind.QUARANTINE,
    }
)
GRANT_KINDS = frozenset({LimitKind.CPU, LimitKind.MEMORY, LimitKind.PACKETS})
"""What may be raised: the CPU's quota, the balloon, the budget of packets out."""
VALUELESS_KINDS = frozenset({LimitKind.SOURCE_PROOF, LimitKind.ISOLATE, LimitKind.QUARANTINE, LimitKind.PAUSE})


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit on one VM."""

    id: LimitId
    vm: VmId
    kind: LimitKind
    since: Instant
    until: Instant
    reason: str
    value: float | None = None
    direction: Direction = Direction.OUT
    classes: frozenset[TrafficClass] = frozenset()
    """Which classes of packets; empty means all of them together. Each class has a budget of its own."""
    peer: str | None = None
    """Of a ``PEER`` limit: the source's IP address, or its MAC where its frames are not IP."""
    case: CaseId | None = None
    raised_from: float | None = None
    """A grant: ``value`` is more than this, which the VM has without it. ``None``: a limit, which takes away."""

    def __post_init__(self) -> None:
        if self.until <= self.since:
            raise ValueError(f"limit {self.id} ends before it begins; give it an end in the future")
        if (self.value is None) != (self.kind in VALUELESS_KINDS):
            raise ValueError(f"a limit of kind {self.kind} {'has no' if self.value is not None else 'needs a'} value")
        if self.value is not None and not 0 <= self.value < float("inf"):
            raise ValueError(f"limit {self.id}: the value {self.value} is not a finite number from 0 up")
        if (self.kind is LimitKind.PEER) != (self.peer is not None):
            raise ValueError("a peer limit names the peer's address, and no other limit does")
        if self.raised_from is not None and not (self.kind in GRANT_KINDS and 0 < self.raised_from < (self.value or 0)):
            raise ValueError(f"grant {self.id}: a grant is of CPU, memory or packets, and more than the VM has")

    @property
    def grants(self) -> bool:
        """Whether it gives instead of taking away."""
        return self.raised_from is not None
