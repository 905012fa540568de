"""Overload of a VM from the host's view: near its capacity, with hysteresis, counted. Pure."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hypervigil.model.ids import Instant, VmId
from hypervigil.model.metric import Metric
from hypervigil.model.status import Evidence, Origin

NEAR = 0.9
BELOW = 0.75
"""A VM that was near its capacity must come down to here before it can come near again."""
HELD_S = 10.0


@dataclass(slots=True)
class _State:
    near_since: Instant | None = None
    times: int = 0
    told: bool = False


class Overload:
    """Who is how often near capacity. Being busy is no offence: a notice is a fact, not an accusation."""

    def __init__(self) -> None:
        self._states: dict[VmId, _State] = {}

    def see(self, vm: VmId, row: npt.NDArray[np.float32], now: Instant) -> list[Evidence]:
        """Take in one second; a notice once the VM has been near capacity for ``HELD_S``."""
        level = np.nanmax(np.append(row[[Metric.CPU, Metric.MEMORY]], 0.0))
        state = self._states.setdefault(vm, _State())
        if level >= NEAR and state.near_since is None:
            state.near_since = now
            state.times += 1
            state.told = False
        elif level < BELOW:
            state.near_since = None
        if state.near_since is None or state.told or now - state.near_since < HELD_S:
            return []
        state.told = True
        return [
            Evidence(
                vm=vm,
                kind="near-capacity",
                origin=Origin.HOST_OBSERVED,
                at=now,
                value=float(level),
                baseline=NEAR,
                unit="of capacity",
                text=f"{vm} has been near its capacity for {HELD_S:g} s, {state.times} times so far",
            )
        ]

    def forget(self, vm: VmId) -> None:
        """The VM is gone."""
        self._states.pop(vm, None)
