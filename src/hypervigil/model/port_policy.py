"""The three network layers compiled for one port: all that the data plane needs to know of it."""

from dataclasses import dataclass
from ipaddress import ip_address

from hypervigil.model.ids import PortId, VmId
from hypervigil.model.policy import Mode


@dataclass(frozen=True, slots=True)
class PortPolicy:
    """What one NIC may send and whether we act on it.

    With ``addresses`` empty only the MAC is bound (and ARP's sender MAC); that is reported, because it is weaker.
    """

    port: PortId
    vm: VmId
    interface: str
    ifindex: int
    mode: Mode
    addresses: tuple[str, ...] = ()
    quarantine_allows: tuple[str, ...] = ()
    may_serve_dhcp: bool = False
    may_advertise_routes: bool = False

    def __post_init__(self) -> None:
        for address in (*self.addresses, *self.quarantine_allows):
            ip_address(address)
        if self.ifindex <= 0:
            raise ValueError(f"port {self.port}: interface {self.interface} has no index; is it there?")
