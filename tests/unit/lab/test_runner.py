"""The host's end of a runner while nobody answers."""

import socket

import pytest

from lab import runner
from lab.runner import Runner, UnansweredError


def test_who_is_not_up_yet_is_greeted_ever_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guest that takes a minute and a half to boot must find room in its socket for all that was said meanwhile."""
    monkeypatch.setattr(runner, "_GREETING_S", 0.01)
    monkeypatch.setattr(runner, "_GREETING_MOST_S", 0.2)
    here, there = socket.socketpair()
    with there:
        with pytest.raises(UnansweredError, match="did not come up within"):
            Runner("late", here).greet(1.0)
        said = there.recv(65536).count(b'"hello"')
    assert 5 <= said <= 11
