"""The data plane's values as ctypes, mirrored from ``bpf/hypervigil.h``; a test holds both to the object's own BTF."""

import ctypes
from ctypes import c_int64, c_uint8, c_uint32, c_uint64
from ipaddress import IPv4Address, IPv6Address, ip_address

from hypervigil.model.traffic import ForgedKind, TrafficClass

ABI = 2
"""Changes with every change of a map's layout: pins of another ABI are not reused."""
CLASSES = len(TrafficClass)
ALL = CLASSES
BUCKETS = CLASSES + 1
FORGED_KINDS = len(ForgedKind)
ADDRESSES = 8

Address = c_uint8 * 16


class Port(ctypes.Structure):
    """``struct hv_port``."""

    _fields_ = [
        ("slot", c_uint32),
        ("generation", c_uint32),
        ("mac", c_uint8 * 6),
        ("mode", c_uint8),
        ("flags", c_uint8),
        ("addresses", c_uint32),
        ("allows", c_uint32),
        ("address", Address * ADDRESSES),
        ("allow", Address * ADDRESSES),
    ]


class ClassCounters(ctypes.Structure):
    """``struct hv_class_counters``."""

    _fields_ = [("packets", c_uint64), ("octets", c_uint64), ("limited", c_uint64)]


class Counters(ctypes.Structure):
    """``struct hv_counters``."""

    _fields_ = [
        ("by_class", (ClassCounters * CLASSES) * 2),
        ("forged", c_uint64 * FORGED_KINDS),
        ("new_destinations", c_uint64),
        ("failures", c_uint64),
        ("peers_created", c_uint64),
        ("events_lost", c_uint64),
    ]


class Rate(ctypes.Structure):
    """``struct hv_rate``."""

    _fields_ = [("packets_per_s_x1000", c_uint64), ("octets_per_s", c_uint64), ("end_ns", c_uint64)]


class Limits(ctypes.Structure):
    """``struct hv_limits``."""

    _fields_ = [
        ("rate", (Rate * BUCKETS) * 2),
        ("new_destinations", Rate),
        ("gate_end_ns", c_uint64),
        ("gate", c_uint32),
        ("pad", c_uint32),
    ]


class Bucket(ctypes.Structure):
    """``struct hv_bucket``."""

    _fields_ = [("last_ns", c_uint64), ("packets", c_int64), ("octets", c_int64)]


class Buckets(ctypes.Structure):
    """``struct hv_buckets``; user space never writes it."""

    _fields_ = [
        ("lock", c_uint32),
        ("pad", c_uint32),
        ("bucket", (Bucket * BUCKETS) * 2),
        ("new_destinations", Bucket),
    ]


class PeerKey(ctypes.Structure):
    """``struct hv_peer_key``."""

    _fields_ = [("slot", c_uint32), ("direction", c_uint32), ("address", Address)]


class Peer(ctypes.Structure):
    """``struct hv_peer``."""

    _fields_ = [
        ("first_ns", c_uint64),
        ("last_ns", c_uint64),
        ("packets", c_uint64),
        ("octets", c_uint64),
        ("openings", c_uint64),
        ("resets", c_uint64),
        ("ports_now", c_uint64),
        ("ports_before", c_uint64),
        ("second", c_uint32),
        ("mac", c_uint8 * 6),
        ("admitted", c_uint8),
        ("pad", c_uint8),
    ]


class SourceKey(ctypes.Structure):
    """``struct hv_source_key``."""

    _fields_ = [("slot", c_uint32), ("address", Address)]


class Source(ctypes.Structure):
    """``struct hv_source``."""

    _fields_ = [("lock", c_uint32), ("pad", c_uint32), ("rate", Rate), ("bucket", Bucket)]


class Tripwires(ctypes.Structure):
    """``struct hv_tripwires``."""

    _fields_ = [("packets_per_100ms", (c_uint32 * CLASSES) * 2)]


class Windows(ctypes.Structure):
    """``struct hv_windows``; user space never writes it."""

    _fields_ = [("window", (c_uint64 * CLASSES) * 2), ("count", (c_uint32 * CLASSES) * 2)]


class Event(ctypes.Structure):
    """``struct hv_event``."""

    _fields_ = [
        ("at_ns", c_uint64),
        ("slot", c_uint32),
        ("direction", c_uint32),
        ("traffic", c_uint32),
        ("count", c_uint32),
    ]


VALUES: dict[str, type[ctypes.Structure]] = {
    "hv_port": Port,
    "hv_counters": Counters,
    "hv_limits": Limits,
    "hv_buckets": Buckets,
    "hv_peer_key": PeerKey,
    "hv_peer": Peer,
    "hv_source_key": SourceKey,
    "hv_source": Source,
    "hv_tripwires": Tripwires,
    "hv_windows": Windows,
    "hv_event": Event,
}

_V4_MAPPED = b"\0" * 10 + b"\xff\xff"


def pack_address(text: str) -> bytes:
    """16 bytes of an IP address (IPv4 mapped into IPv6) or of a MAC. ``ValueError`` when it is neither."""
    if text.count(":") == 5 and "::" not in text and len(text) == 17:
        return bytes(10) + pack_mac(text)
    address = ip_address(text)
    return _V4_MAPPED + address.packed if isinstance(address, IPv4Address) else address.packed


def unpack_address(packed: bytes) -> str:
    """The address as text: IPv4, IPv6, or a MAC for a frame that is neither."""
    if packed[:12] == _V4_MAPPED:
        return str(IPv4Address(packed[12:]))
    if not any(packed[:10]) and any(packed[10:]):
        return unpack_mac(packed[10:])
    return str(IPv6Address(packed))


def pack_mac(text: str) -> bytes:
    """6 bytes of a MAC."""
    return bytes.fromhex(text.replace(":", ""))


def unpack_mac(packed: bytes) -> str:
    """A MAC as lower-case text with colons."""
    return packed.hex(":")
