"""Who brings the supervisor back, and what is on record of its services at any time."""

import os
import subprocess
from pathlib import Path

import msgspec
import pytest

from hypervigil.entrypoints import enforcer
from hypervigil.entrypoints.layout import Layout
from hypervigil.entrypoints.processes import Processes, read_processes


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

    monkeypatch.setattr(enforcer.time, "sleep", slept)
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
    monkeypatch.setattr(enforcer.time, "sleep", lambda _: record(layout, dead, {"enforcer": os.getpid()}))
    with pytest.raises(EndOfTestError):
        enforcer._watch_supervisor(layout)
    assert happened == ["started with ['--enforce']"]
