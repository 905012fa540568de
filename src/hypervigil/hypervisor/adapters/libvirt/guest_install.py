"""Puts our agent into a running guest: a port, its file and what starts it, by the QEMU guest agent that runs there."""

from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree as ET

import libvirt

from hypervigil.hypervisor.adapters.libvirt.channel import CHANNEL, agent_channel
from hypervigil.hypervisor.adapters.libvirt.connection import told
from hypervigil.hypervisor.adapters.libvirt.guest_agent import Command, GuestAgent, GuestAgentError, shown
from hypervigil.model.ids import HOST

PORT = f"<channel type='unix'><source mode='bind'/><target type='virtio' name='{CHANNEL}'/></channel>"
BY_HAND = "or install it by hand as packaging/guest/README.md says"
STAGE = "/run/hypervigil-agent.install"
RUN_S = 60.0
NO_PYTHON, NO_INIT = 11, 12
INITS = ("systemd", "OpenRC")
SCRIPT = f"""set -eu
trap 'rm -rf {STAGE}' EXIT
python3 -c 'import sys; sys.exit(sys.version_info < (3, 7))' || exit {NO_PYTHON}
put() {{ mkdir -p "${{3%/*}}"; chmod "$1" "{STAGE}/$2"; chown 0:0 "{STAGE}/$2"; mv "{STAGE}/$2" "$3"; }}
if [ -d /run/systemd/system ]; then
  put 755 agent /usr/local/sbin/hypervigil-agent
  put 644 unit /etc/systemd/system/hypervigil-agent.service
  systemctl daemon-reload
  systemctl enable hypervigil-agent.service
  systemctl restart hypervigil-agent.service
  echo systemd
elif command -v rc-update >/dev/null; then
  put 755 agent /usr/local/sbin/hypervigil-agent
  put 755 openrc /etc/init.d/hypervigil-agent
  rc-update add hypervigil-agent default
  rc-service hypervigil-agent restart
  echo OpenRC
else
  exit {NO_INIT}
fi
"""

Domain = Any


class InstallError(Exception):
    """One sentence: what could not be done and the mend."""


@dataclass(frozen=True, slots=True)
class AgentFiles:
    """What a guest needs."""

    agent: bytes
    unit: bytes
    openrc: bytes


def install(connection: Any, name: str, files: AgentFiles, command: Command | None = None) -> list[str]:
    """Give a running VM (by name or UUID) a port, and our agent; a sentence for each thing done."""
    domain = _running(connection, name)
    done = [_port(domain, name)]
    guest = GuestAgent(domain, command)
    try:
        guest.ping()
    except GuestAgentError as error:
        raise InstallError(
            f"{name}: no QEMU guest agent answers ({error}): install and start qemu-guest-agent in it, {BY_HAND}"
        ) from error
    try:
        lacks = guest.lacks()
        if lacks:
            what = ", ".join(lacks)
            raise InstallError(f"{name}: its guest agent may not do {what}: allow it in its qemu-ga.conf, {BY_HAND}")
        status, said = guest.run(f"rm -rf {STAGE} && mkdir -m 700 {STAGE}", RUN_S)
        if status:
            raise InstallError(f"{name}: it cannot make {STAGE} ({said or status}): is it full or read-only?")
        for part, content in (("agent", files.agent), ("unit", files.unit), ("openrc", files.openrc)):
            guest.write(f"{STAGE}/{part}", content)
        status, said = guest.run(SCRIPT, RUN_S)
    except GuestAgentError as error:
        raise InstallError(f"{name}: {error}: try again, {BY_HAND}") from error
    if status:
        raise InstallError(f"{name}: {_why(status, said)}")
    init = said if said in INITS else "its init"
    return [*done, f"the agent ({len(files.agent):,} bytes) is in {name}, started by {init}"]


def _running(connection: Any, name: str) -> Domain:
    for look_up in (connection.lookupByName, connection.lookupByUUIDString):
        try:
            domain = look_up(name)
            break
        except libvirt.libvirtError as error:
            if error.get_error_code() not in {libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_INVALID_ARG}:
                raise InstallError(f"libvirt does not answer ({told(error)}): is libvirtd running?") from error
    else:
        if name in {HOST, "localhost"}:
            raise InstallError(
                f"{name!r} is no VM: this host itself needs no agent, Hypervigil's own sensors read it; name a VM, the "
                "one with the management plane too"
            )
        raise InstallError(f"there is no VM {name!r}: 'virsh list --all' names those there are")
    if not domain.isActive():
        raise InstallError(f"{name} is off: start it with 'virsh start {name}' and try again")
    return domain


def _port(domain: Domain, name: str) -> str:
    """A port for the agent, live, and for its next start where it is defined."""
    try:
        if agent_channel(ET.fromstring(domain.XMLDesc(0))) is not None:  # noqa: S314 - libvirt's own XML
            return f"{name} has a port for the agent"
        flags = libvirt.VIR_DOMAIN_AFFECT_LIVE | (libvirt.VIR_DOMAIN_AFFECT_CONFIG if domain.isPersistent() else 0)
        domain.attachDeviceFlags(PORT, flags)
    except libvirt.libvirtError as error:
        raise InstallError(
            f"{name}: no port for the agent can be plugged in while it runs ({shown(told(error))}): add {PORT} to its "
            f"definition with 'virsh edit {name}', start it anew and try again"
        ) from error
    return f"{name} was given a port for the agent"


def _why(status: int, said: str) -> str:
    if status == NO_PYTHON:
        return "it has no Python 3.7 or newer: install python3 in it and try again"
    if status == NO_INIT:
        return f"it runs neither systemd nor OpenRC: have its init start /usr/local/sbin/hypervigil-agent, {BY_HAND}"
    return f"the installation in it ended with {status} ({said or 'and said nothing'}): mend that and try again"
