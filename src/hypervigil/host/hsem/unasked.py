"""Who gets SYN-ACKs that it asked nobody for, however slowly: somebody sends SYNs in its name to others. Pure.

A kernel answers a SYN-ACK at once: it takes up what it asked for, and resets what it did not. So of a host that sends
SYN-ACKs and nothing else, and to which nothing but resets goes back, nothing was asked. Whoever is asked later, says
anything else, or is answered, is struck out. Only VMs that such a SYN-ACK reached have a record.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from hypervigil.host.hsem.conduct import REPEATED
from hypervigil.host.hsem.findings import Unasked
from hypervigil.host.hsem.records import ROUNDING, Records, hashed
from hypervigil.host.hsem.table import Matrix
from hypervigil.model.ids import NEVER, OUTSIDE, Instant, VmId
from hypervigil.model.metric import Metric
from hypervigil.model.report import HostReport, PairRate
from hypervigil.model.traffic import Direction

REMEMBERED_S = 600.0
FORGED_SYNS = 10
"""So many SYNs in ten minutes are meant for this VM. A flood whose senders are drawn from all of IPv4 hits one address
so often only from 70 million packets a second on."""
LEAST = FORGED_SYNS * REPEATED
"""SYN-ACKs: what ten forged SYNs bring at most. So many in ten minutes are passed over, and what is more adds up."""
PASSED_OVER = LEAST / REMEMBERED_S
REPEATS_S = 130.0
"""So long a SYN may still be answered: 63 s of repetitions of it, and as long of its SYN-ACK (RFC 6298)."""
SMALL = 114.0
"""Octets of the longest SYN-ACK by IPv6 with its Ethernet header: TCP has room for 40 octets of options."""
ASKED = 0.5
"""SYNs of about the last minute that are none."""
MAX_HOSTS = 32
MAX_ASKED = 32
"""Of each VM with a record: some 6 KB at most."""
_COLUMNS = [Metric.IN_SYNACK, Metric.OUT_SYN, Metric.OUT_RST]


@dataclass(slots=True)
class _Sender:
    first_at: Instant
    counts_from: Instant
    """Before, they may be repetitions of an answer to what the VM asked when nobody took it down."""
    last_at: Instant
    packets: float = 0.0


@dataclass(slots=True)
class _Record:
    """One VM that got something unasked."""

    unknown_until: Instant
    """So long what comes may be an answer to a SYN that is not among ``asked``."""
    senders: OrderedDict[int, _Sender] = field(default_factory=OrderedDict)
    """By hash of their addresses; who has been silent for longest comes first."""
    asked: OrderedDict[int, Instant] = field(default_factory=OrderedDict)
    """Who may still answer; who was asked longest ago comes first."""
    above: float = 0.0
    """SYN-ACKs above what is passed over."""
    last_at: Instant = NEVER

    def ask(self, host: int, now: Instant) -> None:
        """It begins something with a host."""
        self.acquit(host)
        self.asked[host] = now
        self.asked.move_to_end(host)
        if len(self.asked) > MAX_ASKED:
            _, at = self.asked.popitem(last=False)
            self.unknown_until = max(self.unknown_until, Instant(at + REPEATS_S))

    def acquit(self, host: int) -> None:
        """What came from a host is nothing unasked."""
        gone = self.senders.pop(host, None)
        if gone is not None:
            self.above = max(0.0, self.above - gone.packets)

    def converse(self, host: int) -> None:
        """Something else goes on with a host: what it was asked is taken up."""
        self.acquit(host)
        self.asked.pop(host, None)

    def add(self, host: int, packets: float, now: Instant) -> None:
        """SYN-ACKs of a host; a new one only if there is room."""
        if now - self.asked.get(host, NEVER) < REPEATS_S:
            return
        found = self.senders.get(host)
        if found is None and len(self.senders) < MAX_HOSTS:
            counts_from = now if now >= self.unknown_until else Instant(now + REPEATS_S)
            found = self.senders[host] = _Sender(now, counts_from, now)
        if found is None:
            return
        if now >= found.counts_from:
            self.above = max(0.0, self.above - PASSED_OVER * (now - self.last_at)) if self.above else 0.0
            self.above += packets
            found.packets += packets
        found.last_at = self.last_at = now
        self.senders.move_to_end(host)

    def forget(self, now: Instant) -> None:
        """What is too old."""
        while self.senders and now - next(iter(self.senders.values())).last_at > REMEMBERED_S:
            self.senders.popitem(last=False)

    def told(self, now: Instant) -> Unasked:
        """All of it."""
        senders = [one for one in self.senders.values() if one.packets]
        since = min((one.first_at for one in senders), default=now)
        return Unasked(sum(one.packets for one in senders), len(senders), now - since, self.above)


class UnaskedAnswers(Records[_Record]):
    """The records of all VMs."""

    def see(
        self, report: HostReport, values: Matrix, asked: Callable[[VmId], float], now: Instant
    ) -> list[tuple[VmId, Unasked]]:
        """Take in a report: who got too many. ``asked``: how many SYNs a VM sent in about the last minute.

        ``values``: shape ``(len(report.vms), len(Metric))``.
        """
        more = values[:, Metric.IN_SYNACK] > values[:, Metric.OUT_SYN]
        if not self._of and not more.any():
            return []
        rows = {vm: row for row, vm in enumerate(report.vms) if more[row] or vm in self._of}
        pairs: dict[VmId, list[PairRate]] = {}
        for pair in report.pairs:
            if pair.vm in rows:
                pairs.setdefault(pair.vm, []).append(pair)
        found = []
        counted = np.nan_to_num(values[list(rows.values())][:, _COLUMNS]) * report.interval_s
        for vm, counts in zip(rows, counted.tolist(), strict=True):
            self._note(vm, pairs.get(vm, ()), counts, report.interval_s, asked, now)
            record = self._of.get(vm)
            if record is None:
                continue
            record.forget(now)
            if not record.senders and now - record.last_at > REPEATS_S:
                del self._of[vm]
            elif unasked(told := record.told(now)):
                found.append((vm, told))
        return found

    def _note(  # noqa: PLR0917
        self,
        vm: VmId,
        pairs: Sequence[PairRate],
        counts: Sequence[float],
        interval_s: float,
        asked: Callable[[VmId], float],
        now: Instant,
    ) -> None:
        synacks, syns, resets = counts
        left = synacks - syns  # of what it asks just now it is told just now
        record = self._of.get(vm)
        came = {pair.address for pair in pairs if pair.direction is Direction.IN}
        for pair in pairs:
            packets = pair.packets * interval_s
            host = hashed(pair.address)
            if pair.direction is Direction.OUT:
                if record is None:
                    continue
                if pair.openings:
                    record.ask(host, now)
                elif pair.address not in came and packets > resets + ROUNDING:
                    record.converse(host)
            elif pair.openings or pair.answers > pair.resets or pair.octets > SMALL * pair.packets:
                # A SYN, and what it is answered by, is not yet a conversation.
                if record is not None and (pair.answers - pair.resets) * interval_s >= 2 - ROUNDING:
                    record.converse(host)
                elif record is not None:
                    record.acquit(host)
            elif pair.other == OUTSIDE and packets <= left + ROUNDING:
                left -= packets
                if record is None:
                    unknown = asked(vm) >= ASKED
                    record = self._of[vm] = _Record(Instant(now + REPEATS_S) if unknown else now)
                record.add(host, packets, now)
            elif record is not None and packets > synacks + ROUNDING:
                record.acquit(host)


def unasked(known: Unasked) -> bool:
    """Whether so many SYN-ACKs are answers to what others sent in the VM's name."""
    return known.above >= LEAST
