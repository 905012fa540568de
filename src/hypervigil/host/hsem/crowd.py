"""Requests that are all in order, and more of them than a service has CPU for: whether a few bring them. Pure.

What each of a flood's requests looks like tells nothing (paper: "ineffectual if there is legitimate content with bad
intentions"); that one source asks for more than all together ever did, until there is no CPU left for the others, does.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from hypervigil.host.hsem.conduct import Conduct
from hypervigil.host.hsem.facts import Dossier, Facts, Surge
from hypervigil.host.hsem.sides import Peer
from hypervigil.host.hsem.table import Matrix, Table
from hypervigil.model.ids import Instant, VmId
from hypervigil.model.metric import Metric
from hypervigil.model.traffic import Direction, TrafficClass

GROWN = 4.0
"""So many times what is usual is asked: below, a service that has no CPU left is short of CPU, not attacked."""
LEAST = 15.0
"""Requests a second, below which what is usual says little: of who is asked for less, a busy minute is no flood."""
FULL = 0.9
"""Of a VM's CPU: above, what more is asked is at the others' cost."""
SAMPLE_S, SLACK_S = 1.0, 0.25
"""So far apart are samples of CPU, and so much may they come early or late."""
LASTING_S = 1.5
"""Seconds of CPU, in a full sample and the one before it, by which a burst is none."""
BUSY_TAIL = 0.75
"""A VM whose own 95th percentile of a resource is above this is at work, not overloaded."""
CAPACITIES = {"cpu-near-capacity": Metric.CPU, "memory-near-capacity": Metric.MEMORY}
"""HREM's notices of capacity and what they are about."""
FEW = 4
MOST_OF_IT = 0.7
"""If so few sources bring this share, they are the flood, and are limited and nobody else; else it is a crowd."""
_ASKS = (TrafficClass.SYN, TrafficClass.DNS, TrafficClass.UDP)


def pressed(facts: Facts) -> tuple[Surge, list[Peer]] | None:
    """A surge of requests in order, and the few that bring most of it, each more than everybody together used to."""
    for traffic in _ASKS:
        surge = next((s for s in facts.surges if (s.direction, s.traffic) == (Direction.IN, traffic)), None)
        if surge is None or surge.rate < GROWN * max(surge.tail, LEAST) or not facts.seconds:
            continue
        if facts.conduct(Direction.IN, traffic) is Conduct.HOSTILE:
            continue
        few = [p for p in facts.busiest(Direction.IN)[:FEW] if p.openings / facts.seconds > surge.tail]
        if few and sum(peer.openings for peer in few) >= MOST_OF_IT * facts.of(Direction.IN, traffic):
            return surge, few
    return None


def press(dossier: Dossier | None, usual: float, now: Instant, *, lasting: bool) -> Facts | None:
    """Of a VM that has no CPU left, of which ``usual`` is its own 95th percentile: the facts if a few press it, where
    that was not known; written down as known once it is ``lasting``.
    """
    if dossier is None or dossier.near_capacity or not usual < BUSY_TAIL:
        return None
    facts = dossier.facts(now, 0)
    if pressed(facts) is None:
        return None
    dossier.near_capacity = lasting
    return facts


class Full:
    """Who has no CPU left. A sample tells of about a second, is repeated until the next, and falls where it likes: so
    the one before, into which the beginning fell, counts by what it tells. Bounded by who runs.
    """

    def __init__(self) -> None:
        self._table = Table(sample=(), before=(), age=())

    def keep(self, vms: Iterable[VmId]) -> None:
        """Forget all others."""
        self._table.keep(vms)

    def see(self, vms: Sequence[VmId], cpu: Matrix, interval_s: float) -> list[tuple[VmId, bool]]:
        """Who is at it in this interval, and whether it is lasting: for ``LASTING_S`` of two seconds.

        ``cpu``: shape ``(len(vms),)``, shares of each VM's own CPUs, NaN where unseen.
        """
        rows = self._table.rows(vms)
        sample, age = self._table["sample"][rows], self._table["age"][rows] + np.float32(interval_s)
        fresh = ((cpu != sample) & (age >= SAMPLE_S - SLACK_S)) | (age >= SAMPLE_S + SLACK_S)
        before = np.where(fresh, sample, self._table["before"][rows])
        sample = np.where(fresh, cpu, sample)
        self._table["sample"][rows], self._table["before"][rows] = sample, before
        self._table["age"][rows] = np.where(fresh, np.float32(0.0), age)
        lasting = sample + before >= LASTING_S
        return [(vms[row], bool(lasting[row])) for row in np.flatnonzero(sample >= FULL).tolist()]
