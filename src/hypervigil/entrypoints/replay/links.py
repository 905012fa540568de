"""From what a capture's frames begin with to Ethernet frames without tags: only such ones pass a virtual NIC. Pure."""

import struct
from dataclasses import dataclass

from hypervigil.entrypoints.replay.capture import Captured
from hypervigil.hypervisor.reference.frame import ETH_HLEN, V4_MAPPED

ETHERNET = 1
_NULL, _LOOP, _SLL, _SLL2, _IPV4_ONLY, _IPV6_ONLY = 0, 108, 113, 276, 228, 229
_RAW = frozenset({101, 12, 14, _IPV4_ONLY, _IPV6_ONLY})
_ARP, _IPV4, _IPV6 = b"\x08\x06", b"\x08\x00", b"\x86\xdd"
_TAGS = frozenset({b"\x81\x00", b"\x88\xa8", b"\x91\x00"})
MAX_TAGS = 4
_OUTGOING = 4
BROADCAST = b"\xff" * 6
NOBODY = bytes(6)
"""The MAC of frames whose link layer names none."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A frame as a virtual NIC would see it."""

    frame: bytes
    length: int
    network: int
    """The VLAN it was tagged for; 0: none. The tag is the capture's, not a VM's: a trunk was listened to."""
    real: bool
    """Whether its MACs tell whose NIC it came from."""
    outgoing: bool = False
    """The capturing host says that it sent the frame itself."""

    @property
    def source_mac(self) -> bytes:
        """Whose NIC sent it."""
        return self.frame[6:12]

    @property
    def destination_mac(self) -> bytes:
        """Whose NIC it is for."""
        return self.frame[:6]

    @property
    def ethertype(self) -> bytes:
        """What is in it."""
        return self.frame[12:14]

    @property
    def addresses(self) -> tuple[bytes, bytes] | None:
        """Source and destination of IP, or sender and target of ARP, 16 bytes each."""
        frame = self.frame
        match self.ethertype:
            case b"\x08\x00" if len(frame) >= 34:
                return V4_MAPPED + frame[26:30], V4_MAPPED + frame[30:34]
            case b"\x86\xdd" if len(frame) >= 54:
                return frame[22:38], frame[38:54]
            case b"\x08\x06" if len(frame) >= 42:
                return V4_MAPPED + frame[28:32], V4_MAPPED + frame[38:42]
        return None

    @property
    def arp(self) -> bool:
        """Whether it is ARP, whose sender claims an address."""
        return self.ethertype == _ARP

    @property
    def hops_left(self) -> int | None:
        """Time to live or hop limit."""
        if self.ethertype == _IPV4 and len(self.frame) > 22:
            return self.frame[22]
        if self.ethertype == _IPV6 and len(self.frame) > 21:
            return self.frame[21]
        return None


def seen(captured: Captured) -> Seen | None:
    """The frame, or ``None`` where its link layer is not one that is read here."""
    data, length = captured.data, captured.length
    match captured.link:
        case 1:
            return _untagged(data, length) if len(data) >= ETH_HLEN else None
        case 0 | 108:
            return _made(_version(data[4:]), data[4:], length - 4) if len(data) > 4 else None
        case 113:
            return _cooked(data, length, header=16, protocol_at=14, kind=data[1:2]) if len(data) >= 16 else None
        case 276:
            return _cooked(data, length, header=20, protocol_at=0, kind=data[10:11]) if len(data) >= 20 else None
    return _made(_version(data), data, length) if captured.link in _RAW else None


def _untagged(data: bytes, length: int) -> Seen:
    network = tags = 0
    while data[12:14] in _TAGS and len(data) >= 18 and tags < MAX_TAGS:
        network = network << 12 | (struct.unpack("!H", data[14:16])[0] & 0xFFF)
        data, length, tags = data[:12] + data[16:], length - 4, tags + 1
    # Where both ends have one MAC, or none, as on a loopback device, it says nothing of who sent the frame.
    return Seen(data, length, network, real=data[6:12] not in (data[:6], NOBODY))


def _version(packet: bytes) -> bytes | None:
    """The ethertype of an IP packet."""
    return {4: _IPV4, 6: _IPV6}.get(packet[0] >> 4) if packet else None


def _made(ethertype: bytes | None, payload: bytes, length: int, source: bytes = NOBODY, **more: bool) -> Seen | None:
    if ethertype is None:
        return None
    frame = _group(ethertype, payload) + source + ethertype + payload
    return Seen(frame, ETH_HLEN + length, 0, real=False, **more)


def _cooked(data: bytes, length: int, *, header: int, protocol_at: int, kind: bytes) -> Seen | None:
    """Linux's "cooked" header: it names the sender's MAC and the kind of address it was for, but not whose."""
    ethertype = data[protocol_at : protocol_at + 2]
    at = 6 if header == 16 else 12
    source = data[at : at + 6] if data[at - 1 if header == 20 else 5] == 6 else NOBODY
    return _made(ethertype, data[header:], length - header, source, outgoing=kind == bytes([_OUTGOING]))


def _group(ethertype: bytes, payload: bytes) -> bytes:
    """The group MAC that an IP destination has, or nobody's."""
    if ethertype == _IPV4 and len(payload) >= 20:
        if payload[16] >> 4 == 14:
            return b"\x01\x00\x5e" + bytes([payload[17] & 0x7F]) + payload[18:20]
        return BROADCAST if payload[16:20] == b"\xff" * 4 else NOBODY
    if ethertype == _IPV6 and len(payload) >= 40 and payload[24] == 0xFF:
        return b"\x33\x33" + payload[36:40]
    if ethertype == _ARP:
        return BROADCAST if payload[6:8] == b"\x00\x01" else NOBODY
    return NOBODY
