"""What one can ask of any place of the lab: a guest, or the namespace ``ext``."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NewType, Protocol

JobId = NewType("JobId", int)


@dataclass(frozen=True)
class CommandResult:
    """How a shell command ended: its exit status (124 when it ran out of time) and the tail of what it printed."""

    exit: int
    output: str


@dataclass(frozen=True)
class WorkSample:
    """One second of a place's ordinary work, on the clocks of the host.

    ``at_s`` is the host's CLOCK_MONOTONIC at the end of the second, ``wall_s`` the same as Unix time. ``ok`` and
    ``failed`` count requests (web-client: by end of request; web-server: served) or units (batch). ``latencies_s``
    holds at most 200 latencies of that second, from the intended start to the last byte.
    """

    at_s: float
    wall_s: float
    ok: int
    failed: int
    latencies_s: tuple[float, ...]


class Place(Protocol):
    """Where steps run and work is done."""

    @property
    def name(self) -> str:
        """The scenario's name for it."""
        ...

    @property
    def address(self) -> str:
        """The IPv4 address, without prefix."""
        ...

    def run(self, command: str, timeout_s: float = 30.0) -> CommandResult:
        """Run a shell command and wait for its end; after ``timeout_s`` it is killed with all its children."""
        ...

    def spawn(self, command: str) -> JobId:
        """Start a shell command in a process group of its own and return at once."""
        ...

    def stop(self, job: JobId) -> CommandResult | None:
        """End a spawned command with all its children; its result so far, None when the job is unknown."""
        ...

    def work_start(self, kind: str) -> None:
        """Start the place's ordinary work, ending what it did before.

        ``kind``: ``idle``, ``web-server``, ``web-client:ADDRESS``, ``batch`` (each with options after a space, e.g.
        ``web-client:10.60.0.3 --rate 8 --seed 7``) or any shell command (which yields no samples).
        """
        ...

    def work_stop(self) -> None:
        """End the work; samples not yet read stay readable."""
        ...

    def work_read(self) -> Sequence[WorkSample]:
        """The complete seconds since the last reading, oldest first (at most 600 are kept)."""
        ...
