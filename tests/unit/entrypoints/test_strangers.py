"""What ``up``, ``off`` and ``doctor`` do where somebody runs that ``up`` did not start."""

import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from hypervigil.entrypoints import doctor as checks
from hypervigil.entrypoints import strangers
from hypervigil.entrypoints.cli import lifecycle
from hypervigil.entrypoints.cli.commands import main
from hypervigil.entrypoints.control_client import ControlError
from hypervigil.entrypoints.layout import Layout
from hypervigil.entrypoints.processes import Processes
from tests.unit.entrypoints.emptyhost import make_directories, off, up

ENFORCER = "hypervigil.entrypoints.enforcer"
MONITOR = "hypervigil.entrypoints.monitor"
LISTENS = """
import socket, sys, time
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1])
server.listen(8)
print(flush=True)
time.sleep(60)
"""


@contextmanager
def listening(path: Path, *words: str) -> Iterator[int]:
    """A process with these words in its command line that listens there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-c", LISTENS, str(path), *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        process.kill()


@pytest.fixture
def us_as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strangers, "ROOT", os.getuid())


@pytest.fixture
def monitor(layout: Layout, us_as_root: None) -> Iterator[int]:
    """A monitor that the record says nothing of."""
    make_directories(layout)
    with listening(layout.control_socket, MONITOR) as pid:
        yield pid


@pytest.fixture
def enforcer(layout: Layout, us_as_root: None) -> Iterator[int]:
    """An enforcer that the record says nothing of; it was told no folder, since it is in the usual one."""
    with listening(layout.maps_socket, ENFORCER) as pid:
        yield pid


@pytest.fixture
def nothing_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "undo_all", lambda *_: pytest.fail("it was undone"))


def serve(path: Path) -> socket.socket:
    """A socket of this process, which is no part of Hypervigil."""
    path.parent.mkdir(parents=True, exist_ok=True)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    server.bind(str(path))
    server.listen(0)
    return server


def test_up_starts_no_second_set_beside_one_that_it_did_not_start(
    layout: Layout, monitor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "start_detached", lambda *_: pytest.fail("it was started"))
    refused = up(layout)
    assert refused.exit_code == 1
    assert refused.output.count("\n") == 1
    assert f"monitor (process {monitor})" in refused.output
    assert "systemctl stop hypervigil.target" in refused.output
    assert f"or with 'kill {monitor}' where it does not run them" in refused.output


def test_up_starts_no_second_set_beside_an_enforcer_whose_monitor_is_away(layout: Layout, enforcer: int) -> None:
    refused = up(layout)
    assert refused.exit_code == 1
    assert f"enforcer (process {enforcer})" in refused.output


def test_up_starts_where_only_the_socket_of_a_dead_monitor_is_left(layout: Layout, us_as_root: None) -> None:
    serve(layout.control_socket).close()
    assert layout.control_socket.exists()
    assert up(layout).exit_code == 0


def test_a_link_to_somebody_elses_socket_in_the_monitors_folder_keeps_nobody_from_starting(
    layout: Layout, us_as_root: None, tmp_path: Path
) -> None:
    make_directories(layout)
    with serve(tmp_path / "libvirt-sock") as libvirt:
        layout.control_socket.symlink_to(tmp_path / "libvirt-sock")
        assert up(layout).exit_code == 0
        assert select.select([libvirt], [], [], 0)[0] == [], "nobody asked it anything"


@pytest.mark.parametrize("plant", [os.mkfifo, Path.mkdir, Path.touch], ids=["fifo", "folder", "file"])
def test_whatever_is_no_socket_in_the_monitors_folder_is_nobody(
    layout: Layout, us_as_root: None, plant: Callable[[Path], None]
) -> None:
    make_directories(layout)
    plant(layout.control_socket)
    assert strangers.strangers(layout, None) == {}


def test_a_socket_that_another_user_serves_is_no_monitor(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strangers, "_ids", lambda _: {os.getuid() + 1})
    with serve(layout.control_socket):
        assert strangers.strangers(layout, None) == {}
        assert strangers.strangers(layout, None) == {}, "nor when there is no more room, because of the first"


def test_a_listener_whose_number_may_be_anothers_by_now_is_told_without_one(layout: Layout, us_as_root: None) -> None:
    with serve(layout.control_socket):
        assert strangers.strangers(layout, None) == {"monitor": strangers.UNNUMBERED}
        refused = up(layout)
    assert refused.exit_code == 1
    assert "did not start it: monitor;" in refused.output
    assert "process" not in refused.output
    assert "kill" not in refused.output


def test_a_monitor_that_is_busy_is_there(layout: Layout, us_as_root: None) -> None:
    with serve(layout.control_socket), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as first:
        first.connect(str(layout.control_socket))
        assert strangers.strangers(layout, None) == {"monitor": strangers.UNNUMBERED}
        assert up(layout).exit_code == 1


def test_off_touches_nothing_under_an_enforcer_that_somebody_else_started(
    layout: Layout, enforcer: int, nothing_undone: None
) -> None:
    refused = off(layout)
    assert refused.exit_code == 1
    assert refused.output.count("\n") == 1
    assert f"enforcer (process {enforcer})" in refused.output
    assert "nothing was changed" in refused.output


def test_off_touches_nothing_while_a_unit_starts_its_enforcer_again(
    layout: Layout, monitor: int, nothing_undone: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as held:

        def started(_seconds: float) -> None:
            held.enter_context(listening(layout.maps_socket, ENFORCER))

        monkeypatch.setattr(time, "sleep", started)
        refused = off(layout)
    assert refused.exit_code == 1
    assert "enforcer (process" in refused.output
    assert "nothing was changed" in refused.output


def test_off_does_its_work_and_says_that_a_monitor_is_left(
    layout: Layout, monitor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "undo_all", lambda *_: ["removed the pins"])
    monkeypatch.setattr(lifecycle, "ENFORCER_BACK_WITHIN_S", 0.0)
    done = off(layout)
    assert done.exit_code == 1
    first, second = done.output.splitlines()
    assert first == "removed the pins"
    assert "did not start it: monitor" in second
    assert layout.control_socket.exists(), "it still listens there"


def test_off_takes_away_the_socket_of_a_dead_monitor(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(layout.control_socket).close()
    monkeypatch.setattr(lifecycle, "undo_all", lambda *_: [])
    assert off(layout).exit_code == 0
    assert not layout.control_socket.exists()


def test_nobody_but_root_can_pass_for_an_enforcer(
    layout: Layout, enforcer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strangers, "ROOT", os.getuid() + 1)
    assert strangers.strangers(layout, None) == {}


def test_nobody_passes_for_an_enforcer_by_the_words_of_its_command(layout: Layout, us_as_root: None) -> None:
    words = ["-c", "import time; print(flush=True); time.sleep(60)", ENFORCER, *layout.arguments()]
    with subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert strangers.strangers(layout, None) == {}
        process.kill()


def test_an_enforcer_of_another_installation_is_none_of_this_one(layout: Layout, enforcer: int) -> None:
    assert strangers.strangers(layout, None) == {"enforcer": enforcer}
    assert strangers.strangers(Layout(run_dir=layout.run_dir / "other"), None) == {}


def test_what_is_on_record_and_alive_is_no_stranger(layout: Layout, enforcer: int) -> None:
    recorded = Processes(1, {"enforcer": enforcer}, [])
    assert strangers.strangers(layout, recorded) == {}
    assert strangers.strangers(layout, Processes(1, {"enforcer": os.getpid()}, [])) == {"enforcer": enforcer}


def doctor(layout: Layout) -> tuple[int, dict[str, Any]]:
    done = CliRunner().invoke(main, ["doctor", "--json"], obj=layout)
    (found,) = json.loads(done.output)["findings"]
    return done.exit_code, found


def test_doctor_has_nothing_to_mend_where_all_runs_that_up_did_not_start(
    layout: Layout, monitor: int, enforcer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "ask", lambda *_, **__: {"ready": True, "blind": []})
    code, found = doctor(layout)
    assert code == 0
    assert found["good"]
    assert found["detail"].endswith(f"enforcer (process {enforcer}) and monitor (process {monitor})")


def test_doctor_tells_what_is_blind_of_what_up_did_not_start(
    layout: Layout, monitor: int, enforcer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "ask", lambda *_, **__: {"ready": False, "blind": ["sensors since 12:00"]})
    code, found = doctor(layout)
    assert code == 1
    assert found["detail"].endswith("it does not see everything: sensors since 12:00")


def test_doctor_says_so_where_a_monitor_that_up_did_not_start_does_not_answer(
    layout: Layout, monitor: int, enforcer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(*_: object, **__: object) -> None:
        raise ControlError("Hypervigil did not answer within 2 s")

    monkeypatch.setattr(checks, "ask", silent)
    code, found = doctor(layout)
    assert code == 1
    assert found["detail"].endswith("; Hypervigil did not answer within 2 s")


def test_a_monitor_without_an_enforcer_counts_for_doctor(layout: Layout, monitor: int) -> None:
    code, found = doctor(layout)
    assert code == 1
    assert found["needed"]
    assert "without the enforcer; stop it where it was started" in found["detail"]


def test_doctor_says_so_where_this_user_may_not_ask_who_runs(
    layout: Layout, enforcer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "connect", denied)
    done = CliRunner().invoke(main, ["doctor"], obj=layout)
    assert done.exit_code == 1
    assert " ".join(done.output.split()).endswith(f"{layout.maps_socket} cannot be read (Permission denied): be root")
