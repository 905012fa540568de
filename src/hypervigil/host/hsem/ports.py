"""Which ports a VM usually begins something at, by its agent's word. Pure.

Now and then an agent is asked for its flows. A port that it named in ``LEAST_LOOKS`` answers is usual, as long as
there are few of them and hardly anything goes elsewhere: to an agent that is told of ports every opening towards
another is odd, so of a VM that goes everywhere none are told, and its agent goes by what it has seen itself. A guest's
word here makes ``TOLD`` ports usual to its own agent at most.
"""

from collections.abc import Iterable, Mapping

import numpy as np

from hypervigil.host.hsem.table import Kept, Table
from hypervigil.model.ids import VmId

KEPT = 32
"""Ports remembered of a VM: 0.4 kB with what is known of them."""
TOLD = 16
"""So many fit beside all metrics in any brief history."""
LEAST_LOOKS = 3
"""Answers in which a port was named, and answers in all, before any port is told."""
COVERED = 0.95
"""Of all that a VM begins so much must go to the ports that are told."""
MOST_LOOKS = 288
"""After so many answers, a day of them, all lose half their weight."""
MOST_OPENINGS = 1e6
"""More in one answer are counted as this."""
_MOST = 1e9


class UsualPorts:
    """Of each VM whose agent has answered."""

    def __init__(self) -> None:
        self._table = Table(port=(KEPT,), looks=(KEPT,), openings=(KEPT,), elsewhere=(1,), asked=(1,))

    def forget_others(self, vms: Iterable[VmId]) -> None:
        """Forget all but these."""
        self._table.keep(vms)

    def forget(self, vms: Iterable[VmId]) -> None:
        """Forget these."""
        self._table.drop(vms)

    def visited(self, vm: VmId, opened: Mapping[int, float], elsewhere: float) -> None:
        """One answer: what was begun at each port, and at those that it does not name."""
        row = self._table.row(vm)
        table = {name: self._table[name][row] for name in self._table.shapes}
        table["asked"] += 1
        table["elsewhere"] += np.float32(min(max(0.0, elsewhere), MOST_OPENINGS))
        for port, openings in opened.items():
            n = _place(table["port"], table["looks"], port)
            if table["port"][n] != port or not table["looks"][n]:
                table["elsewhere"] += table["openings"][n]
                table["port"][n], table["looks"][n], table["openings"][n] = port, 0.0, 0.0
            table["looks"][n] += 1
            table["openings"][n] += np.float32(min(max(0.0, openings), MOST_OPENINGS))
        if table["asked"][0] >= MOST_LOOKS:
            for name in table.keys() - {"port"}:
                table[name] *= np.float32(0.5)

    def usual(self, vm: VmId) -> tuple[int, ...]:
        """Ports to be told, those named most often first; none where they are not nearly all that it goes to."""
        if vm not in self._table:
            return ()
        row = self._table.row(vm)
        port, looks, openings = (self._table[name][row] for name in ("port", "looks", "openings"))
        order = [n for n in np.argsort(-looks, kind="stable").tolist() if looks[n] >= LEAST_LOOKS][:TOLD]
        all_ = float(openings.sum() + self._table["elsewhere"][row, 0])
        if self._table["asked"][row, 0] < LEAST_LOOKS or float(openings[order].sum()) < COVERED * all_:
            return ()
        return tuple(int(port[n]) for n in order)

    def remember(self) -> Kept:
        """All of it."""
        return self._table.remember()

    def check(self, known: Kept) -> None:
        """``ValueError`` if this is not what ``remember`` gives."""
        self._table.check(known, most=_MOST)
        ports = known.arrays["port"]
        if not ((ports <= 65535) & (ports == np.floor(ports))).all():
            raise ValueError("it has impossible ports")

    def recall(self, known: Kept | None) -> None:
        """Take over of its VMs what ``remember`` gave; ``ValueError`` otherwise, and nothing is changed."""
        if known is not None:
            self.check(known)
            self._table.put(known.vms, known.arrays)


def _place(ports: np.ndarray, looks: np.ndarray, port: int) -> int:
    """Where a port is, or the place of the one that was named most seldom."""
    found = np.flatnonzero((ports == port) & (looks > 0))
    return int(found[0]) if found.size else int(looks.argmin())
