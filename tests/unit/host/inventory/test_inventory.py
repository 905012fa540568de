"""Bindings come from policy and libvirt's XML alone; no address and no MAC has two owners; nothing is widened."""

from dataclasses import replace
from math import inf

from hypothesis import given
from hypothesis import strategies as st

from hypervigil.host.inventory import AddressBook, compile_ports, protected_networks
from hypervigil.model.ids import OUTSIDE, PortId, VmId
from hypervigil.model.network import AddressPair, Budget, Floor, Forwarding
from hypervigil.model.policy import Mode, NetworkPolicy, Policy, VmPolicy
from hypervigil.model.port_policy import Fabric, HostRoutes, Leasing, link_local
from hypervigil.model.traffic import ForgedKind
from hypervigil.model.vm import Inventory, Nic, Vm
from hypervigil.network.merge import BROADCASTS_PER_S

A, B = VmId("a" * 8), VmId("b" * 8)
MAC_A, MAC_B = PortId("52:54:00:00:00:0a"), PortId("52:54:00:00:00:0b")
NET = NetworkPolicy("net1", "br0", "10.60.0.0/24")


def vm(identity: VmId, name: str, mac: PortId, ifindex: int, *addresses: str, bridge: str | None = "br0") -> Vm:
    return Vm(identity, name, 1, 1024, (Nic(mac, f"vnet{ifindex}", ifindex, bridge, addresses),))


def test_addresses_of_xml_and_policy_are_bound_with_the_derived_link_local() -> None:
    policy = Policy(networks=(NET,), vms=(VmPolicy("a", addresses=("10.60.0.3", "FD00::3")),))
    compiled = compile_ports(Inventory((vm(A, "a", MAC_A, 5, "10.60.0.2"),)), policy)
    [port] = compiled.ports
    assert port.addresses == ("10.60.0.2", "10.60.0.3", "fd00::3", "fe80::5054:ff:fe00:a")
    assert compiled.notes == ()
    assert port.mode is Mode.MONITOR


def test_link_local_is_rfc_4291s() -> None:
    assert link_local("34:56:78:9a:bc:de") == "fe80::3656:78ff:fe9a:bcde"


def test_without_any_address_what_is_nobody_elses_may_be_used_and_that_is_said() -> None:
    compiled = compile_ports(Inventory((vm(A, "a", MAC_A, 5),)), Policy(networks=(NET,)))
    assert compiled.ports[0].addresses == ()
    assert compiled.ports[0].leasing == Leasing((), free=True)
    assert "it may use any that is nobody else's" in compiled.notes[0]


def test_on_a_network_that_spans_hosts_who_has_no_known_address_may_use_none() -> None:
    """What is nobody's here may be that of a VM on another host, which is believed by its address."""
    spanning = replace(NET, spans_hosts=True)
    compiled = compile_ports(Inventory((vm(A, "a", MAC_A, 5),)), Policy(networks=(spanning,)))
    [port], notes = compiled.ports, compiled.notes
    assert (port.addresses, port.leasing) == ((link_local(MAC_A),), None)
    assert len(notes) == 1
    assert "so it may use none; name its addresses" in notes[0]


def test_who_runs_on_another_host_yet_is_bound_and_has_no_route() -> None:
    routed = NetworkPolicy("r", None, "10.62.0.0/24", forwarding=Forwarding.ROUTED, spans_hosts=True, outside=True)
    policy = Policy(networks=(routed,), vms=(VmPolicy("a", addresses=("10.62.0.5",)),))
    running = vm(A, "a", MAC_A, 5, bridge=None)
    coming = replace(running, paused=True, migrating=True)
    ports = [compile_ports(Inventory((one,)), policy).ports[0] for one in (running, coming)]
    assert [port.addresses for port in ports] == [("10.62.0.5", link_local(MAC_A))] * 2
    assert [port.migrating for port in ports] == [False, True]
    assert [port.routes is None for port in ports] == [False, True]
    assert [one.cidr for one in compile_ports(Inventory((coming,)), policy).fabric.addresses] == ["10.62.0.5/32"]


def test_on_a_bridge_that_no_policy_names_only_the_mac_is_bound() -> None:
    """Which other bridges' addresses mean the same there is not known."""
    compiled = compile_ports(Inventory((vm(A, "a", MAC_A, 5),)), Policy())
    assert compiled.ports[0].leasing is None
    assert "only its MAC is bound" in compiled.notes[0]


def test_a_second_vm_with_the_same_mac_gets_no_port_and_a_sentence() -> None:
    both = Inventory((vm(A, "a", MAC_A, 5, "10.60.0.2"), vm(B, "b", MAC_A, 6, "10.60.0.3")))
    compiled = compile_ports(both, Policy(networks=(NET,)))
    assert [port.vm for port in compiled.ports] == [A], "who started first keeps its MAC"
    assert any("b: the MAC 52:54:00:00:00:0a belongs to a already" in note for note in compiled.notes)


def test_a_vm_cannot_rob_another_of_its_binding_by_taking_its_mac() -> None:
    both = Inventory((vm(A, "a", MAC_A, 5, "10.60.0.2"), vm(B, "b", MAC_A, 6, "10.60.0.3")))
    [port] = compile_ports(both, Policy(networks=(NET,))).ports
    assert port.addresses[0] == "10.60.0.2"
    book = AddressBook()
    book.update(both, Policy(networks=(NET,)))
    assert book.owner("10.60.0.3", MAC_A) == A
    assert book.owner("10.60.0.3") == OUTSIDE, "B has no port, so nothing can be B's"


def test_an_address_of_two_vms_is_refused_to_the_second_and_does_not_loosen_its_binding() -> None:
    both = Inventory((vm(A, "a", MAC_A, 5, "10.60.0.2"), vm(B, "b", MAC_B, 6, "10.60.0.2")))
    compiled = compile_ports(both, Policy(networks=(NET,)))
    assert compiled.ports[0].addresses[0] == "10.60.0.2"
    assert compiled.ports[1].addresses == (link_local(MAC_B),), "not empty: empty would mean any address"
    assert any("b: 10.60.0.2 belongs to a already" in note for note in compiled.notes)


def test_policy_reserves_an_address_also_for_a_vm_that_does_not_run() -> None:
    policy = Policy(networks=(NET,), vms=(VmPolicy("b", addresses=("10.60.0.2",)),))
    compiled = compile_ports(Inventory((vm(A, "a", MAC_A, 5, "10.60.0.2"),)), policy)
    assert "10.60.0.2" not in compiled.ports[0].addresses
    assert "belongs to b (by policy)" in compiled.notes[0]


def test_a_vm_may_share_its_own_address_between_its_nics() -> None:
    two = Vm(
        A, "a", 1, 1024, (Nic(MAC_A, "vnet5", 5, "br0", ("10.60.0.2",)), Nic(MAC_B, "vnet6", 6, "br0", ("10.60.0.2",)))
    )
    compiled = compile_ports(Inventory((two,)), Policy(networks=(NET,)))
    assert [port.addresses[0] for port in compiled.ports] == ["10.60.0.2", "10.60.0.2"]


def test_a_policys_address_goes_only_to_the_nic_whose_network_has_it() -> None:
    other = NetworkPolicy("net2", "br1", "10.61.0.0/24")
    nics = (Nic(MAC_A, "vnet5", 5, "br0"), Nic(MAC_B, "vnet6", 6, "br1"))
    policy = Policy(networks=(NET, other), vms=(VmPolicy("a", addresses=("10.61.0.9", "10.99.0.1")),))
    compiled = compile_ports(Inventory((Vm(A, "a", 1, 1024, nics),)), policy)
    assert compiled.ports[0].addresses == ()
    assert compiled.ports[1].addresses == ("10.61.0.9", link_local(MAC_B))
    assert any("10.99.0.1 is in no network" in note for note in compiled.notes)


def test_dhcp_servers_and_modes_are_the_policys_word() -> None:
    net = NetworkPolicy("net1", "br0", trusted_dhcp_macs=(MAC_A.upper(),))
    policy = Policy(
        mode=Mode.ENFORCE, networks=(net,), vms=(VmPolicy("b", mode=Mode.MONITOR, quarantine_allows=("10.60.0.1",)),)
    )
    both = Inventory((vm(A, "a", MAC_A, 5, "10.60.0.2"), vm(B, "b", MAC_B, 6, "10.60.0.3")))
    first, second = compile_ports(both, policy).ports
    assert (first.may_serve_dhcp, second.may_serve_dhcp) == (True, False)
    assert (first.mode, second.mode) == (Mode.ENFORCE, Mode.MONITOR)
    assert second.quarantine_allows == ("10.60.0.1",)
    assert protected_networks(policy) == (net,)
    assert protected_networks(Policy(networks=(net,))) == (), "monitor mode drops nothing"


def test_frames_to_groups_are_bounded_unless_the_policy_says_by_name_that_they_are_not() -> None:
    both = Inventory((vm(A, "a", MAC_A, 5), vm(B, "b", MAC_B, 6)))
    free = VmPolicy("a", budget=Budget(broadcasts_per_s=inf))
    first, second = compile_ports(both, Policy(vms=(free,))).ports
    assert first.budget.broadcasts_per_s is None
    assert second.budget.broadcasts_per_s == BROADCASTS_PER_S
    floor = Floor(budget=Budget(broadcasts_per_s=50.0))
    first, second = compile_ports(both, Policy(vms=(free,), floor=floor)).ports
    assert first.budget.broadcasts_per_s == second.budget.broadcasts_per_s == 50.0


def test_an_enforced_nic_on_an_unnamed_bridge_is_watched_and_said_to_be_weaker() -> None:
    compiled = compile_ports(Inventory((vm(A, "a", MAC_A, 5, "10.0.0.1", bridge="virbr9"),)), Policy(mode=Mode.ENFORCE))
    assert len(compiled.ports) == 1
    assert "bridge virbr9, which the policy does not name" in compiled.notes[0]


def test_what_a_vm_may_do_besides_is_the_policys_word_by_name() -> None:
    shared = AddressPair("10.60.0.100"), AddressPair("10.60.0.101", "00:00:5e:00:01:01")
    own = VmPolicy("a", address_pairs=shared, unchecked=(ForgedKind.DHCP_SERVER, ForgedKind.IPV4))
    policy = Policy(networks=(NET,), vms=(own, VmPolicy("b", address_pairs=shared)), floor=Floor(budget=Budget(9.0)))
    both = Inventory((vm(A, "a", MAC_A, 5, "10.60.0.2"), vm(B, "b", MAC_B, 6)))
    compiled = compile_ports(both, policy)
    first, second = compiled.ports
    assert first.addresses == ("10.60.0.2", link_local(MAC_A), "10.60.0.100")
    assert second.addresses == (), "an address that others may have binds nobody"
    assert first.pairs == second.pairs == shared[1:]
    assert (first.may_serve_dhcp, second.may_serve_dhcp) == (True, False)
    assert first.unchecked == (ForgedKind.DHCP_SERVER, ForgedKind.IPV4)
    assert first.budget == second.budget == Budget(9.0, broadcasts_per_s=BROADCASTS_PER_S)
    assert any("lets it send what others may not: dhcp_server, ipv4" in note for note in compiled.notes)


def test_ports_have_a_perimeter_only_where_there_is_a_network_policy() -> None:
    both = Inventory((vm(A, "a", MAC_A, 5, "10.60.0.2"), vm(B, "b", MAC_B, 6, bridge="virbr9")))
    plain = compile_ports(both, Policy(networks=(NET,)))
    assert [(port.network, port.perimeter) for port in plain.ports] == [("net1", None), (None, None)]
    assert plain.fabric == Fabric()
    ruled = compile_ports(both, Policy(networks=(replace(NET, outside=True),)))
    assert [port.perimeter for port in ruled.ports] == ["net1/default", None]
    assert {(grant.source, grant.destination) for grant in ruled.fabric.grants} == {
        ("net1/default", "net1/default"),
        ("net1/default", "net1/*gateway"),
        ("net1/*gateway", "net1/default"),
    }


def test_a_routed_networks_addresses_are_bound_to_nics_without_a_bridge() -> None:
    routed = NetworkPolicy("far", None, "10.62.0.0/24", forwarding=Forwarding.ROUTED)
    policy = Policy(Mode.ENFORCE, (routed,), (VmPolicy("a", addresses=("10.62.0.5",)),))
    compiled = compile_ports(Inventory((vm(A, "a", MAC_A, 5, bridge=None),)), policy)
    assert compiled.ports[0].network == "far"
    assert compiled.ports[0].addresses == ("10.62.0.5", link_local(MAC_A))
    assert compiled.notes == ()


def test_the_host_routes_to_what_no_bridge_carries() -> None:
    far = NetworkPolicy("far", None, "10.63.0.0/24", forwarding=Forwarding.ROUTED, gateways=("10.63.0.1", "fd63::1"))
    two = (Nic(MAC_A, "vnet5", 5, None), Nic(MAC_B, "vnet6", 6, None), Nic(PortId("52:54:00:00:00:0c"), "v7", 7, "br0"))
    policy = Policy(networks=(NET, far), vms=(VmPolicy("a", addresses=("10.63.0.11", "10.60.0.3", "FD63::11")),))
    ports = compile_ports(Inventory((Vm(A, "a", 1, 1024, two),)), policy).ports
    gateways = ("10.63.0.1", "fd63::1")
    assert [port.routes for port in ports] == [
        HostRoutes(("10.63.0.11", "fd63::11"), gateways),
        HostRoutes((), gateways),  # an address of two NICs leads to the first
        None,
    ]


def test_the_book_names_the_other_end() -> None:
    book = AddressBook()
    assert book.owner("10.60.0.2", MAC_A) == OUTSIDE
    book.update(
        Inventory((vm(A, "a", MAC_A, 5, "10.60.0.2", "fd00::2"), vm(B, "b", MAC_B, 6))), Policy(networks=(NET,))
    )
    assert book.owner("10.60.0.2") == A
    assert book.owner("fd00:0::2", "aa:aa:aa:aa:aa:aa") == A, "routed: the address decides"
    assert book.owner("203.0.113.9", MAC_B) == B, "forged address, own MAC: the MAC decides"
    assert book.owner("203.0.113.9", "aa:aa:aa:aa:aa:aa") == OUTSIDE
    assert book.owner(MAC_B, MAC_B) == B
    book.update(Inventory(()), Policy())
    assert book.owner("10.60.0.2", MAC_A) == OUTSIDE, "a VM that ended owns nothing"


_ADDRESSES = st.sampled_from(["10.60.0.2", "10.60.0.3", "10.61.0.4", "fd00::5", "fd00::6"])
_VMS = st.builds(
    lambda number, nics: Vm(
        VmId(f"vm{number}"),
        f"v{number}",
        1,
        1024,
        tuple(Nic(PortId(f"52:54:00:00:00:{m:02x}"), f"t{i}", i, b, tuple(x)) for m, i, b, x in nics),
    ),
    st.integers(0, 4),
    st.lists(
        st.tuples(
            st.integers(1, 6),
            st.integers(1, 9),
            st.sampled_from(["br0", "br1", None]),
            st.lists(_ADDRESSES, max_size=3),
        ),
        max_size=3,
        unique_by=lambda n: n[1],
    ),
)


@given(
    st.lists(_VMS, max_size=5, unique_by=lambda v: v.vm),
    st.dictionaries(_ADDRESSES, st.integers(0, 4), max_size=3),
)
def test_no_inventory_makes_two_owners_or_an_open_port(vms: list[Vm], reserved: dict[str, int]) -> None:
    policy = Policy(
        networks=(NET,),
        vms=tuple(
            VmPolicy(f"v{n}", addresses=tuple(a for a, owner in reserved.items() if owner == n)) for n in range(5)
        ),
    )
    compiled = compile_ports(Inventory(tuple(vms)), policy)
    assert len({port.port for port in compiled.ports}) == len(compiled.ports)
    assert len({port.ifindex for port in compiled.ports}) == len(compiled.ports)
    owners: dict[str, VmId] = {}
    for port in compiled.ports:
        for address in port.addresses[:-1]:
            assert owners.setdefault(address, port.vm) == port.vm
    asked = {(one.vm, nic.ifindex) for one in vms for nic in one.nics if nic.addresses}
    for port in compiled.ports:
        if (port.vm, port.ifindex) in asked:
            assert port.addresses, "a port whose addresses are known is never left open"


# --- what DHCP gave ---
SERVER = PortId("52:54:00:00:00:0d")
SERVED = replace(NET, trusted_dhcp_macs=(SERVER.upper(),))


def leased(one: Vm, *addresses: str) -> Vm:
    return replace(one, nics=(replace(one.nics[0], leased=addresses),))


def test_a_nic_on_a_network_with_trusted_servers_may_use_what_they_give_and_nothing_else() -> None:
    inventory = Inventory((leased(vm(A, "a", MAC_A, 5), "10.60.0.9"), vm(B, "b", MAC_B, 6)))
    compiled = compile_ports(inventory, Policy(networks=(SERVED,)))
    first, second = compiled.ports
    assert first.leasing == second.leasing == Leasing((SERVER,), "10.60.0.0/24")
    assert (first.addresses, first.leases, second.leases) == ((), ("10.60.0.9",), ())
    [note] = compiled.notes
    assert note.startswith("b: vnet6 may use no address until net1's DHCP server gives it one")
    book = AddressBook()
    book.update(inventory, Policy(networks=(SERVED,)))
    assert book.owner("10.60.0.9") == A


def test_a_server_that_is_a_vm_is_not_asked_to_lease_its_own_address() -> None:
    [port] = compile_ports(Inventory((vm(A, "a", SERVER, 5),)), Policy(networks=(SERVED,))).ports
    assert (port.leasing, port.may_serve_dhcp) == (None, True)


def test_without_trusted_servers_nothing_is_learnt() -> None:
    inventory = Inventory((leased(vm(A, "a", MAC_A, 5), "10.60.0.9"),))
    [port] = compile_ports(inventory, Policy(networks=(NET,))).ports
    assert (port.leasing, port.leases) == (Leasing((), free=True), ())
    book = AddressBook()
    book.update(inventory, Policy(networks=(NET,)))
    assert book.owner("10.60.0.9") == OUTSIDE


def test_a_lease_of_anothers_address_or_of_one_outside_is_refused_with_a_sentence() -> None:
    policy = Policy(networks=(SERVED,), vms=(VmPolicy("off", addresses=("10.60.0.7",)),))
    inventory = Inventory(
        (
            leased(vm(A, "a", MAC_A, 5), "10.60.0.7", "10.60.0.8", "10.61.0.1", "10.60.0.9"),
            vm(B, "b", MAC_B, 6, "10.60.0.8"),
        )
    )
    compiled = compile_ports(inventory, policy)
    assert compiled.ports[0].leases == ("10.60.0.9",)
    assert [note.split(", and ")[0] for note in compiled.notes] == [
        "a: DHCP leased 10.60.0.7, which belongs to off (by policy)",
        "a: DHCP leased 10.60.0.8, which belongs to b",
        "a: DHCP leased 10.61.0.1, which is outside of the cidr 10.60.0.0/24",
    ]


def test_the_policys_word_of_a_nic_needs_no_lease() -> None:
    policy = Policy(networks=(SERVED,), vms=(VmPolicy("a", addresses=("10.60.0.9",)),))
    [port] = compile_ports(Inventory((leased(vm(A, "a", MAC_A, 5), "10.60.0.9"),)), policy).ports
    assert port.addresses[0] == "10.60.0.9"
    assert port.leases == ()
