"""The guests' image: Debian with attack tools and the lab's runner, built once per recipe and kept in the cache.

Two layers: Debian (a minute to build, named by its packages) and the initial RAM disk, which carries the lab's own
files and is made anew in a moment when one of them changes.
"""

import fcntl
import hashlib
import json
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lab.commands import call
from lab.errors import LabError
from lab.paths import GUEST_FILES, IMAGES, make
from lab.scratch import say, told

RECIPE = 2  # raise it when what is built changes and nothing below does
PACKAGES = (
    "linux-image-cloud-amd64", "busybox-static", "kmod", "python3", "procps", "util-linux",
    "iproute2", "iputils-ping", "iputils-arping", "curl",
    "hping3", "nmap", "dsniff", "iperf3", "stress-ng",
    "qemu-guest-agent", "openrc",
)  # fmt: skip
MODULES = (
    "virtio_pci", "virtio_blk", "virtio_net", "virtio_console", "virtio_balloon", "virtio_rng", "overlay", "af_packet",
)  # fmt: skip
DROPPED = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "var/lib/apt/lists")
IMAGE_MIB = 640
SCRATCH_MIB = 512
IMAGES_KEPT = 2
INITRDS_KEPT = 4
_NEEDED_MIB = 2048


@dataclass(frozen=True)
class Image:
    """A built image. ``base`` and ``scratch`` are raw ext4 file systems that nobody writes."""

    hash: str
    kernel: Path
    initrd: Path
    base: Path
    scratch: Path


def debian_hash() -> str:
    """What names the layer of Debian: packages and recipe."""
    recipe = json.dumps([RECIPE, PACKAGES, MODULES, DROPPED, IMAGE_MIB, SCRATCH_MIB])
    return hashlib.sha256(recipe.encode()).hexdigest()[:16]


def image_hash() -> str:
    """What names the image: a hash of packages, recipe and guest files."""
    recipe = hashlib.sha256(debian_hash().encode())
    for path in _guest_files():
        recipe.update(f"{path.relative_to(GUEST_FILES)} {path.stat().st_mode & 0o111}\n".encode())
        recipe.update(path.read_bytes())
    return recipe.hexdigest()[:16]


def image() -> Image:
    """The image of this recipe; built now if it is not in the cache (about a minute, needs root and a mirror)."""
    debian = IMAGES / debian_hash()
    name = image_hash()
    initrd = debian / f"initrd-{name}"
    if not initrd.exists():
        make(IMAGES)
        with _only_builder():
            if not debian.is_dir():
                _build(debian)
                _evict((path for path in IMAGES.iterdir() if path.is_dir()), IMAGES_KEPT)
            if not initrd.exists():
                fresh = debian / f".initrd-{name}"
                fresh.write_bytes((debian / "drivers.cpio").read_bytes() + _lab_files())
                fresh.rename(initrd)
                _evict(debian.glob("initrd-*"), INITRDS_KEPT)
    return Image(name, debian / "vmlinuz", initrd, debian / "base.img", debian / "scratch.img")


def _guest_files() -> list[Path]:
    return sorted(path for path in GUEST_FILES.rglob("*") if path.is_file() and "__pycache__" not in path.parts)


@contextmanager
def _only_builder() -> Iterator[None]:
    with (IMAGES / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another process that builds the image …")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(place: Path) -> None:
    if os.geteuid() != 0:
        raise LabError("building the guests' image needs root: run it as root")
    for unfinished in IMAGES.glob(".building-*"):
        shutil.rmtree(unfinished)
    free_mib = shutil.disk_usage(IMAGES).free >> 20
    if free_mib < _NEEDED_MIB:
        raise LabError(
            f"{IMAGES} has {free_mib} MiB left and the image needs {_NEEDED_MIB}: make room or set HYPERVIGIL_CACHE"
        )
    work = Path(tempfile.mkdtemp(prefix=".building-", dir=IMAGES))
    work.chmod(0o755)  # QEMU runs as another user
    try:
        root = work / "root"
        with told("installing Debian into the guests' image, once"):
            _install(root)
        with told("making the image's file systems"):
            _furnish(root)
            version = next((root / "lib/modules").iterdir()).name
            shutil.copy(root / f"boot/vmlinuz-{version}", work / "vmlinuz")
            (work / "drivers.cpio").write_bytes(_drivers(root, version))
            _make_file_system(work / "base.img", IMAGE_MIB, root)
            _make_file_system(work / "scratch.img", SCRATCH_MIB)
        shutil.rmtree(root)
        work.rename(place)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def _evict(kin: Iterable[Path], kept: int) -> None:
    """Keep the newest so many."""
    for path in sorted(kin, key=_made_at, reverse=True)[kept:]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _made_at(path: Path) -> float:
    return path.stat().st_mtime


def _sources() -> tuple[str, str]:
    """The host's own Debian release and its mirrors for it, as apt lines."""
    codename = call(["sh", "-c", ". /etc/os-release && echo $VERSION_CODENAME"]).strip()
    listed = call(["apt-get", "indextargets", "--format", "$(CREATED_BY) $(REPO_URI) $(RELEASE) $(COMPONENT)"])
    lines = []
    for line in listed.splitlines():
        kind, *source = line.split()
        if kind == "Packages" and source[1] in (codename, f"{codename}-updates", f"{codename}-security"):
            lines.append("deb " + " ".join(source))
    if not lines:
        raise LabError(f"apt has no source for Debian {codename}: add one to /etc/apt/sources.list.d")
    return codename, "\n".join(dict.fromkeys(lines)) + "\n"


def _install(root: Path) -> None:
    codename, sources = _sources()
    reach = [line for line in call(["apt-config", "dump"]).splitlines() if line.startswith("Acquire::http")]
    argv = [
        "mmdebstrap", "--variant=minbase", "--mode=root", "--format=directory", "--quiet",
        f"--include={','.join(PACKAGES)}",
        '--aptopt=APT::Install-Recommends "false"',
        "--dpkgopt=force-unsafe-io",
        *(f"--dpkgopt=path-exclude=/{directory}/*" for directory in DROPPED[:4]),
        *(f"--aptopt={line}" for line in reach),
        codename, str(root), "-",
    ]  # fmt: skip
    # The guests boot by the lab's own initial RAM disk; making Debian's would take longer than all the rest.
    done = subprocess.run(
        ["env", "INITRD=No", *argv], input=sources, capture_output=True, text=True, timeout=900, check=False
    )
    if done.returncode != 0:
        errors = [line for line in done.stderr.splitlines() if line.startswith("E:")] or done.stderr.splitlines()[-3:]
        raise LabError(f"mmdebstrap could not make the image (is the Debian mirror reachable?): {'; '.join(errors)}")


def _furnish(root: Path) -> None:
    """Name it, make its mount points, take out what no guest needs."""
    (root / "etc/hostname").write_text("guest\n")
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n")
    (root / "etc/resolv.conf").write_text("")
    for name in ("scratch", "usr/lib/hv-lab", "root", "proc", "sys", "dev", "run", "tmp"):
        (root / name).mkdir(exist_ok=True)
    for name in DROPPED:
        shutil.rmtree(root / name, ignore_errors=True)
    for package in (root / "var/cache/apt").rglob("*.bin"):
        package.unlink()


def _make_file_system(path: Path, size_mib: int, source: Path | None = None) -> None:
    contents = ["-d", str(source)] if source else []
    call(
        ["mke2fs", "-q", "-t", "ext4", "-m", "0", "-O", "^has_journal", "-E", "lazy_itable_init=1", *contents,
         str(path), f"{size_mib}M"],
        timeout_s=300,
    )  # fmt: skip
    path.chmod(0o644)


def _drivers(root: Path, version: str) -> bytes:
    """The initial RAM disk's part from Debian: busybox, and the drivers in the order of their needs."""
    modules = _in_order(root / "lib/modules" / version)
    return newc(
        [
            *((name, stat.S_IFDIR | 0o755, b"") for name in ("bin", "dev", "proc", "modules")),
            ("bin/busybox", stat.S_IFREG | 0o755, (root / "bin/busybox").read_bytes()),
            ("modules/order", stat.S_IFREG | 0o644, "".join(f"{path.name}\n" for path in modules).encode()),
            *((f"modules/{path.name}", stat.S_IFREG | 0o644, path.read_bytes()) for path in modules),
        ]
    )


def _lab_files() -> bytes:
    """The initial RAM disk's part from the lab: init, and below ``lab`` what it copies into the guest."""
    directories = {GUEST_FILES} | {path.parent for path in _guest_files()}
    names = sorted(str(Path("lab", path.relative_to(GUEST_FILES))) for path in directories)
    return newc(
        [
            ("init", stat.S_IFREG | 0o755, (GUEST_FILES / "init").read_bytes()),
            *((name, stat.S_IFDIR | 0o755, b"") for name in names),
            *(
                (str(Path("lab", path.relative_to(GUEST_FILES))), path.stat().st_mode & 0o100755, path.read_bytes())
                for path in _guest_files()
            ),
        ]
    )


def _in_order(modules: Path) -> list[Path]:
    """Files of MODULES with what they need before them, by depmod's list; those built into the kernel drop out."""
    needs: dict[str, list[str]] = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        path, _, needed = line.partition(":")
        needs[path] = needed.split()
    by_name = {Path(path).name.removesuffix(".ko").replace("-", "_"): path for path in needs}
    ordered: dict[str, None] = {}
    for name in MODULES:
        wanted = by_name.get(name)
        if wanted is not None:
            ordered.update(dict.fromkeys([*reversed(needs[wanted]), wanted]))
    return [modules / path for path in ordered]


def newc(files: Iterable[tuple[str, int, bytes]]) -> bytes:
    """A cpio archive in the form that the kernel unpacks, one after the other if there are several: the last one stays.

    Source: the kernel's Documentation/driver-api/early-userspace/buffer-format.rst.
    """
    archive = bytearray()
    for number, (name, mode, content) in enumerate([*files, ("TRAILER!!!", 0, b"")], 1):
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
        archive += b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
        archive += bytes(-len(archive) % 4) + content
        archive += bytes(-len(archive) % 4)
    return bytes(archive)
