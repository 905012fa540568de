"""What VMs lose of their block requests while somebody takes the storage: slower, fewer, and waited for. Pure.

What is slow depends on the storage: where half a millisecond is usual, twelve milliseconds halve a writer's work. A
longer wait by itself costs nobody anything who has time, and who does less may have less to do: harm is both, of one
that waits.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from hypervigil.host.hsem.table import Matrix, Table
from hypervigil.model.ids import VmId
from hypervigil.model.metric import Metric

TIMES = 3.0
"""A request may take so many times what is usual of its VM."""
QUICK_S = 0.005
"""And so long on any storage."""
LOST = 0.23
"""Of the requests that it had served just before, so many may be missing: its work then takes 1.3 times as long."""
WAITING = 0.5
"""Of its requests so many may be under way on average: of who stops asking there are none."""
LEAST = 10.0
"""A second: of who has fewer served nothing is concluded."""
MEMORY_S = 10.0
"""What it had served is remembered with this time constant, of seconds in which no request was slow."""


class Slowed:
    """Of each VM one number."""

    def __init__(self) -> None:
        self._table = Table(rate=(1,))

    def keep(self, vms: Iterable[VmId]) -> None:
        """Forget all others."""
        self._table.keep(vms)

    def see(self, vms: Sequence[VmId], values: Matrix, tails: Matrix) -> Matrix:
        """What each bears against what is bearable, shape ``(len(vms),)``.

        Of one second: its values and what is usual, shape ``(len(vms), len(Metric))``.
        """
        rows = self._table.rows(vms)
        rate = values[:, Metric.BLOCK_READS] + values[:, Metric.BLOCK_WRITES]
        wait = np.nan_to_num(values[:, Metric.BLOCK_WAIT])
        slow = wait / np.maximum(TIMES * tails[:, Metric.BLOCK_WAIT], QUICK_S)
        before = self._table["rate"][rows, 0]
        lost = 1.0 - np.nan_to_num(rate, nan=np.inf) / np.maximum(before, LEAST)
        known = (before >= LEAST) & (wait > 0)
        borne = np.minimum(np.minimum(slow, lost / LOST), np.nan_to_num(rate) * wait / WAITING)
        learned = np.isfinite(rate) & (slow < 1.0)
        kept = np.float32(np.exp(-1 / MEMORY_S))
        self._table["rate"][rows[learned], 0] = kept * before[learned] + (1 - kept) * rate[learned]
        return np.asarray(np.nan_to_num(np.where(known, borne, 0.0)).clip(min=0.0), np.float32)
