"""What no single report shows: tries in vain over hours, and dialogues that end alike one after the other. Pure."""

from collections.abc import Collection, Iterator, Mapping

from hypervigil.host.hsem.facts import Guessed, Vain
from hypervigil.host.hsem.guesses import Guesses
from hypervigil.host.hsem.scans import slow_probe, slow_sweep
from hypervigil.host.hsem.slow import Slow
from hypervigil.host.hsem.turns import MAX_LOOKS
from hypervigil.model.ids import Instant, VmId
from hypervigil.model.report import HostReport


class Lookback:
    """The memory of all VMs."""

    def __init__(self) -> None:
        self._slow = Slow()
        self._guesses = Guesses()

    def keep(self, vms: Collection[VmId]) -> None:
        """Forget all others."""
        self._slow.keep(vms)
        self._guesses.keep(vms)

    def forget(self, vm: VmId) -> None:
        """Begin anew with a VM."""
        self._slow.forget(vm)
        self._guesses.forget(vm)

    def see(
        self, report: HostReport, syns: Mapping[VmId, float], now: Instant
    ) -> Iterator[tuple[VmId, Vain | Guessed]]:
        """Take in a report: who was found at what; see ``Slow.see`` for ``syns``."""
        self._slow.see(report, syns, now)
        for vm in self._slow.ripe(now, MAX_LOOKS):
            vain = self._slow.of(vm, now)
            if slow_sweep(vain) or slow_probe(vain):
                yield vm, vain
        for guessed in self._guesses.see(report.dialogues, now):
            yield guessed.vm, guessed

    def guessed_by(self, vm: VmId, guesser: VmId, now: Instant) -> Guessed:
        """What another VM tried at a service of this one, as this one's NIC saw it."""
        return self._guesses.by(vm, guesser, now)
