"""When resources are read: each second, and at a glance besides as the host's CPUs fill up."""

import threading
from collections.abc import Iterator
from contextlib import suppress
from queue import Empty, Queue

import pytest

from hypervigil.hypervisor.adapters.libvirt.statistics import Record
from hypervigil.hypervisor.sensors import resources
from hypervigil.hypervisor.sensors.resources import ResourceWatch
from hypervigil.model.ids import VmId

FOR_EVER_S = 3600.0
A = VmId("a")


class Libvirt:
    """Nobody's: it says when it was asked."""

    def __init__(self) -> None:
        self.asked: Queue[None] = Queue()
        self.cpu_s = 1.0

    def read_all(self, connection: object) -> list[Record]:
        values = {"cpu.time": round(self.cpu_s * 1e9), "vcpu.current": 1}
        self.cpu_s += 9.0
        self.asked.put(None)
        return [Record(A, 1, values)]


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


def glanced(libvirt: Libvirt) -> bool:
    """Whether libvirt was asked twice, as for a glance, and no more."""
    with suppress(Empty):
        libvirt.asked.get(timeout=0.5)
        libvirt.asked.get(timeout=10)
        with pytest.raises(Empty):
            libvirt.asked.get(timeout=0.5)
        return True
    return False


def test_a_host_that_fills_up_is_glanced_at_once_and_not_for_staying_full(
    libvirt: Libvirt, watch: ResourceWatch
) -> None:
    watch.host_is(full=False)
    assert not glanced(libvirt)
    for _ in range(2):
        watch.host_is(full=True)
        assert glanced(libvirt)
        watch.host_is(full=True)
        assert not glanced(libvirt)
        watch.host_is(full=False)


def test_a_glance_tells_who_takes_the_cpus_and_leaves_the_second_alone(libvirt: Libvirt, watch: ResourceWatch) -> None:
    watch.host_is(full=True)
    assert glanced(libvirt)
    samples, glance = watch.take()
    assert [(sample.vm, sample.cpu) for sample in samples] == [(A, None)], "the first second's, and no other"
    assert glance == ((A, 1.0),), "no more of its one CPU than there is"
    assert watch.take() == ((), ())


def test_a_glance_that_came_too_soon_after_another_is_made_up_for(
    libvirt: Libvirt, watch: ResourceWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch.host_is(full=True)
    assert glanced(libvirt)
    watch.host_is(full=False)
    monkeypatch.setattr(resources, "_AGAIN_S", FOR_EVER_S)
    watch.host_is(full=True)
    assert not glanced(libvirt)
    monkeypatch.setattr(resources, "_AGAIN_S", 0.0)
    watch.host_is(full=True)
    assert glanced(libvirt)


def test_where_libvirt_is_slow_there_is_no_glance(
    libvirt: Libvirt, watch: ResourceWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "_CHEAP_S", -1.0)
    watch.host_is(full=True)
    assert not glanced(libvirt)
