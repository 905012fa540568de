"""The benchmark of single series: the score from its definition, and what is read and written."""

import csv
import json
import sys

import numpy as np
import pytest

from bench import nab
from bench._nab_profile import PROFILES, Profile, Scored, best, counted, probation, score

STANDARD = PROFILES["standard"]


def _file(detections, windows, rows=1000):
    scores = np.zeros(rows)
    for row, one in dict(detections).items():
        scores[row] = one
    return Scored(scores, tuple(windows))


def test_probation_is_fifteen_percent_and_at_most_750_rows():
    assert probation(1000) == 150
    assert probation(20_000) == 750


def test_every_window_in_its_first_row_and_nothing_else_is_100():
    files = [_file({400: 1, 700: 1}, [(400, 499), (700, 719)]), _file({}, [])]
    for profile in PROFILES.values():
        assert score(files, profile, 0.5) == pytest.approx(100.0)


def test_nothing_detected_is_0():
    assert score([_file({}, [(400, 499)])], STANDARD, 0.5) == 0.0


def test_a_detection_in_a_windows_last_row_is_worth_next_to_nothing():
    # 1 position of 100 before the end: 2 / (1 + exp(-0.05)) - 1 of the first row's 0.98661.
    files = [_file({499: 1}, [(400, 499)])]
    assert score(files, STANDARD, 0.5) == pytest.approx(100 * (0.024995 / 0.986614 + 1) / 2, abs=1e-3)


def test_only_the_first_detection_of_a_window_counts():
    once, often = _file({450: 1}, [(400, 499)]), _file({450: 1, 451: 1, 480: 1}, [(400, 499)])
    assert score([often], STANDARD, 0.5) == score([once], STANDARD, 0.5)


@pytest.mark.parametrize(("row", "cost"), [(200, 1.0), (1000 - 1, 1.0), (500, 0.0252), (598, 0.98661)])
def test_a_false_detection_costs_less_shortly_behind_a_window(row, cost):
    # Before any window, and more than three windows behind one: all. One window (99 rows) behind: sigmoid of 1.
    perfect = {400: 1}
    files = [_file({**perfect, row: 1}, [(400, 499)])]
    assert score(files, STANDARD, 0.5) == pytest.approx(100 * (2 - 0.11 * cost) / 2, abs=1e-2)


def test_the_profiles_weigh_what_is_false_and_what_is_missed():
    files = [_file({400: 1, 200: 1}, [(400, 499), (700, 799)])]
    # One of two windows found in full, one missed, one false detection before any window.
    assert score(files, PROFILES["standard"], 0.5) == pytest.approx(100 * (1 - 1 - 0.11 + 2) / 4)
    assert score(files, PROFILES["reward_low_FP_rate"], 0.5) == pytest.approx(100 * (1 - 1 - 0.22 + 2) / 4)
    assert score(files, PROFILES["reward_low_FN_rate"], 0.5) == pytest.approx(100 * (1 - 2 - 0.11 + 4) / 6)


def test_what_lies_in_the_probation_counts_for_nothing():
    assert score([_file({10: 1, 149: 1, 400: 1}, [(400, 499)])], STANDARD, 0.5) == pytest.approx(100.0)
    files = [_file({}, [(100, 140), (400, 499)])]
    assert counted(files) == 1
    with pytest.raises(ValueError, match="no series has an anomaly window"):
        score([_file({}, [(100, 140)])], STANDARD, 0.5)


def test_the_best_threshold_is_what_trying_all_of_them_finds():
    random = np.random.default_rng(5)
    files = [Scored(np.round(random.random(400), 2), ((150, 180), (300, 330))) for _ in range(5)]
    for profile in (STANDARD, Profile(false=0.01)):
        tried = {one: score(files, profile, one) for one in np.unique(np.concatenate([f.scores for f in files]))}
        threshold, reached = best(files, profile)
        assert reached == pytest.approx(max([*tried.values(), 0.0]))
        assert score(files, profile, threshold) == pytest.approx(reached)


def test_a_threshold_lies_between_what_is_to_be_found_and_what_is_not():
    threshold, _ = best([_file({400: 0.9, 200: 0.3}, [(400, 499)])], STANDARD)
    assert threshold == pytest.approx(0.6)


# --- files ---
def _series(path, rows=600, *, spike=None, value=str):
    path.parent.mkdir(parents=True, exist_ok=True)
    times = np.datetime64("2020-01-01T00:00:00") + np.arange(rows) * np.timedelta64(300, "s")
    noise = np.random.default_rng(rows).normal(50, 2, rows)
    if spike:
        noise[spike] += 100
    lines = [f"{str(at).replace('T', ' ')},{value(one)}" for at, one in zip(times, noise, strict=True)]
    path.write_text("timestamp,value\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return [str(at).replace("T", " ") for at in times]


def _run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["nab", *map(str, arguments)])
    try:
        nab.main()
    except SystemExit as end:
        return end.code or 0
    return 0


def test_without_labels_scores_are_written_and_nothing_is_scored(tmp_path, monkeypatch):
    _series(tmp_path / "in" / "group" / "one.csv", spike=500)
    out = tmp_path / "out"
    assert _run(monkeypatch, "--data", tmp_path / "in", "--out", out, "--json", tmp_path / "no.json") == 0
    with (out / "group" / "one.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    scores = [float(row["anomaly_score"]) for row in rows]
    assert list(rows[0]) == ["timestamp", "value", "anomaly_score"]
    assert len(rows) == 600
    assert all(0 <= one <= 1 for one in scores)
    assert int(np.argmax(scores)) == 500, "the spike is the most surprising row"
    assert not (tmp_path / "no.json").exists()


def test_with_labels_each_half_is_scored_by_the_others_threshold(tmp_path, monkeypatch):
    windows = {}
    for n in range(4):
        times = _series(tmp_path / "data" / "group" / f"{n}.csv", rows=600 + n, spike=500)
        windows[f"group/{n}.csv"] = [[times[500], times[540]]]
    (tmp_path / "windows.json").write_text(json.dumps(windows), encoding="utf-8")
    assert _run(monkeypatch, "--data", tmp_path, "--json", tmp_path / "nab.json") == 0
    told = json.loads((tmp_path / "nab.json").read_bytes())
    assert told["windows"] == 4
    assert told["held_out"] == pytest.approx(100.0)
    assert [half["score_on_the_others"] for half in told["halves"]] == [pytest.approx(100.0)] * 2
    assert told["by_chance"] == {"splits": nab.SPLITS, "p5": 100.0, "p50": 100.0, "p95": 100.0}
    assert told["missed"] == []


def test_with_a_single_labelled_series_the_official_score_is_told_alone(tmp_path, monkeypatch):
    times = _series(tmp_path / "one.csv", spike=500)
    windows = {"one.csv": [[times[500], times[540]]], "gone.csv": []}
    (tmp_path / "windows.json").write_text(json.dumps(windows), encoding="utf-8")
    assert _run(monkeypatch, "--data", tmp_path, "--json", tmp_path / "nab.json") == 0
    told = json.loads((tmp_path / "nab.json").read_bytes())
    assert told["official"]["standard"]["score"] == pytest.approx(100.0)
    assert "held_out" not in told


def test_a_score_is_of_the_past_alone(tmp_path):
    """The same series, cut off: what remains is scored the same."""
    _series(tmp_path / "one.csv", spike=400)
    lines = (tmp_path / "one.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    (whole,) = nab.judge(nab.read(tmp_path))
    changed = [f"{line.split(',')[0]},9999\n" for line in lines[501:]]
    (tmp_path / "one.csv").write_text("".join(lines[:501] + changed), encoding="utf-8")
    (other,) = nab.judge(nab.read(tmp_path))
    assert (whole[:500] == other[:500]).all()
    assert (whole[500:] != other[500:]).any()


def test_gaps_are_written_as_they_were(tmp_path):
    _series(tmp_path / "one.csv", value=lambda one: "" if int(one) == 50 else f"{one:.1f}")
    (file,) = nab.read(tmp_path)
    (scores,) = nab.judge([file])
    assert np.isnan(file.values).any()
    assert (scores[np.isnan(file.values)] == 0).all()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a,b\n1,2\n", "has no columns 'timestamp' and 'value'"),
        ("timestamp,value\nsoon,2\n", "line 2: no time: 'soon'"),
    ],
)
def test_what_is_no_series_is_said_in_a_sentence(tmp_path, monkeypatch, text, sentence):
    (tmp_path / "one.csv").write_text(text, encoding="utf-8")
    assert sentence in _run(monkeypatch, "--data", tmp_path)


def test_a_folder_without_series_and_a_missing_one_are_said(tmp_path, monkeypatch):
    assert "has no CSV files" in _run(monkeypatch, "--data", tmp_path)
    assert _run(monkeypatch, "--data", tmp_path / "missing") == 2
