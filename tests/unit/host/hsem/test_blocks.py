"""Small requests that take the storage from others: found by what these lose, before any of them waits long."""

import numpy as np
import pytest

from hypervigil.host.hsem import blocks
from hypervigil.host.hsem.blocks import Slowed
from hypervigil.host.hsem.grabs import Grabs
from hypervigil.model.ids import VmId
from hypervigil.model.limits import LimitKind
from hypervigil.model.metric import Metric
from hypervigil.model.status import AttackClass, Role
from tests.unit.host.hsem.behaviour import browses
from tests.unit.host.hsem.scene import Scene
from tests.unit.host.hsem.storage import Storage

SLOW = 320.0
"""Requests a second: a disk with arms."""


def host_of(storage: Storage) -> Scene:
    """Three VMs, of which one writes all day, and half an hour's history."""
    for name in ("mallory", "web"):
        storage.writers.setdefault(name, (0.0, 1.0))
    storage.asks("bob", 100.0)
    scene = Scene("mallory", "bob", "web").begin(browses("bob", "web", 5), storage).learn(60).older(30)
    for _ in range(40):
        scene.step(1.0)
    scene.begun_at = scene.now
    return scene


@pytest.mark.req("T-CORE-12")
@pytest.mark.parametrize("phase_s", [0.0, 0.4, 0.8])
@pytest.mark.parametrize("under_way", [5.0, 6.0, 64.0])
def test_who_takes_a_writers_requests_is_found_in_five_seconds(under_way: float, phase_s: float) -> None:
    """Six under way is what sixteen processes of ``stress-ng --hdd`` had on a guest's file system."""
    storage = Storage(SLOW)
    scene = host_of(storage).run(phase_s)
    begun = scene.now
    storage.asks("mallory", 1e9, under_way)
    scene.run(5.0)
    verdict = scene.verdict("mallory")
    assert (verdict.role, verdict.attack, verdict.target) == (Role.ATTACKER, AttackClass.OVERFLOW, "bob")
    assert verdict.at - begun <= 4.0
    assert scene.suspected() == {"mallory"}
    assert LimitKind.BLOCK_OPERATIONS in {limit.kind for limit in scene.limits("mallory")}


def test_the_writer_has_its_requests_served_again_and_had_not_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage(SLOW)
    scene = host_of(storage)
    storage.asks("mallory", 1e9, 6.0)
    scene.run(2.0)
    assert storage.served["bob"] <= 100.0 / 1.5
    scene.run(8.0)
    assert storage.served["bob"] >= 100.0 / 1.15
    monkeypatch.setattr(Grabs, "see", lambda *_, **__: [])
    storage = Storage(SLOW)
    scene = host_of(storage)
    storage.asks("mallory", 1e9, 6.0)
    scene.run(15.0)
    assert storage.served["bob"] <= 100.0 / 1.5, "the control: nobody holds it, and it works"
    assert scene.blamed() == set()


def test_a_moment_is_nothing() -> None:
    storage = Storage(SLOW)
    scene = host_of(storage)
    storage.asks("mallory", 1e9, 6.0)
    scene.run(2.0)
    storage.asks("mallory", 0.0)
    scene.run(6.0)
    assert scene.suspected() == set()


@pytest.mark.parametrize(("rate", "under_way"), [(100.0, 1.0), (400.0, 3.0), (2.0, 1.0)])
def test_a_backup_that_slows_others_a_little_is_no_attack(rate: float, under_way: float) -> None:
    """It reads 3,000 blocks a second for twenty seconds; a request takes ten times as long as ever."""
    storage = Storage(3020.0 + rate).asks("web", rate, under_way)
    scene = host_of(storage)
    storage.asks("mallory", 3000.0, 24.0)
    scene.run(20.0)
    assert storage.wait_s["bob"] > blocks.QUICK_S
    assert 0.7 * rate <= storage.served["web"] <= rate
    assert storage.served["mallory"] >= 2500.0
    storage.asks("mallory", 0.0)
    scene.run(5.0)
    assert scene.suspected() == set()


@pytest.mark.parametrize("left", [0.0, 0.5, 20.0, 40.0])
def test_who_asks_for_less_while_a_backup_runs_suffers_nothing(left: float) -> None:
    storage = Storage(1000.0)
    scene = host_of(storage)
    storage.asks("mallory", 1e9, 10.0)
    storage.asks("bob", left)
    scene.run(20.0)
    assert storage.wait_s["mallory"] > blocks.QUICK_S
    assert scene.blamed() == set()


def test_a_storage_that_becomes_slow_by_itself_is_nobodys_fault() -> None:
    storage = Storage(SLOW)
    scene = host_of(storage)
    storage.per_s = 40.0
    scene.run(20.0)
    assert scene.suspected() == set()


def test_two_that_wake_at_once_take_it_from_a_third_and_both_are_told() -> None:
    """As of every resource: who takes less than a quarter of all that is above history is not."""
    storage = Storage(SLOW)
    scene = host_of(storage)
    storage.asks("mallory", 1e9, 40.0).asks("web", 230.0, 1.0)
    scene.run(8.0)
    assert "mallory" in scene.blamed()
    assert "bob" not in scene.suspected()


def test_what_one_waits_for_that_we_limit_is_nobodys_fault() -> None:
    """It goes on asking, and each request waits a tenth of a second at its limit; then another has a backup."""
    storage = Storage(SLOW).asks("mallory", 20.0)
    scene = host_of(storage)
    storage.asks("mallory", 1e9, 6.0)
    scene.run(6.0)
    assert scene.blamed() == {"mallory"}
    storage.asks("bob", 0.0)
    storage.per_s = 5000.0
    storage.asks("web", 500.0, 4.0)
    scene.run(10.0)
    assert storage.wait_s["mallory"] > 0.1
    assert storage.served["web"] == 500.0
    assert scene.blamed() == {"mallory"}


# --- what is kept ----
VMS = (VmId("a"),)


def second(rate: float, wait: float) -> np.ndarray:
    values = np.full((1, len(Metric)), np.nan, np.float32)
    values[0, [Metric.BLOCK_READS, Metric.BLOCK_WRITES, Metric.BLOCK_WAIT]] = 0.0, rate, wait
    return values


def learned(rate: float, seconds: int = 60) -> Slowed:
    served = Slowed()
    for _ in range(seconds):
        served.see(VMS, second(rate, 0.001), second(rate, 0.001))
    return served


@pytest.mark.parametrize(
    ("rate", "wait", "bears"),
    [(60, 0.02, True), (80, 0.02, False), (60, 0.004, False), (20, 0.01, False), (60, float("nan"), False)],
    ids=["slow and fewer", "slow", "fewer", "has less to do", "unseen"],
)
def test_harm_is_slow_and_fewer_and_waited_for(rate: float, wait: float, *, bears: bool) -> None:
    assert bool(learned(100).see(VMS, second(rate, wait), second(100, 0.001))[0] >= 1) is bears


def test_what_is_slow_teaches_nothing_and_what_is_quick_fades() -> None:
    served = learned(100)
    for _ in range(300):
        assert served.see(VMS, second(50, 0.02), second(100, 0.001))[0] >= 1
    for _ in range(40):
        served.see(VMS, second(50, 0.001), second(100, 0.001))
    assert served.see(VMS, second(50, 0.02), second(100, 0.001))[0] < 1


def test_of_few_and_of_new_nothing_is_concluded() -> None:
    assert learned(8).see(VMS, second(2, 0.9), second(8, 0.001))[0] == 0
    assert Slowed().see(VMS, second(50, 0.9), second(50, 0.001))[0] == 0
    nothing = np.full((1, len(Metric)), np.nan, np.float32)
    assert learned(100).see(VMS, nothing, nothing)[0] == 0
