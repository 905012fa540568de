"""What ``hypervigil up`` refuses, and how much room it makes."""

import os
import stat
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from hypervigil.entrypoints.cli import lifecycle
from hypervigil.entrypoints.cli.commands import main
from hypervigil.entrypoints.cli.common import Fail
from hypervigil.entrypoints.layout import Layout
from tests.unit.entrypoints.emptyhost import make_directories, off, up


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
    done = off(layout)
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


@pytest.mark.parametrize(
    ("stopped", "told"),
    [(["stopped the monitor (process 5)"], ", and stopped again: see"), ([], ", and nothing on record was left to")],
)
def test_up_says_that_it_stopped_again_only_what_it_stopped(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, stopped: list[str], told: str
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(lifecycle, "READY_WITHIN_S", 0.05)
    monkeypatch.setattr(lifecycle, "stop_everything", lambda _: stopped)
    with pytest.raises(Fail, match=told):
        lifecycle._wait_ready(layout)
