"""What protection costs between two VMs on one bridge, beside a plain bridge and other ways to protect it.

``python -m bench.dataplane [--setup NAME …] [--ports N …] [--pairs N] [--out FILE]``, as root. Ratios are of
interleaved pairs (bridge, other, other, bridge …) with the 95 % interval of their mean; ns per packet are the kernel's
own count of what our two programs took. A run adds to what the file holds, so that it can be made in slices.
"""

import argparse
import contextlib
import ctypes
import itertools
import json
import math
import os
import platform
import re
import secrets
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench._segment import ADDRESSES, BRIDGE, MACS, Guest, Traffic, segment
from hypervigil.host.inventory import Compiled, compile_ports
from hypervigil.hypervisor.adapters.ebpf import kernel, layout
from hypervigil.hypervisor.adapters.ebpf.dataplane import DataPlane, remove_all
from hypervigil.model.ids import PortId, VmId
from hypervigil.model.network import EndKind, Group, Rule, RuleEnd
from hypervigil.model.policy import Mode, NetworkPolicy, Policy, VmPolicy
from hypervigil.model.port_policy import FabricChange
from hypervigil.model.services import parse
from hypervigil.model.traffic import Direction, TrafficClass
from hypervigil.model.vm import Inventory, Nic, Vm
from hypervigil.network.compile import difference
from tests.integration.wirelab import namespace, run

SETUPS = ("hypervigil", "hypervigil-limited", "hypervigil-unruled", "nftables", "conntrack")
PORTS = (1, 50, 500, 5000)
PER_BRIDGE = 1000
"""A bridge takes 1,023 ports, so that 5,000 VMs are five networks."""
T95 = {4: 3.182, 8: 2.365, 16: 2.131, 24: 2.069, 32: 2.040, 48: 2.012}
"""Student's t for a 95 % interval, by the number of pairs."""
MAX_PORTS = 8192
Figures = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Scale:
    """So many VMs with a policy: the two that talk, and others that are there in the maps only."""

    policy: Policy
    inventory: Inventory

    @classmethod
    def of(cls, ports: int, guests: tuple[Guest, Guest]) -> "Scale":
        """Tenants of ten VMs on up to five networks, each with a web and a database group and paths for them."""
        real = [(mac, guest.device, guest.ifindex) for mac, guest in zip(MACS, guests, strict=True)]
        fake = [
            (PortId(f"52:54:00:{n >> 16:02x}:{n >> 8 & 255:02x}:{n & 255:02x}"), f"fake{n}", 1_000_000 + n)
            for n in range(2, max(ports, 2))
        ]
        vms, entries = [], []
        networks = [
            NetworkPolicy(f"net{n}", BRIDGE if n == 0 else f"fake-{n}", gateways=(f"10.{n}.255.1",), outside=True)
            for n in range(math.ceil(max(ports, 2) / PER_BRIDGE))
        ]
        for number, (mac, device, ifindex) in enumerate((*real, *fake)):
            network = networks[number // PER_BRIDGE]
            address = (
                ADDRESSES[number] if number < 2 else f"10.{number // PER_BRIDGE}.{number // 250 % 250}.{number % 250}"
            )
            vms.append(Vm(VmId(f"vm-{number}"), f"vm-{number}", 1, 1, (Nic(mac, device, ifindex, network.bridge),)))
            entries.append(VmPolicy(f"vm-{number}", tenant=f"t{number // 10}", addresses=(address,)))
        tenants = range(math.ceil(len(vms) / 10))
        names = [[f"vm-{n}" for n in range(t * 10, min(t * 10 + 10, len(vms)))] for t in tenants]
        groups = [Group(f"web{t}", tuple(names[t][:5])) for t in tenants]
        paths = [
            Rule(f"customers{t}", (RuleEnd(EndKind.OUTSIDE),), (RuleEnd(EndKind.GROUP, f"web{t}"),), parse("tcp/443"))
            for t in tenants
        ]
        policy = Policy(Mode.ENFORCE, tuple(networks), tuple(entries), groups=tuple(groups), paths=tuple(paths))
        return cls(policy, Inventory(tuple(vms)))


class Product:
    """The data plane with a policy for so many ports; it protects the two guests when it is told to."""

    def __init__(self, ports: int, guests: tuple[Guest, Guest], pin_dir: Path, *, ruled: bool = True) -> None:
        self.scale = Scale.of(ports, guests)
        if not ruled:
            networks = tuple(replace(n, gateways=(), outside=False) for n in self.scale.policy.networks)
            bare = replace(self.scale.policy, networks=networks, groups=(), paths=())
            self.scale = replace(self.scale, policy=bare)
        self.pin_dir = pin_dir
        self.plane = DataPlane.open(pin_dir, max_ports=MAX_PORTS)
        self.compiled = compile_ports(self.scale.inventory, self.scale.policy)
        for port, slot in zip(self.compiled.ports[2:], itertools.count(100)):
            entry = layout.Port(
                slot=slot, mode=2, mac=(ctypes.c_uint8 * 6).from_buffer_copy(layout.pack_mac(port.port))
            )
            self.plane._doors.put(port.ifindex, entry)  # noqa: SLF001
            self.plane._used.add(slot)  # noqa: SLF001
            self.plane._fabric.bind(slot, port)  # noqa: SLF001
        self.protect()
        self.expose()

    def protect(self) -> None:
        """Put both guests' ports under the policy."""
        for port in self.compiled.ports[:2]:
            self.plane.attach(port)
        self._put(self.compiled, whole=True)

    def expose(self) -> None:
        """Let both go."""
        for port in self.compiled.ports[:2]:
            self.plane.detach(port.port)

    def limit(self) -> None:
        """Limit the sender as a case does, by classes, at a rate that each packet is held to and never reaches."""
        for traffic in (TrafficClass.UDP, TrafficClass.TCP, TrafficClass.SYN):
            port = self.compiled.ports[0].port
            self.plane.set_limit(port, Direction.OUT, traffic, packets_per_s=1e7, end_ns=1 << 62)

    def _put(self, compiled: Compiled, *, whole: bool = False) -> None:
        fabric = compiled.fabric
        change = FabricChange(fabric.grants, addresses=fabric.addresses, whole=True) if whole else FabricChange()
        self.plane.change_fabric(change)

    def change_ms(self, repeat: int = 20) -> list[float]:
        """How long it takes to move one VM into another group and back, read back from the kernel."""
        policy = self.scale.policy
        moved = replace(policy, groups=(*policy.groups, Group("moved", ("vm-0",))), paths=(*policy.paths, _MOVED))
        states = [self.compiled, compile_ports(self.scale.inventory, moved)]
        took = []
        for turn in range(repeat):
            before, after = states[turn % 2], states[1 - turn % 2]
            change = difference(before.fabric, after.fabric)
            began = time.perf_counter()
            slot = self.plane.attach(after.ports[0])
            self.plane.change_fabric(change)
            place = layout.Place()
            kernel.lookup(self.plane._maps["hv_places"], layout.Number(slot), place)  # noqa: SLF001
            took.append((time.perf_counter() - began) * 1000)
            assert place.perimeter[self.plane._fabric._bank.index]  # noqa: SLF001
        if repeat % 2:
            raise ValueError("an even number of turns brings it back")
        return took

    def attach_ms(self, repeat: int = 10) -> list[float]:
        """How long it takes to bind one more VM's port."""
        took = []
        for number in range(repeat):
            device = f"hva{number}"
            run("ip", "link", "add", device, "type", "veth", "peer", "name", f"hvz{number}")
            index = json.loads(run("ip", "-j", "link", "show", "dev", device))[0]["ifindex"]
            policy = replace(self.compiled.ports[1], port=PortId(f"52:54:00:fe:00:{number:02x}"), ifindex=index)
            began = time.perf_counter()
            self.plane.attach(replace(policy, interface=device, addresses=(f"198.51.100.{100 + number}",)))
            self.plane.change_fabric(FabricChange())
            took.append((time.perf_counter() - began) * 1000)
            self.plane.detach(policy.port)
            run("ip", "link", "del", device)
        return took

    def program_ns(self, traffic: Traffic, seconds: float) -> float:
        """Nanoseconds of both programs for one packet, by the kernel's count."""
        enabled = Path("/proc/sys/kernel/bpf_stats_enabled")
        enabled.write_text("1", encoding="ascii")
        try:
            before = self._run_time()
            traffic.packets_per_s(seconds)
            after = self._run_time()
        finally:
            enabled.write_text("0", encoding="ascii")
        return sum((after[name][0] - before[name][0]) / max(1, after[name][1] - before[name][1]) for name in before)

    def _run_time(self) -> dict[str, tuple[int, int]]:
        shown = {
            name: json.loads(run("bpftool", "-j", "prog", "show", "pinned", str(self.pin_dir / name)))
            for name in ("hv_from_vm", "hv_to_vm")
        }
        return {name: (one.get("run_time_ns", 0), one.get("run_cnt", 0)) for name, one in shown.items()}


_MOVED = Rule("moved", (RuleEnd(EndKind.OUTSIDE),), (RuleEnd(EndKind.GROUP, "moved"),), parse("tcp/8443"))


# --- others -----------------------------------------------------------------------------------------------------------
def nftables(ports: int, guests: tuple[Guest, Guest]) -> str:
    """A bridge table of the same policy: who may send from where, and who may talk to whom, by sets and maps."""
    bound = [f'"{g.device}" . {mac} . {a}' for g, mac, a in zip(guests, MACS, ADDRESSES, strict=True)]
    fake = [
        f'"fake{n}" . 52:54:00:00:{n >> 8:02x}:{n & 255:02x} . 10.{n // 62500}.{n // 250 % 250}.{n % 250}'
        for n in range(2, ports)
    ]
    pairs = [
        f'"{guests[0].device}" . "{guests[1].device}" : accept',
        f'"{guests[1].device}" . "{guests[0].device}" : accept',
    ]
    pairs += [f'"fake{n}" . "fake{n + 1}" : accept' for n in range(2, ports - 1)]
    return f"""
table bridge hvbench {{
  set bound {{ type ifname . ether_addr . ipv4_addr; elements = {{ {", ".join(bound + fake)} }} }}
  map paths {{ type ifname . ifname : verdict; elements = {{ {", ".join(pairs)} }} }}
  chain prerouting {{
    type filter hook prerouting priority -300; policy accept;
    ether type arp accept
    ether type ip iifname . ether saddr . ip saddr != @bound drop
    ip protocol udp udp sport 67 drop
  }}
  chain forward {{
    type filter hook forward priority 0; policy drop;
    ether type arp accept
    iifname . oifname vmap @paths
  }}
}}
"""


CONNTRACK = """
table inet hvbench {
  chain forward {
    type filter hook forward priority 0; policy drop;
    ct state established,related accept
    ip saddr 198.51.100.0/24 ip daddr 198.51.100.0/24 accept
  }
}
"""
_BRIDGE_NF = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")


def _nft(script: str) -> None:
    subprocess.run(["nft", "-f", "-"], input=script, text=True, check=True)


# --- measuring --------------------------------------------------------------------------------------------------------
def ratio(pairs: list[tuple[float, float]]) -> tuple[float, float]:
    """Of pairs (plain, other): the mean ratio and the lower end of its 95 % interval."""
    logs = [math.log(other / plain) for plain, other in pairs]
    mean = statistics.fmean(logs)
    nearest = min(T95, key=lambda count: abs(count - len(pairs)))
    spread = T95[nearest] * statistics.stdev(logs) / math.sqrt(len(logs))
    return math.exp(mean), math.exp(mean - spread)


def compare(traffic: Traffic, on: Callable[[], None], off: Callable[[], None], pairs: int, seconds: float) -> Figures:
    """Interleaved pairs of both measures, each of two looks at either side in mirrored order: drift falls out."""
    measures = {"pps": traffic.packets_per_s, "tcp_bps": traffic.bits_per_s}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in measures}
    for turn in range(pairs):
        for name, measure in measures.items():
            values: dict[bool, list[float]] = {False: [], True: []}
            for protected in (False, True, True, False) if turn % 2 == 0 else (True, False, False, True):
                (on if protected else off)()
                values[protected].append(measure(seconds if name == "pps" else seconds * 2))
            found[name].append((statistics.fmean(values[False]), statistics.fmean(values[True])))
    off()
    figures: Figures = {"pairs": pairs}
    for name, short in (("pps", "pps"), ("tcp_bps", "tcp")):
        figures[name] = round(statistics.median(other for _, other in found[name]))
        figures[f"{name}_bridge"] = round(statistics.median(plain for plain, _ in found[name]))
        figures[f"{short}_ratio"], figures[f"{short}_ratio_low"] = (round(value, 4) for value in ratio(found[name]))
    figures["added_ns"] = round(1e9 / figures["pps"] - 1e9 / figures["pps_bridge"], 1)
    return figures


def measured(setup: str, ports: int, pairs: int, seconds: float) -> Figures:
    """One setup at one scale."""
    with namespace(), segment() as guests, contextlib.ExitStack() as stack:
        traffic = Traffic(*guests)
        stack.callback(traffic.close)
        traffic.packets_per_s(0.3)
        figures: Figures = {
            "setup": setup.removesuffix("-limited").removesuffix("-unruled"),
            "link": "veth",
            "ports": ports,
        }
        if setup.startswith("hypervigil"):
            pin_dir = Path("/sys/fs/bpf") / f"hvb-{secrets.token_hex(4)}"
            stack.callback(remove_all, pin_dir)
            product = Product(ports, guests, pin_dir, ruled=not setup.endswith("-unruled"))
            limited = setup.endswith("-limited")
            figures |= {"active_limit": limited, "network_policy": not setup.endswith("-unruled")}

            def on() -> None:
                product.protect()
                if limited:
                    product.limit()

            if pairs:
                figures |= compare(traffic, on, product.expose, pairs, seconds)
            on()
            figures["ns_per_packet"] = round(
                statistics.median(product.program_ns(traffic, seconds) for _ in range(7)), 1
            )
            figures["change_ms"] = (
                round(statistics.median(product.change_ms()), 3) if figures["network_policy"] else None
            )
            figures["attach_ms"] = round(statistics.median(product.attach_ms()), 3)
            return figures
        script = nftables(ports, guests) if setup == "nftables" else CONNTRACK
        family = "bridge" if setup == "nftables" else "inet"

        def put() -> None:
            _nft(f"add table {family} hvbench; delete table {family} hvbench\n{script}")
            if setup == "conntrack":
                _BRIDGE_NF.write_text("1", encoding="ascii")

        def take() -> None:
            _nft(f"add table {family} hvbench; delete table {family} hvbench")
            if setup == "conntrack":
                _BRIDGE_NF.write_text("0", encoding="ascii")

        figures |= compare(traffic, put, take, pairs, seconds)
        return figures


@contextlib.contextmanager
def stored(path: Path) -> Iterator[list[Figures]]:
    """What earlier slices measured; what is added is kept."""
    try:
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        found = []
    yield found
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Measure, print a table, keep JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--setup", nargs="*", choices=SETUPS, default=list(SETUPS))
    parser.add_argument("--ports", nargs="*", type=int, default=list(PORTS))
    parser.add_argument("--pairs", type=int, default=16, help="0: only what needs no comparison.")
    parser.add_argument("--seconds", type=float, default=0.15)
    parser.add_argument("--out", type=Path, default=Path("build/bench/dataplane.json"))
    arguments = parser.parse_args()
    with stored(arguments.out) as results:
        for setup in arguments.setup:
            for ports in arguments.ports if setup in {"hypervigil", "nftables"} else arguments.ports[:1]:
                figures = measured(setup, ports, arguments.pairs, arguments.seconds)
                key = [figures.get(name) for name in _KEY]
                results[:] = [one for one in results if [one.get(name) for name in _KEY] != key]
                results.append({**figures, "machine": f"{os.cpu_count()} cores, Linux {platform.release()}"})
                show([figures])
    show(results)


_KEY = ("setup", "link", "ports", "active_limit", "network_policy")
_COLUMNS = (
    "setup",
    "ports",
    "active_limit",
    "pps",
    "pps_ratio",
    "pps_ratio_low",
    "tcp_ratio",
    "tcp_ratio_low",
    "ns_per_packet",
    "added_ns",
    "change_ms",
    "attach_ms",
)


def show(results: list[Figures]) -> None:
    """The figures as a table."""
    table = Table(*_COLUMNS, title="Data plane, veth")
    for one in results:
        table.add_row(*(re.sub("None", "–", str(one.get(name))) for name in _COLUMNS))
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
