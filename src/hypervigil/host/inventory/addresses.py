"""Who is at the other end of a frame: MAC and address to VM. Pure."""

from ipaddress import ip_address

from hypervigil.host.inventory.claims import settle
from hypervigil.model.ids import OUTSIDE, VmId
from hypervigil.model.policy import Policy
from hypervigil.model.vm import Inventory


class AddressBook:
    """The owner of each MAC and address of the running VMs; one book that all readers share, updated in place."""

    def __init__(self) -> None:
        self._macs: dict[str, VmId] = {}
        self._addresses: dict[str, VmId] = {}

    def update(self, inventory: Inventory, policy: Policy) -> None:
        """These VMs run now, under this policy."""
        claims = settle(inventory, policy)
        owners = [(nic.port, vm) for vm, nics in claims.nics.items() for nic in nics]
        self._macs = {str(port): vm for port, vm in owners}
        self._addresses = {
            address: vm
            for port, vm in owners
            for address in (*claims.granted.get(port, ()), *claims.leased.get(port, ()))
        }

    def owner(self, address: str, mac: str = "") -> VmId:
        """The VM that a frame with this other end goes to or comes from; ``OUTSIDE`` when it is none of ours.

        The MAC goes first: it says who really gets a frame on the segment, and a sender that forges an address mostly
        keeps its own MAC. A routed frame has a router's MAC, which is no VM's, and the address decides.
        """
        return self._macs.get(mac) or self._addresses.get(address) or self._addresses.get(_canonical(address), OUTSIDE)


def _canonical(address: str) -> str:
    try:
        return str(ip_address(address))
    except ValueError:
        return address
