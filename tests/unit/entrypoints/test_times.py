from datetime import UTC, datetime

import pytest

from hypervigil.entrypoints.cli.times import parse_duration, parse_until

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("10m", 600), ("1h30m", 5400), ("2d", 172800)])
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "0", "0s", "-5m", "10 m", "9999d", "1e9", "nan"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="'"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("13:00", 3600), ("11:00", 23 * 3600), ("2026-11-23T12:00:10", 10), ("15m", 900)],
)
def test_untils(text: str, seconds: float) -> None:
    assert parse_until(text, NOW) == seconds


def test_a_past_time_is_refused() -> None:
    with pytest.raises(ValueError, match="in the past"):
        parse_until("2020-01-01T00:00:00", NOW)
