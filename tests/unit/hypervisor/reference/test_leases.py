"""DHCP as the model reads it: what teaches, what does not, and whose an address is."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypervigil.hypervisor.adapters.ebpf import layout
from hypervigil.hypervisor.reference.frame import V4_MAPPED, read
from hypervigil.hypervisor.reference.leases import ACK, Leases, Leasing, Message, answered, asked, mapped
from hypervigil.hypervisor.reference.neighbours import Holder, Neighbours
from tests.integration.dhcp import RELEASE, REQUEST, answer, anything, message, option, request

MAC, OTHER, SERVER = "52:54:00:00:00:01", "52:54:00:00:00:02", "52:54:00:00:ff:01"
S = 1_000_000_000


def told(said: bytes, **changes: int) -> Message | None:
    frame = answer(SERVER, said, by="10.0.0.1")
    return answered(read(frame, len(frame), **changes), layout.pack_mac(MAC))


def test_an_ack_is_read() -> None:
    given = told(message(ACK, MAC, yours="10.0.0.5", lease_s=3600, server="10.0.0.1"))
    assert given == Message(ACK, bytes(4), bytes((10, 0, 0, 5)), bytes(4), 3600)


@pytest.mark.parametrize(
    "said",
    [
        message(ACK, OTHER, yours="10.0.0.5", lease_s=9),
        message(ACK, MAC, yours="10.0.0.5", lease_s=9)[:-1],
        message(ACK, MAC, yours="10.0.0.5", lease_s=9)[:-1] + option(51, bytes(4)) + b"\xff",
        message(ACK, MAC, yours="10.0.0.5", lease_s=9)[:-1] + option(53, b"\x05") + b"\xff",
        message(ACK, MAC)[:240] + option(53, b"\x05\x05") + b"\xff",
        message(ACK, MAC)[:240] + bytes((53, 9, 5)),
        message(ACK, MAC)[:240] + bytes(64) + option(53, b"\x05") + b"\xff",
        message(ACK, MAC)[:236] + bytes(4) + option(53, b"\x05") + b"\xff",
        message(ACK, MAC)[:240] + b"\xff",
        message(REQUEST, MAC),
    ],
)
def test_what_is_anothers_or_may_be_read_in_two_ways_is_not(said: bytes) -> None:
    assert told(said) is None


def test_what_will_be_cut_up_later_is_not_read() -> None:
    assert told(message(ACK, MAC, yours="10.0.0.5", lease_s=9), gso_size=100) is None


def test_a_request_is_read_in_ones_own_name_only() -> None:
    frame = request(MAC, message(RELEASE, MAC, own="10.0.0.5"), by="10.0.0.5")
    said = asked(read(frame, len(frame)), layout.pack_mac(MAC))
    assert said is not None
    assert (said.kind, said.own) == (RELEASE, bytes((10, 0, 0, 5)))
    assert asked(read(frame, len(frame)), layout.pack_mac(OTHER)) is None


@given(st.integers(0, 10**9), st.booleans())
def test_any_frame_is_read_or_not_and_nothing_breaks(seed: int, out: bool) -> None:
    frame = anything(random.Random(seed), MAC, [SERVER], ["10.0.0.5"], out=out)
    for reading in (asked, answered):
        said = reading(read(frame, len(frame)), layout.pack_mac(MAC))
        assert said is None or 0 < said.kind < 256


def test_a_server_gives_what_is_in_its_range_and_one_hosts() -> None:
    within = Leasing(frozenset(), within=bytes((10, 0, 0, 0)), mask=bytes((255, 255, 255, 0)))
    addresses = ("10.0.0.7", "10.0.1.7", "0.0.0.0", "127.0.0.1", "224.0.0.1")
    packed = [bytes(map(int, one.split("."))) for one in addresses]
    assert [within.may_give(one) for one in packed] == [True, False, False, False, False]
    assert [Leasing(frozenset()).may_give(one) for one in packed] == [True, True, False, False, False]


PLACE = (1, mapped(bytes((10, 0, 0, 5))))


def test_an_address_is_one_ports_until_its_end() -> None:
    leases = Leases(Neighbours())
    leases.give(3, PLACE, 10, S)
    leases.give(4, PLACE, 10, 2 * S)
    assert leases.gives(3, PLACE, 10 * S, free=False)
    assert not leases.gives(4, PLACE, 10 * S, free=False)
    assert not leases.gives(4, PLACE, 10 * S, free=True), "also who has none may not use another's"
    assert leases.held[4].refused == 1
    assert not leases.gives(3, PLACE, 11 * S, free=False)
    assert leases.gives(4, PLACE, 11 * S, free=True)
    leases.give(4, PLACE, 10, 11 * S)
    assert leases.gives(4, PLACE, 12 * S, free=False)
    assert not leases.gives(3, PLACE, 12 * S, free=True)


def test_what_the_policy_gives_is_not_leased() -> None:
    leases = Leases(Neighbours({PLACE: Holder(9)}))
    leases.give(3, PLACE, 10, S)
    leases.give(9, PLACE, 10, S)
    assert not leases.gives(3, PLACE, 2 * S, free=True)
    assert (leases.held[3].refused, leases.held[9].refused) == (1, 0)


def test_what_is_given_back_is_free_at_once() -> None:
    leases = Leases(Neighbours())
    leases.give(3, PLACE, 10, S)
    leases.give_back(3, PLACE)
    assert not leases.gives(3, PLACE, 2 * S, free=False)
    assert leases.neighbours.holders == {}
    leases.give(4, PLACE, 10, 2 * S)
    assert leases.gives(4, PLACE, 3 * S, free=False)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 7), st.booleans()), max_size=40))
def test_no_address_has_two_holders_and_no_port_more_than_it_may(steps: list[tuple[int, int, bool]]) -> None:
    leases = Leases(Neighbours())
    for second, (slot, number, back) in enumerate(steps, start=1):
        place = (1, V4_MAPPED + bytes((10, 0, 0, number)))
        if back:
            leases.give_back(slot, place)
        else:
            leases.give(slot, place, 5, second * S)
        for n in range(8):
            every = (1, V4_MAPPED + bytes((10, 0, 0, n)))
            assert sum(leases.gives(one, every, second * S, free=False) for one in range(3)) <= 1
        assert all(len(held.leases) == layout.LEASES for held in leases.held.values())
    for slot in range(3):
        leases.free(slot, 1)
    assert leases.neighbours.holders == {}
