"""The host's own resources from the texts of /proc."""

from hypothesis import given
from hypothesis import strategies as st

from hypervigil.hypervisor.sensors.clock import now
from hypervigil.hypervisor.sensors.host import HostCounters, HostMeter, host_sample, parse_host
from hypervigil.model.ids import HOST, Instant

STAT = "cpu  100 0 50 800 50 0 0 0 0 0\ncpu0 1 2 3\nintr 5\n"
MEMORY = "MemTotal:       1000 kB\nMemFree: 100 kB\nMemAvailable:    250 kB\n"
PRESSURE = "some avg10=2.01 avg60=1.73 avg300=2.71 total=2000000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"
DISKS = (
    "   7       0 loop0 9 0 9 9 9 0 9 9 0 0 0\n 254       0 vda 10 0 100 5 20 0 300 5 0 9 9\n"
    " 254       1 vda1 10 0 100 5 20 0 300 5 0 9 9\n 254  16 vdb 1 0 2 3 4 5 6 7 8 9 10\n"
)


def test_what_proc_says() -> None:
    seen = parse_host(STAT, MEMORY, PRESSURE, DISKS)
    assert seen == HostCounters(150.0, 1000.0, 2.0, 0.75, 11.0, 24.0, 408 * 512.0), "partitions and loops count once"


def test_an_interval_and_what_is_unseen() -> None:
    before = parse_host(STAT, MEMORY, PRESSURE, DISKS)
    after = HostCounters(250.0, 1200.0, 2.5, 0.5, 21.0, 24.0, 408 * 512.0 + 1024)
    seen = host_sample(before, after, 2.0)
    assert (seen.vm, seen.cpu, seen.cpu_wait, seen.memory) == (HOST, 0.5, 0.25, 0.5)
    assert (seen.block_reads, seen.block_writes, seen.block_bytes) == (5.0, 0.0, 512.0)
    nothing = host_sample(parse_host("", "", "", ""), parse_host("", "", "", ""), 2.0)
    assert (nothing.cpu, nothing.cpu_wait, nothing.memory, nothing.block_reads) == (None, None, None, None)


def test_this_host_can_be_read() -> None:
    meter = HostMeter()
    begun = now()
    assert meter.read(begun) is None
    while sum(range(10_000)) and now() - begun < 0.05:
        pass
    seen = meter.read(now())
    assert seen is not None
    assert seen.cpu is None or 0 <= seen.cpu <= 1
    assert seen.memory is not None
    assert 0 < seen.memory < 1


@given(st.lists(st.floats(0, 1e12), min_size=7, max_size=7), st.lists(st.floats(0, 1e12), min_size=7, max_size=7))
def test_no_reading_makes_a_negative_rate(old: list[float], new: list[float]) -> None:
    seen = host_sample(HostCounters(*old), HostCounters(*new), 1.0)
    for value in (seen.cpu, seen.cpu_wait, seen.block_reads, seen.block_bytes):
        assert value is None or value >= 0
    assert HostMeter().read(Instant(1.0)) is None
