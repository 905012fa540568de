"""Whether guests run under KVM or under TCG: told by booting one, never by what /dev promises."""

import json
import platform
import subprocess
from enum import Enum
from pathlib import Path

from lab.commands import call
from lab.image import Image
from lab.paths import CACHE, make
from lab.scratch import say

_DEADLINE_S = 15.0
_MARK = b"hv-probe-ok"


class Accelerator(Enum):
    """By what QEMU runs guests; the value is libvirt's domain type."""

    KVM = "kvm"
    TCG = "qemu"

    @property
    def cpu_mode(self) -> str:
        """Libvirt's name for the richest processor that this accelerator gives."""
        return "host-passthrough" if self is Accelerator.KVM else "maximum"


def qemu_version() -> str:
    """QEMU's own words for its version, e.g. ``QEMU emulator version 7.2.22 (Debian …)``."""
    return call(["qemu-system-x86_64", "--version"]).splitlines()[0]


def choose(image: Image) -> Accelerator:
    """KVM if the image's kernel boots under it within 15 s, else TCG. Remembered per kernel, QEMU and image."""
    key = f"{platform.release()} {platform.version()} {qemu_version()} {image.hash}"
    memory = make(CACHE) / "accelerator.json"
    try:
        known = json.loads(memory.read_text())
        if known["key"] == key:
            return Accelerator(known["accelerator"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        pass
    chosen = Accelerator.KVM if Path("/dev/kvm").exists() and _boots(image) else Accelerator.TCG
    fresh = memory.with_suffix(".new")
    fresh.write_text(json.dumps({"key": key, "accelerator": chosen.value}))
    fresh.rename(memory)
    say(f"guests run under {chosen.name}")
    return chosen


def _boots(image: Image) -> bool:
    """Whether a guest under KVM comes as far as its first process."""
    say(f"trying whether KVM boots a guest (at most {_DEADLINE_S:.0f} s)")
    argv = [
        "qemu-system-x86_64", "-machine", "pc,accel=kvm", "-cpu", "host", "-m", "192", "-nodefaults", "-no-reboot",
        "-nographic", "-serial", "stdio", "-kernel", str(image.kernel), "-initrd", str(image.initrd),
        "-append", "console=ttyS0 quiet panic=-1 hv.probe",
    ]  # fmt: skip
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=_DEADLINE_S, check=False)
    except subprocess.TimeoutExpired as expired:
        return _MARK in (expired.stdout or b"")
    return _MARK in done.stdout
