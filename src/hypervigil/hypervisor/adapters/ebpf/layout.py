"""The data plane's values as ctypes, mirrored from ``bpf/hypervigil.h``; a test holds both to the object's own BTF."""

import ctypes
from ctypes import c_int64, c_uint8, c_uint16, c_uint32, c_uint64
from ipaddress import IPv4Address, IPv6Address, ip_address

from hypervigil.model.traffic import DenialKind, ForgedKind, TrafficClass

ABI = 10
"""Changes with every change of a map's layout: pins of another ABI are not reused."""
CLASSES = len(TrafficClass)
ALL = CLASSES
BUCKETS = CLASSES + 1
FORGED_KINDS = len(ForgedKind)
ADDRESSES, PAIRS = 8, 4
NEAR = 65536
"""Devices with an index below it are found without a hash."""
RANGES = 64
"""Of services in one set."""
FLOW_SETS, FLOW_WAYS = 128, 8
DENIALS = len(DenialKind)
LOCALS = 4
"""Link-local addresses that a port may hold besides what it is given."""
LEASES = 4
"""Addresses that a port may hold by DHCP."""
SERVERS = 4
"""Of DHCP that a port believes."""
NOBODY = 0xFFFFFFFF
"""Holds the link-local addresses that no single port may have."""

Address = c_uint8 * 16


class Pair(ctypes.Structure):
    """``struct hv_pair``."""

    _fields_ = [("address", Address), ("mac", c_uint8 * 6), ("pad", c_uint8 * 2)]


class Port(ctypes.Structure):
    """``struct hv_port``."""

    _fields_ = [
        ("slot", c_uint32),
        ("generation", c_uint32),
        ("mac", c_uint8 * 6),
        ("mode", c_uint8),
        ("flags", c_uint8),
        ("addresses", c_uint32),
        ("allows", c_uint16),
        ("unchecked", c_uint16),
        ("pairs", c_uint32),
        ("segment", c_uint32),
        ("address", Address * ADDRESSES),
        ("allow", Address * ADDRESSES),
        ("pair", Pair * PAIRS),
        ("server", (c_uint8 * 6) * SERVERS),
        ("servers", c_uint32),
        ("within", c_uint8 * 4),
        ("mask", c_uint8 * 4),
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
        ("answered", c_uint64),
        ("proven", c_uint64),
        ("dialogues", c_uint64),
        ("concluded", c_uint64),
        ("greeters", c_uint64),
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
        ("proof_end_ns", c_uint64),
        ("gate", c_uint32),
        ("armed", c_uint32),
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
        ("silent", c_uint8),
    ]


class DialogueKey(ctypes.Structure):
    """``struct hv_dialogue_key``."""

    _fields_ = [("slot", c_uint32), ("own_port", c_uint16), ("other_port", c_uint16), ("address", Address)]


class Dialogue(ctypes.Structure):
    """``struct hv_dialogue``; user space never writes it."""

    _fields_ = [
        ("opened_ns", c_uint64),
        ("asked", c_uint32),
        ("answered", c_uint32),
        ("finish", c_uint32),
        ("direction", c_uint8),
        ("first", c_uint8),
        ("finished", c_uint8),
        ("pad", c_uint8),
    ]


class GreeterKey(ctypes.Structure):
    """``struct hv_greeter_key``."""

    _fields_ = [
        ("slot", c_uint32),
        ("direction", c_uint32),
        ("address", Address),
        ("port", c_uint16),
        ("pad", c_uint8 * 6),
    ]


class Greeter(ctypes.Structure):
    """``struct hv_greeter``; user space never writes it."""

    _fields_ = [
        ("last_ns", c_uint64),
        ("ended", c_uint64),
        ("curt", c_uint64),
        ("alike", c_uint64),
        ("varied", c_uint64),
        ("lasted_ns", c_uint64),
        ("asked", c_uint32),
        ("answered", c_uint32),
    ]


class LocalKey(ctypes.Structure):
    """``struct hv_local_key``."""

    _fields_ = [("segment", c_uint32), ("address", Address)]


class Holder(ctypes.Structure):
    """``struct hv_holder``."""

    _fields_ = [("slot", c_uint32), ("tick", c_uint32)]


class Locals(ctypes.Structure):
    """``struct hv_locals``; user space only empties it."""

    _fields_ = [("lock", c_uint32), ("pad", c_uint32), ("evicted", c_uint64), ("address", Address * LOCALS)]


class Lease(ctypes.Structure):
    """``struct hv_lease``."""

    _fields_ = [("address", Address), ("at_ns", c_uint64), ("end_ns", c_uint64)]


class Leases(ctypes.Structure):
    """``struct hv_leases``; user space only empties it."""

    _fields_ = [("lease", Lease * LEASES), ("evicted", c_uint64), ("refused", c_uint64)]


class SourceKey(ctypes.Structure):
    """``struct hv_source_key``."""

    _fields_ = [("slot", c_uint32), ("address", Address)]


class Source(ctypes.Structure):
    """``struct hv_source``."""

    _fields_ = [("lock", c_uint32), ("pad", c_uint32), ("rate", Rate), ("bucket", Bucket)]


class Proven(ctypes.Structure):
    """``struct hv_proven``; user space never writes it."""

    _fields_ = [("at_ns", c_uint64)]


class Secret(ctypes.Structure):
    """``struct hv_secret``."""

    _fields_ = [("key", c_uint64 * 2)]


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


class Epoch(ctypes.Structure):
    """``struct hv_epoch``."""

    _fields_ = [("word", c_uint64), ("seed", c_uint64)]


class Place(ctypes.Structure):
    """``struct hv_place``."""

    _fields_ = [
        ("perimeter", c_uint32 * 2),
        ("gateway", c_uint32 * 2),
        ("network", c_uint32),
        ("generation", c_uint16),
        ("flags", c_uint16),
        ("account", c_uint32),
        ("table", c_uint32),
    ]


class MemberKey(ctypes.Structure):
    """``struct hv_member_key``."""

    _fields_ = [("network", c_uint32), ("mac", c_uint8 * 6), ("pad", c_uint8 * 2)]


class Member(ctypes.Structure):
    """``struct hv_member``."""

    _fields_ = [("slot", c_uint32), ("ifindex", c_uint32)]


class Home(ctypes.Structure):
    """``struct hv_address``, as a map's key."""

    _fields_ = [("bytes", Address)]


class Number(ctypes.Structure):
    """A number, as a map's value."""

    _fields_ = [("value", c_uint32)]


class RangeKey(ctypes.Structure):
    """``struct hv_range_key``."""

    _fields_ = [("prefix", c_uint32), ("bank", c_uint32), ("address", Address)]


class GrantKey(ctypes.Structure):
    """``struct hv_grant_key``."""

    _fields_ = [("source", c_uint32), ("destination", c_uint32)]


class ServiceSet(ctypes.Structure):
    """``struct hv_services``."""

    _fields_ = [("range", (c_uint32 * 2) * RANGES)]


class Allowance(ctypes.Structure):
    """``struct hv_allowance``."""

    _fields_ = [
        ("lock", c_uint32),
        ("ways", c_uint32),
        ("rate", Rate),
        ("flows", Rate),
        ("broadcasts", Rate),
        ("bucket", Bucket),
        ("flow_bucket", Bucket),
        ("broadcast_bucket", Bucket),
    ]


class Last(ctypes.Structure):
    """``struct hv_last``; user space never writes it."""

    _fields_ = [
        ("word", c_uint64),
        ("grant", c_uint32),
        ("perimeter", c_uint32),
        ("slot", c_uint32),
        ("ifindex", c_uint32),
        ("mac", c_uint8 * 6),
        ("pad", c_uint8 * 2),
    ]


class Crossings(ctypes.Structure):
    """``struct hv_crossings``."""

    _fields_ = [
        ("denied", (c_uint64 * DENIALS) * 2),
        ("straight", c_uint64),
        ("flows", c_uint64),
        ("evicted", c_uint64),
        ("last", Last),
    ]


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
