"""HREM works with arrays; here is the same with one VM after the other, and both say the same of any sweeps."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hypervigil.host.hrem.engine import STALE_S, WHOLE_S, Hrem
from hypervigil.model.ids import HOST, OUTSIDE, Instant, PortId, VmId
from hypervigil.model.metric import Metric
from hypervigil.model.observation import ClassCounts, PeerCount, PortSample, ResourceSample, Sweep
from hypervigil.model.report import HostReport
from hypervigil.model.traffic import Direction, ForgedKind, TrafficClass
from hypervigil.model.vm import Inventory, Nic, Vm

PORTS = {VmId(f"vm{n}"): tuple(PortId(f"52:54:00:00:{n:02x}:{nic:02x}") for nic in range(n % 3)) for n in range(6)}
STATES = (Metric.FAN_OUT, Metric.FAN_IN, Metric.PORTS_TRIED)
ADDED = [metric for metric in Metric if metric < Metric.CPU and metric not in STATES]
RESOURCES = {metric: metric.name.lower() for metric in Metric if metric >= Metric.CPU}


class Book:
    def owner(self, address: str, mac: str = "") -> VmId:
        return OUTSIDE


class Plain:
    """One VM after the other, a number at a time."""

    def __init__(self) -> None:
        self._running: list[VmId] = []
        self._seconds: dict[VmId, list[float]] = {}
        self._resources: dict[VmId, tuple[Instant, ResourceSample]] = {}
        self._since = 0.0

    def inventory(self, running: list[VmId]) -> None:
        self._running = [HOST, *running]
        for gone in set(self._seconds) - set(self._running):
            del self._seconds[gone]
        for gone in set(self._resources) - set(self._running):
            del self._resources[gone]

    def observe(self, sweep: Sweep, now: Instant) -> list[tuple[list[VmId], list[list[float]]]]:
        for sample in sweep.resources:
            if sample.vm in self._running:
                self._resources[sample.vm] = now, sample
        seen = list(dict.fromkeys(one.vm for one in sweep.ports if one.vm in self._running))
        vms = seen if sweep.partial else self._running
        counts = {vm: self._counts(vm, sweep, now) for vm in vms}
        for vm, row in counts.items():
            second = self._seconds.setdefault(vm, [0.0] * len(Metric))
            for metric in ADDED:
                second[metric] += row[metric]
            for metric in STATES:
                second[metric] = float(np.maximum(second[metric], row[metric]))
        told = [(vms, [rates(row, sweep.interval_s) for row in counts.values()])]
        if not sweep.partial:
            self._since += sweep.interval_s
        if not sweep.partial and self._since >= WHOLE_S - 0.01:
            told.append((self._running, [self._second(vm, now) for vm in self._running]))
            self._since, self._seconds = 0.0, {}
        return told

    def _counts(self, vm: VmId, sweep: Sweep, now: Instant) -> list[float]:
        row = [0.0] * Metric.CPU
        for one in (one for one in sweep.ports if one.vm == vm):
            for traffic in TrafficClass:
                row[traffic] += one.out.packets[traffic]
                row[len(TrafficClass) + traffic] += one.into.packets[traffic]
            row[Metric.OUT_BYTES] += sum(one.out.octets)
            row[Metric.IN_BYTES] += sum(one.into.octets)
            row[Metric.FORGED] += sum(one.forged)
            row[Metric.NEW_DESTINATIONS] += one.new_destinations
            row[Metric.FAILURES] += one.failures
            row[Metric.FAN_OUT] += one.fan_out
            row[Metric.FAN_IN] += one.fan_in
            tried = [peer.ports for peer in one.peers if peer.direction is Direction.OUT]
            row[Metric.PORTS_TRIED] = max([row[Metric.PORTS_TRIED], *tried])
        ports = PORTS.get(vm, ())
        if not ports or set(ports) & set(sweep.unseen):
            row = [float("nan")] * Metric.CPU
        return row + self._of(vm, now)

    def _of(self, vm: VmId, now: Instant) -> list[float]:
        at, sample = self._resources.get(vm, (Instant(-1e9), ResourceSample(vm)))
        found = [getattr(sample, name) if now - at < STALE_S else None for name in RESOURCES.values()]
        return [float("nan") if value is None else value for value in found]

    def _second(self, vm: VmId, now: Instant) -> list[float]:
        counts = self._seconds.get(vm)
        if counts is None or not PORTS.get(vm):
            counts = [float("nan")] * len(Metric)
        return rates(counts, self._since)[: Metric.CPU] + self._of(vm, now)


def rates(row: list[float], seconds: float) -> list[float]:
    return [value / seconds if metric in ADDED else value for metric, value in enumerate(row)]


amounts = st.sampled_from([0, 0, 1, 7, 1000])
by_class = st.tuples(*[amounts] * len(TrafficClass))
directions = st.builds(ClassCounts, by_class, by_class, by_class)
peers = st.builds(
    lambda direction, ports: PeerCount(direction, "192.0.2.1", "", 1, 60, 1, 0, 0, ports, new=False),
    st.sampled_from(Direction),
    st.integers(0, 64),
)
nics = st.sampled_from([(vm, port) for vm, ports in PORTS.items() for port in ports])
samples = st.builds(
    lambda nic, out, into, forged, some, told: PortSample(*nic, out, into, forged, *some[:2], told, *some[2:]),
    nics,
    directions,
    directions,
    st.tuples(*[amounts] * len(ForgedKind)),
    st.tuples(*[amounts] * 4),
    st.lists(peers, max_size=2).map(tuple),
)
shares = st.one_of(st.none(), st.sampled_from([0.0, 0.25, 1.0]))
resources = st.builds(ResourceSample, st.sampled_from([*PORTS, HOST]), cpu=shares, memory=shares, exits=shares)
sweeps = st.builds(
    lambda ports, told, unseen, interval_s, partial: Sweep(
        1, Instant(0.0), interval_s, tuple(ports), tuple(told), tuple(unseen), partial
    ),
    st.lists(samples, max_size=5, unique_by=lambda one: one.port),
    st.lists(resources, max_size=3),
    st.lists(nics.map(lambda nic: nic[1]), max_size=1),
    st.sampled_from([0.25, 0.5, 1.0]),
    st.booleans(),
)
running = st.lists(st.sampled_from(sorted(PORTS)), unique=True, min_size=3)
events = st.lists(st.one_of(sweeps, sweeps, sweeps, running, st.sampled_from([0.25, 3.0, 6.0])), max_size=20)


def inventory(vms: list[VmId]) -> Inventory:
    return Inventory(tuple(Vm(vm, vm, 1, 1, tuple(Nic(p, "vnet0", 1, "br0") for p in PORTS[vm])) for vm in vms))


def as_told(report: HostReport) -> tuple[list[VmId], np.ndarray]:
    return list(report.vms), np.asarray(report.values).reshape(len(report.vms), len(Metric))


@given(running, events)
@settings(max_examples=200, deadline=None)
def test_arrays_say_what_one_vm_after_the_other_says(first, sequence) -> None:
    fast, plain, now = Hrem(Book()), Plain(), Instant(1000.0)
    fast.inventory(inventory(first))
    plain.inventory(first)
    for event in sequence:
        if isinstance(event, list):
            fast.inventory(inventory(event))
            plain.inventory(event)
        elif isinstance(event, float):
            now = Instant(now + event)
        else:
            now = Instant(now + event.interval_s)
            told, expected = fast.observe(event, now), plain.observe(event, now)
            assert [report.whole for report in told] == [False, True][: len(expected)]
            for report, (vms, values) in zip(told, expected, strict=True):
                assert as_told(report)[0] == vms
                table = np.array(values, np.float32).reshape(len(vms), len(Metric))
                np.testing.assert_allclose(as_told(report)[1], table, rtol=1e-6)
