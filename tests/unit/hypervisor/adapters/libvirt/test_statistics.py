"""Resources: counters to rates, and what is not reported stays unseen."""

from dataclasses import astuple
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypervigil.hypervisor.adapters.libvirt.statistics import Record, ResourceMeter, resource_sample
from hypervigil.model.ids import Instant, VmId
from hypervigil.model.observation import ResourceSample

A, B = VmId("a"), VmId("b")
WALL = 1_800_000_000.0


def values(**changes: Any) -> dict[str, object]:
    """What libvirt 9 reports of a running domain with one disk."""
    known: dict[str, object] = {
        "state.state": 1,
        "cpu.time": 10_000_000_000,
        "balloon.current": 1000,
        "balloon.maximum": 1000,
        "balloon.available": 800,
        "balloon.unused": 100,
        "balloon.usable": 200,
        "balloon.last-update": int(WALL) - 1,
        "balloon.rss": 500,
        "vcpu.current": 2,
        "vcpu.maximum": 2,
        "vcpu.0.state": 1,
        "vcpu.0.wait": 0,
        "vcpu.0.delay": 1_000_000_000,
        "vcpu.1.state": 1,
        "vcpu.1.wait": 0,
        "vcpu.1.delay": 0,
        "block.count": 1,
        "block.0.rd.reqs": 10,
        "block.0.rd.bytes": 4096,
        "block.0.wr.reqs": 20,
        "block.0.wr.bytes": 8192,
        "block.0.fl.reqs": 5,
    }
    for name, value in changes.items():
        key = name.replace("__", ".").replace("last_", "last-")
        if value is None:
            known.pop(key)
        else:
            known[key] = value
    return known


def sample(old: dict[str, object], new: dict[str, object], seconds: float = 2.0) -> ResourceSample:
    return resource_sample(Record(A, 1, old), Record(A, 1, new), seconds, WALL)


def test_rates_of_an_interval() -> None:
    later = values(
        cpu__time=12_000_000_000,
        vcpu__1__delay=400_000_000,
        block__0__rd__reqs=14,
        block__0__wr__reqs=30,
        block__0__fl__reqs=7,
        block__0__rd__bytes=8192,
        balloon__current=900,
    )
    assert sample(values(), later) == ResourceSample(
        vm=A,
        cpu=0.5,
        cpu_wait=0.1,
        memory=0.75,
        memory_rss=512000,
        balloon_kib=900,
        block_reads=2.0,
        block_writes=5.0,
        block_bytes=2048.0,
        device_requests=8.5,
    )


@pytest.mark.parametrize(
    ("gone", "unseen"),
    [
        ("cpu__time", {"cpu"}),
        ("vcpu__1__delay", {"cpu_wait"}),
        ("vcpu__current", {"cpu", "cpu_wait"}),
        ("balloon__last_update", {"memory"}),
        ("balloon__available", {"memory"}),
        ("balloon__rss", {"memory_rss"}),
        ("block__count", {"block_reads", "block_writes", "block_bytes", "device_requests"}),
        ("block__0__fl__reqs", {"device_requests"}),
        ("block__0__rd__reqs", {"block_reads", "device_requests"}),
    ],
)
def test_what_is_missing_is_unseen_and_only_that(gone: str, unseen: set[str]) -> None:
    whole, partly = sample(values(), values()), sample(values(), values(**{gone: None}))
    differing = {name for name in ResourceSample.__slots__ if getattr(whole, name) != getattr(partly, name)}
    assert differing == unseen
    assert all(getattr(partly, name) is None for name in unseen)


def test_a_domain_whose_lock_is_held_still_tells_cpu_and_nothing_invented() -> None:
    """What libvirt 9 reports with NOWAIT while `virsh save` runs."""
    held = {
        "state.state": 1,
        "cpu.time": 11_000_000_000,
        "balloon.current": 1000,
        "balloon.maximum": 1000,
        "vcpu.current": 2,
        "vcpu.maximum": 2,
        "block.count": 1,
        "block.0.name": "vda",
    }
    seen = sample(values(), held)
    assert seen == ResourceSample(vm=A, cpu=0.25, balloon_kib=1000)


def test_zeros_that_mean_nothing_are_unseen() -> None:
    assert sample(values(vcpu__0__delay=0), values(vcpu__0__delay=0)).cpu_wait is None, "no scheduler statistics"
    assert sample(values(), values(balloon__last_update=0)).memory is None, "no driver in the guest"
    assert sample(values(), values(balloon__last_update=int(WALL) - 60)).memory is None, "a driver that fell silent"
    assert sample(values(), values(balloon__usable=None)).memory == 1 - 100 / 800
    assert sample(values(block__count=0), values(block__count=0)).block_reads == 0.0, "no disk: really none"


def test_counters_that_began_anew_say_nothing_of_the_interval() -> None:
    after = sample(values(), values(cpu__time=5, block__0__rd__reqs=0))
    assert after.cpu is None
    assert after.block_reads is None
    assert after.block_writes == 0.0


def test_exits_and_hypercalls_where_the_accelerator_tells() -> None:
    more = {"vcpu.0.exits.sum": 100, "vcpu.1.exits.sum": 50, "vcpu.0.hypercalls.sum": 4, "vcpu.0.io_exits.sum": 9}
    later = {"vcpu.0.exits.sum": 300, "vcpu.1.exits.sum": 50, "vcpu.0.hypercalls.sum": 4, "vcpu.0.io_exits.sum": 99}
    seen = sample({**values(), **more}, {**values(), **later})
    assert (seen.exits, seen.hypercalls) == (100.0, 0.0)
    assert sample(values(), values()).exits is None


def test_the_meter_forgets_who_ended_and_starts_anew_with_who_started_again() -> None:
    meter = ResourceMeter()
    first = meter.update([Record(A, 1, values()), Record(B, 2, values())], Instant(10.0), WALL)
    assert [(s.vm, s.cpu, s.memory) for s in first] == [(A, None, 0.75), (B, None, 0.75)]
    busy = values(cpu__time=12_000_000_000)
    again = meter.update([Record(A, 1, busy), Record(B, 3, busy)], Instant(12.0), WALL)
    assert [s.cpu for s in again] == [0.5, None], "B was started again: another domain id"
    assert meter.update([Record(A, 1, busy)], Instant(13.0), WALL)[0].cpu == 0.0
    back = meter.update([Record(B, 3, busy)], Instant(14.0), WALL)
    assert back[0].cpu is None, "nothing is kept of a domain that was not there"


def test_two_records_at_almost_the_same_time_make_no_rate() -> None:
    meter = ResourceMeter()
    meter.update([Record(A, 1, values())], Instant(10.0), WALL)
    assert meter.update([Record(A, 1, values())], Instant(10.001), WALL) == ()
    [seen] = meter.update([Record(A, 1, values(cpu__time=12_000_000_000))], Instant(12.0), WALL)
    assert seen.cpu == 0.5


_NAMES = st.sampled_from(sorted(values()))
_ANY = st.one_of(st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=True), st.text(max_size=3), st.booleans())


@given(st.dictionaries(_NAMES, _ANY), st.dictionaries(_NAMES, _ANY), st.floats(0.05, 100))
def test_no_statistics_make_a_number_that_cannot_be(old: dict, new: dict, seconds: float) -> None:
    seen = sample(old, new, seconds)
    for value in astuple(seen)[1:]:
        assert value is None or value >= 0
    for fraction in (seen.cpu, seen.cpu_wait, seen.memory):
        assert fraction is None or fraction <= 1


def test_how_long_a_block_request_takes() -> None:
    before = values(block__0__rd__times=1_000_000, block__0__wr__times=0)
    after = values(
        block__0__rd__times=41_000_000, block__0__wr__times=20_000_000, block__0__rd__reqs=12, block__0__wr__reqs=21
    )
    assert sample(before, after).block_wait == pytest.approx(0.02), "60 ms for three requests"
    assert sample(values(), values(block__0__rd__reqs=12)).block_wait is None, "where libvirt tells no times"
    assert sample(before, before).block_wait is None, "of no request none is known"


def test_a_copy_goes_on_by_itself() -> None:
    def read(meter: ResourceMeter, at: float, used_s: float) -> float | None:
        (sample,) = meter.update([Record(A, 1, {"cpu.time": round(used_s * 1e9), "vcpu.current": 1})], Instant(at), 0.0)
        return sample.cpu

    meter = ResourceMeter()
    read(meter, 10.0, 1.0)
    glance = meter.copy()
    assert read(glance, 10.5, 1.5) == 1.0
    assert read(glance, 11.0, 1.5) == 0.0, "since its own last"
    assert read(meter, 11.0, 1.5) == 0.5
