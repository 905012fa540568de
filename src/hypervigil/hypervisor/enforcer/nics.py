"""Bindings and limits at NICs: each change one atomic step in the kernel, read back afterwards."""

import contextlib
import socket
from collections.abc import Callable, Iterable, Sequence

from hypervigil.hypervisor.adapters.ebpf.dataplane import Gate
from hypervigil.hypervisor.adapters.ebpf.program import DataPlaneError
from hypervigil.hypervisor.adapters.nftables.guard import GuardError
from hypervigil.hypervisor.enforcer.ports import Gatekeeper, Plane
from hypervigil.hypervisor.enforcer.state import State
from hypervigil.hypervisor.plan import Knob, Place, Setting, changes, port_settings
from hypervigil.model.ids import PortId, VmId
from hypervigil.model.limits import NIC_KINDS
from hypervigil.model.port_policy import FabricChange, PortPolicy
from hypervigil.network.compile import changed
from hypervigil.wire.messages import Guarding

HARD_END_AFTER_S = 900
"""How long a limit may outlive its end when nobody is there to lift it; then the kernel lets go by itself."""


class Nics:
    """The data plane and the guard, as far as limits and bindings go."""

    def __init__(self, plane: Plane, guard: Gatekeeper, taps: Callable[[], dict[int, str]]) -> None:
        self._plane = plane
        self._guard = guard
        self._taps = taps
        self._set: dict[PortId, dict[Place, Setting]] = {}
        self._passed: frozenset[int] = frozenset()

    def recall(self, state: State) -> list[str]:
        """Take up what an earlier process left in the kernel and bring it in line with the state; what was not to be.

        A port that cannot be bound, as its device went meanwhile, is let go.
        """
        problems = []
        self._passed = frozenset(policy.ifindex for policy in state.ports.values())
        for port in self._plane.ports().keys() - state.ports.keys():
            self._plane.detach(port)
        for policy in list(state.ports.values()):
            try:
                self._plane.attach(policy)
                self._set[policy.port] = self._held(policy.port)
            except (DataPlaneError, OSError) as error:
                self.release(policy.port)
                del state.ports[policy.port]
                problems.append(str(error))
        whole = FabricChange(state.fabric.grants, addresses=state.fabric.addresses, whole=True)
        try:
            self._plane.change_fabric(whole)
        except (DataPlaneError, OSError) as error:
            problems.append(str(error))
        for vm in {policy.vm for policy in state.ports.values()}:
            try:
                self.settle(state, vm)
            except (DataPlaneError, OSError) as error:
                problems.append(str(error))
        return problems

    def _held(self, port: PortId) -> dict[Place, Setting]:
        """Which knobs the kernel has turned, wherever they stand."""
        held = {
            Place(Knob.NEW_DESTINATIONS if rate.direction is None else Knob.RATE, rate.direction, rate.traffic)
            for rate in self._plane.rates(port)
        }
        held |= {Place(Knob.PEER, address=address) for address in self._plane.peers(port)}
        if self._plane.gate(port) is not Gate.OPEN:
            held.add(Place(Knob.GATE))
        if self._plane.proof(port):
            held.add(Place(Knob.PROOF))
        return dict.fromkeys(held, Setting())

    # --- bindings ---
    def bind(self, state: State, policy: PortPolicy) -> str:
        """Bind one port; what is in force then. ``DataPlaneError`` leaves its earlier binding."""
        self._plane.attach(policy)
        self.settle(state, policy.vm)
        return f"{policy.mode}, {f'{len(policy.addresses)} addresses' if policy.addresses else policy.bound}"

    def change_fabric(self, state: State, change: FabricChange) -> None:
        """Put who may reach whom in force for all that is bound. ``DataPlaneError`` leaves what was."""
        self._plane.change_fabric(change)
        if change != FabricChange():
            state.fabric = changed(state.fabric, change)

    def release(self, port: PortId) -> None:
        """Let a port go."""
        self._plane.detach(port)
        self._set.pop(port, None)

    def guard(self, guarding: Guarding | None, bound: Iterable[PortPolicy]) -> None:
        """Put the guard in force with these ports bound, or take it away. ``GuardError`` leaves what was."""
        if guarding is None:
            self._guard.remove()
            return
        wanted = self._passing(guarding, bound)
        there = self._guard.bound()
        if there is None:
            self._guard.put(wanted)
        elif there != wanted:
            self._guard.change(add=sorted(wanted - there), remove=sorted(there - wanted))
        self._passed = wanted

    def _passing(self, guarding: Guarding, bound: Iterable[PortPolicy]) -> frozenset[int]:
        passing = {policy.ifindex for policy in bound}
        for name in guarding.exempt:
            with contextlib.suppress(OSError):  # it is not there now
                passing.add(socket.if_nametoindex(name))
        if guarding.bridges is not None:
            passing |= {index for index, bridge in self._taps().items() if bridge not in guarding.bridges}
        return frozenset(passing)

    # --- limits ---
    def settle(self, state: State, vm: VmId) -> list[str]:
        """Bring every port of a VM in line with its limits; what the kernel then says, per port."""
        wanted = port_settings(limit for limit in state.of(vm) if limit.kind in NIC_KINDS)
        read = []
        for policy in state.ports.values():
            if policy.vm == vm:
                self._settle_port(policy.port, wanted)
                read.append(self._read(policy.port, wanted))
        return read

    def _settle_port(self, port: PortId, wanted: dict[Place, Setting]) -> None:
        held = self._set.setdefault(port, {})
        to_set, to_clear = changes(held, wanted)
        # Step by step, so that what was done before a failure can be undone.
        for place, setting in to_set.items():
            self._put(port, place, setting)
            held[place] = setting
        for place in to_clear:
            self._clear(port, place)
            del held[place]

    def _put(self, port: PortId, place: Place, setting: Setting) -> None:
        end_ns = int((setting.until + HARD_END_AFTER_S) * 1e9)
        match place.knob:
            case Knob.RATE if place.direction is not None:
                self._plane.set_limit(
                    port,
                    place.direction,
                    place.traffic,
                    packets_per_s=setting.packets_per_s,
                    octets_per_s=setting.octets_per_s,
                    end_ns=end_ns,
                )
            case Knob.NEW_DESTINATIONS:
                self._plane.set_new_destinations(port, setting.packets_per_s, end_ns)
            case Knob.PEER if place.address is not None:
                self._plane.set_peer(port, place.address, setting.packets_per_s, end_ns)
            case Knob.GATE:
                self._plane.set_gate(port, Gate.ISOLATE if setting.shut else Gate.QUARANTINE, end_ns)
            case Knob.PROOF:
                self._plane.set_proof(port, end_ns)

    def _clear(self, port: PortId, place: Place) -> None:
        match place.knob:
            case Knob.RATE if place.direction is not None:
                self._plane.clear_limit(port, place.direction, place.traffic)
            case Knob.NEW_DESTINATIONS:
                self._plane.clear_new_destinations(port)
            case Knob.PEER if place.address is not None:
                self._plane.clear_peer(port, place.address)
            case Knob.GATE:
                self._plane.set_gate(port, Gate.OPEN, 0)
            case Knob.PROOF:
                self._plane.set_proof(port, 0)

    def _read(self, port: PortId, wanted: dict[Place, Setting]) -> str:
        """What the kernel holds now; ``DataPlaneError`` when that is not what was wanted."""
        rates = {(r.direction, r.traffic): r for r in self._plane.rates(port)}
        peers, gate = self._plane.peers(port), self._plane.gate(port)
        said, right = [], True
        for place, setting in wanted.items():
            match place.knob:
                case Knob.RATE | Knob.NEW_DESTINATIONS:
                    rate = rates.get((place.direction, place.traffic))
                    packets, octets = (rate.packets_per_s, rate.octets_per_s) if rate is not None else (-1.0, -1)
                    right &= _near(packets, setting.packets_per_s) and _near(octets, setting.octets_per_s)
                    said.append(f"{packets:g} packets/s {octets} octets/s")
                case Knob.PEER:
                    packets = peers.get(place.address or "", -1.0)
                    right &= _near(packets, setting.packets_per_s)
                    said.append(f"source {place.address} {packets:g} packets/s")
                case Knob.GATE:
                    right &= gate is (Gate.ISOLATE if setting.shut else Gate.QUARANTINE)
                    said.append(gate.name.lower())
                case Knob.PROOF:
                    there = self._plane.proof(port) > 0
                    right &= there
                    said.append("source proof" if there else "no source proof")
        if not right:
            raise DataPlaneError(f"port {port} holds {', '.join(said)}: that is not what was put; is it bound twice?")
        return f"{port}: {', '.join(said) or 'no limit'}"

    # --- drift ---
    def repair(self, state: State) -> list[tuple[str, bool, str]]:
        """Find what somebody else changed and put it back: subject, whether it is back, what it was."""
        repaired: list[tuple[str, bool, str]] = []
        for drift in self._plane.drift():
            try:
                self._plane.repair(drift.port)
                repaired.append((drift.port, True, drift.what))
            except (DataPlaneError, OSError) as error:
                repaired.append((drift.port, False, f"{drift.what}; {error}"))
        if state.guarding is not None:
            wanted = self._passing(state.guarding, state.ports.values())
            there, before = self._guard.bound(), self._passed
            lacks = wanted - (there or frozenset())
            # Indices of devices that are gone cannot pass anything; the kernel drops them from no set.
            extra = {index for index in (there or frozenset()) - wanted if _device_there(index)}
            if there is None or lacks or extra:
                what = "it was gone" if there is None else "its ports were changed"
                try:
                    self.guard(state.guarding, state.ports.values())
                    # A tap that came to or left a bridge which is not guarded was changed by nobody.
                    if there is None or lacks & before or extra - before:
                        repaired.append(("guard", True, what))
                except GuardError as error:
                    repaired.append(("guard", False, f"{what}; {error}"))
        return repaired

    def in_force(self, ports: Sequence[PortId]) -> bool:
        """Whether all of these ports are bound in the kernel."""
        return set(ports) <= self._plane.ports().keys()


def _near(there: float, wanted: float) -> bool:
    return abs(there - wanted) <= 0.001 + wanted / 100


def _device_there(index: int) -> bool:
    with contextlib.suppress(OSError, OverflowError):
        socket.if_indextoname(index)
        return True
    return False
