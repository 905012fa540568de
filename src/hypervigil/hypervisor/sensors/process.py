"""The sensors' process: sweeps at a fixed beat, looks at once where a tripwire sprang, and tells the monitor."""

import logging
import os
import select
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from hypervigil.hypervisor.adapters.ebpf.reader import DataPlaneReader
from hypervigil.hypervisor.adapters.libvirt.connection import DEFAULT_URI
from hypervigil.hypervisor.sensors.clock import now
from hypervigil.hypervisor.sensors.host import HostLoad
from hypervigil.hypervisor.sensors.leases import Told, held
from hypervigil.hypervisor.sensors.maps import MapsLink
from hypervigil.hypervisor.sensors.outbox import Outbox
from hypervigil.hypervisor.sensors.resources import ResourceWatch
from hypervigil.hypervisor.sensors.sweep import Snapshot, compare, port_ids
from hypervigil.hypervisor.sensors.tripped import Tripped
from hypervigil.hypervisor.sensors.watch import InventoryWatch
from hypervigil.model.ids import Instant, PortId, VmId
from hypervigil.model.observation import NO_CPU_LEFT, PortSample, Sweep

log = logging.getLogger(__name__)

NIC_COUNTERS = "NIC counters"
LATE = "NIC counters in time"
STATISTICS = "libvirt statistics"
LATE_S = 1.0
DARK_S = 0.5
STATISTICS_LATE_S = 4.0


@dataclass(frozen=True, slots=True)
class SensorsConfig:
    """Where the sensors get what they see from, and where they tell it."""

    maps_socket: Path
    monitor_socket: Path
    period_s: float = 0.2
    statistics_period_s: float = 1.0
    libvirt_uri: str = DEFAULT_URI


class Eyes:
    """Successive snapshots of the data plane and what was seen between them."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._reader: DataPlaneReader | None = None
        self._last: Snapshot | None = None
        self._last_at: Instant | None = None

    @property
    def event_fd(self) -> int | None:
        """Readable when a tripwire sprang."""
        return self._reader.event_fd if self._reader is not None else None

    def open(self, descriptors: dict[str, int]) -> None:
        """See through these maps; the same ones again lose nothing."""
        self.close()
        self._reader = DataPlaneReader(descriptors)

    def close(self) -> None:
        """See nothing."""
        if self._reader is not None:
            self._reader.close()
        self._reader = None

    def tripped(self) -> list[tuple[int, tuple[int, int]]]:
        """Wires that sprang since the last call."""
        if self._reader is None:
            return []
        return [(trip.slot, (trip.direction, trip.traffic)) for trip in self._reader.wait(0)]

    def whole(self, owners: dict[PortId, VmId]) -> tuple[Instant, float, tuple[PortSample, ...], frozenset[PortId]]:
        """When, since how long ago, what every NIC did, and which NICs can be seen at all."""
        snapshot = self._snapshot()
        at = self._at
        before, since = self._last, self._last_at
        self._last, self._last_at = snapshot, at
        if snapshot is None or before is None or since is None:
            return at, 0.0, (), frozenset()
        return at, at - since, compare(before, snapshot, owners), frozenset(port_ids(snapshot).values())

    def part(self, owners: dict[PortId, VmId], slots: frozenset[int]) -> tuple[Instant, float, tuple[PortSample, ...]]:
        """The same of some slots only; the others are as if nobody had looked."""
        snapshot, before = self._snapshot(), self._last
        if snapshot is None or before is None:
            return self._at, 0.0, ()
        since = min(float(before.at_ns[slot]) for slot in slots) / 1e9
        samples = compare(before, snapshot, owners, slots)
        self._last = before.advanced(snapshot, slots)
        return self._at, self._at - since, samples

    def leases(self) -> dict[PortId, tuple[str, ...]] | None:
        """What DHCP gave each port that ``whole`` saw last; ``None`` where nothing is seen."""
        if self._reader is None or self._last is None:
            return None
        return held(self._reader.leases(), port_ids(self._last), self._at)

    def _snapshot(self) -> Snapshot | None:
        self._at = now()
        reader = self._reader
        if reader is None:
            return None
        counted = reader.ports(), reader.counters(), reader.peers()
        return Snapshot(self._at, *counted, self._seed, denied=reader.denied(), greeters=reader.greeters())


class Sensors:
    """The loop."""

    def __init__(self, config: SensorsConfig) -> None:
        self._config = config
        self._outbox = Outbox(config.monitor_socket)
        self._maps = MapsLink(config.maps_socket)
        self._watch = InventoryWatch(config.libvirt_uri, self._outbox)
        self._resources = ResourceWatch(config.libvirt_uri, config.statistics_period_s)
        self._load = HostLoad()
        self._eyes = Eyes(int.from_bytes(os.urandom(8)))
        self._tripped = Tripped()
        self._told = Told()
        self._sequence = count(1)
        self._dark_since: Instant | None = None

    def run(self, stop: threading.Event) -> None:
        """Until stopped."""
        parts = (self._outbox.run, self._maps.run, self._watch.run, self._resources.run)
        threads = [threading.Thread(target=_guarded, args=(part, stop), daemon=True) for part in parts]
        for thread in threads:
            thread.start()
        due = last = now()
        while not stop.is_set():
            self._fetch()
            if now() >= due:
                began = now()
                if began - last > LATE_S:
                    self._outbox.blind(LATE, since=last)
                self._whole()
                self._outbox.sees(LATE)
                self._tripped.take()  # the sweep looked there too
                last = began
                due = Instant(max(due + self._config.period_s, began + self._config.period_s / 2))
                self._tripped.looked(now(), now() - began)
            self._between(due)
        self._resources.wake()
        for thread in threads:
            thread.join(2.0)
        self._eyes.close()

    def _fetch(self) -> None:
        descriptors = self._maps.take()
        if descriptors is None:
            return
        try:
            self._eyes.open(descriptors)
        except (OSError, KeyError, ValueError) as error:
            log.error("maps.unusable error=%s", error)  # noqa: TRY400 - the reason is enough
            self._maps.renew()

    def _whole(self) -> None:
        owners = self._owners()
        samples: tuple[PortSample, ...] = ()
        seen: frozenset[PortId] = frozenset()
        try:
            at, interval, samples, seen = self._eyes.whole(owners)
            leases = self._eyes.leases() if self._told.due(at) else None
            news = self._told.news(leases, at) if leases is not None else None
            if news is not None:
                self._outbox.leases(news)
        except OSError as error:
            self._broken(error)
            at, interval = now(), self._config.period_s
        if self._eyes.event_fd is not None:
            self._dark_since = None
            self._outbox.sees(NIC_COUNTERS)
        elif self._dark_since is None:
            self._dark_since = at
        elif at - self._dark_since >= DARK_S:
            self._outbox.blind(NIC_COUNTERS, since=self._dark_since)
        if at - self._resources.seen_at > STATISTICS_LATE_S:
            self._outbox.blind(STATISTICS, since=self._resources.seen_at)
        else:
            self._outbox.sees(STATISTICS)
        unseen = tuple(port for port in owners if port not in seen)
        busy = self._load.read()
        self._resources.host_is(full=busy is not None and busy >= NO_CPU_LEFT)
        interval = interval or self._config.period_s
        resources, glance = self._resources.take()
        number = next(self._sequence)
        self._outbox.sweep(Sweep(number, at, interval, samples, resources, unseen, host_busy=busy, glance=glance))

    def _between(self, due: Instant) -> None:
        """Wait for the next sweep; look at once, but not too often, where a tripwire sprang."""
        fd = self._eyes.event_fd
        until = due if self._tripped.due is None else min(due, self._tripped.due)
        wait = max(0.0, until - now())
        try:
            if fd is None:
                time.sleep(min(wait, 0.05))
                return
            if select.select([fd], [], [], wait)[0]:
                self._tripped.spring(self._eyes.tripped(), now())
            look = self._tripped.due
            if look is not None and look <= now() < due:
                began = now()
                at, interval, samples = self._eyes.part(self._owners(), self._tripped.take())
                if samples:
                    self._outbox.sweep(Sweep(next(self._sequence), at, interval, samples, partial=True))
                self._tripped.looked(now(), now() - began)
        except OSError as error:
            self._broken(error)

    def _broken(self, error: OSError) -> None:
        log.error("maps.unreadable error=%s", error)
        self._eyes.close()
        self._maps.renew()

    def _owners(self) -> dict[PortId, VmId]:
        inventory = self._watch.inventory
        if inventory is None:
            return {}
        owners: dict[PortId, VmId] = {}
        for vm in inventory.vms:
            for nic in vm.nics:
                owners.setdefault(nic.port, vm.vm)
        return owners


def _guarded(part: Callable[[threading.Event], None], stop: threading.Event) -> None:
    """A part that fails ends the process: its supervisor starts it whole again, half a sensor would be a lie."""
    try:
        part(stop)
    except BaseException:
        log.exception("sensors.part_failed")
        os._exit(1)


def run(config: SensorsConfig, stop: threading.Event | None = None) -> None:
    """Watch until ``stop`` is set, or for ever."""
    Sensors(config).run(stop if stop is not None else threading.Event())
