"""From one guest's bytes to its messages: bounded, counted, and in order. Pure."""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from hypervigil.host.gateway.budget import Budget
from hypervigil.model.ids import Instant, VmId
from hypervigil.wire.frames import ProtocolError
from hypervigil.wire.gateway import Unheard
from hypervigil.wire.guest import FromGuest, LineSplitter, Spoilt, parse_from_guest

FORMER_AGENTS = 64
"""Agents of the same guest that are known to have been followed by another."""


@dataclass(slots=True)
class Counts:
    """What was not taken of one guest."""

    garbage: int = 0
    too_long: int = 0
    replayed: int = 0
    over_rate: int = 0
    held_back_ms: int = 0
    crowded_out: int = 0
    untold: int = 0

    def any(self) -> bool:
        """Whether there is something to be told."""
        return any(getattr(self, name) for name in self.__slots__)

    def told(self, vm: VmId, at: Instant) -> Unheard:
        """As a message."""
        return Unheard(vm=vm, at=at, **{name: getattr(self, name) for name in self.__slots__})


class Hearing:
    """One guest's stream. ``budget`` and ``counts`` outlive a connection, what was half said does not."""

    def __init__(self, now: Instant) -> None:
        self.budget = Budget(now)
        self.counts = Counts()
        self._octets = 0
        self._splitter = LineSplitter()
        self._agent: int | None = None
        self._sequence = 0
        self._former: OrderedDict[int, None] = OrderedDict()

    def joined(self) -> None:
        """The channel was opened (again)."""
        self._splitter = LineSplitter()

    def take_counts(self) -> Counts:
        """What was not taken since the last call."""
        counts, self.counts = self.counts, Counts()
        return counts

    def take_octets(self) -> int:
        """How many were read since the last call."""
        octets, self._octets = self._octets, 0
        return octets

    def hear(self, untrusted_bytes: bytes) -> Iterator[FromGuest]:
        """The messages that these bytes complete."""
        self.budget.read(len(untrusted_bytes))
        self._octets += len(untrusted_bytes)
        for line in self._splitter.feed(untrusted_bytes):
            if not self.budget.line():
                self.counts.over_rate += 1
            elif isinstance(line, Spoilt):
                self.counts.too_long += 1
            else:
                message = self._message(line)
                if message is not None:
                    yield message

    def _message(self, untrusted_line: bytes) -> FromGuest | None:
        try:
            message = parse_from_guest(untrusted_line)
        except ProtocolError:
            self.counts.garbage += 1
            return None
        if not self._is_new(message):
            self.counts.replayed += 1
            return None
        return message

    def _is_new(self, message: FromGuest) -> bool:
        if message.agent == self._agent:
            if message.sequence <= self._sequence:
                return False
        elif message.agent in self._former:
            return False
        elif self._agent is not None:
            self._former[self._agent] = None
            if len(self._former) > FORMER_AGENTS:
                self._former.popitem(last=False)
        self._agent, self._sequence = message.agent, message.sequence
        return True
