"""Link layers: each becomes an Ethernet frame as a NIC would see it."""

import struct

import pytest

from hypervigil.entrypoints.replay.capture import Captured
from hypervigil.entrypoints.replay.links import NOBODY, Seen, seen
from hypervigil.hypervisor.reference.frame import V4_MAPPED, read
from hypervigil.model.traffic import TrafficClass
from tests.integration.wirelab import arp, ethernet, ipv4, ipv6, tcp, udp

MAC, OTHER = "52:54:00:aa:00:01", "52:54:00:aa:00:02"
FOUR = ipv4("10.0.0.1", "10.0.0.2", 6, tcp(40000, 80, 2))
SIX = ipv6("fd00::1", "fd00::2", 17, udp(40000, 53))


def given(link: int, data: bytes) -> Seen | None:
    return seen(Captured(0, link, data, len(data)))


def cooked(protocol: int, payload: bytes, kind: int = 0) -> bytes:
    return struct.pack("!HHH6sxxH", kind, 1, 6, bytes.fromhex(MAC.replace(":", "")), protocol) + payload


def cooked2(protocol: int, payload: bytes, kind: int = 0) -> bytes:
    return struct.pack("!HHIHBB6sxx", protocol, 0, 3, 1, kind, 6, bytes.fromhex(MAC.replace(":", ""))) + payload


@pytest.mark.parametrize(
    ("link", "data", "traffic"),
    [
        (1, ethernet(MAC, OTHER, 0x0800, FOUR), TrafficClass.SYN),
        (101, FOUR, TrafficClass.SYN),
        (101, SIX, TrafficClass.DNS),
        (12, FOUR, TrafficClass.SYN),
        (228, FOUR, TrafficClass.SYN),
        (229, SIX, TrafficClass.DNS),
        (0, struct.pack("<I", 2) + FOUR, TrafficClass.SYN),
        (0, struct.pack(">I", 30) + SIX, TrafficClass.DNS),
        (108, struct.pack(">I", 2) + FOUR, TrafficClass.SYN),
        (113, cooked(0x0800, FOUR), TrafficClass.SYN),
        (276, cooked2(0x86DD, SIX), TrafficClass.DNS),
        (113, cooked(0x0806, arp(1, MAC, "10.0.0.1", "10.0.0.2")), TrafficClass.ARP),
    ],
)
def test_each_link_layer_is_read(link: int, data: bytes, traffic: TrafficClass) -> None:
    one = given(link, data)
    assert one is not None
    frame = read(one.frame, one.length)
    assert frame.readable
    assert frame.traffic is traffic
    assert one.real == (link == 1)


def test_lengths_are_those_of_an_ethernet_frame() -> None:
    for link, data in ((101, FOUR), (0, b"\2\0\0\0" + FOUR), (113, cooked(0x0800, FOUR)), (276, cooked2(0x0800, FOUR))):
        one = given(link, data)
        assert one is not None
        assert one.length == 14 + len(FOUR)


def test_who_sent_by_the_cooked_header() -> None:
    sent, got = given(113, cooked(0x0800, FOUR, kind=4)), given(276, cooked2(0x0800, FOUR, kind=0))
    assert sent is not None
    assert got is not None
    assert (sent.outgoing, got.outgoing) == (True, False)
    assert sent.source_mac.hex(":") == got.source_mac.hex(":") == MAC


def test_tags_are_the_captures_and_name_the_network() -> None:
    plain = ethernet(MAC, OTHER, 0x0800, FOUR)
    tagged = given(1, plain[:12] + b"\x88\xa8\x00\x07\x81\x00\x60\x69" + plain[12:])
    assert tagged is not None
    assert (tagged.frame, tagged.length) == (plain, len(plain))
    assert tagged.network == 7 << 12 | 0x69


def test_groups_stay_groups() -> None:
    for data, mac in (
        (ipv4("10.0.0.1", "224.0.0.251", 17, udp(1, 2)), "01:00:5e:00:00:fb"),
        (ipv4("10.0.0.1", "255.255.255.255", 17, udp(1, 2)), "ff:ff:ff:ff:ff:ff"),
        (ipv6("fd00::1", "ff02::1:2", 17, udp(1, 2)), "33:33:00:01:00:02"),
        (FOUR, NOBODY.hex(":")),
    ):
        one = given(101, data)
        assert one is not None
        assert one.destination_mac.hex(":") == mac


def test_ends_and_hops() -> None:
    four, six = given(101, FOUR), given(101, SIX)
    assert four is not None
    assert six is not None
    assert four.addresses == (V4_MAPPED + b"\n\0\0\1", V4_MAPPED + b"\n\0\0\2")
    assert (four.hops_left, six.hops_left) == (64, 255)


@pytest.mark.parametrize(("link", "data"), [(127, b"x" * 40), (1, b"short"), (0, b"\2\0"), (113, b"x"), (101, b"")])
def test_what_is_not_read_is_none(link: int, data: bytes) -> None:
    assert given(link, data) is None


def test_a_loopback_has_no_macs() -> None:
    zero = "00:00:00:00:00:00"
    for source, destination in ((zero, zero), (MAC, MAC), (zero, MAC)):
        one = given(1, ethernet(source, destination, 0x0800, FOUR))
        assert one is not None
        assert not one.real
