"""What a VM's own agent tells of what no host can count: a small history of it, for its agent's lines alone. Pure.

It is a guest's word, and no case, verdict or limit is grounded on it: it goes back to the agent as what is usual, so
that an honest one finds what is not. Who lies teaches its own agent only, and that never more than ``MOST_USUAL``
allows, however slowly it goes about it. What is told in a case, at Level 2, or by an agent that lately contradicted the
host teaches nothing. As in ``history`` bins are spaced evenly in the logarithm, and what is old fades: 12 metrics x 48
bins are 1.2 kB per VM that has an agent.
"""

from collections.abc import Collection, Iterable

import numpy as np

from hypervigil.host.hsem.history import (
    BINS,
    LEAST_SAMPLES,
    MOST,
    MOST_SAMPLES,
    SETTLED_SAMPLES,
    binned,
    quantile,
)
from hypervigil.host.hsem.table import Kept, Table
from hypervigil.model.guest import GuestMetric, GuestReport
from hypervigil.model.ids import Instant, VmId

SPREADS = 3.0
"""An agent's line lies so many spreads above the middle."""
DOUBT_S = 60.0
"""So long after an agent contradicted the host nothing is learned of it; who goes on is told of twice a minute."""
MOST_USUAL: dict[GuestMetric, float] = {
    GuestMetric.FAILED: 200.0,
    GuestMetric.UNREACHABLE: 200.0,
    GuestMetric.FAIL_SHARE: 1000.0,
    GuestMetric.RETRANSMITTED: 2000.0,
    GuestMetric.RESETS_SENT: 400.0,
    GuestMetric.PENDING: 400.0,
    GuestMetric.HALF_OPEN: 1000.0,
    GuestMetric.CONNECTIONS: 50_000.0,
    GuestMetric.ODD_PORTS: 200.0,
    GuestMetric.INTERRUPTS: 200_000.0,
    GuestMetric.BALLOON: 327_680.0,
    GuestMetric.FORKS: 4000.0,
}
"""Columns that only the guest counts, and the highest line that anything told can bring one to, in the column's unit
(counts per second): ten times what an agent presumes without a history; of a share all of it."""
STATES = frozenset({GuestMetric.FAIL_SHARE, GuestMetric.PENDING, GuestMetric.HALF_OPEN, GuestMetric.CONNECTIONS})
"""Of these the ones that are no counts in the interval."""

METRICS = tuple(MOST_USUAL)
_MOST = np.array(list(MOST_USUAL.values()), np.float32)
_FIRST_BINS = np.arange(len(METRICS)) * BINS

Usual = tuple[GuestMetric, float, float]
"""A metric, its median and its 95th percentile."""


class ToldHistory:
    """Of each VM whose agent reports; a second of all of them is learned at once."""

    def __init__(self) -> None:
        self._table = Table({"histogram": (len(METRICS), BINS)}, weight=(len(METRICS),))
        self._heard: dict[VmId, list[float]] = {}
        """The newest report of each since the last second that was learned."""
        self._doubted: dict[VmId, Instant] = {}

    def keep(self, running: Collection[VmId]) -> None:
        """Only these run; what others told is kept."""
        self._heard = {vm: told for vm, told in self._heard.items() if vm in running}
        self._doubted = {vm: until for vm, until in self._doubted.items() if vm in running}

    def forget_others(self, vms: Iterable[VmId]) -> None:
        """Forget what all but these told."""
        self._table.keep(vms)

    def forget(self, vms: Iterable[VmId]) -> None:
        """Forget what these told."""
        self._table.drop(vms)

    def hear(self, report: GuestReport) -> None:
        """A report that came in time."""
        if report.level == 1 and report.interval_s > 0 and report.at >= self._doubted.get(report.vm, report.at):
            self._heard[report.vm] = [_rate(report, metric) for metric in METRICS]
        else:
            self._heard.pop(report.vm, None)

    def doubt(self, vm: VmId, now: Instant) -> None:
        """Its agent contradicts the host."""
        self._doubted[vm] = Instant(now + DOUBT_S)
        self._heard.pop(vm, None)

    def learn(self, suspects: Collection[VmId]) -> None:
        """Take in what was heard of the last second but from suspects."""
        heard, self._heard = self._heard, {}
        vms = [vm for vm in heard if vm not in suspects]
        if not vms:
            return
        rows = self._table.rows(vms)
        values = np.array([heard[vm] for vm in vms], np.float32)
        seen = values >= 0
        bins = binned(np.clip(values, 0.0, _MOST)) + _FIRST_BINS + (rows * _FIRST_BINS.size * BINS)[:, None]
        self._table.counts("histogram").reshape(-1)[bins] += seen
        self._table["weight"][rows] += seen
        full, metrics = np.nonzero(self._table["weight"][rows] >= MOST_SAMPLES)
        if full.size:
            self._table.counts("histogram")[rows[full], metrics] >>= 1
            halved = self._table.counts("histogram")[rows[full], metrics].sum(axis=1)
            self._table["weight"][rows[full], metrics] = halved

    def usual(self, vm: VmId) -> list[Usual]:
        """What is usual of each metric that it told often enough; no line made of it is above ``MOST_USUAL``."""
        if vm not in self._table:
            return []
        row = self._table.row(vm)
        cumulated = np.cumsum(self._table.counts("histogram")[row][None], axis=2, dtype=np.float32)
        total = cumulated[:, :, -1]
        middles = np.minimum(quantile(cumulated, total, 0.5)[0], _MOST)
        tails = np.minimum(quantile(cumulated, total, 0.95)[0], middles + (_MOST - middles) / np.float32(SPREADS))
        known = self._table["weight"][row] >= LEAST_SAMPLES
        return [(METRICS[n], float(middles[n]), float(tails[n])) for n in np.flatnonzero(known).tolist()]

    def settled(self, vm: VmId) -> bool:
        """Whether its agent has told so much that a few seconds of something else leave its lines where they are."""
        return vm in self._table and bool(self._table["weight"][self._table.row(vm)].max() >= SETTLED_SAMPLES)

    def remember(self) -> Kept:
        """All of it."""
        return self._table.remember()

    def check(self, known: Kept) -> None:
        """``ValueError`` if this is not what ``remember`` gives."""
        self._table.check(known, most=float(MOST_SAMPLES))

    def recall(self, known: Kept | None) -> None:
        """Take over of its VMs what ``remember`` gave; ``ValueError`` otherwise, and nothing is changed."""
        if known is None:
            return
        self.check(known)
        self._table.put(known.vms, known.arrays)
        rows = self._table.rows(known.vms)
        # The bins say how much there is: what a file says besides could make a line of nothing.
        self._table["weight"][rows] = self._table.counts("histogram")[rows].sum(axis=2)


def _rate(report: GuestReport, metric: GuestMetric) -> float:
    """A column's value, per second where it is a count; below zero where it is unseen."""
    value = float(report.values[metric])
    return value if metric in STATES or value < 0 else min(value / report.interval_s, MOST)
