"""The ends of conversations: which NIC is a member of which network, and whom a rule means."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from hypervigil.model.ids import PortId, VmId
from hypervigil.model.network import EndKind, Floor, Forwarding, RuleEnd
from hypervigil.model.policy import NetworkPolicy, Policy, VmPolicy
from hypervigil.model.vm import Inventory, Nic, Vm


@dataclass(frozen=True, slots=True)
class Member:
    """One NIC of a VM, as the network policy sees it."""

    vm: str
    """The VM's libvirt name."""
    port: PortId
    tenant: str
    groups: frozenset[str]
    network: str | None
    """``None``: on no network that the policy names."""
    admitted: bool = True
    """Whether the network takes it as a member."""
    serves_dhcp: bool = False

    def __str__(self) -> str:
        return self.vm


@dataclass(frozen=True, slots=True)
class Gateway:
    """The routers and DHCP servers of a network that are no VMs."""

    network: str

    def __str__(self) -> str:
        return f"the gateway of {self.network}"


@dataclass(frozen=True, slots=True)
class Outside:
    """Whoever is not on this host; with an address, one of them."""

    address: str | None = None

    def __str__(self) -> str:
        return self.address or "the outside"


End = Member | Gateway | Outside


def names(rule_end: RuleEnd, end: End) -> bool:
    """Whether one end of a rule means this end."""
    match rule_end.kind, end:
        case EndKind.ANY, _:
            return True
        case EndKind.VM, Member(vm=name):
            return name == rule_end.name
        case EndKind.GROUP, Member(groups=groups):
            return rule_end.name in groups
        case EndKind.TENANT, Member(tenant=name):
            return name == rule_end.name
        case EndKind.NETWORK, Member(network=name):
            return name == rule_end.name
        case (EndKind.GATEWAY, Gateway()) | (EndKind.OUTSIDE, Outside()):
            return True
        case EndKind.RANGE, Outside(address=str(address)):
            return ip_address(address) in ip_network(rule_end.name)
    return False


def members(policy: Policy, inventory: Inventory) -> tuple[Member, ...]:
    """Every NIC of the running VMs, in the inventory's order."""
    directory = Directory(policy)
    return tuple(directory.member(vm, nic) for vm in inventory.vms for nic in vm.nics)


class Directory:
    """A policy's tables by name, made once for many NICs."""

    def __init__(self, policy: Policy) -> None:
        self._entries = {entry.name: entry for entry in policy.vms}
        self._floors = {tenant.name: tenant.floor for tenant in policy.tenants}
        self._bridges = {network.bridge: network for network in policy.networks if network.bridge is not None}
        self._routed = [network for network in policy.networks if network.forwarding is Forwarding.ROUTED]
        self._patterns = [group for group in policy.groups if any(one.endswith("*") for one in group.vms)]
        self._groups: dict[str, set[str]] = defaultdict(set)
        for group in policy.groups:
            for one in group.vms:
                self._groups[one].add(group.name)

    def entry(self, name: str) -> VmPolicy:
        """What the policy says of the VM of this libvirt name."""
        return self._entries.get(name) or VmPolicy(name)

    def floor(self, tenant: str) -> Floor:
        """A tenant's own floor, as ``merge.floor_of``."""
        return self._floors.get(tenant) or Floor()

    def groups(self, name: str) -> frozenset[str]:
        """The groups that hold the VM of this libvirt name."""
        return frozenset({*self._groups.get(name, ()), *(one.name for one in self._patterns if one.holds(name))})

    def network(self, name: str, nic: Nic) -> NetworkPolicy | None:
        """The network that a NIC is on: its bridge's, or the routed one whose range has one of its addresses."""
        if nic.bridge is not None:
            return self._bridges.get(nic.bridge)
        addresses = [ip_address(address) for address in (*nic.addresses, *self.entry(name).addresses)]
        for network in self._routed:
            if network.cidr is not None and network.bridge is None:
                cidr = ip_network(network.cidr, strict=False)
                if any(address in cidr for address in addresses):
                    return network
        return None

    def member(self, vm: Vm, nic: Nic) -> Member:
        """One NIC with everything that rules may ask of it."""
        return self.member_on(self.network(vm.name, nic), vm.name, nic.port)

    def member_on(self, network: NetworkPolicy | None, name: str, port: PortId) -> Member:
        """The VM of this libvirt name on a network, by one of its NICs."""
        whole = Member(
            vm=name,
            port=port,
            tenant=self.entry(name).tenant,
            groups=self.groups(name),
            network=network.name if network is not None else None,
            serves_dhcp=network is not None and port in {mac.lower() for mac in network.trusted_dhcp_macs},
        )
        if network is None or not network.members or any(names(one, whole) for one in network.members):
            return whole
        return Member(whole.vm, whole.port, whole.tenant, whole.groups, whole.network, admitted=False)


def fits(address: str, network: NetworkPolicy | None) -> bool:
    """Whether a VM's address can be that of a NIC on this network: it has no range of that kind, or holds it."""
    if network is None or network.cidr is None:
        return True
    net, one = ip_network(network.cidr, strict=False), ip_address(address)
    return net.version != one.version or one in net


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A NIC of a VM that does not run here, on a network that spans hosts, and the addresses that it is known by."""

    member: Member
    addresses: tuple[str, ...]


def elsewhere(policy: Policy, inventory: Inventory) -> tuple[Elsewhere, ...]:
    """The NICs of VMs that the policy names and that may run on other hosts, in the policy's order.

    A VM is on a network that spans hosts if that network's range holds one of its addresses. One that serves DHCP is
    not known to, since that is by a MAC.
    """
    spanning = [network for network in policy.networks if network.spans_hosts and network.cidr is not None]
    here = {vm.name for vm in inventory.vms if not vm.migrating}
    directory, taken = Directory(policy), set[str]()
    found = []
    for entry in policy.vms if spanning else ():
        own = [] if entry.name in here else [str(ip_address(address)) for address in entry.addresses]
        for network in spanning:
            held = ip_network(network.cidr or "", strict=False)
            mine = tuple(address for address in own if address not in taken and fits(address, network))
            if any(ip_address(address) in held for address in mine):
                taken.update(mine)
                found.append(Elsewhere(directory.member_on(network, entry.name, PortId("")), mine))
    return tuple(found)


def joined(here: Iterable[Member], away: Iterable[Elsewhere]) -> tuple[Member, ...]:
    """Members wherever they run."""
    return (*here, *(one.member for one in away))


def everybody(policy: Policy, inventory: Inventory) -> tuple[Member, ...]:
    """``members``, and those that may run on other hosts."""
    return joined(members(policy, inventory), elsewhere(policy, inventory))


def imagined(policy: Policy) -> Inventory:
    """The VMs that a policy names, each with a NIC in every network that has one of its addresses.

    For looking at a policy where no host is at hand: what runs may be more, and may be elsewhere.
    """
    vms = []
    for number, entry in enumerate(policy.vms, start=1):
        own = [ip_address(address) for address in entry.addresses]
        nics = []
        for index, network in enumerate(policy.networks, start=1):
            cidr = ip_network(network.cidr, strict=False) if network.cidr is not None else None
            mine = tuple(str(address) for address in own if cidr is not None and address in cidr)
            if mine or len(policy.networks) == 1:
                port = PortId(f"02:00:{index >> 8:02x}:{index & 255:02x}:{number >> 8 & 255:02x}:{number & 255:02x}")
                nics.append(Nic(port, f"nic{index}", number << 16 | index, network.bridge, mine))
        vms.append(Vm(VmId(entry.name), entry.name, 1, 1, tuple(nics)))
    return Inventory(tuple(vms))
