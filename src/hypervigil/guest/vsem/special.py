"""Special requests: what a guest does seldom, found by comparing what it has and allows. Pure."""

from __future__ import annotations

from hypervigil.guest import lines
from hypervigil.guest.snapshot import Snapshot

CLOCK_STEP_MS = 500
BALLOON_PAGES = 256
"""A megabyte; smaller changes are the driver's own business."""
TOLD = 8
"""Requests told of one second."""


class Setup:
    """What seldom changes in a guest. ``None`` is unseen."""

    __slots__ = ("clock_ms", "forwarding", "modules", "promiscuous", "raw_sockets")

    def __init__(
        self,
        clock_ms: int,
        promiscuous: frozenset[str] | None = None,
        modules: frozenset[str] | None = None,
        raw_sockets: int | None = None,
        forwarding: bool | None = None,
    ) -> None:
        self.clock_ms = clock_ms
        """Wall clock less time since boot."""
        self.promiscuous = promiscuous
        self.modules = modules
        self.raw_sockets = raw_sockets
        self.forwarding = forwarding


def devices_changed(before: Snapshot, after: Snapshot, balloon_pages: int) -> list[tuple[str, str, int]]:
    """Kind, what and amount of each change of the virtual hardware between the two."""
    found: list[tuple[str, str, int]] = []
    found += _gone_and_come("nic", frozenset(before.nics), frozenset(after.nics))
    found += _gone_and_come("disk", frozenset(before.disks), frozenset(after.disks))
    if after.cpu.cpus != before.cpu.cpus:
        found.append(("cpu", "", after.cpu.cpus - before.cpu.cpus))
    if balloon_pages >= BALLOON_PAGES:
        found.append(("balloon", "", 4 * balloon_pages))
    elif after.memory_kib != before.memory_kib:
        found.append(("memory", "", after.memory_kib - before.memory_kib))
    return found[:TOLD]


def setup_changed(before: Setup, after: Setup) -> list[tuple[str, str, int]]:
    """Kind, what and amount of each change of what the guest loads and allows between the two."""
    found: list[tuple[str, str, int]] = []
    if before.promiscuous is not None and after.promiscuous is not None:
        found += _gone_and_come("promiscuous", before.promiscuous, after.promiscuous)
    if before.modules is not None and after.modules is not None:
        found += _gone_and_come("module", before.modules, after.modules)
    if before.raw_sockets is not None and after.raw_sockets is not None and after.raw_sockets > before.raw_sockets:
        found.append(("raw-socket", "", after.raw_sockets - before.raw_sockets))
    if before.forwarding is not None and after.forwarding is not None and before.forwarding != after.forwarding:
        found.append(("forwarding", "", 1 if after.forwarding else -1))
    if abs(after.clock_ms - before.clock_ms) >= CLOCK_STEP_MS:
        found.append(("clock", "", after.clock_ms - before.clock_ms))
    return found[:TOLD]


def _gone_and_come(kind: str, before: frozenset[str], after: frozenset[str]) -> list[tuple[str, str, int]]:
    come = [(kind, lines.plain(name), 1) for name in sorted(after - before)]
    return come + [(kind, lines.plain(name), -1) for name in sorted(before - after)]
