"""Who tries host after host, or port after port, in vain, and so slowly that no report shows more than one try. Pure.

Of each VM the last few hosts are remembered at which its tries to connect led to nothing, and which services it tried
there, for hours. What is answered later is struck out. Hosts that the VM knew before, and new ones that answer, speak
for it: a network that is down for everybody, and a client of many hosts of which some are gone, are no scan.
"""

from array import array
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from hypervigil.host.hsem.conduct import mixed
from hypervigil.host.hsem.facts import Vain
from hypervigil.host.hsem.records import ROUNDING, Records, hashed
from hypervigil.model.ids import OUTSIDE, Instant, VmId
from hypervigil.model.report import HostReport, PairRate
from hypervigil.model.traffic import Direction

REMEMBERED_S = 6 * 3600.0
MAX_HOSTS = 24
"""Remembered of each VM: about 0.7 kilobytes. Beyond it, the one whose last try is longest ago is forgotten."""
KEPT_S = 60.0
"""None is forgotten sooner: who tries many a second must not push all out before they could have answered."""
RIPE_S = 3.0
"""Who has not answered for so long does not: the first try and two repetitions (RFC 6298) led to nothing."""
ANSWER_S = 1.0
"""And so long ago was the last of these tries: whoever is to be reached at all answers sooner."""
AGAIN_S = 0.5
"""Whose newest tries are not ripe yet is looked at again after so long."""
QUESTION = (42.0, 60.0)
"""Octets of a question by ARP, and with what fills up a frame. Acknowledgements take 54, 58, 62 …"""
LONGEST_SYN4, LONGEST_SYN6 = 78.0, 98.0
"""Octets of a SYN with all that stacks and scanners put into it, by IPv4 and IPv6."""
SOLICITED = "ff02::1:ff"
"""Whom questions by neighbour discovery go to (RFC 4291, 2.7.1)."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What a VM sent a second, of what may be tries."""

    syns: float = 0.0
    accepted: float = 0.0
    """SYN-ACKs that it got."""
    questions: float = 0.0
    """By ARP and neighbour discovery, for a MAC; none if they are no more than usual, or than what is begun with it
    where that is: a router asks for the MACs of those that somebody else tries."""


@dataclass(slots=True)
class _Tried:
    """One VM's tries; the arrays have one element per host."""

    hosts: "array[int]" = field(default_factory=lambda: array("I"))
    """Hashes of addresses: who finds addresses that collide only hides its own from itself."""
    since: "array[float]" = field(default_factory=lambda: array("d"))
    """The first try."""
    at: "array[float]" = field(default_factory=lambda: array("d"))
    """The last try."""
    services: "array[int]" = field(default_factory=lambda: array("Q"))
    """Ports tried in vain, as ``PairRate.services``."""
    strange: "array[int]" = field(default_factory=lambda: array("B"))
    """Whether it was never talked to before."""
    answered: float = 0.0
    """Hosts never talked to before that answered; they fade."""
    answered_at: float = 0.0
    most_at: tuple[str, VmId] = ("", OUTSIDE)
    """The host of which most ports were tried, and whose it is."""

    def add(self, pair: PairRate, now: Instant) -> None:
        """A try that nobody has answered yet."""
        host = hashed(pair.address)
        if host not in self.hosts:
            if len(self.hosts) == MAX_HOSTS:
                if now - min(self.at) < KEPT_S:
                    return
                self.drop(self.at.index(min(self.at)))
            self.hosts.append(host)
            self.since.append(now)
            self.at.append(now)
            self.services.append(0)
            self.strange.append(pair.new)
        row = self.hosts.index(host)
        self.at[row] = now
        self.services[row] |= pair.services
        if self.services[row].bit_count() >= max(one.bit_count() for one in self.services):
            self.most_at = (pair.address, pair.other)

    def strike(self, pair: PairRate, now: Instant) -> None:
        """A host answers at these ports."""
        host = hashed(pair.address)
        strange = pair.new
        if host in self.hosts:
            row = self.hosts.index(host)
            if pair.services:
                self.services[row] &= ~pair.services
            if self.services[row] and (pair.services or self.services[row].bit_count() > 1):
                return  # which one goes on is not seen where nothing was begun of late
            strange = bool(self.strange[row])
            self.drop(row)
        if strange:
            self.answered = self.faded(now) + 1.0
            self.answered_at = now

    def drop(self, row: int) -> None:
        """Forget a host."""
        for column in (self.hosts, self.since, self.at, self.services, self.strange):
            del column[row]

    def times(self) -> Iterator[tuple[float, float]]:
        """First and last try of each host."""
        return zip(self.since, self.at, strict=True)

    def faded(self, now: Instant) -> float:
        """How many hosts answered, of late."""
        return self.answered * float(0.5 ** ((now - self.answered_at) / (REMEMBERED_S / 2)))


class Slow(Records[_Tried]):
    """The tries in vain of all VMs."""

    def __init__(self) -> None:
        super().__init__()
        self._ripening: dict[VmId, Instant] = {}
        """Who tried something since it was looked at, and when that is to be; who has waited longest comes first."""

    def forget(self, vm: VmId) -> None:
        """Begin anew with a VM."""
        super().forget(vm)
        self._ripening.pop(vm, None)

    def see(self, report: HostReport, sent: Mapping[VmId, Sent], suspects: Collection[VmId], now: Instant) -> None:
        """Take in a report; ``sent``: by all VMs. Of suspects only answers count: what a limit stops has none.

        Unanswered packets that begin something are tries to connect if the VM sent as many SYNs as all of them are,
        besides those of its conversations: look-ups and other datagrams have no answer yet now and then. Where they are
        more, those to strangers may be that are as short as a SYN, if it sent as many more SYNs than were accepted. Of
        who is to be reached without a router, nothing but questions for its MAC is ever seen if it is not there.
        """
        left = {vm: one.syns for vm, one in sent.items()}
        begun: dict[VmId, list[PairRate]] = {}
        asked: dict[VmId, list[PairRate]] = {}
        for pair in report.pairs:
            if pair.direction is not Direction.OUT or pair.vm not in left:
                continue
            if _asks_for_mac(pair):
                if pair.vm not in suspects:
                    asked.setdefault(pair.vm, []).append(pair)
            elif pair.packets > pair.openings or pair.answers > pair.resets:
                if pair.packets > pair.openings:
                    left[pair.vm] -= pair.openings
                if pair.vm in self._of or (pair.new and pair.openings):
                    self._record(pair.vm).strike(pair, now)
            elif pair.openings and pair.vm not in suspects:
                begun.setdefault(pair.vm, []).append(pair)
        for vm, pairs in begun.items():
            tries, most = pairs, left[vm]
            if sum(pair.openings for pair in pairs) > most + ROUNDING:
                tries = [pair for pair in pairs if pair.new and _as_short_as_a_syn(pair)]
                most = max(most, sent[vm].syns - sent[vm].accepted)
            if sum(pair.openings for pair in tries) <= most + ROUNDING:
                self._add(vm, tries, now)
        for vm, pairs in asked.items():
            if sum(pair.packets for pair in pairs) <= sent[vm].questions + ROUNDING:
                self._add(vm, pairs, now)

    def _add(self, vm: VmId, tries: Sequence[PairRate], now: Instant) -> None:
        for pair in tries:
            self._record(vm).add(pair, now)
            self._ripening.setdefault(vm, Instant(now + RIPE_S))

    def _record(self, vm: VmId) -> _Tried:
        found = self._of.get(vm)
        if found is None:
            found = self._of[vm] = _Tried()
        return found

    def ripe(self, now: Instant, most: int) -> list[VmId]:
        """Who has tries that went unanswered for so long that they may be looked at; at most so many.

        Who goes on trying is looked at again and again: there may never be a moment without one that is still open.
        """
        due: list[VmId] = []
        for vm, at in self._ripening.items():
            if len(due) == most:
                break
            if at <= now:
                due.append(vm)
        for vm in due:
            del self._ripening[vm]
            if any(now - since < RIPE_S or now - at < ANSWER_S for since, at in self._of[vm].times()):
                self._ripening[vm] = Instant(now + AGAIN_S)
        return due

    def of(self, vm: VmId, now: Instant) -> Vain:
        """What a VM tried in vain."""
        tried = self._of.get(vm)
        if tried is None:
            return Vain()
        rows = [row for row, times in enumerate(tried.times()) if _ripe(*times, now)]
        strange = [row for row in rows if tried.strange[row]]
        address, other = tried.most_at
        return Vain(
            hosts=len(strange),
            spared=len(rows) - len(strange) + tried.faded(now),
            seconds=now - min((tried.since[row] for row in rows), default=now),
            ports=max((tried.services[row].bit_count() for row in rows if now - tried.at[row] >= RIPE_S), default=0),
            mixed=mixed([tried.services[row] for row in strange]),
            address=address,
            other=other,
        )


def _ripe(since: float, at: float, now: Instant) -> bool:
    return now - since >= RIPE_S and ANSWER_S <= now - at <= REMEMBERED_S


def _asks_for_mac(pair: PairRate) -> bool:
    """Whether all that goes to an address are questions for its MAC, by all that is known of it."""
    if pair.openings or pair.services or pair.answers or not pair.packets:
        return False
    return round(pair.octets / pair.packets, 3) in QUESTION or pair.address.startswith(SOLICITED)


def _as_short_as_a_syn(pair: PairRate) -> bool:
    longest = LONGEST_SYN6 if ":" in pair.address else LONGEST_SYN4
    return pair.octets <= longest * pair.packets + ROUNDING
