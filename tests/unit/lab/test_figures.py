"""Percentiles that count what never came, and exact bounds against published values."""

import pytest

from lab.figures import lower_bound, percentile, upper_bound


def test_a_percentile_is_a_value_that_was_measured() -> None:
    values = [float(value) for value in range(1, 21)]
    assert percentile(values, 0.5) == 10.0
    assert percentile(values, 0.95) == 19.0
    assert percentile([3.0], 0.95) == 3.0
    assert percentile([], 0.5) is None


def test_what_never_came_is_later_than_everything() -> None:
    values: list[float | None] = [0.5] * 18 + [None, None]
    assert percentile(values, 0.5) == 0.5
    assert percentile(values, 0.95) is None


@pytest.mark.parametrize(
    ("events", "trials", "bound"),
    [(0, 90, 1 - 0.05 ** (1 / 90)), (0, 1, 0.95), (1, 10, 0.3942), (3, 300, 0.0256), (10, 10, 1.0), (0, 0, 1.0)],
)
def test_upper_bounds_are_those_of_clopper_and_pearson(events: int, trials: int, bound: float) -> None:
    assert upper_bound(events, trials) == pytest.approx(bound, abs=1e-4)


@pytest.mark.parametrize(
    ("successes", "trials", "bound"), [(90, 90, 0.05 ** (1 / 90)), (9, 10, 0.6058), (297, 300, 0.9744), (0, 10, 0.0)]
)
def test_lower_bounds_are_those_of_clopper_and_pearson(successes: int, trials: int, bound: float) -> None:
    assert lower_bound(successes, trials) == pytest.approx(bound, abs=1e-4)


def test_more_confidence_is_a_wider_bound() -> None:
    assert lower_bound(95, 100, 0.99) < lower_bound(95, 100, 0.95) < 0.95 < upper_bound(5, 100) + 0.9
