"""How several words on one thing become one: the most restrictive wins. In any order, and twice is as once.

Three say what a VM may take: the provider's floor, its tenant's own, and its own table. Each can only narrow it.
"""

from dataclasses import dataclass, replace
from math import inf

from hypervigil.model.network import Between, Budget, Floor
from hypervigil.model.policy import NetworkPolicy, Policy, VmPolicy

BROADCASTS_PER_S = 200.0
"""What a VM may send to groups where the policy says nothing: several times what a starting guest does."""
BOUNDS = ("packets_per_s", "octets_per_s", "new_flows_per_s", "table_entries", "broadcasts_per_s")
"""What a budget may bound, by the names of ``Budget``."""
NOBODY = "default"
"""Whose word a bound is that nobody gave."""


@dataclass(frozen=True, slots=True)
class Bound:
    """One of a VM's bounds, and whose word it is."""

    name: str
    """Of ``BOUNDS``."""
    value: float
    by: str
    """``provider``, ``tenant NAME``, ``vm NAME`` or ``default``: who says the least, and of several the first."""


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


def floor_of(policy: Policy, tenant: str) -> Floor:
    """A tenant's own floor; one that it did not state denies and bounds nothing."""
    return next((one.floor for one in policy.tenants if one.name == tenant), Floor())


def of_network(policy: Policy, network: NetworkPolicy) -> Floor:
    """What holds on one network: its own word under the provider's floor."""
    own = Floor(between=network.between or Between.OPEN, outside=network.outside)
    return merge(policy.floor, own)


def budget_of(provider: Floor, tenant: Floor, entry: VmPolicy) -> Budget:
    """What a VM may take, all its NICs together.

    Frames to groups have a bound where neither the provider nor the VM's table says that they have none; a tenant's
    word narrows that as well.
    """
    found = strictest(provider.budget, entry.budget)
    broadcasts = BROADCASTS_PER_S if found.broadcasts_per_s is None else found.broadcasts_per_s
    found = strictest(replace(found, broadcasts_per_s=broadcasts), tenant.budget)
    return replace(found, broadcasts_per_s=None) if found.broadcasts_per_s == inf else found


def bounds_of(policy: Policy, entry: VmPolicy) -> tuple[Bound, ...]:
    """Each bound of ``budget_of``, and whose word it is."""
    tenant = floor_of(policy, entry.tenant)
    budget = budget_of(policy.floor, tenant, entry)
    said = (
        ("provider", policy.floor.budget),
        (f"tenant {entry.tenant}", tenant.budget),
        (f"vm {entry.name}", entry.budget),
    )
    found = []
    for name in BOUNDS:
        value = getattr(budget, name)
        if value is not None:
            by = next((who for who, one in said if getattr(one, name) == value), NOBODY)
            found.append(Bound(name, value, by))
    return tuple(found)
