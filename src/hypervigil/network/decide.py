"""Whether one end may begin a conversation with another: the specification that the data plane is held to.

A packet meets three layers. The *shared network* takes it from a member, and lets members of one tenant talk where it
is open. The *firewall* lets pass what a path allows and nothing denies; each end needs the word of the provider or of
its own tenant's rules. *Routing* carries it into another network, or outside, where the policy says that one reaches
the other. Every layer must agree; what nobody allowed is denied. Answers, and what a conversation needs besides (ARP,
neighbour discovery, ICMP's errors), pass wherever either end may begin something with the other.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from hypervigil.model.network import Between, Layer, Rule
from hypervigil.model.policy import NetworkPolicy, Policy
from hypervigil.model.services import (
    ANYTHING,
    COMPANIONS,
    ICMP,
    ICMP6,
    NEIGHBOUR,
    NOTHING,
    UDP,
    Services,
    canonical,
    service,
)
from hypervigil.network.ends import End, Gateway, Member, Outside, names
from hypervigil.network.merge import floor_of, merge, of_network

_ECHO = [(service(ICMP, 8),) * 2, (service(ICMP6, 128),) * 2]
TO_SERVERS = Services.of([*_ECHO, (service(UDP, 67),) * 2, (service(UDP, 547),) * 2])
"""What every member may begin with its network's gateway, and with a VM that is its DHCP server."""
FROM_SERVERS = Services.of([*_ECHO, (service(UDP, 68),) * 2, (service(UDP, 546),) * 2])
"""What these may begin with a member: DHCP's answers go to an address that did not ask."""


@dataclass(frozen=True, slots=True)
class Step:
    """What one layer says. ``allowed`` None: it leaves it to the next."""

    layer: Layer
    allowed: bool | None
    rule: str
    text: str
    """One sentence."""


@dataclass(frozen=True, slots=True)
class Decision:
    """Allowed or denied, by which rule of which layer; the steps are those of all layers that were asked."""

    allowed: bool
    layer: Layer
    rule: str
    text: str
    steps: tuple[Step, ...]


def decide(policy: Policy, source: End, destination: End, wanted: int) -> Decision:
    """Whether ``source`` may begin ``wanted`` (see ``model.services``) with ``destination``."""
    if not _mediated(policy, source, destination):
        return _by([Step(Layer.SHARED, True, "no network policy", "no network policy speaks of these two")])
    one = canonical(wanted)
    steps = [_shared(policy, source, destination, one)]
    if steps[0].allowed is not False:
        steps.append(_firewall(policy, source, destination, one, granted=steps[0].allowed is True))
        route = routing(policy, source, destination)
        if steps[1].allowed is not False and steps[1].rule != _COMPANION and route is not None:
            steps.append(route)
    return _by(steps)


def begins(policy: Policy, source: End, destination: End) -> Services:
    """Everything that ``source`` may begin with ``destination``, without what then goes along in both directions."""
    if not _mediated(policy, source, destination):
        return ANYTHING
    route = routing(policy, source, destination)
    if _outcast(source, destination) is not None or (route is not None and not route.allowed):
        return NOTHING
    network = common_network(policy, source, destination)
    found = NOTHING
    if network is not None:
        found = ANYTHING if is_open(policy, network, source, destination) else infrastructure(source, destination)
    both = [r for r in policy.paths if _means(r, source, destination)]
    found |= _joined(r for r in both if _speaks_for(r, source)) & _joined(
        r for r in both if _speaks_for(r, destination)
    )
    return found - denied(policy, source, destination)


def converse(policy: Policy, one: End, other: End) -> bool:
    """Whether either may begin anything with the other."""
    return bool(begins(policy, one, other)) or bool(begins(policy, other, one))


# --- the layers ------------------------------------------------------------------------------------------------------
def _shared(policy: Policy, source: End, destination: End, one: int) -> Step:
    outcast = _outcast(source, destination)
    if outcast is not None:
        where = f"no member of {outcast.network}" if outcast.network else "on no network that the policy names"
        return Step(Layer.SHARED, False, "membership", f"{outcast} is {where}")
    network = common_network(policy, source, destination)
    if network is None:
        return Step(Layer.SHARED, None, "membership", f"{source} and {destination} share no network")
    rule = f"network {network.name}"
    if one in infrastructure(source, destination):
        return Step(Layer.SHARED, True, rule, f"{network.name} gives this service to its members")
    if is_open(policy, network, source, destination):
        whose = f" of tenant {source.tenant}" if isinstance(source, Member) else ""
        return Step(Layer.SHARED, True, rule, f"{network.name} is open between members{whose}")
    if not isinstance(source, Member) or not isinstance(destination, Member):
        text = f"{source} and {destination} are on {network.name}"
    elif source.tenant != destination.tenant:
        text = f"{network.name} holds tenants {source.tenant} and {destination.tenant} apart"
    elif network.between is Between.ISOLATED:
        text = f"{network.name} is isolated between its members"
    elif policy.floor.between is Between.ISOLATED:
        rule, text = "floor", "the provider's floor isolates the members of every network"
    else:
        rule, text = f"tenant {source.tenant}", f"tenant {source.tenant} isolates its VMs from each other"
    return Step(Layer.SHARED, None, rule, f"{text}: only a path lets them talk")


_COMPANION = "what goes with every conversation"
_DEFAULT = "default"


def _firewall(policy: Policy, source: End, destination: End, one: int, *, granted: bool) -> Step:
    for rule in policy.denials:
        if one in rule.services and _means(rule, source, destination) and _has_standing(rule, source, destination):
            return Step(Layer.FIREWALL, False, f"deny {rule.name}", f"{_author(rule)} denies it by {rule.name!r}")
    if one in COMPANIONS and converse(policy, source, destination):
        return Step(
            Layer.FIREWALL, True, _COMPANION, f"{source} and {destination} may converse, and this belongs to it"
        )
    if granted and one != NEIGHBOUR:
        return Step(Layer.FIREWALL, None, _DEFAULT, "nothing denies what the shared network allows")
    paths = [r for r in policy.paths if one in r.services and _means(r, source, destination)]
    for_source = next((r for r in paths if _speaks_for(r, source)), None)
    for_destination = next((r for r in paths if _speaks_for(r, destination)), None)
    if for_source is not None and for_destination is not None:
        both = dict.fromkeys((for_source.name, for_destination.name))
        word = " and ".join(f"path {name}" for name in both)
        return Step(Layer.FIREWALL, True, word, f"{word} allow{'s' if len(both) == 1 else ''} it")
    if paths:
        lacking = destination if for_source is not None else source
        whose = f"tenant {lacking.tenant}" if isinstance(lacking, Member) else "the provider"
        text = f"path {paths[0].name} wants it, but {whose} does not allow it for {lacking}"
        return Step(Layer.FIREWALL, False, f"path {paths[0].name}", text)
    return Step(Layer.FIREWALL, False, _DEFAULT, f"no path from {source} to {destination} allows it")


def routing(policy: Policy, source: End, destination: End) -> Step | None:
    """The routing layer; ``None`` where the two share a network."""
    if common_network(policy, source, destination) is not None:
        return None
    networks = {network.name: network for network in policy.networks}
    from_name, to_name = _network_name(source), _network_name(destination)
    inside = networks.get(from_name or to_name or "")
    if inside is None or (from_name is None and to_name is None):
        return Step(Layer.ROUTING, False, _DEFAULT, "neither is on a network of the policy")
    rule = f"network {inside.name}"
    if from_name is None or to_name is None:
        if not inside.outside:
            return Step(Layer.ROUTING, False, rule, f"{inside.name} has no way outside")
        if not policy.floor.outside:
            return Step(Layer.ROUTING, False, "floor", "the provider's floor lets no network outside")
        tenant = next((end.tenant for end in (source, destination) if isinstance(end, Member)), None)
        if tenant is not None and not floor_of(policy, tenant).outside:
            return Step(Layer.ROUTING, False, f"tenant {tenant}", f"tenant {tenant} lets none of its VMs outside")
        return Step(Layer.ROUTING, True, rule, f"{inside.name} has a way outside")
    if to_name in inside.reaches:
        return Step(Layer.ROUTING, True, rule, f"{from_name} reaches {to_name}")
    return Step(Layer.ROUTING, False, rule, f"{from_name} does not reach {to_name}")


# --- parts -----------------------------------------------------------------------------------------------------------
def denied(policy: Policy, source: End, destination: End) -> Services:
    """Everything that a denial takes away between two ends."""
    return _joined(
        r for r in policy.denials if _means(r, source, destination) and _has_standing(r, source, destination)
    )


def common_network(policy: Policy, one: End, other: End) -> NetworkPolicy | None:
    """The shared network that both are on."""
    name = _network_name(one)
    if name is None or name != _network_name(other):
        return None
    return next((network for network in policy.networks if network.name == name), None)


def is_open(policy: Policy, network: NetworkPolicy, one: End, other: End) -> bool:
    """Whether two ends on one network may talk without a path: members of one tenant, where it is open."""
    if not isinstance(one, Member) or not isinstance(other, Member) or one.tenant != other.tenant:
        return False
    return merge(of_network(policy, network), floor_of(policy, one.tenant)).between is Between.OPEN


def infrastructure(source: End, destination: End) -> Services:
    """What a network lets its members begin with its servers, and these with them."""
    return (TO_SERVERS if _serves(destination) else NOTHING) | (FROM_SERVERS if _serves(source) else NOTHING)


def _serves(end: End) -> bool:
    return isinstance(end, Gateway) or (isinstance(end, Member) and end.serves_dhcp)


def _outcast(*ends: End) -> Member | None:
    """The first that is no member of a network of the policy."""
    return next((e for e in ends if isinstance(e, Member) and (e.network is None or not e.admitted)), None)


def _mediated(policy: Policy, source: End, destination: End) -> bool:
    """Whether the network policy speaks of two ends at all: one of them must be on a network that it names."""
    return policy.ruled and any(isinstance(end, Member) and end.network is not None for end in (source, destination))


def _network_name(end: End) -> str | None:
    return None if isinstance(end, Outside) else end.network


def _means(rule: Rule, source: End, destination: End) -> bool:
    return any(names(one, source) for one in rule.sources) and any(names(one, destination) for one in rule.destinations)


def _speaks_for(rule: Rule, end: End) -> bool:
    """Whether a rule's author may open this end: the provider every one, a tenant its own; the outside is nobody's."""
    match end:
        case Outside():
            return True
        case Gateway():
            return rule.by is None
        case Member(tenant=tenant):
            return rule.by is None or rule.by == tenant


def _has_standing(rule: Rule, source: End, destination: End) -> bool:
    """Whether a denial's author may close this way: the provider every one, a tenant those that touch it."""
    tenants = {end.tenant for end in (source, destination) if isinstance(end, Member)}
    return rule.by is None or rule.by in tenants


def _joined(rules: Iterable[Rule]) -> Services:
    return Services.of(one for rule in rules for one in rule.services.ranges)


def _author(rule: Rule) -> str:
    return "the provider" if rule.by is None else f"tenant {rule.by}"


def _by(steps: list[Step]) -> Decision:
    """The decision that follows: the first refusal, else what allowed it first."""
    said = next((s for s in steps if s.allowed is False), None) or next(s for s in steps if s.allowed)
    return Decision(said.allowed is True, said.layer, said.rule, said.text, tuple(steps))
