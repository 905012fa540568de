"""What of the host itself answers a guest: a scan of all its addresses from bridged and routed guests' own stacks."""

import secrets
import select
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from hypervigil.model.services import service
from hypervigil.model.vm import Inventory
from hypervigil.network.decide import decide
from hypervigil.network.ends import Gateway, members
from hypervigil.wire.messages import Repaired
from tests.integration.enforcing import enforcer
from tests.integration.guestlab import GATEWAYS, Card, Guest, Host, Target, machine_entry, network_entry
from tests.integration.wirelab import Segment, ethernet, ipv4, namespace, run, udp

pytestmark = [pytest.mark.root, pytest.mark.req("T-NET-5", "A29")]

PLACES = {
    **{f"{network}'s gateway": pair for network, pair in GATEWAYS.items()},
    "management": ("198.51.100.7", "fd99::7"),
    "metadata": ("169.254.169.254", None),
}
SERVICES = [("tcp", 22), ("tcp", 53), ("tcp", 443), ("udp", 53), ("udp", 111)]
CLOSED = [("tcp", 81), ("udp", 112)]
TARGETS: list[Target] = [
    (kind, address, port)
    for pair in PLACES.values()
    for address in pair
    if address is not None
    for kind, port in (*SERVICES, *CLOSED)
]
POLICY = (
    'mode = "enforce"\n'
    + network_entry("flat", 'cidr = "10.71.0.0/24"', 'reaches = ["side"]', "outside = true")
    + network_entry("side", 'cidr = "10.72.0.0/24"')
    + network_entry("far", 'cidr = "10.73.0.0/24"', "outside = true")
    + machine_entry("flat-1")
    + machine_entry("far-1")
    + """
[[path]]
name = "anything outside"
from = "any"
to = "outside"
services = "any"

[[path]]
name = "names"
from = ["vm:flat-1", "vm:far-1"]
to = "gateway"
services = ["tcp/53", "udp/53"]
"""
)


class Listeners:
    """The host's services, on each of its addresses."""

    def __init__(self) -> None:
        self._udp: list[socket.socket] = []
        self._tcp: list[socket.socket] = []
        for address in {address for _, address, _ in TARGETS}:
            for kind, number in SERVICES:
                family = socket.AF_INET6 if ":" in address else socket.AF_INET
                one = socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                one.setsockopt(socket.SOL_IP, 15, 1)  # IP_FREEBIND: a gateway's address comes with the product
                one.bind((address, number))
                if kind == "tcp":
                    one.listen(64)
                (self._tcp if kind == "tcp" else self._udp).append(one)
        self.heard: set[bytes] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._answer, daemon=True)
        self._thread.start()

    def _answer(self) -> None:
        while not self._stop.is_set():
            for one in select.select(self._udp, [], [], 0.1)[0]:
                data, peer = one.recvfrom(2048)
                self.heard.add(data)
                one.sendto(data, peer)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        for one in (*self._udp, *self._tcp):
            one.close()


class World:
    def __init__(self, host: Host) -> None:
        self.host = host
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "add", "mgmt", "type", "bridge")
        run("ip", "link", "set", "mgmt", "up")
        for device, place in (("br1", "flat's gateway"), ("br2", "side's gateway"), ("mgmt", "management")):
            four, six = PLACES[place]
            if device.startswith("br"):
                Segment(device)
            run("ip", "address", "add", f"{four}/24", "dev", device)
            run("ip", "address", "add", f"{six}/64", "dev", device, "nodad")
        run("ip", "address", "add", "169.254.169.254/32", "dev", "lo")
        flat = Card("52:54:00:71:00:11", ("10.71.0.11/24", "fd71::11/64"), PLACES["flat's gateway"])
        far = Card("52:54:00:73:00:11", ("10.73.0.11/32", "fd73::11/128"), PLACES["far's gateway"])
        self.guests = {"flat-1": Guest("flat-1", flat, "br1"), "far-1": Guest("far-1", far)}
        self.listeners = Listeners()

    def by_hand(self) -> None:
        """What an operator without the product sets up for the routed guest."""
        tap = self.guests["far-1"].tap.name
        for own, guest in (("10.73.0.1/32", "10.73.0.11"), ("fd73::1/128", "fd73::11")):
            run("ip", "address", "add", own, "dev", tap, *(["nodad"] if ":" in own else []))
            run("ip", "route", "add", guest, "dev", tap)

    def hears_what_is_sent_to_everybody(self) -> bool:
        """Whether the host takes a packet to one of its addresses from a frame to everybody, which an open network lets
        pass.
        """
        guest, marker = self.guests["flat-1"], secrets.token_bytes(18)
        packet = ipv4("10.71.0.11", "198.51.100.7", 17, udp(40000, 111, marker))
        guest.tap.send(ethernet(guest.card.mac, "ff:ff:ff:ff:ff:ff", 0x0800, packet))
        end = time.monotonic() + 0.3
        while marker not in self.listeners.heard and time.monotonic() < end:
            time.sleep(0.01)
        return marker in self.listeners.heard

    def declared(self, name: str) -> set[Target]:
        """What the policy lets this guest begin with the host."""
        policy = self.host.policy
        [member] = members(policy, Inventory((self.guests[name].vm(),)))
        found = set()
        for place, pair in PLACES.items():
            for kind, port in (*SERVICES, *CLOSED):
                one = service(6 if kind == "tcp" else 17, port)
                gateway = Gateway(place.removesuffix("'s gateway"))
                if "gateway" in place and decide(policy, member, gateway, one).allowed:
                    found |= {(kind, address, port) for address in pair if address is not None}
        return found


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with namespace(ipv6=True), enforcer() as driver:
        made = World(Host(driver))
        try:
            yield made
        finally:
            made.listeners.close()
            for guest in made.guests.values():
                guest.close()


def test_only_what_is_declared_answers(world: World) -> None:
    world.by_hand()
    for name, guest in world.guests.items():
        found = guest.scan(TARGETS)
        assert found == set(TARGETS), f"the control: without the product all of the host answers {name}"
    for address in ("10.73.0.1/32", "fd73::1/128"):
        run("ip", "address", "delete", address, "dev", world.guests["far-1"].tap.name)
    world.host.put(POLICY, [guest.vm() for guest in world.guests.values()])
    for name, guest in world.guests.items():
        declared = world.declared(name)
        assert declared
        assert guest.scan(TARGETS) == declared, name
        assert guest.run("ping", "-c1", "-W2", world.guests[name].card.gateways[0]).returncode == 0
        assert guest.run("ping", "-c1", "-W2", world.guests[name].card.gateways[1]).returncode == 0


def test_the_hosts_firewall_is_what_keeps_the_host_from_being_taken_for_the_outside(world: World) -> None:
    """Without it, who may reach the outside reaches the host's addresses: the program at the tap does not know them."""
    with world.host.nobody_looks():
        run("nft", "delete", "table", "inet", "hypervigil")
        for name, guest in world.guests.items():
            assert guest.scan(TARGETS) > world.declared(name), "the control"
        assert world.hears_what_is_sent_to_everybody()
    world.host.driver.notice(lambda n: isinstance(n, Repaired) and n.subject == "routed guard" and n.ok, 5)
    for name, guest in world.guests.items():
        assert guest.scan(TARGETS) == world.declared(name)
    assert not world.hears_what_is_sent_to_everybody()


def test_a_routed_guest_whose_program_is_gone_reaches_nothing_of_the_host(world: World) -> None:
    guest = world.guests["far-1"]
    pins = world.host.driver.layout.pin_dir
    with world.host.nobody_looks():
        for end in ("from", "to"):
            run("bpftool", "link", "detach", "pinned", str(pins / f"link-{guest.tap.ifindex}-{end}"))
        assert guest.scan(TARGETS) == set()
    world.host.driver.notice(lambda n: isinstance(n, Repaired) and "programs were detached" in n.detail and n.ok, 5)
    assert guest.scan(TARGETS) == world.declared("far-1")
