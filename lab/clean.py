"""Undo all that any lab run, also a crashed one, left on this host."""

import argparse
import os
from pathlib import Path

from lab import guests, libvirtd, network, otherhost, watched
from lab.errors import LabError
from lab.scratch import only_lab


def arguments(_: argparse.ArgumentParser) -> None:
    """It takes nothing."""


def main(_: argparse.Namespace) -> int:
    """Clean up, and say what was there."""
    if os.geteuid() != 0:
        raise LabError("removing guests and networks needs root: run it with sudo")
    for thing in clean_all():
        print(f"removed {thing}")
    return 0


def clean_all() -> list[str]:
    """Remove product, guests, networks, settings, and the daemons that a lab started; what was removed, in words.

    The cache stays. LabError when a lab runs right now, in another process.
    """
    with only_lab():
        removed = watched.clean_all()
        if any(Path("/etc/libvirt/qemu").glob(f"{guests.DOMAIN_PREFIX}*.xml")):
            try:
                libvirtd.start()  # only libvirt itself forgets a domain
            except LabError as error:
                removed.append(f"(not the domains: {error})")
        return removed + _rest()


def _rest() -> list[str]:
    return [*otherhost.clean_all(), *guests.clean_all(), *network.clean_all(), *libvirtd.close_kvm(), *libvirtd.stop()]
