"""Whose a link-local IPv6 address is on its segment (``bpf/locals.h``). Pure."""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

from hypervigil.hypervisor.adapters.ebpf import layout

ROUTER_NS = 9000 * 1_000_000_000
"""The longest that a router's advertisement may hold (RFC 4861)."""
MAX_ROUTERS = 1024
_TICK_SHIFT = 30

Place = tuple[int, bytes]
"""A segment, and an address that means it there."""


@dataclass(slots=True)
class Holder:
    """Who holds an address: a slot, and when it used it last; at 0 it was given it."""

    slot: int
    tick: int = 0


@dataclass(slots=True)
class Neighbours:
    """All segments of a host."""

    holders: dict[Place, Holder] = field(default_factory=dict)
    claimed: dict[int, list[Place | None]] = field(default_factory=dict)
    """What each slot claimed, where there is room for it."""
    given: dict[int, dict[Place, int]] = field(default_factory=dict)
    """What each slot's port came with, and who holds it."""
    routers: OrderedDict[Place, int] = field(default_factory=OrderedDict)
    """Who advertises routes from where no port is, and when it did last."""

    def owns(self, slot: int, place: Place, now: int, *, routes: bool) -> bool:
        """Whether a port may use an address that is not given to it: it holds it already, or from now."""
        if not routes and self.a_routers(place, now):
            return False
        holder = self.holders.get(place)
        if holder is None:
            self._claim(slot, place, now)
            return True
        if holder.slot == slot and holder.tick:
            holder.tick = (now >> _TICK_SHIFT) + 1
        return holder.slot == slot

    def others(self, slot: int, place: Place, now: int, *, routes: bool) -> bool:
        """Whether an address that is not given to a port is known to be somebody else's."""
        holder = self.holders.get(place)
        return (not routes and self.a_routers(place, now)) or (holder is not None and holder.slot != slot)

    def a_routers(self, place: Place, now: int) -> bool:
        """Whether somebody behind no port advertised routes by it lately."""
        at = self.routers.get(place)
        return at is not None and now - at < ROUTER_NS

    def heed_router(self, place: Place, now: int) -> None:
        """Somebody advertises routes."""
        self.routers[place] = now
        self.routers.move_to_end(place)
        if len(self.routers) > MAX_ROUTERS:
            self.routers.popitem(last=False)

    def give(self, slot: int, places: dict[Place, int], *, again: bool) -> None:
        """A port comes with these, each held by it or by nobody; what it had before is free, unless it comes again."""
        if not again:
            self.free(slot)
        before, self.given[slot] = self.given.get(slot, {}), places
        self._settle(before.keys() | places.keys())

    def free(self, slot: int) -> None:
        """The port is gone."""
        self.claimed.pop(slot, None)
        self.holders = {place: holder for place, holder in self.holders.items() if holder.slot != slot}
        self._settle(self.given.pop(slot, {}))

    def _settle(self, places: Iterable[Place]) -> None:
        for place in places:
            holders = {given[place] for given in self.given.values() if place in given}
            if holders:
                self.holders[place] = Holder(holders.pop() if len(holders) == 1 else layout.NOBODY)
            elif not self.holders.get(place, Holder(0)).tick:
                self.holders.pop(place, None)

    def _claim(self, slot: int, place: Place, now: int) -> None:
        tick = (now >> _TICK_SHIFT) + 1
        ways = self.claimed.setdefault(slot, [None] * layout.LOCALS)

        def age(way: int) -> int:
            holder = self.holders.get(ways[way] or (-1, b""))
            return tick - holder.tick if holder is not None and holder.slot == slot and holder.tick else 0x7FFFFFFF

        oldest = max(range(layout.LOCALS), key=age)
        former = ways[oldest]
        self.holders[place] = Holder(slot, tick)
        ways[oldest] = place
        holder = self.holders.get(former) if former is not None else None
        if former is not None and holder is not None and holder.slot == slot and holder.tick:
            del self.holders[former]
