"""What each of a VM's metrics keeps within, its values and its steps, and how far the VM is outside now. Pure.

One metric outside its range is ordinary: there are many of them, and each is outside now and then. What is told is the
mean over the VM's metrics of how far each is outside, in widths of its range, smoothed over about ``1 / SMOOTH``
samples. So a moment of one metric counts little, many metrics that agree count, and so does one that stays far away.
A lasting shift shows in the values and a blow in the steps, also where the values are anything from idle to busy.

Ranges are quantiles that follow the samples (H. Robbins, S. Monro, 1951), moved by parts of the mean deviation: no
sample, however wild, moves one further than another outside it does.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from hypervigil.host.hsem.table import Matrix, Rows, Table
from hypervigil.model.ids import VmId

OUTSIDE = 0.005
"""This share of the samples is above a range, and as many below."""
FOLLOWS = 0.02
"""A sample outside moves that end of the range by so many mean deviations, from ``YOUNG`` samples on; before, more."""
YOUNG = 500.0
HASTE = 0.6
DEVIATION_FOLLOWS = 1 / 1000
SMOOTH = 1 / 16
NARROWEST = 0.05
"""A range counts as no narrower than this share of the distance between the extremes of the values."""
MOST = 1e30
"""More of anything is counted as this."""
FARTHEST = 1e6
"""And no metric counts as further outside than this."""

Flags = npt.NDArray[np.bool_]
_PARTS = 2
"""Values and steps."""


class Ranges:
    """The ranges of all VMs."""

    def __init__(self, metrics: int) -> None:
        self._metrics = metrics
        one, both = (metrics,), (_PARTS, metrics)
        self._table = Table(
            samples=one,
            last=one,
            middle=one,
            least=one,
            most=one,
            low=both,
            high=both,
            deviation=both,
            outside=(1,),
            usual=(1,),
        )

    @property
    def vms(self) -> tuple[VmId, ...]:
        """Who has ranges."""
        return self._table.vms

    def samples(self, vm: VmId) -> int:
        """How often the most seen of a VM's metrics taught."""
        row = self._table.row(vm)
        return int(self._table["samples"][row].max())

    def usual(self, vm: VmId) -> float:
        """How far it is outside on average, of late, while it teaches."""
        row = self._table.row(vm)
        return float(self._table["usual"][row, 0])

    def keep(self, vms: Iterable[VmId]) -> None:
        """Forget all others."""
        self._table.keep(vms)

    def see(self, vms: Sequence[VmId], values: Matrix, learn: Flags | None = None) -> Matrix:
        """Take in one sample of each VM, shape ``(len(vms), metrics)``; NaN is unseen.

        How far each VM is outside its ranges, shape ``(len(vms),)``. ``learn``: per VM, whether its ranges may
        change; they never do of a VM under suspicion.
        """
        if not vms:
            return np.zeros(0, np.float32)
        rows = self._table.rows(vms)
        seen = np.isfinite(values)
        x = np.where(seen, np.clip(values, -MOST, MOST), 0.0).astype(np.float32)
        samples, last = self._table["samples"][rows], self._table["last"][rows]
        begun = samples > 0
        both = np.stack((x, np.where(begun, x - last, 0.0)), axis=1)
        low, high = self._table["low"][rows], self._table["high"][rows]
        narrowest = NARROWEST * (self._table["most"][rows] - self._table["least"][rows])
        width = np.maximum(high - low, narrowest[:, None, :])
        beyond = np.maximum(np.maximum(both - high, low - both), 0.0)
        far = np.minimum(beyond, FARTHEST * width) / np.where(width > 0, width, 1.0)
        # Of what never moved no distance is known to be far: that it moves is as much as one width.
        far = np.where((width > 0) | (beyond == 0), far, 1.0)
        now = np.where(seen & begun, far.sum(axis=1), 0.0).sum(axis=1) / np.maximum(seen.sum(axis=1), 1)
        outside: Matrix = self._table["outside"][rows, 0]
        outside = np.where(seen.any(axis=1), outside + np.float32(SMOOTH) * (now - outside), outside)
        self._table["outside"][rows, 0] = outside
        learns = seen if learn is None else seen & learn[:, None]
        self._learn(rows, both, learns)
        usual = self._table["usual"][rows, 0]
        self._table["usual"][rows, 0] = np.where(
            learns.any(axis=1), usual + DEVIATION_FOLLOWS * (outside - usual), usual
        )
        self._table["last"][rows] = np.where(seen, x, last)
        return outside

    def _learn(self, rows: Rows, both: Matrix, learns: Flags) -> None:
        """Let the ranges follow; ``both``: values and steps."""
        table = self._table
        samples = table["samples"][rows] + learns
        first = learns & (samples == 1)
        share = np.maximum(DEVIATION_FOLLOWS, 1.0 / np.maximum(samples, 1.0))
        x = both[:, 0]
        middle = table["middle"][rows]
        middle = np.where(first, x, middle)
        off = np.abs(np.stack((x - middle, both[:, 1]), axis=1))
        before = table["deviation"][rows]
        deviation = np.where(learns[:, None, :], before + share[:, None, :] * (off - before), before)
        gain = FOLLOWS * (np.maximum(YOUNG / np.maximum(samples, 1.0), 1.0) ** HASTE)[:, None, :] * deviation
        low = np.where(first[:, None, :], both, table["low"][rows])
        high = np.where(first[:, None, :], both, table["high"][rows])
        some = learns[:, None, :]
        table["low"][rows] = np.where(some, low - gain * ((both < low) - OUTSIDE), low)
        table["high"][rows] = np.where(some, high + gain * ((both > high) - OUTSIDE), high)
        table["deviation"][rows] = deviation
        table["middle"][rows] = np.where(learns, middle + share * (x - middle), middle)
        table["least"][rows] = np.where(
            first, x, np.where(learns, np.minimum(table["least"][rows], x), table["least"][rows])
        )
        table["most"][rows] = np.where(
            first, x, np.where(learns, np.maximum(table["most"][rows], x), table["most"][rows])
        )
        table["samples"][rows] = samples
