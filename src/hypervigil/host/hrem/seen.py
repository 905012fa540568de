"""What the host counted of one VM, kept long enough to hold a guest's word against it. Pure and bounded.

All that is asked is how much surely left between two times: only whole looks count, those that began after the first of
them and were known before the second.
"""

from bisect import bisect_left, bisect_right

import numpy as np
import numpy.typing as npt

from hypervigil.model.ids import Instant

Counts = npt.NDArray[np.float64]

KEPT_S = 16.0
MOST_LOOKS = 256
"""Looks at a VM that are kept; a tripwire may ask for many."""
STOPPED_S = 0.3
"""Who has sent nothing for so long has stopped; drivers may count their last frames only when they send again."""


class Seen:
    """Sums since the beginning. ``sent`` is the column that grows with every frame."""

    def __init__(self, columns: int, sent: int) -> None:
        self._sent = sent
        self._begun: list[float] = []
        """No look read its counts before."""
        self._known: list[float] = []
        """By then they had been read."""
        self._sums: list[Counts] = [np.zeros(columns)]

    def __len__(self) -> int:
        return len(self._known)

    def add(self, begun: Instant, known: Instant, counts: Counts, interval_s: float) -> None:
        """One look more. What was not seen is missing in the sums, which only makes the host say less."""
        if not self._known:
            self._begun.append(begun - interval_s)
            self._known.append(known - interval_s)
        self._begun.append(max(begun, self._begun[-1]))
        self._known.append(max(known, self._known[-1]))
        self._sums.append(self._sums[-1] + counts)
        old = max(bisect_left(self._known, self._known[-1] - KEPT_S), len(self._known) - MOST_LOOKS)
        if old > 0:
            del self._begun[:old], self._known[:old], self._sums[:old]

    def surely(self, after: float, until: float) -> tuple[Counts, float] | None:
        """The least that was counted between two times, and over how many seconds; ``None`` where nothing is sure."""
        first, last = bisect_left(self._begun, after), bisect_right(self._known, until) - 1
        last = self._before_it_stopped(first, last)
        if last <= first:
            return None
        return self._sums[last] - self._sums[first], self._known[last] - self._known[first]

    def _before_it_stopped(self, first: int, last: int) -> int:
        """The last look whose frames were followed by others, if none has left lately."""
        end = last
        while end > first and self._sums[end][self._sent] <= self._sums[end - 1][self._sent]:
            end -= 1
        if end <= first or self._known[last] - self._known[end] < STOPPED_S:
            return last
        return bisect_right(self._known, self._known[end] - STOPPED_S) - 1
