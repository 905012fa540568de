"""Our agent in a guest of the lab: its port, its file as the package ships it, and its process."""

import base64
from importlib.resources import files
from typing import Protocol

from lab.errors import LabError
from lab.place import CommandResult

PORT = "org.hypervigil.agent.0"
PROGRAM = "/usr/local/sbin/hypervigil-agent"
END = "pkill -9 -f '[h]ypervigil.guest import agent'"
"""What root of a guest does who wants to be rid of it."""
_INSTALL_S = 90.0
_RUNS = "pgrep -f '[h]ypervigil.guest import agent' >/dev/null"


class _Guest(Protocol):
    @property
    def name(self) -> str: ...

    def run(self, command: str, timeout_s: float = ...) -> CommandResult: ...


def packed() -> bytes:
    """The agent's file, as the package ships it."""
    return (files("hypervigil") / "guest" / "hypervigil-agent").read_bytes()


def install(guest: _Guest) -> None:
    """Put the agent into a running guest and start it, which unpacks and compiles it."""
    text = base64.b64encode(packed()).decode()
    _must(guest, f"mkdir -p {PROGRAM.rpartition('/')[0]} && base64 -d > {PROGRAM} <<END\n{text}\nEND")
    _must(guest, f"chmod 755 {PROGRAM}")
    start(guest)


def start(guest: _Guest) -> None:
    """Start it, as an init would, until it runs."""
    _must(guest, f"setsid {PROGRAM} </dev/null >/run/hypervigil-agent.log 2>&1 & until {_RUNS}; do sleep 0.1; done")


def _must(guest: _Guest, command: str) -> None:
    done = guest.run(command, _INSTALL_S)
    if done.exit != 0:
        raise LabError(f"{guest.name}: the agent could not be installed: {done.output.strip()[-300:]}")
