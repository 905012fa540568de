"""How a VM's file begins and grows: its history, what was seen of it just now, and what each report adds. Pure."""

from collections.abc import Sequence

from hypervigil.host.hsem.conduct import HARDLY_ANY
from hypervigil.host.hsem.facts import Dossier
from hypervigil.host.hsem.history import History
from hypervigil.host.hsem.look import Look
from hypervigil.host.hsem.served import Served
from hypervigil.host.hsem.sides import Peer
from hypervigil.host.hsem.watch import WATCHED, Watch
from hypervigil.host.hsem.watched import Watched
from hypervigil.model.ids import CaseId, Instant
from hypervigil.model.metric import PACKET_METRICS, Metric
from hypervigil.model.traffic import Direction, TrafficClass

_PACKETS = len(PACKET_METRICS)
_NEW = WATCHED.index(Metric.NEW_DESTINATIONS)


class Files:
    """Writes dossiers."""

    def __init__(self, history: History, watch: Watch, served: Served) -> None:
        self._history = history
        self._watch = watch
        self._served = served

    def begin(self, record: Watched, now: Instant) -> Dossier:
        """An empty dossier of a VM, with its history and what was seen of it just now."""
        vm = record.vm
        tails = self._history.tails([vm])[0]
        recent = self._watch.recent(vm)
        dossier = Dossier(
            case=CaseId(""),
            vm=vm,
            opened_at=now,
            tails=tuple(tails[list(PACKET_METRICS)].tolist()),
            cpu_tail=min(self._history.usual(vm, Metric.CPU), 1.0),
            samples=self._history.samples(vm),
            told=record.told_lately(now),
            ever=recent.ever,
        )
        counts = list(recent.counts[:_PACKETS])
        for metric, worded in zip((Metric.OUT_UDP, Metric.IN_UDP), recent.worded, strict=True):
            counts[metric] = max(counts[metric], float(worded))  # the word by which a stream was agreed upon is one yet
        dossier.count(tuple(counts), recent.seconds, fresh=recent.fresh[:_PACKETS])
        usual = [recent.minute_s * self._history.middle(vm, metric) for metric in (Metric.OUT_SYN, Metric.IN_SYN)]
        dossier.ask_before(recent.asked, usual)
        dossier.new_destinations = recent.counts[_NEW]
        return dossier

    def draft(
        self, record: Watched, look: Look, before: tuple[tuple[float, ...], Sequence[Peer]], now: Instant
    ) -> Dossier:
        """A dossier of what a first look shows; ``before``: as ``Lately`` tells."""
        dossier, recent = self.begin(record, now), self._watch.recent(record.vm)
        dossier.reports = 1
        for peer in look.recent(recent.counts, before):
            dossier.add_peer(self._served.known(record.vm, peer, now), look.room)
        self.mark(dossier, look, now)
        dossier.failures = recent.refused + recent.counts[Metric.IN_RST]
        return dossier

    def grow(self, dossier: Dossier, look: Look, now: Instant) -> None:
        """Add what one report tells."""
        if not look.seen:
            return
        dossier.reports += 1
        counts = look.counts
        dossier.count(counts, look.interval_s, fresh=counts)
        for one in look.limited:
            dossier.limited[int(one.direction) * len(TrafficClass) + int(one.traffic)] += one.packets
        for peer in look.peers:
            dossier.add_peer(self._served.known(dossier.vm, peer, now), look.room)
        dossier.new_destinations += look.value(Metric.NEW_DESTINATIONS) * look.interval_s
        self.mark(dossier, look, now)

    def mark(self, dossier: Dossier, look: Look, now: Instant) -> None:
        """Write down what is above its allowance, and the widths of the fans."""
        recent = self._watch.recent(dossier.vm)
        if look.excess is not None:
            for column, above in enumerate(look.excess.above[:_PACKETS]):
                if above:
                    direction, traffic = divmod(column, len(TrafficClass))
                    rate = recent.counts[column] / recent.seconds
                    dossier.surge(Direction(direction), TrafficClass(traffic), rate, now)
            tried, accepted = look.counts[Metric.IN_SYN], look.counts[Metric.OUT_SYNACK]
            if look.excess.above[Metric.IN_SYN] and accepted <= HARDLY_ANY * tried:
                dossier.away_s += look.interval_s
        dossier.ever = (dossier.ever[0] or recent.ever[0], dossier.ever[1] or recent.ever[1])
        failures = look.value(Metric.FAILURES) * look.interval_s
        dossier.failures += failures
        if failures - look.counts[Metric.IN_RST] >= 0.5:
            dossier.refused_at = now
        dossier.fan_out = max(dossier.fan_out, look.value(Metric.FAN_OUT))
        dossier.fan_in = max(dossier.fan_in, look.value(Metric.FAN_IN))
