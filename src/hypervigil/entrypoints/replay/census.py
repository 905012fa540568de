"""Who is in a capture: which MAC is a host's and which a router's, and which addresses are whose. Pure.

A packet that has not yet passed a router has the number of hops left that its sender began with. So a MAC whose packets
all do is a host's; one that also sends packets on their way is a router's, and who is behind it is not on this network.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_network

from hypervigil.entrypoints.replay.disputes import Disputes
from hypervigil.entrypoints.replay.links import NOBODY, Seen
from hypervigil.hypervisor.reference.frame import V4_MAPPED

FIRST_HOPS = frozenset({32, 64, 128, 255})
"""What systems send packets with."""
MAX_KNOWN = 200_000
"""Addresses that are remembered; a flood may bring any number."""
MANY_ADDRESSES = 8
"""A MAC that gets frames for more addresses than this is a router's."""

_PRIVATE: tuple[IPv4Network | IPv6Network, ...] = tuple(
    ip_network(net) for net in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8", "fc00::/7", "::1/128")
)
_DHCP, _DHCPV6 = (67, 68), (547, 546)


@dataclass(slots=True)
class Known:
    """One address."""

    sent: int = 0
    got: int = 0
    mac: bytes = NOBODY
    """Who was first to send with it, having it himself; else who was first to pass it on, or to be sent to for it."""
    own: bool = False
    """Whether that MAC has it itself: it claimed it by ARP, or sent with all hops left."""
    private: bool = False
    outgoing: bool = False


@dataclass(slots=True)
class Card:
    """One MAC: the addresses that it has, passes on, and is sent to for."""

    network: int
    sent: int = 0
    at_hand: dict[bytes, None] = field(default_factory=dict)
    """Addresses it sends with all hops left."""
    claimed: dict[bytes, None] = field(default_factory=dict)
    """Of these, those that it says by ARP to have."""
    passed_on: set[bytes] = field(default_factory=set)
    asked_for: set[bytes] = field(default_factory=set)

    @property
    def crowd(self) -> bool:
        """Whether it answers for many: something that sets the hops anew, as translators do, hides others behind it."""
        return len(self.asked_for & self.at_hand.keys()) > MANY_ADDRESSES

    @property
    def own(self) -> dict[bytes, None]:
        """The addresses that it has itself, the first seen first."""
        return self.claimed if self.crowd else self.at_hand

    @property
    def router(self) -> bool:
        """Whether it sends for others, or takes for many."""
        return bool(self.passed_on) or self.crowd or (not self.sent and len(self.asked_for) > MANY_ADDRESSES)


class Census:
    """Everybody seen."""

    def __init__(self) -> None:
        self.addresses: dict[bytes, Known] = {}
        self.cards: dict[bytes, Card] = {}
        self.dhcp_servers: dict[int, bytes] = {}
        self.advertisers: dict[int, bytes] = {}
        """By network, who was first to serve and to advertise routes: taken for whom the policy would name."""
        self.real = False
        """Whether anything was Ethernet."""
        self.unknown = 0
        self.disputes = Disputes()

    def see(self, one: Seen, at_ns: int = 0) -> None:
        """Take in one frame."""
        self.real |= one.real
        pair = one.addresses
        if pair is None:
            return
        source, destination = pair
        own = one.arp or one.hops_left in FIRST_HOPS or bool(one.destination_mac[0] & 1)
        if any(source[12:] if source.startswith(V4_MAPPED) else source):
            self._sent(one, source, own=own)
        self.disputes.see(one, at_ns, first_hand=own)
        if not one.arp and not one.destination_mac[0] & 1:
            self._got(one, destination)
        if one.real:
            self._served(one)

    def _address(self, address: bytes) -> Known | None:
        known = self.addresses.get(address)
        if known is None:
            if len(self.addresses) >= MAX_KNOWN:
                self.unknown += 1
                return None
            known = self.addresses[address] = Known(private=private(address))
        return known

    def _sent(self, one: Seen, source: bytes, *, own: bool) -> None:
        known = self._address(source)
        if known is None:
            return
        known.sent += 1
        known.outgoing |= one.outgoing
        mac = one.source_mac
        if own and not known.own:
            known.own, known.mac = True, mac
        elif known.mac == NOBODY:
            known.mac = mac
        if not one.real:
            return
        card = self.cards.setdefault(mac, Card(one.network))
        card.sent += 1
        if not own:
            if source not in card.at_hand:
                card.passed_on.add(source)
        elif known.mac == mac:
            card.at_hand.setdefault(source)
            card.passed_on.discard(source)
            if one.arp:
                card.claimed.setdefault(source)

    def _got(self, one: Seen, destination: bytes) -> None:
        known = self._address(destination)
        if known is None:
            return
        known.got += 1
        if known.mac == NOBODY:
            known.mac = one.destination_mac
        if one.real and len(self.cards) < MAX_KNOWN:
            card = self.cards.setdefault(one.destination_mac, Card(one.network))
            if len(card.asked_for) <= MANY_ADDRESSES or destination in card.at_hand:
                card.asked_for.add(destination)

    def _served(self, one: Seen) -> None:
        frame, ports = one.frame, b""
        if one.ethertype == b"\x08\x00" and len(frame) >= 24 and frame[23] == 17:
            at = 14 + (frame[14] & 15) * 4
            ports = frame[at : at + 4]
        elif one.ethertype == b"\x86\xdd" and len(frame) >= 58:
            if frame[20] == 17:
                ports = frame[54:58]
            elif frame[20] == 58 and frame[54] == 134:
                self.advertisers.setdefault(one.network, one.source_mac)
        if len(ports) == 4 and (ports[0] << 8 | ports[1], ports[2] << 8 | ports[3]) in {_DHCP, _DHCPV6}:
            self.dhcp_servers.setdefault(one.network, one.source_mac)


def private(address: bytes) -> bool:
    """Whether it is an address of a private network."""
    one = IPv6Address(address)
    found = one.ipv4_mapped or one
    return any(found in net for net in _PRIVATE if net.version == found.version)


def best_first(addresses: Iterable[bytes]) -> list[bytes]:
    """Addresses in the order in which people would name a host by them."""
    return sorted(addresses, key=_rank)


def _rank(address: bytes) -> tuple[bool, bool, bool]:
    v4 = address.startswith(V4_MAPPED)
    return not v4, not private(address), address[:2] == b"\xfe\x80"


def text(address: bytes) -> str:
    """An address as people write it."""
    one = IPv6Address(address)
    return str(one.ipv4_mapped or one)
