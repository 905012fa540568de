"""Clients of a service that is gone try again and again; who never was one, and who fills its table, floods."""

from collections.abc import Callable

import pytest

from hypervigil.host.hsem.served import MAX_HOSTS, REMEMBERED_S, Served
from hypervigil.host.hsem.sides import Peer
from hypervigil.host.hsem.slow import Sent
from hypervigil.model.ids import OUTSIDE, Instant, VmId
from hypervigil.model.report import HostReport, PairRate
from hypervigil.model.status import Role
from hypervigil.model.traffic import Direction
from tests.unit.host.hsem.behaviour import (
    asks_in_vain,
    browses,
    comes_back,
    fills_table,
    floods,
    floods_closed_port,
    floods_open_port,
    pings,
    requests_by_udp,
    resolves,
    talks,
    welcomes,
)
from tests.unit.host.hsem.scene import Behaviour, Scene

SERVER = "203.0.113.9"
VM = VmId("alice")


def used(times: Behaviour, *, per_s: float = 8, server: str = SERVER) -> Scene:
    """A client that was served until now, and then does this."""
    client = browses("alice", server, per_s)
    scene = Scene("alice", "web").begin(client, welcomes("web", 2)).learn().run(5)
    scene.end(client)
    return scene.begin(times)


GONE: dict[str, Callable[[], Behaviour]] = {
    "refused": lambda: floods_closed_port("alice", SERVER, 40),
    "refused, and it tries in a hurry": lambda: floods_closed_port("alice", SERVER, 95),
    "nobody there": lambda: asks_in_vain("alice", SERVER, 19),
}


@pytest.mark.parametrize("how", GONE)
def test_who_tries_again_at_a_service_that_is_gone_floods_nobody(how: str) -> None:
    scene = used(GONE[how]()).run(60)
    assert not scene.blamed()
    assert not scene.limits("alice"), "it is free in the end"


@pytest.mark.parametrize("away_s", [0.6, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("how", GONE)
def test_nor_when_the_service_is_back(how: str, away_s: float) -> None:
    tries = GONE[how]()
    scene = used(tries).run(away_s)
    scene.end(tries)
    scene.begin(browses("alice", SERVER, 30)).run(60)
    assert not scene.blamed()


def test_a_neighbour_that_is_gone_is_no_victim() -> None:
    scene = used(floods_closed_port("alice", "web", 60), server="web").run(60)
    assert not scene.blamed()
    assert Role.VICTIM not in scene.roles("web")


FLOODS: dict[str, Behaviour] = {
    "at a port where it never was": floods_closed_port("alice", SERVER, 60, service=5),
    "at a host where it never was": floods_closed_port("alice", "203.0.113.77", 60),
    "of many more than it ever tried": floods_closed_port("alice", SERVER, 400),
    "that is answered": floods_open_port("alice", SERVER, 60),
    "that fills a table": fills_table("alice", SERVER, 95, backlog=128),
    "that fills a large table": fills_table("alice", SERVER, 95, backlog=1024),
}


@pytest.mark.parametrize("how", FLOODS)
def test_to_have_been_served_is_no_leave_to_flood(how: str) -> None:
    scene = used(FLOODS[how]).run(20)
    assert scene.blamed() == {"alice"}


def test_a_limit_is_no_silence_of_the_service() -> None:
    """Its tries are stopped by ourselves, so nothing of them is answered."""
    scene = used(floods_open_port("alice", SERVER, 95)).run(0.6)
    assert scene.limits("alice")
    assert scene.run(10).blamed() == {"alice"}


def test_neither_is_a_conviction() -> None:
    """What it floods answers it, and its own resets look as if it went on."""
    client = browses("mallory", SERVER, 8)
    scene = Scene("mallory", "web").begin(client, welcomes("web", 2)).learn()
    flood = floods_open_port("mallory", "web", 400)
    scene.begin(flood).run(5)
    assert scene.blamed() == {"mallory"}
    scene.end(flood)
    scene.run(200).end(client)
    before = len(scene.witness.verdicts)
    scene.begin(floods_closed_port("mallory", "web", 95)).run(20)
    assert any(one.vm == "mallory" and one.role is Role.ATTACKER for one in scene.witness.verdicts[before:])


@pytest.mark.parametrize("flood", [floods_closed_port, floods], ids=["refused", "ignored"])
def test_many_that_try_one_host_together_are_no_clients(flood: Callable[[str, str, float], Behaviour]) -> None:
    """Each for itself no more than a client would."""
    names = [f"vm{n}" for n in range(10)]
    clients = [browses(name, "web", 2) for name in names]
    scene = Scene(*names, "web").begin(*clients).learn().run(5)
    scene.end(*clients)
    assert scene.begin(*(flood(name, "web", 95) for name in names)).run(20).blamed() == set(names)


def test_many_that_fill_one_table_together_are_found() -> None:
    """Of what was accepted each has no more than it usually asks for."""
    names = [f"vm{n}" for n in range(8)]
    clients = [browses(name, "web", 100) for name in names]
    scene = Scene(*names, "web").begin(*clients).learn().run(5)
    scene.end(*clients)
    assert scene.begin(fills_table(names, "web", 600, backlog=1024)).run(20).blamed() == set(names)


@pytest.mark.parametrize("per_s", [300, 2000])
def test_a_service_that_refuses_is_no_excuse_for_any_rate(per_s: float) -> None:
    scene = used(floods_closed_port("alice", "web", per_s), per_s=per_s / 6, server="web").run(20)
    assert scene.blamed() == {"alice"}


@pytest.mark.parametrize("asks", [resolves, requests_by_udp])
def test_what_is_asked_elsewhere_speaks_for_no_tries(asks: Callable[[str, str, float], Behaviour]) -> None:
    """Look-ups and requests by UDP to who served it, beside tries at who never did."""
    client = browses("alice", SERVER, 8)
    scene = Scene("alice", "web").begin(client, asks("alice", SERVER, 95), welcomes("web", 2)).learn().run(5)
    scene.end(client)
    assert scene.begin(floods_closed_port("alice", "web", 95, service=5)).run(20).blamed() == {"alice"}


OTHERS: dict[str, Callable[[], Behaviour]] = {
    "pings": lambda: pings("alice", ["web"], 2),
    "a session": lambda: talks("alice", "web", 5),
}


@pytest.mark.parametrize("other", OTHERS)
def test_an_answer_to_something_else_makes_no_service(other: str) -> None:
    """A try that is refused, beside something at the same host that is answered."""
    client, tries = browses("alice", SERVER, 8), floods_closed_port("alice", "web", 1, service=5)
    scene = Scene("alice", "bob", "web").begin(client, OTHERS[other](), browses("bob", "web", 2)).learn()
    scene.begin(tries).run(5)
    scene.end(client, tries)
    assert scene.begin(floods_closed_port("alice", "web", 95, service=5)).run(20).blamed() == {"alice"}


# --- it works with others meanwhile ---
@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.8])
@pytest.mark.parametrize("back_s", [2.2, 3.4, 7.0])
def test_a_service_may_be_back_at_any_moment(back_s: float, share: float) -> None:
    """Of the interval in which it is back, it accepts what comes in the last part."""
    scene = used(comes_back("alice", SERVER, 95, after_s=back_s, share=share)).run(40)
    assert not scene.blamed()


@pytest.mark.parametrize("others", [1, 3])
@pytest.mark.parametrize("per_s", [40, 80])
def test_one_of_two_services_may_be_gone(per_s: float, others: float) -> None:
    scene = used(browses("alice", "203.0.113.10", others)).begin(floods_closed_port("alice", SERVER, per_s)).run(60)
    assert not scene.blamed()


@pytest.mark.parametrize("services", [(1, 2), (1, 7, 40)])
def test_of_several_ports_that_all_accept_each_is_known(services: tuple[int, ...]) -> None:
    clients = [browses("alice", SERVER, 6, service=one) for one in services]
    scene = Scene("alice", "web").begin(*clients, welcomes("web", 2)).learn().run(10)
    scene.end(*clients)
    gone = [floods_closed_port("alice", SERVER, 80 / len(services), service=one) for one in services]
    assert not scene.begin(*gone).run(60).blamed()


def test_who_also_looks_up_names_there_is_a_client() -> None:
    client, asks = browses("alice", SERVER, 8, service=1), resolves("alice", SERVER, 2)
    scene = Scene("alice", "web").begin(client, asks, welcomes("web", 2)).learn().run(10)
    scene.end(client)
    assert not scene.begin(floods_closed_port("alice", SERVER, 80, service=1)).run(60).blamed()


# --- the memory ---
def pair(address: str = SERVER, services: int = 1 << 7, **other: float) -> PairRate:
    """What goes to one host: by default accepted tries at one service."""
    rates = {"packets": 40.0, "octets": 4000.0, "openings": 8.0, "answers": 40.0, "resets": 0.0, **other}
    return PairRate(VM, Direction.OUT, OUTSIDE, address, **rates, ports=1, new=False, services=services)


ALL = Sent(syns=8.0, accepted=8.0)


def seen(
    *pairs: PairRate, at: float = 100.0, sent: Sent = ALL, suspects: tuple[VmId, ...] = (), served: Served | None = None
) -> Served:
    """After one report."""
    served = Served() if served is None else served
    report = HostReport(Instant(at), 1.0, (VM,), memoryview(b""), pairs)
    served.see(report, {VM: sent}, suspects, Instant(at))
    return served


def known(served: Served, now: float, services: int = 1 << 7, address: str = SERVER) -> int:
    """Of these services at this host, those that are known to have accepted."""
    asked = Peer(Direction.OUT, OUTSIDE, address, 9.0, 540.0, 9.0, 0.0, 0.0, 1, services=services)
    return served.known(VM, asked, Instant(now)).served


def test_what_accepted_is_known_for_hours_and_only_that() -> None:
    served = seen(pair())
    assert known(served, 100.0 + REMEMBERED_S) == 1 << 7
    assert known(served, 101.0, services=1 << 7 | 1 << 9) == 1 << 7
    assert known(served, 101.0, services=1 << 9) == 0
    assert known(served, 101.0, address="203.0.113.10") == 0
    assert known(served, 101.0 + REMEMBERED_S) == 0


@pytest.mark.parametrize(
    "nothing",
    [
        pair(answers=0.0),
        pair(answers=8.0, resets=8.0),
        pair(answers=40.0, resets=1.0),
        pair(answers=7.0),
        pair(packets=8.0),
        pair(openings=0.0),
        pair(services=0),
    ],
    ids=["unanswered", "refused", "refused once", "one unanswered", "not gone on with", "not begun", "no port"],
)
def test_what_did_not_surely_accept_is_not_known(nothing: PairRate) -> None:
    assert known(seen(nothing), 101.0) == 0


def test_while_tries_are_open_it_is_not_known_which() -> None:
    assert known(seen(pair(), sent=Sent(syns=9.0, accepted=6.0)), 101.0) == 0
    late = seen(pair(openings=1.0, answers=2.0), sent=Sent(syns=1.0, accepted=0.0))
    assert known(late, 101.0) == 0
    assert known(seen(pair(), at=101.0, sent=Sent(syns=8.0, accepted=9.0), served=late), 102.0), "it came later"


def test_of_a_suspect_nothing_is_learned() -> None:
    assert known(seen(pair(), suspects=(VM,)), 101.0) == 0


def test_where_all_together_try_too_much_nobody_is_a_client() -> None:
    served = seen(pair())
    other = PairRate(VmId("bob"), Direction.OUT, OUTSIDE, SERVER, 99, 5940, 99, 0, 0, 1, new=False, services=1 << 7)
    assert not known(seen(pair(), other, at=101.0, served=served), 102.0)
    assert known(seen(pair(), at=102.0, served=served), 103.0), "and again once it is over"


def test_a_connection_that_lasts_is_served_as_long() -> None:
    served = seen(pair())
    for hour in range(1, 9):
        seen(pair(openings=0.0), at=100.0 + hour * 3600.0, served=served)
    assert known(served, 100.0 + 9 * 3600.0) == 1 << 7


def test_of_many_hosts_those_that_accepted_last_are_known() -> None:
    served = Served()
    for n in range(MAX_HOSTS + 1):
        seen(pair(f"203.0.113.{n}"), at=100.0 + n, served=served)
    assert [known(served, 200.0, address=f"203.0.113.{n}") > 0 for n in (0, 1, MAX_HOSTS)] == [False, True, True]


def test_vms_that_are_gone_are_forgotten() -> None:
    served = seen(pair())
    served.keep(())
    assert known(served, 101.0) == 0
