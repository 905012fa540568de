"""Who may use which address: claims of policy, of libvirt's XML and by DHCP, joined so that none has two owners."""

from dataclasses import dataclass
from ipaddress import ip_address

from hypervigil.model.ids import PortId, VmId
from hypervigil.model.policy import Policy
from hypervigil.model.port_policy import link_local
from hypervigil.model.vm import Inventory, Nic, Vm
from hypervigil.network.ends import Directory, fits


@dataclass(frozen=True, slots=True)
class Claims:
    """Addresses granted to each port, and one sentence for each that was refused or goes nowhere."""

    nics: dict[VmId, tuple[Nic, ...]]
    """Each VM's NICs that are nobody else's."""
    granted: dict[PortId, tuple[str, ...]]
    """A port that is absent has no known address: only its MAC can be bound."""
    leased: dict[PortId, tuple[str, ...]]
    """Addresses that DHCP gave besides. The data plane itself says how long they may be used."""
    notes: tuple[str, ...]


def settle(inventory: Inventory, policy: Policy) -> Claims:
    """Grant every address to one VM: policy's word first, also for VMs that do not run, then XML, then DHCP."""
    directory = Directory(policy)
    reserved = {str(ip_address(a)): vm.name for vm in policy.vms for a in vm.addresses}
    names = {vm.vm: vm.name for vm in inventory.vms}
    owners: dict[str, VmId] = {}
    granted: dict[PortId, tuple[str, ...]] = {}
    nics, notes = _distinct(inventory)
    for vm in inventory.vms:
        own = directory.entry(vm.name)
        places = {nic.port: directory.network(vm.name, nic) for nic in vm.nics}
        notes += [
            f"{vm.name}: the policy's address {address} is in no network that the VM has a NIC in; "
            "correct the address or the network's cidr"
            for address in own.addresses
            if vm.nics and not any(fits(address, place) for place in places.values())
        ]
        for nic in nics[vm.vm]:
            wanted = [*nic.addresses, *(a for a in own.addresses if fits(a, places[nic.port]))]
            mine: list[str] = []
            for address in dict.fromkeys(str(ip_address(a)) for a in wanted):
                holder = _holder(address, vm, reserved, owners, names)
                if holder is None:
                    owners[address] = vm.vm
                    mine.append(address)
                else:
                    notes.append(
                        f"{vm.name}: {address} belongs to {holder} already and is refused here; "
                        "give each VM an address of its own"
                    )
            if wanted:
                # The derived address keeps the list from being empty: a refused address must not loosen the binding.
                granted[nic.port] = tuple(dict.fromkeys([*mine, link_local(nic.port)]))
    leased: dict[PortId, tuple[str, ...]] = {}
    for vm, nic in [(one, nic) for one in inventory.vms for nic in nics[one.vm] if nic.leased]:
        network = directory.network(vm.name, nic)
        if network is None or not network.trusted_dhcp_macs:
            continue
        for address in nic.leased:
            holder = _holder(address, vm, reserved, owners, names)
            if holder is not None or not fits(address, network):
                whose = f"belongs to {holder}" if holder is not None else f"is outside of the cidr {network.cidr}"
                notes.append(
                    f"{vm.name}: DHCP leased {address}, which {whose}, and is not taken for its owner; correct what "
                    f"the DHCP server of {network.name} gives"
                )
            elif address not in granted.get(nic.port, ()):
                owners[address] = vm.vm
                leased[nic.port] = (*leased.get(nic.port, ()), address)
    return Claims(nics, granted, leased, tuple(notes))


def _distinct(inventory: Inventory) -> tuple[dict[VmId, tuple[Nic, ...]], list[str]]:
    """Each VM's NICs but for those whose MAC or device an earlier one has, and a sentence for each left out."""
    kept: dict[VmId, tuple[Nic, ...]] = {}
    macs: dict[str, str] = {}
    devices: dict[int, str] = {}
    notes = []
    for vm in inventory.vms:
        mine = []
        for nic in vm.nics:
            if nic.port in macs:
                notes.append(
                    f"{vm.name}: the MAC {nic.port} belongs to {macs[nic.port]} already; {nic.interface} gets no "
                    "binding (on a protected bridge: no traffic) until it has a MAC of its own"
                )
            elif nic.ifindex in devices:
                notes.append(f"{vm.name}: {nic.interface} is the device of {devices[nic.ifindex]} already; left out")
            else:
                macs[nic.port] = devices[nic.ifindex] = vm.name
                mine.append(nic)
        kept[vm.vm] = tuple(mine)
    return kept, notes


def _holder(
    address: str, vm: Vm, reserved: dict[str, str], owners: dict[str, VmId], names: dict[VmId, str]
) -> str | None:
    """The name of another VM that has the address, if one has."""
    by_policy = reserved.get(address)
    if by_policy is not None and by_policy != vm.name:
        return f"{by_policy} (by policy)"
    other = owners.get(address, vm.vm)
    return None if other == vm.vm else names[other]
