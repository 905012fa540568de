"""The scoreboard's cells are complete, careful and drawn the same by the same seed; trials are drawn as ever."""

import hashlib
import json
import re
import subprocess

import msgspec
import pytest

from lab.cells import ATTACKS, CELLS, LOOK_ALIKES, UNCOUNTED, cells
from lab.image import PACKAGES
from lab.kinds import GUESTS, Family, Trial, draw
from lab.programs import SOURCES
from lab.scenario import Names, Step

EVERY = cells()
NAMES = Names(
    {**{name: f"10.60.0.{n}" for n, name in enumerate(GUESTS, 2)}, "ext": "198.51.100.2"},
    {name: f"52:54:00:00:00:0{n}" for n, name in enumerate(GUESTS, 2)},
    "10.60.0.1",
    7,
)
TOOLS = {"timeout", "hping3", "nmap", "arpspoof", "iperf3", "stress-ng", "curl", "python3", "ping", "ip", "seq", "sh"}
OWN = {"hv-login", "hv-load", "hv-udp"}
SHELL = {"for", "do", "done", "wait", "cd", "while", "while :"}


def identity(trial: Trial) -> str:
    return f"{trial.kind}-{trial.choice}"


def test_there_are_enough_kinds() -> None:
    assert len(ATTACKS) >= 16
    assert len(LOOK_ALIKES) >= 10
    assert len({kind.name for kind in CELLS}) == len(CELLS)
    assert {kind.name for kind in CELLS} >= UNCOUNTED


def test_floods_are_tried_below_500_packets_a_second_too() -> None:
    slow = {"-i u20000", "-i u10000", "-i u5000", "-i u2500"}
    for kind in ATTACKS:
        if kind.name.endswith("-flood") and kind.name != "http-flood":
            assert slow & set(kind.choices), kind.name


def test_every_cell_is_tried_so_often() -> None:
    count = sum(len(kind.choices) for kind in CELLS)
    assert len(EVERY) == count
    assert len({(trial.kind, trial.choice) for trial in EVERY}) == count
    assert len(cells(repeat=3)) == 3 * count
    assert {trial.kind for trial in cells(["guessing"], 2)} == {"guessing"}


def test_the_same_seed_draws_the_same() -> None:
    assert cells(repeat=2, seed=3) == cells(repeat=2, seed=3)
    assert cells(repeat=2, seed=3) != cells(repeat=2, seed=4)


@pytest.mark.parametrize("trial", EVERY, ids=identity)
def test_a_cell_is_complete(trial: Trial) -> None:
    assert set(trial.expected) == set(GUESTS)
    for name in GUESTS:
        assert ("attacker" in trial.expected[name]) == (name in trial.attackers)
    for step in trial.steps:
        assert step.on in {*GUESTS, "ext"}
        assert step.target in {*GUESTS, "ext", None}
        assert not step.boots
        assert not re.search(r"\$(choice|(ip|mac)_[XTO]\b)", step.run)
        assert trial.seconds is None or step.at_s < trial.seconds
    if trial.family is Family.BENIGN:
        assert not trial.attackers
    if trial.measured:
        assert trial.source != trial.target
    if trial.family is Family.ATTACKER:
        assert trial.attackers == {trial.actor}


def test_no_host_outside_is_tried_by_two_scans() -> None:
    """Only the first would find new ones; and a scan finds none where honest work goes."""
    tried: dict[int, str] = {3: "a sink", 2: "ext", 1: "the gateway"}
    scans = 0
    for trial in EVERY:
        for step in trial.steps:
            for first, last, bits in re.findall(r"198\.51\.100\.(\d+)(?:-(\d+)|/(\d+))", step.run):
                if bits == "32":
                    continue
                scans += 1
                end = int(last) if last else int(first) + 2 ** (32 - int(bits)) - 1
                for host in range(int(first), end + 1):
                    assert host not in tried, (identity(trial), tried[host])
                    tried[host] = identity(trial)
    kinds = {"spreading", "slow-scan", "horizontal-scan"}
    assert scans == sum(len(kind.choices) for kind in ATTACKS if kind.name in kinds)


@pytest.mark.parametrize("trial", EVERY, ids=identity)
def test_a_command_is_one_that_a_shell_understands_and_ends(trial: Trial) -> None:
    for step in trial.steps:
        command = NAMES.put_in(step.run)
        left = re.sub(r"'[^']*'", "", command)
        if "for ip in " in left:
            left = left.replace("$ip;", ";")
        assert not re.search(r"\$(?!\()", left), "nothing is left to the guest's own variables"
        checked = subprocess.run(["sh", "-n", "-c", command], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stderr
        ends = ("timeout ", "--seconds ", "--timeout ")
        assert any(word in command for word in ends) or "ping -q -c" in command


@pytest.mark.parametrize("trial", EVERY, ids=identity)
def test_a_command_uses_only_what_the_image_has(trial: Trial) -> None:
    assert {"hping3", "nmap", "dsniff", "iperf3", "stress-ng", "curl", "python3"} <= set(PACKAGES)
    for step in trial.steps:
        text = re.sub(r"-c '[^']*'", "", step.run)
        for part in re.split(r"[;&]+", text):
            words = [word for word in part.split() if word not in SHELL]
            if not words or re.match(r"^(n|ip|round)$", words[0]):
                continue
            assert words[0] in TOOLS | OWN, part


@pytest.mark.parametrize("name", SOURCES)
def test_a_program_is_python_and_one_shell_word(name: str) -> None:
    source = SOURCES[name]
    compile(source, name, "exec")
    assert "$" not in source, "the lab would put names in"
    assert "'" not in source
    assert re.search(r"end|seconds", source), "it ends by itself"


def test_a_program_gets_its_arguments_in_order() -> None:
    trial = next(trial for trial in EVERY if trial.kind == "exfiltration" and trial.choice == "500000")
    command = NAMES.put_in(trial.steps[-1].run)
    shown = ["sh", "-c", command.replace("timeout 30 python3 -I -S -c", "printf '%s\\n'")]
    words = subprocess.run(shown, capture_output=True, text=True, check=True).stdout
    assert words.endswith("\n198.51.100.3\n4444\n500000\n28\n")
    assert "create_connection" in words


def _told(step: Step) -> dict[str, object]:
    told: dict[str, object] = msgspec.to_builtins(step)
    del told["passes"]  # came later
    return told


def test_what_trials_draw_is_what_they_ever_drew() -> None:
    drawn = [
        (t.number, t.kind, t.choice, t.actor, t.target, [_told(s) for s in t.steps], t.measured)
        for seed in (0, 1001, 1002, 1003)
        for t in draw(30, seed)
    ]
    assert hashlib.sha256(json.dumps(drawn).encode()).hexdigest() == DRAWN


DRAWN = "d6da4f9dc8eea4279659b73d57b118532528f61e61b8d5584f0c9de1484a87d8"
