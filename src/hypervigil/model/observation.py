"""What sensors saw, as they hand it on: counts in an interval, attempted before any limit. Headers only."""

from dataclasses import dataclass

from hypervigil.model.ids import Instant, PortId, VmId
from hypervigil.model.traffic import Direction


@dataclass(frozen=True, slots=True)
class ClassCounts:
    """Frames of one NIC in one direction in one interval; each tuple is indexed by ``TrafficClass``."""

    packets: tuple[int, ...]
    octets: tuple[int, ...]
    limited: tuple[int, ...]
    """Packets that a limit stopped (in monitor mode: would have stopped)."""


@dataclass(frozen=True, slots=True)
class PeerCount:
    """Attempted traffic between one NIC and one address in one interval (the busiest peers of the interval only)."""

    direction: Direction
    address: str
    """IPv4 or IPv6 text; for frames that are neither, the MAC."""
    mac: str
    packets: int
    octets: int
    openings: int
    """Packets among them that begin something: SYN, echo request, UDP towards the lower port, fragments."""
    answers: int
    """Packets the other way in the same interval as this NIC saw them: of OUT what came back, of IN what it sent."""
    resets: int
    """RST among ``answers``."""
    ports: int
    """Distinct destination ports, estimated, at most 64; of TCP those of SYNs, since the other end chose all others."""
    new: bool
    """First seen in this interval."""
    services: int = 0
    """Which of these ports: a set of 64 hashes as bits, so that what many peers were asked for compares."""


@dataclass(frozen=True, slots=True)
class GreeterCount:
    """TCP connections with one service that speaks first, ended in one interval at one NIC."""

    direction: Direction
    """OUT: the VM is the client. IN: the service is its own."""
    address: str
    """The other end's."""
    mac: str
    port: int
    """The service's."""
    ended: int
    curt: int
    """Of these, those in which either end said at most 2,560 octets."""
    alike: int
    """Of these, those nearly as long as the curt one before: 16 octets of the service, 32 of its client."""
    varied: int
    """Of these, those in which the client said more or less than in the one before and was answered alike."""
    lasted_s: float
    """How long those alike took together."""


@dataclass(frozen=True, slots=True)
class PortSample:
    """One NIC in one interval."""

    vm: VmId
    port: PortId
    out: ClassCounts
    into: ClassCounts
    forged: tuple[int, ...]
    """Indexed by ``ForgedKind``."""
    new_destinations: int
    failures: int
    peers: tuple[PeerCount, ...] = ()
    fan_out: int = 0
    """Distinct destinations tried in the last second, however few of them ``peers`` has room for."""
    fan_in: int = 0
    """Distinct sources that tried this NIC in the last second."""
    denied: tuple[tuple[int, ...], ...] = ()
    """Packets by ``Direction``, then by ``DenialKind``; empty where nothing was."""
    greeters: tuple[GreeterCount, ...] = ()


@dataclass(frozen=True, slots=True)
class ResourceSample:
    """One VM's resources in one interval; ``None`` is unseen. Fractions 0..1, rates per second."""

    vm: VmId
    cpu: float | None = None
    cpu_wait: float | None = None
    memory: float | None = None
    memory_rss: float | None = None
    balloon_kib: float | None = None
    block_reads: float | None = None
    block_writes: float | None = None
    block_bytes: float | None = None
    exits: float | None = None
    hypercalls: float | None = None
    device_requests: float | None = None
    block_wait: float | None = None
    """Seconds that a block request took, on average."""


NO_CPU_LEFT = 0.9
"""A host whose CPUs are this busy has none left for who wants one."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """Everything the sensors saw in one interval.

    A port that is known and absent from ``ports`` and from ``unseen`` was silent. A sweep that a tripwire asked for
    may cover only some ports: then ``partial`` is true and absent ports say nothing.
    """

    sequence: int
    at: Instant
    interval_s: float
    ports: tuple[PortSample, ...]
    resources: tuple[ResourceSample, ...] = ()
    unseen: tuple[PortId, ...] = ()
    partial: bool = False
    lost: int = 0
    """Observations dropped since the last sweep because a queue was full."""
    host_busy: float | None = None
    """The share of the host's CPU time that was used in this interval; ``None`` is unseen."""
    glance: tuple[tuple[VmId, float], ...] = ()
    """The share of its CPUs that each VM took just now, read out of turn as the host had none left."""
