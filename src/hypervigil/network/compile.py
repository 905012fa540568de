"""The network policy as the data plane looks it up: perimeters, each of ends that are treated alike, and their grants.

``decide`` says what this must come to; a property test holds every ordered pair of ends to it. Work grows with
perimeters and rules, not with pairs of VMs, and a perimeter keeps its name while others come and go.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from itertools import product

from hypervigil.model.ids import PerimeterId
from hypervigil.model.network import EndKind, Rule, RuleEnd
from hypervigil.model.policy import NetworkPolicy, Policy
from hypervigil.model.port_policy import AddressRange, Fabric, FabricChange, Grant
from hypervigil.model.services import ANYTHING, COMPANIONS, NOTHING, Services, canonical
from hypervigil.network.decide import infrastructure, is_open, routing
from hypervigil.network.ends import Elsewhere, End, Gateway, Member, Outside, joined

OUTSIDE = PerimeterId("*outside")
STRANGER = PerimeterId("*stranger")
"""Of ends that no grant names: VMs on no network of the policy, as seen from one that is."""

Pair = tuple[PerimeterId, PerimeterId]


@dataclass(frozen=True, slots=True)
class Reach:
    """Who may begin what with whom, by perimeters."""

    begins: Mapping[Pair, Services]
    """Without what then goes along in both directions."""
    denied: Mapping[Pair, Services]
    """What denials take away, where anything is left to begin in either direction."""
    addresses: tuple[AddressRange, ...]


def reach(policy: Policy, members: Iterable[Member], away: Iterable[Elsewhere] = ()) -> Reach:
    """What may be begun between the perimeters of these NICs, here and ``away``, of the gateways and of the outside."""
    perimeters = _Perimeters(policy, members, tuple(away))
    found = _granted(policy, perimeters)
    denied = _denied(policy, perimeters, found)
    begins = {}
    for pair, services in found.items():
        route = routing(policy, perimeters.ends[pair[0]], perimeters.ends[pair[1]])
        left = services - denied.get(pair, NOTHING) if route is None or route.allowed else NOTHING
        if left:
            begins[pair] = left
    return Reach(begins, denied, perimeters.addresses())


def compile_fabric(policy: Policy, members: Iterable[Member], away: Iterable[Elsewhere] = ()) -> Fabric:
    """Perimeters and grants for these NICs, and which addresses of others are in which perimeter.

    ``away``: NICs on other hosts, which are known here by their addresses alone.
    """
    if not policy.ruled:
        return Fabric()
    found = reach(policy, members, away)
    grants = dict(found.begins)
    for one, other in found.begins:
        for pair in ((one, other), (other, one)):
            grants[pair] = grants.get(pair, NOTHING) | (COMPANIONS - found.denied.get(pair, NOTHING))
    return Fabric(tuple(Grant(*pair, grants[pair]) for pair in sorted(grants)), found.addresses)


def difference(old: Fabric | None, new: Fabric) -> FabricChange:
    """What leads from one fabric to another; from ``None`` (not known), all of it."""
    if old is None:
        return FabricChange(new.grants, addresses=new.addresses, whole=True)
    before, after = table(old), table(new)
    return FabricChange(
        grants=tuple(Grant(*pair, services) for pair, services in after.items() if before.get(pair) != services),
        gone=tuple(pair for pair in before if pair not in after),
        addresses=None if old.addresses == new.addresses else new.addresses,
    )


def changed(fabric: Fabric, change: FabricChange) -> Fabric:
    """The fabric that a change leads to."""
    granted = {} if change.whole else dict(table(fabric))
    for pair in change.gone:
        granted.pop(pair, None)
    granted |= {(grant.source, grant.destination): grant.services for grant in change.grants}
    addresses = change.addresses if change.addresses is not None else () if change.whole else fabric.addresses
    return Fabric(tuple(Grant(*pair, granted[pair]) for pair in sorted(granted)), addresses)


def perimeter_of(policy: Policy, member: Member) -> PerimeterId | None:
    """A NIC's perimeter; ``None`` where no network policy speaks of it."""
    return _Named(policy).perimeter(member)


def perimeters_of(policy: Policy, members: Iterable[Member]) -> list[PerimeterId | None]:
    """The perimeter of each of many NICs."""
    named = _Named(policy)
    return [named.perimeter(member) for member in members]


def perimeter_of_end(policy: Policy, fabric: Fabric, end: End) -> PerimeterId:
    """The perimeter that the data plane finds for an end of a conversation."""
    match end:
        case Member():
            return perimeter_of(policy, end) or STRANGER
        case Gateway(network=network):
            return gateway_of(network)
        case Outside(address=address):
            return OUTSIDE if address is None else perimeter_of_address(fabric, address)


def perimeter_of_address(fabric: Fabric, address: str) -> PerimeterId:
    """The perimeter of an address that is no VM's: that of its longest prefix."""
    one = ip_address(address)
    nets = [(ip_network(entry.cidr), entry.perimeter) for entry in fabric.addresses]
    fitting = [(net.prefixlen, perimeter) for net, perimeter in nets if net.version == one.version and one in net]
    return max(fitting)[1] if fitting else OUTSIDE


def table(fabric: Fabric) -> Mapping[Pair, Services]:
    """Grants by the pair of perimeters that they are for."""
    return {(grant.source, grant.destination): grant.services for grant in fabric.grants}


def permits(
    granted: Mapping[Pair, Services], source: PerimeterId | None, destination: PerimeterId | None, wanted: int
) -> bool:
    """Whether the data plane lets the first packet of ``wanted`` pass; ``None`` is a port that it does not mediate."""
    if source is None and destination is None:
        return True
    pair = (source or STRANGER, destination or STRANGER)
    return canonical(wanted) in granted.get(pair, NOTHING)


# --- perimeters ------------------------------------------------------------------------------------------------------
class _Named:
    """Which groups and VMs rules name: only these tell perimeters apart."""

    def __init__(self, policy: Policy) -> None:
        self._ruled = policy.ruled
        rules = (*policy.paths, *policy.denials)
        self.ends = frozenset(end for rule in rules for end in (*rule.sources, *rule.destinations))

    def perimeter(self, member: Member) -> PerimeterId | None:
        if not self._ruled or member.network is None:
            return None
        if not member.admitted:
            return PerimeterId(f"{_plain(member.network)}/*none")
        parts = [_plain(member.network), _plain(member.tenant)]
        groups = sorted(name for name in member.groups if RuleEnd(EndKind.GROUP, name) in self.ends)
        if groups:
            parts.append("+".join(map(_plain, groups)))
        if RuleEnd(EndKind.VM, member.vm) in self.ends:
            parts.append(f"*vm/{_plain(member.vm)}")
        if member.serves_dhcp:
            parts.append("*dhcp")
        return PerimeterId("/".join(parts))


class _Perimeters:
    """Every perimeter with one end that stands for it, and the perimeters that each end of a rule means."""

    def __init__(self, policy: Policy, members: Iterable[Member], away: Sequence[Elsewhere]) -> None:
        named = _Named(policy)
        self._policy = policy
        self._away = [(named.perimeter(one.member), one.addresses) for one in away]
        self.ends: dict[PerimeterId, End] = {}
        self.meant: dict[RuleEnd, set[PerimeterId]] = defaultdict(set)
        self.of_network: dict[str, list[PerimeterId]] = defaultdict(list)
        for member in joined(members, away):
            perimeter = named.perimeter(member)
            if perimeter is not None and perimeter not in self.ends and member.admitted and member.network is not None:
                self._add(perimeter, member, _names_of(member))
                self.of_network[member.network].append(perimeter)
        for network in policy.networks:
            self._add(gateway_of(network.name), Gateway(network.name), [RuleEnd(EndKind.GATEWAY)])
            self.of_network[network.name].append(gateway_of(network.name))
        self._add(OUTSIDE, Outside(), [RuleEnd(EndKind.OUTSIDE)])
        self._ranges = sorted(end.name for end in named.ends if end.kind is EndKind.RANGE)
        for cidr in self._ranges:
            around = [other for other in self._ranges if _within(cidr, other)]
            here = [RuleEnd(EndKind.RANGE, other) for other in around]
            self._add(range_of(cidr, self._ranges), Outside(), [RuleEnd(EndKind.OUTSIDE), *here])

    def _add(self, perimeter: PerimeterId, end: End, named: Iterable[RuleEnd]) -> None:
        self.ends[perimeter] = end
        for one in (RuleEnd(EndKind.ANY), *named):
            self.meant[one].add(perimeter)

    def of(self, ends: Iterable[RuleEnd]) -> set[PerimeterId]:
        """The perimeters that a rule's side means."""
        return {perimeter for end in ends for perimeter in self.meant.get(end, ())}

    def addresses(self) -> tuple[AddressRange, ...]:
        ranges = [AddressRange(cidr, range_of(cidr, self._ranges)) for cidr in self._ranges]
        gateways = [
            AddressRange(str(ip_network(address)), gateway_of(network.name))
            for network in self._policy.networks
            for address in network.gateways
            if not ip_address(address).is_link_local
        ]
        away = [
            AddressRange(str(ip_network(address)), perimeter)
            for perimeter, addresses in self._away
            if perimeter is not None
            for address in addresses
            if not ip_address(address).is_link_local
        ]
        return (*gateways, *ranges, *away)


def _names_of(member: Member) -> list[RuleEnd]:
    return [
        RuleEnd(EndKind.VM, member.vm),
        RuleEnd(EndKind.TENANT, member.tenant),
        RuleEnd(EndKind.NETWORK, member.network or ""),
        *(RuleEnd(EndKind.GROUP, name) for name in member.groups),
    ]


def gateway_of(network: str) -> PerimeterId:
    """The perimeter of a network's gateways."""
    return PerimeterId(f"{_plain(network)}/*gateway")


def is_fixed(perimeter: PerimeterId) -> bool:
    """Whether it is a gateway's or the outside's: somebody is always there."""
    return perimeter.startswith("*") or is_gateway(perimeter)


def is_gateway(perimeter: PerimeterId) -> bool:
    """Whether it is a network's gateways'."""
    return perimeter.endswith("/*gateway")


def range_of(cidr: str, ranges: Iterable[str]) -> PerimeterId:
    """The perimeter of the narrowest of these outside ranges that holds this one."""
    around = [other for other in ranges if _within(cidr, other)]
    narrowest = max(around, key=lambda other: ip_network(other).prefixlen, default=None)
    return OUTSIDE if narrowest is None else PerimeterId(f"*outside/{narrowest}")


def _plain(name: str) -> str:
    """A name that cannot be taken for a part of a perimeter's own making."""
    return "".join(f"%{ord(c):x};" if c in "/+*%" else c for c in name)


def _within(inner: str, outer: str) -> bool:
    one, other = ip_network(inner), ip_network(outer)
    return one.version == other.version and one.network_address in other and one.prefixlen >= other.prefixlen


# --- grants ----------------------------------------------------------------------------------------------------------
def _granted(policy: Policy, perimeters: _Perimeters) -> dict[Pair, Services]:
    """What shared networks and paths allow, before denials and routing."""
    found: dict[Pair, Services] = {}
    for network in policy.networks:
        for pair, services in _on_network(policy, network, perimeters).items():
            found[pair] = found.get(pair, NOTHING) | services
    by_source: dict[Pair, Services] = {}
    by_destination: dict[Pair, Services] = {}
    for rule in policy.paths:
        for pair in product(perimeters.of(rule.sources), perimeters.of(rule.destinations)):
            for side, perimeter in ((by_source, pair[0]), (by_destination, pair[1])):
                if _speaks_for(rule, perimeters.ends[perimeter]):
                    side[pair] = side.get(pair, NOTHING) | rule.services
    for pair, services in by_source.items():
        both = services & by_destination.get(pair, NOTHING)
        if both and any(isinstance(perimeters.ends[perimeter], Member) for perimeter in pair):
            found[pair] = found.get(pair, NOTHING) | both
    return found


def _on_network(policy: Policy, network: NetworkPolicy, perimeters: _Perimeters) -> dict[Pair, Services]:
    """What one shared network allows without a path."""
    found: dict[Pair, Services] = {}
    here = perimeters.of_network[network.name]
    servers = {
        perimeter for perimeter in here if infrastructure(perimeters.ends[perimeter], perimeters.ends[perimeter])
    }
    tenants: dict[str, list[PerimeterId]] = defaultdict(list)
    for perimeter in here:
        end = perimeters.ends[perimeter]
        if isinstance(end, Member):
            tenants[end.tenant].append(perimeter)
    for alike in tenants.values():
        if is_open(policy, network, perimeters.ends[alike[0]], perimeters.ends[alike[0]]):
            found |= dict.fromkeys(product(alike, alike), ANYTHING)
    for server, perimeter in product(servers, here):
        for pair in ((server, perimeter), (perimeter, server)):
            if pair not in found and any(isinstance(perimeters.ends[one], Member) for one in pair):
                found[pair] = infrastructure(perimeters.ends[pair[0]], perimeters.ends[pair[1]])
    return found


def _denied(policy: Policy, perimeters: _Perimeters, found: Iterable[Pair]) -> dict[Pair, Services]:
    """What denials take away between the pairs that anything was found for, in both directions."""
    pairs = {pair for one, other in found for pair in ((one, other), (other, one))}
    taken: dict[Pair, Services] = {}
    for rule in policy.denials:
        sources, destinations = perimeters.of(rule.sources), perimeters.of(rule.destinations)
        for pair in pairs:
            if pair[0] in sources and pair[1] in destinations and _has_standing(rule, perimeters, pair):
                taken[pair] = taken.get(pair, NOTHING) | rule.services
    return taken


def _has_standing(rule: Rule, perimeters: _Perimeters, pair: Pair) -> bool:
    ends = (perimeters.ends[perimeter] for perimeter in pair)
    return rule.by is None or any(isinstance(end, Member) and end.tenant == rule.by for end in ends)


def _speaks_for(rule: Rule, end: End) -> bool:
    return rule.by is None or isinstance(end, Outside) or (isinstance(end, Member) and end.tenant == rule.by)
