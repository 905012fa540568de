"""The namespace ``ext``: the world outside of the provider, reached from the guests through the host."""

from collections.abc import Sequence

from lab.place import CommandResult, JobId, WorkSample

ADDRESS = "198.51.100.2"
INTERFACE = "hvl-ext0"  # the host's end of its link


class Ext:
    """A `lab.place.Place` in the namespace that `lab.network.Networks` made. Close it before the networks go."""

    name = "ext"
    address = ADDRESS
    interface = INTERFACE

    def run(self, command: str, timeout_s: float = 30.0) -> CommandResult:
        raise NotImplementedError

    def spawn(self, command: str) -> JobId:
        raise NotImplementedError

    def stop(self, job: JobId) -> CommandResult | None:
        raise NotImplementedError

    def work_start(self, kind: str) -> None:
        raise NotImplementedError

    def work_stop(self) -> None:
        raise NotImplementedError

    def work_read(self) -> Sequence[WorkSample]:
        raise NotImplementedError

    def close(self) -> None:
        """End everything that runs in it."""
        raise NotImplementedError
