"""Near capacity: told once each time it lasts, with hysteresis, counted; unseen is not busy."""

import numpy as np
import pytest

from hypervigil.host.hrem.overload import BELOW, HELD_S, NEAR, Overload
from hypervigil.model.ids import HOST, Instant, VmId
from hypervigil.model.metric import Metric

A = VmId("a")


def rows(cpu: float = np.nan, memory: float = np.nan, *, others_wait: float | None = None) -> np.ndarray:
    values = np.full((1 if others_wait is None else 2, len(Metric)), np.nan, np.float32)
    values[0, Metric.CPU], values[0, Metric.MEMORY] = cpu, memory
    if others_wait is not None:
        values[1, Metric.CPU_WAIT] = others_wait
    return values


def notices(overload: Overload, *levels: float, since: float = 0.0) -> list[float]:
    """At which seconds it is told, of a CPU at these levels second by second."""
    return [
        since + second for second, cpu in enumerate(levels) if overload.see([A], rows(cpu), Instant(since + second))
    ]


def test_it_is_told_once_when_it_has_lasted() -> None:
    assert notices(Overload(), *[1.0] * 60) == [HELD_S]


@pytest.mark.parametrize(("cpu", "wait", "near"), [(0.8, 0.15, True), (0.8, np.nan, False), (0.3, 0.7, False)])
def test_who_computes_without_pause_is_near_also_where_others_want_the_same_cpus(
    cpu: float, wait: float, near: bool
) -> None:
    """But not who mostly waits: others keep it from a CPU."""
    overload, values = Overload(), rows(cpu)
    values[0, Metric.CPU_WAIT] = wait
    assert any(overload.see([A], values, Instant(second)) for second in range(20)) == near


def test_a_moment_is_nothing() -> None:
    assert notices(Overload(), *([1.0] * 8 + [0.1]) * 5) == []


def test_between_the_two_lines_it_goes_on() -> None:
    between = (NEAR + BELOW) / 2
    assert notices(Overload(), *[between] * 30) == [], "not near yet"
    assert notices(Overload(), 1.0, *[between] * 30) == [HELD_S], "and not away again"


def test_it_is_counted_and_told_again_after_it_was_away() -> None:
    overload = Overload()
    levels = ([1.0] * 12 + [0.1] * 3) * 2
    assert len(notices(overload, *levels)) == 2
    (evidence,) = [e for n in range(20) for e in overload.see([A], rows(1.0), Instant(100.0 + n))]
    assert "3 times so far" in evidence.text
    assert (evidence.kind, evidence.value, evidence.baseline) == ("cpu-near-capacity", 1.0, NEAR)


def test_memory_counts_too_and_unseen_is_not_busy() -> None:
    overload = Overload()
    assert not [e for n in range(30) for e in overload.see([A], rows(), Instant(n))]
    found = [e for n in range(30) for e in overload.see([A], rows(0.1, 0.97), Instant(100.0 + n))]
    assert [e.kind for e in found] == ["memory-near-capacity"]


def test_who_waits_meanwhile_is_told_with_it() -> None:
    for wait, kinds in ((0.05, ["cpu-near-capacity"]), (0.5, ["cpu-near-capacity", "contention"])):
        overload = Overload()
        seen = [overload.see([A, VmId("b")], rows(1.0, others_wait=wait), Instant(n)) for n in range(30)]
        assert [e.kind for found in seen for e in found] == kinds


def test_a_vm_that_is_gone_is_forgotten() -> None:
    overload = Overload()
    notices(overload, *[1.0] * 9)
    overload.forget(A)
    assert notices(overload, 1.0, 1.0, since=9) == []


def test_the_host_is_near_its_capacity_as_a_vm_is() -> None:
    overload = Overload()
    seen = [overload.see([HOST], rows(1.0), Instant(second)) for second in range(20)]
    assert [e.kind for found in seen for e in found] == ["cpu-near-capacity"]
