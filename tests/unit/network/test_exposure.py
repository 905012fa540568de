"""Who is exposed to whom, what a new policy changes of it, and what comes to nothing."""

from dataclasses import replace

from hypothesis import given, settings

from hypervigil.model.network import EndKind, Floor, Group, RuleEnd
from hypervigil.model.policy import Policy
from hypervigil.model.services import Services
from hypervigil.model.vm import Inventory
from hypervigil.network.decide import begins
from hypervigil.network.ends import Gateway, Member, Outside, members
from hypervigil.network.exposure import Kind, changes, exposures, idle, shortened
from tests.property.test_network import POLICIES
from tests.unit.network.test_decide import ANY, INVENTORY, OUT, POLICY, WEB, rule, vm


def told(policy: Policy) -> set[tuple]:
    return {(one.kind, one.sources, one.destinations, str(one.services)) for one in exposures(policy, INVENTORY)}


def test_everything_that_may_be_begun_is_listed_the_gravest_first() -> None:
    webs = ("web-1", "web-2")
    assert told(POLICY) == {
        (Kind.FROM_OUTSIDE, ("the outside",), webs, "tcp/443"),
        (Kind.FROM_OUTSIDE, ("203.0.113.0/24",), webs, "tcp/443"),
        (Kind.BETWEEN_TENANTS, webs, ("db-1",), "tcp/5432"),
        (Kind.TO_OUTSIDE, webs, ("203.0.113.0/24",), "tcp/80"),
        (Kind.TO_OUTSIDE, ("db-1",), ("203.0.113.0/24",), "tcp/80"),
        (Kind.WITHIN_TENANT, webs, webs, "any"),
        (Kind.WITHIN_TENANT, webs, ("nas-1",), "tcp/873"),
    }
    order = [list(Kind).index(one.kind) for one in exposures(POLICY, INVENTORY)]
    assert order == sorted(order)


def test_names_are_shortened() -> None:
    assert shortened([f"vm-{n}" for n in range(6)]) == "vm-0, vm-1, vm-2, vm-3 and 2 more"


def test_a_change_says_what_is_more_and_what_is_less() -> None:
    new = replace(
        POLICY,
        paths=(*POLICY.paths[1:], rule("customers too", OUT, WEB, "tcp/80")),
        denials=(rule("no", ANY, ANY, "udp"),),
    )
    found = {(one.sources, one.destinations): (str(one.more), str(one.less)) for one in changes(POLICY, new, INVENTORY)}
    webs = ("web-1", "web-2")
    assert found == {
        (("the outside",), webs): ("tcp/80", "nothing"),
        (("203.0.113.0/24",), webs): ("tcp/80", "nothing"),
        (webs, ("db-1",)): ("nothing", "tcp/5432"),
        (webs, webs): ("nothing", "udp"),
        (webs, ("the gateway of tenants",)): ("nothing", "udp/67, udp/547"),
        (("db-1",), ("the gateway of tenants",)): ("nothing", "udp/67, udp/547"),
        (("the gateway of tenants",), webs): ("nothing", "udp/68, udp/546"),
        (("the gateway of tenants",), ("db-1",)): ("nothing", "udp/68, udp/546"),
        (("the gateway of storage",), ("nas-1",)): ("nothing", "udp/68, udp/546"),
        (("the gateway of storage",), ("nas-2",)): ("nothing", "udp/68, udp/546"),
        (("nas-1",), ("the gateway of storage",)): ("nothing", "udp/67, udp/547"),
        (("nas-2",), ("the gateway of storage",)): ("nothing", "udp/67, udp/547"),
    }
    assert changes(POLICY, POLICY, INVENTORY) == ()


def test_what_changes_for_vms_on_other_hosts_is_told() -> None:
    vms = tuple(replace(one, addresses=(f"10.60.0.{n}",)) for n, one in enumerate(POLICY.vms, start=5))
    plain = replace(POLICY, vms=vms)
    spanning = replace(plain, networks=tuple(replace(one, spans_hosts=True) for one in plain.networks))
    here = Inventory(tuple(vm for vm in INVENTORY.vms if vm.name != "db-1"))
    found = {(one.sources, one.destinations): (str(one.more), str(one.less)) for one in changes(plain, spanning, here)}
    assert found[("web-1", "web-2"), ("db-1",)] == ("tcp/5432", "nothing")
    closed = replace(spanning, paths=tuple(one for one in spanning.paths if one.name != "web to db"))
    found = {(one.sources, one.destinations): (str(one.more), str(one.less)) for one in changes(spanning, closed, here)}
    assert found == {(("web-1", "web-2"), ("db-1",)): ("nothing", "tcp/5432")}
    assert "db-1" in {name for one in exposures(spanning, here) for name in one.destinations}


def test_a_first_network_policy_takes_away_what_it_does_not_allow() -> None:
    plain = Policy(
        networks=tuple(replace(n, gateways=(), reaches=(), outside=False, between=None) for n in POLICY.networks)
    )
    found = {(one.sources, one.destinations): str(one.less) for one in changes(plain, POLICY, INVENTORY)}
    assert found[("db-1",), ("web-1", "web-2")] == "any"
    assert (("web-1", "web-2"), ("web-1", "web-2")) not in found


@settings(deadline=None, max_examples=25)
@given(POLICIES, POLICIES)
def test_changes_are_those_of_every_pair(old: Policy, new: Policy) -> None:
    if not (old.ruled and new.ruled):
        return
    found = {}
    for one in changes(old, new, INVENTORY):
        for source in one.sources:
            for destination in one.destinations:
                key = source, destination
                more, less = found.get(key, (Services(), Services()))
                found[key] = (more | one.more, less | one.less)
    ends = lambda policy: [*members(policy, INVENTORY), Gateway("n1"), Outside()]  # noqa: E731
    for a, was_a in zip(ends(new), ends(old), strict=True):
        for b, was_b in zip(ends(new), ends(old), strict=True):
            if str(a) == str(b) or not any(isinstance(end, Member) for end in (a, b)):
                continue
            was, now = begins(old, was_a, was_b), begins(new, a, b)
            more, less = found.get((str(a), str(b)), (Services(), Services()))
            assert (more, less) == (now - was, was - now)


def test_what_comes_to_nothing_is_said() -> None:
    odd = replace(
        POLICY,
        groups=(*POLICY.groups, Group("none", ("nobody",))),
        paths=(
            *POLICY.paths,
            rule("gone", vm("vanished"), WEB, "tcp/1"),
            rule("mail", WEB, OUT, "tcp/25"),
            rule("unreached", RuleEnd(EndKind.NETWORK, "storage"), WEB, "tcp/2"),
            rule("wish", WEB, RuleEnd(EndKind.GROUP, "db"), "tcp/3", by="blue"),
        ),
    )
    assert idle(odd, INVENTORY) == (
        "group none holds none of these VMs",
        "path gone lets nothing pass: no VM is at one of its ends",
        "path mail lets nothing pass: the provider denies it by 'no mail'",
        "path unreached lets nothing pass: storage does not reach tenants",
        "path wish lets nothing pass: path wish wants it, but tenant red does not allow it for db-1",
    )
    closed = replace(POLICY, floor=Floor(outside=False))
    assert "network tenants wants a way outside, and the floor has none" in idle(closed, INVENTORY)
    assert idle(POLICY, INVENTORY) == ()
