"""The attack matrix's frames at a routed tap: a stock host carries what it can, and the product nothing of it.

What real guests make of them is in ``tests/system/test_network_matrix.py``.
"""

import json
import select
import socket
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from hypervigil.model.traffic import ForgedKind
from lab.guest.wire import TAG
from tests.integration.enforcing import enforcer
from tests.integration.guestlab import Card, Guest
from tests.integration.guestlab import Host as Enforced
from tests.integration.wirelab import ethernet, ipv4, mac_of, namespace, run, udp
from tests.system.attacks import ASKS, SERVICE, Attack, Cast, Host, attacks
from tests.system.observed import dropped

pytestmark = [pytest.mark.root, pytest.mark.req("T-NET-1", "A32")]

GATEWAYS = ("10.74.0.1", "fd74::1")
HONEST = 250
ALL = 0x0003


class World:
    def __init__(self, enforced: Enforced) -> None:
        self.enforced = enforced
        for setting in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            Path("/proc/sys/net", setting).write_text("1", encoding="ascii")
        self.guests = {}
        self.hosts = {}
        for number, name in enumerate(("a1", "a2", "b1"), start=11):
            pair = (f"10.74.0.{number}", f"fd74::{number}")
            card = Card(f"52:54:00:74:00:{number}", (f"{pair[0]}/32", f"{pair[1]}/128"), GATEWAYS)
            self.guests[name] = Guest(name, card)
            self.hosts[name] = Host(name, card.mac, *pair, mac_of("tap-a1"))
        self.tap = self.guests["a1"].tap
        gateway = Host("gateway", mac_of(self.tap.name), *GATEWAYS)
        self.cast = Cast(*self.hosts.values(), gateway)

    def by_hand(self, verb: str) -> None:
        """What a stock host that routes has for each guest."""
        for name, guest in self.guests.items():
            for gateway, own in zip(GATEWAYS, (self.hosts[name].four, self.hosts[name].six), strict=True):
                length = 128 if ":" in gateway else 32
                nodad = ["nodad"] if ":" in gateway and verb == "add" else []
                words = [["address", verb, f"{gateway}/{length}", "dev", guest.tap.name, *nodad]]
                words.append(["route", verb, f"{own}/{length}", "dev", guest.tap.name])
                for one in words if verb == "add" else reversed(words):
                    run("ip", *one)

    def policy(self) -> str:
        vms = "".join(
            f'[[vm]]\nname = "{h.name}"\ntenant = "{h.name[0]}"\naddresses = {json.dumps([h.four, h.six])}\n'
            for h in self.hosts.values()
        )
        return (
            f'mode = "enforce"\n[[network]]\nname = "far"\nforwarding = "routed"\ncidr = "10.74.0.0/24"\n'
            f"gateways = {json.dumps(GATEWAYS)}\n{vms}"
            f'[[path]]\nname = "a to b1"\nfrom = "tenant:a"\nto = "vm:b1"\nservices = "udp/{SERVICE}"\n'
        )

    def played(self, tried: Sequence[Attack]) -> set[int]:
        """Which attacks' frames come out at another guest's tap; what is honest is sent last, and has to."""
        sockets = [socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) for _ in range(2)]
        for one, name in zip(sockets, ("a2", "b1"), strict=True):
            one.bind((self.guests[name].tap.name, ALL))
        a1, b1 = self.hosts["a1"], self.hosts["b1"]
        last = ipv4(a1.four, b1.four, 17, udp(ASKS, SERVICE, TAG + bytes([HONEST])))
        for attack in tried:
            for frame in attack.frames:
                self.tap.send(frame)
        self.tap.send(ethernet(a1.mac, a1.at, 0x0800, last))
        seen: set[int] = set()
        deadline = time.monotonic() + 5
        while HONEST not in seen and (left := deadline - time.monotonic()) > 0:
            for one in select.select(sockets, [], [], left)[0]:
                frame, (_, _, kind, _, _) = one.recvfrom(2048)
                at = frame.find(TAG)
                if kind == socket.PACKET_OUTGOING and at >= 0:
                    seen.add(frame[at + len(TAG)])
        for one in sockets:
            one.close()
        assert HONEST in seen, "honest traffic arrives"
        return seen - {HONEST}


@pytest.fixture
def world() -> Iterator[World]:
    with namespace(ipv6=True), enforcer() as driver:
        made = World(Enforced(driver))
        try:
            yield made
        finally:
            for guest in made.guests.values():
                guest.close()


def test_what_a_stock_host_carries_of_the_attacks_ends_at_the_attackers_tap(world: World) -> None:
    tried = [one for one in attacks(world.cast) if not one.of_a_link]
    near = {one.number for one in tried if one.needs_neighbour}
    to_guests = {one.number for one in tried if one.at != "gateway"}
    world.by_hand("add")
    for name in ("a2", "b1"):  # what waits for an address to be resolved is dropped after a few
        for address in (world.hosts[name].four, world.hosts[name].six):
            run("ping", "-c1", "-W5", address)
    carried = world.played(tried)
    assert carried & near == set(), "the control: no router carries what is for neighbours"
    assert len(carried) >= 0.9 * len(to_guests - near), "the control: all the rest"
    world.by_hand("delete")

    world.enforced.put(world.policy(), [guest.vm() for guest in world.guests.values()])
    pins = world.enforced.driver.layout.pin_dir
    before = dropped(pins)
    assert world.played(tried) == set()
    added = {mac: count.since(before[mac]) for mac, count in dropped(pins).items()}
    wanted = Counter(drop for attack in tried for drop in attack.drops if drop is not None)
    assert added[world.hosts["a1"].mac].forged == dict(wanted)
    frames = [(frame, drop) for attack in tried for frame, drop in zip(attack.frames, attack.drops, strict=True)]
    # What bears no tag is the harmless part of an attack.
    assert added[world.hosts["a1"].mac].denied == sum(drop is None and TAG in frame for frame, drop in frames)
    assert set(wanted) >= {ForgedKind.ARP, ForgedKind.ND, ForgedKind.IPV4, ForgedKind.IPV6, ForgedKind.MAC}
    assert added[world.hosts["a2"].mac].forged == added[world.hosts["b1"].mac].forged == {}
