"""What no single report shows: tries in vain over hours, and dialogues that end alike one after the other. Pure."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

from hypervigil.host.hsem import explain
from hypervigil.host.hsem.facts import Dossier, Facts, Guessed, Unasked, Vain
from hypervigil.host.hsem.guesses import Guesses
from hypervigil.host.hsem.scans import slow_probe, slow_sweep
from hypervigil.host.hsem.slow import Slow
from hypervigil.host.hsem.table import Matrix
from hypervigil.host.hsem.turns import MAX_LOOKS
from hypervigil.host.hsem.unasked import UnaskedAnswers
from hypervigil.model.ids import Instant, VmId
from hypervigil.model.report import HostReport
from hypervigil.model.status import Evidence


@dataclass(frozen=True, slots=True)
class Finding:
    """What a VM did over some time."""

    vm: VmId
    what: Vain | Guessed | Unasked

    @property
    def adds(self) -> bool:
        """Whether it is of use to a case that is open already."""
        return not isinstance(self.what, Vain)

    def note(self, dossier: Dossier) -> None:
        """Write it down."""
        match self.what:
            case Guessed():
                dossier.guessed = self.what
            case Unasked():
                dossier.unasked = self.what
            case Vain():
                dossier.vain = self.what

    def evidence(self, facts: Facts) -> tuple[Evidence, ...]:
        """What a case is opened with."""
        match self.what:
            case Guessed():
                return tuple(explain.guessed(facts))
            case Unasked():
                return tuple(explain.unasked(facts))
            case Vain():
                return tuple(explain.vain(facts))


class Lookback:
    """The memory of all VMs."""

    def __init__(self) -> None:
        self._slow = Slow()
        self._guesses = Guesses()
        self._unasked = UnaskedAnswers()

    def keep(self, vms: Collection[VmId]) -> None:
        """Forget all others."""
        self._slow.keep(vms)
        self._guesses.keep(vms)
        self._unasked.keep(vms)

    def forget(self, vm: VmId) -> None:
        """Begin anew with a VM."""
        self._slow.forget(vm)
        self._guesses.forget(vm)
        self._unasked.forget(vm)

    def see(
        self,
        report: HostReport,
        values: Matrix,
        syns: Mapping[VmId, float],
        asked: Callable[[VmId], float],
        now: Instant,
    ) -> Iterator[Finding]:
        """Take in a report: who was found at what; see ``Slow.see`` for ``syns``, ``UnaskedAnswers.see`` for ``asked``.

        ``values``: shape ``(len(report.vms), len(Metric))``.
        """
        self._slow.see(report, syns, now)
        for vm in self._slow.ripe(now, MAX_LOOKS):
            vain = self._slow.of(vm, now)
            if slow_sweep(vain) or slow_probe(vain):
                yield Finding(vm, vain)
        for guessed in self._guesses.see(report.dialogues, now):
            yield Finding(guessed.vm, guessed)
        for vm, unasked in self._unasked.see(report, values, asked, now):
            yield Finding(vm, unasked)

    def guessed_by(self, vm: VmId, guesser: VmId, now: Instant) -> Guessed:
        """What another VM tried at a service of this one, as this one's NIC saw it."""
        return self._guesses.by(vm, guesser, now)
