"""What its own agent tells of forks speaks against a VM whose computing the host sees others bear, and nowhere else."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from hypervigil.host.hsem import forks
from hypervigil.host.hsem.forks import LEAST_FORKS, LEAST_REPORTS, MOST_REPORTS, ToldForks
from hypervigil.model.guest import GuestMetric, GuestReport
from hypervigil.model.ids import Instant, VmId
from hypervigil.model.limits import LimitKind
from hypervigil.model.status import AttackClass, Origin, Role
from tests.unit.host.hsem.behaviour import UDP, browses, floods
from tests.unit.host.hsem.scene import Behaviour, Scene
from tests.unit.host.hsem.test_grabs import begun, uses_cpu

MALLORY = VmId("mallory")
USUALLY, MANY = 4, 900
_learned: list[Scene] = []


def report(vm: str, count: float, at: float, interval_s: float = 1.0) -> GuestReport:
    values = [0] * len(GuestMetric)
    values[GuestMetric.FORKS] = int(count)
    return GuestReport(VmId(vm), Instant(at), 7, 1, at - 0.3, interval_s, tuple(values))


def tells(vm: str, per_s: float) -> Callable[[Scene, float], None]:
    """An agent that reports each second."""
    said = [-1.0]

    def behave(scene: Scene, s: float) -> None:
        if scene.now - said[0] >= 1.0 - s / 2:
            said[0] = scene.now
            scene.hsem.heard(report(vm, per_s, scene.now))

    return behave


def others_wait(scene: Scene) -> None:
    scene.takes("web", cpu_wait=0.5)


def idling() -> Scene:
    scene = begun()
    scene.cpu["mallory"] = 0.05
    return scene


@pytest.fixture
def scene() -> Scene:
    """It hardly computes, and its agent has told of a few forks a second for some time."""
    if not _learned:
        _learned.append(idling().learn(60))
    scene = idling().remember_as(_learned[0])
    for second in range(LEAST_REPORTS):
        scene.hsem.heard(report("mallory", USUALLY, scene.now - LEAST_REPORTS + second))
    return scene


def bombs(scene: Scene, per_s: float = MANY, *, teller: str = "mallory") -> Scene:
    uses_cpu(scene)
    others_wait(scene)
    return scene.begin(tells(teller, per_s))


@pytest.mark.req("A253")
@pytest.mark.req("T-CORE-12")
def test_many_processes_at_others_cost_by_its_own_word_are_an_attack(scene: Scene) -> None:
    bombs(scene).run(5.0)
    verdict = scene.verdicts("mallory")[0]
    assert (verdict.role, verdict.attack, verdict.target) == (Role.ATTACKER, AttackClass.OVERFLOW, "web")
    assert verdict.at - scene.begun_at <= 5.0
    assert "50% of the time for a CPU" in verdict.cause
    assert f"{MANY} forks a second" in verdict.cause
    told = next(one for one in verdict.evidence if one.kind == "forks-told")
    assert (told.origin, told.value, told.baseline) == (Origin.GUEST_REPORTED, MANY, USUALLY)
    assert scene.blamed() == {"mallory"}
    (limit,) = scene.limits("mallory")
    assert limit.kind is LimitKind.CPU
    assert limit.value is not None
    assert limit.value < 0.2, "as an attacker's, and not a share of what it offers"


def test_without_an_agent_the_same_is_shared(scene: Scene) -> None:
    uses_cpu(scene)
    others_wait(scene)
    scene.run(8.0)
    assert scene.verdict("mallory").role is Role.OVERLOADED
    assert scene.blamed() == set()
    (limit,) = scene.limits("mallory")
    assert limit.value is not None
    assert limit.value >= 0.5


@pytest.mark.req("T-CORE-7")
@pytest.mark.parametrize("harm", [lambda _: None, uses_cpu, others_wait], ids=["neither", "busy", "others wait"])
def test_the_word_without_the_harm_opens_no_case(harm: Callable[[Scene], None], scene: Scene) -> None:
    harm(scene)
    scene.begin(*(tells(name, 1e6) for name in scene.names)).run(8.0)
    assert scene.blamed() == set()
    assert scene.limited() == set()
    assert scene.suspected() == set()


@pytest.mark.req("T-CORE-7")
def test_nobodys_word_harms_another(scene: Scene) -> None:
    bombs(scene, teller="alice")
    scene.begin(tells("web", MANY), tells("bob", MANY)).run(8.0)
    assert scene.blamed() == set()
    assert scene.roles("mallory") == [Role.OVERLOADED]


@pytest.mark.parametrize(
    "first", [lambda: browses("alice", "mallory", 60), lambda: floods("203.0.113.9", "mallory", 900, UDP)]
)
def test_what_others_set_going_before_makes_a_victim(first: Callable[[], Behaviour], scene: Scene) -> None:
    """A server that begins a process for each request."""
    scene.begin(first()).run(3.0)
    bombs(scene).run(8.0)
    assert Role.ATTACKER not in scene.roles("mallory")
    assert Role.VICTIM in scene.roles("mallory")


@pytest.mark.parametrize("per_s", [0, USUALLY, 9 * USUALLY, LEAST_FORKS - 1])
def test_what_is_not_far_more_than_it_ever_told_is_no_word_against_it(per_s: float, scene: Scene) -> None:
    bombs(scene, per_s).run(8.0)
    assert scene.roles("mallory") == [Role.OVERLOADED]


def test_what_it_always_told_is_no_word_against_it(scene: Scene) -> None:
    for second in range(20 * LEAST_REPORTS):
        scene.hsem.heard(report("mallory", MANY, scene.now - 2000 + second))
    bombs(scene).run(8.0)
    assert scene.roles("mallory") == [Role.OVERLOADED]


def test_what_it_tells_while_it_computes_more_than_ever_becomes_not_usual(scene: Scene) -> None:
    uses_cpu(scene.older(20))
    scene.begin(tells("mallory", MANY)).run(90.0)
    assert scene.blamed() == set()
    others_wait(scene)
    scene.run(5.0)
    assert scene.roles("mallory")[-1] is Role.ATTACKER


def test_a_verdict_of_sharing_gives_way_when_it_tells_later(scene: Scene) -> None:
    uses_cpu(scene)
    others_wait(scene)
    scene.run(6.0)
    assert scene.roles("mallory") == [Role.OVERLOADED]
    scene.begin(tells("mallory", MANY)).run(4.0)
    assert scene.roles("mallory") == [Role.OVERLOADED, Role.ATTACKER]


def test_the_case_is_taken_up_after_a_restart(scene: Scene) -> None:
    bombs(scene).run(5.0)
    before = scene.limits("mallory")
    scene.restart()
    scene.run(1.0)
    assert scene.limits("mallory") == before
    assert scene.hsem.role(MALLORY) is Role.ATTACKER


# --- what is kept of what is told ----
def kept(*, vcpus: int = 1, usual: float = USUALLY, reports: int = LEAST_REPORTS) -> ToldForks:
    told = ToldForks()
    told.keep([MALLORY])
    for second in range(reports):
        told.hear(report("mallory", usual, float(second)), vcpus=vcpus, usual=True)
    return told


def hear(told: ToldForks, count: float, at: float, *, interval_s: float = 1.0, vcpus: int = 1) -> bool:
    told.hear(report("mallory", count, at, interval_s), vcpus=vcpus, usual=False)
    return told.of(MALLORY, Instant(at)) is not None


def test_a_moment_of_many_is_nothing() -> None:
    told = kept()
    assert not hear(told, MANY, 100.0)
    assert not hear(told, USUALLY, 101.0)
    assert not hear(told, MANY, 102.0)
    assert hear(told, MANY, 103.0)
    assert told.of(MALLORY, Instant(103.0 + forks.LATELY_S)) is not None
    assert told.of(MALLORY, Instant(103.1 + forks.LATELY_S)) is None, "it is long ago"
    assert not hear(told, MANY, 110.0), "and what is told anew begins anew"


def test_a_report_that_the_load_delays_tells_of_all_its_time() -> None:
    assert hear(kept(), 2 * MANY, 100.0, interval_s=2.0)
    assert not hear(kept(), 2 * (LEAST_FORKS - 1), 100.0, interval_s=2.0)


def test_more_cpus_may_begin_more() -> None:
    told = kept(vcpus=8)
    assert not any(hear(told, 8 * LEAST_FORKS - 1, 100.0 + n, vcpus=8) for n in range(5))
    assert any(hear(told, 8 * LEAST_FORKS, 105.0 + n, vcpus=8) for n in range(2))


def test_nothing_is_far_more_before_it_is_known_what_is_usual() -> None:
    assert not any(hear(kept(reports=LEAST_REPORTS - 1), MANY, 100.0 + n) for n in range(5))


def test_what_a_kernel_does_not_tell_is_no_word() -> None:
    told = kept()
    assert not any(hear(told, -1, 100.0 + n) for n in range(5))


@pytest.mark.parametrize("rate", [0, 1, 4, 57, 2**20, 2**53])
def test_what_is_usual_is_never_told_as_less_than_it_is(rate: int) -> None:
    told = kept(usual=rate)
    told.hear(report("mallory", 0, 99.0), vcpus=1, usual=True)
    limit = 10 * max(rate, 1)
    assert not any(hear(told, min(limit - 1, 2**53), 100.0 + n) for n in range(3)) or rate >= 2**24


def test_what_is_kept_has_a_fixed_size_and_fades() -> None:
    told = kept(reports=2 * MOST_REPORTS, usual=USUALLY)
    assert told._told[MALLORY].reports <= MOST_REPORTS
    told.keep([VmId("other")])
    told.hear(report("mallory", MANY, 1.0), vcpus=1, usual=True)
    assert not told._told, "of whom does not run nothing is heard, and of whom says nothing nothing is kept"


def test_facts_keep_what_was_told(scene: Scene) -> None:
    bombs(scene).run(5.0)
    (grab,) = scene.hsem.facts(scene.verdict("mallory").case).grabs
    assert grab.forks is not None
    assert grab.blamable
    assert not replace(grab, forks=None).blamable
