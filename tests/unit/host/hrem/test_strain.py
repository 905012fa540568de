"""A host without a CPU left, and what each VM takes just then: told by HREM with the sweep, for nothing else."""

import numpy as np
import pytest

from hypervigil.host.hrem.engine import STALE_S, Hrem
from hypervigil.host.hrem.strain import FRESH_S, SWEEPS
from hypervigil.model.ids import HOST, Instant, VmId
from hypervigil.model.metric import Metric
from hypervigil.model.observation import ResourceSample, Sweep
from hypervigil.model.report import HostReport
from tests.unit.host.hrem.test_engine import A, B, Book, inventory

BEAT_S = 0.2


class Host:
    """HREM and its time."""

    def __init__(self) -> None:
        self.now = Instant(100.0)
        self.hrem = Hrem(Book())
        self.hrem.inventory(inventory(A, B))

    def sweep(self, busy: float | None, **told: object) -> list[HostReport]:
        self.now = Instant(self.now + BEAT_S)
        return self.hrem.observe(Sweep(1, self.now, BEAT_S, (), host_busy=busy, **told), self.now)

    def full(self, **told: object) -> dict[VmId, float] | None:
        """Of a sweep in which the host is full: what each VM takes."""
        report = self.sweep(1.0, **told)[0]
        if report.taken is None:
            return None
        return {vm: x for vm, x in zip(report.vms, np.asarray(report.taken).tolist(), strict=True) if vm != HOST}


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.mark.parametrize(("busy", "told"), [(0.5, False), (None, False), (np.nan, False), (0.91, True), (1.0, True)])
def test_a_host_that_stays_full_is_told_with_each_sweep_and_one_burst_is_nothing(
    host: Host, busy: float | None, told: bool
) -> None:
    assert [host.sweep(busy)[0].taken is not None for _ in range(4)] == [False] * (SWEEPS - 1) + [told] * 3
    assert host.sweep(0.1)[0].taken is None
    assert host.sweep(busy)[0].taken is None, "begins anew"


def test_what_a_vm_takes_is_what_the_second_told_until_a_glance_tells_better(host: Host) -> None:
    host.full(resources=(ResourceSample(A, cpu=0.3), ResourceSample(B, cpu=0.1)))
    assert host.full() == {A: pytest.approx(0.3), B: pytest.approx(0.1)}
    assert host.full(glance=((A, 0.9), (VmId("nobody"), 1.0))) == {A: pytest.approx(0.9), B: pytest.approx(0.1)}
    assert host.full() == {A: pytest.approx(0.9), B: pytest.approx(0.1)}
    later = host.full(resources=(ResourceSample(A, cpu=0.2), ResourceSample(B, cpu=0.1)))
    assert later == {A: pytest.approx(0.2), B: pytest.approx(0.1)}, "a second that came after it"


def test_what_was_taken_long_ago_is_not_taken_now(host: Host) -> None:
    assert FRESH_S < STALE_S
    host.full(resources=(ResourceSample(A, cpu=0.9),), glance=((B, 0.9),))
    seen = [host.full() for _ in range(round(FRESH_S / BEAT_S) + 2)]
    assert seen[0] == {A: pytest.approx(0.9), B: pytest.approx(0.9)}
    assert seen[-1] is not None
    assert np.isnan(list(seen[-1].values())).all()


def test_a_glance_is_in_no_second(host: Host) -> None:
    """What grabs, loads and histories are reckoned from are seconds: a burst is none."""
    host.sweep(1.0, resources=(ResourceSample(A, cpu=0.3),))
    reports = [report for _ in range(6) for report in host.sweep(1.0, glance=((A, 1.0),))]
    values = [np.asarray(report.values)[report.vms.index(A), Metric.CPU] for report in reports]
    assert any(report.whole for report in reports)
    assert values == [pytest.approx(0.3)] * len(values)
