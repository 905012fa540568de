"""The transition table says what the design says, and nothing more."""

import pytest

from hypervigil.host.hsem.levels import (
    TRANSITIONS,
    VERDICTS,
    Event,
    IllegalTransitionError,
    State,
    diagram,
    level,
    step,
)
from hypervigil.model.status import Level, Role


def test_only_level_1_is_level_1() -> None:
    assert {state for state in State if level(state) is Level.LEVEL1} == {State.LEVEL1}


def test_every_role_has_its_event_and_every_state_a_way_back() -> None:
    assert set(VERDICTS) == set(Role)
    assert len(set(VERDICTS.values())) == len(Role)
    for state in State:
        reached, todo = {state}, [state]
        while todo:
            for after in {after for (before, _), after in TRANSITIONS.items() if before is todo[-1]} - reached:
                reached.add(after)
                todo.insert(0, after)
            todo.pop()
        assert State.LEVEL1 in reached


def test_level_2_is_left_only_by_a_verdict_by_calm_or_by_the_operator() -> None:
    leaving = {event for (before, event), after in TRANSITIONS.items() if after is State.LEVEL1 and before is not after}
    assert leaving == {Event.CLEARED, Event.CALM, Event.RELEASED}
    assert (State.ATTACKER, Event.CALM) not in TRANSITIONS, "an attacker is looked at again before it goes"
    assert all((state, Event.RELEASED) in TRANSITIONS for state in State if state is not State.LEVEL1)


@pytest.mark.parametrize(
    ("state", "event"), [(s, e) for s in State for e in Event if (s, e) not in TRANSITIONS], ids=str
)
def test_anything_else_is_a_defect(state: State, event: Event) -> None:
    with pytest.raises(IllegalTransitionError, match="cannot happen"):
        step(state, event)


def test_the_diagram_shows_every_transition_once() -> None:
    lines = diagram().splitlines()
    assert lines[:2] == ["stateDiagram-v2", "    [*] --> level1"]
    assert len(lines) - 2 == len(set(lines[2:])) == len(TRANSITIONS)
