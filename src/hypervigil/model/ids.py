"""Identifiers. They come from the host's side, never from what a guest says."""

from typing import NewType

VmId = NewType("VmId", str)
"""A domain's UUID as libvirt prints it."""

PortId = NewType("PortId", str)
"""One virtual NIC of one VM: its host-assigned MAC address, lower case with colons; unique on a host."""

CaseId = NewType("CaseId", str)
"""One investigation: ``c`` and a number that the journal never gives out twice."""

LimitId = NewType("LimitId", str)
"""One limit in force: ``l`` and a number that the journal never gives out twice."""

PerimeterId = NewType("PerimeterId", str)
"""Ends that the network policy treats alike; made of what tells them from others, so it outlasts changes of these."""

Instant = NewType("Instant", float)
"""Seconds of ``CLOCK_BOOTTIME``."""

NEVER = Instant(float("-inf"))
"""When what has not happened yet last happened."""

HOST = VmId("host")
"""The management VM (the hypervisor's own system), watched like the others."""

OUTSIDE = VmId("outside")
"""Whoever is not on this host: the other end of traffic that leaves through an uplink."""
