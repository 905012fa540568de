"""Whether a frame is its port's to send (``forged`` in ``bpf/hypervigil.bpf.c``). Pure."""

from dataclasses import dataclass

from hypervigil.hypervisor.reference.frame import ETH_HLEN, ICMP, ICMPV6, UDP, Frame
from hypervigil.model.traffic import ForgedKind

_ROUTER_ADVERTISEMENT, _SOLICITATION, _ADVERTISEMENT, _REDIRECT = 134, 135, 136, 137
_TAGGED = frozenset({0x8100, 0x88A8})
_ETHERNET_ARP = bytes.fromhex("00010800")
_DHCP, _DHCPV6 = (67, 68), (547, 546)
"""A server's port and a client's: who sends from the one or to the other serves."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What one port may send."""

    mac: bytes
    addresses: frozenset[bytes]
    """Empty where only the MAC is bound."""
    may_serve_dhcp: bool = False
    may_advertise_routes: bool = False

    def forgery(self, frame: Frame) -> ForgedKind | None:
        """Why the frame is not this port's to send, or ``None`` when it is."""
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
                return self._ipv6(frame)
        return ForgedKind.ETHERTYPE

    def _foreign(self, address: bytes) -> bool:
        return bool(self.addresses) and address not in self.addresses

    def _another(self, address: bytes, frame: Frame) -> bool:
        """Whether an IPv6 address is somebody else's: not bound, or link-local and made of another MAC (RFC 4291)."""
        if not (address[0] == 0xFE and address[1] & 0xC0 == 0x80):
            return self._foreign(address)
        mac = frame.source_mac
        mine = bytes([mac[0] ^ 2]) + mac[1:3] + b"\xff\xfe" + mac[3:]
        return address[11:13] == b"\xff\xfe" and address[8:] != mine

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
            if not (datagram and frame.source_port == 68 and frame.destination_port == _DHCP[0]):
                return ForgedKind.IPV4
        elif self._foreign(frame.source):
            return ForgedKind.IPV4
        if datagram and _serves(frame, _DHCP) and not self.may_serve_dhcp:
            return ForgedKind.DHCP_SERVER
        if frame.protocol == ICMP and frame.l4 and frame.icmp_type == 5 and not self.may_advertise_routes:
            return ForgedKind.ROUTER_ADVERTISEMENT
        return None

    def _ipv6(self, frame: Frame) -> ForgedKind | None:
        if frame.neighbour_discovery:
            kind = self._discovery(frame)
            if kind is not None:
                return kind
        if frame.protocol == UDP and frame.l4 and _serves(frame, _DHCPV6) and not self.may_serve_dhcp:
            return ForgedKind.DHCP_SERVER
        if not any(frame.source):
            return None if frame.protocol == ICMPV6 else ForgedKind.IPV6
        return ForgedKind.IPV6 if self._another(frame.source, frame) else None

    def _discovery(self, frame: Frame) -> ForgedKind | None:
        if frame.icmp_type in (_ROUTER_ADVERTISEMENT, _REDIRECT):
            return None if self.may_advertise_routes else ForgedKind.ROUTER_ADVERTISEMENT
        if frame.icmp_type == _ADVERTISEMENT or (frame.icmp_type == _SOLICITATION and not any(frame.source)):
            target = frame.load(frame.l4 + 8, 16)
            if target is None:
                return ForgedKind.UNREADABLE
            if self._another(target, frame):
                return ForgedKind.ND if frame.icmp_type == _ADVERTISEMENT else ForgedKind.IPV6
        if frame.icmp_type in (_SOLICITATION, _ADVERTISEMENT):
            option = frame.load(frame.l4 + 24, 8)
            if option is not None and option[0] in (1, 2) and option[2:] != self.mac:
                return ForgedKind.ND
        return None


def _serves(frame: Frame, ports: tuple[int, int]) -> bool:
    return frame.source_port == ports[0] or frame.destination_port == ports[1]
