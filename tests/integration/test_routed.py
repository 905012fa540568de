"""Routed VMs for real: guests with stacks of their own behind taps that no bridge carries, an enforcer's process."""

import itertools
import json
import os
import secrets
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from hypervigil.hypervisor.adapters.ebpf import kernel, layout
from hypervigil.model.ids import PortId
from hypervigil.model.limits import LimitKind
from hypervigil.model.services import service
from hypervigil.model.traffic import Direction, ForgedKind, TrafficClass
from hypervigil.model.vm import Inventory
from hypervigil.network.decide import decide
from hypervigil.network.ends import members
from hypervigil.wire.messages import Repaired
from tests.integration.enforcing import awaited, enforcer, now
from tests.integration.guestlab import (
    ADDRESSES,
    BRIDGES,
    GATEWAYS,
    Card,
    Guest,
    Host,
    Target,
    machine_entry,
    network_entry,
)
from tests.integration.percpu import T, summed
from tests.integration.wirelab import Segment, Tap, ethernet, ipv4, mac_of, namespace, run, udp

pytestmark = pytest.mark.root

WITHIN_S = 2.0
LENGTHS = {
    "far-1": (32, 128),
    "far-2": (24, 128),  # a guest that was not told, and takes the whole network for its segment
    "flat-1": (24, 64),
    "side-1": (24, 64),
}
POLICY = (
    'mode = "enforce"\n'
    + "".join(machine_entry(name) for name in ADDRESSES)
    + network_entry("far", 'cidr = "10.73.0.0/24"', 'between = "isolated"', 'reaches = ["flat"]', "uplinks = []")
    + network_entry("flat", 'reaches = ["far"]')
    + network_entry("side")
    + """
[[path]]
name = "one to two"
from = "vm:far-1"
to = "vm:far-2"
services = ["tcp/443", "udp/53"]

[[path]]
name = "flat to far"
from = "vm:flat-1"
to = "vm:far-1"
services = ["tcp/443", "udp/53"]

[[path]]
name = "far to flat"
from = "vm:far-2"
to = "vm:flat-1"
services = "tcp/22"

[[path]]
name = "side wants too"
from = "vm:side-1"
to = "vm:far-1"
services = "any"
"""
)
SERVICES = [("tcp", 22), ("tcp", 443), ("udp", 53), ("udp", 54)]


class World:
    def __init__(self, host: Host) -> None:
        self.host = host
        for setting in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            Path("/proc/sys/net", setting).write_text("1", encoding="ascii")
        Path("/proc/sys/net/ipv6/conf/default/accept_dad").write_text("0", encoding="ascii")  # nothing to wait for
        for network, bridge in BRIDGES.items():
            Segment(bridge)
            run("ip", "address", "add", f"{GATEWAYS[network][0]}/24", "dev", bridge)
            run("ip", "address", "add", f"{GATEWAYS[network][1]}/64", "dev", bridge, "nodad")
        self.guests = {}
        for number, (name, pair) in enumerate(ADDRESSES.items(), start=1):
            network = name.partition("-")[0]
            own = tuple(f"{address}/{length}" for address, length in zip(pair, LENGTHS[name], strict=True))
            card = Card(f"52:54:00:73:00:{number:02x}", own, GATEWAYS[network])
            self.guests[name] = Guest(name, card, BRIDGES.get(network))
        self.host_state = self.state()

    @staticmethod
    def state() -> dict[str, str]:
        """Routes, addresses, tables and settings of the host."""
        found = {
            **dict.fromkeys(run("ip", "-o", "route", "show", "table", "all").splitlines(), "a route"),
            **dict.fromkeys(run("ip", "-6", "-o", "route", "show", "table", "all").splitlines(), "a route"),
            "tables": run("nft", "list", "ruleset"),
        }
        for device in json.loads(run("ip", "-j", "address")):
            found[device["ifname"]] = str([(one["local"], one["prefixlen"]) for one in device["addr_info"]])
        for kind in ("ipv4/conf", "ipv6/conf", "ipv4/neigh"):
            for setting in Path("/proc/sys/net", kind).glob("*/*"):
                with suppress(OSError):
                    found[str(setting)] = setting.read_text(encoding="ascii")
        return found

    def put(self, text: str = POLICY) -> None:
        self.host.put(text, [guest.vm() for guest in self.guests.values()])

    def reached(self, source: str) -> dict[tuple[str, str, int, str], bool]:
        """What this guest gets an answer of, from every other; a closed port's refusal is one."""
        targets: dict[Target, tuple[str, str, int, str]] = {}
        for name, (kind, port) in itertools.product(ADDRESSES, SERVICES):
            for address in ADDRESSES[name] if name != source else ():
                targets[kind, address, port] = (name, kind, port, address)
        found = self.guests[source].scan(list(targets))
        return {cell: target in found for target, cell in targets.items()}

    def expected(self, source: str) -> dict[tuple[str, str, int, str], bool]:
        everybody = {one.vm: one for one in members(self.host.policy, Inventory(tuple(self.vms())))}
        found = {}
        for name, (kind, port) in itertools.product(ADDRESSES, SERVICES):
            for address in ADDRESSES[name] if name != source else ():
                one = service(6 if kind == "tcp" else 17, port)
                wanted = decide(self.host.policy, everybody[source], everybody[name], one).allowed
                found[name, kind, port, address] = wanted
        return found

    def vms(self) -> list:
        return [guest.vm() for guest in self.guests.values()]

    def answers(self, source: str = "far-1", destination: str = "far-2", version: int = 4, port: int = 443) -> bool:
        target = ("tcp", ADDRESSES[destination][0 if version == 4 else 1], port)
        return bool(self.guests[source].scan([target], 0.3))

    @staticmethod
    def firewall() -> Counter[str]:
        """What the host's firewall counted."""
        listed = json.loads(run("nft", "-j", "list", "counters", "table", "inet", "hypervigil"))["nftables"]
        return Counter({one["counter"]["name"]: one["counter"]["packets"] for one in listed if "counter" in one})

    def values(self, name: str, table: str, kind: type[T]) -> T:
        """What a guest's port counted, over all CPUs."""
        with closing(self.host.driver.kernel()) as plane:
            return summed(plane._maps[table], plane.ports()[PortId(self.guests[name].card.mac)], kind)

    def counted(self, name: str, other: str) -> Counter[str]:
        """What each layer counted so far: at the sender's and the receiver's port, and of the host as a router."""
        found = self.firewall()
        crossed = self.values(name, "hv_crossings", layout.Crossings)
        here, there = (self.values(one, "hv_counters", layout.Counters) for one in (name, other))
        found["sent"] = sum(here.by_class[Direction.OUT][kind].packets for kind in UDP)
        found["forged"] = here.forged[ForgedKind.IPV4]
        found["received"] = sum(there.by_class[Direction.IN][kind].packets for kind in UDP)
        found["admitted"] = crossed.flows
        found["denied"] = crossed.denied[Direction.OUT][1]
        names, values = (line.split() for line in Path("/proc/net/snmp").read_text("ascii").splitlines()[:2])
        found["routed"] = int(values[names.index("ForwDatagrams")])
        return found

    def send(self, name: str, other: str, port: int, source: str | None = None) -> None:
        """One packet of IPv4 and UDP, as the guest's kernel would send it to its gateway."""
        guest = self.guests[name]
        to = mac_of(guest.bridge or guest.tap.name)
        packet = ipv4(source or ADDRESSES[name][0], ADDRESSES[other][0], 17, udp(next(PORTS), port))
        guest.tap.send(ethernet(guest.card.mac, to, 0x0800, packet))


UDP = (TrafficClass.UDP, TrafficClass.DNS)
PORTS = itertools.count(20000)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with namespace(ipv6=True), enforcer() as driver:
        made = World(Host(driver))
        try:
            yield made
        finally:
            for guest in made.guests.values():
                guest.close()


@pytest.mark.req("T-NET-2", "A32")
def test_routed_guests_reach_what_the_policy_says(world: World) -> None:
    settings = [f"ipv4/conf/{world.guests[name].tap.name}/proxy_arp" for name in ("far-1", "far-2")]
    for name in ("far-1", "far-2"):
        tap = world.guests[name].tap.name
        for own, guest in zip(GATEWAYS["far"], ADDRESSES[name], strict=True):
            run("ip", "address", "add", own, "dev", tap, *(["nodad"] if ":" in own else []))
            run("ip", "route", "add", guest, "dev", tap)
    for setting in settings:
        Path("/proc/sys/net", setting).write_text("1", encoding="ascii")
    for source in ADDRESSES:
        assert all(world.reached(source).values()), "the control: set up by hand, everybody reaches everybody"
    for name in ("far-1", "far-2"):
        tap = world.guests[name].tap.name
        for own, guest in zip(GATEWAYS["far"], ADDRESSES[name], strict=True):
            run("ip", "route", "delete", guest, "dev", tap)
            run("ip", "address", "delete", own, "dev", tap)
    for setting in settings:
        Path("/proc/sys/net", setting).write_text("0", encoding="ascii")
    assert not world.answers(), "nothing of that is left"
    world.put()
    for source in ADDRESSES:
        wanted = world.expected(source)
        found = world.reached(source)
        assert {cell: found[cell] for cell in found if found[cell] != wanted[cell]} == {}, source
    assert any(world.expected("far-1").values())
    assert any(world.expected("flat-1").values())
    assert not any(world.expected("side-1").values()), "its network does not reach the other"


def is_back(world: World, break_it: Callable[[], object], closed: Callable[[], bool], what: str) -> None:
    """With nobody looking it is closed; as soon as the enforcer goes on, it is told and put right in time."""
    with world.host.nobody_looks():
        break_it()
        assert closed()
    began = now()
    told = world.host.driver.notice(lambda n: isinstance(n, Repaired) and what in n.detail, 5)
    assert isinstance(told, Repaired)
    assert told.ok, told.detail
    assert told.at - began <= WITHIN_S
    awaited("what was allowed", lambda: world.answers() and world.answers(version=6), WITHIN_S)


@pytest.mark.req("T-NET-3", "A33")
@pytest.mark.parametrize(("name", "other"), [("flat-1", "far-1"), ("far-1", "far-2")])
def test_a_packet_between_groups_meets_every_layer_in_order(world: World, name: str, other: str) -> None:
    world.put()
    assert world.answers(name, other), "and both know each other's MAC now"

    def meets(port: int, source: str | None = None, *, counts: dict[str, int]) -> None:
        before = world.counted(name, other)
        world.send(name, other, port, source)

        def said() -> dict[str, int]:
            after = world.counted(name, other)
            after.subtract(before)
            # Others' packets cross as well, such as guests' questions for routers.
            after["crossed"] = min(after["crossed"], counts.get("crossed", 0))
            return {key: value for key, value in after.items() if value}

        awaited(f"{counts}, not {said()}", lambda: said() == counts, 2)

    # The shared network does not take it from who is no member under this address.
    meets(53, "10.71.0.99", counts={"sent": 1, "forged": 1})
    # The firewall denies what no path allows.
    meets(54, counts={"sent": 1, "denied": 1})
    # Routing carries what both let pass: the packet, and the word that nobody listens at that port.
    crossed = 1 if name == "flat-1" else 2
    meets(53, counts={"sent": 1, "admitted": 1, "routed": 2, "crossed": crossed, "received": 1})


@pytest.mark.req("T-NET-3")
def test_what_routing_alone_denies_ends_at_its_port(world: World) -> None:
    world.put()
    before = world.counted("side-1", "far-1")
    world.send("side-1", "far-1", 53)
    after = world.counted("side-1", "far-1")
    after.subtract(before)
    del after["crossed"]  # others' packets cross as well
    assert {key: value for key, value in after.items() if value} == {"sent": 1, "denied": 1}
    world.put(POLICY.replace('gateways = ["10.72.0.1", "fd72::1"]', 'gateways = ["10.72.0.1"]\nreaches = ["far"]'))
    assert world.answers("side-1", "far-1"), "the control: with a way there, the path holds"
    world.put()
    assert not world.answers("side-1", "far-1")


@pytest.mark.req("T-NET-3", "T-CORE-4")
@pytest.mark.parametrize("version", [4, 6])
def test_a_routed_vm_can_ask_for_proof_of_source(world: World, version: int) -> None:
    """What our program answers in a VM's stead passes the host's firewall like what the VM sends."""
    world.put()
    far = world.guests["far-2"].vm()
    with world.host.driver.limited(far.vm, LimitKind.SOURCE_PROOF, direction=Direction.IN):
        awaited("an answer", lambda: world.answers(version=version), 5)
        told = world.values("far-2", "hv_counters", layout.Counters)
        assert told.answered > 0, "the control: the source had to prove itself"
        assert told.proven > 0


class TestALayerThatIsGone:
    def closed(self, world: World, counter: str | None = None) -> bool:
        before = world.firewall()
        shut = not world.answers() and not world.answers(version=6)
        return shut and (counter is None or world.firewall()[counter] > before[counter])

    def test_the_programs_at_the_tap(self, world: World) -> None:
        pin = world.host.driver.layout.pin_dir / f"link-{world.guests['far-1'].tap.ifindex}-from"
        is_back(
            world,
            lambda: run("bpftool", "link", "detach", "pinned", str(pin)),
            lambda: self.closed(world, "undecided"),
            "its programs were detached",
        )

    def test_the_policy_of_the_tap(self, world: World) -> None:
        key = ("key", "hex", *world.guests["far-1"].tap.ifindex.to_bytes(4, "little").hex(" ").split())
        pin = str(world.host.driver.layout.pin_dir / "hv_near")
        is_back(
            world,
            lambda: run("bpftool", "map", "update", "pinned", pin, *key, "value", "hex", *(["00"] * 4)),
            lambda: self.closed(world, "undecided"),
            "its policy was changed",
        )

    def test_the_firewalls_grants(self, world: World) -> None:
        def flush() -> None:
            grants = kernel.pinned(world.host.driver.layout.pin_dir / "hv_grants")
            for key in list(kernel.keys(grants, layout.GrantKey)):
                kernel.delete(grants, key)
            os.close(grants)

        is_back(world, flush, lambda: self.closed(world), "who may reach whom was changed")

    def test_the_hosts_firewall_emptied(self, world: World) -> None:
        is_back(
            world,
            lambda: run("nft", "flush", "set", "inet", "hypervigil", "bound"),
            lambda: self.closed(world, "unbound_out"),
            "its ports were changed",
        )

    def test_the_hosts_firewall_gone(self, world: World) -> None:
        is_back(
            world,
            lambda: run("nft", "delete", "table", "inet", "hypervigil"),
            lambda: world.answers() and not world.answers(port=22),
            "it was gone",
        )

    def test_routes_and_gateways(self, world: World) -> None:
        tap = world.guests["far-2"].tap.name

        def flush() -> None:
            run("ip", "route", "flush", "proto", "72")
            run("ip", "-6", "route", "flush", "proto", "72")
            run("ip", "address", "flush", "dev", tap, "scope", "global")

        is_back(world, flush, lambda: self.closed(world), "the route to 10.73.0.12 was gone")

    def test_the_tap_itself_down(self, world: World) -> None:
        tap = world.guests["far-2"].tap.name
        is_back(world, lambda: run("ip", "link", "set", tap, "down"), lambda: self.closed(world), "route to 10.73.0.12")

    @pytest.mark.parametrize("setting", ["proxy_arp", "rp_filter", "forwarding"])
    def test_a_setting_of_the_tap(self, world: World, setting: str) -> None:
        path = Path("/proc/sys/net/ipv4/conf", world.guests["far-2"].tap.name, setting)
        is_back(world, lambda: path.write_text("0"), lambda: path.read_text() == "0\n", f"{setting} was 0")
        awaited(setting, lambda: path.read_text() == "1\n", WITHIN_S)

    def test_what_was_added_to_ours(self, world: World) -> None:
        def add() -> None:
            run("ip", "route", "add", "198.51.100.9", "dev", world.guests["far-1"].tap.name, "proto", "72")

        is_back(world, add, lambda: "198.51.100.9" in run("ip", "route"), "198.51.100.9 was not meant to be")
        assert "198.51.100.9" not in run("ip", "route")


@contextmanager
def strays() -> Iterator[tuple[Tap, Tap]]:
    """Two new taps that are no VM's known to us, between which the operator routes."""
    taps = Tap("stray1", "52:54:00:75:00:01"), Tap("stray2", "52:54:00:75:00:02")
    for number, tap in enumerate(taps, start=1):
        run("ip", "address", "add", f"10.75.{number}.1/24", "dev", tap.name)
        run("ip", "neigh", "add", f"10.75.{number}.2", "lladdr", tap.mac, "dev", tap.name)
    try:
        yield taps
    finally:
        for tap in taps:
            tap.close()


def carried(one: Tap, other: Tap) -> bool:
    marker = secrets.token_bytes(18)
    other.received()
    one.send(ethernet(one.mac, mac_of(one.name), 0x0800, ipv4("10.75.1.2", "10.75.2.2", 17, udp(1, 2, marker))))
    return other.gets(marker, 0.1)


@pytest.mark.req("T-NET-1", "A204")
def test_a_tap_that_nobody_declared_passes_nothing(world: World) -> None:
    world.put()
    with strays() as taps:
        before = world.firewall()
        assert not carried(*taps)
        assert world.firewall()["unbound_out"] > before["unbound_out"]
        world.put(POLICY.replace("uplinks = []", 'uplinks = ["stray1"]'))
        before = world.firewall()
        assert not carried(*taps), "to one that nobody declared"
        assert world.firewall()["unbound_in"] > before["unbound_in"], "besides what the host's kernel itself says there"
        world.put(POLICY.replace("uplinks = []", 'uplinks = ["stray1", "stray2"]'))
        awaited("a VPN's, say", lambda: carried(*taps), WITHIN_S)
        world.put(POLICY.replace('mode = "enforce"', 'mode = "monitor"'))
        awaited("what is dropped by nothing in monitor mode", lambda: carried(*taps), WITHIN_S)
        awaited("nor between guests", lambda: world.answers(port=22), WITHIN_S)
        world.put()
        assert not carried(*taps)
        assert not world.answers(port=22)


@pytest.mark.parametrize("called", ["0", "1"])
def test_what_stays_on_a_bridge_is_none_of_its_business(world: World, called: str) -> None:
    """Also where the host has frames on bridges pass by its packet filters."""
    world.put()
    for setting in ("bridge-nf-call-iptables", "bridge-nf-call-ip6tables"):
        path = Path("/proc/sys/net/bridge", setting)
        if not path.exists():
            pytest.skip("this kernel has no br_netfilter")
        path.write_text(called, encoding="ascii")
    segment = Segment("br9")
    taps = [segment.tap(f"free{number}", f"52:54:00:79:00:0{number}") for number in (1, 2)]
    try:
        with world.host.nobody_looks():  # the guard of the bridges is not what this is about
            for tap in taps:
                run("nft", "add", "element", "bridge", "hypervigil", "bound", f"{{ {tap.ifindex} }}")
            marker = secrets.token_bytes(18)
            packet = ipv4("10.79.0.1", "10.79.0.2", 17, udp(1, 2, marker))
            taps[0].send(ethernet(taps[0].mac, taps[1].mac, 0x0800, packet))
            assert taps[1].gets(marker, 0.2)
        assert world.answers("far-2", "flat-1", port=22)
        assert world.answers("flat-1", "far-1", version=6)
        assert not world.answers("flat-1", "far-2")
    finally:
        for tap in taps:
            tap.close()
        run("ip", "link", "delete", "br9")


@pytest.mark.req("T-CORE-4", "A204")
def test_with_nobody_alive_routes_stay_and_a_new_tap_is_shut(world: World) -> None:
    world.put()
    world.host.driver.kill()
    assert world.answers()
    assert not world.answers(port=22)
    with strays() as taps:
        assert not carried(*taps)
        run("nft", "delete", "table", "inet", "hypervigil")
        assert carried(*taps), "the control"
        world.host.driver.start()
        awaited("the guard again", lambda: not carried(*taps), WITHIN_S)
    assert world.answers()


def test_off_leaves_nothing(world: World) -> None:
    world.put()
    assert "removed routes to VMs" in world.host.off()
    after = world.state()
    assert {key: after[key] for key in after if after[key] != world.host_state.get(key)} == {}
