"""A probe of a thousand turns a second by taps: a process of its own, that tells what it sent when, and what arrived.

``python -m tests.integration.probing OUT IN FRAME …`` sends each frame (hex), with the number of the turn behind it, at
every tick of an even clock, and reads what arrives; it ends when its input does. Ticks that the machine kept from it
are left out, never made up for: whoever asks looks at the times.
"""

import contextlib
import gc
import itertools
import json
import os
import select
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from bench._tcp import undisturbed
from tests.integration.wirelab import Tap

TICK_NS = 1_000_000
_NUMBER = struct.Struct("!I")
_PRIORITY = 2
"""Before real-time tasks of others too: a turn takes some 50 µs."""
_LAST_S = 0.05
"""How long what is on its way has."""


@dataclass
class Probe:
    """What came of it, once it has ended."""

    sent: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """When each turn began (``time.monotonic_ns``), by its number."""
    arrived: dict[str, set[int]] = field(default_factory=dict)
    """The numbers of the turns whose frame arrived, by its name."""

    @property
    def rate(self) -> float:
        """Turns per second from first to last."""
        return float((len(self.sent) - 1) / (self.sent[-1] - self.sent[0]) * 1e9)

    def lost(self, name: str) -> set[int]:
        """Turns whose frame of that name did not arrive."""
        return set(range(len(self.sent))) - self.arrived[name]

    def between(self, began_ns: int, ended_ns: int) -> set[int]:
        """Turns that began within these times."""
        return set(np.flatnonzero((self.sent > began_ns) & (self.sent < ended_ns)).tolist())

    def widest_gap_ns(self, began_ns: int, ended_ns: int) -> int:
        """The longest time without a turn that touches these times."""
        first, last = np.searchsorted(self.sent, (began_ns, ended_ns))
        times = self.sent[max(first - 1, 0) : last + 1]
        if first == 0 or last == len(self.sent):
            return sys.maxsize
        return int(np.diff(times).max())


@contextlib.contextmanager
def probing(source: Tap, target: Tap, frames: Mapping[str, bytes]) -> Iterator[Probe]:
    """Send all frames at each tick while this lasts; what it tells is there at its end."""
    child = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tests.integration.probing",
            *map(str, (source.fd, target.fd)),
            *map(bytes.hex, frames.values()),
        ],
        pass_fds=(source.fd, target.fd),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    probe = Probe()
    with child:
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            assert child.stdout.readline() == "ready\n"
            yield probe
        finally:
            child.stdin.close()
            told = json.loads(child.stdout.readline())
    probe.sent = np.array(told["sent"], np.int64)
    probe.arrived = {name: set(numbers) for name, numbers in zip(frames, told["arrived"], strict=True)}


def main() -> None:
    """Do what the command line says."""
    out, into = int(sys.argv[1]), int(sys.argv[2])
    frames = [bytes.fromhex(text) for text in sys.argv[3:]]
    sent: list[int] = []
    arrived: list[list[int]] = [[] for _ in frames]

    def take() -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                frame = os.read(into, 1 << 16)
                for known, numbers in zip(frames, arrived, strict=True):
                    if frame.startswith(known):
                        numbers.append(_NUMBER.unpack_from(frame, len(known))[0])

    gc.disable()
    with undisturbed(priority=_PRIORITY):
        due = time.monotonic_ns()
        for number in itertools.count():
            sent.append(time.monotonic_ns())
            for frame in frames:
                os.write(out, frame + _NUMBER.pack(number))
            take()
            if number == 0:
                print("ready", flush=True)
            if select.select([sys.stdin], [], [], 0)[0]:
                break
            due += TICK_NS * max(1, -(-(time.monotonic_ns() - due) // TICK_NS))
            time.sleep(max(0, due - time.monotonic_ns()) / 1e9)
    while select.select([into], [], [], _LAST_S)[0]:
        take()
    print(json.dumps({"sent": sent, "arrived": arrived}))


if __name__ == "__main__":
    main()
