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
"""Between two looks, so between two changes that are told: each makes an inventory of all VMs, and a record of it."""
BURST, REFILL_S = 4, 300.0
"""So many changes of one port are told at once, and one more in so long, however fast its guest asks and gives back."""


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
    """When to look, what was told last, and which ports may have another change told; bounded by the ports."""

    def __init__(self) -> None:
        self._told: dict[PortId, tuple[str, ...]] = {}
        self._looked_at: Instant | None = None
        self._spent: dict[PortId, tuple[float, Instant]] = {}
        """Changes told of a port that are not forgotten yet, as of a time."""

    def due(self, at: Instant) -> bool:
        """Whether it is time to look."""
        if self._looked_at is not None and at - self._looked_at < LEAST_S:
            return False
        self._looked_at = at
        return True

    def news(self, leases: Held, at: Instant) -> Held | None:
        """What is to be told now, if anything; who changes too often stays as it was told."""
        if leases == self._told:
            return None
        spent = {port: max(0.0, n - (at - since) / REFILL_S) for port, (n, since) in self._spent.items()}
        changed = [
            port
            for port in self._told.keys() | leases.keys()
            if self._told.get(port) != leases.get(port) and spent.get(port, 0.0) <= BURST - 1
        ]
        if not changed:
            return None
        for port in changed:
            spent[port] = spent.get(port, 0.0) + 1
            if port in leases:
                self._told[port] = leases[port]
            else:
                del self._told[port]
        self._spent = {port: (n, at) for port, n in spent.items() if n}
        return dict(self._told)
