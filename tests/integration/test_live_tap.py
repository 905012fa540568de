"""What only a live tap shows: segments not cut up yet, checksums not made yet, 14 bytes that can be read at once."""

import secrets
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import numpy as np
import pytest

from hypervigil.host import policyfile
from hypervigil.host.inventory import compile_ports
from hypervigil.hypervisor.adapters.ebpf.dataplane import DataPlane, remove_all
from hypervigil.hypervisor.adapters.ebpf.reader import DataPlaneReader
from hypervigil.model.ids import PortId, VmId
from hypervigil.model.port_policy import Fabric, FabricChange
from hypervigil.model.traffic import Direction, ForgedKind, TrafficClass
from hypervigil.model.vm import Inventory, Nic, Vm
from hypervigil.network.compile import difference
from tests.integration.test_dataplane import nd
from tests.integration.widetap import GSO_TCP4, GSO_TCP6, NEEDS_CHECKSUM, Header, QueuesTap, VirtioTap
from tests.integration.wirelab import Segment, Tap, arp, checksum, ethernet, ipv4, ipv6, namespace, pseudo, run

pytestmark = pytest.mark.root

MACS = {"a": "52:54:00:ad:00:01", "b": "52:54:00:ad:00:02", "c": "52:54:00:ad:00:03"}
V4 = {"a": "10.75.0.1", "b": "10.75.0.2", "c": "10.75.0.3"}
V6 = {"a": "fd75::1", "b": "fd75::2", "c": "fd75::3"}
EVERYBODY = "ff:ff:ff:ff:ff:ff"
ELSE = "10.75.0.99"
HOUR_NS = 3600 * 10**9
VMS = "".join(
    f'[[vm]]\nname = "{name}"\naddresses = ["{four}", "{V6[name]}"]\nbudget = {{ broadcasts_per_s = "unbounded" }}\n'
    for name, four in V4.items()
)
BRIDGED = 'mode = "enforce"\n[[network]]\nname = "net"\nbridge = "br0"\n' + VMS
STRAIGHT = BRIDGED + '[[path]]\nname = "all"\nfrom = "any"\nto = "any"\nservices = "any"\n'
MSS = 1448
LINEAR = 14
"""Bytes of a frame that lie together: the shortest that the kernel takes."""


@dataclass
class Rig:
    """Two guests with virtio's offloads, and one without; all may reach all."""

    a: VirtioTap
    b: VirtioTap
    c: Tap
    plane: DataPlane
    reader: DataPlaneReader
    fabric: Fabric

    def put(self, text: str) -> None:
        """Let the bridge carry frames, or let them go straight past it."""
        taps = {"a": self.a, "b": self.b, "c": self.c}
        inventory = Inventory(
            tuple(
                Vm(VmId(name), name, 1, 1, (Nic(PortId(tap.mac), tap.name, tap.ifindex, "br0"),))
                for name, tap in taps.items()
            )
        )
        compiled = compile_ports(inventory, policyfile.parse(text))
        for port in compiled.ports:
            self.plane.attach(port)
        change = difference(self.fabric, compiled.fabric)
        self.plane.change_fabric(change if compiled.fabric.grants else FabricChange(whole=True))
        self.fabric = compiled.fabric

    def counters(self, tap: Tap) -> np.void:
        return self.reader.counters()[self.plane.ports()[PortId(tap.mac)]].copy()

    def straight(self) -> int:
        """Packets of a's that went past the bridge."""
        return sum(int(word) for word in self.reader.crossings()[self.plane.ports()[PortId(self.a.mac)]]["straight"])


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    pin_dir = Path("/sys/fs/bpf") / f"hvl-{secrets.token_hex(4)}"
    with namespace():
        segment = Segment("br0")
        a = segment.join(VirtioTap("tapa", MACS["a"]))
        b = segment.join(VirtioTap("tapb", MACS["b"]))
        c = segment.tap("tapc", MACS["c"])
        for tap in (a, b, c):
            tap.send(ethernet(tap.mac, EVERYBODY, 0x0806, arp(1, tap.mac, "0.0.0.0", "10.99.99.99")))
        plane = DataPlane.open(pin_dir, max_ports=64)
        try:
            yield Rig(a, b, c, plane, DataPlaneReader(plane.sensor_fds()), Fabric())
        finally:
            remove_all(pin_dir)
            for tap in (a, b, c):
                tap.close()


def segment(source: str, destination: str, to: str, payload: bytes, mss: int = MSS) -> tuple[Header, bytes]:
    """A TCP segment as a guest hands it over: to be cut up, its checksum not made."""
    four = ip_address(source).version == 4
    partial = checksum(pseudo(source, destination, 6, 20 + len(payload)))
    tcp = struct.pack("!HHIIBBHHH", 1000, 2000, 1, 1, 0x50, 0x10, 1024, partial, 0) + payload
    packet = ipv4(source, destination, 6, tcp) if four else ipv6(source, destination, 6, tcp)
    start = 34 if four else 54
    kind = (GSO_TCP4 if four else GSO_TCP6) if len(payload) > mss else 0
    header = Header(NEEDS_CHECKSUM, kind, start + 20, mss if kind else 0, start, 16)
    return header, ethernet(MACS["a"], to, 0x0800 if four else 0x86DD, packet)


def tcp_counts(before: np.void, after: np.void, direction: Direction) -> tuple[int, int]:
    one, other = (counts["by_class"][direction][TrafficClass.TCP] for counts in (before, after))
    return int(other["packets"] - one["packets"]), int(other["octets"] - one["octets"])


@pytest.mark.req("T-NET-1", "T-CORE-4")
@pytest.mark.parametrize("way", [BRIDGED, STRAIGHT], ids=["bridged", "straight"])
@pytest.mark.parametrize("version", [4, 6])
def test_a_segment_arrives_whole_and_counts_as_its_packets(rig: Rig, way: str, version: int) -> None:
    rig.put(way)
    addresses, head = (V4, 54) if version == 4 else (V6, 74)
    payload = secrets.token_bytes(9 * MSS + 100)
    header, frame = segment(addresses["a"], addresses["b"], MACS["b"], payload)
    out, into, straight = rig.counters(rig.a), rig.counters(rig.b), rig.straight()
    rig.b.received()
    rig.a.send(frame, header)
    [(there, got)] = rig.b.arrived(0.1)
    assert got == frame, "one piece, intact"
    assert (there.gso_type, there.gso_size, there.flags & 1) == (header.gso_type, MSS, NEEDS_CHECKSUM)
    on_the_wire = 10, 10 * head + len(payload)
    assert tcp_counts(out, rig.counters(rig.a), Direction.OUT) == on_the_wire
    assert tcp_counts(into, rig.counters(rig.b), Direction.IN) == on_the_wire
    assert rig.straight() - straight == (10 if way == STRAIGHT else 0)


@pytest.mark.parametrize("way", [BRIDGED, STRAIGHT], ids=["bridged", "straight"])
@pytest.mark.parametrize("packets", [1, 7], ids=["a packet", "a segment"])
def test_a_guest_without_offloads_gets_whole_packets_with_their_checksums(rig: Rig, way: str, packets: int) -> None:
    rig.put(way)
    payload = secrets.token_bytes(packets * 1000)
    header, frame = segment(V4["a"], V4["c"], MACS["c"], payload, 1000)
    rig.c.received()
    rig.a.send(frame, header)
    got = rig.c.received(0.1)
    assert [len(one) for one in got] == [54 + 1000] * packets
    assert b"".join(one[54:] for one in got) == payload
    for one in got:
        assert checksum(pseudo(V4["a"], V4["c"], 6, len(one) - 34) + one[34:]) == 0xFFFF


@pytest.mark.req("T-CORE-4")
@pytest.mark.parametrize(("packets_per_s", "octets_per_s"), [(1000, 0), (0, 1_000_000)])
def test_segments_are_limited_by_what_they_are_on_the_wire(rig: Rig, packets_per_s: int, octets_per_s: int) -> None:
    rig.put(STRAIGHT)
    port, mss = PortId(MACS["a"]), 200
    header, frame = segment(V4["a"], V4["b"], MACS["b"], secrets.token_bytes(10 * mss), mss)
    packets, octets = 10, 10 * (54 + mss)
    wanted = packets_per_s / packets if packets_per_s else octets_per_s / octets
    end = time.clock_gettime_ns(time.CLOCK_BOOTTIME) + HOUR_NS
    rig.b.received()
    rig.plane.set_limit(
        port, Direction.OUT, TrafficClass.TCP, packets_per_s=packets_per_s, octets_per_s=octets_per_s, end_ns=end
    )
    try:
        for _ in range(1000):  # the burst, and more
            rig.a.send(frame, header)
        rig.b.received(0.05)
        sent = arrived = 0
        began = time.monotonic()
        while (elapsed := time.monotonic() - began) < 3.0:
            while sent < elapsed * wanted * 4:
                rig.a.send(frame, header)
                sent += 1
            arrived += len(rig.b.received(0.001))
    finally:
        rig.plane.clear_limit(port, Direction.OUT, TrafficClass.TCP)
    arrived += len(rig.b.received(0.05))
    assert arrived == pytest.approx(wanted * elapsed, rel=0.05)


def large(payload: bytes) -> bytes:
    """Long enough that the kernel lets a guest say how much of it lies together."""
    return payload.ljust(6000, b"\0")


def tcp(size: int = 5900) -> bytes:
    return struct.pack("!HHIIBBHHH", 1000, 2000, 1, 1, 0x50, 0x10, 1024, 0, 0) + bytes(size)


HONEST = {
    "IPv4": (0x0800, ipv4(V4["a"], V4["b"], 6, tcp())),
    "IPv6": (0x86DD, ipv6(V6["a"], V6["b"], 6, tcp())),
    "ARP": (0x0806, large(arp(2, MACS["a"], V4["a"], V4["b"]))),
    "ND": (0x86DD, ipv6(V6["a"], V6["b"], 58, large(nd(136, V6["a"], 2, MACS["a"])))),
}
FORGED = {
    ForgedKind.IPV4: (0x0800, ipv4(ELSE, V4["b"], 6, tcp())),
    ForgedKind.IPV6: (0x86DD, ipv6("fd75::99", V6["b"], 6, tcp())),
    ForgedKind.ARP: (0x0806, large(arp(2, MACS["a"], ELSE, V4["b"]))),
    ForgedKind.ND: (0x86DD, ipv6(V6["a"], V6["b"], 58, large(nd(136, "fd75::99", 2, MACS["a"])))),
    ForgedKind.DHCP_SERVER: (0x0800, ipv4(V4["a"], V4["b"], 17, large(struct.pack("!HHHH", 67, 68, 6000, 0)))),
    ForgedKind.ROUTER_ADVERTISEMENT: (0x86DD, ipv6(V6["a"], V6["b"], 58, large(b"\x86" + bytes(15)))),
}


@pytest.fixture
def jumbo(rig: Rig) -> Iterator[None]:
    """Frames larger than a page pass."""
    for name in ("tapa", "tapb", "br0"):
        run("ip", "link", "set", name, "mtu", "9000")
    yield
    for name in ("tapa", "tapb", "br0"):
        run("ip", "link", "set", name, "mtu", "1500")


@pytest.mark.req("T-NET-1", "A109")
@pytest.mark.usefixtures("jumbo")
@pytest.mark.parametrize("way", [BRIDGED, STRAIGHT], ids=["bridged", "straight"])
def test_who_sends_is_checked_though_only_14_bytes_lie_together(rig: Rig, way: str) -> None:
    def crosses(ethertype: int, payload: bytes) -> bool:
        frame = ethernet(MACS["a"], MACS["b"], ethertype, payload)
        rig.b.received()
        rig.a.send(frame, Header(hdr_len=LINEAR))
        return frame in [got for _, got in rig.b.arrived(0.05)]

    rig.put(way.replace('mode = "enforce"', 'mode = "monitor"'))
    before = rig.counters(rig.a)["forged"]
    assert all(crosses(*frame) for frame in FORGED.values()), "the control"
    rig.put(way)
    assert [name for name, frame in HONEST.items() if not crosses(*frame)] == []
    assert [kind.name for kind, frame in FORGED.items() if crosses(*frame)] == []
    counted = rig.counters(rig.a)["forged"] - before
    assert {kind: int(n) for kind, n in zip(ForgedKind, counted, strict=True) if n} == dict.fromkeys(FORGED, 2)


@pytest.mark.req("T-NET-1", "A109")
def test_a_segment_of_which_only_14_bytes_lie_together(rig: Rig) -> None:
    """The kernel itself needs a checksum's place to be there, so a segment without one is sent."""
    rig.put(STRAIGHT)
    for source, passes in ((V4["a"], True), (ELSE, False)):
        _, frame = segment(source, V4["b"], MACS["b"], secrets.token_bytes(10 * MSS))
        before = rig.counters(rig.a)
        rig.b.received()
        rig.a.send(frame, Header(0, GSO_TCP4, LINEAR, MSS))
        got = rig.b.arrived(0.1)
        assert bool(got) is passes
        packets, _ = tcp_counts(before, rig.counters(rig.a), Direction.OUT)
        assert packets == 10
        assert int((rig.counters(rig.a)["forged"] - before["forged"])[ForgedKind.IPV4]) == (not passes)


def udp(size: int) -> bytes:
    """A datagram in a frame of so many bytes, and no padding behind it."""
    payload = struct.pack("!HHHH", 1000, 2000, size - 34, 0) + bytes(size - 42)
    return bytes.fromhex((MACS["b"] + MACS["a"]).replace(":", "")) + b"\x08\0" + ipv4(V4["a"], V4["b"], 17, payload)


@pytest.mark.parametrize("size", [42, 59, 60, 1513, 1514])
def test_the_shortest_and_the_longest_frames_pass(rig: Rig, size: int) -> None:
    rig.put(STRAIGHT)
    rig.b.received()
    rig.a.send(udp(size))
    assert [got for _, got in rig.b.arrived(0.1)] == [udp(size)]


@pytest.mark.parametrize("size", [14, 33, 41])
def test_a_frame_that_ends_within_its_headers_does_not(rig: Rig, size: int) -> None:
    rig.put(STRAIGHT)
    before = rig.counters(rig.a)["forged"]
    rig.b.received()
    rig.a.send(udp(42)[:size])
    assert rig.b.arrived(0.05) == []
    counted = rig.counters(rig.a)["forged"] - before
    assert counted[ForgedKind.UNREADABLE] == counted.sum() == 1


def test_the_largest_segment_passes(rig: Rig) -> None:
    rig.put(STRAIGHT)
    size = 65535 - 54
    header, frame = segment(V4["a"], V4["b"], MACS["b"], secrets.token_bytes(size))
    before = rig.counters(rig.a)
    rig.b.received()
    rig.a.send(frame, header)
    assert [got for _, got in rig.b.arrived(0.1)] == [frame]
    packets = -(-size // MSS)
    assert tcp_counts(before, rig.counters(rig.a), Direction.OUT) == (packets, packets * 54 + size)


@pytest.mark.req("T-NET-1", "A109")
def test_no_queue_is_a_way_around(rig: Rig) -> None:
    pin_dir = Path("/sys/fs/bpf") / f"hvl-{secrets.token_hex(4)}"
    with namespace():
        there = Segment("br1")
        queues, tap = there.join(QueuesTap("tapq", MACS["a"], 4)), there.tap("tapr", MACS["b"])
        plane = DataPlane.open(pin_dir, max_ports=64)
        try:
            for enforced in (False, True):
                if enforced:
                    named = Nic(PortId(queues.mac), queues.name, queues.ifindex, "br0")
                    vms = Inventory((Vm(VmId("a"), "a", 1, 1, (named,)),))
                    [port] = compile_ports(vms, policyfile.parse(BRIDGED)).ports
                    plane.attach(port)
                for number, fd in enumerate(queues.fds):
                    for source in (V4["a"], ELSE):
                        queues.fd = fd
                        frame = ethernet(MACS["a"], MACS["b"], 0x0800, ipv4(source, V4["b"], 17, bytes([number] * 30)))
                        tap.received()
                        queues.send(frame)
                        assert tap.gets(frame, 0.05) is (not enforced or source == V4["a"])
        finally:
            remove_all(pin_dir)
            tap.close()
            queues.close()
