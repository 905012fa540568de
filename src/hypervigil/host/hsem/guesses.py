"""Who guesses passwords at a service: one short dialogue after the other that ends alike. Pure.

A service that asks for a password speaks first, refuses in the same words each time, and lets whoever erred wait. Who
guesses says a little more or less each time; a program that tries one stale password again says the same, and whoever
has work to do there gets on now and then. Only counts are known of a dialogue, and nothing that was said.
"""

from collections import OrderedDict, deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from hypervigil.host.hsem.facts import Guessed
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
EXCUSED, MOST_EXCUSED = 4, 24
"""So many more it takes for each longer dialogue with any service at the same port, and at most: who relays letters."""
WORKED_S = 3600.0
"""A longer dialogue counts half after so long."""
MAX_SERVICES = 16
"""Remembered of each VM; beyond it the one longest unused is forgotten."""
MAX_LOOKS = 128
"""Times remembered of each service; beyond it the oldest is."""


@dataclass(frozen=True, slots=True)
class _Look:
    """Dialogues that ended in one interval, all alike."""

    at: Instant
    alike: int
    varied: int
    lasted_s: float


@dataclass(slots=True)
class _Service:
    """A row of dialogues at one service with none among them that was not like the one before."""

    other: VmId
    looks: deque[_Look] = field(default_factory=lambda: deque(maxlen=MAX_LOOKS))
    first_at: Instant | None = None
    """When the dialogue ended that the first of the row is like."""

    def see(self, count: DialogueCount, now: Instant) -> None:
        """What ended in an interval."""
        self.other = count.other
        if count.ended > count.alike:
            self.looks.clear()
            self.first_at = now if count.curt else None
        if count.alike:
            self.looks.append(_Look(now, count.alike, count.varied, count.lasted_s))

    def within(self, seconds: float, now: Instant) -> tuple[int, int, float, float]:
        """Of so long: dialogues alike, how many of them varied, how long they took, and since when."""
        looks = [look for look in self.looks if now - look.at <= seconds]
        alike, varied = sum(look.alike for look in looks), sum(look.varied for look in looks)
        since = min((look.at for look in looks), default=now)
        if self.first_at is not None and now - self.first_at <= seconds:
            alike, since = alike + 1, min(since, self.first_at)
        return alike, varied, sum(look.lasted_s for look in looks) / max(1, alike - 1), now - since


_Key = tuple[Direction, str, int]


@dataclass(slots=True)
class _Record:
    """One VM's services, and where it got work done."""

    services: OrderedDict[_Key, _Service] = field(default_factory=OrderedDict)
    worked: OrderedDict[int, tuple[float, Instant]] = field(default_factory=OrderedDict)
    """By port: longer dialogues, which fade, and when that was reckoned."""

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


class Guesses:
    """The dialogues of all VMs with services that speak first."""

    def __init__(self) -> None:
        self._of: dict[VmId, _Record] = {}

    def keep(self, vms: Collection[VmId]) -> None:
        """Forget all others."""
        for vm in self._of.keys() - vms:
            self.forget(vm)

    def forget(self, vm: VmId) -> None:
        """Begin anew with a VM."""
        self._of.pop(vm, None)

    def see(self, counts: Iterable[DialogueCount], now: Instant) -> list[Guessed]:
        """Take in what ended in an interval: who guesses, or is guessed at from outside, and where most."""
        concerned: dict[VmId, Guessed] = {}
        for count in counts:
            record = self._of.setdefault(count.vm, _Record())
            key = (count.direction, count.address, count.port)
            service = record.services.setdefault(key, _Service(count.other))
            record.services.move_to_end(key)
            if len(record.services) > MAX_SERVICES:
                record.services.popitem(last=False)
            service.see(count, now)
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
