"""The act of the guest that asks for all it can: what was seen of it, and what of that is as promised. Pure.

D computes on every CPU that it has, fills its memory, and writes to its disk without pause. Its agent, which is honest,
asks the host for more.
"""

from collections.abc import Sequence

import msgspec

from lab.checked import Check, Fact, after, because, first, limit_words, named, role_of, start
from lab.watched import Case, Limit

GRABBER = "d"
FOUND_WITHIN_S = 18.0
"""Near its capacity for ten seconds is what HREM calls lasting; a guest takes some seconds to get there."""
KINDS = frozenset({"cpu", "memory", "block-octets", "block-operations"})
"""Limits by which it has to share: they may be, where others wait for it, and nothing else may."""


class GrabAct(msgspec.Struct, frozen=True):
    """The first act. Times are seconds since warm-up began."""

    began_s: float
    ended_s: float
    command: str
    facts: tuple[Fact, ...]
    """What is on record of D's agent and of what it asked for."""

    @property
    def asked(self) -> Fact | None:
        """That the guest asks for more."""
        return first(self.facts, "wanted", self.began_s)

    @property
    def refused(self) -> Fact | None:
        """That it gets no more, and why."""
        return first(self.facts, "not-granted", self.began_s)


def checks(act: GrabAct, case: Case | None, limits: Sequence[Limit]) -> list[Check]:
    """What was promised of it; ``case`` and ``limits`` are D's."""
    shares = [limit for limit in limits if limit.kind in KINDS]
    others = [limit for limit in limits if limit.kind not in KINDS]
    decided = None if case is None else case.decided_at
    return [
        Check(
            "grab",
            GRABBER.upper(),
            f"overloaded, found within {FOUND_WITHIN_S:g} s",
            role_of(case),
            after(decided, act.began_s),
            because(case),
            case is not None
            and case.role == "overloaded"
            and decided is not None
            and decided - act.began_s <= FOUND_WITHIN_S,
        ),
        Check(
            "grab",
            GRABBER.upper(),
            "asks for more, and is told why it gets none",
            "asked" if act.refused is None else "refused",
            after(None if act.refused is None else act.refused.at_s, act.began_s),
            "" if act.refused is None else named(act.refused.text),
            act.asked is not None and act.refused is not None,
        ),
        Check(
            "grab",
            GRABBER.upper(),
            "at most has to share",
            "limited" if others else "shares" if shares else "not limited",
            after(start(limits[0]) if limits else None, act.began_s),
            "; ".join(limit_words(limit) for limit in others or shares) or "nobody waited for what it took",
            not others,
        ),
    ]
