"""What is known of the peers that a VM had just before it is looked at."""

import math
import tracemalloc

import numpy as np
import pytest

from hypervigil.host.hsem.lately import REPORTS, Lately
from hypervigil.host.hsem.look import Look
from hypervigil.model.ids import OUTSIDE, Instant, VmId
from hypervigil.model.metric import Metric
from hypervigil.model.report import HostReport, PairRate
from hypervigil.model.traffic import Direction

A, B = VmId("a"), VmId("b")


def _pair(vm, address, packets, direction=Direction.OUT, other=OUTSIDE):
    return PairRate(vm, direction, other, address, packets, 60.0 * packets, packets, packets, 0.0, 1, new=False)


def _report(at, syns, *pairs):
    values = np.zeros((2, len(Metric)), np.float32)
    values[:, Metric.OUT_SYN] = syns
    return HostReport(Instant(at), 0.2, (A, B), values.data, pairs), values, Instant(at)


def test_what_was_told_fades_as_the_counts_do():
    lately = Lately()
    lately.add(*_report(1.0, (100, 0), _pair(A, "x", 100)))
    lately.add(*_report(1.2, (50, 0), _pair(A, "y", 50)))
    counts, peers = lately.of(A, Instant(1.4))
    assert counts[Metric.OUT_SYN] == pytest.approx(20 * math.exp(-0.8) + 10 * math.exp(-0.4))
    assert {peer.address: round(peer.packets, 3) for peer in peers} == {
        "x": round(20 * math.exp(-0.8), 3),
        "y": round(10 * math.exp(-0.4), 3),
    }
    assert lately.of(B, Instant(1.4)) == ((0.0,) * len(counts), [])


def test_a_neighbour_s_word_of_it_is_not_its_own():
    """Of an interval in which only others told of it, nothing is known of its peers."""
    lately = Lately()
    lately.add(*_report(1.0, (100, 0), _pair(B, "a", 100, Direction.IN, A)))
    assert sum(lately.of(A, Instant(1.2))[0]) == 0
    assert lately.of(A, Instant(1.2))[1] == []


def test_only_the_last_reports_are_kept():
    lately = Lately()
    for n in range(3 * REPORTS):
        lately.add(*_report(float(n), (100, 0), _pair(A, f"x{n}", 100)))
    assert len(lately.of(A, Instant(3.0 * REPORTS))[1]) == REPORTS


def test_a_quiet_vm_takes_no_room():
    """A report tells all metrics of all VMs; only of those who talked is anything kept."""
    vms = tuple(VmId(str(n)) for n in range(2000))
    lately = Lately()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for n in range(REPORTS):
        values = np.ones((len(vms), len(Metric)), np.float32)
        report = HostReport(Instant(float(n)), 0.2, vms, values.data, (_pair(vms[7], "x", 100),))
        lately.add(report, values.clip(0), Instant(float(n)))
    del report, values
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert lately.of(vms[7], Instant(float(REPORTS)))[1]
    assert taken < 10 * len(vms), f"{taken / len(vms):.0f} bytes per VM"


def test_who_is_unknown_has_no_peers():
    lately = Lately()
    lately.add(*_report(1.0, (100, 0), _pair(A, "x", 100)))
    assert lately.of(VmId("new"), Instant(1.2))[1] == []


def _look(*peers, syns):
    row = np.zeros(len(Metric), np.float32)
    row[Metric.OUT_SYN] = syns / 0.2
    return Look(row, 0.2, None, peers, (), 100)


@pytest.mark.parametrize(("counted", "known", "expected"), [(30, 20, 20), (30, 10, 15), (18, 20, 8), (10, 20, 0)])
def test_peers_add_up_to_what_was_counted(counted, known, expected):
    """What is not known grows from what is; of a count that was begun anew less than is known is left."""
    lately = Lately()
    lately.add(*_report(1.0, (known / 0.2, 0), _pair(A, "x", known / 0.2)))
    before = lately.of(A, Instant(1.0))
    counts = [0.0] * len(before[0])
    counts[Metric.OUT_SYN] = counted
    now = Lately()
    now.add(*_report(1.0, (10 / 0.2, 0), _pair(A, "y", 10 / 0.2)))
    found = _look(*now.of(A, Instant(1.0))[1], syns=10).recent(tuple(counts), before)
    assert {p.address: p.packets for p in found}["x"] == pytest.approx(expected)
    assert sum(peer.packets for peer in found) == pytest.approx(counted)
