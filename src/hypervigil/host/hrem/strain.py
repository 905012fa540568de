"""Whether the host has no CPU left, and what each VM takes of its own just then. Pure.

A glance that the sensors took out of turn says more of this moment than the last whole second, and is for nothing else:
what histories, grabs and loads are reckoned from keeps its beat.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from hypervigil.model.ids import NEVER, Instant, VmId
from hypervigil.model.observation import NO_CPU_LEFT, Sweep

SWEEPS = 2
"""A host that is full for one sweep has had a burst of work."""
FRESH_S = 1.5
"""What a VM took so long ago it may take no more."""

Shares = npt.NDArray[np.float32]


class Strain:
    """For how many sweeps the host has been full, and the last glance."""

    def __init__(self) -> None:
        self._full = 0
        self._glance: tuple[tuple[VmId, float], ...] = ()
        self._glanced_at = NEVER

    def see(self, sweep: Sweep, now: Instant) -> bool:
        """Take in a sweep of all; whether the host has no CPU left. Unseen is not busy."""
        full = sweep.host_busy is not None and sweep.host_busy >= NO_CPU_LEFT
        self._full = min(self._full + 1, SWEEPS) if full else 0
        if sweep.glance:
            self._glance, self._glanced_at = sweep.glance, now
        elif sweep.resources:
            self._glance = ()
        return self._full >= SWEEPS

    def taken(self, shares: Shares, told_at: npt.NDArray[np.float64], rows: Mapping[VmId, int], now: Instant) -> Shares:
        """What each VM takes, by row: ``shares``, told at ``told_at``, or what the glance says; NaN where old."""
        found: Shares = np.where(now - told_at <= FRESH_S, shares, np.float32(np.nan))
        if now - self._glanced_at <= FRESH_S:
            for vm, share in self._glance:
                if vm in rows:
                    found[rows[vm]] = share
        return found
