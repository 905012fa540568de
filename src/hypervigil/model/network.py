"""The three layers as the operator words them: shared networks, firewall, routing. What follows: ``network.decide``."""

from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import ip_address, ip_network
from math import inf

from hypervigil.model.services import Services


class Layer(StrEnum):
    """Where a decision falls. A packet meets them in this order."""

    SHARED = "shared network"
    FIREWALL = "firewall"
    ROUTING = "routing"


class Between(StrEnum):
    """Whether members of one tenant on one shared network may talk without a path."""

    OPEN = "open"
    ISOLATED = "isolated"


class Forwarding(StrEnum):
    """How members reach each other: over a bridge, or each by the host's routing table (one /32 or /128 per VM)."""

    BRIDGED = "bridged"
    ROUTED = "routed"


class EndKind(StrEnum):
    """What one end of a rule names."""

    ANY = "any"
    VM = "vm"
    GROUP = "group"
    TENANT = "tenant"
    NETWORK = "network"
    GATEWAY = "gateway"
    OUTSIDE = "outside"
    RANGE = "range"


NAMED_ENDS = (EndKind.VM, EndKind.GROUP, EndKind.TENANT, EndKind.NETWORK)


@dataclass(frozen=True, slots=True)
class RuleEnd:
    """One end of a rule: ``vm:web-1``, ``group:web``, ``outside``, ``203.0.113.0/24``, for example."""

    kind: EndKind
    name: str = ""
    """Of a VM, group, tenant or network; of a range its CIDR."""

    def __post_init__(self) -> None:
        if (self.kind in NAMED_ENDS or self.kind is EndKind.RANGE) != bool(self.name):
            raise ValueError(f"an end of kind {self.kind} {'has no' if self.name else 'needs a'} name")
        if self.kind is EndKind.RANGE:
            ip_network(self.name)

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}" if self.kind in NAMED_ENDS else self.name or str(self.kind)


@dataclass(frozen=True, slots=True)
class Rule:
    """An allowed path, or a denial: who may (not) begin what with whom. Answers follow by themselves."""

    name: str
    sources: tuple[RuleEnd, ...]
    destinations: tuple[RuleEnd, ...]
    services: Services
    by: str | None = None
    """The tenant whose own rule it is: it speaks for that tenant's ends only. ``None``: the provider, for everybody."""

    def __post_init__(self) -> None:
        if not self.sources or not self.destinations or not self.services:
            raise ValueError(f"rule {self.name} needs somebody at both ends and a service")


@dataclass(frozen=True, slots=True)
class Group:
    """VMs that rules name together; a name may end in ``*``."""

    name: str
    vms: tuple[str, ...]

    def holds(self, vm: str) -> bool:
        """Whether the VM of this libvirt name belongs to it."""
        return any(vm.startswith(one[:-1]) if one.endswith("*") else vm == one for one in self.vms)


@dataclass(frozen=True, slots=True)
class Budget:
    """What one VM may take at most, at all of its NICs together, always; ``None`` is no bound."""

    packets_per_s: float | None = None
    octets_per_s: float | None = None
    new_flows_per_s: float | None = None
    table_entries: int | None = None
    """Conversations that the data plane remembers for it; older ones are forgotten first."""
    broadcasts_per_s: float | None = None
    """Frames to groups, ARP requests and IPv6 multicast included; infinity is no bound, by name."""

    def __post_init__(self) -> None:
        for value in (self.packets_per_s, self.octets_per_s, self.new_flows_per_s, self.table_entries):
            if value is not None and not 0 < value < inf:
                raise ValueError("a budget is a number above 0")
        if self.broadcasts_per_s is not None and not self.broadcasts_per_s > 0:
            raise ValueError("a budget is a number above 0")


@dataclass(frozen=True, slots=True)
class Floor:
    """What nobody's rules can loosen: the provider's word, and each network's and VM's own below it."""

    between: Between = Between.OPEN
    outside: bool = True
    budget: Budget = field(default_factory=Budget)


@dataclass(frozen=True, slots=True)
class TenantPolicy:
    """One tenant's own floor, for its VMs alone and below the provider's."""

    name: str
    between: Between = Between.OPEN
    """Isolated: on no network may its VMs talk to each other without a path."""
    outside: bool = True
    budget: Budget = field(default_factory=Budget)
    """Of each of its VMs."""

    def __post_init__(self) -> None:
        if self.budget.broadcasts_per_s == inf:
            raise ValueError(f"tenant {self.name}: a tenant can narrow what its VMs may take, and take off no bound")

    @property
    def floor(self) -> Floor:
        """What it says, as the provider would."""
        return Floor(self.between, self.outside, self.budget)


@dataclass(frozen=True, slots=True)
class AddressPair:
    """An address that a NIC may use besides its own and that others may have too, with its MAC if that is special."""

    address: str
    mac: str | None = None

    def __post_init__(self) -> None:
        ip_address(self.address)
