"""Frames of every kind, and what becomes of them when bytes are changed, cut off or put in."""

import random
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from tests.integration.wirelab import announcement, arp, ethernet, ipv4, ipv6, udp

BROADCAST, MULTICAST = "ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:fb"
PORTS = (0, 22, 53, 67, 68, 80, 443, 546, 547, 5353, 40000, 65535)
EXTENSIONS = (0, 43, 44, 51, 60)


@dataclass(frozen=True)
class Cast:
    """Whose MACs and addresses appear. The first of each is the port's own, so it is drawn more often."""

    macs: Sequence[str]
    v4: Sequence[str]
    v6: Sequence[str]


class Maker:
    """Makes frames by a seed."""

    def __init__(self, cast: Cast, seed: int) -> None:
        self.dice = random.Random(seed)
        self.cast = cast
        self._kinds: tuple[Callable[[], bytes], ...] = (
            self._ipv4,
            self._ipv4,
            self._ipv6,
            self._ipv6,
            self._arp,
            self._rarp,
            self._ethertype,
        )

    def frame(self) -> bytes:
        """The next frame: mostly as somebody would send it, else mutilated."""
        made = self.dice.choice(self._kinds)()
        if self.dice.random() < 0.05:
            made += self.dice.randbytes(self.dice.randrange(1, 1500))
        return self._mutated(made) if self.dice.random() < 0.4 else made

    def gso_size(self) -> int:
        """Mostly none."""
        return self.dice.choice((0, 0, 0, 0, 1, 48, 536, 1448, 65535))

    def _one(self, of: Sequence[str]) -> str:
        return of[0] if self.dice.random() < 0.5 else self.dice.choice(of)

    def _v4(self) -> str:
        if self.dice.random() < 0.1:
            return str(IPv4Address(self.dice.getrandbits(32)))
        return self._one(self.cast.v4)

    def _v6(self) -> str:
        if self.dice.random() < 0.1:
            return str(IPv6Address(self.dice.getrandbits(128)))
        return self._one(self.cast.v6)

    def _port(self) -> int:
        return self.dice.choice(PORTS) if self.dice.random() < 0.6 else self.dice.randrange(65536)

    def _around(self, ethertype: int, payload: bytes) -> bytes:
        group = self.dice.random()
        to = BROADCAST if group < 0.06 else MULTICAST if group < 0.12 else self._one(self.cast.macs[::-1])
        frame = ethernet(self._one(self.cast.macs), to, ethertype, payload)
        return frame[: 14 + len(payload)] if self.dice.random() < 0.5 else frame

    def _ipv4(self) -> bytes:
        protocol, payload = self._transport(
            self.dice.choice((6, 6, 6, 17, 17, 17, 1, 58, 47, self.dice.randrange(256)))
        )
        offset = self.dice.choice((0, 0, 0, 0, 0x4000, 0x2000, 0x2001, 0x0010, 0x8000))
        packet = ipv4(self._v4(), self._v4(), protocol, payload, fragment=offset)
        if self.dice.random() < 0.1:
            options = self.dice.randrange(1, 11)
            packet = bytes([0x45 + options]) + packet[1:20] + self.dice.randbytes(4 * options) + packet[20:]
        return self._around(0x0800, packet)

    def _ipv6(self) -> bytes:
        number, payload = self._transport(self.dice.choice((6, 6, 17, 17, 58, 58, 58, 1, 59, self.dice.randrange(256))))
        for _ in range(self.dice.choice((0, 0, 0, 0, 1, 1, 2, 5, 6, 7))):
            kind = self.dice.choice(EXTENSIONS)
            payload = self._extension(kind, number) + payload
            number = kind
        return self._around(0x86DD, ipv6(self._v6(), self._v6(), number, payload))

    def _extension(self, kind: int, following: int) -> bytes:
        if kind == 44:
            offset = self.dice.choice((0, 0, 1, 0x10, 0xFFF9))
            return struct.pack("!BBHI", following, 0, offset, 1)
        if kind == 51:
            words = self.dice.choice((1, 4))
            return struct.pack("!BB", following, words) + self.dice.randbytes((words + 2) * 4 - 2)
        units = self.dice.choice((0, 0, 1, 3))
        return struct.pack("!BB", following, units) + self.dice.randbytes((units + 1) * 8 - 2)

    def _transport(self, protocol: int) -> tuple[int, bytes]:
        match protocol:
            case 6:
                flags = self.dice.choice((0x02, 0x12, 0x10, 0x18, 0x04, 0x14, 0x11, 0x00, self.dice.randrange(256)))
                number, acknowledged = self.dice.choice((1, 1, 2, 3)), self.dice.choice((0, 2, 2, 3))
                length = self.dice.choice((0x50, 0x80, 0xF0))
                head = struct.pack(
                    "!HHIIBBHHH", self._port(), self._port(), number, acknowledged, length, flags, 9, 0, 0
                )
                return 6, head + self.dice.randbytes(self.dice.choice((0, 0, 12, 40)))
            case 17:
                return 17, udp(self._port(), self._port(), self.dice.randbytes(self.dice.choice((0, 4, 18))))
            case 1:
                return 1, bytes([self.dice.choice((0, 3, 5, 8, 11)), 0]) + self.dice.randbytes(26)
            case 58:
                return 58, self._icmpv6()
        return protocol, self.dice.randbytes(self.dice.choice((0, 8, 30)))

    def _icmpv6(self) -> bytes:
        kind = self.dice.choice((1, 128, 129, 133, 134, 135, 136, 137))
        target = IPv6Address(self._v6()).packed
        mac = bytes.fromhex(self._one(self.cast.macs).replace(":", ""))
        option = bytes([self.dice.choice((1, 2, 14)), 1]) + mac
        return bytes([kind, 0, 0, 0]) + bytes(4) + target + (option if self.dice.random() < 0.7 else b"")

    def _arp(self) -> bytes:
        mac = self._one(self.cast.macs)
        payload = arp(self.dice.choice((1, 1, 2, 3)), mac, self.dice.choice((self._v4(), "0.0.0.0")), self._v4())
        return self._around(0x0806, payload)

    def _rarp(self) -> bytes:
        one, other = self._one(self.cast.macs), self._one(self.cast.macs)
        told = announcement(
            one, operation=self.dice.choice((3, 3, 3, 4)), of=other, address=self.dice.choice(("0.0.0.0", self._v4()))
        )
        to = BROADCAST if self.dice.random() < 0.7 else other
        return ethernet(one, to, 0x8035, told)

    def _ethertype(self) -> bytes:
        kind = self.dice.choice((0x8100, 0x88A8, 0x88CC, 0x8864, 0x0026, self.dice.randrange(65536)))
        return self._around(kind, b"\0\5\x08\0" + self.dice.randbytes(40))

    def _mutated(self, frame: bytes) -> bytes:
        changed = bytearray(frame)
        for _ in range(self.dice.randrange(1, 4)):
            at = self.dice.randrange(min(len(changed), 80))
            match self.dice.randrange(4):
                case 0:
                    changed[at] = self.dice.randrange(256)
                case 1:
                    changed[at] ^= 1 << self.dice.randrange(8)
                case 2:
                    del changed[max(14, at) :]
                case _:
                    changed[at:at] = self.dice.randbytes(self.dice.randrange(1, 9))
        return bytes(changed).ljust(14, b"\0")
