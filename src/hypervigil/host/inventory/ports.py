"""Inventory and policy compiled to one policy per NIC. Pure."""

from dataclasses import dataclass

from hypervigil.host.inventory.claims import settle
from hypervigil.model.policy import Mode, NetworkPolicy, Policy
from hypervigil.model.port_policy import PortPolicy
from hypervigil.model.vm import Inventory, Nic, Vm


@dataclass(frozen=True, slots=True)
class Compiled:
    """Every port that can be watched, and one sentence for each thing that is weaker than it could be."""

    ports: tuple[PortPolicy, ...]
    notes: tuple[str, ...]


def compile_ports(inventory: Inventory, policy: Policy) -> Compiled:
    """One ``PortPolicy`` per NIC. A NIC whose MAC or device another VM has already gets none, and a note says so."""
    claims = settle(inventory, policy)
    networks = {network.bridge: network for network in policy.networks}
    entries = {entry.name: entry for entry in policy.vms}
    ports = []
    notes = list(claims.notes)
    for vm in inventory.vms:
        mode, entry = policy.mode_of(vm.name), entries.get(vm.name)
        for nic in claims.nics[vm.vm]:
            network = networks.get(nic.bridge) if nic.bridge is not None else None
            addresses = claims.granted.get(nic.port, ())
            ports.append(
                PortPolicy(
                    port=nic.port,
                    vm=vm.vm,
                    interface=nic.interface,
                    ifindex=nic.ifindex,
                    mode=mode,
                    addresses=addresses,
                    quarantine_allows=entry.quarantine_allows if entry is not None else (),
                    may_serve_dhcp=network is not None and nic.port in {m.lower() for m in network.trusted_dhcp_macs},
                )
            )
            notes += _weaknesses(vm, nic, mode, network, bound=bool(addresses))
    return Compiled(tuple(ports), tuple(notes))


def protected_networks(policy: Policy) -> tuple[NetworkPolicy, ...]:
    """Bridges on which a port without a compiled policy may pass nothing: those of a policy that enforces."""
    return policy.networks if policy.mode is Mode.ENFORCE else ()


def _weaknesses(vm: Vm, nic: Nic, mode: Mode, network: NetworkPolicy | None, *, bound: bool) -> list[str]:
    found = []
    if not bound:
        found.append(
            f"{vm.name}: no address is known for {nic.interface}, so only its MAC is bound; name its addresses in "
            "the policy or in libvirt's XML"
        )
    if mode is Mode.ENFORCE and network is None:
        place = f"bridge {nic.bridge}" if nic.bridge is not None else "no bridge"
        found.append(
            f"{vm.name}: {nic.interface} is on {place}, which the policy does not name, so what starts there is free "
            "until it is seen; add a [[network]] for it"
        )
    return found
