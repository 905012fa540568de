"""The course of a case: how long limits, holds, calm and quiet last, what repetition costs, how everything ends."""

from itertools import pairwise

import pytest

from hypervigil.host.hsem.levels import State
from hypervigil.model.ids import VmId
from hypervigil.model.limits import LimitKind
from hypervigil.model.policy import Bounds
from hypervigil.model.status import Level, Role
from hypervigil.model.traffic import ForgedKind
from tests.unit.host.hsem.behaviour import (
    DNS,
    SYN,
    browses,
    floods_open_port,
    for_,
    forges,
    reflects,
    streams,
    sweeps_hosts,
)
from tests.unit.host.hsem.conftest import town
from tests.unit.host.hsem.scene import Scene

STRANGER = "203.0.113.66"


def seconds(scene: Scene, at: float) -> float:
    return round(at - scene.begun_at, 1)


def test_victim_reflector_and_overloaded_leave_after_thirty_seconds_of_calm(scene: Scene) -> None:
    scene.begin(
        for_(2, floods_open_port(STRANGER, "web", 500)), for_(2, reflects("alice", STRANGER, 200, times_larger=20))
    )
    scene.cpu["bob"] = 1.0
    scene.run(12)
    scene.cpu["bob"] = 0.1
    scene.run(20)
    assert {n: scene.hsem.state(VmId(n)) for n in ("web", "alice", "bob")} == {
        "web": State.VICTIM,
        "alice": State.REFLECTOR,
        "bob": State.OVERLOADED,
    }
    scene.run(12)
    left = {one.vm: (one.last_role, one.reason) for one in scene.witness.closed}
    assert left == {
        "web": (Role.VICTIM, "calm for 30 s"),
        "alice": (Role.REFLECTOR, "calm for 30 s"),
        "bob": (Role.OVERLOADED, "calm for 30 s"),
    }
    assert scene.limits("web") == scene.limits("alice") == scene.limits("bob") == []


def test_a_victim_is_kept_while_it_goes_on(scene: Scene) -> None:
    scene.begin(for_(45, floods_open_port(STRANGER, "web", 500))).run(70)
    assert scene.level("web") is Level.LEVEL2, "25 s of calm are not enough"
    assert {limit.kind for limit in scene.ordered("web")} == {LimitKind.PEER}
    scene.run(15)
    assert scene.level("web") is Level.LEVEL1


def test_a_flood_from_outside_stays_limited_as_long_as_it_lasts(scene: Scene) -> None:
    scene.begin(floods_open_port(STRANGER, "web", 500)).run(2)
    before = scene.delivered[STRANGER, "web", SYN]
    scene.run(200)
    (limit,) = scene.limits("web")
    assert limit.value is not None
    assert scene.delivered[STRANGER, "web", SYN] - before <= 1.2 * limit.value * 200


def test_an_attackers_hold_doubles_while_it_goes_on_and_the_ladder_is_climbed() -> None:
    bounds = Bounds(hold_s=10, hold_max_s=35)
    scene = town(bounds=bounds, ladder=("limit", "quarantine", "isolate"))
    scene.begin(floods_open_port("mallory", "web", 500)).run(120)
    found = [v for v in scene.verdicts("mallory") if v.role is Role.ATTACKER]
    pauses = [round(b.at - a.at) for a, b in pairwise(found)]
    assert pauses[:3] == pytest.approx([10, 20, 35], abs=2), "doubled, and never above hold_max_s"
    hardest = [[k for k in (LimitKind.QUARANTINE, LimitKind.ISOLATE) if _met(scene, v.at, k)] for v in found]
    assert hardest[:4] == [[], [LimitKind.QUARANTINE], [LimitKind.ISOLATE], [LimitKind.ISOLATE]]
    assert len({v.case for v in found}) == 1, "one case, as long as it goes on"


def _met(scene: Scene, at: float, kind: LimitKind) -> bool:
    return any(limit.kind is kind and limit.since == at for limit in scene.ordered("mallory"))


def test_between_two_holds_the_attack_is_never_let_through() -> None:
    scene = town(bounds=Bounds(hold_s=10)).begin(floods_open_port("mallory", "web", 500)).run(2)
    before = scene.delivered["mallory", "web", SYN]
    scene.run(60)
    value = scene.limits("mallory")[0].value
    assert value is not None
    assert scene.delivered["mallory", "web", SYN] - before <= 1.2 * value * 60


def test_an_attacker_that_stopped_is_cleared_after_its_hold(scene: Scene) -> None:
    scene.begin(for_(3, floods_open_port("mallory", "web", 500))).run(75)
    assert scene.roles("mallory") == [Role.ATTACKER, Role.CLEARED]
    assert 60 <= seconds(scene, scene.verdicts("mallory")[-1].at) <= 66
    assert scene.limits("mallory") == []
    assert scene.level("mallory") is scene.level("web") is Level.LEVEL1


def test_a_second_attack_is_met_harder_than_the_first() -> None:
    scene = town(bounds=Bounds(hold_s=10), ladder=("limit", "quarantine"))
    for _ in range(2):
        scene.begin(for_(3, floods_open_port("mallory", "web", 500))).run(40)
    held = [
        limit
        for limit in scene.ordered("mallory")
        if limit.until - limit.since > 30.5 or limit.kind is LimitKind.QUARANTINE
    ]
    assert scene.roles("mallory").count(Role.ATTACKER) == 2
    assert {limit.kind for limit in held} == {LimitKind.QUARANTINE}
    assert len({v.case for v in scene.verdicts("mallory")}) == 2


def test_after_a_day_an_attack_is_a_first_one_again() -> None:
    scene = town(bounds=Bounds(hold_s=10), ladder=("limit", "quarantine"))
    scene.begin(for_(3, floods_open_port("mallory", "web", 500))).run(40)
    scene.now += 25 * 3600.0
    scene.begin(for_(3, floods_open_port("mallory", "web", 500))).run(5)
    assert scene.roles("mallory").count(Role.ATTACKER) == 2
    assert LimitKind.QUARANTINE not in {limit.kind for limit in scene.ordered("mallory")}


def test_an_unclear_case_ends_within_thirty_seconds_and_leaves_quiet(scene: Scene) -> None:
    scene.begin(streams("web", "alice", 300, reports_per_s=0)).run(35)
    assert scene.roles("web") == [Role.CLEARED]
    assert scene.limits("web") == []
    assert all(limit.until - limit.since <= 30 for limit in scene.ordered("web"))
    assert len(scene.witness.opened) == 2, "web and alice, once each: what was cleared is left in peace"


def test_what_was_cleared_is_asked_again_when_it_doubles(scene: Scene) -> None:
    scene.begin(streams("web", "alice", 300, reports_per_s=0)).run(20)
    scene.begin(streams("web", "alice", 900, reports_per_s=0)).run(3)
    assert len([one for one in scene.witness.opened if one.vm == "web"]) == 2


def test_released_by_the_operator(scene: Scene) -> None:
    scene.begin(for_(2, floods_open_port("mallory", "web", 500))).run(3)
    assert scene.limits("mallory")
    scene.witness.hear(scene.hsem.release(VmId("mallory"), scene.now), scene.now)
    scene.witness.hear(scene.hsem.release(VmId("web"), scene.now), scene.now)
    scene.witness.hear(scene.hsem.release(VmId("bob"), scene.now), scene.now)
    scene.run(5)
    assert not scene.witness.standing
    assert not scene.witness.cases
    assert {one.reason for one in scene.witness.closed} == {"released by the operator"}


def test_a_released_attacker_that_goes_on_is_found_again(scene: Scene) -> None:
    scene.begin(floods_open_port("mallory", "web", 500)).run(3)
    scene.witness.hear(scene.hsem.release(VmId("mallory"), scene.now), scene.now)
    scene.run(3)
    assert scene.roles("mallory") == [Role.ATTACKER, Role.ATTACKER]


def test_a_case_ends_with_its_vm(scene: Scene) -> None:
    scene.begin(floods_open_port("mallory", "web", 500)).run(3)
    scene._behaviours.clear()
    scene.running("web", "alice", "bob")
    (closed,) = [one for one in scene.witness.closed if one.vm == "mallory"]
    assert closed.reason == "the VM is gone"
    assert not scene.limits("mallory")
    scene.run(40)
    assert not scene.witness.cases, "its victim is calm soon"


def test_history_is_frozen_under_suspicion(scene: Scene) -> None:
    scene.begin(floods_open_port("mallory", "web", 500)).run(0.6)
    samples = {name: scene.hsem.samples(VmId(name)) for name in ("mallory", "web", "alice")}
    scene.run(50)
    assert scene.hsem.samples(VmId("mallory")) == samples["mallory"]
    assert scene.hsem.samples(VmId("web")) == samples["web"]
    assert scene.hsem.samples(VmId("alice")) >= samples["alice"] + 49


@pytest.mark.parametrize("seconds_before", [0.4, 3.0, 40.0])
def test_a_restart_forgets_nothing_of_an_attack(scene: Scene, seconds_before: float) -> None:
    scene.begin(floods_open_port("mallory", "web", 500)).run(seconds_before)
    before, cases = {limit.id for limit in scene.limits("mallory")}, dict(scene.witness.cases)
    scene.restart()
    assert scene.witness.cases == cases
    assert {limit.id for limit in scene.limits("mallory")} == before
    scene.run(3)
    assert scene.witness.cases == cases, "no case is lost or opened twice"
    assert scene.limits("mallory")
    assert scene.hsem.state(VmId("mallory")) is State.ATTACKER
    assert scene.hsem.state(VmId("web")) is State.VICTIM
    assert scene.roles("mallory") == [Role.ATTACKER]
    scene.run(70)
    assert scene.roles("mallory") == [Role.ATTACKER, Role.ATTACKER]
    held = [limit.until - limit.since for limit in scene.ordered("mallory")]
    assert held[-1] == 124.0, "found a second time: its hold was counted over the restart"


def test_a_restart_within_a_long_attack_keeps_its_repetition() -> None:
    scene = town(bounds=Bounds(hold_s=10)).begin(floods_open_port("mallory", "web", 500)).run(20)
    assert scene.roles("mallory") == [Role.ATTACKER] * 2
    scene.restart()
    scene.run(30)
    assert [limit.until - limit.since for limit in scene.ordered("mallory")][-1] == 44.0, "the third hold, four-fold"


def test_a_restart_keeps_what_is_milder_too(scene: Scene) -> None:
    scene.begin(for_(2, reflects("alice", STRANGER, 200, times_larger=20)))
    scene.begin(for_(2, floods_open_port(STRANGER, "web", 500)), for_(3, streams("bob", "alice", 300, reports_per_s=0)))
    scene.run(3)
    states = {name: scene.hsem.state(VmId(name)) for name in ("web", "alice", "bob")}
    assert states == {"web": State.VICTIM, "alice": State.REFLECTOR, "bob": State.LEVEL2}
    scene.restart()
    assert {name: scene.hsem.state(VmId(name)) for name in ("web", "alice", "bob")} == states
    scene.run(60)
    assert not scene.witness.cases
    assert not scene.witness.standing
    assert scene.roles("bob") == [Role.CLEARED]


def test_a_policy_that_changes_counts_from_the_next_limit_on(scene: Scene) -> None:
    scene.hsem.set_policy(Bounds(floor_pps=100), ["isolate"])
    scene.begin(floods_open_port("mallory", "web", 500)).run(3)
    assert scene.ordered("mallory")[0].value == 100
    assert LimitKind.ISOLATE in {limit.kind for limit in scene.limits("mallory")}


@pytest.mark.parametrize("attack", [sweeps_hosts("bob", 200), forges("bob", ForgedKind.ARP, 5)])
def test_other_attacks_end_as_well(scene: Scene, attack) -> None:
    scene.begin(for_(2, attack)).run(80)
    assert scene.roles("bob") == [Role.ATTACKER, Role.CLEARED]
    assert not scene.witness.standing
    assert not scene.witness.cases


def test_the_order_of_decisions_is_the_order_in_which_they_make_sense(scene: Scene) -> None:
    scene.begin(floods_open_port("mallory", "web", 500), browses("bob", "web", 50)).run(3)
    first = scene.verdict("mallory")
    accused = scene.verdict("web")
    assert first.at == accused.at
    order = [v.vm for v in scene.witness.verdicts]
    assert order.index("mallory") < order.index("web"), "the accuser's verdict comes before that of the accused"
    assert DNS not in {c for limit in scene.ordered("mallory") for c in limit.classes}
