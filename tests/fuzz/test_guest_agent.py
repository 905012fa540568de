"""The agent's own parsers: of what the host says, of the kernel's dumps, of frames from anywhere."""

import contextlib
import random

import pytest

from hypervigil.guest import lines, sockets
from hypervigil.guest.agent import Agent, Memory
from hypervigil.guest.port import Port
from hypervigil.guest.vsem import frames
from hypervigil.wire.guest import encode_to_guest
from tests.fuzz.lines import LONG, QUICK, SEED, damaged, survives
from tests.fuzz.words import TO_GUEST
from tests.unit.guest.test_sockets import DONE, DUMP
from tests.unit.guest.vsem.test_frames import KNOWN

TO = tuple(encode_to_guest(message)[:-1] for message in TO_GUEST)
COUNTS = [QUICK, pytest.param(LONG, marks=[pytest.mark.long, pytest.mark.timeout(3600)])]


@pytest.mark.parametrize("count", COUNTS, ids=["quick", "long"])
def test_damaged_lines_of_the_host_are_read_or_refused(count):
    assert 0 < survives(lines.parse, ValueError, TO, count) < count


@pytest.mark.req("A222")
def test_damaged_lines_of_the_host_change_nothing_else(tmp_path):
    agent = Agent(Port(str(tmp_path / "none")), Memory(str(tmp_path / "level")))
    agent.second(1000)
    rng = random.Random(SEED)
    for _ in range(QUICK):
        agent.hear(damaged(rng, rng.choice(TO)), 1000)
    agent.second(2000)
    agent.second(3000)
    agent.close()


@pytest.mark.parametrize("count", COUNTS, ids=["quick", "long"])
def test_damaged_dumps_are_survived(count):
    rng = random.Random(SEED)
    for _ in range(count):
        found = sockets.Sockets()
        with contextlib.suppress(OSError):  # a refusal of the kernel's
            found.read(damaged(rng, DUMP + DONE))
        assert len(found.connections) <= sockets.LOOKED_AT


@pytest.mark.parametrize("count", COUNTS, ids=["quick", "long"])
def test_damaged_frames_are_survived(count):
    rng = random.Random(SEED)
    for _ in range(count):
        frames.read(rng.randrange(2), damaged(rng, rng.choice(KNOWN)[0])[: frames.SNAP])
