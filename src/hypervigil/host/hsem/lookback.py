"""What no single report shows: tries in vain over hours, and dialogues that end alike one after the other. Pure."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hypervigil.host.hsem import explain
from hypervigil.host.hsem.facts import Dossier, Facts, Guessed, Vain
from hypervigil.host.hsem.findings import Beacon, Mining, Unasked, Upload
from hypervigil.host.hsem.guesses import Guesses
from hypervigil.host.hsem.limiting import Wanted, copying
from hypervigil.host.hsem.mining import Miners
from hypervigil.host.hsem.outbound import Outbound
from hypervigil.host.hsem.scans import slow_probe, slow_sweep
from hypervigil.host.hsem.served import Served
from hypervigil.host.hsem.slow import Sent, Slow
from hypervigil.host.hsem.table import Matrix
from hypervigil.host.hsem.turns import MAX_LOOKS
from hypervigil.host.hsem.unasked import UnaskedAnswers
from hypervigil.host.hsem.watch import Watch
from hypervigil.model.ids import Instant, VmId
from hypervigil.model.metric import Metric, packet_metric
from hypervigil.model.report import HostReport
from hypervigil.model.status import Evidence
from hypervigil.model.traffic import Direction, TrafficClass


@dataclass(frozen=True, slots=True)
class Finding:
    """What a VM did over some time."""

    vm: VmId
    what: Vain | Guessed | Unasked | Beacon | Upload | Mining

    def note(self, dossier: Dossier) -> None:
        """Write it down."""
        match self.what:
            case Guessed():
                dossier.guessed = self.what
            case Unasked():
                dossier.found = replace(dossier.found, unasked=self.what)
            case Beacon():
                dossier.found = replace(dossier.found, beacon=self.what)
            case Upload():
                dossier.found = replace(dossier.found, upload=self.what)
            case Mining():
                dossier.found = replace(dossier.found, mining=self.what)
            case Vain():
                dossier.vain = self.what

    def held(self, facts: Facts) -> list[Wanted]:
        """What holds it though its VM is judged already: what others can make of a VM is no leave to copy."""
        return copying(facts) if isinstance(self.what, Upload) else []

    def evidence(self, facts: Facts) -> tuple[Evidence, ...]:
        """What a case is opened with."""
        match self.what:
            case Guessed():
                return tuple(explain.guessed(facts))
            case Unasked():
                return tuple(explain.unasked(facts))
            case Beacon() | Upload() | Mining():
                return tuple(explain.suspicions(facts))
            case Vain():
                return tuple(explain.vain(facts))


class Lookback:
    """The memory of all VMs."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self.served = Served()
        self._slow = Slow()
        self._guesses = Guesses()
        self._unasked = UnaskedAnswers()
        self._outbound = Outbound()
        self._miners = Miners()

    def keep(self, vms: Collection[VmId]) -> None:
        """Forget all others."""
        self.served.keep(vms)
        self._slow.keep(vms)
        self._guesses.keep(vms)
        self._unasked.keep(vms)
        self._outbound.keep(vms)
        self._miners.keep(vms)

    def forget(self, vm: VmId) -> None:
        """Begin anew with a VM, but for where it was served."""
        self._slow.forget(vm)
        self._guesses.forget(vm)
        self._unasked.forget(vm)
        self._outbound.forget(vm)

    def see(
        self, report: HostReport, values: Matrix, tails: Matrix, suspects: Collection[VmId], now: Instant
    ) -> Iterator[Finding]:
        """Take in a report: who was found at what. ``values``, ``tails``: shape ``(len(report.vms), len(Metric))``."""
        sent = dict(_sent(report.vms, values, tails))
        self.served.see(report, sent, suspects, now)
        self._slow.see(report, sent, suspects, now)
        for vm in self._slow.ripe(now, MAX_LOOKS):
            vain = self._slow.of(vm, now)
            if slow_sweep(vain) or slow_probe(vain):
                yield Finding(vm, vain)
        for guessed in self._guesses.see(report.dialogues, now):
            yield Finding(guessed.vm, guessed)
        for vm, unasked in self._unasked.see(report, values, self._asked, now):
            yield Finding(vm, unasked)
        for found in self._outbound.see(report, values, tails, now):
            yield Finding(found.vm, found)
        for mining in self._miners.see(report, values, tails, self._outbound.met, now):
            yield Finding(mining.vm, mining)

    def _asked(self, vm: VmId) -> float:
        return self._watch.recent(vm).asked[0]

    def guessed_by(self, vm: VmId, guesser: VmId, now: Instant) -> Guessed:
        """What another VM tried at a service of this one, as this one's NIC saw it."""
        return self._guesses.by(vm, guesser, now)


_BEGUN = [packet_metric(Direction.IN, traffic) for traffic in (TrafficClass.SYN, TrafficClass.UDP, TrafficClass.ICMP)]


def _sent(vms: Sequence[VmId], values: Matrix, tails: Matrix) -> Iterator[tuple[VmId, Sent]]:
    """Of each VM."""
    asked = np.where(values[:, _BEGUN] > tails[:, _BEGUN], values[:, _BEGUN], np.float32(0.0)).sum(axis=1)
    questions = values[:, Metric.OUT_ARP]
    questions = np.where(questions > np.maximum(tails[:, Metric.OUT_ARP], asked), questions, np.float32(0.0))
    columns = (values[:, Metric.OUT_SYN], values[:, Metric.IN_SYNACK], questions)
    return zip(vms, map(Sent, *(column.tolist() for column in columns)), strict=True)
