"""The host in miniature: frames to the reference model, sweeps to HREM, reports to HSEM, its limits to the model."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from hypervigil.entrypoints.replay.capture import Captured
from hypervigil.entrypoints.replay.links import Seen, seen
from hypervigil.entrypoints.replay.stations import Station, Stations
from hypervigil.host.hrem.engine import Hrem
from hypervigil.host.hsem.engine import Hsem
from hypervigil.host.hsem.history import PRIORS
from hypervigil.host.inventory import AddressBook
from hypervigil.hypervisor.adapters.ebpf.program import DataPlaneError
from hypervigil.hypervisor.enforcer.nics import Nics
from hypervigil.hypervisor.enforcer.state import State
from hypervigil.hypervisor.reference.plane import ReferencePlane, ReferenceReader
from hypervigil.hypervisor.sensors.sweep import Snapshot, compare
from hypervigil.model.ids import CaseId, Instant, LimitId, PortId, VmId
from hypervigil.model.observation import PortSample, Sweep
from hypervigil.model.policy import Mode, Policy
from hypervigil.model.port_policy import PortPolicy
from hypervigil.model.report import Decide, Decision, EnterLevel2, HostReport, LiftLimit, OrderLimit
from hypervigil.model.status import Evidence, Role, Verdict
from hypervigil.model.traffic import Direction
from hypervigil.model.vm import Inventory, Nic, Vm

PERIOD_NS = 200_000_000
GAP_NS = 60_000_000_000
"""A longer time without a frame is lived through for so long, and then skipped."""
AFTER_NS = 5_000_000_000
"""So long the clock runs on after the last frame, so that what has ended is judged."""
BEGIN_NS = 100_000 * 1_000_000_000
"""The instant of the first frame; what is presumed to have been before it fits in."""
PRESUMED = 0.75
"""An ordinary second, of what the policy presumes of a busy one."""
MAX_PEERS = 65_536
LONG_FRAME, SEGMENT = 1600, 1448
"""A frame longer than that is one that hardware cut later, into segments of that size."""

_GRAVITY = (Role.CLEARED, Role.OVERLOADED, Role.REFLECTOR, Role.VICTIM, Role.ATTACKER)


@dataclass(slots=True)
class CaseSeen:
    """One case of one VM; times are seconds since the first frame."""

    level2_s: float
    evidence: tuple[Evidence, ...]
    limit_s: float | None = None
    verdict_s: float | None = None
    verdict: Verdict | None = None


@dataclass(slots=True)
class Outcome:
    """What became of one VM."""

    cases: dict[CaseId, CaseSeen] = field(default_factory=dict)
    sent: int = 0
    got: int = 0
    stopped: int = 0
    """Frames that a limit (or its forged sender) stopped at its NIC, of those that it sent or should have got."""
    after_limit: int = 0
    """Frames at its NIC since its first limit."""
    passed_after_limit: int = 0
    """Of these, those that neither a limit nor their forged sender stopped."""
    limited: bool = False

    @property
    def gravest(self) -> CaseSeen | None:
        """The case that tells most of it: of the gravest verdicts the first, else the first that is open."""
        decided = [case for case in self.cases.values() if case.verdict is not None]
        if not decided:
            return next(iter(self.cases.values()), None)
        return max(decided, key=lambda case: _GRAVITY.index(case.verdict.role) if case.verdict is not None else -1)


class _Unguarded:
    """There is no bridge to guard."""

    def put(self, bound: Iterable[int]) -> None:
        """Nothing."""

    def change(self, *, add: Iterable[int] = (), remove: Iterable[int] = ()) -> None:
        """Nothing."""

    def bound(self) -> frozenset[int] | None:
        """Nobody asks."""
        return None

    def remove(self) -> bool:
        """Nothing."""
        return False


class Drive:
    """One replay. Feed it frames in the order of time, then ``finish``."""

    def __init__(self, stations: Stations, policy: Policy, *, history_s: int = 0) -> None:
        self.outcomes: dict[str, Outcome] = {one.name: Outcome() for one in stations.all}
        self.ticked_s = 0.0
        """Seconds that were lived through, without what was skipped."""
        self.unread = 0
        """Frames of a link layer that is not read."""
        self.problems: list[str] = []
        self._stations = stations
        self._plane = ReferencePlane(max_ports=max(1, len(stations.all)), max_peers=MAX_PEERS)
        self._reader = ReferenceReader(self._plane)
        self._state = State("replay")
        self._nics = Nics(self._plane, _Unguarded(), dict)
        book = AddressBook()
        self._hrem = Hrem(book)
        cases, limits = itertools.count(1), itertools.count(1)
        self._hsem = Hsem(
            policy.bounds,
            next_case=lambda: CaseId(f"c{next(cases)}"),
            next_limit=lambda: LimitId(f"l{next(limits)}"),
            ladder=policy.ladder,
        )
        self._owners = {PortId(one.mac.hex(":")): VmId(one.name) for one in stations.all}
        self._first_ns: int | None = None
        self._last_ns = BEGIN_NS
        self._next_ns = BEGIN_NS + PERIOD_NS
        self._busy = False
        self._sequence = 0
        self._bind()
        inventory = _inventory(stations)
        book.update(inventory, Policy())
        self._hrem.inventory(inventory)
        self._presume(history_s)
        self._act(self._hsem.inventory(inventory.vms, _instant(BEGIN_NS)), BEGIN_NS)
        self._before = self._look(BEGIN_NS - 1)  # the first frame comes after it

    def _bind(self) -> None:
        for one in self._stations.all:
            policy = PortPolicy(
                port=PortId(one.mac.hex(":")),
                vm=VmId(one.name),
                interface=f"replay{one.ifindex}",
                ifindex=one.ifindex,
                mode=Mode.ENFORCE,
                addresses=one.bound,
                may_serve_dhcp=one.may_serve_dhcp,
                may_advertise_routes=one.may_advertise_routes,
            )
            self._plane.attach(policy)
            self._state.ports[policy.port] = policy

    def _presume(self, seconds: int) -> None:
        """A history of so many ordinary seconds; without one everybody is judged by what the policy presumes."""
        ordinary = np.where(np.isfinite(PRIORS), PRIORS * PRESUMED, np.nan).astype(np.float32)
        vms = tuple(VmId(name) for name in self.outcomes)
        values = np.tile(ordinary, (len(vms), 1))
        for number in range(seconds):
            at = Instant(BEGIN_NS / 1e9 - seconds + number)
            self._hsem.hear(HostReport(at, 1.0, vms, values.data, whole=True), at)

    # --- time ----
    def frame(self, captured: Captured) -> None:
        """The next frame."""
        if self._first_ns is None:
            self._first_ns = captured.at_ns
            self._hsem.clock((captured.at_ns - BEGIN_NS) / 1e9)
        at = BEGIN_NS + captured.at_ns - self._first_ns
        self._live_until(at)
        self._last_ns = at
        one = seen(captured)
        if one is None:
            self.unread += 1
            return
        self._pass(one, at)

    def finish(self) -> None:
        """Let the clock run on in silence, and judge what has ended."""
        if self._first_ns is not None:
            self._live_until(self._last_ns + AFTER_NS)
            self._sweep(self._next_ns)

    def _live_until(self, at: int) -> None:
        """All sweeps that come before this time."""
        silent_until = self._last_ns + GAP_NS
        if at > silent_until + PERIOD_NS:
            while self._next_ns < silent_until:
                self._step()
            self._next_ns += (at - self._next_ns) // PERIOD_NS * PERIOD_NS
        while self._next_ns < at:
            self._step()

    def _step(self) -> None:
        self._sweep(self._next_ns)
        self._next_ns += PERIOD_NS

    def _sweep(self, at: int) -> None:
        """What the sensors see, told to the engines."""
        samples: tuple[PortSample, ...] = ()
        if self._busy:
            after = self._look(at)
            samples = compare(self._before, after, self._owners)
            self._before, self._busy = after, False
        self._plane.events.clear()
        self._sequence += 1
        self.ticked_s += PERIOD_NS / 1e9
        now = _instant(at)
        sweep = Sweep(self._sequence, now, PERIOD_NS / 1e9, samples)
        for report in self._hrem.observe(sweep, now):
            self._act(self._hsem.hear(report, now), at)
        self._act(self._hsem.tick(now), at)

    def _look(self, at: int) -> Snapshot:
        reader = self._reader
        counted = reader.ports(), reader.counters(), reader.peers()
        return Snapshot(_instant(at), *counted, seed=1, greeters=reader.greeters())

    # --- frames ----
    def _pass(self, one: Seen, at: int) -> None:
        """From the sender's NIC to the receivers', as far as limits let it."""
        sender = self._stations.sender(one)
        receivers = self._stations.receivers(one, sender)
        frame = one.frame
        if sender is not None:
            if sender.made_up:
                frame = _with_source(frame, sender.mac)
            self.outcomes[sender.name].sent += 1
            if not self._handle(sender, Direction.OUT, frame, one.length, at):
                return
        for receiver in receivers:
            got = receiver.mac + frame[6:] if receiver.made_up and not frame[0] & 1 else frame
            self.outcomes[receiver.name].got += 1
            self._handle(receiver, Direction.IN, got, one.length, at)

    def _handle(self, station: Station, direction: Direction, frame: bytes, length: int, at: int) -> bool:
        self._busy = True
        outcome = self.outcomes[station.name]
        outcome.after_limit += outcome.limited
        gso_size = SEGMENT if length > LONG_FRAME else 0
        passes = self._plane.handle(station.ifindex, direction, frame, at, length=length, gso_size=gso_size)
        outcome.stopped += not passes
        outcome.passed_after_limit += outcome.limited and passes
        return passes

    # --- decisions ----
    def _act(self, decisions: Sequence[Decision], at: int) -> None:
        changed: set[VmId] = set()
        seconds = (at - BEGIN_NS) / 1e9
        for decision in decisions:
            match decision:
                case EnterLevel2():
                    case = CaseSeen(seconds, decision.evidence)
                    self._outcome(decision.vm).cases[decision.case] = case
                case Decide(verdict=verdict):
                    self._decided(verdict, seconds)
                case OrderLimit(limit=limit):
                    self._state.limits[limit.id] = limit
                    changed.add(limit.vm)
                    self._outcome(limit.vm).limited = True
                    told = self._outcome(limit.vm).cases.get(limit.case) if limit.case is not None else None
                    if told is not None and told.limit_s is None:
                        told.limit_s = seconds
                case LiftLimit():
                    self._state.limits.pop(decision.limit, None)
                    changed.add(decision.vm)
        for vm in changed:
            try:
                self._nics.settle(self._state, vm)
            except DataPlaneError as error:
                self.problems.append(str(error))

    def _decided(self, verdict: Verdict, seconds: float) -> None:
        """Keep a case's gravest verdict."""
        case = self._outcome(verdict.vm).cases.get(verdict.case)
        if case is None:
            return
        if case.verdict is None or _GRAVITY.index(verdict.role) > _GRAVITY.index(case.verdict.role):
            case.verdict, case.verdict_s = verdict, seconds

    def _outcome(self, vm: VmId) -> Outcome:
        return self.outcomes.setdefault(vm, Outcome())


def _instant(at: int) -> Instant:
    """Seconds, never so rounded that a frame of this very time would lie behind it."""
    seconds = at / 1e9
    while int(seconds * 1e9) > at:
        seconds = float(np.nextafter(seconds, 0.0))
    return Instant(seconds)


def _inventory(stations: Stations) -> Inventory:
    nics: dict[str, list[Nic]] = {}
    for one in stations.all:
        nic = Nic(PortId(one.mac.hex(":")), f"replay{one.ifindex}", one.ifindex, f"network{one.network}", one.addresses)
        nics.setdefault(one.name, []).append(nic)
    return Inventory(tuple(Vm(VmId(name), name, 1, 1 << 20, tuple(own)) for name, own in nics.items()))


def _with_source(frame: bytes, mac: bytes) -> bytes:
    """The frame as if this MAC had sent it: also what ARP and neighbour discovery say of the sender's MAC."""
    old = frame[6:12]
    made = frame[:6] + mac + frame[12:]
    if frame[12:14] == b"\x08\x06" and frame[22:28] == old:
        return made[:22] + mac + made[28:]
    if frame[12:14] == b"\x86\xdd" and frame[20:21] == b":" and frame[80:86] == old:
        return made[:80] + mac + made[86:]
    return made
