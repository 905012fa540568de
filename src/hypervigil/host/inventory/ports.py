"""Inventory and policy compiled to one policy per NIC, and the fabric that they share. Pure."""

from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network

from hypervigil.host.inventory.claims import settle
from hypervigil.model.network import AddressPair, Forwarding
from hypervigil.model.policy import Mode, NetworkPolicy, Policy, VmPolicy
from hypervigil.model.port_policy import Fabric, HostRoutes, Leasing, PortPolicy, link_local
from hypervigil.model.traffic import ForgedKind
from hypervigil.model.vm import Inventory, Nic, Vm
from hypervigil.network.compile import compile_fabric, perimeters_of
from hypervigil.network.ends import Directory, elsewhere
from hypervigil.network.merge import budget_of


@dataclass(frozen=True, slots=True)
class Compiled:
    """Every port that can be watched, and one sentence for each thing that is weaker than it could be."""

    ports: tuple[PortPolicy, ...]
    notes: tuple[str, ...]
    fabric: Fabric = field(default_factory=Fabric)


def compile_ports(inventory: Inventory, policy: Policy) -> Compiled:
    """One ``PortPolicy`` per NIC. A NIC whose MAC or device another VM has already gets none, and a note says so."""
    claims = settle(inventory, policy)
    directory = Directory(policy)
    ports = []
    notes = list(claims.notes)
    routed: set[str] = set()
    kept = [(vm, nic) for vm in inventory.vms for nic in claims.nics[vm.vm]]
    members = [directory.member(vm, nic) for vm, nic in kept]
    for (vm, nic), member, perimeter in zip(kept, members, perimeters_of(policy, members), strict=True):
        entry, network = directory.entry(vm.name), directory.network(vm.name, nic)
        mode = entry.mode or policy.mode
        addresses = claims.granted.get(nic.port, ())
        unknown = not addresses and network is not None and network.spans_hosts and not network.trusted_dhcp_macs
        if unknown:
            addresses = (link_local(nic.port),)  # what is nobody's here may be somebody's on another host
        ports.append(
            PortPolicy(
                port=nic.port,
                vm=vm.vm,
                interface=nic.interface,
                ifindex=nic.ifindex,
                mode=mode,
                addresses=(*addresses, *_shared(entry, addresses)),
                quarantine_allows=entry.quarantine_allows,
                may_serve_dhcp=member.serves_dhcp or ForgedKind.DHCP_SERVER in entry.unchecked,
                may_advertise_routes=ForgedKind.ROUTER_ADVERTISEMENT in entry.unchecked,
                network=member.network,
                routed=network is not None and network.forwarding is Forwarding.ROUTED,
                routes=None if vm.migrating else _routes(nic, network, addresses, routed),
                perimeter=perimeter,
                budget=budget_of(policy.floor, directory.floor(entry.tenant), entry),
                unchecked=entry.unchecked,
                pairs=tuple(pair for pair in entry.address_pairs if pair.mac is not None),
                gateways=network.gateways if network is not None else (),
                leases=claims.leased.get(nic.port, ()),
                leasing=None if member.serves_dhcp else _leasing(network, addresses),
                migrating=vm.migrating,
            )
        )
        notes += _weaknesses(vm, nic, network, ports[-1])
        if unknown:
            notes.append(
                f"{vm.name}: no address is known for {nic.interface}, and {member.network} spans hosts, so it may use "
                "none; name its addresses in the policy or in libvirt's XML"
            )
        if entry.unchecked:
            kinds = ", ".join(kind.name.lower() for kind in entry.unchecked)
            notes.append(f"{vm.name}: the policy lets it send what others may not: {kinds}")
    return Compiled(tuple(ports), tuple(notes), compile_fabric(policy, members, elsewhere(policy, inventory)))


def protected_networks(policy: Policy) -> tuple[NetworkPolicy, ...]:
    """Networks on which a port without a compiled policy may pass nothing: those of a policy that enforces."""
    return policy.networks if policy.mode is Mode.ENFORCE else ()


def _routes(nic: Nic, network: NetworkPolicy | None, addresses: tuple[str, ...], routed: set[str]) -> HostRoutes | None:
    """What the host needs to route to a NIC; an address that two NICs of one VM have is routed to the first."""
    if network is None or network.forwarding is not Forwarding.ROUTED or nic.bridge is not None:
        return None
    mine = tuple(one for one in addresses if one not in routed and not ip_address(one).is_link_local)
    routed.update(mine)
    return HostRoutes(mine, network.gateways)


def _shared(entry: VmPolicy, addresses: tuple[str, ...]) -> tuple[str, ...]:
    """Addresses that others may have too; none where no address is bound, since then every one may be used."""
    plain: list[AddressPair] = [pair for pair in entry.address_pairs if pair.mac is None]
    return tuple(pair.address for pair in plain if pair.address not in addresses) if addresses else ()


def _leasing(network: NetworkPolicy | None, addresses: tuple[str, ...]) -> Leasing | None:
    """Whose word about addresses is taken on a network. Without any, who has none may use what is nobody else's."""
    if network is None or (addresses and not network.trusted_dhcp_macs):
        return None
    if not network.trusted_dhcp_macs:
        return Leasing((), free=True)
    cidr = ip_network(network.cidr, strict=False) if network.cidr is not None else None
    servers = tuple(mac.lower() for mac in network.trusted_dhcp_macs)
    return Leasing(servers, str(cidr) if cidr is not None and cidr.version == 4 else None, network.free_until_leased)


def _weaknesses(vm: Vm, nic: Nic, network: NetworkPolicy | None, port: PortPolicy) -> list[str]:
    found = []
    if not port.addresses and not port.taught:
        free = "only its MAC is bound" if port.leasing is None else "it may use any that is nobody else's"
        found.append(
            f"{vm.name}: no address is known for {nic.interface}, so {free}; name its addresses in "
            "the policy or in libvirt's XML"
        )
    if not port.addresses and port.leasing is not None and port.taught and not port.leases:
        may_use = "any address that is nobody's" if port.leasing.free else "no address"
        found.append(
            f"{vm.name}: {nic.interface} may use {may_use} until {port.network}'s DHCP server gives it one; a guest "
            "that has one already must ask again"
        )
    if port.mode is Mode.ENFORCE and network is None:
        place = f"bridge {nic.bridge}" if nic.bridge is not None else "no bridge"
        found.append(
            f"{vm.name}: {nic.interface} is on {place}, which the policy does not name, so what starts there is free "
            "until it is seen; add a [[network]] for it"
        )
    return found
