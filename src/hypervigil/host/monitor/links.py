"""The monitor's sockets: it listens to sensors, gateway and command line, and speaks to the enforcer. Nothing else.

Every peer is checked by the uid that the kernel vouches for (``SO_PEERCRED``), every message by its schema, every
queue has an end.
"""

import asyncio
import contextlib
import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from hypervigil.wire.control import Denied, Request, Response
from hypervigil.wire.frames import FrameDecoder, ProtocolError, encode
from hypervigil.wire.messages import FromEnforcer, ToEnforcer

log = logging.getLogger(__name__)

_READ_SIZE = 1 << 18
_RECONNECT_S = 0.2
_SEND_LIMIT = 8 * 1024 * 1024
_CONTROL_FRAME = 64 * 1024 * 1024
Incoming = TypeVar("Incoming")


def peer_uid(connection: socket.socket) -> int:
    """The uid of the process at the other end of a unix socket, by the kernel's word."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[1])


def listen(path: Path, *, mode: int, gid: int | None = None) -> socket.socket:
    """A listening unix socket at ``path``, replacing what a dead predecessor left there."""
    path.unlink(missing_ok=True)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    server.setblocking(False)
    server.bind(str(path))
    path.chmod(mode)
    if gid is not None:
        with contextlib.suppress(PermissionError):
            os.chown(path, -1, gid)
    server.listen(8)
    return server


class InboundLink(Generic[Incoming]):
    """Takes the messages of one process of a kind at a time; a newcomer replaces who was there."""

    def __init__(
        self,
        name: str,
        kind: object,
        *,
        joined: Callable[[], None],
        hear: Callable[[Incoming], None],
        gone: Callable[[], None],
        uids: frozenset[int],
    ) -> None:
        self._name = name
        self._kind = kind
        self._joined = joined
        self._hear = hear
        self._gone = gone
        self._uids = uids
        self._current: asyncio.StreamWriter | None = None
        self.refused = 0
        self.dropped = 0

    @property
    def connected(self) -> bool:
        """Whether it is there."""
        return self._current is not None

    def send(self, message: msgspec.Struct) -> bool:
        """Send, or say that it could not be sent: nothing piles up here."""
        sent = _written(self._current, message)
        self.dropped += not sent
        return sent

    async def serve(self, server: socket.socket) -> None:
        """Serve until cancelled."""
        async with await asyncio.start_unix_server(self._talk, sock=server, limit=_READ_SIZE) as listener:
            await listener.serve_forever()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        uid = peer_uid(writer.get_extra_info("socket"))
        if uid not in self._uids:
            self.refused += 1
            log.warning("%s.refused uid=%d", self._name, uid)
            writer.close()
            return
        if self._current is not None:
            self._current.close()
        self._current = writer
        self._joined()
        decoder: FrameDecoder[Incoming] = FrameDecoder(self._kind)
        try:
            while data := await reader.read(_READ_SIZE):
                for message in decoder.feed(data):
                    self._hear(message)
        except ProtocolError as error:
            self.refused += 1
            log.warning("%s.protocol_error error=%s", self._name, error)
        except OSError as error:
            log.info("%s.connection_lost error=%s", self._name, error)
        finally:
            writer.close()
            if self._current is writer:
                self._current = None
                self._gone()


def _written(writer: asyncio.StreamWriter | None, message: msgspec.Struct) -> bool:
    """Whether there is somebody who takes it."""
    if writer is None or writer.transport.get_write_buffer_size() > _SEND_LIMIT:
        return False
    writer.write(encode(message))
    return True


class EnforcerLink:
    """A connection to the enforcer that comes back by itself; what cannot be sent is refused, not piled up."""

    def __init__(
        self, path: Path, *, joined: Callable[[], None], hear: Callable[[FromEnforcer], None], gone: Callable[[], None]
    ) -> None:
        self._path = path
        self._joined = joined
        self._hear = hear
        self._gone = gone
        self._writer: asyncio.StreamWriter | None = None
        self._request = 0
        self.dropped = 0

    @property
    def connected(self) -> bool:
        """Whether the enforcer is there."""
        return self._writer is not None

    def next_request(self) -> int:
        """A number for the next request."""
        self._request += 1
        return self._request

    def send(self, message: ToEnforcer) -> bool:
        """Send, or say that it could not be sent (the caller reconciles when the enforcer is back)."""
        sent = _written(self._writer, message)
        self.dropped += not sent
        return sent

    async def run(self) -> None:
        """Connect, listen, reconnect; until cancelled."""
        while True:
            with contextlib.suppress(OSError):
                await self._talk()
            await asyncio.sleep(_RECONNECT_S)

    async def _talk(self) -> None:
        reader, writer = await asyncio.open_unix_connection(str(self._path), limit=_READ_SIZE)
        decoder: FrameDecoder[FromEnforcer] = FrameDecoder(FromEnforcer)
        self._writer = writer
        self._joined()
        try:
            while data := await reader.read(_READ_SIZE):
                for message in decoder.feed(data):
                    self._hear(message)
        except ProtocolError:
            log.exception("enforcer.protocol_error")
        finally:
            self._writer = None
            writer.close()
            self._gone()


class ControlLink:
    """Answers the command line: one request after another on each connection."""

    def __init__(self, answer: Callable[[Request], Awaitable[Response]], *, uids: frozenset[int]) -> None:
        self._answer = answer
        self._uids = uids

    async def serve(self, server: socket.socket) -> None:
        """Serve until cancelled."""
        async with await asyncio.start_unix_server(self._talk, sock=server, limit=_READ_SIZE) as listener:
            await listener.serve_forever()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        decoder: FrameDecoder[Request] = FrameDecoder(Request, max_frame=_CONTROL_FRAME)
        try:
            if peer_uid(writer.get_extra_info("socket")) not in self._uids:
                writer.write(encode(Denied(reason="only root may ask Hypervigil on this host: use sudo")))
                return
            while data := await reader.read(_READ_SIZE):
                for request in decoder.feed(data):
                    writer.write(encode(await self._answer(request)))
                await writer.drain()
        except ProtocolError as error:
            writer.write(encode(Denied(reason=f"this is not a request that this version knows: {error}")))
        except OSError as error:
            log.info("control.connection_lost error=%s", error)
        finally:
            with contextlib.suppress(OSError):
                await writer.drain()
            writer.close()


def body(value: object) -> dict[str, object]:
    """A plain answer body of a dataclass or mapping."""
    plain = msgspec.to_builtins(value)
    if not isinstance(plain, dict):
        raise TypeError(f"an answer's body is a mapping, not {type(plain).__name__}")
    return plain
