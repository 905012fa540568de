"""A host for the commands that start and stop."""

import os
from pathlib import Path

import pytest

from hypervigil.entrypoints.cli import lifecycle
from hypervigil.entrypoints.layout import Layout
from tests.unit.entrypoints.emptyhost import make_directories


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    """An empty host on which everything that is needed is there, and nothing is started."""
    layout = Layout(tmp_path / "run", tmp_path / "state", tmp_path / "pins")
    monkeypatch.setattr(lifecycle, "need_root", lambda _: None)
    monkeypatch.setattr(lifecycle.checks, "before_start", lambda _: [])
    monkeypatch.setattr(lifecycle.checks, "make_users", list)
    monkeypatch.setattr(lifecycle, "make_directories", make_directories)
    monkeypatch.setattr(lifecycle, "user_ids", lambda _: (os.getuid(), os.getgid()))
    monkeypatch.setattr(os, "chown", lambda *_, **__: None)  # whoever runs the tests need not be root
    monkeypatch.setattr(lifecycle, "start_detached", lambda *_: None)
    monkeypatch.setattr(lifecycle, "_wait_ready", lambda _: "monitor")
    return layout
