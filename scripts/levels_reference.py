"""Writes ``docs/levels.md``: the transition table that HSEM goes by, as a diagram and in words."""

from pathlib import Path

from hypervigil.host.hsem.judge import AWAIT_ANSWER_S, CLEAR_AFTER_S, GIVE_UP_S
from hypervigil.host.hsem.levels import TRANSITIONS, Event, State, diagram, level
from hypervigil.model.policy import Bounds

TARGET = Path(__file__).resolve().parent.parent / "docs" / "levels.md"

MEANING = {
    State.LEVEL1: "nothing unusual; its history grows",
    State.LEVEL2: "a case is open: facts are gathered, provisional limits hold what is hostile or unclear",
    State.ATTACKER: "its attack is held by limits, each time longer; the policy's ladder says by which",
    State.VICTIM: "what attacks it from outside is limited at its port; an attacker of this host is limited at its own",
    State.REFLECTOR: "it is abused for forged requests and not to blame; its answers are limited",
    State.OVERLOADED: "at its capacity, and nobody attacks; no limits",
}


def reference() -> str:
    """The document."""
    bounds = Bounds()
    lines = [
        "# Levels",
        "",
        "Made by `make reference` from the table in `src/hypervigil/host/hsem/levels.py`; `make check` tells when it",
        "is out of date. What is not in the table cannot happen. Every state but `level1` is Level 2 and belongs to",
        "one case; meanwhile the VM's history does not grow.",
        "",
        "```mermaid",
        *diagram().splitlines(),
        "```",
        "",
        "| state | level | means |",
        "|---|---|---|",
        *(f"| `{state}` | {level(state).value} | {MEANING[state]} |" for state in State),
        "",
        "| in | when | goes to |",
        "|---|---|---|",
        *(f"| `{before}` | {event} | `{after}` |" for (before, event), after in TRANSITIONS.items()),
        "",
        f"*{Event.CALM.capitalize()}*: {bounds.calm_s:g} s without anything unusual.",
        f"*{Event.HOLD_ENDED.capitalize()}*: after {bounds.hold_s:g} s,",
        f"twice as long at each repetition, at most {bounds.hold_max_s:g} s. The",
        "[policy](policy.md) sets all three. A case without another verdict is cleared after",
        f"{CLEAR_AFTER_S:g} s of honest conduct ({AWAIT_ANSWER_S:g} s where its VM's agent reports and does not answer",
        f"questions), or after {GIVE_UP_S:g} s whatever it is.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    TARGET.write_text(reference(), encoding="utf-8")
