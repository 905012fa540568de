"""What ``hypervigil up`` refuses, and how much room it makes."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from hypervigil.entrypoints.cli import lifecycle
from hypervigil.entrypoints.cli.commands import main
from hypervigil.entrypoints.layout import Layout


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    """An empty host on which everything that is needed is there, and nothing is started."""
    layout = Layout(tmp_path / "run", tmp_path / "state", tmp_path / "pins")
    monkeypatch.setattr(lifecycle, "need_root", lambda _: None)
    monkeypatch.setattr(lifecycle.checks, "before_start", lambda _: [])
    monkeypatch.setattr(lifecycle.checks, "make_users", list)
    monkeypatch.setattr(
        lifecycle, "make_directories", lambda one: one.enforcer_state.mkdir(parents=True, exist_ok=True)
    )
    monkeypatch.setattr(lifecycle, "start_detached", lambda *_: None)
    monkeypatch.setattr(lifecycle, "_wait_ready", lambda _: None)
    return layout


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
