"""Who takes far more of the host's resources than ever, and what that costs others; whole seconds, all VMs. Pure.

Only the host's own counts are used. Being busy is no offence: a grab is told where others bear more than usual
meanwhile, where it goes beyond what the VM was given, or where the VM itself is at its capacity by it. Who takes less
than ``LEAST_PART`` of all that is taken above history is not blamed for what that costs: a host full of VMs that
wake at the same hour has no attacker.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from hypervigil.host.hsem.blocks import TIMES, Slowed
from hypervigil.host.hsem.conduct import ACKNOWLEDGEMENT
from hypervigil.host.hsem.forks import ToldForks
from hypervigil.host.hsem.resources import BEYOND, Grab, Resource, Storm
from hypervigil.host.hsem.serving import RECOVERS_S, Denied, Serving, Taken
from hypervigil.host.hsem.sides import Asked
from hypervigil.host.hsem.table import Matrix
from hypervigil.model.guest import GuestReport
from hypervigil.model.ids import HOST, NEVER, Instant, VmId
from hypervigil.model.metric import Metric
from hypervigil.model.report import LimitedCount
from hypervigil.model.traffic import Direction, TrafficClass
from hypervigil.model.vm import Vm

COST_S = 3.0
"""Others bear it for so long before anybody is blamed."""
HOARD_S = 2.0
"""So long it is others whom a hoarder's server denies, besides all that it must hoard before that counts."""
FULL_S = 10.0
"""At its capacity for so long: as HREM has it."""
EASED = 0.8
"""What is borne may fall to this part of what is bearable and be borne all the same: who is full is so by fits."""
PAUSE_S = 3.0
"""A grab that stops for less goes on."""
ASKED_PAUSE_S = 5.0
LEAST_PART = 0.25
WAITS = 0.3
"""Of the time that a vCPU usually runs it may wait for a CPU so much more: its work then takes 1.4 times as long."""
SLOW_S = 0.02
"""A block request may take so long, or ``TIMES`` as long as is usual for who waits."""
HOST_FULL = 0.95
"""Of the host's memory: what goes beyond is paid for by everybody."""
EMPTY = 300.0
"""Octets per connection begun, of one on which nothing is said: its SYN, its end and two acknowledgements by IPv4 are
272. A request of some words takes more: packets alone do not tell, since whoever says nothing is at last hung up on."""
EMPTY_PACKET = 75.0
"""Octets per packet likewise: those of an empty connection have 74 at most. By this a client does not seem to say
nothing whose tries are repeated, or whose requests wait in a server's backlog."""
HELD = 100.0
"""So many more connections than its history allows were accepted of who hoards, and not ended by it, before others'
denials are its doing. Who only repeats its tries has no more of them than ever, who probes ends each at once."""
UNENDED = 1000.0
"""So many of these are an attack while others are still served, if it says something on each and ends nothing: whoever
only makes connections ready says nothing, and who asks is answered as others are."""
LITTLE = 2000.0
"""Octets per connection begun, of one on which less than a request's head is said, and that bit by bit."""
SERVED = 0.5
"""Of what is bearable, others may be denied so much and the server be at work as ever."""
NEAR_BOUND = 0.9
STORM, STORM_TIMES = 50_000.0, 4.0
"""So many requests to the hypervisor a second more than usual, and so many times more, are a storm: a busy NIC or disk
makes some ten thousand."""

Flags = npt.NDArray[np.bool_]
Cost = tuple[float, VmId | None]
"""What somebody bears, against what is bearable, and who."""
Asks = Callable[[VmId], Mapping[VmId, Asked]]
"""Of whom a VM asks something now."""

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
_TAKEN = [Metric.OUT_SYN, Metric.IN_SYNACK, Metric.IN_BYTES, Metric.IN_RST]
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
    denied: float = 0.0
    unended: float = 0.0
    asked_at: Instant | None = None
    held: float = 0.0
    """Connections accepted of it, beyond what its history allows, that it did not end."""
    lately: float = 0.0
    """Of those on which it says something, the last second's: they count if others are served in the next one."""
    storm: Storm | None = None
    unserved_at: Instant = NEVER
    """When others were last not served where it begins them."""


@dataclass(frozen=True, slots=True)
class _Hoard:
    """A VM that asks nothing on the connections that it begins most of."""

    server: VmId
    share: float
    """Of all connections that it begins."""
    heard: float
    """Of all octets that it gets, the share that comes from there."""
    silent: float
    """Of these connections, at least the share on which nothing followed the handshake: it did not end them either."""
    says: bool = False
    """Whether it says something at all, of which nothing comes."""


@dataclass(frozen=True, slots=True)
class _Second:
    """One second of all VMs: values and what is usual, shape ``(len(vms), len(Metric))``."""

    vms: Sequence[VmId]
    values: Matrix
    tails: Matrix
    index: Mapping[VmId, int]
    at: Instant
    slowed: Matrix
    """What each bears whose block requests are slow and fewer, against what is bearable, shape ``(len(vms),)``."""
    hoards: Mapping[int, _Hoard] = field(default_factory=dict)
    """By row."""
    denied: Mapping[VmId, Denied] = field(default_factory=dict)
    """At servers where somebody hoards."""

    def worst(self, borne: Matrix, but: Iterable[int]) -> Cost:
        """Who bears most against what is bearable, shape ``(len(vms),)``, leaving out some rows."""
        borne = borne.copy()
        borne[list(but)] = 0.0
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
        self._serving = Serving()
        self._slowed = Slowed()
        self._stopped: dict[VmId, float] = {}
        """SYNs of each VM that a limit of ours stopped in this second."""

    def keep(self, vms: Iterable[Vm]) -> None:
        """Forget all others."""
        self._vcpus = {vm.vm: vm.vcpus for vm in vms}
        self._runs = {key: run for key, run in self._runs.items() if key[0] in self._vcpus}
        self._asked = {vm: times for vm, times in self._asked.items() if vm in self._vcpus}
        self._forks.keep(self._vcpus)
        self._serving.keep(self._vcpus)
        self._slowed.keep(self._vcpus)

    def heard(self, report: GuestReport) -> None:
        """An agent's report: what it tells while its VM computes more than ever is not usual."""
        usual = (report.vm, Resource.CPU) not in self._runs
        self._forks.hear(report, vcpus=self._vcpus.get(report.vm, 1), usual=usual)

    @property
    def hurting(self) -> bool:
        """Whether somebody bears something now: what is waited for meanwhile is not usual."""
        return any(run.costs_since is not None for run in self._runs.values())

    def stopped(self, limited: Iterable[LimitedCount]) -> None:
        """What limits stopped since the last whole second: of that no server can have had anything."""
        for one in limited:
            if (one.direction, one.traffic) == (Direction.OUT, TrafficClass.SYN):
                self._stopped[one.vm] = self._stopped.get(one.vm, 0.0) + one.packets

    def held(self, vm: VmId) -> float:
        """How many connections it hoards, if they are so many that a server may be full of them."""
        run = self._runs.get((vm, Resource.CONNECTIONS))
        return run.held if run is not None and run.held >= HELD else 0.0

    def hoarding(self) -> set[VmId]:
        """Who hoards connections: what it begins meanwhile is not usual."""
        return {vm for (vm, resource), run in self._runs.items() if resource is Resource.CONNECTIONS and self.held(vm)}

    def bounded(self, bounds: Mapping[VmId, Mapping[Resource, float]]) -> None:
        """What VMs were given of what they might take more of."""
        self._bounds = bounds

    def see(
        self, vms: Sequence[VmId], values: Matrix, tails: Matrix, *, factor: float, now: Instant, asks: Asks
    ) -> list[tuple[VmId, Grab]]:
        """Take in one whole second; every grab that is to be judged now."""
        slowed = self._slowed.see(vms, values, tails)
        second = _Second(vms, values, tails, {vm: row for row, vm in enumerate(vms)}, now, slowed)
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
            if resource is Resource.CONNECTIONS:
                second = self._see_hoards(second, rows, asks)
            if rows:
                excess = np.nan_to_num(taken - np.where(np.isfinite(allowed), allowed, 0.0)).clip(min=0.0)
                if resource is Resource.CPU:
                    excess = excess * np.array([self._vcpus.get(vm, 1) for vm in vms], np.float32)
                if resource is Resource.CONNECTIONS:
                    excess[[row for row in rows if row not in second.hoards]] = 0.0
                everybody = float(excess[rows].sum())
                for row in rows:
                    part = float(excess[row]) / everybody if everybody else 1.0
                    self._go_on(second, (resource, row), rows, part, float(allowed[row]))
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

    def _see_hoards(self, second: _Second, rows: list[int], asks: Asks) -> _Second:
        """Who hoards connections, and what others are denied where that is so."""
        found = {row: _hoard(asks(second.vms[row]), self._serving) for row in rows}
        hoards = {row: one for row, one in found.items() if one is not None and one.server != second.vms[row]}
        taken: dict[VmId, Taken] = {}
        for row, hoard in hoards.items():
            if hoard.server in second.index:
                tried, accepted, octets, resets = np.nan_to_num(second.values[row, _TAKEN]).tolist()
                tried = max(0.0, tried - self._stopped.get(second.vms[row], 0.0))
                one = taken.setdefault(hoard.server, Taken())
                one.tried += hoard.share * tried
                one.accepted += hoard.share * accepted
                one.octets += hoard.heard * octets
                one.resets += hoard.share * resets
        self._stopped.clear()
        denied = {
            server: self._serving.denied(server, second.values[second.index[server]], one)
            for server, one in taken.items()
        }
        self._serving.learn(second.vms, second.values, taken)
        return replace(second, hoards=hoards, denied=denied)

    def _go_on(
        self, second: _Second, place: tuple[Resource, int], rows: list[int], part: float, allowed: float
    ) -> None:
        (resource, row), now = place, second.at
        vm = second.vms[row]
        value = float(_taken(resource, second.values[row : row + 1])[0])
        run = self._runs.setdefault((vm, resource), _Run(now, now, value))
        run.last_at, run.rate = now, max(run.rate, value)
        if run.asked_at is None and vm in self._asked:
            run.asked_at = self._asked[vm][0]
        if resource is Resource.CPU:
            run.storm = _storm(second, row, run.storm)
        if resource is Resource.CONNECTIONS and row in second.hoards:
            self._hold(second, row, run, allowed)
        cost, sufferer = self._cost(second, resource, row, rows, run) if part >= LEAST_PART else (0.0, None)
        beyond = value > BEYOND * self._bounds.get(vm, {}).get(resource, np.inf)
        if resource is Resource.CONNECTIONS and row not in second.hoards:
            cost, sufferer, beyond = 0.0, None, False
        if cost >= (1 if run.costs_since is None else EASED) or beyond:
            run.costs_since = run.costs_since or now
            if cost >= run.cost:
                run.cost, run.sufferer = cost, sufferer
                if resource is Resource.CPU and sufferer is not None:
                    run.waits = float(second.values[second.index[sufferer], Metric.CPU_WAIT])
                if resource is Resource.CONNECTIONS and sufferer is not None:
                    denied = second.denied[sufferer]
                    run.denied = denied.share if denied.cost >= cost else 0.0
                    run.unended = run.held if cost > max(denied.cost, 1.0) and second.hoards[row].says else 0.0
        else:
            run.costs_since, run.cost, run.sufferer = None, 0.0, None
            run.waits, run.denied, run.unended = 0.0, 0.0, 0.0
        run.full_since = (run.full_since or now) if self._full(second, resource, row, value) else None

    def _hold(self, second: _Second, row: int, run: _Run, allowed: float) -> None:
        """Count what was accepted of a hoarder, beyond what its history allows.

        Who says something may have asked, of a server that stalls: what nothing comes of counts only while others are
        served. It takes a second until it is seen that they are not.
        """
        hoard = second.hoards[row]
        accepted = float(np.nan_to_num(second.values[row, Metric.IN_SYNACK]))
        # What a stack knows nothing of it resets: that was a flood's, and holds nothing.
        accepted = max(0.0, accepted * hoard.share - float(np.nan_to_num(second.values[row, Metric.OUT_RST])))
        more = max(0.0, accepted - allowed)
        if not hoard.says:
            run.held, run.lately = run.held + min(more, hoard.silent * accepted), 0.0
            return
        denied = second.denied.get(hoard.server)
        if denied is not None and denied.lately >= SERVED and run.held < HELD:
            run.unserved_at = second.at
        served = (
            denied is not None
            and denied.lately < SERVED
            and self._serving.known(hoard.server)
            and second.at - run.unserved_at > RECOVERS_S
            and not self._serving.recovers(hoard.server)
        )
        run.held += run.lately if served else 0.0
        run.lately = more if served else 0.0

    def _cost(self, second: _Second, resource: Resource, row: int, rows: list[int], run: _Run) -> Cost:
        """What others bear, against what is bearable, and who bears most."""
        match resource:
            case Resource.CPU:
                waits = np.nan_to_num(second.tails[:, Metric.CPU_WAIT], nan=1.0).clip(0.0, 1.0)
                bearable = waits + np.float32(WAITS) * (1 - waits)
                return second.worst(np.nan_to_num(second.values[:, Metric.CPU_WAIT]) / bearable, rows)
            case Resource.MEMORY:
                host = second.index.get(HOST)
                used = 0.0 if host is None else float(np.nan_to_num(second.values[host, Metric.MEMORY]))
                return used / HOST_FULL, HOST
            case Resource.DISK | Resource.BLOCK:
                at_work = _taken(Resource.BLOCK, second.values) >= 2.0
                bearable = np.maximum(TIMES * second.tails[:, Metric.BLOCK_WAIT], SLOW_S)
                borne = np.where(at_work, np.nan_to_num(second.values[:, Metric.BLOCK_WAIT]) / bearable, 0.0)
                return second.worst(np.maximum(borne, second.slowed), rows)
            case Resource.CONNECTIONS:
                hoard = second.hoards.get(row)
                if hoard is None or hoard.server not in second.denied:
                    return 0.0, None
                server = second.index[hoard.server]
                cpu, usual = float(second.values[server, Metric.CPU]), float(second.tails[server, Metric.CPU])
                full = cpu / NEAR_BOUND if cpu > 1.2 * usual else 0.0
                denied = second.denied[hoard.server].cost if run.held >= HELD else 0.0
                unended = run.held / UNENDED if hoard.says else 0.0
                return max(0.0 if hoard.says and run.held < HELD else full, denied, unended), hoard.server

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
        patience_s = HOARD_S if run.denied or run.unended else COST_S
        hurts = run.costs_since is not None and now - run.costs_since >= patience_s - 1.0
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
            denied=run.denied if hurts else 0.0,
            unended=run.unended if hurts else 0.0,
            forks=self._forks.of(vm, now) if hurts and resource is Resource.CPU else None,
            storm=run.storm if hurts else None,
        )


def _storm(second: _Second, row: int, before: Storm | None) -> Storm | None:
    """What a VM asks of the hypervisor, if that is far more than ever; the worst of it so far."""
    for metric in (Metric.EXITS, Metric.HYPERCALLS):
        rate, usual = float(second.values[row, metric]), float(second.tails[row, metric])
        if rate > max(STORM_TIMES * usual, usual + STORM) and (before is None or rate > before.rate):
            return Storm(rate, usual)
    return before


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


def _hoard(asked: Mapping[VmId, Asked], serving: Serving) -> _Hoard | None:
    """At whom most connections are begun, if hardly anything is said on them, or little and nothing comes of it."""
    server = max(asked, key=lambda vm: asked[vm].begun, default=None)
    if server is None:
        return None
    most = asked[server]
    if most.begun <= 0:
        return None
    share = most.begun / sum(one.begun for one in asked.values())
    says = most.octets > min(EMPTY * most.begun, EMPTY_PACKET * most.packets)
    if says:
        little = most.octets <= max(ACKNOWLEDGEMENT * most.packets, LITTLE * most.begun)
        begun = max(1.0, most.accepted * most.begun)  # on a try that was not accepted nothing is said
        if not little or not serving.mute_to(server, begun=begun, octets=most.back, packets=most.replies):
            return None
    # A reset takes up nothing. Of a flood's answers many never reach a stack that is busy sending: how many come does
    # not tell what was taken up.
    silent = min(_silent(most.packets / most.begun), _silent(max(0.0, most.packets - most.resets) / most.begun))
    return _Hoard(server, share, most.heard, silent, says=says)


def _silent(each: float) -> float:
    """At least which share of connections was a try, what takes up the answer, and no more, by packets for each."""
    return max(0.0, min(each - 1.0, 3.0 - each, 1.0))
