"""Who guesses passwords at a service, and what looks like it and is none."""

import sys
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import cycle

import pytest

from hypervigil.host.hsem.guesses import HASTY, MAX_LOOKS, MAX_SERVICES, MOST_EXCUSED, PATIENT, Guesses, guesses
from hypervigil.host.hsem.limiting import GUESSES_PPS
from hypervigil.model.ids import OUTSIDE, Instant, VmId
from hypervigil.model.limits import Limit, LimitKind
from hypervigil.model.report import DialogueCount
from hypervigil.model.status import AttackClass, Role
from hypervigil.model.traffic import Direction, TrafficClass
from tests.unit.host.hsem.scene import Scene

BEYOND = "198.51.100.9"
SAID = (24, 24, 26, 23, 24, 27)
"""Octets of a client that guesses: names and passwords of unlike length."""


def every(seconds: float, scene: Scene, talks: Iterator[tuple[int, int, float]], count: int, **more: str) -> None:
    """So many dialogues, one each so many seconds; each is what was said, what was answered, and how long it took."""
    client, service = more.get("client", "mallory"), more.get("service", "web")
    for _ in range(count):
        said, answered, lasted_s = next(talks)
        scene.converse(client, service, said, answered, lasted_s=lasted_s)
        scene.run(0.4)
        scene.now = Instant(scene.now + seconds - 0.4)


def guessing() -> Iterator[tuple[int, int, float]]:
    return ((said, 137, 2.0) for said in cycle(SAID))


def limit_of(limits: list[Limit], kind: LimitKind) -> Limit:
    (only,) = [limit for limit in limits if limit.kind is kind]
    return only


def test_twelve_tries_in_half_a_minute_are_guesses(scene: Scene) -> None:
    talks = guessing()
    every(2.0, scene, talks, HASTY - 1)
    assert scene.suspected() == set()
    every(2.0, scene, talks, 1)
    verdict, victim = scene.verdict("mallory"), scene.verdict("web")
    assert (verdict.role, verdict.attack, verdict.target) == (Role.ATTACKER, AttackClass.BRUTE_FORCE, "web")
    assert (victim.role, victim.attack, victim.target) == (Role.VICTIM, AttackClass.BRUTE_FORCE, "mallory")
    assert scene.blamed() == {"mallory"}
    assert verdict.cause == "mallory guesses at what port 21 of web asks for: 12 tries in 22 s, refused alike each time"
    assert "12 logins at one service" in victim.cause
    assert {one.kind for one in verdict.evidence} == {"refused-alike", "varied", "lasted"}
    assert verdict.counterfactual.startswith("would be CLEARED if")
    held = limit_of(scene.limits("web"), LimitKind.PEER)
    assert (held.peer, held.value, held.direction) == (scene.addresses["mallory"], GUESSES_PPS, Direction.IN)
    assert limit_of(scene.limits("mallory"), LimitKind.PACKETS).classes == {TrafficClass.SYN}


def test_who_guesses_at_a_service_outside_begins_few_connections(scene: Scene) -> None:
    every(2.0, scene, guessing(), HASTY, service=BEYOND)
    verdict = scene.verdict("mallory")
    assert (verdict.role, verdict.attack, verdict.target) == (Role.ATTACKER, AttackClass.BRUTE_FORCE, OUTSIDE)
    assert f"port 21 of {BEYOND} outside" in verdict.cause
    assert limit_of(scene.limits("mallory"), LimitKind.PACKETS).value == pytest.approx(HASTY / 22 / 4, abs=0.01)


def test_who_is_guessed_at_from_outside_is_a_victim(scene: Scene) -> None:
    every(2.0, scene, guessing(), HASTY, client=BEYOND)
    verdict = scene.verdict("web")
    assert (verdict.role, verdict.attack, verdict.target) == (Role.VICTIM, AttackClass.BRUTE_FORCE, OUTSIDE)
    assert f"{BEYOND} outside guesses at what port 21 of web asks for" in verdict.cause
    assert limit_of(scene.limits("web"), LimitKind.PEER).peer == BEYOND
    assert scene.blamed() == set()


def test_one_try_each_half_minute_is_found_within_ten_minutes(scene: Scene) -> None:
    every(30.0, scene, guessing(), PATIENT)
    assert scene.verdict("mallory").attack is AttackClass.BRUTE_FORCE


def test_several_at_once_are_found_by_their_number(scene: Scene) -> None:
    for _ in range(3):
        for said in SAID:
            scene.converse("mallory", "web", said)
        scene.run(2.0)
    assert scene.verdict("mallory").attack is AttackClass.BRUTE_FORCE


def test_what_goes_on_after_a_limit_is_found_again(scene: Scene) -> None:
    every(2.0, scene, guessing(), HASTY)
    scene.run(70.0)
    every(2.0, scene, guessing(), 2 * HASTY)
    assert scene.roles("mallory").count(Role.ATTACKER) >= 2


def test_a_victim_that_is_still_guessed_at_stays_one(scene: Scene) -> None:
    every(2.0, scene, guessing(), 4 * HASTY, client=BEYOND)
    assert scene.hsem.role(VmId("web")) is Role.VICTIM
    assert len(scene.verdicts("web")) == 1


HONEST: dict[str, tuple[float, Callable[[int], tuple[int, int, float]]]] = {
    "a stale password in haste": (0.4, lambda _: (24, 137, 2.0)),
    "a stale password in haste, cut short now and then": (
        0.4,
        lambda n: (24 - 6 * (n % 9 == 5), 137 - 13 * (n % 9 == 5), 2.0),
    ),
    "two stale passwords, each once a minute": (60.0, lambda n: (24 + n % 2, 137, 2.0)),
    "a stale password twice a minute, put right wrongly": (30.0, lambda n: (24 + n // 10, 137, 2.0)),
    "a health check": (1.0, lambda _: (6, 90, 0.01)),
    "a health check by way of a slow network": (2.0, lambda _: (6, 90, 1.5)),
    "a poller of many accounts, soon done": (0.4, lambda n: (20 + n % 7, 120, 0.3)),
    "an application that connects for each write": (0.4, lambda n: (210 + n % 9, 130, 0.02)),
    "letters refused alike": (2.0, lambda n: (180 + 37 * (n % 5), 240, 2.0)),
    "letters to one relay, of which one in ten goes": (2.0, lambda n: (24 + n % 3, 137 if n % 10 else 4000, 2.0)),
    "answers of unlike length": (2.0, lambda n: (24 + n % 3, 100 + 40 * (n % 4), 2.0)),
    "work that takes many words": (2.0, lambda n: (3000 + n % 3, 2900, 2.0)),
}


@pytest.mark.parametrize("what", HONEST)
def test_what_looks_like_guesses_and_is_none(scene: Scene, what: str) -> None:
    pause_s, talk = HONEST[what]
    every(pause_s, scene, (talk(number) for number in range(sys.maxsize)), 60)
    assert scene.suspected() == set()
    assert scene.blamed() == set()


def test_who_forgot_a_password_tries_a_few(scene: Scene) -> None:
    every(5.0, scene, guessing(), 6)
    scene.converse("mallory", "web", 300, 4000)
    every(5.0, scene, guessing(), 6)
    assert scene.suspected() == set()


def test_who_gets_letters_through_elsewhere_may_be_refused_at_one_place(scene: Scene) -> None:
    """A relay of letters; the same without others that take them is suspected."""
    for number in range(20):
        scene.converse("mallory", f"198.51.100.{number % 5 + 20}", 2000 + number, 3000)
        scene.run(0.2)
    every(2.0, scene, guessing(), HASTY + MOST_EXCUSED - 1, service=BEYOND)
    assert scene.suspected() == set()
    every(1.0, scene, guessing(), 60, service=BEYOND)
    assert scene.blamed() == {"mallory"}, "but not for ever"


def counted(port: int = 21, *, alike: int = 1, ended: int = 1, address: str = BEYOND) -> DialogueCount:
    return DialogueCount(VmId("a"), Direction.OUT, OUTSIDE, address, port, ended, ended, alike, alike, 2.0 * alike)


def test_what_is_remembered_of_a_vm_is_bounded() -> None:
    memory = Guesses()
    for number in range(1000):
        memory.see([counted(number % 500), counted(address=f"198.51.100.{number % 250}")], Instant(number / 10))
    record = memory._of[VmId("a")]
    assert len(record.services) == MAX_SERVICES
    assert len(record.worked) <= MAX_SERVICES
    assert all(len(service.at) <= MAX_LOOKS for service in record.services.values())
    memory.keep([])
    assert not memory._of


def test_who_guesses_at_many_services_by_turns_is_found_beside_many_others() -> None:
    """Places where nothing varies give way, and so do those where less does."""
    memory = Guesses()
    found = []
    for number in range(12 * 14):
        now = Instant(number / 4)
        memory.see([replace(counted(9000 + number % 50), varied=0)], now)
        found += memory.see([counted(1000 + number % 12)], now)
    assert found


def test_what_is_remembered_of_a_vm_is_a_few_kilobytes() -> None:
    memory = Guesses()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(MAX_LOOKS * MAX_SERVICES * 4):
        memory.see([replace(counted(number % MAX_SERVICES), lasted_s=0.0)], Instant(number / 10))
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert 4096 < grown < 16_384


@pytest.mark.parametrize("lasted_s", [0.0, 0.99, 1.0])
def test_services_that_refuse_at_once_tell_nothing(lasted_s: float) -> None:
    memory = Guesses()
    found = []
    for number in range(HASTY + 1):
        one = DialogueCount(VmId("a"), Direction.OUT, OUTSIDE, BEYOND, 21, 1, 1, number > 0, number > 0, lasted_s)
        found += memory.see([one], Instant(float(number)))
    assert bool(found) == (lasted_s >= 1.0)
    assert all(guesses(one) for one in found)
