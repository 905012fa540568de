"""One guest's bytes: what is taken, what is counted, and that a guest can only waste its own budget."""

import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypervigil.host.gateway import budget
from hypervigil.host.gateway.budget import Budget
from hypervigil.host.gateway.hearing import FORMER_AGENTS, Counts, Hearing
from hypervigil.model.ids import Instant, VmId
from hypervigil.wire.gateway import Unheard
from hypervigil.wire.guest import LINE_FROM_GUEST, Declined, FromGuest
from tests.fuzz.words import FROM_GUEST

T = Instant(100.0)
VM = VmId("11111111-2222-3333-4444-555555555555")


def said(agent: int, sequence: int) -> FromGuest:
    return Declined(1, agent, sequence, 5, 1, "unknown")


def lines(*messages: FromGuest) -> bytes:
    return b"".join(msgspec.json.encode(message) + b"\n" for message in messages)


def test_messages_are_heard():
    hearing = Hearing(T)
    in_order = [msgspec.structs.replace(message, sequence=place) for place, message in enumerate(FROM_GUEST, start=1)]
    assert list(hearing.hear(lines(*in_order))) == in_order
    assert not hearing.counts.any()


@pytest.mark.req("T-CORE-13")
def test_garbage_is_counted_and_what_follows_is_heard():
    hearing = Hearing(T)
    stream = b"\x00\xff\n{}\n" + b"x" * (LINE_FROM_GUEST + 9) + b"\n" + lines(said(1, 1))
    assert list(hearing.hear(stream)) == [said(1, 1)]
    assert (hearing.counts.garbage, hearing.counts.too_long) == (2, 1)


@pytest.mark.req("T-CORE-10")
def test_all_that_a_guest_sends_counts_as_read_once():
    hearing = Hearing(T)
    stream = b"no line of ours\n" + lines(said(1, 1))
    list(hearing.hear(stream[:9]))
    list(hearing.hear(stream[9:]))
    assert hearing.take_octets() == len(stream)
    assert hearing.take_octets() == 0


@pytest.mark.req("T-CORE-13", "A190")
def test_what_was_said_before_is_not_heard_again():
    hearing = Hearing(T)
    stream = lines(said(1, 1), said(1, 2), said(1, 3))
    assert len(list(hearing.hear(stream))) == 3
    assert list(hearing.hear(stream)) == []
    assert hearing.counts.replayed == 3
    assert list(hearing.hear(lines(said(1, 9)))) == [said(1, 9)], "a gap is no replay"


@pytest.mark.req("T-CORE-13")
def test_an_agent_that_another_followed_is_not_heard_again():
    hearing = Hearing(T)
    list(hearing.hear(lines(said(1, 50))))
    hearing.joined()
    assert list(hearing.hear(lines(said(2, 1), said(1, 51), said(2, 2)))) == [said(2, 1), said(2, 2)]
    assert hearing.counts.replayed == 1


def test_the_memory_of_former_agents_has_an_end():
    hearing = Hearing(T)
    for agent in range(10 * FORMER_AGENTS):
        for _ in hearing.hear(lines(said(agent, 1))):
            hearing.budget = Budget(T)
    assert len(hearing._former) == FORMER_AGENTS


def test_half_a_line_of_a_lost_connection_is_not_joined_to_the_next():
    hearing = Hearing(T)
    line = lines(said(1, 1))
    assert list(hearing.hear(line[:20])) == []
    hearing.joined()
    assert list(hearing.hear(line)) == [said(1, 1)]


@pytest.mark.req("T-CORE-13")
def test_more_lines_than_a_guest_may_send_are_counted_and_not_looked_at():
    hearing = Hearing(T)
    began = time.perf_counter()
    assert list(hearing.hear(b"x\n" * 100_000)) == []
    assert time.perf_counter() - began < 1.0
    assert hearing.counts.garbage == budget.LINES_BURST
    assert hearing.counts.over_rate == 100_000 - budget.LINES_BURST
    assert hearing.budget.octets(T) == 0
    assert hearing.budget.again_at(T) - T < 10, "it is heard again when it behaves"


@pytest.mark.req("T-CORE-10", "T-CORE-13")
@given(st.lists(st.tuples(st.floats(0, 0.5), st.integers(1, 70_000)), min_size=1, max_size=60))
def test_no_guest_is_read_beyond_its_budget(tries):
    own = Budget(T)
    now, taken = T, 0
    for pause, wanted in tries:
        now = Instant(now + pause)
        octets = min(wanted, own.octets(now))
        own.read(octets)
        taken += octets
    assert taken <= budget.OCTETS_BURST + budget.OCTETS_PER_S * (now - T) + len(tries)


def test_an_agents_own_rate_is_well_within():
    hearing = Hearing(T)
    now = T
    report = max(lines(message) for message in FROM_GUEST)
    for second in range(600):
        now = Instant(T + second)
        assert hearing.budget.octets(now) > 20_000
        hearing.budget.read(20_000 - 5 * budget.LINE_COST)
        for _ in range(5):
            assert hearing.budget.line()
    assert report


def test_counts_are_told_once():
    hearing = Hearing(T)
    list(hearing.hear(b"x\n"))
    assert hearing.take_counts().told(VM, T) == Unheard(vm=VM, at=T, garbage=1)
    assert not hearing.counts.any()
    assert {*Counts.__slots__} == {*Unheard.__struct_fields__} - {"vm", "at"}
