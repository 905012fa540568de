"""The agent classes frames as the host's data plane does, and its filter passes what it should."""

import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypervigil.guest import words
from hypervigil.guest.vsem import frames
from tests.unit.guest.wire_frames import GROUP, MAC, arp, ethernet, icmp, ipv4, ipv6, tcp, udp

A, B = "10.60.0.1", "10.60.0.2"
A6, B6 = "fd00::1", "fd00::2"

KNOWN = (
    (ipv4(A, B, 6, tcp(40000, 80, 0x02)), words.SYN, True),
    (ipv4(A, B, 6, tcp(80, 40000, 0x12)), words.SYNACK, False),
    (ipv4(A, B, 6, tcp(80, 40000, 0x14)), words.RST, False),
    (ipv4(A, B, 6, tcp(80, 40000, 0x10)), words.TCP, False),
    (ipv4(A, B, 17, udp(5353, 53)), words.DNS, True),
    (ipv4(A, B, 17, udp(53, 5353)), words.DNS, False),
    (ipv4(A, B, 17, udp(40000, 9)), words.UDP, True),
    (ipv4(A, B, 17, udp(9, 40000)), words.UDP, False),
    (ipv4(A, B, 1, icmp(8)), words.ICMP, True),
    (ipv4(A, B, 1, icmp(0)), words.ICMP, False),
    (ipv4(A, B, 47, b"gre"), words.OTHER, True),
    (ipv4(A, B, 17, b"rest", fragment=100), words.FRAGMENT, True),
    (ipv4(A, B, 17, udp(1, 2), fragment=0x2000), words.FRAGMENT, True),
    (ipv6(A6, B6, 6, tcp(40000, 80, 0x02)), words.SYN, True),
    (ipv6(A6, B6, 58, icmp(128)), words.ICMP, True),
    (ipv6(A6, B6, 58, icmp(135)), words.ARP, False),
    (ipv6(A6, B6, 44, bytes((17, 0, 0, 1)) + bytes(4) + udp(1, 2)), words.FRAGMENT, True),
    (ipv6(A6, B6, 0, bytes((6, 0)) + bytes(6) + tcp(40000, 80, 0x02)), words.SYN, True),
    (arp(A, B), words.ARP, False),
    (ethernet(0x88CC, b"lldp" * 12), words.OTHER, False),
)


@pytest.mark.parametrize(("data", "traffic", "opens"), KNOWN)
def test_a_frame_has_the_class_of_its_headers(data, traffic, opens):
    frame = frames.read(words.OUT, data[: frames.SNAP])
    assert (frame.traffic, frame.opens) == (traffic, opens)


def test_a_group_address_makes_it_multicast_but_for_arp():
    assert frames.read(words.OUT, GROUP + ipv4(A, "224.0.0.251", 17, udp(5353, 5353))[6:]).traffic == words.MULTICAST
    assert frames.read(words.OUT, b"\xff" * 6 + arp(A, B)[6:]).traffic == words.ARP


def test_here_is_this_guest_in_both_directions():
    out = frames.read(words.OUT, ipv4(A, B, 6, tcp(40000, 80, 2)))
    into = frames.read(words.IN, ipv4(B, A, 6, tcp(80, 40000, 0x12)))
    for frame in (out, into):
        assert (frame.here, frame.here_port) == (bytes((10, 60, 0, 1)), 40000)
        assert (frame.there, frame.there_port) == (bytes((10, 60, 0, 2)), 80)


def test_a_large_segment_counts_as_the_packets_that_it_becomes():
    frame = frames.read(words.OUT, ipv4(A, B, 6, tcp(1, 2, 0x10), length=14_520))
    assert frame.packets == 10
    assert frame.octets == 14_534


@pytest.mark.parametrize("data", [frame for frame, *_ in KNOWN if frame[12:14] != b"\x88\xcc"])
def test_cut_headers_are_read_or_left_alone(data):
    for size in range(len(data)):
        frame = frames.read(words.IN, data[:size])
        assert frame is None or 0 <= frame.traffic < words.CLASSES


@given(st.binary(max_size=frames.SNAP), st.sampled_from([b"\x08\x00", b"\x86\xdd", b"\x08\x06", b"\x81\x00"]))
def test_no_frame_is_too_strange(data, ethertype):
    frames.read(words.OUT, data[:12] + ethertype + data[12:])


def passes(program: bytes, packet_type: int, interface: int, rng: random.Random) -> int:
    """What the kernel would do with this filter: a few instructions of classic BPF."""
    steps = list(struct.iter_unpack("HBBI", program))
    at = accumulator = 0
    for _ in range(100):
        code, yes, no, value = steps[at]
        at += 1
        if code == 0x20:
            accumulator = {0xFFFFF004: packet_type, 0xFFFFF008: interface, 0xFFFFF038: rng.getrandbits(32)}[value]
        elif code == 0x54:
            accumulator &= value
        elif code == 0x15:
            at += yes if accumulator == value else no
        elif code == 0x06:
            return value
    raise AssertionError("a filter without end")


@pytest.mark.parametrize("way", [words.OUT, words.IN])
@pytest.mark.parametrize("interfaces", [[2], [2, 5, 9]])
def test_the_filter_passes_only_this_direction_and_these_nics(way, interfaces):
    program = frames.sampling_filter(way, 1, interfaces)
    rng = random.Random(1)
    for packet_type in range(5):
        for interface in range(1, 12):
            ours = interface in interfaces and ((packet_type == 4) if way == words.OUT else packet_type < 3)
            assert passes(program, packet_type, interface, rng) == (frames.SNAP if ours else 0)


@pytest.mark.parametrize("weight", [1, 8, 128])
def test_the_filter_passes_one_in_so_many(weight):
    program = frames.sampling_filter(words.OUT, weight, [2])
    rng = random.Random(weight)
    tries = 400 * weight
    passed = sum(passes(program, 4, 2, rng) > 0 for _ in range(tries))
    assert passed == pytest.approx(tries / weight, rel=0.2)


def test_macs_of_the_lab_are_no_groups():
    assert not MAC[0] & 1
