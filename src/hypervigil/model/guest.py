"""What an agent in a guest tells: a guest's word, which may raise suspicion against that guest and never lowers it."""

from dataclasses import dataclass
from enum import IntEnum, StrEnum

from hypervigil.model.ids import Instant, VmId
from hypervigil.model.status import Evidence


class GuestMetric(IntEnum):
    """A column of an agent's report: counts in the interval, states at its end, shares in permille.

    Packets are those of the guest's own kernel, loopback left out; by class they are estimated from sampled headers.
    """

    OUT_PACKETS = 0
    OUT_BYTES = 1
    IN_PACKETS = 2
    IN_BYTES = 3
    OUT_FAULTS = 4
    """Frames that the guest's NICs could not send: errors and drops."""
    OUT_SYN = 5
    OUT_SYNACK = 6
    OUT_RST = 7
    OUT_TCP = 8
    OUT_DNS = 9
    OUT_UDP = 10
    OUT_ICMP = 11
    OUT_ARP = 12
    OUT_FRAGMENT = 13
    OUT_MULTICAST = 14
    OUT_OTHER = 15
    IN_SYN = 16
    IN_SYNACK = 17
    IN_RST = 18
    IN_TCP = 19
    IN_DNS = 20
    IN_UDP = 21
    IN_ICMP = 22
    IN_ARP = 23
    IN_FRAGMENT = 24
    IN_MULTICAST = 25
    IN_OTHER = 26
    OPENED = 27
    """TCP connections that the guest began."""
    ANSWERED = 28
    """Of those begun, the ones that came to be."""
    FAILED = 29
    """TCP tries that came to nothing: refused, unreachable, or out of time."""
    TIMED_OUT = 30
    UNREACHABLE = 31
    """ICMP "unreachable" that came in."""
    FAIL_SHARE = 32
    """Permille of the tries that ended in the interval and failed; unseen below ten of them."""
    RETRANSMITTED = 33
    RESETS_SENT = 34
    ACCEPTED = 35
    """TCP connections that others began and that came to be."""
    PENDING = 36
    """State: tries that wait for an answer."""
    HALF_OPEN = 37
    """State: others' tries that wait for their last step."""
    CONNECTIONS = 38
    """State: TCP connections."""
    FAN_OUT = 39
    """Distinct addresses that the guest sent to."""
    FAN_IN = 40
    """Distinct addresses that sent to the guest."""
    PORTS_TRIED = 41
    """Distinct ports tried at the most tried address."""
    ODD_PORTS = 42
    """Openings towards ports that are not the guest's usual ones."""
    INTERRUPTS = 43
    """Interrupts of virtual devices: what the hypervisor answered."""
    BLOCK_READS = 44
    BLOCK_WRITES = 45
    BLOCK_BYTES = 46
    BALLOON = 47
    """Pages that the balloon took or gave back."""
    FORKS = 48
    PROCESSES = 49
    """State: threads that run or want to."""
    CPU = 50
    """Permille of all vCPUs."""
    STEAL = 51
    """Permille of time that vCPUs waited for a physical CPU."""
    MEMORY = 52
    """Permille of memory that is not available."""
    DISK = 53
    """Permille of time that the busiest disk had requests open."""
    SWAPPED = 54
    """Pages that went to swap or came from there."""
    NEAR_CPU = 55
    """Times that the guest came near its capacity of CPU, since the agent's start; likewise the next two."""
    NEAR_MEMORY = 56
    NEAR_DISK = 57


class Suspect(StrEnum):
    """What the agent takes its own VM for when it goes to Level 2: a hint, and no verdict."""

    ATTACKER = "attacker"
    VICTIM = "victim"
    UNKNOWN = "unknown"


class SpecialRequest(StrEnum):
    """What a guest does seldom and an intruder often."""

    NIC = "nic"
    DISK = "disk"
    CPU = "cpu"
    MEMORY = "memory"
    BALLOON = "balloon"
    PROMISCUOUS = "promiscuous"
    MODULE = "module"
    RAW_SOCKET = "raw-socket"
    FORWARDING = "forwarding"
    CLOCK = "clock"


class Need(StrEnum):
    """A resource that a guest asks for because it is near its capacity of it."""

    CPU = "cpu"
    MEMORY = "memory"
    DISK = "disk"


class Question(StrEnum):
    """What an agent may be asked."""

    FLOWS = "flows"
    """Its flows since a time."""
    TOP = "top"
    """With whom it exchanged most, and which of its processes sends most."""
    LOAD = "load"
    """Its workload now, and how often it was near its capacity."""


ALARM = "agent-alarm"
"""The kind of the fact that an agent finds its own VM unusual."""
MISMATCH = "agent-mismatch"
"""That it contradicts the host."""
SILENT = "agent-silent"
REPLACED = "agent-replaced"
SPECIAL_REQUEST = "special-request"
UNANSWERED = "question-unanswered"
"""The kind of the fact that an agent which goes on reporting gives no answer, or declines to."""
ACCOUNTS = frozenset(
    {"told-flows", "told-top", "told-load", UNANSWERED, "busiest-flow", "busiest-process", "busiest-device"}
)
"""The kinds of facts in which an agent gives account of its VM while a case is open: of each the newest counts."""


class Zone(IntEnum):
    """Where an address lies, as the agent was told."""

    UNKNOWN = 0
    """The agent was not told the provider's networks."""
    INSIDE = 1
    OUTSIDE = 2


@dataclass(frozen=True, slots=True)
class Sampled:
    """How an agent came to its counts by class, which it estimates from the headers of some frames."""

    weight: int
    """For so many frames each header that it read stands, rounded down."""
    read: int
    passed: int
    """Headers that its kernel picked; those beyond ``read`` were the last of the interval, and are lost."""
    one_in: int
    """Of so many frames its kernel picked one; 1 is all of them."""


@dataclass(frozen=True, slots=True)
class GuestReport:
    """One interval as an agent told it. Whose word it is, the channel says."""

    vm: VmId
    at: Instant
    """The host's clock when it was heard; what it tells of ended some time before."""
    agent: int
    """Another number is another agent, or the same one started again."""
    level: int
    guest_at_s: float
    """The guest's own clock when the interval ended."""
    interval_s: float
    values: tuple[int, ...]
    """Indexed by ``GuestMetric``; below zero is unseen."""
    sent: Sampled | None = None
    """Of the frames that it sent; ``None``: it does not say."""
    breaches: int = 0
    """Metrics that its agent finds above their lines."""


class Hearing(StrEnum):
    """What is heard of a VM's agent."""

    NO_PORT = "no-port"
    """Its domain has no port for one: it is judged from outside."""
    CLOSED = "closed"
    """The gateway cannot read its port now."""
    UNKNOWN = "unknown"
    """The port is read, and no agent has spoken there yet."""
    HEARD = "heard"
    CONTRADICTED = "contradicted"
    """It reports, and the host counts otherwise."""
    SILENT = "silent"
    """An agent has spoken, and does not any more."""


@dataclass(frozen=True, slots=True)
class AgentState:
    """What the host knows of a VM's agent. Level and release are the guest's word."""

    hearing: Hearing
    reported_at: Instant | None = None
    level: int | None = None
    release: str | None = None
    untaken: int = 0
    """Lines that the gateway did not take of it: garbage, too long, replayed, beyond its rate, crowded out."""
    late: int = 0
    """Reports that told of a time long past, or of an interval that no agent measures."""
    unnoted: int = 0
    """Facts of it that were not recorded, because there were too many."""
    unasked: int = 0
    """Answers of it to what it was not asked."""
    notices: int = 0
    """How often it told that its VM is unusual, or of a special request, since the monitor's start."""
    notice: Evidence | None = None
    """The last of these."""
    octets_per_s: float | None = None
    """What its channel lately carried to the host; ``None`` before it has said anything twice."""
    blind: tuple[str, ...] = ()
    """What it says that it cannot see in its guest, as it greeted last."""
