"""Whether a frame is its port's to send (``forged`` in ``bpf/hypervigil.bpf.c``). Pure."""

from collections.abc import Callable
from dataclasses import dataclass

from hypervigil.hypervisor.reference.frame import ARP, ETH_HLEN, ICMP, ICMPV6, IPV6, RARP, UDP, Frame
from hypervigil.hypervisor.reference.leases import Leasing, of_dhcp
from hypervigil.model.traffic import Direction, ForgedKind

_ROUTER_SOLICITATION, _ROUTER_ADVERTISEMENT, _SOLICITATION, _ADVERTISEMENT, _REDIRECT = 133, 134, 135, 136, 137
_TAGGED = frozenset({0x8100, 0x88A8})
_ETHERNET_ARP = bytes.fromhex("00010800")
_DHCP, _DHCPV6 = (67, 68), (547, 546)
"""A server's port and a client's: who sends from the one or to the other serves."""

Owns = Callable[[bytes], bool]
Others = Callable[[bytes], bool]
Leased = Callable[[bytes], bool]
Asks = Callable[[Frame], bool]


@dataclass(frozen=True, slots=True)
class Identity:
    """What one port may send."""

    mac: bytes
    addresses: frozenset[bytes]
    """Empty where only the MAC is bound, or all that it may use is leased."""
    may_serve_dhcp: bool = False
    may_advertise_routes: bool = False
    unchecked: frozenset[ForgedKind] = frozenset()
    """Kinds of forgery that the policy makes this port's business."""
    pairs: tuple[tuple[bytes, bytes], ...] = ()
    """Addresses that others may have too, each with the MAC that comes with it."""
    leasing: Leasing | None = None
    """Who may lease it addresses besides."""

    def forgery(self, frame: Frame, owns: Owns, leased: Leased, asks: Asks) -> ForgedKind | None:
        """Why the frame is not this port's to send, or ``None`` when it is.

        ``owns`` says whether a link-local address that is not given to the port is its own all the same, ``leased``
        whether DHCP gave it one, ``asks`` whether what it asks of a DHCP server is understood and in its own name.
        """
        if not frame.readable:
            return ForgedKind.UNREADABLE
        if (frame.vlan or frame.ethertype in _TAGGED) and ForgedKind.VLAN not in self.unchecked:
            return ForgedKind.VLAN
        foreign = frame.source_mac != self.mac and not self._paired(frame, frame.source)
        if foreign and ForgedKind.MAC not in self.unchecked:
            return ForgedKind.MAC
        match frame.ethertype:
            case 0x0806:
                return self._arp(frame, leased)
            case 0x0800:
                return self._ipv4(frame, leased, asks)
            case 0x86DD:
                return self._ipv6(frame, owns, leased)
            case 0x8035 if self._announces(frame):
                return None
        return None if ForgedKind.ETHERTYPE in self.unchecked else ForgedKind.ETHERTYPE

    def none_of_its_business(self, frame: Frame, others: Others, leased: Leased) -> bool:
        """Whether a frame on its way to the port was flooded by the bridge, or is a question to somebody else.

        ``others`` says whether a link-local address that is not given to the port is known to be somebody else's.
        """
        if frame.ethertype == RARP:
            return ForgedKind.MAC not in self.unchecked
        if not frame.multicast:
            mine = frame.destination_mac == self.mac or any(frame.destination_mac == mac for _, mac in self.pairs)
            return not mine and ForgedKind.MAC not in self.unchecked
        if frame.ethertype == IPV6 and frame.neighbour_discovery:
            if frame.icmp_type == _SOLICITATION:
                return self._asks_another(frame, others, leased)
            return frame.icmp_type == _ROUTER_SOLICITATION and not self.may_advertise_routes
        question = frame.ethertype == ARP and frame.source != frame.destination
        return question and not self.pairs and self._foreign(frame, frame.destination, leased)

    def _asks_another(self, frame: Frame, others: Others, leased: Leased) -> bool:
        """Whether a question about an IPv6 address is not this port's to answer."""
        target = frame.load(frame.l4 + 8, 16)
        if target is None:
            return True
        if self.pairs or target in self.addresses:
            return False
        if not link_local(target):
            return self._foreign(frame, target, leased)
        return not self._given(target) and others(target)

    def _paired(self, frame: Frame, address: bytes) -> bool:
        """Whether the address may come with the frame's MAC, which others may have too."""
        return any(
            mac == frame.source_mac and (shared == address or address in self.addresses) for shared, mac in self.pairs
        )

    def _foreign(self, frame: Frame, address: bytes, leased: Leased) -> bool:
        bound = bool(self.addresses) or self.leasing is not None
        if not bound or address in self.addresses or self._paired(frame, address):
            return False
        return self.leasing is None or not leased(address)

    def _foreign_mac(self, frame: Frame, mac: bytes) -> bool:
        """The frame's own MAC was checked already: it is the port's, or one that was given to it."""
        return mac != self.mac and not (self.pairs and mac == frame.source_mac)

    def _foreign_v6(self, frame: Frame, address: bytes, owns: Owns, leased: Leased) -> bool:
        if not link_local(address):
            return self._foreign(frame, address, leased)
        return not (self._paired(frame, address) or self._given(address) or owns(address))

    def _given(self, address: bytes) -> bool:
        """Whether a link-local address is the port's own without its doing."""
        return address == _of_mac(self.mac) or address in self.addresses

    def _announces(self, frame: Frame) -> bool:
        """Whether it is what a hypervisor tells switches in the name of a VM that comes from another host (RFC 903)."""
        announced = b"".join((_ETHERNET_ARP, b"\0\3", self.mac, bytes(4), self.mac, bytes(4)))
        told = frame.load(ETH_HLEN, 28)
        everybody = frame.destination_mac == b"\xff" * 6
        return everybody and told is not None and told[:4] + told[6:] == announced

    def _arp(self, frame: Frame, leased: Leased) -> ForgedKind | None:
        arp = frame.load(ETH_HLEN, 28)
        if arp is None:
            return ForgedKind.UNREADABLE
        if arp[:4] != _ETHERNET_ARP:
            return ForgedKind.ARP
        if ForgedKind.ARP in self.unchecked:
            return None
        if self._foreign_mac(frame, arp[8:14]):
            return ForgedKind.ARP
        if any(frame.source[12:]):
            return ForgedKind.ARP if self._foreign(frame, frame.source, leased) else None
        # Who asks whether an address is free (RFC 5227) takes it as much as who speaks from it.
        takes = ForgedKind.IPV4 not in self.unchecked and self._foreign(frame, frame.destination, leased)
        return ForgedKind.IPV4 if takes else None

    def _ipv4(self, frame: Frame, leased: Leased, asks: Asks) -> ForgedKind | None:
        datagram = frame.protocol == UDP and bool(frame.l4)
        if not any(frame.source[12:]):
            asking = datagram and frame.source_port == 68 and frame.destination_port == _DHCP[0]
            if not asking and ForgedKind.IPV4 not in self.unchecked:
                return ForgedKind.IPV4
        elif self._foreign(frame, frame.source, leased) and ForgedKind.IPV4 not in self.unchecked:
            return ForgedKind.IPV4
        if datagram and _serves(frame, _DHCP) and not self.may_serve_dhcp:
            return ForgedKind.DHCP_SERVER
        request = self.leasing is not None and self.leasing.servers and of_dhcp(frame, Direction.OUT)
        if request and not asks(frame) and ForgedKind.MAC not in self.unchecked:
            return ForgedKind.MAC
        if frame.protocol == ICMP and frame.l4 and frame.icmp_type == 5 and not self.may_advertise_routes:
            return ForgedKind.ROUTER_ADVERTISEMENT
        return None

    def _ipv6(self, frame: Frame, owns: Owns, leased: Leased) -> ForgedKind | None:
        if frame.neighbour_discovery:
            kind = self._discovery(frame, owns, leased)
            if kind is not None:
                return kind
        if frame.protocol == UDP and frame.l4 and _serves(frame, _DHCPV6) and not self.may_serve_dhcp:
            return ForgedKind.DHCP_SERVER
        if not any(frame.source):
            return None if frame.protocol == ICMPV6 or ForgedKind.IPV6 in self.unchecked else ForgedKind.IPV6
        if ForgedKind.IPV6 in self.unchecked:
            return None
        return ForgedKind.IPV6 if self._foreign_v6(frame, frame.source, owns, leased) else None

    def _discovery(self, frame: Frame, owns: Owns, leased: Leased) -> ForgedKind | None:
        if frame.icmp_type in (_ROUTER_ADVERTISEMENT, _REDIRECT):
            return None if self.may_advertise_routes else ForgedKind.ROUTER_ADVERTISEMENT
        if ForgedKind.ND in self.unchecked:
            return None
        # Who asks whether an address is free (RFC 4862) takes it as much as who speaks from it.
        takes = frame.icmp_type == _SOLICITATION and not any(frame.source)
        if takes or frame.icmp_type == _ADVERTISEMENT:
            target = frame.load(frame.l4 + 8, 16)
            if target is None:
                return ForgedKind.UNREADABLE
            kind = ForgedKind.IPV6 if takes else ForgedKind.ND
            if self._foreign_v6(frame, target, owns, leased) and (not takes or kind not in self.unchecked):
                return kind
        if frame.icmp_type in (_SOLICITATION, _ADVERTISEMENT):
            option = frame.load(frame.l4 + 24, 8)
            if option is not None and option[0] in (1, 2) and self._foreign_mac(frame, option[2:]):
                return ForgedKind.ND
        return None


def link_local(address: bytes) -> bool:
    """Whether 16 bytes are an address that means nothing beyond its segment."""
    return address[0] == 0xFE and address[1] & 0xC0 == 0x80


def _of_mac(mac: bytes) -> bytes:
    """The link-local address that follows from a MAC (RFC 4291, modified EUI-64)."""
    return b"\xfe\x80" + bytes(6) + bytes([mac[0] ^ 2]) + mac[1:3] + b"\xff\xfe" + mac[3:]


def _serves(frame: Frame, ports: tuple[int, int]) -> bool:
    return frame.source_port == ports[0] or frame.destination_port == ports[1]
