"""Guests with a network stack of their own: a namespace whose card a small pump joins to a real tap of the host."""

import json
import os
import secrets
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from hypervigil.host import policyfile
from hypervigil.host.inventory import compile_ports, protected_networks
from hypervigil.hypervisor.enforcer.undo import undo_all
from hypervigil.model.ids import PortId, VmId
from hypervigil.model.policy import Policy
from hypervigil.model.port_policy import Fabric
from hypervigil.model.vm import Inventory, Nic, Vm
from hypervigil.network.compile import difference
from hypervigil.wire.messages import BindPorts, Done, Guarding
from tests.integration.enforcing import Driver
from tests.integration.wirelab import Tap, run

_SCAN = """
import json, select, socket, sys, time
answers, waiting = [], {}
for number, (kind, address, port) in enumerate(json.loads(sys.argv[1])):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    one = socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
    one.setblocking(False)
    try:
        if kind == "tcp":
            if one.connect_ex((address, port)) in (101, 113):  # no route
                continue
        else:
            one.connect((address, port))
            one.send(b"anybody?")
    except OSError:
        continue
    waiting[one] = number
end = time.monotonic() + float(sys.argv[2])
while waiting and (left := end - time.monotonic()) > 0:
    tcp = [one for one in waiting if one.type == socket.SOCK_STREAM]
    readable, writable, broken = select.select([one for one in waiting if one not in tcp], tcp, [], left)
    for one in {*readable, *writable}:
        error = one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error not in (101, 110, 113):  # refused is an answer too; a host that is not found is none
            answers.append(waiting[one])
        del waiting[one]
print(json.dumps(answers))
"""
Target = tuple[str, str, int]
"""``tcp`` or ``udp``, address, port."""


BRIDGES = {"flat": "br1", "side": "br2"}
"""Of each network here that has one; ``far`` is routed."""
GATEWAYS = {
    "far": ("10.73.0.1", "fd73::1"),
    "flat": ("10.71.0.1", "fd71::1"),
    "side": ("10.72.0.1", "fd72::1"),
}
ADDRESSES = {
    "far-1": ("10.73.0.11", "fd73::11"),
    "far-2": ("10.73.0.12", "fd73::12"),
    "flat-1": ("10.71.0.11", "fd71::11"),
    "side-1": ("10.72.0.11", "fd72::11"),
}
"""Of guests, called after their networks."""


def network_entry(name: str, *keys: str) -> str:
    """One of these networks in a policy file, with what else it says of it."""
    place = f'bridge = "{BRIDGES[name]}"' if name in BRIDGES else 'forwarding = "routed"'
    return "\n".join(("[[network]]", f'name = "{name}"', place, f"gateways = {json.dumps(GATEWAYS[name])}", *keys, ""))


def machine_entry(name: str) -> str:
    """One of these guests in a policy file."""
    return f'[[vm]]\nname = "{name}"\naddresses = {json.dumps(ADDRESSES[name])}\n'


@dataclass(frozen=True)
class Card:
    """How a guest's network card is set up."""

    mac: str
    addresses: tuple[str, ...]
    """With the length of their prefix."""
    gateways: tuple[str, ...]
    """By way of which everything goes that is not on the link."""


class Guest:
    """A namespace, and the host's tap that its card is joined to. Without a bridge the tap is a routed one."""

    def __init__(self, name: str, card: Card, bridge: str | None = None) -> None:
        self.name, self.card, self.bridge = name, card, bridge
        self.tap = Tap(f"tap-{name}", "")
        if bridge is not None:
            run("ip", "link", "set", self.tap.name, "master", bridge)
        self._netns = f"hvg-{secrets.token_hex(3)}-{name}"
        run("ip", "netns", "add", self._netns)
        self._card = Tap(f"card-{name}", card.mac)
        run("ip", "link", "set", self._card.name, "netns", self._netns)
        self._in("link", "set", self._card.name, "name", "eth0")
        self._in("link", "set", "eth0", "address", card.mac)
        self.run("sh", "-c", "echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad")
        self._in("link", "set", "lo", "up")
        self._in("link", "set", "eth0", "up")
        for address in card.addresses:
            self._in("address", "add", address, "dev", "eth0", *(["nodad"] if ":" in address else []))
        for gateway in card.gateways:
            self._in("route", "replace", gateway, "dev", "eth0")
            kind = ["-6"] if ":" in gateway else []
            self._in(*kind, "route", "add", "default", "via", gateway, "dev", "eth0")
        self._stop = threading.Event()
        self._pump = threading.Thread(target=self._carry, daemon=True)
        self._pump.start()

    def _in(self, *words: str) -> None:
        run("ip", "-n", self._netns, *words)

    def _carry(self) -> None:
        """Frames from one end to the other, both ways."""
        to = {self.tap.fd: self._card.fd, self._card.fd: self.tap.fd}
        while not self._stop.is_set():
            for fd in select.select([*to], [], [], 0.1)[0]:
                try:
                    os.write(to[fd], os.read(fd, 65536))
                except OSError:
                    continue  # that end is down, or has no room

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A program in the guest."""
        argv = ["ip", "netns", "exec", self._netns, *words]
        return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)

    def scan(self, targets: Sequence[Target], wait_s: float = 0.8) -> set[Target]:
        """Which of these answer, in whatever way."""
        done = self.run(sys.executable, "-c", _SCAN, json.dumps(targets), str(wait_s))
        assert done.returncode == 0, done.stderr
        return {targets[number] for number in json.loads(done.stdout)}

    def close(self) -> None:
        """The guest goes, and its tap with it."""
        self._stop.set()
        self._pump.join()
        self.tap.close()
        self._card.close()
        run("ip", "netns", "delete", self._netns)

    def vm(self) -> Vm:
        """As the inventory has it."""
        nic = Nic(PortId(self.card.mac), self.tap.name, self.tap.ifindex, self.bridge)
        return Vm(VmId(self.name), self.name, 1, 1, (nic,))


class Host:
    """An enforcer, told what a monitor would tell it for a policy and the VMs that run."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.policy = Policy()
        self._fabric: Fabric | None = None

    def put(self, text: str, vms: Sequence[Vm]) -> None:
        """Put a policy in force for these."""
        self.policy = policyfile.parse(text)
        compiled = compile_ports(Inventory(tuple(vms)), self.policy)
        networks = protected_networks(self.policy)
        bridges = tuple(network.bridge for network in networks if network.bridge is not None)
        exempt = tuple(uplink for network in networks for uplink in network.uplinks)
        request = BindPorts(
            request=next(self.driver._numbers),
            policies=compiled.ports,
            guarding=Guarding(bridges=bridges, exempt=exempt, routed=len(bridges) < len(networks))
            if networks
            else None,
            fabric=difference(self._fabric, compiled.fabric),
        )
        answer = self.driver.ask(request)
        assert isinstance(answer, Done)
        assert all(outcome.ok for outcome in answer.outcomes), answer.outcomes
        self._fabric = compiled.fabric

    @contextmanager
    def nobody_looks(self) -> Iterator[None]:
        """The enforcer stands still, so that what is broken stays so; afterwards it puts all right."""
        process = self.driver._process
        assert process is not None
        process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            process.send_signal(signal.SIGCONT)

    def off(self) -> list[str]:
        """``hypervigil off``."""
        self.driver.kill()
        layout = self.driver.layout
        return undo_all(layout.run_dir, layout.enforcer_state, layout.pin_dir)
