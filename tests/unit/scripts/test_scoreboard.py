"""The scoreboard's report: what was measured, and what is missed."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import msgspec
import pytest

from bench.quiet import Event, Lived, result
from lab.board import board, played
from tests.unit.lab.test_board import SEEN

ROOT = Path(__file__).resolve().parents[3]
MACHINE = {"cores": "2", "kernel": "6.1"}


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", [str(ROOT / "scripts"), *sys.path])
    spec = importlib.util.spec_from_file_location("scoreboard_script", ROOT / "scripts" / "scoreboard.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "scoreboard_script", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    return module


def _quiet(seed: int, attackers: int = 0) -> dict:
    events = [
        Event(f"{seed}/vm{n}", 1.0, "outbound-surge", "why", "web: copy", "s", verdict="attacker", cause="because")
        for n in range(attackers)
    ]
    fine = Lived(0.2, 10, 10.0, [Event("v", 2.0, "fan-out", "why", "web: boot", "s", beat_s=0.2)], judge_s=8.64)
    return json.loads(json.dumps(result([fine, Lived(1.0, 20, 90.0, events)], seed, {"series": 3})))


CAPTURES = {
    "summary": {"attacks": 2, "role_right": 1, "benign_false_verdicts": {}},
    "attacks": [
        {"file": "a", "role": "attacker", "attack": "scan", "verdict": None, "class": None, "role_right": False,
         "class_right": False, "wrong_blames": []},
        {"file": "b", "role": "attacker", "attack": "scan", "verdict": "attacker", "class": "scan", "role_right": True,
         "class_right": True, "wrong_blames": []},
    ],
    "benign": [{"file": "c", "level2": {}, "false_verdicts": {}}],
}  # fmt: skip


def _guests(count: int) -> dict:
    return msgspec.to_builtins(board([played(SEEN)] * count, 2001))


def _outcomes(script: ModuleType, results: dict) -> dict:
    return {
        one.name: script.verify.Outcome(one.name, True, 1.0, "2026-01-01", "x", one.seed, results[one.name], ())
        for one in script.verify.scoreboard()
        if one.name in results
    }


def test_slices_belong_to_parts(script: ModuleType) -> None:
    assert {script.part_of(one.name) for one in script.verify.scoreboard()} == set(script.PARTS)
    names = {one.name for one in script.verify.slices()}
    assert {one.name for one in script.verify.scoreboard()} <= names
    assert not {"bench-quiet", "bench-captures"} & names
    assert all(one.minutes <= 85 for one in script.verify.scoreboard())


def test_parts_of_the_quiet_add_up(script: ModuleType) -> None:
    lines, missed = script.quiet_lines([_quiet(1), _quiet(2, attackers=1)])
    text = "\n".join(lines)
    assert "| VM-days | 200 | 20 | 180 |" in text
    assert "| false Level 2 | 3 | 2 | 1 |" in text
    assert "attacker 1" in text
    assert "because" in text
    assert "| fan-out: boot (web) | 2 | 1 |" in text
    assert missed == ["false attackers: 5.0 in 1,000 VM-days, promised is at most 1"]


def test_parts_on_guests_add_up(script: ModuleType) -> None:
    lines, missed = script.guests_lines([_guests(2), _guests(3)])
    assert "Right in 5 of 5 trials" in lines[0]
    assert any(line.startswith("| syn-flood | -i u2500 | 5 of 5") for line in lines)
    assert missed == []


def test_the_report_tells_what_is_missed_first(script: ModuleType) -> None:
    parts = script.verify.scoreboard()
    results = {"scoreboard-quiet-1": _quiet(1), "scoreboard-captures": CAPTURES, "scoreboard-guests-2": _guests(1)}
    text, missed = script.report(parts, _outcomes(script, results), MACHINE, "c0ffee")
    assert missed == ["Captures: a: attacker of scan asked, found nothing of class none"]
    assert text.index("Targets that are missed") < text.index("## Long quiet")
    assert f"1 of {script.verify.QUIET_PARTS} parts were run, seeds 1." in text
    assert "1 of 3 parts were run, seeds 2002." in text
    assert "- commit: c0ffee" in text
    assert "- cores: 2" in text


def test_a_part_without_a_result_is_missed(script: ModuleType) -> None:
    parts = script.verify.scoreboard()
    _, missed = script.report(parts, _outcomes(script, {"scoreboard-captures": None}), MACHINE, "c0ffee")
    assert missed == ["Captures: scoreboard-captures gave no result"]


def test_it_runs_what_is_missing_and_writes_the_report(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = f"import json, sys; json.dump({CAPTURES!r}, open(sys.argv[1], 'w'))"
    part = script.verify.Slice("scoreboard-captures", 0.5, (sys.executable, "-c", code, "{json}"))
    monkeypatch.setattr(script.verify, "scoreboard", lambda: (part,))
    monkeypatch.setattr(script.verify, "ROOT", tmp_path)
    monkeypatch.setattr(script.verify, "_git", lambda *words: "c0ffee" if words[0] == "rev-parse" else "")
    assert script.main(["--report"]) == 2
    assert script.main(["captures"]) == 1
    assert "missed: Captures: a" in capsys.readouterr().out
    (report,) = (tmp_path / "reports").iterdir()
    assert "found nothing" in report.read_text()
