"""What a guest can try against its neighbours with frames made by hand: each attack, its frames and where it shows.

Every frame ends with a tag and the number of its attack, so that whoever gets it is told apart from all other traffic.
"""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv6Address

from hypervigil.model.port_policy import link_local
from hypervigil.model.traffic import ForgedKind
from lab.guest.wire import TAG
from tests.integration.wirelab import arp, icmp6, ipv4, ipv6, mac_bytes, tcp, udp

ALL_NODES, ALL_NODES_MAC = "ff02::1", "33:33:00:00:00:01"
EVERYBODY = "ff:ff:ff:ff:ff:ff"
SERVICE = 7000
"""The port at which every guest and the gateway answer, and which paths allow."""
FORBIDDEN = 22
ASKS = 40000
"""Where nobody answers: two echo services that were made to talk to each other would never end."""


@dataclass(frozen=True)
class Host:
    """One end as the others see it."""

    name: str
    mac: str
    four: str
    six: str

    @property
    def local(self) -> str:
        """Its IPv6 link-local address."""
        return link_local(self.mac)


@dataclass(frozen=True)
class Cast:
    """Who takes part: the attacker, its neighbour of the same tenant, another tenant's guest, and the gateway."""

    a1: Host
    a2: Host
    b1: Host
    gateway: Host


class Shown(Enum):
    """By what an attack is seen to succeed."""

    DELIVERED = "its frames arrive"
    TABLE = "a neighbour table names the attacker"


@dataclass(frozen=True)
class Attack:
    """``at`` is where it shows. ``believed``, of a neighbour table: the address whose owner it takes the attacker for.

    ``drops`` is, of each frame, why it is dropped; None where the policy alone denies it.
    """

    number: int
    name: str
    family: str
    at: str
    frames: tuple[bytes, ...]
    drops: tuple[ForgedKind | None, ...]
    believed: str | None = None
    batch: int = 0

    @property
    def shown(self) -> Shown:
        """How it shows."""
        return Shown.TABLE if self.believed else Shown.DELIVERED


class Catalogue:
    """Attacks, numbered in the order in which they are added."""

    def __init__(self, cast: Cast) -> None:
        self.cast = cast
        self.attacks: list[Attack] = []

    def add(
        self,
        name: str,
        family: str,
        at: Host,
        drops: ForgedKind | tuple[ForgedKind | None, ...] | None,
        *frames: Callable[[bytes], bytes],
        believed: str | None = None,
        batch: int | None = None,
    ) -> None:
        """``frames`` make the frames, each from its tag. Without a batch, claims come after everything else."""
        number = len(self.attacks) + 1
        tag = TAG + bytes([number])
        each = drops if isinstance(drops, tuple) else (drops,) * len(frames)
        self.attacks.append(
            Attack(
                number, name, family, at.name, tuple(make(tag) for make in frames), each, believed,
                batch if batch is not None else int(believed is not None),
            )
        )  # fmt: skip


def ethernet(source: str, destination: str, ethertype: int, payload: bytes, tag: bytes = b"") -> bytes:
    """A frame, padded to what Ethernet needs; the tag comes after what the packet says is its end."""
    return (mac_bytes(destination) + mac_bytes(source) + struct.pack("!H", ethertype) + payload + tag).ljust(60, b"\0")


def advertisement(target: str, mac: str, *, flags: int = 0x20) -> bytes:
    """A neighbour advertisement that overrides."""
    return struct.pack("!BBHI", 136, 0, 0, flags << 24) + IPv6Address(target).packed + b"\2\1" + mac_bytes(mac)


def solicitation(target: str, mac: str | None) -> bytes:
    """A neighbour solicitation; without a MAC as who looks whether an address is free."""
    option = b"\1\1" + mac_bytes(mac) if mac else b""
    return struct.pack("!BBHI", 135, 0, 0, 0) + IPv6Address(target).packed + option


def router(mac: str) -> bytes:
    """A router advertisement that makes its sender everybody's router."""
    return struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0) + b"\1\1" + mac_bytes(mac)


def extension(following: int) -> bytes:
    """A hop-by-hop or destination options header of eight octets that says nothing."""
    return bytes([following, 0, 1, 4, 0, 0, 0, 0])


def fragment6(following: int, offset: int, more: int, payload: bytes, number: int = 77) -> bytes:
    """An IPv6 fragment header (``offset`` in octets) and what follows it."""
    return struct.pack("!BBHI", following, 0, offset | more, number) + payload


def numbered(packet: bytes, number: int) -> bytes:
    """An IPv4 packet with another identification, by which its fragments belong together."""
    head = bytearray(packet[:20])
    head[4:6], head[10:12] = number.to_bytes(2), b"\0\0"
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    head[10:12] = (~((total & 0xFFFF) + (total >> 16)) & 0xFFFF).to_bytes(2)
    return bytes(head) + packet[20:]


def offer(six: bool) -> bytes:
    """As a DHCP server's answer begins."""
    return b"\x02" + bytes(31) if six else b"\x02\x01\x06\x00" + bytes(232) + b"\x63\x82\x53\x63\x35\x01\x02\xff"


def attacks(cast: Cast) -> Sequence[Attack]:
    """Every attack by frames made by hand."""
    made = Catalogue(cast)
    _bypasses(made)
    _roles(made)
    _wrapped(made)
    _senders(made)
    _neighbours(made)
    return made.attacks


def _neighbours(made: Catalogue) -> None:
    """Claims to have somebody else's address. The second batch would reach tables that the first is read from."""
    a1, a2, b1, gw = made.cast.a1, made.cast.a2, made.cast.b1, made.cast.gateway

    def claim(operation: int, address: str, to: Host, asked: str) -> Callable[[bytes], bytes]:
        return lambda tag: ethernet(a1.mac, to.mac, 0x0806, arp(operation, a1.mac, address, asked), tag)

    def say(source: str, to: Host, destination: str, body: bytes) -> Callable[[bytes], bytes]:
        packet = ipv6(*icmp6(source, destination, body))
        mac = ALL_NODES_MAC if destination == ALL_NODES else to.mac
        return lambda tag: ethernet(a1.mac, mac, 0x86DD, packet, tag)

    everybody = Host("everybody", EVERYBODY, "", "")
    made.add("ARP reply: the gateway is me", "4", a2, ForgedKind.ARP, claim(2, gw.four, a2, a2.four), believed=gw.four)
    made.add("ARP reply: a2 is me", "4", gw, ForgedKind.ARP, claim(2, a2.four, gw, gw.four), believed=a2.four)
    made.add("ARP question in b1's name", "4", gw, ForgedKind.ARP, claim(1, b1.four, gw, gw.four), believed=b1.four)
    made.add(
        "gratuitous ARP for the gateway", "4", b1, ForgedKind.ARP, claim(1, gw.four, everybody, gw.four),
        believed=gw.four, batch=2,
    )  # fmt: skip
    made.add(
        "ND advertisement: the gateway is me", "6", a2, ForgedKind.ND,
        say(gw.six, a2, a2.six, advertisement(gw.six, a1.mac)), believed=gw.six,
    )  # fmt: skip
    made.add(
        "ND advertisement: a2 is me", "6", gw, ForgedKind.ND,
        say(a1.six, gw, gw.six, advertisement(a2.six, a1.mac)), believed=a2.six,
    )  # fmt: skip
    made.add(
        "ND advertisement to all: the gateway is me", "6", b1, ForgedKind.ND,
        say(a1.local, b1, ALL_NODES, advertisement(gw.six, a1.mac)), believed=gw.six, batch=2,
    )  # fmt: skip
    made.add(
        "ND solicitation in b1's name", "6", gw, ForgedKind.IPV6,
        say(b1.six, gw, gw.six, solicitation(gw.six, a1.mac)), believed=b1.six,
    )  # fmt: skip
    made.add(
        "ND advertisement: a2's link-local address is me", "6", b1, ForgedKind.ND,
        say(a1.local, b1, ALL_NODES, advertisement(a2.local, a1.mac)), believed=a2.local, batch=2,
    )  # fmt: skip
    made.add(
        "ND: a2's address is taken", "6", a2, ForgedKind.IPV6, say("::", a2, ALL_NODES, solicitation(a2.six, None))
    )


def _senders(made: Catalogue) -> None:
    """Frames under somebody else's MAC or address."""
    a1, a2, b1, gw = made.cast.a1, made.cast.a2, made.cast.b1, made.cast.gateway

    def four(source: str, mac: str, to: Host) -> Callable[[bytes], bytes]:
        return lambda tag: ethernet(mac, to.mac, 0x0800, ipv4(source, to.four, 17, udp(ASKS, SERVICE, tag)))

    def six(source: str, mac: str, to: Host) -> Callable[[bytes], bytes]:
        return lambda tag: ethernet(mac, to.mac, 0x86DD, ipv6(source, to.six, 17, udp(ASKS, SERVICE, tag)))

    made.add("b1's IPv4 address", "4", a2, ForgedKind.IPV4, four(b1.four, a1.mac, a2))
    made.add("b1's IPv6 address", "6", a2, ForgedKind.IPV6, six(b1.six, a1.mac, a2))
    made.add("the gateway's IPv4 address", "4", a2, ForgedKind.IPV4, four(gw.four, a1.mac, a2))
    made.add("the gateway's IPv6 address", "6", a2, ForgedKind.IPV6, six(gw.six, a1.mac, a2))
    made.add("a2's link-local address", "6", b1, ForgedKind.IPV6, six(a2.local, a1.mac, b1))
    for to in (b1, gw):
        made.add("a2's IPv4 address", "4", to, ForgedKind.IPV4, four(a2.four, a1.mac, to))
        made.add("a2's IPv6 address", "6", to, ForgedKind.IPV6, six(a2.six, a1.mac, to))
    for to in (b1, gw):  # last: from now on the bridge looks for a2 where the attacker is
        made.add("a2's MAC", "4", to, ForgedKind.MAC, four(a1.four, a2.mac, to), batch=3)
        made.add("a2's MAC and IPv4 address", "4", to, ForgedKind.MAC, four(a2.four, a2.mac, to), batch=3)
        made.add("a2's MAC", "6", to, ForgedKind.MAC, six(a1.six, a2.mac, to), batch=3)


def _roles(made: Catalogue) -> None:
    """What only routers and DHCP servers say."""
    a1, a2, b1, gw = made.cast.a1, made.cast.a2, made.cast.b1, made.cast.gateway

    def dhcp(port: int, to: Host, address: str) -> Callable[[bytes], bytes]:
        mac = EVERYBODY if address == "255.255.255.255" else to.mac
        return lambda tag: ethernet(a1.mac, mac, 0x0800, ipv4(a1.four, address, 17, udp(port, 68, offer(False) + tag)))

    def dhcp6(port: int) -> Callable[[bytes], bytes]:
        packet = lambda tag: ipv6(a1.local, a2.local, 17, udp(port, 546, offer(True) + tag))  # noqa: E731
        return lambda tag: ethernet(a1.mac, a2.mac, 0x86DD, packet(tag))

    for to in (a2, b1):
        made.add("DHCP offer to all", "4", to, ForgedKind.DHCP_SERVER, dhcp(67, to, "255.255.255.255"))
        routes = ipv6(*icmp6(a1.local, ALL_NODES, router(a1.mac)))
        made.add(
            "router advertisement", "6", to, ForgedKind.ROUTER_ADVERTISEMENT,
            lambda tag, packet=routes: ethernet(a1.mac, ALL_NODES_MAC, 0x86DD, packet, tag),
        )  # fmt: skip
    made.add("DHCP offer", "4", a2, ForgedKind.DHCP_SERVER, dhcp(67, a2, a2.four))
    made.add("DHCP offer from another port", "4", a2, ForgedKind.DHCP_SERVER, dhcp(1067, a2, a2.four))
    made.add("DHCPv6 advertisement", "6", a2, ForgedKind.DHCP_SERVER, dhcp6(547))
    made.add("DHCPv6 advertisement from another port", "6", a2, ForgedKind.DHCP_SERVER, dhcp6(1547))
    redirect = struct.pack("!BBH4s", 5, 1, 0, bytes(map(int, a1.four.split(".")))) + bytes(28)
    made.add(
        "ICMP redirect", "4", a2, ForgedKind.ROUTER_ADVERTISEMENT,
        lambda tag: ethernet(a1.mac, a2.mac, 0x0800, ipv4(a1.four, a2.four, 1, redirect), tag),
    )  # fmt: skip
    redirect6 = struct.pack("!BBHI", 137, 0, 0, 0) + IPv6Address(a1.local).packed + IPv6Address(gw.six).packed
    made.add(
        "ICMPv6 redirect", "6", a2, ForgedKind.ROUTER_ADVERTISEMENT,
        lambda tag: ethernet(a1.mac, a2.mac, 0x86DD, ipv6(*icmp6(a1.local, a2.local, redirect6)), tag),
    )  # fmt: skip


def _wrapped(made: Catalogue) -> None:
    """VLAN tags and ethertypes that no rule about IP looks into."""
    a1, a2, b1 = made.cast.a1, made.cast.a2, made.cast.b1

    def plain(tag: bytes) -> bytes:
        return struct.pack("!H", 0x0800) + ipv4(a2.four, b1.four, 17, udp(ASKS, FORBIDDEN, tag))

    tagged = {"0x8100": [0x8100], "0x88a8": [0x88A8], "0x88a8 and 0x8100": [0x88A8, 0x8100]}
    for name, types in tagged.items():

        def inside(tag: bytes, types: Sequence[int] = types) -> bytes:
            inner = b"".join(struct.pack("!HH", kind, 5) for kind in types[1:]) + plain(tag)
            return ethernet(a1.mac, b1.mac, types[0], struct.pack("!H", 5) + inner)

        made.add(f"VLAN tag {name}", "–", b1, ForgedKind.VLAN, inside)
    for name, kind, to in (
        ("0x88b5, experimental", 0x88B5, b1.mac), ("0x8863, PPPoE", 0x8863, b1.mac), ("0x888e, EAPOL", 0x888E, b1.mac),
        ("0x88cc, LLDP", 0x88CC, EVERYBODY), ("802.3 with LLC", 39, b1.mac),
    ):  # fmt: skip
        made.add(
            f"ethertype {name}", "–", b1, ForgedKind.ETHERTYPE,
            lambda tag, kind=kind, to=to: ethernet(a1.mac, to, kind, b"\x42\x42\x03", tag),
        )  # fmt: skip


def _bypasses(made: Catalogue) -> None:
    """What is forbidden or forged, in fragments, behind extension headers, or by way of the gateway."""
    a1, a2, b1, gw = made.cast.a1, made.cast.a2, made.cast.b1, made.cast.gateway

    def six(destination: str, following: int, payload: bytes, *, mac: str = b1.mac, tag: bytes = b"") -> bytes:
        return ethernet(a1.mac, mac, 0x86DD, ipv6(a1.six, destination, following, payload), tag)

    def four(payload: bytes, offset: int, more: int, tag: bytes, source: str = a1.four) -> bytes:
        packet = ipv4(source, b1.four, 17, payload, fragment=(more << 13) | offset // 8)
        return ethernet(a1.mac, b1.mac, 0x0800, numbered(packet, 1000 + tag[-1]), tag if tag[0] else b"")

    forbidden, allowed = udp(ASKS, FORBIDDEN, bytes(16)), udp(ASKS, SERVICE, bytes(16))
    made.add("a forbidden port", "4", b1, None, lambda tag: four(forbidden, 0, 0, tag))
    made.add(
        "a forbidden port, by way of the gateway", "4", b1, None,
        lambda tag: ethernet(a1.mac, gw.mac, 0x0800, ipv4(a1.four, b1.four, 17, forbidden + tag)),
    )  # fmt: skip
    made.add(
        "a forbidden port, in fragments", "4", b1, None,
        lambda tag: four(forbidden, 0, 1, tag), lambda tag: four(bytes(16), 24, 0, tag),
    )  # fmt: skip
    made.add(
        "an allowed first fragment, overwritten with a forbidden port", "4", b1, (None, None, None),
        lambda tag: four(allowed, 0, 1, b"\0" + tag[-1:]), lambda tag: four(forbidden, 0, 1, tag),
        lambda tag: four(bytes(16), 24, 0, b"\0" + tag[-1:]),
    )  # fmt: skip
    made.add(
        "fragments under a2's address", "4", b1, ForgedKind.IPV4,
        lambda tag: four(allowed, 0, 1, tag, a2.four), lambda tag: four(bytes(16), 24, 0, tag, a2.four),
    )  # fmt: skip
    made.add(
        "a forbidden port behind options", "6", b1, None, lambda tag: six(b1.six, 60, extension(17) + forbidden + tag)
    )
    made.add(
        "a forbidden port behind six headers", "6", b1, ForgedKind.UNREADABLE,
        lambda tag: six(b1.six, 0, extension(60) + extension(60) * 6 + extension(17) + forbidden + tag),
    )  # fmt: skip
    made.add(
        "router advertisement behind options", "6", a2, ForgedKind.ROUTER_ADVERTISEMENT,
        lambda tag: ethernet(
            a1.mac, ALL_NODES_MAC, 0x86DD,
            ipv6(a1.local, ALL_NODES, 0, extension(58) + icmp6(a1.local, ALL_NODES, router(a1.mac))[3]), tag,
        ),
    )  # fmt: skip
    # The options reach into the second fragment, and the transport header with them.
    options = bytes([17, 1, 1, 12]) + bytes(12)
    whole = options + forbidden
    made.add(
        "a first fragment without its transport header", "6", b1, ForgedKind.UNREADABLE,
        lambda tag: six(b1.six, 44, fragment6(60, 0, 1, whole[:16]), tag=tag),
    )  # fmt: skip
    made.add(
        "a first fragment with a transport header behind its end", "6", b1, (ForgedKind.UNREADABLE, None),
        lambda tag: six(b1.six, 44, fragment6(60, 0, 1, whole[:8]), tag=options[8:] + allowed + tag),
        lambda tag: six(b1.six, 44, fragment6(60, 8, 0, whole[8:] + tag)),
    )  # fmt: skip
    made.add(
        "a later fragment alone", "6", b1, None, lambda tag: six(b1.six, 44, fragment6(17, 8, 0, forbidden + tag, 78))
    )
    made.add(
        "a SYN to a forbidden port behind a routing header", "6", b1, None,
        lambda tag: six(b1.six, 43, bytes([6, 0, 4, 0, 0, 0, 0, 0]) + tcp(4000, FORBIDDEN, 2) + tag),
    )  # fmt: skip
