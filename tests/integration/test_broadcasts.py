"""What one VM may send to groups: a bound that nobody has to write, counted by kind, and off by name only."""

import secrets
import time
from collections.abc import Callable, Iterator

import pytest

from hypervigil.model.traffic import DenialKind, Direction
from hypervigil.network.merge import BROADCASTS_PER_S
from tests.integration.test_dataplane import nd
from tests.integration.test_fabric import FREE, OPEN, VMS, World, living
from tests.integration.wirelab import arp, ethernet, ipv4, ipv6, mac_bytes, udp

pytestmark = pytest.mark.root

EVERYBODY = "ff:ff:ff:ff:ff:ff"
OURS = 'name = "blue-1"\n'
UNBOUNDED = 'budget = { broadcasts_per_s = "unbounded" }\n'
SECONDS = 2.0


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with living() as made:
        yield made


def groups(world: World) -> tuple[Callable[[], bytes], ...]:
    """Frames that everybody has to look at: an ARP request, a neighbour solicitation, a datagram to all."""
    mac, (_, four, six) = world.mac("blue-1"), VMS["blue-1"]
    question = arp(1, mac, four, VMS["blue-2"][1])
    solicitation = ipv6(six, "ff02::1:ff00:12", 58, nd(135, VMS["blue-2"][2], 1, mac))
    datagram = ipv4(four, "255.255.255.255", 17, udp(5, 6))
    return (
        lambda: ethernet(mac, EVERYBODY, 0x0806, question),
        lambda: ethernet(mac, "33:33:ff:00:00:12", 0x86DD, solicitation),
        lambda: ethernet(mac, EVERYBODY, 0x0800, datagram),
    )


def flood(world: World, per_s: float, *, probes: bool = False) -> tuple[int, int, float]:
    """Frames to groups for a while: how many were sent, how many reached its neighbour, and for how long.

    ``probes``: questions whether its own address is free, which of all only the router is to hear.
    """
    time.sleep(1.1)  # a bucket that there was is full again
    world.drain()
    here, there = world.taps["blue-1"], world.routers["net1"] if probes else world.taps["blue-2"]
    frames = [make() for make in groups(world)]
    if probes:
        frames = [ethernet(here.mac, EVERYBODY, 0x0806, arp(1, here.mac, "0.0.0.0", VMS["blue-1"][1]))]
    sent = arrived = 0
    began = time.monotonic()
    while (elapsed := time.monotonic() - began) < SECONDS:
        while sent < elapsed * per_s:
            here.send(frames[sent % len(frames)])
            sent += 1
        arrived += len(there.received(0.002))
    return sent, arrived + len(there.received(0.05)), elapsed


def denied(world: World) -> int:
    return int(world.crossings("blue-1").denied[Direction.OUT][DenialKind.BROADCAST])


@pytest.mark.req("T-NET-1")
@pytest.mark.parametrize(
    ("rules", "probes"), [(OPEN, False), (FREE, False), (OPEN, True)], ids=["ruled", "free", "probes"]
)
def test_frames_to_groups_are_bounded_though_nobody_said_so(world: World, rules: str, probes: bool) -> None:
    world.put(rules.replace(OURS, OURS + UNBOUNDED))
    before = denied(world)
    sent, arrived, _ = flood(world, 4 * BROADCASTS_PER_S, probes=probes)
    assert arrived == sent, "the control: all of them"
    assert denied(world) == before
    world.put(rules)
    sent, arrived, seconds = flood(world, 4 * BROADCASTS_PER_S, probes=probes)
    assert arrived == pytest.approx(BROADCASTS_PER_S * (1 + seconds), rel=0.05), (
        "a second's worth at once, then the rate"
    )
    assert denied(world) - before == sent - arrived
    marker = secrets.token_bytes(8)
    assert world.crosses("blue-1", "blue-2", lambda m: (17, udp(5, 7500, m + marker)), 4), "nothing else suffers"
    there = world.taps["red-1"]
    there.send(ethernet(there.mac, EVERYBODY, 0x0806, arp(1, there.mac, VMS["red-1"][1], VMS["blue-2"][1])))
    assert world.seen(world.taps["blue-2"], mac_bytes(there.mac)), "and nobody else"


def test_what_a_starting_guest_sends_passes(world: World) -> None:
    world.put(OPEN)
    time.sleep(1.1)
    world.drain()
    before = denied(world)
    for number in range(100):
        world.taps["blue-1"].send(groups(world)[number % 3]())
    assert len(world.taps["blue-2"].received(0.1)) == 100
    assert denied(world) == before


def test_a_bound_of_its_own_and_the_floors(world: World) -> None:
    world.put(OPEN.replace(OURS, OURS + "budget = { broadcasts_per_s = 400 }\n"))
    _, arrived, seconds = flood(world, 1600)
    assert arrived == pytest.approx(400 * (1 + seconds), rel=0.05)
    world.put(OPEN.replace(OURS, OURS + UNBOUNDED) + "\n[floor]\nbudget = { broadcasts_per_s = 50 }\n")
    _, arrived, seconds = flood(world, 400)
    assert arrived == pytest.approx(50 * (1 + seconds), rel=0.05), "no VM's word loosens the floor"


def test_monitor_mode_counts_them_and_drops_none(world: World) -> None:
    world.put(FREE.replace('mode = "enforce"', 'mode = "monitor"'))
    before = denied(world)
    sent, arrived, _ = flood(world, 4 * BROADCASTS_PER_S)
    assert arrived == sent
    assert denied(world) - before > sent / 2
