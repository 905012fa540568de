"""All ports together: stands in for the data plane where there is no kernel to load it into, and for its reader.

Calls, records and errors are those of ``DataPlane`` and ``DataPlaneReader``; nothing but its caller changes it.
"""

from collections import deque
from collections.abc import Iterable
from ipaddress import ip_network

import numpy as np

from hypervigil.hypervisor.adapters.ebpf import layout
from hypervigil.hypervisor.adapters.ebpf.dataplane import Drift, Gate, RateInForce
from hypervigil.hypervisor.adapters.ebpf.locals import given, segment_of
from hypervigil.hypervisor.adapters.ebpf.program import LARGER, DataPlaneError
from hypervigil.hypervisor.adapters.ebpf.reader import COUNTERS, PORTS, Records, Trip
from hypervigil.hypervisor.reference.bucket import NO_RATE, Rate
from hypervigil.hypervisor.reference.dialogues import Dialogues
from hypervigil.hypervisor.reference.fabric import Fabric
from hypervigil.hypervisor.reference.frame import Frame, read
from hypervigil.hypervisor.reference.identity import Identity
from hypervigil.hypervisor.reference.leases import Leases, Leasing
from hypervigil.hypervisor.reference.neighbours import Neighbours
from hypervigil.hypervisor.reference.peers import Peers
from hypervigil.hypervisor.reference.port import Fate, Handover, Memory, Port, Slot, Source
from hypervigil.model.ids import PortId
from hypervigil.model.policy import Mode
from hypervigil.model.port_policy import FabricChange, PortPolicy
from hypervigil.model.traffic import Direction, TrafficClass

PEERS_PER_PORT, SOURCES_PER_PORT, GREETERS_PER_PORT = 64, 4, 16
_WORD = 0xFFFF_FFFF_FFFF_FFFF


class ReferencePlane:
    """Ports, counters, limits of one host."""

    def __init__(self, *, max_ports: int = 1024, max_peers: int | None = None, fabric: Fabric | None = None) -> None:
        self._counters = (layout.Counters * max_ports)()
        self._slots = [Slot(number, self._counters[number]) for number in range(max_ports)]
        self._ports: dict[int, Port] = {}
        self._ifindexes: dict[PortId, int] = {}
        room = max_peers or max_ports * PEERS_PER_PORT
        self.peer_memory = Peers(room)
        self.dialogues = Dialogues(room, room * GREETERS_PER_PORT // PEERS_PER_PORT)
        self._max_sources = max_ports * SOURCES_PER_PORT
        self.neighbours = Neighbours()
        self.leases = Leases(self.neighbours)
        self.events: deque[Trip] = deque()
        """Wires that sprang and were not read yet."""
        self.fabric = fabric or Fabric()
        self._memory = Memory(
            self._slots, self.peer_memory, self.dialogues, self.events, self.fabric, self.neighbours, self.leases
        )

    # --- frames ----
    def handle(
        self,
        ifindex: int,
        direction: Direction,
        data: bytes,
        now_ns: int,
        *,
        length: int | None = None,
        gso_size: int = 0,
        vlan: bool = False,
    ) -> bool:
        """A frame of ``length`` bytes at a device, of which ``data`` was kept: whether it passes."""
        frame = read(data, len(data) if length is None else length, gso_size=gso_size, vlan=vlan)
        return self.take(ifindex, direction, frame, now_ns).passes

    def take(
        self,
        ifindex: int,
        direction: Direction,
        frame: Frame,
        now_ns: int,
        handover: Handover = Handover.NOTHING,
    ) -> Fate:
        """A frame at a device, perhaps straight from a sender's port: its fate."""
        port = self._ports.get(ifindex)
        if port is None or handover is Handover.DONE:
            return Fate(passes=True)
        return port.handle(direction, frame, now_ns, handover)

    # --- ports ----
    def attach(self, policy: PortPolicy, slot: int | None = None) -> int:
        """Bind a port to its policy; its slot, a free one if none is named."""
        identity = Identity(
            mac=layout.pack_mac(policy.port),
            addresses=_packed(policy.addresses, policy, "addresses"),
            may_serve_dhcp=policy.may_serve_dhcp,
            may_advertise_routes=policy.may_advertise_routes,
            unchecked=frozenset(policy.unchecked),
            pairs=_pairs(policy),
            leasing=_leasing(policy),
        )
        allows = _packed(policy.quarantine_allows, policy, "quarantine addresses")
        old = self._ports.pop(self._ifindexes.get(policy.port, -1), None)
        place = old.slot if old is not None else self._slots[self._free_slot() if slot is None else slot]
        if old is None:
            place.clear()
        enforce = policy.mode is Mode.ENFORCE
        self._ifindexes[policy.port] = policy.ifindex
        segment = segment_of(policy)
        held = {(segment, address): place.number if alone else layout.NOBODY for address, alone in given(policy)}
        if old is None or old.segment != segment:
            self.leases.free(place.number, segment if old is None else old.segment)
        self.neighbours.give(place.number, held, again=old is not None and old.segment == segment)
        self._ports[policy.ifindex] = Port(place, identity, enforce, allows, segment, self._memory)
        self.fabric.bind(place.number, policy)
        return place.number

    def change_fabric(self, change: FabricChange) -> None:
        """Put who may reach whom in force, for all that was attached; without it the bridge alone decides."""
        self.fabric.change(change)

    def detach(self, port: PortId) -> None:
        """Let a port go. Doing it again is no error."""
        ifindex = self._ifindexes.pop(port, None)
        if ifindex is not None:
            gone = self._ports.pop(ifindex)
            slot = gone.slot
            slot.clear()
            self.leases.free(slot.number, gone.segment)
            self.neighbours.free(slot.number)
            self.fabric.release(slot.number)

    def ports(self) -> dict[PortId, int]:
        """Attached ports and their slots."""
        return {port: self._ports[ifindex].slot.number for port, ifindex in self._ifindexes.items()}

    def _free_slot(self) -> int:
        used = {port.slot.number for port in self._ports.values()}
        for slot in self._slots:
            if slot.number not in used:
                return slot.number
        raise DataPlaneError(f"all {len(self._slots)} NICs of the data plane are taken: {LARGER}")

    def _slot(self, port: PortId) -> Slot:
        if port not in self._ifindexes:
            raise DataPlaneError(f"port {port} is not bound: its VM may be gone")
        return self._ports[self._ifindexes[port]].slot

    # --- limits ----
    def set_limit(
        self,
        port: PortId,
        direction: Direction,
        traffic: TrafficClass | None,
        *,
        packets_per_s: float = 0.0,
        octets_per_s: float = 0.0,
        end_ns: int,
    ) -> None:
        """Limit a class (``None``: all classes together) in one direction."""
        self._slot(port).rates[direction, traffic] = _rate(packets_per_s, octets_per_s, end_ns)

    def clear_limit(self, port: PortId, direction: Direction, traffic: TrafficClass | None) -> None:
        """End a limit."""
        self._slot(port).rates.pop((direction, traffic), None)

    def set_new_destinations(self, port: PortId, per_s: float, end_ns: int) -> None:
        """Limit first packets to addresses that the port has not talked to."""
        self._slot(port).new_destinations = _rate(per_s, 0, end_ns)

    def clear_new_destinations(self, port: PortId) -> None:
        """End that limit."""
        self._slot(port).new_destinations = NO_RATE

    def set_gate(self, port: PortId, gate: Gate, end_ns: int) -> None:
        """Close (or open) a port as a whole."""
        slot = self._slot(port)
        slot.gate, slot.gate_end_ns = gate, end_ns if gate is not Gate.OPEN else 0

    def set_proof(self, port: PortId, end_ns: int) -> None:
        """Until then who begins a TCP connection to the port has to prove its address; 0 ends it."""
        self._slot(port).proof_end_ns = end_ns

    def set_peer(self, port: PortId, address: str, packets_per_s: float, end_ns: int) -> None:
        """Limit what one source may send to the port; 0 packets/s blocks it."""
        sources, key = self._slot(port).sources, _address(address)
        if key not in sources and sum(len(slot.sources) for slot in self._slots) >= self._max_sources:
            raise DataPlaneError("no room for one more limited source: lift others first")
        sources[key] = Source(_rate(packets_per_s, 0, end_ns))

    def clear_peer(self, port: PortId, address: str) -> None:
        """End a source's limit."""
        if port in self._ifindexes:
            self._slot(port).sources.pop(_address(address), None)

    def set_tripwires(self, port: PortId, thresholds: Iterable[tuple[Direction, TrafficClass, int]]) -> None:
        """Set packets per 100 ms at which the sensors are woken; 0 is off."""
        wires = self._slot(port).tripwires
        wires.update({(direction, traffic): packets for direction, traffic, packets in thresholds})

    def rates(self, port: PortId) -> list[RateInForce]:
        """Every rate that holds for a port."""
        slot = self._slot(port)
        found = [_told(direction, traffic, rate) for (direction, traffic), rate in slot.rates.items()]
        return found + ([_told(None, None, slot.new_destinations)] if slot.new_destinations.end_ns else [])

    def gate(self, port: PortId) -> Gate:
        """Whether the port is open."""
        return self._slot(port).gate

    def proof(self, port: PortId) -> int:
        """Until when sources have to prove their address; 0: they need not."""
        return self._slot(port).proof_end_ns

    def peers(self, port: PortId) -> dict[str, float]:
        """Limited sources and their packets per second."""
        sources = self._slot(port).sources
        return {layout.unpack_address(a): source.rate.packets_per_s_x1000 / 1000 for a, source in sources.items()}

    def drift(self) -> list[Drift]:
        """Nobody else can change anything here."""
        return []

    def repair(self, port: PortId) -> None:
        """Nothing needs repair."""

    def sensor_fds(self) -> dict[str, int]:
        """There are no descriptors: ``ReferenceReader`` reads it."""
        return {}

    # --- what a reader needs ----
    def port_records(self) -> Records:
        """Attached ports as the kernel's records."""
        found = np.zeros(len(self._ports), PORTS)
        for record, (ifindex, port) in zip(found, self._ports.items(), strict=True):
            record["ifindex"] = ifindex
            record["port"]["slot"] = port.slot.number
            record["port"]["mac"] = list(port.identity.mac)
        return found

    def counter_records(self) -> Records:
        """Counters of every slot as the kernel's records."""
        counters: Records = np.frombuffer(memoryview(self._counters), COUNTERS)
        return counters.copy()


class ReferenceReader:
    """Reads a ``ReferencePlane`` as ``DataPlaneReader`` reads the kernel."""

    def __init__(self, plane: ReferencePlane) -> None:
        self._plane = plane

    def ports(self) -> Records:
        """Attached ports."""
        return self._plane.port_records()

    def counters(self) -> Records:
        """Counters of every slot."""
        return self._plane.counter_records()

    def peers(self) -> Records:
        """Everybody talked to."""
        return self._plane.peer_memory.records()

    def greeters(self) -> Records:
        """Services that speak first."""
        return self._plane.dialogues.records()

    def wait(self, timeout_s: float = 0.0) -> list[Trip]:  # noqa: ARG002 - nothing comes while one waits
        """Wires that sprang since the last call."""
        trips = list(self._plane.events)
        self._plane.events.clear()
        return trips


def _packed(addresses: tuple[str, ...], policy: PortPolicy, what: str) -> frozenset[bytes]:
    if len(addresses) > layout.ADDRESSES:
        raise DataPlaneError(f"port {policy.port} has {len(addresses)} {what}: at most {layout.ADDRESSES} fit")
    return frozenset(layout.pack_address(address) for address in addresses)


def _pairs(policy: PortPolicy) -> tuple[tuple[bytes, bytes], ...]:
    if len(policy.pairs) > layout.PAIRS:
        raise DataPlaneError(f"port {policy.port} has {len(policy.pairs)} address pairs: at most {layout.PAIRS} fit")
    return tuple((layout.pack_address(pair.address), layout.pack_mac(pair.mac or policy.port)) for pair in policy.pairs)


def _leasing(policy: PortPolicy) -> Leasing | None:
    if (leasing := policy.leasing) is None:
        return None
    servers = frozenset(layout.pack_mac(mac) for mac in leasing.servers)
    if leasing.within is None:
        return Leasing(servers, leasing.free)
    network = ip_network(leasing.within)
    return Leasing(servers, leasing.free, network.network_address.packed, network.netmask.packed)


def _address(text: str) -> bytes:
    try:
        return layout.pack_address(text)
    except ValueError:
        raise DataPlaneError("a limited source is named by its IP address or its MAC") from None


def _rate(packets_per_s: float, octets_per_s: float, end_ns: int) -> Rate:
    return Rate(round(packets_per_s * 1000) & _WORD, round(octets_per_s) & _WORD, end_ns)


def _told(direction: Direction | None, traffic: TrafficClass | None, rate: Rate) -> RateInForce:
    return RateInForce(direction, traffic, rate.packets_per_s_x1000 / 1000, rate.octets_per_s, rate.end_ns)
