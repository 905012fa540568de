"""A server with CPU to spare whose table is full: who hoards its connections is found, and nobody else is."""

from dataclasses import replace

import pytest

from hypervigil.host.hsem import grabs, serving
from hypervigil.host.hsem.limiting import hardened
from hypervigil.host.hsem.resources import Grab, Resource
from hypervigil.model.limits import LimitKind
from hypervigil.model.policy import Bounds
from hypervigil.model.status import AttackClass, Role
from hypervigil.model.traffic import TrafficClass
from tests.unit.host.hsem.backlog import SYN, SYNACK, TCP, Server
from tests.unit.host.hsem.behaviour import Behaviour, Pace
from tests.unit.host.hsem.scene import Scene

RST = TrafficClass.RST

OUTSIDE = "203.0.113.9"
PEACE_S = 35.0
BEGINS = 60.0 + PEACE_S
"""Seconds of the server's, all of peace; what is usual of its answers is not remembered from before ``PEACE_S``."""
FULL_S = 1024 / 200
"""Until its descriptors are used up."""


def town(server: Server) -> Scene:
    """Two VMs and one outside that ask of one server with CPU to spare, and ten minutes of history."""
    server.client("alice", 10).client("mallory", 8).client(OUTSIDE, 5)
    scene = Scene("mallory", "web", "alice", "bob").begin(server)
    scene.learn(60).older(10)
    for _ in range(round(PEACE_S)):
        scene.step(1.0)
    scene.begun_at = scene.now
    return scene


def hoarded(server: Server, per_s: float = 200.0, *, for_s: float = 25.0) -> Scene:
    return town(server.hoarder("mallory", per_s, since=BEGINS, until=BEGINS + for_s))


def served_of(server: Server, scene: Scene, seconds: float, client: str = "alice") -> float:
    """The share of a client's tries that come to something from now on."""
    before = server.served[client], server.tried[client]
    scene.run(seconds)
    return (server.served[client] - before[0]) / (server.tried[client] - before[1])


@pytest.mark.req("T-CORE-12")
@pytest.mark.parametrize("backlog", [128, 512, 4096])
def test_who_hoards_is_found_and_the_server_is_its_victim(backlog: int) -> None:
    server = Server("web", backlog=backlog)
    scene = hoarded(server)
    begun = scene.now
    scene.run(12.0)
    (verdict,) = scene.verdicts("mallory")
    assert (verdict.role, verdict.attack, verdict.target) == (Role.ATTACKER, AttackClass.OVERFLOW, "web")
    assert FULL_S < verdict.at - begun <= FULL_S + 2.5
    (victim,) = scene.verdicts("web")
    assert (victim.role, victim.attack, victim.target) == (Role.VICTIM, AttackClass.OVERFLOW, "mallory")
    assert "the target of an overflow" in victim.cause
    assert scene.suspected() == {"mallory", "web"}
    assert scene.limited() == {"mallory"}
    assert LimitKind.PACKETS in {limit.kind for limit in scene.limits("mallory")}


@pytest.mark.req("T-CORE-12")
@pytest.mark.parametrize("backlog", [128, 512, 4096])
@pytest.mark.parametrize("per_s", [300.0, 500.0, 1000.0])
def test_who_fills_it_within_three_seconds_is_found_within_five(per_s: float, backlog: int) -> None:
    """Until then it hurts nobody: it may be making ready what it will use."""
    scene = hoarded(Server("web", backlog=backlog), per_s)
    begun = scene.now
    scene.run(5.0)
    (verdict,) = scene.verdicts("mallory")
    assert (verdict.role, verdict.attack, verdict.target) == (Role.ATTACKER, AttackClass.OVERFLOW, "web")
    assert 1024 / per_s < round(verdict.at - begun, 3) <= 5.0
    assert scene.blamed() == {"mallory"}


@pytest.mark.parametrize("learns", [False, True])
def test_a_hoard_does_not_become_usual_while_a_table_fills(monkeypatch: pytest.MonkeyPatch, *, learns: bool) -> None:
    """A minute of history, and a server that has room for half a minute's."""
    if learns:
        monkeypatch.setattr(grabs.Grabs, "hoarding", lambda _: set())
    server = Server("web", descriptors=3000, hang_up_s=60.0).client("alice", 10).client("mallory", 8)
    server.hoarder("mallory", 200.0, since=60.0 + PEACE_S)
    scene = Scene("mallory", "web", "alice", "bob").begin(server).learn(60)
    for _ in range(round(PEACE_S)):
        scene.step(1.0)
    scene.run(22.0)
    assert hoarders(scene) == (set() if learns else {"mallory"})


def test_the_explanation_says_what_others_are_denied() -> None:
    scene = hoarded(Server("web")).run(12.0)
    (verdict,) = scene.verdicts("mallory")
    assert "% of what others begin there without an answer" in verdict.cause
    assert {"resource-grab", "at-others-cost"} <= {one.kind for one in verdict.evidence}
    (grab,) = scene.hsem.facts(verdict.case).grabs
    assert 0.6 <= grab.denied <= 1.0


def test_where_the_backlog_is_full_first_the_explanation_says_of_what() -> None:
    scene = hoarded(Server("web", backlog=16)).run(12.0)
    (verdict,) = scene.verdicts("mallory")
    assert "it asks nothing on them" in verdict.cause
    assert "held" in {one.kind for one in verdict.evidence}
    facts = scene.hsem.facts(verdict.case)
    beside = replace(facts, grabs=(Grab(Resource.DISK, 9e7, 1e5, facts.opened_at, facts.at),))
    limits = {(one.kind, one.traffic) for one in hardened(beside, verdict, Bounds(), "limit")}
    assert (LimitKind.PACKETS, TrafficClass.SYN) in limits, "whatever else it takes"


def test_others_are_served_again_and_were_not_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server("web", backlog=4096)
    scene = hoarded(server, for_s=60.0).run(20.0)
    assert served_of(server, scene, 20.0) > 0.9
    monkeypatch.setattr(grabs, "HELD", float("inf"))
    server = Server("web", backlog=4096)
    scene = hoarded(server, for_s=60.0).run(20.0)
    assert served_of(server, scene, 20.0) < 0.2, "the control: nobody holds it, and it works"
    assert scene.blamed() == set()


# --- begun requests that are never ended ----
@pytest.mark.req("T-CORE-12")
@pytest.mark.parametrize(
    ("per_s", "every_s", "backlog"),
    [(250, 1.0, 128), (250, 4.0, 512), (250, 1.0, 4096), (150, 4.0, 512), (600, 1, 4096)],
)
def test_who_never_ends_what_it_asks_is_found(per_s: float, every_s: float, backlog: int) -> None:
    server = Server("web", backlog=backlog).slow("mallory", per_s, every_s=every_s, since=BEGINS)
    scene = town(server)
    begun = scene.now
    scene.run(12.0)
    verdict = scene.verdicts("mallory")[0]
    assert (verdict.role, verdict.attack, verdict.target) == (Role.ATTACKER, AttackClass.OVERFLOW, "web")
    assert 1024 / per_s < verdict.at - begun <= 1024 / per_s + 5.0
    victim = scene.verdicts("web")[0]
    assert (victim.role, victim.attack, victim.target) == (Role.VICTIM, AttackClass.OVERFLOW, "mallory")
    assert scene.suspected() == {"mallory", "web"}
    assert scene.limited() == {"mallory"}


@pytest.mark.parametrize("per_s", [150, 250])
def test_a_thousand_that_never_end_are_an_attack_before_anybody_is_denied_anything(per_s: float) -> None:
    server = Server("web", descriptors=100_000, backlog=4096).slow("mallory", per_s, since=BEGINS)
    scene = town(server)
    begun = scene.now
    assert served_of(server, scene, 15.0) > 0.9
    verdict = scene.verdict("mallory")
    assert (verdict.role, verdict.attack, verdict.target) == (Role.ATTACKER, AttackClass.OVERFLOW, "web")
    assert verdict.at - begun <= 1000 / (per_s - 58) + 3.0, "58 a second are what its history allows"
    assert "on which it ends nothing" in verdict.cause
    assert scene.roles("web") == [Role.VICTIM]


@pytest.mark.parametrize("real", [0.0, 50.0])
def test_others_are_served_while_requests_never_end_and_were_not_otherwise(
    monkeypatch: pytest.MonkeyPatch, real: float
) -> None:
    """Some real requests among them hide nothing."""

    def attacked() -> tuple[Server, Scene]:
        server = Server("web", backlog=4096).slow("mallory", 200.0 - real, since=BEGINS)
        if real:
            server.client("mallory", real, since=BEGINS)
        return server, town(server).run(20.0)

    server, scene = attacked()
    assert served_of(server, scene, 20.0) > 0.9
    monkeypatch.setattr(serving.Serving, "mute_to", lambda *_, **__: False)
    server, scene = attacked()
    assert served_of(server, scene, 20.0) < 0.2, "the control: nobody holds it, and it works"
    assert scene.blamed() == set()


def test_requests_that_never_end_and_for_which_there_is_room_harm_nobody() -> None:
    server = Server("web").slow("mallory", 20.0, since=BEGINS).slow("bob", 70.0, since=BEGINS)
    scene = town(server).run(25.0)
    assert scene.blamed() == set()
    assert scene.limited() == set()
    assert served_of(server, scene, 3.0) > 0.9


def test_two_share_the_hoarding() -> None:
    server = Server("web").hoarder("bob", 120, since=BEGINS)
    scene = hoarded(server, 120.0).run(15.0)
    assert scene.blamed() == {"mallory", "bob"}
    assert Role.VICTIM in scene.roles("web")


def test_a_case_is_taken_up_after_a_restart() -> None:
    scene = hoarded(Server("web", backlog=128)).run(9.0)
    before = scene.limits("mallory")
    scene.restart()
    scene.run(1.0)
    assert before
    assert scene.limits("mallory") == before
    assert scene.hsem.facts(scene.verdict("mallory").case).held >= grabs.HELD


def test_a_server_that_has_room_for_all_of_them_is_not_harmed() -> None:
    server = Server("web", descriptors=100_000)
    scene = hoarded(server).run(20.0)
    assert scene.blamed() == set()
    assert served_of(server, scene, 3.0) > 0.9


def test_one_who_asks_the_same_as_often_but_says_so_fills_no_table() -> None:
    server = Server("web").client("mallory", 200, since=BEGINS)
    scene = town(server).run(20.0)
    assert scene.blamed() == set()


# --- nobody's fault ----
def hoarders(scene: Scene) -> set[str]:
    """Who was ever blamed for what it takes: whether repeated tries are a flood is another rule's question."""
    verdicts = scene.witness.verdicts
    return {str(one.vm) for one in verdicts if one.role is Role.ATTACKER and one.attack is AttackClass.OVERFLOW}


@pytest.mark.parametrize(("backlog", "per_s"), [(16, 60.0), (512, 20.0), (512, 150.0)])
def test_a_crowd_of_real_requests_that_fills_the_backlog_is_no_hoard(backlog: int, per_s: float) -> None:
    """All ask five times as much as ever, of a server that has time for a part of it, though not for want of CPU."""
    server = Server("web", backlog=backlog, per_s=per_s)
    for name in ("alice", "bob", "mallory", OUTSIDE):
        server.client(name, 50, since=BEGINS)
    scene = town(server)
    assert served_of(server, scene, 20.0) < 0.8, "the backlog is full"
    assert hoarders(scene) == set()


def test_requests_that_wait_in_a_long_backlog_are_said() -> None:
    """One asks more than ever of a server that takes few: as many connections as a hoard's are accepted, and wait."""
    server = Server("web", backlog=4096, per_s=25.0).client("mallory", 200, since=BEGINS, patience_s=60.0)
    scene = town(server)
    assert served_of(server, scene, 15.0) < 0.3
    assert hoarders(scene) == set()


@pytest.mark.parametrize("patience_s", [3.0, 60.0])
@pytest.mark.parametrize("said", [0, 60], ids=["waits for words", "says something"])
@pytest.mark.parametrize("backlog", [8, 4096])
def test_a_server_that_stalls_by_itself_makes_no_hoarder_of_who_repeats(
    backlog: int, said: int, patience_s: float
) -> None:
    """Its clients' rates stay as ever; one of them is most of what it has to do."""
    server = Server("web", backlog=backlog).client("bob", 150, request=said, patience_s=patience_s)
    server.stalled = lambda at: BEGINS <= at < BEGINS + 15.0
    scene = town(server)
    assert served_of(server, scene, 15.0) == 0.0
    assert scene.blamed() == set()
    scene.run(15.0)
    assert hoarders(scene) == set()


@pytest.mark.parametrize(
    ("after_s", "backlog"), [(-3.0, 512), (0.0, 4096), (0.5, 512), (1.0, 4096), (1.5, 512), (3.0, 4096)]
)
def test_who_asks_more_than_ever_of_a_server_that_stalls_hoards_nothing(after_s: float, backlog: int) -> None:
    """Hundreds of its connections are accepted, beyond what its history allows, and nothing comes of its requests."""
    server = Server("web", backlog=backlog).client("mallory", 250, since=BEGINS + 4.0 + after_s, patience_s=60.0)
    server.stalled = lambda at: BEGINS + 4.0 <= at < BEGINS + 20.0
    scene = town(server)
    scene.run(25.0)
    assert hoarders(scene) == set()


def test_a_server_that_is_down_makes_no_hoarder_of_who_repeats() -> None:
    server = Server("web").client("bob", 150, patience_s=60.0)
    scene = town(server)
    server.backlog = 0
    scene.run(20.0)
    assert scene.blamed() == set()


def probes(who: str, whom: str, per_s: float, *, reset: bool) -> Behaviour:
    """It begins connections and ends each at once, or is reset: by then it has said nothing."""
    pace = Pace(per_s)

    def behave(scene: Scene, s: float) -> None:
        begun = scene.send(who, whom, SYN, pace(s), octets=74)
        scene.send(whom, who, SYNACK, begun, octets=74)
        scene.send(who, whom, TCP, (2 if reset else 3) * begun, octets=66)
        scene.send(whom, who, RST if reset else TCP, begun, octets=66)

    return behave


@pytest.mark.parametrize("reset", [False, True])
def test_who_begins_and_ends_holds_nothing_though_others_are_denied(*, reset: bool) -> None:
    """A check of what is up, or one that a server, which may lie, makes come again and again."""
    server = Server("web")
    scene = town(server).begin(probes("mallory", "web", 110, reset=reset)).run(3.0)
    server.stalled = lambda _: True
    scene.run(12.0)
    assert scene.blamed() == set()


@pytest.mark.parametrize("scanner", ["bob", OUTSIDE])
def test_tries_at_closed_ports_deny_nobody_anything(scanner: str) -> None:
    """A pool of idle connections is made ready while somebody else tries ports, few enough to be told of neither."""
    pace = Pace(18)

    def tries(scene: Scene, s: float) -> None:
        scene.send("web", scanner, RST, scene.send(scanner, "web", SYN, pace(s), octets=60), octets=54)

    server = Server("web", descriptors=100_000)
    scene = town(server.hoarder("mallory", 110, since=BEGINS, until=BEGINS + 10)).begin(tries).run(12.0)
    assert hoarders(scene) == set()


@pytest.mark.parametrize("stall_s", [0.0, 2.0, 15.0])
def test_a_pool_that_opens_150_connections_at_once_hoards_nothing(stall_s: float) -> None:
    """Nothing is said on them yet; its server may stall just then."""
    server = Server("web", descriptors=4096, hang_up_s=60.0)
    server.client("mallory", 750, request=None, patience_s=1e9, wobble=0.0, since=BEGINS + 2.0, until=BEGINS + 2.2)
    server.stalled = lambda at: BEGINS + 2.0 <= at < BEGINS + 2.0 + stall_s
    scene = town(server).run(20.0)
    assert server.tried["mallory"] >= 150
    assert scene.blamed() == set()


@pytest.mark.parametrize("away_s", [2.0, 6.0])
@pytest.mark.parametrize("backlog", [64, 4096])
def test_clients_that_come_again_after_a_restart_hoard_nothing(backlog: int, away_s: float) -> None:
    """While it is away they repeat their tries; then all have their connections anew, and wait for it to be warm."""
    server = Server("web", backlog=backlog)
    scene = town(server)
    usual, server.backlog = server.backlog, 0
    scene.run(away_s)
    server.backlog, server.stalled = usual, lambda at: at < BEGINS + away_s + 3.0
    server.client("mallory", 150, patience_s=60.0, since=BEGINS + away_s, until=BEGINS + away_s + 3.0)
    server.client("bob", 150, request=0, patience_s=60.0, since=BEGINS + away_s, until=BEGINS + away_s + 1.0)
    scene.run(15.0)
    assert hoarders(scene) == set()
