"""Where the ends of conversations are, and what was granted: the network policy without the kernel's numbers and banks.

Ports are found by MAC on their segment and by address elsewhere, all others by range. Specified by ``network.decide``
and ``network.compile``. Pure.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network

from hypervigil.hypervisor.adapters.ebpf import layout
from hypervigil.hypervisor.adapters.ebpf.accounts import Accounts
from hypervigil.hypervisor.reference.bucket import Bucket, Rate
from hypervigil.hypervisor.reference.conversations import Table
from hypervigil.hypervisor.reference.frame import V4_MAPPED
from hypervigil.model.ids import PerimeterId
from hypervigil.model.network import Budget
from hypervigil.model.port_policy import AddressRange, FabricChange, PortPolicy
from hypervigil.model.services import ANYTHING, NEIGHBOUR, NOTHING, Services
from hypervigil.network.compile import OUTSIDE, STRANGER, gateway_of
from hypervigil.network.merge import strictest

_EVERYTHING = ANYTHING | Services(((NEIGHBOUR, NEIGHBOUR),))


class Granted:
    """What one perimeter may begin with another, for quick questions."""

    __slots__ = ("_firsts", "_lasts", "everything")

    def __init__(self, services: Services) -> None:
        self.everything = services == _EVERYTHING
        """Every service, and ARP and neighbour discovery."""
        self._firsts = [first for first, _ in services.ranges]
        self._lasts = [last for _, last in services.ranges]

    def __contains__(self, service: int) -> bool:
        at = bisect_right(self._firsts, service)
        return at > 0 and service <= self._lasts[at - 1]


NONE = Granted(NOTHING)


@dataclass(slots=True)
class Allowance:
    """What a VM's budget leaves it, at all of its ports together."""

    budget: Budget = field(default_factory=Budget)
    rate: Rate = field(default_factory=Rate)
    bucket: Bucket = field(default_factory=Bucket)
    flows: Rate = field(default_factory=Rate)
    flow_bucket: Bucket = field(default_factory=Bucket)
    broadcasts: Rate = field(default_factory=Rate)
    broadcast_bucket: Bucket = field(default_factory=Bucket)
    room: int = layout.FLOW_WAYS
    """Ways of each set that its conversations may take."""

    @classmethod
    def of(cls, budget: Budget) -> "Allowance":
        """An allowance that was not touched yet."""
        rate = Rate(round((budget.packets_per_s or 0) * 1000), round(budget.octets_per_s or 0))
        flows = Rate(round((budget.new_flows_per_s or 0) * 1000))
        broadcasts = Rate(round((budget.broadcasts_per_s or 0) * 1000))
        entries = budget.table_entries
        ways = layout.FLOW_WAYS if entries is None else max(1, min(layout.FLOW_WAYS, entries // layout.FLOW_SETS))
        return cls(budget, rate, flows=flows, broadcasts=broadcasts, room=ways)


@dataclass(slots=True)
class Seat:
    """A slot as others find it. Its own table stays when its port goes: another generation then makes it void."""

    slot: int
    perimeter: PerimeterId | None = None
    """``None``: not mediated."""
    network: str | None = None
    """The one that it was put in last; it stays when no network policy speaks of the port any more."""
    place: tuple[str | None, PerimeterId | None] = (None, None)
    """Network and perimeter by its policy."""
    generation: int = 0
    routed: bool = False
    macs: dict[bytes, int] = field(default_factory=dict)
    """Each with its device; 0 where it goes from port to port, and the bridge knows where it is."""
    addresses: frozenset[bytes] = frozenset()
    budget: Budget = field(default_factory=Budget)
    """By its policy."""
    allowance: Allowance = field(default_factory=Allowance)
    """Its VM's."""
    own: Table = field(default_factory=Table)
    table: Table = field(init=False)
    """Where what it begins is remembered: its own, or that of another port of its VM."""

    def __post_init__(self) -> None:
        self.table = self.own

    @property
    def named(self) -> PerimeterId:
        """Its perimeter as others see it."""
        return self.perimeter or STRANGER


class Directory:
    """Seats, and grants between perimeters."""

    def __init__(self, generation: Callable[[int], int]) -> None:
        self._generation = generation
        self.seats: dict[int, Seat] = {}
        self._services: dict[tuple[PerimeterId, PerimeterId], Services] = {}
        self.granted: dict[tuple[PerimeterId, PerimeterId], Granted] = {}
        self.to_groups: dict[PerimeterId, Granted] = {}
        """What each perimeter may begin with anybody at all: that it may also send to a group."""
        self._ranges: list[tuple[int, int, PerimeterId]] = []
        """Mask, prefix and perimeter, the longest prefix first."""
        self._addresses: tuple[AddressRange, ...] = ()
        self.members: dict[tuple[str | None, bytes], tuple[Seat, int]] = {}
        self.homes: dict[bytes, Seat] = {}
        self._accounts = Accounts()
        self._allowances: dict[int, Allowance] = {}
        """By the numbers of accounts."""

    def bind(self, slot: int, policy: PortPolicy) -> None:
        """A slot is a VM's, of which the next change tells more."""
        self._accounts.join(slot, policy.vm)

    def change(self, change: FabricChange, bound: Mapping[int, PortPolicy]) -> None:
        """Take up a change, and the policies of these slots with it."""
        if change.whole:
            self._services, self._addresses = {}, ()
        for pair in change.gone:
            self._services.pop(pair, None)
        self._services |= {(grant.source, grant.destination): grant.services for grant in change.grants}
        if change.addresses is not None:
            self._addresses = change.addresses
        self._grant()
        self._ranges = _by_length(self._addresses)
        for slot, policy in bound.items():
            self._seat(slot, policy)
        for one in {sibling for slot in bound for sibling in self._accounts.siblings(slot)}:
            self._bound(self.seats[one])
        self._find()

    def release(self, slot: int) -> None:
        """A slot's port is gone."""
        seat = self.seats.get(slot)
        others = self._accounts.leave(slot)
        if seat is None:
            return
        self.seats[slot] = Seat(slot, own=seat.own)
        for other in others:
            if other in self.seats and self.seats[other].table is seat.own:
                self.seats[other].table = self.seats[self._accounts.account(other, bounded=True).table].own
        if not others:
            self._allowances = {n: one for n, one in self._allowances.items() if one is not seat.allowance}
        self._find()

    def perimeter_of(self, address: bytes) -> PerimeterId:
        """The perimeter of an address that is no port's."""
        number = int.from_bytes(address, "big")
        for mask, prefix, perimeter in self._ranges:
            if number & mask == prefix:
                return perimeter
        return OUTSIDE

    def _grant(self) -> None:
        known: dict[Services, Granted] = {}
        groups: dict[PerimeterId, list[tuple[int, int]]] = {}
        self.granted = {}
        for pair, services in self._services.items():
            if services not in known:
                known[services] = Granted(services)
            self.granted[pair] = known[services]
            groups.setdefault(pair[0], []).extend(services.ranges)
        self.to_groups = {source: Granted(Services.of(ranges)) for source, ranges in groups.items()}

    def _seat(self, slot: int, policy: PortPolicy) -> None:
        seat = self.seats.setdefault(slot, Seat(slot))
        seat.budget = policy.budget
        seat.routed, seat.place = policy.routed, (policy.network, policy.perimeter)
        seat.perimeter = policy.perimeter if policy.network is not None else None
        if seat.perimeter is not None and seat.network != policy.network:
            # What its slot remembers was another's, or was begun elsewhere.
            seat.network, seat.generation = policy.network, self._generation(slot)
        shared = {layout.pack_mac(pair.mac): 0 for pair in policy.pairs if pair.mac is not None}
        own = {layout.pack_mac(policy.port): policy.ifindex}
        seat.macs = {**shared, **own} if seat.perimeter is not None and not policy.migrating else {}
        addresses = (*policy.addresses, *policy.leases, *(pair.address for pair in policy.pairs))
        seat.addresses = frozenset(
            layout.pack_address(address)
            for address in addresses
            if not ip_address(address).is_link_local and not policy.migrating
        )

    def _bound(self, seat: Seat) -> None:
        """What its VM may take, and where its conversations are kept."""
        budget = strictest(*(self.seats[one].budget for one in self._accounts.siblings(seat.slot)))
        account = self._accounts.account(seat.slot, bounded=budget.table_entries is not None)
        if self._allowances.setdefault(account.number, Allowance()).budget != budget:
            self._allowances[account.number] = Allowance.of(budget)
        seat.allowance = self._allowances[account.number]
        seat.table = self.seats[account.table].own

    def _find(self) -> None:
        """Who is found by what.

        A MAC of several is its owner's, else the lowest slot's; an address of several is the lowest slot's where all of
        them are in one perimeter, else nobody's.
        """
        self.members, self.homes = {}, {}
        owners: dict[bytes, list[Seat]] = {}
        for slot in sorted(self.seats):
            seat = self.seats[slot]
            for mac, device in seat.macs.items():
                key = (seat.network, mac)
                if key not in self.members or (device and not self.members[key][1]):
                    self.members[key] = (seat, device)
            for address in seat.addresses if self._services else ():
                owners.setdefault(address, []).append(seat)
        for address, seats in owners.items():
            if len({seat.place for seat in seats}) == 1:
                self.homes[address] = seats[0]


def gateway(seat: Seat) -> PerimeterId:
    """Who has the link-local addresses of a segment that are no port's."""
    return gateway_of(seat.network or "")


def _by_length(addresses: Iterable[AddressRange]) -> list[tuple[int, int, PerimeterId]]:
    """Ranges of one family only hold addresses of that one, so what is no IPv6 range's of IPv4 is outside."""
    found: dict[tuple[int, int], PerimeterId] = {}
    for entry in addresses:
        network = ip_network(entry.cidr)
        packed = (V4_MAPPED if network.version == 4 else b"") + network.network_address.packed
        length = network.prefixlen + (96 if network.version == 4 else 0)
        key = (length, int.from_bytes(packed, "big"))
        found[key] = max(found.get(key, PerimeterId("")), entry.perimeter)
    found.setdefault((96, int.from_bytes(V4_MAPPED + bytes(4), "big")), OUTSIDE)
    return [((1 << 128) - (1 << 128 - length), prefix, found[length, prefix]) for length, prefix in sorted(found)][::-1]
