"""Corners of the network policy that the comparison with the model found: now both are right."""

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from hypervigil.hypervisor.adapters.ebpf import kernel, layout
from hypervigil.hypervisor.adapters.ebpf.dataplane import DataPlane, remove_all
from hypervigil.hypervisor.reference.fabric import Fabric
from hypervigil.hypervisor.reference.frame import read
from hypervigil.hypervisor.reference.plane import ReferencePlane
from hypervigil.model.ids import PerimeterId, PortId, VmId
from hypervigil.model.network import AddressPair
from hypervigil.model.policy import Mode
from hypervigil.model.port_policy import AddressRange, FabricChange, Grant, PortPolicy
from hypervigil.model.services import COMPANIONS, parse
from hypervigil.model.traffic import Direction
from hypervigil.network.compile import OUTSIDE
from tests.integration.mass import DROP, PORTS, Scene
from tests.integration.mass_policies import ROUTER, SHARED_MAC, Device, devices
from tests.integration.testrun import Runner
from tests.integration.wirelab import Tap, announcement, arp, ethernet, ipv4, ipv6, namespace, tcp, udp

pytestmark = pytest.mark.root

A, B, C, ELSEWHERE = (PerimeterId(name) for name in ("n1/a", "n1/b", "n1/c", "n2/d"))
SHARED4, GROUP = "10.61.0.100", "01:00:5e:00:00:fb"
EVERYWHERE = PerimeterId("*outside/::/0")


class Both:
    """The kernel's data plane and the model, given the same orders and the same frames."""

    def __init__(self, plane: DataPlane, nics: tuple[Device, ...], uplink: int) -> None:
        self.plane = plane
        self.nics = nics
        self.uplink = uplink
        self.model = ReferencePlane(max_ports=PORTS, fabric=Fabric())
        self._runners = [Runner(plane._programs[name]) for name in ("hv_from_vm", "hv_to_vm")]

    def bind(self, nic: int, perimeter: PerimeterId, network: str = "n1", **more: object) -> None:
        one = self.nics[nic]
        policy = PortPolicy(
            PortId(one.mac),
            VmId(one.vm),
            one.name,
            one.ifindex,
            Mode.ENFORCE,
            **{"addresses": (one.v4, one.v6), "network": network, "perimeter": perimeter, **more},  # type: ignore[arg-type]
        )
        self.model.attach(policy, self.plane.attach(policy))

    def release(self, nic: int) -> None:
        for plane in (self.plane, self.model):
            plane.detach(PortId(self.nics[nic].mac))

    def change(self, *grants: tuple[PerimeterId, PerimeterId, str], **more: object) -> None:
        found = tuple(Grant(one, other, parse(text) | COMPANIONS) for one, other, text in grants)
        for plane in (self.plane, self.model):
            plane.change_fabric(FabricChange(found, **more))  # type: ignore[arg-type]

    def passes(self, direction: Direction, nic: int, frame: bytes, ingress: int = 0) -> bool:
        ifindex = self.nics[nic].ifindex
        returned, _ = self._runners[direction].run(frame, ifindex, ingress=ingress)
        fate = self.model.take(ifindex, direction, read(frame, len(frame), ingress=ingress), 10**12)
        assert fate.passes == (returned != DROP), f"the program returns {returned}, the model {fate}"
        return fate.passes


@pytest.fixture(scope="module")
def both_() -> Iterator[tuple[Scene, Both]]:
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cpus)})
    pin_dir = Path("/sys/fs/bpf") / f"hvc-{secrets.token_hex(4)}"
    with namespace():
        taps = [Tap(f"t{n}", f"52:54:00:00:01:{n:02x}") for n in range(4)]
        plane = DataPlane.open(pin_dir, max_ports=PORTS)
        nics = devices([(tap.name, tap.ifindex) for tap in taps[:3]])
        scene = Scene(plane, nics, taps[3].ifindex)
        try:
            yield scene, Both(plane, nics, taps[3].ifindex)
        finally:
            scene.reader.close()
            plane.close()
            remove_all(pin_dir)
            for tap in taps:
                tap.close()
            os.sched_setaffinity(0, cpus)


@pytest.fixture
def both(both_: tuple[Scene, Both]) -> Both:
    scene, made = both_
    scene.clear()
    return Both(made.plane, made.nics, made.uplink)


def test_a_group_hears_no_more_when_the_last_grant_for_it_is_gone(both: Both) -> None:
    """In place: only one VM moves, away from the perimeter that the service was granted at."""
    both.bind(0, A)
    both.bind(1, B)
    both.change((A, B, "udp/5353"), (C, A, "tcp/22"))
    one = both.nics[0]
    frame = ethernet(one.mac, GROUP, 0x0800, ipv4(one.v4, "224.0.0.251", 17, udp(5353, 5353)))
    assert both.passes(Direction.OUT, 0, frame)
    both.bind(1, C)
    bank = both.plane._fabric._bank.index
    both.change(gone=((A, B),))
    assert both.plane._fabric._bank.index == bank, "it was done in place"
    assert not both.passes(Direction.OUT, 0, frame)


def test_a_mac_of_two_stays_when_one_of_them_goes(both: Both) -> None:
    shared = (AddressPair(SHARED4, SHARED_MAC),)
    both.bind(0, A, pairs=shared)
    both.bind(1, A, pairs=shared)
    both.bind(2, B)
    both.change((B, A, "tcp/80"))
    one = both.nics[2]
    frame = ethernet(one.mac, SHARED_MAC, 0x0800, ipv4(one.v4, SHARED4, 6, tcp(40000, 80, 2)))
    assert both.passes(Direction.OUT, 2, frame)
    both.release(1)
    both.change()
    assert both.passes(Direction.OUT, 2, frame)


def test_an_address_of_two_is_nobodys_as_soon_as_they_are_kept_apart(both: Both) -> None:
    for nic in (0, 1):
        both.bind(nic, A, addresses=(both.nics[nic].v4, SHARED4))
    both.bind(2, ELSEWHERE, "n2")
    both.change((ELSEWHERE, A, "tcp/80"))
    one = both.nics[2]
    frame = ethernet(one.mac, ROUTER, 0x0800, ipv4(one.v4, SHARED4, 6, tcp(40000, 80, 2)))
    assert both.passes(Direction.OUT, 2, frame)
    both.bind(1, B, addresses=(both.nics[1].v4, SHARED4))
    both.change()
    assert not both.passes(Direction.OUT, 2, frame), "it may be the other's, who grants nothing"
    both.bind(1, A, addresses=(both.nics[1].v4, SHARED4))
    both.change()
    assert both.passes(Direction.OUT, 2, frame)


def test_a_range_of_ipv6_holds_no_address_of_ipv4(both: Both) -> None:
    both.bind(0, A)
    both.change((A, EVERYWHERE, "tcp/80"), addresses=(AddressRange("::/0", EVERYWHERE),))
    one, syn = both.nics[0], tcp(40000, 80, 2)
    assert both.passes(Direction.OUT, 0, ethernet(one.mac, ROUTER, 0x86DD, ipv6(one.v6, "2001:db8::1", 6, syn)))
    assert not both.passes(Direction.OUT, 0, ethernet(one.mac, ROUTER, 0x0800, ipv4(one.v4, "203.0.113.5", 6, syn)))


def test_a_gateways_address_is_the_gateways_also_where_a_rule_names_it_as_a_range(both: Both) -> None:
    gateway, named = PerimeterId("n1/*gateway"), PerimeterId("*outside/10.61.0.1/32")
    both.bind(0, A)
    ranges = (AddressRange("10.61.0.1/32", gateway), AddressRange("10.61.0.1/32", named))
    both.change((A, gateway, "tcp/80"), (A, named, "tcp/22"), addresses=ranges)
    one = both.nics[0]
    for port, allowed in ((80, True), (22, False)):
        syn = ipv4(one.v4, "10.61.0.1", 6, tcp(40000, port, 2))
        assert both.passes(Direction.OUT, 0, ethernet(one.mac, ROUTER, 0x0800, syn)) == allowed


def test_arp_answers_no_conversation(both: Both) -> None:
    """What was begun with IPv4's protocol 0 has ARP's numbers; a denial that takes ARP away holds all the same."""
    both.bind(0, A)
    for plane in (both.plane, both.model):
        plane.change_fabric(FabricChange((Grant(A, OUTSIDE, parse("ip/0")),)))
    one = both.nics[0]
    assert both.passes(Direction.OUT, 0, ethernet(one.mac, ROUTER, 0x0800, ipv4(one.v4, "203.0.113.5", 0, bytes(8))))
    assert both.passes(
        Direction.IN, 0, ethernet(ROUTER, one.mac, 0x0800, ipv4("203.0.113.5", one.v4, 0, bytes(8))), both.uplink
    ), "that is an answer"
    reply = ethernet(ROUTER, one.mac, 0x0806, arp(2, ROUTER, "203.0.113.5", one.v4))
    assert not both.passes(Direction.IN, 0, reply, both.uplink)


def test_a_frame_without_addresses_is_no_vms_on_another_network(both: Both) -> None:
    """Its MAC is taken for its address, and this one looks like that of IPv4."""
    both.bind(0, A)
    both.bind(1, ELSEWHERE, "n2", addresses=("10.62.0.5",))
    both.change((ELSEWHERE, A, "any"))
    frame = ethernet("ff:ff:0a:3e:00:05", both.nics[0].mac, 0x88B5, bytes(46))
    assert not both.passes(Direction.IN, 0, frame, both.uplink)


def test_what_tells_switches_where_a_vm_is_reaches_no_guest(both: Both) -> None:
    both.bind(0, A)
    both.bind(1, C)
    both.change((A, C, "tcp/80"))
    came = ethernet(both.nics[0].mac, "ff:ff:ff:ff:ff:ff", 0x8035, announcement(both.nics[0].mac))
    assert both.passes(Direction.OUT, 0, came)
    assert not both.passes(Direction.IN, 1, came, both.nics[0].ifindex)
    elsewhere = ethernet(ROUTER, "ff:ff:ff:ff:ff:ff", 0x8035, announcement(ROUTER))
    assert not both.passes(Direction.IN, 1, elsewhere, both.uplink), "nor does that of a VM on another host"


def test_a_vm_on_another_host_is_known_by_its_address_and_what_it_may_is_swapped_at_once(both: Both) -> None:
    there = (AddressRange("10.61.0.77/32", C), AddressRange("fd61::77/128", C))
    both.bind(0, A)
    both.change((C, A, "tcp/80"), addresses=there)
    one = both.nics[0]

    def begins(source: str, port: int) -> bool:
        packet = (ipv6 if ":" in source else ipv4)(source, one.v6 if ":" in source else one.v4, 6, tcp(40000, port, 2))
        frame = ethernet(ROUTER, one.mac, 0x86DD if ":" in source else 0x0800, packet)
        return both.passes(Direction.IN, 0, frame, both.uplink)

    assert begins("10.61.0.77", 80)
    assert begins("fd61::77", 80)
    assert not begins("10.61.0.77", 81)
    assert not begins("10.61.0.78", 80), "that one is nobody's"
    bank = both.plane._fabric._bank.index
    both.change((C, A, "tcp/81"))
    assert both.plane._fabric._bank.index != bank, "somebody may be there, so no change in place"
    assert begins("10.61.0.77", 81)
    bank = both.plane._fabric._bank.index
    both.change(addresses=(there[0], AddressRange("10.61.0.79/32", C)))
    assert both.plane._fabric._bank.index == bank, "VMs that come and go are written one by one"
    assert [begins(f"10.61.0.{n}", 81) for n in (77, 78, 79)] == [True, False, True]
    assert not begins("fd61::77", 81)
    both.change(addresses=(there[0], AddressRange("10.61.0.0/24", A)))
    assert both.plane._fabric._bank.index != bank, "a range holds who is not told of one by one"
    assert [begins(f"10.61.0.{n}", 81) for n in (77, 79)] == [True, False]


def test_who_is_on_its_way_is_found_where_it_still_runs(both: Both) -> None:
    """Its tap is here for all the time that its memory comes."""
    both.bind(0, A)
    both.bind(1, C, migrating=True)
    one, coming = both.nics[:2]
    both.change((A, C, "tcp/80"), (C, A, "tcp/80"), addresses=(AddressRange(f"{coming.v4}/32", C),))
    to = ethernet(one.mac, coming.mac, 0x0800, ipv4(one.v4, coming.v4, 6, tcp(40000, 80, 2)))
    came = ethernet(coming.mac, one.mac, 0x0800, ipv4(coming.v4, one.v4, 6, tcp(40000, 80, 2)))
    fate = both.model.take(one.ifindex, Direction.OUT, read(to, len(to)), 10**12)
    assert (fate.passes, fate.device) == (True, 0), "by the bridge, and not to the tap here"
    assert both.passes(Direction.OUT, 0, to)
    assert both.passes(Direction.IN, 0, came, both.uplink)
    both.bind(1, C)
    both.change(addresses=())
    assert not both.passes(Direction.IN, 0, came, both.uplink), "now it is here, and nobody else may be it"
    assert both.passes(Direction.IN, 0, came, coming.ifindex)
    assert both.model.take(one.ifindex, Direction.OUT, read(to, len(to)), 10**12).device == coming.ifindex


def test_an_address_that_somebody_deletes_is_missed_and_put_back(both: Both) -> None:
    both.bind(0, A)
    both.change((C, A, "tcp/80"), addresses=(AddressRange("10.61.0.77/32", C),))
    fabric = both.plane._fabric
    assert not fabric.drifted()
    key = layout.RangeKey.from_buffer_copy(next(iter(fabric._bank.ranges)))
    kernel.delete(fabric._maps["hv_ranges"], key)
    assert fabric.drifted()
    fabric.repair()
    assert not fabric.drifted()


def test_changes_in_place_never_use_up_the_sets_of_services(both: Both) -> None:
    both.bind(0, A)
    one = both.nics[0]
    both.change((A, OUTSIDE, "udp/53"))
    banks = set()
    for port in range(1, 1200):
        both.change((A, C, f"tcp/{port}"))
        banks.add(both.plane._fabric._bank.index)
    assert len(banks) == 2, "the banks were swapped in between, which makes room"
    both.bind(1, C)
    both.change()
    other = both.nics[1]
    for port in (1198, 1199):
        syn = ipv4(one.v4, other.v4, 6, tcp(40000, port, 2))
        assert both.passes(Direction.OUT, 0, ethernet(one.mac, other.mac, 0x0800, syn)) == (port == 1199)
