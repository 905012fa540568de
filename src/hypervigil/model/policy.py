"""What the operator wants: mode, networks, VMs, bounds of judgement. ``hypervigil.host.policyfile`` reads it."""

from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import ip_address, ip_network

from hypervigil.model.grants import GrantPolicy
from hypervigil.model.network import (
    AddressPair,
    Between,
    Budget,
    Floor,
    Forwarding,
    Group,
    Rule,
    RuleEnd,
    TenantPolicy,
)
from hypervigil.model.traffic import ForgedKind

MAX_DHCP_SERVERS = 4
"""That one port believes."""


class Mode(StrEnum):
    """Monitor drops nothing and says what it would have done; enforce acts."""

    MONITOR = "monitor"
    ENFORCE = "enforce"


@dataclass(frozen=True, slots=True)
class NetworkPolicy:
    """One shared network (bridge) whose ports are protected."""

    name: str
    bridge: str | None
    """``None`` only where the network is routed."""
    cidr: str | None = None
    trusted_dhcp_macs: tuple[str, ...] = ()
    uplinks: tuple[str, ...] = ()
    """Ports of the bridge that belong to no VM and may pass anything, e.g. the host's own NIC."""
    forwarding: Forwarding = Forwarding.BRIDGED
    members: tuple[RuleEnd, ...] = ()
    """Who may be on it; empty: every NIC that is."""
    between: Between | None = None
    """Between members of one tenant; ``None`` is open."""
    gateways: tuple[str, ...] = ()
    """Addresses of its routers and DHCP servers that are no VMs."""
    reaches: tuple[str, ...] = ()
    """Networks in which its members may begin something, as far as a path allows it."""
    outside: bool = False
    """Whether it has a way outside and back in, as far as a path allows it."""
    spans_hosts: bool = False
    """Whether VMs that the policy names and that do not run here are members all the same, known by their addresses."""
    free_until_leased: bool = False
    """A NIC without any known address may use whatever is nobody's, until a trusted server gives it one."""

    def __post_init__(self) -> None:
        if self.cidr is not None:
            ip_network(self.cidr)
        for address in self.gateways:
            ip_address(address)
        if len(self.trusted_dhcp_macs) > MAX_DHCP_SERVERS:
            raise ValueError(f"network {self.name}: trusted_dhcp_macs must hold at most {MAX_DHCP_SERVERS}")
        if self.free_until_leased and not self.trusted_dhcp_macs:
            raise ValueError(f"network {self.name}: free_until_leased needs trusted_dhcp_macs, which give the leases")
        if self.spans_hosts and self.cidr is None:
            raise ValueError(f"network {self.name}: spans_hosts needs a cidr, which says whose addresses are on it")
        if self.spans_hosts and self.free_until_leased:
            raise ValueError(
                f"network {self.name}: free_until_leased lets a NIC use an address of a VM on another host, which "
                "spans_hosts believes; take one of them away"
            )
        if self.bridge is None and (self.forwarding is Forwarding.BRIDGED or self.cidr is None):
            raise ValueError(f"network {self.name}: without a bridge it must be routed and have a cidr")

    @property
    def ruled(self) -> bool:
        """Whether it says anything of who may reach whom."""
        return bool(self.members or self.between or self.gateways or self.reaches or self.outside)


@dataclass(frozen=True, slots=True)
class VmPolicy:
    """One VM, by its libvirt name."""

    name: str
    tenant: str = "default"
    mode: Mode | None = None
    """Overrides the policy's mode for this VM."""
    addresses: tuple[str, ...] = ()
    """IP addresses its NICs may use, besides those in libvirt's XML."""
    quarantine_allows: tuple[str, ...] = ()
    address_pairs: tuple[AddressPair, ...] = ()
    """Addresses that others may have too: of a cluster, of a virtual router."""
    unchecked: tuple[ForgedKind, ...] = ()
    """Kinds of forgery that are its business, e.g. because it routes for others."""
    budget: Budget = field(default_factory=Budget)

    def __post_init__(self) -> None:
        for address in (*self.addresses, *self.quarantine_allows):
            ip_address(address)
        if ForgedKind.UNREADABLE in self.unchecked:
            raise ValueError(f"vm {self.name}: what cannot be read is nobody's business to send")


@dataclass(frozen=True, slots=True)
class Bounds:
    """How HSEM sizes limits and patience. Packets per second unless said otherwise."""

    factor: float = 2.0
    """``k`` of the provisional limit ``L = clamp(k × own p95, floor, cap)``."""
    floor_pps: float = 20.0
    cap_pps: float = 5000.0
    hold_s: float = 60.0
    """An attacker's first limit; doubled at each repetition up to ``hold_max_s``."""
    hold_max_s: float = 3600.0
    provisional_s: float = 30.0
    calm_s: float = 30.0

    def __post_init__(self) -> None:
        if not 0 < self.floor_pps <= self.cap_pps:
            raise ValueError("bounds: floor_pps must be above 0 and at most cap_pps")
        if self.factor < 1:
            raise ValueError("bounds: factor must be at least 1, or honest load would be cut")


@dataclass(frozen=True, slots=True)
class Policy:
    """The whole of it."""

    mode: Mode = Mode.MONITOR
    networks: tuple[NetworkPolicy, ...] = ()
    vms: tuple[VmPolicy, ...] = ()
    bounds: Bounds = field(default_factory=Bounds)
    ladder: tuple[str, ...] = ("limit", "quarantine")
    """What an attacker meets at its first, second, … verdict: ``limit``, ``quarantine``, ``isolate``, ``pause``."""
    groups: tuple[Group, ...] = ()
    paths: tuple[Rule, ...] = ()
    denials: tuple[Rule, ...] = ()
    floor: Floor = field(default_factory=Floor)
    tenants: tuple[TenantPolicy, ...] = ()
    grants: GrantPolicy = field(default_factory=GrantPolicy)

    @property
    def ruled(self) -> bool:
        """Whether there is a network policy. Without one, who may reach whom is left to the bridges, as ever."""
        floors = (self.floor, *(tenant.floor for tenant in self.tenants))
        bounded = any(floor.between is not Between.OPEN or not floor.outside for floor in floors)
        return bool(self.groups or self.paths or self.denials or bounded or any(n.ruled for n in self.networks))

    def mode_of(self, vm_name: str) -> Mode:
        """The mode in force for the VM of this libvirt name."""
        for vm in self.vms:
            if vm.name == vm_name and vm.mode is not None:
                return vm.mode
        return self.mode
