"""Which services a VM's tries were accepted at, in the last hours: whoever tries these again floods nobody yet. Pure.

A service that is gone answers its clients as a closed port answers a flood, and one that is away as nobody. What tells
them apart is that a client got there before. Bounded.
"""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from hypervigil.host.hsem.records import Records, hashed
from hypervigil.host.hsem.sides import Peer
from hypervigil.model.ids import Instant, VmId
from hypervigil.model.report import PairRate
from hypervigil.model.traffic import Direction

REMEMBERED_S = 6 * 3600.0
MAX_HOSTS = 16
"""Remembered of each VM, some 0.4 kilobytes; beyond it, the one that accepted nothing for longest is forgotten."""


@dataclass(slots=True)
class _Accepted:
    """One VM's services; the arrays have one element per host."""

    hosts: "array[int]" = field(default_factory=lambda: array("I"))
    """Hashes of addresses: whoever finds two that collide only speaks for itself at the one by the other."""
    services: "array[int]" = field(default_factory=lambda: array("Q"))
    """As ``PairRate.services``."""
    at: "array[float]" = field(default_factory=lambda: array("d"))

    def add(self, host: int, services: int, now: Instant) -> None:
        """It was accepted there."""
        row = self.row(host, now)
        if row is None:
            if len(self.hosts) == MAX_HOSTS:
                oldest = self.at.index(min(self.at))
                for column in (self.hosts, self.services, self.at):
                    del column[oldest]
            row = len(self.hosts)
            self.hosts.append(host)
            self.services.append(0)
            self.at.append(now)
        self.services[row] |= services
        self.at[row] = now

    def row(self, host: int, now: Instant) -> int | None:
        """Where a host is, unless that is too long ago."""
        if host not in self.hosts:
            return None
        row = self.hosts.index(host)
        if now - self.at[row] <= REMEMBERED_S:
            return row
        for column in (self.hosts, self.services, self.at):
            del column[row]
        return None


class Served(Records[_Accepted]):
    """The services of all VMs."""

    def see(self, pairs: Iterable[PairRate], now: Instant) -> None:
        """Take in who talks with whom.

        Where several ports of a host were tried at once, it is not known which of them accepted: that tells nothing.
        """
        for pair in pairs:
            if (
                pair.direction is Direction.OUT
                and 0.0 < pair.openings < pair.packets
                and pair.answers > pair.resets
                and pair.services
                and not pair.services & (pair.services - 1)
            ):
                record = self._of.get(pair.vm)
                if record is None:
                    record = self._of[pair.vm] = _Accepted()
                record.add(hashed(pair.address), pair.services, now)

    def known(self, vm: VmId, peer: Peer, now: Instant) -> Peer:
        """The same peer, and which of the services that were tried there had accepted before."""
        record = self._of.get(vm)
        if record is None or not peer.services or peer.direction is not Direction.OUT:
            return peer
        row = record.row(hashed(peer.address), now)
        return peer if row is None else replace(peer, served=record.services[row] & peer.services)
