"""When resources are read: each second, and once out of turn as the host's CPUs fill up."""

import threading
from collections.abc import Iterator
from queue import Empty, Queue

import pytest

from hypervigil.hypervisor.sensors import resources
from hypervigil.hypervisor.sensors.clock import now
from hypervigil.hypervisor.sensors.resources import ResourceWatch
from hypervigil.model.ids import HOST, Instant

FOR_EVER_S = 3600.0


class Libvirt:
    """Nobody's: it says when it was asked."""

    def __init__(self) -> None:
        self.asked: Queue[Instant] = Queue()

    def read_all(self, connection: object) -> list[object]:
        self.asked.put(now())
        return []


@pytest.fixture
def libvirt(monkeypatch: pytest.MonkeyPatch) -> Libvirt:
    built = Libvirt()
    monkeypatch.setattr(resources, "read_all", built.read_all)
    monkeypatch.setattr(resources, "connect", lambda _: None)
    monkeypatch.setattr(resources, "disconnect", lambda _: None)
    monkeypatch.setattr(resources, "_AGAIN_S", 0.0)
    return built


@pytest.fixture
def watch(libvirt: Libvirt) -> Iterator[ResourceWatch]:
    """It has read once, and is not due for an hour."""
    built, stop = ResourceWatch("nobody:///", FOR_EVER_S), threading.Event()
    thread = threading.Thread(target=built.run, args=(stop,))
    thread.start()
    libvirt.asked.get(timeout=10)
    yield built
    stop.set()
    built.wake()
    thread.join(10)
    assert not thread.is_alive(), "it waits for nothing when it is to stop"


def test_a_host_that_fills_up_is_looked_at_at_once_and_no_more_often_for_staying_full(
    libvirt: Libvirt, watch: ResourceWatch
) -> None:
    watch.host_is(full=False)
    with pytest.raises(Empty):
        libvirt.asked.get(timeout=0.5)
    for _ in range(2):
        watch.host_is(full=True)
        libvirt.asked.get(timeout=10)
        watch.host_is(full=True)
        with pytest.raises(Empty):
            libvirt.asked.get(timeout=0.5)
        watch.host_is(full=False)
    assert [sample.vm for sample in watch.take()] == [HOST]


def test_a_reading_out_of_turn_is_not_too_soon_after_the_last(libvirt: Libvirt, watch: ResourceWatch) -> None:
    read_at = watch.seen_at
    watch.host_is(full=True)
    assert libvirt.asked.get(timeout=10) - read_at >= resources._APART_S - 0.01


def test_a_host_that_fills_up_again_and_again_is_not_read_each_time(
    libvirt: Libvirt, watch: ResourceWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "_AGAIN_S", FOR_EVER_S)
    watch.host_is(full=True)
    with pytest.raises(Empty):
        libvirt.asked.get(timeout=0.5)
