"""Where a domain's XML says that the host's end of its agent's port is. Pure."""

from xml.etree import ElementTree as ET

CHANNEL = "org.hypervigil.agent.0"
"""The port's name in the guest."""
MAX_PATH = 107
"""Octets of a unix socket's address."""


def agent_channel(domain: ET.Element) -> str | None:
    """The socket at which QEMU listens for whoever speaks with the agent; ``None`` where there is none (yet)."""
    for channel in domain.iterfind("devices/channel"):
        target, source = channel.find("target"), channel.find("source")
        if channel.get("type") != "unix" or target is None or source is None:
            continue
        if target.get("type") != "virtio" or target.get("name") != CHANNEL or source.get("mode", "bind") != "bind":
            continue
        path = source.get("path", "")
        if path.startswith("/") and "\0" not in path and len(path.encode(errors="replace")) <= MAX_PATH:
            return path
    return None
