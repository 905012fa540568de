"""A VM takes all it can: an attacker where others bear it, a victim where others set it going, else overloaded."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from hypervigil.host.hsem.resources import Resource
from hypervigil.model.ids import HOST, VmId
from hypervigil.model.limits import LimitKind
from hypervigil.model.policy import Bounds
from hypervigil.model.status import AttackClass, Role
from tests.unit.host.hsem.behaviour import UDP, browses, floods, for_, hoards_connections, resolves
from tests.unit.host.hsem.scene import Behaviour, Scene
from tests.unit.host.hsem.test_unasked import answers_nobody, begins_with_silence

RESOLVER = "198.51.100.53"
BUDGET = 100.0
_learned: list[Scene] = []
USUAL = {
    "cpu_wait": 0.01,
    "memory": 0.4,
    "memory_rss": 2e8,
    "block_reads": 20.0,
    "block_writes": 20.0,
    "block_bytes": 2e5,
}


def begun() -> Scene:
    scene = Scene("mallory", "web", "alice", "bob")
    scene.begin(browses("alice", "web", 10), browses("alice", "mallory", 2), resolves("bob", RESOLVER, 2))
    scene.begin(browses("mallory", "web", 2))
    scene.cpu[HOST] = 0.4
    for name in scene.names:
        scene.takes(name, **USUAL, block_wait=0.002)
    return scene.takes(HOST, memory=0.5)


@pytest.fixture
def scene() -> Scene:
    """A host on which each VM has its usual CPU, memory and disk."""
    if not _learned:
        _learned.append(begun().learn(60))
    return begun().remember_as(_learned[0])


class Grab:
    """One way to take all there is: what it shows, what others bear by it, when it fills what the VM has."""

    def __init__(
        self,
        resource: Resource,
        *,
        taking: Callable[[Scene], object],
        cost: Callable[[Scene], object],
        full: Callable[[Scene], object],
        held_by: LimitKind,
    ) -> None:
        self.resource, self.taking, self.cost, self.full, self.held_by = resource, taking, cost, full, held_by


def takes(**what: float) -> Callable[[Scene], object]:
    return lambda scene: scene.takes("mallory", **what)


def bears(name: str, **what: float) -> Callable[[Scene], object]:
    return lambda scene: scene.takes(name, **what)


def uses_cpu(scene: Scene) -> None:
    scene.cpu["mallory"] = 1.0


def web_is_busy(scene: Scene) -> None:
    scene.cpu["web"] = 0.97


def connects(scene: Scene, per_s: float = 95.0) -> None:
    scene.begin(hoards_connections("mallory", "web", per_s))


def has_a_budget(scene: Scene) -> None:
    scene.hsem.bounded({VmId("mallory"): {Resource.CONNECTIONS: BUDGET}})


DISK = {"block_writes": 400.0, "block_bytes": 9e7}
GRABS = {
    "memory": Grab(
        Resource.MEMORY,
        taking=takes(memory_rss=2e9),
        cost=bears(HOST, memory=0.97),
        full=takes(memory=0.97),
        held_by=LimitKind.MEMORY,
    ),
    "forks": Grab(
        Resource.CPU,
        taking=uses_cpu,
        cost=bears("web", cpu_wait=0.5),
        full=lambda _: None,
        held_by=LimitKind.CPU,
    ),
    "disk": Grab(
        Resource.DISK,
        taking=takes(**DISK),
        cost=bears("bob", block_wait=0.2),
        full=takes(block_wait=0.2),
        held_by=LimitKind.BLOCK_OCTETS,
    ),
    "connections": Grab(
        Resource.CONNECTIONS,
        taking=connects,
        cost=web_is_busy,
        full=has_a_budget,
        held_by=LimitKind.NEW_DESTINATIONS,
    ),
    "block I/O": Grab(
        Resource.BLOCK,
        taking=takes(block_reads=4000.0),
        cost=bears("alice", block_wait=0.1),
        full=takes(block_wait=0.1),
        held_by=LimitKind.BLOCK_OPERATIONS,
    ),
}
each = pytest.mark.parametrize("grab", GRABS.values(), ids=GRABS)
BLAMED = {name: grab for name, grab in GRABS.items() if grab.resource is not Resource.CPU}
each_that_is_blamed = pytest.mark.parametrize("grab", BLAMED.values(), ids=BLAMED)


@pytest.mark.req("A253")
@each_that_is_blamed
def test_at_others_cost_it_is_an_attack(grab: Grab, scene: Scene) -> None:
    grab.taking(scene)
    grab.cost(scene)
    scene.run(5.0)
    verdict = scene.verdicts("mallory")[0]
    assert (verdict.role, verdict.attack) == (Role.ATTACKER, AttackClass.OVERFLOW)
    assert verdict.at - scene.begun_at <= 5.0
    assert "at the cost of" in verdict.cause
    assert {"resource-grab", "at-others-cost"} <= {one.kind for one in verdict.evidence}
    assert grab.held_by in {limit.kind for limit in scene.limits("mallory")}
    assert scene.blamed() == {"mallory"}
    others = [limit.peer for name in scene.limited() - {"mallory"} for limit in scene.limits(name)]
    assert set(others) <= {scene.address("mallory")}, "but where somebody is spared of it"
    (found,) = scene.hsem.facts(verdict.case).grabs
    assert found.resource is grab.resource


def test_no_attack_hides_behind_computing_that_costs_more(scene: Scene) -> None:
    scene.takes("mallory", block_reads=4000.0)
    bears("alice", block_wait=0.03)(scene)
    uses_cpu(scene)
    bears("web", cpu_wait=0.99)(scene)
    scene.run(5.0)
    verdict = scene.verdicts("mallory")[-1]
    assert (verdict.role, verdict.target) == (Role.ATTACKER, "alice")
    cost = {one.resource: one.cost for one in scene.hsem.facts(verdict.case).grabs}
    assert cost[Resource.CPU] > cost[Resource.BLOCK] >= 1.0


@pytest.mark.req("A253")
def test_to_compute_at_others_cost_is_no_attack_and_is_shared(scene: Scene) -> None:
    """Many processes and a batch job look alike from outside, and both may have what others leave."""
    uses_cpu(scene)
    scene.takes("web", cpu_wait=0.5).run(8.0)
    verdict = scene.verdict("mallory")
    assert (verdict.role, verdict.attack) == (Role.OVERLOADED, AttackClass.OVERFLOW)
    assert "at the cost of" in verdict.cause
    (limit,) = scene.limits("mallory")
    assert limit.kind is LimitKind.CPU
    assert limit.value is not None
    assert limit.value >= 0.5
    assert scene.blamed() == set()
    scene.cpu["mallory"] = 0.2
    scene.takes("web", cpu_wait=0.01).run(40)
    assert scene.limits("mallory") == []


@pytest.mark.parametrize("metric", ["exits", "hypercalls"])
@pytest.mark.parametrize(("rate", "told"), [(300_000.0, True), (50_000.0, False)])
def test_a_storm_of_requests_to_the_hypervisor_is_told_of_who_computes_at_others_cost(
    metric: str, rate: float, *, told: bool
) -> None:
    """Where the accelerator counts them; a busy disk or NIC makes many, so that alone is nobody's fault."""
    scene = begun()
    for name in scene.names:
        scene.takes(name, **{metric: 8000.0})
    scene.learn(60)
    scene.takes("mallory", **{metric: rate}).run(8.0)
    assert scene.suspected() == set(), "nobody bears anything"
    uses_cpu(scene)
    scene.takes("web", cpu_wait=0.5).run(8.0)
    verdict = scene.verdict("mallory")
    storms = [one for one in verdict.evidence if one.kind == "request-storm"]
    assert [(one.value, one.baseline is not None and 7000 < one.baseline < 9000) for one in storms] == (
        [(rate, True)] if told else []
    )
    assert ("asks the hypervisor 300,000 times a second" in verdict.cause) is told
    assert verdict.role is Role.OVERLOADED
    assert scene.blamed() == set()


@pytest.mark.parametrize(("waits", "bears"), [(0.36, False), (0.5, True)])
def test_who_usually_waits_bears_as_much_more_of_what_is_left(waits: float, *, bears: bool) -> None:
    """A vCPU that waits a fifth of the time runs four fifths: 30 % less of these is what others' work may cost it."""
    scene = begun()
    scene.takes("web", cpu_wait=0.2).learn(60)
    uses_cpu(scene)
    scene.takes("web", cpu_wait=waits).run(8.0)
    assert bool(scene.limits("mallory")) is bears


@pytest.mark.req("A254")
@each_that_is_blamed
def test_what_others_set_going_before_makes_a_victim(grab: Grab, scene: Scene) -> None:
    scene.begin(browses("alice", "mallory", 60)).run(3)
    grab.taking(scene)
    grab.cost(scene)
    scene.run(10.0)
    verdict = scene.verdicts("mallory")[-1]
    assert (verdict.role, verdict.attack, verdict.target) == (Role.VICTIM, AttackClass.OVERFLOW, "alice")
    assert "because others ask for so much" in verdict.cause
    assert "asked-first" in {one.kind for one in verdict.evidence}
    assert scene.blamed() == set()
    assert scene.ordered("mallory") == []


@each
def test_what_hurts_nobody_is_its_own_business(grab: Grab, scene: Scene) -> None:
    grab.full(scene)
    grab.taking(scene)
    scene.run(16.0)
    assert scene.roles("mallory")[-1:] == [Role.OVERLOADED]
    verdict = scene.verdicts("mallory")[-1]
    assert verdict.attack is AttackClass.NONE
    assert scene.blamed() == set()
    assert scene.limited() == set()


@each_that_is_blamed
def test_inbound_load_that_comes_later_excuses_nothing(grab: Grab, scene: Scene) -> None:
    grab.taking(scene)
    scene.run(4)
    grab.cost(scene)
    scene.begin(browses("alice", "mallory", 60)).run(8)
    assert Role.ATTACKER in scene.roles("mallory")
    assert Role.VICTIM not in scene.roles("mallory")


@each_that_is_blamed
def test_a_flood_from_outside_that_comes_later_hides_nothing(grab: Grab, scene: Scene) -> None:
    grab.taking(scene)
    scene.run(3)
    grab.cost(scene)
    scene.begin(floods("203.0.113.9", "mallory", 900, UDP)).run(8)
    assert Role.ATTACKER in scene.roles("mallory")


@each
def test_a_flood_from_outside_that_came_first_makes_a_victim(grab: Grab, scene: Scene) -> None:
    scene.begin(floods("203.0.113.9", "mallory", 900, UDP)).run(3)
    grab.taking(scene)
    grab.cost(scene)
    scene.run(8)
    assert scene.roles("mallory") == [Role.VICTIM]


@each
def test_what_others_bear_is_nobodys_fault_without_a_grab(grab: Grab, scene: Scene) -> None:
    grab.cost(scene)
    scene.run(9)
    assert scene.blamed() == set()
    assert scene.roles("mallory") == []


@each
def test_a_moment_is_nothing(grab: Grab, scene: Scene) -> None:
    if grab.resource is Resource.CONNECTIONS:
        scene.begin(for_(1.0, hoards_connections("mallory", "web", 95)))
    else:
        grab.taking(scene)
    grab.cost(scene)
    scene.run(1.4)
    scene.takes("mallory", **USUAL)
    scene.cpu["mallory"] = 0.2
    scene.run(7)
    assert scene.blamed() == set()


@each
def test_what_was_always_so_is_no_grab(grab: Grab) -> None:
    scene = begun()
    grab.taking(scene)
    scene.learn(60)
    grab.cost(scene)
    scene.run(9)
    assert scene.blamed() == set()


def test_beyond_what_it_was_given_it_is_an_attack_though_nobody_bears_it(scene: Scene) -> None:
    has_a_budget(scene)
    connects(scene, 140.0)
    scene.run(5)
    verdict = scene.verdict("mallory")
    assert (verdict.role, verdict.attack) == (Role.ATTACKER, AttackClass.OVERFLOW)
    assert "more than it was given" in verdict.cause
    assert "beyond-its-grant" in {one.kind for one in verdict.evidence}


def test_memory_that_is_not_given_back_is_beyond_the_grant(scene: Scene) -> None:
    scene.takes("mallory", memory_rss=3.4e8).run(8)
    assert scene.suspected() == set(), "the control: not unusual by itself"
    scene.hsem.bounded({VmId("mallory"): {Resource.MEMORY: 2.5e8}})
    scene.run(5)
    assert scene.verdict("mallory").role is Role.ATTACKER


def test_who_says_something_on_its_connections_hoards_none(scene: Scene) -> None:
    """A client that asks ten times as much of a server that is at its capacity by it."""
    web_is_busy(scene)
    scene.begin(browses("alice", "web", 150)).run(20)
    assert scene.blamed() == set()


def test_a_server_that_is_full_by_fits_is_full(scene: Scene) -> None:
    """It hangs up on those who wait, and has some CPU for a moment."""
    connects(scene)
    for second in range(12):
        scene.cpu["web"] = 0.78 if second % 3 == 2 else 0.97
        scene.run(1)
    assert scene.verdict("mallory").role is Role.ATTACKER


def test_a_host_full_of_vms_that_wake_at_once_has_no_attacker() -> None:
    names = [f"vm{n}" for n in range(10)]
    scene = Scene(*names, "bystander")
    for name in scene.names:
        scene.takes(name, cpu_wait=0.01)
    scene.learn(40)
    for name in names:
        scene.cpu[name] = 0.8
    scene.takes("bystander", cpu_wait=0.6).run(9)
    assert scene.blamed() == set()


def test_it_goes_on_as_an_attacker_while_it_grabs_and_is_free_after() -> None:
    scene = replace_bounds(Bounds(hold_s=10, hold_max_s=10))
    grab = GRABS["block I/O"]
    grab.taking(scene)
    grab.cost(scene)
    scene.run(30)
    assert scene.roles("mallory").count(Role.ATTACKER) >= 2
    scene.takes("mallory", **USUAL).takes("alice", block_wait=0.002).run(25)
    assert scene.limits("mallory") == []
    assert scene.level("mallory").name == "LEVEL1"


def replace_bounds(bounds: Bounds) -> Scene:
    scene = begun().remember_as(_learned[0] if _learned else begun().learn(60))
    scene.hsem.set_policy(bounds, ("limit",))
    return scene


def test_a_case_is_taken_up_after_a_restart(scene: Scene) -> None:
    grab = GRABS["disk"]
    grab.taking(scene)
    grab.cost(scene)
    scene.run(5)
    before = scene.limits("mallory")
    scene.restart()
    scene.run(2)
    assert scene.limits("mallory") == before
    assert scene.hsem.role(VmId("mallory")) is Role.ATTACKER


def test_what_is_unseen_is_no_grab(scene: Scene) -> None:
    for name in scene.names:
        scene.takes(name, **dict.fromkeys(USUAL), block_wait=None)
        scene.cpu.pop(name, None)
    behave: Behaviour = browses("alice", "web", 5)
    scene.begin(behave).run(10)
    assert scene.blamed() == set()


def test_facts_say_the_same_as_often_as_they_are_asked(scene: Scene) -> None:
    grab = GRABS["memory"]
    grab.taking(scene)
    grab.cost(scene)
    scene.run(5)
    facts = scene.hsem.facts(scene.verdict("mallory").case)
    assert replace(facts) == facts
    (one,) = facts.grabs
    assert one.harmful
    assert not one.beyond
    assert not one.caused


@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
def test_nobody_keeps_others_cpu_because_an_accomplice_answers_it(scene: Scene, *, first: bool) -> None:
    """SYN-ACKs that it asked nobody for make it a victim, and set nothing going."""
    begins_with_silence(scene)
    answers = answers_nobody("mallory", ["198.51.100.21"], 3.0)
    if first:
        scene.begin(answers).pass_(40.0)
        assert scene.roles("mallory") == [Role.VICTIM]
    uses_cpu(scene)
    bears("web", cpu_wait=0.6)(scene)
    scene.run(8.0)
    if not first:
        assert scene.roles("mallory") == [Role.OVERLOADED]
        scene.begin(answers).run(40.0)
    assert LimitKind.CPU in {limit.kind for limit in scene.limits("mallory")}
    assert scene.blamed() == set()
