"""A VM with several NICs, each of several queues on all CPUs, has one budget; the control is two VMs with one each."""

import ctypes
import itertools
import os
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hypervigil.host import policyfile
from hypervigil.host.inventory import compile_ports
from hypervigil.hypervisor.adapters.ebpf import kernel, layout
from hypervigil.hypervisor.adapters.ebpf.dataplane import DataPlane, remove_all
from hypervigil.model.ids import PortId, VmId
from hypervigil.model.port_policy import Fabric
from hypervigil.model.vm import Inventory, Nic, Vm
from hypervigil.network.compile import difference
from tests.integration.widetap import QueuesTap
from tests.integration.wirelab import Segment, Tap, arp, ethernet, ipv4, mac_bytes, namespace, run, tcp, udp

pytestmark = [pytest.mark.root, pytest.mark.req("A170")]

MACS = {"a": "52:54:00:7b:00:01", "b": "52:54:00:7b:00:02", "sink": "52:54:00:7b:00:03"}
ADDRESSES = {"a": "10.77.0.11", "b": "10.77.0.12", "sink": "10.77.0.13"}
EVERYBODY = "ff:ff:ff:ff:ff:ff"
QUEUES, SECONDS, RATE = 2, 2.0, 1000
ONE_VM = {"one": ("a", "b"), "sink": ("sink",)}
TWO_VMS = {"one": ("a",), "two": ("b",), "sink": ("sink",)}
Vms = dict[str, tuple[str, ...]]
Sent = dict[str, list[float]]
Frame = Callable[[str], bytes]


def to_sink(name: str) -> bytes:
    packet = ipv4(ADDRESSES[name], ADDRESSES["sink"], 17, udp(5, 6))
    return ethernet(MACS[name], MACS["sink"], 0x0800, packet)


def to_all(name: str) -> bytes:
    return ethernet(MACS[name], EVERYBODY, 0x0806, arp(1, MACS[name], ADDRESSES[name], ADDRESSES["sink"]))


def may_pass(times: list[float], burst: float, rate: float = RATE) -> int:
    """How many of frames sent at these times a full bucket lets pass: a sender that has to wait wastes its tokens."""
    tokens, last, passed = burst, min(times, default=0.0), 0
    for at in sorted(times):
        tokens, last = min(burst, tokens + (at - last) * rate), at
        if tokens >= 1:
            tokens -= 1
            passed += 1
    return passed


class World:
    """One bridge with two NICs, whose ever they are, and somebody whom they send to."""

    def __init__(self, pin_dir: Path) -> None:
        segment = Segment("net1")
        self.nics = {name: segment.join(QueuesTap(f"t{name}", MACS[name], QUEUES)) for name in ("a", "b")}
        self.sink = segment.tap("tsink", MACS["sink"])
        self.taps: dict[str, Tap] = {**self.nics, "sink": self.sink}
        run("ip", "link", "set", "tsink", "txqueuelen", "60000")
        self.sink.send(to_all("sink"))
        self.pin_dir = pin_dir
        self.plane = DataPlane.open(pin_dir, max_ports=16)
        self.fabric = Fabric()

    def put(self, vms: Vms, budget: str, rules: str = "") -> None:
        """Likewise, and the buckets that there were are full again; nobody has anything left to read."""
        self.plug(vms, budget, rules)
        time.sleep(1.1)
        self.sink.received()
        for tap in self.nics.values():
            tap.drained()

    def plug(self, vms: Vms, budget: str, rules: str = "") -> None:
        """Who has which NICs, and what VMs other than the sink may take."""
        text = 'mode = "enforce"\n[[network]]\nname = "net1"\nbridge = "net1"\n' + "".join(
            f'[[vm]]\nname = "{vm}"\ntenant = "{vm}"\naddresses = {[ADDRESSES[nic] for nic in nics]}\n'
            + (f"budget = {budget}\n" if vm != "sink" else 'budget = { broadcasts_per_s = "unbounded" }\n')
            for vm, nics in vms.items()
        )
        policy = policyfile.parse(text + rules)
        inventory = Inventory(tuple(Vm(VmId(vm), vm, 1, 1, self._nics(nics)) for vm, nics in vms.items()))
        compiled = compile_ports(inventory, policy)
        wanted = {port.port for port in compiled.ports}
        for port in self.plane.ports().keys() - wanted:
            self.plane.detach(port)
        for policy_ in compiled.ports:
            self.plane.attach(policy_)
        self.plane.change_fabric(difference(self.fabric, compiled.fabric))
        self.fabric = compiled.fabric

    def _nics(self, names: tuple[str, ...]) -> tuple[Nic, ...]:
        return tuple(Nic(PortId(MACS[n]), self.taps[n].name, self.taps[n].ifindex, "net1") for n in names)

    @contextmanager
    def flood(self, *names: str, frame: Frame = to_sink) -> Iterator[Sent]:
        """Each queue of these NICs sends at the rate, so that a NIC does at twice of it; when each frame was sent."""
        stop, cpus = threading.Event(), itertools.cycle(sorted(os.sched_getaffinity(0)))
        sent: Sent = {name: [] for name in names}

        def send(fd: int, cpu: int, name: str) -> None:
            os.sched_setaffinity(0, {cpu})
            began, count, data = time.monotonic(), 0, frame(name)
            while not stop.wait(0.002):
                while count < (time.monotonic() - began) * RATE:
                    os.write(fd, data)
                    sent[name].append(time.monotonic())
                    count += 1

        threads = [
            threading.Thread(target=send, args=(fd, next(cpus), name)) for name in names for fd in self.nics[name].fds
        ]
        for one in threads:
            one.start()
        try:
            yield sent
        finally:
            stop.set()
            for one in threads:
                one.join()

    def arrived(self, wait_s: float = 0.3) -> Counter[str]:
        """How many frames the sink got of each NIC."""
        names = {mac_bytes(mac): name for name, mac in MACS.items()}
        return Counter(names[one[6:12]] for one in self.sink.received(wait_s))

    def accounts(self) -> dict[str, int]:
        found = {}
        for port, slot in self.plane.ports().items():
            place = layout.Place()
            kernel.lookup(self.plane._maps["hv_places"], ctypes.c_uint32(slot), place)
            found[next(name for name, mac in MACS.items() if mac == port)] = int(place.account)
        return found


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    pin_dir = Path("/sys/fs/bpf") / f"hvv-{secrets.token_hex(4)}"
    with namespace():
        made = World(pin_dir)
        try:
            yield made
        finally:
            remove_all(pin_dir)
            for tap in made.taps.values():
                tap.close()


@pytest.mark.parametrize(
    ("budget", "frame", "burst_s"),
    [
        ("packets_per_s = {}", to_sink, 0.1),
        ("octets_per_s = {}", to_sink, 0.25),
        ("broadcasts_per_s = {}", to_all, 1.0),
    ],
    ids=["packets", "octets", "broadcasts"],
)
def test_nics_of_one_vm_have_one_budget_and_of_two_vms_each_its_own(
    world: World, budget: str, frame: Frame, burst_s: float
) -> None:
    rate = RATE * (len(to_sink("a")) if "octets" in budget else 1)
    budget = "{ " + budget.format(rate) + (' , broadcasts_per_s = "unbounded"' if frame is to_sink else "") + " }"
    for vms in (TWO_VMS, ONE_VM):
        world.put(vms, budget)
        with world.flood("a", "b", frame=frame) as sent:
            time.sleep(SECONDS)
        arrived = world.arrived()
        assert sum(map(len, sent.values())) > 3 * RATE * SECONDS, "far more than they may"
        if vms is TWO_VMS:
            each = [may_pass(times, burst_s * RATE) for times in sent.values()]
            assert [arrived[name] for name in sent] == pytest.approx(each, rel=0.05), "the control"
        else:
            together = may_pass(sent["a"] + sent["b"], burst_s * RATE)
            assert arrived.total() == pytest.approx(together, rel=0.05)


def test_a_nic_that_comes_or_goes_changes_nothing_of_the_budget(world: World) -> None:
    budget = f"{{ packets_per_s = {RATE} }}"
    world.put({"one": ("a",), "sink": ("sink",)}, budget)
    first = world.accounts()["a"]
    with world.flood("a") as first_sent:
        time.sleep(0.5)
        world.plug(ONE_VM, budget)
        with world.flood("b") as second_sent:
            time.sleep(1.5)
    arrived = world.arrived()
    assert arrived["b"] > 0
    together = may_pass(first_sent["a"] + second_sent["b"], 0.1 * RATE)
    assert arrived.total() == pytest.approx(together, rel=0.05), "no burst comes with it"
    world.plane.detach(PortId(MACS["a"]))
    assert world.accounts()["b"] == first, "the allowance stays though the NIC that it came with is gone"
    world.put(TWO_VMS, budget)
    accounts = world.accounts()
    assert accounts["b"] != accounts["a"], "the NIC came back as another VM's"
    with world.flood("a", "b") as sent:
        time.sleep(SECONDS)
    arrived = world.arrived()
    for name, times in sent.items():
        assert arrived[name] == pytest.approx(may_pass(times, 0.1 * RATE), rel=0.05)


def test_another_process_finds_the_allowances_as_they_are_and_mends_them(world: World) -> None:
    budget = f"{{ packets_per_s = {RATE} }}"
    world.put(ONE_VM, budget)
    accounts = world.accounts()
    with world.flood("a", "b"):
        time.sleep(0.5)
    held = layout.Allowance()
    number = ctypes.c_uint32(accounts["a"])
    kernel.lookup(world.plane._maps["hv_allowances"], number, held)
    world.plane.close()
    world.plane, world.fabric = DataPlane.open(world.pin_dir, max_ports=16), Fabric()
    world.put({"sink": ("sink",), "one": ("b", "a")}, budget)
    assert world.accounts() == accounts
    again = layout.Allowance()
    kernel.lookup(world.plane._maps["hv_allowances"], number, again)
    assert bytes(again.bucket) == bytes(held.bucket), "what was left of it is what is left"
    assert world.plane.drift() == []
    kernel.update(world.plane._maps["hv_allowances"], number, layout.Allowance())
    (drift,) = world.plane.drift()
    world.plane.repair(drift.port)
    assert world.plane.drift() == []
    time.sleep(1.1)
    world.sink.received()
    with world.flood("a", "b") as sent:
        time.sleep(SECONDS)
    assert world.arrived().total() == pytest.approx(may_pass(sent["a"] + sent["b"], 0.1 * RATE), rel=0.05)


RULES = """
[[path]]
name = "asks"
from = ["vm:one", "vm:two"]
to = "vm:sink"
services = "tcp/443"
"""
TRIES = 128


def answered(world: World) -> int:
    """Each NIC begins as many conversations; how many of all are still known when the answers come."""
    for name, number in itertools.product(("a", "b"), range(TRIES)):
        packet = ipv4(ADDRESSES[name], ADDRESSES["sink"], 6, tcp(2000 + number, 443, 2))
        world.nics[name].send(ethernet(MACS[name], MACS["sink"], 0x0800, packet))
    assert sum(one[12:14] == b"\x08\x00" for one in world.sink.received(0.2)) == 2 * TRIES
    for name, number in itertools.product(("a", "b"), range(TRIES)):
        packet = ipv4(ADDRESSES["sink"], ADDRESSES[name], 6, tcp(443, 2000 + number, 18))
        world.sink.send(ethernet(MACS["sink"], MACS[name], 0x0800, packet))
    frames = [frame for tap in world.nics.values() for frame in tap.drained(1.0)]
    return sum(one[12:14] == b"\x08\x00" for one in frames)


def test_nics_of_one_vm_share_its_room_for_conversations(world: World) -> None:
    world.put(TWO_VMS, "{ table_entries = 128 }", RULES)
    apart = answered(world)
    assert 128 < apart <= 256, "the control: each VM has as much room"
    world.put(ONE_VM, "{ table_entries = 128 }", RULES)
    assert 64 < answered(world) <= 128
    world.put(ONE_VM, "{ packets_per_s = 1e6 }", RULES)
    assert answered(world) > apart, "without a bound each NIC has a table of its own"


def test_nics_of_one_vm_begin_as_many_conversations_as_one(world: World) -> None:
    for vms, first in ((TWO_VMS, 3000), (ONE_VM, 4000)):
        world.put(vms, "{ new_flows_per_s = 20 }", RULES)
        sent: Sent = {"a": [], "b": []}
        for port, name in itertools.product(range(first, first + 250), sent):
            packet = ipv4(ADDRESSES[name], ADDRESSES["sink"], 6, tcp(port, 443, 2))
            world.nics[name].send(ethernet(MACS[name], MACS["sink"], 0x0800, packet))
            sent[name].append(time.monotonic())
            time.sleep(0.002)
        arrived = world.arrived()
        shares = [sent["a"] + sent["b"]] if vms is ONE_VM else list(sent.values())
        assert arrived.total() == pytest.approx(sum(may_pass(one, 2, 20) for one in shares), rel=0.05, abs=2), vms
