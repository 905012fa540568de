"""What the agent says: each line with its head, notices until they are heard, reports kept while nobody listens."""

from __future__ import annotations

from hypervigil.guest import lines
from hypervigil.guest.notices import Notices
from hypervigil.guest.port import Port
from hypervigil.guest.ring import Ring
from hypervigil.guest.words import VERSION

CATCH_UP_OCTETS = 8192
"""Of what was kept, so much is sent a second."""


class Voice:
    """One agent's. ``agent`` is drawn anew at each start, so that an agent and its successor are told apart."""

    def __init__(self, port: Port, agent: int) -> None:
        self._port = port
        self._agent = agent
        self._sequence = 0
        self._notices = Notices()
        self._ring = Ring()

    def say(self, kind: str, fields: list[object]) -> bool:
        """One message; the first field is the time. False when it was not taken."""
        return self._say(kind, lines.encode(fields))

    def _say(self, kind: str, body: bytes) -> bool:
        head = '["%s",%d,%d,%d,' % (kind, VERSION, self._agent, self._sequence + 1)  # noqa: UP031 - measured
        if not self._port.write(head.encode() + body[1:]):
            return False
        self._sequence += 1
        return True

    def notice(self, kind: str, fields: list[object], at_ms: int) -> None:
        """Tell this until it is acknowledged."""
        self._notices.add(kind, fields, at_ms)
        self.tell_notices(at_ms)

    def heard(self, number: int) -> None:
        """The host has heard this notice."""
        self._notices.acknowledged(number)

    def tell_notices(self, at_ms: int) -> None:
        """Those that are due."""
        for notice in self._notices.due(at_ms):
            if not self.say(notice.kind, [notice.at_ms, notice.number, *notice.fields]):
                return
            self._notices.told(notice, at_ms)

    def report(self, fields: list[object], details: list[object] | None) -> None:
        """One second's report, on Level 2 with its details; what cannot be sent is kept without them."""
        kind, whole = ("r1", fields) if details is None else ("r2", fields + details)
        if self.say(kind, whole):
            self._catch_up()
        else:
            at_ms = fields[0]
            self._ring.keep(at_ms if isinstance(at_ms, int) else 0, lines.encode(fields))

    def _catch_up(self) -> None:
        octets = 0
        while octets < CATCH_UP_OCTETS:
            body = self._ring.oldest()
            if body is None or not self._say("r1", body):
                return
            octets += len(body)
            self._ring.sent()

    def own_up(self, at_ms: int) -> None:
        """Say what was lost, if anything was."""
        lost, since_ms = self._ring.take_lost()
        lost += self._notices.take_dropped()
        if lost:
            self.notice("lost", [lost, since_ms], at_ms)
