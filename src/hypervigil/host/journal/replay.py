"""Calls the judge again on the facts of each verdict, as the journal holds them."""

import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from typing import TypeVar, get_type_hints

from hypervigil.host.journal.journal import Journal
from hypervigil.host.journal.records import JournalError, Kind, Record, encode_body
from hypervigil.model.ids import CaseId
from hypervigil.model.status import Verdict

F = TypeVar("F")
_MAX_SHOWN = 120


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A verdict that its facts do not give again."""

    sequence: int
    case: CaseId | None
    recorded: Verdict
    replayed: Verdict | None
    problem: str
    """One sentence."""


@dataclass(frozen=True, slots=True)
class Replay:
    """What replaying found."""

    verdicts: int
    mismatches: tuple[Mismatch, ...]

    @property
    def ok(self) -> bool:
        """Every verdict was reached again."""
        return not self.mismatches


def replay(
    journal: Journal,
    judge: Callable[[F], Verdict | None],
    facts: type[F] | None = None,
    *,
    cases: Iterable[CaseId] | None = None,
) -> Replay:
    """Judge again every decision (of these cases) on the facts recorded last before it for its case and VM.

    ``facts`` is the type of the judge's facts; where it is not given, the one that the judge's first parameter names.
    Two verdicts are the same if their encodings are, so that NaN is equal to itself.
    """
    kind = facts if facts is not None else _facts_of(judge)
    verdicts = 0
    mismatches = []
    for decision in _decisions(journal, cases):
        verdicts += 1
        recorded = decision.read(Verdict)
        replayed, problem = _again(journal, decision, recorded, judge, kind)
        if problem is not None:
            mismatches.append(Mismatch(decision.sequence, decision.case, recorded, replayed, problem))
    return Replay(verdicts, tuple(mismatches))


def _facts_of(judge: Callable[[F], Verdict | None]) -> type[F]:
    first = next(iter(inspect.signature(judge).parameters))
    named: type[F] = get_type_hints(judge)[first]
    return named


def _decisions(journal: Journal, cases: Iterable[CaseId] | None) -> Iterator[Record]:
    if cases is None:
        yield from journal.records(kinds=[Kind.DECISION])
        return
    for case in cases:
        yield from journal.records(kinds=[Kind.DECISION], case=case)


def _again(
    journal: Journal, decision: Record, recorded: Verdict, judge: Callable[[F], Verdict | None], kind: type[F]
) -> tuple[Verdict | None, str | None]:
    """The judge's verdict now, and how it differs."""
    if decision.case is None:
        return None, "it is a decision without a case"
    found = journal.records(
        kinds=[Kind.FACT], case=decision.case, vm=decision.vm, before=decision.sequence, newest_first=True
    )
    known = next((record for record in found if record.body_type == kind.__name__), None)
    if known is None:
        return None, f"no {kind.__name__} is on record for it"
    try:
        replayed = judge(known.read(kind))
    except (JournalError, ValueError, ArithmeticError, LookupError, TypeError) as error:
        return None, f"it cannot be judged again: {error}"
    return replayed, _difference(recorded, replayed)


def _difference(recorded: Verdict, replayed: Verdict | None) -> str | None:
    if replayed is None:
        return f"the judge reaches no verdict, where it found {recorded.role}"
    for field in fields(Verdict):
        before, now = getattr(recorded, field.name), getattr(replayed, field.name)
        if encode_body(before) != encode_body(now):
            return f"{field.name} was {_short(before)} and is now {_short(now)}"
    return None


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 1] + "…"
