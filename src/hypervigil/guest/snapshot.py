"""Everything that is read of the guest's kernel at one time, and what happened between two of them. Pure."""

from __future__ import annotations

from hypervigil.guest import proc, words
from hypervigil.guest.vsem.recorder import Second

_TRIES_FOR_A_SHARE = 10
_DOUBT = 1.65

_TCP = (b"ActiveOpens", b"PassiveOpens", b"AttemptFails", b"RetransSegs", b"OutRsts", b"InSegs", b"OutSegs")
_COUNTERS = (
    words.OUT_PACKETS,
    words.OUT_BYTES,
    words.IN_PACKETS,
    words.IN_BYTES,
    words.OUT_FAULTS,
    words.OPENED,
    words.ACCEPTED,
    words.FAILED,
    words.RETRANSMITTED,
    words.RESETS_SENT,
    words.TIMED_OUT,
    words.UNREACHABLE,
    words.INTERRUPTS,
    words.BLOCK_READS,
    words.BLOCK_WRITES,
    words.BLOCK_BYTES,
    words.BALLOON,
    words.SWAPPED,
    words.FORKS,
)


class Columns:
    """Where the chosen columns lie in the network's tables; remembered, because they never move."""

    __slots__ = ("icmp", "tcp", "tcp_ext")

    def __init__(self) -> None:
        self.tcp = proc.Table(b"Tcp: ", *_TCP)
        self.icmp = proc.Table(b"Icmp: ", b"InDestUnreachs")
        self.tcp_ext = proc.Table(b"TcpExt: ", b"TCPAbortOnTimeout")


class Snapshot:
    """Counters since boot by column, states, and the devices one by one."""

    __slots__ = ("at_ms", "counts", "cpu", "disks", "interrupts", "memory_kib", "nics", "states", "tcp")

    def __init__(
        self,
        at_ms: int,
        files: dict[str, bytes],
        nics: dict[str, proc.Nic],
        real_nics: frozenset[str],
        columns: Columns,
    ) -> None:
        self.at_ms = at_ms
        self.counts: dict[int, int | None] = {}
        self.states: dict[int, int] = {}
        self.cpu = proc.Stat(files["stat"])
        self.disks = proc.disks(files["diskstats"])
        self.nics = nics
        self.interrupts = proc.device_interrupts(files["interrupts"])
        self.memory_kib = proc.named(files["meminfo"], b"MemTotal:") or 0
        self.tcp = columns.tcp.read(files["net/snmp"])
        """All counts of TCP; while none of them moves no connection comes or goes."""
        self._count(files, columns, real_nics)
        available = proc.named(files["meminfo"], b"MemAvailable:")
        if available is not None and self.memory_kib:
            self.states[words.MEMORY] = 1000 - min(1000, 1000 * available // self.memory_kib)
        if self.cpu.running is not None:
            self.states[words.PROCESSES] = self.cpu.running

    def _count(self, files: dict[str, bytes], columns: Columns, real_nics: frozenset[str]) -> None:
        counts = self.counts
        nics = [nic for name, nic in self.nics.items() if name in real_nics or not real_nics]
        if nics:
            counts[words.OUT_PACKETS] = sum([nic.packets_out for nic in nics])
            counts[words.OUT_BYTES] = sum([nic.octets_out for nic in nics])
            counts[words.IN_PACKETS] = sum([nic.packets_in for nic in nics])
            counts[words.IN_BYTES] = sum([nic.octets_in for nic in nics])
            counts[words.OUT_FAULTS] = sum([nic.faults for nic in nics])
        for column, value in zip(_COUNTERS[5:10], self.tcp):
            counts[column] = value
        unreachable = columns.icmp.read(files["net/snmp"])[0]
        unreachable6 = proc.named(files["net/snmp6"], b"Icmp6InDestUnreachs")
        counts[words.UNREACHABLE] = unreachable if unreachable is None else unreachable + (unreachable6 or 0)
        if self.interrupts is not None:
            counts[words.INTERRUPTS] = sum(self.interrupts.values())
        if self.disks:
            counts[words.BLOCK_READS] = sum([disk.reads for disk in self.disks.values()])
            counts[words.BLOCK_WRITES] = sum([disk.writes for disk in self.disks.values()])
            counts[words.BLOCK_BYTES] = sum([disk.octets for disk in self.disks.values()])
        vmstat = files["vmstat"]
        counts[words.BALLOON] = _both(vmstat, b"balloon_inflate ", b"balloon_deflate ")
        counts[words.SWAPPED] = _both(vmstat, b"pswpin ", b"pswpout ")
        counts[words.FORKS] = self.cpu.forks


def _both(text: bytes, one: bytes, other: bytes) -> int | None:
    first, second = proc.named(text, one), proc.named(text, other)
    return None if first is None or second is None else first + second


def changes(before: Snapshot, after: Snapshot, second: Second) -> list[int]:
    """One report's values: counts between the two, states at the second, estimates of the sampled headers."""
    values = [words.UNSEEN] * words.METRICS
    for column in _COUNTERS:
        now, then = after.counts.get(column), before.counts.get(column)
        if now is not None and then is not None:
            values[column] = now - then if now >= then else now  # a device that came anew counts from zero
    for column, value in after.states.items():
        values[column] = value
    values[words.OUT_SYN : words.IN_SYN] = second.classes[words.OUT]
    values[words.IN_SYN : words.OPENED] = second.classes[words.IN]
    values[words.FAN_OUT], values[words.FAN_IN] = len(second.peers[words.OUT]), len(second.peers[words.IN])
    values[words.PORTS_TRIED] = max([len(ports) for ports in second.ports.values()] or [0])
    values[words.ODD_PORTS] = second.odd_ports
    _tries(values, before)
    _shares(values, before, after)
    return values


def sure(values: list[int], second: Second) -> list[int]:
    """The values that are judged: of what was sampled no more than is surely there, 19 times out of 20.

    One header of a kind that stands for 200 is no 200 of that kind.
    """
    found = list(values)
    for way, first in ((words.OUT, words.OUT_SYN), (words.IN, words.IN_SYN)):
        if second.weights[way] > 1:
            for traffic, read in enumerate(second.read_of[way]):
                found[first + traffic] = _at_least(values[first + traffic], read)
    if second.weights[words.OUT] > 1:
        found[words.ODD_PORTS] = _at_least(values[words.ODD_PORTS], second.odd_read)
    return found


def _at_least(estimate: int, read: int) -> int:
    """So many at least, when ``read`` samples gave this estimate."""
    return max(read, int(estimate * (1 - _DOUBT / read**0.5))) if read else 0


def _tries(values: list[int], before: Snapshot) -> None:
    """Of the tries that ended: how many were answered, and which share failed."""
    opened, failed = values[words.OPENED], values[words.FAILED]
    if opened < 0 or failed < 0:
        return
    waiting, waited = values[words.PENDING], before.states.get(words.PENDING)
    still = waiting - waited if waiting >= 0 and waited is not None else 0
    ended = max(failed, opened - still)
    values[words.ANSWERED] = ended - failed
    if ended >= _TRIES_FOR_A_SHARE:
        values[words.FAIL_SHARE] = 1000 * failed // ended


def _shares(values: list[int], before: Snapshot, after: Snapshot) -> None:
    """Of processors and disks."""
    total = after.cpu.total - before.cpu.total
    if total > 0:
        values[words.CPU] = max(0, min(1000, 1000 * (after.cpu.busy - before.cpu.busy) // total))
        values[words.STEAL] = max(0, min(1000, 1000 * (after.cpu.steal - before.cpu.steal) // total))
    span_ms = after.at_ms - before.at_ms
    if span_ms > 0 and after.disks:
        busy = [disk.busy_ms - before.disks[name].busy_ms for name, disk in after.disks.items() if name in before.disks]
        values[words.DISK] = max(0, min(1000, 1000 * max(busy or [0]) // span_ms))


def devices(before: Snapshot, after: Snapshot, count: int) -> list[tuple[str, int, int]]:
    """Name, requests and octets of each virtual device in between; of those but disks their interrupts."""
    found = []
    for name, disk in after.disks.items():
        old = before.disks.get(name)
        if old is not None:
            requests = disk.reads + disk.writes - old.reads - old.writes
            found.append((max(0, requests), name, max(0, disk.octets - old.octets)))
    for name, interrupts in (after.interrupts or {}).items():
        found.append((max(0, interrupts - (before.interrupts or {}).get(name, 0)), name, 0))
    found.sort(reverse=True)
    return [(name, requests, octets) for requests, name, octets in found[:count]]
