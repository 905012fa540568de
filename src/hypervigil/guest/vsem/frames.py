"""What a frame is by its headers, as the host's data plane classes it, and the kernel's filter that samples. Pure."""

from __future__ import annotations

from struct import pack, unpack_from

from hypervigil.guest.words import (
    ARP,
    DNS,
    FRAGMENT,
    ICMP,
    IN,
    MULTICAST,
    OTHER,
    OUT,
    RST,
    SYN,
    SYNACK,
    TCP,
    UDP,
)

SNAP = 96
"""Bytes of a frame that are read: its headers."""
_SEGMENT = 1448
_EXTENSIONS = (0, 43, 44, 51, 60)
_MAX_EXTENSIONS = 4

# Classic BPF. Ancillary data lie at offsets from here.
_ANCILLARY = 0xFFFFF000
_PACKET_TYPE, _INTERFACE, _RANDOM = _ANCILLARY + 4, _ANCILLARY + 8, _ANCILLARY + 56
_OUTGOING, _OTHER_HOST = 4, 3
_LOAD, _AND, _EQUAL, _RETURN = 0x20, 0x54, 0x15, 0x06


class Frame:
    """One sampled frame. ``packets``: how many the wire sees of it, since large segments are cut only there."""

    __slots__ = ("here", "here_port", "octets", "opens", "packets", "protocol", "there", "there_port", "traffic")

    def __init__(self, traffic: int, octets: int) -> None:
        self.traffic = traffic
        self.protocol = 0
        self.here = self.there = b""
        self.here_port = self.there_port = 0
        self.octets = octets
        self.packets = 1
        self.opens = False


def read(direction: int, untrusted_frame: bytes) -> Frame | None:
    """The frame as seen from this guest; ``None`` where its headers cannot be read."""
    size = len(untrusted_frame)
    if size < 14:
        return None
    ethertype = untrusted_frame[12] << 8 | untrusted_frame[13]
    frame = Frame(MULTICAST if untrusted_frame[0] & 1 else OTHER, size)
    if ethertype == 0x0800:
        found = _ipv4(untrusted_frame, frame)
    elif ethertype == 0x86DD:
        found = _ipv6(untrusted_frame, frame)
    elif ethertype == 0x0806:
        frame.traffic = ARP
        if size < 42:
            return None
        frame.here, frame.there = untrusted_frame[28:32], untrusted_frame[38:42]
        found = True
    else:
        return frame
    if not found:
        return None
    if frame.traffic != ARP and untrusted_frame[0] & 1:
        frame.traffic = MULTICAST
    if direction == IN:
        frame.here, frame.there = frame.there, frame.here
        frame.here_port, frame.there_port = frame.there_port, frame.here_port
    return frame


def _ipv4(data: bytes, frame: Frame) -> bool:
    if len(data) < 34 or data[14] >> 4 != 4:
        return False
    header = (data[14] & 15) * 4
    if header < 20:
        return False
    frame.octets = 14 + (data[16] << 8 | data[17])
    fragment = (data[20] << 8 | data[21]) & 0x3FFF
    frame.protocol = data[23]
    frame.here, frame.there = data[26:30], data[30:34]
    if not fragment & 0x1FFF and not _transport(data, 14 + header, frame) and not fragment:
        return False
    if fragment:
        frame.traffic, frame.opens = FRAGMENT, True
    return True


def _ipv6(data: bytes, frame: Frame) -> bool:
    if len(data) < 54 or data[14] >> 4 != 6:
        return False
    frame.octets = 54 + (data[18] << 8 | data[19])
    frame.here, frame.there = data[22:38], data[38:54]
    following, at, fragment = data[20], 54, False
    for _ in range(_MAX_EXTENSIONS):
        if following not in _EXTENSIONS:
            break
        if len(data) < at + 4:
            return False
        if following == 44:
            fragment = True
            if (data[at + 2] << 8 | data[at + 3]) & 0xFFF8:
                frame.traffic, frame.opens = FRAGMENT, True
                return True
            length = 8
        else:
            length = (data[at + 1] + 2) * 4 if following == 51 else (data[at + 1] + 1) * 8
        following, at = data[at], at + length
    if following in _EXTENSIONS:
        return False
    frame.protocol = following
    if not _transport(data, at, frame) and not fragment:
        return False
    if fragment:
        frame.traffic, frame.opens = FRAGMENT, True
    return True


def _transport(data: bytes, at: int, frame: Frame) -> bool:
    protocol = frame.protocol
    if protocol == 6:
        if len(data) < at + 14:
            return False
        frame.here_port, frame.there_port = unpack_from("!HH", data, at)
        flags = data[at + 13]
        if flags & 4:
            frame.traffic = RST
        elif flags & 0x12 == 0x12:
            frame.traffic = SYNACK
        elif flags & 2:
            frame.traffic, frame.opens = SYN, True
        else:
            frame.traffic = TCP
            content = frame.octets - at - (data[at + 12] >> 4) * 4
            if content > _SEGMENT:
                frame.packets = (content + _SEGMENT - 1) // _SEGMENT
    elif protocol == 17:
        if len(data) < at + 8:
            return False
        frame.here_port, frame.there_port = unpack_from("!HH", data, at)
        if frame.here_port == 53 or frame.there_port == 53:
            frame.traffic, frame.opens = DNS, frame.there_port == 53
        else:
            frame.traffic, frame.opens = UDP, frame.there_port < frame.here_port
    elif protocol in (1, 58):
        if len(data) < at + 4:
            return False
        kind = data[at]
        if protocol == 58 and 133 <= kind <= 137:
            frame.traffic = ARP
        else:
            frame.traffic, frame.opens = ICMP, kind == (8 if protocol == 1 else 128)
    else:
        frame.traffic, frame.opens = OTHER, True
    return True


def sampling_filter(direction: int, weight: int, interfaces: list[int]) -> bytes:
    """A kernel filter that passes the headers of one in ``weight`` frames (a power of two) of these NICs."""
    steps: list[tuple[int, int | str, int | str, int]] = [(_LOAD, 0, 0, _PACKET_TYPE)]
    if direction == OUT:
        steps.append((_EQUAL, 0, "drop", _OUTGOING))
    else:
        steps += [(_EQUAL, "drop", 0, _OUTGOING), (_EQUAL, "drop", 0, _OTHER_HOST)]
    steps.append((_LOAD, 0, 0, _INTERFACE))
    steps += [(_EQUAL, "ours", 0, index) for index in interfaces[:-1]]
    steps += [(_EQUAL, 0, "drop", index) for index in interfaces[-1:]]
    ours = len(steps)
    steps += [(_LOAD, 0, 0, _RANDOM), (_AND, 0, 0, weight - 1), (_EQUAL, 0, "drop", 0)]
    steps += [(_RETURN, 0, 0, SNAP), (_RETURN, 0, 0, 0)]
    places = {"ours": ours, "drop": len(steps) - 1}
    program = b""
    for number, (code, yes, no, value) in enumerate(steps):
        jumps = [places[jump] - number - 1 if isinstance(jump, str) else jump for jump in (yes, no)]
        program += pack("HBBI", code, jumps[0], jumps[1], value)
    return program
