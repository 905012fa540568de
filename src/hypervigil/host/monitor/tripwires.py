"""Which packet counts wake the sensors between sweeps: clearly more than the VM's own history. Pure."""

from typing import Protocol

from hypervigil.host.monitor.conductor import Conductor
from hypervigil.model.ids import VmId
from hypervigil.model.metric import Metric, packet_metric
from hypervigil.model.traffic import Direction, TrafficClass
from hypervigil.wire.messages import Tripwire

WINDOWS_PER_S = 10
LEAST = 10
"""Packets in 100 ms below which nobody is woken: 100 packets/s."""
FACTOR = 3.0

Key = tuple[object, ...]


class Remembers(Protocol):
    """HSEM, as far as tripwires ask it."""

    def tail(self, vm: VmId, metric: Metric) -> float:
        """The VM's own 95th percentile of a metric (the policy's prior while there is little history)."""


def changed_tripwires(conductor: Conductor, history: Remembers, current: dict[Key, Tripwire]) -> list[Tripwire]:
    """Tripwires that differ clearly from those in force; ``current`` is brought up to date."""
    changed: list[Tripwire] = []
    for vm in conductor.vms.values():
        for nic in vm.nics:
            if str(nic.port) not in conductor.health.ports_bound:
                continue
            for direction in Direction:
                for traffic in TrafficClass:
                    tail = history.tail(vm.vm, packet_metric(direction, traffic))
                    packets = max(LEAST, int(FACTOR * tail / WINDOWS_PER_S))
                    key = (nic.port, direction, traffic)
                    old = current.get(key)
                    if old is None or not 0.8 <= packets / old.packets_per_100ms <= 1.25:
                        current[key] = Tripwire(nic.port, direction, traffic, packets)
                        changed.append(current[key])
    return changed
