"""One VM in one report of HREM's: rates, what is above its allowance, whom it talks with. Pure."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from hypervigil.host.hsem.scans import FEW_PORTS
from hypervigil.host.hsem.sides import Peer
from hypervigil.host.hsem.table import Matrix
from hypervigil.host.hsem.watch import WATCHED, Excess
from hypervigil.model.ids import VmId
from hypervigil.model.metric import PACKET_METRICS, Metric
from hypervigil.model.report import HostReport, LimitedCount, PairRate
from hypervigil.model.traffic import Direction, TrafficClass


@dataclass(frozen=True, slots=True)
class Look:
    """One VM in one report."""

    row: Matrix
    interval_s: float
    excess: Excess | None
    peers: Sequence[Peer]
    limited: Sequence[LimitedCount]
    room: int
    """For so many peers on file."""

    @property
    def seen(self) -> bool:
        """Whether its NICs were looked at at all."""
        return bool(np.isfinite(self.row[Metric.OUT_SYN]))

    @property
    def counts(self) -> tuple[float, ...]:
        """Packets of all classes, out and then in."""
        packets = np.nan_to_num(self.row[list(PACKET_METRICS)]) * self.interval_s
        return tuple(packets.tolist())

    def value(self, metric: Metric) -> float:
        """A metric, 0 where it is unseen."""
        found = float(self.row[metric])
        return found if np.isfinite(found) else 0.0

    def above(self, metric: Metric) -> bool:
        """Whether a metric is above its allowance."""
        return self.excess is not None and self.excess.above[WATCHED.index(metric)]

    def clearly(self, metric: Metric) -> bool:
        """Whether it is so by far."""
        return self.excess is not None and self.excess.clearly[WATCHED.index(metric)]

    def recent(self, counted: tuple[float, ...], before: tuple[tuple[float, ...], Sequence[Peer]]) -> list[Peer]:
        """The peers as if this interval were as long as the time that ``counted`` packets stand for.

        ``before``: what is known of it, as ``Lately`` tells. Of the rest it is presumed that it was as what is known.
        """
        factors = {}
        for direction in Direction:
            part = slice(direction * len(TrafficClass), (direction + 1) * len(TrafficClass))
            now, known, all_ = sum(self.counts[part]), sum(before[0][part]), sum(counted[part])
            known_share = min(1.0, max(0.0, all_ - now) / known) if known else 0.0
            seen = now + known_share * known
            factors[direction] = (max(1.0, all_ / seen) if seen else 1.0, known_share)
        found = [times(peer, factors[peer.direction][0]) for peer in self.peers]
        return found + [times(peer, factors[peer.direction][0] * factors[peer.direction][1]) for peer in before[1]]


def times(peer: Peer, factor: float) -> Peer:
    """So many times what was exchanged with a peer."""
    return Peer(
        peer.direction,
        peer.other,
        peer.address,
        peer.packets * factor,
        peer.octets * factor,
        peer.openings * factor,
        peer.answers * factor,
        peer.resets * factor,
        peer.ports,
        peer.unseen * factor,
        peer.services,
        peer.served,
    )


def tries_many_ports(report: HostReport) -> set[VmId]:
    """Who tries so many ports of one host that it is of interest, however few packets that takes."""
    return {pair.vm for pair in report.pairs if pair.ports >= FEW_PORTS and pair.direction is Direction.OUT}


def limited_of(report: HostReport) -> dict[VmId, list[LimitedCount]]:
    """What limits stopped, by VM."""
    found: dict[VmId, list[LimitedCount]] = {}
    for one in report.limited:
        found.setdefault(one.vm, []).append(one)
    return found


def peers_of(report: HostReport, looked_at: Collection[VmId]) -> dict[VmId, list[Peer]]:
    """The peers of these VMs as counts.

    What a VM of this host sends back is seen at its own NIC, whichever way it takes to the one who asked, unless a
    limit stops it.
    """
    limited = {one.vm for one in report.limited}
    wanted = set(looked_at)
    asking = wanted - limited
    sent_back: dict[tuple[VmId, VmId], tuple[float, float]] = {}
    for pair in report.pairs:
        if pair.direction is Direction.IN and pair.other in asking and pair.vm not in limited:
            answers, resets = sent_back.get((pair.other, pair.vm), (0.0, 0.0))
            sent_back[pair.other, pair.vm] = (answers + pair.answers, resets + pair.resets)
    found: dict[VmId, list[Peer]] = {}
    for pair in report.pairs:
        if pair.vm in wanted:
            told = sent_back.get((pair.vm, pair.other)) if pair.direction is Direction.OUT else None
            found.setdefault(pair.vm, []).append(_peer(pair, report.interval_s, *(told or (0.0, 0.0))))
    return found


def _peer(pair: PairRate, interval_s: float, answers: float, resets: float) -> Peer:
    return Peer(
        pair.direction,
        pair.other,
        pair.address,
        pair.packets * interval_s,
        pair.octets * interval_s,
        pair.openings * interval_s,
        max(pair.answers, answers) * interval_s,
        max(pair.resets, resets) * interval_s,
        pair.ports,
        max(0.0, answers - pair.answers) * interval_s,
        pair.services,
    )
