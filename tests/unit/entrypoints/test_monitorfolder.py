"""Whatever a taken-over monitor left in its folder, the next start and the end go on."""

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from hypervigil.entrypoints.cli import lifecycle
from hypervigil.entrypoints.layout import Layout
from hypervigil.entrypoints.monitorfolder import renew_monitor_dir
from tests.unit.entrypoints.emptyhost import make_directories, off, up


@pytest.fixture(autouse=True)
def chowned(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """Who was made the owner of what, by name."""
    chowned: list[tuple[str, int, int]] = []
    monkeypatch.setattr(os, "chown", lambda path, uid, gid, **_: chowned.append((Path(path).name, uid, gid)))
    return chowned


def folder(path: Path) -> None:
    (path / "deep").mkdir(parents=True)


@pytest.mark.parametrize("plant", [os.mkfifo, folder], ids=["fifo", "folder"])
@pytest.mark.parametrize("name", ["policy.toml", "control.sock", "sensors.sock"])
def test_up_and_off_remove_what_lies_where_a_file_or_a_socket_belongs(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, plant: Callable[[Path], None]
) -> None:
    monkeypatch.setattr(lifecycle, "undo_all", lambda *_: [])
    policy = tmp_path / "policy.toml"
    policy.write_text('ladder = ["limit"]\n', encoding="utf-8")
    make_directories(layout)
    plant(layout.monitor_dir / name)
    assert up(layout, "--policy", str(policy)).exit_code == 0
    assert list(layout.monitor_dir.iterdir()) == [layout.handed_policy]
    assert layout.handed_policy.read_bytes() == policy.read_bytes()
    plant(layout.monitor_dir / ("other" if name == "policy.toml" else name))
    assert off(layout).exit_code == 0
    assert list(layout.run_dir.iterdir()) == [layout.monitor_dir]
    assert list(layout.monitor_dir.iterdir()) == []


def test_the_new_folder_is_the_monitors_and_the_old_one_roots(
    layout: Layout, chowned: list[tuple[str, int, int]]
) -> None:
    make_directories(layout)
    layout.monitor_dir.chmod(0o777)
    renew_monitor_dir(layout, keep_policy=True)
    (aside, *root), new = chowned
    assert aside.startswith(".monitor.")
    assert root == [0, 0]
    assert new == ("monitor", os.getuid(), os.getgid())
    assert stat.S_IMODE(layout.monitor_dir.stat().st_mode) == 0o755


def test_a_policy_that_was_handed_over_and_not_taken_waits_for_the_next_start(layout: Layout) -> None:
    make_directories(layout)
    layout.handed_policy.write_text("kept", encoding="utf-8")
    assert up(layout).exit_code == 0
    assert layout.handed_policy.read_text(encoding="utf-8") == "kept"


def test_a_link_in_the_folder_has_nothing_elsewhere_removed_or_kept(layout: Layout, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    folder(elsewhere)
    make_directories(layout)
    (layout.monitor_dir / "there").symlink_to(elsewhere)
    layout.handed_policy.symlink_to(elsewhere / "deep")
    renew_monitor_dir(layout, keep_policy=True)
    assert list(layout.monitor_dir.iterdir()) == []
    assert (elsewhere / "deep").is_dir()


def test_what_cannot_be_removed_lies_aside(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_deep(_path: Path) -> None:
        raise RecursionError

    monkeypatch.setattr(shutil, "rmtree", too_deep)
    make_directories(layout)
    folder(layout.control_socket)
    renew_monitor_dir(layout, keep_policy=True)
    assert list(layout.monitor_dir.iterdir()) == []


def test_where_there_is_no_folder_none_is_made(layout: Layout) -> None:
    renew_monitor_dir(layout, keep_policy=False)
    assert not layout.run_dir.exists()
