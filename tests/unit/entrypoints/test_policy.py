"""``hypervigil policy`` and ``network apply``: what is checked is what is sent, wherever the text comes from."""

import os
from collections.abc import Iterator

import pytest
from click.testing import CliRunner

from hypervigil.entrypoints.cli import main
from hypervigil.wire import control
from tests.unit.entrypoints.asked import Monitor

TEXT = '# a comment\nmode = "enforce"\n\n[bounds]\nfactor = 3\n'


@pytest.fixture
def monitor(monkeypatch: pytest.MonkeyPatch) -> Monitor[control.ApplyPolicy]:
    return Monitor(control.ApplyPolicy, monkeypatch)


@pytest.fixture
def pipe() -> Iterator[str]:
    """What a shell hands over for ``<(…)``: its text can be read once."""
    here, there = os.pipe()
    os.write(there, TEXT.encode())
    os.close(there)
    yield f"/dev/fd/{here}"
    os.close(here)


@pytest.mark.parametrize(
    "words", [("policy", "apply"), ("policy", "diff"), ("policy", "apply", "--dry-run"), ("network", "apply")]
)
def test_a_policy_from_a_pipe_is_sent_as_it_was_checked(
    monitor: Monitor[control.ApplyPolicy], pipe: str, words: tuple[str, ...]
) -> None:
    result = CliRunner().invoke(main, [*words, pipe])
    assert result.exit_code == 0, result.output
    assert [request.text for request in monitor.asked] == [TEXT]


def test_a_policy_from_a_pipe_is_explained(pipe: str) -> None:
    result = CliRunner().invoke(main, ["policy", "check", pipe])
    assert result.exit_code == 0
    assert "mode enforce: acts" in result.output


@pytest.mark.parametrize("command", ["policy", "network"])
def test_who_applies_a_policy_is_told_to_the_monitor(
    monitor: Monitor[control.ApplyPolicy], pipe: str, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("SUDO_USER", "olga")
    assert CliRunner().invoke(main, [command, "apply", pipe]).exit_code == 0
    assert [request.by for request in monitor.asked] == ["olga"]
