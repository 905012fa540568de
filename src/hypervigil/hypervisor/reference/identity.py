"""Whether a frame is its port's to send (``forged`` in ``bpf/hypervigil.bpf.c``). Pure."""

from dataclasses import dataclass

from hypervigil.hypervisor.reference.frame import ARP, ETH_HLEN, ICMP, ICMPV6, UDP, Frame
from hypervigil.model.traffic import ForgedKind

_ROUTER_ADVERTISEMENT, _SOLICITATION, _ADVERTISEMENT, _REDIRECT = 134, 135, 136, 137
_TAGGED = frozenset({0x8100, 0x88A8})
_ETHERNET_ARP = bytes.fromhex("00010800")
_DHCP, _DHCPV6 = 67, 547


@dataclass(frozen=True, slots=True)
class Identity:
    """What one port may send."""

    mac: bytes
    addresses: frozenset[bytes]
    """Empty where only the MAC is bound."""
    may_serve_dhcp: bool = False
    may_advertise_routes: bool = False
    unchecked: frozenset[ForgedKind] = frozenset()
    """Kinds of forgery that the policy makes this port's business."""
    pairs: tuple[tuple[bytes, bytes], ...] = ()
    """Addresses that others may have too, each with the MAC that comes with it."""

    def forgery(self, frame: Frame) -> ForgedKind | None:
        """Why the frame is not this port's to send, or ``None`` when it is."""
        if not frame.readable:
            return ForgedKind.UNREADABLE
        if (frame.vlan or frame.ethertype in _TAGGED) and ForgedKind.VLAN not in self.unchecked:
            return ForgedKind.VLAN
        foreign = frame.source_mac != self.mac and not self._paired(frame, frame.source)
        if foreign and ForgedKind.MAC not in self.unchecked:
            return ForgedKind.MAC
        match frame.ethertype:
            case 0x0806:
                return self._arp(frame)
            case 0x0800:
                return self._ipv4(frame)
            case 0x86DD:
                return self._ipv6(frame)
        return None if ForgedKind.ETHERTYPE in self.unchecked else ForgedKind.ETHERTYPE

    def none_of_its_business(self, frame: Frame) -> bool:
        """Whether a frame on its way to the port was flooded by the bridge, or is a question to somebody else."""
        if not frame.multicast:
            mine = frame.destination_mac == self.mac or any(frame.destination_mac == mac for _, mac in self.pairs)
            return not mine and ForgedKind.MAC not in self.unchecked
        question = frame.ethertype == ARP and frame.source != frame.destination
        return question and bool(self.addresses) and frame.destination not in self.addresses and not self.pairs

    def _paired(self, frame: Frame, address: bytes) -> bool:
        """Whether the address may come with the frame's MAC, which others may have too."""
        return any(
            mac == frame.source_mac and (shared == address or address in self.addresses) for shared, mac in self.pairs
        )

    def _foreign(self, frame: Frame, address: bytes) -> bool:
        return bool(self.addresses) and address not in self.addresses and not self._paired(frame, address)

    def _foreign_mac(self, frame: Frame, mac: bytes) -> bool:
        """The frame's own MAC was checked already: it is the port's, or one that was given to it."""
        return mac != self.mac and not (self.pairs and mac == frame.source_mac)

    def _arp(self, frame: Frame) -> ForgedKind | None:
        arp = frame.load(ETH_HLEN, 28)
        if arp is None:
            return ForgedKind.UNREADABLE
        if arp[:4] != _ETHERNET_ARP:
            return ForgedKind.ARP
        if ForgedKind.ARP in self.unchecked:
            return None
        if self._foreign_mac(frame, arp[8:14]):
            return ForgedKind.ARP
        return ForgedKind.ARP if any(frame.source[12:]) and self._foreign(frame, frame.source) else None

    def _ipv4(self, frame: Frame) -> ForgedKind | None:
        datagram = frame.protocol == UDP and bool(frame.l4)
        if not any(frame.source[12:]):
            asks = datagram and frame.source_port == 68 and frame.destination_port == _DHCP
            if not asks and ForgedKind.IPV4 not in self.unchecked:
                return ForgedKind.IPV4
        elif self._foreign(frame, frame.source) and ForgedKind.IPV4 not in self.unchecked:
            return ForgedKind.IPV4
        if datagram and frame.source_port == _DHCP and not self.may_serve_dhcp:
            return ForgedKind.DHCP_SERVER
        if frame.protocol == ICMP and frame.l4 and frame.icmp_type == 5 and not self.may_advertise_routes:
            return ForgedKind.ROUTER_ADVERTISEMENT
        return None

    def _ipv6(self, frame: Frame) -> ForgedKind | None:
        if frame.neighbour_discovery:
            kind = self._discovery(frame)
            if kind is not None:
                return kind
        if frame.protocol == UDP and frame.l4 and frame.source_port == _DHCPV6 and not self.may_serve_dhcp:
            return ForgedKind.DHCP_SERVER
        if not any(frame.source):
            return None if frame.protocol == ICMPV6 or ForgedKind.IPV6 in self.unchecked else ForgedKind.IPV6
        foreign = not link_local(frame.source) and self._foreign(frame, frame.source)
        if foreign and ForgedKind.IPV6 not in self.unchecked:
            return ForgedKind.IPV6
        return None

    def _discovery(self, frame: Frame) -> ForgedKind | None:
        if frame.icmp_type in (_ROUTER_ADVERTISEMENT, _REDIRECT):
            return None if self.may_advertise_routes else ForgedKind.ROUTER_ADVERTISEMENT
        if ForgedKind.ND in self.unchecked:
            return None
        if frame.icmp_type == _ADVERTISEMENT:
            target = frame.load(frame.l4 + 8, 16)
            if target is None:
                return ForgedKind.UNREADABLE
            if not link_local(target) and self._foreign(frame, target):
                return ForgedKind.ND
        if frame.icmp_type in (_SOLICITATION, _ADVERTISEMENT):
            option = frame.load(frame.l4 + 24, 8)
            if option is not None and option[0] in (1, 2) and self._foreign_mac(frame, option[2:]):
                return ForgedKind.ND
        return None


def link_local(address: bytes) -> bool:
    """Whether 16 bytes are an IPv6 address that means something on one link only."""
    return address[0] == 0xFE and address[1] & 0xC0 == 0x80
