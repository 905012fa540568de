"""Whether a frame is its port's to send (``forged`` in ``bpf/hypervigil.bpf.c``). Pure."""

from collections.abc import Callable
from dataclasses import dataclass

from hypervigil.hypervisor.reference.frame import ETH_HLEN, ICMP, ICMPV6, UDP, Frame
from hypervigil.model.traffic import ForgedKind

_ROUTER_ADVERTISEMENT, _SOLICITATION, _ADVERTISEMENT, _REDIRECT = 134, 135, 136, 137
_TAGGED = frozenset({0x8100, 0x88A8})
_ETHERNET_ARP = bytes.fromhex("00010800")
_DHCP, _DHCPV6 = 67, 547

Owns = Callable[[bytes], bool]


@dataclass(frozen=True, slots=True)
class Identity:
    """What one port may send."""

    mac: bytes
    addresses: frozenset[bytes]
    """Empty where only the MAC is bound."""
    may_serve_dhcp: bool = False
    may_advertise_routes: bool = False

    def forgery(self, frame: Frame, owns: Owns) -> ForgedKind | None:
        """Why the frame is not this port's to send, or ``None`` when it is.

        ``owns`` says whether a link-local address that is not given to the port is its own all the same.
        """
        if not frame.readable:
            return ForgedKind.UNREADABLE
        if frame.vlan or frame.ethertype in _TAGGED:
            return ForgedKind.VLAN
        if frame.source_mac != self.mac:
            return ForgedKind.MAC
        match frame.ethertype:
            case 0x0806:
                return self._arp(frame)
            case 0x0800:
                return self._ipv4(frame)
            case 0x86DD:
                return self._ipv6(frame, owns)
        return ForgedKind.ETHERTYPE

    def _foreign(self, address: bytes) -> bool:
        return bool(self.addresses) and address not in self.addresses

    def _foreign_v6(self, address: bytes, owns: Owns) -> bool:
        if link_local(address):
            return address != _of_mac(self.mac) and address not in self.addresses and not owns(address)
        return self._foreign(address)

    def _arp(self, frame: Frame) -> ForgedKind | None:
        arp = frame.load(ETH_HLEN, 28)
        if arp is None:
            return ForgedKind.UNREADABLE
        if arp[:4] != _ETHERNET_ARP or arp[8:14] != self.mac:
            return ForgedKind.ARP
        return ForgedKind.ARP if any(frame.source[12:]) and self._foreign(frame.source) else None

    def _ipv4(self, frame: Frame) -> ForgedKind | None:
        datagram = frame.protocol == UDP and bool(frame.l4)
        if not any(frame.source[12:]):
            if not (datagram and frame.source_port == 68 and frame.destination_port == _DHCP):
                return ForgedKind.IPV4
        elif self._foreign(frame.source):
            return ForgedKind.IPV4
        if datagram and frame.source_port == _DHCP and not self.may_serve_dhcp:
            return ForgedKind.DHCP_SERVER
        if frame.protocol == ICMP and frame.l4 and frame.icmp_type == 5 and not self.may_advertise_routes:
            return ForgedKind.ROUTER_ADVERTISEMENT
        return None

    def _ipv6(self, frame: Frame, owns: Owns) -> ForgedKind | None:
        if frame.neighbour_discovery:
            kind = self._discovery(frame, owns)
            if kind is not None:
                return kind
        if frame.protocol == UDP and frame.l4 and frame.source_port == _DHCPV6 and not self.may_serve_dhcp:
            return ForgedKind.DHCP_SERVER
        if not any(frame.source):
            return None if frame.protocol == ICMPV6 else ForgedKind.IPV6
        return ForgedKind.IPV6 if self._foreign_v6(frame.source, owns) else None

    def _discovery(self, frame: Frame, owns: Owns) -> ForgedKind | None:
        if frame.icmp_type in (_ROUTER_ADVERTISEMENT, _REDIRECT):
            return None if self.may_advertise_routes else ForgedKind.ROUTER_ADVERTISEMENT
        if frame.icmp_type == _ADVERTISEMENT:
            target = frame.load(frame.l4 + 8, 16)
            if target is None:
                return ForgedKind.UNREADABLE
            if self._foreign_v6(target, owns):
                return ForgedKind.ND
        if frame.icmp_type == _SOLICITATION and not any(frame.source):
            target = frame.load(frame.l4 + 8, 16)
            if target is not None and link_local(target):
                self._foreign_v6(target, owns)  # it is about to be used
        if frame.icmp_type in (_SOLICITATION, _ADVERTISEMENT):
            option = frame.load(frame.l4 + 24, 8)
            if option is not None and option[0] in (1, 2) and option[2:] != self.mac:
                return ForgedKind.ND
        return None


def link_local(address: bytes) -> bool:
    """Whether 16 bytes are an address that means nothing beyond its segment."""
    return address[0] == 0xFE and address[1] & 0xC0 == 0x80


def _of_mac(mac: bytes) -> bytes:
    """The link-local address that follows from a MAC (RFC 4291, modified EUI-64)."""
    return b"\xfe\x80" + bytes(6) + bytes([mac[0] ^ 2]) + mac[1:3] + b"\xff\xfe" + mac[3:]
