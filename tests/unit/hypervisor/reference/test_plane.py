"""The reference model without a kernel: what is cut off, who is forgotten, and that the enforcer can drive it."""

import numpy as np
import pytest

from hypervigil.hypervisor.adapters.ebpf.dataplane import Gate
from hypervigil.hypervisor.adapters.ebpf.program import DataPlaneError
from hypervigil.hypervisor.enforcer.ports import Plane
from hypervigil.hypervisor.reference.bucket import Bucket, Rate
from hypervigil.hypervisor.reference.frame import read
from hypervigil.hypervisor.reference.plane import ReferencePlane, ReferenceReader
from hypervigil.hypervisor.sensors.sweep import Snapshot, compare
from hypervigil.model.ids import Instant, PortId, VmId
from hypervigil.model.policy import Mode
from hypervigil.model.port_policy import PortPolicy
from hypervigil.model.traffic import Direction, ForgedKind, TrafficClass
from tests.integration.wirelab import ethernet, ipv4, tcp, udp

A_MAC, B_MAC = "52:54:00:aa:00:01", "52:54:00:aa:00:02"
A, B = "10.77.0.1", "10.77.0.2"
A_PORT = PortId(A_MAC)
SECOND = 10**9
SYN = ethernet(A_MAC, B_MAC, 0x0800, ipv4(A, B, 6, tcp(40000, 80, 2)))


def policy(mode: Mode = Mode.ENFORCE, **changes) -> PortPolicy:
    return PortPolicy(A_PORT, VmId("a"), "tapa", 5, mode, **changes)


@pytest.fixture
def plane() -> ReferencePlane:
    made = ReferencePlane(max_ports=4)
    made.attach(policy())
    return made


def test_the_enforcer_can_drive_it(plane: ReferencePlane) -> None:
    driven: Plane = plane
    driven.set_limit(A_PORT, Direction.OUT, TrafficClass.SYN, packets_per_s=1, end_ns=10 * SECOND)
    assert driven.rates(A_PORT)[0].packets_per_s == 1
    assert [plane.handle(5, Direction.OUT, SYN, SECOND) for _ in range(3)] == [True, False, False]
    driven.clear_limit(A_PORT, Direction.OUT, TrafficClass.SYN)
    assert plane.handle(5, Direction.OUT, SYN, SECOND)
    driven.set_gate(A_PORT, Gate.ISOLATE, 10 * SECOND)
    assert not plane.handle(5, Direction.OUT, SYN, SECOND)
    assert driven.gate(A_PORT) is Gate.ISOLATE


def test_monitor_mode_counts_and_passes(plane: ReferencePlane) -> None:
    plane.attach(policy(Mode.MONITOR))
    plane.set_limit(A_PORT, Direction.OUT, None, packets_per_s=1, end_ns=10 * SECOND)
    assert all(plane.handle(5, Direction.OUT, SYN, SECOND) for _ in range(3))
    limited = ReferenceReader(plane).counters()["by_class"][0][Direction.OUT]["limited"]
    assert limited[TrafficClass.SYN] == 2
    assert limited.sum() == 2


def test_sweeps_compare_it_like_the_kernel(plane: ReferencePlane) -> None:
    reader = ReferenceReader(plane)

    def look(at: float) -> Snapshot:
        return Snapshot(Instant(at), reader.ports(), reader.counters(), reader.peers(), seed=7)

    before = look(1.0)
    for port in (22, 80, 443):
        plane.handle(5, Direction.OUT, ethernet(A_MAC, B_MAC, 0x0800, ipv4(A, B, 6, tcp(4000, port, 2))), 11 * 10**8)
    plane.handle(5, Direction.IN, ethernet(B_MAC, A_MAC, 0x0800, ipv4(B, A, 6, tcp(22, 4000, 4))), 12 * 10**8)
    (sample,) = compare(before, look(1.2), {A_PORT: VmId("a")})
    assert sample.out.packets[TrafficClass.SYN] == 3
    assert sample.failures == 1
    out = next(peer for peer in sample.peers if peer.direction is Direction.OUT)
    assert (out.address, out.openings, out.answers, out.resets, out.ports, out.new) == (B, 3, 1, 1, 3, True)


def test_what_is_cut_off_reads_as_zeros() -> None:
    frame = read(SYN[:40], len(SYN))
    assert frame.readable
    assert frame.traffic is TrafficClass.TCP, "the flags were cut off"
    assert frame.destination_port == 80
    assert not read(SYN[:40], 40).readable, "a frame that is so short is another thing"


def test_the_one_longest_silent_is_forgotten() -> None:
    plane = ReferencePlane(max_ports=1, max_peers=2)
    plane.attach(policy())

    def to(address: str, at: int) -> None:
        plane.handle(5, Direction.OUT, ethernet(A_MAC, B_MAC, 0x0800, ipv4(A, address, 17, udp(9, 9))), at)

    for at, address in enumerate(("10.0.0.1", "10.0.0.2", "10.0.0.1", "10.0.0.3"), 1):
        to(address, at)
    peers = ReferenceReader(plane).peers()
    assert sorted(bytes(address)[12:] for address in peers["key"]["address"]) == [b"\n\0\0\1", b"\n\0\0\3"]
    assert sorted(peers["peer"]["packets"]) == [1, 2]


def test_a_port_that_goes_takes_its_limits_along(plane: ReferencePlane) -> None:
    plane.set_peer(A_PORT, B, 0, 10 * SECOND)
    assert plane.peers(A_PORT) == {B: 0.0}
    plane.detach(A_PORT)
    plane.detach(A_PORT)
    assert plane.handle(5, Direction.OUT, SYN, 1), "a device without a port passes"
    with pytest.raises(DataPlaneError, match="not bound"):
        plane.set_peer(A_PORT, B, 0, 1)
    plane.attach(policy())
    assert plane.peers(A_PORT) == {}


def test_too_many_ports_addresses_or_names_are_said_in_a_sentence() -> None:
    plane = ReferencePlane(max_ports=1)
    plane.attach(policy())
    with pytest.raises(DataPlaneError, match="--max-nics N"):
        plane.attach(PortPolicy(PortId(B_MAC), VmId("b"), "tapb", 6, Mode.MONITOR))
    with pytest.raises(DataPlaneError, match="at most 8 fit"):
        plane.attach(policy(addresses=tuple(f"10.0.0.{n}" for n in range(9))))
    with pytest.raises(DataPlaneError, match="IP address or its MAC"):
        plane.set_peer(A_PORT, "somebody", 1, 1)
    for number in range(4):
        plane.set_peer(A_PORT, f"10.0.0.{number}", 1, 1)
    with pytest.raises(DataPlaneError, match="lift others first"):
        plane.set_peer(A_PORT, "10.0.0.9", 1, 1)


def test_forgeries_are_counted_by_kind(plane: ReferencePlane) -> None:
    assert not plane.handle(5, Direction.OUT, SYN[:6] + b"\2\0\0\0\0\1" + SYN[12:], 1)
    assert plane.handle(5, Direction.IN, SYN[:6] + b"\2\0\0\0\0\1" + SYN[12:], 1), "only a sender can forge"
    forged = ReferenceReader(plane).counters()["forged"][0]
    assert np.flatnonzero(forged).tolist() == [ForgedKind.MAC]


def test_a_bucket_holds_a_tenth_of_a_second_and_at_least_one_packet() -> None:
    for rate, burst in ((Rate(packets_per_s_x1000=5_000_000), 500), (Rate(packets_per_s_x1000=1000), 1)):
        bucket = Bucket()
        bucket.refill(rate, 5 * SECOND)
        assert bucket.packets == burst * 1_000_000
