"""Resources of all domains and of the host each second, in a thread of their own: a slow libvirt delays no sweep."""

import logging
import threading
import time

from hypervigil.hypervisor.adapters.libvirt.connection import Connection, LibvirtUnreachableError, connect, disconnect
from hypervigil.hypervisor.adapters.libvirt.statistics import ResourceMeter, read_all
from hypervigil.hypervisor.sensors.clock import now
from hypervigil.hypervisor.sensors.host import HostMeter
from hypervigil.model.ids import NEVER, Instant, VmId
from hypervigil.model.observation import ResourceSample

log = logging.getLogger(__name__)

_RETRY_S = 1.0
_AGAIN_S = 2.0
"""So long after a glance there is no other."""
_APART_S = 0.3
"""A glance's two readings are so far apart: a shorter interval tells too little."""
_CHEAP_S = 0.25
"""Where libvirt takes longer for a reading, as of some forty domains, a glance would delay the next one too much."""

Glance = tuple[tuple[VmId, float], ...]
"""What share of its CPUs each VM took just now."""


class ResourceWatch:
    """``take`` gives each sample once; ``seen_at`` is when libvirt last answered.

    Readings come at a fixed beat, from which histories are made. As the host's CPUs fill up there is a glance besides,
    which leaves the beat and what is reckoned from it as they are.
    """

    def __init__(self, uri: str, period_s: float) -> None:
        self._uri = uri
        self._period_s = period_s
        self._lock = threading.Lock()
        self._samples: tuple[ResourceSample, ...] = ()
        self._glance: Glance = ()
        self._host = HostMeter()
        self._awake = threading.Event()
        self._glanced_at = NEVER
        self._known_full = False
        self._took_s = 0.0
        self.seen_at = now()

    def take(self) -> tuple[tuple[ResourceSample, ...], Glance]:
        """What was measured since the last call."""
        with self._lock:
            samples, glance = self._samples, self._glance
            self._samples, self._glance = (), ()
            return samples, glance

    def host_is(self, *, full: bool) -> None:
        """Whether the host has no CPU left: as that begins, who takes it is of interest before the second is over."""
        if not full:
            self._known_full = False
        elif not self._known_full and self._took_s <= _CHEAP_S and now() - self._glanced_at >= _AGAIN_S:
            self._known_full, self._glanced_at = True, now()
            self.wake()

    def wake(self) -> None:
        """Glance now, or see that it is time to stop."""
        self._awake.set()

    def run(self, stop: threading.Event) -> None:
        """Until stopped and woken."""
        while not stop.is_set():
            try:
                self._measure(stop)
            except LibvirtUnreachableError as error:
                log.warning("statistics.unreachable reason=%s", error)
                self._put((), now())
                stop.wait(_RETRY_S)

    def _measure(self, stop: threading.Event) -> None:
        connection = connect(self._uri)
        try:
            meter = ResourceMeter()
            due = now()
            while True:
                woken = self._awake.wait(max(0.0, due - now()))
                if stop.is_set():
                    return
                if woken:
                    self._awake.clear()
                    self._look(connection, meter.copy(), stop)
                    continue
                samples, at = self._read(connection, meter)
                self._put(samples, at)
                due = Instant(max(due + self._period_s, now()))
        finally:
            disconnect(connection)

    def _read(self, connection: Connection, meter: ResourceMeter) -> tuple[tuple[ResourceSample, ...], Instant]:
        began = now()
        records = read_all(connection)
        self.seen_at = now()
        self._took_s = self.seen_at - began
        at = Instant((began + self.seen_at) / 2)
        return meter.update(records, at, time.time()), at

    def _look(self, connection: Connection, meter: ResourceMeter, stop: threading.Event) -> None:
        """Who takes the CPUs: since the last reading, and then since now."""
        for pause_s in (0.0, _APART_S):
            if stop.wait(pause_s):
                return
            samples, _ = self._read(connection, meter)
            with self._lock:
                self._glance = tuple((sample.vm, sample.cpu) for sample in samples if sample.cpu is not None)

    def _put(self, samples: tuple[ResourceSample, ...], at: Instant) -> None:
        host = self._host.read(at)
        with self._lock:
            self._samples = samples if host is None else (*samples, host)
