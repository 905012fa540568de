"""Who brings the supervisor back, and what is on record of its services at any time."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from hypervigil.entrypoints import enforcer, supervise
from hypervigil.entrypoints.layout import Layout
from hypervigil.entrypoints.processes import Processes, read_processes
from hypervigil.entrypoints.supervise import SERVICES, Supervisor


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path / "run", tmp_path / "state", tmp_path / "pins")
    layout.log_dir.mkdir(parents=True)
    return layout


def record(layout: Layout, supervisor: int, services: dict[str, int]) -> None:
    layout.processes_file.write_bytes(msgspec.json.encode(Processes(supervisor, services, ["--enforce"])))


@pytest.fixture
def dead() -> int:
    """The number of a process that is no more."""
    with subprocess.Popen(["/bin/true"]) as process:
        process.wait()
        return process.pid


class EndOfTestError(Exception):
    pass


@pytest.fixture
def happened(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the watch did until it slept the third time, or was done with starting a supervisor."""
    happened: list[str] = []

    def slept(_seconds: float) -> None:
        happened.append("slept")
        if happened.count("slept") == 3:
            raise EndOfTestError

    def started(_layout: Layout, arguments: list[str]) -> int:
        happened.append(f"started with {arguments}")
        raise EndOfTestError

    monkeypatch.setattr(time, "sleep", slept)
    monkeypatch.setattr(enforcer, "start_detached", started)
    return happened


def test_an_enforcer_brings_its_own_supervisor_back(layout: Layout, dead: int, happened: list[str]) -> None:
    record(layout, dead, {"enforcer": os.getpid()})
    with pytest.raises(EndOfTestError):
        enforcer._watch_supervisor(layout)
    assert happened == ["started with ['--enforce']"]


@pytest.mark.parametrize("services", [{"enforcer": 1, "monitor": 2}, {}], ids=["another set's", "not there yet"])
def test_an_enforcer_that_is_not_on_record_starts_no_second_set(
    layout: Layout, dead: int, happened: list[str], services: dict[str, int]
) -> None:
    record(layout, dead, services)
    with pytest.raises(EndOfTestError):
        enforcer._watch_supervisor(layout)
    assert happened == ["slept"] * 3


def test_an_enforcer_acts_once_it_is_on_record(
    layout: Layout, dead: int, happened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    record(layout, dead, {"enforcer": dead})
    monkeypatch.setattr(time, "sleep", lambda _: record(layout, dead, {"enforcer": os.getpid()}))
    with pytest.raises(EndOfTestError):
        enforcer._watch_supervisor(layout)
    assert happened == ["started with ['--enforce']"]


# --- what is on record ----
class Children:
    """Stands for ``subprocess.Popen``: each service is a process that does nothing."""

    def __init__(self, layout: Layout, popen: type[subprocess.Popen[bytes]]) -> None:
        self.recorded_before: list[dict[str, int]] = []
        self.started: list[subprocess.Popen[bytes]] = []
        self._layout = layout
        self._popen = popen

    def __call__(self, words: list[str], **_options: object) -> subprocess.Popen[bytes]:
        recorded = read_processes(self._layout)
        self.recorded_before.append(recorded.services if recorded else {})
        sleeping = [sys.executable, "-c", "import time; time.sleep(60)", *words[3:]]
        self.started.append(self._popen(sleeping))
        return self.started[-1]


@pytest.fixture
def children(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> Iterator[Children]:
    children = Children(layout, subprocess.Popen)
    monkeypatch.setattr(subprocess, "Popen", children)
    monkeypatch.setattr(supervise, "user_ids", lambda _: (os.getuid(), os.getgid()))
    monkeypatch.setattr(os, "setpriority", lambda *_: None)
    yield children
    for child in children.started:
        child.kill()
        child.wait()


def test_each_service_is_on_record_before_the_next_is_started(layout: Layout, children: Children) -> None:
    Supervisor(layout, [])._adopt_or_start()
    assert [list(recorded) for recorded in children.recorded_before] == [
        [],
        ["enforcer"],
        ["enforcer", "monitor"],
        ["enforcer", "monitor", "sensors"],
    ]
    recorded = read_processes(layout)
    assert recorded is not None
    assert list(recorded.services.values()) == [child.pid for child in children.started]


def test_what_is_adopted_never_leaves_the_record(
    layout: Layout, children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(layout, 1, {service.name: os.getpid() for service in SERVICES})
    monkeypatch.setattr(supervise, "alive", lambda _pid, module: not module.endswith(("enforcer", "sensors")))
    Supervisor(layout, [])._adopt_or_start()
    assert [set(recorded) for recorded in children.recorded_before] == [
        {"monitor", "gateway"},
        {"enforcer", "monitor", "gateway"},
    ]


def test_a_service_that_is_started_again_is_on_record_before_the_next(layout: Layout, children: Children) -> None:
    supervisor = Supervisor(layout, [])
    supervisor._adopt_or_start()
    for child in children.started[:2]:
        child.kill()
        child.wait()
    for running in supervisor._running.values():
        running.started -= 60  # steady by now, so that it is started again at once
    while len(children.started) < 6:
        supervisor._wait()
        supervisor._reap()
    assert children.recorded_before[5]["enforcer"] == children.started[4].pid


def test_all_services_are_started_where_the_record_cannot_be_written(
    layout: Layout, children: Children, capsys: pytest.CaptureFixture[str]
) -> None:
    layout.processes_file.with_suffix(".new").mkdir()
    Supervisor(layout, [])._adopt_or_start()
    assert len(children.started) == len(SERVICES)
    assert "cannot write down who runs" in capsys.readouterr().out
