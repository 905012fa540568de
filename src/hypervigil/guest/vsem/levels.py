"""The two levels: up by the guest's own finding or the host's word, down by the host's word alone. Pure."""

from __future__ import annotations

from hypervigil.guest.vsem.usual import Breach, Usual, suspect
from hypervigil.guest.words import UNKNOWN

LEVEL1, LEVEL2 = 1, 2
TOLD = 16
"""Breaches in one notice."""


class LevelChange:
    """A change of level, or more that was found at Level 2."""

    __slots__ = ("breaches", "cause", "level", "suspect")

    def __init__(self, level: int, cause: str, breaches: list[Breach]) -> None:
        self.level, self.cause = level, cause
        self.breaches = breaches[:TOLD]
        self.suspect = suspect(breaches) if breaches else UNKNOWN

    def fields(self) -> list[object]:
        """The fields of the notice after its number."""
        told = [(breach.metric, breach.value, breach.line) for breach in self.breaches]
        return [self.level, self.cause, self.suspect, told]


class Levels:
    """The state machine; what it returns is to be told to the host."""

    __slots__ = ("level", "usual")

    def __init__(self, remembered: int = LEVEL1) -> None:
        self.level = remembered
        self.usual = Usual()

    def begin(self) -> LevelChange | None:
        """After a restart of the agent: what was remembered is taken up, and said if it is Level 2."""
        return LevelChange(LEVEL2, "restart", []) if self.level == LEVEL2 else None

    def observe(self, values: list[int], interval_ms: int) -> LevelChange | None:
        """One second of values."""
        fresh = self.usual.judge(values, interval_ms)
        if not fresh:
            return None
        self.level = LEVEL2
        return LevelChange(LEVEL2, "breach", fresh)

    def told(self, level: int) -> LevelChange | None:
        """The host's word."""
        if level == self.level or level not in (LEVEL1, LEVEL2):
            return None
        self.level = level
        if level == LEVEL1:
            self.usual.pardon()
        return LevelChange(level, "told", [])
