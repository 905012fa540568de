"""Each kind of limit on live guests, put by the enforcer's own process and measured by the lab's own means.

One pair of guests for all tests of this file: a is limited, b counts what reaches it. Each test has its control.
"""

import json
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise

import libvirt
import pytest

from hypervigil.hypervisor.adapters.ebpf.dataplane import Gate
from hypervigil.hypervisor.adapters.libvirt.limits import PERIOD_US
from hypervigil.hypervisor.enforcer.undo import undo_all
from hypervigil.model.ids import PortId, VmId
from hypervigil.model.limits import LimitKind
from hypervigil.model.policy import Mode
from hypervigil.model.port_policy import PortPolicy
from hypervigil.model.traffic import TrafficClass
from hypervigil.wire.messages import Ended, Repaired
from lab import libvirtd
from lab.definition import GuestSpec
from lab.ext import Ext
from lab.guests import Guest, destroy_all, start_all
from lab.network import Networks, NetworkSpec
from lab.place import Place
from tests.integration.enforcing import Driver, awaited, enforcer, now

pytestmark = [pytest.mark.guests, pytest.mark.root, pytest.mark.req("T-CORE-4")]

WITHIN = 0.15
KEPT = 0.95
DELIVERED = {TrafficClass.SYN: "tcp", TrafficClass.UDP: "udp", TrafficClass.ICMP: "icmp"}
FLAG = {TrafficClass.SYN: "-S -p 81", TrafficClass.UDP: "-2 -p 8100", TrafficClass.ICMP: "-1"}


@dataclass(frozen=True)
class Stage:
    a: Guest
    b: Guest
    ext: Ext
    driver: Driver

    def policy(self, guest: Guest, **changes) -> PortPolicy:
        name = guest.interface
        values = {"addresses": (guest.address,), **changes}
        index = socket.if_nametoindex(name)
        return PortPolicy(PortId(guest.mac), VmId(guest.uuid), name, index, Mode.ENFORCE, **values)

    def bind(self, **changes_of_a) -> None:
        outcomes = self.driver.bind([self.policy(self.a, **changes_of_a), self.policy(self.b)])
        assert all(outcome.ok for outcome in outcomes), outcomes

    @property
    def vm(self) -> VmId:
        return VmId(self.a.uuid)

    @property
    def domain(self) -> libvirt.virDomain:
        return libvirtd.connection().lookupByUUIDString(self.a.uuid)


@pytest.fixture(scope="module")
def lab() -> Iterator[Stage]:
    with ExitStack() as stack:
        stack.enter_context(libvirtd.running())
        networks = stack.enter_context(Networks([NetworkSpec("test", "10.61.0.0/24")]))
        guests = [Guest(GuestSpec(f"test-{n}", "red", "test", i), networks["test"]) for i, n in enumerate("ab")]
        ext = Ext()
        stack.callback(ext.close)
        stack.callback(destroy_all, guests)
        start_all(guests)
        driver = stack.enter_context(enforcer())
        yield Stage(*guests, ext, driver)


@pytest.fixture
def stage(lab: Stage) -> Iterator[Stage]:
    """Both ports bound, nothing limited before and, which each test thus holds, nothing after it."""
    lab.bind()
    lab.driver.notices.clear()
    yield lab
    for place in (lab.a, lab.b):
        place.run("pkill -9 hping3; pkill -9 iperf3; true")
    left = lab.driver.in_force().limits
    if left:
        lab.driver.lift(*left)
    assert left == ()
    kernel = lab.driver.kernel()
    try:
        assert kernel.rates(PortId(lab.a.mac)) == kernel.rates(PortId(lab.b.mac)) == []
        assert kernel.gate(PortId(lab.a.mac)) is Gate.OPEN
        assert kernel.peers(PortId(lab.b.mac)) == {}
    finally:
        kernel.close()
    assert [notice for notice in lab.driver.notices if isinstance(notice, Repaired)] == [], "nobody changed anything"


@dataclass(frozen=True)
class Count:
    """What a guest's own kernel says it received, by class, and when (its own clock)."""

    at: float
    udp: int
    tcp: int
    icmp: int


def counted(guest: Guest) -> Count:
    output = guest.run("cat /proc/uptime /proc/net/snmp").output
    lines = [line.split() for line in output.splitlines()]
    values = {
        (names[0], name): int(value)
        for names, numbers in pairwise(lines)
        if names[0] == numbers[0] and names[0].endswith(":")
        for name, value in zip(names[1:], numbers[1:], strict=True)
    }
    return Count(
        at=float(lines[0][0]),
        udp=values["Udp:", "InDatagrams"] + values["Udp:", "NoPorts"],
        tcp=values["Tcp:", "InSegs"],
        icmp=values["Icmp:", "InEchos"],
    )


def arriving(guest: Guest, seconds: float) -> dict[str, float]:
    """Packets per second that reach a guest, by its own count and clock."""
    before = counted(guest)
    time.sleep(seconds)
    after = counted(guest)
    return {
        name: (getattr(after, name) - getattr(before, name)) / (after.at - before.at) for name in DELIVERED.values()
    }


def pings(place: Place, target: str, count: int = 10) -> int:
    """How many echoes come back."""
    output = place.run(f"ping -q -i 0.05 -W 1 -c {count} {target}").output
    found = re.search(r"(\d+) received", output)
    assert found is not None, output
    return int(found.group(1))


def stream(traffic: TrafficClass, target: str, packets: int, us: int = 2000) -> str:
    return f"hping3 -q {FLAG[traffic]} -i u{us} -c {packets} {target} >/dev/null 2>&1"


# --- NIC: packets ---
@pytest.mark.parametrize("limited", FLAG)
def test_packets_of_one_class_are_limited_and_no_others(stage: Stage, limited: TrafficClass) -> None:
    a, b, value, packets = stage.a, stage.b, 60.0, 1200
    streams = " & ".join(stream(traffic, b.address, packets) for traffic in FLAG)
    with stage.driver.limited(stage.vm, LimitKind.PACKETS, value, classes=frozenset({limited})) as told:
        assert f"{value:g} packets/s" in told
        before = counted(b)
        job = a.spawn(f"{streams} & wait")
        awaited("packets", lambda: counted(b).udp > before.udp, 10)
        rates = arriving(b, 1.5)
        awaited("the end of the streams", lambda: a.run("pgrep hping3").exit == 1, 40)
        after = counted(b)
        a.stop(job)
    print(f"{limited.name}: {rates[DELIVERED[limited]]:.1f} packets/s of {value:g}")
    assert rates[DELIVERED[limited]] == pytest.approx(value, rel=WITHIN)
    for traffic, name in DELIVERED.items():
        if traffic is not limited:
            assert rates[name] > 2 * value, "the control: without a limit of its own a class is well above it"
            assert getattr(after, name) - getattr(before, name) >= KEPT * packets
    assert pings(a, b.address) == 10


@pytest.mark.parametrize(
    "traffic", [TrafficClass.SYN, *(pytest.param(t, marks=pytest.mark.long) for t in FLAG if t is not TrafficClass.SYN)]
)
def test_of_a_flood_at_full_speed_no_more_than_the_limit_is_delivered(stage: Stage, traffic: TrafficClass) -> None:
    a, b, value, name = stage.a, stage.b, 200.0, DELIVERED[traffic]
    job = a.spawn(f"hping3 -q --flood {FLAG[traffic]} {b.address}")
    awaited("the control: without the limit the flood arrives", lambda: arriving(b, 1.0)[name] > 5 * value, 15)
    with stage.driver.limited(stage.vm, LimitKind.PACKETS, value, classes=frozenset({traffic})):
        arriving(b, 0.5)  # what was on its way
        rate = arriving(b, 5.0)[name]
    print(f"{traffic.name} flood: {rate / value:.3f} of the limit is delivered")
    assert (1 - WITHIN) * value <= rate <= 1.2 * value
    assert arriving(b, 1.0)[name] > 5 * value, "lifted"
    a.stop(job)


# --- NIC: octets ---
@pytest.mark.parametrize(("traffic", "options"), [(TrafficClass.TCP, ""), (TrafficClass.UDP, "-u -b 60M -l 1400")])
def test_octets_are_limited(stage: Stage, traffic: TrafficClass, options: str) -> None:
    value = 2_000_000.0

    def received(seconds: int) -> float:
        """Bytes per second by iperf3's receiver; the headers of Ethernet and IP are not among them."""
        server = stage.b.spawn("iperf3 -s -1")
        awaited("iperf3's server", lambda: stage.b.run("ss -ltn | grep -q :5201").exit == 0, 10)
        done = stage.a.run(f"iperf3 -c {stage.b.address} -J -i 0 -t {seconds} {options}", timeout_s=40)
        stage.b.stop(server)
        assert done.exit == 0, done.output
        return float(json.loads(done.output)["end"]["sum_received"]["bits_per_second"]) / 8

    assert received(2) > 2 * value, "the control"
    with stage.driver.limited(stage.vm, LimitKind.OCTETS, value, classes=frozenset({traffic})) as told:
        assert f"{value:.0f} octets/s" in told
        rate = received(5)
    print(f"{traffic.name}: {rate / value:.3f} of the octets that the limit allows")
    assert rate == pytest.approx(value, rel=WITHIN)


# --- NIC: whom ---
CALLS = """
import socket, sys, time
first, count, times = (int(word) for word in sys.argv[1:])
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for number in range(first, first + count):
    for _ in range(times):
        udp.sendto(b"x", (f"10.62.{number // 250}.{number % 250 + 1}", 8200))
    time.sleep(0.005)
"""


def test_new_destinations_are_limited(stage: Stage) -> None:
    a, b, value = stage.a, stage.b, 20.0
    b.run("ip route add local 10.62.0.0/16 dev lo")
    a.run(f"ip route add 10.62.0.0/16 via {b.address}; cat >/tmp/calls <<'X'\n{CALLS}X")

    def reached(first: int, count: int = 50) -> int:
        before = counted(b)
        done = a.run(f"python3 -I -S /tmp/calls {first} {count} 1", timeout_s=60)
        assert done.exit == 0, done.output
        return counted(b).udp - before.udp

    assert reached(0) >= 49, "the control"
    with stage.driver.limited(stage.vm, LimitKind.NEW_DESTINATIONS, value):
        job = a.spawn("python3 -I -S /tmp/calls 1000 100000 2")
        awaited("calls", lambda: arriving(b, 0.5)["udp"] > 0, 10)
        rate = arriving(b, 4.0)["udp"] / 2
        print(f"new destinations: {rate:.1f}/s of {value:g}")
        assert rate == pytest.approx(value, rel=WITHIN), "each is let through, and then known to its second packet"
        assert pings(a, b.address) == 10
        a.stop(job)
        assert reached(0) >= 49, "who was talked to before is not new"
    assert reached(5000) >= 49, "lifted"


def test_one_source_is_limited_where_it_arrives(stage: Stage) -> None:
    a, b, value = stage.a, stage.b, 50.0
    job = a.spawn(stream(TrafficClass.UDP, b.address, 100_000))
    awaited("the control", lambda: arriving(b, 1.0)["udp"] > 3 * value, 15)
    with stage.driver.limited(VmId(b.uuid), LimitKind.PEER, value, peer=a.address) as told:
        assert f"source {a.address} {value:g} packets/s" in told
        rate = arriving(b, 3.0)["udp"]
        print(f"one source: {rate:.1f} packets/s of {value:g}")
        assert rate == pytest.approx(value, rel=WITHIN)
        assert pings(stage.ext, b.address, 20) >= 19, "another source keeps all"
    assert arriving(b, 1.0)["udp"] > 3 * value, "lifted"
    a.stop(job)


def test_an_isolated_guest_reaches_nobody_and_nobody_it(stage: Stage) -> None:
    a, b = stage.a, stage.b
    assert pings(a, b.address) == pings(stage.ext, a.address) == 10, "the control"
    with stage.driver.limited(stage.vm, LimitKind.ISOLATE) as told:
        assert "isolate" in told
        assert pings(a, b.address, 5) == pings(a, a.network.gateway, 5) == pings(stage.ext, a.address, 5) == 0
        assert pings(stage.ext, b.address) == 10
    assert pings(a, b.address) == 10, "lifted"


def test_a_guest_in_quarantine_reaches_what_its_policy_allows(stage: Stage) -> None:
    a, b = stage.a, stage.b
    stage.bind(quarantine_allows=(a.network.gateway,))
    assert pings(a, b.address) == 10, "the control"
    with stage.driver.limited(stage.vm, LimitKind.QUARANTINE) as told:
        assert "quarantine" in told
        assert pings(a, a.network.gateway) == 10
        assert pings(a, b.address, 5) == pings(stage.ext, a.address, 5) == 0
    assert pings(a, b.address) == 10, "lifted"


# --- domain ---
SPIN = """python3 -I -S -c '
import time
began = time.monotonic()
for n in range(2_500_000): pass
print("took %.3f s," % (time.monotonic() - began))'"""


def worked(guest: Guest, command: str) -> float:
    """How long a piece of work takes, by the guest's own word."""
    done = guest.run(command, 60)
    assert done.exit == 0, done.output
    took = re.search(r"([\d.]+) s,", done.output)
    assert took is not None, done.output
    return float(took.group(1))


def spun(stage: Stage) -> tuple[float, float]:
    """How long a piece of work takes by the guest's own word, and the share of a CPU that its vCPU had meanwhile."""
    cpu, began = stage.domain.vcpus()[0][0][2], time.monotonic()
    took = worked(stage.a, SPIN)
    return took, (stage.domain.vcpus()[0][0][2] - cpu) / 1e9 / (time.monotonic() - began)


def scheduled(domain: libvirt.virDomain) -> tuple[int, int]:
    told = domain.schedulerParametersFlags(libvirt.VIR_DOMAIN_AFFECT_LIVE)
    return told["vcpu_quota"], told["vcpu_period"]


def test_fixed_work_takes_longer_by_the_factor(stage: Stage) -> None:
    """By the share of a CPU that the work had, with and without: how much a second of CPU does under emulation
    changes with what else the machine does, and is no matter of the limit."""
    was, freely, limited = scheduled(stage.domain), [], []
    for _ in range(6):  # the best of each: what else the machine does only takes CPU away
        freely.append(spun(stage))
        with stage.driver.limited(stage.vm, LimitKind.CPU, 0.5) as told:
            assert told == f"vcpu_quota {PERIOD_US // 2} of {PERIOD_US} us"
            limited.append(spun(stage))
        assert limited[-1][1] <= 0.5 * (1 + WITHIN)
        free, held = max(share for _, share in freely), max(share for _, share in limited)
        longer = min(limited)[0] / min(freely)[0]
        if all(x == pytest.approx(y, rel=WITHIN) for x, y in ((held, 0.5), (free / held, 2), (longer, 2))):
            break
    print(f"CPU: {longer:.2f} times as long at half a CPU; {free:.3f} used without the limit, {held:.3f} with it")
    # From a machine that is itself a guest others may take CPU all the while: then there is less to be had at all.
    there = 1.0 if free >= 1 - WITHIN else free
    assert 0.5 * there * (1 - WITHIN) <= held <= 0.5 * (1 + WITHIN)
    least = 2 * there * (1 - WITHIN)
    assert least <= free / held <= 2 * (1 + WITHIN), "the control"
    assert longer >= least
    assert scheduled(stage.domain) == was, "undone exactly"


def test_block_operations_and_octets_are_limited(stage: Stage) -> None:
    a = stage.a
    was = {disk: stage.domain.blockIoTune(disk, 0) for disk in ("vda", "vdb")}
    assert a.run("dd if=/dev/zero of=/scratch/f bs=1M count=16 oflag=direct").exit == 0
    write = "dd if=/dev/zero of=/scratch/f bs=4k count=400 oflag=direct conv=notrunc"
    fetch = "dd if=/dev/vdb of=/dev/null bs=256k count=64 iflag=direct"
    assert worked(a, write) < 2, "the control"
    assert worked(a, fetch) < 2, "the control"
    with stage.driver.limited(stage.vm, LimitKind.BLOCK_OPERATIONS, 100) as told:
        assert told == "vda 100, vdb 100"
        operations = 400 / worked(a, write)
    with stage.driver.limited(stage.vm, LimitKind.BLOCK_OCTETS, 4 << 20) as told:
        assert told == f"vda {4 << 20}, vdb {4 << 20}"
        octets = (16 << 20) / worked(a, fetch)
    print(f"block: {operations:.1f} operations/s of 100, {octets / (1 << 20):.2f} MiB/s of 4")
    assert operations == pytest.approx(100, rel=WITHIN)
    assert octets == pytest.approx(4 << 20, rel=WITHIN)
    assert {disk: stage.domain.blockIoTune(disk, 0) for disk in was} == was, "undone exactly"
    assert worked(a, write) < 2


def total_kib(guest: Guest) -> int:
    return int(guest.run("awk '/^MemTotal/{print $2}' /proc/meminfo").output)


def test_a_balloon_takes_memory_and_who_does_not_obey_is_told(stage: Stage) -> None:
    a, whole = stage.a, stage.a.spec.memory_mib * 1024
    was, less = total_kib(a), 40 * 1024
    with stage.driver.limited(stage.vm, LimitKind.MEMORY, whole - less) as told:
        assert told == f"balloon {whole - less} KiB"
        assert was - total_kib(a) == pytest.approx(less, rel=WITHIN)
    awaited("the memory back", lambda: total_kib(a) == was, 10)
    awaited("undone exactly", lambda: stage.domain.info()[2] == whole, 5)
    driver = "/sys/bus/virtio/drivers/virtio_balloon"
    device = a.run(f"cd {driver}; ls -d virtio*").output.strip()
    assert a.run(f"echo {device} >{driver}/unbind").exit == 0
    with stage.driver.limited(stage.vm, LimitKind.MEMORY, whole - less) as told:
        assert told == f"not obeyed: asked for {whole - less} KiB, the guest still has {whole} KiB"
    assert a.run(f"echo {device} >{driver}/bind").exit == 0
    awaited("all of its memory", lambda: stage.domain.memoryStats()["actual"] == whole, 10)


def test_a_paused_guest_stands_still_and_goes_on(stage: Stage) -> None:
    a, b = stage.a, stage.b
    job = a.spawn(stream(TrafficClass.UDP, b.address, 100_000))
    awaited("the control", lambda: arriving(b, 0.5)["udp"] > 50, 15)
    with stage.driver.limited(stage.vm, LimitKind.PAUSE) as told:
        assert told == "paused"
        assert stage.domain.state()[0] == libvirt.VIR_DOMAIN_PAUSED
        assert arriving(b, 1.0)["udp"] < 20, "what was on its way"
        assert arriving(b, 1.0)["udp"] == 0
    assert stage.domain.state()[0] == libvirt.VIR_DOMAIN_RUNNING
    awaited("its packets again", lambda: arriving(b, 0.5)["udp"] > 50, 10)
    a.stop(job)


# --- ends, deaths, drift ---
def test_a_limit_ends_also_when_nobody_lifts_it(stage: Stage) -> None:
    nic = stage.driver.limit(stage.vm, LimitKind.ISOLATE, lasts_s=2)
    cpu = stage.driver.limit(stage.vm, LimitKind.CPU, 0.5, lasts_s=2)
    was = scheduled(stage.domain)
    for limit in (nic, cpu):
        stage.driver.put(limit)
    assert pings(stage.a, stage.b.address, 3) == 0, "the control"
    for limit in (nic, cpu):
        ended = stage.driver.notice(lambda n, limit=limit: isinstance(n, Ended) and n.limit == limit.id, 8)
        assert limit.until < ended.at < limit.until + 4
    assert pings(stage.a, stage.b.address) == 10
    assert scheduled(stage.domain) == was


@pytest.mark.req("T-CORE-11", "A204")
def test_limits_outlive_the_enforcer_and_are_found_again(stage: Stage) -> None:
    a, b, driver, value = stage.a, stage.b, stage.driver, 60.0
    was = scheduled(stage.domain)
    udp = driver.limit(stage.vm, LimitKind.PACKETS, value, classes=frozenset({TrafficClass.UDP}))
    cpu = driver.limit(stage.vm, LimitKind.CPU, 0.8)
    for limit in (udp, cpu):
        driver.put(limit)
    job = a.spawn(stream(TrafficClass.UDP, b.address, 100_000))
    awaited("packets", lambda: arriving(b, 0.5)["udp"] > 10, 15)
    driver.kill()
    assert arriving(b, 3.0)["udp"] == pytest.approx(value, rel=WITHIN), "nobody is alive"
    assert scheduled(stage.domain) == (8 * PERIOD_US // 10, PERIOD_US)
    began = time.monotonic()
    driver.start()
    found = driver.in_force()
    print(f"a new enforcer answers after {time.monotonic() - began:.2f} s")
    assert set(found.limits) == {udp, cpu}
    assert {port.port for port in found.ports} == {a.mac, b.mac}
    assert arriving(b, 2.0)["udp"] == pytest.approx(value, rel=WITHIN)
    driver.lift(udp, cpu)
    assert arriving(b, 1.0)["udp"] > 2 * value, "the control: lifted by the new one"
    assert scheduled(stage.domain) == was
    a.stop(job)


def test_what_somebody_changes_by_virsh_is_back_in_two_seconds(stage: Stage) -> None:
    driver, name = stage.driver, stage.a.domain
    changes = {
        LimitKind.CPU: (0.5, ["schedinfo", name, "--live", "--set", "vcpu_quota=-1"]),
        LimitKind.BLOCK_OPERATIONS: (500, ["blkdeviotune", name, "vdb", "--live", "--total-iops-sec", "0"]),
        LimitKind.PAUSE: (None, ["resume", name]),
    }
    for kind, (value, arguments) in changes.items():
        with driver.limited(stage.vm, kind, value):
            subprocess.run(["virsh", "-q", *arguments], check=True, capture_output=True, timeout=20)
            changed = now()
            told = driver.notice(lambda n, kind=kind: isinstance(n, Repaired) and n.subject.endswith(str(kind)), 4)
            assert told.ok
            assert now() - changed <= 2.0
            match kind:
                case LimitKind.CPU:
                    assert scheduled(stage.domain) == (PERIOD_US // 2, PERIOD_US)
                case LimitKind.BLOCK_OPERATIONS:
                    assert stage.domain.blockIoTune("vdb", 0)["total_iops_sec"] == 500
                case _:
                    assert stage.domain.state()[0] == libvirt.VIR_DOMAIN_PAUSED


@pytest.mark.req("A204")
def test_off_puts_everything_back_with_nobody_alive(stage: Stage) -> None:
    a, driver, layout = stage.a, stage.driver, stage.driver.layout
    was = scheduled(stage.domain), stage.domain.blockIoTune("vdb", 0)
    for kind, value in ((LimitKind.ISOLATE, None), (LimitKind.CPU, 0.5), (LimitKind.BLOCK_OPERATIONS, 500.0)):
        driver.put(driver.limit(stage.vm, kind, value))
    driver.kill()
    assert pings(a, stage.b.address, 3) == 0, "the control"
    assert (scheduled(stage.domain), stage.domain.blockIoTune("vdb", 0)) != was
    done = undo_all(layout.run_dir, layout.enforcer_state, layout.pin_dir)
    assert {f"put back {kind} of {stage.vm}" for kind in ("cpu", "block-operations")} <= set(done)
    assert (scheduled(stage.domain), stage.domain.blockIoTune("vdb", 0)) == was
    assert pings(a, stage.b.address) == 10
    assert not layout.pin_dir.exists()
    assert undo_all(layout.run_dir, layout.enforcer_state, layout.pin_dir) == [], "doing it again is no error"
    driver.start()
    stage.bind()
