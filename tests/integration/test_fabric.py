"""Who may reach whom on real taps: every ordered pair equals the policy, answers pass, nothing is flooded to others."""

import json
import secrets
import select
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest

from hypervigil.host import policyfile
from hypervigil.host.inventory import compile_ports
from hypervigil.hypervisor.adapters.ebpf import kernel, layout
from hypervigil.hypervisor.adapters.ebpf.dataplane import DataPlane, DataPlaneError, remove_all
from hypervigil.model.ids import PortId, VmId
from hypervigil.model.policy import Policy
from hypervigil.model.port_policy import Fabric, FabricChange
from hypervigil.model.services import NEIGHBOUR, service
from hypervigil.model.vm import Inventory, Nic, Vm
from hypervigil.network.compile import difference
from hypervigil.network.decide import decide
from hypervigil.network.ends import End, Gateway, Outside, members
from tests.integration.percpu import summed
from tests.integration.wirelab import Segment, Tap, arp, ethernet, icmp, ipv4, ipv6, namespace, run, tcp, udp

pytestmark = pytest.mark.root

ROUTER = "52:54:00:00:ff:01"
EVERYBODY = "ff:ff:ff:ff:ff:ff"
OUTSIDE4, OUTSIDE6 = "203.0.113.9", "2001:db8:9::9"
VMS = {
    "blue-1": ("net1", "10.61.0.11", "fd61::11"),
    "blue-2": ("net1", "10.61.0.12", "fd61::12"),
    "red-1": ("net1", "10.61.0.21", "fd61::21"),
    "blue-3": ("net2", "10.62.0.13", "fd62::13"),
}
GATEWAYS = {"net1": ("10.61.0.1", "fd61::1"), "net2": ("10.62.0.1", "fd62::1")}
HEAD = "".join(
    f'[[vm]]\nname = "{name}"\ntenant = "{name.split("-")[0]}"\naddresses = ["{four}", "{six}"]\n'
    for name, (_, four, six) in VMS.items()
)
NETWORK = '[[network]]\nname = "{0}"\nbridge = "{0}"\n{1}\n'
FREE = 'mode = "enforce"\n' + HEAD + NETWORK.format("net1", "") + NETWORK.format("net2", "")
RULES = (
    'mode = "enforce"\n'
    + HEAD
    + NETWORK.format("net1", 'gateways = ["10.61.0.1", "fd61::1"]\nreaches = ["net2"]\noutside = true')
    + NETWORK.format("net2", 'gateways = ["10.62.0.1", "fd62::1"]')
    + """
[[group]]
name = "web"
vms = ["blue-1", "blue-3"]

[[path]]
name = "to red"
from = "group:web"
to = "vm:red-1"
services = ["tcp/443", "icmp/echo", "udp/7000-7999"]

[[path]]
name = "across"
from = "vm:blue-1"
to = "vm:blue-3"
services = "udp/53"

[[path]]
name = "customers"
from = "outside"
to = "vm:red-1"
services = "tcp/80"

[[path]]
name = "updates"
from = "vm:blue-2"
to = ["203.0.113.0/24", "2001:db8:9::/48"]
services = "tcp/443"

[[deny]]
name = "no telnet"
from = "any"
to = "any"
services = "tcp/23"
"""
)
OPEN = RULES.replace("[[group]]", '[[path]]\nname = "all"\nfrom = "any"\nto = "any"\nservices = "any"\n\n[[group]]')
WANTED = {
    "tcp/443": (service(6, 443), lambda m: (6, tcp(40000, 443, 2) + m)),
    "tcp/80": (service(6, 80), lambda m: (6, tcp(40000, 80, 2) + m)),
    "tcp/23": (service(6, 23), lambda m: (6, tcp(40000, 23, 2) + m)),
    "udp/53": (service(17, 53), lambda m: (17, udp(40000, 53, m))),
    "udp/7500": (service(17, 7500), lambda m: (17, udp(40000, 7500, m))),
    "ip/47": (service(47), lambda m: (47, bytes(8) + m)),
}
Marked = Callable[[bytes], tuple[int, bytes]]


class World:
    """Two bridges with a tap for each VM, and a router behind each that we are ourselves."""

    def __init__(self, pin_dir: Path) -> None:
        self.segments = {name: Segment(name) for name in GATEWAYS}
        self.taps: dict[str, Tap] = {}
        for number, (name, (network, _, _)) in enumerate(VMS.items(), start=1):
            self.taps[name] = self.segments[network].join(self.nic(number, f"52:54:00:00:00:{number:02x}"))
        self.routers = {name: self.segments[name].tap(f"up{name}", ROUTER) for name in GATEWAYS}
        self.inventory = Inventory(
            tuple(
                Vm(VmId(name), name, 1, 1, (Nic(PortId(tap.mac), tap.name, tap.ifindex, VMS[name][0]),))
                for name, tap in self.taps.items()
            )
        )
        self.plane = DataPlane.open(pin_dir, max_ports=64)
        self.fabric = Fabric()
        self.policy = Policy()
        self.learn()

    @staticmethod
    def nic(number: int, mac: str) -> Tap:
        """The NIC of one VM."""
        return Tap(f"t{number}", mac)

    def learn(self) -> None:
        """Let the bridges learn where everybody is, so that nothing is flooded for want of that."""
        own = {self.taps[name]: VMS[name][1] for name in VMS}
        for tap in (*self.taps.values(), *self.routers.values()):
            tap.send(ethernet(tap.mac, EVERYBODY, 0x0806, arp(1, tap.mac, "0.0.0.0", own.get(tap, "10.99.99.99"))))
        self.drain()

    def put(self, text: str, *, whole: bool = False) -> None:
        self.policy = policyfile.parse(text)
        compiled = compile_ports(self.inventory, self.policy)
        for port in compiled.ports:
            self.plane.attach(port)
        change = difference(self.fabric, compiled.fabric)
        if whole:
            change = FabricChange(compiled.fabric.grants, addresses=compiled.fabric.addresses, whole=True)
        self.plane.change_fabric(change)
        self.fabric = compiled.fabric

    def drain(self) -> None:
        for tap in (*self.taps.values(), *self.routers.values()):
            tap.received()

    def end(self, name: str) -> End:
        found = [member for member in members(self.policy, self.inventory) if member.vm == name]
        if found:
            return found[0]
        return Gateway(name) if name in GATEWAYS else Outside(name)

    def where(self, name: str) -> str | None:
        """The network that a VM or a gateway is on."""
        return VMS[name][0] if name in VMS else name if name in GATEWAYS else None

    def address(self, name: str, version: int) -> str:
        if name in VMS:
            return VMS[name][1 if version == 4 else 2]
        return GATEWAYS[name][0 if version == 4 else 1] if name in GATEWAYS else name

    def mac(self, name: str) -> str:
        return self.taps[name].mac if name in VMS else ROUTER

    def send(self, source: str, destination: str, marker: bytes, payload: bytes, ethertype: int) -> bool:
        """Whether a packet arrives, by way of the router where it must; nobody else may see it."""
        self.drain()
        arrived = True
        here, there = self.taps.get(source), self.taps.get(destination)
        if here is not None:
            direct = there is not None and self.where(source) == self.where(destination)
            to = there.mac if there is not None and direct else ROUTER
            here.send(ethernet(here.mac, to, ethertype, payload))
            at = there if there is not None and direct else self.routers[self.where(source) or ""]
            arrived = self.seen(at, marker)
            there = None if direct else there
        if there is not None and arrived:
            self.routers[self.where(destination) or ""].send(ethernet(ROUTER, there.mac, ethertype, payload))
            arrived = self.seen(there, marker)
        others = {name: tap for name, tap in self.taps.items() if name not in {source, destination}}
        select.select([tap.fd for tap in others.values()], [], [], 0.001)
        for name, tap in others.items():
            assert not self.seen(tap, marker, 0.0), f"{name} saw what is not its business"
        return arrived

    @staticmethod
    def seen(tap: Tap, marker: bytes, wait_s: float = 0.006) -> bool:
        return tap.gets(marker, wait_s)

    def crosses(self, source: str, destination: str, marked: Marked, version: int) -> bool:
        marker = secrets.token_bytes(8)
        protocol, payload = marked(marker)
        ends = self.address(source, version), self.address(destination, version)
        packet = ipv4(*ends, protocol, payload) if version == 4 else ipv6(*ends, protocol, payload)
        return self.send(source, destination, marker, packet, 0x0800 if version == 4 else 0x86DD)

    def pings(self, source: str, destination: str, version: int) -> bool:
        kind = 8 if version == 4 else 128
        return self.crosses(source, destination, lambda m: (1 if version == 4 else 58, icmp(kind) + m), version)

    def crossings(self, name: str) -> layout.Crossings:
        """What a port's counters say, over all CPUs."""
        slot = self.plane.ports()[PortId(self.taps[name].mac)]
        return summed(self.plane._maps["hv_crossings"], slot, layout.Crossings)


@contextmanager
def living(kind: type[World] = World) -> Iterator[World]:
    """A world in a network namespace of its own."""
    pin_dir = Path("/sys/fs/bpf") / f"hvf-{secrets.token_hex(4)}"
    with namespace():
        made = kind(pin_dir)
        try:
            yield made
        finally:
            remove_all(pin_dir)
            for tap in (*made.taps.values(), *made.routers.values()):
                tap.close()


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with living() as made:
        yield made


ENDS = [*VMS, "net1", "net2", OUTSIDE4]
PAIRS = [(a, b) for a in ENDS for b in ENDS if a != b and (a in VMS or b in VMS)]


def matrix(world: World) -> dict[tuple[str, str, str, int], bool]:
    """What really crosses, for every ordered pair."""
    found = {}
    for source, destination in PAIRS:
        for version in (4, 6):
            ends = [OUTSIDE6 if version == 6 and name == OUTSIDE4 else name for name in (source, destination)]
            for name, (_, marked) in WANTED.items():
                found[source, destination, name, version] = world.crosses(ends[0], ends[1], marked, version)
            found[source, destination, "icmp/echo", version] = world.pings(ends[0], ends[1], version)
    return found


def expected(world: World) -> dict[tuple[str, str, str, int], bool]:
    """What the specification says."""
    found = {}
    for source, destination in PAIRS:
        for version in (4, 6):
            ends = [
                world.end(OUTSIDE6 if version == 6 and name == OUTSIDE4 else name) for name in (source, destination)
            ]
            asked = {name: one for name, (one, _) in WANTED.items()}
            asked["icmp/echo"] = service(1, 8) if version == 4 else service(58, 128)
            for name, one in asked.items():
                found[source, destination, name, version] = decide(world.policy, *ends, one).allowed
    return found


def differences(found: dict, wanted: dict) -> dict:
    return {key: found[key] for key in found if found[key] != wanted[key]}


@pytest.mark.req("T-NET-2", "A26")
def test_without_a_network_policy_everything_crosses(world: World) -> None:
    """The control: the bridges alone decide, and the router carries everything."""
    world.put(FREE)
    assert all(matrix(world).values())


@pytest.mark.req("T-NET-2", "A26", "A33")
def test_every_ordered_pair_equals_the_policy(world: World) -> None:
    world.put(RULES)
    wanted = expected(world)
    assert 20 < sum(wanted.values()) < len(wanted) // 2
    assert differences(matrix(world), wanted) == {}
    world.put(RULES.replace("tcp/443", "tcp/80"))
    assert differences(matrix(world), expected(world)) == {}, "after a live change"
    world.put(FREE)
    assert all(matrix(world).values()), "and free again"


@pytest.mark.req("T-NET-2")
def test_who_may_not_converse_does_not_even_find_each_other(world: World) -> None:
    world.put(RULES)
    for source in VMS:
        for destination in VMS:
            if source == destination or VMS[source][0] != VMS[destination][0]:
                continue
            world.drain()
            question = arp(1, world.mac(source), VMS[source][1], VMS[destination][1])
            world.taps[source].send(ethernet(world.mac(source), EVERYBODY, 0x0806, question))
            allowed = decide(world.policy, world.end(source), world.end(destination), NEIGHBOUR).allowed
            assert world.seen(world.taps[destination], question) == allowed, (source, destination)
            others = [tap for name, tap in world.taps.items() if name not in {source, destination}]
            assert not any(world.seen(tap, question, 0.002) for tap in others), "it is no question to them"


def conversation(world: World, version: int, source: str, destination: str, port: int) -> tuple[Marked, Marked]:
    there = lambda m: (6, tcp(40001, port, 2) + m)  # noqa: E731
    back = lambda m: (6, tcp(port, 40001, 0x12) + m)  # noqa: E731
    return there, back


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(
    ("source", "destination", "port"), [("blue-1", "red-1", 443), (OUTSIDE4, "red-1", 80), ("blue-2", OUTSIDE4, 443)]
)
def test_answers_pass_and_nothing_but_answers(
    world: World, version: int, source: str, destination: str, port: int
) -> None:
    world.put(RULES, whole=True)
    if version == 6:
        source, destination = (OUTSIDE6 if one == OUTSIDE4 else one for one in (source, destination))
    sport = 20000 + secrets.randbelow(20000)
    there: Marked = lambda m: (6, tcp(sport, port, 2) + m)  # noqa: E731
    back: Marked = lambda m: (6, tcp(port, sport, 0x12) + m)  # noqa: E731
    assert not world.crosses(destination, source, back, version), "an answer to what was never asked"
    assert world.crosses(source, destination, there, version)
    assert world.crosses(destination, source, back, version)
    other: Marked = lambda m: (6, tcp(port, sport + 1, 0x12) + m)  # noqa: E731
    assert not world.crosses(destination, source, other, version), "of another conversation"
    begins: Marked = lambda m: (6, tcp(sport, port, 2) + m)  # noqa: E731
    assert not world.crosses(destination, source, begins, version), "the other way"
    world.put(RULES.replace(f"tcp/{port}", "tcp/9999"))
    assert not world.crosses(destination, source, back, version), "the path is gone, and its conversations with it"


@pytest.mark.parametrize("version", [4, 6])
def test_an_echo_is_answered_once_asked(world: World, version: int) -> None:
    world.put(RULES, whole=True)
    protocol, asks, answers = (1, 8, 0) if version == 4 else (58, 128, 129)
    number = secrets.randbits(16)

    def echo(kind: int, identifier: int) -> Marked:
        return lambda m: (protocol, struct.pack("!BBHHH", kind, 0, 0, identifier, 1) + m)

    assert not world.crosses("red-1", "blue-1", echo(answers, number), version)
    assert world.crosses("blue-1", "red-1", echo(asks, number), version)
    assert world.crosses("red-1", "blue-1", echo(answers, number), version)
    assert not world.crosses("red-1", "blue-1", echo(answers, number ^ 1), version)
    assert not world.crosses("red-1", "blue-1", echo(asks, number), version)
    error = (1, 3) if version == 4 else (58, 1)
    assert world.crosses("red-1", "blue-1", lambda m: (error[0], icmp(error[1]) + m), version), "what did not arrive"


def test_later_fragments_go_with_their_first(world: World) -> None:
    world.put(RULES, whole=True)

    def part(destination: str, identification: int, payload: bytes, fragment: int) -> bool:
        source, marker = "blue-1", secrets.token_bytes(8)
        packet = bytearray(ipv4(VMS[source][1], VMS[destination][1], 17, payload + marker, fragment=fragment))
        packet[4:6] = identification.to_bytes(2, "big")
        packet[10:12] = bytes(2)
        return world.send(source, destination, marker, bytes(packet), 0x0800)

    assert not part("red-1", 7, b"x" * 24, 3), "the first was never seen"
    assert part("red-1", 7, udp(9, 7500), 0x2000)
    assert part("red-1", 7, b"x" * 24, 3)
    assert not part("red-1", 8, b"x" * 24, 3), "of another packet"
    assert not part("red-1", 9, udp(9, 53), 0x2000)
    assert not part("red-1", 9, b"x" * 24, 3), "its first was denied"
    assert not part("blue-2", 9, b"x" * 24, 3), "it may be of what is denied"
    world.put(RULES.replace('services = "tcp/23"', 'services = "tcp/23"\nby = "red"'))
    assert part("blue-2", 9, b"x" * 24, 3), "where everything may pass"


@pytest.mark.req("T-NET-1")
def test_nothing_is_flooded_to_whom_it_is_not_for(world: World) -> None:
    unknown = "52:54:00:77:77:77"
    packet = ipv4(VMS["blue-1"][1], OUTSIDE4, 6, tcp(1, 443, 2) + b"to nobody here")
    for text, reaches in ((FREE, True), (RULES, False)):
        world.put(text)
        world.drain()
        world.routers["net1"].send(ethernet(ROUTER, unknown, 0x0800, packet))
        assert any(world.seen(world.taps[name], b"to nobody here") for name in ("blue-1", "red-1")) is reaches
    before = sum(world.crossings("blue-2").denied[1])
    world.routers["net1"].send(ethernet(ROUTER, unknown, 0x0800, packet))
    world.seen(world.taps["blue-2"], b"x")
    assert sum(world.crossings("blue-2").denied[1]) == before + 1, "counted at the port that did not get it"


@pytest.mark.req("T-NET-1", "A109")
def test_an_uplink_cannot_speak_for_a_member(world: World) -> None:
    world.put(RULES)
    for mac in (ROUTER, world.mac("blue-1")):
        world.drain()
        packet = ipv4(VMS["blue-1"][1], VMS["blue-2"][1], 6, tcp(1, 22, 2) + b"forged outside")
        world.routers["net1"].send(ethernet(mac, world.mac("blue-2"), 0x0800, packet))
        assert not world.seen(world.taps["blue-2"], b"forged outside")
    world.learn()


def test_what_is_known_goes_straight_past_the_bridge(world: World) -> None:
    world.put(RULES)
    assert world.crosses("blue-1", "blue-2", WANTED["tcp/80"][1], 4)
    run("ip", "link", "set", world.taps["blue-2"].name, "nomaster")
    try:
        before = world.crossings("blue-1").straight
        assert world.crosses("blue-1", "blue-2", WANTED["tcp/80"][1], 4), "no bridge is in the way"
        assert world.crossings("blue-1").straight == before + 1
    finally:
        world.segments["net1"].tap  # noqa: B018
        run("ip", "link", "set", world.taps["blue-2"].name, "master", "net1")
        time.sleep(0.1)
        world.learn()


def test_monitor_mode_counts_and_drops_nothing(world: World) -> None:
    world.put(RULES.replace('mode = "enforce"', 'mode = "monitor"'))
    before = world.crossings("red-1").denied[0][1]
    assert world.crosses("red-1", "blue-1", WANTED["tcp/80"][1], 4)
    assert world.crossings("red-1").denied[0][1] == before + 1
    world.put(RULES)
    assert not world.crosses("red-1", "blue-1", WANTED["tcp/80"][1], 4)
    assert world.crossings("red-1").denied[0][1] == before + 2


@pytest.mark.parametrize("rules", [RULES, FREE], ids=["ruled", "free"])
def test_a_budget_holds(world: World, rules: str) -> None:
    rate = 200
    world.put(rules.replace('name = "blue-1"\n', f'name = "blue-1"\nbudget = {{ packets_per_s = {rate} }}\n'))
    frame = ethernet(world.mac("blue-1"), world.mac("blue-2"), 0x0800, ipv4("10.61.0.11", "10.61.0.12", 17, udp(1, 2)))
    began, sent, arrived = time.monotonic(), 0, 0
    while (elapsed := time.monotonic() - began) < 2.0:
        while sent < elapsed * rate * 4:
            world.taps["blue-1"].send(frame)
            sent += 1
        arrived += len(world.taps["blue-2"].received())
        time.sleep(0.002)
    assert arrived == pytest.approx(rate * 2.0, rel=0.15)
    world.put(RULES)


def test_new_conversations_and_remembered_ones_have_budgets(world: World) -> None:
    world.put(
        RULES.replace('name = "blue-1"\n', 'name = "blue-1"\nbudget = { new_flows_per_s = 20, table_entries = 128 }\n')
    )
    time.sleep(1.1)
    reached = sum(
        world.crosses("blue-1", "red-1", lambda m, p=port: (6, tcp(p, 443, 2) + m), 4) for port in range(1000, 1100)
    )
    assert 2 <= reached < 100
    assert world.crosses("blue-1", "blue-2", WANTED["tcp/80"][1], 4), "what needs no memory has no such budget"
    world.put(RULES)


def test_one_ports_change_is_made_in_place(world: World) -> None:
    world.put(RULES)
    bank = world.plane._fabric._bank.index
    world.put(RULES.replace('vms = ["blue-1", "blue-3"]', 'vms = ["blue-1", "blue-2", "blue-3"]'))
    assert differences(matrix(world), expected(world)) == {}
    world.put(RULES)
    assert differences(matrix(world), expected(world)) == {}
    assert world.plane._fabric._bank.index == bank, "no bank was flipped for it"


def test_it_outlives_the_process_and_is_taken_up_again(world: World) -> None:
    world.put(RULES)
    pin_dir = world.plane._pin_dir
    world.plane.close()
    assert not world.crosses("red-1", "blue-1", WANTED["tcp/80"][1], 4), "pinned: nobody holds a descriptor"
    world.plane = DataPlane.open(pin_dir)
    assert not world.crosses("red-1", "blue-1", WANTED["tcp/80"][1], 4), "not yet taken up"
    world.put(RULES, whole=True)
    assert differences(matrix(world), expected(world)) == {}
    assert world.plane.drift() == []


def test_drift_is_seen_and_repaired(world: World) -> None:
    world.put(RULES)
    maps = world.plane._maps

    def wreck_epoch() -> None:
        epoch = layout.Epoch.from_buffer_copy(bytes(world.plane._fabric._epoch))
        epoch.word ^= 1
        kernel.update(maps["hv_epoch"], layout.Number(0), epoch)

    def wreck_place() -> None:
        slot = world.plane.ports()[PortId(world.mac("red-1"))]
        kernel.update(maps["hv_places"], layout.Number(slot), layout.Place())

    def wreck_grants() -> None:
        key = next(iter(kernel.keys(maps["hv_grants"], layout.GrantKey)))
        kernel.delete(maps["hv_grants"], key)

    def wreck_members() -> None:
        key = next(iter(kernel.keys(maps["hv_members"], layout.MemberKey)))
        kernel.update(maps["hv_members"], key, layout.Member(63, 1))

    def wreck_homes() -> None:
        kernel.delete(maps["hv_homes"], next(iter(kernel.keys(maps["hv_homes"], layout.Home))))

    def add_home() -> None:
        kernel.update(maps["hv_homes"], layout.Home.from_buffer_copy(layout.pack_address("10.9.9.9")), layout.Number(1))

    for wreck in (wreck_epoch, wreck_place, wreck_grants, wreck_members, wreck_homes, add_home):
        wreck()
        found = world.plane.drift()
        assert [drift.what for drift in found] == ["who may reach whom was changed"], wreck.__name__
        world.plane.repair(found[0].port)
        assert world.plane.drift() == []
        assert world.crosses("blue-1", "red-1", WANTED["tcp/443"][1], 4)
        assert not world.crosses("red-1", "blue-1", WANTED["tcp/80"][1], 4)


def test_a_policy_that_does_not_fit_changes_nothing(world: World) -> None:
    world.put(RULES)
    many = ", ".join(f'"tcp/{port}"' for port in range(2, 200, 2))
    with pytest.raises(DataPlaneError, match="at most 64 fit"):
        world.put(RULES.replace('services = "udp/53"', f"services = [{many}]"))
    world.fabric = Fabric()
    world.put(RULES, whole=True)
    assert world.crosses("blue-1", "red-1", WANTED["tcp/443"][1], 4)


@pytest.mark.req("T-NET-1")
def test_an_address_pair_and_a_named_exception_pass_and_nothing_else(world: World) -> None:
    virtual, address = "00:00:5e:00:01:07", "10.61.0.100"
    text = RULES.replace(
        'name = "blue-1"\n', f'name = "blue-1"\naddress_pairs = [{{ address = "{address}", mac = "{virtual}" }}]\n'
    )

    def from_blue(mac: str, source: str) -> bool:
        marker = secrets.token_bytes(8)
        packet = ipv4(source, VMS["blue-2"][1], 6, tcp(1, 80, 2) + marker)
        world.drain()
        world.taps["blue-1"].send(ethernet(mac, world.mac("blue-2"), 0x0800, packet))
        return world.seen(world.taps["blue-2"], marker)

    world.put(RULES)
    assert not from_blue(virtual, address)
    world.put(text)
    assert from_blue(virtual, address)
    assert not from_blue(virtual, "10.61.0.101")
    assert not from_blue("00:00:5e:00:01:08", address)
    world.put(RULES.replace('name = "blue-1"\n', 'name = "blue-1"\nunchecked = ["ipv4"]\n'))
    assert from_blue(world.mac("blue-1"), "10.61.0.101")
    assert not from_blue(virtual, "10.61.0.101"), "its MAC is checked all the same"
    world.put(RULES)
    world.learn()


def test_a_port_that_goes_leaves_nothing_of_it(world: World) -> None:
    world.put(RULES)
    port = PortId(world.mac("red-1"))
    slot = world.plane.ports()[port]
    world.plane.detach(port)
    place = layout.Place()
    kernel.lookup(world.plane._maps["hv_places"], layout.Number(slot), place)
    assert bytes(place) == bytes(layout.Place())
    homes = {ip_address(bytes(key.bytes)[12:]) for key in kernel.keys(world.plane._maps["hv_homes"], layout.Home)}
    assert ip_address(VMS["red-1"][1]) not in homes
    world.put(RULES)
    assert world.crosses("blue-1", "red-1", WANTED["tcp/443"][1], 4)


ROUTED = """
mode = "enforce"

[[network]]
name = "far"
forwarding = "routed"
cidr = "10.63.0.0/24"
gateways = ["10.63.0.1"]
between = "isolated"

[[vm]]
name = "one"
addresses = ["10.63.0.11"]

[[vm]]
name = "two"
addresses = ["10.63.0.12"]

[[path]]
name = "one to two"
from = "vm:one"
to = "vm:two"
services = "udp/53"
"""


@pytest.mark.req("T-NET-2")
def test_a_routed_network_is_held_where_the_host_routes() -> None:
    pin_dir = Path("/sys/fs/bpf") / f"hvf-{secrets.token_hex(4)}"
    with namespace():
        for setting in ("conf/all/forwarding", "conf/all/proxy_arp"):
            Path("/proc/sys/net/ipv4", setting).write_text("1", encoding="ascii")
        taps = {name: Tap(f"r{n}", f"52:54:00:00:01:{n:02x}") for n, name in enumerate(("one", "two"), start=1)}
        addresses = {"one": "10.63.0.11", "two": "10.63.0.12"}
        for name, tap in taps.items():
            run("ip", "address", "add", "10.63.0.1/32", "dev", tap.name)
            run("ip", "route", "add", f"{addresses[name]}/32", "dev", tap.name)
            run("ip", "neigh", "add", addresses[name], "lladdr", tap.mac, "dev", tap.name)
        inventory = Inventory(
            tuple(
                Vm(VmId(name), name, 1, 1, (Nic(PortId(tap.mac), tap.name, tap.ifindex, None),))
                for name, tap in taps.items()
            )
        )
        plane = DataPlane.open(pin_dir, max_ports=64)

        def crosses(source: str, destination: str, one: int, other: int) -> bool:
            marker = secrets.token_bytes(8)
            host = json.loads(run("ip", "-j", "link", "show", "dev", taps[source].name))[0]["address"]
            packet = ipv4(addresses[source], addresses[destination], 17, udp(one, other, marker))
            taps[source].send(ethernet(taps[source].mac, host, 0x0800, packet))
            return World.seen(taps[destination], marker)

        try:
            assert crosses("one", "two", 5, 53), "the control: the host routes"
            assert crosses("two", "one", 53, 9)
            policy = policyfile.parse(ROUTED)
            compiled = compile_ports(inventory, policy)
            for port in compiled.ports:
                plane.attach(port)
            plane.change_fabric(difference(Fabric(), compiled.fabric))
            assert not crosses("two", "one", 53, 5), "nobody asked"
            assert crosses("one", "two", 5, 53)
            assert crosses("two", "one", 53, 5)
            assert not crosses("one", "two", 5, 54)
            assert not crosses("two", "one", 5, 53)
            plane.detach(PortId(taps["two"].mac))
            assert not crosses("one", "two", 5, 53), "a port without a policy belongs to nobody whom one may reach"
        finally:
            remove_all(pin_dir)
            for tap in taps.values():
                tap.close()
