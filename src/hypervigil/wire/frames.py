"""Framing on a byte stream: a 4-byte big-endian length, then one msgpack message. Bounded, typed, no I/O."""

from collections.abc import Iterator
from typing import Generic, TypeVar

import msgspec

MAX_FRAME = 16 * 1024 * 1024
_HEADER = 4
_MAX_COMPLAINT = 200

T = TypeVar("T")
_encoder = msgspec.msgpack.Encoder()


class ProtocolError(Exception):
    """The other end did not speak our protocol. The connection is of no more use."""


def encode(message: msgspec.Struct) -> bytes:
    """One frame, ready to send."""
    body = _encoder.encode(message)
    if len(body) > MAX_FRAME:
        raise ProtocolError(f"a message of {len(body)} bytes is larger than the {MAX_FRAME} that a frame may hold")
    return len(body).to_bytes(_HEADER, "big") + body


class FrameDecoder(Generic[T]):
    """Turns received bytes into messages of one union type: parse or ``ProtocolError``, never anything else.

    After the first ``ProtocolError`` every further call raises it again: where a stream broke, nothing after the
    break can be trusted to begin where it seems to.
    """

    def __init__(self, kind: object, *, max_frame: int = MAX_FRAME) -> None:
        self._decoder: msgspec.msgpack.Decoder[T] = msgspec.msgpack.Decoder(kind)
        self._buffer = bytearray()
        self._max = max_frame
        self._broken: str | None = None

    @property
    def pending(self) -> int:
        """Bytes of an unfinished frame held so far."""
        return len(self._buffer)

    def feed(self, untrusted_bytes: bytes) -> Iterator[T]:
        """Yield every message that these bytes complete. The bytes are taken at once, also if nobody iterates."""
        if self._broken is None:
            self._buffer += untrusted_bytes
        return self._messages()

    def _messages(self) -> Iterator[T]:
        if self._broken is not None:
            raise ProtocolError(self._broken)
        while len(self._buffer) >= _HEADER:
            size = int.from_bytes(self._buffer[:_HEADER], "big")
            if size > self._max:
                raise self._break(f"a frame of {size} bytes is announced; at most {self._max} are taken")
            if len(self._buffer) < _HEADER + size:
                return
            body = bytes(self._buffer[_HEADER : _HEADER + size])
            del self._buffer[: _HEADER + size]
            try:
                message = self._decoder.decode(body)
            except (msgspec.DecodeError, ValueError, OverflowError, RecursionError) as error:
                raise self._break(f"not a message of this protocol: {quoted(error)}") from None
            yield message

    def _break(self, reason: str) -> ProtocolError:
        self._broken = reason
        self._buffer = bytearray()
        return ProtocolError(reason)


def quoted(error: Exception) -> str:
    """The decoder's complaint; it may repeat the other end's bytes, so nothing of it may steer a terminal or log."""
    text = "".join(c if c.isprintable() and c.isascii() else "?" for c in str(error))
    return text if len(text) <= _MAX_COMPLAINT else text[:_MAX_COMPLAINT] + "…"
