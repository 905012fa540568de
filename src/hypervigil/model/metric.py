"""The catalogue of what is known of a VM each second, one column each. NaN in a column means unseen, never zero."""

from enum import IntEnum

from hypervigil.model.traffic import Direction, TrafficClass


class Metric(IntEnum):
    """A column. Rates are per second; packets are attempted packets, counted before any limit."""

    OUT_SYN = 0
    OUT_SYNACK = 1
    OUT_RST = 2
    OUT_TCP = 3
    OUT_DNS = 4
    OUT_UDP = 5
    OUT_ICMP = 6
    OUT_ARP = 7
    OUT_FRAGMENT = 8
    OUT_MULTICAST = 9
    OUT_OTHER = 10
    IN_SYN = 11
    IN_SYNACK = 12
    IN_RST = 13
    IN_TCP = 14
    IN_DNS = 15
    IN_UDP = 16
    IN_ICMP = 17
    IN_ARP = 18
    IN_FRAGMENT = 19
    IN_MULTICAST = 20
    IN_OTHER = 21
    OUT_BYTES = 22
    IN_BYTES = 23
    FORGED = 24
    """Frames with a sender that is not the VM's, or of a kind that only infrastructure may send."""
    NEW_DESTINATIONS = 25
    """First packets to an address the VM did not talk to in the data plane's memory of flows."""
    FAN_OUT = 26
    """Distinct destinations tried in the last second."""
    FAN_IN = 27
    """Distinct sources that tried the VM in the last second."""
    FAILURES = 28
    """Signs that tries failed: RST and ICMP unreachable that came back."""
    PORTS_TRIED = 29
    """Distinct destination ports tried at the most tried destination in the last second (estimate, at most 64)."""
    CPU = 30
    """Fraction of all the VM's vCPUs, 0..1."""
    CPU_WAIT = 31
    """Fraction of time that vCPUs were ready but waited for a physical CPU, 0..1."""
    MEMORY = 32
    """Fraction of the balloon's size in use as the guest's balloon driver tells, 0..1."""
    MEMORY_RSS = 33
    """Resident bytes of the VM's process."""
    BLOCK_READS = 34
    BLOCK_WRITES = 35
    BLOCK_BYTES = 36
    EXITS = 37
    """VM exits, where the accelerator reports them."""
    HYPERCALLS = 38
    """Requests to the hypervisor, where the accelerator reports them."""
    DEVICE_REQUESTS = 39
    """Requests that the VM's virtual devices served: block requests, flushes and balloon changes."""

    BLOCK_WAIT = 40
    """Seconds from a block request to its answer, on average over the VM's disks."""


def packet_metric(direction: Direction, traffic: TrafficClass) -> Metric:
    """The column of one class in one direction."""
    return Metric(direction * len(TrafficClass) + traffic)


PACKET_METRICS: tuple[Metric, ...] = tuple(packet_metric(d, c) for d in Direction for c in TrafficClass)
