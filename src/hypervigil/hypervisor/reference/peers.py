"""Who each port talks to (``remember`` and ``hv_peers`` in ``bpf/hypervigil.bpf.c``), in the kernel's own records."""

import ctypes
from collections import OrderedDict

import numpy as np

from hypervigil.hypervisor.adapters.ebpf import layout
from hypervigil.hypervisor.adapters.ebpf.reader import PEERS, Records
from hypervigil.hypervisor.reference.bucket import SECOND_NS
from hypervigil.hypervisor.reference.dialogues import Dialogues, Heard, concerns
from hypervigil.hypervisor.reference.frame import ICMP, ICMPV6, Frame
from hypervigil.model.traffic import Direction, TrafficClass

_HASH = 2654435761
_ALWAYS = frozenset({TrafficClass.SYN, TrafficClass.FRAGMENT, TrafficClass.OTHER, TrafficClass.MULTICAST})
_ANSWERS = frozenset({TrafficClass.SYNACK, TrafficClass.RST, TrafficClass.TCP})
"""To a port that the other end chose."""

Key = tuple[int, Direction, bytes]


class _Record(ctypes.Structure):
    """A key and its value, side by side as ``DataPlaneReader.peers`` gives them."""

    _pack_ = 1
    _fields_ = [("key", layout.PeerKey), ("peer", layout.Peer)]


class Peers:
    """The memory of everybody talked to; beyond ``room`` the one longest silent is forgotten."""

    def __init__(self, room: int) -> None:
        self._records = (_Record * room)()
        self._view: Records = np.frombuffer(memoryview(self._records), PEERS)
        self._peers: OrderedDict[Key, layout.Peer] = OrderedDict()
        self._places: dict[Key, int] = {}

    def find(self, key: Key) -> layout.Peer | None:
        """The record of a peer; it counts as used."""
        peer = self._peers.get(key)
        if peer is not None:
            self._peers.move_to_end(key)
        return peer

    def add(self, key: Key) -> layout.Peer:
        """An empty record for a peer that has none."""
        if len(self._peers) < len(self._records):
            place = len(self._peers)
        else:
            forgotten, _ = self._peers.popitem(last=False)
            place = self._places.pop(forgotten)
        record = self._records[place]
        ctypes.memset(ctypes.addressof(record), 0, ctypes.sizeof(record))
        record.key = layout.PeerKey(key[0], int(key[1]), layout.Address.from_buffer_copy(key[2]))
        self._places[key] = place
        peer: layout.Peer = record.peer
        self._peers[key] = peer
        return peer

    def records(self) -> Records:
        """All of them, as the sensors read them."""
        return self._view[: len(self._peers)].copy()


def remember(
    peers: Peers,
    dialogues: Dialogues,
    whose: tuple[int, layout.Counters],
    direction: Direction,
    frame: Frame,
    *,
    now: int,
) -> tuple[bool, bool]:
    """Count a frame for its peer: whether the peer is new, and whether no frame to it was let through yet.

    ``whose``: the port's slot and counters.
    """
    slot, counters = whose
    out = direction is Direction.OUT
    other = frame.destination if out else frame.source
    key = (slot, direction, other)
    tried = frame.destination_port and frame.traffic not in _ANSWERS
    port = 1 << ((frame.destination_port * _HASH & 0xFFFF_FFFF) >> 26) if tried else 0
    second = now // SECOND_NS & 0xFFFF_FFFF
    peer = peers.find(key)
    fresh = peer is None
    if peer is None:
        peer = peers.add(key)
        peer.first_ns = now
        peer.second = second
        peer.mac = (ctypes.c_uint8 * 6).from_buffer_copy(frame.destination_mac if out else frame.source_mac)
    elif peer.second != second:
        peer.ports_before = peer.ports_now if peer.second + 1 & 0xFFFF_FFFF == second else 0
        peer.ports_now = 0
        peer.second = second
    peer.last_ns = now
    peer.packets += frame.packets
    peer.octets += frame.octets
    peer.ports_now |= port
    if opens(frame):
        peer.openings += frame.packets
    if frame.traffic is TrafficClass.RST:
        peer.resets += frame.packets
    if concerns(frame, peer):
        ports = (frame.source_port, frame.destination_port) if out else (frame.destination_port, frame.source_port)
        back = (slot, Direction(1 - direction), other)
        heard = Heard(counters, (slot, *ports, other), direction, frame, peer, lambda: peers.find(back), now)
        dialogues.converse(heard)
    return fresh, out and not peer.admitted


def opens(frame: Frame) -> bool:
    """Whether the sender begins something."""
    match frame.traffic:
        case TrafficClass.UDP:
            return frame.destination_port < frame.source_port
        case TrafficClass.DNS:
            return frame.destination_port == 53
        case TrafficClass.ICMP:
            return (frame.protocol, frame.icmp_type) in {(ICMP, 8), (ICMPV6, 128)}
    return frame.traffic in _ALWAYS
