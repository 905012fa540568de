"""Undo all that any lab run, also a crashed one, left on this host."""

from pathlib import Path

from lab import guests, libvirtd, network
from lab.errors import LabError
from lab.scratch import only_lab


def clean_all() -> list[str]:
    """Remove guests, networks, settings, and the daemons that a lab started; what was removed, in words.

    The cache stays. LabError when a lab runs right now, in another process.
    """
    with only_lab():
        if any(Path("/etc/libvirt/qemu").glob(f"{guests.DOMAIN_PREFIX}*.xml")):
            try:
                libvirtd.start()  # only libvirt itself forgets a domain
            except LabError as error:
                return [f"(not the domains: {error})", *_rest()]
        return _rest()


def _rest() -> list[str]:
    return [*guests.clean_all(), *network.clean_all(), *libvirtd.close_kvm(), *libvirtd.stop()]
