"""A capture from file to result."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hypervigil.entrypoints.replay import outcome
from hypervigil.entrypoints.replay.capture import Capture, CaptureError
from hypervigil.entrypoints.replay.census import Census
from hypervigil.entrypoints.replay.drive import Drive
from hypervigil.entrypoints.replay.links import seen
from hypervigil.entrypoints.replay.stations import Stations, everybody, named
from hypervigil.model.policy import Policy

Progress = Callable[[int], None]
"""Told how many frames were taken since the last time; each frame is taken twice."""
_TELL_EACH = 1000


def replay(
    path: Path,
    names: Sequence[tuple[str, str]] = (),
    *,
    others: bool = False,
    history_s: int = 0,
    policy: Policy | None = None,
    begin: Callable[[int], Progress] = lambda _: lambda _: None,
) -> dict[str, Any]:
    """Replay a capture: who is named (and all ``others``), or everybody. ``CaptureError`` in one sentence.

    ``begin`` is told how many frames will be taken.
    """
    capture = Capture(path)
    try:
        progress = begin(2 * len(capture))
        census, unread = Census(), 0
        for number, captured in enumerate(capture, 1):
            one = seen(captured)
            if one is not None:
                census.see(one, captured.at_ns)
            else:
                unread += 1
            if number % _TELL_EACH == 0:
                progress(_TELL_EACH)
        stations = _stations(census, names, others=others)
        drive = Drive(stations, policy or Policy(), history_s=history_s)
        for number, captured in enumerate(capture, 1):
            drive.frame(captured)
            if number % _TELL_EACH == 0:
                progress(_TELL_EACH)
        drive.finish()
    finally:
        capture.close()
    notes = [*capture.notes, *_notes(census, stations, drive, unread, len(capture))]
    return {
        "capture": path.name,
        "frames": len(capture),
        "seconds": round(capture.span_ns / 1e9, 6),
        "watched_s": round(drive.ticked_s, 1),
        "vm_hours": round(drive.ticked_s * len(drive.outcomes) / 3600, 4),
        "notes": notes,
        "vms": outcome.told(drive, stations),
    }


def _stations(census: Census, names: Sequence[tuple[str, str]], *, others: bool) -> Stations:
    if not names:
        return everybody(census)
    try:
        return named(census, names, others=others)
    except ValueError as error:
        raise CaptureError(str(error)) from None


def _notes(census: Census, stations: Stations, drive: Drive, unread: int, frames: int) -> list[str]:
    notes = []
    if unread:
        notes.append(f"{unread:,} of {frames:,} frames have a link layer that is not read")
    if stations.left_out:
        notes.append(f"{stations.left_out:,} more hosts are taken for outside: name with --vm whom to judge")
    if census.unknown:
        notes.append(f"{census.unknown:,} frames of more addresses than are remembered were not asked who is there")
    if not stations.all:
        notes.append("no VM was found: name one with --vm NAME=MAC or --vm NAME=ADDRESS")
    return notes + sorted(set(drive.problems))
