"""What a run leaves on the host, told by comparing it before and after."""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lab.guests import DOMAIN_PREFIX
from lab.paths import RUN, STATE

_LINKS = ("hvl", "vnet")
_OURS = ("hypervigil", "hvl")
_SETTINGS = (
    "net/ipv4/ip_forward",
    "net/bridge/bridge-nf-call-iptables",
    "net/bridge/bridge-nf-call-ip6tables",
    "net/bridge/bridge-nf-call-arptables",
)
_RUN_DIRECTORIES = (Path("/run/hypervigil"), STATE, RUN, Path("/var/lib/hypervigil"))
_SETTLES_S = 5.0
_PINS = Path("/sys/fs/bpf")


@dataclass(frozen=True)
class HostState:
    """Links, namespaces, domains, tables, queueing, BPF, pins, processes, files and settings, one line each."""

    things: frozenset[str]


def look() -> HostState:
    """The host now: what is called like the lab's or the product's things, and the settings that a run changes."""
    return HostState(frozenset(_things()))


def residue(before: HostState) -> list[str]:
    """What is there now and was not there before, or is set otherwise; sorted.

    What others on this machine make in the meantime counts only where it is called like ours.
    """
    end = time.monotonic() + _SETTLES_S
    while (left := look().things - before.things) and time.monotonic() < end:
        time.sleep(0.5)  # the kernel frees programs and links a moment after their last user let go
    return sorted(left)


def _things() -> Iterator[str]:
    yield from (f"link {path.name}" for path in Path("/sys/class/net").iterdir() if path.name.startswith(_LINKS))
    yield from (f"namespace {path.name}" for path in _inside(Path("/run/netns")) if path.name.startswith(_OURS))
    yield from (f"domain {path.stem}" for path in _domain_files())
    yield from (f"{line}" for line in _lines("nft", "list", "tables") if any(word in line for word in _OURS))
    yield from (f"routing rule {line}" for line in _lines("ip", "rule", "show") if any(word in line for word in _OURS))
    for kind in ("-4", "-6"):  # by the product's protocol number: to VMs that no bridge carries
        yield from (f"route {line}" for line in _lines("ip", kind, "-o", "route", "show", "proto", "72"))
    yield from _queueing()
    yield from (f"pin {path}" for path in _inside(_PINS) if any(word in path.name for word in _OURS))
    yield from _programs()
    yield from _processes()
    for directory in _RUN_DIRECTORIES:
        yield from (f"file {path}" for path in _inside(directory))
    for name in _SETTINGS:
        with suppress(FileNotFoundError):
            yield f"setting {name} = {Path('/proc/sys', name).read_text().strip()}"


def _inside(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _domain_files() -> Iterator[Path]:
    """Libvirt's own files of defined and of running domains; says the same as libvirt, and also when that is dead."""
    for directory in (Path("/etc/libvirt/qemu"), Path("/run/libvirt/qemu")):
        yield from directory.glob(f"{DOMAIN_PREFIX}*.xml")


def _lines(*argv: str) -> list[str]:
    """What a program prints, nothing when it is not there."""
    try:
        return subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False).stdout.splitlines()
    except FileNotFoundError:
        return []


def _queueing() -> Iterator[str]:
    """Queueing disciplines with hooks or limits, on links that are not the lab's and outlive it."""
    with suppress(ValueError):
        for qdisc in json.loads("\n".join(_lines("tc", "-j", "qdisc", "show")) or "[]"):
            if qdisc["kind"] in ("clsact", "ingress", "htb", "tbf") and not qdisc["dev"].startswith(_LINKS):
                yield f"qdisc {qdisc['kind']} on {qdisc['dev']}"


def _programs() -> Iterator[str]:
    """BPF programs with the product's names, in the kernel though nothing pins them."""
    with suppress(ValueError):
        for program in json.loads("\n".join(_lines("bpftool", "-j", "prog", "show")) or "[]"):
            name = program.get("name", "")
            if name.startswith(("hv_", "hypervigil")):
                yield f"BPF program {program['id']} {name}"


def _processes() -> Iterator[str]:
    """Processes of lab and product, but not this one, its ancestors and its children."""
    kin = _ancestors(os.getpid())
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or int(process.name) in kin:
            continue
        with suppress(OSError):
            words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
            line = " ".join(words[:4])
            if any(f"/{word}" in line or f"guest={word}" in line or f"-m {word}" in line for word in _OURS):
                yield f"process {process.name} {line[:120]}"


def _ancestors(pid: int) -> set[int]:
    found = set()
    while pid > 0 and pid not in found:
        found.add(pid)
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return found
