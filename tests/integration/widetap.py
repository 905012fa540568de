"""Taps as real guests' NICs are: several queues, and frames with a header that says what is left to do to them."""

import fcntl
import os
import select
import struct
from dataclasses import dataclass

from tests.integration.wirelab import Tap

_TUNSETIFF, _TUNSETOFFLOAD = 0x400454CA, 0x400454D0
_TAP, _NO_PI, _MULTI_QUEUE, _VNET_HDR = 0x0002, 0x1000, 0x0100, 0x4000
_CHECKSUM, _TSO4, _TSO6 = 1, 2, 4
NEEDS_CHECKSUM = 1
GSO_NONE, GSO_TCP4, GSO_UDP, GSO_TCP6 = 0, 1, 3, 4


@dataclass(frozen=True)
class Header:
    """``struct virtio_net_hdr``."""

    flags: int = 0
    gso_type: int = GSO_NONE
    hdr_len: int = 0
    gso_size: int = 0
    csum_start: int = 0
    csum_offset: int = 0

    def packed(self) -> bytes:
        return struct.pack(
            "=BBHHHH", self.flags, self.gso_type, self.hdr_len, self.gso_size, self.csum_start, self.csum_offset
        )

    @classmethod
    def of(cls, raw: bytes) -> "Header":
        return cls(*struct.unpack("=BBHHHH", raw[:10]))


def _queue(name: str, flags: int) -> int:
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _TAP | _NO_PI | flags))
    return fd


class QueuesTap(Tap):
    """A tap of several queues; ``fd`` is the first."""

    def __init__(self, name: str, mac: str, queues: int) -> None:
        self.fds = [_queue(name, _MULTI_QUEUE) for _ in range(queues)]
        super().__init__(name, mac, fd=self.fds[0])

    def drained(self, wait_s: float = 0.0) -> list[bytes]:
        """Frames that reached the guest by any queue, until none comes for a while; the first may take so long."""
        frames: list[bytes] = []
        while ready := select.select(self.fds, [], [], min(wait_s, 0.2) if frames else wait_s)[0]:
            frames += [os.read(fd, 1 << 17) for fd in ready]
        return frames

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)


class VirtioTap(Tap):
    """A tap whose frames begin with a ``Header``, and whose guest takes segments that are not cut up yet."""

    def __init__(self, name: str, mac: str) -> None:
        fd = _queue(name, _VNET_HDR)
        fcntl.ioctl(fd, _TUNSETOFFLOAD, _CHECKSUM | _TSO4 | _TSO6)
        super().__init__(name, mac, fd=fd)

    def send(self, frame: bytes, header: Header = Header()) -> None:
        """The guest sends a frame."""
        os.write(self.fd, header.packed() + frame)

    def arrived(self, wait_s: float = 0.0) -> list[tuple[Header, bytes]]:
        """Frames that reached the guest, with their headers."""
        return [(Header.of(raw), raw[10:]) for raw in self.received(wait_s)]
