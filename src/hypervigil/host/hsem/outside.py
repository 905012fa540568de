"""Whether a suspect is, taken as a whole, outside what its metrics keep within: a fact told with its case. Pure.

It grounds no case and no verdict. Ranges are learned from a tenth of the VMs each second, which costs little; a suspect
is looked at each second, and teaches nothing meanwhile.
"""

from collections.abc import Collection, Iterable, Sequence

import numpy as np

from hypervigil.host.hsem.ranges import Ranges
from hypervigil.host.hsem.table import Matrix
from hypervigil.model.ids import Instant, VmId
from hypervigil.model.metric import Metric
from hypervigil.model.status import Evidence, Origin

RANGED: tuple[Metric, ...] = (
    *(Metric.OUT_SYN, Metric.OUT_TCP, Metric.OUT_DNS, Metric.OUT_UDP, Metric.OUT_ICMP),
    *(Metric.IN_SYN, Metric.IN_TCP, Metric.IN_UDP, Metric.IN_ICMP, Metric.OUT_BYTES, Metric.IN_BYTES),
    *(Metric.NEW_DESTINATIONS, Metric.FAN_OUT, Metric.FAN_IN),
    *(Metric.CPU, Metric.MEMORY_RSS, Metric.BLOCK_BYTES, Metric.DEVICE_REQUESTS),
)
"""What ordinary VMs do all the time; the rare rest has its own detectors."""
EVERY = 10
"""A VM's turn to teach comes once in so many seconds."""
LEAST_LOOKS = 360
"""An hour of turns: before, ranges are too young to be outside of."""
FAR = 0.05
"""So many widths of their ranges metrics are outside, on average; and ``UNUSUAL`` times as many as usually."""
UNUSUAL = 10.0
TOLD_EVERY_S = 30.0

_COLUMNS = np.array(RANGED)


class Outside:
    """The ranges of all VMs, and what was told of them."""

    def __init__(self) -> None:
        self._ranges = Ranges(len(RANGED))
        self._told_at: dict[VmId, Instant] = {}
        self._turn = 0

    def keep(self, vms: Collection[VmId]) -> None:
        """Forget all others."""
        self._ranges.keep(vms)
        self._told_at = {vm: at for vm, at in self._told_at.items() if vm in vms}

    def see(self, vms: Sequence[VmId], values: Matrix, suspects: Collection[int], now: Instant) -> list[Evidence]:
        """Take in a whole second; facts of suspects that are far outside. ``suspects``: places in ``vms``.

        ``values``: shape ``(len(vms), len(Metric))``, NaN where unseen.
        """
        self._turn += 1
        turn = range(self._turn % EVERY, len(vms), EVERY)
        self._look(vms, values, [n for n in turn if n not in suspects] if suspects else turn, learn=True)
        looked = sorted(suspects)
        far = self._look(vms, values, looked, learn=False)
        facts = []
        for n, outside in zip(looked, far.tolist(), strict=True):
            vm, usual = vms[n], self._ranges.usual(vms[n])
            far_enough = outside >= max(FAR, UNUSUAL * usual) and self._ranges.samples(vm) >= LEAST_LOOKS
            if far_enough and self._untold(vm, now):
                self._told_at[vm] = now
                facts.append(_fact(vm, outside, usual, now))
        return facts

    def _look(self, vms: Sequence[VmId], values: Matrix, places: Iterable[int], *, learn: bool) -> Matrix:
        rows = list(places)
        return self._ranges.see([vms[n] for n in rows], values[rows][:, _COLUMNS], np.full(len(rows), learn))

    def _untold(self, vm: VmId, now: Instant) -> bool:
        return vm not in self._told_at or now - self._told_at[vm] >= TOLD_EVERY_S


def _fact(vm: VmId, outside: float, usual: float, now: Instant) -> Evidence:
    return Evidence(
        vm=vm,
        kind="outside-its-ranges",
        origin=Origin.HOST_OBSERVED,
        at=now,
        value=outside,
        baseline=usual,
        unit="widths",
        text=f"all that {vm} does is {outside:.2g} widths outside its ranges on average, usually {usual:.2g}",
    )
