"""The namespace ``ext``: the world outside of the provider, reached from the guests through the host."""

import socket
import subprocess
from collections.abc import Sequence
from contextlib import suppress

from lab.paths import GUEST_FILES
from lab.place import CommandResult, JobId, WorkSample
from lab.runner import Runner

NAMESPACE = "hvl-ext"
INTERFACE = "hvl-ext0"  # the host's end of its link
GATEWAY = "198.51.100.1"
ADDRESS = "198.51.100.2"
PREFIX = 24
_START_S = 10.0


class Ext:
    """A `lab.place.Place` in the namespace that `lab.network.Networks` made. Close it before the networks go."""

    name = "ext"
    address = ADDRESS
    interface = INTERFACE

    def __init__(self) -> None:
        ours, its = socket.socketpair()
        argv = ["ip", "netns", "exec", NAMESPACE, "/usr/bin/python3", "-I", "-S", str(GUEST_FILES / "runner.py")]
        with its:
            # A session of its own: an interrupt from the terminal is for us, who then close it in order.
            self._process = subprocess.Popen(argv, stdin=its.fileno(), stdout=its.fileno(), start_new_session=True)
        self._runner = Runner(self.name, ours)
        self._runner.greet(_START_S)

    def run(self, command: str, timeout_s: float = 30.0) -> CommandResult:
        """See `lab.place.Place.run`."""
        return self._runner.run(command, timeout_s)

    def spawn(self, command: str) -> JobId:
        """See `lab.place.Place.spawn`."""
        return self._runner.spawn(command)

    def stop(self, job: JobId) -> CommandResult | None:
        """See `lab.place.Place.stop`."""
        return self._runner.stop(job)

    def work_start(self, kind: str) -> None:
        """See `lab.place.Place.work_start`."""
        self._runner.work_start(kind)

    def work_stop(self) -> None:
        """See `lab.place.Place.work_stop`."""
        self._runner.work_start("idle")

    def work_read(self) -> Sequence[WorkSample]:
        """See `lab.place.Place.work_read`."""
        return self._runner.work_read()

    def close(self) -> None:
        """End everything that runs in it: its runner does so when nobody speaks to it any more."""
        self._runner.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
            return
        self._process.kill()
        self._process.wait()
