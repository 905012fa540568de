"""Which process sends."""

import pytest

from hypervigil.guest.sockets import Connection
from hypervigil.guest.vsem.transmitters import MOST, Owner, Transmitters


def connection(inode: int, acked: int) -> Connection:
    return Connection(1, (b"", 0, b"", 0), inode, acked)


@pytest.mark.req("A238")
def test_octets_are_those_confirmed_in_the_interval():
    found = Transmitters()
    found.found([Owner(10, "web", frozenset({1, 2}), 0), Owner(11, "idle", frozenset({3}), 0)], frozenset())
    found.see([connection(1, 1000), connection(3, 50)])
    assert [octets for _, _, octets, *_ in found.busiest(8)] == [0, 0]
    found.see([connection(1, 4000), connection(2, 500), connection(3, 50)])
    assert found.busiest(8) == [(10, "web", 3500, 2, 0), (11, "idle", 0, 1, 0)]
    assert found.busiest(1) == [(10, "web", 3500, 2, 0)]


def test_who_sends_past_tcp_goes_first():
    found = Transmitters()
    found.found([Owner(10, "web", frozenset({1}), 0), Owner(12, "hping3", frozenset({9}), 1)], frozenset())
    found.see([])
    found.see([connection(1, 10**9)])
    assert [pid for pid, *_ in found.busiest(8)] == [12, 10]


def test_who_is_gone_is_forgotten_and_there_is_an_end_to_the_others():
    found = Transmitters()
    found.found([Owner(pid, "x y", frozenset({pid}), 0) for pid in range(2 * MOST)], frozenset())
    assert len(found.busiest(10_000)) == MOST
    assert found.busiest(1)[0][1] == "x_y"
    found.found([], frozenset(range(MOST)))
    assert found.busiest(10) == []
