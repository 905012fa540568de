"""An agent's own alarm: it draws Level 2 of its VM, seldom, and nothing else: no verdict, no limit, no forgetting."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hypervigil.host.hsem.alarms import AGAIN_S, MOST_AT_ONCE, PAUSE_S, PERSISTS_S, Alarms
from hypervigil.host.hsem.history import SETTLED_SAMPLES
from hypervigil.host.hsem.judge import CLEAR_AFTER_S
from hypervigil.host.hsem.scans import SLOW_HOSTS
from hypervigil.model.guest import ALARM, GuestMetric, GuestReport
from hypervigil.model.ids import Instant, VmId
from hypervigil.model.status import AttackClass, Evidence, Level, Origin, Role
from tests.unit.host.hsem.behaviour import UDP, browses, floods, floods_open_port, for_, streams
from tests.unit.host.hsem.conftest import town
from tests.unit.host.hsem.scene import Scene
from tests.unit.host.hsem.test_slow import host, pause, tries

ALICE = VmId("alice")


def report(vm: str, at: float, breaches: int = 1) -> GuestReport:
    return GuestReport(
        VmId(vm), Instant(at), 7, 2 if breaches else 1, at, 1.0, (0,) * len(GuestMetric), breaches=breaches
    )


def alarm(vm: str, at: float, kind: str = ALARM) -> Evidence:
    text = f"{vm}'s agent finds it unusual (forks) and takes it for: unknown"
    return Evidence(VmId(vm), kind, Origin.GUEST_REPORTED, Instant(at), 1.0, None, "metrics", text)


def knows(scene: Scene, *names: str) -> Scene:
    """Their agents have told enough to be told what is usual."""
    for name in names:
        for n in range(SETTLED_SAMPLES):
            scene.hsem._usual.told.hear(report(name, float(n), 0))
            scene.hsem._usual.told.learn(())
    return scene


def goes_on(scene: Scene, name: str, seconds: int, breaches: int = 1) -> Scene:
    for _ in range(seconds):
        scene.run(1.0)
        scene.hsem.heard(report(name, scene.now, breaches))
    return scene.run(0.2)


@pytest.mark.req("A236", "A244")
def test_an_alarm_that_lasts_draws_level_2_and_is_cleared_where_the_host_sees_nothing(scene: Scene) -> None:
    knows(scene, "alice")
    scene.hsem.told(alarm("alice", scene.now))
    goes_on(scene, "alice", 2)
    assert scene.witness.opened == [], "it may be over in a moment"
    goes_on(scene, "alice", 2)
    (opened,) = scene.witness.opened
    assert opened.vm == ALICE
    assert [(one.kind, one.origin) for one in opened.evidence] == [(ALARM, Origin.GUEST_REPORTED)]
    goes_on(scene, "alice", int(CLEAR_AFTER_S) + 1)
    (verdict,) = scene.witness.verdicts
    assert (verdict.vm, verdict.role, verdict.attack) == (ALICE, Role.CLEARED, AttackClass.NONE)
    assert "alice's agent finds it unusual" in verdict.cause
    assert ALARM in [one.kind for one in verdict.evidence]
    assert scene.hsem.level(ALICE) is Level.LEVEL1
    goes_on(scene, "alice", 30)
    scene.hsem.told(alarm("alice", scene.now))
    goes_on(scene, "alice", 30)
    assert len(scene.witness.opened) == 1, "its word is spent"
    assert scene.witness.ordered == []


@pytest.mark.parametrize("kind", ["agent-mismatch", "agent-silent", "special-request", "wanted"])
def test_nothing_else_that_is_told_draws_it(scene: Scene, kind: str) -> None:
    knows(scene, "alice")
    scene.hsem.told(alarm("alice", scene.now, kind))
    goes_on(scene, "alice", 8)
    assert scene.witness.opened == []


def test_of_an_agent_that_was_never_told_what_is_usual_a_word_alone_is_not_enough(scene: Scene) -> None:
    scene.hsem.told(alarm("alice", scene.now))
    goes_on(scene, "alice", 8)
    assert scene.witness.opened == []


def test_what_the_host_finds_unusual_too_draws_it_at_once_and_limits_nobody() -> None:
    def busy(*, says: bool) -> Scene:
        scene = town().begin(browses("alice", "web", 100)).run(1.0)
        if says:
            scene.hsem.told(alarm("alice", scene.now))
        return goes_on(scene, "alice", 2, int(says))

    assert busy(says=False).witness.opened == [], "more than usual, and in order"
    scene = busy(says=True)
    (opened,) = scene.witness.opened
    assert opened.vm == ALICE
    assert {one.origin for one in opened.evidence} == {Origin.GUEST_REPORTED, Origin.HOST_OBSERVED}
    goes_on(scene, "alice", 8)
    assert [one.role for one in scene.verdicts("alice")] == [Role.CLEARED]
    assert scene.witness.ordered == []


def test_what_the_host_has_cleared_is_not_limited_for_an_alarm() -> None:
    """A stream that was looked into goes on: the host passes it over for a while, whatever its sender's agent says."""

    def again(*, says: bool) -> tuple[int, int]:
        scene = knows(town(), "web")
        scene.begin(for_(2.0, streams("web", "alice", 300, reports_per_s=0))).run(25.0)
        assert VmId("web") in [one.vm for one in scene.witness.closed]
        opened, ordered = len(scene.witness.opened), len(scene.witness.ordered)
        assert ordered
        if says:
            scene.hsem.told(alarm("web", scene.now))
        goes_on(scene, "web", 4, int(says))
        scene.begin(for_(2.0, streams("web", "alice", 300, reports_per_s=0))).run(3.0)
        return len(scene.witness.opened) - opened, len(scene.witness.ordered) - ordered

    assert again(says=False) == (0, 0)
    assert again(says=True) == (1, 0)


def course(*, says: bool) -> Scene:
    """Who attacks is found all the same; mallory's agent speaks first, or nobody's does."""
    scene = knows(town(), "mallory")
    if says:
        scene.hsem.told(alarm("mallory", scene.now))
    goes_on(scene, "mallory", 4, int(says))
    assert (VmId("mallory") in scene.witness.cases) is says
    scene.begin(for_(6.0, floods_open_port("mallory", "web", 500)))
    return scene.run(10.0)


def test_a_case_that_a_word_drew_hides_and_delays_no_attack() -> None:
    told, untold = course(says=True), course(says=False)

    def judged(scene: Scene) -> list[tuple[VmId, Role, AttackClass]]:
        return [(one.vm, one.role, one.attack) for one in scene.witness.verdicts if one.role is not Role.CLEARED]

    assert judged(told) == judged(untold)
    assert (VmId("mallory"), Role.ATTACKER, AttackClass.FLOOD) in judged(told)

    def first(scene: Scene) -> float:
        return min(one.since for one in scene.witness.ordered if one.vm == "mallory")

    def found(scene: Scene) -> float:
        return min(one.at for one in scene.witness.verdicts if one.role is Role.ATTACKER)

    assert first(told) <= first(untold)
    assert found(told) <= found(untold)


@pytest.mark.req("A190")
def test_no_guest_has_forgotten_what_it_does_by_an_alarm() -> None:
    """A scan of one host each ten minutes, and an alarm in the middle of it."""
    scene = knows(town(), "bob")
    for number in range(SLOW_HOSTS):
        assert scene.witness.verdicts == [] or [one.role for one in scene.witness.verdicts] == [Role.CLEARED]
        if number == SLOW_HOSTS // 2:
            scene.hsem.told(alarm("bob", scene.now))
            goes_on(scene, "bob", 8)
            assert [one.vm for one in scene.witness.closed] == ["bob"]
        tries(scene, host(number))
        pause(scene)
    assert scene.verdicts("bob")[-1].attack is AttackClass.SCAN


def test_who_streams_unheard_of_buys_no_quiet_by_an_alarm() -> None:
    """What a drawn case cleared is no reason to look away from what the host finds later."""
    scene = knows(town(), "bob")
    scene.begin(for_(1.0, streams("bob", "alice", 60, reports_per_s=0)))
    scene.hsem.told(alarm("bob", scene.now))
    goes_on(scene, "bob", 6)
    assert scene.hsem._vms[VmId("bob")].quiet == {}


def test_a_monitor_that_comes_back_goes_on_with_the_case_and_limits_nobody(scene: Scene) -> None:
    knows(scene, "alice")
    scene.hsem.told(alarm("alice", scene.now))
    goes_on(scene, "alice", 4)
    case = scene.witness.cases[ALICE]
    assert scene.hsem.facts(case).drawn
    scene.restart()
    goes_on(scene, "alice", 8)
    assert [one.case for one in scene.witness.closed] == [case]
    knows(scene, "alice").hsem.told(alarm("alice", scene.now))
    goes_on(scene, "alice", 8)
    assert len(scene.witness.opened) == 1, "that its word is spent it knows as well"
    assert scene.witness.ordered == []


def test_what_an_attacker_of_this_host_does_to_it_gives_its_word_back(scene: Scene) -> None:
    knows(scene, "web")
    scene.hsem.told(alarm("web", scene.now))
    goes_on(scene, "web", 4)
    scene.begin(for_(3.0, floods("bob", "web", 400, UDP)))
    goes_on(scene, "web", 60)
    assert Role.VICTIM in [one.role for one in scene.verdicts("web")]
    scene.hsem.told(alarm("web", scene.now))
    goes_on(scene, "web", 5)
    assert [one.vm for one in scene.witness.opened].count(VmId("web")) == 2


# --- the rule by itself ---
class Rig:
    def __init__(self) -> None:
        self.alarms = Alarms()
        self.now = Instant(1000.0)
        self.cases: set[VmId] = set()
        self.drawn: list[tuple[VmId, float]] = []
        self.seconds: Callable[[VmId], bool] = lambda _vm: False
        self.settled: Callable[[VmId], bool] = lambda _vm: True

    def tick(self) -> list[VmId]:
        due = self.alarms.due(self.now, cased=self.cases.__contains__, seconded=self.seconds, settled=self.settled)
        self.cases |= {one.vm for one in due}
        self.drawn += [(one.vm, self.now) for one in due]
        return [one.vm for one in due]

    def says(self, vm: str, seconds: float, breaches: int = 1) -> list[VmId]:
        self.alarms.hear(alarm(vm, self.now))
        due: list[VmId] = []
        for _ in range(round(seconds)):
            self.now = Instant(self.now + 1.0)
            self.alarms.reported(report(vm, self.now, breaches))
            due += self.tick()
        return due

    def close(self, vm: str, *, in_vain: bool = True) -> None:
        self.cases.discard(VmId(vm))
        self.alarms.closed(VmId(vm), in_vain=in_vain)

    def rest(self, seconds: float) -> None:
        self.now = Instant(self.now + seconds)
        self.tick()


def test_a_word_counts_as_long_as_it_is_said() -> None:
    rig = Rig()
    assert rig.says("a", PERSISTS_S - 1) == []
    rig.alarms.reported(report("a", rig.now, 0))
    assert rig.says("a", PERSISTS_S - 1) == [], "it begins anew"
    rig.rest(PAUSE_S + 1)
    assert rig.says("a", PERSISTS_S - 1) == []
    assert rig.says("b", PERSISTS_S) == ["b"]
    rig.now = Instant(rig.now + PAUSE_S + 1)
    rig.alarms.hear(alarm("c", rig.now))
    assert rig.tick() == [], "a notice alone may be old"
    rig.seconds = lambda _vm: True
    assert rig.tick() == []
    rig.alarms.reported(report("c", rig.now))
    assert rig.tick() == ["c"]


def test_a_word_is_spent_for_a_week_unless_something_came_of_it() -> None:
    rig = Rig()
    assert rig.says("a", 5) == ["a"]
    rig.close("a")
    assert rig.says("a", 600) == []
    rig.rest(AGAIN_S)
    assert rig.says("a", 5) == ["a"]
    rig.close("a", in_vain=False)
    assert rig.says("a", 5) == ["a"], "it was right"


def test_a_case_that_is_open_or_was_just_closed_is_not_drawn_again() -> None:
    rig = Rig()
    rig.cases.add(VmId("a"))
    assert rig.says("a", 9) == []
    rig.close("a")
    rig.alarms.reported(report("a", rig.now))
    assert rig.tick() == [], "it has just been looked at"


def test_not_all_guests_at_once() -> None:
    rig = Rig()
    names = [f"v{n}" for n in range(3 * MOST_AT_ONCE)]
    for name in names:
        rig.alarms.hear(alarm(name, rig.now))
    for _ in range(6):
        rig.now = Instant(rig.now + 1.0)
        for name in names:
            rig.alarms.reported(report(name, rig.now))
        rig.tick()
    assert len(rig.drawn) == MOST_AT_ONCE
    assert rig.alarms.waited == 2 * MOST_AT_ONCE
    rig.close(rig.drawn[0][0])
    rig.alarms.reported(report(names[-1], rig.now))
    assert len(rig.tick()) == 1
    rig.alarms.keep([])
    assert (rig.alarms._alarms, rig.alarms._spent, rig.alarms._drawn) == ({}, {}, set())


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["alarm", "breach", "calm", "vain", "right", "seconded", "not", "wait"]),
        st.sampled_from(["a", "b"]),
        st.floats(0, 2.0) | st.floats(0, 2 * AGAIN_S),
    ),
    max_size=80,
)


@pytest.mark.req("T-CORE-7")
@settings(deadline=None)
@given(STEPS)
def test_whatever_guests_say_at_most_one_case_a_week_comes_to_nothing(steps: list[tuple[str, str, float]]) -> None:
    rig = Rig()
    vain: dict[VmId, list[float]] = {VmId("a"): [], VmId("b"): []}
    for what, name, seconds in steps:
        rig.now = Instant(rig.now + seconds)
        vm = VmId(name)
        match what:
            case "alarm":
                rig.alarms.hear(alarm(name, rig.now))
            case "breach":
                rig.alarms.reported(report(name, rig.now))
            case "calm":
                rig.alarms.reported(report(name, rig.now, 0))
            case "vain" | "right" if vm in rig.cases:
                at = next(at for drawn, at in reversed(rig.drawn) if drawn == vm)
                vain[vm] += [at] if what == "vain" else []
                rig.close(name, in_vain=what == "vain")
            case "seconded" | "not":
                rig.seconds = (lambda _vm: True) if what == "seconded" else (lambda _vm: False)
        before = set(rig.cases)
        assert not before & set(rig.tick())
    for drawn in vain.values():
        assert all(later - earlier >= AGAIN_S for earlier, later in pairwise(drawn))


def test_a_fact_of_another_kind_is_none_of_its() -> None:
    alarms = Alarms()
    alarms.hear(replace(alarm("a", 0.0), kind="agent-lost"))
    alarms.reported(report("a", 1.0))
    assert alarms._alarms == {}
