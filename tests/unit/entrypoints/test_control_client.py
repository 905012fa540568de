"""What the command line says where the monitor cannot be asked."""

from pathlib import Path

import pytest

from hypervigil.entrypoints.control_client import ControlError, ask
from hypervigil.wire import control


def test_who_may_not_speak_to_the_monitor_is_told_who_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_arguments: object) -> None:
        raise PermissionError

    monkeypatch.setattr("socket.socket.connect", refused)
    with pytest.raises(ControlError, match=r"you may not speak to Hypervigil at .*: be root$"):
        ask(tmp_path / "control.sock", control.ShowStatus())


def test_a_monitor_that_is_not_there_is_to_be_started(tmp_path: Path) -> None:
    with pytest.raises(ControlError, match="start it with 'hypervigil up'"):
        ask(tmp_path / "control.sock", control.ShowStatus())
