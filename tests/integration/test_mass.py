"""A million random and mutated frames through the kernel's programs and the model: no difference in anything."""

import os
import re
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from hypervigil.hypervisor.adapters.ebpf import layout
from hypervigil.hypervisor.adapters.ebpf.dataplane import DataPlane, remove_all
from hypervigil.hypervisor.reference import (
    conversations,
    dialogues,
    directory,
    fabric,
    frame,
    identity,
    leases,
    neighbours,
    peers,
    port,
)
from hypervigil.hypervisor.reference.port import Handover
from tests.integration import mass
from tests.integration.mass_policies import devices
from tests.integration.wirelab import Tap, namespace

pytestmark = pytest.mark.root

PART = 250_000
ENOUGH = 4
"""Parts in which a service must have greeted: about two do in one, by chance, and sometimes none."""


@pytest.fixture(scope="module")
def scene() -> Iterator[mass.Scene]:
    """Eight ports and an uplink. All runs on one CPU, since some of what the programs keep is per CPU."""
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cpus)})
    pin_dir = Path("/sys/fs/bpf") / f"hvm-{secrets.token_hex(4)}"
    with namespace():
        taps = [Tap(f"t{n}", f"52:54:00:00:01:{n:02x}") for n in range(9)]
        plane = DataPlane.open(pin_dir, max_ports=mass.PORTS)
        made = mass.Scene(plane, devices([(tap.name, tap.ifindex) for tap in taps[:8]]), taps[8].ifindex)
        try:
            yield made
            assert len(made.greeters) < ENOUGH or sum(made.greeters), "no service ever greeted"
        finally:
            made.reader.close()
            plane.close()
            remove_all(pin_dir)
            for tap in taps:
                tap.close()
            os.sched_setaffinity(0, cpus)


def agree(scene: mass.Scene, part: int, frames: int) -> None:
    """So many frames in worlds of their own, and all that can be met was met."""
    tally = mass.Tally()
    for world in range(frames // mass.WORLD + bool(frames % mass.WORLD)):
        mass.live(scene, part * 1000 + world, mass.WORLD, tally)
    assert tally.frames >= frames
    assert set(tally.verdicts) == {mass.PASS, mass.DROP, mass.REDIRECT}
    assert tally.forged.all(), f"forged: {tally.forged}"
    assert tally.classes.all(), f"classes: {tally.classes}"
    assert tally.denied[0][[0, 1, 3, 4]].all(), f"denied: {tally.denied}"
    assert tally.denied[1][:4].all(), f"denied: {tally.denied}"
    assert tally.handovers.keys() == {Handover.DECIDED, Handover.DONE}
    assert 0 < tally.swaps < tally.turns, "banks are swapped, and changed in place"
    assert tally.limited
    assert tally.answered, "proof of source"
    assert tally.dialogues > tally.concluded > 0
    scene.greeters.append(tally.greeters)
    assert tally.flows
    assert tally.evicted
    assert tally.leases, "DHCP"
    assert tally.refused_leases


def agree_in_parts(scene: mass.Scene, parts: Iterable[int]) -> None:
    """One part after the other."""
    for part in parts:
        agree(scene, part, PART)


@pytest.mark.req("T-CORE-4", "T-NET-1")
@pytest.mark.parametrize("part", range(4))
def test_a_million_random_and_mutated_frames_agree(scene: mass.Scene, part: int) -> None:
    agree(scene, part, PART)


@pytest.mark.long
@pytest.mark.parametrize("part", range(1000, 1040))
def test_ten_million_random_and_mutated_frames_agree(scene: mass.Scene, part: int) -> None:
    agree(scene, part, PART)


def _never(*_: object, **__: object) -> bool:
    return False


def _always(*_: object, **__: object) -> bool:
    return True


def _all_ways(table: conversations.Table, key: bytes, seed: int, tick: int, room: int) -> bool:
    return _enter(table, key, seed, tick, 8)


def _everything(frame: frame.Frame, mac: bytes) -> leases.Message | None:
    """A request is understood even where it asks in another's name."""
    found = frame.load(frame.l4 + 36, 6) if frame.l4 else None
    return _asked(frame, mac) or (_asked(frame, found) if found is not None else None)


def _ever(held: leases.Held, address: bytes, _: int) -> bool:
    return any(lease.end_ns and lease.address == address for lease in held.leases)


def _apart(_: directory.Directory, seat: directory.Seat) -> None:
    seat.allowance = directory.Allowance.of(seat.budget)


_asked = leases.asked
_enter = conversations.Table.enter
WRONG: dict[str, tuple[object, str, object]] = {
    "an answer needs no question": (conversations.Table, "knows", _always),
    "flooded frames are everybody's": (identity.Identity, "none_of_its_business", _never),
    "anybody may serve DHCP": (identity, "_DHCP", (1, 1)),
    "a MAC of a pair is nobody's": (identity.Identity, "_paired", _never),
    "no address is link-local": (fabric, "link_local", _never),
    "a table has all its ways whatever the budget": (conversations.Table, "enter", _all_ways),
    "each port of a VM has room of its own": (directory.Directory, "_bound", _apart),
    "a conversation is never over": (conversations.Way, "stale", _never),
    "a later fragment needs no first": (fabric, "_later", _never),
    "everybody outside is alike": (directory, "_by_length", lambda _: []),
    "nobody is a gateway": (fabric, "is_gateway", _never),
    "a link-local address is everybody's": (neighbours.Neighbours, "owns", _always),
    "what is asked for is everybody's": (identity.Identity, "_asks_another", _never),
    "a port may hold one address more": (layout, "LOCALS", layout.LOCALS + 1),
    "an offer is a lease": (port, "ACK", leases.ACK - 3),
    "a lease never ends": (leases.Held, "running", _ever),
    "who asks may ask for another": (port, "asked_for", _everything),
    "no lease gives anything": (leases.Held, "running", _never),
    "no router is heeded": (neighbours.Neighbours, "heed_router", _never),
    "frames to groups have no bound": (fabric.Fabric, "_beyond_broadcasts", _never),
    "a fragment may end before its header": (frame, "_within", lambda one, _: frame._transport(one)),
    "nothing is a failure": (port, "_unreachable", _never),
    "who accepts was not asked": (dialogues.Dialogues, "_begin", _never),
    "no service speaks first": (dialogues, "NAME", -1),
    "nobody begins anything": (peers, "opens", _never),
}


NAMED = {"an answer needs no question", "anybody may serve DHCP", "nobody is a gateway", "nothing is a failure"}
"""Rules that every world breaks so often that the very frame is found again; others may show by the clock, as bounds on
groups' frames and a dialogue that is dropped for another do, and need not come twice."""


SELDOM = {"no lease gives anything"}
"""Rules that a frame meets so seldom that it takes most of a minute; three others of leases are broken in every run."""


@pytest.mark.parametrize(
    "wrong", [pytest.param(wrong, marks=pytest.mark.long) if wrong in SELDOM else wrong for wrong in WRONG]
)
def test_a_wrong_rule_in_the_model_is_found(scene: mass.Scene, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place, name, instead = WRONG[wrong]
    monkeypatch.setattr(place, name, instead)
    with pytest.raises(mass.DifferError) as error:
        agree_in_parts(scene, range(7, 7 + ENOUGH))
    told = str(error.value)
    exact = r"seed \d+, frame \d+, (IN|OUT) at device \d+ .*: [0-9a-f]{28,}: "
    assert re.match(exact if wrong in NAMED else r"seed \d+, (before )?frame \d+", told), told
