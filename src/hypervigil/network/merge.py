"""How several words on one thing become one: the most restrictive wins. In any order, and twice is as once."""

from dataclasses import replace
from math import inf

from hypervigil.model.network import Between, Budget, Floor
from hypervigil.model.policy import NetworkPolicy, Policy, VmPolicy

BROADCASTS_PER_S = 200.0
"""What a NIC may send to groups where the policy says nothing: several times what a starting guest does."""


def merge(*floors: Floor) -> Floor:
    """All of these hold."""
    return Floor(
        between=Between.ISOLATED if any(one.between is Between.ISOLATED for one in floors) else Between.OPEN,
        outside=all(one.outside for one in floors),
        budget=strictest(*(one.budget for one in floors)),
    )


def strictest(*budgets: Budget) -> Budget:
    """No more than any of these allows."""
    entries = [b.table_entries for b in budgets if b.table_entries is not None]
    return Budget(
        packets_per_s=_least([b.packets_per_s for b in budgets]),
        octets_per_s=_least([b.octets_per_s for b in budgets]),
        new_flows_per_s=_least([b.new_flows_per_s for b in budgets]),
        table_entries=min(entries) if entries else None,
        broadcasts_per_s=_least([b.broadcasts_per_s for b in budgets]),
    )


def _least(values: list[float | None]) -> float | None:
    bounds = [value for value in values if value is not None]
    return min(bounds) if bounds else None


def of_network(policy: Policy, network: NetworkPolicy) -> Floor:
    """What holds on one network: its own word under the provider's floor."""
    own = Floor(between=network.between or Between.OPEN, outside=network.outside)
    return merge(policy.floor, own)


def budget_of(policy: Policy, entry: VmPolicy) -> Budget:
    """What each NIC of a VM may take. Frames to groups have a bound where nobody said that they have none."""
    found = strictest(policy.floor.budget, entry.budget)
    broadcasts = BROADCASTS_PER_S if found.broadcasts_per_s is None else found.broadcasts_per_s
    return replace(found, broadcasts_per_s=None if broadcasts == inf else broadcasts)
