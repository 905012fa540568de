"""What two snapshots say of the time between them, held against an obvious model that counts peer by peer."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hypervigil.hypervisor.adapters.ebpf import layout
from hypervigil.hypervisor.adapters.ebpf.reader import COUNTERS, GREETERS, PEERS, PORTS
from hypervigil.hypervisor.sensors.sweep import MAX_GREETERS, MAX_PEERS, TOP_PEERS, Snapshot, compare
from hypervigil.model.ids import Instant, PortId, VmId
from hypervigil.model.observation import GreeterCount
from hypervigil.model.traffic import Direction, ForgedKind, TrafficClass

SLOTS = 8
GREETED = ("ended", "curt", "alike", "varied", "lasted_ns", "last_ns")
OUT, IN = Direction.OUT, Direction.IN


@dataclass
class World:
    """A data plane in miniature."""

    ports: dict[int, str] = field(default_factory=dict)  # slot → MAC
    counters: np.ndarray = field(default_factory=lambda: np.zeros(SLOTS, COUNTERS))
    peers: dict[tuple[int, int, str], dict] = field(default_factory=dict)
    greeters: dict[tuple[int, int, str, int], dict[str, int]] = field(default_factory=dict)

    def send(self, slot: int, direction: Direction, address: str, at: float, **more) -> None:
        packets = more.get("packets", 1)
        traffic = more.get("traffic", TrafficClass.UDP)
        cell = self.counters[slot]["by_class"][direction][traffic]
        cell["packets"] += packets
        cell["octets"] += packets * 100
        peer = self.peers.setdefault(
            (slot, direction, address),
            {"first_ns": int(at * 1e9), "packets": 0, "octets": 0, "openings": 0, "resets": 0, "ports_now": 0},
        )
        peer["last_ns"] = int(at * 1e9)
        peer["packets"] += packets
        peer["octets"] += packets * 100
        peer["openings"] += packets if traffic is TrafficClass.SYN else 0
        peer["resets"] += packets if traffic is TrafficClass.RST else 0
        peer["ports_now"] |= more.get("ports", 1)

    def snapshot(self, at: float) -> Snapshot:
        ports = np.zeros(len(self.ports), PORTS)
        for row, (slot, mac) in zip(ports, self.ports.items(), strict=True):
            row["port"]["slot"] = slot
            row["port"]["mac"] = list(layout.pack_mac(mac))
        peers = np.zeros(len(self.peers), PEERS)
        for row, ((slot, direction, address), peer) in zip(peers, self.peers.items(), strict=True):
            row["key"]["slot"], row["key"]["direction"] = slot, direction
            packed = (
                layout.pack_mac(address).rjust(16, b"\0") if address.count(":") == 5 else layout.pack_address(address)
            )
            row["key"]["address"] = list(packed)
            row["peer"]["mac"] = [2, 0, 0, 0, 0, 9]
            for name, value in peer.items():
                row["peer"][name] = value
        greeters = np.zeros(len(self.greeters), GREETERS)
        for row, ((slot, direction, address, port), counts) in zip(greeters, self.greeters.items(), strict=True):
            row["key"]["slot"], row["key"]["direction"], row["key"]["port"] = slot, direction, port
            row["key"]["address"] = list(layout.pack_address(address))
            for name, value in counts.items():
                row["greeter"][name] = value
        return Snapshot(Instant(at), ports, self.counters.copy(), peers, seed=1234567, greeters=greeters)

    def converse(self, slot: int, direction: Direction, address: str, port: int, at: float, **more: int) -> None:
        self.send(slot, direction, address, at)
        counts = self.greeters.setdefault((slot, direction, address, port), dict.fromkeys(GREETED, 0))
        for name, value in ({"ended": 1, "curt": 1} | more).items():
            counts[name] += value
        counts["last_ns"] = int(at * 1e9)


MACS = [f"52:54:00:00:00:{slot:02x}" for slot in range(SLOTS)]


def owners(slots: Iterable[int]) -> dict[PortId, VmId]:
    return {PortId(MACS[slot]): VmId(f"vm{slot}") for slot in slots}


@pytest.fixture
def world() -> World:
    return World(ports={0: MACS[0], 3: MACS[3]})


def test_counts_of_the_interval_by_class_and_direction(world: World) -> None:
    world.send(0, OUT, "10.0.0.9", 1.0, packets=500)
    before = world.snapshot(2.0)
    world.send(0, OUT, "10.0.0.9", 2.1, packets=7, traffic=TrafficClass.SYN)
    world.send(0, IN, "10.0.0.9", 2.1, packets=3, traffic=TrafficClass.RST)
    world.counters[0]["forged"][ForgedKind.ARP] += 5
    world.counters[0]["new_destinations"] += 2
    world.counters[0]["failures"] += 4
    world.counters[0]["by_class"][OUT][TrafficClass.SYN]["limited"] += 6
    [sample] = compare(before, world.snapshot(2.2), owners([0, 3]))
    assert (sample.vm, sample.port) == ("vm0", MACS[0])
    assert sample.out.packets == tuple(7 * (c is TrafficClass.SYN) for c in TrafficClass)
    assert sample.out.octets[TrafficClass.SYN] == 700
    assert sample.out.limited[TrafficClass.SYN] == 6
    assert sample.into.packets == tuple(3 * (c is TrafficClass.RST) for c in TrafficClass)
    assert sample.forged == tuple(5 * (k is ForgedKind.ARP) for k in ForgedKind)
    assert (sample.new_destinations, sample.failures) == (2, 4)
    out, into = sample.peers
    assert (out.direction, out.packets, out.openings, out.answers, out.resets, out.new) == (OUT, 7, 7, 3, 3, False)
    assert (into.direction, into.packets, into.openings, into.answers, into.resets, into.new) == (IN, 3, 0, 7, 0, True)
    assert out.mac == "02:00:00:00:00:09"


def test_silent_unowned_and_detached_ports_are_left_out(world: World) -> None:
    before = world.snapshot(1.0)
    world.send(3, OUT, "10.0.0.9", 1.1)
    world.send(5, OUT, "10.0.0.9", 1.1)
    assert [s.port for s in compare(before, world.snapshot(1.2), owners([0, 3, 5]))] == [MACS[3]]
    assert compare(before, world.snapshot(1.2), {}) == ()


def test_counters_that_began_anew_count_from_zero(world: World) -> None:
    world.send(0, OUT, "10.0.0.9", 0.5, packets=1000)
    before = world.snapshot(1.0)
    world.counters[0] = np.zeros((), COUNTERS)
    world.peers.clear()
    world.send(0, OUT, "10.0.0.9", 1.1, packets=4)
    [sample] = compare(before, world.snapshot(1.2), owners([0]))
    assert sample.out.packets[TrafficClass.UDP] == 4
    assert sample.peers[0].packets == 4


def test_the_first_frames_of_a_new_port_count_and_a_former_owners_do_not(world: World) -> None:
    world.send(5, OUT, "10.0.0.9", 0.1, packets=900)  # by the VM that had the slot before
    before = world.snapshot(1.0)
    world.ports[5] = MACS[5]
    world.send(5, OUT, "10.0.0.9", 1.1, packets=3)
    [sample] = compare(before, world.snapshot(1.2), owners([5]))
    assert sample.out.packets[TrafficClass.UDP] == 3
    assert sample.peers[0].packets == 3


def test_a_peer_that_an_earlier_reading_missed_makes_no_surge(world: World) -> None:
    world.send(0, OUT, "10.0.0.9", 0.1, packets=5000)
    missed = world.peers.pop((0, OUT, "10.0.0.9"))
    before = world.snapshot(1.0)
    world.peers[0, OUT, "10.0.0.9"] = missed
    world.send(0, OUT, "10.0.0.9", 1.1, packets=2)
    [sample] = compare(before, world.snapshot(1.2), owners([0]))
    assert sample.peers == ()
    assert sample.out.packets[TrafficClass.UDP] == 2


def test_frames_whose_time_is_of_the_last_tick_are_counted_once(world: World) -> None:
    """The data plane's clock may be a tick behind ours: what comes just after a reading bears a time from before it."""
    world.send(0, OUT, "10.0.0.8", 1.0, packets=5)
    first = world.snapshot(2.0)
    world.send(0, OUT, "10.0.0.8", 1.996, packets=3)
    world.send(0, OUT, "10.0.0.9", 1.996, packets=7)
    second = world.snapshot(2.2)
    (sample,) = compare(first, second, owners([0]))
    told = {peer.address: (peer.packets, peer.new) for peer in sample.peers}
    assert told == {"10.0.0.8": (3, False), "10.0.0.9": (7, True)}
    world.send(0, OUT, "10.0.0.8", 2.25, packets=1)
    (sample,) = compare(second, world.snapshot(2.28), owners([0]))
    assert [(peer.address, peer.packets, peer.new) for peer in sample.peers] == [("10.0.0.8", 1, False)]


def test_a_scan_shows_its_whole_fan_and_a_bounded_list(world: World) -> None:
    before = world.snapshot(1.0)
    for host in range(200):
        world.send(0, OUT, f"10.0.1.{host}", 1.1, traffic=TrafficClass.SYN, packets=1 + (host == 77))
    for host in range(40):
        world.send(0, IN, f"2001:db8::{host:x}", 1.1)
    [sample] = compare(before, world.snapshot(1.2), owners([0]))
    assert (sample.fan_out, sample.fan_in) == (200, 40)
    assert len(sample.peers) == MAX_PEERS
    assert sum(p.direction is OUT for p in sample.peers) == TOP_PEERS
    assert sample.peers[0].address == "10.0.1.77", "the busiest first"


def test_new_peers_fill_the_room_that_busy_ones_leave(world: World) -> None:
    for host in range(20):
        world.send(0, OUT, f"10.0.1.{host}", 0.5)
    before = world.snapshot(1.0)
    for host in range(20):
        world.send(0, OUT, f"10.0.1.{host}", 1.1, packets=50)
    world.send(0, OUT, "10.0.2.1", 1.1)
    [sample] = compare(before, world.snapshot(1.2), owners([0]))
    assert len(sample.peers) == TOP_PEERS + 1
    assert [p.address for p in sample.peers if p.new] == ["10.0.2.1"]


def test_the_fan_is_of_the_last_second_only(world: World) -> None:
    world.send(0, OUT, "10.0.0.1", 0.1)
    world.send(0, OUT, "10.0.0.2", 0.9)
    before = world.snapshot(1.4)
    world.send(0, OUT, "10.0.0.3", 1.5)
    [sample] = compare(before, world.snapshot(1.6), owners([0]))
    assert sample.fan_out == 2


def test_tried_ports_are_counted(world: World) -> None:
    before = world.snapshot(1.0)
    world.send(0, OUT, "10.0.0.1", 1.1, ports=0b1011)
    world.send(0, OUT, "10.0.0.1", 1.1, ports=1 << 63)
    [sample] = compare(before, world.snapshot(1.2), owners([0]))
    assert sample.peers[0].ports == 4
    assert sample.peers[0].services == 0b1011 | 1 << 63


def test_addresses_are_told_as_people_write_them(world: World) -> None:
    before = world.snapshot(1.0)
    for address in ("10.0.0.1", "fe80::1", "52:54:00:aa:bb:cc"):
        world.send(0, OUT, address, 1.1)
    [sample] = compare(before, world.snapshot(1.2), owners([0]))
    assert {p.address for p in sample.peers} == {"10.0.0.1", "fe80::1", "52:54:00:aa:bb:cc"}


def test_a_partial_look_and_the_whole_one_after_it_count_everything_once(world: World) -> None:
    before = world.snapshot(1.0)
    world.send(0, OUT, "10.0.0.1", 1.05, packets=10)
    world.send(3, OUT, "10.0.0.2", 1.05, packets=20)
    tripped = world.snapshot(1.1)
    [sample] = compare(before, tripped, owners([0, 3]), only={0})
    assert (sample.vm, sample.out.packets[TrafficClass.UDP], sample.peers[0].new) == ("vm0", 10, True)
    world.send(0, OUT, "10.0.0.1", 1.15, packets=1)
    world.send(3, OUT, "10.0.0.2", 1.15, packets=2)
    samples = compare(before.advanced(tripped, {0}), world.snapshot(1.2), owners([0, 3]))
    assert {s.vm: s.out.packets[TrafficClass.UDP] for s in samples} == {"vm0": 1, "vm3": 22}
    assert {s.vm: (s.peers[0].packets, s.peers[0].new) for s in samples} == {"vm0": (1, False), "vm3": (22, True)}


_FRAME = st.tuples(
    st.integers(0, 3),
    st.sampled_from([OUT, IN]),
    st.sampled_from(["10.0.0.1", "10.0.0.2", "fd00::1"]),
    st.integers(1, 9),
    st.sampled_from([TrafficClass.SYN, TrafficClass.RST, TrafficClass.UDP]),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(_FRAME, max_size=20), st.lists(_FRAME, max_size=20), st.sets(st.integers(0, 3)))
def test_every_frame_is_counted_once_and_at_its_own_port(earlier: list, later: list, owned: set[int]) -> None:
    world = World(ports={slot: MACS[slot] for slot in range(4)})
    for slot, direction, address, packets, traffic in earlier:
        world.send(slot, direction, address, 0.5, packets=packets, traffic=traffic)
    before = world.snapshot(1.0)
    for slot, direction, address, packets, traffic in later:
        world.send(slot, direction, address, 1.1, packets=packets, traffic=traffic)
    samples = {s.port: s for s in compare(before, world.snapshot(1.2), owners(owned))}
    assert set(samples) == {MACS[slot] for slot, *_ in later if slot in owned}
    for slot in owned:
        mine = [frame for frame in later if frame[0] == slot]
        if not mine:
            continue
        sample = samples[PortId(MACS[slot])]
        for direction, counts in ((OUT, sample.out), (IN, sample.into)):
            for traffic in TrafficClass:
                assert counts.packets[traffic] == sum(f[3] for f in mine if f[1] == direction and f[4] == traffic)
        wanted = {(f[1], f[2]) for f in mine}
        assert {(p.direction, p.address) for p in sample.peers} == wanted
        for peer in sample.peers:
            there = [f for f in mine if f[1] == peer.direction and f[2] == peer.address]
            back = [f for f in mine if f[1] != peer.direction and f[2] == peer.address]
            assert peer.packets == sum(f[3] for f in there)
            assert peer.openings == sum(f[3] for f in there if f[4] is TrafficClass.SYN)
            assert peer.answers == sum(f[3] for f in back)
            assert peer.resets == sum(f[3] for f in back if f[4] is TrafficClass.RST)
            assert peer.new == all((f[0], f[1], f[2]) != (slot, peer.direction, peer.address) for f in earlier)


def test_dialogues_of_the_interval_are_told_by_service(world: World) -> None:
    world.converse(0, OUT, "10.0.0.9", 21, 1.0, alike=5)
    world.converse(0, OUT, "10.0.0.8", 22, 1.0)
    before = world.snapshot(2.0)
    world.converse(0, OUT, "10.0.0.9", 21, 2.1, alike=1, varied=1, lasted_ns=1_500_000_000)
    world.converse(0, OUT, "10.0.0.9", 21, 2.2, alike=1, lasted_ns=500_000_000)
    world.converse(0, IN, "10.0.0.9", 2222, 2.2)
    first, second = compare(before, world.snapshot(3.0), owners([0, 3]))[0].greeters
    assert first == GreeterCount(OUT, "10.0.0.9", "02:00:00:00:00:09", 21, 2, 2, 2, 1, 2.0)
    assert second == GreeterCount(IN, "10.0.0.9", "02:00:00:00:00:09", 2222, 1, 1, 0, 0, 0.0)


def test_of_many_services_those_are_told_at_which_most_ended(world: World) -> None:
    before = world.snapshot(1.0)
    for port in range(40):
        for _ in range(1 + port):
            world.converse(0, OUT, "10.0.0.9", 1000 + port, 1.5)
    (sample,) = compare(before, world.snapshot(2.0), owners([0]))
    assert [one.port for one in sample.greeters] == [1039 - n for n in range(MAX_GREETERS)]


def test_a_look_at_some_ports_takes_their_dialogues_only(world: World) -> None:
    before = world.snapshot(1.0)
    world.converse(0, OUT, "10.0.0.9", 21, 1.5)
    world.converse(3, OUT, "10.0.0.9", 21, 1.5)
    after = world.snapshot(2.0)
    assert [one.vm for one in compare(before, after, owners([0, 3]), [0])] == ["vm0"]
    later = compare(before.advanced(after, [0]), world.snapshot(3.0), owners([0, 3]))
    assert {one.vm: len(one.greeters) for one in later} == {"vm3": 1}
