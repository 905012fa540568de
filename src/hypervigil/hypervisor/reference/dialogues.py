"""What was said on TCP connections, in octets, and by whom first (``bpf/dialogues.h``), in the kernel's own records."""

import ctypes
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hypervigil.hypervisor.adapters.ebpf import layout
from hypervigil.hypervisor.adapters.ebpf.reader import GREETERS, Records
from hypervigil.hypervisor.reference.frame import ETH_HLEN, IPV4, Frame
from hypervigil.model.traffic import Direction, TrafficClass

CURT, LIKE_SERVICE, LIKE_CLIENT, NAME = 2560, 16, 32, 44
_MANY = 255
_NOBODY_YET, _CLIENT_FIRST, _SERVICE_FIRST = range(3)
_ACK = 0x10
_WORD = 0xFFFF_FFFF

Key = tuple[int, int, int, bytes]
"""Slot, its own port, the other end's, the other end's address."""


@dataclass(frozen=True, slots=True)
class Heard:
    """A frame of a connection at a port."""

    counters: layout.Counters
    key: Key
    direction: Direction
    frame: Frame
    peer: layout.Peer
    """Whom it was counted for."""
    way_back: "WayBack"
    """Gives whom frames of the other direction are counted for."""
    now: int


GreeterKey = tuple[int, Direction, bytes, int]
"""Slot, direction of the SYN, the other end's address, the service's port."""
WayBack = Callable[[], layout.Peer | None]


class _Record(ctypes.Structure):
    """A key and its value, side by side as ``DataPlaneReader.greeters`` gives them."""

    _pack_ = 1
    _fields_ = [("key", layout.GreeterKey), ("greeter", layout.Greeter)]


class Dialogues:
    """Dialogues under way, and services that speak first; of each, beyond its room what was used longest ago goes."""

    def __init__(self, room: int, greeters: int) -> None:
        self._room = room
        self.held: OrderedDict[Key, layout.Dialogue] = OrderedDict()
        self._greeters_room = greeters
        self.greeters: OrderedDict[GreeterKey, layout.Greeter] = OrderedDict()

    def records(self) -> Records:
        """Services that speak first, as the sensors read them."""
        found = (_Record * len(self.greeters))()
        for record, ((slot, way, address, port), greeter) in zip(found, self.greeters.items(), strict=True):
            record.key = layout.GreeterKey(slot, int(way), layout.Address.from_buffer_copy(address), port)
            record.greeter = greeter
        return np.frombuffer(memoryview(found), GREETERS) if found else np.zeros(0, GREETERS)

    def converse(self, heard: Heard) -> None:
        """A frame that may begin a dialogue, end one, or be the first in which a service says something."""
        frame, peer, counters = heard.frame, heard.peer, heard.counters
        head = frame.load(frame.l4, 14)
        length = frame.load(ETH_HLEN + (2 if frame.ethertype == IPV4 else 4), 2)
        if head is None or length is None:
            return
        whole = int.from_bytes(length) + (0 if frame.ethertype == IPV4 else 40) + ETH_HLEN - frame.l4
        payload = max(0, whole - (head[12] >> 4) * 4)
        number, acknowledged, flags = int.from_bytes(head[4:8]), int.from_bytes(head[8:12]), head[13]
        known = self._find(heard.key)
        if frame.traffic is TrafficClass.SYNACK:
            self._begin(heard, number, acknowledged)
            return
        if known is None:
            return
        service = known.direction != heard.direction
        plain = frame.traffic is TrafficClass.TCP
        speaks = service and plain and payload and flags & _ACK and number == known.answered
        if speaks and known.first == _NOBODY_YET:
            told = acknowledged - known.asked & _WORD
            known.first = _SERVICE_FIRST if told <= NAME else _CLIENT_FIRST
            _less_silent(peer)
        if plain and not frame.ends:
            return
        if plain and not service:
            known.finish, known.finished = number + payload & _WORD, 1
            return
        silent: layout.Peer | None = peer
        if not service and known.first == _NOBODY_YET:
            if number != known.asked:
                return
            silent = heard.way_back()
        if known.first == _SERVICE_FIRST:
            says = number + payload & _WORD
            asked = _said(known, acknowledged if service else number)
            answered = (says if service else acknowledged) - known.answered & _WORD
            over = self._conclude(heard, known, (asked, answered), sure=service) if flags & _ACK else service
            if not over:
                return
        if silent is not None and known.first == _NOBODY_YET:
            _less_silent(silent)
        del self.held[heard.key]
        counters.concluded += 1

    def _find(self, key: Key) -> layout.Dialogue | None:
        found = self.held.get(key)
        if found is not None:
            self.held.move_to_end(key)
        return found

    def _begin(self, heard: Heard, number: int, acknowledged: int) -> None:
        peer, key = heard.peer, heard.key
        old, answered = self.held.get(key), number + 1 & _WORD
        if old is not None and (old.asked, old.answered) == (acknowledged, answered):
            return
        asking = heard.way_back()
        if asking is None or not asking.openings:
            return
        if old is None or old.first != _NOBODY_YET:
            peer.silent += peer.silent < _MANY
        if old is not None:
            heard.counters.concluded += 1
        elif len(self.held) >= self._room:
            self.held.popitem(last=False)
        self.held[key] = layout.Dialogue(heard.now, acknowledged, answered, 0, 1 - heard.direction)
        self.held.move_to_end(key)
        heard.counters.dialogues += 1

    def _conclude(self, heard: Heard, over: layout.Dialogue, octets: tuple[int, int], *, sure: bool) -> bool:
        """A dialogue of a service that spoke first is over; ``sure``: by its own frame. Whether it is counted.

        ``octets``: what its client said, and what it answered.
        """
        slot, own_port, other_port, address = heard.key
        key = (slot, Direction(over.direction), address, own_port if over.direction else other_port)
        asked, answered = octets
        curt = asked <= CURT and answered <= CURT
        known = self.greeters.get(key)
        if known is None:
            if not sure and not curt:
                return False
            if len(self.greeters) >= self._greeters_room:
                self.greeters.popitem(last=False)
            self.greeters[key] = layout.Greeter(heard.now, 1, curt, 0, 0, 0, curt * asked, curt * answered)
            heard.counters.greeters += 1
            return True
        self.greeters.move_to_end(key)
        like = curt and known.curt and abs(answered - known.answered) <= LIKE_SERVICE
        like = like and abs(asked - known.asked) <= LIKE_CLIENT
        if not sure and not like:
            return False
        known.last_ns = heard.now
        known.ended += 1
        if not curt:
            return True
        known.curt += 1
        if like:
            known.alike += 1
            more, longer = asked - known.asked, answered - known.answered
            known.varied += more != 0 and longer in {0, more}
            known.lasted_ns += max(0, heard.now - over.opened_ns)
        known.asked, known.answered = asked, answered
        return True


def concerns(frame: Frame, peer: layout.Peer) -> bool:
    """Whether a frame begins a dialogue, may end one, or may be the first in which a service says something."""
    if frame.traffic is TrafficClass.TCP:
        return frame.ends or bool(peer.silent)
    return frame.traffic in {TrafficClass.SYNACK, TrafficClass.RST}


def _said(known: layout.Dialogue, number: int) -> int:
    """How many octets a client has said up to a number; its FIN is none of them."""
    past = known.finished and number == known.finish + 1 & _WORD
    return (number - int(known.asked) - bool(past)) & _WORD


def _less_silent(peer: layout.Peer) -> None:
    if 0 < peer.silent < _MANY:
        peer.silent -= 1
