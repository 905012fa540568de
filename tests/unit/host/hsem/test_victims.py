"""Who suffers is named and helped where it can be: floods from outside, abuse as a reflector, overload by nobody."""

from collections.abc import Callable
from functools import partial

import pytest

from hypervigil.host.hsem.facts import Dossier
from hypervigil.host.hsem.sides import Peer
from hypervigil.model.ids import OUTSIDE, CaseId, Instant, VmId
from hypervigil.model.limits import LimitKind
from hypervigil.model.metric import PACKET_METRICS, Metric
from hypervigil.model.status import AttackClass, Level, Role
from hypervigil.model.traffic import Direction
from tests.unit.host.hsem.behaviour import (
    DNS,
    SYN,
    SYNACK,
    UDP,
    browses,
    floods,
    floods_by_udp_from_strangers,
    floods_from_many,
    floods_from_strangers,
    floods_open_port,
    for_,
    is_answered_by_everybody,
    reflects,
    requests_by_udp,
    resolves,
)
from tests.unit.host.hsem.scene import Behaviour, Scene
from tests.unit.host.hsem.test_unasked import answers_nobody, begins_with_silence

STRANGER = "203.0.113.66"
OF_THE_HOST = "10.60.0.1"
"""A bridge's: what the host's own programs send comes from there."""


@pytest.mark.parametrize(
    "flood",
    [floods_open_port, partial(floods, traffic=UDP), partial(floods, traffic=SYN)],
)
@pytest.mark.parametrize("source", [STRANGER, OF_THE_HOST], ids=["a stranger", "the host itself"])
def test_a_flood_from_one_outside_is_limited_at_the_victims_port_by_its_source(
    scene: Scene, flood: Callable[[str, str, float], Behaviour], source: str
) -> None:
    scene.begin(flood(source, "web", 500)).run(5)
    verdict = scene.verdict("web")
    assert (verdict.role, verdict.attack, verdict.target) == (Role.VICTIM, AttackClass.FLOOD, "outside")
    (limit,) = scene.limits("web")
    assert (limit.kind, limit.direction, limit.peer) == (LimitKind.PEER, Direction.IN, source)
    assert scene.suspected() == {"web"}, "its clients are not"


def test_a_syn_flood_from_many_outside_has_its_sources_prove_themselves(scene: Scene) -> None:
    scene.begin(floods_from_many(500, "web", 1000)).run(15)
    assert (scene.verdict("web").role, scene.verdict("web").target) == (Role.VICTIM, "outside")
    (limit,) = scene.limits("web")
    assert (limit.kind, limit.direction, limit.value) == (LimitKind.SOURCE_PROOF, Direction.IN, None)
    assert not limit.classes, "honest clients begin as many connections as they like"
    assert {one.kind for one in scene.ordered("web")} == {LimitKind.SOURCE_PROOF}, "from the first look on"
    assert scene.blamed() == set()
    assert not [limit for limit in scene.ordered("web") if limit.kind is LimitKind.PEER], "its clients are not limited"


def test_where_the_sources_prove_themselves_and_flood_all_the_same_the_class_is_limited_too(scene: Scene) -> None:
    """Whoever has many real addresses, or forges those of hosts that refuse what they did not ask for."""
    scene.begin(floods_from_many(500, "web", 1000, network="100.64")).run(4)
    assert {one.kind for one in scene.ordered("web")} == {LimitKind.SOURCE_PROOF}
    scene.run(10)
    held = {(one.kind, one.direction, one.classes) for one in scene.limits("web")}
    assert held == {
        (LimitKind.SOURCE_PROOF, Direction.IN, frozenset()),
        (LimitKind.PACKETS, Direction.IN, frozenset({SYN})),
    }
    assert scene.blamed() == set()


@pytest.mark.parametrize("for_s", [0.2, 5.0])
def test_answers_from_everywhere_that_were_never_asked_for(scene: Scene, for_s: float) -> None:
    scene.begin(for_(for_s, is_answered_by_everybody("web", 300, 5000))).run(5)
    assert (scene.verdict("web").role, scene.verdict("web").target) == (Role.VICTIM, "outside")
    assert scene.blamed() == set()


@pytest.mark.parametrize("for_s", [0.3, 1.0, 8.0])
def test_who_answers_a_flood_again_and_again_is_not_blamed(scene: Scene, for_s: float) -> None:
    """TCP repeats a SYN-ACK that nobody takes up for half a minute, to thousands of strangers, also in a new case."""
    scene.begin(floods_from_strangers("web", 1000, for_s=for_s)).run(10)
    release = scene.hsem.release(VmId("web"), scene.now)
    scene.witness.hear(release, scene.now)
    scene.run(50)
    assert scene.blamed() == set()
    assert not [limit for limit in scene.ordered("web") if limit.direction is Direction.OUT]


def test_who_answers_again_is_not_blamed_in_a_quiet_hour(scene: Scene) -> None:
    """Less than usual is asked, so that with the flood of a moment the minute is an ordinary one."""
    scene.end(*list(scene._behaviours))
    scene.run(60).begin(floods_from_strangers("web", 1000, for_s=0.4)).run(60)
    assert scene.blamed() == set()
    assert not [limit for limit in scene.ordered("web") if limit.direction is Direction.OUT]


def test_a_flood_from_outside_beside_one_from_inside(scene: Scene) -> None:
    scene.begin(floods_open_port(STRANGER, "web", 300), floods_open_port("mallory", "web", 300)).run(5)
    assert scene.blamed() == {"mallory"}
    assert set(scene.roles("web")) == {Role.VICTIM}


@pytest.mark.req("T-NET-7", "A131")
@pytest.mark.parametrize("inside", [1000, 3000])
def test_a_flood_by_all_at_once_is_held_back_wherever_it_comes_from(inside: int) -> None:
    """In the names of thousands outside, by SYNs and datagrams, and by three of this host, be it by more."""
    scene = Scene("web", "alice", "mallory", "bob", "carol")
    scene.begin(browses("alice", "web", 8)).learn(60).older(10)
    scene.begin(
        floods_from_strangers("web", 3000),
        floods_by_udp_from_strangers("web", 1500),
        floods("mallory", "web", inside, SYN),
        floods("bob", "web", inside, UDP),
        floods_open_port("carol", "web", inside),
    )
    alice = ("alice", "web", SYN)
    before = scene.offered[alice], scene.delivered[alice]
    scene.run(20)
    offered, delivered = ({key: n for key, n in counts.items() if key[1] == "web" and key[0] != "alice"}
                          for counts in (scene.offered, scene.delivered))  # fmt: skip
    share = sum(delivered.values()) / sum(offered.values())
    kept = (scene.delivered[alice] - before[1]) / (scene.offered[alice] - before[0])
    print(f"{share:.2%} of {sum(offered.values())} packets arrive, {kept:.1%} of what an honest client begins")
    assert share <= 0.05
    assert kept >= 0.8
    assert scene.blamed() == {"mallory", "bob", "carol"}
    assert set(scene.roles("web")) == {Role.VICTIM}
    held = {(one.kind, one.classes) for one in scene.limits("web")}
    assert held == {(LimitKind.SOURCE_PROOF, frozenset()), (LimitKind.PACKETS, frozenset({UDP}))}
    orders = [one for name in scene.blamed() | {"web"} for one in reversed(scene.ordered(name))]
    first = {(one.vm, one.kind, one.classes): one.since - scene.begun_at for one in orders}
    assert max(first.values()) <= 0.7, "a small part of a flood of 20 s"
    assert scene.ordered("alice") == []


def test_a_reflector_is_muffled_and_not_blamed(scene: Scene) -> None:
    scene.begin(reflects("web", STRANGER, 200, times_larger=20)).run(5)
    verdict = scene.verdict("web")
    assert (verdict.role, verdict.attack) == (Role.REFLECTOR, AttackClass.REFLECTION)
    assert "20 times the bytes" in verdict.cause
    (limit,) = scene.limits("web")
    assert (limit.direction, limit.classes) == (Direction.OUT, frozenset({DNS}))
    assert scene.blamed() == set()


@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
def test_no_reflector_is_let_go_because_an_accomplice_answers_it(scene: Scene, *, first: bool) -> None:
    """SYN-ACKs that it asked nobody for make it a victim besides."""
    begins_with_silence(scene)
    answers, reflected = answers_nobody("web", ["198.51.100.21"], 3.0), reflects("web", STRANGER, 200, times_larger=20)
    scene.begin(answers if first else reflected).pass_(40.0 if first else 5.0)
    scene.begin(reflected if first else answers).run(10.0 if first else 40.0)
    assert scene.roles("web")[-1] is Role.VICTIM
    (limit,) = scene.limits("web")
    assert (limit.direction, limit.classes) == (Direction.OUT, frozenset({DNS}))


def test_who_answers_larger_than_asked_but_not_more_than_usual_is_no_reflector() -> None:
    usual = resolves("alice", "web", 100)
    scene = Scene("web", "alice").begin(usual).learn()
    scene.end(usual)
    scene.begin(resolves("alice", "web", 100, times_larger=20)).run(10)
    assert scene.suspected() == set()


def test_who_is_asked_for_large_things_by_udp_is_no_reflector(scene: Scene) -> None:
    """As with QUIC: small acknowledgements one way, much data the other."""
    scene.begin(requests_by_udp(STRANGER, "web", 200), reflects("web", STRANGER, 5, times_larger=20)).run(10)
    assert Role.REFLECTOR not in scene.roles("web")


def test_a_busy_vm_is_overloaded_by_nobody(scene: Scene) -> None:
    scene.cpu["bob"] = 0.99
    scene.run(9)
    assert scene.roles("bob") == [], "being busy for a moment is nothing"
    scene.run(5)
    verdict = scene.verdict("bob")
    assert (verdict.role, verdict.attack, verdict.target) == (Role.OVERLOADED, AttackClass.NONE, None)
    assert "own work" in verdict.cause
    assert scene.ordered("bob") == []


def test_who_is_always_busy_is_not_overloaded() -> None:
    scene = Scene("bob")
    scene.cpu["bob"] = 0.95
    scene.learn(60).run(30)
    assert scene.suspected() == set()


def test_who_is_asked_by_many_for_more_than_it_can_serve_is_overloaded(scene: Scene) -> None:
    crowd = [browses(f"203.0.113.{number}", "web", 20, capacity=14) for number in range(1, 9)]
    scene.older(10).begin(*crowd)
    scene.cpu["web"] = 1.0
    scene.run(20)
    assert scene.roles("web")[0] is Role.OVERLOADED
    assert "asked for more than usual" in scene.verdicts("web")[0].cause
    assert scene.blamed() == set()
    assert scene.ordered("web") == []


@pytest.mark.req("A128", "T-NET-9")
@pytest.mark.parametrize("source", [STRANGER, "alice"])
def test_who_has_no_cpu_left_for_the_valid_requests_of_one_is_its_victim(scene: Scene, source: str) -> None:
    """Five times what all used to ask, complete handshakes: no packet of it is wrong."""
    scene.older(10).begin(browses(source, "web", 130))
    scene.cpu["web"] = 1.0
    scene.run(3)
    verdict = scene.verdict("web")
    assert (verdict.role, verdict.attack) == (Role.VICTIM, AttackClass.FLOOD)
    assert "each in order" in verdict.cause
    assert scene.witness.opened[0].at - scene.begun_at <= 2.0
    limits = scene.ordered("web")
    assert {(limit.kind, limit.peer) for limit in limits} == {(LimitKind.PEER, scene.address(source))}
    scene.run(20)
    assert scene.blamed() == set(), "whose requests are in order is no attacker"


@pytest.mark.req("A128")
def test_as_many_valid_requests_are_no_attack_while_they_can_be_served(scene: Scene) -> None:
    scene.older(10).begin(browses(STRANGER, "web", 130))
    scene.cpu["web"] = 0.6
    scene.run(10)
    assert Role.VICTIM not in scene.roles("web")
    assert scene.ordered("web") == []


def test_who_is_seldom_asked_and_busy_for_a_minute_is_overloaded() -> None:
    """Its balancer brings all that it is asked: to throttle who brings most would be to throttle everybody."""
    scene = Scene("web", "alice").begin(browses(STRANGER, "web", 2, wobble=0.9)).learn(60).older(10)
    scene.begin(browses(STRANGER, "web", 34))
    scene.cpu["web"] = 1.0
    scene.run(20)
    assert scene.roles("web") == [Role.OVERLOADED]
    assert {limit.kind for limit in scene.ordered("web")} <= {LimitKind.CPU}


def test_who_is_busy_because_it_is_flooded_is_a_victim(scene: Scene) -> None:
    scene.cpu["web"] = 1.0
    scene.begin(floods_open_port("mallory", "web", 500)).run(20)
    assert scene.roles("web") == [Role.VICTIM]


def test_who_is_overloaded_and_then_flooded_becomes_a_victim(scene: Scene) -> None:
    scene.cpu["web"] = 1.0
    scene.run(12)
    assert scene.roles("web") == [Role.OVERLOADED]
    scene.begin(floods_open_port("mallory", "web", 500)).run(5)
    assert scene.roles("web") == [Role.OVERLOADED, Role.VICTIM]
    assert scene.verdicts("web")[-1].target == "mallory"
    assert scene.blamed() == {"mallory"}


def test_a_victim_of_a_neighbour_stays_one_while_it_is_attacked(scene: Scene) -> None:
    scene.begin(floods_open_port("mallory", "web", 500)).run(50)
    assert scene.level("web") is Level.LEVEL2
    assert scene.roles("web") == [Role.VICTIM]


def test_a_victim_repeats_its_answers_to_a_flood_that_is_over(scene: Scene) -> None:
    """Handshakes that nobody takes up are answered again and again for a minute, though nobody asks any more."""

    def repeats(of: Scene, _: float) -> None:
        of.send("web", STRANGER, SYNACK, 300)

    scene.begin(for_(1, floods_open_port(STRANGER, "web", 600))).run(10)
    for _ in range(5):
        scene.begin(repeats).run(0.2)
        scene.end(repeats)
        scene.run(8)
    assert scene.blamed() == set()
    assert not [limit for limit in scene.ordered("web") if limit.direction is Direction.OUT]


def test_a_victim_that_answers_many_ports_and_asks_on_is_no_scanner(scene: Scene) -> None:
    """Its answers go to port after port of the flood, and are reset; its own honest requests go to the same VM."""
    scene.begin(browses("web", "mallory", 8)).learn()
    scene.begin(floods_open_port("mallory", "web", 2000)).run(40)
    assert scene.blamed() == {"mallory"}


@pytest.mark.parametrize(("asked", "tried"), [(1e-45, 0), (0.0, 0), (1.0, 1)])
def test_who_once_asked_for_a_mac_tries_nobody_whom_it_answers(asked: float, tried: int) -> None:
    """On a real guest a question of minutes ago had not quite faded: the victim of invented senders was a scanner."""
    dossier = Dossier(CaseId("c1"), VmId("web"), Instant(0.0), (0.0,) * len(PACKET_METRICS), 0.1, 100)
    counts = tuple(asked if metric is Metric.OUT_ARP else 0.0 for metric in PACKET_METRICS)
    dossier.count(counts, 1.0, fresh=counts)
    dossier.add_peer(Peer(Direction.OUT, OUTSIDE, "198.51.100.9", 1.0, 60.0, 0.0, 0.0, 0.0, 0))
    assert dossier.facts(Instant(1.0), 0).tries.hosts == tried
