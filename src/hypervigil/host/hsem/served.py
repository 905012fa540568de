"""At which services a VM's tries were accepted in the last hours: who tries these again floods nobody. Pure.

A service that is gone answers its clients as a closed port answers a flood, and one that is away as nobody. What tells
them apart is that a client got there before. By headers and counts it is not known which try an answer is for, so a
service counts as one that accepts only where as good as all tries of the VM were accepted of late. Bounded.
"""

from array import array
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from math import exp

from hypervigil.host.hsem.conduct import AGAIN_PPS
from hypervigil.host.hsem.records import Records, hashed
from hypervigil.host.hsem.sides import Peer
from hypervigil.host.hsem.slow import Sent
from hypervigil.model.ids import NEVER, Instant, VmId
from hypervigil.model.report import HostReport
from hypervigil.model.traffic import Direction

REMEMBERED_S = 6 * 3600.0
RENEWED_S = 600.0
"""So often connections that last are looked at: who is still answered on one is still served there."""
MAX_HOSTS = 16
"""Remembered of each VM, some 0.7 kilobytes; beyond it, the one that accepted nothing for longest is forgotten."""
OWED_S = 20.0
"""What was not accepted fades by this time constant: much longer than it is known which ports were tried."""
FEW, SHARE = 0.5, 0.1
"""Tries that may be open, and of all of an interval this share: their answers are on the way."""


@dataclass(slots=True)
class _Accepted:
    """One VM's services; the arrays have one element per host."""

    hosts: "array[int]" = field(default_factory=lambda: array("I"))
    """Hashes of addresses: whoever finds two that collide only speaks for itself at the one by the other."""
    services: "array[int]" = field(default_factory=lambda: array("Q"))
    """As ``PairRate.services``."""
    at: "array[float]" = field(default_factory=lambda: array("d"))
    owed: float = 0.0
    """Tries that were not accepted; they fade."""
    owed_at: Instant = NEVER

    def settled(self, tried: float, accepted: float, now: Instant) -> bool:
        """Count an interval's tries: whether as good as all of late were accepted."""
        self.owed = max(0.0, self.owed * exp(min(0.0, self.owed_at - now) / OWED_S) + tried - accepted)
        self.owed_at = now
        return self.owed <= max(FEW, SHARE * tried)

    def add(self, host: int, services: int, now: Instant) -> None:
        """It was accepted there."""
        row = self.row(host, now)
        if row is None:
            if len(self.hosts) == MAX_HOSTS:
                self._drop(self.at.index(min(self.at)))
            row = len(self.hosts)
            self.hosts.append(host)
            self.services.append(0)
            self.at.append(now)
        self.services[row] |= services
        self.at[row] = now

    def renew(self, host: int, now: Instant) -> None:
        """It still answers."""
        row = self.row(host, now)
        if row is not None:
            self.at[row] = now

    def row(self, host: int, now: Instant) -> int | None:
        """Where a host is, unless that is too long ago."""
        if host not in self.hosts:
            return None
        row = self.hosts.index(host)
        if now - self.at[row] <= REMEMBERED_S:
            return row
        self._drop(row)
        return None

    def _drop(self, row: int) -> None:
        for column in (self.hosts, self.services, self.at):
            del column[row]


class Served(Records[_Accepted]):
    """The services of all VMs."""

    def __init__(self) -> None:
        super().__init__()
        self._renewed_at = NEVER
        self._tried: dict[str, float] = {}
        """How often a second all VMs together begin something at an address, in the last report."""

    def see(self, report: HostReport, sent: Mapping[VmId, Sent], suspects: Collection[VmId], now: Instant) -> None:
        """Take in who talks with whom; nothing is learned of suspects, who may answer themselves. ``sent``: by all."""
        renews = now - self._renewed_at >= RENEWED_S
        if renews:
            self._renewed_at = now
        settled: dict[VmId, bool] = {}
        tried: dict[str, float] = defaultdict(float)
        for pair in report.pairs:
            if pair.direction is not Direction.OUT or not (pair.openings or renews):
                continue
            tried[pair.address] += pair.openings
            vm = pair.vm
            if vm in suspects:
                continue
            record = self._of.get(vm)
            if pair.openings:
                if record is None:
                    record = self._of[vm] = _Accepted()
                if vm not in settled:
                    tries = sent.get(vm, Sent())
                    interval_s = report.interval_s
                    settled[vm] = record.settled(tries.syns * interval_s, tries.accepted * interval_s, now)
                answered = pair.openings < pair.packets and pair.answers >= pair.openings and not pair.resets
                if answered and settled[vm] and pair.services:
                    record.add(hashed(pair.address), pair.services, now)
            elif record is not None and pair.answers > pair.resets:
                record.renew(hashed(pair.address), now)
        self._tried = {**self._tried, **tried} if report.partial else tried

    def known(self, vm: VmId, peer: Peer, now: Instant) -> Peer:
        """The same peer, and which of the services that were tried there had accepted before.

        None where all VMs of this host together begin too much there: each for itself may be a client.
        """
        record = self._of.get(vm)
        if record is None or not peer.services or peer.direction is not Direction.OUT:
            return peer
        if self._tried.get(peer.address, 0.0) > AGAIN_PPS:
            return peer
        row = record.row(hashed(peer.address), now)
        return peer if row is None else replace(peer, served=record.services[row] & peer.services)
