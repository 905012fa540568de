"""Descriptors handed from the enforcer to a process without rights over a unix stream socket (``SCM_RIGHTS``).

One frame: two bytes of length, then as many names as descriptors, one a line. The sensors' connection then stays open:
its end tells that the maps may be others now and that they have to ask again.
"""

import contextlib
import os
import re
import socket
import struct

MAX_DESCRIPTORS = 32
_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
_LENGTH = 2
_MAX_NAMES = MAX_DESCRIPTORS * 33
_CREDENTIALS = struct.Struct("3i")


class HandoverError(Exception):
    """Nothing was handed over; the message is one sentence."""


def offer(connection: socket.socket, descriptors: dict[str, int], *, allowed_uid: int) -> None:
    """Send the descriptors to the peer if the kernel says it runs as ``allowed_uid``; they stay open here too."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, _ = _CREDENTIALS.unpack(credentials)
    if uid != allowed_uid:
        raise HandoverError(f"user {uid} asked for descriptors; only user {allowed_uid} gets them")
    if not 0 < len(descriptors) <= MAX_DESCRIPTORS or not all(_NAME.fullmatch(name) for name in descriptors):
        raise HandoverError(f"1 to {MAX_DESCRIPTORS} descriptors with plain names can be handed over")
    names = "\n".join(descriptors).encode()
    frame = len(names).to_bytes(_LENGTH, "big") + names
    try:
        sent = socket.send_fds(connection, [frame], list(descriptors.values()))
    except OSError as error:
        raise HandoverError(f"the descriptors could not be handed over: {error.strerror}") from error
    if sent != len(frame):
        raise HandoverError("the descriptors could not be handed over in one piece")


def receive(connection: socket.socket) -> dict[str, int]:
    """The descriptors that the peer offers, close-on-exec and the caller's to close. Blocks as the socket does."""
    held: list[int] = []
    try:
        return dict(zip(_names(connection, held), held, strict=True))
    except (HandoverError, ValueError, OSError) as error:
        for descriptor in held:
            with contextlib.suppress(OSError):
                os.close(descriptor)
        if isinstance(error, HandoverError):
            raise
        raise HandoverError(f"nothing was handed over: {error}") from error


def _names(connection: socket.socket, held: list[int]) -> list[str]:
    """The names of one frame; every descriptor that came is appended to ``held``, also when this raises."""
    untrusted = b""
    need = _LENGTH
    while len(untrusted) < need:
        piece, fds, flags, _ = socket.recv_fds(connection, need - len(untrusted), MAX_DESCRIPTORS)
        held += fds
        for descriptor in fds:  # recv_fds of Python 3.11 does not pass its flags on
            os.set_inheritable(descriptor, False)
        if flags & socket.MSG_CTRUNC:
            raise HandoverError(f"more than {MAX_DESCRIPTORS} descriptors came at once")
        if not piece:
            raise HandoverError("the enforcer closed the connection before it handed anything over")
        untrusted += piece
        if len(untrusted) == _LENGTH:
            need += int.from_bytes(untrusted, "big")
            if not _LENGTH < need <= _LENGTH + _MAX_NAMES:
                raise HandoverError("what came is no handover of descriptors")
    names = untrusted[_LENGTH:].decode("ascii", "replace").split("\n")
    if not all(_NAME.fullmatch(name) for name in names) or len(set(names)) != len(names):
        raise HandoverError("what came is no handover of descriptors")
    return names
