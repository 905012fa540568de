"""Who gets SYN-ACKs that it asked nobody for, and who only seems to."""

import sys

import pytest

from hypervigil.host.hsem.unasked import (
    FORGED_SYNS,
    LEAST,
    MAX_HOSTS,
    PASSED_OVER,
    REMEMBERED_S,
    REPEATS_S,
    UnaskedAnswers,
    _Record,
)
from hypervigil.model.ids import Instant
from hypervigil.model.status import AttackClass, Role
from hypervigil.model.traffic import TrafficClass
from tests.unit.host.hsem.behaviour import Behaviour, Pace, browses, crawls, sends_late
from tests.unit.host.hsem.scene import Scene

SYN, SYNACK, RST, TCP, UDP = (TrafficClass[name] for name in ("SYN", "SYNACK", "RST", "TCP", "UDP"))
ABUSED = "198.51.100.21"


def answers_nobody(target: str, sources: list[str], per_s: float, *, resets: bool = True) -> Behaviour:
    """Servers that somebody asks in its name, by turns; its kernel knows nothing of it and resets."""
    pace, turn = Pace(per_s), [0]

    def behave(scene: Scene, s: float) -> None:
        for _ in range(pace(s)):
            turn[0] += 1
            source = sources[turn[0] % len(sources)]
            arrived = scene.send(source, target, SYNACK, 1, octets=60)
            scene.send(target, source, RST, arrived if resets else 0, octets=54)

    return behave


def begins_with_silence(scene: Scene) -> None:
    """So long that nothing is to be answered any more."""
    for behaviour in list(scene._behaviours):
        scene.end(behaviour)
    scene.pass_(REPEATS_S)
    scene.pass_(2 * REPEATS_S)


@pytest.mark.parametrize("sources", [1, 2, 20])
@pytest.mark.parametrize("resets", [True, False])
def test_syn_acks_that_nobody_asked_for(scene: Scene, sources: int, *, resets: bool) -> None:
    """Less than one a second."""
    begins_with_silence(scene)
    scene.begin(answers_nobody("alice", [f"198.51.100.{n + 20}" for n in range(sources)], 0.7, resets=resets))
    scene.pass_(0.9 * LEAST / (0.7 - PASSED_OVER))
    assert scene.suspected() == set()
    scene.pass_(0.2 * LEAST / (0.7 - PASSED_OVER))
    verdict = scene.verdict("alice")
    assert (verdict.role, verdict.attack, verdict.target) == (Role.VICTIM, AttackClass.REFLECTION, "outside")
    assert f"{sources} host" in verdict.cause
    assert [one.kind for one in verdict.evidence] == ["unasked"]
    assert scene.blamed() == set()
    assert not scene.limits("alice")


def test_also_of_one_that_asks_others_all_the_time(scene: Scene) -> None:
    scene.begin(crawls("bob", 3), answers_nobody("bob", [ABUSED], 1.0))
    scene.pass_(400)
    assert AttackClass.REFLECTION in {one.attack for one in scene.verdicts("bob")}


def test_too_few_in_ten_minutes_are_the_echo_of_a_flood_somewhere(scene: Scene) -> None:
    """Whoever forges all senders there are hits each now and then, and each SYN is answered six times."""
    scene.begin(answers_nobody("alice", [f"198.51.100.{n + 20}" for n in range(5)], (LEAST - 6) / REMEMBERED_S))
    scene.pass_(2 * REMEMBERED_S)
    assert scene.suspected() == set()


def test_what_it_asked_and_did_not_take_up_is_repeated(scene: Scene) -> None:
    """Its application was gone when the server answered, and something on the way stops its resets."""
    for number in range(2 * FORGED_SYNS):
        server = f"198.51.100.{number + 20}"
        scene.send("bob", server, SYN, 1)
        for _ in range(6):
            scene.pass_(2)
            scene.send("bob", server, RST, scene.send(server, "bob", SYNACK, 1), octets=54)
        scene.pass_(1)
    assert scene.suspected() == set()


def test_who_is_asked_again_and_again_may_answer_as_often(scene: Scene) -> None:
    """A client that waits for no more than a moment."""
    for _ in range(3 * FORGED_SYNS):
        scene.send("bob", ABUSED, SYN, 1)
        for _ in range(5):
            scene.pass_(1)
            scene.send("bob", ABUSED, RST, scene.send(ABUSED, "bob", SYNACK, 1), octets=54)
    assert scene.suspected() == set()


def test_small_datagrams_beside_answers_that_come_late_are_no_syn_acks(scene: Scene) -> None:
    """What comes in while another's SYN-ACK does is told apart by what comes in when none does."""
    pace = Pace(5)

    def measures(scene: Scene, s: float) -> None:
        scene.send(ABUSED, "alice", UDP, pace(s), octets=60, asks=True)

    scene.begin(measures, sends_late(crawls("alice", 4)), sends_late(browses("bob", "web", 5)))
    scene.run(100)
    assert AttackClass.REFLECTION not in {one.attack for one in scene.verdicts("alice")}
    assert "unasked" not in {one.kind for case in scene.witness.opened for one in case.evidence}


def test_what_is_kept_is_bounded_and_only_of_those_concerned(scene: Scene) -> None:
    scene.begin(answers_nobody("alice", [f"198.51.{n // 200}.{n % 200 + 1}" for n in range(2000)], 3))
    scene.pass_(LEAST / 3 - 1)
    (memory,) = [one for one in [scene.hsem._lookback._unasked] if isinstance(one, UnaskedAnswers)]
    assert set(memory._of) == {"alice"}
    record = memory._of["alice"]
    assert isinstance(record, _Record)
    assert 0 < len(record.senders) <= MAX_HOSTS
    sizes = [sys.getsizeof(one) for kept in (record.senders, record.asked) for one in (kept, *kept.values())]
    assert sum(sizes) < 8 * 1024


def test_a_host_that_falls_silent_is_forgotten(scene: Scene) -> None:
    behaviour = answers_nobody("alice", [ABUSED], 0.5)
    for _ in range(4):
        scene.begin(behaviour)
        scene.pass_(0.4 * LEAST / 0.5)
        scene.end(behaviour)
        scene.now = Instant(scene.now + REMEMBERED_S + 1)
    assert scene.suspected() == set()
