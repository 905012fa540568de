"""Bindings and limits at NICs: each change one atomic step in the kernel, read back afterwards."""

from collections.abc import Callable, Iterable, Sequence

from hypervigil.hypervisor.adapters.ebpf.dataplane import Gate
from hypervigil.hypervisor.adapters.ebpf.program import DataPlaneError
from hypervigil.hypervisor.adapters.nftables.guard import GuardError
from hypervigil.hypervisor.enforcer.ports import Gatekeeper, Plane
from hypervigil.hypervisor.enforcer.state import State
from hypervigil.hypervisor.plan import Knob, Place, Setting, changes, port_settings
from hypervigil.model.ids import PortId, VmId
from hypervigil.model.limits import NIC_KINDS
from hypervigil.model.port_policy import PortPolicy
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

    def recall(self, state: State) -> None:
        """Take up what an earlier process left in the kernel, and bring it in line with the state."""
        for port in self._plane.ports().keys() - state.ports.keys():
            self._plane.detach(port)
        for policy in state.ports.values():
            self._plane.attach(policy)
            self._set.pop(policy.port, None)
            self.settle(state, policy.vm)

    # --- bindings ---
    def bind(self, state: State, policy: PortPolicy) -> str:
        """Bind one port; what is in force then. ``DataPlaneError`` leaves its earlier binding."""
        self._plane.attach(policy)
        self.settle(state, policy.vm)
        return f"{policy.mode}, {len(policy.addresses)} addresses" if policy.addresses else f"{policy.mode}, MAC only"

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

    def _passing(self, guarding: Guarding, bound: Iterable[PortPolicy]) -> frozenset[int]:
        passing = {policy.ifindex for policy in bound}
        if guarding.bridges:
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
        to_set, to_clear = changes(self._set.get(port, {}), wanted)
        for place, setting in to_set.items():
            self._put(port, place, setting)
        for place in to_clear:
            self._clear(port, place)
        self._set[port] = wanted

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

    def _read(self, port: PortId, wanted: dict[Place, Setting]) -> str:
        """What the kernel holds now; ``DataPlaneError`` when that is not what was wanted."""
        rates = {(r.direction, r.traffic): r for r in self._plane.rates(port)}
        said = []
        for place, setting in wanted.items():
            if place.knob is Knob.RATE or place.knob is Knob.NEW_DESTINATIONS:
                rate = rates.get((place.direction, place.traffic))
                if (
                    rate is None
                    or abs(rate.packets_per_s - setting.packets_per_s) > 0.001 + setting.packets_per_s / 100
                ):
                    raise DataPlaneError(f"port {port} does not hold what was put: it may be somebody else's now")
                said.append(f"{rate.packets_per_s:g} packets/s {rate.octets_per_s} octets/s")
            elif place.knob is Knob.PEER:
                said.append(
                    f"source {place.address} {self._plane.peers(port).get(place.address or '', -1):g} packets/s"
                )
            else:
                said.append(self._plane.gate(port).name.lower())
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
            there = self._guard.bound()
            # Indices of devices that are gone cannot pass anything; the kernel drops them from no set.
            if there is None or not wanted <= there:
                try:
                    self.guard(state.guarding, state.ports.values())
                    repaired.append(("guard", True, "it was gone" if there is None else "its ports were changed"))
                except GuardError as error:
                    repaired.append(("guard", False, str(error)))
        return repaired

    def in_force(self, ports: Sequence[PortId]) -> bool:
        """Whether all of these ports are bound in the kernel."""
        return set(ports) <= self._plane.ports().keys()
