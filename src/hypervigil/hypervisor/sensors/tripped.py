"""Which tripwire events are worth a look between two sweeps. Pure."""

from collections.abc import Hashable, Iterable

from hypervigil.model.ids import Instant

QUIET_S = 1.0
"""A wire that sprang again sooner tells nothing that the sweeps do not."""
SPACING_S = 0.05
"""Looks between sweeps come no closer than this, and cost at most a quarter of the time."""
MAX_WIRES = 65536


class Tripped:
    """Collects wires that sprang until it is time to look at their ports."""

    def __init__(self) -> None:
        self._sprang: dict[Hashable, Instant] = {}
        self._slots: set[int] = set()
        self._next = Instant(0.0)

    def spring(self, wires: Iterable[tuple[int, Hashable]], now: Instant) -> None:
        """Wires (slot, and which of its classes and directions) that sprang just now."""
        for slot, which in wires:
            key = (slot, which)
            if now - self._sprang.get(key, float("-inf")) >= QUIET_S:
                self._slots.add(slot)
            self._sprang[key] = now
        if len(self._sprang) > MAX_WIRES:
            self._sprang = {key: at for key, at in self._sprang.items() if now - at < QUIET_S}

    @property
    def due(self) -> Instant | None:
        """When to look, if at all."""
        return self._next if self._slots else None

    def looked(self, now: Instant, cost_s: float) -> None:
        """A sweep or a look has just ended, after so long."""
        self._next = Instant(now + max(SPACING_S, 4 * cost_s))

    def take(self) -> frozenset[int]:
        """The slots to look at."""
        slots, self._slots = frozenset(self._slots), set()
        return slots
