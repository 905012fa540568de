"""Descriptors go to the right user only, whole or not at all, and none leaks."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypervigil.hypervisor.handover import MAX_DESCRIPTORS, HandoverError, offer, receive

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    one, other = socket.socketpair()
    with one, other:
        yield one, other


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_descriptors_arrive_under_their_names_and_are_not_inherited(pair: Pair) -> None:
    read, write = os.pipe()
    offer(pair[0], {"counters": read, "ports": write}, allowed_uid=os.getuid())
    got = receive(pair[1])
    assert list(got) == ["counters", "ports"]
    os.write(got["ports"], b"x")
    assert os.read(got["counters"], 1) == b"x"
    assert not os.get_inheritable(got["ports"])
    for descriptor in (read, write, *got.values()):
        os.close(descriptor)


def test_another_user_gets_nothing(pair: Pair) -> None:
    with pytest.raises(HandoverError, match="only user"):
        offer(pair[0], {"counters": 0}, allowed_uid=os.getuid() + 1)
    pair[0].close()
    with pytest.raises(HandoverError, match="closed the connection"):
        receive(pair[1])


@pytest.mark.parametrize("names", [[], ["A"], ["a\nb"], [""], [f"m{n}" for n in range(MAX_DESCRIPTORS + 1)]])
def test_what_cannot_be_named_is_not_offered(pair: Pair, names: list[str]) -> None:
    with pytest.raises(HandoverError, match="plain names"):
        offer(pair[0], dict.fromkeys(names, 0), allowed_uid=os.getuid())


@pytest.mark.parametrize("frame", [b"\0\3a\nb", b"\0\3a\na", b"\0\1/", b"\xff\xff", b"\0\0", b"\0\1", b"\0"], ids=repr)
def test_a_broken_handover_raises_and_leaks_nothing(pair: Pair, frame: bytes) -> None:
    before = open_descriptors()
    socket.send_fds(pair[0], [frame], [0])
    pair[0].shutdown(socket.SHUT_WR)
    with pytest.raises(HandoverError):
        receive(pair[1])
    assert open_descriptors() == before


def test_too_many_descriptors_raise_and_leak_nothing(pair: Pair) -> None:
    before = open_descriptors()
    socket.send_fds(pair[0], [b"\0\1a"], [0] * (MAX_DESCRIPTORS + 20))
    with pytest.raises(HandoverError, match="more than"):
        receive(pair[1])
    assert open_descriptors() == before


@given(st.binary(max_size=80))
def test_any_bytes_end_in_one_error(noise: bytes) -> None:
    one, other = socket.socketpair()
    with one, other:
        one.sendall(noise)
        one.shutdown(socket.SHUT_WR)
        with pytest.raises(HandoverError):
            receive(other)
