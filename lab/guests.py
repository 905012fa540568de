"""Real guests under libvirt: defined, restored from saved RAM or booted, spoken to, and destroyed."""

import base64
import hashlib
import json
import os
import platform
import shutil
import signal
import socket
import threading
import time
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import libvirt

from lab import agents
from lab.accelerator import choose, qemu_version
from lab.commands import call
from lab.definition import Definition, GuestSpec
from lab.errors import LabError
from lab.image import image
from lab.libvirtd import connection
from lab.network import Network
from lab.paths import RUN, SAVED, make
from lab.place import CommandResult, JobId, WorkSample
from lab.runner import GoneError, Runner, UnansweredError
from lab.scratch import only_lab, say
from lab.storage import left_over

DOMAIN_PREFIX = "hvl-"
_IDENTITIES = uuid.UUID("5b1f4c1e-62f0-4ad4-9f0c-1f5a30a4d3b0")  # a namespace of our own
_BOOT_S = 90.0  # two boots at once on two busy cores take 14 s
_RESTORE_S = 20.0
_SAVED_BYTES = 3 << 30
_SAVED_KIND = 2  # raise it when what is saved is made otherwise
_BOOTS = 4
_PACE_S, _PACE_WITHIN, _ASKED = 3.0, 0.03, 5
_COMMAND_LINE_BYTES = 2000  # x86 Linux takes 2048
_KERNEL_OPTIONS = (
    "console=ttyS0 quiet loglevel=3 panic=-1 net.ifnames=0 audit=0 apparmor=0 nowatchdog "
    # What makes emulation slow and means nothing there:
    "mitigations=off init_on_alloc=0 tsc=reliable random.trust_cpu=on "
    # Under emulation on a busy host the kernel's test of its timer fails, and it panics.
    "no_timer_check"
)
# Read from the disk, once, what every guest uses first.
_WARM_UP = "ip -V; mount -V; ping -V; hv-load --help; echo warm | head -1"
_boots_at_once = threading.Semaphore(os.cpu_count() or 1)


class Guest:
    """A `lab.place.Place` in a virtual machine. The domain is called ``hvl-NAME``; name, MAC and UUID never change."""

    def __init__(self, spec: GuestSpec, network: Network) -> None:
        self.spec = spec
        self.name = spec.name
        self.network = network
        self.domain = DOMAIN_PREFIX + spec.name
        self.uuid = str(uuid.uuid5(_IDENTITIES, spec.name))
        self.mac = "52:54:00:" + hashlib.sha256(spec.name.encode()).digest()[:3].hex(":")
        self.address = network.address(spec.index)
        self.restored = False
        self.start_s = 0.0
        self._directory = RUN / spec.name
        bridge = None if network.spec.routed else network.bridge
        self._definition = Definition(spec, self.domain, self.uuid, self.mac, self._directory, bridge)
        self.agent_socket = self._definition.agent_socket
        self._lab_socket = self._definition.lab_socket
        self._runner: Runner | None = None
        self._interface: str | None = None
        self._boot_job: JobId | None = None

    def start(
        self,
        *,
        cold: bool = False,
        on_boot: str | None = None,
        on_created: Callable[["Guest"], None] | None = None,
    ) -> None:
        """Start until the runner answers and the network is configured: from saved RAM where possible, else by booting.

        ``cold`` boots in any case; ``on_boot`` (cold only) is a shell command that the guest runs by itself as soon as
        its network is up, before anybody can talk to it. ``on_created`` is called while the guest is still paused:
        its tap exists, no frame has passed yet.
        """
        if on_boot is not None and not cold:
            raise LabError(f"{self.name}: only a cold start can act during boot")
        began = time.monotonic()
        self.destroy()
        try:
            if cold:
                with _boots_at_once:
                    self._boot(self._definition.xml(_KERNEL_OPTIONS + self._boot_config(on_boot)), on_created)
                self._boot_job = JobId(1) if on_boot is not None else None
            else:
                self._restore_or_boot(on_created)
                self._call("configure", **self._configuration())
            if self.spec.agent:
                (agents.start if self.restored else agents.install)(self)
        except BaseException:
            self.destroy()
            raise
        self.start_s = time.monotonic() - began

    @property
    def runs(self) -> bool:
        """Whether it has a tap on the host."""
        return self._interface is not None

    @property
    def interface(self) -> str:
        """The tap's name on the host, e.g. ``vnet3``; only while it runs."""
        if self._interface is None:
            raise LabError(f"{self.name} does not run")
        return self._interface

    @property
    def pid(self) -> int:
        """QEMU's process; only while it runs."""
        try:
            return int(Path(f"/run/libvirt/qemu/{self.domain}.pid").read_text())
        except FileNotFoundError:
            raise LabError(f"{self.name} does not run") from None

    @property
    def boot_job(self) -> JobId | None:
        """The job that ``on_boot`` became."""
        return self._boot_job

    def run(self, command: str, timeout_s: float = 30.0) -> CommandResult:
        """See `lab.place.Place.run`."""
        return self._reached().run(command, timeout_s)

    def spawn(self, command: str) -> JobId:
        """See `lab.place.Place.spawn`."""
        return self._reached().spawn(command)

    def stop(self, job: JobId) -> CommandResult | None:
        """See `lab.place.Place.stop`."""
        return self._reached().stop(job)

    def work_start(self, kind: str) -> None:
        """See `lab.place.Place.work_start`."""
        self._reached().work_start(kind)

    def work_stop(self) -> None:
        """See `lab.place.Place.work_stop`."""
        self._reached().work_start("idle")

    def work_read(self) -> Sequence[WorkSample]:
        """See `lab.place.Place.work_read`."""
        return self._reached().work_read()

    def save_and_restore(self, on_created: Callable[["Guest"], None] | None = None) -> None:
        """Save it to disk as it runs and let it go on from there, as a host does around its own restart.

        What runs in it goes on, on another tap; ``on_created`` is called while it is still paused.
        """
        self._reached().close()
        self._runner = self._interface = None
        domain = connection().lookupByName(self.domain)
        domain.managedSave()
        domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
        self._go(domain, on_created)
        self._greet(_RESTORE_S)

    def migrate(self, take: Callable[[libvirt.virDomain, dict[Path, Path]], None]) -> None:
        """Have another host take it as it runs (`lab.otherhost`). Its tap is there then, and `interface` is no more."""
        self._reached().close()
        self._runner = self._interface = None
        there = make(self._directory / "there")
        there.chmod(0o777)
        names = (self._lab_socket.name, self.agent_socket.name, "console.log")
        take(
            connection().lookupByName(self.domain),
            {self._lab_socket.with_name(name): there / name for name in names},
        )
        self._lab_socket = there / self._lab_socket.name
        self._greet(_RESTORE_S)

    def destroy(self) -> None:
        """Power off and undefine; nothing of it stays but the saved RAM in the cache. Works in any state."""
        if self._runner is not None:
            self._runner.close()
            self._runner = None
        self._interface = self._boot_job = None
        self._lab_socket = self._definition.lab_socket
        _remove_domain(self.domain)
        shutil.rmtree(self._directory, ignore_errors=True)

    def _reached(self) -> Runner:
        if self._runner is None:
            raise GoneError(f"{self.name} does not run")
        return self._runner

    def _call(self, do: str, **fields: Any) -> None:
        self._reached().call(do, 30.0, **fields)

    def _configuration(self) -> dict[str, Any]:
        routed = self.network.spec.routed
        return {
            "address": self.address,
            "prefix": self.network.prefix,
            "gateway": self.network.gateway,
            "address6": self.network.address6(self.spec.index),
            "prefix6": 128 if routed else self.network.prefix6,
            **({"gateway6": self.network.gateway6} if routed else {}),
            "hostname": self.name,
            "wall_s": time.time(),
        }

    def _boot_config(self, on_boot: str | None) -> str:
        """Kernel options by which the guest configures itself and perhaps acts at once."""
        config = json.dumps({**self._configuration(), "on_boot": on_boot}, separators=(",", ":"))
        option = " hv.config=" + base64.b64encode(config.encode()).decode()
        if len(_KERNEL_OPTIONS) + len(option) > _COMMAND_LINE_BYTES:
            raise LabError(f"{self.name}: the command to run on boot is too long, shorten it to 900 characters")
        return option

    def _restore_or_boot(self, on_created: Callable[["Guest"], None] | None) -> None:
        xml = self._definition.xml(_KERNEL_OPTIONS)
        saved = SAVED / f"{self._fingerprint(xml)}.ram"
        if not saved.exists():
            # Restored even now, so that every start of a guest is like every other.
            with _boots_at_once:
                self._boot_in_time(xml)
                if self.spec.agent:
                    agents.install(self)
                    self.run(agents.END)  # what was compiled stays
                self._save(saved)
        try:
            self._restore(xml, saved, on_created)
        except (libvirt.libvirtError, UnansweredError, GoneError) as error:
            say(f"the saved RAM of {self.name} is of no use ({error}): booting it")
            saved.unlink(missing_ok=True)
            self.destroy()
            with _boots_at_once:
                self._boot(xml, on_created)

    def _prepare(self) -> None:
        """Its directory, which QEMU's user must enter, and its scratch disk, if that is its own."""
        make(self._directory)
        # QEMU makes its socket here, as libvirt's user and not as root.
        self._directory.chmod(0o777)
        if self.spec.shares_storage:
            return
        call(
            ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(image().scratch),
             str(self._directory / "scratch.qcow2")]
        )  # fmt: skip

    def _boot(self, xml: str, on_created: Callable[["Guest"], None] | None) -> None:
        self._prepare()
        try:
            domain = connection().defineXML(xml)
            domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
        except libvirt.libvirtError as error:
            raise LabError(f"libvirt could not start {self.name}: {error}") from None
        self._go(domain, on_created)
        try:
            self._greet(_BOOT_S)
        except LabError as error:
            raise LabError(f"{error}; its console said: {self._console()}") from None

    def _boot_in_time(self, xml: str) -> None:
        """Boot until its clock keeps the host's time.

        A kernel that is emulated on a busy host may take its clock's speed for another, and would for ever.
        """
        for _ in range(_BOOTS):
            self._boot(xml, None)
            pace = self._pace()
            if abs(pace - 1.0) <= _PACE_WITHIN:
                return
            say(f"the clock of {self.name} runs {pace:.2f} times as fast as the host's: booting it again")
            self.destroy()
        raise LabError(f"the clock of {self.name} goes wrong after {_BOOTS} boots: the host is too busy, try again")

    def _pace(self) -> float:
        """Guest's seconds in one of the host's, while what every guest uses first is read from the disk."""
        first, began = self._ahead()
        self._reached().run(_WARM_UP, 60.0)
        time.sleep(max(0.0, _PACE_S - (time.monotonic() - began)))
        last, ended = self._ahead()
        return 1.0 + (last - first) / (ended - began)

    def _ahead(self) -> tuple[float, float]:
        """How far its clock is ahead of the host's, and when: of several answers the one that was least delayed."""
        seen = []
        for _ in range(_ASKED):
            now = self._reached().call("hello")["now"]
            seen.append((now - time.monotonic(), time.monotonic()))
        return max(seen)

    def _restore(self, xml: str, saved: Path, on_created: Callable[["Guest"], None] | None) -> None:
        self._prepare()
        domain = connection().defineXML(xml)
        connection().restoreFlags(str(saved), xml, libvirt.VIR_DOMAIN_SAVE_PAUSED)
        os.utime(saved)
        self._go(domain, on_created)
        self._greet(_RESTORE_S)
        self.restored = True

    def _go(self, domain: libvirt.virDomain, on_created: Callable[["Guest"], None] | None) -> None:
        """Let a domain that was made paused begin."""
        self.restored = False
        target = ET.fromstring(domain.XMLDesc()).find("./devices/interface/target")  # noqa: S314 - it is libvirt's
        if target is None:
            raise LabError(f"{self.name} has no network interface")
        self._interface = target.attrib["dev"]
        if on_created is not None:
            on_created(self)
        domain.resume()

    def _greet(self, timeout_s: float) -> None:
        channel = socket.socket(socket.AF_UNIX)
        channel.settimeout(10)
        channel.connect(str(self._lab_socket))
        self._runner = Runner(self.name, channel)
        self._runner.greet(timeout_s)

    def _save(self, saved: Path) -> None:
        """Keep the RAM of the booted guest, which ends it."""
        make(SAVED)
        self._reached().close()
        self._runner = None
        unfinished = saved.with_suffix(".new")
        try:
            connection().lookupByName(self.domain).save(str(unfinished))
        except libvirt.libvirtError as error:
            unfinished.unlink(missing_ok=True)
            raise LabError(f"libvirt could not save {self.name}: {error}") from None
        unfinished.rename(saved)
        _evict_saved(keep=saved)

    def _fingerprint(self, xml: str) -> str:
        """What saved RAM depends on: the whole definition (with the image in it), agent, QEMU and processor."""
        processor = "" if "type='qemu'" in xml else platform.release() + Path("/proc/cpuinfo").read_text()[:400]
        agent = hashlib.sha256(agents.packed()).hexdigest() if self.spec.agent else ""
        known = f"{_SAVED_KIND}{xml}{agent}{qemu_version()}{processor}"
        return hashlib.sha256(known.encode()).hexdigest()[:24]

    def _console(self) -> str:
        try:
            return (self._directory / "console.log").read_text(errors="replace")[-1500:].strip() or "nothing"
        except OSError:
            return "nothing"


def start_all(guests: Sequence[Guest]) -> None:
    """Start guests in parallel; on any failure all are destroyed and the first error is raised."""
    if not guests:
        return
    choose(image())
    with ThreadPoolExecutor(len(guests), thread_name_prefix="start") as pool:
        starts = [pool.submit(guest.start) for guest in guests]
    errors = [error for start in starts if (error := start.exception()) is not None]
    if errors:
        destroy_all(guests)
        raise errors[0]


def destroy_all(guests: Sequence[Guest]) -> None:
    """Destroy guests in parallel."""
    if guests:
        with ThreadPoolExecutor(len(guests), thread_name_prefix="destroy") as pool:
            list(pool.map(Guest.destroy, guests))


def clean_all() -> list[str]:
    """Remove every domain, process and file that any earlier run left; what was removed, in words."""
    removed = []
    with only_lab():
        with suppress(LabError):
            for domain in connection().listAllDomains():
                if domain.name().startswith(DOMAIN_PREFIX):
                    _remove_domain(domain.name())
                    removed.append(f"domain {domain.name()}")
        for pid in _emulators():
            os.kill(pid, signal.SIGKILL)
            removed.append(f"process {pid}")
        if RUN.exists() and any(RUN.iterdir()):
            shutil.rmtree(RUN)
            removed.append(f"files in {RUN}")
        for unfinished in SAVED.glob("*.new"):
            unfinished.unlink()
    return removed


def _emulators() -> list[int]:
    """QEMU processes of lab guests that libvirt does not know (any more), and of their storage."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with suppress(OSError):
                words = (process / "cmdline").read_bytes().split(b"\0")
                guest = b"qemu-system" in words[0] and any(word.startswith(b"guest=hvl-") for word in words)
                if guest or left_over(words):
                    found.append(int(process.name))
    return found


def _remove_domain(name: str) -> None:
    """Power off and undefine a domain, if it is there."""
    try:
        domain = connection().lookupByName(name)
    except libvirt.libvirtError:
        return
    with suppress(libvirt.libvirtError):  # it is off already
        domain.destroy()
    with suppress(libvirt.libvirtError):  # it was transient
        domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA)


def _evict_saved(*, keep: Path) -> None:
    """Hold the saved RAM below 3 GiB; the one unused for longest goes first."""
    files = sorted((path for path in SAVED.glob("*.ram") if path != keep), key=lambda path: path.stat().st_mtime)
    total = keep.stat().st_size + sum(path.stat().st_size for path in files)
    for path in files:
        if total <= _SAVED_BYTES:
            break
        total -= path.stat().st_size
        path.unlink()
