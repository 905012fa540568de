"""The kernel's dump of TCP sockets (sock_diag): the question, and what the answer says. Pure and bounded."""

from __future__ import annotations

from struct import error, pack, unpack_from

AF_INET = 2
ESTABLISHED, SYN_SENT, SYN_RECV, CLOSE_WAIT = 1, 2, 3, 8
STATES = 1 << ESTABLISHED | 1 << SYN_SENT | 1 << SYN_RECV | 1 << CLOSE_WAIT
LOOKED_AT = 256
"""Sockets of which addresses are read at one time; more are only counted."""

_GET_SOCKETS, _ERROR, _DONE = 18, 2, 3
_DUMP = 0x301
_HEADER, _MESSAGE = 16, 72
_INFO = 2
_ACKED_AT = 120
"""Where acknowledged octets lie in ``struct tcp_info``."""
_MAPPED = b"\0" * 10 + b"\xff\xff"


def question(*, with_info: bool) -> bytes:
    """Dump the TCP sockets of both families that are in ``STATES``.

    The old form of the question: the new one asks for one family at a time, and each walks the whole table.
    """
    extensions = 1 << (_INFO - 1) if with_info else 0
    body = pack("=BBBB48xII", AF_INET, 0, 0, extensions, STATES, 0)
    return pack("=IHHII", _HEADER + len(body), _GET_SOCKETS, _DUMP, 1, 0) + body


class Connection:
    """One socket. ``acked`` is how many octets the other end has confirmed; ``None`` where the kernel does not say."""

    __slots__ = ("acked", "here", "here_port", "inode", "state", "there", "there_port")

    def __init__(self, state: int, ends: tuple[bytes, int, bytes, int], inode: int, acked: int | None) -> None:
        self.state = state
        self.here, self.here_port, self.there, self.there_port = ends
        self.inode = inode
        self.acked = acked

    @property
    def ends(self) -> tuple[bytes, int, bytes, int]:
        """What tells it from others."""
        return self.here, self.here_port, self.there, self.there_port


class Sockets:
    """What dumps have said so far."""

    __slots__ = ("connections", "states", "whole")

    def __init__(self) -> None:
        self.connections: list[Connection] = []
        self.states = [0] * 16
        self.whole = False
        """The last dump came to its end."""

    def read(self, untrusted_bytes: bytes) -> bool:
        """Take in what one read gave; false when nothing more comes. ``OSError`` where the kernel refuses."""
        at, size = 0, len(untrusted_bytes)
        try:
            while at + _HEADER <= size:
                length, kind = unpack_from("=IH", untrusted_bytes, at)
                if kind == _DONE:
                    self.whole = True
                    return False
                if kind == _ERROR:
                    raise OSError(-unpack_from("=i", untrusted_bytes, at + _HEADER)[0], "the kernel dumps no sockets")
                if length < _HEADER + _MESSAGE or at + length > size:
                    return False
                self._socket(untrusted_bytes, at + _HEADER, at + length)
                at += (length + 3) & ~3
        except error:
            return False
        return size > 0

    def _socket(self, data: bytes, at: int, end: int) -> None:
        family, state = data[at], data[at + 1]
        self.states[state & 15] += 1
        if len(self.connections) >= LOOKED_AT or state == SYN_RECV:
            return
        here_port, there_port = unpack_from("!HH", data, at + 4)
        here, there = data[at + 8 : at + 24], data[at + 24 : at + 40]
        if family == AF_INET:
            here, there = here[:4], there[:4]
        elif there.startswith(_MAPPED):
            here, there = here[12:], there[12:]
        inode = unpack_from("=I", data, at + 68)[0]
        ends = (here, here_port, there, there_port)
        self.connections.append(Connection(state, ends, inode, _acked(data, at + _MESSAGE, end)))


def _acked(data: bytes, at: int, end: int) -> int | None:
    """From the attribute with ``struct tcp_info``, if it is there."""
    while at + 4 <= end:
        length, kind = unpack_from("=HH", data, at)
        if kind == _INFO and length >= 4 + _ACKED_AT + 8 and at + length <= end:
            acked: int = unpack_from("=Q", data, at + 4 + _ACKED_AT)[0]
            return acked
        if length < 4:
            return None
        at += (length + 3) & ~3
    return None
