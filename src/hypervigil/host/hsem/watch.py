"""Who sends or gets more than history explains: a cumulative sum per VM and class, for all VMs at once. Pure.

Each class has an allowance, ``max(factor × own p95, floor)``. What comes above it adds up, what stays below it pays
back; the sum tells of a clear excess within a fraction of a second and of a slight one somewhat later, whatever the
length of the intervals (E. S. Page, "Continuous Inspection Schemes", Biometrika 41, 1954).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hypervigil.host.hsem.table import Matrix, Table
from hypervigil.model.ids import VmId
from hypervigil.model.metric import PACKET_METRICS, Metric

WATCHED: tuple[Metric, ...] = (*PACKET_METRICS, Metric.NEW_DESTINATIONS)
MEMORY_S = 0.5
"""What was seen just now is remembered with this time constant, to tell how it is meant."""
ASKED_S = 60.0
"""SYNs are remembered for longer: a TCP repeats its SYN-ACK for a minute (RFC 9293, RFC 6298)."""
REFUSED_S = 2.0
"""Messages that a port or host cannot be reached likewise: a kernel tells the first six at once, then one a second."""
WORD_S = 5.0
"""A datagram likewise: who agrees to a stream says a word, and on a busy host the stream begins a second later."""
WORD = 0.25
"""What is left of one after seven seconds."""
SLACK = 15.0
"""Packets above the allowance that nobody asks about."""
SLACK_S = 0.25
"""And so many seconds' worth of the VM's own p95."""
CLEARLY = 3.0
"""So many times the slack is an excess also for traffic that might be honest."""
_CAP = 4.0

_COLUMNS = np.array(WATCHED)
_SENT = np.array([n for n, metric in enumerate(WATCHED) if metric < Metric.IN_SYN or metric > Metric.IN_OTHER])
_DIRECTIONS = (slice(Metric.OUT_SYN, Metric.IN_SYN), slice(Metric.IN_SYN, Metric.IN_OTHER + 1))
_N = len(WATCHED)


@dataclass(frozen=True, slots=True)
class Excess:
    """A VM with classes above their allowance; tuples are indexed as ``WATCHED``."""

    vm: VmId
    above: tuple[bool, ...]
    clearly: tuple[bool, ...]
    going_on: bool
    """Whether some class is above its allowance in this very interval."""
    harm: float
    """What it sends above its allowances and where it has never been, per second."""


@dataclass(frozen=True, slots=True)
class Recent:
    """What was counted of a VM in about the last ``MEMORY_S``; tuples are indexed as ``WATCHED``."""

    counts: tuple[float, ...]
    fresh: tuple[float, ...]
    """Of these, what came in the last interval: answers to it may still be under way."""
    seconds: float
    """The time that the counts stand for."""
    asked: tuple[float, float]
    """SYNs of about the last minute, out and in."""
    minute_s: float
    """The time that these stand for: less than a minute where it was not watched for so long."""
    refused: float
    """Messages of about the last ``REFUSED_S`` that a port or host cannot be reached."""
    worded: tuple[bool, bool]
    """Whether a datagram went out, and one came in, in about the last ``WORD_S``."""
    ever: tuple[bool, bool]
    """Whether anything at all was ever seen of a direction, out and in, since the VM is watched."""


class Watch:
    """The sums of all VMs."""

    def __init__(self, *, factor: float, floor_pps: float) -> None:
        self.factor = factor
        self.floor_pps = floor_pps
        self._table = Table(
            score=(_N,),
            counts=(_N,),
            fresh=(_N,),
            seconds=(1,),
            asked=(2,),
            minute=(1,),
            refused=(1,),
            worded=(2,),
            ever=(2,),
        )

    def keep(self, vms: Sequence[VmId]) -> None:
        """Forget all others."""
        self._table.keep(vms)

    def see(self, vms: Sequence[VmId], values: Matrix, interval_s: float, tails: Matrix) -> list[Excess]:
        """Take in one interval; ``values`` and ``tails``: shape ``(len(vms), len(Metric))``; NaN changes nothing."""
        if not vms:
            return []
        rows = self._table.rows(vms)
        rates = values[:, _COLUMNS]
        usual = tails[:, _COLUMNS]
        seen = np.isfinite(rates)
        fresh = np.where(seen, rates, 0.0) * interval_s
        allowance = np.maximum(self.factor * usual, self.floor_pps)
        allowed = allowance * interval_s
        slack = SLACK + SLACK_S * usual
        score = np.where(seen, self._table["score"][rows] + fresh - allowed, self._table["score"][rows])
        score = np.clip(score, 0.0, _CAP * slack)
        kept = np.float32(np.exp(-interval_s / MEMORY_S))
        self._table["score"][rows] = score
        self._table["fresh"][rows] = fresh
        self._table["counts"][rows] = self._table["counts"][rows] * kept + fresh
        self._table["seconds"][rows] = self._table["seconds"][rows] * kept + interval_s
        faded = np.float32(np.exp(-interval_s / ASKED_S))
        self._table["asked"][rows] = self._table["asked"][rows] * faded + fresh[:, [Metric.OUT_SYN, Metric.IN_SYN]]
        self._table["minute"][rows] = self._table["minute"][rows] * faded + interval_s
        refused = np.nan_to_num(values[:, [Metric.FAILURES]] - values[:, [Metric.IN_RST]]).clip(min=0.0) * interval_s
        forgotten = np.float32(np.exp(-interval_s / REFUSED_S))
        self._table["refused"][rows] = self._table["refused"][rows] * forgotten + refused
        words = np.float32(np.exp(-interval_s / WORD_S)) * self._table["worded"][rows]
        self._table["worded"][rows] = np.minimum(words + fresh[:, [Metric.OUT_UDP, Metric.IN_UDP]], 1.0)
        for direction, packets in enumerate(_DIRECTIONS):
            self._table["ever"][rows, direction] += fresh[:, packets].any(axis=1)
        # The sum outlasts what it tells of.
        still = self._table["counts"][rows] > allowance * self._table["seconds"][rows]
        above = still & (score > slack)
        clearly = still & (score > CLEARLY * slack)
        going_on = (above & (fresh > allowed)).any(axis=1)
        found = np.flatnonzero(above.any(axis=1))
        counts, seconds = self._table["counts"][rows[found]], self._table["seconds"][rows[found]]
        beyond = np.where(above[found], counts / seconds - allowance[found], 0.0)
        harm = beyond[:, _SENT].sum(axis=1).tolist()
        return [
            Excess(vms[row], tuple(above[row].tolist()), tuple(clearly[row].tolist()), bool(going_on[row]), harm[n])
            for n, row in enumerate(found.tolist())
        ]

    def recent(self, vm: VmId) -> Recent:
        """What was seen of a VM just now."""
        row = self._table.row(vm)
        return Recent(
            tuple(self._table["counts"][row].tolist()),
            tuple(self._table["fresh"][row].tolist()),
            max(float(self._table["seconds"][row, 0]), 0.001),
            (float(self._table["asked"][row, 0]), float(self._table["asked"][row, 1])),
            float(self._table["minute"][row, 0]),
            float(self._table["refused"][row, 0]),
            (bool(self._table["worded"][row, 0] >= WORD), bool(self._table["worded"][row, 1] >= WORD)),
            (bool(self._table["ever"][row, 0]), bool(self._table["ever"][row, 1])),
        )

    def calm(self, vm: VmId) -> None:
        """Begin anew with a VM: what was above its allowance has been judged."""
        row = self._table.row(vm)
        self._table["score"][row] = 0.0
