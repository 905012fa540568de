"""The host's own resources, as the management VM is watched like the others: /proc to counters (pure) and to rates."""

from dataclasses import dataclass, fields
from pathlib import Path

from hypervigil.model.ids import HOST, Instant
from hypervigil.model.observation import ResourceSample

_SECTOR = 512
_IDLE, _IOWAIT = 3, 4
_JIFFY_FIELDS = 8


@dataclass(frozen=True, slots=True)
class HostCounters:
    """Since the host's start; ``None`` is unseen."""

    busy: float | None = None
    total: float | None = None
    """Jiffies over all CPUs."""
    waited_s: float | None = None
    """Seconds in which some task waited for a CPU (pressure stall information)."""
    memory: float | None = None
    """Used fraction; a state, not a counter."""
    reads: float | None = None
    writes: float | None = None
    octets: float | None = None


def parse_host(
    untrusted_stat: str, untrusted_memory: str, untrusted_pressure: str, untrusted_disks: str
) -> HostCounters:
    """The texts of /proc/stat, /proc/meminfo, /proc/pressure/cpu and /proc/diskstats; an empty one is unseen."""
    busy = total = waited = memory = None
    for line in untrusted_stat.splitlines():
        if line.startswith("cpu "):
            jiffies = [float(word) for word in line.split()[1 : 1 + _JIFFY_FIELDS]]
            total, busy = sum(jiffies), sum(jiffies) - jiffies[_IDLE] - jiffies[_IOWAIT]
    for line in untrusted_pressure.splitlines():
        if line.startswith("some ") and "total=" in line:
            waited = float(line.rpartition("total=")[2]) / 1e6
    sizes = {line.partition(":")[0]: float(line.split()[1]) for line in untrusted_memory.splitlines() if ":" in line}
    if sizes.get("MemTotal") and "MemAvailable" in sizes:
        memory = 1.0 - sizes["MemAvailable"] / sizes["MemTotal"]
    reads, writes, octets = _disks(untrusted_disks)
    return HostCounters(busy, total, waited, memory, reads, writes, octets)


def _disks(text: str) -> tuple[float | None, float | None, float | None]:
    """Requests and bytes of whole disks: a partition's name begins with its disk's, which comes before it."""
    reads = writes = octets = 0.0
    disk = None
    for line in text.splitlines():
        words = line.split()
        name = words[2]
        if name.startswith(("loop", "ram", "dm-", "md", "zram")) or (disk is not None and name.startswith(disk)):
            continue
        disk = name
        reads, writes = reads + float(words[3]), writes + float(words[7])
        octets += (float(words[5]) + float(words[9])) * _SECTOR
    return (reads, writes, octets) if disk is not None else (None, None, None)


def host_sample(before: HostCounters, after: HostCounters, seconds: float) -> ResourceSample:
    """What the host did between two readings."""
    grown = {field.name: _growth(getattr(before, field.name), getattr(after, field.name)) for field in fields(after)}
    total, busy, waited = grown["total"], grown["busy"], grown["waited_s"]

    def rate(name: str) -> float | None:
        growth = grown[name]
        return None if growth is None or seconds <= 0 else growth / seconds

    return ResourceSample(
        vm=HOST,
        cpu=None if not total or busy is None else min(1.0, busy / total),
        cpu_wait=None if waited is None or seconds <= 0 else min(1.0, waited / seconds),
        memory=after.memory,
        block_reads=rate("reads"),
        block_writes=rate("writes"),
        block_bytes=rate("octets"),
    )


def _growth(old: float | None, new: float | None) -> float | None:
    return None if old is None or new is None or new < old else new - old


class HostLoad:
    """How busy the host's CPUs were between two calls of ``read``."""

    def __init__(self) -> None:
        self._last = HostCounters()

    def read(self) -> float | None:
        """The share of their time; ``None`` at the first call and where it is unseen."""
        last, self._last = self._last, parse_host(_text("/proc/stat"), "", "", "")
        return host_sample(last, self._last, 0.0).cpu


class HostMeter:
    """The host between two calls of ``read``."""

    def __init__(self) -> None:
        self._last: tuple[HostCounters, Instant] | None = None

    def read(self, now: Instant) -> ResourceSample | None:
        """The interval since the last call; ``None`` at the first."""
        texts = [_text(f"/proc/{name}") for name in ("stat", "meminfo", "pressure/cpu", "diskstats")]
        counters = parse_host(*texts)
        last, self._last = self._last, (counters, now)
        return None if last is None else host_sample(last[0], counters, now - last[1])


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
