"""Real guests under libvirt: defined, restored from saved RAM or booted, spoken to, and destroyed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lab.network import Network
from lab.place import CommandResult, JobId, WorkSample


@dataclass(frozen=True)
class GuestSpec:
    """What a scenario says of a guest; ``index`` numbers the guests of one network from 0 on and fixes the address."""

    name: str
    tenant: str
    network: str
    index: int
    memory_mib: int = 192
    vcpus: int = 1
    work: str = "idle"


class Guest:
    """A `lab.place.Place` in a virtual machine. The domain is called ``hvl-NAME``; name, MAC and UUID never change."""

    spec: GuestSpec
    name: str  # the scenario's name for it: "a"
    domain: str  # libvirt's name for it: "hvl-a"
    uuid: str
    mac: str
    address: str
    restored: bool  # whether the last start took saved RAM
    start_s: float  # how long the last start took

    def __init__(self, spec: GuestSpec, network: Network) -> None:
        raise NotImplementedError

    def start(
        self,
        *,
        cold: bool = False,
        on_boot: str | None = None,
        on_created: Callable[["Guest"], None] | None = None,
    ) -> None:
        """Start until the runner answers and the network is configured: from saved RAM where possible, else by booting.

        ``cold`` boots in any case; ``on_boot`` (cold only) is a shell command that the guest runs by itself as soon as
        its network is up, before anybody can talk to it. ``on_created`` is called while the guest is still paused:
        its tap exists, no frame has passed yet.
        """
        raise NotImplementedError

    @property
    def interface(self) -> str:
        """The tap's name on the host, e.g. ``vnet3``; only while it runs."""
        raise NotImplementedError

    @property
    def pid(self) -> int:
        """QEMU's process."""
        raise NotImplementedError

    @property
    def boot_job(self) -> JobId | None:
        """The job that ``on_boot`` became."""
        raise NotImplementedError

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

    def destroy(self) -> None:
        """Power off and undefine; nothing of it stays but the saved RAM in the cache. Works in any state."""
        raise NotImplementedError


def start_all(guests: Sequence[Guest]) -> None:
    """Start guests in parallel; on any failure all are destroyed and the first error is raised."""
    raise NotImplementedError


def clean_all() -> list[str]:
    """Remove every domain, process and file that any earlier run left; what was removed, in words."""
    raise NotImplementedError
