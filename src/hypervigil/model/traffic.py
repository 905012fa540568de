"""Traffic as headers show it: classes, directions, kinds of forgery. The numbers are the data plane's array indices."""

from enum import IntEnum


class Direction(IntEnum):
    """Seen from the VM."""

    OUT = 0
    IN = 1


class TrafficClass(IntEnum):
    """What a frame is, by its headers; a frame has exactly one class, the first of its kind in ``ORDER_OF_CHOICE``.

    ``DNS`` is UDP or TCP-less port 53 on either side; ``ARP`` includes IPv6 neighbour discovery; ``FRAGMENT`` is any
    IPv4 fragment or IPv6 fragment header; ``MULTICAST`` is a group or broadcast destination MAC that is not ARP.
    """

    SYN = 0
    SYNACK = 1
    RST = 2
    TCP = 3
    DNS = 4
    UDP = 5
    ICMP = 6
    ARP = 7
    FRAGMENT = 8
    MULTICAST = 9
    OTHER = 10


ORDER_OF_CHOICE = (
    TrafficClass.ARP,
    TrafficClass.MULTICAST,
    TrafficClass.FRAGMENT,
    TrafficClass.SYN,
    TrafficClass.SYNACK,
    TrafficClass.RST,
    TrafficClass.TCP,
    TrafficClass.DNS,
    TrafficClass.UDP,
    TrafficClass.ICMP,
    TrafficClass.OTHER,
)


class DenialKind(IntEnum):
    """Why a frame that is its sender's to send did not cross the port where it was decided (enforce mode)."""

    STRANGER = 0
    """Nobody honest can be at the other end, or it cannot be read."""
    PATH = 1
    """No allowed path, and no answer to anything."""
    FLOODED = 2
    """On its way to a port that it is not for: flooded by the bridge, or a question to somebody else."""
    BUDGET = 3
    BROADCAST = 4
    """Beyond the budget of frames to groups."""


class ForgedKind(IntEnum):
    """Why a frame was not the VM's to send (or nobody's): each is dropped at the port it comes from in enforce mode."""

    MAC = 0
    IPV4 = 1
    IPV6 = 2
    ARP = 3
    ND = 4
    DHCP_SERVER = 5
    ROUTER_ADVERTISEMENT = 6
    VLAN = 7
    ETHERTYPE = 8
    UNREADABLE = 9

    @property
    def words(self) -> str:
        """What is forged."""
        return _FORGED[self]


_FORGED = {
    ForgedKind.MAC: "MAC",
    ForgedKind.IPV4: "IPv4 sender",
    ForgedKind.IPV6: "IPv6 sender",
    ForgedKind.ARP: "ARP sender",
    ForgedKind.ND: "neighbour advertisement",
    ForgedKind.DHCP_SERVER: "DHCP server's reply",
    ForgedKind.ROUTER_ADVERTISEMENT: "router advertisement",
    ForgedKind.VLAN: "VLAN tag",
    ForgedKind.ETHERTYPE: "ethertype",
    ForgedKind.UNREADABLE: "or unreadable header",
}
