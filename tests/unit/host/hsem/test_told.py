"""What an agent tells, or is silent about, is shown with a case and decides nothing: no verdict, no case, no limit."""

import pytest

from hypervigil.host.hsem.facts import MAX_TOLD
from hypervigil.host.hsem.watched import TOLD_S
from hypervigil.model.ids import Instant, VmId
from hypervigil.model.status import Evidence, Level, Origin, Role
from tests.unit.host.hsem.behaviour import floods_open_port
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
