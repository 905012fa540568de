"""The sensors as they run: an unprivileged process, real taps, the real data plane, libvirt's own test driver."""

import fcntl
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hypervigil.host.hrem.engine import Hrem
from hypervigil.host.inventory import AddressBook
from hypervigil.hypervisor.adapters.ebpf.dataplane import DataPlane
from hypervigil.hypervisor.handover import offer
from hypervigil.hypervisor.sensors.clock import now
from hypervigil.model.ids import PortId, VmId
from hypervigil.model.network import Budget
from hypervigil.model.observation import PortSample, Sweep
from hypervigil.model.policy import Mode
from hypervigil.model.port_policy import FabricChange, PortPolicy
from hypervigil.model.traffic import DenialKind, Direction, TrafficClass
from hypervigil.model.vm import Inventory
from hypervigil.wire.frames import FrameDecoder
from hypervigil.wire.messages import Blind, FromSensors, InventoryChanged, Swept

pytestmark = pytest.mark.root

NOBODY = 65534
PIN = Path("/sys/fs/bpf/hvs-it")
VM = VmId("d305389d-a6a9-4eda-9ac7-c6789abb0b92")
PORT = PortId("52:54:00:99:0a:01")
TAP = "hvs-it0"
MAC = bytes.fromhex(PORT.replace(":", ""))
NODE = f"""<node><domain type='test'><name>one</name><uuid>{VM}</uuid><memory unit='MiB'>24</memory><vcpu>1</vcpu>
<os><type>hvm</type></os><devices><interface type='bridge'><mac address='{PORT}'/><source bridge='hvs-none'/>
<target dev='{TAP}'/></interface></devices></domain></node>"""
PROGRAM = """
import sys
from pathlib import Path
from hypervigil.entrypoints.confine import confine
from hypervigil.hypervisor.sensors.process import SensorsConfig, run
run_dir = Path(sys.argv[1])
confine()
run(SensorsConfig(run_dir / "maps", run_dir / "monitor", libvirt_uri=f"test://{run_dir}/node.xml"))
"""


class Tap:
    """A tap whose other end is here, as QEMU has it."""

    def __init__(self, name: str) -> None:
        self._fd = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(self._fd, 0x400454CA, struct.pack("16sH22x", name.encode(), 0x1002))  # TUNSETIFF: TAP, no header
        subprocess.run(["ip", "link", "set", name, "up"], check=True)
        self.index = socket.if_nametoindex(name)

    def send(self, last: int, count: int = 1) -> None:
        """UDP datagrams of the VM to 10.9.8.LAST."""
        ip = struct.pack("!BBHHHBBH4B4B", 0x45, 0, 28, 0, 0, 64, 17, 0, 10, 9, 8, 1, 10, 9, 8, last)
        frame = bytes.fromhex("5254009900ff" + PORT.replace(":", "") + "0800") + ip + struct.pack("!4H", 4000, 9, 8, 0)
        for _ in range(count):
            os.write(self._fd, frame)

    def broadcast(self, last: int) -> None:
        """A question of the VM's to everybody."""
        question = struct.pack("!HHBBH6s4B6s4B", 1, 0x800, 6, 4, 1, MAC, 10, 9, 8, 1, bytes(6), 10, 9, 8, last)
        os.write(self._fd, b"\xff" * 6 + MAC + b"\x08\x06" + question)

    def close(self) -> None:
        os.close(self._fd)


class Rig:
    """Everything around the sensors' process: enforcer's and monitor's ends of its sockets."""

    def __init__(self, run_dir: Path, plane: DataPlane | None) -> None:
        self.run_dir = run_dir
        self.plane = plane
        self.offered: list[socket.socket] = []
        self._maps = self._listen("maps")
        self._monitor = self._listen("monitor")
        self._link: socket.socket | None = None
        threading.Thread(target=self._hand_over, daemon=True).start()
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-c", PROGRAM, str(run_dir)], user=NOBODY, group=NOBODY, extra_groups=[], cwd="/"
        )

    def _listen(self, name: str) -> socket.socket:
        server = socket.socket(socket.AF_UNIX)
        server.bind(str(self.run_dir / name))
        (self.run_dir / name).chmod(0o666)
        server.listen()
        server.settimeout(20)
        return server

    def _hand_over(self) -> None:
        while True:
            try:
                connection, _ = self._maps.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            if self.plane is None:
                connection.close()
                continue
            fds = self.plane.sensor_fds()
            offer(connection, fds, allowed_uid=NOBODY)
            for fd in fds.values():
                os.close(fd)
            self.offered.append(connection)

    def accept(self) -> None:
        if self._link is not None:
            self._link.close()
        self._link, _ = self._monitor.accept()
        self._link.settimeout(10)
        self._decoder: FrameDecoder[FromSensors] = FrameDecoder(FromSensors)
        self._waiting: list[FromSensors] = []

    def next(self) -> FromSensors:
        assert self._link is not None
        while not self._waiting:
            data = self._link.recv(1 << 18)
            assert data, "the sensors hung up"
            self._waiting += self._decoder.feed(data)
        return self._waiting.pop(0)

    def until(self, wanted: Callable[[FromSensors], bool], patience_s: float = 10.0) -> FromSensors:
        end = time.monotonic() + patience_s
        while time.monotonic() < end:
            message = self.next()
            if wanted(message):
                return message
        pytest.fail("the sensors did not say what was waited for")

    def inventory(self) -> Inventory:
        message = self.until(lambda m: isinstance(m, InventoryChanged))
        assert isinstance(message, InventoryChanged)
        return message.inventory

    def sweeps_until(self, enough: Callable[[list[Sweep]], bool]) -> list[Sweep]:
        seen: list[Sweep] = []

        def more(message: FromSensors) -> bool:
            if isinstance(message, Swept):
                seen.append(message.sweep)
            return enough(seen)

        self.until(more)
        return seen

    def ready(self) -> None:
        """Until the port is seen and silent."""
        self.sweeps_until(lambda s: bool(s) and not s[-1].unseen and not s[-1].partial and s[-1].sequence > 3)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for connection in (self._maps, self._monitor, *self.offered, *([self._link] if self._link else [])):
            connection.close()


def ports(sweeps: list[Sweep]) -> list[PortSample]:
    return [port for sweep in sweeps for port in sweep.ports]


def sent(sweeps: list[Sweep]) -> int:
    return sum(port.out.packets[TrafficClass.UDP] for port in ports(sweeps))


@pytest.fixture
def tap() -> Iterator[Tap]:
    tap = Tap(TAP)
    yield tap
    tap.close()


@pytest.fixture
def plane(tap: Tap) -> Iterator[DataPlane]:
    plane = DataPlane.open(PIN, max_ports=16)
    plane.attach(PortPolicy(PORT, VM, TAP, tap.index, Mode.MONITOR))
    yield plane
    plane.remove()


@pytest.fixture
def rig(plane: DataPlane) -> Iterator[Rig]:
    run_dir = Path(tempfile.mkdtemp(prefix="hvs-it-"))
    run_dir.chmod(0o777)
    (run_dir / "node.xml").write_text(NODE)
    rig = Rig(run_dir, plane)
    yield rig
    rig.close()
    shutil.rmtree(run_dir)


@pytest.mark.req("T-CORE-9")
def test_the_sensors_have_no_rights_and_no_socket_to_the_network(rig: Rig) -> None:
    rig.accept()
    [vm] = rig.inventory().vms
    assert (vm.vm, vm.nics[0].port, vm.nics[0].interface) == (VM, PORT, TAP)
    rig.ready()
    status = dict(
        line.split(":\t", 1)
        for line in Path(f"/proc/{rig.process.pid}/status").read_text().splitlines()
        if ":\t" in line
    )
    assert {status[name] for name in ("CapPrm", "CapEff", "CapInh", "CapAmb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"
    assert status["Uid"].split() == [str(NOBODY)] * 4
    held = {str(fd.readlink()) for fd in Path(f"/proc/{rig.process.pid}/fd").iterdir()}
    inodes = {link.removeprefix("socket:[").rstrip("]") for link in held if link.startswith("socket:")}
    for family in ("tcp", "tcp6", "udp", "udp6", "raw", "raw6", "packet"):
        table = Path(f"/proc/{rig.process.pid}/net/{family}").read_text()
        assert not [line for line in table.splitlines() if set(line.split()) & inodes], family
    assert not any("tun" in link or "vhost" in link for link in held)


def test_every_frame_is_counted_once_by_its_vm_and_peer(rig: Rig, tap: Tap) -> None:
    rig.accept()
    rig.ready()
    for burst in range(20):
        tap.send(2 + burst % 3, 5)
        time.sleep(0.02)
    sweeps = rig.sweeps_until(lambda s: sent(s) >= 100)
    assert sent(sweeps) == 100
    assert {port.vm for port in ports(sweeps)} == {VM}
    peers = [peer for port in ports(sweeps) for peer in port.peers if peer.direction is Direction.OUT]
    assert sum(peer.packets for peer in peers) == 100
    assert {peer.address for peer in peers} == {"10.9.8.2", "10.9.8.3", "10.9.8.4"}
    assert sum(peer.new for peer in peers) == 3
    assert max(port.fan_out for port in ports(sweeps)) == 3
    whole = [sweep for sweep in sweeps if not sweep.partial]
    assert all(0.1 < sweep.interval_s < 1.0 for sweep in whole)
    later = rig.sweeps_until(lambda s: len(s) >= 15)
    assert sum(sweep.interval_s for sweep in later) / len(later) <= 0.21, "five times a second"


@pytest.mark.req("T-NET-1", "A109")
def test_what_a_nic_was_denied_is_hrems_within_a_second(rig: Rig, plane: DataPlane, tap: Tap) -> None:
    bounded = PortPolicy(PORT, VM, TAP, tap.index, Mode.ENFORCE, budget=Budget(broadcasts_per_s=5.0))
    plane.attach(bounded)
    plane.change_fabric(FabricChange())
    rig.accept()
    hrem = Hrem(AddressBook())
    hrem.inventory(rig.inventory())
    rig.ready()
    began = now()
    for number in range(100):
        tap.broadcast(number)
    sweeps = rig.sweeps_until(lambda s: any(port.denied for sweep in s for port in sweep.ports))
    took = now() - began
    [report] = hrem.observe(sweeps[-1], now())
    [denied] = report.denied
    assert (denied.vm, denied.direction, denied.kind) == (VM, Direction.OUT, DenialKind.BROADCAST)
    assert 0 < denied.packets <= 95
    assert took < 1.0


def test_a_tripwire_brings_a_look_before_the_next_sweep(rig: Rig, plane: DataPlane, tap: Tap) -> None:
    plane.set_tripwires(PORT, [(Direction.OUT, TrafficClass.UDP, 10)])
    rig.accept()
    rig.ready()
    begun = now()
    tap.send(2, 30)
    [*_, first] = rig.sweeps_until(lambda s: sent(s) > 0)
    assert first.at - begun < 0.2
    assert now() - begun < 0.3


def test_an_enforcer_that_comes_again_costs_no_frame(rig: Rig, tap: Tap) -> None:
    rig.accept()
    rig.ready()
    tap.send(2, 7)
    rig.offered[0].close()
    tap.send(2, 7)
    sweeps = rig.sweeps_until(lambda s: len(rig.offered) == 2 and sent(s) >= 14)
    tap.send(2, 7)
    sweeps += rig.sweeps_until(lambda s: sent(s) >= 7)
    assert sent(sweeps) == 21


def test_a_monitor_that_comes_again_hears_what_runs_first(rig: Rig, tap: Tap) -> None:
    rig.accept()
    rig.ready()
    rig.accept()
    first = rig.next()
    assert isinstance(first, InventoryChanged)
    tap.send(2, 7)
    assert sent(rig.sweeps_until(lambda s: sent(s) > 0)) == 7


def test_a_nic_that_goes_and_comes_is_told_at_once(rig: Rig, tap: Tap, plane: DataPlane) -> None:
    rig.accept()
    rig.ready()
    tap.close()
    assert rig.inventory().vms[0].nics == ()
    told = rig.until(lambda m: isinstance(m, Blind) and m.since is not None)
    assert isinstance(told, Blind)
    assert "no device for its NIC" in told.what
    begun = now()
    again = Tap(TAP)
    try:
        [nic] = rig.inventory().vms[0].nics
        assert now() - begun < 0.2
        assert nic.ifindex == again.index
        plane.attach(PortPolicy(PORT, VM, TAP, again.index, Mode.MONITOR))
        again.send(9, 3)
        assert sent(rig.sweeps_until(lambda s: sent(s) > 0)) == 3, "its first frames count"
    finally:
        again.close()
        tap._fd = os.open("/dev/null", os.O_RDONLY)


def test_without_maps_the_sensors_say_that_they_are_blind(tap: Tap) -> None:
    run_dir = Path(tempfile.mkdtemp(prefix="hvs-it-"))
    run_dir.chmod(0o777)
    (run_dir / "node.xml").write_text(NODE)
    rig = Rig(run_dir, None)
    try:
        rig.accept()
        sweeps = rig.sweeps_until(lambda s: bool(s) and s[-1].unseen == (PORT,))
        assert ports(sweeps) == []
        told = rig.until(lambda m: isinstance(m, Blind))
        assert isinstance(told, Blind)
        assert told.what == "NIC counters"
    finally:
        rig.close()
        shutil.rmtree(run_dir)
