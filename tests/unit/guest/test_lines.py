"""The agent writes what the host's schema takes, and reads what the host says and nothing else."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypervigil.guest import lines, words
from hypervigil.model.guest import GuestMetric
from hypervigil.model.traffic import Direction, TrafficClass
from hypervigil.wire.guest import LINE_FROM_GUEST, LINE_TO_GUEST, VERSION, encode_to_guest
from tests.fuzz.words import TO_GUEST

WORDS = st.text(alphabet="abcXYZ019_.:/@+-", max_size=12)
VALUES = st.recursive(st.integers(-(2**53), 2**53) | WORDS, lambda inner: st.lists(inner, max_size=5), max_leaves=20)


@given(st.lists(VALUES, max_size=8))
def test_what_is_written_is_json(message):
    line = lines.encode(message)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert msgspec.json.decode(line) == message


def test_tuples_are_arrays():
    assert lines.encode([("a",), (), (1, 2), [(3,)]]) == b'[["a"],[],[1,2],[[3]]]\n'


@given(st.text(max_size=60))
def test_a_plain_word_is_what_the_schema_takes(text):
    word = lines.plain(text)
    assert len(word) <= 32
    assert msgspec.json.decode(lines.encode([word])) == [word]


@pytest.mark.parametrize("message", TO_GUEST, ids=lambda message: type(message).__name__)
def test_the_agent_reads_what_the_host_says(message):
    line = encode_to_guest(message)[:-1]
    assert lines.parse(line) == msgspec.json.decode(line)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"[",
        b"]",
        b"1",
        b'"a"',
        b"[1,]",
        b"[,1]",
        b"[1 2]",
        b"[1]x",
        b"[1.5]",
        b"[1e5]",
        b"[null]",
        b"[true]",
        b"[{}]",
        b'["a\\n"]',
        b'["a',
        b"[-]",
        b"[[[[[1]]]]]",
        b"[" + b"9" * 21 + b"]",
        b"[" + b"1," * 2000 + b"1]",
        b"[\xff]",
    ],
)
def test_what_the_host_never_says_is_refused(line):
    with pytest.raises(ValueError):
        lines.parse(line)


def test_both_ends_have_the_same_words():
    assert {metric.name: metric.value for metric in GuestMetric} == {
        name: getattr(words, name) for name in GuestMetric.__members__
    }
    assert len(GuestMetric) == words.METRICS
    assert [getattr(words, traffic.name) for traffic in TrafficClass] == list(TrafficClass)
    assert (words.OUT, words.IN) == (Direction.OUT, Direction.IN)
    assert (words.VERSION, lines.LONGEST, lines.LONGEST_OUT) == (VERSION, LINE_TO_GUEST, LINE_FROM_GUEST)
