"""Whom outside VMs begin something with: a large one-sided copy to there, or small dialogues at one beat. Pure.

By headers and counts a copy that is stolen looks as one that is made, and an implant that asks for orders as a program
that asks for news: so what is found is told, once for each place, and blames nobody (docs/decisions/0017).
Of each VM that begins something outside, the last few hosts are remembered with which it does.
"""

from array import array
from collections import OrderedDict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from ipaddress import ip_address, ip_network
from math import inf
from statistics import fmean

from hypervigil.host.hsem.findings import Beacon, Upload
from hypervigil.host.hsem.records import ROUNDING, hashed
from hypervigil.host.hsem.table import Matrix
from hypervigil.model.ids import NEVER, OUTSIDE, Instant, VmId
from hypervigil.model.metric import Metric
from hypervigil.model.report import HostReport, PairRate
from hypervigil.model.traffic import Direction

TIMES = 10.0
"""So many times the VM's own 95th percentile of all octets out is a copy."""
LEAST_OCTETS = 4e6
"""A picture, a letter with what is enclosed, a crash's report are less."""
LONGEST_S = 600.0
"""What takes longer to come to ``LEAST_OCTETS`` is no copy of anything."""
ONE_SIDED = 10.0
"""Octets out per octet back: acknowledgements of full segments are a fortieth, conversations and calls go both ways."""
MOST_OF_IT = 0.5
"""Of all octets out, what goes to the one host."""
BEGUN_S = 60.0
"""Whoever began something with a host so lately sends there of its own accord; later it may answer."""
PAUSE_S = 3.0

REPEATS, WITHIN = 10, 30
"""So many dialogues after the first at one beat, among so many first ones: what keeps none by then keeps none."""
SPREAD = 0.1
"""Of the beat, up and down, within which all of them are: where each comes 40 % sooner or later by chance, one row of
ten in five thousand is."""
SMALL = 4000.0
"""Octets each way: some words."""
ALIKE, ALIKE_OCTETS = 1.5, 150.0
"""The largest per smallest, and what one frame more or less makes."""
STEADY_S = 30.0
"""What began within two beats and so long after the VM was first watched may have gone on before."""

TELLERS = 2
"""So many VMs of this host are told to copy to one place; what more of them do there is what tenants do."""
HELD_ONCE_S = 3600.0
"""A VM's copies are held once in so long: a store may be at many places, and its parts go to one after the other."""
MAX_STORES = 1024
"""Places to which VMs copy, in all."""
MAX_HOSTS = 4
MAX_TOLD = 16
MAX_ALL = 16_384
"""Hosts of each VM, places told of each, hosts of all VMs: some 800 octets a host."""


@dataclass(slots=True)
class _Host:
    """One host outside with which a VM begins something."""

    since: Instant
    """So long before ``first_at`` it would have been seen."""
    first_at: Instant
    last_at: Instant
    """Of what the VM began there."""
    begun_at: Instant = NEVER
    """The last connection."""
    beats: "array[float]" = field(default_factory=lambda: array("f"))
    said: "array[float]" = field(default_factory=lambda: array("f"))
    heard: "array[float]" = field(default_factory=lambda: array("f"))
    """Of each of the last dialogues: seconds, and octets out and in, to the next."""
    begun: int = 0
    out: float = 0.0
    back: float = 0.0
    """Octets since the last connection began."""
    copy_at: Instant | None = None
    busy_at: Instant = NEVER
    tail: float = 0.0
    sent: float = 0.0
    answered: float = 0.0

    def begin(self, now: Instant) -> None:
        """A connection."""
        if self.begun_at > -inf:
            for column, value in ((self.beats, now - self.begun_at), (self.said, self.out), (self.heard, self.back)):
                column.append(value)
                del column[:-REPEATS]
        self.begun_at, self.out, self.back = now, 0.0, 0.0
        self.begun += 1

    def count(self, direction: Direction, octets: float) -> None:
        """What went."""
        if direction is Direction.OUT:
            self.out += octets
            self.sent += octets
        else:
            self.back += octets
            self.answered += octets


@dataclass(slots=True)
class _Record:
    since: Instant
    hosts: OrderedDict[int, _Host] = field(default_factory=OrderedDict)
    """By hash of their addresses; with whom it began nothing for longest comes first."""
    told: OrderedDict[tuple[type[Beacon | Upload], str], None] = field(default_factory=OrderedDict)
    held_from: Instant = NEVER

    def hold(self, now: Instant) -> Instant:
        """From when on its copies are held: one that goes to many places is one copy."""
        if now - self.held_from > HELD_ONCE_S:
            self.held_from = now
        return self.held_from

    def tell(self, what: type[Beacon | Upload], place: str) -> bool:
        """Whether it was not told yet."""
        if (what, place) in self.told:
            self.told.move_to_end((what, place))
            return False
        self.told[what, place] = None
        if len(self.told) > MAX_TOLD:
            self.told.popitem(last=False)
        return True


class Outbound:
    """The hosts of all VMs."""

    def __init__(self) -> None:
        self._of: dict[VmId, _Record] = {}
        self._first_at: Instant | None = None
        self._hosts = 0
        self._stores: OrderedDict[str, tuple[VmId, ...]] = OrderedDict()
        """Who was told to copy there; to what place nobody did for longest comes first."""
        self.forgotten = 0
        """Hosts that had to make room, in all."""

    def keep(self, vms: Collection[VmId]) -> None:
        """Forget all others."""
        for vm in self._of.keys() - vms:
            self._hosts -= len(self._of.pop(vm).hosts)

    def forget(self, vm: VmId) -> None:
        """What goes on is counted anew; what was told is not told again."""
        for host in self._of[vm].hosts.values() if vm in self._of else ():
            host.copy_at = None

    def see(self, report: HostReport, values: Matrix, tails: Matrix, now: Instant) -> Iterator[Beacon | Upload]:
        """Take in a report: what was found. ``values``, ``tails``: shape ``(len(report.vms), len(Metric))``."""
        if self._first_at is None:
            self._first_at = now
        outside = [pair for pair in report.pairs if pair.other == OUTSIDE]
        if not outside:
            return
        rows = {vm: row for row, vm in enumerate(report.vms)}
        for pair in outside:
            if pair.vm not in rows:
                continue
            row, octets = rows[pair.vm], pair.octets * report.interval_s
            begins = pair.direction is Direction.OUT and 0 < pair.openings <= values[row, Metric.OUT_SYN] + ROUNDING
            host, record = self._host(pair, now, begins=begins)
            if host is None or record is None:
                continue
            if begins:
                host.begin(now)
                beacon = _beacon(pair, host, report.interval_s)
                if beacon is not None and record.tell(Beacon, place(pair.address)):
                    yield beacon
            host.count(pair.direction, octets)
            # By datagrams a call is no other than a copy, and would be cut where a copy is slowed.
            if pair.direction is Direction.OUT and values[row, Metric.OUT_TCP] > values[row, Metric.OUT_UDP]:
                all_out, tail = float(values[row, Metric.OUT_BYTES]), float(tails[row, Metric.OUT_BYTES])
                upload = _copying(pair, host, (all_out, tail), report.interval_s, now)
                if upload is not None and self._tells(record, upload):
                    yield replace(upload, held_from=record.hold(now))

    def _tells(self, record: _Record, upload: Upload) -> bool:
        """Whether a copy is to be told: neither of this VM before, nor of others."""
        where = place(upload.address)
        tellers = self._stores.setdefault(where, ())
        self._stores.move_to_end(where)
        if len(self._stores) > MAX_STORES:
            self._stores.popitem(last=False)
        if not record.tell(Upload, where) or len(tellers) == TELLERS:
            return False
        if upload.vm not in tellers:
            self._stores[where] = (*tellers, upload.vm)
        return True

    def met(self, vm: VmId, address: str) -> Instant | None:
        """When a VM first began something with a host, if that is known and it is new."""
        record = self._of.get(vm)
        host = record.hosts.get(hashed(address)) if record is not None else None
        return host.first_at if host is not None and host.first_at - host.since >= STEADY_S else None

    def _host(self, pair: PairRate, now: Instant, *, begins: bool) -> tuple[_Host | None, _Record | None]:
        """What is known of a pair's other end, if the VM begins something there."""
        record, key = self._of.get(pair.vm), hashed(pair.address)
        found = record.hosts.get(key) if record is not None else None
        if not begins:
            return found, record
        if record is None:
            record = self._of[pair.vm] = _Record(self._first_at if self._first_at is not None else now)
        if found is None:
            if len(record.hosts) == MAX_HOSTS or self._hosts >= MAX_ALL:
                # Whom it forgets may be one of whom it asks often: who comes now need not be new.
                record.since = now
                self.forgotten += 1
                if not record.hosts:
                    return None, record
                record.hosts.popitem(last=False)
                self._hosts -= 1
            self._hosts += 1
            found = record.hosts[key] = _Host(record.since, now, now)
        found.last_at = now
        record.hosts.move_to_end(key)
        return found, record


def place(address: str) -> str:
    """The network of an address that belongs to somebody: the same service is at many addresses of it."""
    try:
        version = ip_address(address).version
    except ValueError:
        return address
    return str(ip_network(f"{address}/{24 if version == 4 else 48}", strict=False))


def _beacon(pair: PairRate, host: _Host, interval_s: float) -> Beacon | None:
    if not REPEATS < host.begun <= WITHIN or max(*host.said, *host.heard) > SMALL:
        return None
    beat_s, spread_s = fmean(host.beats), max(host.beats) - min(host.beats)
    # A report tells when something was by its own length.
    steady = spread_s <= 2 * SPREAD * beat_s + interval_s and beat_s >= 2 * interval_s
    alike = all(max(some) <= ALIKE * min(some) + ALIKE_OCTETS for some in (host.said, host.heard))
    new = host.first_at - host.since >= 2 * beat_s + STEADY_S
    if not (steady and alike and new):
        return None
    return Beacon(pair.vm, pair.address, REPEATS + 1, beat_s, spread_s, fmean(host.said), fmean(host.heard))


def _copying(pair: PairRate, host: _Host, rates: tuple[float, float], interval_s: float, now: Instant) -> Upload | None:
    """A copy that begins, goes on or ends; what is usual is what it was when it began.

    ``rates``: all octets out a second, and their own 95th percentile.
    """
    all_out, tail = rates
    if host.copy_at is None:
        heavy = all_out > max(TIMES * tail, LEAST_OCTETS / LONGEST_S)
        if not (heavy and pair.octets >= MOST_OF_IT * all_out and now - host.last_at <= BEGUN_S):
            return None
        host.copy_at, host.busy_at, host.tail = Instant(now - interval_s), now, tail
        host.sent, host.answered = pair.octets * interval_s, 0.0
    if all_out > TIMES * host.tail:
        host.busy_at = now
    seconds = now - host.copy_at
    if now - host.busy_at > PAUSE_S or seconds > LONGEST_S:
        host.copy_at = None
        return None
    enough = host.sent >= LEAST_OCTETS and host.sent >= TIMES * host.tail * seconds
    if not enough or host.sent < ONE_SIDED * host.answered:
        return None
    found = Upload(pair.vm, pair.address, host.sent, host.answered, seconds, host.tail, now)
    host.copy_at = None
    return found
