"""Four queues of one NIC on all CPUs at once: limits are right to five per cent, counts to the packet."""

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from hypervigil.hypervisor.adapters.ebpf.dataplane import DataPlane, remove_all
from hypervigil.hypervisor.adapters.ebpf.reader import DataPlaneReader
from hypervigil.model.ids import PortId, VmId
from hypervigil.model.policy import Mode
from hypervigil.model.port_policy import PortPolicy
from hypervigil.model.traffic import Direction, TrafficClass
from tests.integration.enforcing import awaited
from tests.integration.widetap import QueuesTap
from tests.integration.wirelab import Segment, Tap, arp, ethernet, ipv4, namespace, run, udp

pytestmark = pytest.mark.root

A_MAC, B_MAC = "52:54:00:ab:00:01", "52:54:00:ab:00:02"
A, B = "10.76.0.1", "10.76.0.2"
QUEUES = 4
SECONDS = 3.0
HOUR_NS = 3600 * 10**9
SENDER = """
import os, signal, sys
fd, cpu, frame = int(sys.argv[1]), int(sys.argv[2]), bytes.fromhex(sys.argv[3])
os.sched_setaffinity(0, {cpu})
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
sent = 0
print("ready", flush=True)
while not stop:
    os.write(fd, frame)
    sent += 1
print(sent, flush=True)
"""


@dataclass
class Rig:
    a: QueuesTap
    b: Tap
    plane: DataPlane
    reader: DataPlaneReader

    def udp(self) -> tuple[int, int, int]:
        """Packets, octets and limited packets of UDP that the NIC sent, by the kernel's count."""
        slot = self.plane.ports()[PortId(A_MAC)]
        counts = self.reader.counters()[slot]["by_class"][Direction.OUT][TrafficClass.UDP]
        return int(counts["packets"]), int(counts["octets"]), int(counts["limited"])

    @contextmanager
    def flood(self, frame: bytes) -> Iterator[list[int]]:
        """All queues send for as long as the block lasts; then the list holds how many frames each of them did."""
        cpus = sorted(os.sched_getaffinity(0))
        sent: list[int] = []
        senders = []
        try:
            for number, fd in enumerate(self.a.fds):
                os.set_blocking(fd, True)
                argv = [sys.executable, "-c", SENDER, str(fd), str(cpus[number % len(cpus)]), frame.hex()]
                senders.append(subprocess.Popen(argv, pass_fds=[fd], stdout=subprocess.PIPE, text=True))
            assert [one.stdout.readline() for one in senders if one.stdout] == ["ready\n"] * QUEUES
            yield sent
        finally:
            for one in senders:
                one.send_signal(signal.SIGTERM)
            sent += [int(one.communicate(timeout=20)[0]) for one in senders]


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    pin_dir = Path("/sys/fs/bpf") / f"hvq-{secrets.token_hex(4)}"
    with namespace():
        segment = Segment("br0")
        a = segment.join(QueuesTap("tapa", A_MAC, QUEUES))
        b = segment.tap("tapb", B_MAC)
        run("ip", "link", "set", "tapb", "txqueuelen", "60000")
        b.send(ethernet(B_MAC, "ff:ff:ff:ff:ff:ff", 0x0806, arp(1, B_MAC, B, A)))
        plane = DataPlane.open(pin_dir, max_ports=64)
        try:
            plane.attach(PortPolicy(PortId(A_MAC), VmId("a"), a.name, a.ifindex, Mode.ENFORCE, addresses=(A,)))
            yield Rig(a, b, plane, DataPlaneReader(plane.sensor_fds()))
        finally:
            remove_all(pin_dir)
            a.close()
            b.close()


@pytest.mark.req("T-CORE-4", "A243")
@pytest.mark.parametrize(
    ("packets_per_s", "octets_per_s", "size"),
    [(2_000, 0, 18), (20_000, 0, 18), (0, 400_000, 18), (0, 10_000_000, 1000)],
    ids=["2,000 packets", "20,000 packets", "400 KB", "10 MB"],
)
def test_a_limit_is_right_with_four_queues(
    rig: Rig, record_property, packets_per_s: int, octets_per_s: int, size: int
) -> None:
    frame = ethernet(A_MAC, B_MAC, 0x0800, ipv4(A, B, 17, udp(1000, 2000, b"x" * size)))
    port, end = PortId(A_MAC), time.clock_gettime_ns(time.CLOCK_BOOTTIME) + HOUR_NS
    rig.b.received()
    before = rig.udp()
    rig.plane.set_limit(
        port, Direction.OUT, TrafficClass.UDP, packets_per_s=packets_per_s, octets_per_s=octets_per_s, end_ns=end
    )
    arrived = 0

    def passed() -> int:
        packets, _, limited = rig.udp()
        return packets - limited

    try:
        with rig.flood(frame) as sent:
            awaited("the burst to be spent", lambda: rig.udp()[2] > before[2] + 1000, 20)
            began, first = time.monotonic(), passed()
            while (seconds := time.monotonic() - began) < SECONDS:
                arrived += len(rig.b.received(0.05))
            rate = (passed() - first) / seconds
    finally:
        rig.plane.clear_limit(port, Direction.OUT, TrafficClass.UDP)
    arrived += len(rig.b.received(0.2))
    packets, octets, limited = (now - then for now, then in zip(rig.udp(), before, strict=True))
    wanted = packets_per_s or octets_per_s / len(frame)
    record_property("share of the limit", rate / wanted)
    print(f"{rate / wanted:.4f} of the limit; offered {sum(sent) / seconds:,.0f}/s")
    assert min(sent) > 0, "every queue sent"
    assert packets == sum(sent), "counted to the packet, whatever the queue"
    assert octets == sum(sent) * len(frame)
    assert arrived == packets - limited
    assert sum(sent) / seconds > 1.5 * wanted, "the control: more is offered than may pass"
    assert rate == pytest.approx(wanted, rel=0.05)
