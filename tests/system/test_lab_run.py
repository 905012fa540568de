"""``python -m lab run`` counts exactly, keeps control runs, refuses before it boots, and undoes what it stops."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.residue import HostState, look, residue

pytestmark = [pytest.mark.guests, pytest.mark.root]

ROOT = Path(__file__).parents[2]
SCENARIO = '''
name = "counting"
warmup_s = 0
seed = {seed}
[[network]]
name = "test"
cidr = "10.61.0.0/24"
[[guest]]
name = "test-a"
network = "test"
work = "web-client:test-b"
[[guest]]
name = "test-b"
network = "test"
work = "web-server"
[[step]]
at_s = 6
on = "test-a"
run = """python3 -c "
import socket, time
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for _ in range(300):
    sender.sendto(b'x', ('$ip_test-b', 80))
    time.sleep(0.005)
" """
attack = true
target = "test-b"
[[step]]
at_s = 7
on = "ext"
run = "hping3 -q -c 200 -i u5000 --udp -p 9 -a 203.0.113.9 $ip_test-b"
attack = true
target = "test-b"
[[step]]
at_s = 8
on = "test-a"
run = "{third}"
[limits]
duration_s = 14
'''


@pytest.fixture
def before() -> Iterator[HostState]:
    state = look()
    yield state
    assert residue(state) == []


def lab(*arguments: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "lab", *map(str, arguments)]
    return subprocess.run(argv, cwd=ROOT, input=stdin, capture_output=True, text=True, timeout=240, check=False)


def written(tmp_path: Path, third: str = "true") -> Path:
    path = tmp_path / "counting.toml"
    path.write_text(SCENARIO.format(seed=int(time.time()), third=third))
    return path


def test_a_control_run_counts_every_frame_and_is_kept(before: HostState, tmp_path: Path) -> None:
    path = written(tmp_path)
    out = tmp_path / "out.json"
    done = lab("run", path, "--control", "--json", out)
    assert done.returncode == 0, done.stdout + done.stderr
    result: dict[str, Any] = json.loads(out.read_text())
    assert result["ok"]
    inside, outside, third = result["steps"]
    assert (inside["exit"], outside["exit"]) == (0, 1), "both came to their ends; hping3 had no answer"
    assert (inside["sent"], inside["delivered_before_limit"], inside["delivered_after_limit"]) == (300, 300, 0)
    assert (outside["sent"], outside["delivered_before_limit"]) == (200, 200)
    assert 0 <= inside["onset_s"] - inside["began_s"] < 3
    assert third["sent"] is None
    server, client = result["guests"]["test-b"], result["guests"]["test-a"]
    assert client["work_during"] > 6
    assert 0 < client["latency_p95_during_s"] < 1
    assert server["work_during"] == pytest.approx(client["work_during"], rel=0.3)
    began = time.monotonic()
    again = lab("run", path, "--control", "--json", out)
    assert (again.returncode, json.loads(out.read_text())) == (0, result)
    assert time.monotonic() - began < 5
    assert "was made before" in again.stderr


def test_a_step_whose_command_is_not_there_is_said(before: HostState, tmp_path: Path) -> None:
    done = lab("run", written(tmp_path, third="no-such-command"), "--control")
    assert done.returncode == 1
    assert "step 3 on test-a: its command is not there" in done.stdout


def test_what_is_wrong_is_said_before_anything_boots(before: HostState, tmp_path: Path) -> None:
    path = written(tmp_path)
    bad = tmp_path / "bad.toml"
    bad.write_text(path.read_text().replace("at_s = 6", "at_s = 60"))
    for arguments, said in (
        ((bad,), "beyond the end"),
        ((tmp_path / "none.toml",), "does not exist"),
        ((path, "--json", tmp_path), "is a folder"),
        ((path, "--json", tmp_path / "no" / "out.json"), "is not there"),
    ):
        began = time.monotonic()
        done = lab("run", *arguments)
        assert done.returncode == 2
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert time.monotonic() - began < 5


def test_booted_only_it_runs_what_people_write(before: HostState, tmp_path: Path) -> None:
    done = lab("run", written(tmp_path), "--control", "--just-boot", stdin="test-a ping -c 1 $ip_ext\nnobody x\n")
    assert done.returncode == 0, done.stderr
    assert "1 packets transmitted, 1 received" in done.stdout
    assert "first a place (test-a, test-b, ext), then a command" in done.stdout


def test_stopped_in_the_middle_it_leaves_nothing(before: HostState, tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "lab", "run", str(written(tmp_path)), "--control"]
    with subprocess.Popen(argv, cwd=ROOT, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        assert any("step on test-a" in line or "attack on test-a" in line for line in running.stderr)
        os.kill(running.pid, signal.SIGTERM)
        assert "everything is undone" in running.stderr.read()
        assert running.wait(60) == 130
