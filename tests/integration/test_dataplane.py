"""The data plane on real taps: what is counted, dropped, limited, ended, pinned, repaired and removed."""

import os
import secrets
import socket
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import numpy as np
import pytest

from hypervigil.hypervisor import handover
from hypervigil.hypervisor.adapters.ebpf.dataplane import DataPlane, DataPlaneError, Gate, remove_all
from hypervigil.hypervisor.adapters.ebpf.reader import DataPlaneReader
from hypervigil.model.ids import PortId, VmId
from hypervigil.model.policy import Mode
from hypervigil.model.port_policy import PortPolicy, link_local
from hypervigil.model.traffic import Direction, ForgedKind, TrafficClass
from tests.integration.wirelab import (
    Segment,
    Tap,
    announcement,
    arp,
    ethernet,
    icmp,
    ipv4,
    ipv6,
    namespace,
    run,
    tcp,
    udp,
)

pytestmark = pytest.mark.root

A_MAC, B_MAC = "52:54:00:aa:00:01", "52:54:00:aa:00:02"
A, B, ELSE = "10.77.0.1", "10.77.0.2", "10.77.0.99"
A6, B6 = "fd77::1", "fd77::2"
HOUR_NS = 3600 * 10**9


def now_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Rig:
    def __init__(self, segment: Segment, a: Tap, b: Tap, plane: DataPlane) -> None:
        self.segment, self.a, self.b, self.plane = segment, a, b, plane
        self.reader = DataPlaneReader(plane.sensor_fds())

    def policy(self, tap: Tap, mode: Mode, **changes) -> PortPolicy:
        addresses = (A, A6) if tap is self.a else (B, B6)
        values = {"addresses": addresses, **changes}
        return PortPolicy(PortId(tap.mac), VmId(tap.name), tap.name, tap.ifindex, mode, **values)

    def bind(self, mode: Mode = Mode.ENFORCE, **changes) -> None:
        self.plane.attach(self.policy(self.a, mode, **changes))
        self.plane.attach(self.policy(self.b, mode))

    def counters(self, tap: Tap) -> np.void:
        return self.reader.counters()[self.plane.ports()[PortId(tap.mac)]]

    def delivered(self, frame: bytes) -> bool:
        """Whether b gets it."""
        self.b.received()
        self.a.send(frame)
        return self.b.gets(frame, 0.05)


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    pin_dir = Path("/sys/fs/bpf") / f"hvd-{secrets.token_hex(4)}"
    with namespace():
        segment = Segment("br0")
        a, b = segment.tap("tapa", A_MAC), segment.tap("tapb", B_MAC)
        b.send(ethernet(B_MAC, ALL, 0x0806, arp(1, B_MAC, B, A)))
        plane = DataPlane.open(pin_dir, max_ports=64)
        try:
            yield Rig(segment, a, b, plane)
        finally:
            remove_all(pin_dir)
            a.close()
            b.close()


def to_b(payload: bytes, ethertype: int = 0x0800, source: str = A_MAC) -> bytes:
    return ethernet(source, B_MAC, ethertype, payload)


FORGERIES = {
    ForgedKind.MAC: to_b(ipv4(A, B, 17, udp(1000, 2000)), source="52:54:00:aa:00:77"),
    ForgedKind.IPV4: to_b(ipv4(ELSE, B, 17, udp(1000, 2000))),
    ForgedKind.IPV6: to_b(ipv6("fd77::99", B6, 17, udp(1000, 2000)), 0x86DD),
    ForgedKind.ARP: ethernet(A_MAC, B_MAC, 0x0806, arp(2, A_MAC, ELSE, B)),
    ForgedKind.ND: to_b(
        ipv6(A6, B6, 58, b"\x88\0\0\0\x20\0\0\0" + bytes.fromhex("fd77" + "00" * 13 + "99") + b"\2\1" + b"\0" * 6),
        0x86DD,
    ),
    ForgedKind.DHCP_SERVER: to_b(ipv4(A, B, 17, udp(67, 68))),
    ForgedKind.ROUTER_ADVERTISEMENT: to_b(ipv6("fe80::1", B6, 58, b"\x86\0\0\0" + b"\0" * 12), 0x86DD),
    ForgedKind.VLAN: to_b(b"\0\5\x08\0" + ipv4(A, B, 17, udp(1000, 2000)), 0x8100),
    ForgedKind.ETHERTYPE: to_b(b"\0" * 46, 0x88CC),
    ForgedKind.UNREADABLE: to_b(b"\x35" + b"\0" * 45),
}
ADVERTISEMENT = b"\x86\0\0\0" + b"\0" * 12
"""An ICMPv6 router advertisement."""
OPTIONS = b"\x3a\0\1\4" + b"\0" * 4
"""Eight bytes of IPv6 options, and then ICMPv6."""


def nd(kind: int, target: str, option: int, mac: str) -> bytes:
    head = bytes([kind]) + b"\0\0\0\x20\0\0\0"
    return head + ip_address(target).packed + bytes([option, 1]) + bytes.fromhex(mac.replace(":", ""))


OTHER_MAC = "52:54:00:aa:00:77"
ALL = "ff:ff:ff:ff:ff:ff"
CLAIM = b"\x87" + bytes(7) + ip_address("fd77::99").packed
"""Who looks whether an address is free."""
HIDDEN = b"\x3c\0\0\1\0\0\0\1" + b"\x11\1\1\x0c" + bytes(4)
"""A first fragment that ends within its options, of which eight bytes are to come."""
VARIANTS = {
    "IPv4 none but not DHCP": (ForgedKind.IPV4, to_b(ipv4("0.0.0.0", B, 6, tcp(1000, 80, 2)))),
    "IPv4 in a fragment": (ForgedKind.IPV4, to_b(ipv4(ELSE, B, 17, b"x" * 24, fragment=0x2001))),
    "IPv6 none but not ICMP": (ForgedKind.IPV6, to_b(ipv6("::", B6, 17, udp(1000, 2000)), 0x86DD)),
    "IPv6 behind options": (ForgedKind.IPV6, to_b(ipv6("fd77::99", B6, 60, OPTIONS + icmp(128)), 0x86DD)),
    "ARP with another's MAC": (ForgedKind.ARP, ethernet(A_MAC, B_MAC, 0x0806, arp(2, OTHER_MAC, A, B))),
    "ARP that asks for its own": (ForgedKind.ARP, ethernet(A_MAC, ALL, 0x0806, arp(1, A_MAC, B, B))),
    "ARP that takes an address": (
        ForgedKind.IPV4,
        ethernet(A_MAC, ALL, 0x0806, arp(1, A_MAC, "0.0.0.0", B)),
    ),
    "ND solicitation": (ForgedKind.ND, to_b(ipv6(A6, B6, 58, nd(135, B6, 1, OTHER_MAC)), 0x86DD)),
    "ND advertisement": (ForgedKind.ND, to_b(ipv6(A6, B6, 58, nd(136, A6, 2, OTHER_MAC)), 0x86DD)),
    "ND behind options": (ForgedKind.ND, to_b(ipv6(A6, B6, 60, OPTIONS + nd(136, "fd77::99", 2, A_MAC)), 0x86DD)),
    "DHCPv6 server": (ForgedKind.DHCP_SERVER, to_b(ipv6(A6, B6, 17, udp(547, 546)), 0x86DD)),
    "DHCP server in a fragment": (ForgedKind.DHCP_SERVER, to_b(ipv4(A, B, 17, udp(67, 68), fragment=0x2000))),
    "RA behind options": (ForgedKind.ROUTER_ADVERTISEMENT, to_b(ipv6(A6, B6, 60, OPTIONS + ADVERTISEMENT), 0x86DD)),
    "RA in a fragment": (
        ForgedKind.ROUTER_ADVERTISEMENT,
        to_b(ipv6(A6, B6, 44, b"\x3a\0\0\1\0\0\0\1" + ADVERTISEMENT), 0x86DD),
    ),
    "RA hidden in a later fragment": (
        ForgedKind.UNREADABLE,
        to_b(ipv6(A6, B6, 44, b"\x3c\0\0\1\0\0\0\1" + OPTIONS), 0x86DD)[:70],
    ),
    "UDP behind a fragment's end": (
        ForgedKind.UNREADABLE,
        to_b(ipv6(A6, B6, 44, HIDDEN) + bytes(8) + udp(1000, 2000), 0x86DD),
    ),
    "UDP behind an IPv4 fragment's end": (
        ForgedKind.UNREADABLE,
        to_b(ipv4(A, B, 17, b"", fragment=0x2000) + udp(1000, 2000)),
    ),
    "another's link-local address": (
        ForgedKind.IPV6,
        to_b(ipv6(link_local(B_MAC), B6, 17, udp(1000, 2000)), 0x86DD),
    ),
    "ND advertisement of another's link-local address": (
        ForgedKind.ND,
        to_b(ipv6(A6, B6, 58, nd(136, link_local(B_MAC), 2, A_MAC)), 0x86DD),
    ),
    "ND that takes an address": (ForgedKind.IPV6, to_b(ipv6("::", "ff02::1", 58, CLAIM), 0x86DD)),
    "DHCP server at another port": (ForgedKind.DHCP_SERVER, to_b(ipv4(A, B, 17, udp(1067, 68)))),
    "DHCPv6 server at another port": (ForgedKind.DHCP_SERVER, to_b(ipv6(A6, B6, 17, udp(1547, 546)), 0x86DD)),
    "IPv6 redirect": (ForgedKind.ROUTER_ADVERTISEMENT, to_b(ipv6("fe80::1", B6, 58, nd(137, A6, 2, A_MAC)), 0x86DD)),
    "IPv4 redirect": (ForgedKind.ROUTER_ADVERTISEMENT, to_b(ipv4(A, B, 1, icmp(5)))),
    "VLAN of a provider": (ForgedKind.VLAN, to_b(b"\0\5\x08\0" + ipv4(A, B, 17, udp(1000, 2000)), 0x88A8)),
    "VLAN with another's MAC": (ForgedKind.VLAN, to_b(b"\0\5\x08\0" + ipv4(A, B, 17, udp(1, 2)), 0x8100, OTHER_MAC)),
    "RARP of another": (ForgedKind.ETHERTYPE, ethernet(A_MAC, ALL, 0x8035, announcement(A_MAC, of=OTHER_MAC))),
    "RARP that answers": (ForgedKind.ETHERTYPE, ethernet(A_MAC, ALL, 0x8035, announcement(A_MAC, operation=4))),
    "RARP that names an address": (ForgedKind.ETHERTYPE, ethernet(A_MAC, ALL, 0x8035, announcement(A_MAC, address=A))),
    "RARP to one": (ForgedKind.ETHERTYPE, to_b(announcement(A_MAC), 0x8035)),
    "RARP by another": (ForgedKind.MAC, ethernet(OTHER_MAC, ALL, 0x8035, announcement(OTHER_MAC))),
    "a length for ethertype": (ForgedKind.ETHERTYPE, to_b(b"\xaa\xaa\3" + b"\0" * 43, 46)),
}
HONEST = {
    TrafficClass.SYN: to_b(ipv4(A, B, 6, tcp(1000, 80, 0x02))),
    TrafficClass.SYNACK: to_b(ipv4(A, B, 6, tcp(1000, 80, 0x12))),
    TrafficClass.RST: to_b(ipv4(A, B, 6, tcp(1000, 80, 0x04))),
    TrafficClass.TCP: to_b(ipv4(A, B, 6, tcp(1000, 80, 0x10))),
    TrafficClass.DNS: to_b(ipv4(A, B, 17, udp(1000, 53))),
    TrafficClass.UDP: to_b(ipv4(A, B, 17, udp(1000, 2000))),
    TrafficClass.ICMP: to_b(ipv4(A, B, 1, icmp(8))),
    TrafficClass.ARP: ethernet(A_MAC, B_MAC, 0x0806, arp(1, A_MAC, A, B)),
    TrafficClass.FRAGMENT: to_b(ipv4(A, B, 17, udp(1000, 2000), fragment=0x2000)),
    TrafficClass.MULTICAST: ethernet(A_MAC, ALL, 0x0800, ipv4(A, "255.255.255.255", 17, udp(5, 6))),
    TrafficClass.OTHER: to_b(ipv4(A, B, 47, b"\0" * 30)),
}


@pytest.mark.req("T-NET-1", "A109")
@pytest.mark.parametrize("kind", ForgedKind)
def test_forgery_passes_without_enforcement_and_not_with_it(rig: Rig, kind: ForgedKind) -> None:
    rig.bind(Mode.MONITOR)
    before = rig.counters(rig.a)["forged"].copy()
    assert rig.delivered(FORGERIES[kind]), "the control: monitor mode drops nothing"
    counted = rig.counters(rig.a)["forged"] - before
    assert counted[kind] == 1
    assert counted.sum() == 1
    rig.bind(Mode.ENFORCE)
    assert not rig.delivered(FORGERIES[kind])
    assert (rig.counters(rig.a)["forged"] - before)[kind] == 2


@pytest.mark.req("T-NET-1", "A109")
@pytest.mark.parametrize("variant", VARIANTS)
def test_no_way_of_writing_a_forgery_passes(rig: Rig, variant: str) -> None:
    kind, frame = VARIANTS[variant]
    rig.bind(Mode.MONITOR)
    before = rig.counters(rig.a)["forged"].copy()
    assert rig.delivered(frame), "the control"
    rig.bind(Mode.ENFORCE)
    assert not rig.delivered(frame)
    counted = rig.counters(rig.a)["forged"] - before
    assert counted[kind] == counted.sum() == 2


@pytest.mark.parametrize("traffic", TrafficClass)
def test_honest_frames_pass_and_are_counted_by_class_at_both_ends(rig: Rig, traffic: TrafficClass) -> None:
    rig.bind()
    out, into = rig.counters(rig.a)["by_class"].copy(), rig.counters(rig.b)["by_class"].copy()
    assert rig.delivered(HONEST[traffic])
    sent = rig.counters(rig.a)["by_class"]["packets"][Direction.OUT] - out["packets"][Direction.OUT]
    got = rig.counters(rig.b)["by_class"]["packets"][Direction.IN] - into["packets"][Direction.IN]
    for packets in (sent, got):
        assert packets[traffic] == 1
        assert packets.sum() == 1


def test_a_vm_that_comes_from_another_host_is_announced(rig: Rig) -> None:
    rig.bind()
    before = rig.counters(rig.a)["forged"].copy()
    assert rig.delivered(ethernet(A_MAC, ALL, 0x8035, announcement(A_MAC)))
    assert (rig.counters(rig.a)["forged"] == before).all()


@pytest.mark.parametrize("source", [link_local(A_MAC), "fe80::1:2:3:4"])
def test_its_own_link_local_addresses_pass_however_it_made_them(rig: Rig, source: str) -> None:
    rig.bind()
    assert rig.delivered(to_b(ipv6(source, B6, 17, udp(1000, 2000)), 0x86DD))
    assert rig.delivered(to_b(ipv6(source, B6, 58, nd(136, source, 2, A_MAC)), 0x86DD))


def test_only_the_mac_is_bound_where_no_address_is_known(rig: Rig) -> None:
    rig.bind(addresses=())
    assert rig.delivered(FORGERIES[ForgedKind.IPV4])
    assert not rig.delivered(FORGERIES[ForgedKind.MAC])
    rig.bind()


def offer(rig: Rig, frame: bytes, per_s: float, seconds: float) -> tuple[int, int, int]:
    """Send at a steady rate; how many were sent, how many arrived, how many octets arrived."""
    rig.b.received()
    sent = arrived = octets = 0
    began = time.monotonic()
    while (elapsed := time.monotonic() - began) < seconds:
        while sent < elapsed * per_s:
            rig.a.send(frame)
            sent += 1
        got = [f for f in rig.b.received() if f[: len(frame)] == frame]
        arrived += len(got)
        octets += sum(map(len, got))
        time.sleep(0.002)
    got = [f for f in rig.b.received(0.05) if f[: len(frame)] == frame]
    return sent, arrived + len(got), octets + sum(map(len, got))


@pytest.mark.req("T-CORE-4", "A243")
@pytest.mark.parametrize("limit", [20, 200, 2000])
def test_a_packet_limit_is_right_and_touches_only_its_class(rig: Rig, limit: int) -> None:
    rig.bind()
    port = PortId(rig.a.mac)
    seconds = 3.0
    before = rig.counters(rig.a)["by_class"][Direction.OUT][TrafficClass.UDP].copy()
    rig.plane.set_limit(port, Direction.OUT, TrafficClass.UDP, packets_per_s=limit, end_ns=now_ns() + HOUR_NS)
    try:
        sent, arrived, _ = offer(rig, HONEST[TrafficClass.UDP], limit * 4, seconds)
        assert arrived == pytest.approx(limit * seconds, rel=0.15)
        after = rig.counters(rig.a)["by_class"][Direction.OUT][TrafficClass.UDP]
        assert after["packets"] - before["packets"] == sent, "attempts are counted before any limit"
        assert after["limited"] - before["limited"] == sent - arrived
        sent, arrived, _ = offer(rig, HONEST[TrafficClass.SYN], 200, 1.0)
        assert arrived >= 0.95 * sent, "another class of the same VM"
    finally:
        rig.plane.clear_limit(port, Direction.OUT, TrafficClass.UDP)
    sent, arrived, _ = offer(rig, HONEST[TrafficClass.UDP], 200, 0.5)
    assert arrived == sent


@pytest.mark.req("T-CORE-4")
def test_an_octet_limit_is_right(rig: Rig) -> None:
    rig.bind()
    port = PortId(rig.a.mac)
    frame = to_b(ipv4(A, B, 17, udp(1000, 2000, b"x" * 1000)))
    rig.plane.set_limit(port, Direction.OUT, None, octets_per_s=200_000, end_ns=now_ns() + HOUR_NS)
    try:
        _, _, octets = offer(rig, frame, 1000, 3.0)
        assert octets == pytest.approx(600_000, rel=0.15)
    finally:
        rig.plane.clear_limit(port, Direction.OUT, None)


def test_an_inbound_limit_acts_at_the_receiver(rig: Rig) -> None:
    rig.bind()
    rig.plane.set_limit(PortId(rig.b.mac), Direction.IN, TrafficClass.SYN, packets_per_s=50, end_ns=now_ns() + HOUR_NS)
    try:
        _, arrived, _ = offer(rig, HONEST[TrafficClass.SYN], 400, 2.0)
        assert arrived == pytest.approx(100, rel=0.15)
    finally:
        rig.plane.clear_limit(PortId(rig.b.mac), Direction.IN, TrafficClass.SYN)


def test_a_limit_ends_in_the_kernel_by_itself(rig: Rig) -> None:
    rig.bind()
    rig.plane.set_limit(
        PortId(rig.a.mac), Direction.OUT, TrafficClass.UDP, packets_per_s=1, end_ns=now_ns() + 300_000_000
    )
    _, arrived, _ = offer(rig, HONEST[TrafficClass.UDP], 500, 0.2)
    assert arrived <= 2
    deadline = time.monotonic() + 5
    while not all(rig.delivered(HONEST[TrafficClass.UDP]) for _ in range(5)):
        assert time.monotonic() < deadline
    rig.plane.clear_limit(PortId(rig.a.mac), Direction.OUT, TrafficClass.UDP)


@pytest.mark.req("T-CORE-4")
def test_new_destinations_are_limited_and_known_ones_are_not(rig: Rig) -> None:
    rig.bind()
    port = PortId(rig.a.mac)
    assert rig.delivered(HONEST[TrafficClass.UDP])
    rig.plane.set_new_destinations(port, 10, now_ns() + HOUR_NS)
    rig.b.received()
    try:
        began, reached = time.monotonic(), 0
        for number in range(200):
            rig.a.send(to_b(ipv4(A, f"10.78.{secrets.randbelow(256)}.{number}", 17, udp(1, 2))))
            time.sleep(0.01)
            reached += len(rig.b.received())
        seconds = time.monotonic() - began
        assert reached == pytest.approx(10 * seconds, rel=0.25, abs=2)
        sent, arrived, _ = offer(rig, HONEST[TrafficClass.UDP], 200, 0.5)
        assert arrived == sent
    finally:
        rig.plane.clear_new_destinations(port)


def test_a_destination_that_was_refused_stays_new(rig: Rig) -> None:
    rig.bind()
    port = PortId(rig.a.mac)
    rig.plane.set_new_destinations(port, 1, now_ns() + HOUR_NS)
    try:
        frames = [to_b(ipv4(A, f"10.76.0.{number}", 17, udp(1, 2))) for number in range(1, 41)]
        passed = [frame for _ in range(3) for frame in frames if rig.delivered(frame)]
        assert len(set(passed)) <= 10, "a scanner that tries again is limited as well"
        assert passed
        assert all(rig.delivered(frame) for frame in set(passed)), "who was let through once is known"
    finally:
        rig.plane.clear_new_destinations(port)
    assert all(rig.delivered(frame) for frame in frames), "the control"


def test_one_source_is_limited_and_another_is_not(rig: Rig) -> None:
    rig.bind(addresses=(A, ELSE))
    port = PortId(rig.b.mac)
    rig.plane.set_peer(port, ELSE, 20, now_ns() + HOUR_NS)
    try:
        _, arrived, _ = offer(rig, to_b(ipv4(ELSE, B, 17, udp(1000, 2000))), 200, 2.0)
        assert arrived == pytest.approx(40, rel=0.2)
        sent, arrived, _ = offer(rig, HONEST[TrafficClass.UDP], 200, 0.5)
        assert arrived == sent
        assert rig.plane.peers(port) == {ELSE: 20.0}
    finally:
        rig.plane.clear_peer(port, ELSE)
        rig.bind()


def test_gates(rig: Rig) -> None:
    rig.bind(quarantine_allows=(B,))
    port = PortId(rig.a.mac)
    rig.plane.set_gate(port, Gate.ISOLATE, now_ns() + HOUR_NS)
    assert not any(rig.delivered(frame) for frame in HONEST.values())
    rig.plane.set_gate(port, Gate.QUARANTINE, now_ns() + HOUR_NS)
    assert rig.delivered(HONEST[TrafficClass.UDP]), "b is a quarantine address"
    assert not rig.delivered(to_b(ipv4(A, ELSE, 17, udp(1, 2))))
    assert not rig.delivered(HONEST[TrafficClass.MULTICAST])
    rig.plane.set_gate(port, Gate.OPEN, 0)
    assert all(rig.delivered(frame) for frame in HONEST.values())
    rig.bind()


def test_limits_in_monitor_mode_count_and_pass(rig: Rig) -> None:
    rig.bind(Mode.MONITOR)
    port = PortId(rig.a.mac)
    rig.plane.set_limit(port, Direction.OUT, TrafficClass.UDP, packets_per_s=10, end_ns=now_ns() + HOUR_NS)
    before = rig.counters(rig.a)["by_class"]["limited"][Direction.OUT][TrafficClass.UDP]
    sent, arrived, _ = offer(rig, HONEST[TrafficClass.UDP], 200, 1.0)
    assert arrived == sent
    assert rig.counters(rig.a)["by_class"]["limited"][Direction.OUT][TrafficClass.UDP] - before > 100
    rig.plane.clear_limit(port, Direction.OUT, TrafficClass.UDP)
    rig.bind()


def test_a_tripwire_wakes_the_reader(rig: Rig) -> None:
    rig.bind()
    rig.reader.wait(0)
    rig.plane.set_tripwires(PortId(rig.a.mac), [(Direction.OUT, TrafficClass.SYN, 30)])
    for _ in range(200):
        rig.a.send(HONEST[TrafficClass.SYN])
    trips = rig.reader.wait(2.0)
    assert trips
    assert trips[0].traffic is TrafficClass.SYN
    assert trips[0].slot == rig.plane.ports()[PortId(rig.a.mac)]
    assert trips[0].count >= 30
    rig.plane.set_tripwires(PortId(rig.a.mac), [(Direction.OUT, TrafficClass.SYN, 0)])
    rig.reader.wait(0)
    for _ in range(200):
        rig.a.send(HONEST[TrafficClass.SYN])
    assert rig.reader.wait(0.2) == []


def test_peers_tell_who_talks_to_whom(rig: Rig) -> None:
    rig.bind()
    for port in range(1, 41):
        rig.a.send(to_b(ipv4(A, "10.79.1.1", 6, tcp(999, port, 2))))
    slot = rig.plane.ports()[PortId(rig.a.mac)]
    peers = rig.reader.peers()
    packed = bytes(10) + b"\xff\xff" + socket.inet_aton("10.79.1.1")
    mine = [
        p
        for p in peers
        if p["key"]["slot"] == slot and p["key"]["direction"] == 0 and bytes(p["key"]["address"]) == packed
    ]
    assert len(mine) == 1
    assert mine[0]["peer"]["openings"] == mine[0]["peer"]["packets"] == 40
    ports = int(mine[0]["peer"]["ports_now"]) | int(mine[0]["peer"]["ports_before"])
    assert 20 <= ports.bit_count() <= 40


@pytest.mark.req("T-CORE-9", "T-CORE-11")
def test_the_reader_needs_no_right_and_the_plane_no_process(rig: Rig) -> None:
    rig.bind()
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            reader = DataPlaneReader(handover.receive(theirs))
            slot = int(reader.ports()["port"]["slot"][0])
            reader.counters()[slot], reader.peers(), reader.wait(0)
            os._exit(0)
        except BaseException:  # noqa: BLE001
            os._exit(1)
    handover.offer(ours, rig.plane.sensor_fds(), allowed_uid=os.getuid())
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    ours.close()
    theirs.close()
    rig.plane.close()
    assert not rig.delivered(FORGERIES[ForgedKind.IPV4]), "pinned: nobody holds a descriptor"
    rig.plane = DataPlane.open(rig.plane._pin_dir)
    assert set(rig.plane.ports()) == {A_MAC, B_MAC}
    assert all(slot < 64 for slot in taken(rig.plane)), "as large as it was made, not as one would make it now"


def taken(plane: DataPlane) -> list[int]:
    """Slots that a hundred ports get, one after the other."""
    slots = []
    for _ in range(100):
        slots.append(plane.attach(PortPolicy(PortId("52:54:00:00:00:97"), VmId("x"), "lo", 1, Mode.MONITOR)))
        plane.detach(PortId("52:54:00:00:00:97"))
    return slots


def test_drift_is_seen_and_repaired(rig: Rig) -> None:
    rig.bind()
    assert rig.plane.drift() == []
    rig.plane.set_limit(PortId(rig.a.mac), Direction.OUT, TrafficClass.UDP, packets_per_s=5, end_ns=now_ns() + HOUR_NS)
    link = rig.plane._pin_dir / f"link-{rig.a.ifindex}-from"
    run("bpftool", "link", "detach", "pinned", str(link))
    assert rig.delivered(FORGERIES[ForgedKind.IPV4]), "the control: the detached program protects nobody"
    slot = rig.plane.ports()[PortId(rig.a.mac)]
    run(
        "bpftool",
        "map",
        "update",
        "pinned",
        str(rig.plane._pin_dir / "hv_limits"),
        "key",
        "hex",
        *slot.to_bytes(4, "little").hex(" ").split(),
        "value",
        "hex",
        *(["00"] * 624),
    )
    found = {drift.what for drift in rig.plane.drift()}
    assert found == {"its programs were detached", "its limits were changed"}
    rig.plane.repair(PortId(rig.a.mac))
    assert rig.plane.drift() == []
    assert not rig.delivered(FORGERIES[ForgedKind.IPV4])
    assert rig.plane.rates(PortId(rig.a.mac))[0].packets_per_s == 5
    rig.plane.clear_limit(PortId(rig.a.mac), Direction.OUT, TrafficClass.UDP)


def test_a_port_that_is_gone_is_said_in_a_sentence(rig: Rig) -> None:
    with pytest.raises(DataPlaneError, match="is not bound"):
        rig.plane.set_limit(PortId("52:54:00:00:00:99"), Direction.OUT, None, packets_per_s=1, end_ns=1)
    with pytest.raises(DataPlaneError, match="is it still there"):
        rig.plane.attach(PortPolicy(PortId("52:54:00:00:00:98"), VmId("x"), "gone", 9999, Mode.ENFORCE))
    rig.plane.detach(PortId("52:54:00:00:00:98"))


def test_detach_and_remove_leave_nothing(rig: Rig) -> None:
    rig.bind()
    rig.plane.detach(PortId(rig.a.mac))
    rig.plane.detach(PortId(rig.a.mac))
    assert rig.delivered(FORGERIES[ForgedKind.IPV4])
    pin_dir = rig.plane._pin_dir
    rig.reader.close()
    rig.plane.remove()
    assert not pin_dir.exists()
    assert remove_all(pin_dir) is False
    assert "hv_from_vm" not in run("bpftool", "net", "show")
    rig.plane = DataPlane.open(pin_dir, max_ports=64)
    rig.reader = DataPlaneReader(rig.plane.sensor_fds())
