"""What a guest is: what a scenario says of it, and the domain that libvirt makes of that."""

import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

from lab import agents, storage
from lab.accelerator import choose
from lab.image import image
from lab.libvirtd import connection

PORT = "org.hypervigil.lab.0"


@dataclass(frozen=True)
class GuestSpec:
    """What a scenario says of a guest; ``index`` numbers the guests of one network from 0 on and fixes the address."""

    name: str
    tenant: str
    network: str
    index: int
    memory_mib: int = 192
    vcpus: int = 1
    work: str = "idle"
    agent: bool = False
    channels: tuple[str, ...] = ()
    """Virtio-serial ports that it has besides the lab's own, e.g. that of QEMU's guest agent."""
    shares_storage: bool = False
    """Whether its scratch disk lies on the storage that all share (`lab.storage`), and not in a file of its own."""


@dataclass(frozen=True)
class Definition:
    """A domain; ``directory`` is where its files and sockets are, ``bridge`` is None of a guest that is routed."""

    spec: GuestSpec
    name: str
    uuid: str
    mac: str
    directory: Path
    bridge: str | None

    def xml(self, options: str) -> str:
        """As libvirt wants it, with these kernel options."""
        disks = image()
        accelerator = choose(disks)
        return f"""<domain type='{accelerator.value}'>
  <name>{self.name}</name>
  <uuid>{self.uuid}</uuid>
  <memory unit='MiB'>{self.spec.memory_mib}</memory>
  <vcpu>{self.spec.vcpus}</vcpu>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <kernel>{disks.kernel}</kernel>
    <initrd>{disks.initrd}</initrd>
    <cmdline>{options}</cmdline>
  </os>
  <features><acpi/><apic/></features>
  <cpu mode='{accelerator.cpu_mode}'/>
  <clock offset='utc'/>
  <on_reboot>destroy</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/>
      <source file='{disks.base}'/>
      <target dev='vda' bus='virtio'/>
      <readonly/>
      <shareable/>
    </disk>
    {self._scratch()}
      <target dev='vdb' bus='virtio'/>
    </disk>
    <controller type='usb' model='none'/>
    {self._nic()}
      <mac address='{self.mac}'/>
      <model type='virtio'/>
    </interface>
    <serial type='file'><source path='{self.directory}/console.log'/><target port='0'/></serial>
    {self._channels()}
    <memballoon model='virtio'><stats period='1'/></memballoon>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
  </devices>
  {_security_labels()}
</domain>
"""

    @property
    def lab_socket(self) -> Path:
        """The host's end of the lab's own port."""
        return self.directory / "lab.sock"

    @property
    def agent_socket(self) -> Path:
        """The host's end of its agent's port; only of a guest with an agent."""
        return self.directory / "agent.sock"

    def _scratch(self) -> str:
        """Its scratch disk; what is shared is not kept by the host, or the first to write would hide how slow it is."""
        if not self.spec.shares_storage:
            return (
                "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/>"
                f"<source file='{self.directory}/scratch.qcow2'/>"
            )
        return (
            "<disk type='network' device='disk'><driver name='qemu' type='raw' cache='none'/>"
            f"<source protocol='nbd' name='{self.spec.name}'>"
            f"<host transport='unix' socket='{storage.SOCKET}'/></source>"
        )

    def _nic(self) -> str:
        """Where its NIC goes: to the network's bridge, or nowhere but to the host."""
        if self.bridge is None:
            return f"<interface type='ethernet'><target dev='{self.name}' managed='yes'/>"
        return f"<interface type='bridge'><source bridge='{self.bridge}'/>"

    def _channels(self) -> str:
        """Its ports; where nobody here speaks at one, libvirt chooses where the socket is."""
        sockets = {PORT: f" path='{self.lab_socket}'"}
        if self.spec.agent:
            sockets[agents.PORT] = f" path='{self.agent_socket}'"
        sockets |= dict.fromkeys(self.spec.channels, "")
        return "".join(
            f"<channel type='unix'><source mode='bind'{path}/><target type='virtio' name='{name}'/></channel>"
            for name, path in sockets.items()
        )


def _security_labels() -> str:
    """No confinement by a security module, whose profiles do not know our files; QEMU's user stays libvirt's choice."""
    capabilities = ET.fromstring(connection().getCapabilities())  # noqa: S314 - it is libvirt's
    models = [element.text for element in capabilities.iterfind("./host/secmodel/model")]
    return "".join(f"<seclabel type='none' model='{model}'/>" for model in models if model in ("apparmor", "selinux"))
