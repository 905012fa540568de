"""The network policy in the data plane's maps: swapped whole by flipping a bank, or one port at a time in place.

Two banks hold grants, ranges, sets of services and every port's perimeter. A new policy is written into the one that is
not in force, and one number makes it the one in force: no frame is decided by a mixture. Where one port only changes
its perimeter, and nothing changes between those where other ports are, its entry is changed in the bank in force, which
costs the same for one VM as for thousands.
"""

import ctypes
import secrets
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from ipaddress import ip_address, ip_network

from hypervigil.hypervisor.adapters.ebpf import kernel, layout
from hypervigil.hypervisor.adapters.ebpf.accounts import Account, Accounts
from hypervigil.hypervisor.adapters.ebpf.bank import Bank, Names
from hypervigil.hypervisor.adapters.ebpf.program import DataPlaneError
from hypervigil.model.ids import PerimeterId
from hypervigil.model.network import Budget
from hypervigil.model.port_policy import AddressRange, FabricChange, PortPolicy
from hypervigil.model.services import Services
from hypervigil.network.compile import OUTSIDE, gateway_of, is_fixed
from hypervigil.network.merge import strictest

_ROUTED, _BUDGET, _BROADCASTS = 1, 2, 4

_Where = tuple[str | None, PerimeterId | None]
"""A network and a perimeter."""
_Moves = tuple[frozenset[AddressRange], frozenset[AddressRange]]
"""Which addresses come and which go: of VMs that leave for another host, or come from there."""
_U32 = ctypes.c_uint32


class FabricMaps:
    """Who may reach whom, as the kernel holds it. Ports are told of by ``bind``; ``change`` puts all in force."""

    def __init__(self, maps: Mapping[str, int]) -> None:
        self._maps = maps
        self._ports: dict[int, PortPolicy] = {}
        self._touched: set[int] = set()
        self._granted: dict[Names, Services] = {}
        self._addresses: tuple[AddressRange, ...] = ()
        self._ranged: frozenset[PerimeterId] = frozenset()
        """The perimeters of these, in which somebody may always be."""
        self._networks: dict[str, int] = {}
        self._places: dict[int, bytes] = {}
        self._settled: dict[int, PerimeterId | None] = {}
        """The perimeter in which each port was put."""
        self._crowd: Counter[PerimeterId] = Counter()
        """How many ports are in each perimeter."""
        self._members: dict[int, dict[bytes, bytes]] = {}
        self._sharers: dict[bytes, dict[int, bytes]] = defaultdict(dict)
        """The slots whose ports use a MAC."""
        self._found: dict[bytes, bytes] = {}
        """Of those, what others find."""
        self._homes: dict[int, tuple[frozenset[str], _Where | None]] = {}
        self._owners: dict[str, set[int]] = defaultdict(set)
        """The slots whose ports use an address."""
        self._housed: dict[bytes, bytes] = {}
        """Of those, what others find."""
        self._accounts = Accounts()
        self._bounds: dict[int, bytes] = {}
        """What each account's VM may take, as it was put."""
        self._epoch = layout.Epoch()
        kernel.lookup(maps["hv_epoch"], _U32(0), self._epoch)
        self._bank = Bank.found(self._epoch.word & 1, maps)
        Bank.found(1 - self._bank.index, maps).clear()
        self._fresh = True
        """Nothing was put by this process yet, so the first change writes all."""
        self._unsure = False
        """The last change failed on its way: the next one writes all into the other bank."""
        if not self._epoch.seed:
            self._epoch.seed = secrets.randbits(63) | 1
            kernel.update(maps["hv_epoch"], _U32(0), self._epoch)

    # --- ports ---
    def recall(self, slots: Iterable[int]) -> None:
        """Slots that an earlier process bound: what is kept for their VMs stays theirs."""
        places = {slot: layout.Place.from_buffer_copy(self._read_place(slot)) for slot in slots}
        put = {slot: Account(place.account, place.table) for slot, place in places.items() if any(bytes(place))}
        self._accounts = Accounts(put)

    def bind(self, slot: int, policy: PortPolicy) -> None:
        """Take up a port's policy, to be put in force by the next change."""
        if slot not in self._places:
            place = layout.Place()
            kernel.lookup(self._maps["hv_places"], _U32(slot), place)
            if place.network and policy.network is not None:
                self._networks.setdefault(policy.network, place.network)
            self._places[slot] = bytes(place)
        self._ports[slot] = policy
        self._touched |= self._accounts.join(slot, policy.vm)

    def release(self, slot: int) -> None:
        """The port is gone, at once; its VM's others keep the allowance, and their conversations elsewhere."""
        bound = self._ports.pop(slot, None) is not None
        self._touched.discard(slot)
        number = self._accounts.account(slot, bounded=False).number if bound else None
        others = self._accounts.leave(slot)
        if slot in self._settled:
            self._crowd[self._settled.pop(slot) or OUTSIDE] -= 1
        if bound:
            self._write_members(slot, {})
            self._write_homes(slot, frozenset(), None)
        for other in others:
            place = layout.Place.from_buffer_copy(self._places[other])
            if other in self._settled and place.table == slot:
                place.table = self._accounts.account(other, bounded=True).table
                self._places[other] = bytes(place)
                kernel.update(self._maps["hv_places"], _U32(other), place)
        if number is not None and not others:
            self._write_budget(number, Budget())
        self._touched |= others
        self._places.pop(slot, None)
        kernel.update(self._maps["hv_places"], _U32(slot), layout.Place())
        self._turn(self._bank)

    # --- changes ---
    def change(self, change: FabricChange) -> None:
        """Put a change, and what was bound since the last, in force in one step. ``DataPlaneError`` leaves what was."""
        granted = {} if change.whole else dict(self._granted)
        for pair in change.gone:
            granted.pop(pair, None)
        granted |= {(grant.source, grant.destination): grant.services for grant in change.grants}
        addresses = change.addresses if change.addresses is not None else () if change.whole else self._addresses
        moved = [slot for slot in self._touched if self._settled.get(slot) != self._ports[slot].perimeter]
        places = None if self._fresh or self._unsure or change.whole else _moves(self._addresses, addresses)
        alike = bool(granted) == bool(self._granted) and len(moved) <= 1 and self._apart(change, moved)
        try:
            if places is None or not alike or not self._extended(change, granted, places):
                self._flip(granted, addresses)
        except OSError as error:
            self._unsure = True
            raise DataPlaneError(
                f"the kernel has no room for the network policy ({error.strerror}): let rules name fewer kinds of ends"
            ) from error
        if addresses != self._addresses:
            self._ranged = frozenset(entry.perimeter for entry in addresses)
        self._granted, self._addresses, self._fresh, self._unsure = granted, addresses, False, False
        self._touched.clear()

    def _apart(self, change: FabricChange, moved: list[int]) -> bool:
        """Whether a change is only about perimeters in which no port is but the moved one."""
        pairs = [*((grant.source, grant.destination) for grant in change.grants), *change.gone]
        return not any(self._busy(one, moved) and self._busy(other, moved) for one, other in pairs)

    def _busy(self, name: PerimeterId, moved: list[int]) -> bool:
        return (
            is_fixed(name)
            or name in self._ranged
            or self._crowd[name] > sum(self._settled.get(slot) == name for slot in moved)
        )

    def _extended(self, change: FabricChange, granted: Mapping[Names, Services], places: _Moves) -> bool:
        """Whether a change could be made in place: after many, the bank has no numbers left for sets of services."""
        try:
            self._extend(change, granted, places)
        except DataPlaneError:
            return False
        return True

    def _extend(self, change: FabricChange, granted: Mapping[Names, Services], places: _Moves) -> None:
        """First what the port will have there, then the port, then nothing of what it had."""
        if change.grants or change.gone:
            pairs = [*((grant.source, grant.destination) for grant in change.grants), *change.gone]
            both = {*pairs, *((other, one) for one, other in pairs)}
            self._bank.put(granted, [pair for pair in both if pair in granted])
            self._bank.put_everybody(granted, {source for source, _ in pairs})
        self._settle(self._touched, self._bank, granted)
        come, gone = places
        self._bank.put_ranges(come)
        self._bank.drop_ranges(gone)
        self._bank.drop(change.gone)
        self._turn(self._bank)

    def _flip(self, granted: Mapping[Names, Services], addresses: tuple[AddressRange, ...]) -> None:
        """All of it into the other bank, then that one in force."""
        bank = Bank(1 - self._bank.index, self._maps)
        try:
            bank.put(granted, granted)
            bank.put_everybody(granted, {source for source, _ in granted})
            bank.put_ranges(addresses)
        except (OSError, DataPlaneError):
            bank.clear()
            raise
        self._settle(self._ports, bank, granted)
        before = self._bank
        self._turn(bank)
        before.clear()

    def _turn(self, bank: Bank) -> None:
        """Put a bank in force, the same or the other, and make all that was remembered of either void."""
        self._bank = bank
        self._epoch.word = (self._epoch.word & ~1) + 2 | bank.index
        kernel.update(self._maps["hv_epoch"], _U32(0), self._epoch)

    def _settle(self, slots: Iterable[int], bank: Bank, granted: Mapping[Names, Services]) -> None:
        """Write these ports' places, and by which MAC and addresses others find them."""
        places: dict[int, layout.Place] = {}
        for slot in slots:
            policy, budget = self._ports[slot], self._budget(slot)
            account = self._accounts.account(slot, bounded=budget.table_entries is not None)
            place = layout.Place.from_buffer_copy(self._places[slot])
            place.flags = (_ROUTED if policy.routed else 0) | _budget_flags(budget)
            place.account, place.table = account.number, account.table
            self._put_in(policy, place, bank)
            found = policy.perimeter is not None and not policy.migrating
            self._write_members(slot, _members(policy, slot, place.network) if found else {})
            homes = _homes(policy) if granted and not policy.migrating else frozenset[str]()
            self._write_homes(slot, homes, (policy.network, policy.perimeter))
            self._write_budget(account.number, budget)
            if bytes(place) != self._places[slot]:
                places[slot] = place
            if slot in self._settled:
                self._crowd[self._settled[slot] or OUTSIDE] -= 1
            self._crowd[policy.perimeter or OUTSIDE] += 1
            self._settled[slot] = policy.perimeter
        values = (layout.Place * len(places))(*places.values())
        kernel.write_batch(self._maps["hv_places"], (_U32 * len(places))(*places), values)
        self._places |= {slot: bytes(place) for slot, place in places.items()}

    def _budget(self, slot: int) -> Budget:
        """What the VM of a slot may take; should its ports say different things, the least of each."""
        siblings = self._accounts.siblings(slot)
        budgets = [self._ports[one].budget for one in siblings]
        return budgets[0] if len(budgets) == 1 else strictest(*budgets)

    def _put_in(self, policy: PortPolicy, place: layout.Place, bank: Bank) -> None:
        """A place's network and perimeter."""
        if policy.network is None or policy.perimeter is None:
            place.perimeter[bank.index] = 0
            return
        network = self._networks.setdefault(policy.network, max(self._networks.values(), default=0) + 1)
        if place.network != network:
            place.network = network
            place.generation = secrets.randbits(16)
        place.perimeter[bank.index] = bank.number(policy.perimeter)
        place.gateway[bank.index] = bank.number(gateway_of(policy.network))

    def _write_members(self, slot: int, wanted: dict[bytes, bytes]) -> None:
        """A MAC that several have is its owner's, else the lowest slot's; it is there as long as any of them is."""
        there = self._members.get(slot, {})
        self._members[slot] = wanted
        for key in there.keys() | wanted.keys():
            sharers = self._sharers[key]
            if key in wanted:
                sharers[slot] = wanted[key]
            else:
                del sharers[slot]
            member = layout.MemberKey.from_buffer_copy(key)
            if not sharers:
                del self._sharers[key], self._found[key]
                kernel.delete(self._maps["hv_members"], member)
                continue
            lowest = min(sharers, key=lambda one: (not layout.Member.from_buffer_copy(sharers[one]).ifindex, one))
            value = sharers[lowest]
            if self._found.get(key) != value:
                self._found[key] = value
                kernel.update(self._maps["hv_members"], member, layout.Member.from_buffer_copy(value))

    def _write_homes(self, slot: int, wanted: frozenset[str], place: _Where | None) -> None:
        """An address that several have is the lowest slot's if they are in one perimeter, else nobody's."""
        there, before = self._homes.get(slot, (frozenset(), None))
        self._homes[slot] = (wanted, place)
        for address in wanted | there if place != before else wanted ^ there:
            owners = self._owners[address]
            owners -= {slot}
            if address in wanted:
                owners |= {slot}
            key = layout.Home.from_buffer_copy(layout.pack_address(address))
            if len({self._homes[one][1] for one in owners}) == 1:
                kernel.update(self._maps["hv_homes"], key, _U32(min(owners)))
                self._housed[bytes(key)] = bytes(_U32(min(owners)))
            else:
                kernel.delete(self._maps["hv_homes"], key)
                self._housed.pop(bytes(key), None)
            if not owners:
                del self._owners[address]

    def _write_budget(self, account: int, wanted: Budget) -> None:
        """One element for all ports of a VM, so that none of them is bound by another budget than the rest."""
        allowance, held = _allowance(wanted), self._bounds.get(account)
        if held is None:
            there = layout.Allowance()
            kernel.lookup(self._maps["hv_allowances"], _U32(account), there)
            held = _bounds_of(bytes(there))
        self._bounds[account] = _bounds_of(allowance)
        if self._bounds[account] != held:
            value = layout.Allowance.from_buffer_copy(allowance)
            kernel.update(self._maps["hv_allowances"], _U32(account), value, locked=True)

    # --- drift ---
    def drifted(self) -> bool:
        """Whether the kernel no longer holds what was put."""
        if self._fresh:
            return False
        epoch = layout.Epoch()
        kernel.lookup(self._maps["hv_epoch"], _U32(0), epoch)
        places = _content(self._maps["hv_places"], layout.Number, layout.Place)
        allowances = _content(self._maps["hv_allowances"], layout.Number, layout.Allowance)
        grants = {
            bytes(layout.GrantKey(one | self._bank.index << 31, other)): value.to_bytes(4, "little")
            for (one, other), value in self._bank.grants.items()
        }
        ranges = {
            key: int.from_bytes(value, "little")
            for key, value in _content(self._maps["hv_ranges"], layout.RangeKey, layout.Number).items()
            if layout.RangeKey.from_buffer_copy(key).bank == self._bank.index
        }
        return (
            bytes(epoch) != bytes(self._epoch)
            or any(places[bytes(_U32(slot))] != raw for slot, raw in self._places.items())
            or any(_bounds_of(allowances[bytes(_U32(one))]) != bounds for one, bounds in self._bounds.items())
            or _content(self._maps["hv_members"], layout.MemberKey, layout.Member) != self._found
            or _content(self._maps["hv_homes"], layout.Home, layout.Number) != self._housed
            or _content(self._maps["hv_grants"], layout.GrantKey, layout.Number) != grants
            or ranges != self._bank.ranges
        )

    def repair(self) -> None:
        """Write all of it anew."""
        for remembered in (self._members, self._sharers, self._found, self._homes, self._owners, self._housed):
            remembered.clear()
        self._bank = Bank.found(self._bank.index, self._maps)
        Bank.found(1 - self._bank.index, self._maps).clear()
        self._places = {slot: self._read_place(slot) for slot in self._places}
        self._bounds.clear()
        self._fresh = True
        self.change(FabricChange())
        for name, key, put in (
            ("hv_members", layout.MemberKey, self._found),
            ("hv_homes", layout.Home, self._housed),
        ):
            for found in list(kernel.keys(self._maps[name], key)):
                if bytes(found) not in put:
                    kernel.delete(self._maps[name], found)

    def _read_place(self, slot: int) -> bytes:
        place = layout.Place()
        kernel.lookup(self._maps["hv_places"], _U32(slot), place)
        return bytes(place)


def _moves(before: tuple[AddressRange, ...], after: tuple[AddressRange, ...]) -> _Moves | None:
    """What leads from one to the other, if that can be written one by one: single addresses that are nowhere else."""
    if before == after:
        return frozenset(), frozenset()
    old, new = frozenset(before), frozenset(after)
    come, gone, stay = new - old, old - new, {entry.cidr for entry in old & new}
    changed = [entry.cidr for entry in (*come, *gone)]
    if not stay or len(set(changed)) < len(changed) or not stay.isdisjoint(changed):
        return None
    return (come, gone) if all(ip_network(cidr).num_addresses == 1 for cidr in changed) else None


def _members(policy: PortPolicy, slot: int, network: int) -> dict[bytes, bytes]:
    """By which MACs others on the network find the port; one that goes from port to port is the bridge's to find."""
    own = {_member_key(network, policy.port): bytes(layout.Member(slot, policy.ifindex))}
    moving = {_member_key(network, pair.mac): bytes(layout.Member(slot, 0)) for pair in policy.pairs if pair.mac}
    return {**moving, **own}


def _member_key(network: int, mac: str) -> bytes:
    return bytes(layout.MemberKey(network, (ctypes.c_uint8 * 6).from_buffer_copy(layout.pack_mac(mac))))


def _homes(policy: PortPolicy) -> frozenset[str]:
    """By which addresses others on other networks find the port; link-local ones mean nothing there."""
    others = (*policy.leases, *(pair.address for pair in policy.pairs))
    return frozenset(address for address in (*policy.addresses, *others) if not ip_address(address).is_link_local)


@lru_cache(maxsize=1024)
def _allowance(budget: Budget) -> bytes:
    """As the kernel holds it, untouched; most VMs have one of a few."""
    entries = budget.table_entries
    ways = 0 if entries is None else min(layout.FLOW_WAYS, max(1, entries // layout.FLOW_SETS))
    rate = layout.Rate(round((budget.packets_per_s or 0) * 1000), round(budget.octets_per_s or 0), 0)
    flows, broadcasts = ((budget.new_flows_per_s or 0), (budget.broadcasts_per_s or 0))
    return bytes(
        layout.Allowance(0, ways, rate, *(layout.Rate(round(one * 1000), 0, 0) for one in (flows, broadcasts)))
    )


def _bounds_of(allowance: bytes) -> bytes:
    """What an allowance was put with, without its lock and what is left of it."""
    return allowance[layout.Allowance.ways.offset : layout.Allowance.bucket.offset]


def _budget_flags(budget: Budget) -> int:
    """Frames to groups apart, so that a bound of theirs costs no other frame anything."""
    others = replace(budget, broadcasts_per_s=None) != Budget()
    return (_BUDGET if others else 0) | (_BROADCASTS if budget.broadcasts_per_s is not None else 0)


def _content(map_fd: int, key: type[ctypes.Structure], value: type[ctypes.Structure]) -> dict[bytes, bytes]:
    """Everything in a map."""
    room = 4096
    keys, values, state = (key * room)(), (value * room)(), (ctypes.c_uint8 * 64)()
    found: dict[bytes, bytes] = {}
    more = True
    while more:
        at = ctypes.addressof(keys), ctypes.addressof(values)
        count, more = kernel.read_batch(map_fd, *at, room, state, first=not found)
        found |= {bytes(keys[n]): bytes(values[n]) for n in range(count)}
        more = more and count > 0
    return found
