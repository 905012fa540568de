"""Capture files of every kind, whole, cut off and damaged."""

import os
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hypervigil.entrypoints.replay.capture import Capture, CaptureError
from hypervigil.entrypoints.replay.links import seen
from tests.unit.entrypoints.replay.files import block, enhanced, interface, pcap, section, write

A, B = b"a" * 60, b"b" * 70


def frames(path: Path) -> list[tuple[int, bytes, int]]:
    capture = Capture(path)
    try:
        return [(one.at_ns, one.data, one.length) for one in capture]
    finally:
        capture.close()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("nanoseconds", [False, True])
def test_pcap_of_either_byte_order_and_unit(tmp_path: Path, order: str, *, nanoseconds: bool) -> None:
    path = write(tmp_path / "x.pcap", pcap([(1.5, A), (1.500001, B)], order=order, nanoseconds=nanoseconds))
    assert frames(path) == [(1_500_000_000, A, 60), (1_500_001_000, B, 70)]


@pytest.mark.parametrize("order", ["<", ">"])
def test_pcapng_with_units_offsets_and_several_interfaces(tmp_path: Path, order: str) -> None:
    data = section(order) + interface(order=order) + interface(101, order=order, resolution=9, offset_s=10)
    data += block(0xBAD, b"other", order)
    data += enhanced(1_000_000, A, order=order) + enhanced(5, B, order=order, number=1)
    path = write(tmp_path / "x.pcapng", data)
    assert frames(path) == [(1_000_000_000, A, 60), (10_000_000_005, B, 70)]


def test_a_resolution_in_powers_of_two(tmp_path: Path) -> None:
    path = write(tmp_path / "x", section() + interface(resolution=0x80 | 10) + enhanced(1536, A))
    assert frames(path)[0][0] == 1_500_000_000


def test_a_second_section_begins_anew_and_may_turn_the_bytes_round(tmp_path: Path) -> None:
    data = section() + interface() + enhanced(7, A)
    data += section(">") + interface(order=">") + enhanced(8, B, order=">")
    assert [data_ for _, data_, _ in frames(write(tmp_path / "x", data))] == [A, B]


def test_simple_and_old_packet_blocks(tmp_path: Path) -> None:
    old = struct.pack("<HHIIII", 0, 0, 0, 9_000_000, len(A), len(A)) + A
    data = section() + interface() + block(2, old) + block(3, struct.pack("<I", len(B)) + B)
    assert frames(write(tmp_path / "x", data)) == [(9_000_000_000, A, 60), (9_000_000_000, B, 70)], "no time: the last"


def test_frames_come_in_the_order_of_time(tmp_path: Path) -> None:
    path = write(tmp_path / "x", pcap([(3, b"c" * 20), (1, b"a" * 20), (2, b"b" * 20), (1, b"d" * 20)]))
    assert [data[:1] for _, data, _ in frames(path)] == [b"a", b"d", b"b", b"c"]


def test_what_the_snap_length_cut_is_known_to_have_been_there(tmp_path: Path) -> None:
    path = write(tmp_path / "x", pcap([(1, A)], snap=20))
    assert frames(path) == [(1_000_000_000, A[:20], 60)]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no capture that can be read"),
        (b"hello, world", "no capture that can be read"),
        (b"\x1f\x8b\x08\x00", "compressed"),
        (pcap([])[:10], "cut off or damaged"),
        (pcap([(1, A)])[:30], "cut off or damaged"),
        (section()[:20], "cut off or damaged"),
        (section() + enhanced(1, A), "cut off or damaged"),
        (pcap([]) + struct.pack("<IIII", 1, 1, 1 << 31, 1 << 31), "cut off or damaged"),
    ],
)
def test_what_is_no_capture_is_said_in_one_sentence(tmp_path: Path, data: bytes, words: str) -> None:
    with pytest.raises(CaptureError, match=words) as error:
        Capture(write(tmp_path / "x", data))
    assert str(error.value).count("\n") == 0
    assert str(tmp_path / "x") in str(error.value)


def test_an_empty_capture_is_one(tmp_path: Path) -> None:
    assert frames(write(tmp_path / "x", pcap([]))) == []
    assert frames(write(tmp_path / "y", section() + interface())) == []


@pytest.mark.parametrize("data", [pcap([(1, A)]), section() + interface() + enhanced(1, A)])
def test_a_pipe_is_refused_in_one_sentence(tmp_path: Path, data: bytes) -> None:
    here, there = os.pipe()
    try:
        os.write(there, data)
        os.close(there)
        with pytest.raises(CaptureError, match=r"is no regular file, .*: write it to a file first"):
            Capture(Path(f"/dev/fd/{here}"))
    finally:
        os.close(here)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CaptureError, match="is no regular file"):
        Capture(tmp_path / "pipe")


def test_a_missing_file_is_said_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="No such file"):
        Capture(tmp_path / "nothing")
    with pytest.raises(CaptureError, match="directory"):
        Capture(tmp_path)


@pytest.mark.parametrize(
    "data", [pcap([(1, A), (2, B)]), section() + interface() + enhanced(1, A) + enhanced(2, B)], ids=["pcap", "pcapng"]
)
def test_a_file_cut_off_anywhere_gives_what_was_whole(tmp_path: Path, data: bytes) -> None:
    for end in range(1, len(data)):
        path = write(tmp_path / "x", data[:end])
        try:
            capture = Capture(path)
        except CaptureError:
            continue
        told = [one.data for one in capture]
        assert told in ([], [A], [A, B])
        assert capture.notes or told == [A][: len(told)], "what is missing is said, unless it ends between frames"
        capture.close()


WHOLE = st.sampled_from(
    [
        pcap([(1, A), (2, B)]),
        pcap([(1, A), (2, B)], order=">", nanoseconds=True, link=113),
        section() + interface(resolution=9, offset_s=3) + enhanced(1, A) + enhanced(2, B),
        section(">") + interface(276, order=">") + enhanced(1, A, order=">"),
    ]
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=WHOLE,
    changes=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=6),
    more=st.binary(max_size=40),
)
def test_damage_never_does_more_than_be_said(
    tmp_path: Path, data: bytes, changes: list[tuple[int, int]], more: bytes
) -> None:
    damaged = bytearray(data + more)
    for at, value in changes:
        damaged[at % len(damaged)] = value
    try:
        capture = Capture(write(tmp_path / "x", bytes(damaged)))
    except CaptureError:
        return
    for one in capture:
        assert len(one.data) <= one.length
        assert 0 <= one.at_ns < 1 << 63
        seen(one)
    capture.close()
