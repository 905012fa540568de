"""Whatever the counts are: only who takes far more than ever, and much of it all, is blamed for what others bear."""

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hypervigil.host.hsem import blocks
from hypervigil.host.hsem.blocks import Slowed
from hypervigil.host.hsem.facts import Dossier
from hypervigil.host.hsem.grabs import LEAST_PART, Grabs
from hypervigil.host.hsem.judge import judge
from hypervigil.host.hsem.limiting import hardened, shared
from hypervigil.host.hsem.resources import Resource
from hypervigil.host.hsem.sides import Asked
from hypervigil.model.ids import HOST, CaseId, Instant, VmId
from hypervigil.model.limits import LimitKind
from hypervigil.model.metric import PACKET_METRICS, Metric
from hypervigil.model.policy import Bounds
from hypervigil.model.status import AttackClass, Role, Verdict
from hypervigil.model.vm import Vm
from tests.unit.host.hsem.backlog import Server
from tests.unit.host.hsem.scene import Scene

VMS = (HOST, *(VmId(f"vm{n}") for n in range(6)))
COLUMNS = [
    Metric.OUT_SYN, Metric.OUT_TCP, Metric.IN_SYN, Metric.CPU, Metric.CPU_WAIT, Metric.MEMORY, Metric.MEMORY_RSS,
    Metric.BLOCK_READS, Metric.BLOCK_WRITES, Metric.BLOCK_BYTES, Metric.BLOCK_WAIT,
]  # fmt: skip
FACTOR = 2.0

amount = st.sampled_from([0.0, 0.01, 0.3, 0.95, 1.0, 80.0, 5000.0, 1e8, 1e10, float("nan")])
seconds = st.lists(st.lists(amount, min_size=len(COLUMNS), max_size=len(COLUMNS)), min_size=len(VMS), max_size=len(VMS))


def matrix(rows: list[list[float]], rest: float) -> np.ndarray:
    values = np.full((len(VMS), len(Metric)), rest, np.float32)
    values[:, COLUMNS] = rows
    return values


@settings(deadline=None)
@given(seconds, seconds, st.booleans())
def test_only_who_takes_a_large_part_of_what_is_above_history_is_told(
    usual: list[list[float]], taken: list[list[float]], asking: bool
) -> None:
    grabs = Grabs()
    grabs.keep([Vm(vm, str(vm), 1, 1000) for vm in VMS[1:]])
    tails = np.nan_to_num(matrix(usual, 0.0), nan=np.inf)
    now, told = Instant(0.0), []
    for _ in range(12):
        now = Instant(now + 1.0)
        asks = (lambda _: {VMS[1]: Asked(9.0, 9.0, 9.0, 1.0)}) if asking else (lambda _: {})
        told = grabs.see(VMS, matrix(taken, 0.0), tails, factor=FACTOR, now=now, asks=asks)
    blamed: dict[Resource, int] = {}
    for vm, grab in told:
        assert vm != HOST
        assert grab.rate > FACTOR * grab.tail
        assert grab.first_at <= grab.last_at == now
        if grab.harmful:
            assert grab.sufferer not in {None, vm}
            blamed[grab.resource] = blamed.get(grab.resource, 0) + 1
    assert all(number <= 1 / LEAST_PART for number in blamed.values())
    nothing = np.full((len(VMS), len(Metric)), np.nan, np.float32)
    assert grabs.see(VMS, nothing, tails, factor=FACTOR, now=Instant(now + 1), asks=lambda _: {}) == []


@settings(deadline=None)
@given(seconds, seconds)
def test_a_verdict_on_a_grab_is_had_again_from_its_facts_and_limits_what_is_grabbed_only(
    usual: list[list[float]], taken: list[list[float]]
) -> None:
    grabs = Grabs()
    grabs.keep([Vm(vm, str(vm), 1, 1000) for vm in VMS[1:]])
    tails = np.nan_to_num(matrix(usual, 0.0), nan=np.inf)
    told = []
    for second in range(12):
        told += grabs.see(VMS, matrix(taken, 0.0), tails, factor=FACTOR, now=Instant(float(second)), asks=lambda _: {})
    for vm, grab in told:
        dossier = Dossier(CaseId("c1"), vm, Instant(0.0), (0.0,) * len(PACKET_METRICS), 0.1, 100)
        dossier.grabs[grab.resource] = grab
        facts = dossier.facts(Instant(12.0), 0)
        verdict = judge(facts)
        assert verdict is not None
        assert verdict == judge(facts)
        assert verdict.role in {Role.ATTACKER, Role.VICTIM, Role.OVERLOADED}
        assert (verdict.attack is AttackClass.NONE) == (not grab.harmful)
        own_computing = grab.resource is Resource.CPU and not grab.caused
        assert (verdict.role is Role.OVERLOADED) == (not grab.harmful or own_computing)
        if verdict.role is Role.ATTACKER:
            kinds = {one.kind for one in hardened(facts, verdict, Bounds(), "limit")}
            assert kinds
            assert not kinds & {LimitKind.ISOLATE, LimitKind.QUARANTINE, LimitKind.PAUSE}
            assert LimitKind.CPU not in kinds
        computing = grab.resource is Resource.CPU and grab.harmful
        assert {one.kind for one in shared(facts, Bounds())} == ({LimitKind.CPU} if computing else set())


SERVER, CLIENT = VMS[1], VMS[2]
LEARNED = 40
counts = st.floats(0, 1e5)


@settings(deadline=None)
@given(
    usual=st.floats(0, 500),
    served=st.floats(0, 1),
    stalled=st.lists(st.tuples(counts, st.floats(0, 1), st.floats(0, 1), counts), min_size=4, max_size=25),
    asked=st.tuples(st.floats(1, 1e5), st.floats(0, 1e7), st.floats(1, 1e6), st.floats(0, 1)),
)
def test_of_whom_no_more_connections_are_accepted_than_ever_is_no_hoarder_whatever_its_server_does(
    usual: float,
    served: float,
    stalled: list[tuple[float, float, float, float]],
    asked: tuple[float, float, float, float],
) -> None:
    """The server answers whom it will, or nobody; the client tries as often as it will, and says nothing."""
    grabs = Grabs()
    grabs.keep([Vm(vm, str(vm), 1, 1000) for vm in VMS[1:]])
    tails = np.zeros((len(VMS), len(Metric)), np.float32)
    tails[VMS.index(CLIENT), Metric.OUT_SYN] = usual
    allowed = max(FACTOR * usual, usual + 50.0)
    tries = [(usual + 20.0, served, 1.0, 1000.0 * (usual + 20.0))] * LEARNED + stalled
    told = []
    for second, (syns, accepted, others, octets) in enumerate(tries):
        values = np.zeros((len(VMS), len(Metric)), np.float32)
        mine = min(accepted * syns, 0.99 * allowed)
        values[VMS.index(CLIENT), [Metric.OUT_SYN, Metric.IN_SYNACK, Metric.IN_BYTES]] = syns, mine, 74 * mine
        values[VMS.index(SERVER), [Metric.IN_SYN, Metric.OUT_SYNACK]] = syns + 50.0, mine + others * 50.0
        values[VMS.index(SERVER), [Metric.OUT_BYTES, Metric.CPU]] = octets, 0.3
        now = Instant(float(second))
        told += grabs.see(VMS, values, tails, factor=FACTOR, now=now, asks=lambda _: {SERVER: Asked(*asked)})
    assert grabs.held(CLIENT) == 0.0
    assert [grab for _, grab in told if grab.resource is Resource.CONNECTIONS] == []


@settings(deadline=None, max_examples=12)
@given(
    rates=st.lists(st.floats(1, 80), min_size=3, max_size=3),
    said=st.sampled_from([0, 20, 60, 400]),
    patience_s=st.sampled_from([1.0, 3.0, 10.0, 100.0]),
    backlog=st.sampled_from([1, 16, 512, 4096]),
    stalls=st.lists(st.tuples(st.floats(0, 15), st.floats(0.2, 15)), min_size=1, max_size=3),
)
def test_a_server_that_stalls_as_it_will_makes_no_hoarder_of_its_clients(
    rates: list[float], said: int, patience_s: float, backlog: int, stalls: list[tuple[float, float]]
) -> None:
    """As above, with a kernel's backlog, and clients that repeat as kernels do, through the whole judge."""
    server = Server("web", backlog=backlog)
    for name, rate in zip(("alice", "bob", "203.0.113.9"), rates, strict=True):
        server.client(name, rate, request=said, patience_s=patience_s)
    scene = Scene("web", "alice", "bob").begin(server).learn(60).older(10)
    for _ in range(LEARNED):
        scene.step(1.0)
    begun = 60.0 + LEARNED
    server.stalled = lambda at: any(begun + since <= at < begun + since + length for since, length in stalls)
    scene.run(20.0)
    blamed = [one for one in scene.witness.verdicts if one.role is Role.ATTACKER]
    assert [one for one in blamed if one.attack is AttackClass.OVERFLOW] == []


@settings(deadline=None, max_examples=12)
@example(115.0, 60, 1.0, 512, 2.0, (0.0, 3.0), 15.0)
@example(185.8, 400, 100.0, 4096, 7.8, (5.321, 2.683), 15.0)
@given(
    rate=st.floats(60, 400),
    said=st.sampled_from([60, 400]),
    patience_s=st.sampled_from([1.0, 3.0, 10.0, 100.0]),
    backlog=st.sampled_from([16, 512, 4096]),
    since=st.floats(0, 8),
    stall=st.tuples(st.floats(0, 10), st.floats(0.2, 15)),
    per_s=st.sampled_from([15.0, 100.0, 1e9]),
)
def test_whenever_one_asks_more_than_ever_and_the_server_stalls_it_hoards_nothing(  # noqa: PLR0917
    rate: float, said: int, patience_s: float, backlog: int, since: float, stall: tuple[float, float], per_s: float
) -> None:
    assert _hoarders(rate, said, patience_s, backlog, since, stall, per_s) == []


def _hoarders(  # noqa: PLR0917
    rate: float, said: int, patience_s: float, backlog: int, since: float, stall: tuple[float, float], per_s: float
) -> list[Verdict]:
    begun = 60.0 + LEARNED
    server = Server("web", backlog=backlog, per_s=per_s).client("alice", 8).client("bob", 2)
    server.client("203.0.113.9", 2)
    server.client("alice", rate, request=said, patience_s=patience_s, since=begun + since)
    scene = Scene("web", "alice", "bob").begin(server).learn(60).older(10)
    for _ in range(LEARNED):
        scene.step(1.0)
    server.stalled = lambda at: begun + stall[0] <= at < begun + sum(stall)
    scene.run(20.0)
    blamed = [one for one in scene.witness.verdicts if one.role is Role.ATTACKER]
    return [one for one in blamed if one.attack is AttackClass.OVERFLOW]


@settings(deadline=None)
@given(
    before=st.floats(0, 1e5),
    usual_s=st.floats(1e-5, 1.0),
    seconds=st.lists(st.tuples(st.floats(0, 1e5), st.floats(0, 10.0)), min_size=1, max_size=20),
)
def test_who_has_as_many_requests_served_or_as_quickly_or_waits_for_none_loses_nothing(
    before: float, usual_s: float, seconds: list[tuple[float, float]]
) -> None:
    slowed, vms = Slowed(), VMS[1:2]
    tails = np.full((1, len(Metric)), usual_s, np.float32)

    def see(rate: float, wait: float) -> float:
        values = np.zeros((1, len(Metric)), np.float32)
        values[0, [Metric.BLOCK_WRITES, Metric.BLOCK_WAIT]] = rate, wait
        return float(slowed.see(vms, values, tails)[0])

    for _ in range(60):
        see(before, usual_s)
    most = before
    for rate, wait in seconds:
        loses = see(rate, wait) >= 1
        quick = wait < max(blocks.TIMES * usual_s, blocks.QUICK_S)
        assert not loses or not (quick or rate >= 0.78 * most or rate * wait < 0.99 * blocks.WAITING)
        most = max(most, rate)
