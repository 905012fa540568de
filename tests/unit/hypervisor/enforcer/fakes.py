"""A kernel and a libvirt in memory, and limits and ports to put there."""

import itertools
from collections.abc import Collection, Iterable

from hypervigil.hypervisor.adapters.ebpf.dataplane import Drift, Gate, RateInForce
from hypervigil.hypervisor.adapters.ebpf.program import DataPlaneError
from hypervigil.hypervisor.adapters.libvirt.limits import DomainError, DomainGoneError
from hypervigil.model.ids import Instant, LimitId, PortId, VmId
from hypervigil.model.limits import Limit, LimitKind
from hypervigil.model.policy import Mode
from hypervigil.model.port_policy import Fabric, FabricChange, PortPolicy
from hypervigil.model.traffic import Direction
from hypervigil.network.compile import changed

RED, BLUE = VmId("red"), VmId("blue")
_numbers = itertools.count(1)


def port(vm: VmId, number: int = 1, mode: Mode = Mode.ENFORCE) -> PortPolicy:
    name = f"{vm}{number}"
    return PortPolicy(PortId(f"52:54:00:00:{len(vm):02x}:{number:02x}"), vm, name, 1000 + number, mode)


def limit(kind: LimitKind, value: float | None = None, vm: VmId = RED, until: float = 100.0, **more) -> Limit:
    return Limit(LimitId(f"l{next(_numbers)}"), vm, kind, Instant(0.0), Instant(until), "a test", value, **more)


class Kernel:
    """A `hypervigil.hypervisor.enforcer.ports.Plane`."""

    def __init__(self) -> None:
        self.bound: dict[PortId, PortPolicy] = {}
        self.rate: dict[tuple, RateInForce] = {}
        self.source: dict[tuple[PortId, str], tuple[float, int]] = {}
        self.gates: dict[PortId, Gate] = {}
        self.proofs: dict[PortId, int] = {}
        self.wires: dict[PortId, list[tuple]] = {}
        self.gone: set[PortId] = set()
        self.fabric = Fabric()
        self.deaf = False
        self.refuses: set[str] = set()
        self.drifted: list[Drift] = []
        self.calls: list[str] = []

    def _do(self, what: str, port: PortId) -> bool:
        self.calls.append(what)
        if what in self.refuses:
            raise DataPlaneError(f"the kernel refused {what}")
        if port not in self.bound:
            raise DataPlaneError(f"port {port} is not bound")
        return not self.deaf

    def attach(self, policy: PortPolicy) -> int:
        if policy.port in self.gone:
            raise DataPlaneError("is it still there?")
        self.bound[policy.port] = policy
        return len(self.bound)

    def change_fabric(self, change: FabricChange) -> None:
        self.calls.append("change_fabric")
        if "change_fabric" in self.refuses:
            raise DataPlaneError("the kernel refused change_fabric")
        self.fabric = changed(self.fabric, change)

    def detach(self, port: PortId) -> None:
        self.bound.pop(port, None)
        self.rate = {key: rate for key, rate in self.rate.items() if key[0] != port}
        self.source = {key: rate for key, rate in self.source.items() if key[0] != port}
        self.gates.pop(port, None)
        self.proofs.pop(port, None)

    def ports(self):
        return {port: slot for slot, port in enumerate(self.bound)}

    def set_limit(self, port, direction, traffic, *, packets_per_s=0.0, octets_per_s=0.0, end_ns):
        if self._do("set_limit", port):
            self.rate[port, direction, traffic] = RateInForce(direction, traffic, packets_per_s, octets_per_s, end_ns)

    def clear_limit(self, port, direction, traffic):
        if self._do("clear_limit", port):
            self.rate.pop((port, direction, traffic), None)

    def set_new_destinations(self, port, per_s, end_ns):
        if self._do("set_new_destinations", port):
            self.rate[port, None, None] = RateInForce(None, None, per_s, 0, end_ns)

    def clear_new_destinations(self, port):
        if self._do("clear_new_destinations", port):
            self.rate.pop((port, None, None), None)

    def set_peer(self, port, address, packets_per_s, end_ns):
        if self._do("set_peer", port):
            self.source[port, address] = (packets_per_s, end_ns)

    def clear_peer(self, port, address):
        if self._do("clear_peer", port):
            self.source.pop((port, address), None)

    def set_gate(self, port, gate, end_ns):
        if self._do("set_gate", port):
            self.gates[port] = gate

    def set_proof(self, port, end_ns):
        if self._do("set_proof", port):
            self.proofs[port] = end_ns

    def proof(self, port):
        return self.proofs.get(port, 0)

    def gate(self, port):
        return self.gates.get(port, Gate.OPEN)

    def rates(self, port):
        return [rate for key, rate in self.rate.items() if key[0] == port]

    def peers(self, port):
        return {address: rate for (owner, address), (rate, _) in self.source.items() if owner == port}

    def set_tripwires(self, port, thresholds):
        self._do("set_tripwires", port)
        self.wires.setdefault(port, []).extend(thresholds)

    def drift(self):
        return self.drifted

    def repair(self, port):
        self._do("repair", port)

    def sensor_fds(self):
        return {}

    def out(self, policy: PortPolicy, traffic=None) -> float | None:
        """Packets per second that a port may send of a class."""
        rate = self.rate.get((policy.port, Direction.OUT, traffic))
        return None if rate is None else rate.packets_per_s


class Gatekeeper:
    """A `hypervigil.hypervisor.enforcer.ports.Gatekeeper`."""

    def __init__(self) -> None:
        self.passing: set[int] | None = None

    def put(self, bound: Iterable[int]) -> None:
        self.passing = set(bound)

    def change(self, *, add: Iterable[int] = (), remove: Iterable[int] = ()) -> None:
        assert self.passing is not None
        self.passing = (self.passing | set(add)) - set(remove)

    def bound(self) -> frozenset[int] | None:
        return None if self.passing is None else frozenset(self.passing)

    def remove(self) -> bool:
        was, self.passing = self.passing, None
        return was is not None


class RoutedKeeper(Gatekeeper):
    """A `hypervigil.hypervisor.enforcer.ports.RoutedKeeper`."""

    def __init__(self) -> None:
        super().__init__()
        self.foreign: frozenset[str] | None = None


class Roads:
    """A `hypervigil.hypervisor.enforcer.ports.Roads`: which ports are routed to, and one that cannot be."""

    def __init__(self) -> None:
        self.routed: set[PortId] = set()
        self.refused: PortId | None = None
        self.deaf = False

    def settle(self, ports: Collection[PortPolicy]) -> list[tuple[str, bool, str]]:
        if self.deaf:
            raise OSError("no answer")
        wanted = {policy.port for policy in ports if policy.routes is not None}
        found = [(port, port != self.refused, "was gone") for port in sorted(wanted - self.routed)]
        self.routed = wanted - {self.refused}
        return [(str(port), ok, what) for port, ok, what in found]


class Libvirt:
    """A `hypervigil.hypervisor.enforcer.ports.Domains`: one number per kind and domain."""

    WAS = 777

    def __init__(self) -> None:
        self.now: dict[tuple[VmId, LimitKind], float] = {}
        self.marked: dict[VmId, dict[LimitKind, dict[str, int]]] = {}
        self.gone: set[VmId] = set()
        self.silent = False

    def _look(self, vm: VmId) -> None:
        if vm in self.gone:
            raise DomainGoneError(f"domain {vm} is gone")
        if self.silent:
            raise DomainError("libvirt does not answer: is libvirtd running?")

    def original(self, vm, kind):
        self._look(vm)
        return {"was": int(self.now.get((vm, kind), self.WAS))}

    def put(self, vm, kind, value, above=None):
        self._look(vm)
        if above is not None and value <= above["was"]:
            raise DomainError("it has as much without a grant: nothing is changed")
        self.now[vm, kind] = value
        return f"{kind} {value:g}"

    def restore(self, vm, kind, original):
        self._look(vm)
        self.now[vm, kind] = original["was"]

    def holds(self, vm, kind, value, above=None):
        self._look(vm)
        return self.now.get((vm, kind)) == value

    def mark(self, vm, originals):
        self._look(vm)
        self.marked[vm] = dict(originals)

    def marks(self, vm):
        self._look(vm)
        return self.marked.get(vm, {})
