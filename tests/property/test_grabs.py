"""Whatever the counts are: only who takes far more than ever, and much of it all, is blamed for what others bear."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hypervigil.host.hsem.facts import Dossier, Resource
from hypervigil.host.hsem.grabs import LEAST_PART, Grabs
from hypervigil.host.hsem.judge import judge
from hypervigil.host.hsem.limiting import hardened, shared
from hypervigil.model.ids import HOST, CaseId, Instant, VmId
from hypervigil.model.limits import LimitKind
from hypervigil.model.metric import PACKET_METRICS, Metric
from hypervigil.model.policy import Bounds
from hypervigil.model.status import AttackClass, Role
from hypervigil.model.vm import Vm

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
        asks = (lambda _: {VMS[1]: (9.0, 9.0)}) if asking else (lambda _: {})
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
