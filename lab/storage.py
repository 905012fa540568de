"""Storage that guests share and that is as slow as real disks are: QEMU's own daemon, with a queue before one file.

Each guest's scratch disk is a part of that file. All their requests wait in one queue, first come, first served, and
the daemon takes so many of them a second: what one guest asks for, the others wait for.
"""

import json
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from lab.commands import call
from lab.errors import LabError
from lab.image import SCRATCH_MIB, image
from lab.paths import RUN, make

PROGRAM = "qemu-storage-daemon"
SOCKET = RUN / "storage.sock"
_FILE = RUN / "storage.img"
_MIB = 1 << 20
REQUEST = 16384
"""Octets of one request; a larger one counts as several."""
_WAIT_S = 10.0


class Storage:
    """A context: while it is open, a guest's disk is the NBD export of its name at `SOCKET`."""

    def __init__(self, requests_per_s: int, guests: Sequence[str]) -> None:
        self._rate = requests_per_s
        self._guests = guests
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        make(RUN)
        SOCKET.unlink(missing_ok=True)  # one that a run left would be taken for this daemon's
        self._fill()
        self._process = subprocess.Popen(
            command(self._rate, self._guests), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
        )
        try:
            self._await()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the daemon and remove its file; works in any state."""
        if self._process is not None:
            self._process.kill()  # nothing on it is worth keeping
            self._process.communicate()
            self._process = None
        for path in (SOCKET, _FILE):
            path.unlink(missing_ok=True)

    def _fill(self) -> None:
        """An empty file system for each guest, one behind the other."""
        _FILE.unlink(missing_ok=True)
        for number in range(len(self._guests)):
            call(
                ["dd", f"if={image().scratch}", f"of={_FILE}", "bs=1M", f"seek={number * SCRATCH_MIB}",
                 "conv=notrunc,sparse", "status=none"]
            )  # fmt: skip
        with _FILE.open("r+b") as file:
            file.truncate(len(self._guests) * SCRATCH_MIB * _MIB)

    def _await(self) -> None:
        assert self._process is not None
        end = time.monotonic() + _WAIT_S
        while not SOCKET.exists():
            if self._process.poll() is not None:
                said = b"" if self._process.stderr is None else self._process.stderr.read()
                raise LabError(f"{PROGRAM} ended at once: {said.decode(errors='replace').strip()[-300:]}")
            if time.monotonic() > end:
                raise LabError(f"{PROGRAM} did not begin to listen within {_WAIT_S:g} s")
            time.sleep(0.02)
        with suppress(FileNotFoundError):
            SOCKET.chmod(0o666)  # QEMU speaks to it as libvirt's user


def command(requests_per_s: int, guests: Sequence[str]) -> list[str]:
    """The daemon's command line: file, queue, a part and an export of it per guest, all at one socket."""
    limits = {"iops-total": requests_per_s, "iops-size": REQUEST}
    said: list[tuple[str, dict[str, Any]]] = [
        ("object", {"qom-type": "throttle-group", "id": "pace", "limits": limits}),
        ("blockdev", {"driver": "file", "node-name": "file", "filename": str(_FILE), "cache": {"direct": True}}),
        ("blockdev", {"driver": "throttle", "node-name": "queue", "throttle-group": "pace", "file": "file"}),
        ("nbd-server", {"addr": {"type": "unix", "path": str(SOCKET)}, "max-connections": 0}),
    ]
    size = SCRATCH_MIB * _MIB
    for number, guest in enumerate(guests):
        part = {"driver": "raw", "node-name": f"part-{guest}", "file": "queue", "offset": number * size, "size": size}
        export = {"type": "nbd", "id": f"for-{guest}", "node-name": f"part-{guest}", "name": guest, "writable": True}
        said += [("blockdev", part), ("export", export)]
    return [PROGRAM, *(word for option, value in said for word in (f"--{option}", json.dumps(value)))]


def left_over(words: Sequence[bytes]) -> bool:
    """Whether a process's command line is that of a daemon that some run left."""
    return (
        bool(words)
        and Path(words[0].decode(errors="replace")).name == PROGRAM
        and str(_FILE).encode() in b"".join(words)
    )
