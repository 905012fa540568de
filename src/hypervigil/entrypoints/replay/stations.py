"""Which VM's NIC each frame of a capture comes from and goes to. Pure.

A NIC is a MAC where there is one; else, and for whoever is only seen through a router, it is made up for an address.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from hypervigil.entrypoints.replay.census import Card, Census, best_first, text
from hypervigil.entrypoints.replay.links import NOBODY, Seen
from hypervigil.hypervisor.adapters.ebpf.layout import ADDRESSES, pack_address, pack_mac
from hypervigil.model.port_policy import link_local

MAX_STATIONS = 256
_MADE_UP = b"\x02hv\x00"


@dataclass(frozen=True, slots=True)
class Station:
    """One virtual NIC."""

    name: str
    """The VM's."""
    ifindex: int
    mac: bytes
    network: int
    made_up: bool
    """Known by its address: its frames get its MAC put in."""
    only: frozenset[bytes] | None = None
    """Of a router: the addresses that are its own; what it sends for others is not its."""
    addresses: tuple[str, ...] = ()
    bound: tuple[str, ...] = ()
    """Of a NIC that says to have an address that is another's: what it may send with. Else empty: with anything."""
    may_serve_dhcp: bool = False
    may_advertise_routes: bool = False

    def concerns(self, seen: Seen, end: int) -> bool:
        """Whether a frame with this MAC at one end (0: source, 1: destination) is its own business."""
        if self.only is None or seen.arp:
            return True
        return seen.addresses is None or seen.addresses[end] in self.only


class Stations:
    """All of them, and who is at the ends of a frame."""

    def __init__(self, stations: Sequence[Station], left_out: int = 0) -> None:
        self.all = tuple(stations)
        self.left_out = left_out
        self._by_mac = {one.mac: one for one in stations if not one.made_up}
        self._by_address = {pack_address(a): one for one in stations if one.made_up for a in one.addresses}

    def sender(self, seen: Seen) -> Station | None:
        """Whose NIC sent it."""
        found = self._by_mac.get(seen.source_mac) if seen.real else None
        if found is not None and found.concerns(seen, 0):
            return found
        return self._by_address.get(seen.addresses[0]) if seen.addresses else None

    def receivers(self, seen: Seen, sender: Station | None) -> Iterable[Station]:
        """Whose NICs get it."""
        if seen.destination_mac[0] & 1:
            return [one for one in self.all if one is not sender and one.network == seen.network]
        found = self._by_mac.get(seen.destination_mac) if seen.real else None
        if found is None or not found.concerns(seen, 1):
            found = self._by_address.get(seen.addresses[1]) if seen.addresses else None
        return [found] if found is not None else []


def named(census: Census, names: Iterable[tuple[str, str]], *, others: bool = False) -> Stations:
    """NICs of VMs that the operator names by MAC or address, and of all ``others``. ``ValueError`` with the reason."""
    found: dict[bytes, Station] = {}
    for number, (name, where) in enumerate(names):
        station = _named(census, number, name, where)
        other = found.setdefault(station.mac, station)
        if other is not station:
            raise ValueError(f"{name}={where} is the NIC of {other.name} already: name each NIC once")
    left_out = 0
    if others:
        taken = {address for station in found.values() for address in station.addresses}
        more = everybody(census)
        left_out = more.left_out
        for station in more.all:
            if station.mac not in found and taken.isdisjoint(station.addresses):
                number = len(found)
                mac = _MADE_UP + number.to_bytes(2) if station.made_up else station.mac
                found[mac] = replace(station, ifindex=number + 1, mac=mac)
    return Stations(list(found.values()), left_out)


def _named(census: Census, number: int, name: str, where: str) -> Station:
    where = where.lower().replace("-", ":")
    try:
        packed = pack_address(where)
    except ValueError:
        raise ValueError(f"{where} is neither a MAC nor an IP address: write NAME=MAC or NAME=ADDRESS") from None
    if where == packed[10:].hex(":"):
        mac = pack_mac(where)
        return _by_mac(census, number, name, mac, census.cards.get(mac) or Card(0), whole=True)
    known = census.addresses.get(packed)
    card = census.cards.get(known.mac) if known is not None else None
    if known is not None and card is not None and _has(card, packed):
        return _by_mac(census, number, name, known.mac, card)
    return _by_address(number, name, packed, card.network if card is not None else 0)


def _has(card: Card, address: bytes) -> bool:
    """Whether an address is a MAC's own: it has it, or carries no other."""
    if address in card.own or (address in card.asked_for and not card.router):
        return True
    return not card.own and (card.passed_on if card.sent else card.asked_for) == {address}


def _by_mac(census: Census, number: int, name: str, mac: bytes, card: Card, *, whole: bool = False) -> Station:
    bound = _bound(census, mac, card)
    # Who took over the way to others forwards for them, and is no router for that.
    router = card.router and bool(card.own) and not bound
    return Station(
        name=name,
        ifindex=number + 1,
        mac=mac,
        network=card.network,
        made_up=False,
        only=frozenset(card.own) if router and not whole else None,
        addresses=tuple(text(address) for address in _carried(census, mac, card)[:ADDRESSES]),
        bound=bound,
        may_serve_dhcp=census.dhcp_servers.get(card.network) == mac,
        may_advertise_routes=(card.router and not bound) or census.advertisers.get(card.network) == mac,
    )


def _bound(census: Census, mac: bytes, card: Card) -> tuple[str, ...]:
    """What a NIC may send with that claimed what is another's; with more addresses than a NIC can have, anything."""
    foreign = census.disputes.disproved.get(mac, set())
    own = [text(address) for address in card.own if address not in foreign]
    if not foreign or len(own) >= ADDRESSES:
        return ()
    return (*own, link_local(mac.hex(":")))  # never empty, for that would be anything


def _carried(census: Census, mac: bytes, card: Card) -> list[bytes]:
    """A MAC's addresses, the one to name it by first."""
    foreign = census.disputes.disproved.get(mac, set())
    own = card.own if card.router else {**card.own, **dict.fromkeys(sorted(card.asked_for))}
    own = {address: None for address in own if address not in foreign}
    return best_first(own or card.passed_on or card.asked_for)


def _by_address(number: int, name: str, address: bytes, network: int) -> Station:
    mac = _MADE_UP + number.to_bytes(2)
    return Station(name, number + 1, mac, network, made_up=True, addresses=(text(address),))


def everybody(census: Census) -> Stations:
    """Without names: every host of the network; where only routers are seen, every private address and every sender."""
    hosts = [
        (mac, card) for mac, card in census.cards.items() if mac != NOBODY and not mac[0] & 1 and _counts(census, card)
    ]
    found: list[tuple[int, Station]] = []
    for mac, card in hosts:
        found.append((card.sent, _by_mac(census, len(found), text(_carried(census, mac, card)[0]), mac, card)))
    if not found:
        for address in _standing_alone(census):
            known = census.addresses[address]
            found.append((known.sent + known.got, _by_address(len(found), text(address), address, 0)))
    busiest = sorted(found, key=lambda one: -one[0])
    return Stations([station for _, station in busiest[:MAX_STATIONS]], max(0, len(busiest) - MAX_STATIONS))


def _counts(census: Census, card: Card) -> bool:
    """Whether a MAC is a host's, or a router's that has addresses itself."""
    if card.own:
        return True
    alone = card.passed_on if card.sent else card.asked_for
    return len(alone) == 1 and all(census.addresses[address].private for address in alone)


def _standing_alone(census: Census) -> list[bytes]:
    """Addresses that count as hosts where no MAC tells one."""
    known = census.addresses
    local = [address for address, one in known.items() if one.private or one.outgoing]
    senders = [address for address, one in known.items() if one.sent]
    if census.real:
        return list(dict.fromkeys([*local, *senders]))
    return local or [address for address in senders if known[address].own] or senders
