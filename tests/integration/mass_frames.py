"""Frames by the million: those of ``anyframe`` put between ports, answered, cut into fragments, mutilated."""

import random
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address

from hypervigil.model.ids import PerimeterId
from hypervigil.model.port_policy import Fabric, link_local
from hypervigil.model.services import ANYTHING, COMPANIONS, NOTHING
from hypervigil.model.traffic import Direction
from tests.integration.anyframe import BROADCAST, MULTICAST, Cast, Maker
from tests.integration.dhcp import anything
from tests.integration.mass_policies import (
    ANOTHER4,
    GATEWAYS,
    NAMED_LOCAL,
    POOL,
    ROUTER,
    SHARED4,
    SHARED6,
    SHARED_LOCAL,
    SHARED_MAC,
    Device,
)
from tests.integration.testrun import runnable
from tests.integration.wirelab import mac_bytes

LIBRARY, AIMS, MADE_UP = 6000, 24, 6
_MANY = (NOTHING, ANYTHING, COMPANIONS, ANYTHING | COMPANIONS)
REMEMBERED = 256
OUTSIDERS4 = ("203.0.113.5", "203.0.113.200", "198.51.100.7", "198.51.100.8", "100.64.0.1", "10.61.0.1", "10.62.0.1")
OUTSIDERS6 = ("2001:db8::9", "2001:db8:0:1::9", "2001:db9::1", "fe80::1", "fd61::1", "fd62::1")
ODD4, ODD6 = ("0.0.0.0", "255.255.255.255", "224.0.0.251"), ("::", "ff02::1", "::ffff:10.61.0.11", "fe80::5")
GSO = (1, 48, 536, 1448, 65535)
IPV4, ARP, IPV6 = b"\x08\x00", b"\x08\x06", b"\x86\xdd"


@dataclass(slots=True)
class Shot:
    """One frame at one port. ``ingress`` is the device that it came from, 0 if it began here."""

    direction: Direction
    ifindex: int
    frame: bytes
    gso_size: int = 0
    ingress: int = 0
    mark: int = 0
    other: int = 0
    """The device at the other end, if that is a port's."""

    def __str__(self) -> str:
        return (
            f"{self.direction.name} at device {self.ifindex} from {self.ingress}, gso {self.gso_size}, "
            f"mark {self.mark:#x}: {self.frame.hex()}"
        )


@dataclass(frozen=True, slots=True)
class _End:
    ifindex: int
    macs: tuple[bytes, ...]
    v4: tuple[bytes, ...]
    v6: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class _Aim:
    source: _End
    target: _End
    service: int


class Library:
    """Frames of every kind, made once."""

    def __init__(self, devices: Sequence[Device], uplink: int, seed: int) -> None:
        gateways4, gateways6, gateways_local = zip(*GATEWAYS, strict=True)
        self.macs = tuple(map(mac_bytes, (*(d.mac for d in devices), ROUTER, SHARED_MAC, "52:54:00:aa:00:99")))
        v4 = (*(d.v4 for d in devices), *gateways4, *OUTSIDERS4, SHARED4, ANOTHER4, *ODD4)
        v6 = (*(d.v6 for d in devices), *gateways6, *OUTSIDERS6, SHARED6, *ODD6)
        self.v4, self.v6 = tuple(IPv4Address(a).packed for a in v4), tuple(IPv6Address(a).packed for a in v6)
        # Of each port: made up, of its MAC, and one that it shares with nobody but is anybody's to take.
        made = [[f"fe80::a:{index}:{n}" for n in range(MADE_UP)] for index in range(len(devices))]
        own = [(link_local(d.mac), f"fe80::{index}", *made[index]) for index, d in enumerate(devices)]
        named = (NAMED_LOCAL, SHARED_LOCAL, *gateways_local, "fe80::1")
        self.locals = tuple(IPv6Address(a).packed for a in (*(a for each in own for a in each), *named * 3))
        self.pool = (*POOL * 3, *v4)
        self.servers = (ROUTER, ROUTER, *(d.mac for d in devices))
        self.groups = (mac_bytes(BROADCAST), mac_bytes(MULTICAST), mac_bytes("33:33:00:00:00:01"))
        self.ports = tuple(
            _End(
                d.ifindex,
                (mac_bytes(d.mac),),
                tuple(IPv4Address(a).packed for a in (*(d.v4,) * 12, POOL[0], POOL[index % len(POOL)])),
                tuple(IPv6Address(a).packed for a in (*(d.v6,) * len(own[index]), *own[index])),
            )
            for index, d in enumerate(devices)
        )
        router = self.router = _End(
            uplink,
            (mac_bytes(ROUTER),),
            tuple(IPv4Address(a).packed for a in (*gateways4, *OUTSIDERS4, SHARED4)),
            tuple(IPv6Address(a).packed for a in (*gateways6, *gateways_local, *OUTSIDERS6, SHARED6)),
        )
        shared = _End(
            devices[1].ifindex,
            (mac_bytes(SHARED_MAC),),
            (IPv4Address(SHARED4).packed, IPv4Address(ANOTHER4).packed),
            (IPv6Address(SHARED6).packed, IPv6Address(SHARED_LOCAL).packed),
        )
        self.ends = (*self.ports * 3, *(router,) * 8, shared)
        maker = Maker(Cast([d.mac for d in devices], v4, v6), seed)
        frames = (maker.frame() for _ in range(LIBRARY))
        self.frames = [frame for frame in frames if len(frame) < 1700]


class Mill:
    """Shots by a seed; it is told which went through, to answer them."""

    def __init__(self, library: Library, seed: int) -> None:
        self.dice = random.Random(seed)
        self._roll = self.dice.random
        self._library = library
        self._past: deque[Shot] = deque(maxlen=REMEMBERED)
        self._pieces: deque[Shot] = deque(maxlen=16)
        self._near: dict[int, list[_End]] = {}
        self._aims: list[_Aim] = []

    def shot(self) -> Shot:
        """The next."""
        roll = self._roll
        while True:
            kind = roll()
            if kind < 0.12 and self._aims:
                made = self._aimed(self._aims[int(roll() * len(self._aims))])
            elif kind < 0.17:
                made = self._neighbourly()
            elif kind < 0.21:
                made = self._leasing()
            elif kind < 0.47 or len(self._past) < REMEMBERED:
                made = self._fresh()
            elif kind < 0.51:
                made = self._on(self._past[int(roll() * REMEMBERED)])
            elif kind < 0.70:
                made = self._answer(self._past[int(roll() * REMEMBERED)])
            elif kind < 0.85:
                made = self._another(self._past[int(roll() * REMEMBERED)])
            elif kind < 0.95 or not self._pieces:
                made = replace(self._past[int(roll() * REMEMBERED)])
            else:
                made = self._piece(self._pieces[int(roll() * len(self._pieces))])
            if roll() < 0.1:
                made.frame = self._mutated(made.frame)
            if runnable(made.frame):
                return made

    def learn(self, places: Mapping[int, tuple[str | None, PerimeterId | None]], fabric: Fabric) -> None:
        """Which device is on which network and in which perimeter now, and what was granted: to send some of that."""
        near: dict[str, list[_End]] = defaultdict(list)
        ends: dict[PerimeterId, list[_End]] = defaultdict(list)
        for port in self._library.ports:
            network, perimeter = places.get(port.ifindex, (None, None))
            if network is not None and perimeter is not None:
                near[network].append(port)
                ends[perimeter].append(port)
        self._near = {device: near[network] for device, (network, _) in places.items() if network is not None}
        few = [
            one
            for one in fabric.grants
            if one.services not in _MANY and (one.source in ends or one.destination in ends)
        ]
        self._aims = []
        for grant in self.dice.sample(few, min(len(few), AIMS)):
            source, target = (ends.get(end) or [self._library.router] for end in (grant.source, grant.destination))
            for first, last in grant.services.ranges[:8]:
                ends_of = self.dice.choice(source), self.dice.choice(target)
                self._aims.append(_Aim(*ends_of, self.dice.randint(first, min(last, first + 2000))))

    def went(self, shot: Shot) -> None:
        """A shot passed."""
        frame = shot.frame
        kind = frame[12:14]
        piece = (kind == IPV4 and frame[20] & 0x3F | frame[21]) or (kind == IPV6 and frame[20] == 44)
        (self._pieces if piece else self._past).append(shot)

    def forwarded(self, shot: Shot, device: int, mark: int) -> Shot:
        """What a shot is at the port that it goes to."""
        return Shot(Direction.IN, device, shot.frame, shot.gso_size, shot.ifindex, mark, shot.ifindex)

    def _one(self, of: Sequence[bytes]) -> bytes:
        return of[int(self._roll() * len(of))]

    def _fresh(self) -> Shot:
        roll, library = self._roll, self._library
        port = library.ports[int(roll() * len(library.ports))]
        near = self._near.get(port.ifindex) if roll() < 0.5 else None
        ends = near or library.ends
        end = ends[int(roll() * len(ends))]
        frame = library.frames[int(roll() * len(library.frames))]
        out = roll() < 0.6
        source, target = (port, end) if out else (end, port)
        if roll() < 0.93:
            frame = self._between(frame, source, target)
        gso = GSO[int(roll() * len(GSO))] if roll() < 0.15 else 0
        if out:
            return Shot(Direction.OUT, port.ifindex, frame, gso, 0, 0, end.ifindex)
        ingress = end.ifindex if roll() < 0.9 else self._library.ends[int(roll() * len(library.ends))].ifindex
        return Shot(Direction.IN, port.ifindex, frame, gso, ingress, 0, end.ifindex)

    def _neighbourly(self) -> Shot:
        """IPv6 neighbour discovery: who asks for, says of or takes a link-local address, its own or another's."""
        roll, library = self._roll, self._library
        port = library.ports[int(roll() * len(library.ports))]
        ends = (*self._near.get(port.ifindex, library.ports), library.router)
        end = ends[int(roll() * len(ends))]
        out = roll() < 0.6
        source, target = (port, end) if out else (end, port)
        kind = int(self._one((b"\x85", *(b"\x87",) * 5, *(b"\x88",) * 3, b"\x86"))[0])
        asked = self._one((source if kind == 136 or roll() < 0.3 else target).v6 if roll() < 0.5 else library.locals)
        by = self._one(source.v6 if roll() < 0.9 else library.locals)
        if kind == 134:
            by = library.locals[-1] if roll() < 0.98 else self._one(library.locals)
        elif kind == 135 and roll() < 0.5:
            by = bytes(16)
        to = target.macs[0] if roll() < 0.3 else library.groups[2] if kind != 135 else b"\x33\x33\xff" + asked[13:]
        option = bytes([1 if kind == 135 else 2, 1]) + source.macs[0] if roll() < 0.7 else b""
        message = bytes([kind, 0, 0, 0]) + bytes(4) + asked + option
        head = b"\x60\0\0\0" + len(message).to_bytes(2, "big") + b"\x3a\xff"
        frame = to + source.macs[0] + IPV6 + head + by + self._one(target.v6) + message
        if out:
            return Shot(Direction.OUT, port.ifindex, frame, 0, 0, 0, end.ifindex)
        return Shot(Direction.IN, port.ifindex, frame, 0, end.ifindex, 0, end.ifindex)

    def _leasing(self) -> Shot:
        """DHCP: what a client asks of its server, or what it is told, where it arrives or where it is sent."""
        roll, library = self._roll, self._library
        port = library.ports[int(roll() * len(library.ports))]
        out, gso = roll() < 0.4, GSO[int(roll() * len(GSO))] if roll() < 0.02 else 0
        frame = anything(self.dice, port.macs[0].hex(":"), library.servers, library.pool, out=out)
        if out:
            return Shot(Direction.OUT, port.ifindex, frame, gso, 0, 0, library.router.ifindex)
        server = next((one for one in library.ports if one.macs[0] == frame[6:12]), library.router)
        if server is not library.router and server is not port and roll() < 0.5:
            return Shot(Direction.OUT, server.ifindex, frame, gso, 0, 0, port.ifindex)
        return Shot(Direction.IN, port.ifindex, frame, gso, server.ifindex, 0, server.ifindex)

    def _aimed(self, aim: "_Aim") -> Shot:
        """What may be begun, if all is right: TCP, UDP, an echo, or another protocol."""
        roll, source, target = self._roll, aim.source, aim.target
        protocol, port = aim.service >> 16 & 0xFF, (aim.service & 0xFFFF).to_bytes(2, "big")
        own = bytes([0x9C, int(roll() * 64)])
        match protocol:
            case 6:
                payload = own + port + bytes(8) + (b"\x50\x02" if roll() < 0.7 else b"\x50\x10") + bytes(6)
            case 17:
                payload = own + port + b"\x00\x1a\0\0" + bytes(18)
            case 1 | 58:
                payload = port[1:] + bytes(3) + own + bytes(22)
            case _:
                payload = bytes(28)
        if protocol == 58 or (protocol != 1 and roll() < 0.4):
            head = b"\x60\0\0\0" + len(payload).to_bytes(2, "big") + bytes([protocol, 64])
            packet = IPV6 + head + self._one(source.v6) + self._one(target.v6) + payload
        else:
            head = b"\x45\0" + (20 + len(payload)).to_bytes(2, "big") + b"\0\1\0\0\x40" + bytes([protocol, 0, 0])
            packet = IPV4 + head + self._one(source.v4) + self._one(target.v4) + payload
        frame = target.macs[0] + source.macs[0] + packet
        if source is not self._library.router:
            return Shot(Direction.OUT, source.ifindex, frame, 0, 0, 0, target.ifindex)
        return Shot(Direction.IN, target.ifindex, frame, 0, source.ifindex, 0, source.ifindex)

    def _between(self, frame: bytes, source: _End, target: _End) -> bytes:
        """The frame as it would go from one to the other, but for what is sometimes wrong with it."""
        roll, library = self._roll, self._library
        wrong = roll()
        to = target.macs[0] if wrong > 0.12 else self._one(library.groups if wrong > 0.04 else library.macs)
        by = source.macs[0] if wrong < 0.96 else self._one(library.macs)
        four = frame[12:14]
        wrong = roll()
        if four == IPV4 and len(frame) >= 34:
            mine = self._one(source.v4 if wrong > 0.06 else library.v4)
            yours = self._one(target.v4 if wrong < 0.94 else library.v4)
            return to + by + frame[12:26] + mine + yours + frame[34:]
        if four == IPV6 and len(frame) >= 54:
            mine = self._one(source.v6 if wrong > 0.06 else library.v6)
            yours = self._one(target.v6 if wrong < 0.94 else library.v6)
            return to + by + frame[12:22] + mine + yours + frame[54:]
        if four == ARP and len(frame) >= 42:
            mine = self._one(source.v4 if wrong > 0.06 else library.v4)
            yours = self._one(target.v4 if wrong < 0.94 else library.v4)
            own = by if roll() < 0.95 else self._one(library.macs)
            return to + by + frame[12:22] + own + mine + frame[32:38] + yours + frame[42:]
        return to + by + frame[12:]

    def _answer(self, shot: Shot) -> Shot:
        """What its receiver would send back, at its own port or where it arrives."""
        frame = _reversed(shot.frame)
        if shot.direction is Direction.OUT:
            if self._roll() < 0.5:
                return Shot(Direction.OUT, shot.other, frame, shot.gso_size, 0, 0, shot.ifindex)
            return Shot(Direction.IN, shot.ifindex, frame, shot.gso_size, shot.other, 0, shot.other)
        if self._roll() < 0.8:
            return Shot(Direction.OUT, shot.ifindex, frame, shot.gso_size, 0, 0, shot.other)
        return Shot(Direction.IN, shot.other, frame, shot.gso_size, shot.ifindex, 0, shot.ifindex)

    def _on(self, shot: Shot) -> Shot:
        """What its sender says next, of TCP: a few octets more, or that this is all."""
        frame = shot.frame
        at = 34 if frame[12:15] == IPV4 + b"\x45" and frame[23:24] == b"\6" else 54 if frame[20:21] == b"\6" else 0
        if not at or len(frame) < at + 20 or frame[12:14] not in {IPV4, IPV6}:
            return self._another(shot)
        flags = frame[at + 13]
        number = int.from_bytes(frame[at + 4 : at + 8]) + (flags & 3 != 0) & 0xFFFF_FFFF
        flags = self._one((b"\x18", b"\x18", b"\x11", b"\x11", b"\x14"))[0]
        frame = frame[: at + 4] + number.to_bytes(4) + frame[at + 8 : at + 13] + bytes([flags]) + frame[at + 14 :]
        return replace(shot, frame=frame, mark=0)

    def _another(self, shot: Shot) -> Shot:
        """The same from another port: one more conversation."""
        frame = shot.frame
        at = 34 if frame[12:14] == IPV4 else 54 if frame[12:14] == IPV6 else 0
        if at and len(frame) > at + 2:
            frame = frame[:at] + bytes([frame[at], int(self._roll() * 256)]) + frame[at + 2 :]
        return Shot(shot.direction, shot.ifindex, frame, 0, shot.ingress, 0, shot.other)

    def _piece(self, shot: Shot) -> Shot:
        """Another fragment of the same packet: mostly a later one."""
        frame, roll = shot.frame, self._roll
        later = roll() < 0.8
        if frame[12:14] == IPV4:
            offset = b"\x00\x10" if later else b"\x20\x00"
            frame = frame[:20] + offset + frame[22:]
        elif len(frame) > 62:
            frame = frame[:56] + (b"\x00\x10" if later else b"\x00\x01") + frame[58:]
        return Shot(shot.direction, shot.ifindex, frame, shot.gso_size, shot.ingress, 0, shot.other)

    def _mutated(self, frame: bytes) -> bytes:
        roll = self._roll
        for _ in range(1 + int(roll() * 3)):
            at = int(roll() * min(len(frame), 80))
            kind = roll()
            if kind < 0.35:
                frame = frame[:at] + bytes([int(roll() * 256)]) + frame[at + 1 :]
            elif kind < 0.7:
                frame = frame[:at] + bytes([frame[at] ^ 1 << int(roll() * 8)]) + frame[at + 1 :]
            elif kind < 0.85:
                frame = frame[: max(14, at)]
            else:
                frame = frame[:at] + self.dice.randbytes(1 + int(roll() * 8)) + frame[at:]
        return frame


def _reversed(frame: bytes) -> bytes:
    """The frame that answers one without options or extensions; any other just with its MACs changed about."""
    to, by, kind = frame[:6], frame[6:12], frame[12:14]
    if by[0] & 1:
        by = to
    if kind == IPV4 and len(frame) >= 42 and frame[14] == 0x45:
        head, ends = by + to + frame[12:26], frame[30:34] + frame[26:30]
        return head + ends + _answering(frame[23], frame[34:])
    if kind == IPV6 and len(frame) >= 62:
        return by + to + frame[12:22] + frame[38:54] + frame[22:38] + _answering(frame[20], frame[54:])
    if kind == ARP and len(frame) >= 42:
        return by + to + frame[12:20] + b"\0\2" + frame[32:42] + frame[22:32] + frame[42:]
    return by + to + frame[12:]


def _answering(protocol: int, transport: bytes) -> bytes:
    if protocol == 6 and len(transport) >= 20:
        number, flags = int.from_bytes(transport[4:8]), transport[13]
        heard = (number + (flags & 3 != 0) & 0xFFFF_FFFF).to_bytes(4)
        says = {0x02: 0x12, 0x12: 0x10}.get(flags & 0x17, flags)
        head = transport[2:4] + transport[:2] + transport[8:12] + heard + transport[12:13]
        return head + bytes([says]) + transport[14:]
    if protocol in (6, 17):
        return transport[2:4] + transport[:2] + transport[4:]
    if protocol in (1, 58):
        kind = {8: 0, 0: 8, 128: 129, 129: 128}.get(transport[0], transport[0])
        return bytes([kind]) + transport[1:]
    return transport
