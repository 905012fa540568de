"""Which process sends: sockets by their owner, and what each had confirmed in the interval. Pure and bounded."""

from __future__ import annotations

from hypervigil.guest import lines
from hypervigil.guest.sockets import Connection

MOST = 256
"""Processes remembered as owners of sockets."""


class Owner:
    """One process and the inodes of its sockets."""

    __slots__ = ("inodes", "name", "pid", "raw")

    def __init__(self, pid: int, name: str, inodes: frozenset[int], raw: int) -> None:
        self.pid = pid
        self.name = lines.plain(name)
        self.inodes = inodes
        self.raw = raw
        """Raw and packet sockets among them."""


class Transmitters:
    """Owners as they were last found, and acknowledged octets by socket."""

    __slots__ = ("_acked", "_octets", "_owners")

    def __init__(self) -> None:
        self._owners: dict[int, Owner] = {}
        self._acked: dict[int, int] | None = None
        self._octets: dict[int, int] = {}

    def found(self, owners: list[Owner], gone: frozenset[int]) -> None:
        """Some processes were looked at; ``gone`` are pids that are no more or have no sockets."""
        for pid in gone:
            self._owners.pop(pid, None)
        for owner in owners:
            if owner.pid in self._owners or len(self._owners) < MOST:
                self._owners[owner.pid] = owner

    def see(self, connections: list[Connection]) -> None:
        """One dump: what each socket had confirmed since the last."""
        now = {one.inode: one.acked for one in connections if one.acked is not None and one.inode}
        before = now if self._acked is None else self._acked
        self._octets = {inode: acked - before.get(inode, 0) for inode, acked in now.items()}
        self._acked = now

    def busiest(self, count: int) -> list[tuple[int, str, int, int, int]]:
        """Pid, name, octets in the interval, sockets, raw sockets; who has raw sockets goes before all others."""
        found = []
        for owner in self._owners.values():
            octets = sum([max(0, self._octets.get(inode, 0)) for inode in owner.inodes])
            found.append((owner.raw > 0, octets, len(owner.inodes), owner))
        found.sort(key=lambda entry: entry[:3], reverse=True)
        return [(owner.pid, owner.name, octets, sockets, owner.raw) for _, octets, sockets, owner in found[:count]]
