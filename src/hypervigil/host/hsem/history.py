"""What is normal for each VM: a decaying histogram per VM and metric, for all VMs at once.

Bins are spaced evenly in the logarithm, so heavy tails cost nothing and a few wild samples move no quantile. Each
``HALF_LIFE`` of a VM's own samples they lose half their weight: a VM that is off forgets nothing. A VM under suspicion
is not learned from, so what is unusual cannot make itself usual within a case, and the policy's cap bounds what slow
growth can reach. Nor does a grant change it: while a VM has more than its own, what is learned is what it could have
done without, and its quantiles are told as many times larger as the grant makes them. Bins hold whole seconds, which
halving keeps below what two bytes hold: 41 metrics x 48 bins are 3.9 kB per VM.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from hypervigil.host.hsem.table import Copies, Kept, Matrix, Rows, Table
from hypervigil.model.ids import VmId
from hypervigil.model.limits import Limit, LimitKind
from hypervigil.model.metric import PACKET_METRICS, Metric

BINS = 48
PER_OCTAVE = 2
LEAST_SAMPLES = 30
SETTLED_SAMPLES = 300
"""From so many on, ten seconds of something else leave the 95th percentile where it was."""
HALF_LIFE = 6 * 3600
"""Samples (seconds)."""
MOST_SAMPLES = 2 * HALF_LIFE
"""From so many in a histogram on they are halved: far enough below what two bytes hold that it need not be at once."""
PRIOR_PPS = 8.0
"""What a VM without history is presumed to send of a class at its busiest, packets per second."""
NEW_METRICS = 1
"""So many fewer metrics a history may have that an earlier version wrote."""
MOST = 1e30
"""More of anything is counted as this."""
REFRESH = 10
"""Quantiles of each VM are computed anew once in so many seconds."""
AT_ONCE = 512
"""Of so many VMs at once: the copies that it takes stay small, and in the processor's caches."""

_N = len(Metric)

_SCALE = np.ones(_N, np.float32)
"""What to multiply a metric by so that its first bin ends below anything of interest."""
_SCALE[[Metric.OUT_BYTES, Metric.IN_BYTES, Metric.BLOCK_BYTES]] = 1e-3
_SCALE[Metric.MEMORY_RSS] = 1e-6
_SCALE[Metric.BLOCK_WAIT] = 1e5
_SCALE[[Metric.CPU, Metric.CPU_WAIT, Metric.MEMORY]] = 1e3

PRIORS = np.full(_N, np.inf, np.float32)
PRIORS[list(PACKET_METRICS)] = PRIOR_PPS
PRIORS[[Metric.OUT_TCP, Metric.IN_TCP]] = 50.0
PRIORS[[Metric.NEW_DESTINATIONS, Metric.FAN_OUT, Metric.FAN_IN]] = PRIOR_PPS
PRIORS[[Metric.FAILURES, Metric.PORTS_TRIED]] = 4.0
PRIORS[Metric.FORGED] = 0.0

_TRAFFIC = [*PACKET_METRICS, Metric.OUT_BYTES, Metric.IN_BYTES]
_SENT = [metric for metric in PACKET_METRICS if metric < Metric.IN_SYN]
_RAISED = {
    LimitKind.CPU: (Metric.CPU,),
    LimitKind.MEMORY: (Metric.MEMORY, Metric.MEMORY_RSS),
    LimitKind.PACKETS: tuple(_TRAFFIC),
}
"""What a grant of a kind lets grow."""

_FIRST_BINS = np.arange(_N) * BINS
"""Where each metric's histogram begins in a VM's."""
EDGES = 0.5 * 2.0 ** (np.arange(BINS) / PER_OCTAVE)
"""Upper edges of the bins; the first holds everything below 0.5."""


@dataclass(frozen=True, slots=True, eq=False)
class Remembered:
    """All histories as values: arrays of shape ``(VMs, metrics, bins)`` and ``(VMs, metrics)``."""

    vms: tuple[VmId, ...]
    histogram: Matrix
    samples: Matrix
    habits: Copies | None = None
    """A row per VM in each, as ``Habits`` names them; ``None``: written before there were any."""
    told: Kept | None = None
    """What agents told (``ToldHistory``), of those VMs that have one; likewise."""
    ports: Kept | None = None
    """What they told of ports (``UsualPorts``)."""

    def of(self, vms: Collection[VmId]) -> "Remembered":
        """What is known of these VMs, as far as they have a history: what goes with a VM to another host."""
        habits = Kept(self.vms, self.habits).of(vms).arrays if self.habits is not None else None
        histories = Kept(self.vms, {"histogram": self.histogram, "samples": self.samples}).of(vms)
        told, ports = (part and part.of(vms) for part in (self.told, self.ports))
        return Remembered(histories.vms, **histories.arrays, habits=habits, told=told, ports=ports)


class History:
    """Histograms and their quantiles of all VMs."""

    def __init__(self) -> None:
        self._table = Table({"histogram": (_N, BINS)}, samples=(_N,), middle=(_N,), tail=(_N,))
        self._table.begin_with("tail", PRIORS)
        self._turn = 0
        self._times: dict[VmId, Matrix] = {}
        """Of VMs that were granted something: how many times larger each metric may be, shape ``(len(Metric),)``."""
        self._grants: dict[VmId, list[Limit]] = {}

    def given(self, grants: Iterable[Limit]) -> None:
        """All that is granted now."""
        self._times, self._grants = {}, {}
        for grant in grants:
            if grant.raised_from:
                self._grants.setdefault(grant.vm, []).append(grant)
                times = self._times.setdefault(grant.vm, np.ones(_N, np.float32))
                more = (grant.value or 0.0) / grant.raised_from
                for metric in _RAISED.get(grant.kind, ()):
                    # Of a larger balloon the same work takes a smaller share.
                    times[metric] = 1 / more if metric is Metric.MEMORY else more

    def _granted(self, vms: Sequence[VmId]) -> list[tuple[int, VmId]]:
        """Places in ``vms`` of those that were granted something."""
        return [(n, vm) for n, vm in enumerate(vms) if vm in self._times] if self._times else []

    def ungranted(self, vms: Sequence[VmId], values: Matrix) -> Matrix:
        """What these VMs' second could have been without grants; shape ``(len(vms), len(Metric))``."""
        if granted := self._granted(vms):
            values = values.copy()
            for n, vm in granted:
                for grant in self._grants[vm]:
                    _without(grant, values[n])
        return values

    @property
    def vms(self) -> tuple[VmId, ...]:
        """Who has a history."""
        return self._table.vms

    def keep(self, vms: Iterable[VmId]) -> None:
        """Forget all others."""
        self._table.keep(vms)

    def learn(self, vms: Sequence[VmId], values: Matrix) -> None:
        """Add one second of these VMs, shape ``(len(vms), len(Metric))``; NaN teaches nothing."""
        if not vms:
            return
        rows = self._table.rows(vms)
        values = self.ungranted(vms, values)
        seen = np.isfinite(values) & (values >= 0)
        bins = binned(np.where(seen, np.minimum(values, MOST), 0.0) * _SCALE)
        # What is unseen adds nothing to the first bin: cheaper than to pick out what is seen.
        bins += _FIRST_BINS + (rows * (_N * BINS))[:, None]
        self._table.counts("histogram").reshape(-1)[bins] += seen
        self._table["samples"][rows] += seen
        self._refresh(rows)

    def _refresh(self, rows: Rows) -> None:
        """Quantiles of those whose turn it is; of young histories each time, once they have any."""
        self._turn += 1
        samples = self._table["samples"][rows].max(axis=1)
        due = (samples < 2 * LEAST_SAMPLES) | (rows % REFRESH == self._turn % REFRESH)
        self._summarise(rows[due & (samples >= LEAST_SAMPLES)])

    def _summarise(self, rows: Rows) -> None:
        for some in np.array_split(rows, len(rows) // AT_ONCE + 1) if len(rows) else ():
            cumulated = np.cumsum(self._table.counts("histogram")[some], axis=2, dtype=np.float32)
            total = cumulated[:, :, -1]
            full, metrics = np.nonzero(total >= MOST_SAMPLES)
            self._table.counts("histogram")[some[full], metrics] >>= 1
            enough = self._table["samples"][some] >= LEAST_SAMPLES
            self._table["middle"][some] = quantile(cumulated, total, 0.5) / _SCALE
            self._table["tail"][some] = np.where(enough, quantile(cumulated, total, 0.95) / _SCALE, PRIORS)

    def tails(self, vms: Sequence[VmId]) -> Matrix:
        """95th percentiles, shape ``(len(vms), len(Metric))``; the prior below 30 samples."""
        rows = self._table.rows(vms)  # may make room: before the array is taken
        found: Matrix = self._table["tail"][rows]  # a copy
        for n, vm in self._granted(vms):
            found[n] *= self._times[vm]
        return found

    def tail(self, vm: VmId, metric: Metric) -> float:
        """The VM's 95th percentile of a metric."""
        return self._told("tail", vm, metric)

    def usual(self, vm: VmId, metric: Metric) -> float:
        """The 95th percentile, or the median while a few seconds still move the percentile; the prior without both."""
        row = self._table.row(vm)
        young = LEAST_SAMPLES <= self._table["samples"][row, metric] < SETTLED_SAMPLES
        return self._told("middle" if young else "tail", vm, metric)

    def middle(self, vm: VmId, metric: Metric) -> float:
        """The VM's median of a metric; 0 while there is no history."""
        return self._told("middle", vm, metric)

    def _told(self, quantile: str, vm: VmId, metric: Metric) -> float:
        row = self._table.row(vm)  # may make room: before the array is taken
        times = float(self._times[vm][metric]) if vm in self._times else 1.0
        return float(self._table[quantile][row, metric]) * times

    def samples(self, vm: VmId, metric: Metric = Metric.OUT_SYN) -> int:
        """Seconds learned of a VM's traffic, or of another metric."""
        row = self._table.row(vm)
        return int(self._table["samples"][row, metric])

    def remember(self) -> Remembered:
        """All of it."""
        n = len(self._table)
        histogram = self._table.counts("histogram")[:n].astype(np.float32)
        return Remembered(self._table.vms, histogram, self._table["samples"][:n].copy())

    def recall(self, known: Remembered) -> None:
        """Take over what ``remember`` gave of its VMs; ``ValueError`` otherwise, and nothing is changed."""
        histogram, samples = known.histogram, known.samples
        if histogram.ndim == 3 and samples.shape == histogram.shape[:2]:
            histogram, samples = _widened(histogram), _widened(samples)
        if histogram.shape != (len(known.vms), _N, BINS) or samples.shape != (len(known.vms), _N):
            raise ValueError("it is a history of another version")
        if len(set(known.vms)) != len(known.vms):
            raise ValueError("it is a history that knows a VM twice")
        if not all(np.isfinite(array).all() and (array >= 0).all() for array in (histogram, samples)):
            raise ValueError("it is a history with impossible values")
        rows = self._table.rows(known.vms)
        total = histogram.sum(axis=2, keepdims=True)
        fitting = histogram * (MOST_SAMPLES / np.maximum(total, MOST_SAMPLES))
        self._table.counts("histogram")[rows] = np.rint(fitting).astype(np.uint16)
        self._table["samples"][rows] = samples
        self._turn = REFRESH
        self._summarise(rows)


def _widened(columns: Matrix) -> Matrix:
    """With the metrics that are new since these were written, of which nothing is known: new ones come last."""
    lacks = _N - columns.shape[1]
    if not 0 < lacks <= NEW_METRICS:
        return columns
    return np.pad(columns, [(0, 0), (0, lacks), *((0, 0),) * (columns.ndim - 2)])


def _without(grant: Limit, second: Matrix) -> None:
    """Change one second, shape ``(len(Metric),)``, to what it could have been without a grant."""
    own = grant.raised_from or 0.0
    match grant.kind:
        case LimitKind.CPU:
            second[Metric.CPU] = np.minimum(second[Metric.CPU], own)
        case LimitKind.MEMORY:
            second[Metric.MEMORY] = np.minimum(second[Metric.MEMORY] * (grant.value or own) / own, 1.0)
            second[Metric.MEMORY_RSS] = np.minimum(second[Metric.MEMORY_RSS], 1024 * own)
        case LimitKind.PACKETS:
            sent = float(np.nansum(second[_SENT]))
            if sent > own:
                second[_TRAFFIC] *= own / sent


def binned(scaled: Matrix) -> Rows:
    """The bin of each value, finite and not below zero; the same shape."""
    bins = np.zeros(scaled.shape, np.intp)
    above = scaled >= EDGES[0]
    bins[above] = 1 + np.floor(PER_OCTAVE * np.log2(scaled[above] / EDGES[0])).astype(np.intp)
    np.minimum(bins, BINS - 1, out=bins)
    return bins


def quantile(cumulated: Matrix, total: Matrix, q: float) -> Matrix:
    """The quantile in scaled units: within its bin, by the share of the bin that it takes.

    ``cumulated``: counts of whole bins, summed along the last axis, whose last ones are ``total``.
    """
    wanted = (q * total)[:, :, None]
    at = (cumulated >= wanted).argmax(axis=2)
    upper = np.take_along_axis(cumulated, at[:, :, None], axis=2)[:, :, 0]
    below = np.where(at > 0, np.take_along_axis(cumulated, np.maximum(at - 1, 0)[:, :, None], axis=2)[:, :, 0], 0.0)
    share = (wanted[:, :, 0] - below) / np.maximum(upper - below, 1e-9)
    low = np.where(at > 0, EDGES[np.maximum(at - 1, 0)], 0.0)
    high = EDGES[at]
    found: Matrix = np.where(at > 0, low + share * (high - low), 0.0).astype(np.float32)
    return found
