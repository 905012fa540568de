"""Netlink's route family (``man 7 rtnetlink``): messages written and read by hand.

Written out because the sensors list 500 and more devices several times a second at times, and the enforcer as many
routes.
"""

import os
import socket
import struct
from collections.abc import Iterator

REQUEST, ACKNOWLEDGE, DUMP, EXCLUSIVE, CREATE = 0x1, 0x4, 0x300, 0x200, 0x400
BUFFER = 1 << 18

_ERROR, _DONE = 2, 3
_SOL_NETLINK, _STRICT = 270, 12  # with it the kernel itself leaves out what was not asked for
_MESSAGE = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")
_ERRNO = struct.Struct("=i")
_TYPE_MASK = 0x3FFF


def dump(kind: int, body: bytes) -> Iterator[tuple[int, bytes]]:
    """All that there is of a kind, as type and body of each answer. ``OSError`` when the kernel refuses."""
    yield from _ask(kind, REQUEST | DUMP, body)


def request(kind: int, flags: int, body: bytes) -> list[tuple[int, bytes]]:
    """Have one thing made, removed or told. ``OSError`` with the kernel's reason when it is not."""
    return list(_ask(kind, REQUEST | ACKNOWLEDGE | flags, body))


def _ask(kind: int, flags: int, body: bytes) -> Iterator[tuple[int, bytes]]:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as asked:
        asked.settimeout(2.0)
        asked.setsockopt(_SOL_NETLINK, _STRICT, 1)
        asked.sendto(_MESSAGE.pack(_MESSAGE.size + len(body), kind, flags, 1, 0) + body, (0, 0))
        while True:
            for answer, rest in messages(asked.recv(BUFFER)):
                if answer == _DONE:
                    return
                if answer == _ERROR:
                    (number,) = _ERRNO.unpack_from(rest)
                    if number:
                        raise OSError(-number, os.strerror(-number))
                    return
                yield answer, rest


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The messages of one datagram: type and body."""
    offset = 0
    while offset + _MESSAGE.size <= len(data):
        length, kind, *_ = _MESSAGE.unpack_from(data, offset)
        if length < _MESSAGE.size:
            return
        yield kind, data[offset + _MESSAGE.size : offset + length]
        offset += (length + 3) & ~3


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The attributes that follow a message's fixed head."""
    offset = 0
    while offset + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < _ATTRIBUTE.size:
            return
        yield kind & _TYPE_MASK, data[offset + _ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + b"\0" * (-len(value) % 4)
