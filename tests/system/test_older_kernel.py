"""The data plane on the kernel of Debian 12, 6.1, which has no TCX: in a machine of its own, without libvirt."""

import json
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest

import hypervigil
from lab.image import image, newc

pytestmark = pytest.mark.guests

INIT = """#!/bin/busybox sh
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
while read -r module; do insmod "/modules/$module"; done </modules/order
until [ -b /dev/vda ] && [ -b /dev/vdb ]; do sleep 0.1; done
mkdir -p /lower /upper /root
mount -t ext4 -o ro /dev/vda /lower
mount -t tmpfs tmpfs /upper
mkdir /upper/changes /upper/work
mount -t overlay -o lowerdir=/lower,upperdir=/upper/changes,workdir=/upper/work overlay /root
mkdir /root/payload
tar -xf /dev/vdb -C /root/payload
mount --move /dev /root/dev
umount /proc
exec switch_root /root /payload/begin
"""
BEGIN = """#!/bin/sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t bpf bpf /sys/fs/bpf
mount -t tmpfs tmp /tmp
cd /payload
LD_LIBRARY_PATH=/payload/lib PYTHONPATH=/payload python3 -m tests.system.inside_older
busybox poweroff -f
"""
LIBRARIES = ("libbpf.so.1", "libelf.so.1", "libz.so.1")
TAKES_S = 180


def payload(path: Path) -> None:
    """What the machine finds on its second disk: the installed package, what runs there, and libbpf."""
    package = Path(hypervigil.__file__).parent
    here = Path(__file__).parent
    begin = path.with_name("begin")
    begin.write_text(BEGIN)
    begin.chmod(0o755)
    libraries = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=True).stdout.split()
    with tarfile.open(path, "w") as archive:
        archive.add(begin, "begin")
        archive.add(package, "hypervigil", filter=lambda one: None if "__pycache__" in one.name else one)
        for name in ("tests/__init__.py", "tests/system/__init__.py", "tests/integration/__init__.py"):
            archive.addfile(tarfile.TarInfo(name))
        archive.add(here / "inside_older.py", "tests/system/inside_older.py")
        archive.add(here.parent / "integration/wirelab.py", "tests/integration/wirelab.py")
        for library in LIBRARIES:
            found = next(Path(word) for word in libraries if word.startswith("/") and word.endswith(f"/{library}"))
            archive.add(found.resolve(), f"lib/{library}")


@pytest.mark.req("T-CORE-4")
def test_the_programs_load_and_protect_on_a_kernel_without_tcx(tmp_path: Path) -> None:
    made = image()
    payload(tmp_path / "payload.tar")
    initrd = tmp_path / "initrd"
    initrd.write_bytes(made.initrd.read_bytes() + newc([("init", stat.S_IFREG | 0o755, INIT.encode())]))
    done = subprocess.run(
        [
            *("qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", "640", "-smp", "1", "-nodefaults"),
            *("-display", "none", "-no-reboot", "-serial", "stdio"),
            *("-kernel", str(made.kernel), "-initrd", str(initrd)),
            *("-append", "console=ttyS0 quiet panic=-1"),
            *("-drive", f"file={made.base},format=raw,if=virtio,readonly=on"),
            *("-drive", f"file={tmp_path / 'payload.tar'},format=raw,if=virtio,readonly=on"),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=TAKES_S,
        check=False,
    )
    console = done.stdout.decode(errors="replace")
    lines = [line.partition("told: ")[2] for line in console.splitlines() if "told: " in line]
    assert lines, f"the machine told nothing: {console[-3000:]}"
    told = json.loads(lines[0])
    assert tuple(map(int, told["kernel"].split(".")[:2])) < (6, 6), f"no older kernel: {told['kernel']}"
    assert not told["tcx"]
    assert told["unprotected"] == told["removed"] == 1, f"the control: without the programs forgery passes: {told}"
    assert (told["own"], told["forged"], told["counted"]) == (1, 0, 1), told
    assert 1 <= told["limited"] <= 3, told
    assert (told["drift"], told["taken off"], told["repaired"]) == ([], ["its programs were detached"], 0), told
    assert told["left"] == ""
