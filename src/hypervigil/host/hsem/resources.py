"""What VMs take of the host's resources, and what that costs others: parts of a case's facts. Pure."""

from dataclasses import dataclass
from enum import StrEnum

from hypervigil.model.ids import Instant, VmId

BEYOND = 1.1
"""So many times what it was given is more than it was given."""


class Resource(StrEnum):
    """What a VM may take more of than is good for others."""

    CPU = "CPU"
    MEMORY = "memory"
    DISK = "disk"
    """Bytes read and written."""
    BLOCK = "block requests"
    CONNECTIONS = "connections"
    """Begun, and as good as nothing said on them."""


@dataclass(frozen=True, slots=True)
class Forks:
    """What a VM's own agent tells of processes begun, far more than it ever told, per second."""

    rate: float
    """At its highest."""
    tail: float
    """The 95th percentile of what it told before."""


@dataclass(frozen=True, slots=True)
class Storm:
    """Requests to the hypervisor (VM exits, as the accelerator counts them), far more than ever, per second."""

    rate: float
    """At its highest."""
    tail: float
    """The VM's own 95th percentile."""


@dataclass(frozen=True, slots=True)
class Grab:
    """Far more of one resource than the VM's history explains, and what that costs others."""

    resource: Resource
    rate: float
    """At its highest; of CPU a share of the VM's own, of memory bytes, else per second."""
    tail: float
    """The VM's own 95th percentile."""
    first_at: Instant
    last_at: Instant
    cost: float = 0.0
    """What the one bears that suffers most, against what is bearable: from 1 on it is at others' cost."""
    sufferer: VmId | None = None
    bound: float | None = None
    """What the VM was given of it."""
    asked_at: Instant | None = None
    """Since when more than usual has been asked of it from outside itself."""
    waits: float = 0.0
    """The share of the time for which the sufferer waits for a CPU, where that is what it bears."""
    denied: float = 0.0
    """The share of what others begin at the sufferer that comes to nothing, where that is what it bears."""
    unended: float = 0.0
    """Connections of it at the sufferer on which it says something and ends nothing, where these are what it bears."""
    forks: Forks | None = None
    """What the VM's agent tells meanwhile, where the host sees that it takes the CPU of others."""
    storm: Storm | None = None
    """What it asks of the hypervisor meanwhile, likewise: each such request is work of the host's."""

    @property
    def beyond(self) -> bool:
        """Whether it is more than the VM was given."""
        return self.bound is not None and self.rate > BEYOND * self.bound

    @property
    def harmful(self) -> bool:
        """Whether it is more than its own, or at others' cost."""
        return self.cost >= 1 or self.beyond

    @property
    def blamable(self) -> bool:
        """Whether it can be an attack: to compute is none, however much, but where its own agent speaks against it."""
        return self.harmful and (self.resource is not Resource.CPU or self.forks is not None)

    @property
    def caused(self) -> bool:
        """Whether what is asked of the VM grew first."""
        return self.asked_at is not None and self.asked_at <= self.first_at
