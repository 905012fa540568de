"""The three layers hold their laws for any policy: default deny, merging only restricts, compiling changes nothing."""

from dataclasses import replace
from math import inf

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from hypervigil.model.ids import PortId, VmId
from hypervigil.model.network import Between, Budget, EndKind, Floor, Group, Rule, RuleEnd, TenantPolicy
from hypervigil.model.policy import NetworkPolicy, Policy, VmPolicy
from hypervigil.model.port_policy import Fabric, FabricChange
from hypervigil.model.services import ANYTHING, COMPANIONS, ERRORS, LAST, NEIGHBOUR, NOTHING, Services, parse, service
from hypervigil.model.vm import Inventory, Nic, Vm
from hypervigil.network.compile import (
    changed,
    compile_fabric,
    difference,
    perimeter_of,
    perimeter_of_address,
    perimeter_of_end,
    permits,
    table,
)
from hypervigil.network.decide import begins, converse, decide
from hypervigil.network.ends import Gateway, Member, Outside, elsewhere, members
from hypervigil.network.merge import BOUNDS, BROADCASTS_PER_S, bounds_of, budget_of, merge, strictest

# --- services: sets of numbers, so the laws of sets ------------------------------------------------------------------
_EDGES = sorted({0, 1, LAST, NEIGHBOUR, service(6, 443), service(6, 444), service(17, 0), service(17, 65535)})
_NUMBERS = st.sampled_from(_EDGES) | st.integers(0, NEIGHBOUR)
_RANGES = st.tuples(_NUMBERS, _NUMBERS).map(lambda pair: (min(pair), max(pair)))
SETS = st.lists(_RANGES, max_size=5).map(Services.of)


@given(SETS, SETS, _NUMBERS)
def test_services_are_sets(one: Services, other: Services, number: int) -> None:
    assert (number in (one | other)) == (number in one or number in other)
    assert (number in (one & other)) == (number in one and number in other)
    assert (number in (one - other)) == (number in one and number not in other)
    assert one | other == other | one
    assert (one & other) | (one - other) == one


WORDS = ["any", "tcp", "udp", "icmp", "icmp/echo", "icmp4/3", "icmp6/1-4", "ip/47", "ip/40-50"]
TEXTS = st.sampled_from(WORDS) | st.builds(
    lambda name, low, more: f"{name}/{low}" + (f"-{low + more}" if more else ""),
    st.sampled_from(["tcp", "udp"]),
    st.integers(0, 65000),
    st.integers(0, 500),
)


@given(st.lists(TEXTS, min_size=1, max_size=4))
def test_services_are_shown_as_they_are_written(texts: list[str]) -> None:
    whole = Services.of(one for text in texts for one in parse(text).ranges)
    shown = str(whole)
    if not shown.startswith("any but"):
        assert Services.of(one for text in shown.split(", ") for one in parse(text).ranges) == whole


# --- policies over a small world -------------------------------------------------------------------------------------
TENANTS = ("blue", "red")
GROUPS = ("web", "db")
VMS = ("a", "b", "c", "d")
RANGES = ("203.0.113.0/24", "203.0.113.128/25", "198.51.100.0/24", "2001:db8::/32")
OUTSIDES = (None, "203.0.113.5", "203.0.113.200", "198.51.100.1", "192.88.99.1", "2001:db8::1", "2001:db9::1")
ASKED = (
    service(6, 80),
    service(6, 443),
    service(17, 53),
    service(17, 67),
    service(17, 68),
    service(1, 8),
    service(1, 3),
    service(58, 128),
    service(58, 135),
    service(47),
    NEIGHBOUR,
)
_SERVICES = st.lists(
    st.sampled_from(["any", "tcp/80", "tcp/443", "udp", "icmp", "icmp/echo", "ip/47", "tcp/1-1000"]),
    min_size=1,
    max_size=2,
).map(lambda texts: Services.of(one for text in texts for one in parse(text).ranges))
_RULE_ENDS = st.one_of(
    st.sampled_from([RuleEnd(EndKind.ANY), RuleEnd(EndKind.OUTSIDE), RuleEnd(EndKind.GATEWAY)]),
    st.sampled_from([*(RuleEnd(EndKind.VM, name) for name in VMS), *(RuleEnd(EndKind.GROUP, name) for name in GROUPS)]),
    st.sampled_from([*(RuleEnd(EndKind.TENANT, name) for name in TENANTS), RuleEnd(EndKind.NETWORK, "n1")]),
    st.sampled_from([RuleEnd(EndKind.RANGE, cidr) for cidr in RANGES]),
)
_ENDS = st.lists(_RULE_ENDS, min_size=1, max_size=2).map(tuple)
RULES = st.builds(
    Rule, st.sampled_from(["r1", "r2", "r3"]), _ENDS, _ENDS, _SERVICES, st.sampled_from([None, None, *TENANTS])
)
_MEMBERS = st.sampled_from([(), (), (RuleEnd(EndKind.TENANT, "blue"),), (RuleEnd(EndKind.GROUP, "web"),)])
_NETWORKS = st.tuples(
    *(
        st.builds(
            NetworkPolicy,
            st.just(name),
            st.just(f"br-{name}"),
            trusted_dhcp_macs=st.sampled_from([(), ("52:54:00:00:00:01",)]),
            members=_MEMBERS,
            between=st.sampled_from([None, *Between]),
            gateways=st.sampled_from([(), (gateway,)]),
            reaches=st.sampled_from([(), (other,)]),
            outside=st.booleans(),
        )
        for name, other, gateway in (("n1", "n2", "10.0.1.1"), ("n2", "n1", "10.0.2.1"))
    )
)
_BOUNDS = st.none() | st.floats(0.5, 1e6)
BUDGETS = st.builds(
    Budget, _BOUNDS, _BOUNDS, _BOUNDS, st.none() | st.integers(1, 10**6), _BOUNDS | st.just(float("inf"))
)
FLOORS = st.builds(Floor, st.sampled_from(list(Between)), st.booleans(), BUDGETS)
TENANT_BUDGETS = BUDGETS.filter(lambda budget: budget.broadcasts_per_s != inf)
TENANT_FLOORS = st.builds(
    TenantPolicy, st.sampled_from(TENANTS), st.sampled_from(list(Between)), st.booleans(), TENANT_BUDGETS
)
POLICIES = st.builds(
    Policy,
    networks=_NETWORKS,
    vms=st.just(tuple(VmPolicy(name, tenant=TENANTS[n % 2]) for n, name in enumerate(VMS))),
    groups=st.tuples(
        *(st.builds(Group, st.just(g), st.lists(st.sampled_from(VMS), max_size=3).map(tuple)) for g in GROUPS)
    ),
    paths=st.lists(RULES, max_size=4).map(tuple),
    denials=st.lists(RULES, max_size=2).map(tuple),
    floor=FLOORS,
    tenants=st.lists(TENANT_FLOORS, max_size=2, unique_by=lambda one: one.name).map(tuple),
)
_BRIDGES = st.lists(st.sampled_from(["br-n1", "br-n1", "br-n2", "br-else"]), min_size=1, max_size=2)


def _inventory(bridges: list[list[str]]) -> Inventory:
    return Inventory(
        tuple(
            Vm(
                VmId(name),
                name,
                1,
                1,
                tuple(
                    Nic(PortId(f"52:54:00:00:{m:02x}:{n:02x}"), f"v{n}{m}", 10 * n + m + 1, b)
                    for m, b in enumerate(nics)
                ),
            )
            for n, (name, nics) in enumerate(zip(VMS, bridges, strict=True), start=1)
        )
    )


WORLDS = st.builds(
    lambda policy, bridges: (policy, members(policy, _inventory(bridges))),
    POLICIES,
    st.lists(_BRIDGES, min_size=len(VMS), max_size=len(VMS)),
)
HEAVY = settings(deadline=None, max_examples=40)
World = tuple[Policy, tuple[Member, ...]]


def _ends(ports: tuple[Member, ...]) -> list:
    return [*ports, Gateway("n1"), Gateway("n2"), *(Outside(address) for address in OUTSIDES)]


def _pairs(ports: tuple[Member, ...]) -> list[tuple]:
    ends = _ends(ports)
    return [(a, b) for a in ends for b in ends if a is not b and (isinstance(a, Member) or isinstance(b, Member))]


# --- laws ------------------------------------------------------------------------------------------------------------
@settings(deadline=None, max_examples=150)
@given(WORLDS)
def test_every_ordered_pair_is_decided_equally_by_the_specification_and_by_what_is_compiled(world: World) -> None:
    policy, ports = world
    fabric = compile_fabric(policy, ports)
    granted = table(fabric)
    for a, b in _pairs(ports):
        mediated = policy.ruled and any(isinstance(end, Member) and end.network for end in (a, b))
        perimeters = [perimeter_of_end(policy, fabric, end) if mediated else None for end in (a, b)]
        allowed = begins(policy, a, b)
        for wanted in ASKED:
            decision = decide(policy, a, b, wanted)
            assert permits(granted, *perimeters, wanted) == decision.allowed, (a, b, wanted, decision)
            if wanted not in COMPANIONS and wanted != service(58, 135):
                assert (wanted in allowed) == decision.allowed, (a, b, wanted, decision)


@st.composite
def _spanning(draw: st.DrawFn) -> tuple[Policy, Inventory]:
    """Networks that may span hosts, and VMs of which some do not run here."""
    drawn = draw(POLICIES)
    networks = tuple(
        replace(network, cidr=f"10.0.{n}.0/24", spans_hosts=draw(st.booleans()))
        for n, network in enumerate(drawn.networks, start=1)
    )
    vms = tuple(
        replace(vm, addresses=(f"10.0.{draw(st.sampled_from([1, 1, 2, 3]))}.{n}", f"fd00::{n}"))
        for n, vm in enumerate(drawn.vms, start=10)
    )
    whole = _inventory(draw(st.lists(_BRIDGES, min_size=len(VMS), max_size=len(VMS))))
    here = draw(st.sets(st.sampled_from(VMS)))
    return replace(drawn, networks=networks, vms=vms), Inventory(tuple(vm for vm in whole.vms if vm.name in here))


@settings(deadline=None, max_examples=150)
@given(_spanning())
def test_vms_on_other_hosts_are_decided_as_the_members_that_they_are_by_their_addresses(
    world: tuple[Policy, Inventory],
) -> None:
    policy, inventory = world
    here, away = members(policy, inventory), elsewhere(policy, inventory)
    fabric = compile_fabric(policy, here, away)
    granted = table(fabric)
    assert len({address for one in away for address in one.addresses}) == sum(len(one.addresses) for one in away)
    assert not {one.member.vm for one in away} & {member.vm for member in here}
    spanning = {network.name for network in policy.networks if network.spans_hosts}
    assert {one.member.network for one in away} <= spanning
    for one in away if policy.ruled else ():
        for address in one.addresses:
            assert perimeter_of_address(fabric, address) == perimeter_of(policy, one.member)
    away_ends = tuple(one.member for one in away)
    for a, b in _pairs((*here, *away_ends)):
        if policy.ruled and any(isinstance(end, Member) and end.network for end in (a, b)):
            perimeters = [perimeter_of_end(policy, fabric, end) for end in (a, b)]
            for wanted in ASKED:
                assert permits(granted, *perimeters, wanted) == decide(policy, a, b, wanted).allowed, (a, b, wanted)


@HEAVY
@given(WORLDS)
def test_a_decision_names_the_rule_of_the_layer_that_decides(world: World) -> None:
    policy, ports = world
    known = {
        "no network policy",
        "membership",
        "default",
        "floor",
        "what goes with every conversation",
        *(f"network {network.name}" for network in policy.networks),
        *(f"deny {rule.name}" for rule in policy.denials),
        *(f"tenant {tenant.name}" for tenant in policy.tenants),
    }
    for a, b in _pairs(ports)[:40]:
        for wanted in ASKED:
            decision = decide(policy, a, b, wanted)
            last = decision.steps[-1]
            assert decision.allowed == all(step.allowed is not False for step in decision.steps)
            assert decision.rule in {step.rule for step in decision.steps if step.layer is decision.layer}
            assert decision.rule in known or decision.rule.startswith("path r"), decision
            assert decision.allowed or (last.allowed is False and decision.text == last.text)
            order = [list(type(step.layer)).index(step.layer) for step in decision.steps]
            assert order == sorted(set(order)), "each layer is asked at most once, in the order of the model"


@HEAVY
@given(WORLDS)
def test_what_nobody_allowed_is_denied(world: World) -> None:
    policy, ports = world
    bare = replace(policy, paths=(), floor=Floor())
    for a, b in _pairs(ports):
        if not bare.ruled or not isinstance(a, Member) or not isinstance(b, Member) or not (a.network or b.network):
            continue
        together = a.network == b.network and a.tenant == b.tenant and a.admitted and b.admitted
        if not together and not a.serves_dhcp and not b.serves_dhcp:
            assert not any(decide(bare, a, b, wanted).allowed for wanted in ASKED)


@given(FLOORS, FLOORS, FLOORS)
def test_merging_has_no_order_and_no_count(one: Floor, other: Floor, third: Floor) -> None:
    assert merge(one, other) == merge(other, one)
    assert merge(one, one) == one
    assert merge(one, merge(other, third)) == merge(merge(one, other), third) == merge(one, other, third)
    assert merge(one, Floor()) == one


@given(BUDGETS, BUDGETS)
def test_a_merged_budget_is_within_both(one: Budget, other: Budget) -> None:
    both = strictest(one, other)
    for field in ("packets_per_s", "octets_per_s", "new_flows_per_s", "table_entries", "broadcasts_per_s"):
        bounds = [getattr(budget, field) for budget in (one, other) if getattr(budget, field) is not None]
        assert getattr(both, field) == (min(bounds) if bounds else None)


@HEAVY
@given(WORLDS, FLOORS, st.lists(RULES, max_size=2))
def test_more_floor_never_allows_more(world: World, more: Floor, denials: list[Rule]) -> None:
    policy, ports = world
    if not policy.ruled:
        return
    stricter = replace(policy, floor=merge(policy.floor, more), denials=(*policy.denials, *denials))
    for a, b in _pairs(ports):
        assert not begins(stricter, a, b) - begins(policy, a, b)
        for wanted in ASKED:
            assert not decide(stricter, a, b, wanted).allowed or decide(policy, a, b, wanted).allowed


@HEAVY
@given(WORLDS, TENANT_FLOORS)
def test_a_tenants_own_floor_never_allows_more_and_is_nobody_elses(world: World, own: TenantPolicy) -> None:
    policy, ports = world
    before = next((one for one in policy.tenants if one.name == own.name), TenantPolicy(own.name))
    both = merge(before.floor, own.floor)
    others = [one for one in policy.tenants if one.name != own.name]
    stricter = replace(policy, tenants=(*others, TenantPolicy(own.name, both.between, both.outside, both.budget)))
    fabric = table(compile_fabric(stricter, ports))
    for a, b in _pairs(ports):
        assert not begins(stricter, a, b) - begins(policy, a, b)
        if policy.ruled and not any(isinstance(end, Member) and end.tenant == own.name for end in (a, b)):
            assert begins(stricter, a, b) == begins(policy, a, b)
    assert not policy.ruled or fabric.keys() <= table(compile_fabric(policy, ports)).keys()


@given(FLOORS, TENANT_FLOORS, BUDGETS, st.booleans())
def test_each_layer_only_narrows_what_a_vm_may_take_and_whose_word_it_is_is_told(
    provider: Floor, tenant: TenantPolicy, own: Budget, stated: bool
) -> None:
    entry = VmPolicy("a", tenant.name, budget=own)
    policy = Policy(vms=(entry,), floor=provider, tenants=(tenant,) if stated else ())
    found = {bound.name: bound for bound in bounds_of(policy, entry)}
    said = {"provider": provider.budget, f"tenant {tenant.name}": tenant.budget, "vm a": own}
    if not stated:
        del said[f"tenant {tenant.name}"]
    whole = budget_of(provider, tenant.floor if stated else Floor(), entry)
    without = (budget_of(provider, Floor(), entry), budget_of(Floor(), tenant.floor, VmPolicy("a")))
    for name in BOUNDS:
        value = getattr(whole, name)
        assert (value is None) == (name not in found)
        if value is None:
            assert all(getattr(one, name) in (None, inf) for one in said.values())
            continue
        assert all(value <= getattr(one, name) for one in said.values() if getattr(one, name) is not None)
        assert getattr(without[0], name) is None or value <= getattr(without[0], name), "a tenant only narrows"
        by = found[name].by
        assert getattr(said[by], name) == value if by != "default" else value == BROADCASTS_PER_S
    assert without[1].broadcasts_per_s is not None
    assert without[1].broadcasts_per_s <= BROADCASTS_PER_S, "also what nobody bounded by name"


@HEAVY
@given(WORLDS, RULES, st.sampled_from(TENANTS))
def test_a_tenants_own_rules_change_nothing_between_others(world: World, rule: Rule, tenant: str) -> None:
    policy, ports = world
    if not policy.ruled:
        return
    own = replace(rule, by=tenant)
    for other in (
        replace(policy, paths=(*policy.paths, own)),
        replace(policy, denials=(*policy.denials, own)),
    ):
        for a, b in _pairs(ports):
            if not any(isinstance(end, Member) and end.tenant == tenant for end in (a, b)):
                assert begins(other, a, b) == begins(policy, a, b)
        for a, b in _pairs(ports):
            others = [end for end in (a, b) if isinstance(end, Member) and end.tenant != tenant]
            if others and other.paths != policy.paths:
                needs = [r for r in policy.paths if r.by != tenant]
                if not needs:
                    assert begins(other, a, b) == begins(policy, a, b), "one tenant alone opens no other"


@HEAVY
@given(WORLDS)
def test_companions_go_exactly_with_conversations(world: World) -> None:
    policy, ports = world
    for a, b in _pairs(ports):
        assert decide(policy, a, b, NEIGHBOUR).allowed == converse(policy, a, b)
        assert decide(policy, a, b, NEIGHBOUR).allowed == decide(policy, b, a, NEIGHBOUR).allowed


@HEAVY
@given(WORLDS)
def test_what_is_compiled_survives_the_wire(world: World) -> None:
    policy, ports = world
    fabric = compile_fabric(policy, ports)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(fabric), type=Fabric) == fabric
    assert compile_fabric(policy, tuple(reversed(ports))) == fabric, "the order of NICs does not matter"
    assert changed(Fabric(), difference(Fabric(), fabric)) == fabric
    assert changed(fabric, difference(fabric, Fabric())) == Fabric()
    assert changed(fabric, difference(None, fabric)) == fabric
    assert difference(fabric, fabric) == FabricChange()
    assert len({(grant.source, grant.destination) for grant in fabric.grants}) == len(fabric.grants)
    assert all(grant.services != NOTHING for grant in fabric.grants)


def test_errors_are_what_does_not_arrive() -> None:
    assert service(1, 3) in ERRORS
    assert service(58, 2) in ERRORS, "path MTU discovery"
    assert service(1, 8) not in ERRORS
    assert NEIGHBOUR not in ANYTHING
