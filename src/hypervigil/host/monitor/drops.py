"""What did not cross each VM's NICs, and why, since the monitor started: for whoever asks how a policy works. Pure.

At most one line per VM, direction and reason: nothing that a guest does makes it longer.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from hypervigil.model.ids import Instant, VmId
from hypervigil.model.report import HostReport
from hypervigil.model.traffic import DenialKind, Direction

_DENIED = {
    DenialKind.STRANGER: "nobody honest at the other end",
    DenialKind.PATH: "no allowed path",
    DenialKind.FLOODED: "for another port: flooded by the bridge, or a question to somebody else",
    DenialKind.BUDGET: "beyond its budget",
    DenialKind.BROADCAST: "beyond its budget of frames to groups",
}


@dataclass(slots=True)
class Drop:
    """Frames or packets of one VM that were stopped for one reason."""

    vm: VmId
    direction: Direction
    reason: str
    count: int
    first_at: Instant
    last_at: Instant


class Drops:
    """The sums of all VMs."""

    def __init__(self) -> None:
        self._of: dict[VmId, dict[tuple[Direction, str], Drop]] = {}

    def keep(self, vms: Collection[VmId]) -> None:
        """Forget all others."""
        self._of = {vm: drops for vm, drops in self._of.items() if vm in vms}

    def saw(self, report: HostReport) -> None:
        """Add one report's counts."""
        for forged in report.forged:
            self._add(forged.vm, Direction.OUT, f"forged {forged.kind.words}", forged.frames, report.at)
        for denied in report.denied:
            self._add(denied.vm, denied.direction, _DENIED[denied.kind], denied.packets, report.at)
        for limited in report.limited:
            reason = f"a limit on {limited.traffic.name.lower()}"
            self._add(limited.vm, limited.direction, reason, limited.packets, report.at)

    def _add(self, vm: VmId, direction: Direction, reason: str, count: int, at: Instant) -> None:
        if count <= 0:
            return
        drops = self._of.setdefault(vm, {})
        known = drops.setdefault((direction, reason), Drop(vm, direction, reason, 0, at, at))
        known.count += count
        known.last_at = at

    def of(self, vm: VmId) -> Iterator[Drop]:
        """A VM's, the most frequent first."""
        yield from sorted(self._of.get(vm, {}).values(), key=lambda drop: -drop.count)
