"""The lab's login service: it greets, refuses alike, lets whoever erred wait, and lets in who knows."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

LOGIN = Path(__file__).parents[3] / "lab" / "guest" / "login.py"
COMMAND = [sys.executable, "-I", "-S", str(LOGIN)]
WAIT_S = 0.2


@pytest.fixture
def port() -> Iterator[str]:
    """Where it listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        number = free.getsockname()[1]
    process = subprocess.Popen([*COMMAND, "--port", str(number), "serve", "--wait", str(WAIT_S)])
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", number), timeout=1).close()
            break
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    yield str(number)
    process.kill()
    process.wait()


def talk(port: str, *says: str) -> list[str]:
    """What it answers to each, the greeting first."""
    with socket.create_connection(("127.0.0.1", int(port)), timeout=5) as connection:
        lines = connection.makefile("rw", newline="\r\n")
        heard = [lines.readline()]
        for line in says:
            lines.write(line + "\n")
            lines.flush()
            heard.append(lines.readline())
    return [line.strip() for line in heard]


def test_whoever_errs_waits_and_is_told_the_same(port: str) -> None:
    began = time.monotonic()
    first, second = (talk(port, "USER clerk", f"PASS {word}", "LIST", "QUIT") for word in ("river", "mountain"))
    assert time.monotonic() - began >= 2 * 0.75 * WAIT_S
    assert first == second
    assert [line[:3] for line in first] == ["220", "331", "530", "500", "221"]


def test_who_knows_is_let_in_at_once(port: str) -> None:
    heard = talk(port, "USER clerk", "PASS meadow-and-mountain", "LIST", "QUIT")
    assert [line[:3] for line in heard] == ["220", "331", "230", "250", "221"]


def test_a_guesser_tells_how_much_it_tried(port: str) -> None:
    command = [*COMMAND, "--port", port, "guess", "127.0.0.1", "--seconds", "1.5", "--at-once", "2"]
    done = subprocess.run(command, check=True, capture_output=True, timeout=30)
    told = json.loads(done.stdout)
    assert told["tried"] >= 2
    assert (told["found"], told["failed"]) == (0, 0)
