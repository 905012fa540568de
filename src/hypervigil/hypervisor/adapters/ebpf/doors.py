"""Where the programs find a port's policy: by its device, in one array for most, in a hash for all and for readers."""

from collections.abc import Mapping

from hypervigil.hypervisor.adapters.ebpf import kernel, layout


class Doors:
    """The policies of ports by interface index."""

    def __init__(self, maps: Mapping[str, int]) -> None:
        self._maps = maps

    def put(self, ifindex: int, entry: layout.Port) -> None:
        """First into the copy that is not in use, then the word that makes it the one: no frame meets half a policy."""
        device, near = layout.Number(ifindex), self._near(ifindex)
        copy = 2 * entry.slot + (near & 1)
        kernel.update(self._maps["hv_copies"], layout.Number(copy), entry)
        kernel.update(self._maps["hv_ports"], device, entry)
        if ifindex < layout.NEAR:
            kernel.update(self._maps["hv_near"], device, layout.Number(copy + 1))

    def delete(self, ifindex: int) -> None:
        """No policy for this device any more; no error where there was none."""
        kernel.delete(self._maps["hv_ports"], layout.Number(ifindex))
        if ifindex < layout.NEAR:
            kernel.update(self._maps["hv_near"], layout.Number(ifindex), layout.Number(0))

    def read(self, ifindex: int) -> set[bytes | None]:
        """What the kernel holds for a device, wherever it does: one thing, if nobody else was there."""
        entry, copy, near = layout.Port(), layout.Port(), self._near(ifindex)
        found = {bytes(entry) if kernel.lookup(self._maps["hv_ports"], layout.Number(ifindex), entry) else None}
        if ifindex < layout.NEAR:
            there = near and kernel.lookup(self._maps["hv_copies"], layout.Number(near - 1), copy)
            found.add(bytes(copy) if there else None)
        return found

    def _near(self, ifindex: int) -> int:
        """One more than the number of the copy in use; 0 is none."""
        near = layout.Number()
        if ifindex < layout.NEAR:
            kernel.lookup(self._maps["hv_near"], layout.Number(ifindex), near)
        return int(near.value)
