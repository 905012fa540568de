"""Framing on a byte stream: a 4-byte big-endian length, then one msgpack message. Bounded, typed, no I/O."""

from collections.abc import Iterator
from typing import Generic, TypeVar

import msgspec

MAX_FRAME = 16 * 1024 * 1024
_HEADER = 4

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
    """Turns received bytes into messages of one union type: parse or ``ProtocolError``, never anything else."""

    def __init__(self, kind: object, *, max_frame: int = MAX_FRAME) -> None:
        self._decoder: msgspec.msgpack.Decoder[T] = msgspec.msgpack.Decoder(kind)
        self._buffer = bytearray()
        self._max = max_frame

    @property
    def pending(self) -> int:
        """Bytes of an unfinished frame held so far."""
        return len(self._buffer)

    def feed(self, untrusted_bytes: bytes) -> Iterator[T]:
        """Yield every message that these bytes complete."""
        self._buffer += untrusted_bytes
        while len(self._buffer) >= _HEADER:
            size = int.from_bytes(self._buffer[:_HEADER], "big")
            if size > self._max:
                raise ProtocolError(f"a frame of {size} bytes is announced; at most {self._max} are taken")
            if len(self._buffer) < _HEADER + size:
                return
            body = bytes(self._buffer[_HEADER : _HEADER + size])
            del self._buffer[: _HEADER + size]
            try:
                message = self._decoder.decode(body)
            except (msgspec.DecodeError, ValueError, OverflowError, RecursionError) as error:
                raise ProtocolError(f"not a message of this protocol: {error}") from error
            yield message
