"""What an agent tells, or is silent about, is shown with a case and decides nothing: no verdict, no case, no limit.

An alarm that lasts draws a case, and no more: ``test_alarms``.
"""

import pytest

from hypervigil.host.hsem.facts import MAX_TOLD
from hypervigil.host.hsem.judge import AWAIT_ANSWER_S, CLEAR_AFTER_S
from hypervigil.host.hsem.watched import TOLD_S
from hypervigil.model.guest import ACCOUNTS, UNANSWERED, Question
from hypervigil.model.ids import Instant, VmId
from hypervigil.model.status import Evidence, Level, Origin, Role
from tests.unit.host.hsem.behaviour import UDP, floods, floods_open_port, for_, streams
from tests.unit.host.hsem.conftest import town
from tests.unit.host.hsem.scene import Scene


def fact(scene: Scene, vm: str, kind: str = "agent-mismatch", text: str = "it says otherwise") -> Evidence:
    return Evidence(VmId(vm), kind, Origin.GUEST_REPORTED, Instant(scene.now), 1.0, None, "", text)


def kinds(verdict) -> list[str]:
    return [one.kind for one in verdict.evidence]


@pytest.mark.req("T-CORE-7")
def test_silence_and_lies_alone_open_no_case_and_limit_nobody(scene: Scene) -> None:
    for _ in range(100):
        for kind in ("agent-mismatch", "agent-silent", "agent-alarm", "agent-replaced", "special-request"):
            scene.hsem.told(fact(scene, "alice", kind))
        scene.run(0.2)
    assert scene.witness.opened == []
    assert scene.witness.ordered == []
    assert scene.hsem.level(VmId("alice")) is Level.LEVEL1


def test_they_are_shown_beside_what_decided(scene: Scene) -> None:
    scene.hsem.told(fact(scene, "mallory", "agent-silent"))
    scene.begin(floods_open_port("mallory", "web", 500)).run(1.0)
    scene.hsem.told(fact(scene, "mallory"))
    scene.run(9.0)
    verdict = next(one for one in scene.witness.verdicts if one.vm == "mallory")
    assert verdict.role is Role.ATTACKER
    assert "agent-silent" in kinds(verdict)
    victim = next(one for one in scene.witness.verdicts if one.vm == "web")
    assert "agent-silent" not in kinds(victim), "each agent speaks for its own VM"


def test_the_same_is_decided_with_and_without_them() -> None:
    def decided(*, told: bool) -> list[tuple[object, ...]]:
        scene = town()
        scene.begin(floods_open_port("mallory", "web", 200))
        for _ in range(50):
            if told:
                for name in scene.names:
                    scene.hsem.told(fact(scene, name))
            scene.run(0.2)
        return [(one.vm, one.role, one.attack, one.at, one.confidence) for one in scene.witness.verdicts]

    assert decided(told=True) == decided(told=False)


def test_what_was_told_long_ago_belongs_to_no_case(scene: Scene) -> None:
    scene.hsem.told(fact(scene, "mallory"))
    scene.run(TOLD_S + 1)
    scene.begin(floods_open_port("mallory", "web", 500)).run(10.0)
    verdict = next(one for one in scene.witness.verdicts if one.vm == "mallory")
    assert "agent-mismatch" not in kinds(verdict)


def test_no_more_is_kept_than_has_room(scene: Scene) -> None:
    for number in range(1000):
        scene.hsem.told(fact(scene, "mallory", text=str(number)))
    scene.begin(floods_open_port("mallory", "web", 500)).run(10.0)
    verdict = next(one for one in scene.witness.verdicts if one.vm == "mallory")
    assert [one.text for one in verdict.evidence if one.kind == "agent-mismatch"] == [
        str(number) for number in range(1000 - MAX_TOLD, 1000)
    ]


# --- what an agent is asked while its case is open ----
def cleared_after(*, told_of: str | None, told: str = UNANSWERED) -> tuple[float, list[tuple[str, Role]]]:
    """Web streams and soon stops; how old its case is when it is cleared, and all verdicts."""
    scene = town()
    scene.begin(for_(2.0, streams("web", "alice", 300, reports_per_s=0)))
    while VmId("web") not in scene.witness.cases:
        scene.run(0.2)
    opened = scene.now
    scene.run(1.0)
    if told_of is not None:
        scene.hsem.told(fact(scene, told_of, told))
    scene.run(25.0)
    (verdict,) = scene.verdicts("web")
    return verdict.at - opened, sorted((one.vm, one.role) for one in scene.witness.verdicts)


@pytest.mark.req("A245")
def test_no_answer_is_no_all_clear_and_no_blame() -> None:
    honest, roles = cleared_after(told_of=None)
    silent, roles_of_silent = cleared_after(told_of="web")
    assert CLEAR_AFTER_S <= honest < AWAIT_ANSWER_S <= silent < AWAIT_ANSWER_S + 0.5
    assert roles_of_silent == roles, "neither it nor anybody else is found to be anything else for it"


@pytest.mark.parametrize("told", sorted(ACCOUNTS - {UNANSWERED}))
def test_an_answer_changes_nothing(told: str) -> None:
    assert cleared_after(told_of="web", told=told) == cleared_after(told_of=None)


def test_no_answer_keeps_no_victim_for_longer_and_decides_nothing_else() -> None:
    """A victim may be granted more: it gains nothing by silence."""

    def course(*, silent: bool) -> list[tuple[object, ...]]:
        scene = town()
        scene.begin(for_(4.0, floods_open_port("mallory", "web", 500)))
        for _ in range(500):
            if silent:
                for name in scene.names:
                    scene.hsem.told(fact(scene, name, UNANSWERED))
            scene.run(0.2)
        verdicts = [(one.vm, one.role, one.at) for one in scene.witness.verdicts if one.role is not Role.CLEARED]
        return [*verdicts, *[(one.vm, one.at) for one in scene.witness.closed if one.vm == "web"]]

    decided = course(silent=True)
    assert {role for _, role, *_ in decided[:-1]} == {Role.ATTACKER, Role.VICTIM}
    assert decided == course(silent=False)


def test_accounts_are_shown_with_the_case_and_crowd_nothing_out(scene: Scene) -> None:
    scene.begin(floods_open_port("mallory", "web", 500)).run(0.4)
    for number in range(MAX_TOLD):
        scene.hsem.told(fact(scene, "mallory", text=str(number)))
        for kind in sorted(ACCOUNTS):
            scene.hsem.told(fact(scene, "mallory", kind, str(number)))
    scene.run(9.0)
    verdict = next(one for one in scene.witness.verdicts if one.vm == "mallory")
    assert kinds(verdict).count("agent-mismatch") == MAX_TOLD
    told = {one.kind: one.text for one in verdict.evidence if one.kind in ACCOUNTS}
    assert told == dict.fromkeys(ACCOUNTS, str(MAX_TOLD - 1)), "of each the newest"


def test_an_account_belongs_to_its_own_case_alone(scene: Scene) -> None:
    scene.hsem.told(fact(scene, "mallory", UNANSWERED))
    scene.begin(floods_open_port("mallory", "web", 500)).run(9.0)
    verdict = next(one for one in scene.witness.verdicts if one.vm == "mallory")
    assert UNANSWERED not in kinds(verdict)


@pytest.mark.req("A222", "A245", "A246")
def test_questions_are_asked_while_a_case_is_open_of_its_load_where_that_is_in_question() -> None:
    scene = town()
    assert scene.hsem.questions(VmId("web")) == ()
    assert scene.hsem.questions(VmId("nobody")) == ()
    scene.begin(floods("bob", "alice", 500, UDP)).run(1.0)
    assert set(scene.hsem.questions(VmId("bob"))) == {Question.TOP, Question.FLOWS}
    busy = town()
    busy.cpu["mallory"] = 1.0
    while VmId("mallory") not in busy.witness.cases:
        busy.run(0.2)
    assert set(busy.hsem.questions(VmId("mallory"))) == set(Question)
