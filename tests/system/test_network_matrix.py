"""The network on real guests: attacks on neighbours, who reaches whom, live swaps, and guests that come and go.

One boot of four guests: a1 (the attacker) and a2 of tenant red, b1 and b2 of tenant blue, and the host as gateway;
another one of the same four where the host routes to each. Everything is tried on the stock network first.
"""

import json
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from hypervigil.entrypoints.control_client import ask
from hypervigil.entrypoints.layout import Layout
from hypervigil.model.policy import Policy
from hypervigil.model.services import NEIGHBOUR, parse_one
from hypervigil.model.traffic import ForgedKind
from hypervigil.model.vm import Inventory
from hypervigil.network.decide import decide
from hypervigil.network.ends import End, Gateway, members
from hypervigil.wire.control import ApplyPolicy, ShowNetwork
from lab import frames
from lab.capture import Capture
from lab.guests import Guest
from lab.network import NetworkSpec
from lab.residue import look, residue
from tests.system.attacks import SERVICE, attacks
from tests.system.matrix import TIMES, Column, Stage, attacked, scanned, staged, targets
from tests.system.observed import Watcher, dropped, in_force
from tests.system.product import Product, installed, wait_for

pytestmark = [pytest.mark.guests, pytest.mark.root, pytest.mark.timeout(900)]

PATHS = f"""
[[path]]
name = "red to b1"
from = "tenant:red"
to = "vm:hvl-b1"
services = ["tcp/{SERVICE}", "udp/{SERVICE}", "icmp/echo"]

[[path]]
name = "b1 to a2"
from = "vm:hvl-b1"
to = "vm:hvl-a2"
services = ["tcp/{SERVICE}", "udp/{SERVICE}", "icmp/echo"]

[[path]]
name = "to the gateway"
from = ["tenant:red", "tenant:blue"]
to = "gateway"
services = ["tcp/{SERVICE}", "udp/{SERVICE}"]
"""
BUILD = Path(__file__).parents[2] / "build"
EVIDENCE_WITHIN_S = 1.0


Reach = dict[tuple[str, str, str], bool]
BRIDGED = pytest.mark.parametrize("stage", ["bridged"], indirect=True)


@pytest.fixture(scope="module", params=["bridged", pytest.param("routed", marks=pytest.mark.long)])
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    before = look()
    with staged(NetworkSpec("matrix", "10.61.0.0/24", "fd61::/64", routed=request.param == "routed")) as made:
        yield made
    assert residue(before) == []


@dataclass(frozen=True)
class Free:
    """What is reached before there is a product: the host by two of the guests, and on a bridge who by whom."""

    host: dict[str, set[str]]
    pairs: Reach


@pytest.fixture(scope="module")
def free(stage: Stage) -> Free:
    return Free({name: scanned(stage, name) for name in SCANNERS}, {} if stage.routed else reached(stage))


@pytest.fixture(scope="module")
def control(stage: Stage, free: Free) -> Column:
    """The stock network, before there is a product; tables that were poisoned stay so, thus after who reaches whom."""
    stage.meet()
    return attacked(stage)


@pytest.fixture(scope="module")
def product(stage: Stage, control: Column) -> Iterator[Product]:
    stage.unroute()
    with installed(Path("/run"), f"hvt-{secrets.token_hex(3)}") as made:
        made.up(stage.policy(PATHS))
        wait_for("everything bound", made.ready, within_s=20)
        asked = f"ping -q -c 1 -W 2 {stage.cast.gateway.four} && ping -q -c 1 -W 2 {stage.cast.gateway.six}"
        # On a bridge what the control run poisoned stays so until it is forgotten: nobody waits for that.
        for guest in stage.guests.values() if stage.routed else ():
            wait_for("the way to the gateway", lambda guest=guest: guest.run(asked).exit == 0, within_s=20)
        # Judged as always, and not limited: what holds here are the ports, not the limits of a verdict.
        for guest in stage.guests.values():
            assert made.call("exempt", guest.domain, "--until", "2h").returncode == 0
        yield made
    for directory in (made.run_dir, made.state_dir):
        shutil.rmtree(directory)


@dataclass(frozen=True)
class Honest:
    """What honest conversations came to: how often each was begun and answered."""

    counts: dict[str, list[int]]

    @property
    def asked(self) -> int:
        return sum(asked for asked, _ in self.counts.values())

    @property
    def lost(self) -> dict[str, list[int]]:
        return {word: counts for word, counts in self.counts.items() if counts[0] != counts[1]}


def conversing(guest: Guest, stage: Stage, others: list[str], seconds: float) -> Honest:
    """A guest's allowed conversations, five a second of each kind, for so long."""
    hosts = [stage.hosts[name] for name in others]
    words = [f"{s}/{a}/{SERVICE}" for host in hosts for a in (host.four, host.six) for s in ("tcp", "udp", "icmp")]
    done = guest.run(f"hv-wire reach --patience 15 --seconds {seconds} --rate 4 {' '.join(words)}", seconds + 90)
    assert done.exit == 0, done.output
    return Honest(json.loads(done.output))


def table(stage: Stage, control: Column, protected: Column) -> str:
    """Both columns, for people."""
    words = {True: "succeeds", False: "blocked"}
    stock = "stock routing" if stage.routed else "stock bridge"
    lines = [f"| attack | IP | shows at | {stock} | Hypervigil |", "|---|---|---|---|---|"]
    for cell, succeeded in protected.succeeded.items():
        told = (
            ("no such neighbour",) * 2
            if cell in control.needless
            else (words[control.succeeded[cell]], words[succeeded])
        )
        lines.append(f"| {cell.name} | {cell.family} | {cell.at} | {' | '.join(told)} |")
    blocked = f"{len(control.counted)} attacks; blocked: {control.blocked:.0%} and {protected.blocked:.0%}"
    return "\n".join([*lines, "", blocked]) + "\n"


WORKING = {
    False: ("sniffing: ", "ARP reply: ", "ND advertisement: ", "DHCP offer", "router advertisement"),
    True: ("ARP question", "ND solicitation", "DHCP offer"),
}
"""What succeeds on a stock host, on a bridge and routed, besides forged senders."""


@pytest.mark.req("T-NET-1", "A23", "A32", "A34", "A124", "A133")
def test_every_attack_on_neighbours_ends_at_the_attackers_port(stage: Stage, control: Column, product: Product) -> None:
    a1 = stage.guests["a1"]
    names = {cell.name for cell, succeeded in control.succeeded.items() if succeeded}
    for kind in (*WORKING[stage.routed], "a2's MAC", "a2's IPv4 address", "a2's IPv6 address"):
        assert any(name.startswith(kind) for name in names), f"the control: {kind} fails on a stock host"
    assert [cell for cell in control.needless if control.succeeded[cell]] == [], "the control: there are neighbours"

    pin_dir = product.places.pin_dir
    before = dropped(pin_dir)
    # The first frame of all that is not the attacker's to send is an IPv4 fragment in a2's name.
    own = int.from_bytes(bytes(map(int, a1.address.split("."))))
    forgery = [frames.Test(12, 2, frozenset({0x0800})), frames.Test(26, 4, frozenset({own}), among=False)]
    view = frames.View("a1", frames.Heading.FROM_PLACE, [forgery])
    stage.meet()
    with Capture() as capture, ThreadPoolExecutor(2) as pool:
        onset = capture.count(a1.interface, view)
        honest = [
            pool.submit(conversing, stage.guests[name], stage, others, 20)
            for name, others in (("a2", ["b1", "gateway"]), ("b1", ["a2", "gateway"]))
        ]
        protected = attacked(stage)
        came = [future.result() for future in honest]
    wall = time.time() - time.monotonic()
    added = {mac: count.since(before[mac]) for mac, count in dropped(pin_dir).items()}

    said = table(stage, control, protected)
    BUILD.mkdir(exist_ok=True)
    (BUILD / f"network-matrix-{'routed' if stage.routed else 'bridged'}.md").write_text(said, encoding="utf-8")
    print(said)

    assert [cell for cell, succeeded in protected.succeeded.items() if succeeded] == []
    assert control.blocked <= 0.4
    assert protected.changed == []
    assert protected.seen["a1"].foreign == 0, "frames for others"
    numbers = {attack.number for attack in protected.sent}
    for name in ("a2", "b1", "gateway"):
        assert not numbers & protected.seen[name].by_attack.keys(), f"{name} got an attack's frame"

    forged = added[a1.mac].forged
    wanted = Counter(drop for attack in protected.sent for drop in attack.drops if drop is not None)
    for kind, count in wanted.items():
        if kind is not ForgedKind.MAC:  # the thefts of a MAC and the flood are on top
            assert forged[kind] == TIMES * count, f"{kind.name}: {forged[kind]} counted"
    assert forged[ForgedKind.MAC] > TIMES * wanted[ForgedKind.MAC]
    others = {name: added[guest.mac].forged for name, guest in stage.guests.items() if name != "a1"}
    assert others == {"a2": {}, "b1": {}, "b2": {}}

    assert all(one.asked > 100 for one in came)
    assert [one.lost for one in came] == [{}, {}]

    [case] = [case for case in product.cases() if case.name == a1.domain][-1:]
    assert onset.first_at_s is not None
    late_s = case.opened_at - (onset.first_at_s + wall)
    print(f"evidence {late_s:.3f} s after the first forged frame; {sum(one.asked for one in came)} conversations")
    assert 0 <= late_s <= EVIDENCE_WITHIN_S
    judged = wait_for("a verdict", lambda: [c for c in product.cases() if c.attack == "spoof"], within_s=20)
    assert {(c.name, c.role) for c in judged} == {(a1.domain, "attacker")}
    accused = {c.name for c in product.cases() if c.role == "attacker"}
    assert accused == {a1.domain}, "and nobody else"


# --- what of the host answers ---
SCANNERS = ("a1", "b2")
TO_THE_OUTSIDE = """
[[path]]
name = "anything outside"
from = "any"
to = "outside"
services = "any"
"""


@pytest.mark.req("T-NET-5", "A29")
def test_only_declared_ports_of_the_host_answer(stage: Stage, free: Free, product: Product, tmp_path: Path) -> None:
    everything = set(targets(stage))
    for name in SCANNERS:
        assert everything - free.host[name] == set(), f"the control: not all of the host answers {name}"
    applied(product, stage.policy(PATHS + TO_THE_OUTSIDE, outside=True), tmp_path / "policy.toml")
    gateway = stage.cast.gateway
    declared = {f"{kind}/{end}/{SERVICE}" for kind in ("tcp", "udp") for end in (gateway.four, gateway.six)}
    for name in SCANNERS:
        assert scanned(stage, name) == declared
    print(f"{len(everything)} ports of {len(stage.gateway.addresses)} addresses asked: {len(declared)} declared answer")


# --- who reaches whom ---
OTHER_PATHS = f"""
[[path]]
name = "blue to red"
from = "tenant:blue"
to = "tenant:red"
services = "tcp/{SERVICE}"

[[path]]
name = "a2 to b2"
from = "vm:hvl-a2"
to = "vm:hvl-b2"
services = ["udp/{SERVICE}", "icmp/echo"]

[[deny]]
name = "no echo in red"
from = "tenant:red"
to = "tenant:red"
services = "icmp/echo"
"""
SERVICES = {"tcp": f"tcp/{SERVICE}", "udp": f"udp/{SERVICE}", "icmp": "icmp/echo", "arp": "arp", "nd": "nd"}


def asked(stage: Stage, source: str) -> dict[tuple[str, str], str]:
    """What a guest asks everybody else, by whom and what."""
    found = {}
    for name, host in stage.hosts.items():
        if name != source:
            for service in SERVICES:
                for address in (host.four, host.six):
                    if (service == "arp" and address == host.six) or (service == "nd" and address == host.four):
                        continue
                    found[name, f"{service} {6 if address == host.six else 4}"] = f"{service}/{address}/{SERVICE}"
    return found


def reached(stage: Stage) -> Reach:
    """What really comes about: every ordered pair of guests, and each guest with the gateway."""

    def try_all(source: str) -> Reach:
        words = asked(stage, source)
        known = [
            f"ip neigh replace {address} lladdr {host.mac} dev eth0 nud permanent"
            for name, host in stage.hosts.items()
            if name != source
            for address in (host.four, host.six)
        ]
        # Who knows everybody's MAC is not held up by want of an answer to that.
        command = f"{'; '.join(known)}; hv-wire reach {' '.join(words.values())}; ip neigh flush dev eth0 nud permanent"
        done = stage.guests[source].run(command, 60)
        answered = json.loads(done.output)
        return {(source, *what): bool(answered[word][1]) for what, word in words.items()}

    with ThreadPoolExecutor(len(stage.guests)) as pool:
        return {key: came for found in pool.map(try_all, stage.guests) for key, came in found.items()}


def decided(stage: Stage, product: Product) -> Reach:
    """What the specification says of the policy and the VMs that the product tells of."""
    told = ask(layout(product).control_socket, ShowNetwork())
    policy, known = msgspec.convert(told["policy"], Policy), msgspec.convert(told["inventory"], Inventory)
    ends: dict[str, End] = {member.vm.removeprefix("hvl-"): member for member in members(policy, known)}
    ends["gateway"] = Gateway(stage.network.spec.name)
    found = {}
    for source in stage.guests:
        for (name, what), word in asked(stage, source).items():
            kind = word.split("/")[0]
            wanted = NEIGHBOUR if kind in ("arp", "nd") else parse_one(SERVICES[kind])
            found[source, name, what] = decide(policy, ends[source], ends[name], wanted).allowed
    return found


def explained(stage: Stage, product: Product, cell: tuple[str, str, str]) -> bool:
    """What ``hypervigil network explain`` says."""
    source, name, what = cell
    ends = [word if word == "gateway" else stage.guests[word].domain for word in (source, name)]
    return bool(product.ask("network", "explain", *ends, SERVICES[what.split()[0]])["allowed"])


def applied(product: Product, text: str, path: Path) -> None:
    """A policy put in force as an operator does, and confirmed by every port."""
    path.write_text(text, encoding="utf-8")
    assert product.call("network", "apply", str(path)).returncode == 0
    wait_for("the policy in force", product.ready, within_s=20)


def layout(product: Product) -> Layout:
    """Where its parts are."""
    return Layout(product.places.run_dir, product.places.state_dir, product.places.pin_dir)


@BRIDGED
@pytest.mark.req("T-NET-2", "A26", "A90")
def test_every_ordered_pair_equals_the_policy(stage: Stage, product: Product, free: Free, tmp_path: Path) -> None:
    assert all(free.pairs.values()), f"the control: {[cell for cell, came in free.pairs.items() if not came]}"
    for number, rules in enumerate((PATHS, OTHER_PATHS, PATHS)):
        applied(product, stage.policy(rules), tmp_path / "policy.toml")
        wanted = decided(stage, product)
        assert 0.2 * len(wanted) < sum(wanted.values()) < 0.8 * len(wanted)
        found = reached(stage)
        assert {cell for cell in wanted if found[cell] != wanted[cell]} == set()
        print(f"policy {number}: {sum(wanted.values())} of {len(wanted)} cells allowed, all as decided")
        for cell in list(wanted)[number :: len(wanted) // 4]:
            assert explained(stage, product, cell) == wanted[cell], cell


ALLOWED, DENIED = SERVICE, SERVICE + 1
SWAPS, SWAP_EVERY_S = 200, 0.05


def mac_tail(mac: str) -> int:
    """The last four octets, which tell guests apart."""
    return int(mac.replace(":", "")[4:], 16)


@dataclass(frozen=True)
class Probe:
    """What came of a stream of numbered datagrams: sent to each port, and how many different ones arrived.

    ``untaken`` reached the receiver's kernel, while the receiving program was too busy to take them.
    """

    sent: int
    rate: float
    arrived: dict[str, int]
    untaken: int

    @property
    def lost(self) -> int:
        """Of those to the allowed port: lost on their way."""
        return self.sent - self.arrived[str(ALLOWED)] - self.untaken


def probed(stage: Stage, source: str, target: str, seconds: float, meanwhile: Callable[[], None]) -> Probe:
    """Datagrams from one guest to an allowed and a denied port of another, as fast as it can up to 1,000 a second."""
    there, here = stage.guests[target], stage.guests[source]
    ports = f"{ALLOWED},{DENIED}"
    there.run("pkill -f 'wire.py serv[e]'; rm -f /tmp/counted; true")
    counting = there.spawn(f"hv-wire count /tmp/counted {ports}")
    wait_for("the receiver", lambda: there.run("test -e /tmp/counted").exit == 0, within_s=60)
    untaken = "awk '/^Udp: [0-9]/ {print $6}' /proc/net/snmp"
    before = int(there.run(untaken).output)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(here.run, f"hv-wire stream {there.address} {ports} --seconds {seconds}", seconds + 60)
        wait_for("datagrams", lambda: there.run("grep -q '[1-9]' /tmp/counted").exit == 0, within_s=60)
        meanwhile()
        done = running.result()
    assert done.exit == 0, done.output
    sent = json.loads(done.output)
    time.sleep(0.5)  # what was on its way, and the receiver's next word
    arrived = json.loads(there.run("cat /tmp/counted").output)
    there.stop(counting)
    there.spawn(f"hv-wire serve {SERVICE}")
    return Probe(sent["sent"], sent["sent"] / sent["seconds"], arrived, int(there.run(untaken).output) - before)


@BRIDGED
@pytest.mark.long
@pytest.mark.req("T-NET-2")
def test_live_swaps_let_nothing_through_and_lose_nothing(stage: Stage, product: Product, tmp_path: Path) -> None:
    """Two policies alternate that both allow one thing and both forbid another, and differ in everything else."""
    swapped = PATHS.replace('from = "tenant:red"\nto = "vm:hvl-b1"', 'from = "vm:hvl-a2"\nto = "tenant:blue"')
    assert swapped != PATHS
    texts = [stage.policy(rules) for rules in (swapped, PATHS)]
    applied(product, texts[1], tmp_path / "policy.toml")
    seconds = SWAPS * SWAP_EVERY_S + 2
    idle = probed(stage, "a2", "b1", seconds, lambda: None)
    flips = []

    def swap() -> None:
        for number in range(SWAPS):
            due = time.monotonic() + SWAP_EVERY_S
            ask(layout(product).control_socket, ApplyPolicy(text=texts[number % 2], by="test"))
            flips.append(in_force(product.places.pin_dir))
            time.sleep(max(0.0, due - time.monotonic()))

    a2 = stage.guests["a2"].mac
    before = dropped(product.places.pin_dir)[a2]
    busy = probed(stage, "a2", "b1", seconds, swap)
    denied = dropped(product.places.pin_dir)[a2].since(before).denied
    wait_for("the last policy in force", product.ready, within_s=20)
    for name, probe in (("without swaps", idle), ("with swaps", busy)):
        print(f"{name}: {probe.sent} datagrams at {probe.rate:.0f}/s to each port, {probe.lost} lost, {probe}")
    print(f"{len(set(flips))} states of the policy seen in the kernel")
    assert idle.arrived[str(DENIED)] == busy.arrived[str(DENIED)] == 0
    assert idle.lost == busy.lost == 0
    assert denied == busy.sent, "each to the forbidden port, and none else"
    assert min(idle.rate, busy.rate) > 100
    assert len(set(flips)) > SWAPS / 2, "the kernel's policy did change"


# --- guests that come and go ---
@BRIDGED
@pytest.mark.req("T-NET-1", "A204")
def test_protection_follows_a_guest_that_starts_again_and_one_that_is_restored(
    stage: Stage, product: Product, tmp_path: Path
) -> None:
    a1, a2, b1 = (stage.guests[name] for name in ("a1", "a2", "b1"))
    applied(product, stage.policy(PATHS), tmp_path / "policy.toml")
    [forgery] = [one for one in attacks(stage.cast) if one.name == "a2's MAC and IPv4 address" and one.at == "b1"]
    forging = f"hv-wire play --rate 100 --seconds 600 {forgery.frames[0].hex()}"
    view = frames.View("a1", frames.Heading.FROM_PLACE, [[frames.Test(8, 4, frozenset({mac_tail(a2.mac)}))]])
    watchers = [Watcher(guest) for guest in (a2, b1)]

    def honest() -> bool:
        """Whether the guest has what it may have."""
        return a1.run(f"hv-wire reach udp/{b1.address}/{SERVICE} icmp/{a2.address}/0").output.count(", 1]") == 2

    with Capture() as capture:
        counters = []

        def created(guest: Guest) -> None:
            counters.append(capture.count(guest.interface, view))

        def forged(number: int) -> None:
            """It goes on forging, and has its honest traffic."""
            wait_for("honest traffic", honest, within_s=90)
            wait_for("forgeries", lambda: counters[number].total > 200, within_s=90)

        a1.start(cold=True, on_boot=forging, on_created=created)
        forged(0)
        a1.save_and_restore(on_created=created)
        forged(1)
        arrived = [watcher.seen() for watcher in watchers]
        print(
            f"{[counter.total for counter in counters]} forged frames since start and since restoration, none arrived"
        )
    for watcher in watchers:
        watcher.end()
    assert [seen.by_attack for seen in arrived] == [{}, {}]
