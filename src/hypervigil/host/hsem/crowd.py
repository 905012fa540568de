"""Requests that are all in order, and more of them than a service has CPU for: whether a few bring them. Pure.

What each of a flood's requests looks like tells nothing (paper: "ineffectual if there is legitimate content with bad
intentions"); that one source asks for more than all together ever did, until there is no CPU left for the others, does.
"""

from collections.abc import Sequence

from hypervigil.host.hsem.conduct import Conduct, Peer
from hypervigil.host.hsem.facts import Dossier, Facts, Surge
from hypervigil.host.hsem.table import Matrix
from hypervigil.model.ids import Instant, VmId
from hypervigil.model.metric import Metric
from hypervigil.model.traffic import Direction, TrafficClass

GROWN = 4.0
"""So many times what is usual is asked: below, a service that has no CPU left is short of CPU, not attacked."""
FULL = 0.9
"""Of a VM's CPU: above, what more is asked is at the others' cost."""
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
        if surge is None or surge.rate < GROWN * max(surge.tail, 1.0) or not facts.seconds:
            continue
        if facts.conduct(Direction.IN, traffic) is Conduct.HOSTILE:
            continue
        few = [p for p in facts.busiest(Direction.IN)[:FEW] if p.openings / facts.seconds > surge.tail]
        if few and sum(peer.openings for peer in few) >= MOST_OF_IT * facts.of(Direction.IN, traffic):
            return surge, few
    return None


def press(dossier: Dossier | None, usual: float, now: Instant) -> Facts | None:
    """Of a VM that has no CPU left, of which ``usual`` is its own 95th percentile: write down that a few press it, if
    they do; the facts, where that was not known.
    """
    if dossier is None or dossier.near_capacity or not usual < BUSY_TAIL:
        return None
    facts = dossier.facts(now, 0)
    if pressed(facts) is None:
        return None
    dossier.near_capacity = True
    return facts


class Full:
    """Whose CPU was used up in the last two whole seconds. Bounded by who runs."""

    def __init__(self) -> None:
        self._before: frozenset[VmId] = frozenset()

    def see(self, vms: Sequence[VmId], cpu: Matrix) -> list[VmId]:
        """Take in one second; ``cpu``: shape ``(len(vms),)``, shares of each VM's own CPUs, NaN where unseen."""
        now = [vms[row] for row in (cpu >= FULL).nonzero()[0].tolist()]
        lasting = [vm for vm in now if vm in self._before]
        self._before = frozenset(now)
        return lasting
