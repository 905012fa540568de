"""Whatever happens, in whatever order: levels move as the table says, limits end, the judge repeats itself."""

from itertools import count

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hypervigil.host.hsem.engine import Hsem
from hypervigil.host.hsem.facts import Facts
from hypervigil.host.hsem.judge import judge
from hypervigil.host.hsem.resume import Resumed
from hypervigil.host.journal.records import GENESIS, Kind, Record, encode_body
from hypervigil.model.ids import HOST, OUTSIDE, CaseId, Instant, LimitId, VmId
from hypervigil.model.metric import Metric, packet_metric
from hypervigil.model.policy import Bounds
from hypervigil.model.report import Decide, ForgedCount, HostReport, LimitedCount, PairRate
from hypervigil.model.status import Evidence, Origin, Verdict
from hypervigil.model.traffic import Direction, ForgedKind, TrafficClass
from hypervigil.model.vm import Vm
from tests.unit.host.hsem.witness import Witness

VMS = [VmId("a"), VmId("b"), VmId("c"), HOST]
ADDRESSES = {"10.0.0.1": VMS[0], "10.0.0.2": VMS[1], "10.0.0.3": VMS[2], "192.0.2.1": OUTSIDE, "192.0.2.2": OUTSIDE}

# Mostly the numbers at which something happens, sometimes any number at all.
rates = st.one_of(
    st.sampled_from([0.0, 1.0, 10.0, 25.0, 200.0, 5000.0, float("nan")]),
    st.floats(width=32, allow_nan=True, allow_infinity=True),
)
amounts = st.one_of(
    st.sampled_from([0.0, 1.0, 20.0, 200.0, 5000.0]), st.floats(min_value=0, max_value=1e30, allow_subnormal=False)
)
pairs = st.builds(
    lambda vm, direction, address, packets, shares, ports: PairRate(
        vm, direction, ADDRESSES[address], address, packets, 100 * packets, *(packets * s for s in shares), ports, True
    ),
    st.sampled_from(VMS),
    st.sampled_from(Direction),
    st.sampled_from(sorted(ADDRESSES)),
    amounts,
    st.tuples(*[st.sampled_from([0.0, 0.001, 0.3, 0.5, 1.0, 2.0])] * 3),
    st.integers(0, 64),
)
notices = st.builds(
    lambda vm, kind: Evidence(vm, kind, Origin.HOST_OBSERVED, Instant(0.0), 0.97, 0.9, "of it", "busy"),
    st.sampled_from(VMS),
    st.sampled_from(["cpu-near-capacity", "cpu-near-capacity", "memory-near-capacity", "contention"]),
)


@st.composite
def exchanges(draw) -> tuple[list[tuple[VmId, Metric, float]], list[PairRate]]:
    """Somebody sends somebody something, which is answered or not: as both ends' ports see it."""
    addresses = {vm: address for address, vm in reversed(ADDRESSES.items())}
    source, target = draw(st.permutations([*VMS[:3], OUTSIDE]))[:2]
    traffic = draw(st.sampled_from(TrafficClass))
    rate = draw(st.sampled_from([5.0, 50.0, 300.0, 300.0, 5000.0, 5000.0]))
    reply = draw(st.sampled_from(REPLIES.get(traffic, [traffic])))
    share, asks = draw(st.sampled_from([0.0, 0.0, 0.1, 0.6, 1.0])), draw(st.sampled_from([0.0, 0.5, 1.0, 1.0]))
    ports, resets = draw(st.sampled_from([1, 1, 30])), share if reply is TrafficClass.RST else 0.0
    larger = draw(st.sampled_from([1, 1, 20]))
    cells, told = [], []
    for vm, other, way in ((source, target, Direction.OUT), (target, source, Direction.IN)):
        if vm == OUTSIDE:
            continue
        back = Direction.IN if way is Direction.OUT else Direction.OUT
        cells += [(vm, packet_metric(way, traffic), rate), (vm, packet_metric(back, reply), rate * share)]
        cells += [(vm, Metric.NEW_DESTINATIONS, rate), (vm, Metric.FAN_OUT, rate)] if ports > 1 else []
        address = addresses[other]
        there = (rate, 80 * rate, asks * rate, rate * share, rate * resets)
        here = (rate * share, 80 * larger * rate * share, 0.0, rate, 0.0)
        told += [PairRate(vm, way, other, address, *there, ports, True)]
        told += [PairRate(vm, back, other, address, *here, 1, True)] if share else []
    return cells, told


REPLIES = {
    TrafficClass.SYN: [TrafficClass.SYNACK, TrafficClass.RST],
    TrafficClass.TCP: [TrafficClass.TCP, TrafficClass.RST],
}


@st.composite
def reports(draw) -> HostReport:
    """One of HREM's: some exchanges, and sometimes anything at all."""
    whole = draw(st.sampled_from([False, False, False, True]))
    vms = tuple(draw(st.one_of(st.just(VMS), st.just(VMS), st.lists(st.sampled_from(VMS), unique=True, max_size=4))))
    values = np.zeros((len(vms), len(Metric)), np.float32)
    told: list[PairRate] = []
    for cells, some in draw(st.lists(exchanges(), max_size=2)):
        told += some
        for vm, metric, rate in cells:
            if vm in vms:
                values[vms.index(vm), metric] += rate
    anything = draw(st.sampled_from([False, False, True]))
    if vms and anything:
        noise = st.tuples(st.sampled_from(vms), st.sampled_from(Metric), rates)
        for vm, metric, rate in draw(st.lists(noise, max_size=8)):
            values[vms.index(vm), metric] = rate
    kinds = st.tuples(st.sampled_from(VMS), st.sampled_from(ForgedKind), st.integers(0, 50))
    stops = st.tuples(st.sampled_from(VMS), st.sampled_from(Direction), st.sampled_from(TrafficClass))
    return HostReport(
        at=Instant(0.0),
        interval_s=1.0 if whole else draw(st.sampled_from([0.2, 0.2, 0.2, 0.05, 0.001, 1.0, 30.0])),
        vms=vms,
        values=values.data,
        pairs=(*told, *draw(st.lists(pairs, max_size=4 if anything else 0))),
        notices=tuple(draw(st.lists(notices, max_size=2))) if whole else (),
        forged=tuple(ForgedCount(*one) for one in draw(st.lists(kinds, max_size=2 if anything else 0))),
        limited=tuple(LimitedCount(*one, 100) for one in draw(st.lists(stops, max_size=2))),
        whole=whole,
        partial=not whole and draw(st.booleans()),
        taken=np.full(len(vms), draw(st.sampled_from([0.0, 0.5, 1.0, np.nan])), np.float32).data
        if draw(st.booleans())
        else None,
    )


going_on = st.tuples(st.just("hear"), st.tuples(reports(), st.sampled_from([1, 2, 5, 5, 20])))
events = st.lists(
    st.one_of(
        going_on,
        going_on,
        going_on,
        st.tuples(st.just("know"), st.none()),
        st.tuples(st.just("wait"), st.sampled_from([0.2, 1.0, 5.0, 31.0, 65.0, 100_000.0])),
        st.tuples(st.just("running"), st.sets(st.sampled_from(VMS[:3]))),
        st.tuples(st.just("release"), st.sampled_from(VMS)),
        st.tuples(st.just("restart"), st.none()),
        st.tuples(st.just("policy"), st.sampled_from([Bounds(), Bounds(hold_s=5.0, cap_pps=30.0, factor=1.0)])),
    ),
    min_size=3,
    max_size=25,
)


class Course:
    """One sequence of events, played to the judge, with a witness."""

    def __init__(self) -> None:
        self._cases, self._limits = count(1), count(1)
        self.now = Instant(1000.0)
        self.hsem = self._judge()
        self.witness = Witness(self.hsem)
        self.facts: list[Facts] = []
        self.decisions: list[object] = []
        self.running(set(VMS[:3]))

    def _judge(self) -> Hsem:
        return Hsem(
            Bounds(),
            next_case=lambda: CaseId(f"c{next(self._cases)}"),
            next_limit=lambda: LimitId(f"l{next(self._limits)}"),
            ladder=("limit", "quarantine", "pause"),
        )

    def play(self, sequence) -> "Course":
        for what, with_ in sequence:
            getattr(self, what)(with_)
            self._note(self.hsem.tick(self.now))
            self.witness.check(VMS, self.now)
        return self

    def _note(self, decisions) -> None:
        self.decisions += decisions
        self.witness.hear(decisions, self.now)
        self.facts += [self.hsem.facts(d.verdict.case) for d in decisions if isinstance(d, Decide)]

    def hear(self, what: tuple[HostReport, int]) -> None:
        """The same for some time: verdicts need more than a moment."""
        report, times = what
        for _ in range(times):
            self.now = Instant(self.now + report.interval_s)
            self._note(self.hsem.hear(report, self.now))

    def know(self, _) -> None:
        """Half a minute of nothing special: a history."""
        values = np.zeros((len(VMS), len(Metric)), np.float32)
        values[:, Metric.CPU] = 0.1
        self.hear((HostReport(self.now, 1.0, tuple(VMS), values.data, whole=True), 32))

    def wait(self, seconds: float) -> None:
        self.now = Instant(self.now + seconds)

    def running(self, vms) -> None:
        self._note(self.hsem.inventory([Vm(vm, vm, 1, 1) for vm in sorted(vms)], self.now))

    def release(self, vm: VmId) -> None:
        self._note(self.hsem.release(vm, self.now))

    def policy(self, bounds: Bounds) -> None:
        self.hsem.set_policy(bounds, ("limit", "isolate"))

    def restart(self, _) -> None:
        old, self.hsem = self.hsem, self._judge()
        self.hsem.recall(old.remember())
        witness = self.witness
        witness.hsem = self.hsem
        opened = {one.case: one.at for one in witness.opened}
        last = {verdict.case: verdict for verdict in witness.verdicts}
        self.hsem.resume(
            [
                Resumed(
                    vm=vm,
                    case=case,
                    role=last[case].role if case in last else None,
                    since=last[case].at if case in last else opened[case],
                    facts=reread(old.facts(case), Facts),
                    limits=tuple(limit for limit in witness.standing.values() if limit.vm == vm),
                )
                for vm, case in witness.cases.items()
            ],
            witness.repetitions(),
        )


def reread(value, kind):
    """As the journal gives it back."""
    record = Record(1, "boot", Instant(0.0), 0.0, Kind.FACT, None, None, None, encode_body(value), GENESIS)
    return record.read(kind)


@pytest.mark.req("T-CORE-1")
@given(events)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_sequence_of_events_breaks_the_judge(sequence) -> None:
    """An illegal transition raises; the witness checks cases, limits and their ends."""
    course = Course().play(sequence)
    for facts, verdict in zip(course.facts, course.witness.verdicts, strict=True):
        read = reread(facts, Facts)
        assert encode_body(read) == encode_body(facts), "the journal keeps them to the bit"
        assert encode_body(judge(read)) == encode_body(reread(verdict, Verdict)), "and they give the same verdict"


@given(events)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_same_events_give_the_same_decisions(sequence) -> None:
    first, second = Course().play(sequence), Course().play(sequence)
    assert [encode_body(d) for d in first.decisions] == [encode_body(d) for d in second.decisions]


@given(events)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_everything_ends_when_nothing_happens_any_more(sequence) -> None:
    course = Course().play(sequence)
    silent = HostReport(Instant(0.0), 0.2, tuple(VMS), np.zeros((len(VMS), len(Metric)), np.float32).data)
    for _ in range(4):
        course.play([("wait", 4000.0), ("hear", (silent, 40))])
    assert not course.witness.cases
    assert not course.witness.standing
