"""How servers usually answer those who begin connections, and what others get while somebody hoards these. Pure.

A server whose backlog is full leaves SYNs unanswered; one that is out of descriptors before that has its kernel accept
and says nothing. Both are seen at its NIC, and neither needs its CPU. By itself it makes nobody a hoarder: a server
may stall for many reasons. Who is refused is answered: a reset says that nothing listens there, not that all is taken.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from hypervigil.host.hsem.table import Matrix, Table
from hypervigil.model.ids import VmId
from hypervigil.model.metric import Metric

LOST = 0.3
"""Of others' SYNs, unanswered: bearable, if it is no more than ``TIMES`` what is usual of this server."""
TIMES = 3.0
MUTE = 0.6
"""Of what the server usually says to each who begins, so much is missing: it is as good as silent."""
LEAST_TRIES = 3.0
"""Of fewer nothing is concluded."""
BARE = 66.0
"""Octets of a packet that carries nothing, by IPv4 with a timestamp; a SYN-ACK has eight more, for its options."""
OPTIONS = 8.0
LEAST_CARRIED = 60.0
"""Octets: a server that usually carries less to each who begins is not told from one that only acknowledges."""
LEARNED_S = 30
"""Seconds in which it was asked, before it is known what is usual."""
MEMORY_S = 300
TRIES_S = 1.0
"""Others' tries are remembered with this time constant: who asks seldom is denied all the same."""
RECOVERS_S = 5
"""So long a server that said next to nothing may be catching up: who waits there waits with others."""
STALLED = 0.1
"""Of what it usually carries to each who begins."""
ENOUGH_TRIES = 5.0
"""Of so many in one second it alone tells."""

_COLUMNS = [Metric.IN_SYN, Metric.OUT_SYNACK, Metric.OUT_BYTES, Metric.OUT_RST, Metric.OUT_TCP]


@dataclass(slots=True)
class Taken:
    """Of what a server is asked and says, some ends' part: SYNs that reached it, SYN-ACKs, octets that it sent."""

    tried: float = 0.0
    accepted: float = 0.0
    octets: float = 0.0
    resets: float = 0.0


@dataclass(frozen=True, slots=True)
class Denied:
    """What others are denied of what they begin at a server."""

    cost: float = 0.0
    """Against what is bearable."""
    share: float = 0.0
    lately: float = 0.0
    """As ``cost``, on average of the last seconds."""


class Serving:
    """Of each VM a few sums; more only of those at which somebody hoards now."""

    def __init__(self) -> None:
        self._table = Table(sums=(2,), said=(1,), carried=(1,), seconds=(1,), stalled=(1,))
        self._second = 0
        self._others: dict[VmId, Taken] = {}

    def keep(self, vms: Collection[VmId]) -> None:
        """Forget all others."""
        self._table.keep(vms)
        self._others = {vm: others for vm, others in self._others.items() if vm in vms}

    def learn(self, vms: Sequence[VmId], values: Matrix, hoarded: Iterable[VmId]) -> None:
        """One second, shape ``(len(vms), len(Metric))``, of all but those at which somebody hoards."""
        kept = set(hoarded)
        self._second += 1
        self._others = {vm: others for vm, others in self._others.items() if vm in kept}
        if not vms:
            return
        rows = self._table.rows(vms)
        seen = values[:, _COLUMNS]
        # Resets beyond those that refuse a try end something else.
        seen[:, 0] -= np.minimum(seen[:, 3], (seen[:, 0] - seen[:, 1]).clip(min=0.0))
        asked = np.isfinite(seen).all(axis=1) & (seen[:, 0] >= 1.0)
        asked &= np.fromiter((vm not in kept for vm in vms), bool, len(vms))
        rows, seen = rows[asked], seen[asked]
        sums = np.stack([seen[:, 0], np.minimum(seen[:, 0], seen[:, 1])], axis=1)
        self._table["sums"][rows] = self._table["sums"][rows] * np.float32(np.exp(-1 / MEMORY_S)) + sums
        self._table["seconds"][rows] = np.minimum(self._table["seconds"][rows] + 1.0, MEMORY_S)
        stalled = (seen[:, 0] >= LEAST_TRIES) & (self._table["seconds"][rows, 0] >= LEARNED_S)
        carried = np.maximum(carries(seen[:, 0], seen[:, 2], seen[:, 1] + seen[:, 4]), 1.0)
        stalled &= carried <= STALLED * np.exp(self._table["carried"][rows, 0])
        self._table["stalled"][rows[stalled]] = np.float32(self._second)
        # Its geometric mean: one large answer is not what is usual.
        said = np.log(np.maximum(seen[:, 2] / seen[:, 0], 1.0))[:, None]
        self._table["said"][rows] += (said - self._table["said"][rows]) / self._table["seconds"][rows]
        carried = np.log(carried)[:, None]
        self._table["carried"][rows] += (carried - self._table["carried"][rows]) / self._table["seconds"][rows]

    def mute_to(self, server: VmId, *, begun: float, octets: float, packets: float) -> bool:
        """Whether it hardly says anything, but that it got something, to one that began so many connections.

        By what it usually carries to each who begins: a few real requests among them change little.
        """
        row = self._table.row(server)
        usual = float(np.exp(self._table["carried"][row, 0]))
        if self._table["seconds"][row, 0] < LEARNED_S or usual < LEAST_CARRIED or packets <= 0:
            return False
        (carried,) = carries(*np.array([[begun], [octets], [packets]], np.float32)).tolist()
        return bool(carried <= (1.0 - MUTE) * usual)

    def recovers(self, server: VmId) -> bool:
        """Whether it stalled just before anybody hoarded there."""
        at = float(self._table["stalled"][self._table.row(server), 0])
        return at > 0 and self._second - at <= RECOVERS_S

    def known(self, server: VmId) -> bool:
        """Whether others ask enough of it now that it is known what they are denied."""
        others = self._others.get(server)
        return others is not None and others.tried >= LEAST_TRIES

    def denied(self, server: VmId, second: Matrix, taken: Taken) -> Denied:
        """By one second of a server, shape ``(len(Metric),)``, and what hoarders took of it."""
        others = self._others.setdefault(server, Taken())
        kept = float(np.exp(-1 / TRIES_S))
        asked, accepted, said, resets = (float(value) for value in np.nan_to_num(second[_COLUMNS[:4]]))
        tried, accepted = max(0.0, asked - taken.tried), max(0.0, accepted - taken.accepted)
        refused = min(max(0.0, resets - taken.resets), max(0.0, tried - accepted))
        now = Taken(tried - refused, accepted, max(0.0, said - taken.octets))
        others.tried = kept * others.tried + now.tried
        others.accepted = kept * others.accepted + now.accepted
        others.octets = kept * others.octets + now.octets
        lately, _ = denied = self._borne(server, others)
        cost, share = self._borne(server, now) if now.tried >= ENOUGH_TRIES else denied
        return Denied(cost, share, lately)

    def _borne(self, server: VmId, others: Taken) -> tuple[float, float]:
        """What others are denied, against what is bearable, and as a share of what they tried."""
        row = self._table.row(server)
        if self._table["seconds"][row, 0] < LEARNED_S or others.tried < LEAST_TRIES:
            return 0.0, 0.0
        known, answered = self._table["sums"][row].tolist()
        lost = max(0.0, 1.0 - others.accepted / others.tried)
        usual = float(np.exp(self._table["said"][row, 0]))
        mute = max(0.0, 1.0 - others.octets / (others.tried * usual))
        cost = max(lost / max(LOST, TIMES * (1.0 - answered / known)), mute / MUTE)
        return cost, max(lost, mute)


def carries(begun: Matrix, octets: Matrix, packets: Matrix) -> Matrix:
    """Octets beyond bare acknowledgements, per connection begun (of which there are some), all shape ``(n,)``."""
    return np.asarray((octets - BARE * packets) / begun - OPTIONS, np.float32)
