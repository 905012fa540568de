"""From the kernel's text to a report's values; what is not told is unseen, never zero."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypervigil.guest import proc, snapshot, sources, words
from hypervigil.guest.vsem.recorder import Second
from tests.unit.guest.kernel_text import files


def taken(at_ms: int = 0, missing: tuple[str, ...] = (), pending: int | None = None, **numbers: int):
    texts = files(**numbers) | dict.fromkeys(missing, b"")
    nics = proc.nics(texts["net/dev"])
    found = snapshot.Snapshot(at_ms, texts, nics, frozenset({"eth0"}), snapshot.Columns())
    if pending is not None:
        found.states[words.PENDING] = pending
    return found


def values(before, after):
    return snapshot.changes(before, after, Second())


def test_counts_are_those_between_two_looks():
    before = taken(0, pending=0)
    after = taken(
        1000,
        pending=0,
        tx=100,
        tx_bytes=9000,
        rx=50,
        rx_bytes=4000,
        tx_drop=3,
        forks=7,
        reads=4,
        writes=6,
        sectors=8,
        irq=30,
        inflated=512,
        swapped=2,
        retransmitted=5,
        resets=6,
        accepted=9,
        unreachable=2,
        unreachable6=3,
    )
    expected = {
        words.OUT_PACKETS: 100,
        words.OUT_BYTES: 9000,
        words.IN_PACKETS: 50,
        words.IN_BYTES: 4000,
        words.OUT_FAULTS: 3,
        words.FORKS: 7,
        words.BLOCK_READS: 4,
        words.BLOCK_WRITES: 6,
        words.BLOCK_BYTES: 4096,
        words.INTERRUPTS: 30,
        words.BALLOON: 512,
        words.SWAPPED: 2,
        words.RETRANSMITTED: 5,
        words.RESETS_SENT: 6,
        words.ACCEPTED: 9,
        words.UNREACHABLE: 5,
    }
    found = values(before, after)
    assert {column: found[column] for column in expected} == expected


def test_shares_are_permille():
    found = values(taken(0), taken(1000, user=60, idle=30, steal=10, available=50_000, busy=250))
    assert found[words.CPU] == 600
    assert found[words.STEAL] == 100
    assert found[words.MEMORY] == 750
    assert found[words.DISK] == 250
    assert found[words.PROCESSES] == 3


@pytest.mark.req("A228")
def test_tries_that_were_answered_and_tries_that_failed():
    found = values(taken(0, pending=0), taken(1000, pending=0, opened=100, failed=50))
    assert (found[words.OPENED], found[words.ANSWERED], found[words.FAILED]) == (100, 50, 50)
    assert found[words.FAIL_SHARE] == 500


@pytest.mark.req("A228")
def test_tries_that_still_wait_are_neither():
    found = values(taken(0, pending=2), taken(1000, pending=12, opened=30, failed=5))
    assert (found[words.ANSWERED], found[words.FAILED]) == (15, 5)
    assert found[words.FAIL_SHARE] == 250


def test_a_share_of_few_tries_is_unseen():
    found = values(taken(0, pending=0), taken(1000, pending=0, opened=9, failed=9))
    assert found[words.FAIL_SHARE] == words.UNSEEN


@pytest.mark.parametrize(
    ("missing", "unseen"),
    [
        ("diskstats", [words.BLOCK_READS, words.BLOCK_BYTES, words.DISK]),
        ("interrupts", [words.INTERRUPTS]),
        ("vmstat", [words.BALLOON, words.SWAPPED]),
        ("net/dev", [words.OUT_PACKETS, words.IN_BYTES]),
        ("net/snmp", [words.OPENED, words.ANSWERED, words.FAILED, words.UNREACHABLE]),
        ("meminfo", [words.MEMORY]),
        ("stat", [words.CPU, words.FORKS, words.PROCESSES]),
    ],
)
def test_what_is_not_told_is_unseen(missing, unseen):
    found = values(taken(0, missing=(missing,)), taken(1000, missing=(missing,), user=9, idle=9))
    assert [found[column] for column in unseen] == [words.UNSEEN] * len(unseen)


def test_no_ipv6_is_no_blindness():
    found = values(taken(0, missing=("net/snmp6",)), taken(1000, missing=("net/snmp6",), unreachable=4))
    assert found[words.UNREACHABLE] == 4


def test_tries_that_ran_out_of_time_are_in_the_extended_table():
    columns = snapshot.Columns()
    assert columns.tcp_ext.read(files(timed_out=4)["net/netstat"]) == [4]
    assert columns.tcp_ext.read(b"") == [None]


def test_a_counter_that_began_anew_counts_from_zero():
    assert values(taken(0, tx=1000), taken(1000, tx=30))[words.OUT_PACKETS] == 30


def test_partitions_loops_and_bridges_are_not_counted_twice():
    assert list(proc.disks(files()["diskstats"])) == ["vda"]
    found = taken(0, tx=1)
    assert set(found.nics) == {"eth0", "docker0"}
    assert found.counts[words.OUT_PACKETS] == 1


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        *((name, True) for name in (b"vda", b"sdb", b"xvda", b"nvme0n1", b"mmcblk0")),
        *((name, False) for name in (b"vda1", b"nvme0n1p1", b"mmcblk0p2", b"loop0", b"zram0")),
    ],
)
def test_whole_disks(name, whole):
    line = b" 1 0 " + name + b" 1 0 1 0 1 0 1 0 0 1 1"
    assert bool(proc.disks(line)) is whole


@pytest.mark.req("A240")
def test_each_device_is_told_with_its_requests_and_octets():
    found = snapshot.devices(taken(0), taken(1000, reads=3, writes=4, sectors=16, irq=5), 8)
    assert ("vda", 7, 8192) in found
    assert ("virtio0-input.0", 5, 0) in found
    assert snapshot.devices(taken(0), taken(1000, irq=5), 1) == [("virtio0-input.0", 5, 0)]


@given(st.binary(max_size=300), st.sampled_from(sorted(files())))
def test_strange_kernels_are_survived(noise, name):
    texts = files() | {name: noise}
    nics = proc.nics(texts["net/dev"])
    after = snapshot.Snapshot(1000, texts, nics, frozenset({"eth0"}), snapshot.Columns())
    assert len(values(taken(0), after)) == words.METRICS


def sampled(weight: int, syn: int, odd: int) -> Second:
    second = Second()
    second.weights[words.OUT] = weight
    second.read_of[words.OUT][words.SYN] = syn
    second.classes[words.OUT][words.SYN] = syn * weight
    second.odd_read, second.odd_ports = odd, odd * weight
    return second


def test_one_header_that_stands_for_many_is_not_many():
    second = sampled(200, 1, 2)
    found = snapshot.changes(taken(0), taken(1000), second)
    judged = snapshot.sure(found, second)
    assert (found[words.OUT_SYN], judged[words.OUT_SYN]) == (200, 1)
    assert (found[words.ODD_PORTS], judged[words.ODD_PORTS]) == (400, 2)


def test_many_headers_are_surely_most_of_what_they_stand_for():
    second = sampled(200, 49, 0)
    found = snapshot.changes(taken(0), taken(1000), second)
    assert 0.7 * 9800 < snapshot.sure(found, second)[words.OUT_SYN] < 0.8 * 9800


def test_what_was_not_sampled_is_sure():
    second = sampled(1, 3, 3)
    found = snapshot.changes(taken(0), taken(1000), second)
    assert snapshot.sure(found, second) == found


def test_headers_stand_for_all_that_the_nics_counted():
    sample = sources.Sample([b""] * 7, 7, 64)
    assert sum(sample.weights(sample.total(1001))) == 1001
    assert sample.total(None) == 448
    assert sources.Sample([b""] * 7, 7, 1).total(9) == 7, "none was left out"
    assert sources.Sample([b""] * 7, 90, 1).total(91) == 91
    assert sources.Sample([b""] * 7, 7, 64).total(3) == 448, "tried in vain"
    assert sources.Sample([], 0, 64).weights(300) == []
