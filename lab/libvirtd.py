"""libvirt's daemon: used as it runs; started where none does, and then stopped again."""

import grp
import json
import os
import shutil
import signal
import socket
import stat
import time
import uuid
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
_STARTED = STATE / "libvirt.json"  # [[name, pid, start time]] in the order of their starts
_CONFIGURED = "libvirtd.conf"
_KVM = Path("/dev/kvm")
_KVM_WAS = STATE / "kvm.json"  # its owner's group and its mode
_LOG_SOCKET = Path("/run/libvirt/virtlogd-sock")
_WAIT_S = 20.0

libvirt.registerErrorHandler(lambda *_: None, None)  # errors are raised; nothing is printed besides


@contextmanager
def running() -> Iterator[None]:
    """See to it that libvirt answers; at the end stop only what was started here."""
    started = start()
    _open_kvm()
    try:
        yield
    finally:
        close_kvm()
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
        awaited(_answers, "libvirtd")
        return False  # systemd's to stop: it ends by itself when idle
    if not _log_daemon_answers():
        call(["virtlogd", "-d"])
        _remember("virtlogd")
        awaited(_log_daemon_answers, "virtlogd")
    call(["libvirtd", "-d", "-f", str(configured(make(STATE) / _CONFIGURED))])
    _remember("libvirtd")
    awaited(_answers, "libvirtd")
    return True


def configured(path: Path, *more: str) -> Path:
    """Write a libvirtd's configuration there: the read-only socket asks nobody, as no polkit runs where no init does.

    Who the host is is told to libvirt rather than found out at the first question: where two threads of libvirt ask
    for it first at once, one of them fails ("cannot get the host uuid").
    """
    path.write_text("\n".join([f'host_uuid = "{uuid.uuid4()}"', 'auth_unix_ro = "none"', *more, ""]))
    return path


def stop() -> list[str]:
    """Stop the daemons that `start` started, also in another process; their names."""
    if not _STARTED.exists():
        return []
    connection.cache_clear()
    ended = []
    for name, pid, began in reversed(json.loads(_STARTED.read_text())):
        if _began(pid) == began:
            os.kill(pid, signal.SIGTERM)
            awaited(partial(_ended, pid), f"the end of {name}")
            ended.append(str(name))
    _STARTED.unlink()
    (STATE / _CONFIGURED).unlink(missing_ok=True)
    return ended


@cache
def connection() -> libvirt.virConnect:
    """The connection of this process; LabError when libvirt does not answer."""
    try:
        return libvirt.open(_URI)
    except libvirt.libvirtError as error:
        raise LabError(f"libvirt does not answer: {error}") from None


def _open_kvm() -> None:
    """Let libvirt's user open /dev/kvm, as udev does where it runs.

    Where only root may, libvirt 9 probes QEMU as root, finds KVM, later sees that QEMU's user may not use it, and
    throws away what it learned: it probes anew, 12 to 27 s long, each time that a guest starts.
    """
    try:
        now = _KVM.stat()
        group = grp.getgrnam("kvm").gr_gid
    except (FileNotFoundError, KeyError):
        return
    mode = stat.S_IMODE(now.st_mode)
    if mode & 0o006 == 0o006 or (now.st_gid == group and mode & 0o060 == 0o060):
        return
    make(STATE)
    _KVM_WAS.write_text(json.dumps([now.st_gid, mode]))
    os.chown(_KVM, -1, group)
    _KVM.chmod(mode | 0o060)


def close_kvm() -> list[str]:
    """Give /dev/kvm back the access it had, if the lab widened it; what was undone."""
    if not _KVM_WAS.exists():
        return []
    group, mode = json.loads(_KVM_WAS.read_text())
    os.chown(_KVM, -1, group)
    _KVM.chmod(mode)
    _KVM_WAS.unlink()
    return [f"access to {_KVM}"]


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
    awaited(pid_file.exists, name)
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


def awaited(condition: Callable[[], bool], what: str) -> None:
    """Wait until it is so; LabError when it is not in time."""
    end = time.monotonic() + _WAIT_S
    while not condition():
        if time.monotonic() > end:
            raise LabError(f"{what} did not come within {_WAIT_S:.0f} s: see /var/log/libvirt or run it by hand")
        time.sleep(0.05)
