"""Which VM owns which port and address, from libvirt and policy. Pure; what a guest says never gets in here."""

from hypervigil.host.inventory.addresses import AddressBook
from hypervigil.host.inventory.ports import Compiled, compile_ports, protected_networks

__all__ = ["AddressBook", "Compiled", "compile_ports", "protected_networks"]
