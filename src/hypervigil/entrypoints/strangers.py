"""Who runs of an installation although ``hypervigil up`` did not start it: systemd's units, or somebody by hand."""

import os
import socket
import stat
import struct
from collections.abc import Collection
from pathlib import Path

from hypervigil.entrypoints.layout import MONITOR_USER, SERVICE_USERS, Layout, MissingUserError, user_ids
from hypervigil.entrypoints.processes import Processes
from hypervigil.entrypoints.supervise import SERVICES, alive

ROOT = 0
UNNUMBERED = 0
"""Stands for the process of somebody who is there, but whose number is not known for sure."""
_MODULES = {service.name: service.module for service in SERVICES}


def strangers(layout: Layout, recorded: Processes | None) -> dict[str, int]:
    """The enforcer and the monitor that run while nothing on record does, each with its process or ``UNNUMBERED``.

    ``PermissionError`` where this user may not ask. The enforcer answers root's connection to its maps' socket with a
    line in its log, and gives the descriptors to the sensors alone; a connection to its other socket would replace the
    monitor's.
    """
    if recorded is not None and any(alive(recorded.services.get(s.name, -1), s.module) for s in SERVICES):
        return {}
    found = {
        "enforcer": listener(layout.maps_socket, _MODULES["enforcer"], {ROOT}),
        "monitor": listener(layout.control_socket, _MODULES["monitor"], _ids([MONITOR_USER])),
    }
    return {name: pid for name, pid in found.items() if pid is not None}


def told(found: dict[str, int]) -> str:
    """What is said of them."""
    names = " and ".join(name if pid == UNNUMBERED else f"{name} (process {pid})" for name, pid in found.items())
    return f"Hypervigil runs here, but 'hypervigil up' did not start it: {names}"


def mend(found: dict[str, int]) -> str:
    """How they are stopped; by their numbers where systemd does not know them."""
    known = " ".join(str(pid) for pid in found.values() if pid != UNNUMBERED)
    by_number = f", or with 'kill {known}' where it does not run them" if known else ""
    return f"stop it where it was started: under systemd with 'systemctl stop hypervigil.target'{by_number}"


def listener(path: Path, module: str, uids: Collection[int]) -> int | None:
    """The process of one of these users that listens on a unix socket, by the kernel's word; ``None``: there is none.

    It is ``UNNUMBERED`` unless it runs ``module`` now, since the kernel names who called listen(2), and that number may
    be another's by now. What lies at ``path`` may be anybody's: no link is followed, and nothing but a socket opened.
    """
    try:
        place = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except PermissionError:
        raise
    except OSError:
        return None
    try:
        made = os.fstat(place)
        if not stat.S_ISSOCK(made.st_mode):
            return None
        return _asked(path, place, module, uids, made.st_uid)
    finally:
        os.close(place)


def _asked(path: Path, place: int, module: str, uids: Collection[int], maker: int) -> int | None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.setblocking(False)
        try:
            # By its descriptor, so that it is what was looked at also if somebody puts a link there meanwhile.
            connection.connect(f"/proc/self/fd/{place}")
        except BlockingIOError:
            # Somebody has no room for one more who asks, so there is somebody; who, only the file can tell.
            return UNNUMBERED if maker in _ids(SERVICE_USERS) else None
        except PermissionError as error:
            raise PermissionError(error.errno, error.strerror, str(path)) from None
        except OSError:
            return None
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, _ = struct.unpack("3i", raw)
    if uid not in uids:
        return None
    return int(pid) if alive(pid, module) else UNNUMBERED


def _ids(users: Collection[str]) -> set[int]:
    """Root's and these users', as far as they exist."""
    ids = {ROOT}
    for name in users:
        try:
            ids.add(user_ids(name)[0])
        except MissingUserError:
            continue
    return ids
