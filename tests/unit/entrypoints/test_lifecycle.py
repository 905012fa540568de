"""What ``hypervigil up`` refuses, and how much room it makes."""

import json
import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from hypervigil.entrypoints import strangers
from hypervigil.entrypoints.cli import lifecycle
from hypervigil.entrypoints.cli.commands import main
from hypervigil.entrypoints.layout import Layout
from hypervigil.entrypoints.processes import Processes
from hypervigil.entrypoints.supervise import alive


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    """An empty host on which everything that is needed is there, and nothing is started."""
    layout = Layout(tmp_path / "run", tmp_path / "state", tmp_path / "pins")
    monkeypatch.setattr(lifecycle, "need_root", lambda _: None)
    monkeypatch.setattr(lifecycle.checks, "before_start", lambda _: [])
    monkeypatch.setattr(lifecycle.checks, "make_users", list)
    monkeypatch.setattr(lifecycle, "make_directories", make_directories)
    monkeypatch.setattr(lifecycle, "user_ids", lambda _: (os.getuid(), os.getgid()))
    monkeypatch.setattr(lifecycle, "start_detached", lambda *_: None)
    monkeypatch.setattr(lifecycle, "_wait_ready", lambda _: "monitor")
    return layout


def make_directories(layout: Layout) -> None:
    for directory in (layout.enforcer_state, layout.monitor_dir):
        directory.mkdir(parents=True, exist_ok=True)


def up(layout: Layout, *words: str):
    return CliRunner().invoke(main, ["up", "--detach", *words], obj=layout)


def test_room_for_nics_is_what_was_last_asked_for(layout: Layout) -> None:
    assert layout.max_nics() is None
    assert up(layout).exit_code == 0
    assert layout.max_nics() is None
    assert up(layout, "--max-nics", "5000").exit_code == 0
    assert up(layout).exit_code == 0
    assert layout.max_nics() == 5000
    layout.max_nics_file.write_text("many", encoding="ascii")
    assert layout.max_nics() is None


def test_a_data_plane_in_force_keeps_its_size(layout: Layout) -> None:
    assert up(layout, "--max-nics", "64").exit_code == 0
    layout.pin_dir.mkdir()
    (layout.pin_dir / "abi-1").touch()
    assert up(layout, "--max-nics", "64").exit_code == 0
    refused = up(layout, "--max-nics", "128")
    assert refused.exit_code == 1
    assert "'hypervigil off' removes it" in refused.output
    assert layout.max_nics() == 64


@pytest.mark.parametrize("size", ["0", "15", "65537", "many"])
def test_nobody_has_room_for_that(layout: Layout, size: str) -> None:
    refused = up(layout, "--max-nics", size)
    assert refused.exit_code == 2
    assert "--max-nics" in refused.output
    assert layout.max_nics() is None


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.toml"
    path.write_text('ladder = ["limit"]\n', encoding="utf-8")
    return path


@pytest.mark.parametrize("umask", [0o000, 0o027, 0o077, 0o777])
def test_the_monitor_alone_can_read_the_policy_handed_over_whatever_the_umask(
    layout: Layout, policy: Path, umask: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_directories(layout)
    owners: list[tuple[int, int]] = []
    monkeypatch.setattr(lifecycle, "user_ids", lambda _: (4242, 4243))
    monkeypatch.setattr(os, "fchown", lambda _descriptor, uid, gid: owners.append((uid, gid)))
    before = os.umask(umask)
    try:
        done = up(layout, "--policy", str(policy))
    finally:
        os.umask(before)
    assert done.exit_code == 0, done.output
    assert owners == [(4242, 4243)]
    assert stat.S_IMODE(layout.handed_policy.stat().st_mode) == 0o600
    assert layout.handed_policy.read_bytes() == policy.read_bytes()


def test_a_link_in_the_monitors_folder_has_root_overwrite_nothing(layout: Layout, policy: Path, tmp_path: Path) -> None:
    make_directories(layout)
    other = tmp_path / "shadow"
    other.write_text("root's", encoding="utf-8")
    layout.handed_policy.symlink_to(other)
    assert up(layout, "--policy", str(policy)).exit_code == 0
    assert other.read_text(encoding="utf-8") == "root's"
    assert not layout.handed_policy.is_symlink()
    assert layout.handed_policy.read_bytes() == policy.read_bytes()


def test_a_policy_that_is_not_sound_is_not_handed_over(layout: Layout, policy: Path) -> None:
    policy.write_bytes(b"\xff\xfe")
    refused = up(layout, "--policy", str(policy))
    assert refused.exit_code == 1
    assert "save it as UTF-8" in refused.output
    assert not layout.handed_policy.exists()


def test_doctor_says_so_where_this_user_may_not_read_who_runs(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(_path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(layout.processes_file))

    monkeypatch.setattr(Path, "read_bytes", denied)
    done = CliRunner().invoke(main, ["doctor"], obj=layout)
    assert done.exit_code == 1
    assert "cannot be read (Permission denied): be root" in done.output
    assert done.exception is None or isinstance(done.exception, SystemExit)


def test_space_is_told_of_the_nearest_folder_that_this_user_may_see(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = os.stat
    hidden = tmp_path / "hidden"

    def stat_of(path: Any, **options: Any) -> os.stat_result:
        if str(path).startswith(str(hidden)):
            raise PermissionError(13, "Permission denied", str(path))
        return look(path, **options)

    monkeypatch.setattr(os, "stat", stat_of)
    assert lifecycle.checks._space(hidden / "state").detail.endswith("MB free")


def test_off_ends_whatever_the_monitor_left_in_its_folder(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    make_directories(layout)
    layout.handed_policy.mkdir()
    monkeypatch.setattr(lifecycle, "undo_all", lambda *_: [])
    done = CliRunner().invoke(main, ["off"], obj=layout)
    assert (done.exit_code, done.output) == (0, "nothing of Hypervigil was in force\n")


def test_a_file_that_says_monitor_and_enforce_are_not_asked_for_at_once(layout: Layout, policy: Path) -> None:
    policy.write_text('mode = "monitor"\n', encoding="utf-8")
    refused = up(layout, "--enforce", "--policy", str(policy))
    assert refused.exit_code == 1
    assert 'says mode = "monitor", which goes before --enforce' in refused.output
    assert not layout.handed_policy.exists()


@pytest.mark.parametrize(
    ("text", "words", "mode"),
    [
        ("", (), "monitor"),
        ("", ("--enforce",), "enforce"),
        ('mode = "enforce"\n', (), "enforce"),
        ('mode = "enforce"\n', ("--enforce",), "enforce"),
        ('mode = "monitor"\n', (), "monitor"),
    ],
)
def test_up_tells_the_mode_that_it_starts_in(
    layout: Layout, policy: Path, text: str, words: tuple[str, ...], mode: str
) -> None:
    policy.write_text(text, encoding="utf-8")
    assert up(layout, *words, "--policy", str(policy)).output.startswith(f"Hypervigil starts in {mode} mode.\n")


def test_up_tells_where_the_policy_applied_last_says_another_mode(layout: Layout) -> None:
    told = up(layout, "--enforce").output.splitlines()
    assert told[0] == "Hypervigil starts in enforce mode, or in the one that the policy applied last says."
    assert told[1].startswith("The mode is monitor, as the policy applied last says")


# --- what systemd or somebody else has started -----------------------------------------------------------------------
@pytest.fixture
def listening(layout: Layout) -> Iterator[socket.socket]:
    """A monitor that the record says nothing of."""
    make_directories(layout)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(layout.control_socket))
        server.listen(0)
        yield server


@pytest.fixture
def enforcing(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """An enforcer that the record says nothing of."""
    monkeypatch.setattr(strangers, "ROOT", os.getuid())
    words = ["-c", "import time; time.sleep(60)", "hypervigil.entrypoints.enforcer", *layout.arguments()]
    with subprocess.Popen([sys.executable, *words]) as process:
        # The child shows its own words only after execve.
        while not alive(process.pid, "hypervigil.entrypoints.enforcer"):
            time.sleep(0.01)
        yield process.pid
        process.kill()


def test_up_starts_no_second_set_beside_one_that_it_did_not_start(
    layout: Layout, listening: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "start_detached", lambda *_: pytest.fail("it was started"))
    refused = up(layout)
    assert refused.exit_code == 1
    assert refused.output.count("\n") == 1
    assert f"monitor (process {os.getpid()})" in refused.output
    assert "systemctl stop hypervigil.target" in refused.output


def test_up_starts_no_second_set_beside_an_enforcer_whose_monitor_is_away(layout: Layout, enforcing: int) -> None:
    refused = up(layout)
    assert refused.exit_code == 1
    assert f"enforcer (process {enforcing})" in refused.output


def test_up_starts_where_only_the_socket_of_a_dead_monitor_is_left(layout: Layout, listening: socket.socket) -> None:
    listening.close()
    assert layout.control_socket.exists()
    assert up(layout).exit_code == 0


def test_a_monitor_that_is_busy_is_there(layout: Layout, listening: socket.socket) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as first:
        first.connect(str(layout.control_socket))
        assert strangers.listener(layout.control_socket) == 0
        assert up(layout).exit_code == 1


def test_off_touches_nothing_under_an_enforcer_that_somebody_else_started(
    layout: Layout, enforcing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "undo_all", lambda *_: pytest.fail("it was undone"))
    refused = CliRunner().invoke(main, ["off"], obj=layout)
    assert refused.exit_code == 1
    assert refused.output.count("\n") == 1
    assert f"enforcer (process {enforcing})" in refused.output
    assert "nothing was changed" in refused.output


def test_off_does_its_work_and_says_that_a_monitor_is_left(
    layout: Layout, listening: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "undo_all", lambda *_: ["removed the pins"])
    done = CliRunner().invoke(main, ["off"], obj=layout)
    assert done.exit_code == 1
    first, second = done.output.splitlines()
    assert first == "removed the pins"
    assert "did not start it: monitor" in second


def test_nobody_but_root_can_pass_for_an_enforcer(
    layout: Layout, enforcing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strangers, "ROOT", os.getuid() + 1)
    assert strangers.strangers(layout, None) == {}


def test_an_enforcer_of_another_installation_is_none_of_this_one(layout: Layout, enforcing: int) -> None:
    assert strangers.strangers(layout, None) == {"enforcer": enforcing}
    assert strangers.strangers(Layout(run_dir=layout.run_dir / "other"), None) == {}


def test_what_is_on_record_and_alive_is_no_stranger(layout: Layout, enforcing: int) -> None:
    recorded = Processes(1, {"enforcer": enforcing}, [])
    assert strangers.strangers(layout, recorded) == {}
    assert strangers.strangers(layout, Processes(1, {"enforcer": os.getpid()}, [])) == {"enforcer": enforcing}


def test_doctor_tells_who_runs_that_up_did_not_start(layout: Layout, listening: socket.socket, enforcing: int) -> None:
    done = CliRunner().invoke(main, ["doctor", "--json"], obj=layout)
    (found,) = json.loads(done.output)["findings"]
    assert found["good"]
    assert f"enforcer (process {enforcing}) and monitor (process {os.getpid()})" in found["detail"]
    assert "systemctl stop hypervigil.target" in found["detail"]
