"""Routed VMs for real: domains whose NICs are on no bridge, a stock host that routes first, then Hypervigil.

Three guests, r1 (the attacker) and r2 of tenant red, r3 of tenant blue; every packet between them crosses the host.
"""

import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from hypervigil.model.traffic import ForgedKind
from lab import frames, libvirtd
from lab.capture import Capture
from lab.definition import GuestSpec
from lab.guests import Guest, destroy_all, start_all
from lab.network import Network, Networks, NetworkSpec
from lab.residue import look, residue
from tests.integration.wirelab import arp, ethernet, ipv4, ipv6, mac_of, udp
from tests.system.matrix import forwarding
from tests.system.observed import dropped
from tests.system.product import Product, installed, kill, wait_for

pytestmark = [pytest.mark.guests, pytest.mark.root, pytest.mark.long, pytest.mark.timeout(900)]

TENANTS = {"r1": "red", "r2": "red", "r3": "blue"}
TIMES = 20


@dataclass(frozen=True)
class Stage:
    network: Network
    guests: dict[str, Guest]

    def six(self, name: str) -> str:
        return self.network.address6(self.guests[name].spec.index) or ""

    def policy(self) -> str:
        lines = [
            'mode = "enforce"\n[[network]]\nname = "far"\nforwarding = "routed"',
            f'cidr = "{self.network.spec.cidr}"\ngateways = ["{self.network.gateway}", "{self.network.gateway6}"]',
        ]
        for name, guest in self.guests.items():
            own = f'addresses = ["{guest.address}", "{self.six(name)}"]'
            lines.append(f'[[vm]]\nname = "{guest.domain}"\ntenant = "{guest.spec.tenant}"\n{own}')
        lines.append('[[path]]\nname = "red asks r3"\nfrom = "tenant:red"\nto = "vm:hvl-r3"\nservices = "icmp/echo"')
        return "\n".join(lines) + "\n"

    def reaches(self, source: str, target: str, version: int) -> bool:
        """Whether one guest's ping is answered by another."""
        address = self.guests[target].address if version == 4 else self.six(target)
        return self.guests[source].run(f"ping -q -c 2 -i 0.3 -W 2 {address}").exit == 0

    def reached(self) -> dict[tuple[str, str, int], bool]:
        """Every ordered pair, by IPv4 and IPv6."""
        pairs = [(a, b) for a in self.guests for b in self.guests if a != b]
        return {(a, b, version): self.reaches(a, b, version) for a, b in pairs for version in (4, 6)}

    def forgeries(self) -> dict[str, tuple[ForgedKind, bytes]]:
        """Frames of r1 that are not its to send."""
        r1, r2, r3 = self.guests.values()
        host = mac_of(r1.interface)
        forged4 = ipv4(r2.address, r3.address, 17, udp(7, 9))
        forged6 = ipv6(self.six("r2"), self.six("r3"), 17, udp(7, 9))
        own4 = ipv4(r1.address, r3.address, 17, udp(7, 9))
        return {
            "r2's IPv4 address": (ForgedKind.IPV4, ethernet(r1.mac, host, 0x0800, forged4)),
            "r2's IPv6 address": (ForgedKind.IPV6, ethernet(r1.mac, host, 0x86DD, forged6)),
            "r2's MAC": (ForgedKind.MAC, ethernet(r2.mac, host, 0x0800, own4)),
            "ARP: r2 is here": (ForgedKind.ARP, ethernet(r1.mac, host, 0x0806, arp(2, r1.mac, r2.address, r2.address))),
        }

    def arrivals(self, forged: bytes) -> int:
        """How many of so many such frames come out at r3's tap."""
        at, size = (26, 4) if forged[12:14] == b"\x08\x00" else (22, 16)
        # The last four octets of the source tell it, of IPv6 too: a test looks at four at most.
        tail = int.from_bytes(forged[at + size - 4 : at + size])
        kind = frames.Test(12, 2, frozenset({int.from_bytes(forged[12:14])}))
        port = frames.Test(at + 2 * size + 2, 2, frozenset({9}))
        view = frames.View(
            "r3", frames.Heading.TO_PLACE, [[kind, frames.Test(at + size - 4, 4, frozenset({tail})), port]]
        )
        with Capture() as capture:
            counter = capture.count(self.guests["r3"].interface, view)
            self.play(forged)
            self.guests["r3"].run("true")
            return counter.total

    def play(self, frame: bytes) -> None:
        done = self.guests["r1"].run(f"hv-wire play --times {TIMES} --rate 100 {frame.hex()}", 60)
        assert done.exit == 0, done.output


@pytest.fixture
def stage() -> Iterator[Stage]:
    before = look()
    with ExitStack() as stack:
        stack.enter_context(forwarding())
        stack.enter_context(libvirtd.running())
        spec = NetworkSpec("far", "10.63.0.0/24", "fd63::/64", routed=True)
        network = stack.enter_context(Networks([spec]))["far"]
        guests = {n: Guest(GuestSpec(n, t, "far", i), network) for i, (n, t) in enumerate(TENANTS.items())}
        stack.callback(destroy_all, list(guests.values()))
        start_all(list(guests.values()))
        yield Stage(network, guests)
    assert residue(before) == []


@pytest.fixture
def product() -> Iterator[Product]:
    with installed(Path("/run"), f"hvr-{secrets.token_hex(3)}") as made:
        yield made
    for directory in (made.run_dir, made.state_dir):
        shutil.rmtree(directory)


@pytest.mark.req("T-NET-1", "T-NET-2", "A32")
def test_routed_guests_reach_what_they_may_and_speak_for_nobody_else(stage: Stage, product: Product) -> None:
    # The control: a stock host routes between all, and carries what r1 sends in r2's name.
    for number, guest in enumerate(stage.guests.values()):
        stage.network.route(guest.interface, number)
    assert all(stage.reached().values()), "the control: everybody reaches everybody"
    forgeries = stage.forgeries()
    arrived = {name: stage.arrivals(frame) for name, (kind, frame) in forgeries.items() if kind is not ForgedKind.ARP}
    assert min(arrived.values()) >= TIMES // 2, f"the control: forged frames arrive: {arrived}"
    for number, guest in enumerate(stage.guests.values()):
        stage.network.unroute(guest.interface, number)
    assert not any(stage.reached().values()), "nobody routes any more"

    product.up(stage.policy())
    wait_for("everything bound", product.ready, within_s=20)
    for guest in stage.guests.values():
        assert product.call("exempt", guest.domain, "--until", "2h").returncode == 0
    wanted = {
        (a, b, version): b == "r3" or TENANTS[a] == TENANTS[b] == "red"
        for a in stage.guests
        for b in stage.guests
        if a != b
        for version in (4, 6)
    }
    wait_for("routes", lambda: stage.reaches("r1", "r3", 4) and stage.reaches("r1", "r3", 6), within_s=20)
    assert stage.reached() == wanted

    before = dropped(product.places.pin_dir)
    held = {name: stage.arrivals(frame) for name, (kind, frame) in forgeries.items() if kind is not ForgedKind.ARP}
    stage.play(forgeries["ARP: r2 is here"][1])
    assert held == dict.fromkeys(held, 0)
    added = {mac: count.since(before[mac]).forged for mac, count in dropped(product.places.pin_dir).items()}
    r1, r2, r3 = stage.guests.values()
    assert added[r1.mac] == dict.fromkeys((kind for kind, _ in forgeries.values()), TIMES)
    assert added[r2.mac] == added[r3.mac] == {}

    # With nobody alive the same holds, and what is allowed goes on.
    pids = product.pids()
    for pid in (pids.pop("supervisor"), *pids.values()):  # first of all who would bring the others back
        kill(pid)
    assert stage.reaches("r1", "r3", 4)
    assert stage.reaches("r1", "r3", 6)
    assert not stage.reaches("r3", "r1", 4)
    assert stage.arrivals(forgeries["r2's IPv4 address"][1]) == 0
