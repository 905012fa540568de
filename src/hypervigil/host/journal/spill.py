"""Records that wait in memory while the journal cannot be written. Bounded: facts give way first, then the oldest."""

from collections import deque
from dataclasses import dataclass

from hypervigil.host.journal.records import Body, Entry, Kind

MAX_HELD = 20_000
MAX_HELD_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Encoded:
    """An entry whose body is encoded already, so that holding it costs its bytes and it cannot fail later."""

    entry: Entry
    body: Body


class Spill:
    """A queue of entries in two ranks: facts, which are many, and everything else."""

    def __init__(self, *, max_held: int = MAX_HELD, max_bytes: int = MAX_HELD_BYTES) -> None:
        self._facts: deque[tuple[int, Encoded]] = deque()
        self._others: deque[tuple[int, Encoded]] = deque()
        self._max_held = max_held
        self._max_bytes = max_bytes
        self._arrivals = 0
        self._bytes = 0
        self.lost = 0
        """Entries that had to give way since the spill was last emptied."""

    def __len__(self) -> int:
        return len(self._facts) + len(self._others)

    def hold(self, encoded: Encoded) -> None:
        """Keep one; whatever must give way is counted in ``lost``."""
        queue = self._facts if encoded.entry.kind is Kind.FACT else self._others
        queue.append((self._arrivals, encoded))
        self._arrivals += 1
        self._bytes += len(encoded.body)
        while len(self) > self._max_held or self._bytes > self._max_bytes:
            _, gone = (self._facts or self._others).popleft()
            self._bytes -= len(gone.body)
            self.lost += 1

    def waiting(self) -> list[Encoded]:
        """All that is held, in order of arrival."""
        return [encoded for _, encoded in sorted([*self._facts, *self._others], key=lambda held: held[0])]

    def clear(self) -> None:
        """They are written."""
        self._facts.clear()
        self._others.clear()
        self._bytes = 0
        self.lost = 0
