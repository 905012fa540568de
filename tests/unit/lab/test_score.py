"""From what was seen of trials to right, missed and wrongly blamed."""

from dataclasses import replace

import msgspec
import pytest

from lab.kinds import KINDS, Trial, draw
from lab.score import Flow, Summary, TrialOutcome, TrialSeen, score, summary
from lab.watched import Case, Limit


def drawn(kind: str) -> Trial:
    return next(trial for trial in draw(len(KINDS), 5) if trial.kind == kind)


def case(name: str, role: str | None, opened: float = 100.9, decided: float | None = 101.8) -> Case:
    return Case("c1", name, opened, decided if role else None, None, role, "flood" if role else None, None, ())


def limit(name: str, since: float | None, lifted: float | None, to: float = 190.0) -> Limit:
    return Limit("l1", name, "packets", 20.0, "c1", to, since, lifted, "ended")


FLOOD = drawn("syn-flood")
A, B, C = FLOOD.actor, FLOOD.target, next(n for n in "abc" if n not in {FLOOD.actor, FLOOD.target})
SEEN = TrialSeen(
    trial=FLOOD,
    began_s=100.0,
    ended_s=115.0,
    attacks=(Flow(A, 4000, 300, 100.5),),
    honest=None,
    cases=(case(A, "attacker"), case(B, "victim", 101.8)),
    limits=(limit(A, 101.0, 112.0), limit(A, 102.0, None)),
)
SURGE = drawn("popular-outside")
CALM = TrialSeen(SURGE, 100.0, 118.0, (), Flow("ext", 1000, 980, None), ())


def test_attacker_and_victim_found_is_right() -> None:
    one = score(SEEN)
    assert (one.right, one.wrong_blame, one.missed, one.problems) == (True, [], [], [])
    assert one.judged == {A: "attacker", B: "victim", C: "none"}
    assert (one.sent, one.delivered) == (4000, 300)
    assert msgspec.to_builtins(one.latency) == [
        {"guest": A, "level2_s": 0.4, "limit_s": 0.5, "verdict_s": pytest.approx(1.3)}
    ]
    assert one.limited_s == 13.0


def test_an_attacker_that_is_not_found_is_missed() -> None:
    one = score(replace(SEEN, cases=(case(A, None), case(B, "victim"))))
    assert (one.right, one.missed, one.judged[A]) == (False, [A], "none")
    assert not one.wrong_blame
    assert one.latency[0].verdict_s is None


@pytest.mark.parametrize("name", [B, C])
def test_whoever_is_blamed_without_attacking_is_blamed_wrongly(name: str) -> None:
    one = score(replace(SEEN, cases=(*(SEEN.cases or ()), case(name, "attacker"))))
    assert (one.right, one.wrong_blame, one.missed) == (False, [name], [name])


def test_the_gravest_of_several_cases_counts() -> None:
    one = score(replace(SEEN, cases=(case(A, "cleared"), case(A, "attacker"), case(A, None), case(B, "victim"))))
    assert one.judged[A] == "attacker"


def test_a_benign_trial_is_right_without_cases_and_when_cleared() -> None:
    assert score(CALM).right
    cleared = score(replace(CALM, cases=(case(SURGE.target, "cleared"),)))
    assert cleared.right
    assert cleared.kept == 0.98


def test_a_benign_trial_with_a_blamed_guest_is_wrong() -> None:
    one = score(replace(CALM, cases=(case(SURGE.target, "attacker"),)))
    assert (one.right, one.wrong_blame) == (False, [SURGE.target])
    victim = score(replace(CALM, cases=(case(SURGE.target, "victim"),)))
    assert (victim.right, victim.wrong_blame, victim.missed) == (False, [], [SURGE.target])


def test_in_a_control_run_the_attack_must_arrive() -> None:
    unhindered = replace(SEEN, cases=None, limits=())
    assert "only 300 of 4000" in score(unhindered).problems[0]
    through = score(replace(unhindered, attacks=(Flow(A, 4000, 3900, 100.5),)))
    assert (through.problems, through.judged, through.right) == ([], {}, True)


def test_an_attack_that_sent_nothing_is_a_problem() -> None:
    assert score(replace(SEEN, attacks=(Flow(A, 0, 0, None),))).problems == [f"no frame of the attack on {A}"]


def sum_of(*seen: TrialSeen) -> tuple[Summary, list[TrialOutcome]]:
    outcomes = [score(one) for one in seen]
    return summary(outcomes, 5, control=False), outcomes


def test_without_wrong_blame_a_run_is_ok_and_says_how_many_were_right() -> None:
    missed = replace(SEEN, cases=(case(A, None), case(B, "victim")))
    total, _ = sum_of(*[SEEN] * 8, CALM, missed)
    assert (total.ok, total.count, total.right, total.wrong_blame) == (True, 10, 9, 0)
    assert total.right_at_least == pytest.approx(0.6058, abs=1e-3)
    assert total.wrong_blame_at_most == pytest.approx(0.2589, abs=1e-3)
    assert msgspec.to_builtins(total.kinds["syn-flood"]) == {"trials": 9, "right": 8, "wrong_blame": 0}
    assert total.verdict_p50_s == pytest.approx(1.3)
    assert total.verdict_p95_s is None, "one verdict of nine never came"
    assert total.kept_least == 0.98


def test_one_wrong_blame_fails_the_run() -> None:
    wrong = replace(CALM, cases=(case(SURGE.actor, "attacker"),))
    total, _ = sum_of(*[SEEN] * 9, wrong)
    assert (total.ok, total.wrong_blame) == (False, 1)


def test_what_was_not_carried_out_fails_the_run() -> None:
    assert not sum_of(SEEN, replace(CALM, problems=("the product is not ready",)))[0].ok
    assert not summary([score(SEEN)], 5, control=False, problems=["left on the host: link x"]).ok
    assert not summary([], 5, control=False).ok


def test_the_document_comes_back_as_it_was() -> None:
    total, _ = sum_of(SEEN, CALM)
    assert msgspec.json.decode(msgspec.json.encode(total), type=Summary) == total
