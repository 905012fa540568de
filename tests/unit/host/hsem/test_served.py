"""Clients of a service that is gone try again and again; who never was one, and who fills its table, floods."""

from collections.abc import Callable

import pytest

from hypervigil.host.hsem.served import MAX_HOSTS, REMEMBERED_S, Served
from hypervigil.host.hsem.sides import Peer
from hypervigil.model.ids import OUTSIDE, Instant, VmId
from hypervigil.model.report import PairRate
from hypervigil.model.status import Role
from hypervigil.model.traffic import Direction
from tests.unit.host.hsem.behaviour import (
    asks_in_vain,
    browses,
    fills_table,
    floods_closed_port,
    floods_open_port,
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


# --- the memory ---
def pair(address: str = SERVER, services: int = 1 << 7, **other: float) -> PairRate:
    """What goes to one host: by default accepted tries at one service."""
    rates = {"packets": 40.0, "octets": 4000.0, "openings": 8.0, "answers": 40.0, "resets": 0.0, **other}
    return PairRate(VM, Direction.OUT, OUTSIDE, address, **rates, ports=1, new=False, services=services)


def known(served: Served, now: float, services: int = 1 << 7, address: str = SERVER) -> int:
    """Of these services at this host, those that are known to have accepted."""
    asked = Peer(Direction.OUT, OUTSIDE, address, 9.0, 540.0, 9.0, 0.0, 0.0, 1, services=services)
    return served.known(VM, asked, Instant(now)).served


def test_what_accepted_is_known_for_hours_and_only_that() -> None:
    served = Served()
    served.see([pair()], Instant(100.0))
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
        pair(packets=8.0),
        pair(openings=0.0),
        pair(services=1 << 7 | 1 << 9),
        pair(services=0),
    ],
    ids=["unanswered", "refused", "not gone on with", "not begun", "one of two", "no port"],
)
def test_what_did_not_surely_accept_is_not_known(nothing: PairRate) -> None:
    served = Served()
    served.see([nothing], Instant(100.0))
    assert known(served, 101.0) == 0


def test_of_many_hosts_those_that_accepted_last_are_known() -> None:
    served = Served()
    for n in range(MAX_HOSTS + 1):
        served.see([pair(f"203.0.113.{n}")], Instant(100.0 + n))
    assert [known(served, 200.0, address=f"203.0.113.{n}") > 0 for n in (0, 1, MAX_HOSTS)] == [False, True, True]


def test_vms_that_are_gone_are_forgotten() -> None:
    served = Served()
    served.see([pair()], Instant(100.0))
    served.keep(())
    assert known(served, 101.0) == 0
