"""What a guest sends is parsed or refused with ``ProtocolError``, in bounded time and memory, whatever it is."""

import random
import time
import tracemalloc

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypervigil.wire.frames import ProtocolError
from hypervigil.wire.guest import (
    LINE_FROM_GUEST,
    LineSplitter,
    Spoilt,
    encode_to_guest,
    parse_from_guest,
    parse_to_guest,
)
from tests.fuzz.lines import LONG, QUICK, SEED, damaged, survives
from tests.fuzz.words import FROM_GUEST, TO_GUEST

FROM = tuple(msgspec.json.encode(message) for message in FROM_GUEST)
TO = tuple(encode_to_guest(message)[:-1] for message in TO_GUEST)
PARSERS = ((parse_from_guest, FROM), (parse_to_guest, TO))
HOSTILE = (
    b"",
    b"[" * 16_000,
    b'["r1",' * 2_000,
    b'{"is":' * 2_000,
    b'"' * 16_000,
    b"9" * 16_000,
    b'["ack",' + b"9" * 10_000 + b"]",
    b'["hello",1,1,1,1,"\\u001b[2J"' + b"]",
    b"\xff" * 16_000,
    b"\x00",
    b"NaN",
    b'["r1",1,' + b"1," * 8_000 + b"1]",
)


@pytest.mark.req("T-CORE-13")
@pytest.mark.parametrize(("parse", "good"), PARSERS)
def test_damaged_lines_parse_or_are_refused(parse, good):
    assert 0 < survives(parse, ProtocolError, good, QUICK) < QUICK // 2


@pytest.mark.long
@pytest.mark.req("T-CORE-13")
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("parse", "good"), PARSERS)
def test_ten_million_damaged_lines_parse_or_are_refused(parse, good):
    assert 0 < survives(parse, ProtocolError, good, LONG) < LONG // 2


@given(st.binary(max_size=400))
def test_noise_parses_or_is_refused(noise):
    for parse, _ in PARSERS:
        with pytest.raises(ProtocolError):
            parse(noise)


@pytest.mark.parametrize("line", HOSTILE, ids=lambda line: repr(line[:12]))
def test_hostile_lines_cost_little(line):
    tracemalloc.start()
    began = time.perf_counter()
    for parse, _ in PARSERS:
        with pytest.raises(ProtocolError):
            parse(line)
    took = time.perf_counter() - began
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000
    assert took < 0.1


def test_a_longer_line_than_allowed_is_not_parsed():
    with pytest.raises(ProtocolError, match="longer than"):
        parse_from_guest(FROM[0] + b" " * LINE_FROM_GUEST)


@given(data=st.data())
def test_whatever_the_cuts_of_the_stream_the_same_lines_come_out(data):
    stream = b"".join(line + b"\n" for line in FROM)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=30)))
    splitter = LineSplitter()
    received = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        received += splitter.feed(stream[start:end])
    assert tuple(received) == FROM
    assert splitter.pending == 0


@given(st.lists(st.binary(max_size=60), max_size=40), st.integers(1, 40))
def test_lines_are_those_of_a_plain_split_but_for_the_long_ones(chunks, longest):
    splitter = LineSplitter(longest)
    received = [line for chunk in chunks for line in splitter.feed(chunk)]
    *whole, rest = b"".join(chunks).split(b"\n")
    expected = [Spoilt.TOO_LONG if len(line) >= longest else line for line in whole if line]
    if len(rest) >= longest:
        expected.append(Spoilt.TOO_LONG)
    assert received == expected
    assert splitter.pending < longest


def test_a_line_without_end_is_told_once_and_holds_no_memory():
    splitter = LineSplitter()
    tracemalloc.start()
    told = []
    for _ in range(4096):
        told += splitter.feed(b"x" * 65_536)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert told == [Spoilt.TOO_LONG]
    assert peak < 1_000_000
    assert list(splitter.feed(b"end\n" + FROM[0] + b"\n")) == [FROM[0]]


def test_a_stream_joined_in_the_middle_is_understood_from_the_next_line_on():
    stream = FROM[1][40:] + b"\n" + FROM[2] + b"\n"
    lines = list(LineSplitter().feed(stream))
    with pytest.raises(ProtocolError):
        parse_from_guest(lines[0])
    assert parse_from_guest(lines[1]) == FROM_GUEST[2]


def test_many_small_pieces_cost_time_in_proportion():
    def seconds(count: int) -> float:
        splitter = LineSplitter()
        began = time.perf_counter()
        for _ in range(count):
            for _ in splitter.feed(b"xx"):
                pass
        return time.perf_counter() - began

    small = min(seconds(25_000) for _ in range(3))
    assert seconds(200_000) < 8 * small * 6 + 0.05


def test_the_damage_is_varied():
    rng = random.Random(SEED)
    assert len({damaged(rng, FROM[1]) for _ in range(1000)}) > 950
