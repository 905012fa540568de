"""How near the guest is to its capacity, how often it was, and what it asks for because of it. Pure."""

from __future__ import annotations

from hypervigil.guest import words

NEAR, BELOW = 900, 750
"""Permille: a resource comes near its capacity, and must come down before it can come near again."""
HELD_MS = 10_000
"""Near for so long: ask for more."""
CALM_MS = 30_000
"""Below for so long: take the wish back."""
AGAIN_MS = 60_000

RESOURCES = (("cpu", words.CPU), ("memory", words.MEMORY), ("disk", words.DISK))
_MORE = 500
"""Permille of what it has."""
_MORE_MEMORY_KIB = 32_768
_WHOLE = 1000


class Near:
    """One resource."""

    __slots__ = ("asked_ms", "near_ms", "since_ms", "times", "total_ms", "under_ms")

    def __init__(self) -> None:
        self.times = 0
        self.total_ms = 0
        self.since_ms: int | None = None
        self.under_ms: int | None = None
        self.asked_ms: int | None = None

    def see(self, share: int, at_ms: int, interval_ms: int) -> None:
        """One second's share in permille."""
        if share >= NEAR and self.since_ms is None:
            self.since_ms = at_ms
            self.times += 1
        elif share < BELOW:
            if self.since_ms is not None or self.under_ms is None:
                self.under_ms = at_ms
            self.since_ms = None
        if self.since_ms is not None:
            self.under_ms = None
            self.total_ms += interval_ms

    def wish(self, at_ms: int) -> bool | None:
        """Ask for more (true), take the wish back (false), or neither."""
        if self.since_ms is not None:
            if at_ms - self.since_ms >= HELD_MS and (self.asked_ms is None or at_ms - self.asked_ms >= AGAIN_MS):
                self.asked_ms = at_ms
                return True
        elif self.asked_ms is not None and self.under_ms is not None and at_ms - self.under_ms >= CALM_MS:
            self.asked_ms = None
            return False
        return None


class Load:
    """All resources."""

    __slots__ = ("near", "shares", "steal")

    def __init__(self) -> None:
        self.near = tuple([Near() for _ in RESOURCES])
        self.shares = [words.UNSEEN] * len(RESOURCES)
        self.steal = words.UNSEEN

    def see(self, values: list[int], at_ms: int, interval_ms: int) -> None:
        """Take in one second, and fill in how often each was near its capacity."""
        self.steal = values[words.STEAL]
        for place, (_, column) in enumerate(RESOURCES):
            share = self.shares[place] = values[column]
            if share >= 0:
                self.near[place].see(share, at_ms, interval_ms)
            values[words.NEAR_CPU + place] = self.near[place].times

    def wishes(self, at_ms: int, memory_kib: int) -> list[tuple[str, int, int, int]]:
        """What is asked for now: resource, what it has, how much more, for how many seconds it has been near."""
        found = []
        for (name, _), near in zip(RESOURCES, self.near):
            wish = near.wish(at_ms)
            if wish is None:
                continue
            has, more = (memory_kib, max(_MORE_MEMORY_KIB, memory_kib // 4)) if name == "memory" else (_WHOLE, _MORE)
            held_s = (at_ms - near.since_ms) // 1000 if near.since_ms is not None else 0
            found.append((name, has, more if wish else 0, held_s))
        return found

    def answer(self) -> list[object]:
        """The fields of the answer to ``load``."""
        cpu, memory, disk = self.shares
        times, seconds = [near.times for near in self.near], [near.total_ms // 1000 for near in self.near]
        return [cpu, self.steal, memory, disk, times, seconds]
