"""The three network layers compiled: one policy per port, and the fabric of perimeters that all ports share."""

from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address, ip_network

from hypervigil.model.ids import PerimeterId, PortId, VmId
from hypervigil.model.network import AddressPair, Budget
from hypervigil.model.policy import MAX_DHCP_SERVERS, Mode
from hypervigil.model.services import Services
from hypervigil.model.traffic import ForgedKind


def link_local(mac: str) -> str:
    """The IPv6 link-local address that follows from a MAC (RFC 4291, modified EUI-64)."""
    octets = bytearray.fromhex(mac.replace(":", ""))
    octets[0] ^= 2
    return str(IPv6Address(b"\xfe\x80" + bytes(6) + bytes(octets[:3]) + b"\xff\xfe" + bytes(octets[3:])))


@dataclass(frozen=True, slots=True)
class Grant:
    """What members of one perimeter may send to those of another without being asked; answers follow by themselves."""

    source: PerimeterId
    destination: PerimeterId
    services: Services


@dataclass(frozen=True, slots=True)
class AddressRange:
    """Addresses of nobody who runs here, and the perimeter they are; the longest prefix decides."""

    cidr: str
    perimeter: PerimeterId

    def __post_init__(self) -> None:
        ip_network(self.cidr)


@dataclass(frozen=True, slots=True)
class Fabric:
    """The network policy compiled: what is not granted between two perimeters is denied."""

    grants: tuple[Grant, ...] = ()
    addresses: tuple[AddressRange, ...] = ()


@dataclass(frozen=True, slots=True)
class FabricChange:
    """What leads from one fabric to the next."""

    grants: tuple[Grant, ...] = ()
    """New, or with other services than before."""
    gone: tuple[tuple[PerimeterId, PerimeterId], ...] = ()
    addresses: tuple[AddressRange, ...] | None = None
    """All of them; ``None``: as they were."""
    whole: bool = False
    """Nothing of the fabric before stays."""


@dataclass(frozen=True, slots=True)
class HostRoutes:
    """What the host needs to route to a device that is no bridge's port."""

    addresses: tuple[str, ...]
    """The VM's: a route to each, as /32 or /128."""
    gateways: tuple[str, ...]
    """The host's own on the device, where the VM finds its gateway."""

    def __post_init__(self) -> None:
        for address in (*self.addresses, *self.gateways):
            ip_address(address)


@dataclass(frozen=True, slots=True)
class Leasing:
    """A port may use what these DHCP servers give it, and but for its ``addresses`` nothing else."""

    servers: tuple[str, ...]
    """MACs, in lower case with colons; without any it is ``free`` for good."""
    within: str | None = None
    """The IPv4 range of what they may give; ``None``: any address."""
    free: bool = False
    """Until they give it one, where it has none, it may use what is nobody else's."""

    def __post_init__(self) -> None:
        if not (self.servers or self.free) or len(self.servers) > MAX_DHCP_SERVERS:
            raise ValueError(f"{len(self.servers)} trusted DHCP servers: name one to {MAX_DHCP_SERVERS} of a network")
        if self.within is not None and ip_network(self.within).version != 4:
            raise ValueError(f"{self.within} is no range of IPv4, in which DHCP gives addresses")


@dataclass(frozen=True, slots=True)
class PortPolicy:
    """What one NIC may send and whether we act on it.

    With ``addresses`` empty and no ``leasing`` only the MAC is bound (and ARP's sender MAC); that is reported, as it is
    weaker.
    """

    port: PortId
    vm: VmId
    interface: str
    ifindex: int
    mode: Mode
    addresses: tuple[str, ...] = ()
    quarantine_allows: tuple[str, ...] = ()
    may_serve_dhcp: bool = False
    may_advertise_routes: bool = False
    network: str | None = None
    """The shared network it is on, by the policy's name."""
    routed: bool = False
    """The host routes to and from it, also within its network."""
    routes: HostRoutes | None = None
    """``None``: a bridge carries its frames."""
    perimeter: PerimeterId | None = None
    """Its place in the fabric; ``None``: no network policy speaks of it, and the bridge alone decides."""
    budget: Budget = field(default_factory=Budget)
    unchecked: tuple[ForgedKind, ...] = ()
    pairs: tuple[AddressPair, ...] = ()
    gateways: tuple[str, ...] = ()
    """Its network's; no port may claim the link-local ones among them, nor be given one by DHCP."""
    leasing: Leasing | None = None
    """``None``: what DHCP servers say teaches nothing of it."""
    leases: tuple[str, ...] = ()
    """What DHCP gave it, as far as is known: where others find it. What it may use the kernel's own list says."""
    migrating: bool = False
    """Its VM runs on another host: the port is bound, and others do not find it here."""

    def __post_init__(self) -> None:
        for address in (*self.addresses, *self.quarantine_allows, *self.gateways, *self.leases):
            ip_address(address)
        if self.ifindex <= 0:
            raise ValueError(f"port {self.port}: interface {self.interface} has no index; is it there?")

    @property
    def taught(self) -> bool:
        """Whether what DHCP servers say teaches its addresses."""
        return self.leasing is not None and bool(self.leasing.servers)

    @property
    def bound(self) -> str:
        """What of it is bound, in some words."""
        if self.addresses:
            return "MAC, addresses and leases" if self.taught else "MAC and addresses"
        if self.taught:
            return "MAC and leases"
        return "MAC, and what is another's" if self.leasing is not None else "MAC only"
