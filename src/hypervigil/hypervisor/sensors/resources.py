"""Resources of all domains and of the host each second, in a thread of their own: a slow libvirt delays no sweep."""

import logging
import threading
import time

from hypervigil.hypervisor.adapters.libvirt.connection import LibvirtUnreachableError, connect, disconnect
from hypervigil.hypervisor.adapters.libvirt.statistics import ResourceMeter, read_all
from hypervigil.hypervisor.sensors.clock import now
from hypervigil.hypervisor.sensors.host import HostMeter
from hypervigil.model.ids import Instant
from hypervigil.model.observation import ResourceSample

log = logging.getLogger(__name__)

_RETRY_S = 1.0
_AGAIN_S = 2.0
"""So long after a reading out of turn there is no other."""
_APART_S = 0.3
"""A reading out of turn comes so long after the last: a shorter interval tells too little."""


class ResourceWatch:
    """``take`` gives each sample once; ``seen_at`` is when libvirt last answered."""

    def __init__(self, uri: str, period_s: float) -> None:
        self._uri = uri
        self._period_s = period_s
        self._lock = threading.Lock()
        self._samples: tuple[ResourceSample, ...] = ()
        self._host = HostMeter()
        self._awake = threading.Event()
        self._hurried_at = now()
        self._was_full = False
        self.seen_at = now()

    def take(self) -> tuple[ResourceSample, ...]:
        """What was measured since the last call."""
        with self._lock:
            samples, self._samples = self._samples, ()
            return samples

    def host_is(self, *, full: bool) -> None:
        """Whether the host has no CPU left: as that begins, who takes it is of interest before the second is over."""
        if full and not self._was_full and now() - self._hurried_at >= _AGAIN_S:
            self._hurried_at = now()
            self.wake()
        self._was_full = full

    def wake(self) -> None:
        """Read soon, or see that it is time to stop."""
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
            while not stop.is_set():
                if self._awake.wait(max(0.0, due - now())):
                    self._awake.clear()
                    stop.wait(max(0.0, self.seen_at + _APART_S - now()))
                began = now()
                records = read_all(connection)
                self.seen_at = now()
                at = Instant((began + self.seen_at) / 2)
                self._put(meter.update(records, at, time.time()), at)
                due = Instant(max(due + self._period_s, now()))
        finally:
            disconnect(connection)

    def _put(self, samples: tuple[ResourceSample, ...], at: Instant) -> None:
        host = self._host.read(at)
        with self._lock:
            self._samples = samples if host is None else (*samples, host)
