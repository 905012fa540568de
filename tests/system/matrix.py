"""The attack matrix: every attack of a guest on its neighbours, tried once, and whether each succeeded."""

import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from lab import libvirtd
from lab.commands import call, works
from lab.guests import Guest, GuestSpec, destroy_all, start_all
from lab.network import Network, Networks, NetworkSpec
from tests.system.attacks import SERVICE, Attack, Cast, Host, Shown, attacks
from tests.system.observed import Gateway, Seen, Watcher, learned, neighbours
from tests.system.product import wait_for

TIMES, RATE = 4, 150
FLOODED_MACS = 200
UNLEARNED, STOLEN, BETWEEN, BETWEEN6 = 201, 202, 203, 204
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

    @property
    def blocked(self) -> float:
        """The share of attacks that came to nothing."""
        return 1 - sum(self.succeeded.values()) / len(self.succeeded)


class Stage:
    """Four guests of two tenants on one network, and the host as their gateway."""

    def __init__(self, network: Network, guests: dict[str, Guest], gateway: Gateway) -> None:
        self.network = network
        self.guests = guests
        self.gateway = gateway
        hosts = {name: Host(name, g.mac, g.address, network.address6(g.spec.index) or "") for name, g in guests.items()}
        self.hosts = {**hosts, "gateway": Host("gateway", network.mac, network.gateway, network.gateway6 or "")}
        self.cast = Cast(*(self.hosts[name] for name in ("a1", "a2", "b1", "gateway")))

    def policy(self, rules: str) -> str:
        """The operator's file for this network, with rules of one's own."""
        gateways = json.dumps([self.cast.gateway.four, self.cast.gateway.six])
        lines = [
            'mode = "enforce"', "[[network]]", f'name = "{self.network.spec.name}"', self.network.place,
            f'cidr = "{self.network.spec.cidr}"', f"gateways = {gateways}",
        ]  # fmt: skip
        for name, guest in self.guests.items():
            own = json.dumps([self.hosts[name].four, self.hosts[name].six])
            lines += ["[[vm]]", f'name = "{guest.domain}"', f'tenant = "{guest.spec.tenant}"', f"addresses = {own}"]
        return "\n".join(lines) + "\n" + rules

    def table(self, name: str) -> dict[str, str]:
        """A guest's neighbour table, or the gateway's at a guest's device."""
        return neighbours(self.gateway.interface if name == "gateway" else self.guests[name])

    def meet(self) -> None:
        """Everybody's tables empty, then filled by honest conversations, and old enough to be changed again."""
        gw, hosts = self.cast.gateway, self.hosts
        call(["ip", "neigh", "flush", "dev", self.gateway.interface])
        wanted = {
            "a2": [gw.four, gw.six],
            "b1": [gw.four, gw.six, hosts["a2"].four, hosts["a2"].six, hosts["a2"].local],
        }
        for name, addresses in wanted.items():
            asked = " & ".join(
                f"ping -q -c 3 -i 0.2 -W 2 {a}{'%eth0' if a.startswith('fe80') else ''}" for a in addresses
            )
            self.guests[name].run(f"ip neigh flush dev eth0; {asked} & wait", 40)
        for name in ("a2", "b1"):
            for address in (hosts[name].four, hosts[name].six):
                call(["ping", "-q", "-c", "2", "-i", "0.2", "-W", "2", address])
        macs = {address: host.mac for host in hosts.values() for address in (host.four, host.six, host.local)}
        for name, addresses in {
            **wanted,
            "gateway": [h for n in ("a2", "b1") for h in (hosts[n].four, hosts[n].six)],
        }.items():
            table = self.table(name)
            assert {a: table.get(a) for a in addresses} == {a: macs[a] for a in addresses}, f"the table of {name}"
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
        network = stack.enter_context(Networks([spec]))[spec.name]
        guests = {n: Guest(GuestSpec(n, t, spec.name, i), network) for i, (n, t) in enumerate(_TENANTS.items())}
        stack.callback(destroy_all, list(guests.values()))
        start_all(list(guests.values()))
        gateway = Gateway(network.bridge, SERVICE)
        stack.callback(gateway.end)
        for guest in guests.values():
            guest.spawn(f"hv-wire serve {SERVICE}")
        listens = f"ss -ltn | grep -q :{SERVICE}"
        for name, guest in guests.items():
            wait_for(f"the services of {name}", lambda guest=guest: guest.run(listens).exit == 0, within_s=60)
        yield Stage(network, guests, gateway)


def attacked(stage: Stage) -> Column:
    """Try everything once. Everybody has met before: who is just being forgotten loses honest frames too."""
    column = Column(sent=list(attacks(stage.cast)))
    watchers = {name: Watcher(stage.guests[name]) for name in ("a1", "a2", "b1")}
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
        if attack.shown is Shown.DELIVERED:
            cell = Cell(attack.name, attack.family, attack.at)
            column.succeeded[cell] = attack.number in column.seen[attack.at].by_attack
    for number, name, family in (
        (UNLEARNED, "sniffing: a2 to b1, whom the bridge forgot", "4"),
        (STOLEN, "sniffing: b1 to a2, whose MAC was taken", "4"),
        (BETWEEN, "sniffing: a2 to the gateway, after ARP replies", "4"),
        (BETWEEN6, "sniffing: a2 to the gateway, after ND advertisements", "6"),
    ):
        column.succeeded[Cell(name, family, "a1")] = number in captured
    return column


def _tables_and_frames(stage: Stage, column: Column) -> None:
    macs = {a: host.mac for host in stage.hosts.values() for a in (host.four, host.six, host.local)}
    for batch in range(4):
        tried = [attack for attack in column.sent if attack.batch == batch]
        stage.play(tried)
        tables = {name: stage.table(name) for name in ("a2", "b1", "gateway")}
        for attack in tried:
            if attack.believed is not None:
                cell = Cell(attack.name, attack.family, attack.at)
                column.succeeded[cell] = tables[attack.at].get(attack.believed) == stage.cast.a1.mac
        for name, table in tables.items():
            column.changed += [f"{name}: {a} is at {mac}" for a, mac in table.items() if macs.get(a, mac) != mac]
        if batch == 1:
            stage.say("a2", {BETWEEN: stage.cast.gateway.four, BETWEEN6: stage.cast.gateway.six})


def _sniffing(stage: Stage, column: Column) -> None:
    a1, a2, b1 = (stage.guests[name] for name in ("a1", "a2", "b1"))
    bridge = stage.network.bridge
    a2.run(f"ip neigh replace {b1.address} lladdr {b1.mac} dev eth0 nud reachable")
    b1.run(f"ip neigh replace {a2.address} lladdr {a2.mac} dev eth0 nud reachable")
    with ThreadPoolExecutor(1) as pool:
        saying = pool.submit(stage.say, "a2", {UNLEARNED: b1.address})
        while not saying.done():
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
    column.succeeded[Cell("made-up MACs for the bridge's table", "–", "bridge")] = learned(bridge, "0e:00:00:00") > 0
