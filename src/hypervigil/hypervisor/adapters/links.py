"""The host's network devices by netlink (``man 7 rtnetlink``): which there are, and a wake-up when that changes.

Needs no rights.
"""

import socket
import struct
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from hypervigil.hypervisor.adapters import netlink

_RTMGRP_LINK = 1
_RTM_NEWLINK, _RTM_DELLINK, _RTM_GETLINK = 16, 17, 18
_IFLA_IFNAME, _IFLA_MASTER, _IFLA_EXT_MASK = 3, 10, 29
_RTEXT_FILTER_SKIP_STATS = 1 << 3
_INTERFACE = struct.Struct("=BxHiII")  # family, type, index, flags, change
_U32 = struct.Struct("=I")


class LinksError(Exception):
    """The kernel did not say which devices there are."""


@dataclass(frozen=True, slots=True)
class Link:
    """One network device; ``master`` is the bridge's name where it is a bridge's port."""

    index: int
    name: str
    master: str | None


class LinkWatch:
    """Readable (``fileno``) when a device came, went or changed."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, netlink.BUFFER * 4)
        self._socket.bind((0, _RTMGRP_LINK))
        self._socket.setblocking(False)

    def fileno(self) -> int:
        """For selectors."""
        return self._socket.fileno()

    def drain(self) -> bool:
        """Take every notice that waits; whether there was one. An overflow counts as a change too."""
        changed = False
        while True:
            try:
                changed |= any(
                    kind in {_RTM_NEWLINK, _RTM_DELLINK}
                    for kind, _ in netlink.messages(self._socket.recv(netlink.BUFFER))
                )
            except BlockingIOError:
                return changed
            except OSError:
                changed = True

    def close(self) -> None:
        """Stop watching."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def links() -> dict[str, Link]:
    """Every device of this network namespace by name; ~3 ms for 500."""
    request = _INTERFACE.pack(0, 0, 0, 0, 0) + netlink.attribute(_IFLA_EXT_MASK, _U32.pack(_RTEXT_FILTER_SKIP_STATS))
    found: list[tuple[int, str, int]] = []
    try:
        for kind, body in netlink.dump(_RTM_GETLINK, request):
            if kind == _RTM_NEWLINK:
                found.append(_link(body))
    except OSError as error:
        raise LinksError(f"the kernel did not list its network devices: {error}") from error
    names = {index: name for index, name, _ in found}
    return {name: Link(index, name, names.get(master)) for index, name, master in found}


def _link(body: bytes) -> tuple[int, str, int]:
    """Index, name and master's index of one device."""
    name, master = "", 0
    for attribute, value in netlink.attributes(body[_INTERFACE.size :]):
        if attribute == _IFLA_IFNAME:
            name = value.rstrip(b"\0").decode("utf-8", "replace")
        elif attribute == _IFLA_MASTER:
            (master,) = _U32.unpack(value)
    return _INTERFACE.unpack_from(body)[2], name, master
