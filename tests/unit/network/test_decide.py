"""The specification by examples: which rule of which layer decides, in a world that a person can hold in mind."""

from dataclasses import replace

import pytest

from hypervigil.model.ids import PortId, VmId
from hypervigil.model.network import Between, EndKind, Floor, Forwarding, Group, Layer, Rule, RuleEnd, TenantPolicy
from hypervigil.model.policy import NetworkPolicy, Policy, VmPolicy
from hypervigil.model.services import ANYTHING, NEIGHBOUR, parse, parse_one, service
from hypervigil.model.vm import Inventory, Nic, Vm
from hypervigil.network.compile import (
    OUTSIDE,
    compile_fabric,
    perimeter_of,
    perimeter_of_address,
    perimeter_of_end,
    permits,
    table,
)
from hypervigil.network.decide import begins, decide
from hypervigil.network.ends import End, Gateway, Member, Outside, elsewhere, imagined, members

TENANTS = RuleEnd(EndKind.NETWORK, "tenants")
WEB, DB = RuleEnd(EndKind.GROUP, "web"), RuleEnd(EndKind.GROUP, "db")
ANY, OUT = RuleEnd(EndKind.ANY), RuleEnd(EndKind.OUTSIDE)


def vm(name: str) -> RuleEnd:
    return RuleEnd(EndKind.VM, name)


def rule(name: str, source: RuleEnd, destination: RuleEnd, services: str, by: str | None = None) -> Rule:
    return Rule(name, (source,), (destination,), parse(services), by)


POLICY = Policy(
    networks=(
        NetworkPolicy("tenants", "br-t", "10.60.0.0/24", gateways=("10.60.0.1",), reaches=("storage",), outside=True),
        NetworkPolicy("storage", "br-s", "10.61.0.0/24", between=Between.ISOLATED),
    ),
    vms=(
        VmPolicy("web-1", tenant="blue"),
        VmPolicy("web-2", tenant="blue"),
        VmPolicy("db-1", tenant="red"),
        VmPolicy("nas-1", tenant="blue"),
        VmPolicy("nas-2", tenant="blue"),
    ),
    groups=(Group("web", ("web-*",)), Group("db", ("db-1",))),
    paths=(
        rule("web to db", WEB, DB, "tcp/5432"),
        rule("customers", OUT, WEB, "tcp/443"),
        rule("updates", TENANTS, RuleEnd(EndKind.RANGE, "203.0.113.0/24"), "tcp/80"),
        rule("backup", WEB, vm("nas-1"), "tcp/873"),
    ),
    denials=(rule("no mail", ANY, OUT, "tcp/25"),),
)
BRIDGES = {"web-1": "br-t", "web-2": "br-t", "db-1": "br-t", "nas-1": "br-s", "nas-2": "br-s", "lone": "virbr0"}
INVENTORY = Inventory(
    tuple(
        Vm(VmId(name), name, 1, 1, (Nic(PortId(f"52:54:00:00:00:{n:02x}"), f"vnet{n}", n, bridge),))
        for n, (name, bridge) in enumerate(BRIDGES.items(), start=1)
    )
)


def end(policy: Policy, name: str) -> End:
    found = [member for member in members(policy, INVENTORY) if member.vm == name]
    if found:
        return found[0]
    return Gateway("tenants") if name == "gateway" else Outside(None if name == "outside" else name)


def ask(source: str, destination: str, wanted: str, policy: Policy = POLICY) -> tuple[bool, Layer, str]:
    decision = decide(policy, end(policy, source), end(policy, destination), parse_one(wanted))
    return decision.allowed, decision.layer, decision.rule


S, F, R = Layer.SHARED, Layer.FIREWALL, Layer.ROUTING


@pytest.mark.req("T-NET-2", "A26", "A33")
@pytest.mark.parametrize(
    ("source", "destination", "wanted", "expected"),
    [
        ("web-1", "web-2", "tcp/22", (True, S, "network tenants")),
        ("web-1", "db-1", "tcp/5432", (True, F, "path web to db")),
        ("web-1", "db-1", "tcp/22", (False, F, "default")),
        ("db-1", "web-1", "tcp/5432", (False, F, "default")),
        ("db-1", "web-1", "icmp4/3", (True, F, "what goes with every conversation")),
        ("db-1", "web-1", "icmp/echo", (False, F, "default")),
        ("db-1", "web-1", "arp", (True, F, "what goes with every conversation")),
        ("web-1", "gateway", "icmp/echo", (True, S, "network tenants")),
        ("web-1", "gateway", "udp/67", (True, S, "network tenants")),
        ("web-1", "gateway", "tcp/22", (False, F, "default")),
        ("outside", "web-1", "tcp/443", (True, F, "path customers")),
        ("outside", "db-1", "tcp/443", (False, F, "default")),
        ("web-1", "203.0.113.7", "tcp/80", (True, F, "path updates")),
        ("web-1", "outside", "tcp/80", (False, F, "default")),
        ("web-1", "198.51.100.9", "tcp/25", (False, F, "deny no mail")),
        ("web-1", "nas-1", "tcp/873", (True, F, "path backup")),
        ("nas-1", "nas-2", "tcp/873", (False, F, "default")),
        ("lone", "web-1", "tcp/80", (False, S, "membership")),
        ("web-1", "lone", "tcp/80", (False, S, "membership")),
        ("lone", "outside", "tcp/80", (True, S, "no network policy")),
    ],
)
def test_the_deciding_rule(source: str, destination: str, wanted: str, expected: tuple[bool, Layer, str]) -> None:
    assert ask(source, destination, wanted) == expected


@pytest.mark.req("T-NET-3", "A33")
def test_what_goes_into_another_network_meets_all_three_layers_in_order() -> None:
    decision = decide(POLICY, end(POLICY, "web-1"), end(POLICY, "nas-1"), parse_one("tcp/873"))
    assert [step.layer for step in decision.steps] == [S, F, R]
    inside = decide(POLICY, end(POLICY, "web-1"), end(POLICY, "web-2"), parse_one("tcp/873"))
    assert [step.layer for step in inside.steps] == [S, F], "what stays on a shared network is not routed"


def test_routing_must_agree_with_the_firewall() -> None:
    apart = replace(POLICY, networks=tuple(replace(n, reaches=(), outside=False) for n in POLICY.networks))
    assert ask("web-1", "nas-1", "tcp/873", apart) == (False, R, "network tenants")
    assert ask("outside", "web-1", "tcp/443", apart) == (False, R, "network tenants")
    assert ask("web-1", "nas-1", "arp", apart)[0] is False, "nothing may be begun, so nothing goes along"
    back = replace(POLICY, paths=(*POLICY.paths, rule("restore", vm("nas-1"), WEB, "tcp/22")))
    assert ask("nas-1", "web-1", "tcp/22", back) == (False, R, "network storage"), "reaching has a direction"


def test_a_floor_cannot_be_loosened() -> None:
    closed = replace(POLICY, floor=Floor(between=Between.ISOLATED, outside=False))
    assert ask("web-1", "web-2", "tcp/22", closed) == (False, F, "default")
    assert ask("web-1", "203.0.113.7", "tcp/80", closed) == (False, R, "floor")
    silent = replace(POLICY, denials=(rule("silence", ANY, ANY, "any"),))
    assert ask("web-1", "web-2", "tcp/22", silent) == (False, F, "deny silence")
    assert ask("web-1", "web-2", "arp", silent)[0] is False


def test_a_tenants_own_floor_narrows_its_vms_and_nobody_elses() -> None:
    shut = replace(POLICY, tenants=(TenantPolicy("blue", Between.ISOLATED, outside=False),))
    assert ask("web-1", "web-2", "tcp/22", shut) == (False, F, "default")
    steps = decide(shut, end(shut, "web-1"), end(shut, "web-2"), parse_one("tcp/22")).steps
    assert steps[0].rule == "tenant blue"
    assert steps[0].text == "tenant blue isolates its VMs from each other: only a path lets them talk"
    assert ask("web-1", "203.0.113.7", "tcp/80", shut) == (False, R, "tenant blue")
    assert ask("outside", "web-1", "tcp/443", shut) == (False, R, "tenant blue"), "nor back in"
    assert ask("db-1", "203.0.113.7", "tcp/80", shut)[0], "the other tenant's word is its own"
    assert ask("web-1", "nas-1", "tcp/873", shut)[0], "a path goes on"
    assert ask("web-1", "gateway", "icmp/echo", shut)[0]
    closed = replace(shut, floor=Floor(between=Between.ISOLATED, outside=False))
    assert ask("web-1", "203.0.113.7", "tcp/80", closed) == (False, R, "floor"), "the provider's word comes first"
    steps = decide(closed, end(closed, "web-1"), end(closed, "web-2"), parse_one("tcp/22")).steps
    assert steps[0].rule == "floor"
    loose = replace(closed, tenants=(TenantPolicy("blue", Between.OPEN, outside=True),))
    assert ask("web-1", "web-2", "tcp/22", loose) == (False, F, "default"), "and no tenant loosens it"
    assert ask("web-1", "203.0.113.7", "tcp/80", loose) == (False, R, "floor")


def test_a_denial_wins_over_paths_and_open_networks() -> None:
    denied = replace(POLICY, denials=(rule("no ssh", ANY, ANY, "tcp/22"),))
    assert ask("web-1", "web-2", "tcp/22", denied) == (False, F, "deny no ssh")
    assert ask("web-1", "web-2", "tcp/23", denied)[0]


@pytest.mark.req("A90")
def test_two_tenants_must_both_want_it() -> None:
    wish = rule("wish", WEB, DB, "tcp/22", by="blue")
    one_sided = replace(POLICY, paths=(wish,))
    assert ask("web-1", "db-1", "tcp/22", one_sided) == (False, F, "path wish")
    said = decide(one_sided, end(one_sided, "web-1"), end(one_sided, "db-1"), service(6, 22)).text
    assert said == "path wish wants it, but tenant red does not allow it for db-1"
    both = replace(POLICY, paths=(wish, rule("welcome", WEB, DB, "tcp/22", by="red")))
    assert ask("web-1", "db-1", "tcp/22", both) == (True, F, "path wish and path welcome")
    assert ask("web-1", "nas-1", "tcp/22", replace(POLICY, paths=(rule("own", WEB, vm("nas-1"), "tcp", by="blue"),)))[0]
    assert not ask("web-1", "gateway", "tcp/22", replace(POLICY, paths=(rule("x", WEB, ANY, "tcp", by="blue"),)))[0]


def test_a_tenant_denies_only_what_touches_it() -> None:
    meddling = replace(POLICY, denials=(rule("meddle", ANY, ANY, "any", by="red"),))
    assert ask("web-1", "web-2", "tcp/22", meddling)[0]
    assert ask("web-1", "db-1", "tcp/5432", meddling) == (False, F, "deny meddle")


def test_who_is_no_member_gets_nothing() -> None:
    picky = replace(
        POLICY,
        networks=(
            replace(POLICY.networks[0], members=(RuleEnd(EndKind.TENANT, "red"), vm("web-2"))),
            POLICY.networks[1],
        ),
    )
    assert ask("web-1", "web-2", "tcp/22", picky) == (False, S, "membership")
    assert ask("web-1", "gateway", "udp/67", picky) == (False, S, "membership")
    assert ask("outside", "web-1", "tcp/443", picky) == (False, S, "membership")
    assert ask("web-2", "db-1", "tcp/5432", picky)[0]
    lone = end(picky, "web-1")
    assert isinstance(lone, Member)
    granted = table(compile_fabric(picky, members(picky, INVENTORY)))
    perimeter = perimeter_of(picky, lone)
    assert not any(
        permits(granted, perimeter, other, NEIGHBOUR) for other in {perimeter for pair in granted for perimeter in pair}
    )


def test_without_a_network_policy_nothing_is_decided() -> None:
    plain = Policy(networks=(NetworkPolicy("tenants", "br-t", "10.60.0.0/24"),), vms=POLICY.vms)
    assert not plain.ruled
    assert ask("web-1", "db-1", "tcp/1", plain) == (True, S, "no network policy")
    assert compile_fabric(plain, members(plain, INVENTORY)).grants == ()
    assert perimeter_of(plain, members(plain, INVENTORY)[0]) is None
    assert replace(plain, networks=(replace(plain.networks[0], between=Between.OPEN),)).ruled, "saying so is a policy"


def test_a_dhcp_server_that_is_a_vm_serves_its_network() -> None:
    mac = INVENTORY.vms[2].nics[0].port
    served = replace(POLICY, networks=(replace(POLICY.networks[0], trusted_dhcp_macs=(mac,)), POLICY.networks[1]))
    assert ask("web-1", "db-1", "udp/67", served) == (True, S, "network tenants")
    assert ask("db-1", "web-1", "udp/68", served) == (True, S, "network tenants")
    assert not ask("web-1", "db-1", "udp/68", served)[0]
    assert not ask("web-1", "web-2", "udp/67", replace(served, floor=Floor(between=Between.ISOLATED)))[0]


def test_the_longest_prefix_says_where_an_address_is() -> None:
    nested = replace(
        POLICY,
        paths=(
            rule("wide", RuleEnd(EndKind.RANGE, "203.0.0.0/16"), WEB, "tcp/80"),
            rule("narrow", RuleEnd(EndKind.RANGE, "203.0.113.0/24"), WEB, "tcp/81"),
        ),
    )
    fabric = compile_fabric(nested, members(nested, INVENTORY))
    granted = table(fabric)
    web = perimeter_of_end(nested, fabric, end(nested, "web-1"))
    inner, outer = perimeter_of_address(fabric, "203.0.113.9"), perimeter_of_address(fabric, "203.0.9.9")
    assert [permits(granted, inner, web, service(6, port)) for port in (80, 81)] == [True, True]
    assert [permits(granted, outer, web, service(6, port)) for port in (80, 81)] == [True, False]
    assert perimeter_of_address(fabric, "198.51.100.1") == perimeter_of_address(fabric, "2001:db8::1") == OUTSIDE
    assert perimeter_of_address(fabric, "10.60.0.1") == "tenants/*gateway"


def test_zones_hold_alike_what_no_rule_tells_apart() -> None:
    found = {member.vm: perimeter_of(POLICY, member) for member in members(POLICY, INVENTORY)}
    assert found["web-1"] == found["web-2"] == "tenants/blue/web"
    assert found["db-1"] == "tenants/red/db"
    assert found["nas-1"] == "storage/blue/*vm/nas-1"
    assert found["nas-2"] == "storage/blue"
    assert found["lone"] is None


def test_a_zones_name_cannot_be_forged_by_a_name_in_the_policy() -> None:
    tricky = Policy(
        networks=(NetworkPolicy("n/*gateway", "br-t"), NetworkPolicy("n", "br-s")),
        vms=(VmPolicy("web-1", tenant="*none"), VmPolicy("nas-1", tenant="*gateway")),
        denials=POLICY.denials,
    )
    named = [perimeter_of(tricky, member) for member in members(tricky, INVENTORY) if member.vm in {"web-1", "nas-1"}]
    assert named == ["n%2f;%2a;gateway/%2a;none", "n/%2a;gateway"]


def test_a_routed_network_is_found_by_its_range() -> None:
    routed = Policy(
        networks=(NetworkPolicy("r", None, "10.62.0.0/24", forwarding=Forwarding.ROUTED, outside=True),),
        vms=(VmPolicy("a", addresses=("10.62.0.5",)),),
    )
    nics = (Nic(PortId("52:54:00:00:00:99"), "vnet9", 9, None), Nic(PortId("52:54:00:00:00:98"), "vnet8", 8, "br0"))
    inventory = Inventory((Vm(VmId("a"), "a", 1, 1, nics),))
    assert [member.network for member in members(routed, inventory)] == ["r", None]
    with pytest.raises(ValueError, match="must be routed and have a cidr"):
        NetworkPolicy("r", None, "10.62.0.0/24")


def test_a_policy_without_a_host_is_looked_at_with_the_vms_that_it_names() -> None:
    policy = replace(POLICY, vms=(VmPolicy("web-1", addresses=("10.60.0.5", "10.61.0.5")), VmPolicy("x")))
    assert [(m.vm, m.network) for m in members(policy, imagined(policy))] == [
        ("web-1", "tenants"),
        ("web-1", "storage"),
    ]


def away(*names: str, **changes: object) -> tuple[Policy, Inventory]:
    """A policy whose networks span hosts, and an inventory without these VMs."""
    vms = (
        VmPolicy("web-1", tenant="blue", addresses=("10.60.0.5", "fd60::5")),
        VmPolicy("web-2", tenant="blue", addresses=("10.60.0.6",)),
        VmPolicy("db-1", tenant="red", addresses=("10.60.0.7",)),
        VmPolicy("nas-1", tenant="blue", addresses=("10.61.0.8", "172.16.0.8")),
        VmPolicy("x", tenant="blue", addresses=("172.16.0.9",)),
    )
    policy = replace(
        POLICY, vms=vms, networks=tuple(replace(one, **{"spans_hosts": True, **changes}) for one in POLICY.networks)
    )
    return policy, Inventory(tuple(vm for vm in INVENTORY.vms if vm.name not in names))


def test_a_vm_that_runs_on_another_host_is_who_it_is() -> None:
    policy, inventory = away("web-2", "db-1", "nas-1")
    found = {one.member.vm: one for one in elsewhere(policy, inventory)}
    assert {name: (one.member.network, one.addresses) for name, one in found.items()} == {
        "web-2": ("tenants", ("10.60.0.6",)),
        "db-1": ("tenants", ("10.60.0.7",)),
        "nas-1": ("storage", ("10.61.0.8",)),
    }, "and x has no address on any of these networks"
    [web] = [member for member in members(policy, inventory) if member.vm == "web-1"]
    for name, wanted, allowed in (
        ("web-2", "tcp/22", True),
        ("db-1", "tcp/5432", True),
        ("db-1", "tcp/22", False),
        ("nas-1", "tcp/873", True),
        ("nas-1", "tcp/874", False),
    ):
        assert decide(policy, web, found[name].member, parse_one(wanted)).allowed == allowed, name


def test_who_is_on_its_way_is_elsewhere_until_it_runs_here() -> None:
    policy, inventory = away("db-1", "nas-1")
    moving = Inventory(tuple(replace(vm, migrating=vm.name == "web-2", paused=True) for vm in inventory.vms))
    assert {one.member.vm for one in elsewhere(policy, moving)} == {"web-2", "db-1", "nas-1"}


def test_a_vm_of_two_routed_networks_is_elsewhere_in_the_one_that_spans_hosts() -> None:
    networks = (
        NetworkPolicy("r1", None, "10.62.0.0/24", forwarding=Forwarding.ROUTED),
        NetworkPolicy("r2", None, "10.63.0.0/24", forwarding=Forwarding.ROUTED, spans_hosts=True),
    )
    policy = Policy(networks=networks, vms=(VmPolicy("a", addresses=("10.62.0.5", "10.63.0.5")),))
    [found] = elsewhere(policy, Inventory(()))
    assert (found.member.network, found.addresses) == ("r2", ("10.63.0.5",))


def test_without_that_word_who_is_not_here_is_outside() -> None:
    policy, inventory = away("web-2", "db-1", spans_hosts=False)
    assert elsewhere(policy, inventory) == ()
    plain, fabric = members(policy, inventory), compile_fabric(policy, members(policy, inventory))
    assert compile_fabric(policy, plain, elsewhere(policy, inventory)) == fabric
    with pytest.raises(ValueError, match="spans_hosts needs a cidr"):
        NetworkPolicy("n", "br0", spans_hosts=True)
    servers = ("52:54:00:00:00:01",)
    with pytest.raises(ValueError, match="take one of them away"):
        NetworkPolicy("n", "br0", "10.0.0.0/24", servers, spans_hosts=True, free_until_leased=True)


def test_begins_says_everything_at_once() -> None:
    web, other = end(POLICY, "web-1"), end(POLICY, "web-2")
    assert begins(POLICY, web, other) == ANYTHING
    assert str(begins(POLICY, web, end(POLICY, "db-1"))) == "tcp/5432"
    assert str(begins(POLICY, web, Outside("203.0.113.1"))) == "tcp/80"
