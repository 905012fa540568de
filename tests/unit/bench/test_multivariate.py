"""The benchmark of VMs with many metrics: figures of merit on small cases, and what is read and written."""

import csv
import json
import sys

import numpy as np
import pytest

from bench import multivariate
from bench._ranges import auc_pr, events_found, f1, faded, false_episodes, range_auc_pr, ranges, vus_pr


def _labels(rows, *spans):
    labels = np.zeros(rows, bool)
    for first, behind in spans:
        labels[first:behind] = True
    return labels


def test_ranges_are_runs_also_at_the_ends():
    assert ranges(_labels(10, (0, 2), (5, 6), (8, 10))) == [(0, 2), (5, 6), (8, 10)]
    assert ranges(_labels(3)) == []


def test_labels_fade_over_half_of_the_buffer_on_either_side():
    wide = faded(_labels(12, (5, 7)), 4)
    sides = [np.sqrt(1 - 2 / 4), np.sqrt(1 - 1 / 4)]
    assert wide.tolist() == pytest.approx([0, 0, 0, *sides, 1, 1, *sides[::-1], 0, 0, 0])
    assert (faded(_labels(12, (5, 7)), 0) == _labels(12, (5, 7))).all()
    assert faded(_labels(5, (0, 1), (2, 3)), 4).max() == 1.0, "where two fade into each other they are no more than 1"


def test_scores_like_the_labels_have_an_area_of_1():
    labels = _labels(1000, (100, 150), (400, 500))
    assert range_auc_pr(labels.astype(float), labels, 0) == pytest.approx(1.0)
    assert auc_pr(labels.astype(float), labels) == pytest.approx(1.0)
    assert vus_pr(faded(labels, 100), labels) > 0.95


def test_a_range_that_is_not_found_halves_the_recall():
    labels = _labels(1000, (100, 200), (400, 500))
    one = _labels(1000, (100, 200)).astype(float)
    # At the first thresholds: half of the rows, half of the ranges, nothing false; then everything at once.
    first = 0.5 * 0.5
    assert range_auc_pr(one, labels, 0) == pytest.approx(first + (1 - first) * 0.2)


def test_a_near_miss_counts_only_where_labels_fade():
    labels = _labels(1000, (500, 520))
    near, far = _labels(1000, (480, 500)).astype(float), _labels(1000, (100, 120)).astype(float)
    assert range_auc_pr(near, labels, 0) == pytest.approx(range_auc_pr(far, labels, 0))
    assert vus_pr(near, labels) > 3 * vus_pr(far, labels)


def test_without_a_labelled_row_there_is_no_area():
    with pytest.raises(ValueError, match="no row is labelled"):
        vus_pr(np.arange(10.0), _labels(10))


def test_average_precision_by_hand():
    # Ranks 1 and 3 are right: precision 1 and 2/3, each with half of the recall; ties come together.
    assert auc_pr(np.array([0.9, 0.8, 0.7, 0.1]), np.array([True, False, True, False])) == pytest.approx(
        (1 + 2 / 3) / 2
    )
    assert auc_pr(np.ones(4), np.array([True, False, True, False])) == pytest.approx(0.5)


def test_events_and_false_episodes_are_counted_once_each():
    labels = _labels(100, (10, 20), (50, 60))
    detected = _labels(100, (5, 12), (15, 16), (30, 35), (36, 38))
    assert events_found(detected, labels) == (1, 2)
    assert false_episodes(detected, labels) == 2
    assert f1(detected, labels) == pytest.approx(2 * 3 / (15 + 20))
    assert f1(_labels(10), _labels(10)) == 0.0


# --- files ---
def _machine(path, *, label=True, metrics=6, rows=2000, seed=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    train, test = (random.gamma(4.0, 0.1, (rows, metrics)).astype(np.float32) for _ in range(2))
    test[1200:1260, :3] += 3.0
    parts = {"label": _labels(rows, (1200, 1260)).astype(np.uint8)} if label else {}
    np.savez(path, train=train, test=test, **parts)


def _run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["multivariate", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        multivariate.main()
    return end.value.code


def test_an_anomaly_is_found_and_told(tmp_path, monkeypatch):
    _machine(tmp_path / "in" / "a.npz")
    _machine(tmp_path / "in" / "b.npz", metrics=4, rows=1500, seed=2)
    _machine(tmp_path / "in" / "c.npz", label=False)
    told, out = tmp_path / "told.json", tmp_path / "out"
    assert _run(monkeypatch, "--data", tmp_path / "in", "--out", out, "--json", told) == 0
    (result,) = json.loads(told.read_bytes())["sets"].values()
    assert set(result["machines"]) == {"a.npz", "b.npz"}
    assert result["all"]["events_found"] == 2
    assert result["all"]["vus_pr"] > 0.8
    with (out / "c.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["row", "anomaly_score"]
    assert [int(row["row"]) for row in rows] == list(range(2000))
    assert 1200 <= int(np.argmax([float(row["anomaly_score"]) for row in rows])) < 1260


def test_neither_labels_nor_other_rows_of_the_test_teach_anything(tmp_path):
    _machine(tmp_path / "in" / "a.npz")
    (whole,) = multivariate.read(tmp_path / "in")
    half = multivariate.Machine(whole.name, whole.train, whole.test[:1000], None)
    ((scores, threshold),), ((some, same),) = multivariate.judge([whole]), multivariate.judge([half])
    assert (scores[:1000] == some).all()
    assert threshold == same
    again = multivariate.Machine("again", whole.train, np.concatenate((whole.test, whole.test)), None)
    ((twice, _),) = multivariate.judge([again])
    assert np.allclose(twice[2300:3000], scores[300:1000], rtol=1e-3, atol=1e-6), "the second time it is as unusual"


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ({"train": np.ones((5, 2))}, "is no file of 'train' and 'test'"),
        ({"train": np.ones((5, 2)), "test": np.ones((5, 3))}, "are not rows of the same metrics"),
        ({"train": np.ones((5, 2)), "test": np.ones((5, 2)), "label": np.ones(4)}, "has 4 labels for 5 rows"),
        ({"train": np.array([["a"]]), "test": np.array([["b"]])}, "is no file of 'train' and 'test'"),
    ],
)
def test_what_is_no_machine_is_said_in_a_sentence(tmp_path, monkeypatch, parts, sentence):
    np.savez(tmp_path / "a.npz", **parts)
    assert sentence in _run(monkeypatch, "--data", tmp_path)


def test_what_is_no_archive_and_what_is_missing_is_said(tmp_path, monkeypatch):
    assert "has no .npz files" in _run(monkeypatch, "--data", tmp_path)
    (tmp_path / "a.npz").write_bytes(b"nonsense")
    assert "is no file of 'train' and 'test'" in _run(monkeypatch, "--data", tmp_path)
    assert _run(monkeypatch, "--data", tmp_path / "missing") == 2
