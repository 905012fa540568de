"""Who is exposed to whom, what a new policy would change of it, and what in a policy comes to nothing. For people."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_network

from hypervigil.model.ids import PerimeterId
from hypervigil.model.network import EndKind, Rule, RuleEnd
from hypervigil.model.policy import Policy
from hypervigil.model.services import ANYTHING, NOTHING, Services
from hypervigil.model.vm import Inventory
from hypervigil.network.compile import OUTSIDE, Reach, gateway_of, perimeters_of, range_of, reach
from hypervigil.network.decide import FROM_SERVERS, TO_SERVERS, decide
from hypervigil.network.ends import (
    Elsewhere,
    End,
    Gateway,
    Member,
    Outside,
    elsewhere,
    everybody,
    joined,
    members,
    names,
)

_NAMES_SHOWN = 4


class Kind(StrEnum):
    """What crosses what, the gravest first."""

    FROM_OUTSIDE = "from outside"
    BETWEEN_TENANTS = "between tenants"
    FROM_GATEWAY = "from a gateway"
    TO_OUTSIDE = "to the outside"
    TO_GATEWAY = "to a gateway"
    WITHIN_TENANT = "within a tenant"


@dataclass(frozen=True, slots=True)
class Exposure:
    """Who may begin what with whom; VMs that are treated alike stand together."""

    kind: Kind
    sources: tuple[str, ...]
    destinations: tuple[str, ...]
    services: Services


@dataclass(frozen=True, slots=True)
class Change:
    """What some may newly begin with others, and what no more."""

    sources: tuple[str, ...]
    destinations: tuple[str, ...]
    more: Services
    less: Services


def exposures(policy: Policy, inventory: Inventory) -> tuple[Exposure, ...]:
    """Everything that may be begun, but for what every network gives its members."""
    here, away = members(policy, inventory), elsewhere(policy, inventory)
    who = _who(policy, joined(here, away))
    found = []
    for (source, destination), services in reach(policy, here, away).begins.items():
        kind = _kind(who[source], who[destination])
        if services not in (TO_SERVERS, FROM_SERVERS) and _several(source, destination, who):
            found.append(Exposure(kind, _called(who[source]), _called(who[destination]), services))
    return tuple(sorted(found, key=lambda one: (list(Kind).index(one.kind), one.destinations, one.sources)))


def changes(old: Policy, new: Policy, inventory: Inventory) -> tuple[Change, ...]:
    """Whose reach differs between two policies, for the VMs that run."""
    before, after = members(old, inventory), members(new, inventory)
    away = elsewhere(old, inventory), elsewhere(new, inventory)
    ends: list[tuple[End, End]] = [*zip(before, after, strict=True), *_absent(*away), *_others(old, new)]
    sides = (_Side(old, before, away[0]), _Side(new, after, away[1]))
    alike: dict[_Cell, list[End]] = defaultdict(list)
    for one, other in ends:
        alike[sides[0].perimeter(one), sides[1].perimeter(other)].append(other)
    found = []
    for source, destination in _touched(sides, alike):
        was, now = (side.begins((source[n], destination[n])) for n, side in enumerate(sides))
        if was != now and _meets(alike[source], alike[destination]):
            who = _called(alike[source]), _called(alike[destination])
            found.append(Change(*who, now - was, was - now))
    return tuple(sorted(found, key=lambda one: (one.sources, one.destinations)))


def idle(policy: Policy, inventory: Inventory) -> tuple[str, ...]:
    """One sentence for each path, group and permission that comes to nothing as things are."""
    here = everybody(policy, inventory)
    said = [
        f"group {group.name} holds none of these VMs"
        for group in policy.groups
        if not any(group.holds(member.vm) for member in here)
    ]
    ends: list[End] = [*_representatives(policy, here), *(Gateway(n.name) for n in policy.networks), Outside()]
    for rule in policy.paths:
        reason = _idle(policy, rule, ends)
        if reason is not None:
            said.append(f"path {rule.name} lets nothing pass: {reason}")
    barred = [network.name for network in policy.networks if network.outside and not policy.floor.outside]
    return (*said, *(f"network {name} wants a way outside, and the floor has none" for name in barred))


# --- parts -----------------------------------------------------------------------------------------------------------
class _Side:
    """One policy with its reach; without rules everything may be begun."""

    def __init__(self, policy: Policy, here: Sequence[Member], away: Sequence[Elsewhere]) -> None:
        self._policy = policy
        all_ = joined(here, away)
        self._of = dict(zip(all_, perimeters_of(policy, all_), strict=True))
        self.reach = reach(policy, here, away) if policy.ruled else Reach({}, {}, ())
        self._ranges = frozenset(_ranges(policy))

    def perimeter(self, end: End) -> PerimeterId | None:
        match end:
            case Member():
                return self._of[end]
            case Gateway(network=name):
                return gateway_of(name)
            case Outside(address=cidr):
                return range_of(cidr, self._ranges) if cidr is not None else OUTSIDE

    def begins(self, pair: tuple[PerimeterId | None, PerimeterId | None]) -> Services:
        one, other = pair
        if not self._policy.ruled or (one is None and other is None):
            return ANYTHING
        return self.reach.begins.get((one, other), NOTHING) if one is not None and other is not None else NOTHING


_Cell = tuple[PerimeterId | None, PerimeterId | None]


def _touched(sides: tuple[_Side, _Side], alike: Mapping[_Cell, Sequence[End]]) -> Iterable[tuple[_Cell, _Cell]]:
    """Pairs of cells between which either policy lets anything be begun."""
    if any(not side.reach.begins for side in sides):
        return {(one, other) for one in alike for other in alike}
    found = set()
    for n, side in enumerate(sides):
        cells: dict[PerimeterId | None, list[_Cell]] = defaultdict(list)
        for cell in alike:
            cells[cell[n]].append(cell)
        for source, destination in side.reach.begins:
            found |= {(one, other) for one in cells[source] for other in cells[destination]}
    return found


def _meets(sources: Sequence[End], destinations: Sequence[End]) -> bool:
    """Whether two cells hold two different ends, one of them a VM's."""
    both = {*sources, *destinations}
    return len(both) > 1 and any(isinstance(end, Member) for end in both)


def _absent(before: Sequence[Elsewhere], after: Sequence[Elsewhere]) -> list[tuple[End, End]]:
    """Addresses of VMs on other hosts, with whose they are by either policy; the outside's where one says nothing."""
    was, now = ({address: one.member for one in away for address in one.addresses} for away in (before, after))
    found: dict[tuple[End, End], None] = {}
    for address in {**was, **now}:
        outside = Outside(str(ip_network(address)))
        found[was.get(address, outside), now.get(address, outside)] = None
    return list(found)


def _others(old: Policy, new: Policy) -> list[tuple[End, End]]:
    """Ends that are no VMs, as both policies know them: a range stands for itself."""
    networks = dict.fromkeys(n.name for policy in (old, new) for n in policy.networks)
    found: list[End] = [*(Gateway(name) for name in networks), Outside()]
    found += [Outside(cidr) for cidr in dict.fromkeys(_ranges(old) + _ranges(new))]
    return [(end, end) for end in found]


def _ranges(policy: Policy) -> list[str]:
    rules = (*policy.paths, *policy.denials)
    return [e.name for rule in rules for e in (*rule.sources, *rule.destinations) if e.kind is EndKind.RANGE]


def _who(policy: Policy, here: Sequence[Member]) -> dict[PerimeterId, list[End]]:
    """The ends in each perimeter."""
    found: dict[PerimeterId, list[End]] = defaultdict(list)
    for member, perimeter in zip(here, perimeters_of(policy, here), strict=True):
        if perimeter is not None:
            found[perimeter].append(member)
    for network in policy.networks:
        found[gateway_of(network.name)].append(Gateway(network.name))
    found[OUTSIDE].append(Outside())
    for cidr in _ranges(policy):
        found[range_of(cidr, {cidr})] = [Outside(cidr)]
    return found


def _several(source: PerimeterId, destination: PerimeterId, who: Mapping[PerimeterId, Sequence[End]]) -> bool:
    return source != destination or len({end.vm for end in who[source] if isinstance(end, Member)}) > 1


def _called(ends: Sequence[End]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(str(end) for end in ends))


def _kind(sources: Sequence[End], destinations: Sequence[End]) -> Kind:
    match sources[0], destinations[0]:
        case Outside(), _:
            return Kind.FROM_OUTSIDE
        case Gateway(), _:
            return Kind.FROM_GATEWAY
        case _, Outside():
            return Kind.TO_OUTSIDE
        case _, Gateway():
            return Kind.TO_GATEWAY
        case Member(tenant=one), Member(tenant=other):
            return Kind.WITHIN_TENANT if one == other else Kind.BETWEEN_TENANTS
    raise AssertionError("an end is a member, a gateway or outside")


def shortened(who: Sequence[str]) -> str:
    """Some names, and how many more there are."""
    more = len(who) - _NAMES_SHOWN
    return ", ".join(who[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _representatives(policy: Policy, here: Sequence[Member]) -> list[Member]:
    """Up to two members of each perimeter."""
    found: dict[PerimeterId | None, list[Member]] = defaultdict(list)
    for member, perimeter in zip(here, perimeters_of(policy, here), strict=True):
        if len(found[perimeter]) < 2:
            found[perimeter].append(member)
    return [member for several in found.values() for member in several]


def _idle(policy: Policy, rule: Rule, ends: Sequence[End]) -> str | None:
    """Why nothing passes by a path, as things are."""
    sources = [end for end in _with_ranges(rule.sources, ends) if any(names(one, end) for one in rule.sources)]
    destinations = [e for e in _with_ranges(rule.destinations, ends) if any(names(one, e) for one in rule.destinations)]
    pairs = [(a, b) for a in sources for b in destinations if a != b and _meets([a], [b])]
    if not pairs:
        return "no VM is at one of its ends"
    reason = None
    for a, b in pairs:
        for first, _ in rule.services.ranges:
            decision = decide(policy, a, b, first)
            if decision.allowed:
                return None
            reason = reason or decision.text
    return reason


def _with_ranges(rule_ends: Sequence[RuleEnd], ends: Sequence[End]) -> list[End]:
    """The ends, and one address of each range that a rule names."""
    return [*ends, *(Outside(end.name.split("/")[0]) for end in rule_ends if end.kind is EndKind.RANGE)]
