"""What a port's conversations are, and how many of them are remembered (``recall`` and ``enter`` in ``bpf/fabric.h``).

A conversation is 40 bytes, as the kernel has them: who began it, who was asked, their ports (an echo's identifier, a
fragment's identification), the protocol, its kind, and the generation of the port that remembers it. Pure.
"""

import struct

from hypervigil.hypervisor.adapters.ebpf import layout
from hypervigil.hypervisor.reference.frame import ICMP, ICMPV6, Frame

Key = bytes
_FRAGMENTS = 1
_TCP = 6
_TCP_TICKS, _OTHER_TICKS = 3352, 168
_PAST = 1 << 31
_EMPTY = _PAST - 1
"""The age of a way that holds nothing: older than all."""
_MULTIPLIER, _WORD, _HALF = 0x9E37_79B9_7F4A_7C15, 0xFFFF_FFFF_FFFF_FFFF, 0xFFFF_FFFF
_WORDS = struct.Struct("=5Q")
_TAIL = struct.Struct("=HHBBH")
_ECHO = {ICMP: (8, 0), ICMPV6: (128, 129)}
"""Types of the question and of its answer."""


def conversation(frame: Frame, generation: int, *, answers: bool) -> Key | None:
    """The one that a frame begins or goes on with, or that it ``answers``; ``None`` where it can be none."""
    begun, asked, one, other = frame.source, frame.destination, frame.source_port, frame.destination_port
    if answers:
        begun, asked, one, other = asked, begun, other, one
    if frame.protocol in _ECHO:
        identifier = frame.load(frame.l4 + 4, 2)
        if frame.icmp_type != _ECHO[frame.protocol][answers] or identifier is None:
            return None
        one, other = identifier[0] | identifier[1] << 8, 0
    return begun + asked + _TAIL.pack(one, other, frame.protocol, 0, generation)


def fragments(frame: Frame, generation: int) -> Key:
    """What the fragments of one packet have in common."""
    low, high = struct.unpack("=HH", frame.fragment_id)
    return frame.source + frame.destination + _TAIL.pack(high, low, 0, _FRAGMENTS, generation)


class Way:
    """One conversation, and in which tick of 1.07 s it was heard last."""

    __slots__ = ("key", "tag", "tick")

    def __init__(self, key: Key, tag: int, tick: int) -> None:
        self.key = key
        self.tag = tag
        self.tick = tick

    def stale(self, tick: int) -> bool:
        """Whether it was silent for so long that it is over."""
        return (_TCP_TICKS if self.key[36] == _TCP else _OTHER_TICKS) < self._age(tick) < _PAST

    def _age(self, tick: int) -> int:
        return tick - self.tick & _HALF


class Table:
    """The conversations of one slot, in sets of eight ways."""

    def __init__(self) -> None:
        self.sets: dict[int, list[Way | None]] = {}

    def knows(self, key: Key, seed: int, tick: int) -> bool:
        """Whether it is remembered; it counts as heard."""
        tag = tag_of(key, seed)
        for way in self.sets.get(_set_of(tag), ()):
            if way is not None and way.tag == tag and way.key == key:
                if way.stale(tick):
                    return False
                way.tick = tick
                return True
        return False

    def enter(self, key: Key, seed: int, tick: int, room: int) -> bool:
        """Remember it in place of what was silent for longest, in the first ``room`` ways; whether that was alive."""
        tag = tag_of(key, seed)
        ways = self.sets.setdefault(_set_of(tag), [None] * layout.FLOW_WAYS)
        place = age = 0
        for number, way in enumerate(ways[:room]):
            its = _EMPTY if way is None else tick - way.tick & _HALF
            if age <= its < _PAST:
                place, age = number, its
        old, ways[place] = ways[place], Way(key, tag, tick)
        return old is not None and not old.stale(tick)


def tag_of(key: Key, seed: int) -> int:
    """What a conversation is found by, other with each seed."""
    tag = seed
    for word in _WORDS.unpack(key):
        tag = (tag ^ word) * _MULTIPLIER & _WORD
        tag ^= tag >> 29
    return tag >> 32 | 1


def _set_of(tag: int) -> int:
    return (tag >> 8) % layout.FLOW_SETS
