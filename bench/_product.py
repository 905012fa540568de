"""Our data plane with a policy for so many VMs, of which two are there."""

import ctypes
import itertools
import json
import math
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path

from bench._segment import Guest, Traffic
from hypervigil.host.inventory import compile_ports
from hypervigil.hypervisor.adapters.ebpf import kernel, layout
from hypervigil.hypervisor.adapters.ebpf.dataplane import DataPlane
from hypervigil.hypervisor.adapters.ebpf.program import MAPS
from hypervigil.model.ids import PortId, VmId
from hypervigil.model.network import EndKind, Group, Rule, RuleEnd
from hypervigil.model.policy import Mode, NetworkPolicy, Policy, VmPolicy
from hypervigil.model.port_policy import FabricChange
from hypervigil.model.services import parse
from hypervigil.model.traffic import Direction, TrafficClass
from hypervigil.model.vm import Inventory, Nic, Vm
from hypervigil.network.compile import difference
from tests.integration.wirelab import run

PER_BRIDGE = 1000
"""A bridge takes 1,023 ports, so that 5,000 VMs are five networks."""
PER_TENANT = 10
"""VMs of a tenant, all of which reach each other; the first half of them serves the outside."""
_STATISTICS = Path("/proc/sys/kernel/bpf_stats_enabled")
_MOVED = Rule("moved", (RuleEnd(EndKind.OUTSIDE),), (RuleEnd(EndKind.GROUP, "moved"),), parse("tcp/8443"))


@dataclass(frozen=True, slots=True)
class Scale:
    """So many VMs with a policy: the two that talk, and others that are there in the maps only."""

    policy: Policy
    inventory: Inventory

    @classmethod
    def of(cls, ports: int, guests: tuple[Guest, Guest]) -> "Scale":
        """Tenants of ten VMs on up to five networks, each with a web and a database group and paths for them."""
        real = [(guest.mac, guest.device, guest.ifindex) for guest in guests]
        fake = [
            (PortId(f"52:54:00:{n >> 16:02x}:{n >> 8 & 255:02x}:{n & 255:02x}"), f"fake{n}", 1_000_000 + n)
            for n in range(2, max(ports, 2))
        ]
        vms, entries = [], []
        networks = [
            NetworkPolicy(
                f"net{n}", guests[0].bridge if n == 0 else f"fake-{n}", gateways=(f"10.{n}.255.1",), outside=True
            )
            for n in range(math.ceil(max(ports, 2) / PER_BRIDGE))
        ]
        for number, (mac, device, ifindex) in enumerate((*real, *fake)):
            network = networks[number // PER_BRIDGE]
            address = (
                guests[number].address
                if number < 2
                else f"10.{number // PER_BRIDGE}.{number // 250 % 250}.{number % 250}"
            )
            vms.append(Vm(VmId(f"vm-{number}"), f"vm-{number}", 1, 1, (Nic(mac, device, ifindex, network.bridge),)))
            entries.append(VmPolicy(f"vm-{number}", tenant=f"t{number // PER_TENANT}", addresses=(address,)))
        tenants = range(math.ceil(len(vms) / PER_TENANT))
        names = [[f"vm-{n}" for n in range(t * PER_TENANT, min((t + 1) * PER_TENANT, len(vms)))] for t in tenants]
        groups = [Group(f"web{t}", tuple(names[t][: PER_TENANT // 2])) for t in tenants]
        paths = [
            Rule(f"customers{t}", (RuleEnd(EndKind.OUTSIDE),), (RuleEnd(EndKind.GROUP, f"web{t}"),), parse("tcp/443"))
            for t in tenants
        ]
        policy = Policy(Mode.ENFORCE, tuple(networks), tuple(entries), groups=tuple(groups), paths=tuple(paths))
        return cls(policy, Inventory(tuple(vms)))

    def unruled(self) -> "Scale":
        """The same without a word on who may reach whom."""
        networks = tuple(replace(n, gateways=(), outside=False) for n in self.policy.networks)
        return replace(self, policy=replace(self.policy, networks=networks, groups=(), paths=()))


class Product:
    """The data plane with a policy for so many ports; it protects the two guests when it is told to."""

    def __init__(
        self,
        ports: int,
        guests: tuple[Guest, Guest],
        pin_dir: Path,
        *,
        max_ports: int,
        ruled: bool = True,
        limited: bool = False,
    ) -> None:
        self.scale = Scale.of(ports, guests) if ruled else Scale.of(ports, guests).unruled()
        self.limited = limited
        self.pin_dir = pin_dir
        self.plane = DataPlane.open(pin_dir, max_ports=max_ports)
        self.compiled = compile_ports(self.scale.inventory, self.scale.policy)
        for port, slot in zip(self.compiled.ports[2:], itertools.count(100)):
            entry = layout.Port(
                slot=slot, mode=2, mac=(ctypes.c_uint8 * 6).from_buffer_copy(layout.pack_mac(port.port))
            )
            self.plane._doors.put(port.ifindex, entry)  # noqa: SLF001
            self.plane._used.add(slot)  # noqa: SLF001
            self.plane._fabric.bind(slot, port)  # noqa: SLF001
        fabric = self.compiled.fabric
        self._change: FabricChange = FabricChange(fabric.grants, addresses=fabric.addresses, whole=True)
        self.put()
        self._change = FabricChange()
        self.take()

    def put(self) -> None:
        """Put both guests' ports under the policy, and in ``limited`` under a limit."""
        for port in self.compiled.ports[:2]:
            self.plane.attach(port)
            self.plane.change_fabric(self._change)  # one at a time: with two, all ports are written anew
        if self.limited:
            self._limit()

    def take(self) -> None:
        """Let both go."""
        for port in self.compiled.ports[:2]:
            self.plane.detach(port.port)

    def _limit(self) -> None:
        """Limit the sender as a case does, by classes, at a rate that each packet is held to and never reaches."""
        for traffic in (TrafficClass.UDP, TrafficClass.TCP, TrafficClass.SYN):
            port = self.compiled.ports[0].port
            self.plane.set_limit(port, Direction.OUT, traffic, packets_per_s=1e7, end_ns=1 << 62)

    def change_ms(self) -> float | None:
        """How long it takes to move one VM into another group and back, read back from the kernel, at the median.

        None where there is no policy to change.
        """
        if not self.scale.policy.groups:
            return None
        policy = self.scale.policy
        moved = replace(policy, groups=(*policy.groups, Group("moved", ("vm-0",))), paths=(*policy.paths, _MOVED))
        before, after = self.compiled, compile_ports(self.scale.inventory, moved)
        took = []
        for _ in range(20):
            change = difference(before.fabric, after.fabric)
            began = time.perf_counter()
            slot = self.plane.attach(after.ports[0])
            self.plane.change_fabric(change)
            place = layout.Place()
            kernel.lookup(self.plane._maps["hv_places"], layout.Number(slot), place)  # noqa: SLF001
            took.append((time.perf_counter() - began) * 1000)
            assert place.perimeter[self.plane._fabric._bank.index]  # noqa: SLF001
            before, after = after, before
        return statistics.median(took)

    def attach_ms(self) -> float:
        """How long it takes to bind one more VM's port, at the median."""
        took = []
        for number in range(10):
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
        return statistics.median(took)

    def state_bytes(self) -> int:
        """Memory of all maps by the kernel's count; they are made for ``max_ports`` at once and never grow."""
        shown = (json.loads(run("bpftool", "-j", "map", "show", "pinned", str(self.pin_dir / name))) for name in MAPS)
        return sum(int(one["bytes_memlock"]) for one in shown)

    def program_ns(self, traffic: Traffic, seconds: float) -> float:
        """Nanoseconds of both programs for one packet, by the kernel's count."""
        _STATISTICS.write_text("1", encoding="ascii")
        try:
            before = self._run_time()
            traffic.packets_per_s(seconds)
            after = self._run_time()
        finally:
            _STATISTICS.write_text("0", encoding="ascii")
        return sum((after[name][0] - before[name][0]) / max(1, after[name][1] - before[name][1]) for name in before)

    def _run_time(self) -> dict[str, tuple[int, int]]:
        shown = {
            name: json.loads(run("bpftool", "-j", "prog", "show", "pinned", str(self.pin_dir / name)))
            for name in ("hv_from_vm", "hv_to_vm")
        }
        return {name: (one.get("run_time_ns", 0), one.get("run_cnt", 0)) for name, one in shown.items()}
