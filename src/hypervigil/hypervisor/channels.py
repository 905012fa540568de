"""A guest's channel, opened by root and handed to the gateway, which has no right to open it itself.

QEMU's sockets lie in directories that only QEMU's user and root may enter. The gateway names the VM; where its
socket is libvirt tells the enforcer, so that a gateway in the wrong hands reaches agents and no other socket of the
host. The answer is one descriptor, or the end of the connection.
"""

import os
import re
import socket
import stat
from pathlib import Path

from hypervigil.hypervisor import handover
from hypervigil.model.ids import VmId

NAME = "channel"
ID_OCTETS = 36
PATIENCE_S = 10.0
_UUID = re.compile(rb"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class ChannelError(Exception):
    """A channel was not opened; the message is one sentence."""


# --- the gateway's end ---------------------------------------------------------------------------------------------
def fetch(at: Path, vm: VmId) -> socket.socket:
    """The open channel of a VM, from the enforcer that listens at ``at``. Blocks for at most ``PATIENCE_S`` or so.

    ``OSError`` where there is none.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(PATIENCE_S)
        connection.connect(str(at))
        connection.sendall(vm.encode())
        try:
            descriptors = handover.receive(connection)
        except handover.HandoverError as error:
            raise ConnectionError(str(error)) from error
    if list(descriptors) != [NAME]:
        for descriptor in descriptors.values():
            os.close(descriptor)
        raise ConnectionError("the enforcer handed over something else than a channel")
    return socket.socket(fileno=descriptors[NAME])


# --- the enforcer's end --------------------------------------------------------------------------------------------
def parse_vm(untrusted_bytes: bytes) -> VmId:
    """Whose channel is asked for: a domain's UUID, or ``ChannelError``."""
    if not _UUID.fullmatch(untrusted_bytes):
        raise ChannelError("what was asked for is no domain's UUID")
    return VmId(untrusted_bytes.decode("ascii"))


def open_channel(path: str) -> socket.socket:
    """A connection to the socket at ``path`` and to nothing else that may lie there by now.

    QEMU's user may write where QEMU's sockets are: no link of its making leads root anywhere.
    """
    try:
        place = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise ChannelError(f"there is no socket at {path}: {error.strerror}") from error
    try:
        here = f"/proc/self/fd/{place}"
        if str(Path(here).readlink()) != path or not stat.S_ISSOCK(os.fstat(place).st_mode):
            raise ChannelError(f"{path} is a link or no socket: name the socket's own place in the domain's XML")
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            # PRIVILEGED: the socket is QEMU's user's; whoever gets the connection can speak with the agent, no more.
            connection.connect(here)
        except OSError as error:
            connection.close()
            raise ChannelError(f"nobody takes a connection at {path}: {error.strerror}") from error
        return connection
    finally:
        os.close(place)


def hand_over(connection: socket.socket, channel: socket.socket, *, allowed_uid: int) -> None:
    """Give an open channel to the gateway; it is closed here. ``ChannelError`` when that cannot be done."""
    with channel:
        try:
            handover.offer(connection, {NAME: channel.fileno()}, allowed_uid=allowed_uid)
        except handover.HandoverError as error:
            raise ChannelError(str(error)) from error
