"""What no surge shows of a VM: what comes unasked, and what it does at a beat or in bulk with hosts outside. Pure."""

from dataclasses import dataclass

from hypervigil.model.ids import OUTSIDE, Instant, VmId

_BEFORE = Instant(0.0)


@dataclass(frozen=True, slots=True)
class Unasked:
    """SYN-ACKs of hosts outside that the VM asked nothing."""

    packets: float = 0.0
    hosts: int = 0
    seconds: float = 0.0
    """Since the first of them."""
    above: float = 0.0
    """Of these, those that are more than is passed over in so long."""


@dataclass(frozen=True, slots=True)
class Beacon:
    """Small dialogues alike with one host outside, at one beat."""

    vm: VmId = OUTSIDE
    address: str = ""
    dialogues: int = 0
    beat_s: float = 0.0
    spread_s: float = 0.0
    said: float = 0.0
    heard: float = 0.0
    """Octets of each, on average."""


@dataclass(frozen=True, slots=True)
class Upload:
    """Far more octets than a VM ever sends go to one host outside, and hardly any come back."""

    vm: VmId = OUTSIDE
    address: str = ""
    octets: float = 0.0
    back: float = 0.0
    seconds: float = 0.0
    tail: float = 0.0
    """The VM's own 95th percentile of all octets out, per second."""
    at: Instant = _BEFORE
    held_from: Instant = _BEFORE
    """When the first copy lately was found: all are held from then on, for a while."""

    @property
    def rate(self) -> float:
        """Octets per second."""
        return self.octets / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, slots=True)
class Mining:
    """A VM at its capacity, as never before, and one small talk with a host outside that never stops meanwhile."""

    vm: VmId = OUTSIDE
    address: str = ""
    seconds: float = 0.0
    messages: int = 0
    """Seconds in which either end said something."""
    said: float = 0.0
    heard: float = 0.0
    """Octets."""
    cpu: float = 0.0
    cpu_tail: float = 0.0
    """At least so much of its CPU, and its own 95th percentile."""


@dataclass(frozen=True, slots=True)
class Findings:
    """The last of each kind in a case; one without a number was not made."""

    unasked: Unasked = Unasked()
    beacon: Beacon = Beacon()
    upload: Upload = Upload()
    mining: Mining = Mining()


NOTHING_FOUND = Findings()
