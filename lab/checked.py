"""One row of the table of what was expected and what was decided, the words in it, and what is on record. Pure."""

import math
import re
from collections.abc import Iterable

import msgspec

from lab.watched import Case, Limit


class Check(msgspec.Struct, frozen=True):
    """One row of the table."""

    act: str
    of: str
    expected: str
    decided: str
    when: str
    evidence: str
    ok: bool


class Fact(msgspec.Struct, frozen=True):
    """A fact of a guest's agent on record."""

    kind: str
    at_s: float
    text: str


def first(facts: Iterable[Fact], kind: str, since_s: float) -> Fact | None:
    """The first fact of a kind from a time on."""
    return next((fact for fact in facts if fact.kind == kind and fact.at_s >= since_s), None)


def named(text: str) -> str:
    """A sentence of the product's with the guests' names as the audience knows them."""
    return re.sub(r"\bhvl-([a-z])\b", lambda found: found[1].upper(), text)


def role_of(case: Case | None) -> str:
    """A verdict."""
    if case is None or case.role is None:
        return "no verdict"
    return f"{case.role}: {case.attack}" if case.role == "attacker" else case.role


def because(case: Case | None) -> str:
    """The cause, or while there is none what the case was opened for."""
    if case is None:
        return ""
    return named(case.cause or (case.evidence[0].text if case.evidence else ""))


def limit_words(limit: Limit) -> str:
    """A limit."""
    value = "" if limit.value is None else f" {limit.value:g}/s"
    classes = f" of {', '.join(limit.classes).upper()}" if limit.classes else ""
    return f"{(limit.name or '?').upper()}: {limit.kind}{value}{classes} {limit.direction or ''}".rstrip()


def after(at_s: float | None, since_s: float) -> str:
    """A time from another on."""
    return "" if at_s is None else f"{at_s - since_s:+.2f} s"


def in_ms(seconds: float) -> str:
    """A latency."""
    return f"{1000 * seconds:.0f} ms"


def counted(number: int, what: str) -> str:
    """A number of things."""
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"


def start(limit: Limit) -> float:
    """When a limit came into force."""
    return limit.in_force_at if limit.in_force_at is not None else math.inf


def end(limit: Limit) -> float:
    """When it was lifted, or would have been."""
    return limit.lifted_at if limit.lifted_at is not None else limit.to


def overlap(limit: Limit, low_s: float, high_s: float) -> float:
    """For how long it was in force within some time."""
    return max(0.0, min(end(limit), high_s) - max(start(limit), low_s))
