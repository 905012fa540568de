"""The link to the monitor: inventory first, bounded, honest about what was lost, back after a restart."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hypervigil.hypervisor.sensors.outbox import MAX_SWEEPS, Outbox
from hypervigil.model.ids import Instant, PortId, VmId
from hypervigil.model.observation import Sweep
from hypervigil.model.vm import Inventory, Nic, Vm
from hypervigil.wire.frames import FrameDecoder
from hypervigil.wire.messages import Blind, FromSensors, InventoryChanged, Swept


class Monitor:
    """The other end."""

    def __init__(self, path: Path) -> None:
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen()
        self._server.settimeout(5)
        self._link: socket.socket | None = None

    def accept(self) -> None:
        self.hang_up()
        self._link, _ = self._server.accept()
        self._link.settimeout(5)
        self._decoder: FrameDecoder[FromSensors] = FrameDecoder(FromSensors)
        self._messages: list[FromSensors] = []

    def next(self) -> FromSensors:
        assert self._link is not None
        while not self._messages:
            data = self._link.recv(65536)
            assert data, "the sensors hung up"
            self._messages += self._decoder.feed(data)
        return self._messages.pop(0)

    def hang_up(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None

    def close(self) -> None:
        self.hang_up()
        self._server.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "monitor.sock"


@pytest.fixture
def monitor(path: Path) -> Iterator[Monitor]:
    monitor = Monitor(path)
    yield monitor
    monitor.close()


@pytest.fixture
def outbox(path: Path) -> Iterator[Outbox]:
    outbox = Outbox(path)
    stop = threading.Event()
    thread = threading.Thread(target=outbox.run, args=(stop,))
    thread.start()
    yield outbox
    stop.set()
    thread.join(5)
    assert not thread.is_alive()


def sweep(number: int) -> Sweep:
    return Sweep(number, Instant(float(number)), 0.2, ())


ONE = Inventory((Vm(VmId("a"), "a", 1, 1024),))
TWO = Inventory((*ONE.vms, Vm(VmId("b"), "b", 1, 1024)))


def test_nothing_is_sent_twice_and_news_go_before_sweeps(monitor: Monitor, outbox: Outbox) -> None:
    monitor.accept()
    outbox.inventory(ONE)
    assert isinstance(monitor.next(), InventoryChanged)
    outbox.blind("libvirt")
    outbox.blind("libvirt")
    told = monitor.next()
    assert isinstance(told, Blind)
    assert told.since is not None
    outbox.sees("libvirt")
    outbox.sees("libvirt")
    told = monitor.next()
    assert isinstance(told, Blind)
    assert told.since is None
    outbox.sweep(sweep(1))
    last = monitor.next()
    assert isinstance(last, Swept)
    assert (last.sweep.sequence, last.sweep.lost) == (1, 0)


def test_a_monitor_that_comes_again_hears_the_state_first(monitor: Monitor, outbox: Outbox) -> None:
    monitor.accept()
    outbox.inventory(ONE)
    monitor.next()
    monitor.hang_up()
    outbox.inventory(TWO)
    outbox.blind("NIC counters", since=Instant(7.0))
    outbox.sweep(sweep(5))
    monitor.accept()
    first, second = monitor.next(), monitor.next()
    assert isinstance(first, InventoryChanged)
    assert first.inventory == TWO
    assert isinstance(second, Blind)
    assert (second.what, second.since) == ("NIC counters", 7.0)


def test_a_monitor_that_is_away_costs_the_oldest_sweeps_and_that_is_said(path: Path, outbox: Outbox) -> None:
    for number in range(MAX_SWEEPS + 9):
        outbox.sweep(sweep(number))
    monitor = Monitor(path)
    try:
        monitor.accept()
        got = [monitor.next() for _ in range(MAX_SWEEPS)]
    finally:
        monitor.close()
    sweeps = [message.sweep for message in got if isinstance(message, Swept)]
    assert [s.sequence for s in sweeps] == list(range(9, MAX_SWEEPS + 9))
    assert [s.lost for s in sweeps] == [9] + [0] * (MAX_SWEEPS - 1)


def test_a_monitor_that_does_not_read_never_holds_up_the_sensors(monitor: Monitor, outbox: Outbox) -> None:
    monitor.accept()
    large = Sweep(0, Instant(0.0), 0.2, (), unseen=tuple(f"52:54:00:00:00:{n % 256:02x}" for n in range(20_000)))
    for _ in range(MAX_SWEEPS * 3):
        outbox.sweep(large)
    outbox.sweep(sweep(99))
    seen, lost = 0, 0
    while True:
        message = monitor.next()
        assert isinstance(message, Swept)
        seen, lost = seen + 1, lost + message.sweep.lost
        if message.sweep.sequence == 99:
            break
    assert seen + lost == MAX_SWEEPS * 3 + 1, "every sweep was delivered or counted as lost"
    assert lost > 0


def test_what_dhcp_gave_goes_with_the_inventory_also_to_who_comes_later(path: Path, monitor: Monitor) -> None:
    port = PortId("52:54:00:00:00:0a")
    nic = Nic(port, "vnet0", 5, "br0")
    outbox = Outbox(path)
    outbox.leases({port: ("10.0.0.9",)})
    outbox.inventory(Inventory((Vm(VmId("a"), "a", 1, 1, (nic,)),)))
    stop = threading.Event()
    thread = threading.Thread(target=outbox.run, args=(stop,), daemon=True)
    thread.start()
    try:
        monitor.accept()
        first = monitor.next()
        outbox.leases({port: ("10.0.0.10",)})
        second = monitor.next()
        outbox.leases({})
        third = monitor.next()
    finally:
        stop.set()
        monitor.hang_up()
        thread.join(5)
    told = [one.inventory.vms[0].nics[0].leased for one in (first, second, third) if isinstance(one, InventoryChanged)]
    assert told == [("10.0.0.9",), ("10.0.0.10",), ()]
