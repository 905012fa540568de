"""Calls the judge again on the facts of each verdict, as the journal holds them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from hypervigil.host.journal.journal import Journal
from hypervigil.host.journal.records import JournalError, Kind, Record, encode_body
from hypervigil.model.ids import CaseId
from hypervigil.model.status import Verdict

F = TypeVar("F")


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A verdict that its facts do not give again."""

    sequence: int
    case: CaseId | None
    recorded: Verdict
    replayed: Verdict | None
    reason: str
    """One sentence."""


@dataclass(frozen=True, slots=True)
class Replay:
    """What replaying found."""

    decisions: int
    mismatches: tuple[Mismatch, ...]

    @property
    def ok(self) -> bool:
        """Every verdict was reached again."""
        return not self.mismatches


def replay(
    journal: Journal,
    judge: Callable[[Sequence[F]], Verdict | None],
    facts: type[F],
    *,
    cases: Iterable[CaseId] | None = None,
) -> Replay:
    """Judge again every decision (of these cases).

    ``judge`` gets the case's FACT records that are a ``facts``, oldest first, since the case's decision before; where
    there are none since then, all up to the decision. Two verdicts are the same if their encodings are, so that NaN
    is equal to itself.
    """
    decisions = 0
    mismatches = []
    for decision in _decisions(journal, cases):
        decisions += 1
        recorded = decision.read(Verdict)
        known = _facts(journal, decision, facts)
        try:
            replayed = judge(known) if known else None
        except (ValueError, ArithmeticError, LookupError, TypeError) as error:
            mismatches.append(Mismatch(decision.sequence, decision.case, recorded, None, f"the judge failed: {error}"))
            continue
        reason = _difference(recorded, replayed) if known else f"no {facts.__name__} is on record for it"
        if reason is not None:
            mismatches.append(Mismatch(decision.sequence, decision.case, recorded, replayed, reason))
    return Replay(decisions, tuple(mismatches))


def _decisions(journal: Journal, cases: Iterable[CaseId] | None) -> Iterator[Record]:
    if cases is None:
        yield from journal.records(kinds=[Kind.DECISION])
        return
    for case in cases:
        yield from journal.records(kinds=[Kind.DECISION], case=case)


def _facts(journal: Journal, decision: Record, facts: type[F]) -> list[F]:
    if decision.case is None:
        raise JournalError(f"record {decision.sequence} is a decision without a case: run 'hypervigil journal verify'")
    before = decision.sequence
    earlier = next(
        journal.records(kinds=[Kind.DECISION], case=decision.case, before=before, limit=1, newest_first=True), None
    )
    known: list[F] = []
    for after in (earlier.sequence if earlier else 0, 0):
        found = journal.records(kinds=[Kind.FACT], case=decision.case, after=after, before=before)
        known = [record.read(facts) for record in found if record.body_type == facts.__name__]
        if known or after == 0:
            break
    return known


def _difference(recorded: Verdict, replayed: Verdict | None) -> str | None:
    if replayed is None:
        return f"the judge reaches no verdict, where it found {recorded.role}"
    if encode_body(recorded) == encode_body(replayed):
        return None
    for name in Verdict.__dataclass_fields__:
        before, now = getattr(recorded, name), getattr(replayed, name)
        if encode_body(before) != encode_body(now):
            return f"{name} was {_short(before)} and is now {_short(now)}"
    return "the two are written differently"


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 120 else text[:117] + "…"
