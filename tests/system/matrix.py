"""The attack matrix: every attack of a guest on its neighbours, tried once, and whether each succeeded."""

import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from hypervigil.model.port_policy import link_local
from lab import libvirtd
from lab.commands import call, works
from lab.definition import GuestSpec
from lab.guests import Guest, destroy_all, start_all
from lab.network import Network, Networks, NetworkSpec
from tests.integration.wirelab import mac_of
from tests.system.attacks import SERVICE, Attack, Cast, Host, Shown, attacks
from tests.system.observed import Gateway, Seen, Watcher, learned, neighbours
from tests.system.product import wait_for

TIMES, RATE = 4, 150
FLOODED_MACS = 200
UNLEARNED, STOLEN, BETWEEN, BETWEEN6 = 201, 202, 203, 204
HIDDEN, CLOSED = (7022, 7053), 7081
"""Ports of the host where something listens that is not for guests, and one where nothing does."""
OTHER = NetworkSpec("other", "10.62.0.0/24", "fd62::/64")
MANAGEMENT = NetworkSpec("mgmt", "10.63.0.0/24", "fd63::/64")
METADATA = "169.254.169.254"
_FORWARDING = Path("/proc/sys/net/ipv6/conf/all/forwarding")
LOCKED_S = 1.2  # for a second after a change an address's entry believes nobody (the kernel's locktime)
_TENANTS = {"a1": "red", "a2": "red", "b1": "blue", "b2": "blue"}


@dataclass(frozen=True)
class Cell:
    """One attack at one place."""

    name: str
    family: str
    at: str


@dataclass
class Column:
    """What came of the attacks: whether each succeeded, and what the attacker and the others saw."""

    succeeded: dict[Cell, bool] = field(default_factory=dict)
    seen: dict[str, Seen] = field(default_factory=dict)
    changed: list[str] = field(default_factory=list)
    """Neighbour tables' entries that name somebody else than whose address it is."""
    sent: list[Attack] = field(default_factory=list)
    needless: set[Cell] = field(default_factory=set)
    """What is made for neighbours on one wire, where there are none: tried all the same, and never a success."""

    @property
    def counted(self) -> dict[Cell, bool]:
        """Of the attacks that this network may be open to."""
        return {cell: succeeded for cell, succeeded in self.succeeded.items() if cell not in self.needless}

    @property
    def blocked(self) -> float:
        """The share of these that came to nothing."""
        return 1 - sum(self.counted.values()) / len(self.counted)


class Stage:
    """Four guests of two tenants on one network, and the host as their gateway; on a bridge, or routed by the host."""

    def __init__(self, network: Network, guests: dict[str, Guest], gateway: Gateway) -> None:
        self.network = network
        self.guests = guests
        self.gateway = gateway
        self.routed = network.spec.routed
        taps = {name: mac_of(guest.interface) for name, guest in guests.items()} if self.routed else {}
        hop = taps.get("a1", "")
        hosts = {
            name: Host(name, g.mac, g.address, network.address6(g.spec.index) or "", hop) for name, g in guests.items()
        }
        self.hosts = {**hosts, "gateway": Host("gateway", hop or network.mac, network.gateway, network.gateway6 or "")}
        self.cast = Cast(*(self.hosts[name] for name in ("a1", "a2", "b1", "gateway")))
        owners = {(a, host.mac) for host in self.hosts.values() for a in (host.four, host.six, host.local)}
        self._right = dict.fromkeys(self.hosts, owners)
        """What is true in a table; for who is routed all the others are where the host is."""
        for name, mac in taps.items():
            others = [host for host in self.hosts.values() if host.name != name]
            self._right[name] = {(a, mac) for host in others for a in (host.four, host.six)} | {(link_local(mac), mac)}

    def route(self) -> None:
        """Where the host routes, do it as a stock one does."""
        for guest in self.guests.values() if self.routed else ():
            self.network.route(guest.interface, guest.spec.index)

    def unroute(self) -> None:
        """Undo it."""
        for guest in self.guests.values() if self.routed else ():
            self.network.unroute(guest.interface, guest.spec.index)

    def policy(self, rules: str, *, outside: bool = False) -> str:
        """The operator's file for this network, with rules of one's own."""
        gateways = json.dumps([self.cast.gateway.four, self.cast.gateway.six])
        lines = [
            'mode = "enforce"', "[[network]]", f'name = "{self.network.spec.name}"', self.network.place,
            f'cidr = "{self.network.spec.cidr}"', f"gateways = {gateways}",
            f"outside = {json.dumps(outside)}",
        ]  # fmt: skip
        for name, guest in self.guests.items():
            own = json.dumps([self.hosts[name].four, self.hosts[name].six])
            lines += ["[[vm]]", f'name = "{guest.domain}"', f'tenant = "{guest.spec.tenant}"', f"addresses = {own}"]
        return "\n".join(lines) + "\n" + rules

    def table(self, name: str) -> set[tuple[str, str]]:
        """A guest's neighbour table, or the gateway's at the guests' devices: addresses, each with a MAC."""
        return neighbours(*self.gateway.interfaces) if name == "gateway" else neighbours(self.guests[name])

    def wrong(self, name: str, table: set[tuple[str, str]]) -> list[tuple[str, str]]:
        """What in a table names somebody else than whose address it is."""
        known = {address for host in self.hosts.values() for address in (host.four, host.six, host.local)}
        return sorted((a, mac) for a, mac in table - self._right[name] if a in known)

    def meet(self) -> None:
        """Everybody's tables empty, then filled by honest conversations, and old enough to be changed again."""
        gw, hosts = self.cast.gateway, self.hosts
        for device in self.gateway.interfaces:
            call(["ip", "neigh", "flush", "dev", device])
        wanted = {"a2": [gw.four, gw.six], "b1": [gw.four, gw.six, hosts["a2"].four]}
        if not self.routed:
            wanted["b1"] += [hosts["a2"].six, hosts["a2"].local]
        for name, addresses in wanted.items():
            asked = " & ".join(
                f"ping -q -c 3 -i 0.2 -W 2 {a}{'%eth0' if a.startswith('fe80') else ''}" for a in addresses
            )
            self.guests[name].run(f"ip neigh flush dev eth0; {asked} & wait", 40)
        met = [address for name in ("a2", "b1") for address in (hosts[name].four, hosts[name].six)]
        for address in met:
            call(["ping", "-q", "-c", "2", "-i", "0.2", "-W", "2", address])
        for name, addresses in {**wanted, "gateway": met}.items():
            table = self.table(name)
            assert {a for a, _ in table & self._right[name]} >= set(addresses), f"the table of {name}: {table}"
            assert self.wrong(name, table) == [], f"the table of {name}"
        time.sleep(LOCKED_S)

    def play(self, tried: Sequence[Attack]) -> None:
        """Let the attacker send attacks' frames."""
        frames = " ".join(frame.hex() for attack in tried for frame in attack.frames)
        done = self.guests["a1"].run(f"hv-wire play --times {TIMES} --rate {RATE} {frames}", 60)
        assert done.exit == 0, done.output
        assert json.loads(done.output)["sent"] == TIMES * sum(len(attack.frames) for attack in tried)

    def say(self, source: str, targets: dict[int, str], times: int = 20) -> None:
        """Datagrams to addresses, each with a tag, that others may try to see."""
        saying = [f"hv-wire say {address} 9 --tag {tag} --times {times}" for tag, address in targets.items()]
        self.guests[source].run(f"{' & '.join(saying)} & wait", 30)


@contextmanager
def staged(spec: NetworkSpec) -> Iterator[Stage]:
    """Boot the guests; nothing of them is left at the end."""
    with ExitStack() as stack:
        stack.enter_context(libvirtd.running())
        if spec.routed:
            stack.enter_context(forwarding())
        made = stack.enter_context(Networks([spec, OTHER, MANAGEMENT]))
        network, management = made[spec.name], made[MANAGEMENT.name]
        call(["ip", "addr", "add", f"{METADATA}/32", "dev", management.bridge])
        guests = {n: Guest(GuestSpec(n, t, spec.name, i), network) for i, (n, t) in enumerate(_TENANTS.items())}
        stack.callback(destroy_all, list(guests.values()))
        start_all(list(guests.values()))
        hosts = [end for one in made for end in (one.gateway, one.gateway6) if end is not None]
        devices = [guest.interface for guest in guests.values()] if spec.routed else [network.bridge]
        gateway = Gateway(devices, [*hosts, METADATA], [SERVICE, *HIDDEN])
        stack.callback(gateway.end)
        for guest in guests.values():
            guest.spawn(f"hv-wire serve {SERVICE}")
        listens = f"ss -ltn | grep -q :{SERVICE}"
        for name, guest in guests.items():
            wait_for(f"the services of {name}", lambda guest=guest: guest.run(listens).exit == 0, within_s=60)
        stage = Stage(network, guests, gateway)
        stage.route()
        yield stage


@contextmanager
def forwarding() -> Iterator[None]:
    """The host forwards IPv6 meanwhile, as it forwards IPv4 for the lab."""
    before = _FORWARDING.read_text(encoding="ascii")
    _FORWARDING.write_text("1", encoding="ascii")
    try:
        yield
    finally:
        _FORWARDING.write_text(before, encoding="ascii")


def attacked(stage: Stage) -> Column:
    """Try everything once. Everybody has met before: who is just being forgotten loses honest frames too."""
    # Where the host routes each guest is alone with it on a link, and may call itself there what it likes.
    column = Column(sent=[one for one in attacks(stage.cast) if not (stage.routed and one.of_a_link)])
    watchers = {name: Watcher(stage.guests[name]) for name in ("a1", "a2", "b1")}
    if not stage.routed:
        works(["ip", "link", "set", stage.network.bridge, "type", "bridge", "fdb_flush"])
    earlier = stage.gateway.seen()
    try:
        for name, watcher in watchers.items():
            wait_for(f"the watcher of {name}", lambda watcher=watcher: watcher.seen().foreign >= 0, within_s=60)
        _tables_and_frames(stage, column)
        _sniffing(stage, column)
        time.sleep(0.3)  # three times as often as watchers tell
        column.seen = {"gateway": stage.gateway.seen().since(earlier), **{n: w.seen() for n, w in watchers.items()}}
    finally:
        for watcher in watchers.values():
            watcher.end()
    captured = column.seen["a1"].by_attack
    for attack in column.sent:
        cell = Cell(attack.name, attack.family, attack.at)
        if attack.shown is Shown.DELIVERED:
            column.succeeded[cell] = attack.number in column.seen[attack.at].by_attack
        if stage.routed and attack.needs_neighbour:
            column.needless.add(cell)
    for number, name, family in (
        (UNLEARNED, "sniffing: a2 to b1, whom the bridge forgot", "4"),
        (STOLEN, "sniffing: b1 to a2, whose MAC was taken", "4"),
        (BETWEEN, "sniffing: a2 to the gateway, after ARP replies", "4"),
        (BETWEEN6, "sniffing: a2 to the gateway, after ND advertisements", "6"),
    ):
        cell = Cell(name, family, "a1")
        column.succeeded[cell] = number in captured
        if stage.routed:
            column.needless.add(cell)
    return column


def _tables_and_frames(stage: Stage, column: Column) -> None:
    for batch in range(4):
        tried = [attack for attack in column.sent if attack.batch == batch]
        stage.play(tried)
        tables = {name: stage.table(name) for name in ("a2", "b1", "gateway")}
        for attack in tried:
            if attack.believed is not None:
                cell = Cell(attack.name, attack.family, attack.at)
                column.succeeded[cell] = (attack.believed, stage.cast.a1.mac) in tables[attack.at]
        for name, table in tables.items():
            column.changed += [f"{name}: {address} is at {mac}" for address, mac in stage.wrong(name, table)]
        if batch == 1:
            stage.say("a2", {BETWEEN: stage.cast.gateway.four, BETWEEN6: stage.cast.gateway.six})


def _sniffing(stage: Stage, column: Column) -> None:
    a1, a2, b1 = (stage.guests[name] for name in ("a1", "a2", "b1"))
    bridge = stage.network.bridge
    if not stage.routed:
        a2.run(f"ip neigh replace {b1.address} lladdr {b1.mac} dev eth0 nud reachable")
        b1.run(f"ip neigh replace {a2.address} lladdr {a2.mac} dev eth0 nud reachable")
    with ThreadPoolExecutor(1) as pool:
        saying = pool.submit(stage.say, "a2", {UNLEARNED: b1.address})
        while not stage.routed and not saying.done():
            works(["bridge", "fdb", "del", b1.mac, "dev", b1.interface, "master"])  # as after minutes of silence
            time.sleep(0.02)
        saying.result()
    mine = bytes.fromhex(a1.mac.replace(":", ""))
    stolen = (mine + bytes.fromhex(a2.mac.replace(":", "")) + b"\x88\xb6").ljust(60, b"\0")
    job = a1.spawn(f"hv-wire play --seconds 20 --rate 200 {stolen.hex()}")
    wait_for("the theft", lambda: a1.run("pgrep -f 'wire.py pla[y]'").exit == 0, within_s=60)
    stage.say("b1", {STOLEN: a2.address}, times=50)
    a1.stop(job)
    flood = (bytes.fromhex("0e0000ffffff") + mine + b"\x88\xb6").ljust(60, b"\0")
    a1.run(f"hv-wire play --macs {FLOODED_MACS} --times 1 --rate 2000 {flood.hex()}", 60)
    if not stage.routed:
        column.succeeded[Cell("made-up MACs for the bridge's table", "–", "bridge")] = (
            learned(bridge, "0e:00:00:00") > 0
        )


# --- what of the host itself answers ---
def targets(stage: Stage) -> list[str]:
    """Everything that may be asked of the host: each of its addresses, services there and ports where nothing is."""
    ports = [SERVICE, *HIDDEN, CLOSED]
    return [f"{kind}/{end}/{port}" for end in stage.gateway.addresses for kind in ("tcp", "udp") for port in ports]


def scanned(stage: Stage, by: str) -> set[str]:
    """What of the host answers a guest, be it by a refusal."""
    stage.guests[by].run(f"ip -6 route replace default via {stage.cast.gateway.six} dev eth0")
    done = stage.guests[by].run(f"hv-wire reach --refusals {' '.join(targets(stage))}", 90)
    assert done.exit == 0, done.output
    return {word for word, (_, answered) in json.loads(done.output).items() if answered}
