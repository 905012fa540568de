"""A suspect that is far outside its ranges is said to be so with its case; nothing is decided by it."""

import numpy as np
import pytest

from hypervigil.host.hsem import outside
from hypervigil.host.hsem.outside import EVERY, RANGED, TOLD_EVERY_S, Outside
from hypervigil.model.ids import Instant, VmId
from hypervigil.model.metric import Metric
from hypervigil.model.traffic import TrafficClass
from tests.unit.host.hsem.behaviour import browses, floods, requests_by_udp
from tests.unit.host.hsem.scene import Scene

VMS = tuple(VmId(name) for name in "abc")
LOOKS = 40


@pytest.fixture(autouse=True)
def _soon(monkeypatch) -> None:
    monkeypatch.setattr(outside, "LEAST_LOOKS", LOOKS)


def _values(second: int, *, flood: tuple[int, ...] = ()):
    values = np.random.default_rng(second).gamma(4.0, 5.0, (len(VMS), len(Metric))).astype(np.float32)
    values[list(flood), Metric.OUT_UDP] += 50_000.0
    return values


def _taught(seconds: int = LOOKS * EVERY) -> Outside:
    judge = Outside()
    for second in range(seconds):
        assert judge.see(VMS, _values(second), (), Instant(float(second))) == []
    return judge


def test_a_suspect_far_outside_is_told_of_once_in_a_while() -> None:
    judge = _taught()
    told = [
        (second, fact.vm, fact.kind)
        for second in range(1000, 1000 + int(TOLD_EVERY_S) + 5)
        for fact in judge.see(VMS, _values(second, flood=(1,)), {0, 1}, Instant(float(second)))
    ]
    assert told == [(second, "b", "outside-its-ranges") for second in (1000, 1000 + int(TOLD_EVERY_S))]


def test_who_is_not_suspected_is_not_told_of() -> None:
    judge = _taught()
    assert all(not judge.see(VMS, _values(n, flood=(1,)), (), Instant(float(n))) for n in range(1000, 1010))


def test_young_ranges_say_nothing() -> None:
    judge = _taught(LOOKS * EVERY - 2 * EVERY)
    assert all(not judge.see(VMS, _values(n, flood=(1,)), {1}, Instant(float(n))) for n in range(1000, 1010))


def test_what_is_done_under_suspicion_teaches_nothing() -> None:
    judge = _taught()
    before = judge._ranges._table["samples"].copy()
    for n in range(1000, 1100):
        judge.see(VMS, _values(n, flood=(1,)), {0, 1, 2}, Instant(float(n)))
    assert (judge._ranges._table["samples"] == before).all()


def test_others_are_forgotten() -> None:
    judge = _taught(EVERY)
    judge.keep({VMS[0]})
    assert judge._ranges.vms == (VMS[0],)


def test_it_costs_a_vm_less_than_a_kilobyte() -> None:
    arrays = _taught(1)._ranges._table._arrays.values()
    assert sum(array.itemsize * int(np.prod(array.shape[1:])) for array in arrays) < 1000
    assert len(set(RANGED)) == len(RANGED)


def test_it_stands_beside_what_decided_and_decides_nothing(monkeypatch) -> None:
    def judged(least: int) -> Scene:
        monkeypatch.setattr(outside, "LEAST_LOOKS", least)
        scene = Scene("mallory", "web", "alice")
        scene.begin(browses("alice", "web", 10), requests_by_udp("mallory", "web", 10))
        for _ in range(300):
            scene.step(1.0)
        return scene.begin(floods("mallory", "web", 400, TrafficClass.UDP)).run(10.0)

    with_it, without = judged(20), judged(10**9)
    for name in ("mallory", "web"):
        one, other = with_it.verdict(name), without.verdict(name)
        assert (one.role, one.attack, one.at, one.confidence) == (other.role, other.attack, other.at, other.confidence)
        assert [fact for fact in one.evidence if fact.kind != "outside-its-ranges"] == list(other.evidence)
        assert any(fact.kind == "outside-its-ranges" for fact in one.evidence)
