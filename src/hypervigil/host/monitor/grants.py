"""Grants between the guests' words, the policy and the ports: what an agent asks for, and budgets raised. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from hypervigil.host.hsem.resources import Resource
from hypervigil.model.grants import Ask
from hypervigil.model.guest import Need
from hypervigil.model.ids import Instant, VmId
from hypervigil.model.limits import NIC_KINDS, Limit, LimitKind
from hypervigil.model.policy import Policy, VmPolicy
from hypervigil.model.port_policy import PortPolicy
from hypervigil.model.status import Origin
from hypervigil.model.vm import Vm
from hypervigil.wire import gateway as heard
from hypervigil.wire import guest

OVERHEAD = 1.25
"""The process of a VM is so much larger than its balloon at most."""
_KINDS = {Need.CPU: LimitKind.CPU, Need.MEMORY: LimitKind.MEMORY}
"""What is granted of what an agent may ask for; of the disk nothing is."""


def wish(message: heard.FromGateway, now: Instant) -> Ask | None:
    """What a message of a guest asks for, in the host's units."""
    if not isinstance(message, heard.Heard) or not isinstance(message.message, guest.Wanted):
        return None
    told = message.message
    kind = _KINDS.get(told.need)
    if kind is None:
        return None
    more = told.amount / 1000 if kind is LimitKind.CPU else float(told.amount)
    return Ask(message.vm, kind, now, more, Origin.GUEST_REPORTED)


def by_policy(limit: Limit) -> bool:
    """Whether a grant is put in force by its ports' policy, and not by a step of its own."""
    return limit.grants and limit.kind in NIC_KINDS


def raised(policy: Policy, grants: Iterable[Limit], vms: Mapping[VmId, Vm]) -> Policy:
    """The policy with the budgets of VMs raised as granted; the floor holds all the same."""
    packets = {vms[one.vm].name: one.value for one in grants if by_policy(one) and one.vm in vms}
    if not packets:
        return policy
    named = {vm.name for vm in policy.vms}
    entries = [*policy.vms, *(VmPolicy(name) for name in packets if name not in named)]
    return replace(policy, vms=tuple(_with(vm, packets.get(vm.name)) for vm in entries))


def bounds(ports: Iterable[PortPolicy], owed: Mapping[VmId, float]) -> dict[VmId, dict[Resource, float]]:
    """What VMs were given, where the host sees that they take more: connections, bytes of memory."""
    found: dict[VmId, dict[Resource, float]] = {}
    for port in ports:
        if port.budget.new_flows_per_s is not None:
            found[port.vm] = {Resource.CONNECTIONS: port.budget.new_flows_per_s}
    for vm, kib in owed.items():
        found.setdefault(vm, {})[Resource.MEMORY] = 1024 * kib * OVERHEAD
    return found


def _with(vm: VmPolicy, packets_per_s: float | None) -> VmPolicy:
    if packets_per_s is None:
        return vm
    return replace(vm, budget=replace(vm.budget, packets_per_s=packets_per_s))
