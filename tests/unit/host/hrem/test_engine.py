"""Sweeps become rates: what was seen, by whom and with whom; what was not seen is NaN and never zero."""

from dataclasses import replace

import numpy as np
import pytest

from hypervigil.host.hrem import engine
from hypervigil.host.hrem.engine import STALE_S, Hrem
from hypervigil.model.ids import HOST, OUTSIDE, Instant, PortId, VmId
from hypervigil.model.metric import PACKET_METRICS, Metric
from hypervigil.model.observation import ClassCounts, GreeterCount, PeerCount, PortSample, ResourceSample, Sweep
from hypervigil.model.report import DeniedCount, DialogueCount, ForgedCount, HostReport, LimitedCount
from hypervigil.model.traffic import DenialKind, Direction, ForgedKind, TrafficClass
from hypervigil.model.vm import Inventory, Nic, Vm

A, B = VmId("a"), VmId("b")
A1, A2, B1 = PortId("52:54:00:00:00:a1"), PortId("52:54:00:00:00:a2"), PortId("52:54:00:00:00:b1")
SILENT = ClassCounts((0,) * 11, (0,) * 11, (0,) * 11)


class Book:
    def owner(self, address: str, mac: str = "") -> VmId:
        return {"10.0.0.1": A, "10.0.0.2": B}.get(address, OUTSIDE)


def inventory(*vms: VmId) -> Inventory:
    nics = {A: (A1, A2), B: (B1,)}
    return Inventory(tuple(Vm(vm, vm, 1, 1, tuple(Nic(port, "vnet0", 1, "br0") for port in nics[vm])) for vm in vms))


@pytest.fixture
def hrem() -> Hrem:
    built = Hrem(Book())
    built.inventory(inventory(A, B))
    return built


def counts(**packets: int) -> ClassCounts:
    by_class = tuple(packets.get(c.name.lower(), 0) for c in TrafficClass)
    return ClassCounts(by_class, tuple(100 * n for n in by_class), (0,) * len(TrafficClass))


def sample(vm: VmId, port: PortId, *, out: ClassCounts = SILENT, into: ClassCounts = SILENT, **more) -> PortSample:
    whole = {"forged": (0,) * len(ForgedKind), "new_destinations": 0, "failures": 0, **more}
    return PortSample(vm, port, out, into, **whole)


def sweep(at: float, *ports: PortSample, interval_s: float = 0.2, **more) -> Sweep:
    return Sweep(1, Instant(at), interval_s, ports, **more)


def values(report: HostReport) -> dict[VmId, np.ndarray]:
    table = np.asarray(report.values).reshape(len(report.vms), len(Metric))
    return dict(zip(report.vms, table, strict=True))


def one(hrem: Hrem, what: Sweep) -> HostReport:
    (report,) = hrem.observe(what, what.at)
    return report


def test_what_was_denied_is_told_by_vm_direction_and_kind(hrem: Hrem) -> None:
    none, some = (0,) * len(DenialKind), (0, 3, 0, 0, 7)
    report = one(hrem, sweep(1, sample(A, A1, denied=(some, none)), sample(A, A2, denied=(none, some)), sample(B, B1)))
    assert report.denied == tuple(
        DeniedCount(A, way, kind, packets)
        for way in Direction
        for kind, packets in ((DenialKind.PATH, 3), (DenialKind.BROADCAST, 7))
    )


def test_dialogues_are_told_with_who_is_at_the_other_end(hrem: Hrem) -> None:
    greeters = tuple(GreeterCount(Direction.OUT, f"10.0.0.{n}", "", 21, 9, 8, 7, 6, 5.0) for n in (2, 3))
    report = one(hrem, sweep(1, sample(A, A1, greeters=greeters[:1]), sample(A, A2, greeters=greeters[1:])))
    assert report.dialogues == tuple(
        DialogueCount(A, Direction.OUT, other, f"10.0.0.{n}", 21, 9, 8, 7, 6, 5.0)
        for n, other in ((2, B), (3, OUTSIDE))
    )


def test_counts_become_rates_of_all_nics_together(hrem: Hrem) -> None:
    first = sample(A, A1, out=counts(syn=10, udp=2), into=counts(synack=4), new_destinations=3, failures=1, fan_out=5)
    second = sample(A, A2, out=counts(syn=30), fan_out=2, fan_in=7)
    row = values(one(hrem, sweep(1, first, second)))[A]
    assert row[Metric.OUT_SYN] == pytest.approx(200)
    assert row[Metric.OUT_UDP] == pytest.approx(10)
    assert row[Metric.IN_SYNACK] == pytest.approx(20)
    assert row[Metric.OUT_BYTES] == pytest.approx(4200 / 0.2)
    assert row[Metric.NEW_DESTINATIONS] == pytest.approx(15)
    assert row[Metric.FAILURES] == pytest.approx(5)
    assert (row[Metric.FAN_OUT], row[Metric.FAN_IN]) == (7, 7), "widths are widths, not rates"


def test_silence_is_zero_and_blindness_is_nan(hrem: Hrem) -> None:
    rows = values(one(hrem, sweep(1, unseen=(B1,))))
    assert (rows[A][: Metric.CPU] == 0).all()
    assert np.isnan(rows[B]).all()
    assert np.isnan(rows[HOST][list(PACKET_METRICS)]).all(), "the host has no port of ours"


def test_one_blind_nic_makes_the_vm_unseen(hrem: Hrem) -> None:
    rows = values(one(hrem, sweep(1, sample(A, A1, out=counts(syn=1)), unseen=(A2,))))
    assert np.isnan(rows[A][: Metric.CPU]).all()


def test_a_partial_sweep_says_nothing_of_others(hrem: Hrem) -> None:
    report = one(hrem, sweep(1, sample(A, A1, out=counts(syn=1)), partial=True))
    assert report.partial
    assert report.vms == (A,)


def test_a_second_sums_up_its_sweeps_and_partial_looks(hrem: Hrem) -> None:
    reports = []
    for n in range(1, 6):
        if n == 3:
            partial = sweep(0.5, sample(A, A1, out=counts(syn=7)), interval_s=0.1, partial=True)
            reports += hrem.observe(partial, Instant(0.5))
        wide = sample(A, A1, out=counts(syn=n), fan_out=n, failures=1)
        reports += hrem.observe(sweep(n / 5, wide), Instant(n / 5))
    assert [r.whole for r in reports] == [False] * 6 + [True]
    row = values(reports[-1])[A]
    assert row[Metric.OUT_SYN] == pytest.approx(1 + 2 + 3 + 4 + 5 + 7)
    assert row[Metric.FAILURES] == pytest.approx(5)
    assert row[Metric.FAN_OUT] == 5, "the widest of the second"
    assert not [r for r in hrem.observe(sweep(1.2), Instant(1.2)) if r.whole], "and begins anew"


def test_a_second_that_was_partly_blind_is_unseen(hrem: Hrem) -> None:
    hrem.observe(sweep(0.2, unseen=(B1,)), Instant(0.2))
    for n in range(2, 6):
        reports = hrem.observe(sweep(n / 5, sample(B, B1, out=counts(syn=1))), Instant(n / 5))
    assert np.isnan(values(reports[-1])[B][: Metric.CPU]).all()
    assert values(reports[-1])[A][Metric.OUT_SYN] == 0


def test_resources_are_kept_until_they_are_stale(hrem: Hrem) -> None:
    seen = (ResourceSample(A, cpu=0.5, block_reads=7.0),)
    row = values(one(hrem, sweep(1, resources=seen)))[A]
    assert (row[Metric.CPU], row[Metric.BLOCK_READS]) == (0.5, 7.0)
    assert np.isnan(row[[Metric.MEMORY, Metric.EXITS]]).all(), "what is not reported is unseen"
    at = 1 + STALE_S - 0.1
    assert values(hrem.observe(sweep(at), Instant(at))[0])[A][Metric.CPU] == 0.5
    at = 1 + STALE_S + 0.1
    assert np.isnan(values(hrem.observe(sweep(at), Instant(at))[0])[A][Metric.CPU])


def test_a_reports_values_are_its_own(hrem: Hrem) -> None:
    report = one(hrem, sweep(1, sample(A, A1, out=counts(syn=10))))
    before = values(report)[A].copy()
    hrem.observe(sweep(1.2, sample(A, A1, out=counts(syn=99))), Instant(1.2))
    assert np.array_equal(values(report)[A], before, equal_nan=True)


def test_both_ends_are_named(hrem: Hrem) -> None:
    def peer(address: str, packets: int) -> PeerCount:
        return PeerCount(Direction.OUT, address, "m", packets, 10 * packets, packets, 2, 1, 3, new=True)

    report = one(hrem, sweep(1, sample(A, A1, peers=(peer("10.0.0.2", 20), peer("192.0.2.1", 4)))))
    inside, outside = report.pairs
    assert (inside.vm, inside.other, inside.address) == (A, B, "10.0.0.2")
    assert (inside.packets, inside.octets, inside.openings) == (100, 1000, 100)
    assert (inside.answers, inside.resets, inside.ports, inside.new) == (10, 5, 3, True)
    assert outside.other == OUTSIDE
    assert values(report)[A][Metric.PORTS_TRIED] == 3


def test_pairs_are_bounded_and_counted(hrem: Hrem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "MAX_PAIRS", 3)
    peers = tuple(PeerCount(Direction.OUT, f"192.0.2.{n}", "m", 1, 1, 1, 0, 0, 1, new=True) for n in range(5))
    assert len(one(hrem, sweep(1, sample(A, A1, peers=peers))).pairs) == 3
    assert hrem.pairs_dropped == 2


def test_who_has_many_peers_leaves_room_for_others(hrem: Hrem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "MAX_PAIRS", 6)
    many = [(Direction.OUT, f"192.0.2.{n}", n) for n in range(9)] + [(Direction.IN, "192.0.2.99", 1)]
    loud, quiet = (
        tuple(PeerCount(way, address, "m", packets, 1, 1, 0, 0, 1, new=True) for way, address, packets in peers)
        for peers in (many, many[:2])
    )
    told = one(hrem, sweep(1, sample(A, A1, peers=loud), sample(B, B1, peers=quiet))).pairs
    assert [pair.address for pair in told if pair.vm == B] == ["192.0.2.0", "192.0.2.1"]
    busiest = ["192.0.2.8", "192.0.2.99", "192.0.2.7", "192.0.2.6"]
    assert [pair.address for pair in told if pair.vm == A] == busiest, "of both directions"
    assert hrem.pairs_dropped == 6


def test_forged_and_limited_frames_are_told_by_kind_and_class(hrem: Hrem) -> None:
    forged = tuple(9 if kind is ForgedKind.ARP else 0 for kind in ForgedKind)
    limited = replace(SILENT, limited=tuple(5 if c is TrafficClass.UDP else 0 for c in TrafficClass))
    report = one(hrem, sweep(1, sample(A, A1, forged=forged, into=limited)))
    assert report.forged == (ForgedCount(A, ForgedKind.ARP, 9),)
    assert report.limited == (LimitedCount(A, Direction.IN, TrafficClass.UDP, 5),)
    assert values(report)[A][Metric.FORGED] == pytest.approx(45)


def test_who_does_not_run_is_not_reported(hrem: Hrem) -> None:
    hrem.observe(sweep(0.8, sample(B, B1, out=counts(syn=1)), interval_s=0.8), Instant(0.8))
    hrem.inventory(inventory(A))
    reports = hrem.observe(
        sweep(1, sample(B, B1, out=counts(syn=9)), resources=(ResourceSample(B, cpu=1.0),)), Instant(1)
    )
    assert [set(report.vms) for report in reports] == [{HOST, A}, {HOST, A}]
    hrem.inventory(inventory(A, B))
    assert values(one(hrem, sweep(1.2)))[B][Metric.OUT_SYN] == 0, "who comes back begins anew"


def test_without_vms_there_is_only_the_host() -> None:
    hrem = Hrem(Book())
    assert hrem.observe(sweep(1), Instant(1))[0].vms == ()
    hrem.inventory(Inventory(()))
    assert hrem.observe(sweep(1, interval_s=0.0), Instant(1))[0].vms == (HOST,)


def test_another_nic_of_the_same_vm_may_have_the_way_back(hrem: Hrem) -> None:
    """What came in by one NIC is answered through the other, as routes have it."""

    def peer(way: Direction, packets: int) -> PeerCount:
        return PeerCount(way, "10.0.0.2", str(B1), packets, 100 * packets, 0, 0, 0, 1, False)

    (heard, said) = one(
        hrem,
        sweep(
            1,
            sample(A, A1, into=counts(tcp=80), peers=(peer(Direction.IN, 80),)),
            sample(A, A2, out=counts(tcp=38, rst=2), peers=(peer(Direction.OUT, 40),)),
        ),
    ).pairs
    assert (heard.answers * 0.2, heard.resets * 0.2) == (pytest.approx(40), pytest.approx(2))
    assert said.answers * 0.2 == pytest.approx(80)
