"""Who guesses passwords at a service: one short dialogue after the other that ends alike. Pure.

A service that asks for a password speaks first, refuses in the same words each time, and lets whoever erred wait. Who
guesses says a little more or less each time; a program that tries one stale password again says the same, and whoever
has work to do there gets on now and then. Only counts are known of a dialogue, and nothing that was said.
"""

from array import array
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf

from hypervigil.host.hsem.facts import Guessed
from hypervigil.host.hsem.records import Records
from hypervigil.model.ids import OUTSIDE, Instant, VmId
from hypervigil.model.report import DialogueCount
from hypervigil.model.traffic import Direction

HASTY, HASTY_S = 12, 60.0
"""So many dialogues within so long that end alike, one after the other, are guesses if what was said differed once."""
PATIENT, PATIENT_S = 16, 600.0
"""Likewise, but what was said must differ again and again: in ``DIFFERS`` of them."""
DIFFERS = 0.25
WAITS_S = 1.0
"""A refusal takes so long on average, since services let whoever erred wait. Honest short work is done sooner."""
EXCUSED, MOST_EXCUSED = 4, 12
"""So many more it takes for each longer dialogue with any service at the same port, and at most: who relays letters."""
WORKED_S = 3600.0
"""A longer dialogue counts half after so long."""
MAX_SERVICES = 8
"""Remembered of each VM; beyond it the one is forgotten at which least speaks for guesses, and of these the last."""
MAX_LOOKS = 28
"""Times remembered of each service, since it takes no more; beyond it the oldest is forgotten."""


@dataclass(slots=True)
class _Service:
    """A row of dialogues at one service with none among them that was not like the one before."""

    other: VmId
    first_at: float = -inf
    """When the dialogue ended that the first of the row is like."""
    at: "array[float]" = field(default_factory=lambda: array("d"))
    """By interval in which any ended, as are these: how many, how many of them varied, how long they took."""
    alike: "array[float]" = field(default_factory=lambda: array("d"))
    varied: "array[float]" = field(default_factory=lambda: array("d"))
    lasted_s: "array[float]" = field(default_factory=lambda: array("d"))

    def see(self, count: DialogueCount, now: Instant) -> None:
        """What ended in an interval."""
        self.other = count.other
        columns = (self.at, self.alike, self.varied, self.lasted_s)
        if count.ended > count.alike:
            for column in columns:
                del column[:]
            self.first_at = now if count.curt else -inf
        if count.alike:
            for column, value in zip(columns, (now, count.alike, count.varied, count.lasted_s), strict=True):
                column.append(value)
                del column[:-MAX_LOOKS]

    def speaks(self, now: Instant) -> tuple[bool, float]:
        """How much there speaks for guesses: whether it is lately that anything did, and in how many dialogues."""
        return bool(self.at) and now - self.at[-1] <= PATIENT_S, sum(self.varied)

    def within(self, seconds: float, now: Instant) -> tuple[int, int, float, float]:
        """Of so long: dialogues alike, how many of them varied, how long each took, and since when."""
        begin = next((row for row, at in enumerate(self.at) if now - at <= seconds), len(self.at))
        alike, lasted_s = sum(self.alike[begin:]), sum(self.lasted_s[begin:])
        since = self.at[begin] if begin < len(self.at) else now
        first = now - self.first_at <= seconds
        return (
            int(alike) + first,
            int(sum(self.varied[begin:])),
            lasted_s / alike if alike else 0.0,
            now - (self.first_at if first else since),
        )


_Key = tuple[Direction, str, int]


@dataclass(slots=True)
class _Record:
    """One VM's services, and where it got work done."""

    services: OrderedDict[_Key, _Service] = field(default_factory=OrderedDict)
    worked: OrderedDict[int, tuple[float, Instant]] = field(default_factory=OrderedDict)
    """By port: longer dialogues, which fade, and when that was reckoned."""

    def service(self, key: _Key, other: VmId, now: Instant) -> _Service:
        """The one of a key. Who guesses by turns at more than there is room for is told by those that it began with."""
        found = self.services.get(key)
        if found is None:
            if len(self.services) == MAX_SERVICES:
                order = {one: -place for place, one in enumerate(self.services)}
                del self.services[min(order, key=lambda one: (*self.services[one].speaks(now), order[one]))]
            found = self.services[key] = _Service(other)
        self.services.move_to_end(key)
        return found

    def work(self, port: int, more: int, now: Instant) -> None:
        """Longer dialogues with a service at a port."""
        self.worked[port] = (self.faded(port, now) + more, now)
        self.worked.move_to_end(port)
        if len(self.worked) > MAX_SERVICES:
            self.worked.popitem(last=False)

    def faded(self, port: int, now: Instant) -> float:
        """How many there were, of late."""
        count, at = self.worked.get(port, (0.0, now))
        return count * float(0.5 ** ((now - at) / WORKED_S))


class Guesses(Records[_Record]):
    """The dialogues of all VMs with services that speak first."""

    def see(self, counts: Iterable[DialogueCount], now: Instant) -> list[Guessed]:
        """Take in what ended in an interval: who guesses, or is guessed at from outside, and where most."""
        concerned: dict[VmId, Guessed] = {}
        for count in counts:
            record = self._of.setdefault(count.vm, _Record())
            key = (count.direction, count.address, count.port)
            record.service(key, count.other, now).see(count, now)
            if count.direction is Direction.OUT and count.ended > count.curt:
                record.work(count.port, count.ended - count.curt, now)
            found = self._worst(count.vm, key, now)
            blames = count.direction is Direction.OUT or count.other == OUTSIDE
            if blames and guesses(found) and found.dialogues > concerned.get(count.vm, Guessed()).dialogues:
                concerned[count.vm] = found
        return list(concerned.values())

    def by(self, vm: VmId, guesser: VmId, now: Instant) -> Guessed:
        """What another VM tried at a service of this one, as this one's NIC saw it."""
        services = self._of.get(vm, _Record()).services
        keys = [key for key, one in services.items() if key[0] is Direction.IN and one.other == guesser]
        return max((self._worst(vm, key, now) for key in keys), key=lambda one: one.dialogues, default=Guessed())

    def _worst(self, vm: VmId, key: _Key, now: Instant) -> Guessed:
        """The last minute of a service if it tells enough, else the last ten."""
        record, (direction, address, port) = self._of[vm], key
        service = record.services[key]
        excused = min(EXCUSED * record.faded(port, now), MOST_EXCUSED) if direction is Direction.OUT else 0.0
        found = Guessed()
        for seconds in (HASTY_S, PATIENT_S):
            alike, varied, lasted_s, since_s = service.within(seconds, now)
            found = Guessed(vm, alike, varied, since_s, lasted_s, excused, direction, address, port, service.other)
            if guesses(found):
                break
        return found


def guesses(known: Guessed) -> bool:
    """Whether dialogues that end alike are guesses at a password."""
    hasty = known.seconds <= HASTY_S
    enough = (HASTY if hasty else PATIENT) + known.excused
    varied = 1 if hasty else DIFFERS * known.dialogues
    return known.dialogues >= enough and known.varied >= varied and known.lasted_s >= WAITS_S
