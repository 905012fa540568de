"""The act of the guest that lies: what was seen of it, and what of that is as promised. Pure.

D's root kills the agent in it, says the agent's genuine reports of a calm time again as if they were of now, with fresh
numbers and times, and sends.
"""

from collections.abc import Sequence

import msgspec

from lab.capture import Slice
from lab.checked import Check, Fact, after, because, first, limit_words, named, role_of, start
from lab.watched import Case, Limit

LIAR = "d"
PERIOD_S, DELAY_S = 1.0, 1.25
"""An agent reports once a second, and a report may be so late."""
FOUND_WITHIN_S = 3 * PERIOD_S + DELAY_S
LIMITED_WITHIN_S = 2.0


class LiarAct(msgspec.Struct, frozen=True):
    """The fourth act. Times: seconds since warm-up began; ``sent``: the lab's own count of what is not D's work."""

    began_s: float
    ended_s: float
    replayed_s: float
    """From then on its root speaks for the agent."""
    onset_s: float | None
    command: str
    told: tuple[float, ...]
    """Packets a second that its genuine reports tell of, which are said again, in order."""
    sent: tuple[Slice, ...]
    delivered: tuple[Slice, ...]
    facts: tuple[Fact, ...]
    problem: str | None = None

    @property
    def silent(self) -> Fact | None:
        """Its agent's silence."""
        return first(self.facts, "agent-silent", self.began_s)

    @property
    def contradicted(self) -> Fact | None:
        """That it says otherwise than the host counts."""
        return first(self.facts, "agent-mismatch", self.replayed_s)


def checks(act: LiarAct, case: Case | None, limits: Sequence[Limit]) -> list[Check]:
    """What was promised of it; ``case`` and ``limits`` are D's."""
    onset = act.began_s if act.onset_s is None else act.onset_s
    limited = min((limit for limit in limits if start(limit) >= act.began_s), key=start, default=None)
    return [
        _found("its silence on record", "silent", act.silent, act.began_s),
        _found("the lie on record", "contradicted", act.contradicted, onset),
        Check(
            "lie",
            LIAR.upper(),
            "attacker: flood",
            role_of(case),
            after(case.decided_at if case else None, onset),
            because(case) or act.problem or "",
            case is not None and (case.role, case.attack) == ("attacker", "flood") and act.onset_s is not None,
        ),
        Check(
            "lie",
            LIAR.upper(),
            f"limited within {LIMITED_WITHIN_S:g} s",
            "not limited" if limited is None else "limited",
            after(None if limited is None else start(limited), onset),
            "" if limited is None else limit_words(limited),
            limited is not None and start(limited) - onset <= LIMITED_WITHIN_S,
        ),
    ]


def _found(what: str, decided: str, fact: Fact | None, since_s: float) -> Check:
    return Check(
        "lie",
        LIAR.upper(),
        f"{what} within {FOUND_WITHIN_S:g} s",
        "not found" if fact is None else decided,
        after(None if fact is None else fact.at_s, since_s),
        "" if fact is None else named(fact.text),
        fact is not None and fact.at_s - since_s <= FOUND_WITHIN_S,
    )
