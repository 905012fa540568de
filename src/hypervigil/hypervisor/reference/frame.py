"""Headers as the data plane reads them (``read_frame`` in ``bpf/hypervigil.bpf.c``). Pure."""

from dataclasses import dataclass

from hypervigil.model.traffic import TrafficClass

ETH_HLEN = 14
ARP, RARP, IPV4, IPV6 = 0x0806, 0x8035, 0x0800, 0x86DD
ICMP, UDP, ICMPV6 = 1, 17, 58
V4_MAPPED = bytes(10) + b"\xff\xff"
MAX_EXTENSIONS = 6

_ADVERTISEMENT = 134
_NOTHING = bytes(16)
_FRAGMENT, _AUTHENTICATION = 44, 51
_EXTENSIONS = frozenset({0, 43, 60, _FRAGMENT, _AUTHENTICATION})


@dataclass(slots=True)
class Frame:
    """One frame and what was read of it. What is cut off (``data`` shorter than ``length``) reads as zeros."""

    data: bytes
    length: int
    readable: bool = False
    """Whether every header that must be known could be read."""
    source: bytes = _NOTHING
    """16 bytes: an IPv6 address, an IPv4 address mapped into it, or a MAC after zeros."""
    destination: bytes = _NOTHING
    traffic: TrafficClass = TrafficClass.OTHER
    packets: int = 1
    """What a segment will be cut into."""
    octets: int = 0
    """All of them, each with its headers."""
    l4: int = 0
    """Where the transport header begins; 0: there is none to read."""
    ethertype: int = 0
    source_port: int = 0
    destination_port: int = 0
    protocol: int = 0
    icmp_type: int = 0
    ends: bool = False
    """Of TCP: it has a FIN."""
    fragment: bool = False
    fragment_id: bytes = bytes(4)
    """As it is in the header; IPv4's two bytes are followed by zeros."""
    multicast: bool = False
    source_mac: bytes = bytes(6)
    destination_mac: bytes = bytes(6)
    gso_size: int = 0
    """What it will be cut into, octets; 0: it is one packet."""
    vlan: bool = False
    """Whether it came with a VLAN tag, which the kernel has taken off."""
    ingress: int = 0
    """The device that it came from; 0: it began at this host."""
    unproven: bool = False
    """Its source has to prove its address first, so no conversation is begun by it."""

    def load(self, at: int, count: int) -> bytes | None:
        """So many bytes, or ``None`` where the frame is shorter."""
        if at + count > self.length:
            return None
        found = self.data[at : at + count]
        return found if len(found) == count else found.ljust(count, b"\0")

    @property
    def neighbour_discovery(self) -> bool:
        """Whether it is a message of IPv6 neighbour discovery."""
        return self.protocol == ICMPV6 and bool(self.l4) and 133 <= self.icmp_type <= 137

    @property
    def advertises_routes(self) -> bool:
        """Whether it is a router's advertisement."""
        return self.ethertype == IPV6 and self.neighbour_discovery and self.icmp_type == _ADVERTISEMENT


def read(data: bytes, length: int, *, gso_size: int = 0, vlan: bool = False, ingress: int = 0) -> Frame:
    """Read the headers of a frame of ``length`` bytes, of which ``data`` is what was kept."""
    frame = Frame(data, length, octets=length, gso_size=gso_size, vlan=vlan, ingress=ingress)
    frame.readable = _read(frame, gso_size)
    return frame


def _read(frame: Frame, gso_size: int) -> bool:
    ethernet = frame.load(0, ETH_HLEN)
    if ethernet is None:
        return False
    frame.destination_mac = ethernet[:6]
    frame.source_mac = ethernet[6:12]
    frame.ethertype = ethernet[12] << 8 | ethernet[13]
    frame.multicast = bool(ethernet[0] & 1)
    if frame.multicast:
        frame.traffic = TrafficClass.MULTICAST
    frame.destination = bytes(10) + frame.destination_mac
    frame.source = bytes(10) + frame.source_mac
    match frame.ethertype:
        case 0x0806:
            return _read_arp(frame)
        case 0x0800:
            header_end = _read_ipv4(frame)
        case 0x86DD:
            header_end = _read_ipv6(frame)
        case _:
            return True
    if header_end is None:
        return False
    if frame.traffic is not TrafficClass.ARP:
        if frame.multicast:
            frame.traffic = TrafficClass.MULTICAST
        elif frame.fragment:
            frame.traffic = TrafficClass.FRAGMENT
    if gso_size and frame.length > header_end:
        frame.packets = (frame.length - header_end + gso_size - 1) // gso_size
    frame.octets += (frame.packets - 1) * header_end
    return True


def _read_arp(frame: Frame) -> bool:
    frame.traffic = TrafficClass.ARP
    arp = frame.load(ETH_HLEN, 28)
    if arp is None:
        return False
    frame.source = V4_MAPPED + arp[14:18]
    frame.destination = V4_MAPPED + arp[24:28]
    return True


def _read_ipv4(frame: Frame) -> int | None:
    """Where the headers end, or ``None`` where they cannot be read."""
    ip = frame.load(ETH_HLEN, 20)
    if ip is None or ip[0] >> 4 != 4 or ip[0] & 15 < 5:
        return None
    frame.source = V4_MAPPED + ip[12:16]
    frame.destination = V4_MAPPED + ip[16:20]
    frame.protocol = ip[9]
    offset = ip[6] << 8 | ip[7]
    frame.fragment = bool(offset & 0x3FFF)
    frame.fragment_id = ip[4:6] + b"\0\0"
    frame.l4 = ETH_HLEN + (ip[0] & 15) * 4
    if offset & 0x1FFF:
        header_end, frame.l4 = frame.l4, 0
        return header_end
    return _within(frame, ETH_HLEN + (ip[2] << 8 | ip[3]))


def _read_ipv6(frame: Frame) -> int | None:
    ip = frame.load(ETH_HLEN, 40)
    if ip is None or ip[0] >> 4 != 6:
        return None
    frame.source = ip[8:24]
    frame.destination = ip[24:40]
    following, at = ip[6], ETH_HLEN + 40
    for _ in range(MAX_EXTENSIONS):
        if following not in _EXTENSIONS:
            break
        head = frame.load(at, 4)
        if head is None:
            return None
        if following == _FRAGMENT:
            frame.fragment = True
            frame.fragment_id = frame.load(at + 4, 4) or bytes(4)
            if (head[2] << 8 | head[3]) & 0xFFF8:
                return at + 8
            at += 8
        elif following == _AUTHENTICATION:
            at += (head[1] + 2) * 4
        else:
            at += (head[1] + 1) * 8
        following = head[0]
    if following in _EXTENSIONS:
        return None
    frame.protocol = following
    frame.l4 = at
    return _within(frame, ETH_HLEN + 40 + (ip[4] << 8 | ip[5]))


def _within(frame: Frame, end: int) -> int | None:
    """What lies behind a fragment's ``end`` is no part of what its receiver puts together."""
    needed = {6: 14, UDP: 8, ICMP: 4, ICMPV6: 4}.get(frame.protocol, 0)
    return None if frame.fragment and frame.l4 + needed > end else _transport(frame)


def _transport(frame: Frame) -> int | None:
    """Also a first fragment must hold its transport header (RFC 7112)."""
    match frame.protocol:
        case 6:
            head = frame.load(frame.l4, 14)
            if head is None:
                return None
            _ports(frame, head)
            frame.traffic = _tcp_class(head[13])
            frame.ends = bool(head[13] & 1)
            return frame.l4 + (head[12] >> 4) * 4
        case 17:
            head = frame.load(frame.l4, 8)
            if head is None:
                return None
            _ports(frame, head)
            dns = 53 in (frame.source_port, frame.destination_port)
            frame.traffic = TrafficClass.DNS if dns else TrafficClass.UDP
            return frame.l4 + 8
        case 1 | 58:
            head = frame.load(frame.l4, 4)
            if head is None:
                return None
            frame.icmp_type = head[0]
            frame.traffic = TrafficClass.ARP if frame.neighbour_discovery else TrafficClass.ICMP
            return frame.l4
    frame.traffic = TrafficClass.OTHER
    return frame.l4


def _ports(frame: Frame, head: bytes) -> None:
    frame.source_port = head[0] << 8 | head[1]
    frame.destination_port = head[2] << 8 | head[3]


def _tcp_class(flags: int) -> TrafficClass:
    if flags & 0x04:
        return TrafficClass.RST
    if flags & 0x12 == 0x12:
        return TrafficClass.SYNACK
    return TrafficClass.SYN if flags & 0x02 else TrafficClass.TCP
