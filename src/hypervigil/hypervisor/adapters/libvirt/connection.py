"""A read-only connection to libvirt, and the thread that libvirt's events and keep-alives need."""

import contextlib
import threading
from functools import cache

import libvirt

Connection = libvirt.virConnect
DEFAULT_URI = "qemu:///system"
_KEEPALIVE_S = 5
_KEEPALIVE_TRIES = 3


class LibvirtUnreachableError(Exception):
    """libvirt cannot be asked; the message is one sentence with the mend."""


def connect(uri: str = DEFAULT_URI) -> libvirt.virConnect:
    """Open ``uri`` read-only; a peer that hangs is given up after 15 s. The caller closes it."""
    _run_events()
    try:
        connection = libvirt.openReadOnly(uri)
    except libvirt.libvirtError as error:
        raise LibvirtUnreachableError(f"libvirt does not answer at {uri} ({told(error)}); {_mend(error)}") from error
    with contextlib.suppress(libvirt.libvirtError):  # the test driver has none
        connection.setKeepAlive(_KEEPALIVE_S, _KEEPALIVE_TRIES)
    return connection


def disconnect(connection: libvirt.virConnect) -> None:
    """Let a connection go, also one that broke."""
    with contextlib.suppress(libvirt.libvirtError):
        connection.close()


def told(error: libvirt.libvirtError) -> str:
    """What libvirt says of an error, on one line."""
    return " ".join((error.get_error_message() or str(error)).split())


def _mend(error: libvirt.libvirtError) -> str:
    text = told(error).lower()
    if "system bus" in text or "polkit" in text or "authentication" in text:
        return (
            'its read-only socket asks polkit, which does not run here: set auth_unix_ro = "none" in '
            "/etc/libvirt/libvirtd.conf and restart libvirtd"
        )
    return "start it with 'systemctl start libvirtd', or without systemd 'virtlogd -d; libvirtd -d'"


@cache
def _run_events() -> None:
    """Start libvirt's event loop, once per process and before the first connection."""
    libvirt.registerErrorHandler(_quiet, None)
    libvirt.virEventRegisterDefaultImpl()
    threading.Thread(target=_dispatch, name="libvirt-events", daemon=True).start()


def _dispatch() -> None:
    while True:
        libvirt.virEventRunDefaultImpl()


def _quiet(_context: object, _error: object) -> None:
    """Every error reaches us as an exception; libvirt need not print it too."""
