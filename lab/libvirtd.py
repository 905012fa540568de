"""libvirt's daemon: used as it runs; started where none does, and then stopped again."""

import json
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path

import libvirt

from lab.commands import call
from lab.errors import LabError
from lab.paths import STATE, make
from lab.scratch import say

_URI = "qemu:///system"
_STARTED = STATE / "libvirt.json"  # [[pid, start time]], the last started first
_LOG_SOCKET = Path("/run/libvirt/virtlogd-sock")
_WAIT_S = 20.0

libvirt.registerErrorHandler(lambda *_: None, None)  # errors are raised; nothing is printed besides


@contextmanager
def running() -> Iterator[None]:
    """See to it that libvirt answers; at the end stop only what was started here."""
    started = start()
    try:
        yield
    finally:
        if started:
            stop()


def start() -> bool:
    """Start virtlogd and libvirtd if libvirt does not answer; whether that was needed."""
    if _answers():
        return False
    for program in ("virtlogd", "libvirtd"):
        if shutil.which(program) is None:
            raise LabError("libvirt is not installed: run 'make lab' as root")
    say("starting libvirt, which is not running")
    if Path("/run/systemd/system").is_dir():
        call(["systemctl", "start", "libvirtd.service"])
        _await(_answers, "libvirtd")
        return False  # systemd's to stop: it ends by itself when idle
    if not _log_daemon_answers():
        call(["virtlogd", "-d"])
        _remember("virtlogd")
        _await(_log_daemon_answers, "virtlogd")
    call(["libvirtd", "-d"])
    _remember("libvirtd")
    _await(_answers, "libvirtd")
    return True


def stop() -> list[str]:
    """Stop the daemons that `start` started, also in another process; their names."""
    with suppress(FileNotFoundError):
        ended = []
        for name, pid, began in reversed(json.loads(_STARTED.read_text())):
            if _began(pid) == began:
                os.kill(pid, signal.SIGTERM)
                _await(partial(_ended, pid), f"the end of {name}")
                ended.append(str(name))
        _STARTED.unlink()
        connection.cache_clear()
        return ended
    return []


@cache
def connection() -> libvirt.virConnect:
    """The connection of this process; LabError when libvirt does not answer."""
    try:
        return libvirt.open(_URI)
    except libvirt.libvirtError as error:
        raise LabError(f"libvirt does not answer: {error}") from None


def _answers() -> bool:
    with suppress(libvirt.libvirtError):
        libvirt.open(_URI).close()
        return True
    return False


def _log_daemon_answers() -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(_LOG_SOCKET)) == 0


def _remember(name: str) -> None:
    """Write down, for `stop`, a daemon that just went to the background."""
    pid_file = Path(f"/run/{name}.pid")
    _await(pid_file.exists, name)
    pid = int(pid_file.read_text())
    make(STATE)
    known = json.loads(_STARTED.read_text()) if _STARTED.exists() else []
    _STARTED.write_text(json.dumps([*known, [name, pid, _began(pid)]]))


def _began(pid: int) -> str | None:
    """When a process started, in ticks since boot; None when there is none: tells it from a later one of its number."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else fields[19]


def _ended(pid: int) -> bool:
    return _began(pid) is None


def _await(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + _WAIT_S
    while not condition():
        if time.monotonic() > end:
            raise LabError(f"{what} did not come within {_WAIT_S:.0f} s: see /var/log/libvirt or run it by hand")
        time.sleep(0.05)
