"""What is asked of the sensors' benchmark: a part is left out by 0, and what cannot be measured is one sentence."""

import json
from pathlib import Path

import pytest

from bench import sensors


@pytest.mark.parametrize(("taps", "domains"), [("0", "3"), ("3", "0")])
def test_a_part_that_is_left_out_is_no_figure_and_breaks_no_promise(
    taps: str, domains: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensors, "sweeps", lambda *_: {"sweep_median_ms": 1.0})
    monkeypatch.setattr(
        sensors, "statistics_of", lambda *_: {"statistics_median_ms": 2.0, "statistics_lock_held_median_ms": 3.0}
    )
    out = tmp_path / "sensors.json"
    with pytest.raises(SystemExit) as ended:
        sensors.main(["--taps", taps, "--domains", domains, "--out", str(out)])
    assert ended.value.code == 0
    found = json.loads(out.read_text(encoding="utf-8"))
    assert ("sweep_median_ms" in found, "statistics_median_ms" in found) == (taps != "0", domains != "0")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--taps", "0", "--domains", "0"], "there is nothing to look at"),
        (["--domains", "-1"], "there is nothing to look at"),
        (["--repeat", "0"], "--repeat is how often to look"),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        sensors.main(arguments)
    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err
