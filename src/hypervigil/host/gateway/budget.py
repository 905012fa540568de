"""How much one guest may say: octets and lines per second, with a burst for what an agent kept during a cut. Pure."""

from hypervigil.model.ids import Instant

OCTETS_PER_S = 32_768.0
"""An agent promises 20 kB/s at most."""
OCTETS_BURST = 65_536.0
OCTETS_OWED = 262_144.0
"""The most that a guest can be behind: eight seconds of silence."""
LINE_COST = 256
"""Octets that each line costs besides its own, because looking at it costs us."""
LINES_PER_S = 64.0
LINES_BURST = 320.0
WORTHWHILE = 4096.0
"""A guest that has spent its octets is read again when it may send so many."""


class Budget:
    """Of one guest."""

    def __init__(self, now: Instant) -> None:
        self._octets = OCTETS_BURST
        self._lines = LINES_BURST
        self._at = now

    def octets(self, now: Instant) -> int:
        """How many octets may be read now."""
        elapsed = max(0.0, now - self._at)
        self._at = now
        self._octets = min(OCTETS_BURST, self._octets + OCTETS_PER_S * elapsed)
        self._lines = min(LINES_BURST, self._lines + LINES_PER_S * elapsed)
        return max(0, int(self._octets))

    def read(self, octets: int) -> None:
        """So many were read."""
        self._octets = max(-OCTETS_OWED, self._octets - octets)

    def line(self) -> bool:
        """One more line was read: whether it may be looked at."""
        self.read(LINE_COST)
        if self._lines < 1.0:
            return False
        self._lines -= 1.0
        return True

    def again_at(self, now: Instant) -> Instant:
        """When reading is worthwhile again."""
        return Instant(now + max(0.0, WORTHWHILE - self._octets) / OCTETS_PER_S)
