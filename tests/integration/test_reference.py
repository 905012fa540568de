"""The reference model and the kernel's programs take the same frames: every verdict, counter and record must agree.

Here also what depends on the clock, frame by frame; ``test_mass.py`` sends a hundred times as many, without that.
"""

import ctypes
import os
import random
import secrets
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hypervigil.hypervisor.adapters.ebpf import kernel, layout
from hypervigil.hypervisor.adapters.ebpf.dataplane import DataPlane, Gate, remove_all
from hypervigil.hypervisor.adapters.ebpf.reader import DataPlaneReader, Trip
from hypervigil.hypervisor.reference.frame import read
from hypervigil.hypervisor.reference.identity import Identity
from hypervigil.hypervisor.reference.neighbours import Holder
from hypervigil.hypervisor.reference.plane import ReferencePlane, ReferenceReader
from hypervigil.hypervisor.reference.port import MAX_EVENTS, Port, Slot
from hypervigil.model.ids import PortId, VmId
from hypervigil.model.policy import Mode
from hypervigil.model.port_policy import PortPolicy
from hypervigil.model.traffic import Direction, ForgedKind, TrafficClass
from tests.integration.anyframe import Cast, Maker
from tests.integration.mass import unlike
from tests.integration.mass_dialogues import exact_dialogues, held_dialogues
from tests.integration.percpu import summed
from tests.integration.testrun import Clock, run_program, runnable
from tests.integration.wirelab import Segment, Tap, ethernet, ipv4, ipv6, namespace, tcp, udp

pytestmark = pytest.mark.root

MAC = "52:54:00:aa:00:01"
LOCALS = (*(f"fe80::a{n}" for n in range(7)), "fe80::5054:ff:feaa:2", "fe80::99", "febf::1")
"""Some to claim, more than fit; one that follows from a neighbour's MAC, one of a gateway's."""
CAST = Cast(
    macs=(MAC, "52:54:00:aa:00:02", "52:54:00:aa:00:99"),
    v4=("10.77.0.1", "10.77.0.2", "10.77.0.3", "0.0.0.0", "8.8.8.8", "224.0.0.251"),
    v6=("fd77::1", "fd77::2", "fe80::5054:ff:feaa:1", "::", "ff02::1", "2001:db8::9", *LOCALS),
)
BOUND = (CAST.v4[0], CAST.v6[0])
PASSES, DROPS, ANSWERS = -1, 2, 7
HOUR_NS = 3600 * 10**9
BEHIND_NS = 100_000_000
"""So far behind the programs' time may be, which is of the kernel's last tick."""
TAGS = (b"\x81\x00", b"\x88\xa8")
PLACES = [(direction, traffic) for direction in Direction for traffic in (*TrafficClass, None)]


def now_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Pair:
    """The kernel's data plane and the model, given the same orders and the same frames."""

    def __init__(self, tap: Tap, pin_dir: Path) -> None:
        self.tap = tap
        self.kernel = DataPlane.open(pin_dir, max_ports=1024)
        self.model = ReferencePlane(max_ports=1024)
        self.reader = DataPlaneReader(self.kernel.sensor_fds())
        self.clock = Clock(self.kernel._maps)
        self._programs = (self.kernel._programs["hv_from_vm"], self.kernel._programs["hv_to_vm"])
        self.port = PortId(tap.mac)
        self.trips: list[Trip] = []
        """What the kernel's wires said so far."""
        self.listening = True
        beside = PortPolicy(PortId(CAST.macs[1]), VmId("beside"), "tapb", socket.if_nametoindex("tapb"), Mode.ENFORCE)
        self.model.attach(beside, self.kernel.attach(beside))

    def bind(self, mode: Mode, **changes) -> None:
        policy = PortPolicy(self.port, VmId("vm"), self.tap.name, self.tap.ifindex, mode, **changes)
        assert self.model.attach(policy, self.kernel.attach(policy)) == self.kernel.ports()[self.port]

    def order(self, what: str, *arguments, **named) -> None:
        for plane in (self.kernel, self.model):
            getattr(plane, what)(self.port, *arguments, **named)

    @property
    def slot(self) -> Slot:
        port: Port = self.model._ports[self.tap.ifindex]
        return port.slot

    def send(self, direction: Direction, frame: bytes, gso_size: int = 0) -> str | None:
        """Both take the frame; how they differ, if they do."""
        read_ = read(frame, len(frame), gso_size=gso_size)
        address = read_.destination if direction is Direction.OUT else read_.source
        began = now_ns()
        returned = run_program(self._programs[direction], frame, self.tap.ifindex, gso_size)
        ended = now_ns()
        peer = self._peer(direction, address)
        self.trips += self.reader.wait(0) if self.listening else []
        at = self.clock.now()
        if not began - BEHIND_NS <= at <= ended:
            return f"the program's time is {began - at} ns before it began"
        passes = self.model.handle(self.tap.ifindex, direction, frame, at, gso_size=gso_size)
        if (returned == PASSES) != passes or returned not in {PASSES, DROPS, ANSWERS}:
            return f"the program returns {returned}, the model lets it pass: {passes}"
        if self._counters() != bytes(self.slot.counters):
            return f"counters: {unlike(self._counters(), self.slot.counters)}"
        mine = self.model.peer_memory._peers.get((self.slot.number, direction, address))
        if (bytes(peer) if peer else None) != (bytes(mine) if mine else None):
            return f"peer: kernel {_told(peer)}, model {_told(mine)}"
        return self._bucket_difference(direction, read_.traffic, read_.source)

    def holders(self) -> dict[tuple[int, bytes], Holder]:
        """Who holds which link-local address."""
        found = {}
        for key in kernel.keys(self.kernel._maps["hv_holders"], layout.LocalKey):
            there = layout.Holder()
            assert kernel.lookup(self.kernel._maps["hv_holders"], key, there)
            found[key.segment, bytes(key.address)] = Holder(there.slot, there.tick)
        return found

    def _peer(self, direction: Direction, address: bytes) -> layout.Peer | None:
        key = layout.PeerKey(self.slot.number, direction, layout.Address.from_buffer_copy(address))
        found = layout.Peer()
        return found if kernel.lookup(self.kernel._maps["hv_peers"], key, found) else None

    def _counters(self) -> bytes:
        return bytes(summed(self.kernel._maps["hv_counters"], self.slot.number, layout.Counters))

    def _buckets(self) -> layout.Buckets:
        found = layout.Buckets()
        kernel.lookup(self.kernel._maps["hv_buckets"], ctypes.c_uint32(self.slot.number), found)
        return found

    def _windows(self) -> layout.Windows:
        found = layout.Windows()
        kernel.lookup(self.kernel._maps["hv_windows"], ctypes.c_uint32(self.slot.number), found)
        return found

    def _source(self, address: bytes) -> layout.Source | None:
        key = layout.SourceKey(self.slot.number, layout.Address.from_buffer_copy(address))
        found = layout.Source()
        return found if kernel.lookup(self.kernel._maps["hv_sources"], key, found) else None

    def _bucket_difference(self, direction: Direction, traffic: TrafficClass, source: bytes) -> str | None:
        buckets = self._buckets()
        places = [(direction, traffic), (direction, None)]
        pairs = [(buckets.bucket[d][layout.ALL if t is None else t], self.slot.buckets.get((d, t))) for d, t in places]
        pairs.append((buckets.new_destinations, self.slot.fresh_bucket))
        theirs, mine = self._source(source), self.slot.sources.get(source)
        if theirs is not None and mine is not None:
            pairs.append((theirs.bucket, mine.bucket))
        for there, here in pairs:
            told = (there.last_ns, there.packets, there.octets)
            if told != ((here.last_ns, here.packets, here.octets) if here is not None else (0, 0, 0)):
                return f"bucket: kernel {told}, model {here}"
        windows, place = self._windows(), (direction, traffic)
        there_ = (windows.window[direction][traffic], windows.count[direction][traffic])
        if there_ != self.slot.windows.get(place, (0, 0)):
            return f"window: kernel {there_}, model {self.slot.windows.get(place)}"
        return None


def _told(peer: layout.Peer | None) -> dict[str, object] | None:
    return None if peer is None else {name: getattr(peer, name) for name, *_ in layout.Peer._fields_ if name != "pad"}


@pytest.fixture(scope="module")
def tap() -> Iterator[Tap]:
    """On one CPU, whose look at the clock is all that counts then."""
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cpus)})
    with namespace():
        segment = Segment("br0")
        one, beside = segment.tap("tapa", MAC), segment.tap("tapb", CAST.macs[1])
        yield one
        one.close()
        beside.close()
    os.sched_setaffinity(0, cpus)


@pytest.fixture
def pair(tap: Tap) -> Iterator[Pair]:
    pin_dir = Path("/sys/fs/bpf") / f"hvr-{secrets.token_hex(4)}"
    made = Pair(tap, pin_dir)
    try:
        yield made
    finally:
        made.reader.close()
        made.kernel.close()
        remove_all(pin_dir)


def _packed(record: np.void) -> bytes:
    """A peer's record without the padding at its end."""
    return record.tobytes()[: ctypes.sizeof(layout.PeerKey) + layout.Peer.silent.offset + 1]


def dialogues(pair: Pair) -> str | None:
    """How what both hold of dialogues differs."""
    greeters = (pair.reader.greeters(), ReferenceReader(pair.model).greeters())
    held = (held_dialogues(pair.kernel._maps), pair.model.dialogues.held)
    theirs, mine = map(exact_dialogues, held, greeters)
    times = [sorted((one["greeter"]["last_ns"], one["greeter"]["lasted_ns"]) for one in each) for each in greeters]
    odd = sorted(theirs ^ mine) or ([] if times[0] == times[1] else times)
    return f"dialogues: {odd[:4]}" if odd else None


def settings(pair: Pair, maker: Maker) -> None:
    """Another policy, other limits: some strict, some wide, some over."""
    dice = maker.dice
    pair.bind(
        dice.choice(tuple(Mode)),
        addresses=dice.choice(((), BOUND)),
        quarantine_allows=dice.choice(((), (CAST.v4[1],), (CAST.v4[1], CAST.v6[1]))),
        may_serve_dhcp=dice.random() < 0.3,
        may_advertise_routes=dice.random() < 0.3,
        gateways=dice.choice(((), ("fe80::99", "10.77.0.9"))),
        network=dice.choice((None, None, None, "net")),
    )
    soon, ago = now_ns() + HOUR_NS, now_ns() - 1
    for direction, traffic in PLACES:
        if dice.random() < 0.3:
            packets, octets = dice.choice(((0.001, 0), (20, 0), (3000, 0), (0, 50), (0, 200_000), (500, 1_000_000)))
            end = soon if dice.random() < 0.8 else ago
            pair.order("set_limit", direction, traffic, packets_per_s=packets, octets_per_s=octets, end_ns=end)
        elif dice.random() < 0.5:
            pair.order("clear_limit", direction, traffic)
    if dice.random() < 0.5:
        pair.order("set_new_destinations", dice.choice((0.001, 50, 5000)), dice.choice((soon, ago)))
    else:
        pair.order("clear_new_destinations")
    gate = dice.choice((Gate.OPEN, Gate.OPEN, Gate.OPEN, Gate.QUARANTINE, Gate.ISOLATE))
    pair.order("set_gate", gate, dice.choice((soon, ago)))
    pair.order("set_proof", dice.choice((soon, soon, ago, 0)))
    for address in (*CAST.v4[1:3], CAST.v6[1], CAST.macs[1]):
        if dice.random() < 0.4:
            pair.order("set_peer", address, dice.choice((0, 5, 2000)), dice.choice((soon, ago)))
        else:
            pair.order("clear_peer", address)
    wires = [(d, t, dice.choice((0, 1, 3, 20))) for d, t in PLACES if t is not None]
    pair.order("set_tripwires", wires)


def compare(pair: Pair, seed: int, frames: int) -> None:
    maker = Maker(CAST, seed)
    for number in range(frames):
        if number % 250 == 0:
            settings(pair, maker)
        frame, gso_size = maker.frame(), maker.gso_size()
        while not runnable(frame):
            frame = maker.frame()
        direction = maker.dice.choice(tuple(Direction))
        difference = pair.send(direction, frame, gso_size)
        assert difference is None, (
            f"seed {seed}, frame {number}, {direction.name}, gso {gso_size}, {frame.hex()}: {difference}"
        )
        if maker.dice.random() < 0.02:
            time.sleep(maker.dice.random() * 0.02)
    assert pair.trips == ReferenceReader(pair.model).wait(0), f"seed {seed}: tripwires"
    theirs, mine = (sorted(map(_packed, reader.peers())) for reader in (pair.reader, ReferenceReader(pair.model)))
    assert theirs == mine, f"seed {seed}"
    assert dialogues(pair) is None, f"seed {seed}"
    assert pair.reader.counters().tobytes() == ReferenceReader(pair.model).counters().tobytes(), f"seed {seed}"
    assert pair.holders() == pair.model.neighbours.holders, f"seed {seed}"


@pytest.mark.req("T-CORE-4", "T-NET-1")
@pytest.mark.parametrize("seed", range(5))
def test_random_and_mutated_frames_agree(pair: Pair, seed: int) -> None:
    compare(pair, seed, 2000)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1000, 1040))
def test_many_random_and_mutated_frames_agree(pair: Pair, seed: int) -> None:
    compare(pair, seed, 10_000)


def test_ports_tried_across_seconds_agree(pair: Pair) -> None:
    """What was tried in the second before this one is kept, what is older is forgotten."""
    pair.bind(Mode.MONITOR)
    for pause_s in (0.0, 1.05, 0.3, 2.2):
        time.sleep(pause_s)
        for port in range(1, 40):
            frame = ethernet(MAC, CAST.macs[1], 0x0800, ipv4(BOUND[0], CAST.v4[1], 17, udp(999, port)))
            assert pair.send(Direction.OUT, frame) is None


def test_the_comparison_can_fail(pair: Pair) -> None:
    pair.bind(Mode.MONITOR)
    frame = ethernet(MAC, CAST.macs[1], 0x0800, ipv4(BOUND[0], CAST.v4[1], 17, udp(999, 80)))
    pair.slot.counters.failures += 1
    assert "failures" in (pair.send(Direction.OUT, frame) or "")


def test_who_has_not_proven_its_address_is_answered_or_held_in_both(pair: Pair) -> None:
    pair.bind(Mode.ENFORCE, addresses=BOUND)
    pair.order("set_gate", Gate.OPEN, 0)
    pair.order("set_proof", now_ns() + HOUR_NS)
    before, limited = pair.slot.counters.answered, pair.slot.cells[Direction.IN][TrafficClass.FRAGMENT].limited
    begins = tcp(999, 80, 2)
    whole = ethernet(CAST.macs[1], MAC, 0x0800, ipv4(CAST.v4[1], BOUND[0], 6, begins))
    part = ethernet(CAST.macs[1], MAC, 0x0800, ipv4(CAST.v4[1], BOUND[0], 6, begins[:16], fragment=0x2000))
    for address in (CAST.v4[1], CAST.v4[2], CAST.v6[1]):
        pair.order("clear_peer", address)
    for traffic in (TrafficClass.SYN, TrafficClass.FRAGMENT, None):
        pair.order("clear_limit", Direction.IN, traffic)
    assert pair.send(Direction.IN, whole) is None
    assert pair.send(Direction.IN, part) is None
    assert pair.slot.counters.answered - before == 1
    assert pair.slot.cells[Direction.IN][TrafficClass.FRAGMENT].limited - limited == 1


def test_a_wire_that_springs_too_often_loses_events_in_both(pair: Pair) -> None:
    pair.bind(Mode.MONITOR)
    pair.listening = False
    frame = ethernet(MAC, CAST.macs[1], 0x0800, ipv4(BOUND[0], CAST.v4[1], 17, udp(999, 80)))
    lost = 0
    while not lost:
        count = pair.slot.windows.get((Direction.OUT, TrafficClass.UDP), (0, 0))[1]
        pair.order("set_tripwires", [(Direction.OUT, TrafficClass.UDP, count + 1)])
        assert pair.send(Direction.OUT, frame) is None
        lost = pair.slot.counters.events_lost
    assert len(pair.reader.wait(0)) == len(ReferenceReader(pair.model).wait(0)) == MAX_EVENTS


@pytest.mark.parametrize("direction", Direction)
def test_frames_on_a_real_tap_agree(pair: Pair, direction: Direction) -> None:
    """What a test run does not take: frames cut off anywhere, and tags that the kernel takes off before our program."""
    pair.bind(
        Mode.MONITOR, addresses=BOUND, network="alone"
    )  # what the bridge floods teaches a neighbour nothing of it
    maker = Maker(CAST, 7)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as to_vm:
        to_vm.bind((pair.tap.name, 0))
        for number in range(1000):
            frame, tagged = maker.frame()[:1514], False
            if number % 2:
                frame = frame[: maker.dice.randrange(14, min(len(frame), 90) + 1)]
            if direction is Direction.IN:
                to_vm.send(frame)
            else:
                if number % 3 == 0:
                    frame = frame[:12] + b"\x81\x00\x00\x05" + frame[12:]
                pair.tap.send(frame)
                if frame[12:14] in TAGS:
                    if len(frame) < 20:
                        continue  # the kernel itself drops a tag with nothing behind it
                    frame, tagged = frame[:12] + frame[16:], True
            pair.model.handle(pair.tap.ifindex, direction, frame, now_ns(), vlan=tagged)
    deadline = time.monotonic() + 5
    while pair._counters() != bytes(pair.slot.counters) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert unlike(pair._counters(), pair.slot.counters) == []


def test_the_frames_are_of_every_class_and_forged_in_every_way() -> None:
    maker = Maker(CAST, 3)
    identity = Identity(layout.pack_mac(MAC), frozenset(map(layout.pack_address, BOUND)))
    frames = [read(one, len(one)) for one in (maker.frame() for _ in range(5000))]
    assert {frame.traffic for frame in frames} == set(TrafficClass)
    assert {identity.forgery(frame, *(lambda _: False,) * 3) for frame in frames} == {*ForgedKind, None}


class Talk:
    """One TCP connection of the VM, told in whole or in part, with some of what goes wrong."""

    def __init__(self, dice: random.Random) -> None:
        self.out = dice.random() < 0.5
        """Whether the VM is the client."""
        self.six = dice.random() < 0.3
        self.ports = (dice.randrange(40000, 40004), dice.choice((21, 2222)))
        self.numbers = [dice.choice((7, 0xFFFF_FFFA, dice.getrandbits(32))) for _ in range(2)]
        self.steps = self._steps(dice)

    def _steps(self, dice: random.Random) -> list[tuple[Direction, bytes]]:
        """Frames in order: who was told what, and what ends it, now and then twice, out of order or not at all."""
        told: list[tuple[Direction, bytes]] = [self._says(0, 0x02)]
        self.numbers[0] += 1
        told.append(self._says(1, 0x12))
        self.numbers[1] += 1
        if dice.random() < 0.2:
            told.append(self._says(0, 0x18, dice.choice((4, 44, 45, 200))))
        for who in (1, 0, 1, 0, 1)[: dice.randrange(6)]:
            size = dice.choice((0, 20, 20, 21, 33, 60, 3000 if dice.random() < 0.1 else 20))
            told.append(self._says(who, 0x18, size, stale=dice.random() < 0.05))
        for who, flags in dice.choice((((0, 0x11), (1, 0x11)), ((1, 0x11), (0, 0x11)), ((0, 0x14),), ((1, 0x14),))):
            bogus = dice.random() < 0.15
            told.append(self._says(who, flags if dice.random() < 0.9 else flags & 0xEF, dice.choice((0, 0, 9)), bogus))
        if dice.random() < 0.2:
            told.insert(dice.randrange(len(told)), dice.choice(told))
        return told[: dice.choice((len(told), len(told), dice.randrange(1, len(told) + 1)))]

    def _says(self, who: int, flags: int, size: int = 0, stale: bool = False) -> tuple[Direction, bytes]:
        mine, theirs = (number & 0xFFFF_FFFF for number in (self.numbers[who], self.numbers[1 - who]))
        ports = self.ports if who == 0 else self.ports[::-1]
        number = (mine + 500) & 0xFFFF_FFFF if stale else mine
        head = struct.pack("!HHIIBBHHH", *ports, number, theirs if flags & 0x10 else 0, 0x50, flags, 9, 0, 0)
        if not stale:
            self.numbers[who] += size + (flags & 1)
        direction = Direction.OUT if (who == 0) == self.out else Direction.IN
        ends = (0, 1) if direction is Direction.OUT else (1, 0)
        macs = [CAST.macs[end] for end in ends]
        addresses = [(CAST.v6 if self.six else CAST.v4)[end] for end in ends]
        made = ipv6(*addresses, 6, head + bytes(size)) if self.six else ipv4(*addresses, 6, head + bytes(size))
        return direction, ethernet(*macs, 0x86DD if self.six else 0x0800, made)


@pytest.mark.parametrize("seed", range(3))
def test_dialogues_agree(pair: Pair, seed: int) -> None:
    """Connections side by side, of which either end may be the VM, and either end ends them in every way."""
    pair.bind(Mode.ENFORCE, addresses=BOUND)
    dice = random.Random(f"talks {seed}")
    talks: list[Talk] = []
    for number in range(3000):
        if len(talks) < 6:
            talks.append(Talk(dice))
        talk = dice.choice(talks)
        direction, frame = talk.steps.pop(0)
        if not talk.steps:
            talks.remove(talk)
        difference = pair.send(direction, frame)
        assert difference is None, f"seed {seed}, frame {number}, {direction.name}, {frame.hex()}: {difference}"
        if number % 50 == 0 or number > 2990:
            assert dialogues(pair) is None, f"seed {seed}, frame {number}, {frame.hex()}"
    counters = pair.slot.counters
    greeters = ReferenceReader(pair.model).greeters()["greeter"]
    assert counters.dialogues > counters.concluded > 100
    assert counters.greeters == len(greeters) >= 8, "both services, both directions, both kinds of address"
    assert all(greeters[name].sum() for name in ("curt", "alike", "varied", "lasted_ns"))
    assert greeters["ended"].sum() > greeters["curt"].sum() > greeters["alike"].sum() > greeters["varied"].sum()


def test_a_wrong_count_of_dialogues_is_found(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hypervigil.hypervisor.reference.dialogues.NAME", 43)
    with pytest.raises(AssertionError, match=r"dialogues|peer"):
        test_dialogues_agree(pair, 0)
