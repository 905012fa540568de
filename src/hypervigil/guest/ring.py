"""Reports that could not be sent, kept until the channel is back. Pure and bounded."""

from __future__ import annotations

REPORTS = 300
OCTETS = 65_536


class Ring:
    """The newest reports; what there was no room for is counted."""

    __slots__ = ("_bodies", "_octets", "lost", "lost_since_ms")

    def __init__(self) -> None:
        self._bodies: list[tuple[int, bytes]] = []
        self._octets = 0
        self.lost = 0
        self.lost_since_ms = 0

    def __len__(self) -> int:
        return len(self._bodies)

    def keep(self, at_ms: int, body: bytes) -> None:
        """Keep one; the oldest goes when there is no room."""
        self._bodies.append((at_ms, body))
        self._octets += len(body)
        while len(self._bodies) > REPORTS or self._octets > OCTETS:
            since_ms, oldest = self._bodies.pop(0)
            self._octets -= len(oldest)
            if not self.lost:
                self.lost_since_ms = since_ms
            self.lost += 1

    def oldest(self) -> bytes | None:
        """The one to be sent next."""
        return self._bodies[0][1] if self._bodies else None

    def sent(self) -> None:
        """The oldest went out."""
        self._octets -= len(self._bodies.pop(0)[1])

    def take_lost(self) -> tuple[int, int]:
        """How many were lost since the last call, and since when."""
        lost, self.lost = self.lost, 0
        return lost, self.lost_since_ms
