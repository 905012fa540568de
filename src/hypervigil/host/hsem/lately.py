"""Whom VMs talked with in the reports just before: what a first look would else have to guess. Bounded. Pure.

A look comes when much has been seen already. Who begins many connections in one interval, and on these goes on in the
next, is seen by the second alone to have begun none: what is counted of the first is then nobody's.
"""

from collections import deque
from dataclasses import dataclass, field, replace

import numpy as np

from hypervigil.host.hsem.look import peers_of, times
from hypervigil.host.hsem.sides import Peer
from hypervigil.host.hsem.table import Matrix
from hypervigil.host.hsem.watch import MEMORY_S
from hypervigil.model.ids import OUTSIDE, Instant, VmId
from hypervigil.model.metric import PACKET_METRICS
from hypervigil.model.report import HostReport, PairRate
from hypervigil.model.traffic import Direction

REPORTS = 5
"""So many are kept: at the sensors' beat a second, of which ``Watch`` remembers as good as nothing more."""

_PACKETS = list(PACKET_METRICS)


@dataclass(slots=True)
class _Kept:
    report: HostReport
    """Without its values."""
    rows: dict[VmId, int]
    """Of ``counts``, by the VMs that pairs are about."""
    counts: Matrix
    """Packets: shape ``(len(rows), len(PACKET_METRICS))``."""
    at: Instant
    pairs: dict[VmId, list[PairRate]] = field(default_factory=dict)
    """By whom they are about; made when the first VM is asked for."""

    def index(self) -> None:
        """Make what is looked up."""
        for pair in self.report.pairs:
            self.pairs.setdefault(pair.vm, []).append(pair)
            if pair.direction is Direction.IN and pair.other != OUTSIDE:
                self.pairs.setdefault(pair.other, []).append(pair)  # what it sends back to a neighbour


class Lately:
    """The last reports: of each, the VMs that talked with anybody. Who is quiet takes no room."""

    def __init__(self) -> None:
        self._kept: deque[_Kept] = deque(maxlen=REPORTS)

    def add(self, report: HostReport, values: Matrix, now: Instant) -> None:
        """Take in a report; ``values``: shape ``(len(report.vms), len(Metric))``."""
        talked = {pair.vm for pair in report.pairs}
        talked |= {pair.other for pair in report.pairs if pair.direction is Direction.IN}
        rows = [row for row, vm in enumerate(report.vms) if vm in talked] if talked else []
        counts = np.nan_to_num(values[np.ix_(rows, _PACKETS)]) * np.float32(report.interval_s)
        places = {report.vms[row]: n for n, row in enumerate(rows)}
        self._kept.append(_Kept(replace(report, values=memoryview(b"")), places, counts, now))

    def of(self, vm: VmId, now: Instant) -> tuple[tuple[float, ...], list[Peer]]:
        """A VM's packets, all classes out and then in, and its peers, of the reports that told its peers.

        Both fade as what ``Watch`` remembers does.
        """
        counts, peers = np.zeros(len(_PACKETS)), []
        for kept in self._kept:
            row = kept.rows.get(vm)
            if row is None:
                continue
            if not kept.pairs:
                kept.index()
            told = peers_of(replace(kept.report, pairs=tuple(kept.pairs[vm])), {vm}).get(vm)
            if told:
                faded = float(np.exp(-(now - kept.at) / MEMORY_S))
                counts += faded * kept.counts[row]
                peers += [times(peer, faded) for peer in told]
        return tuple(counts.tolist()), peers
