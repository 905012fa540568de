"""Which addresses a MAC says by ARP to have, though frames show that it has not. Pure.

A running host knows from policy and libvirt whose an address is; a capture tells it only where somebody contradicts.
Two contradictions count, and neither a takeover by a stand-by nor a second NIC of one host makes any of them:

- who says to have an address soon asks where it is, and nobody else has said to have it meanwhile;
- who says so again and again, unasked, does it while the address's user, before and after, is another MAC.
"""

from dataclasses import dataclass
from typing import TypeVar

from hypervigil.entrypoints.replay.links import Seen

MAX_KEPT = 50_000
"""Addresses that are remembered for each purpose; a flood may bring any number."""
TOGETHER_NS = 60_000_000_000
"""What is so far apart is no contradiction: addresses move."""
ASKED_NS = 2_000_000_000
"""Whoever says where an address is within this time was asked."""
INSISTS = 3
"""So often somebody says unasked to have an address that another one uses."""

_REQUEST, _REPLY = 1, 2
_NOWHERE = bytes(4)

Key = TypeVar("Key")
Value = TypeVar("Value")
Place = tuple[int, bytes]
"""A network and an address on it."""


@dataclass(slots=True)
class _Use:
    mac: bytes
    at_ns: int


class Disputes:
    """The contradictions found so far; feed it frames in the order of time."""

    def __init__(self) -> None:
        self.disproved: dict[bytes, set[bytes]] = {}
        """By MAC: addresses that are not its own, whatever it says."""
        self._said: dict[Place, _Use] = {}
        """Who was last to say by ARP to have an address."""
        self._asked: dict[Place, int] = {}
        self._used: dict[Place, _Use] = {}
        """Who sends IP packets of its own with an address."""
        self._insisting: dict[Place, dict[bytes, list[int]]] = {}
        """Who said unasked to have an address that another one uses, and when; its user was not seen since then."""
        self._outvoted: dict[tuple[Place, bytes], int] = {}
        """How often its user was seen again after that."""

    def see(self, one: Seen, at_ns: int, *, first_hand: bool) -> None:
        """Take in one frame; ``first_hand``: its sender sends for itself."""
        if not one.real or one.addresses is None:
            return
        source, destination = one.addresses
        if one.arp:
            self._arp(one, source, destination, at_ns)
        elif first_hand:
            self._use((one.network, source), one.source_mac, at_ns)

    def _arp(self, one: Seen, source: bytes, target: bytes, at_ns: int) -> None:
        operation = one.frame[20] << 8 | one.frame[21]
        mac, said, asked = one.source_mac, (one.network, source), (one.network, target)
        if source[12:] == _NOWHERE:
            return
        if operation == _REQUEST and target != source:
            last = self._said.get(asked)
            if last is not None and last.mac == mac and at_ns - last.at_ns <= TOGETHER_NS:
                self._disprove(mac, target)
            _keep(self._asked, asked, at_ns)
        elif operation == _REPLY or target == source:
            self._say(said, mac, at_ns)
        _keep(self._said, said, _Use(mac, at_ns))

    def _say(self, place: Place, mac: bytes, at_ns: int) -> None:
        """Somebody says to have an address: of interest if nobody asked and another one uses it."""
        used = self._used.get(place)
        if used is None or used.mac == mac or at_ns - used.at_ns > TOGETHER_NS:
            return
        if at_ns - self._asked.get(place, -TOGETHER_NS) > ASKED_NS:
            claimed = self._insisting.setdefault(place, {}) if len(self._insisting) < MAX_KEPT else {}
            if len(claimed) < INSISTS or mac in claimed:
                claimed[mac] = [*claimed.get(mac, []), at_ns][-INSISTS:]

    def _use(self, place: Place, mac: bytes, at_ns: int) -> None:
        used = self._used.get(place)
        if used is None or at_ns - used.at_ns > TOGETHER_NS:
            _keep(self._used, place, _Use(mac, at_ns))
        elif used.mac == mac:
            used.at_ns = at_ns
            for other, times in self._insisting.pop(place, {}).items():
                recent = sum(at_ns - at <= TOGETHER_NS for at in times)
                times_before = self._outvoted.get((place, other), 0)
                _keep(self._outvoted, (place, other), times_before + recent)
                if times_before + recent >= INSISTS:
                    self._disprove(other, place[1])

    def _disprove(self, mac: bytes, address: bytes) -> None:
        if len(self.disproved) < MAX_KEPT:
            self.disproved.setdefault(mac, set()).add(address)


def _keep(kept: dict[Key, Value], key: Key, value: Value) -> None:
    if key in kept or len(kept) < MAX_KEPT:
        kept[key] = value
