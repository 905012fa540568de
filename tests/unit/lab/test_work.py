"""What servers, hoarders and the writer of the lab's guests do, seen from the other end."""

import json
import os
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from lab.programs import SOURCES

WORK = Path(__file__).parents[3] / "lab" / "guest" / "work.py"


def test_a_hoarder_opens_connections_and_says_nothing_on_them() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        accepted: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    accepted.append(server.accept()[0])
                except OSError:
                    return

        thread = threading.Thread(target=accept)
        thread.start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        command = [sys.executable, str(WORK), "hoard", "--rate", "100", "--seconds", "1", address]
        done = subprocess.run(command, capture_output=True, check=True, timeout=60)
        server.shutdown(socket.SHUT_RDWR)
        thread.join(10)
    told = json.loads(done.stdout)
    assert told["failed"] == 0
    assert 1 <= told["connections"] <= 110
    assert len(accepted) == told["connections"]
    for connection in accepted:
        with connection:
            connection.settimeout(5)
            assert connection.recv(100) == b"", "nothing was ever said"


@contextmanager
def web_server(descriptors: int = 1024) -> Iterator[tuple[int, "subprocess.Popen[bytes]"]]:
    """Its port and its process, which has so many descriptors."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, str(WORK), "web-server", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            assert json.loads(process.stdout.readline()) == {"ready": True}
            resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (descriptors, descriptors))
            yield port, process
        finally:
            process.kill()


def asked(port: int, *parts: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), 20)
    for part in parts:
        connection.sendall(part)
    return connection


def test_the_web_server_answers_at_the_end_of_a_head_and_not_before() -> None:
    with web_server() as (port, process):
        with asked(port, b"GET / HTTP/1.0\r\nHost: lab\r\n\r\n") as whole:
            assert whole.recv(20).startswith(b"HTTP/1.0 200")
        with asked(port, b"GET / HTTP/1.0\r\nHost: lab\r\n") as begun:
            begun.settimeout(0.3)
            with pytest.raises(TimeoutError):
                begun.recv(20)
            begun.sendall(b"X-a: b\r\n\r")
            with pytest.raises(TimeoutError):
                begun.recv(20)
            begun.settimeout(20)
            begun.sendall(b"\n")
            assert begun.recv(20).startswith(b"HTTP/1.0 200")
        with asked(port, b"x" * 4096) as long:
            assert long.recv(20) == b"", "it is hung up on"
        assert process.poll() is None


def test_the_web_server_hangs_up_on_heads_that_never_end_and_rests_while_it_has_no_descriptors() -> None:
    with web_server(descriptors=30) as (port, process), ExitStack() as opened:
        slow = [opened.enter_context(asked(port, b"GET / HTTP/1.0\r\n")) for _ in range(60)]
        with asked(port, b"GET / HTTP/1.0\r\n\r\n") as honest:
            honest.settimeout(2)
            with pytest.raises(TimeoutError):
                honest.recv(20)
            used = cpu_s(process.pid)
            honest.settimeout(30)
            assert slow[0].recv(20) == b"", "after ten seconds"
            assert cpu_s(process.pid) - used < 2.0, "it does not spin"
            for one in slow:
                one.close()
            assert honest.recv(20).startswith(b"HTTP/1.0 200")


def cpu_s(pid: int) -> float:
    user, system = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def test_requests_that_never_end_are_begun_at_their_rate_and_added_to() -> None:
    with web_server(descriptors=60) as (port, _):
        source = SOURCES["slow-requests"].replace("(address, 80)", f"(address, {port})")
        with subprocess.Popen([sys.executable, "-I", "-S", "-c", source, "127.0.0.1", "60", "0.5", "6"]) as attacker:
            until(lambda: len(established(port)) >= 60)
            with asked(port, b"GET / HTTP/1.0\r\n\r\n") as honest:
                honest.settimeout(2)
                with pytest.raises(TimeoutError):
                    honest.recv(20)
            assert attacker.wait(30) == 0


def established(port: int) -> list[str]:
    lines = Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]
    return [line for line in lines if line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "01"]


def until(condition: Callable[[], bool], within_s: float = 20.0) -> None:
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_writer_writes_blocks_at_its_rate_until_it_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "written"
    command = [sys.executable, str(WORK), "writer", "--rate", "20", "--size", "1", "--path", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        lines = [json.loads(process.stdout.readline()) for _ in range(3)]
        process.kill()
    assert lines[0] == {"ready": True}
    assert all(1 <= line["ok"] <= 41 for line in lines[1:]), "20 a second, and at most one second's behind"
    assert path.stat().st_size % 4096 == 0


def test_a_batch_on_two_cpus_keeps_the_computers_pace_and_says_each_second() -> None:
    command = [sys.executable, str(WORK), "batch", "--cpus", "2", "--size", "20", "--rest", "0.2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        lines = [json.loads(process.stdout.readline()) for _ in range(3)]
        process.kill()
    assert lines[0] == {"ready": True}
    assert all(line["ok"] > 5 and line["failed"] == 0 for line in lines[1:]), "far more than the five of a fixed rate"
