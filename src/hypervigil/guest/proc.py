"""The kernel's text files as numbers. Pure; what a kernel does not tell is left out, never zero."""

from __future__ import annotations

SECTOR = 512


def named(text: bytes, name: bytes) -> int | None:
    """The number of the line that begins with ``name``, in files with one name and one number a line."""
    at = text.find(b"\n" + name)
    if at < 0:
        if not text.startswith(name):
            return None
        at = -1
    end = text.find(b"\n", at + 1)
    words = text[at + 1 + len(name) : end if end >= 0 else len(text)].split()
    return number(words[0]) if words else None


def number(word: bytes) -> int | None:
    """A whole number, or nothing."""
    return int(word) if word.isdigit() else None


class Stat:
    """``/proc/stat``: processor time in ticks since boot, and processes."""

    __slots__ = ("busy", "cpus", "forks", "running", "steal", "total")

    def __init__(self, text: bytes) -> None:
        ticks = [int(word) for word in text[: text.find(b"\n")].split()[1:9] if word.isdigit()]
        ticks += [0] * (8 - len(ticks))
        user, nice, system, idle, wait, interrupt, soft, steal = ticks
        self.busy = user + nice + system + interrupt + soft
        self.steal = steal
        self.total = self.busy + idle + wait + steal
        self.cpus = text.count(b"\ncpu")
        self.forks = named(text, b"processes ")
        self.running = named(text, b"procs_running ")


class Disk:
    """One virtual disk since boot."""

    __slots__ = ("busy_ms", "octets", "reads", "writes")

    def __init__(self, fields: list[bytes]) -> None:
        self.reads, self.writes = int(fields[3]), int(fields[7])
        self.octets = (int(fields[5]) + int(fields[9])) * SECTOR
        self.busy_ms = int(fields[12])


def disks(text: bytes) -> dict[str, Disk]:
    """Whole disks that reach the hypervisor, by name: no partitions, no loops, no mappings."""
    found = {}
    for line in text.split(b"\n"):
        fields = line.split()
        if len(fields) >= 13 and _is_disk(fields[2]):
            found[fields[2].decode("ascii", "replace")] = Disk(fields)
    return found


def _is_disk(name: bytes) -> bool:
    if name.startswith((b"vd", b"sd", b"hd", b"xvd")):
        return not name[-1:].isdigit()
    return name.startswith((b"nvme", b"mmcblk")) and b"p" not in name.replace(b"mmcblk", b"")


class Nic:
    """One NIC since it appeared."""

    __slots__ = ("faults", "octets_in", "octets_out", "packets_in", "packets_out")

    def __init__(self, fields: list[int]) -> None:
        self.octets_in, self.packets_in = fields[0], fields[1]
        self.octets_out, self.packets_out = fields[8], fields[9]
        self.faults = fields[10] + fields[11] + fields[14]


def nics(text: bytes) -> dict[str, Nic]:
    """Every NIC but loopback, by name."""
    found = {}
    for line in text.split(b"\n")[2:]:
        name, colon, rest = line.partition(b":")
        fields = [int(word) for word in rest.split() if word.isdigit()]
        if colon and len(fields) >= 16 and name.strip() != b"lo":
            found[name.strip().decode("ascii", "replace")] = Nic(fields)
    return found


class Table:
    """Chosen columns of one protocol in ``/proc/net/snmp`` and ``netstat``: a line of names, a line of numbers."""

    __slots__ = ("_header", "_names", "_places", "_prefix")

    def __init__(self, prefix: bytes, *names: bytes) -> None:
        self._prefix, self._names = prefix, names
        self._header = b""
        self._places: list[int] = []

    def read(self, text: bytes) -> list[int | None]:
        """The numbers of the chosen names, in their order."""
        start = 0 if text.startswith(self._prefix) else text.find(b"\n" + self._prefix) + 1
        if start == 0 and not text.startswith(self._prefix):
            return [None] * len(self._names)
        middle = text.find(b"\n", start)
        header = text[start:middle]
        if header != self._header:
            columns = header.split()
            self._places = [columns.index(name) if name in columns else -1 for name in self._names]
            self._header = header
        end = text.find(b"\n", middle + 1)
        values = text[middle + 1 : end if end >= 0 else len(text)].split()
        return [number(values[place]) if 0 <= place < len(values) else None for place in self._places]


def device_interrupts(text: bytes) -> dict[str, int] | None:
    """Interrupts of virtual devices by name, all processors together; ``None`` where the kernel shows none of them."""
    found: dict[str, int] = {}
    for line in text.split(b"\n"):
        if b"virtio" in line or b"xen" in line or b"Hyper-V" in line:
            words = line.split()
            count = 0
            for word in words[1:]:
                if not word.isdigit():
                    break
                count += int(word)
            name = words[-1].decode("ascii", "replace")
            found[name] = found.get(name, 0) + count
    return found or None
