"""A port's policy as the programs look it up."""

import ctypes
from ipaddress import ip_network

from hypervigil.hypervisor.adapters.ebpf import layout
from hypervigil.hypervisor.adapters.ebpf.locals import segment_of
from hypervigil.hypervisor.adapters.ebpf.program import DataPlaneError
from hypervigil.model.ids import PortId
from hypervigil.model.policy import Mode
from hypervigil.model.port_policy import PortPolicy

_MODES = {Mode.MONITOR: 1, Mode.ENFORCE: 2}
_MAY_SERVE_DHCP, _MAY_ADVERTISE_ROUTES, _LEASED, _FREE_UNTIL_LEASED = 1, 2, 4, 8


def entry_of(policy: PortPolicy, slot: int, generation: int) -> layout.Port:
    """The entry. ``DataPlaneError`` where the policy has more of something than fits."""
    entry = layout.Port(slot=slot, generation=generation, mode=_MODES[policy.mode], mac=_bytes6(policy.port))
    entry.flags = _MAY_SERVE_DHCP if policy.may_serve_dhcp else 0
    entry.flags |= _MAY_ADVERTISE_ROUTES if policy.may_advertise_routes else 0
    entry.flags |= _fill_leasing(entry, policy)
    entry.addresses = _fill(entry.address, policy.addresses, policy, "addresses")
    entry.allows = _fill(entry.allow, policy.quarantine_allows, policy, "quarantine addresses")
    entry.unchecked = sum(1 << kind for kind in policy.unchecked)
    entry.pairs = _fill_pairs(entry, policy)
    entry.segment = segment_of(policy)
    return entry


def _bytes6(port: PortId) -> ctypes.Array[ctypes.c_uint8]:
    return (ctypes.c_uint8 * 6).from_buffer_copy(layout.pack_mac(port))


def _fill(
    to: "ctypes.Array[ctypes.Array[ctypes.c_uint8]]", addresses: tuple[str, ...], policy: PortPolicy, what: str
) -> int:
    if len(addresses) > layout.ADDRESSES:
        raise DataPlaneError(f"port {policy.port} has {len(addresses)} {what}: at most {layout.ADDRESSES} fit")
    for index, address in enumerate(addresses):
        to[index] = layout.Address.from_buffer_copy(layout.pack_address(address))
    return len(addresses)


def _fill_pairs(entry: layout.Port, policy: PortPolicy) -> int:
    if len(policy.pairs) > layout.PAIRS:
        raise DataPlaneError(f"port {policy.port} has {len(policy.pairs)} address pairs: at most {layout.PAIRS} fit")
    for index, pair in enumerate(policy.pairs):
        address = layout.Address.from_buffer_copy(layout.pack_address(pair.address))
        entry.pair[index] = layout.Pair(address, _bytes6(PortId(pair.mac or policy.port)))
    return len(policy.pairs)


def _fill_leasing(entry: layout.Port, policy: PortPolicy) -> int:
    """The flags of ports whose addresses are learnt by DHCP, or none."""
    if (leasing := policy.leasing) is None:
        return 0
    for index, server in enumerate(leasing.servers):
        entry.server[index] = _bytes6(PortId(server))
    entry.servers = len(leasing.servers)
    if leasing.within is not None:
        network = ip_network(leasing.within)
        entry.within = (ctypes.c_uint8 * 4).from_buffer_copy(network.network_address.packed)
        entry.mask = (ctypes.c_uint8 * 4).from_buffer_copy(network.netmask.packed)
    return _LEASED | _FREE_UNTIL_LEASED if leasing.free else _LEASED
