"""What surely left between two times: never more than did, whatever lies between the looks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hypervigil.host.hrem.seen import KEPT_S, MOST_LOOKS, STOPPED_S, Seen
from hypervigil.model.ids import Instant

LOOK_S = 0.2


def looked(frames: list[float], *, lag_s: float = 0.0) -> Seen:
    """A look each ``LOOK_S`` at a VM that sent so many frames before each."""
    seen = Seen(1, 0)
    for number, sent in enumerate(frames):
        begun = (number + 1) * LOOK_S
        seen.add(Instant(begun), Instant(begun + lag_s), np.array([sent]), LOOK_S)
    return seen


def amount(seen: Seen, after: float, until: float) -> float:
    sure = seen.surely(after, until)
    return float(sure[0][0]) if sure is not None else 0.0


def test_whole_looks_between_count_and_no_others() -> None:
    seen = looked([1, 10, 100, 1000, 10_000])
    assert amount(seen, 0.2, 0.81) == 10 + 100 + 1000
    assert amount(seen, 0.21, 0.79) == 100
    assert amount(seen, 0.81, 0.99) == 0


def test_what_was_known_too_late_is_not_sure() -> None:
    assert amount(looked([1, 10, 100, 1000], lag_s=0.3), 0.19, 0.75) == 10


@settings(deadline=None)
@given(
    times=st.lists(st.floats(0.3, 9.7), max_size=60),
    after=st.floats(0.0, 10.0),
    length=st.floats(0.0, 10.0),
    lag_s=st.floats(0.0, 1.0),
)
def test_it_is_never_more_than_left(times: list[float], after: float, length: float, lag_s: float) -> None:
    until = after + length
    ends = [(number + 1) * LOOK_S for number in range(50)]
    frames = [sum(end - LOOK_S <= at < end for at in times) for end in ends]
    assert amount(looked([float(one) for one in frames], lag_s=lag_s), after, until) <= sum(
        after <= at <= until for at in times
    )


def test_the_last_frames_of_a_burst_may_not_be_counted_yet() -> None:
    burst = [0.0, 5.0, 7.0, 300.0]
    assert amount(looked([*burst, 0.0, 0.0, 0.0]), 0.0, 1.45) == 5.0
    assert amount(looked([*burst, 0.0, 0.0, 1.0]), 0.0, 1.45) == 313.0, "who sends again has counted them"
    assert amount(looked(burst), 0.0, 0.8 + STOPPED_S / 2) == 312.0, "it may go on"


@pytest.mark.parametrize("count", [200, 2_000])
def test_it_keeps_no_more_than_it_needs(count: int) -> None:
    seen = looked([1.0] * count)
    assert len(seen) <= MOST_LOOKS
    assert amount(seen, 0.0, 1e9) == pytest.approx(KEPT_S / LOOK_S, abs=1)
