"""The brief history: what an agent is told to be usual of its VM. Pure.

What the host counts itself goes by the host's history, whatever the guest says; what only the guest can count by what
its agent told (``told``).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from hypervigil.host.hsem.history import LEAST_SAMPLES, History
from hypervigil.host.hsem.ports import UsualPorts
from hypervigil.host.hsem.told import ToldHistory, Usual
from hypervigil.model.guest import GuestMetric
from hypervigil.model.ids import VmId
from hypervigil.model.metric import PACKET_METRICS, Metric

_CLASSES = tuple(GuestMetric(number) for number in range(GuestMetric.OUT_SYN, GuestMetric.OPENED))
COUNTED: tuple[tuple[Metric, GuestMetric], ...] = (
    *((ours, theirs) for ours, theirs in zip(PACKET_METRICS, _CLASSES, strict=True) if ours is not Metric.IN_MULTICAST),
    *(
        (Metric[name], GuestMetric[name])
        for name in ("FAN_OUT", "FAN_IN", "PORTS_TRIED", "BLOCK_READS", "BLOCK_WRITES", "BLOCK_BYTES")
    ),
)
"""What both ends count in the same unit, and an agent judges."""


@dataclass(frozen=True, slots=True)
class Brief:
    """What is usual of one VM."""

    usual: Sequence[Usual] = ()
    ports: tuple[int, ...] = ()
    """That it usually begins something at; none: its agent goes by what it has seen itself."""


def brief(history: History, told: ToldHistory, ports: UsualPorts, vm: VmId) -> Brief:
    """What is known well enough to be told."""
    counted = [
        (theirs, history.middle(vm, ours), history.tail(vm, ours))
        for ours, theirs in COUNTED
        if history.samples(vm, ours) >= LEAST_SAMPLES
    ]
    return Brief((*counted, *told.usual(vm)), ports.usual(vm))
