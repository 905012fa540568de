"""Replay reaches the same verdicts from the journal alone, and says where it does not."""

import math
from dataclasses import dataclass, replace

import pytest

from hypervigil.host.journal import Journal, Kind
from hypervigil.host.journal.replay import replay
from hypervigil.model.ids import CaseId, Instant, VmId
from hypervigil.model.status import AttackClass, Evidence, Origin, Role, Verdict

A, B = VmId("vm-a"), VmId("vm-b")


@dataclass(frozen=True, slots=True)
class Facts:
    case: CaseId
    vm: VmId
    at: Instant
    evidence: tuple[Evidence, ...]


def judge(facts: Facts) -> Verdict | None:
    """A small judge: twice the baseline is an attack."""
    if not facts.evidence:
        return None
    (only,) = facts.evidence
    over = only.baseline is not None and only.value > 2 * only.baseline
    return Verdict(
        facts.case, facts.vm, Role.ATTACKER if over else Role.CLEARED, AttackClass.FLOOD if over else AttackClass.NONE,
        facts.at, 0.9, facts.evidence, "cause", "would differ", None,
    )  # fmt: skip


def facts(case: str, value: float, at: float = 1.0, vm: VmId = A) -> Facts:
    evidence = Evidence(vm, "outbound-surge", Origin.HOST_OBSERVED, Instant(at), value, 1.0, "pps", "much")
    return Facts(CaseId(case), vm, Instant(at), (evidence,))


@pytest.fixture
def journal(tmp_path):
    with Journal.open(tmp_path / "journal.db") as opened:
        yield opened


def tell(journal, known: Facts, verdict: Verdict | None = None) -> None:
    where = {"case": known.case, "vm": known.vm, "now": known.at, "wall_at": 1.0}
    journal.append(Kind.FACT, known, **where)
    journal.append(Kind.DECISION, verdict or judge(known), **where)


def test_every_verdict_is_reached_again(journal):
    for known in (
        facts("c1", 9.0), facts("c2", 1.0), facts("c1", 1.0, at=2.0), facts("c1", 7.5, vm=B), facts("c3", math.nan),
    ):  # fmt: skip
        tell(journal, known)
    found = replay(journal, judge)
    assert (found.verdicts, found.ok, found.mismatches) == (5, True, ())
    with Journal.open(journal.path, read_only=True) as reader:
        assert replay(reader, judge, Facts, cases=[CaseId("c1")]).verdicts == 3


def test_a_verdict_that_does_not_follow_is_named(journal):
    known = facts("c1", 9.0)
    tell(journal, known, replace(judge(known), role=Role.VICTIM))
    (mismatch,) = replay(journal, judge).mismatches
    assert (mismatch.sequence, mismatch.case) == (2, "c1")
    assert mismatch.problem == "role was victim and is now attacker"


def test_the_slightest_difference_counts(journal):
    known = facts("c1", 9.0)
    tell(journal, known, replace(judge(known), confidence=math.nextafter(0.9, 1.0)))
    assert "confidence" in replay(journal, judge).mismatches[0].problem


def test_a_judge_that_reaches_none_or_fails_is_a_mismatch_not_a_crash(journal):
    tell(journal, facts("c1", 9.0))
    assert "no verdict" in replay(journal, lambda _: None, Facts).mismatches[0].problem

    def broken(_: Facts) -> Verdict:
        raise ValueError("no history")

    assert "no history" in replay(journal, broken).mismatches[0].problem


def test_a_decision_without_facts_is_a_mismatch(journal):
    journal.append(Kind.FACT, {"other": 1}, case=CaseId("c1"), vm=A, now=Instant(0), wall_at=0.0)
    journal.append(Kind.DECISION, judge(facts("c1", 9.0)), case=CaseId("c1"), vm=A, now=Instant(1), wall_at=1.0)
    journal.append(Kind.DECISION, judge(facts("c1", 9.0)), now=Instant(1), wall_at=1.0)
    assert [m.problem for m in replay(journal, judge).mismatches] == [
        "no Facts is on record for it",
        "it is a decision without a case",
    ]
