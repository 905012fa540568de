"""Checks of the host, each with its mend: what Hypervigil needs and whether it is there."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hypervigil.entrypoints.control_client import ControlError, ask
from hypervigil.entrypoints.layout import SERVICE_USERS, Layout, MissingUserError, user_ids
from hypervigil.entrypoints.processes import read_processes
from hypervigil.entrypoints.strangers import mend, strangers, told
from hypervigil.entrypoints.supervise import SERVICES, alive
from hypervigil.wire.control import ShowStatus

LIBVIRT_SOCKET = Path("/run/libvirt/libvirt-sock-ro")
MIN_KERNEL = (6, 1)
"""Debian 12's: the oldest whose verifier is known to take the programs."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: what was looked at, whether it is good, and otherwise the mend."""

    what: str
    good: bool
    detail: str
    needed: bool = True


def before_start(layout: Layout) -> Iterator[Finding]:
    """What must hold before anything is started."""
    yield _root()
    yield _kernel()
    yield _tool("nft", "nftables")
    yield _bpf()
    yield _libvirt()
    yield from _forwarding()
    yield from _users()
    yield _interpreter()
    yield _space(layout.state_dir)
    yield _space(layout.run_dir)


def running(layout: Layout) -> Iterator[Finding]:
    """Whether the processes run."""
    try:
        recorded = read_processes(layout)
        found = strangers(layout, recorded)
    except OSError as error:
        detail = f"who runs cannot be told, since {error.filename} cannot be read ({error.strerror}): be root"
        yield Finding("processes", good=False, detail=detail)
        return
    if found:
        yield _not_ours(layout, found)
        return
    if recorded is None:
        yield Finding("processes", good=False, detail="not started: run 'hypervigil up'", needed=False)
        return
    for service in SERVICES:
        pid = recorded.services.get(service.name, -1)
        there = pid > 0 and alive(pid, service.module)
        yield Finding(
            service.name, there, f"process {pid}" if there else f"not running; see {layout.log_dir}/{service.name}.log"
        )


def _not_ours(layout: Layout, found: dict[str, int]) -> Finding:
    """What runs that ``up`` did not start: good where all of it runs, and sees by its own word."""
    missing = [name for name in ("enforcer", "monitor") if name not in found]
    if missing:
        return Finding("processes", good=False, detail=f"{told(found)}, without the {missing[0]}; {mend(found)}")
    try:
        body = ask(layout.control_socket, ShowStatus(), timeout_s=2)
    except ControlError as error:
        return Finding("processes", good=False, detail=f"{told(found)}; {error}")
    if body.get("ready"):
        return Finding("processes", good=True, detail=told(found))
    blind = "; ".join(map(str, body.get("blind") or ["not all parts are connected"]))
    return Finding("processes", good=False, detail=f"{told(found)}; it does not see everything: {blind}")


def _root() -> Finding:
    root = os.geteuid() == 0
    return Finding(
        "privileges",
        root,
        "root" if root else "not root: run it with sudo, since eBPF, nftables and libvirt's limits need it",
    )


def _kernel() -> Finding:
    release = os.uname().release
    try:
        version = tuple(int(part) for part in release.split(".")[:2])
    except ValueError:
        return Finding("kernel", good=True, detail=f"{release} (version not understood)", needed=False)
    good = version >= MIN_KERNEL
    need = ".".join(map(str, MIN_KERNEL))
    return Finding(
        "kernel",
        good,
        release if good else f"{release} is older than {need}, Debian 12's: boot that or a newer one",
    )


def _tool(name: str, package: str) -> Finding:
    path = shutil.which(name, path="/usr/sbin:/sbin:/usr/bin:/bin:" + os.environ.get("PATH", ""))
    return Finding(name, path is not None, path or f"{name} is missing: apt-get install {package}")


def _bpf() -> Finding:
    try:
        mounts = Path("/proc/mounts").read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        return Finding("bpffs", good=False, detail=f"cannot read /proc/mounts: {error}")
    if any(line.split()[2:3] == ["bpf"] for line in mounts.splitlines()):
        return Finding("bpffs", good=True, detail="mounted")
    exists = Path("/sys/fs/bpf").is_dir()
    return Finding(
        "bpffs",
        exists,
        "will be mounted at /sys/fs/bpf" if exists else "this kernel has no /sys/fs/bpf: eBPF is needed",
    )


def _libvirt() -> Finding:
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(2)
            connection.connect(str(LIBVIRT_SOCKET))
    except OSError as error:
        return Finding(
            "libvirt",
            good=False,
            detail=f"libvirt does not answer at {LIBVIRT_SOCKET} ({error.strerror or error}): start it with "
            "'systemctl start libvirtd', or 'virtlogd -d; libvirtd -d' where there is no systemd",
        )
    return Finding("libvirt", good=True, detail=f"answers at {LIBVIRT_SOCKET}")


def _forwarding() -> Iterator[Finding]:
    """Whether the host routes: the operator's to say, and needed only where a network of the policy is routed."""
    for version, setting in ((4, "net.ipv4.ip_forward"), (6, "net.ipv6.conf.all.forwarding")):
        path = Path("/proc/sys", setting.replace(".", "/"))
        on = path.exists() and path.read_text(encoding="ascii").strip() != "0"
        detail = "on" if on else f"off; routed networks need it: sysctl -w {setting}=1"
        yield Finding(f"IPv{version} forwarding", good=True, detail=detail, needed=False)


def _users() -> Iterator[Finding]:
    for name in SERVICE_USERS:
        try:
            uid, _ = user_ids(name)
        except MissingUserError:
            yield Finding(f"user {name}", good=True, detail="will be made by 'hypervigil up'")
        else:
            yield Finding(f"user {name}", good=True, detail=f"uid {uid}")


def _interpreter() -> Finding:
    """Services run as users without rights: they must be able to read this interpreter and package."""
    for path in {Path(os.path.realpath(sys.executable)), Path(sys.prefix), Path(__file__)}:
        for part in (path, *path.parents):
            mode = part.stat().st_mode
            if not mode & (0o001 if part.is_dir() else 0o004):
                return Finding(
                    "interpreter",
                    good=False,
                    detail=f"other users cannot enter {part}, so services without rights cannot start from it: "
                    "install into a place that all may read, for example /opt/hypervigil",
                )
    return Finding("interpreter", good=True, detail=sys.executable)


def _space(directory: Path) -> Finding:
    place = directory
    while not os.path.exists(place):  # noqa: PTH110 - Path.exists raises where this user may not look
        place = place.parent
    free = shutil.disk_usage(place).free
    good = free > 64 * 1024 * 1024
    text = f"{free // 1_000_000:,} MB free"
    return Finding(
        f"space in {directory}", good, text if good else f"only {text}: free at least 64 MB, or the journal cannot grow"
    )


def make_users(run: Callable[..., object] = subprocess.run) -> list[str]:
    """Make the service users that are missing; one sentence for each made."""
    made = []
    for name in SERVICE_USERS:
        try:
            user_ids(name)
        except MissingUserError:
            # PRIVILEGED: service users are made once, at the first start.
            run(
                [
                    "/usr/sbin/useradd",
                    "--system",
                    "--user-group",
                    "--no-create-home",
                    "--home-dir",
                    "/nonexistent",
                    "--shell",
                    "/usr/sbin/nologin",
                    name,
                ],
                check=True,
                capture_output=True,
            )
            made.append(f"made the service user {name}")
    return made
