"""From the scoreboard's trials to its cells."""

from dataclasses import replace

import msgspec
import pytest

from lab.board import Played, board, missed, played
from lab.capture import Slice
from lab.cells import cells
from lab.errors import LabError
from lab.kinds import Trial
from lab.score import Flow, TrialSeen
from lab.scoreboard import check_kinds, told
from lab.watched import Case, Limit


def cell(kind: str, rate: str | None = None) -> Trial:
    return next(trial for trial in cells([kind]) if rate in (None, trial.choice))


def case(name: str, role: str | None, opened: float = 100.9, decided: float | None = 101.8) -> Case:
    return Case("c1", name, opened, decided if role else None, None, role, "flood" if role else None, None, ())


def limit(name: str, since: float, lifted: float | None = None) -> Limit:
    return Limit("l1", name, "packets", 20.0, "c1", 190.0, since, lifted, "ended")


FLOOD = cell("syn-flood", "-i u2500")
SEEN = TrialSeen(
    trial=FLOOD,
    began_s=100.0,
    ended_s=115.0,
    attacks=(
        Flow(
            FLOOD.actor,
            4000,
            330,
            100.5,
            (Slice(100.5, 101.0, 200), Slice(101.0, 101.04, 30), Slice(101.06, 109.0, 100)),
        ),
    ),
    honest=None,
    cases=(case(FLOOD.actor, "attacker"), case(FLOOD.target, "victim", 101.8)),
    limits=(limit(FLOOD.actor, 101.0),),
)


def test_what_arrives_after_the_limit_is_counted_from_when_nothing_is_under_way() -> None:
    one = played(SEEN)
    assert one.delivered_after == 100
    assert one.limit_s == 0.5
    assert one.outcome.right


def test_without_a_limit_nothing_came_after_it() -> None:
    one = played(replace(SEEN, limits=()))
    assert (one.delivered_after, one.limit_s) == (None, None)


def test_an_attack_from_outside_is_limited_at_its_target() -> None:
    trial = cell("amplification", "-i u500")
    seen = TrialSeen(trial, 100.0, 112.0, (Flow("ext", 900, 900, 101.5),), None, (), (limit(trial.actor, 102.0),))
    assert played(seen).limit_s == 0.5


def test_what_the_lab_does_not_count_is_no_problem() -> None:
    trial = cell("rogue-router")
    seen = TrialSeen(trial, 100.0, 112.0, (Flow(trial.actor, 0, 0, None),), None, ())
    assert played(seen).outcome.problems == []
    scan = cell("vertical-scan")
    other = TrialSeen(scan, 100.0, 112.0, (Flow(scan.actor, 0, 0, None),), None, ())
    assert played(other).outcome.problems


def test_a_cell_tells_times_counts_and_bounds() -> None:
    nothing = played(replace(SEEN, cases=(), limits=()))
    result = board([played(SEEN)] * 9 + [nothing], 5)
    (one,) = result.cells
    assert (one.kind, one.rate, one.trials, one.right, one.limited, one.level2) == (
        "syn-flood",
        "-i u2500",
        10,
        9,
        9,
        9,
    )
    assert one.level2_p50_s == pytest.approx(0.4)
    assert one.level2_p95_s is None, "what never came is later than everything"
    assert one.limit_p50_s == 0.5
    assert one.verdict_p50_s == pytest.approx(1.3)
    assert one.right_at_least == pytest.approx(0.6058, abs=1e-3)
    assert one.wrong_blame_at_most == pytest.approx(0.2589, abs=1e-3)
    assert one.delivered_after == 900
    assert one.missed == ["T is none (1 of 10)", "X is none (1 of 10)"]
    assert result.ok, "what is not found is told, and is no failure of the run"
    assert any("right in 9 of 10" in sentence for sentence in result.missed)


def test_a_wrong_blame_is_a_failure() -> None:
    blamed = played(replace(SEEN, cases=(case(FLOOD.target, "attacker"),)))
    result = board([blamed], 5)
    assert not result.ok
    assert result.wrong_blame == 1
    assert "blamed" in result.missed[0]


def test_honest_work_that_is_cut_or_held_is_told() -> None:
    trial = cell("backup", "20M")
    seen = TrialSeen(
        trial,
        100.0,
        160.0,
        (),
        Flow(trial.actor, 1000, 300, None),
        (case(trial.actor, "cleared"),),
        (limit(trial.actor, 101.0, 140.0),),
    )
    (one,) = board([played(seen)], 5).cells
    assert one.kept_least == 0.3
    assert one.level2_p50_s is None
    found = missed(one)
    assert any("kept 30%" in sentence for sentence in found)
    assert any("39 s" in sentence for sentence in found)


def test_an_unfinished_board_is_not_ok() -> None:
    assert not board([played(SEEN)], 5, ["it was stopped before its end"]).ok
    assert not board([], 5).ok


def test_a_board_is_written_read_and_told() -> None:
    result = board([played(SEEN)], 5)
    back = msgspec.json.decode(msgspec.json.encode(result), type=type(result))
    assert back == result
    assert isinstance(back.played[0], Played)
    lines = told(result)
    assert any("limit 0.50 s / 0.50 s" in line for line in lines)
    assert lines[-1] == "ok"


def test_an_unknown_kind_is_one_sentence() -> None:
    assert check_kinds(["syn-flood"]) == ["syn-flood"]
    with pytest.raises(LabError, match="there is no kind 'flood'"):
        check_kinds(["flood"])
