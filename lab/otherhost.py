"""A second host on this machine, for live migration: namespaces of its own, with its own libvirt and its own product.

It shares files with the first, as hosts with shared storage do, and one wire: a network's bridge is on both.
"""

import os
import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Self

import libvirt

from lab.commands import call, works
from lab.errors import LabError
from lab.libvirtd import awaited, configured
from lab.network import Network
from lab.paths import STATE, make
from lab.scratch import told
from lab.watched import Places, Product

NAMESPACE = "hvl-other"
WIRE = "hvl-wire"
"""The uplink of the bridge, on either host."""
_HOME = STATE / "other"
_MOVING = _HOME / "moving"
"""Where QEMU, which is not root, listens for a guest that comes."""
_OWN = ("etc/libvirt", "run/libvirt", "var/lib/libvirt", "var/log/libvirt", "var/cache/libvirt")
_KNOWN = "/var/cache/libvirt/qemu"
"""What libvirt found out about QEMU, which takes it a while."""
_DAEMONS = ("virtlogd", "libvirtd")
# What its processes see: their network's /sys with what else is mounted in it, and directories of libvirt's own.
_MOUNTS = f"""
set -e
mount --make-rprivate /
mkdir -p {_HOME}/bpf {_HOME}/cgroup
mount --rbind /sys/fs/bpf {_HOME}/bpf
mount --rbind /sys/fs/cgroup {_HOME}/cgroup
mount -t sysfs sysfs /sys
mount --move {_HOME}/bpf /sys/fs/bpf
mount --move {_HOME}/cgroup /sys/fs/cgroup
for directory in {" ".join(_OWN)}; do mount --bind {_HOME}/$directory /$directory; done
hostname other
touch {_HOME}/ready
exec sleep infinity
"""


class OtherHost:
    """A host beside this one, whose bridge is wired to that of a network of the first; a context manager.

    While it is entered, ``product`` is the place for an installation there. At the end nothing of it is left.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self._inside: tuple[str, ...] = ()
        self._holder: subprocess.Popen[bytes] | None = None
        self._connection: libvirt.virConnect | None = None
        self.product = Product()

    def __enter__(self) -> Self:
        clean_all()
        try:
            with told("starting the other host"):
                _wire(self._network)
                self._holder = _hold()
                self._inside = ("nsenter", "-t", str(self._holder.pid), "-n", "-m", "-u")
                places = Places(_HOME / "hypervigil", _HOME / "hypervigil-state", Path("/sys/fs/bpf/hypervigil-other"))
                self.product = Product(places, inside=self._inside)
                self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self.product.inside and self.product.places.state_dir.is_dir():
                self.product.off()
            if self._connection is not None:
                for domain in self._connection.listAllDomains():
                    with suppress(libvirt.libvirtError):
                        domain.destroy()
                self._connection.close()
        finally:
            clean_all()
            if self._holder is not None:
                self._holder.wait()

    @property
    def connection(self) -> libvirt.virConnect:
        """To its libvirt."""
        if self._connection is None:
            raise LabError("the other host's libvirt does not run")
        return self._connection

    def call(self, *argv: str) -> str:
        """Run a program there; what it printed."""
        return call([*self._inside, *argv])

    def take(self, domain: libvirt.virDomain, changed: dict[Path, Path]) -> None:
        """Have a running domain of the first host come here as it runs; ``changed``: paths that are others here."""
        xml = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_MIGRATABLE)
        for before, after in changed.items():
            xml = xml.replace(f"'{before}'", f"'{after}'")
        there = {
            libvirt.VIR_MIGRATE_PARAM_URI: f"unix://{_MOVING}/socket",
            libvirt.VIR_MIGRATE_PARAM_DEST_XML: xml,
        }
        # Unsafe means: the disks' cache, which is one and the same here.
        flags = libvirt.VIR_MIGRATE_LIVE | libvirt.VIR_MIGRATE_UNSAFE | libvirt.VIR_MIGRATE_UNDEFINE_SOURCE
        try:
            domain.migrate3(self.connection, there, flags)  # type: ignore[arg-type]  # its stub says text
        except libvirt.libvirtError as error:
            raise LabError(f"{domain.name()} did not come to the other host: {error}") from None

    def _start(self) -> None:
        for daemon in _DAEMONS:
            # Nobody is asked who may connect: the directory is root's.
            where = _HOME / "etc/libvirt/libvirtd.conf"
            options = ["-f", str(configured(where, 'auth_unix_rw = "none"'))] if daemon == "libvirtd" else []
            self.call(daemon, "-d", "-p", str(_HOME / f"{daemon}.pid"), *options)
        awaited(self._connected, "the other host's libvirt")

    def _connected(self) -> bool:
        with suppress(libvirt.libvirtError):
            self._connection = libvirt.open(f"qemu+unix:///system?socket={_HOME}/run/libvirt/libvirt-sock")
        return self._connection is not None


def _wire(network: Network) -> None:
    call(["ip", "netns", "add", NAMESPACE])
    call(["ip", "link", "add", WIRE, "type", "veth", "peer", "name", WIRE, "netns", NAMESPACE])
    inside = [
        "link set lo up",
        f"link add {network.bridge} type bridge stp_state 0 forward_delay 0",
        f"link set {network.bridge} addrgenmode none up",
    ]
    call(["ip", "-n", NAMESPACE, "-batch", "-"], stdin="\n".join(inside) + "\n")
    for where in ([], ["-n", NAMESPACE]):
        call(["ip", *where, "link", "set", WIRE, "addrgenmode", "none", "master", network.bridge, "up"])


def _hold() -> subprocess.Popen[bytes]:
    """A process in namespaces of its own, which others enter."""
    for directory in _OWN:
        make(_HOME / directory)
        make(Path("/", directory))
    make(_MOVING).chmod(0o777)
    if Path(_KNOWN).is_dir():
        shutil.copytree(_KNOWN, Path(f"{_HOME}{_KNOWN}"))
    argv = ["nsenter", f"--net=/run/netns/{NAMESPACE}", "unshare", "--mount", "--uts", "sh", "-c", _MOUNTS]
    holder = subprocess.Popen(argv, start_new_session=True)
    ready = _HOME / "ready"
    awaited(lambda: ready.exists() or holder.poll() is not None, "the other host")
    if not ready.exists():
        raise LabError("the other host's namespaces could not be made: it said why on standard error")
    return holder


def clean_all() -> list[str]:
    """Remove the other host, also one that a crashed lab left; what was removed, in words."""
    removed = []
    if Path("/run/netns", NAMESPACE).exists():
        for pid in call(["ip", "netns", "pids", NAMESPACE]).split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        works(["ip", "netns", "del", NAMESPACE])
        removed.append(f"namespace {NAMESPACE}")
    works(["ip", "link", "del", WIRE])
    if _HOME.exists():
        shutil.rmtree(_HOME)
        removed.append(f"files in {_HOME}")
    return removed
