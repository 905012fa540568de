"""Who runs of an installation although ``hypervigil up`` did not start it: systemd's units, or somebody by hand."""

import os
import socket
import struct
from pathlib import Path

from hypervigil.entrypoints.layout import Layout
from hypervigil.entrypoints.processes import Processes
from hypervigil.entrypoints.supervise import SERVICES, alive

MEND = "stop it where it was started, under systemd with 'systemctl stop hypervigil.target'"
ROOT = 0


def strangers(layout: Layout, recorded: Processes | None) -> dict[str, int]:
    """The enforcer and the monitor that run while nothing on record does, each with its process."""
    if recorded is not None and any(alive(recorded.services.get(s.name, -1), s.module) for s in SERVICES):
        return {}
    found = {"enforcer": _enforcer(layout), "monitor": listener(layout.control_socket)}
    return {name: pid for name, pid in found.items() if pid is not None}


def told(found: dict[str, int]) -> str:
    """What is said of them."""
    names = " and ".join(f"{name} (process {pid})" for name, pid in found.items())
    return f"Hypervigil runs here, but 'hypervigil up' did not start it: {names}"


def listener(path: Path) -> int | None:
    """The process that listens on a unix socket, by the kernel's word; ``None`` where nobody does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.setblocking(False)
        try:
            connection.connect(str(path))
        except BlockingIOError:
            return 0  # somebody has no room for one more who asks, so there is somebody
        except OSError:
            return None
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", raw)[0])


def _enforcer(layout: Layout) -> int | None:
    """The enforcer of this installation, asked of nobody: a connection to its socket would replace the monitor's.

    Only root's counts, so that no other user's process can pass for one and keep ``hypervigil off`` from its work.
    """
    for directory in Path("/proc").glob("[0-9]*"):
        pid = int(directory.name)
        try:
            words = (directory / "cmdline").read_bytes().split(b"\0")
            status = (directory / "status").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue  # it has ended, or is hidden from this user
        uid = status.partition("\nUid:")[2].split(maxsplit=1)[:1]
        here = os.fsencode(f"--run-dir={layout.run_dir}") in words
        if here and uid == [str(ROOT)] and alive(pid, "hypervigil.entrypoints.enforcer"):
            return pid
    return None
