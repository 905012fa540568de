"""Series as others measured them, brought to one form."""

import json

import numpy as np

from bench import _series
from bench._series import STEP_S, read


def _csv(path, heading, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([heading, *rows]) + "\n", encoding="utf-8")


def _times(count, step_s=STEP_S):
    return [str(at) for at in np.datetime64("2020-01-01T00:00:00") + np.arange(count) * step_s]


def test_a_missing_folder_has_no_series(tmp_path):
    assert read(tmp_path) == []


def test_a_vm_is_followed_through_the_days_by_its_place(tmp_path):
    folder = tmp_path / "placement"
    folder.mkdir()
    for day, vms in ((1, 2), (2, 4)):
        cpu = np.repeat(np.arange(vms, dtype=float)[:, None] * 10 * day, 288, axis=1)
        np.savez(folder / f"{day}.npz", cpu_percent=cpu)
    first, second = read(tmp_path)
    assert len(first.levels) == 2 * 288
    assert first.cpu
    assert second.levels[0] == np.float32(0.1)  # place 1 of 2
    assert second.levels[-1] == np.float32(0.4)  # place 2 of 4


def test_what_lies_in_an_anomaly_window_is_left_out(tmp_path):
    times = _times(300)
    rows = [f"{at.replace('T', ' ')},{999 if 100 <= n < 150 else 5}" for n, at in enumerate(times)]
    _csv(tmp_path / "nab" / "data" / "real" / "one.csv", "timestamp,value", rows)
    windows = {"real/one.csv": [[f"{times[100]}.000000", f"{times[149]}.000000"]]}
    (tmp_path / "nab" / "windows.json").write_text(json.dumps(windows), encoding="utf-8")
    (one,) = read(tmp_path)
    assert len(one.levels) == 250
    assert one.levels.max() == 1.0
    assert not one.cpu


def test_a_provider_s_marked_points_are_left_out_and_hours_become_steps(tmp_path):
    rows = [f"{at.replace('T', ' ')},{80 if n == 7 else n % 2},{int(n == 7)}" for n, at in enumerate(_times(40, 3600))]
    _csv(tmp_path / "cloud" / "crashes" / "one.csv", "TimeStamp,Value,Label", rows)
    (one,) = read(tmp_path)
    assert len(one.levels) == 39 * 12
    assert one.levels.max() <= 1.0


def test_a_share_of_cpus_keeps_its_scale(tmp_path):
    rows = [f"{at.replace('T', ' ')},{20 + n % 5}" for n, at in enumerate(_times(200))]
    _csv(tmp_path / "nab" / "data" / "real" / "ec2_cpu_utilization_x.csv", "timestamp,value", rows)
    (one,) = read(tmp_path)
    assert one.cpu
    assert one.levels.max() == np.float32(0.24)


def test_what_is_short_or_always_zero_is_no_series(tmp_path):
    folder = tmp_path / "nab" / "data" / "real"
    _csv(folder / "short.csv", "timestamp,value", [f"{at},5" for at in _times(_series.LEAST_STEPS - 1)])
    _csv(folder / "nothing.csv", "timestamp,value", [f"{at},0" for at in _times(500)])
    assert read(tmp_path) == []
