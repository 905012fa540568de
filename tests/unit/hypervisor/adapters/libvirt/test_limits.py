"""Quotas and balloons of a domain in memory: limits slow, grants raise, and both are read back."""

# ruff: noqa: N802 - libvirt's own names
from collections.abc import Callable
from typing import TypeVar

import pytest

from hypervigil.hypervisor.adapters.libvirt.limits import PERIOD_US, SHARES, DomainError, DomainLimits
from hypervigil.model.ids import VmId
from hypervigil.model.limits import LimitKind

A = VmId("a")
CPU, MEMORY = LimitKind.CPU, LimitKind.MEMORY
T = TypeVar("T")


class Domain:
    def __init__(self, quota: int = 50_000, period: int = 100_000, kib: int = 200_000) -> None:
        self.cpu = {"vcpu_quota": quota, "vcpu_period": period, "cpu_shares": 1024}
        self.kib = kib

    def schedulerParametersFlags(self, _flags: int) -> dict[str, int]:
        return dict(self.cpu)

    def setSchedulerParametersFlags(self, wanted: dict[str, int], _flags: int) -> None:
        self.cpu |= wanted

    def info(self) -> list[int]:
        return [1, 1_000_000, self.kib]

    def setMemoryFlags(self, kib: int, _flags: int) -> None:
        self.kib = kib

    def memoryStats(self) -> dict[str, int]:
        return {"actual": self.kib}


class Limits(DomainLimits):
    def __init__(self, domain: Domain) -> None:
        self.domain = domain

    def _domain(self, vm: VmId) -> Domain:
        return self.domain

    @staticmethod
    def _try(vm: VmId, do: Callable[[], T]) -> T:
        return do()


def test_a_limit_of_the_cpu_gives_way_and_a_grant_keeps_the_vms_own_shares() -> None:
    domain = Domain()
    limits = Limits(domain)
    before = limits.original(A, CPU)
    limits.put(A, CPU, 0.2)
    assert domain.cpu == {"vcpu_quota": 0.2 * PERIOD_US, "vcpu_period": PERIOD_US, "cpu_shares": SHARES}
    said = limits.put(A, CPU, 0.75, before)
    assert domain.cpu == {"vcpu_quota": 0.75 * PERIOD_US, "vcpu_period": PERIOD_US, "cpu_shares": 1024}
    assert said == "vcpu_quota 15000 of 20000 us"
    assert limits.holds(A, CPU, 0.75, before)
    assert not limits.holds(A, CPU, 0.75), "as a limit it would have less shares"
    limits.restore(A, CPU, before)
    assert domain.cpu == before


def test_a_balloon_is_raised_and_comes_back() -> None:
    domain = Domain()
    limits = Limits(domain)
    before = limits.original(A, MEMORY)
    assert limits.put(A, MEMORY, 250_000.0, before) == "balloon 250000 KiB"
    limits.restore(A, MEMORY, before)
    assert domain.kib == 200_000


@pytest.mark.parametrize(
    ("domain", "kind", "value"),
    [
        (Domain(), CPU, 0.5),
        (Domain(), CPU, 0.4),
        (Domain(quota=-1), CPU, 0.9),
        (Domain(quota=17592186044415), CPU, 0.9),
        (Domain(), MEMORY, 200_000.0),
        (Domain(), MEMORY, 100_000.0),
    ],
)
def test_a_grant_never_takes_away(domain: Domain, kind: LimitKind, value: float) -> None:
    limits = Limits(domain)
    before = limits.original(A, kind)
    with pytest.raises(DomainError, match="as much without"):
        limits.put(A, kind, value, before)
    assert limits.original(A, kind) == before
    limits.put(A, kind, value)
    assert limits.original(A, kind) != before or value == 200_000.0, "the control: a limit would"
