"""The reference model of the data plane lets a frame pass exactly where the specification says that it may be begun."""

from collections.abc import Iterator
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from hypervigil.host.inventory import compile_ports
from hypervigil.hypervisor.reference.frame import read
from hypervigil.hypervisor.reference.plane import ReferencePlane
from hypervigil.model.ids import PortId, VmId
from hypervigil.model.network import Budget
from hypervigil.model.policy import Mode, Policy
from hypervigil.model.services import NEIGHBOUR, service
from hypervigil.model.traffic import Direction
from hypervigil.model.vm import Inventory, Nic, Vm
from hypervigil.network.compile import difference
from hypervigil.network.decide import decide
from hypervigil.network.ends import End, Gateway, Member, Outside, members
from tests.integration.dhcp import DISCOVER, message
from tests.integration.wirelab import arp, ethernet, ipv4, ipv6, tcp, udp
from tests.property.test_network import ASKED, OUTSIDES, POLICIES, VMS

BRIDGES = st.lists(st.sampled_from(["br-n1", "br-n1", "br-n2", "br-else"]), min_size=len(VMS), max_size=len(VMS))
ROUTER, UPLINK, NOW = "52:54:00:00:ff:01", 99, 10**12
LINK_LOCAL = "fe80::1"
DHCP_ANSWERS = {service(17, 68), service(17, 546)}


def _inventory(bridges: list[str]) -> Inventory:
    return Inventory(
        tuple(
            Vm(VmId(name), name, 1, 1, (Nic(PortId(f"52:54:00:00:00:{n:02x}"), f"v{n}", n, bridge, _addresses(n)),))
            for n, (name, bridge) in enumerate(zip(VMS, bridges, strict=True), start=1)
        )
    )


def _addresses(number: int) -> tuple[str, str]:
    return f"10.9.0.{number}", f"fd09::{number}"


class _World:
    """A policy in force in the model, and where its ends are."""

    def __init__(self, policy: Policy, bridges: list[str]) -> None:
        # Bounds of rate and mode are not what is asked here.
        floor = replace(policy.floor, budget=Budget())
        tenants = tuple(replace(tenant, budget=Budget()) for tenant in policy.tenants)
        self.policy = replace(policy, mode=Mode.ENFORCE, floor=floor, tenants=tenants)
        inventory = _inventory(bridges)
        self.nics = {nic.port: nic for vm in inventory.vms for nic in vm.nics}
        self.members = members(self.policy, inventory)
        compiled = compile_ports(inventory, self.policy)
        self.plane = ReferencePlane(max_ports=8, max_peers=1024)
        for port in compiled.ports:
            self.plane.attach(port)
        self.plane.change_fabric(difference(None, compiled.fabric))

    def pairs(self) -> Iterator[tuple[End, End]]:
        ends: list[End] = [*self.members, Gateway("n1"), Gateway("n2"), *(Outside(one) for one in OUTSIDES if one)]
        for one in ends:
            for other in ends:
                if one is not other and (isinstance(one, Member) or isinstance(other, Member)):
                    yield one, other

    def frame(self, source: End, destination: End, wanted: int) -> bytes | None:
        """The first packet of ``wanted`` from one to the other; ``None`` where it cannot be sent."""
        near = self._bridge(source, destination) is not None
        to = destination.port if near and isinstance(destination, Member) else ROUTER
        by = source.port if isinstance(source, Member) and (near or not isinstance(destination, Member)) else ROUTER
        own = source.port if isinstance(source, Member) else by
        six = wanted >> 16 == 58
        mine, yours = (
            self._address(end, other, six=six) for end, other in ((source, destination), (destination, source))
        )
        if mine is None or yours is None or (wanted == NEIGHBOUR and not near):
            return None
        if wanted == NEIGHBOUR:
            return ethernet(own, to, 0x0806, arp(1, own, mine, yours))
        transport = {
            6: tcp(40000, wanted & 0xFFFF, 2),
            17: udp(40000, wanted & 0xFFFF, self._says(source, wanted)),
            1: bytes([wanted & 0xFF]) + bytes(27),
            58: bytes([wanted & 0xFF]) + bytes(27),
        }.get(wanted >> 16, bytes(28))
        packet = (ipv6 if six else ipv4)(mine, yours, wanted >> 16, transport)
        return ethernet(own, to, 0x86DD if six else 0x0800, packet)

    @staticmethod
    def _says(source: End, wanted: int) -> bytes:
        """What a datagram holds: to a DHCP server nothing passes but what it understands, in the sender's own name."""
        return message(DISCOVER, source.port) if wanted == service(17, 67) and isinstance(source, Member) else bytes(18)

    def passes(self, source: End, destination: End, sent: bytes) -> bool:
        """Whether it comes through, at the sender's port and at the receiver's, as the first of a conversation."""
        for seat in self.plane.fabric.directory.seats.values():
            seat.table.sets.clear()
        ingress = UPLINK
        if isinstance(source, Member):
            device = self.nics[source.port].ifindex
            fate = self.plane.take(device, Direction.OUT, read(sent, len(sent)), NOW)
            if not fate.passes or fate.device:
                assert fate.device in (0, self._device(destination))
                return fate.passes
            if self._bridge(source, destination) is not None:
                ingress = device
            else:
                sent = sent[:6] + bytes.fromhex(ROUTER.replace(":", "")) + sent[12:]
        if not isinstance(destination, Member):
            return True
        sent = bytes.fromhex(destination.port.replace(":", "")) + sent[6:]
        device = self.nics[destination.port].ifindex
        return self.plane.take(device, Direction.IN, read(sent, len(sent), ingress=ingress), NOW).passes

    def _device(self, end: End) -> int:
        return self.nics[end.port].ifindex if isinstance(end, Member) else 0

    def _bridge(self, one: End, other: End) -> str | None:
        """The bridge that two VMs are on."""
        if not isinstance(one, Member) or not isinstance(other, Member):
            return None
        bridge = self.nics[one.port].bridge
        return bridge if bridge == self.nics[other.port].bridge else None

    def _address(self, end: End, other: End, *, six: bool) -> str | None:
        match end:
            case Member(port=port):
                if six and isinstance(other, Gateway) and other.network == end.network:
                    return self.nics[port].addresses[1]
                return self.nics[port].addresses[six]
            case Outside(address=str(address)):
                return address if (":" in address) == six else None
            case Gateway(network=name) if isinstance(other, Member):
                if six:
                    return LINK_LOCAL if other.network == name else None
                network = next(one for one in self.policy.networks if one.name == name)
                return network.gateways[0] if network.gateways else None
        return None


@settings(deadline=None, max_examples=100)
@given(POLICIES, BRIDGES)
def test_a_frame_passes_exactly_where_the_specification_lets_it_be_begun(policy: Policy, bridges: list[str]) -> None:
    world = _World(policy, bridges)
    for source, destination in world.pairs():
        for wanted in ASKED:
            if wanted == service(58, 135):
                continue  # neighbour discovery names its target within: ARP stands for it here
            if wanted in DHCP_ANSWERS and isinstance(source, Member):
                continue  # no matter of paths, but of who may serve it
            sent = world.frame(source, destination, wanted)
            if sent is None:
                continue
            decision = decide(world.policy, source, destination, wanted)
            assert world.passes(source, destination, sent) == decision.allowed, (source, destination, decision)
