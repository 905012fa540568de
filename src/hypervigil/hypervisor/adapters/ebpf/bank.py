"""One of the data plane's two banks of network policy: grants, ranges and sets of services, written before in force."""

import ctypes
from collections.abc import Collection, Iterable, Mapping
from ipaddress import ip_network

from hypervigil.hypervisor.adapters.ebpf import kernel, layout
from hypervigil.hypervisor.adapters.ebpf.program import DataPlaneError
from hypervigil.model.ids import PerimeterId
from hypervigil.model.port_policy import AddressRange
from hypervigil.model.services import ANYTHING, COMPANIONS, NEIGHBOUR, NOTHING, Services
from hypervigil.network.compile import OUTSIDE, is_gateway

_OUTSIDE, _EVERYBODY, _FIRST = 1, 3, 16
_EVERYTHING = ANYTHING | Services(((NEIGHBOUR, NEIGHBOUR),))
_ANYTHING, _ONE_WAY, _BACK, _UNUSED = 1, 0x10000, 0x20000, 0xFFFFFFFF
_IS_GATEWAY = 0x40000000
_V4 = 96

Names = tuple[PerimeterId, PerimeterId]
Numbers = tuple[int, int]
_U32 = ctypes.c_uint32


class Bank:
    """One of the two: what perimeters and sets of services are called by number in it, and what it holds."""

    def __init__(self, index: int, maps: Mapping[str, int]) -> None:
        self.index = index
        self._maps = maps
        self._half = kernel.max_entries(maps["hv_services"]) // 2
        self._sets: dict[Services, int] = {_EVERYTHING: _ANYTHING}
        self.numbers: dict[PerimeterId, int] = {OUTSIDE: _OUTSIDE}
        self.grants: dict[Numbers, int] = {}
        self.ranges: dict[bytes, int] = {}
        """By keys."""

    @classmethod
    def found(cls, index: int, maps: Mapping[str, int]) -> "Bank":
        """What the kernel holds of it by an earlier process's doing: good for nothing but to be cleared."""
        bank = cls(index, maps)
        keys = [key for key in kernel.keys(maps["hv_grants"], layout.GrantKey) if key.source >> 31 == index]
        bank.grants = {(key.source & ~(1 << 31), key.destination): 0 for key in keys}
        ranges = kernel.keys(maps["hv_ranges"], layout.RangeKey)
        bank.ranges = {bytes(key): 0 for key in ranges if key.bank == index}
        return bank

    def number(self, name: PerimeterId) -> int:
        """A perimeter's number, a new one where it has none."""
        return self.numbers.setdefault(name, _FIRST + len(self.numbers))

    def put(self, granted: Mapping[Names, Services], pairs: Iterable[Names]) -> None:
        """Write the grants of these pairs."""
        news: dict[int, Services] = {}
        wanted: dict[Numbers, int] = {}
        for source, destination in pairs:
            services = granted[source, destination]
            back = granted.get((destination, source), NOTHING)
            kind = 0 if back == _EVERYTHING else _ONE_WAY | _BACK if back - COMPANIONS else _ONE_WAY
            wanted[self.number(source), self.number(destination)] = self._set(services, news) | kind
        kernel.write_batch(
            self._maps["hv_services"],
            (_U32 * len(news))(*news),
            (layout.ServiceSet * len(news))(*(_service_set(services) for services in news.values())),
        )
        keys = (layout.GrantKey * len(wanted))(*(layout.GrantKey(a | self.index << 31, b) for a, b in wanted))
        kernel.write_batch(self._maps["hv_grants"], keys, (_U32 * len(wanted))(*wanted.values()))
        self.grants |= wanted

    def put_everybody(self, granted: Mapping[Names, Services], sources: Iterable[PerimeterId]) -> None:
        """Write what each of these may begin with anybody, for frames that go to a group."""
        found: dict[PerimeterId, list[tuple[int, int]]] = {source: [] for source in sources}
        for (source, _), services in granted.items():
            if source in found:
                found[source] += services.ranges
        everybody = PerimeterId("")
        self.numbers[everybody] = _EVERYBODY
        joined = {(source, everybody): Services.of(dict.fromkeys(ranges)) for source, ranges in found.items() if ranges}
        self.put(joined, joined)
        self.drop((source, everybody) for source, ranges in found.items() if not ranges)

    def drop(self, pairs: Iterable[Names]) -> None:
        """Delete the grants of these pairs."""
        numbers = [(self.number(source), self.number(destination)) for source, destination in pairs]
        self._delete([pair for pair in numbers if self.grants.pop(pair, None) is not None])

    def put_ranges(self, addresses: Collection[AddressRange]) -> None:
        """Write which addresses are in which perimeter."""
        # All of IPv4 lies within IPv6 here, but not in a policy's ranges of IPv6.
        whole = [AddressRange("::ffff:0:0/96", OUTSIDE)] if addresses and not self.ranges else []
        for entry in (*whole, *sorted(addresses, key=lambda one: one.perimeter)):
            key = self._range_key(entry)
            kind = _IS_GATEWAY if is_gateway(entry.perimeter) else 0
            value = self.number(entry.perimeter) | kind
            kernel.update(self._maps["hv_ranges"], key, _U32(value))
            self.ranges[bytes(key)] = value

    def drop_ranges(self, addresses: Iterable[AddressRange]) -> None:
        """Delete what was written of these."""
        for key in map(self._range_key, addresses):
            kernel.delete(self._maps["hv_ranges"], key)
            self.ranges.pop(bytes(key), None)

    def _range_key(self, entry: AddressRange) -> layout.RangeKey:
        network = ip_network(entry.cidr)
        length = network.prefixlen + (_V4 if network.version == 4 else 0)
        packed = layout.pack_address(str(network.network_address))
        return layout.RangeKey(32 + length, self.index, layout.Address.from_buffer_copy(packed))

    def clear(self) -> None:
        """Delete all that it holds."""
        self._delete(list(self.grants))
        self.grants.clear()
        for raw in self.ranges:
            kernel.delete(self._maps["hv_ranges"], layout.RangeKey.from_buffer_copy(raw))
        self.ranges.clear()

    def _delete(self, pairs: list[Numbers]) -> None:
        for one, other in pairs:
            kernel.delete(self._maps["hv_grants"], layout.GrantKey(one | self.index << 31, other))

    def _set(self, services: Services, news: dict[int, Services]) -> int:
        known = self._sets.get(services)
        if known is not None:
            return known
        if len(services.ranges) > layout.RANGES:
            raise DataPlaneError(
                f"one grant falls into {len(services.ranges)} ranges of services: at most {layout.RANGES} fit; "
                "name ranges instead of single ports"
            )
        if len(self._sets) >= self._half:
            raise DataPlaneError(f"the network policy has more than {self._half} different sets of services")
        number = self._sets[services] = self.index * self._half + len(self._sets) + 1
        news[number] = services
        return number


def _service_set(services: Services) -> layout.ServiceSet:
    """The ranges in order; those not used begin above every service."""
    found = layout.ServiceSet()
    unused = [(_UNUSED, _UNUSED)] * (layout.RANGES - len(services.ranges))
    for index, (first, last) in enumerate((*services.ranges, *unused)):
        found.range[index][0], found.range[index][1] = first, last
    return found
