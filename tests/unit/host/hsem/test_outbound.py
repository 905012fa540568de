"""What a VM does with hosts outside: copies and beats that are told, once, and blame nobody."""

import gc
import tracemalloc
from collections.abc import Callable
from random import Random

import numpy as np
import pytest

from hypervigil.host.hsem.judge import CLEAR_AFTER_S, GIVE_UP_S, HELD_S
from hypervigil.host.hsem.limiting import KEPT_OF_UNCLEAR
from hypervigil.host.hsem.outbound import LEAST_OCTETS, MAX_HOSTS, REPEATS, STEADY_S, TIMES, Outbound, place
from hypervigil.host.hsem.unasked import LEAST, PASSED_OVER
from hypervigil.model.ids import OUTSIDE, Instant, VmId
from hypervigil.model.limits import LimitKind
from hypervigil.model.metric import Metric
from hypervigil.model.report import HostReport, PairRate
from hypervigil.model.status import AttackClass, Role
from hypervigil.model.traffic import Direction, TrafficClass
from tests.unit.host.hsem.behaviour import Behaviour, Pace, calls, copies
from tests.unit.host.hsem.scene import Scene
from tests.unit.host.hsem.test_unasked import answers_nobody, begins_with_silence

SYN, SYNACK, TCP, UDP = (TrafficClass[name] for name in ("SYN", "SYNACK", "TCP", "UDP"))
SINK = "198.51.100.77"
KIB_500 = 345
"""Full segments a second that are half a megabyte."""


def uploads(who: str, where: str, segments_per_s: float, *, back: float = 0.1, begins: bool = True) -> Behaviour:
    """One connection, full segments there; ``back``: packets per segment that come back, of 66 octets."""
    pace, acks, begun = Pace(segments_per_s), Pace(segments_per_s * back), [False]

    def behave(scene: Scene, s: float) -> None:
        if not begun[0]:
            begun[0] = True
            one, other = (who, where) if begins else (where, who)
            scene.send(other, one, SYNACK, scene.send(one, other, SYN, 1))
        scene.send(who, where, TCP, pace(s), octets=1514)
        scene.send(where, who, TCP, acks(s), octets=66)

    return behave


def dialogue(scene: Scene, who: str, where: str, *, said: int = 120, heard: int = 80) -> None:
    """A short connection."""
    scene.send(where, who, SYNACK, scene.send(who, where, SYN, 1, octets=74), octets=74)
    scene.send(who, where, TCP, 3, octets=said)
    scene.send(where, who, TCP, 2, octets=heard)


def beats(
    scene: Scene, count: int, beat: Callable[[int], float], *, who: str = "bob", where: str = SINK, **how: int
) -> None:
    """So many short connections, each so long after the one before."""
    for number in range(count):
        dialogue(scene, who, where, **how)
        seconds = beat(number)
        quietly = max(0, int(seconds) - 2)
        scene.run(seconds - quietly).pass_(quietly)


@pytest.mark.req("A101")
def test_a_copy_to_outside_is_held_and_told_and_nobody_is_blamed(scene: Scene) -> None:
    scene.begin(uploads("bob", SINK, KIB_500))
    scene.run(LEAST_OCTETS / 522_000 + 0.6)
    (limit,) = scene.limits("bob")
    assert (limit.kind, limit.direction, limit.classes) == (LimitKind.OCTETS, Direction.OUT, {TCP})
    assert limit.value == pytest.approx(KEPT_OF_UNCLEAR * 522_000, rel=0.1)
    (opened,) = scene.witness.opened
    assert [one.kind for one in opened.evidence] == ["upload", "one-sided"]
    assert opened.evidence[0].baseline is not None
    assert opened.evidence[0].value > TIMES * opened.evidence[0].baseline
    scene.pass_(HELD_S + 1)
    verdict = scene.verdict("bob")
    assert (verdict.role, verdict.attack, verdict.target) == (Role.CLEARED, AttackClass.EXFILTRATION, OUTSIDE)
    assert SINK in verdict.cause
    assert verdict.at - opened.at <= GIVE_UP_S
    assert not scene.limits("bob")
    assert scene.blamed() == set()


@pytest.mark.req("A117")
@pytest.mark.parametrize("per_s", [1.0, 5.0, 20.0])
def test_what_leaves_before_it_is_held_is_little(scene: Scene, per_s: float) -> None:
    """So many megabytes a second: four megabytes, and what goes in one report."""
    scene.begin(uploads("bob", SINK, 1e6 * per_s / 1514))
    scene.run(5.0)
    before_s = scene.ordered("bob")[0].since - scene.begun_at
    assert before_s * 1e6 * per_s <= LEAST_OCTETS + 2 * 0.2 * 1e6 * per_s


def test_each_place_is_told_once(scene: Scene) -> None:
    scene.older(100)
    for where in (SINK, SINK, "198.51.100.78"):
        behaviour = uploads("bob", where, KIB_500)
        scene.begin(behaviour).pass_(40)
        scene.end(behaviour)
        scene.pass_(60)
    assert len(scene.witness.opened) == 1
    scene.begin(uploads("bob", "203.0.113.9", KIB_500)).run(12)
    assert len(scene.witness.opened) == 2


def test_where_other_tenants_copy_to_is_a_store(scene: Scene) -> None:
    for who in ("bob", "alice", "mallory"):
        behaviour = uploads(who, SINK, 10 * KIB_500)
        scene.begin(behaviour).run(8)
        scene.end(behaviour)
        scene.pass_(60)
    assert [one.vm for one in scene.witness.opened] == ["bob", "alice"]


def test_one_that_comes_back_is_no_two_tenants(scene: Scene) -> None:
    outbound = scene.hsem._lookback._outbound
    for who in ("bob", "bob", "alice"):
        outbound.keep({VmId("web")})
        outbound.keep({VmId(who)})
        behaviour = uploads(who, SINK, 10 * KIB_500)
        scene.begin(behaviour).run(8)
        scene.end(behaviour)
        scene.pass_(60)
    assert [one.vm for one in scene.witness.opened] == ["bob", "bob", "alice"]


def test_a_store_at_many_places_is_told_at_each_and_held_at_once(scene: Scene) -> None:
    """The parts of one backup go to one after the other."""
    scene.older(100)
    held_s = 0.0
    for number in range(5):
        behaviour = uploads("bob", f"203.0.{number}.9", 10 * KIB_500)
        scene.begin(behaviour)
        for _ in range(30):
            held_s += bool(scene.run(1.0).limits("bob"))
        scene.end(behaviour)
    assert len(scene.witness.opened) == 5
    assert HELD_S - 1 <= held_s <= GIVE_UP_S
    assert {one.attack for one in scene.verdicts("bob")} == {AttackClass.EXFILTRATION}


def test_a_copy_is_held_also_of_whom_others_made_a_victim(scene: Scene) -> None:
    """An accomplice outside sends SYN-ACKs that nobody asked for."""
    begins_with_silence(scene)
    scene.begin(answers_nobody("bob", ["198.51.100.21"], 1.0)).pass_(1.2 * LEAST / (1.0 - PASSED_OVER))
    assert scene.roles("bob") == [Role.VICTIM]
    scene.begin(uploads("bob", SINK, 10 * KIB_500)).run(5)
    (limit,) = scene.limits("bob")
    assert limit.kind is LimitKind.OCTETS
    assert SINK in limit.reason
    scene.run(HELD_S)
    assert not scene.limits("bob")
    assert len(scene.ordered("bob")) == 1


def test_another_place_ends_no_hold(scene: Scene) -> None:
    scene.begin(uploads("bob", SINK, 10 * KIB_500)).run(3)
    scene.begin(uploads("bob", "203.0.113.9", 40 * KIB_500)).run(10)
    assert LimitKind.OCTETS in {limit.kind for limit in scene.limits("bob")}


@pytest.mark.parametrize(
    "honest",
    [
        pytest.param(uploads("bob", "web", KIB_500), id="inside"),
        pytest.param(uploads("bob", SINK, KIB_500, begins=False), id="whoever-asked-for-it"),
        pytest.param(uploads("bob", SINK, KIB_500, back=3.0), id="both-ways"),
        pytest.param(uploads("web", SINK, 20), id="no-more-than-usual"),
        pytest.param(uploads("bob", SINK, 1), id="little-and-slowly"),
    ],
)
def test_what_is_no_copy_to_outside(scene: Scene, honest: Behaviour) -> None:
    scene.begin(honest).pass_(60)
    assert scene.suspected() == set()


def test_an_honest_backup_keeps_half_and_ends_unlimited(scene: Scene) -> None:
    """All that it offers after it is held, not below half, and whatever else the VM says as ever."""
    scene.begin(copies("bob", SINK, 3000)).run(1.2)
    assert scene.limits("bob")
    offered, arrived = (dict(counts) for counts in (scene.offered, scene.delivered))
    scene.run(HELD_S)
    key = ("bob", SINK, TCP)
    kept = (scene.delivered[key] - arrived[key]) / (scene.offered[key] - offered[key])
    assert KEPT_OF_UNCLEAR <= kept <= KEPT_OF_UNCLEAR + 0.2
    scene.run(2)
    assert scene.roles("bob") == [Role.CLEARED]
    assert not scene.limits("bob")


def test_by_datagrams_it_may_be_a_call(scene: Scene) -> None:
    dialogue(scene, "bob", SINK)
    scene.begin(calls("bob", SINK, 3000, answered=0.05)).run(20)
    assert scene.suspected() == set()


def test_a_picture_is_none(scene: Scene) -> None:
    behaviour = uploads("bob", SINK, KIB_500)
    scene.begin(behaviour).run(0.7 * LEAST_OCTETS / 522_000)
    scene.end(behaviour)
    scene.pass_(30)
    assert scene.suspected() == set()


def test_who_has_no_history_is_not_held_against_it() -> None:
    scene = Scene("new")
    scene.begin(uploads("new", SINK, KIB_500)).pass_(25)
    assert scene.suspected() == set()


@pytest.mark.parametrize("beat_s", [0.6, 5.0, 60.0])
def test_dialogues_alike_at_one_beat(scene: Scene, beat_s: float) -> None:
    scene.pass_(STEADY_S + 2 * beat_s + 3)
    beats(scene, REPEATS, lambda _: beat_s)
    assert scene.suspected() == set()
    beats(scene, 2, lambda _: beat_s)
    scene.run(CLEAR_AFTER_S + 1)
    verdict = scene.verdict("bob")
    assert (verdict.role, verdict.attack) == (Role.CLEARED, AttackClass.BEACONING)
    assert [one.kind for one in verdict.evidence][:1] == ["beacon"]
    assert f"each {beat_s:.1f} s" in verdict.cause
    assert not scene.ordered("bob")
    beats(scene, 2 * REPEATS, lambda _: beat_s)
    assert len(scene.witness.opened) == 1


def test_what_went_on_before_is_its_business(scene: Scene) -> None:
    scene.run(1)
    beats(scene, 2 * REPEATS, lambda _: 2.0)
    assert scene.suspected() == set()


def test_the_same_again_after_others_is_not_new(scene: Scene) -> None:
    """It was forgotten for others: nobody knows any more that it was there before."""
    beats(scene, 3, lambda _: 5.0)
    for number in range(MAX_HOSTS):
        dialogue(scene, "bob", f"203.0.113.{number}")
        scene.pass_(20)
    beats(scene, 2 * REPEATS, lambda _: 2.0)
    assert scene.suspected() == set()


def test_chance_and_work_keep_no_beat(scene: Scene) -> None:
    dice = Random(1)
    scene.pass_(STEADY_S + 20)
    beats(scene, 40, lambda _: dice.expovariate(1 / 2))
    beats(scene, 40, lambda _: 2 * dice.uniform(0.6, 1.4), where="203.0.113.1")
    assert scene.suspected() == set()


@pytest.mark.parametrize("how", [{"heard": 40_000}, {"said": 9_000}])
def test_who_fetches_or_brings_something_does_not_only_call(scene: Scene, how: dict[str, int]) -> None:
    scene.pass_(STEADY_S + 20)
    beats(scene, 2 * REPEATS, lambda _: 2.0, **how)
    assert scene.suspected() == set()


def test_nor_who_says_now_more_now_less(scene: Scene) -> None:
    scene.pass_(STEADY_S + 20)
    for number in range(2 * REPEATS):
        beats(scene, 1, lambda _: 5.0, said=(120, 700)[number % 2])
    assert scene.suspected() == set()


def test_inside_everybody_knows_each_other(scene: Scene) -> None:
    scene.pass_(STEADY_S + 20)
    beats(scene, 2 * REPEATS, lambda _: 2.0, where="web")
    assert scene.suspected() == set()


def test_places_are_networks() -> None:
    assert place("198.51.100.7") == place("198.51.100.250") != place("198.51.101.7")
    assert place("2001:db8:1::1") == place("2001:db8:1:ffff::9") != place("2001:db8:2::1")
    assert place("52:54:00:00:00:01") == "52:54:00:00:00:01"


def test_a_pair_of_one_of_whom_nothing_else_is_reported_is_passed_over() -> None:
    values = np.zeros((1, len(Metric)), np.float32)
    pairs = (PairRate(VmId("gone"), Direction.OUT, OUTSIDE, SINK, 3, 300, 1, 2, 0, 1, new=True),)
    report = HostReport(Instant(1000.0), 1.0, (VmId("web"),), values.data, pairs)
    assert not list(Outbound().see(report, values, values, Instant(1000.0)))


def test_what_is_kept_is_bounded() -> None:
    """Of VMs that begin something with more hosts than there is room for, again and again."""
    vms = tuple(VmId(f"vm{n}") for n in range(50))
    values = np.zeros((len(vms), len(Metric)), np.float32)
    values[:, Metric.OUT_SYN] = 1

    def lived(*, rounds: int, hosts: int) -> Outbound:
        outbound = Outbound()
        for number in range(rounds * hosts):
            there = f"203.0.113.{number % hosts}"
            pairs = tuple(PairRate(vm, Direction.OUT, OUTSIDE, there, 3, 300, 1, 2, 0, 1, new=True) for vm in vms)
            at = Instant(1000.0 + 5 * number)
            list(outbound.see(HostReport(at, 1.0, vms, values.data, pairs), values, 1 + values, at))
        return outbound

    for rounds, hosts in ((2 * REPEATS, MAX_HOSTS), (4, 50)):
        tracemalloc.start()
        outbound = lived(rounds=rounds, hosts=hosts)
        gc.collect()
        kept, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert outbound.forgotten == (len(vms) * (rounds * hosts - MAX_HOSTS) if hosts > MAX_HOSTS else 0)
        assert 500 < kept / len(vms) < 4096
