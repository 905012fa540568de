"""A server whose port demands proof of source, honest clients near and far, and whoever sends from everywhere."""

import contextlib
import json
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hypervigil.hypervisor.adapters.ebpf import kernel, layout
from hypervigil.hypervisor.adapters.ebpf.dataplane import DataPlane, remove_all
from hypervigil.hypervisor.adapters.ebpf.reader import DataPlaneReader
from hypervigil.model.ids import PortId, VmId
from hypervigil.model.policy import Mode
from hypervigil.model.port_policy import PortPolicy
from tests.integration.spoofed import INVENTED4, INVENTED6, Counter, Guest, Server, guest
from tests.integration.wirelab import namespace, run

PORT = 80
SERVER, SERVER6 = "10.60.0.1", "fd60::1"
CLIENT, CLIENT6 = "10.60.0.2", "fd60::2"
FAR, FAR6 = "10.61.0.2", "fd61::2"
"""An honest client behind the host's own routing."""
ATTACKER, ATTACKER6 = "10.60.0.3", "fd60::3"
HOUR_NS = 3600 * 10**9


def now_ns() -> int:
    """The kernel programs' clock."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Rig:
    """A server behind a bound port, an honest client, and whoever sends from everywhere."""

    def __init__(self, plane: DataPlane, server: Guest, client: Guest, attacker: Guest, far: Guest) -> None:
        self.plane, self.server, self.client, self.attacker, self.far = plane, server, client, attacker, far
        self.reader = DataPlaneReader(plane.sensor_fds())
        self.port = PortId(server.mac)
        # Without metrics it favours nobody whom it served before.
        plain = {"tcp_syncookies": 0, "tcp_max_syn_backlog": 64, "tcp_no_metrics_save": 1}
        for setting, value in plain.items():
            server.set(f"ipv4/{setting}", value)
        server.run("ip", "route", "add", "default", "via", ATTACKER)
        server.run("ip", "-6", "route", "add", "default", "via", ATTACKER6)
        server.run("ip", "route", "add", "10.61.0.0/16", "via", "10.60.0.254")
        server.run("ip", "-6", "route", "add", "fd61::/64", "via", "fd60::fe")
        far.run("ip", "route", "add", "default", "via", "10.61.0.254")
        far.run("ip", "-6", "route", "add", "default", "via", "fd61::fe")
        self.arrived = Counter(
            "inet",
            "prerouting",
            server,
            four=f"ip saddr {INVENTED4} tcp flags syn",
            six=f"ip6 saddr {INVENTED6} tcp flags syn",
            resets="tcp flags rst",
        )

    def bind(self, mode: Mode = Mode.ENFORCE) -> None:
        """Bind the server's port."""
        self.plane.attach(
            PortPolicy(self.port, VmId("server"), self.server.device, self.server.ifindex, mode, (SERVER, SERVER6))
        )

    @contextlib.contextmanager
    def proof(self, for_ns: int = HOUR_NS) -> Iterator[None]:
        """Meanwhile it is under proof."""
        self.plane.set_proof(self.port, now_ns() + for_ns)
        try:
            yield
        finally:
            self.plane.set_proof(self.port, 0)

    def sources(self) -> list[layout.SourceKey]:
        """Who has proven its address."""
        return list(kernel.keys(self.plane._maps["hv_proven"], layout.SourceKey))

    def forget(self) -> None:
        """Nobody has proven anything."""
        for key in self.sources():
            kernel.delete(self.plane._maps["hv_proven"], key)

    def counters(self) -> np.void:
        """Of the server's port."""
        return self.reader.counters()[self.plane.ports()[self.port]].copy()

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """A server that is new, so that its backlog is empty."""
        server = Server(self.server, PORT, 64)
        try:
            yield
        finally:
            server.close()


def mac_of(device: str) -> str:
    """The MAC of one of the host's devices."""
    return str(json.loads(run("ip", "-j", "link", "show", "dev", device))[0]["address"])


def route(far: Guest) -> None:
    """The host routes between the segment and a link of its own; what is for anybody else goes to that link."""
    settings = {"ipv6/conf/all/disable_ipv6": 0, "ipv6/conf/br0/disable_ipv6": 0, "ipv6/conf/all/forwarding": 1}
    settings |= {f"ipv6/conf/{far.device}/disable_ipv6": 0, "ipv4/ip_forward": 1, "ipv4/conf/all/rp_filter": 0}
    settings |= {f"ipv4/conf/{device}/rp_filter": 0 for device in ("br0", far.device)}
    for setting, value in settings.items():
        Path("/proc/sys/net", setting).write_text(str(value))
    for address, device in (("10.60.0.254/16", "br0"), ("fd60::fe/64", "br0")):
        run("ip", "address", "add", address, "dev", device, *(("nodad",) * (":" in address)))
    for address in ("10.61.0.254/24", "fd61::fe/64"):
        run("ip", "address", "add", address, "dev", far.device, *(("nodad",) * (":" in address)))
    run("ip", "route", "add", "default", "via", FAR)
    run("ip", "-6", "route", "add", "default", "via", FAR6)


@contextlib.contextmanager
def rigged() -> Iterator[Rig]:
    """Everybody in place, and the server bound in enforce mode."""
    pin_dir = Path("/sys/fs/bpf") / f"hvs-{secrets.token_hex(4)}"
    with namespace(), contextlib.ExitStack() as stack:
        run("ip", "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
        run("ip", "link", "set", "br0", "up")
        many = [f"10.60.1.{number}/16" for number in range(1, 41)]
        server = stack.enter_context(guest(1, "br0", f"{SERVER}/16", f"{SERVER6}/64"))
        client = stack.enter_context(guest(2, "br0", f"{CLIENT}/16", f"{CLIENT6}/64", *many))
        attacker = stack.enter_context(guest(3, "br0", f"{ATTACKER}/16", f"{ATTACKER6}/64"))
        far = stack.enter_context(guest(4, None, f"{FAR}/24", f"{FAR6}/64"))
        route(far)
        plane = DataPlane.open(pin_dir)
        try:
            made = Rig(plane, server, client, attacker, far)
            made.bind()
            yield made
        finally:
            remove_all(pin_dir)
