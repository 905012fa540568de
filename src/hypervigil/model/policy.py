"""What the operator wants: mode, networks, VMs, bounds of judgement. ``hypervigil.host.policyfile`` reads it."""

from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import ip_address, ip_network


class Mode(StrEnum):
    """Monitor drops nothing and says what it would have done; enforce acts."""

    MONITOR = "monitor"
    ENFORCE = "enforce"


@dataclass(frozen=True, slots=True)
class NetworkPolicy:
    """One shared network (bridge) whose ports are protected."""

    name: str
    bridge: str
    cidr: str | None = None
    trusted_dhcp_macs: tuple[str, ...] = ()
    uplinks: tuple[str, ...] = ()
    """Ports of the bridge that belong to no VM and may pass anything, e.g. the host's own NIC."""

    def __post_init__(self) -> None:
        if self.cidr is not None:
            ip_network(self.cidr)


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

    def __post_init__(self) -> None:
        for address in (*self.addresses, *self.quarantine_allows):
            ip_address(address)


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

    def mode_of(self, vm_name: str) -> Mode:
        """The mode in force for the VM of this libvirt name."""
        for vm in self.vms:
            if vm.name == vm_name and vm.mode is not None:
                return vm.mode
        return self.mode
