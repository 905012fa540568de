"""Who takes far more of the host's resources than ever, and what that costs others; whole seconds, all VMs. Pure.

Only the host's own counts are used. Being busy is no offence: a grab is told where others bear more than usual
meanwhile, where it goes beyond what the VM was given, or where the VM itself is at its capacity by it. Who takes less
than ``LEAST_PART`` of all that is taken above history is not blamed for what that costs: a host full of VMs that
wake at the same hour has no attacker.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hypervigil.host.hsem.facts import BEYOND, Grab, Resource
from hypervigil.host.hsem.forks import ToldForks
from hypervigil.host.hsem.table import Matrix
from hypervigil.model.guest import GuestReport
from hypervigil.model.ids import HOST, Instant, VmId
from hypervigil.model.metric import Metric
from hypervigil.model.vm import Vm

COST_S = 3.0
"""Others bear it for so long before anybody is blamed."""
FULL_S = 10.0
"""At its capacity for so long: as HREM has it."""
EASED = 0.8
"""What is borne may fall to this part of what is bearable and be borne all the same: who is full is so by fits."""
PAUSE_S = 3.0
"""A grab that stops for less goes on."""
ASKED_PAUSE_S = 5.0
LEAST_PART = 0.25
WAITS = 0.3
"""Of the time that vCPUs wait for a CPU: bearable, if it is no more than ``TIMES`` what is usual for who waits."""
SLOW_S = 0.02
"""Likewise of a block request."""
TIMES = 3.0
HOST_FULL = 0.95
"""Of the host's memory: what goes beyond is paid for by everybody."""
EMPTY = 300.0
"""Octets per connection begun, of one on which nothing is said: its SYN, its end and two acknowledgements by IPv4 are
272. A request of some words takes more: packets alone do not tell, since whoever says nothing is at last hung up on."""
NEAR_BOUND = 0.9

Flags = npt.NDArray[np.bool_]
Cost = tuple[float, VmId | None]
"""What somebody bears, against what is bearable, and who."""
Asks = Callable[[VmId], Mapping[VmId, tuple[float, float]]]
"""Of whom a VM asks something now: how often, and how many octets it sends there in all."""

_FLOORS = {
    Resource.CPU: 0.25,
    Resource.MEMORY: 64e6,
    Resource.DISK: 4e6,
    Resource.BLOCK: 200.0,
    Resource.CONNECTIONS: 50.0,
}
"""Less than this is no grab, whatever the history."""
BOUNDED = {Resource.MEMORY: Metric.MEMORY_RSS, Resource.CONNECTIONS: Metric.OUT_SYN}
"""What a VM may be seen to take beyond what it was given: of the others the hypervisor gives no more."""
_REQUESTS = [Metric.IN_SYN, Metric.IN_ICMP]
"""What others ask for, and what is no answer to anything that was asked of them."""


@dataclass(slots=True)
class _Run:
    first_at: Instant
    last_at: Instant
    rate: float
    costs_since: Instant | None = None
    full_since: Instant | None = None
    cost: float = 0.0
    sufferer: VmId | None = None
    waits: float = 0.0
    asked_at: Instant | None = None


@dataclass(frozen=True, slots=True)
class _Second:
    """One second of all VMs: values and what is usual, shape ``(len(vms), len(Metric))``."""

    vms: Sequence[VmId]
    values: Matrix
    tails: Matrix
    index: Mapping[VmId, int]
    at: Instant

    def worst(self, metric: Metric, least: float, but: Iterable[int], among: Flags | None = None) -> Cost:
        """Who bears most of a metric against what is bearable, leaving out some rows."""
        borne = np.nan_to_num(self.values[:, metric]) / np.maximum(TIMES * self.tails[:, metric], least)
        borne[list(but)] = 0.0
        if among is not None:
            borne = np.where(among, borne, 0.0)
        if HOST in self.index:
            borne[self.index[HOST]] = 0.0
        row = int(borne.argmax()) if len(borne) else 0
        return (float(borne[row]), self.vms[row]) if len(borne) and borne[row] > 0 else (0.0, None)


class Grabs:
    """What is kept is one short record for each VM and resource that is above its history now."""

    def __init__(self) -> None:
        self._runs: dict[tuple[VmId, Resource], _Run] = {}
        self._asked: dict[VmId, tuple[Instant, Instant]] = {}
        """Since when, and when last, more than usual was asked of a VM."""
        self._vcpus: dict[VmId, int] = {}
        self._bounds: Mapping[VmId, Mapping[Resource, float]] = {}
        self._forks = ToldForks()

    def keep(self, vms: Iterable[Vm]) -> None:
        """Forget all others."""
        self._vcpus = {vm.vm: vm.vcpus for vm in vms}
        self._runs = {key: run for key, run in self._runs.items() if key[0] in self._vcpus}
        self._asked = {vm: times for vm, times in self._asked.items() if vm in self._vcpus}
        self._forks.keep(self._vcpus)

    def heard(self, report: GuestReport) -> None:
        """An agent's report: what it tells while its VM computes more than ever is not usual."""
        usual = (report.vm, Resource.CPU) not in self._runs
        self._forks.hear(report, vcpus=self._vcpus.get(report.vm, 1), usual=usual)

    @property
    def hurting(self) -> bool:
        """Whether somebody bears something now: what is waited for meanwhile is not usual."""
        return any(run.costs_since is not None for run in self._runs.values())

    def bounded(self, bounds: Mapping[VmId, Mapping[Resource, float]]) -> None:
        """What VMs were given of what they might take more of."""
        self._bounds = bounds

    def see(
        self, vms: Sequence[VmId], values: Matrix, tails: Matrix, *, factor: float, now: Instant, asks: Asks
    ) -> list[tuple[VmId, Grab]]:
        """Take in one whole second; every grab that is to be judged now."""
        second = _Second(vms, values, tails, {vm: row for row, vm in enumerate(vms)}, now)
        self._see_asked(second, factor, now)
        found: list[tuple[VmId, Grab]] = []
        for resource in Resource:
            taken, usual = _taken(resource, values), _taken(resource, tails)
            allowed = np.maximum(factor * usual, np.maximum(usual, 0.0) + _FLOORS[resource])
            if resource is Resource.CPU:
                allowed = np.maximum(factor * usual, _FLOORS[resource])
            above = taken > allowed
            if resource in BOUNDED:
                for vm, bounds in self._bounds.items():
                    row = second.index.get(vm)
                    if row is not None and resource is Resource.MEMORY and resource in bounds:
                        above[row] |= bool(taken[row] > BEYOND * bounds[resource])
            if HOST in second.index:
                above[second.index[HOST]] = False
            rows = np.flatnonzero(above).tolist()
            if rows:
                excess = np.nan_to_num(taken - np.where(np.isfinite(allowed), allowed, 0.0)).clip(min=0.0)
                if resource is Resource.CPU:
                    excess = excess * np.array([self._vcpus.get(vm, 1) for vm in vms], np.float32)
                everybody = float(excess[rows].sum())
                for row in rows:
                    part = float(excess[row]) / everybody if everybody else 1.0
                    self._go_on(second, (resource, row), rows, part, asks)
                    grab = self._told(vms[row], resource, float(usual[row]), now)
                    if grab is not None:
                        found.append((vms[row], grab))
        self._runs = {key: run for key, run in self._runs.items() if now - run.last_at <= PAUSE_S}
        return found

    def _see_asked(self, second: _Second, factor: float, now: Instant) -> None:
        asked = np.nan_to_num(second.values[:, _REQUESTS])
        more = (asked > np.maximum(factor * second.tails[:, _REQUESTS], 20.0)).any(axis=1)
        for row in np.flatnonzero(more).tolist():
            since, _ = self._asked.get(second.vms[row], (now, now))
            self._asked[second.vms[row]] = (since, now)
        self._asked = {vm: times for vm, times in self._asked.items() if now - times[1] <= ASKED_PAUSE_S}

    def _go_on(self, second: _Second, place: tuple[Resource, int], rows: list[int], part: float, asks: Asks) -> None:
        (resource, row), now = place, second.at
        vm = second.vms[row]
        value = float(_taken(resource, second.values[row : row + 1])[0])
        run = self._runs.setdefault((vm, resource), _Run(now, now, value))
        run.last_at, run.rate = now, max(run.rate, value)
        if run.asked_at is None and vm in self._asked:
            run.asked_at = self._asked[vm][0]
        cost, sufferer = self._cost(second, resource, row, rows, asks) if part >= LEAST_PART else (0.0, None)
        beyond = value > BEYOND * self._bounds.get(vm, {}).get(resource, np.inf)
        if resource is Resource.CONNECTIONS and not _empty(asks(vm)):
            cost, sufferer, beyond = 0.0, None, False
        if cost >= (1 if run.costs_since is None else EASED) or beyond:
            run.costs_since = run.costs_since or now
            if cost >= run.cost:
                run.cost, run.sufferer = cost, sufferer
                if resource is Resource.CPU and sufferer is not None:
                    run.waits = float(second.values[second.index[sufferer], Metric.CPU_WAIT])
        else:
            run.costs_since, run.cost, run.sufferer, run.waits = None, 0.0, None, 0.0
        run.full_since = (run.full_since or now) if self._full(second, resource, row, value) else None

    def _cost(self, second: _Second, resource: Resource, row: int, rows: list[int], asks: Asks) -> Cost:
        """What others bear, against what is bearable, and who bears most."""
        match resource:
            case Resource.CPU:
                return second.worst(Metric.CPU_WAIT, WAITS, rows)
            case Resource.MEMORY:
                host = second.index.get(HOST)
                used = 0.0 if host is None else float(np.nan_to_num(second.values[host, Metric.MEMORY]))
                return used / HOST_FULL, HOST
            case Resource.DISK | Resource.BLOCK:
                at_work = _taken(Resource.BLOCK, second.values) >= 2.0
                return second.worst(Metric.BLOCK_WAIT, SLOW_S, rows, at_work)
            case Resource.CONNECTIONS:
                asked = asks(second.vms[row])
                most = max(asked, key=lambda vm: asked[vm][0], default=None)
                other = second.index.get(most) if most is not None else None
                if other is None or other == row:
                    return 0.0, None
                cpu, usual = float(second.values[other, Metric.CPU]), float(second.tails[other, Metric.CPU])
                return (cpu / NEAR_BOUND, most) if cpu > 1.2 * usual else (0.0, None)

    def _full(self, second: _Second, resource: Resource, row: int, value: float) -> bool:
        """Whether the VM itself is at its capacity; of CPU and memory HREM says so."""
        match resource:
            case Resource.DISK | Resource.BLOCK:
                wait, usual = float(second.values[row, Metric.BLOCK_WAIT]), float(second.tails[row, Metric.BLOCK_WAIT])
                return wait >= max(TIMES * usual, SLOW_S)
            case Resource.CONNECTIONS:
                return value >= NEAR_BOUND * self._bounds.get(second.vms[row], {}).get(resource, np.inf)
            case _:
                return False

    def _told(self, vm: VmId, resource: Resource, usual: float, now: Instant) -> Grab | None:
        run = self._runs[vm, resource]
        hurts = run.costs_since is not None and now - run.costs_since >= COST_S - 1.0
        full = run.full_since is not None and now - run.full_since >= FULL_S - 1.0
        if not hurts and not full:
            return None
        return Grab(
            resource=resource,
            rate=run.rate,
            tail=usual if np.isfinite(usual) else 0.0,
            first_at=run.first_at,
            last_at=now,
            cost=run.cost if hurts else 0.0,
            sufferer=run.sufferer if hurts else None,
            bound=self._bounds.get(vm, {}).get(resource),
            asked_at=run.asked_at,
            waits=run.waits if hurts else 0.0,
            forks=self._forks.of(vm, now) if hurts and resource is Resource.CPU else None,
        )


def _taken(resource: Resource, values: Matrix) -> Matrix:
    """How much of a resource each VM takes, shape ``(len(values),)``; NaN where it is unseen."""
    match resource:
        case Resource.CPU:
            found = values[:, Metric.CPU]
        case Resource.MEMORY:
            found = values[:, Metric.MEMORY_RSS]
        case Resource.DISK:
            found = values[:, Metric.BLOCK_BYTES]
        case Resource.BLOCK:
            found = values[:, Metric.BLOCK_READS] + values[:, Metric.BLOCK_WRITES]
        case Resource.CONNECTIONS:
            found = values[:, Metric.OUT_SYN]
    result: Matrix = found.copy()
    return result


def _empty(asked: Mapping[VmId, tuple[float, float]]) -> bool:
    """Whether hardly anything is said on the connections that a VM begins."""
    begun, sent = (sum(one[n] for one in asked.values()) for n in (0, 1))
    return begun > 0 and sent <= EMPTY * begun
