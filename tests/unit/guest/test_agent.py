"""The agent's loop: nothing that the host says is lost, and the level outlives the process."""

import pytest

from hypervigil.guest.agent import Agent, Memory
from hypervigil.guest.port import Port
from hypervigil.guest.vsem.levels import LEVEL1, LEVEL2


class OverError(Exception):
    """Ends a loop that never ends."""


class Said(Port):
    """A port on which the host has said these lines, one a wait."""

    def __init__(self, *lines: bytes) -> None:
        super().__init__(None)
        self._lines = list(lines)

    def wait(self, timeout_ms: int) -> list[bytes]:
        if not self._lines:
            raise OverError
        return [self._lines.pop(0)]


@pytest.fixture
def memory(tmp_path) -> Memory:
    return Memory(str(tmp_path / "level"))


@pytest.mark.parametrize("before", range(3))
def test_what_the_host_says_is_heard_whenever_it_says_it(memory, before):
    agent = Agent(Said(*[b'["ack",1]'] * before, b'["set-level",2]'), memory)
    with pytest.raises(OverError):
        agent.run()
    agent.close()
    assert memory.recall() == LEVEL2


def test_the_level_is_kept_where_the_next_agent_finds_it(memory):
    assert memory.recall() == LEVEL1
    memory.keep(LEVEL2)
    assert memory.recall() == LEVEL2
    memory.keep(LEVEL1)
    assert memory.recall() == LEVEL1


def test_without_a_place_to_keep_it_the_agent_works_all_the_same():
    nowhere = Memory("/nonexistent/level")
    nowhere.keep(LEVEL2)
    assert nowhere.recall() == LEVEL1
