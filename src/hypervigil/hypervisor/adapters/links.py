"""The host's network devices by netlink (``man 7 rtnetlink``): which there are, and a wake-up when that changes.

Needs no rights. Written out because the sensors look at 500 and more devices several times a second at times.
"""

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

_RTMGRP_LINK = 1
_RTM_NEWLINK, _RTM_DELLINK, _RTM_GETLINK = 16, 17, 18
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST_DUMP = 0x301
_IFLA_IFNAME, _IFLA_MASTER, _IFLA_EXT_MASK = 3, 10, 29
_RTEXT_FILTER_SKIP_STATS = 1 << 3
_MESSAGE = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_INTERFACE = struct.Struct("=BxHiII")  # family, type, index, flags, change
_ATTRIBUTE = struct.Struct("=HH")
_U32 = struct.Struct("=I")
_NLA_TYPE_MASK = 0x3FFF
_BUFFER = 1 << 18


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
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER * 4)
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
                    kind in {_RTM_NEWLINK, _RTM_DELLINK} for kind, _ in _messages(self._socket.recv(_BUFFER))
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
    request = _INTERFACE.pack(0, 0, 0, 0, 0) + _ATTRIBUTE.pack(8, _IFLA_EXT_MASK) + _U32.pack(_RTEXT_FILTER_SKIP_STATS)
    head = _MESSAGE.pack(_MESSAGE.size + len(request), _RTM_GETLINK, _NLM_F_REQUEST_DUMP, 1, 0)
    found: list[tuple[int, str, int]] = []
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    with socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE) as asked:
        asked.settimeout(2.0)
        try:
            asked.sendto(head + request, (0, 0))
            while _take(asked.recv(_BUFFER), found):
                pass
        except OSError as error:
            raise LinksError(f"the kernel did not list its network devices: {error}") from error
    names = {index: name for index, name, _ in found}
    return {name: Link(index, name, names.get(master)) for index, name, master in found}


def _take(answer: bytes, found: list[tuple[int, str, int]]) -> bool:
    """Collect the devices of one datagram; whether more follow."""
    for kind, body in _messages(answer):
        if kind == _NLMSG_DONE:
            return False
        if kind == _NLMSG_ERROR:
            raise LinksError("the kernel refused to list its network devices")
        if kind == _RTM_NEWLINK:
            name, master = "", 0
            for attribute, value in _attributes(body[_INTERFACE.size :]):
                if attribute == _IFLA_IFNAME:
                    name = value.rstrip(b"\0").decode("utf-8", "replace")
                elif attribute == _IFLA_MASTER:
                    (master,) = _U32.unpack(value)
            found.append((_INTERFACE.unpack_from(body)[2], name, master))
    return True


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + _MESSAGE.size <= len(data):
        length, kind, *_ = _MESSAGE.unpack_from(data, offset)
        if length < _MESSAGE.size:
            return
        yield kind, data[offset + _MESSAGE.size : offset + length]
        offset += (length + 3) & ~3


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < _ATTRIBUTE.size:
            return
        yield kind & _NLA_TYPE_MASK, data[offset + _ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3
