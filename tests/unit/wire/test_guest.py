"""The guest protocol: what is said arrives, what is out of bounds is refused, and no message can name another VM."""

import msgspec
import pytest

from hypervigil.model.guest import GuestMetric
from hypervigil.model.traffic import Direction, TrafficClass
from hypervigil.wire import guest
from hypervigil.wire.frames import ProtocolError
from tests.fuzz.words import FLOW, FROM_GUEST, HEAD, SAMPLING, TALKERS, TO_GUEST, VALUES


@pytest.mark.parametrize("message", FROM_GUEST, ids=lambda message: type(message).__name__)
def test_what_a_guest_says_arrives(message):
    assert guest.parse_from_guest(msgspec.json.encode(message)) == message


@pytest.mark.parametrize("message", TO_GUEST, ids=lambda message: type(message).__name__)
def test_what_the_host_says_arrives(message):
    line = guest.encode_to_guest(message)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert guest.parse_to_guest(line[:-1]) == message


def test_every_kind_of_message_is_tried():
    assert {type(message) for message in FROM_GUEST} == set(guest.FromGuest.__args__)
    assert {type(message) for message in TO_GUEST} == set(guest.ToGuest.__args__)


@pytest.mark.req("A226", "T-CORE-13")
@pytest.mark.parametrize("message", FROM_GUEST, ids=lambda message: type(message).__name__)
def test_no_message_can_name_a_vm(message):
    """Not by a further item, and not by an object in place of the array."""
    items = msgspec.json.decode(msgspec.json.encode(message))
    for forged in ([*items, "11111111-2222-3333-4444-555555555555"], {"is": items[0], "vm": "x"}):
        with pytest.raises(ProtocolError):
            guest.parse_from_guest(msgspec.json.encode(forged))


@pytest.mark.parametrize(
    "message",
    [
        guest.Report1(2, *HEAD[1:], 1, 0, 0, 1000, VALUES, SAMPLING, TALKERS),
        guest.Report1(*HEAD, 3, 0, 0, 1000, VALUES, SAMPLING, TALKERS),
        guest.Report1(*HEAD, 1, 0, 0, 1000, VALUES[:-1], SAMPLING, TALKERS),
        guest.Report1(*HEAD, 1, 0, 0, 1000, (-2, *VALUES[1:]), SAMPLING, TALKERS),
        guest.Report1(*HEAD, 1, 0, 0, 1000, (2**53, *VALUES[1:]), SAMPLING, TALKERS),
        guest.Report1(*HEAD, 1, 0, 0, 1000, VALUES, (guest.Sampling(0, 1),) * 2, TALKERS),
        guest.Report1(*HEAD, 1, 0, 0, 1000, VALUES, (guest.Sampling(1, 1, -1, 1),) * 2, TALKERS),
        guest.Report1(*HEAD, 1, 0, 0, 1000, VALUES, SAMPLING, TALKERS * 9),
        guest.Report1(*HEAD, 1, 0, 0, 1000, VALUES, SAMPLING, (guest.Talker(Direction.OUT, "10.60.0.2; rm", 1),)),
        guest.Report1(1, 7, 0, 1, 1, 0, 0, 1000, VALUES, SAMPLING, TALKERS),
        guest.Flows(*HEAD, 1, (FLOW,) * 65, 65),
        guest.Declined(*HEAD, 1, "two words"),
        guest.Declined(*HEAD, 1, "x" * 33),
        guest.Declined(*HEAD, 1, "ende\n"),
    ],
)
def test_what_is_out_of_bounds_is_refused(message):
    with pytest.raises(ProtocolError):
        guest.parse_from_guest(msgspec.json.encode(message))


def test_words_that_an_agent_cannot_read_are_not_sent():
    with pytest.raises(ProtocolError, match="not plain"):
        guest.encode_to_guest(guest.Ask(1, 'x"y'))


@pytest.mark.req("A230")
def test_a_whole_history_fits_into_a_kilobyte():
    usual = tuple(guest.Usual(metric, 9_999, 999) for metric in GuestMetric)
    line = guest.encode_to_guest(guest.BriefHistory(1000, usual, tuple(range(30_000, 30_020))))
    assert len(line) <= 1024
    with pytest.raises(ProtocolError, match="longer"):
        guest.encode_to_guest(guest.BriefHistory(1, (guest.Usual(GuestMetric.CPU, 2**50, 2**50),) * len(GuestMetric)))


@pytest.mark.req("A225")
def test_level_2_tells_all_that_level_1_tells():
    first, second = guest.Report1.__struct_fields__, guest.Report2.__struct_fields__
    assert second[: len(first)] == first
    assert len(second) > len(first)


def test_classes_are_those_of_the_data_plane():
    for direction, first in ((Direction.OUT, GuestMetric.OUT_SYN), (Direction.IN, GuestMetric.IN_SYN)):
        names = [GuestMetric(first + traffic).name for traffic in TrafficClass]
        assert names == [f"{direction.name}_{traffic.name}" for traffic in TrafficClass]


def test_the_longest_level_2_report_fits_into_a_line():
    address = "fd00:1111:2222:3333:4444:5555:6666:7777"
    big = 2**31
    flow = guest.Flow(Direction.OUT, 17, address, 65535, address, 65535, 2, big, big, big, big, big)  # type: ignore[arg-type]
    report = guest.Report2(
        *HEAD,
        2,
        9,
        1000,
        1000,
        (2**40,) * len(GuestMetric),
        SAMPLING,
        (guest.Talker(Direction.OUT, address, big),) * 16,
        (flow,) * 64,
        1000,
        (guest.Transmitter(4_000_000, "x" * 15, big, 1000, 10),) * 16,
        (guest.Device("virtio12-input.0", big, big),) * 16,
    )
    assert len(msgspec.json.encode(report)) < guest.LINE_FROM_GUEST
