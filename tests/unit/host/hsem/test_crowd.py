"""When a VM is known to have no CPU left, wherever in a sample of its CPU that begins."""

import numpy as np
import pytest

from hypervigil.host.hsem.crowd import Full
from hypervigil.model.ids import VmId

WEB = VmId("web")
SWEEP_S = 0.2
ORDINARY = 0.2


def told(at: float, began: float, ends: float, phase: float) -> float:
    """The last sample at a time, of samples a second apart: what was used of the CPU in the second before it."""
    until = np.floor(at - phase) + phase
    full = max(0.0, min(until, ends) - max(until - 1.0, began))
    return full + ORDINARY * (1.0 - full)


def found(phase: float, lasts: float) -> tuple[float | None, float | None]:
    """How long after it begins that is seen, and that it is lasting; ``None``: never."""
    full, began = Full(), 10.0
    seen = lasting = None
    for step in range(1, 80):
        at = step * SWEEP_S
        cpu = np.array([told(at, began, began + lasts, phase)], np.float32)
        for _, lasts_on in full.see((WEB,), cpu, SWEEP_S):
            seen = at - began if seen is None else seen
            lasting = at - began if lasting is None and lasts_on else lasting
    return seen, lasting


@pytest.mark.req("T-NET-9")
@pytest.mark.parametrize("phase", [n / 10 for n in range(10)])
def test_no_cpu_left_is_seen_within_two_seconds_and_lasting_within_three(phase: float) -> None:
    seen, lasting = found(phase, 20.0)
    assert seen is not None
    assert 0.9 <= seen < 2.3
    assert lasting is not None
    assert 1.3 <= lasting < 2.9


@pytest.mark.parametrize("phase", [n / 10 for n in range(10)])
def test_a_burst_of_a_second_is_not_lasting(phase: float) -> None:
    assert found(phase, 1.2)[1] is None


def test_what_nobody_sees_is_not_full() -> None:
    full = Full()
    for _ in range(10):
        assert full.see((WEB,), np.array([np.nan], np.float32), SWEEP_S) == []


def test_who_is_gone_begins_anew() -> None:
    full = Full()
    for _ in range(12):
        lasting = full.see((WEB,), np.array([1.0], np.float32), SWEEP_S)
    assert lasting == [(WEB, True)]
    full.keep([])
    assert full.see((WEB,), np.array([1.0], np.float32), SWEEP_S) == []
