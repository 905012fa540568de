"""A policy is swapped while traffic flows: a probe of 1 kHz sees no moment of neither policy, and would see one."""

import itertools
import time
from collections.abc import Callable

import pytest

from bench._tcp import undisturbed
from hypervigil.host import policyfile
from hypervigil.host.inventory import Compiled, compile_ports
from hypervigil.network.compile import difference
from tests.integration.probing import TICK_NS, Probe, probing
from tests.integration.test_fabric import OPEN, RULES, VMS, World, living
from tests.integration.wirelab import ethernet, ipv4, ipv6, udp

pytestmark = pytest.mark.root

SWAPS, ROUNDS = 200, 5
APART_S = 0.005
OTHER = RULES.replace('vms = ["blue-1", "blue-3"]', 'vms = ["blue-1"]').replace("udp/7000-7999", "udp/7400-7600")
"""Other members of a group and other services: ports' entries and the whole bank change."""
CLOSED = RULES.replace("udp/7000-7999", "udp/7000-7001")
ALLOWED, FORBIDDEN = 7500, 6999
GAP_S, GAPS = 0.003, 10
WIDEST_NS = 2 * TICK_NS
"""Between two turns of a probe that is held to have seen what happened there."""
Times = list[tuple[int, int]]


def frames(world: World) -> dict[str, bytes]:
    """To an allowed and to a forbidden port, by IPv4 and IPv6; room for a number is left."""
    source, target = world.taps["blue-1"], world.taps["red-1"]
    (_, *ours), (_, *theirs) = VMS["blue-1"], VMS["red-1"]
    found = {}
    for word, port in (("allowed", ALLOWED), ("forbidden", FORBIDDEN)):
        payload = udp(5, port, f"{word:<16}".encode() + bytes(4))
        four, six = ipv4(ours[0], theirs[0], 17, payload), ipv6(ours[1], theirs[1], 17, payload)
        found[f"{word} 4"] = ethernet(source.mac, target.mac, 0x0800, four)[:-4]
        found[f"{word} 6"] = ethernet(source.mac, target.mac, 0x86DD, six)[:-4]
    return found


def probed(world: World, meanwhile: Callable[[], Times]) -> tuple[Probe, Times]:
    """What the probe saw, and of the times when something happened those that lie between two of its turns."""
    world.drain()
    with probing(world.taps["blue-1"], world.taps["red-1"], frames(world)) as probe, undisturbed():
        times = meanwhile()
    return probe, [when for when in times if probe.widest_gap_ns(*when) <= WIDEST_NS]


def compiled(world: World, *texts: str) -> list[Compiled]:
    return [compile_ports(world.inventory, policyfile.parse(text)) for text in texts]


def change(world: World, before: Compiled, after: Compiled) -> None:
    """As the enforcer does it."""
    for port in after.ports:
        world.plane.attach(port)
    world.plane.change_fabric(difference(before.fabric, after.fabric))


def swap(world: World) -> Times:
    """Two hundred swaps, each of which the kernel took."""
    both = compiled(world, RULES, OTHER)
    times = []
    for before, after in itertools.islice(itertools.cycle((both, both[::-1])), SWAPS):
        bank, began = world.plane._fabric._bank.index, time.monotonic_ns()
        change(world, before, after)
        times.append((began, time.monotonic_ns()))
        assert world.plane._fabric._bank.index != bank
        time.sleep(APART_S)
    return times


@pytest.mark.req("T-NET-2")
def test_live_swaps_let_nothing_through_and_lose_nothing() -> None:
    """Two hundred swaps that a 1 kHz probe watched, between policies that both allow one thing and forbid another."""
    with living() as world:
        world.put(RULES)
        watched, told = 0, []
        for _ in range(ROUNDS):
            probe, seen = probed(world, lambda: swap(world))
            watched += len(seen)
            told.append(f"{len(probe.sent)} turns at {probe.rate:.0f}/s, {len(seen)} swaps seen")
            for version in (4, 6):
                assert probe.lost(f"allowed {version}") == set(), "an allowed packet was lost"
                assert probe.arrived[f"forbidden {version}"] == set()
            if watched >= SWAPS:
                break
        print(told)
        assert watched >= SWAPS, f"this machine left the probe too little time: {told}"


@pytest.mark.req("T-NET-2")
@pytest.mark.parametrize("between", [CLOSED, OPEN], ids=["closed", "open"])
def test_the_control_a_gap_of_three_milliseconds_is_seen(between: str) -> None:
    """A swap by way of another policy, as where old rules go before new ones come: each turn within it shows."""
    with living() as world:
        world.put(RULES)
        rules, gap = compiled(world, RULES, between)

        def by_way() -> Times:
            times = []
            for _ in range(20):
                change(world, rules, gap)
                began = time.monotonic_ns()
                time.sleep(GAP_S)
                times.append((began, time.monotonic_ns()))
                change(world, gap, rules)
                time.sleep(GAP_S)
            return times

        noticed = 0
        for _ in range(ROUNDS):
            probe, seen = probed(world, by_way)
            for when in seen:
                turns = probe.between(*when)
                assert turns, "three milliseconds have a turn or more"
                for version in (4, 6):
                    lost, through = probe.lost(f"allowed {version}"), probe.arrived[f"forbidden {version}"]
                    assert turns <= (lost if between is CLOSED else through)
                noticed += 1
            if noticed >= GAPS:
                break
        assert noticed >= GAPS, "this machine left the probe too little time"
