"""What the hoarder and the writer of the lab's guests do, seen from the other end."""

import json
import socket
import subprocess
import sys
import threading
from pathlib import Path

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
