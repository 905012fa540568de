"""The levels: one transition table, from which the documented diagram is made (docs/levels.md). Pure."""

from enum import StrEnum

from hypervigil.model.status import Level, Role


class State(StrEnum):
    """Where a VM stands. All but ``LEVEL1`` are Level 2 and belong to a case."""

    LEVEL1 = "level1"
    LEVEL2 = "level2"
    ATTACKER = "attacker"
    VICTIM = "victim"
    REFLECTOR = "reflector"
    OVERLOADED = "overloaded"


class Event(StrEnum):
    """What can happen to a VM's state."""

    ANOMALY = "anomaly"
    ATTACKER = "verdict attacker"
    VICTIM = "verdict victim"
    REFLECTOR = "verdict reflector"
    OVERLOADED = "verdict overloaded"
    CLEARED = "verdict cleared"
    CALM = "calm for long enough"
    HOLD_ENDED = "its limit ended"
    RELEASED = "released by the operator"


VERDICTS = {
    Role.ATTACKER: Event.ATTACKER,
    Role.VICTIM: Event.VICTIM,
    Role.REFLECTOR: Event.REFLECTOR,
    Role.OVERLOADED: Event.OVERLOADED,
    Role.CLEARED: Event.CLEARED,
}

TRANSITIONS: dict[tuple[State, Event], State] = (
    {
        (State.LEVEL1, Event.ANOMALY): State.LEVEL2,
        (State.LEVEL2, Event.CLEARED): State.LEVEL1,
        (State.LEVEL2, Event.ATTACKER): State.ATTACKER,
        (State.LEVEL2, Event.VICTIM): State.VICTIM,
        (State.LEVEL2, Event.REFLECTOR): State.REFLECTOR,
        (State.LEVEL2, Event.OVERLOADED): State.OVERLOADED,
        (State.LEVEL2, Event.RELEASED): State.LEVEL1,
        (State.ATTACKER, Event.HOLD_ENDED): State.LEVEL2,
        (State.ATTACKER, Event.RELEASED): State.LEVEL1,
    }
    | {
        (state, event): after
        for state in (State.VICTIM, State.REFLECTOR, State.OVERLOADED)
        for event, after in (
            (Event.CALM, State.LEVEL1),
            (Event.ATTACKER, State.ATTACKER),
            (Event.RELEASED, State.LEVEL1),
        )
    }
    | {(state, Event.VICTIM): State.VICTIM for state in (State.REFLECTOR, State.OVERLOADED)}
    | {(State.OVERLOADED, Event.OVERLOADED): State.OVERLOADED}  # on whose word it computes is seen later
)


ROLES: dict[State, Role | None] = {
    State.LEVEL1: Role.CLEARED,
    State.LEVEL2: None,
    State.ATTACKER: Role.ATTACKER,
    State.VICTIM: Role.VICTIM,
    State.REFLECTOR: Role.REFLECTOR,
    State.OVERLOADED: Role.OVERLOADED,
}
"""What a VM in a state is taken for; ``None``: that is not known yet."""


class IllegalTransitionError(Exception):
    """An event that cannot happen in this state: a defect of ours, never of the input."""


def step(state: State, event: Event) -> State:
    """The state after an event."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise IllegalTransitionError(f"'{event}' cannot happen in {state}") from None


def level(state: State) -> Level:
    """How closely a VM in this state is watched."""
    return Level.LEVEL1 if state is State.LEVEL1 else Level.LEVEL2


def diagram() -> str:
    """The table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", "    [*] --> level1"]
    lines += [f"    {before} --> {after}: {event}" for (before, event), after in TRANSITIONS.items()]
    return "\n".join(lines) + "\n"


GRAVE = frozenset({Role.ATTACKER, Role.VICTIM})
"""What a case may still turn out to be after a milder verdict."""
CALMING = frozenset({State.VICTIM, State.REFLECTOR, State.OVERLOADED})
"""From what calm leads back to Level 1."""
