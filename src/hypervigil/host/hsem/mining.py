"""Who computes at its capacity, as never before, while one connection with a host outside says little and never stops.

So do miners, and so does whoever computes for others on their word: it is told, and blames nobody
(docs/decisions/0017). Only of VMs that are at it anything is kept. Pure.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field

import numpy as np

from hypervigil.host.hsem.crowd import BUSY_TAIL, FULL
from hypervigil.host.hsem.findings import Mining
from hypervigil.host.hsem.table import Matrix
from hypervigil.model.ids import OUTSIDE, Instant, VmId
from hypervigil.model.metric import PACKET_METRICS, Metric
from hypervigil.model.report import HostReport, PairRate
from hypervigil.model.traffic import Direction

LASTS_S = 120.0
"""So long both go on: work for a pool does so for days, and a build is over by then or fetches more."""
PAUSE_S = 5.0
"""The CPU may do something else for less: samples come once a second, and the guest's own work goes between."""
SILENT_S = 60.0
"""A pool gives new work at least so often, and its miners are asked whether they are there."""
MESSAGES = 8
"""Seconds in which either said something, at least."""
LITTLE = 2000.0
"""Octets a second each way: work and what was found take some hundred octets each, every few seconds."""
WORDS = 80.0
"""Octets a packet each way, on average: of one that only acknowledges 66 at most, with its time stamps."""
CONNECTIONS = 2.0
ASKED = 2.0
"""So many times what usually comes in, and somebody else asks for what is computed."""
BEFORE_S = 120.0
"""So long before it begins to compute it meets the host, at most: whom it knew before it also worked with before."""
MAX_HOSTS = 8

_IN = [metric for metric in PACKET_METRICS if metric >= Metric.IN_SYN]


@dataclass(slots=True)
class _Talk:
    first_at: Instant
    last_at: Instant
    messages: int = 0
    said: float = 0.0
    heard: float = 0.0
    begun: float = 0.0
    packets_said: float = 0.0
    packets_heard: float = 0.0

    @property
    def words(self) -> bool:
        """Whether either end says something."""
        return self.said > WORDS * self.packets_said and self.heard > WORDS * self.packets_heard

    def count(self, pair: PairRate, interval_s: float, now: Instant) -> None:
        """What went in an interval."""
        self.messages += int(now) != int(self.last_at)
        self.last_at = now
        self.begun += pair.openings * interval_s
        if pair.direction is Direction.OUT:
            self.said += pair.octets * interval_s
            self.packets_said += pair.packets * interval_s
        else:
            self.heard += pair.octets * interval_s
            self.packets_heard += pair.packets * interval_s


@dataclass(slots=True)
class _Run:
    """One VM at its capacity."""

    first_at: Instant
    last_at: Instant
    tail: float
    talks: OrderedDict[str, _Talk] = field(default_factory=OrderedDict)
    """Who has been silent for longest comes first."""
    told: bool = False

    def talk(self, address: str, now: Instant) -> _Talk | None:
        """Of one host; a new one only if there is room, or one that fell silent makes it."""
        found = self.talks.get(address)
        if found is not None and now - found.last_at > SILENT_S:
            found = self.talks.pop(address) and None
        if found is None:
            if len(self.talks) == MAX_HOSTS:
                oldest, talk = next(iter(self.talks.items()))
                if now - talk.last_at <= SILENT_S:
                    return None
                del self.talks[oldest]
            found = self.talks[address] = _Talk(now, now)
        self.talks.move_to_end(address)
        return found


class Miners:
    """All VMs that are at their capacity, and were not before."""

    def __init__(self) -> None:
        self._of: dict[VmId, _Run] = {}

    def keep(self, vms: Collection[VmId]) -> None:
        """Forget all others."""
        self._of = {vm: run for vm, run in self._of.items() if vm in vms}

    def see(
        self,
        report: HostReport,
        values: Matrix,
        tails: Matrix,
        met: Callable[[VmId, str], Instant | None],
        now: Instant,
    ) -> Iterator[Mining]:
        """Take in a report: who may be at it. ``met``: since when a VM knows a new host.

        ``values``, ``tails``: shape ``(len(report.vms), len(Metric))``.
        """
        full = np.flatnonzero(values[:, Metric.CPU] >= FULL)
        for row in full.tolist():
            vm, tail = report.vms[row], float(tails[row, Metric.CPU])
            if vm in self._of:
                self._of[vm].last_at = now
            elif tail < BUSY_TAIL:
                self._of[vm] = _Run(now, now, tail)
        if not self._of:
            return
        self._of = {vm: run for vm, run in self._of.items() if now - run.last_at <= PAUSE_S}
        rows = {vm: row for row, vm in enumerate(report.vms) if vm in self._of}
        for pair in report.pairs:
            run = self._of.get(pair.vm)
            if run is None or run.told or pair.other != OUTSIDE or pair.vm not in rows:
                continue
            row = rows[pair.vm]
            talk = run.talk(pair.address, now)
            if talk is None:
                continue
            talk.count(pair, report.interval_s, now)
            if not talk.words or talk.begun > CONNECTIONS or now - talk.first_at < LASTS_S:
                continue
            asked = values[row, _IN].sum() > ASKED * max(float(tails[row, _IN].sum()), 1.0)
            found = Mining(
                pair.vm, pair.address, now - talk.first_at, talk.messages, talk.said, talk.heard, FULL, run.tail
            )
            if asked or not mining(found):
                continue
            since = met(pair.vm, pair.address)
            if since is not None and since >= run.first_at - BEFORE_S:
                run.told = True
                yield found


def mining(known: Mining) -> bool:
    """Whether a talk is of the kind that work for a pool needs."""
    if known.seconds < LASTS_S or known.messages < MESSAGES:
        return False
    return 0 < known.said <= LITTLE * known.seconds and 0 < known.heard <= LITTLE * known.seconds
