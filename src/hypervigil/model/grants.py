"""Grants: what a VM gets beyond its own for a time, because it is near its capacity and the host has room."""

from dataclasses import dataclass

from hypervigil.model.ids import Instant, VmId
from hypervigil.model.limits import GRANT_KINDS, LimitKind
from hypervigil.model.status import Origin


@dataclass(frozen=True, slots=True)
class GrantPolicy:
    """What the operator allows. As it stands nothing is granted."""

    cpu: float = 1.0
    """How many times its CPU quota a VM may have; 1 is nothing more. Likewise the next two."""
    memory: float = 1.0
    """Of its balloon, and never more than the domain's maximum."""
    packets: float = 1.0
    """Of its budget for packets, and never more than the floors of the provider and of its tenant."""
    victim: float = 0.5
    """Which part of what is more a victim may have."""
    headroom: float = 0.2
    """Which part of the host's CPUs and memory must be free, what is granted counted as used."""
    hold_s: float = 300.0
    """How long a grant stands without being asked for again."""

    def __post_init__(self) -> None:
        if min(self.cpu, self.memory, self.packets) < 1:
            raise ValueError("grants: cpu, memory and packets must be at least 1: a grant takes nothing away")
        if self.victim > 1 or self.headroom >= 1:
            raise ValueError("grants: victim must be at most 1 and headroom below 1, since both are parts")

    def most(self, kind: LimitKind) -> float:
        """How many times its own a VM may have."""
        return {LimitKind.CPU: self.cpu, LimitKind.MEMORY: self.memory, LimitKind.PACKETS: self.packets}.get(kind, 1.0)


@dataclass(frozen=True, slots=True)
class Ask:
    """A VM is near its capacity and asks for more, by its agent's word or by what the host sees."""

    vm: VmId
    kind: LimitKind
    at: Instant
    more: float
    """In the unit of the kind, of CPU as a part of what it has; 0: it is near no longer."""
    origin: Origin

    def __post_init__(self) -> None:
        if self.kind not in GRANT_KINDS:
            raise ValueError(f"nothing of kind {self.kind} is granted")


@dataclass(frozen=True, slots=True)
class HostSize:
    """What the host has."""

    cpus: int
    memory_kib: float
