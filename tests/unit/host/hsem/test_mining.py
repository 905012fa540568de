"""Who computes at its capacity on the word of somebody outside, and who only computes."""

import pytest

from hypervigil.host.hsem.mining import BEFORE_S, LASTS_S, MAX_HOSTS, Miners
from hypervigil.host.hsem.outbound import STEADY_S
from hypervigil.model.status import AttackClass, Role
from hypervigil.model.traffic import TrafficClass
from tests.unit.host.hsem.behaviour import Behaviour, Pace, browses, crawls
from tests.unit.host.hsem.scene import Scene

SYN, SYNACK, TCP = (TrafficClass[name] for name in ("SYN", "SYNACK", "TCP"))
POOL = "198.51.100.99"


def talks(
    who: str, whom: str, every_s: float, *, octets: int = 250, anew: bool = False, deaf: bool = False
) -> Behaviour:
    """On one connection, a few words each so often, both ways."""
    pace, begun = Pace(1 / every_s), [False]

    def behave(scene: Scene, s: float) -> None:
        now = pace(s)
        if not begun[0] or (anew and now):
            begun[0] = True
            scene.send(whom, who, SYNACK, scene.send(who, whom, SYN, 1))
        scene.send(who, whom, TCP, now, octets=octets)
        scene.send(whom, who, TCP, now, octets=66 if deaf else octets)

    return behave


def computes(scene: Scene, who: str = "bob", cpu: float = 1.0) -> Scene:
    scene.cpu[who] = cpu
    return scene


def test_who_works_for_a_pool_is_told(scene: Scene) -> None:
    scene.pass_(STEADY_S + 5)
    computes(scene).begin(talks("bob", POOL, 5))
    scene.pass_(LASTS_S - 20)
    assert AttackClass.MINING not in {one.attack for one in scene.verdicts("bob")}
    scene.pass_(40)
    verdict = next(one for one in scene.verdicts("bob") if one.attack is AttackClass.MINING)
    assert verdict.role is Role.OVERLOADED
    assert POOL in verdict.cause
    assert "mining-like" in {one.kind for one in verdict.evidence}
    assert scene.blamed() == set()
    assert not scene.ordered("bob")
    scene.pass_(LASTS_S)
    assert [one.attack for one in scene.verdicts("bob")].count(AttackClass.MINING) == 1


def test_what_was_told_is_not_told_again_after_a_restart(scene: Scene) -> None:
    scene.pass_(STEADY_S + 5)
    computes(scene).begin(talks("bob", POOL, 5)).pass_(LASTS_S + 20)
    scene.restart()
    scene.run(5.0)
    assert [one.attack for one in scene.verdicts("bob")].count(AttackClass.MINING) == 1


@pytest.mark.parametrize(
    "honest",
    [
        pytest.param(talks("bob", "web", 5), id="with-a-neighbour"),
        pytest.param(talks("bob", POOL, 5, anew=True), id="a-poller"),
        pytest.param(talks("bob", POOL, 0.1, octets=1500), id="fetches-and-brings"),
        pytest.param(talks("bob", POOL, 5, deaf=True), id="is-told-nothing"),
        pytest.param(talks("bob", POOL, 70), id="hardly-ever"),
        pytest.param(browses("alice", "bob", 60), id="is-asked"),
        pytest.param(crawls("bob", 2), id="crawls"),
    ],
)
def test_who_only_computes(scene: Scene, honest: Behaviour) -> None:
    scene.pass_(STEADY_S + 5)
    computes(scene).begin(honest).pass_(2 * LASTS_S)
    assert AttackClass.MINING not in {one.attack for one in scene.verdicts("bob")}


@pytest.mark.parametrize("before_s", [0, STEADY_S + 5])
def test_whom_it_knew_before_it_works_with(scene: Scene, before_s: float) -> None:
    scene.pass_(before_s).begin(talks("bob", POOL, 5)).pass_(BEFORE_S + 10)
    computes(scene).pass_(2 * LASTS_S)
    assert AttackClass.MINING not in {one.attack for one in scene.verdicts("bob")}


def test_who_is_asked_for_it_computes_for_others(scene: Scene) -> None:
    scene.pass_(STEADY_S + 5)
    computes(scene).begin(talks("bob", POOL, 5), browses("alice", "bob", 60)).pass_(2 * LASTS_S)
    assert AttackClass.MINING not in {one.attack for one in scene.verdicts("bob")}


def test_who_has_time_left_is_at_work(scene: Scene) -> None:
    scene.pass_(STEADY_S + 5)
    computes(scene, cpu=0.6).begin(talks("bob", POOL, 5)).pass_(2 * LASTS_S)
    assert scene.suspected() == set()


def test_who_always_computes_goes_on() -> None:
    scene = Scene("bob", "web")
    computes(scene).learn().pass_(STEADY_S + 5)
    scene.begin(talks("bob", POOL, 5)).pass_(2 * LASTS_S)
    assert scene.suspected() == set()


def test_what_is_kept_is_of_those_at_it_and_bounded(scene: Scene) -> None:
    behaviours = [talks("bob", f"198.51.100.{n}", 5, octets=2000) for n in range(4 * MAX_HOSTS)]
    computes(scene).begin(*behaviours).pass_(30)
    miners = scene.hsem._lookback._miners
    assert isinstance(miners, Miners)
    assert set(miners._of) == {"bob"}
    assert len(miners._of["bob"].talks) == MAX_HOSTS
    computes(scene, cpu=0.2).pass_(10)
    assert not miners._of
