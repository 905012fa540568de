"""Addresses that are given, so that no port can claim or lease them, and what ports claimed and leased meanwhile.

A port's own are what the policy binds to it and the link-local one that follows from its MAC; gateways' and shared ones
are nobody's to claim. The programs add claims of link-local addresses (``bpf/locals.h``) and DHCP's leases
(``bpf/leases.h``); they stay when a process of ours dies, and go with their port.
"""

import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from hypervigil.hypervisor.adapters.ebpf import kernel, layout
from hypervigil.hypervisor.adapters.ebpf.program import DataPlaneError
from hypervigil.model.port_policy import PortPolicy, link_local


def segment_of(policy: PortPolicy) -> int:
    """Where a port's addresses mean it: by name, so that it is the same in every process.

    Its network; alone with the host where the host routes. Ports on no network that the policy names are taken for
    neighbours, which is the stricter.
    """
    if policy.network is None:
        return 0
    return zlib.crc32(f"{policy.network}/{policy.port if policy.routed else ''}".encode()) or 1


def given(policy: PortPolicy) -> Iterator[tuple[bytes, bool]]:
    """Addresses that the policy gives, as 16 bytes, and whether to this port alone."""
    shared = (*policy.gateways, *(pair.address for pair in policy.pairs))
    yield from ((layout.pack_address(one), False) for one in shared)
    yield from ((layout.pack_address(one), True) for one in (*policy.addresses, link_local(policy.port)))


class LocalMaps:
    """Who holds which address, as the kernel has it."""

    def __init__(self, maps: Mapping[str, int]) -> None:
        self._maps = maps
        self._given: dict[int, frozenset[bytes]] = {}
        """By the slot of the port for which it was put."""
        self._holders: defaultdict[bytes, dict[int, int]] = defaultdict(dict)
        """Who is to hold an address, by the slot of each port for which it was put."""
        self._found: defaultdict[tuple[int, int], set[bytes]] = defaultdict(set)
        """What an earlier process gave: by holder, and by segment where that is nobody."""
        for key in kernel.keys(maps["hv_holders"], layout.LocalKey):
            holder = layout.Holder()
            if kernel.lookup(maps["hv_holders"], key, holder) and not holder.tick:
                self._found[holder.slot, key.segment if holder.slot == layout.NOBODY else 0].add(bytes(key))

    def put(self, slot: int, policy: PortPolicy, segment: int) -> None:
        """Give a port what its policy gives it. A claim to any of it ends."""
        wanted = {
            bytes(layout.LocalKey(segment, layout.Address.from_buffer_copy(address))): slot if alone else layout.NOBODY
            for address, alone in given(policy)
        }
        before = self._given.get(slot, frozenset())
        found = self._found.pop((slot, 0), set()) | self._found.pop((layout.NOBODY, segment), set())
        self._given[slot] = frozenset(wanted)
        for key, holder in wanted.items():
            if self._holders[key].get(slot) != holder:
                self._holders[key][slot] = holder
                self._write(key)
        self._drop(slot, (before | found) - wanted.keys())

    def forget_claims(self, slot: int, segment: int) -> None:
        """What a port claimed or leased is free again."""
        claimed, leases = layout.Locals(), layout.Leases()
        kernel.lookup(self._maps["hv_locals"], layout.Number(slot), claimed)
        kernel.lookup(self._maps["hv_leases"], layout.Number(slot), leases)
        for address in (*claimed.address, *(lease.address for lease in leases.lease)):
            key, holder = layout.LocalKey(segment, address), layout.Holder()
            if kernel.lookup(self._maps["hv_holders"], key, holder) and holder.slot == slot and holder.tick:
                kernel.delete(self._maps["hv_holders"], key)
        kernel.update(self._maps["hv_locals"], layout.Number(slot), layout.Locals())
        kernel.update(self._maps["hv_leases"], layout.Number(slot), layout.Leases())

    def release(self, slot: int, segment: int) -> None:
        """The port is gone."""
        self.forget_claims(slot, segment)
        self._drop(slot, self._given.pop(slot, frozenset()) | self._found.pop((slot, 0), set()))

    def drifted(self, slot: int) -> bool:
        """Whether the kernel no longer holds what was given for a port."""
        return any(self._read(key) != self._holder(key) for key in self._given.get(slot, ()))

    def repair(self, slot: int) -> None:
        """Give it again."""
        for key in self._given.get(slot, ()):
            self._write(key)

    def _holder(self, key: bytes) -> int:
        """Who is to hold an address that may be given for several ports: nobody where they do not agree."""
        holders = set(self._holders[key].values())
        return holders.pop() if len(holders) == 1 else layout.NOBODY

    def _read(self, key: bytes) -> int | None:
        holder = layout.Holder()
        there = kernel.lookup(self._maps["hv_holders"], layout.LocalKey.from_buffer_copy(key), holder)
        return holder.slot if there and not holder.tick else None

    def _write(self, key: bytes) -> None:
        holder = layout.Holder(self._holder(key), 0)
        try:
            kernel.update(self._maps["hv_holders"], layout.LocalKey.from_buffer_copy(key), holder)
        except OSError as error:
            raise DataPlaneError(
                f"no room for one more address ({error.strerror}): name fewer gateways and address pairs"
            ) from error

    def _drop(self, slot: int, keys: Iterable[bytes]) -> None:
        for key in keys:
            self._holders[key].pop(slot, None)
            if self._holders[key]:
                self._write(key)
            else:
                del self._holders[key]
                kernel.delete(self._maps["hv_holders"], layout.LocalKey.from_buffer_copy(key))
