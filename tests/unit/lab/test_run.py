"""The command line of the lab: errors are one sentence, said before anything is booted."""

import os
import sys
from pathlib import Path

import pytest

from lab.__main__ import main
from tests.architecture.source import ROOT

SOUND = ROOT / "lab" / "scenarios" / "backup.toml"


def said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["lab", *arguments])
    monkeypatch.setattr("signal.signal", lambda *_: None)
    assert main() == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert len(output.err.splitlines()) == 1
    return output.err


def test_without_root_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "needs root: run it with sudo" in said(monkeypatch, capsys, "run", str(SOUND))
    assert "needs root: run it with sudo" in said(monkeypatch, capsys, "clean")


def test_a_broken_file_comes_before_everything(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    bad = tmp_path / "bad.toml"
    bad.write_text(SOUND.read_text().replace("seed", "sead"))
    assert "did you mean 'seed'?" in said(monkeypatch, capsys, "run", str(bad))
    assert "name another place" in said(monkeypatch, capsys, "run", str(SOUND), "--json", str(tmp_path / "no" / "out"))
