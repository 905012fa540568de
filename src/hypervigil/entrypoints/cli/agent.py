"""``hypervigil agent install``: root's own doing, once, so that no process that stays has to be able to do it."""

from importlib import resources
from typing import Any

import click
import libvirt

from hypervigil.entrypoints.cli import show
from hypervigil.entrypoints.cli.common import fail, need_root, printer
from hypervigil.hypervisor.adapters.libvirt.connection import DEFAULT_URI, told
from hypervigil.hypervisor.adapters.libvirt.guest_install import AgentFiles, InstallError, install


@click.group()
def agent() -> None:
    """Put the agent into guests (optional: a VM without one is judged from outside)."""


@agent.command("install")
@click.argument("name", metavar="VM")
@printer(show.sentences)
def install_agent(name: str) -> dict[str, Any]:
    """Give a running VM a port for the agent, and the agent, by the QEMU guest agent in it."""
    need_root("hypervigil agent install")
    try:
        files = AgentFiles(*(_part(part) for part in ("", ".service", ".openrc")))
    except OSError as error:
        fail(f"this installation lacks {error.filename}: run 'make agent' or install the package anew")
    libvirt.registerErrorHandler(lambda *_: None, None)
    try:
        # PRIVILEGED: plugging in a port and speaking with the guest's agent need libvirt's read-write socket.
        connection = libvirt.open(DEFAULT_URI)
    except libvirt.libvirtError as error:
        fail(f"libvirt does not answer ({told(error)}): is libvirtd running?")
    try:
        done = install(connection, name, files)
    except InstallError as error:
        fail(str(error))
    finally:
        connection.close()
    return {"sentences": [*done, "'hypervigil vms' tells whether it is heard"]}


def _part(suffix: str) -> bytes:
    return (resources.files("hypervigil.guest") / f"hypervigil-agent{suffix}").read_bytes()
