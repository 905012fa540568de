"""Whose a link-local address is, and whom a question about an address reaches, on real taps."""

import json
import secrets
import struct
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from hypervigil.hypervisor.adapters.ebpf import kernel, layout
from hypervigil.hypervisor.adapters.ebpf.dataplane import DataPlane, remove_all
from hypervigil.hypervisor.adapters.ebpf.reader import DataPlaneReader
from hypervigil.model.ids import PortId, VmId
from hypervigil.model.policy import Mode
from hypervigil.model.port_policy import PortPolicy, link_local
from hypervigil.model.traffic import DenialKind, ForgedKind
from tests.integration.guestlab import Card, Guest
from tests.integration.test_dataplane import nd
from tests.integration.test_fabric import FREE, OPEN, ROUTER, VMS, World, living
from tests.integration.wirelab import Segment, Tap, arp, ethernet, icmp, icmp6, ipv6, mac_bytes, namespace, udp

pytestmark = pytest.mark.root

MACS = {name: f"52:54:00:ac:00:0{number}" for number, name in enumerate(("one", "two", "three"), start=1)}
GROUP = "33:33:00:00:00:01"
EVERYBODY = "ff:ff:ff:ff:ff:ff"
GATEWAY = "fe80::1"
ARP, V6 = 0x0806, 0x86DD
FOURS = {name: f"10.77.0.1{number}" for number, name in enumerate(MACS, start=1)}


def fresh() -> str:
    """A link-local address as a guest makes one up (RFC 7217)."""
    return str(ip_address(b"\xfe\x80" + bytes(6) + secrets.token_bytes(8)))


def solicited(target: str) -> str:
    """The MAC of the group in which whoever has the address listens."""
    return mac_bytes("33:33:ff:00:00:00")[:3].hex(":") + ":" + ip_address(target).packed[-3:].hex(":")


class Rig:
    """Three ports and an uplink that is no port, on one bridge that no network policy speaks of."""

    def __init__(self, pin_dir: Path) -> None:
        segment = Segment("br0")
        self.taps = {name: segment.tap(f"n{name}", mac) for name, mac in MACS.items()}
        self.uplink = segment.tap("uplink", ROUTER)
        for tap in (*self.taps.values(), self.uplink):
            tap.send(ethernet(tap.mac, EVERYBODY, 0x0806, arp(1, tap.mac, "0.0.0.0", "10.99.99.99")))
        self.pin_dir = pin_dir
        self.plane = DataPlane.open(pin_dir, max_ports=64)
        self.reader = DataPlaneReader(self.plane.sensor_fds())

    def bind(self, mode: Mode = Mode.ENFORCE, networks: dict[str, str] | None = None, **changes) -> None:
        """All ports anew, with no claims left."""
        for mac in MACS.values():
            self.plane.detach(PortId(mac))
        for name in MACS:
            self.attach(name, mode, network=(networks or {}).get(name), **changes)

    def attach(self, name: str, mode: Mode = Mode.ENFORCE, **changes) -> None:
        tap = self.taps[name]
        self.plane.attach(PortPolicy(PortId(tap.mac), VmId(name), tap.name, tap.ifindex, mode, **changes))

    def arrives(self, source: Tap, destination: Tap, packet: bytes, to: str | None = None) -> bool:
        destination.received()
        frame = ethernet(source.mac, to or destination.mac, V6, packet)
        source.send(frame)
        return destination.gets(frame, 0.05)

    def speaks(self, name: str, address: str, to: str = "three") -> bool:
        """Whether a datagram from this address crosses."""
        if name == to:
            to = "two"
        there = self.taps[to]
        return self.arrives(self.taps[name], there, ipv6(address, link_local(there.mac), 17, udp(5, 6)))

    def says_it_has(self, name: str, target: str) -> bool:
        """Whether its neighbour advertisement crosses."""
        here, there = self.taps[name], self.taps["three"]
        packet = ipv6(link_local(here.mac), link_local(there.mac), 58, nd(136, target, 2, here.mac))
        return self.arrives(here, there, packet)

    def forged(self, name: str, kind: ForgedKind) -> int:
        slot = self.plane.ports()[PortId(MACS[name])]
        return int(self.reader.counters()["forged"][slot][kind])

    def evicted(self, name: str) -> int:
        found = layout.Locals()
        slot = self.plane.ports()[PortId(MACS[name])]
        kernel.lookup(self.plane._maps["hv_locals"], layout.Number(slot), found)
        return int(found.evicted)


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    pin_dir = Path("/sys/fs/bpf") / f"hvn-{secrets.token_hex(4)}"
    with namespace():
        made = Rig(pin_dir)
        try:
            yield made
        finally:
            remove_all(pin_dir)
            for tap in (*made.taps.values(), made.uplink):
                tap.close()


@pytest.mark.req("T-NET-1", "A109")
@pytest.mark.parametrize("derived", [True, False], ids=["of its MAC", "made up"])
def test_anothers_link_local_address_cannot_be_used(rig: Rig, derived: bool) -> None:
    address = link_local(MACS["one"]) if derived else fresh()
    rig.bind(Mode.MONITOR)
    assert rig.speaks("one", address)
    assert rig.speaks("two", address), "the control: unprotected, anybody may be it"
    assert rig.says_it_has("two", address)
    rig.bind()
    assert rig.speaks("one", address)
    assert not rig.speaks("two", address)
    assert rig.forged("two", ForgedKind.IPV6) == 1
    assert not rig.says_it_has("two", address)
    assert rig.forged("two", ForgedKind.ND) == 1
    packet = ipv6(address, "ff02::1:ff00:1", 58, nd(135, "fe80::77", 1, MACS["two"]))
    assert not rig.arrives(rig.taps["two"], rig.taps["three"], packet, GROUP), "nor ask by it"
    assert rig.says_it_has("one", address)
    assert rig.speaks("one", address)
    assert sum(rig.forged("one", kind) for kind in ForgedKind) == 0


def test_the_address_of_ones_mac_is_there_before_its_first_frame(rig: Rig) -> None:
    rig.bind()
    assert not rig.speaks("two", link_local(MACS["one"]))
    assert rig.speaks("one", link_local(MACS["one"]))


def test_who_is_first_to_use_an_address_has_it_until_it_goes(rig: Rig) -> None:
    rig.bind(addresses=("fd77::1",))
    address = fresh()
    assert rig.says_it_has("two", address), "first to say so"
    assert not rig.speaks("one", address)
    rig.attach("two", addresses=("fd77::2",))
    assert not rig.speaks("one", address), "another policy for it changes nothing"
    rig.plane.detach(PortId(MACS["two"]))
    assert rig.speaks("one", address)
    rig.attach("two")
    assert not rig.speaks("two", address)


def test_a_port_holds_four_and_loses_the_one_it_used_longest_ago(rig: Rig) -> None:
    rig.bind()
    held = [fresh() for _ in range(4)]
    for address in held:
        assert rig.speaks("one", address)
    assert not any(rig.speaks("two", address) for address in held)
    tick = time.clock_gettime_ns(time.CLOCK_BOOTTIME) >> 30
    while time.clock_gettime_ns(time.CLOCK_BOOTTIME) >> 30 == tick:
        time.sleep(0.02)
    for address in (held[0], *held[2:]):
        assert rig.speaks("one", address), "renewed by use"
    before = rig.evicted("one")
    assert rig.speaks("one", fresh())
    assert rig.evicted("one") == before + 1
    assert [address for address in held if rig.speaks("two", address)] == [held[1]]
    assert rig.speaks("one", link_local(MACS["one"])), "that of its MAC is always its own"


def test_a_guest_that_makes_up_a_thousand_holds_four(rig: Rig) -> None:
    rig.bind()
    for _ in range(1000):
        here = rig.taps["one"]
        here.send(ethernet(here.mac, MACS["three"], V6, ipv6(fresh(), link_local(MACS["three"]), 17, udp(5, 6))))
    rig.speaks("one", fresh())
    slot = rig.plane.ports()[PortId(MACS["one"])]
    held = 0
    for key in kernel.keys(rig.plane._maps["hv_holders"], layout.LocalKey):
        holder = layout.Holder()
        kernel.lookup(rig.plane._maps["hv_holders"], key, holder)
        held += holder.slot == slot and holder.tick > 0
    assert held == layout.LOCALS
    assert rig.speaks("two", fresh()), "and there is room for others"


def test_a_gateways_address_is_nobodys_to_claim(rig: Rig) -> None:
    rig.bind()
    assert rig.speaks("two", GATEWAY), "the control: who is first has it"
    rig.bind(networks=dict.fromkeys(MACS, "net"), gateways=("10.77.0.1", GATEWAY))
    assert not rig.speaks("two", GATEWAY)
    assert not rig.says_it_has("one", GATEWAY)


def test_who_advertises_routes_from_where_no_port_is_goes_before_a_claim(rig: Rig) -> None:
    rig.bind()
    router = fresh()
    assert rig.speaks("two", router), "claimed before the router said anything"
    advertisement = ipv6(router, "ff02::1", 58, b"\x86\0\0\0" + bytes(12))
    assert rig.arrives(rig.uplink, rig.taps["one"], advertisement, GROUP)
    assert not rig.speaks("two", router)
    assert not rig.says_it_has("one", router)
    rig.bind()
    rig.attach("two", may_advertise_routes=True)
    assert rig.speaks("two", router), "a VM that is a router itself"


def test_networks_do_not_know_each_others_addresses(rig: Rig) -> None:
    rig.bind(networks={"one": "left", "two": "right", "three": "left"})
    address = fresh()
    assert rig.speaks("one", address)
    assert rig.speaks("two", address)
    assert not rig.speaks("three", address)


def test_an_address_that_the_policy_names_and_a_named_exception(rig: Rig) -> None:
    rig.bind()
    rig.attach("one", addresses=(GATEWAY,))
    assert rig.speaks("one", GATEWAY)
    assert not rig.speaks("two", GATEWAY)
    rig.attach("two", unchecked=(ForgedKind.IPV6, ForgedKind.ND))
    assert rig.speaks("two", GATEWAY)
    assert rig.says_it_has("two", link_local(MACS["one"]))


def test_who_asks_whether_an_address_is_free_has_it_if_it_is(rig: Rig) -> None:
    """Duplicate address detection takes an address as much as speaking from it does: another's cannot be asked for."""
    taken, free = fresh(), fresh()

    def asks(address: str) -> bool:
        probe = ipv6("::", "ff02::1:ff00:1", 58, nd(135, address, 14, MACS["two"]))
        return rig.arrives(rig.taps["two"], rig.taps["one"], probe, solicited(address))

    rig.bind(Mode.MONITOR)
    assert rig.speaks("one", taken)
    assert asks(taken), "the control: who is about to take its address is told off it"
    rig.bind()
    before = rig.forged("two", ForgedKind.IPV6)
    assert rig.speaks("one", taken)
    assert asks(free)
    assert not asks(taken)
    assert rig.forged("two", ForgedKind.IPV6) == before + 1
    assert rig.says_it_has("one", taken)
    assert not rig.speaks("two", taken)
    assert not rig.says_it_has("one", free)
    assert rig.speaks("two", free)


def probe(tap: Tap, address: str) -> bytes:
    """Who asks for an address by none: whether it is free (RFC 5227)."""
    return ethernet(tap.mac, EVERYBODY, ARP, arp(1, tap.mac, "0.0.0.0", address))


def finds_free(rig: Rig, name: str, address: str, meanwhile: Callable[[], None]) -> bool:
    """Whether a host that detects conflicts as RFC 5227 (2.1.1) says may take its address."""
    here, wanted = rig.taps[name], ip_address(address).packed
    here.received()
    here.send(probe(here, address))
    meanwhile()
    for frame in here.received(0.05):
        if frame[12:14] == ARP.to_bytes(2, "big"):
            operation, sender_mac, sender, target = struct.unpack("!20xH6s4s6x4s", frame[:42])
            probed = operation == 1 and not any(sender) and target == wanted and sender_mac != mac_bytes(here.mac)
            if sender == wanted or probed:
                return False
    return True


def bind_fours(rig: Rig, mode: Mode = Mode.ENFORCE) -> None:
    rig.bind(mode)
    for name, address in FOURS.items():
        rig.attach(name, mode, addresses=(address,))


@pytest.mark.req("T-NET-1", "A109")
@pytest.mark.parametrize("to", [EVERYBODY, MACS["one"]], ids=["to everybody", "to it alone"])
def test_nobody_is_kept_from_its_address_by_anothers_probe(rig: Rig, to: str) -> None:
    two = rig.taps["two"]
    forged = ethernet(two.mac, to, ARP, arp(1, two.mac, "0.0.0.0", FOURS["one"]))
    bind_fours(rig, Mode.MONITOR)
    assert finds_free(rig, "one", FOURS["one"], lambda: None)
    assert not finds_free(rig, "one", FOURS["one"], lambda: two.send(forged)), "the control: it gives its address up"
    bind_fours(rig)
    before = rig.forged("two", ForgedKind.IPV4)
    assert finds_free(rig, "one", FOURS["one"], lambda: two.send(forged))
    assert rig.forged("two", ForgedKind.IPV4) == before + 1
    answer = ethernet(rig.uplink.mac, MACS["one"], ARP, arp(2, rig.uplink.mac, FOURS["one"], FOURS["one"]))
    assert not finds_free(rig, "one", FOURS["one"], lambda: rig.uplink.send(answer)), "who has it really says so"


def test_who_asks_for_its_own_address_or_has_none_yet_is_heard(rig: Rig) -> None:
    """A guest whose addresses are not known may turn out to have any."""
    one, three = rig.taps["one"], rig.taps["three"]

    def heard(address: str) -> bool:
        three.received()
        one.send(probe(one, address))
        return three.gets(probe(one, address), 0.05)

    bind_fours(rig)
    before = rig.forged("one", ForgedKind.IPV4)
    assert heard(FOURS["one"])
    assert rig.forged("one", ForgedKind.IPV4) == before
    assert not heard("10.77.0.99"), "nobody's, and not its own either: free as far as it can tell"
    rig.attach("one", unchecked=(ForgedKind.IPV4,), addresses=(FOURS["one"],))
    assert heard("10.77.0.99"), "a named exception"
    rig.attach("one")
    assert heard("10.77.0.99")


@pytest.mark.req("T-NET-1", "A109")
def test_a_linux_guest_is_not_kept_from_its_ipv6_address(rig: Rig) -> None:
    address, two = "fd77::1", rig.taps["two"]
    claim = ipv6(*icmp6("::", "ff02::1:ff00:1", nd(135, address, 14, two.mac)))
    guest = Guest("dad", Card("52:54:00:ac:00:09", (), ()), "br0")

    def keeps() -> bool:
        """Whether its kernel has the address in the end, while its neighbour asks for it again and again."""
        added = guest.run("ip", "-6", "address", "add", f"{address}/64", "dev", "eth0")
        assert added.returncode == 0, added.stderr
        while (found := state()).get("tentative") and not found.get("dadfailed"):
            two.send(ethernet(two.mac, solicited(address), V6, claim))
            time.sleep(0.02)
        guest.run("ip", "-6", "address", "delete", f"{address}/64", "dev", "eth0")
        return not found.get("dadfailed")

    def state() -> dict[str, object]:
        listed = json.loads(guest.run("ip", "-6", "-j", "address", "show", "dev", "eth0").stdout)
        return next(one for one in listed[0]["addr_info"] if one["local"] == address)

    try:
        guest.run("sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/eth0/accept_dad")
        policy = PortPolicy(PortId(guest.card.mac), VmId("dad"), guest.tap.name, guest.tap.ifindex, Mode.ENFORCE)
        rig.bind(Mode.MONITOR, addresses=("fd77::2",))
        rig.plane.attach(policy)
        assert not keeps(), "the control: its kernel gives the address up"
        rig.attach("two", addresses=("fd77::2",))
        assert keeps()
    finally:
        rig.plane.detach(PortId(guest.card.mac))
        guest.close()


def test_what_is_held_outlives_the_process_and_is_repaired(rig: Rig) -> None:
    rig.bind()
    address = fresh()
    assert rig.speaks("one", address)
    rig.plane.close()
    rig.plane = DataPlane.open(rig.pin_dir)
    for name in MACS:
        rig.attach(name)
    assert not rig.speaks("two", address)
    assert rig.plane.drift() == []
    slot = rig.plane.ports()[PortId(MACS["one"])]
    own = layout.LocalKey(0, layout.Address.from_buffer_copy(layout.pack_address(link_local(MACS["one"]))))
    kernel.update(rig.plane._maps["hv_holders"], own, layout.Holder(slot + 1, 5))
    [drift] = rig.plane.drift()
    assert drift.what == "its addresses were changed"
    rig.plane.repair(drift.port)
    assert rig.plane.drift() == []
    for mac in MACS.values():
        rig.plane.detach(PortId(mac))
    assert list(kernel.keys(rig.plane._maps["hv_holders"], layout.LocalKey)) == [], "nothing is left of a port"


# --- questions ---------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with living() as made:
        yield made


def asked(world: World, source: str, target: str) -> set[str]:
    """Whose guests see a question by this VM about an address, asked as guests do."""
    here = world.taps[source]
    if ip_address(target).version == 4:
        question = ethernet(here.mac, EVERYBODY, 0x0806, arp(1, here.mac, VMS[source][1], target))
    else:
        packet = ipv6(VMS[source][2], "ff02::1:ff00:1", 58, nd(135, target, 1, here.mac))
        question = ethernet(here.mac, solicited(target), V6, packet)
    world.drain()
    here.send(question)
    return {name for name, tap in world.taps.items() if world.seen(tap, question, 0.03)}


@pytest.mark.req("T-NET-1")
@pytest.mark.parametrize("version", [4, 6])
def test_a_question_reaches_only_who_has_the_address(world: World, version: int) -> None:
    world.put(FREE)
    target = VMS["blue-2"][1 if version == 4 else 2]
    assert asked(world, "blue-1", target) == {"blue-2", "red-1"}, "the control: the bridge floods it"
    world.put(OPEN)
    assert asked(world, "blue-1", target) == {"blue-2"}
    unknown = "10.61.0.99" if version == 4 else "fd61::99"
    before = world.crossings("red-1").denied[1][DenialKind.FLOODED]
    assert asked(world, "blue-1", unknown) == set()
    assert world.crossings("red-1").denied[1][DenialKind.FLOODED] == before + 1


@pytest.mark.req("T-NET-1")
def test_a_question_about_a_link_local_address_reaches_its_holder(world: World) -> None:
    world.put(OPEN)
    assert asked(world, "blue-1", link_local(world.mac("red-1"))) == {"red-1"}
    made_up = fresh()
    assert asked(world, "blue-1", made_up) == {"blue-2", "red-1"}, "nobody is known to have it yet"
    holder = world.taps["red-1"]
    answer = ipv6(made_up, VMS["blue-1"][2], 58, nd(136, made_up, 2, holder.mac))
    holder.send(ethernet(holder.mac, world.mac("blue-1"), V6, answer))
    assert world.seen(world.taps["blue-1"], answer, 0.05)
    assert asked(world, "blue-1", made_up) == {"red-1"}
    probe = ipv6("::", "ff02::1:ff00:1", 58, nd(135, fresh(), 14, world.mac("blue-1")))
    world.drain()
    world.taps["blue-1"].send(ethernet(world.mac("blue-1"), GROUP, V6, probe))
    assert not world.seen(world.taps["red-1"], probe, 0.05), "who cannot hear it cannot spoil it"


@pytest.mark.req("T-NET-1")
def test_a_question_to_routers_reaches_no_vm(world: World) -> None:
    question = ipv6(VMS["blue-1"][2], "ff02::2", 58, icmp(133)[:8])
    for text, reaches in ((FREE, True), (OPEN, False)):
        world.put(text)
        world.drain()
        world.taps["blue-1"].send(ethernet(world.mac("blue-1"), "33:33:00:00:00:02", V6, question))
        assert world.seen(world.taps["red-1"], question, 0.05) is reaches
