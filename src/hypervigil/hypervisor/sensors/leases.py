"""Which addresses DHCP gave, put into the inventory: told when they change, at most once a second. Pure.

Only whose an address is counts here; the programs themselves end a lease to the nanosecond.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from hypervigil.hypervisor.adapters.ebpf import layout
from hypervigil.model.ids import Instant, PortId
from hypervigil.model.vm import Inventory

Held = Mapping[PortId, tuple[str, ...]]
"""Addresses of ports that have any, in order."""

LEAST_S = 1.0
"""Between two changes that are told, however fast a guest asks for addresses and gives them back."""


def held(leases: npt.NDArray[np.void], ports: Mapping[int, PortId], at: Instant) -> dict[PortId, tuple[str, ...]]:
    """What every port holds at a time; ``leases`` as ``DataPlaneReader`` gives them, ports by slot."""
    running = leases["lease"]["end_ns"] > np.uint64(at * 1e9)
    found: dict[PortId, tuple[str, ...]] = {}
    for slot in np.flatnonzero(running.any(axis=1)).tolist():
        if slot in ports:
            packed = leases["lease"]["address"][slot][running[slot]]
            found[ports[slot]] = tuple(sorted(layout.unpack_address(bytes(one)) for one in packed))
    return found


def joined(inventory: Inventory, leases: Held) -> Inventory:
    """The inventory with what each NIC was given."""
    return Inventory(
        tuple(
            replace(vm, nics=tuple(replace(nic, leased=leases.get(nic.port, ())) for nic in vm.nics))
            for vm in inventory.vms
        )
    )


class Told:
    """What was told of leases last, and when."""

    def __init__(self) -> None:
        self._told: Held = {}
        self._at: Instant | None = None

    def news(self, leases: Held, at: Instant) -> bool:
        """Whether these are to be told now."""
        if leases == self._told or (self._at is not None and at - self._at < LEAST_S):
            return False
        self._told, self._at = leases, at
        return True
