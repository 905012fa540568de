"""Who works honestly is not blamed and not limited, however much more it is than before."""

import pytest

from hypervigil.model.status import Level, Role
from tests.unit.host.hsem.behaviour import (
    ICMP,
    MULTICAST,
    SYN,
    TCP,
    UDP,
    acknowledges,
    asks_in_vain,
    breaks_off,
    browses,
    calls,
    casts,
    copies,
    crawls,
    finds_gone,
    floods,
    floods_by_data,
    floods_open_port,
    for_,
    hoards_connections,
    in_turns,
    is_ahead_of_its_service,
    is_seen_from_one_side,
    meets_peers,
    pings,
    requests_by_udp,
    resolves,
    sends_late,
    starts_again,
    streams,
    welcomes,
)
from tests.unit.host.hsem.conftest import RESOLVER, town
from tests.unit.host.hsem.scene import Behaviour, Scene

MANY = [f"10.80.0.{n}" for n in range(1, 100)]

HONEST: dict[str, Behaviour] = {
    "ten times as many requests": browses("alice", "web", 100),
    "a hundred times as many requests": browses("alice", "web", 1000),
    "a client that never was one": browses("bob", "web", 200),
    "requests that the server is slow to answer": sends_late(browses("alice", "web", 100)),
    "ten times as many look-ups": resolves("bob", RESOLVER, 100),
    "look-ups at a neighbour": resolves("bob", "web", 200),
    "signed answers, much larger than their questions": resolves("bob", "web", 200, times_larger=8),
    "requests by UDP": requests_by_udp("bob", "web", 300),
    "a bulk transfer": copies("web", "alice", 3000),
    "a bulk transfer with few acknowledgements": copies("web", "alice", 3000, packets_per_ack=45),
    "a bulk transfer offloaded at both ends": copies("web", "alice", 9000, packets_per_ack=85),
    "a backup": copies("alice", "bob", 8000),
    "a survey of many hosts by ping": pings("alice", MANY, 60),
    "a path that is measured by pings": pings("alice", ["web"], 30),
    "a bulk transfer that hardly needs acknowledging": copies("web", "alice", 400, packets_per_ack=300),
    "a call by way of a relay": calls("alice", RESOLVER, 300),
    "an upload by QUIC": calls("alice", RESOLVER, 3000, answered=0.05),
    "measurements that nobody answers": streams("alice", "web", 50, reports_per_s=0, downwards=True),
    "a call to somebody who does not listen yet": streams("alice", RESOLVER, 90, reports_per_s=0),
    "a file for a whole group": casts("web", ["alice", "bob"], 300),
    "requests of which the client breaks off some": breaks_off("alice", "web", 200),
    "meeting peers of whom many are gone": meets_peers("alice", 50),
    "meeting many more of whom none is there": meets_peers("alice", 90, answer_every=10_000, tcp_every=10_000),
    "a crawler": crawls("alice", 50),
    "a crawler of far places": sends_late(crawls("alice", 50)),
    "somebody outside in a hurry": browses("203.0.113.9", "web", 300),
}


@pytest.mark.parametrize("kind", HONEST)
def test_it_is_neither_suspected_nor_limited(kind: str) -> None:
    scene = town().begin(HONEST[kind]).run(20)
    assert scene.suspected() == set()
    assert scene.limited() == set()


@pytest.mark.parametrize("besides", [casts("film", ["bob"], 300), streams("film", "bob", 95, reports_per_s=0)])
def test_what_nobody_answers_besides_tcp_makes_no_attack_of_it(scene: Scene, besides: Behaviour) -> None:
    """Of a peer only the sum of all that it said is known: what is no TCP of it went without an answer as well."""
    scene.begin(besides).run(3)
    scene.begin(browses("bob", "web", 15)).run(5)
    assert scene.suspected() == set()


def test_a_call_is_one_whoever_else_is_talked_with(scene: Scene) -> None:
    """Conversations by TCP, however many, are not those to whom the datagrams go."""
    scene.begin(*[browses("alice", f"203.0.113.{n}", 4) for n in range(6)]).learn()
    scene.begin(streams("alice", RESOLVER, 90, reports_per_s=0)).run(10)
    assert scene.suspected() == set()


@pytest.mark.parametrize("phase", range(3))
def test_a_new_look_may_come_just_after_many_connections_began(scene: Scene, phase: int) -> None:
    """Who began them is not seen any more in that interval: they are not for that reason taken up by nobody."""
    clients = [f"203.0.113.{n}" for n in range(1, 6)]
    scene.older(100).begin(in_turns(clients, "alice", "web", phase=phase)).run(8)
    assert scene.suspected() == set()


def test_it_may_also_begin_and_end_and_begin(scene: Scene) -> None:
    for _ in range(3):
        surge = browses("alice", "web", 200)
        scene.begin(surge).run(3)
        scene.end(surge)
        scene.run(2)
    assert scene.suspected() == set()


def test_a_film_for_a_group_keeps_half_until_it_is_cleared(scene: Scene) -> None:
    scene.begin(casts("web", ["alice"], 1000)).run(15)
    assert scene.blamed() == set()
    assert scene.delivered["web", "239.1.1.1", MULTICAST] >= 0.5 * scene.offered["web", "239.1.1.1", MULTICAST]
    assert scene.limits("web") == []


def test_who_only_acknowledges_is_perhaps_seen_from_one_side() -> None:
    """What it acknowledges may come another way; whoever sends data so is seen to send them in vain."""
    for octets, blamed in ((66, set()), (1500, {"alice"})):
        scene = Scene("alice").learn()
        scene.begin(acknowledges("alice", "203.0.113.9", 200, octets=octets)).run(15)
        assert scene.blamed() == blamed


@pytest.mark.parametrize(
    ("hosts", "begins", "requests", "acks"),
    [(2, 0, 25, 170), (1, 0, 80, 0), (2, 50, 40, 150), (60, 12, 25, 60)],
    ids=["a download", "a talk", "many connections", "many hosts"],
)
def test_where_nobody_is_ever_heard_no_answer_proves_nothing(
    hosts: int, begins: float, requests: float, acks: float
) -> None:
    """A mirror of one direction, or answers that take another way: what goes on is answered where nobody looks."""
    places = [f"203.0.113.{n}" for n in range(1, hosts + 1)]
    scene = Scene("alice").learn()
    scene.begin(is_seen_from_one_side("alice", places, begins=begins, requests=requests, acks=acks)).run(15)
    assert scene.roles("alice") == [Role.CLEARED]


def test_the_other_end_is_seen_to_answer_by_another_way(scene: Scene) -> None:
    """The way back is not that of the way there: only the receiver's NIC sees what it answers."""

    def behave(of: Scene, _: float) -> None:
        of.send("web", "alice", TCP, 400, octets=900)
        of.send("alice", "web", TCP, 200, arrives=False)

    scene.begin(behave).run(10)
    assert scene.suspected() == set()


@pytest.mark.parametrize("for_s", [2.6, 3.0])
def test_what_comes_after_an_honest_surge_is_no_surge(for_s: float) -> None:
    """It is over, and nobody need answer the last word of it."""
    scene = Scene("alice", "web").learn(200)
    scene.begin(for_(for_s, requests_by_udp("alice", "web", 300))).run(for_s)
    scene.begin(floods("alice", "web", 3, UDP)).run(5)
    assert scene.suspected() == set()


def test_many_clients_at_once(scene: Scene) -> None:
    scene.begin(*[browses(f"203.0.113.{n}", "web", 5) for n in range(1, 60)]).run(10)
    assert scene.suspected() == set()


@pytest.mark.parametrize("downwards", [False, True])
def test_a_stream_is_told_from_a_flood_by_its_receivers_reports(scene: Scene, *, downwards: bool) -> None:
    stream = streams("web", "alice", 300, reports_per_s=2, downwards=downwards)
    scene.begin(stream).run(40)
    assert scene.blamed() == set()
    assert set(scene.roles("web")) | set(scene.roles("alice")) == {Role.CLEARED}
    assert scene.limits("web") == []
    assert scene.delivered["web", "alice", UDP] >= 0.5 * scene.offered["web", "alice", UDP]


def test_a_stream_to_a_high_port_that_nobody_answers_keeps_half_until_it_is_cleared(scene: Scene) -> None:
    scene.begin(streams("web", "alice", 300, reports_per_s=0)).run(40)
    assert scene.blamed() == set()
    assert scene.delivered["web", "alice", UDP] >= 0.5 * scene.offered["web", "alice", UDP]


@pytest.mark.parametrize("later_s", [0.0, 1.0, 3.0])
def test_a_measurement_of_speed_to_which_one_word_was_said_keeps_half(scene: Scene, later_s: float) -> None:
    """iperf3 agrees by one datagram each, says by TCP that it begins, and then 10 Mbit/s go one way."""
    scene.begin(pings("web", ["bob"], 2)).learn(20)
    scene.send("web", "alice", UDP, 1, octets=46, asks=True)
    scene.send("alice", "web", UDP, 1, octets=46, asks=False)
    if later_s:
        scene.run(later_s)
        scene.send("alice", "web", TCP, 2, octets=67)
        scene.send("web", "alice", TCP, 2, octets=66)
    scene.begin(for_(10, floods("web", "alice", 860, UDP, octets=1490))).run(15)
    assert scene.blamed() == set()
    assert scene.limits("web") == []
    assert scene.delivered["web", "alice", UDP] >= 0.5 * scene.offered["web", "alice", UDP]


@pytest.mark.parametrize("answers", [True, False])
@pytest.mark.parametrize("receiver", ["web", "203.0.113.7"])
def test_a_ping_is_no_word_that_nobody_listens(receiver: str, *, answers: bool) -> None:
    """Measurements fifty times a second, as a grid's are, to who answers none; both ends are pinged meanwhile."""
    told = streams("alice", receiver, 50, reports_per_s=0, downwards=True)
    pinged = pings("10.9.9.9", ["alice", receiver], 1) if answers else floods("10.9.9.9", "alice", 1, ICMP)
    scene = Scene("alice", "web").begin(browses("bob", "web", 1)).learn()
    scene.begin(told, pinged).run(20)
    assert not scene.blamed()
    assert Role.VICTIM not in scene.roles("web")


@pytest.mark.parametrize("messages", [1, 2])
def test_a_path_that_a_call_tried_first_may_be_closed(messages: int) -> None:
    """It tries several addresses of the other end at once; some tell that nobody listens there."""
    scene = (
        Scene("alice", "web")
        .begin(browses("alice", "web", 4))
        .learn()
        .begin(calls("alice", RESOLVER, 92, answered=0.1))
    )
    scene.send("203.0.113.50", "alice", ICMP, messages, asks=False, unreachable=True)
    scene.run(20)
    assert not scene.witness.opened


def test_new_clients_of_a_server_at_its_capacity_are_no_hosts_that_it_looks_for() -> None:
    """Its case lasts, they become many, and the only one that does not answer is where its logs go."""
    scene = Scene("web").begin(
        *[browses(f"198.51.100.{n}", "web", 4) for n in range(30)],
        welcomes("web", 3),
        streams("web", "198.51.100.200", 1, reports_per_s=0, downwards=True),
    )
    scene.learn().cpu["web"] = 0.97
    scene.run(40)
    assert scene.roles("web") == [Role.OVERLOADED]


@pytest.mark.parametrize(("per_s", "blamed"), [(30, set()), (400, {"alice"})])
def test_who_asks_a_server_that_is_away_repeats_it(per_s: float, blamed: set[str]) -> None:
    """That may be several times as many tries as usual, and no more than these."""
    client = browses("alice", "203.0.113.9", 20)
    scene = Scene("alice").begin(client).learn()
    scene.end(client)
    scene.begin(asks_in_vain("alice", "203.0.113.9", per_s)).run(40)
    assert scene.blamed() == blamed
    assert blamed or not scene.limits("alice"), "it is free in the end"


@pytest.mark.parametrize("for_s", [1.0, 3.0])
@pytest.mark.parametrize("per_s", [100, 400])
@pytest.mark.parametrize("known", [True, False])
def test_a_client_may_be_ahead_of_its_service(per_s: float, for_s: float, *, known: bool) -> None:
    """Refused at first and then answered: it is held back meanwhile, and nobody is blamed."""
    scene = town() if known else Scene("alice", "web")
    scene.begin(is_ahead_of_its_service("alice", "web", per_s, for_s=for_s)).run(40)
    assert set(scene.roles("alice")) | set(scene.roles("web")) <= {Role.CLEARED}
    assert not scene.limits("alice"), "it is free in the end"


@pytest.mark.parametrize("capacity", [150, 100, 60, 40])
def test_more_than_a_server_can_serve_is_nobodys_attack(scene: Scene, capacity: float) -> None:
    scene.begin(browses("alice", "web", 200, capacity=capacity)).run(40)
    assert scene.blamed() == set()
    assert Role.VICTIM not in scene.roles("web")
    assert scene.delivered["alice", "web", SYN] >= 0.5 * scene.offered["alice", "web", SYN]


def test_bystanders_of_an_attack_are_left_alone(scene: Scene) -> None:
    scene.begin(browses("alice", "web", 60), browses("bob", "web", 60)).begin(floods_open_port("mallory", "web", 1000))
    scene.run(20)
    assert scene.blamed() == {"mallory"}
    assert scene.suspected() <= {"mallory", "web"}


def test_an_honest_peak_beside_somebodys_attack_on_oneself(scene: Scene) -> None:
    """Alice is flooded while she is honestly busy herself."""
    scene.begin(browses("alice", "web", 100), floods_open_port("mallory", "alice", 500)).run(20)
    assert scene.blamed() == {"mallory"}
    assert set(scene.roles("alice")) == {Role.VICTIM}
    assert scene.limited() == {"mallory"}


def test_what_was_cleared_is_left_in_peace_for_a_while(scene: Scene) -> None:
    stream = streams("web", "alice", 300, reports_per_s=0)
    scene.begin(stream).run(15)
    assert scene.roles("web") == [Role.CLEARED]
    scene.run(40)
    assert len(scene.verdicts("web")) == 1, "the same again opens no case"
    assert scene.level("web") is Level.LEVEL1


def test_unseen_ports_are_not_zero_and_not_an_attack(scene: Scene) -> None:
    samples = scene.hsem.samples("web")
    scene.unseen = {"web"}
    scene.run(5)
    assert scene.hsem.samples("web") == samples, "what is unseen teaches nothing"
    assert scene.hsem.samples("alice") > 40
    scene.unseen = set()
    scene.run(5)
    assert scene.suspected() == set()
    assert scene.hsem.samples("web") > samples


def test_silence_is_learned_as_zero(scene: Scene) -> None:
    samples = scene.hsem.samples("bob")
    scene._behaviours.clear()
    scene.run(5)
    assert scene.hsem.samples("bob") == samples + 5


def test_a_copy_that_is_offloaded_at_both_ends_is_acknowledged_rarely(scene: Scene) -> None:
    """Two frames of 64 KiB per acknowledgement."""
    scene.begin(copies("web", "alice", 9000, packets_per_ack=90)).run(20)
    assert scene.suspected() == set()


def test_a_stream_waits_for_its_first_report(scene: Scene) -> None:
    scene.begin(streams("web", "alice", 200, reports_per_s=0.4, downwards=True)).run(20)
    assert scene.blamed() == set()
    assert scene.delivered["web", "alice", UDP] >= 0.5 * scene.offered["web", "alice", UDP]


def test_a_slow_survey_by_ping_is_honest_though_it_includes_whom_one_works_with(scene: Scene) -> None:
    scene.begin(browses("alice", "web", 8), browses("alice", "bob", 8), browses("alice", "203.0.113.66", 8)).learn()
    scene.begin(pings("alice", ["web", "bob", "203.0.113.66", "203.0.113.67"], 55)).run(10)
    assert scene.suspected() == set()


def test_a_server_is_not_blamed_for_what_it_still_says_to_a_client_that_is_gone(scene: Scene) -> None:
    """Whoever held its connections ends; its kernel resets whatever still comes on them."""
    scene.begin(for_(10, hoards_connections("alice", "web", 200))).run(10)
    scene.begin(for_(2, floods_by_data("web", "alice", 1200))).run(6)
    assert "web" not in scene.blamed()


def test_a_server_that_floods_its_client_is_blamed_though_that_has_connections_to_it(scene: Scene) -> None:
    scene.begin(floods_by_data("web", "alice", 2000)).run(6)
    assert scene.verdict("web").role is Role.ATTACKER


@pytest.mark.parametrize("reopens", [0.5, 1.0])
@pytest.mark.parametrize("per_s", [30, 60])
def test_a_pool_of_connections_that_are_gone_is_no_flood_by_who_resets_them(per_s: float, reopens: float) -> None:
    """Beside talk in which the server sends more packets than it gets: by the sum of them it answers everything."""
    scene = town().begin(copies("web", "alice", 300)).run(60)
    scene.begin(for_(10, finds_gone("alice", "web", per_s, reopens=reopens))).run(20)
    assert scene.blamed() == set()


@pytest.mark.parametrize("away_s", [1.0, 3.0, 8.0])
def test_a_service_that_starts_again_is_no_victim_of_its_clients(away_s: float) -> None:
    """They try four times as often as they used to ask, and are refused until it is back."""
    clients, began = [f"203.0.113.{n}" for n in range(150)], 70.0
    asks = starts_again("web", clients, 38, refuses=lambda at: 4.3 if began < at <= began + away_s else None)
    scene = Scene("web", "alice").begin(asks).learn(60).older(10)
    scene.run(began + away_s - 60 + 15)
    assert set(scene.roles("web")) <= {Role.CLEARED}
    assert scene.blamed() == set()
