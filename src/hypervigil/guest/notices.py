"""Notices: told until they are acknowledged. Pure and bounded."""

from __future__ import annotations

MOST = 32
AGAIN_MS, AGAIN_MAX_MS = 1000, 8000
_LEVEL = "level"


class Notice:
    """One that waits for its acknowledgement."""

    __slots__ = ("at_ms", "due_ms", "fields", "kind", "number", "pause_ms")

    def __init__(self, number: int, kind: str, fields: list[object], at_ms: int) -> None:
        self.number, self.kind, self.fields, self.at_ms = number, kind, fields, at_ms
        self.due_ms = at_ms
        self.pause_ms = AGAIN_MS


class Notices:
    """Those that wait, oldest first. When there is no room the oldest goes that is no change of level."""

    __slots__ = ("_dropped", "_last", "_waiting")

    def __init__(self) -> None:
        self._waiting: list[Notice] = []
        self._last = 0
        self._dropped = 0

    def add(self, kind: str, fields: list[object], at_ms: int) -> None:
        """Tell this, from now on."""
        self._last += 1
        if len(self._waiting) >= MOST:
            place = 0
            for number, notice in enumerate(self._waiting):
                if notice.kind != _LEVEL:
                    place = number
                    break
            del self._waiting[place]
            self._dropped += 1
        self._waiting.append(Notice(self._last, kind, fields, at_ms))

    def acknowledged(self, number: int) -> None:
        """The host has heard this one."""
        self._waiting = [notice for notice in self._waiting if notice.number != number]

    def due(self, now_ms: int) -> list[Notice]:
        """Those to be told now."""
        return [notice for notice in self._waiting if notice.due_ms <= now_ms]

    def told(self, notice: Notice, now_ms: int) -> None:
        """It went out; it will again, ever later, until it is acknowledged."""
        notice.due_ms = now_ms + notice.pause_ms
        notice.pause_ms = min(2 * notice.pause_ms, AGAIN_MAX_MS)

    def take_dropped(self) -> int:
        """How many found no room since the last call."""
        dropped, self._dropped = self._dropped, 0
        return dropped
