"""The guest's end of the channel never blocks and knows whether anybody listens."""

import os
import pty
import socket
import time

import pytest

from hypervigil.guest import lines
from hypervigil.guest.port import Port


@pytest.fixture
def host(tmp_path):
    """A listening socket and its path."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "channel"))
    server.listen(4)
    yield server
    server.close()


@pytest.fixture
def both(host):
    """The port and the host's end of it."""
    port = Port(host.getsockname())
    port.wait(0)
    other = host.accept()[0]
    yield port, other
    port.close()
    other.close()


def test_lines_go_both_ways(both):
    port, other = both
    assert port.connected
    assert port.write(b"[1]\n")
    assert other.recv(100) == b"\n[1]\n"
    other.sendall(b"[2]\n[3]\n[4")
    assert port.wait(1000) == [b"[2]", b"[3]"]
    other.sendall(b"4]\n")
    assert port.wait(1000) == [b"[44]"]


def test_without_anybody_there_it_says_so_and_waits():
    port = Port("/nonexistent/port")
    began = time.monotonic()
    assert port.wait(50) == []
    assert 0.04 < time.monotonic() - began < 5
    assert not port.write(b"[1]\n")


@pytest.mark.req("A216")
def test_a_full_channel_never_blocks_and_never_cuts_a_line(both):
    port, other = both
    line = b"[" + b"7" * 8000 + b"]\n"
    began = time.monotonic()
    taken = sum(port.write(line) for _ in range(2000))
    assert time.monotonic() - began < 5
    assert 0 < taken < 2000
    other.setblocking(False)
    heard = b""
    for _ in range(1000):
        try:
            heard += other.recv(1 << 16)
        except BlockingIOError:
            if heard.count(b"]\n") >= taken:
                break
            port.wait(0)
            taken += port.write(line)
    whole = heard.split(b"\n")
    assert {part for part in whole[:-1] if part} == {line[:-1]}


def test_it_comes_back_when_the_other_end_does(both, host):
    port, other = both
    other.close()
    for _ in range(5):
        port.wait(10)
    again, _ = host.accept()
    assert port.connected
    assert port.write(b"[1]\n")
    assert again.recv(100) == b"\n[1]\n"
    again.close()


def test_a_line_without_end_is_not_kept(both):
    port, other = both
    other.settimeout(5)
    for _ in range(20):
        other.sendall(b"x" * 4096)
        assert port.wait(100) == []
        assert len(port._heard) <= lines.LONGEST
    other.sendall(b"\n[1]\n")
    heard = port.wait(1000)
    while b"[1]" not in heard:
        heard = port.wait(1000)


def test_a_character_device_is_a_port_too():
    ours, theirs = pty.openpty()
    port = Port(os.ttyname(theirs))
    port.wait(0)
    assert port.connected
    assert port.write(b"[1]\n")
    heard = b""
    while b"[1]" not in heard:
        heard += os.read(ours, 100)
    os.close(ours)
    for _ in range(50):  # a pseudo-terminal hangs up a moment later
        port.wait(100)
        if not port.connected:
            break
    assert not port.connected
    port.close()
    os.close(theirs)
