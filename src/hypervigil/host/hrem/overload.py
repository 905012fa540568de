"""Overload from the host's view: who is near its capacity, and whether others wait meanwhile. Pure.

Being busy is no offence: a notice is a fact, not an accusation.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hypervigil.model.ids import Instant, VmId
from hypervigil.model.metric import Metric
from hypervigil.model.status import Evidence, Origin

NEAR = 0.9
BELOW = 0.75
"""Whoever was near its capacity must come down to here before it can come near again."""
HELD_S = 10.0
RUNS = 0.5
"""A VM that runs for less of the time is kept from a CPU by others, and not near its own capacity."""
WAITS = 0.2
"""A VM whose vCPUs wait for a physical CPU for this share of the time is hindered by others."""

NEAR_CAPACITY = {Metric.CPU: "cpu-near-capacity", Metric.MEMORY: "memory-near-capacity"}
_WORDS = {Metric.CPU: "its CPU", Metric.MEMORY: "its memory"}


@dataclass(slots=True)
class _State:
    near_since: Instant
    times: int = 0
    near: bool = True
    told: bool = False


class Overload:
    """Who is how often near capacity."""

    def __init__(self) -> None:
        self._states: dict[Metric, dict[VmId, _State]] = {metric: {} for metric in NEAR_CAPACITY}

    def see(self, vms: Sequence[VmId], values: npt.NDArray[np.float32], now: Instant) -> list[Evidence]:
        """Take in one second, shape ``(len(vms), len(Metric))``; a notice for whoever has been near for ``HELD_S``."""
        found: list[Evidence] = []
        wanted = _wanted(values)
        for metric in NEAR_CAPACITY:
            levels, states = wanted[:, metric], self._states[metric]
            known = [row for row, vm in enumerate(vms) if vm in states] if states else []
            for row in {*np.flatnonzero(levels >= NEAR).tolist(), *known}:
                if self._held(vms[row], metric, float(levels[row]), now):
                    found += self._notice(vms, wanted, row, metric, now)
        return found

    def _held(self, vm: VmId, metric: Metric, level: float, now: Instant) -> bool:
        """Whether it is to be told now."""
        state = self._states[metric].setdefault(vm, _State(now, near=False))
        if level >= NEAR and not state.near:
            state.near, state.near_since, state.told = True, now, False
            state.times += 1
        elif level < BELOW:
            state.near = False
        if not state.near or state.told or now - state.near_since < HELD_S:
            return False
        state.told = True
        return True

    def _notice(
        self, vms: Sequence[VmId], values: npt.NDArray[np.float32], row: int, metric: Metric, now: Instant
    ) -> list[Evidence]:
        vm, level = vms[row], float(values[row, metric])
        times = self._states[metric][vm].times
        text = f"{vm} has been near the capacity of {_WORDS[metric]} for {HELD_S:g} s, {times} times so far"
        unit = f"of {_WORDS[metric]}"
        found = [Evidence(vm, NEAR_CAPACITY[metric], Origin.HOST_OBSERVED, now, level, NEAR, unit, text)]
        waits = np.nan_to_num(np.delete(values[:, Metric.CPU_WAIT], row))
        if metric is Metric.CPU and len(waits) and waits.max() >= WAITS:
            worst = float(waits.max())
            text = f"while {vm} is near its capacity another VM waits for a CPU {worst:.0%} of the time"
            found.append(Evidence(vm, "contention", Origin.HOST_OBSERVED, now, worst, WAITS, "of the time", text))
        return found

    def forget(self, vm: VmId) -> None:
        """The VM is gone."""
        for states in self._states.values():
            states.pop(vm, None)


def _wanted(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The same with what each VM wants of its CPU in place of what it uses: also what it waits for, if it mostly runs.

    A VM that computes without pause never runs all the time where others want the same CPUs.
    """
    cpu = values[:, Metric.CPU]
    wants = np.minimum(cpu + np.nan_to_num(values[:, Metric.CPU_WAIT]), 1.0)
    wanted = values.copy()
    wanted[:, Metric.CPU] = np.where(cpu >= RUNS, wants, cpu)
    return wanted
