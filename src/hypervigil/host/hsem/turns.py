"""Whose turn it is to be looked at, where more are conspicuous at once than there is time for. Pure.

A look at one VM costs about as much as the sums of a hundred, and a guest decides for itself whether it is conspicuous.
So a report has room for ``MAX_LOOKS``. Half of it is for who does most harm, the rest for who has waited longest: who
wants an attacker to be overlooked must do more harm than it, and even then it is looked at when its turn comes.
"""

import heapq
from collections.abc import Collection, Mapping, Sequence

from hypervigil.model.ids import VmId

MAX_LOOKS = 256


class Turns:
    """The queue of those who could not be looked at yet."""

    def __init__(self) -> None:
        self._waiting: dict[VmId, None] = {}
        """Who has waited longest goes first."""
        self.postponed = 0
        """Looks that had to wait for a later report, in all."""

    @property
    def waiting(self) -> int:
        """How many VMs wait now."""
        return len(self._waiting)

    def choose(self, asking: Sequence[VmId], harm: Mapping[VmId, float]) -> set[VmId]:
        """Who of those that ask for a look gets one now; ``harm``: what those do that are still to be judged."""
        if len(asking) <= MAX_LOOKS:
            self.forget(asking)
            return set(asking)
        worst = (vm for vm in asking if harm.get(vm, 0.0) > 0.0)
        chosen = set(heapq.nlargest(MAX_LOOKS // 2, worst, key=harm.__getitem__))
        asked = set(asking)
        for vm in [*(vm for vm in self._waiting if vm in asked), *asking]:
            if len(chosen) == MAX_LOOKS:
                break
            chosen.add(vm)
        self.forget(chosen)
        self._waiting |= dict.fromkeys(vm for vm in asking if vm not in chosen and vm not in self._waiting)
        self.postponed += len(asking) - len(chosen)
        return chosen

    def forget(self, vms: Collection[VmId]) -> None:
        """These do not wait any more."""
        if self._waiting:
            for vm in vms:
                self._waiting.pop(vm, None)

    def keep(self, vms: Collection[VmId]) -> None:
        """Nobody else waits any more."""
        self._waiting = {vm: None for vm in self._waiting if vm in vms}
