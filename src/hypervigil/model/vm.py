"""What the host knows of a virtual machine and its NICs (from libvirt and policy, never from the guest)."""

from dataclasses import dataclass

from hypervigil.model.ids import PortId, VmId


@dataclass(frozen=True, slots=True)
class Nic:
    """One virtual NIC as the domain's live XML shows it."""

    port: PortId
    interface: str
    """The host's device, e.g. ``vnet0``."""
    ifindex: int
    bridge: str | None
    addresses: tuple[str, ...] = ()
    """IPv4 and IPv6 addresses that libvirt's XML binds to it; empty where none is known."""
    leased: tuple[str, ...] = ()
    """IPv4 addresses that a trusted DHCP server gave it and that have not ended, in order."""


@dataclass(frozen=True, slots=True)
class Vm:
    """One running domain."""

    vm: VmId
    name: str
    vcpus: int
    memory_kib: int
    """The domain's maximum memory."""
    nics: tuple[Nic, ...] = ()
    paused: bool = False
    channel: str | None = None
    """The host's socket at the other end of its agent's port; ``None`` where it has no such port."""
    cpu: float | None = None
    """The quota of each of its vCPUs, as a fraction of a physical CPU; ``None``: no quota."""
    migrating: bool = False
    """It stands still here because it runs on another host: not yet here, or no more."""


@dataclass(frozen=True, slots=True)
class Inventory:
    """Every running domain of the host at one time."""

    vms: tuple[Vm, ...]
