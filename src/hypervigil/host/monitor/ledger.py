"""What people see of cases and limits: a fold over the journal's records, the same live and after a restart. Pure."""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

from hypervigil.host.journal import Kind, Record
from hypervigil.host.journal.records import Enforcement, OperatorCommand
from hypervigil.host.monitor.records import LimitEnded, Withheld
from hypervigil.model.ids import CaseId, Instant, LimitId, VmId
from hypervigil.model.limits import Limit
from hypervigil.model.report import EnterLevel2, LeaveLevel2, LiftLimit
from hypervigil.model.status import Evidence, Role, Verdict

EXEMPT = "exempt"
"""The operator's command that a VM is judged and not limited."""
MAX_CASES = 5_000
MAX_LIMITS = 20_000
FOLDED = (Kind.LEVEL, Kind.DECISION, Kind.ORDERED, Kind.WITHHELD, Kind.ENFORCED, Kind.LIFTED, Kind.OPERATOR)
"""The kinds of record that tell of cases, limits and exemptions."""


@dataclass(slots=True)
class CaseEntry:
    """One case as it stands. Times are wall-clock seconds."""

    case: CaseId
    vm: VmId
    opened_at: float
    opening: tuple[Evidence, ...]
    opened: Instant
    """The same in the host's own time."""
    verdict: Verdict | None = None
    """The gravest of the case."""
    last_verdict: Verdict | None = None
    decided_at: float | None = None
    closed_at: float | None = None
    closing_reason: str | None = None
    told: dict[str, Evidence] = field(default_factory=dict)
    """What was told of its VM's agent, or by it, while it was open: of each kind the last."""

    @property
    def role(self) -> Role | None:
        """The gravest thing decided: a case that ends calm is still the case of an attacker."""
        return self.verdict.role if self.verdict else None


@dataclass(slots=True)
class LimitEntry:
    """One limit as it stands. Times are wall-clock seconds."""

    limit: Limit
    state: str
    """``ordered``, ``in-force``, ``failed``, ``withheld`` (monitor mode or exempt) or ``ended``."""
    ordered_at: float
    until_at: float
    in_force_at: float | None = None
    lifted_at: float | None = None
    detail: str = ""

    @property
    def standing(self) -> bool:
        """Whether it is ordered or in force now."""
        return self.state in {"ordered", "in-force"}

    @property
    def lasts(self) -> bool:
        """Whether it stands, or would if it were not withheld."""
        return self.lifted_at is None and self.state != "failed"


@dataclass(frozen=True, slots=True)
class Exemption:
    """The operator's order that a VM is judged and not limited."""

    at: Instant
    wall_at: float
    for_s: float
    here: bool
    """Whether it was given in this run of the machine, whose time goes on by itself."""

    def until(self, now: Instant, wall_now: float) -> Instant:
        """When it ends. A wall clock that was wrong makes it last no longer than it was to last from the beginning."""
        if self.here:
            return Instant(self.at + self.for_s)
        return Instant(now + min(self.wall_at + self.for_s - wall_now, self.for_s))


_GRAVITY = {Role.CLEARED: 0, Role.OVERLOADED: 1, Role.VICTIM: 2, Role.REFLECTOR: 2, Role.ATTACKER: 3}


@dataclass(slots=True)
class Ledger:
    """Cases and limits by id, bounded: the oldest that ended are forgotten first (the journal keeps them)."""

    cases: OrderedDict[CaseId, CaseEntry] = field(default_factory=OrderedDict)
    limits: OrderedDict[LimitId, LimitEntry] = field(default_factory=OrderedDict)
    withheld: int = 0
    exempt: dict[VmId, Exemption] = field(default_factory=dict)
    """VMs that the operator had exempted, as of the records that were folded again."""

    def opened(self, decision: EnterLevel2, wall_at: float) -> None:
        """A case was opened."""
        self.cases.setdefault(
            decision.case, CaseEntry(decision.case, decision.vm, wall_at, decision.evidence, decision.at)
        )
        while len(self.cases) > MAX_CASES:
            oldest = next((key for key, entry in self.cases.items() if entry.closed_at is not None), None)
            self.cases.pop(oldest if oldest is not None else next(iter(self.cases)))

    def told(self, case: CaseId, fact: Evidence) -> None:
        """A fact about the agent of its VM."""
        if case in self.cases:
            self.cases[case].told[fact.kind] = fact

    def decided(self, verdict: Verdict, wall_at: float) -> None:
        """A verdict fell; the gravest one of a case stays its role."""
        entry = self.cases.get(verdict.case)
        if entry is None:
            entry = CaseEntry(verdict.case, verdict.vm, wall_at, verdict.evidence, verdict.at)
            self.cases[verdict.case] = entry
        if entry.verdict is None or _GRAVITY[verdict.role] > _GRAVITY[entry.verdict.role]:
            entry.verdict = verdict
            entry.decided_at = wall_at
        entry.last_verdict = verdict

    def closed(self, decision: LeaveLevel2, wall_at: float) -> None:
        """A case was closed."""
        entry = self.cases.get(decision.case)
        if entry is not None:
            entry.closed_at = wall_at
            entry.closing_reason = decision.reason

    def ordered(self, limit: Limit, wall_at: float, *, withheld: bool) -> None:
        """A limit was ordered, or would have been."""
        until_at = wall_at + (limit.until - limit.since)
        if withheld:
            self.withheld += 1
        self.limits[limit.id] = LimitEntry(limit, "withheld" if withheld else "ordered", wall_at, until_at)
        while len(self.limits) > MAX_LIMITS:
            oldest = next((key for key, entry in self.limits.items() if not entry.standing), None)
            self.limits.pop(oldest if oldest is not None else next(iter(self.limits)))

    def enforced(self, limit: LimitId, wall_at: float, *, ok: bool, detail: str) -> None:
        """The enforcer read back what became of a limit."""
        entry = self.limits.get(limit)
        if entry is None or not entry.standing:
            return
        entry.detail = detail
        if ok:
            entry.state = "in-force"
            entry.in_force_at = entry.in_force_at or wall_at
        else:
            entry.state = "failed"

    def lifted(self, limit: LimitId, wall_at: float, reason: str) -> None:
        """A limit ended."""
        entry = self.limits.get(limit)
        if entry is not None and entry.lifted_at is None:
            entry.lifted_at = wall_at
            entry.detail = reason
            if entry.standing:
                entry.state = "ended"

    def standing(self, vm: VmId | None = None) -> list[LimitEntry]:
        """Limits ordered or in force, of one VM or of all."""
        return [e for e in self.limits.values() if e.standing and (vm is None or e.limit.vm == vm)]

    def open_case(self, vm: VmId) -> CaseEntry | None:
        """The VM's open case."""
        return next((e for e in reversed(self.cases.values()) if e.vm == vm and e.closed_at is None), None)

    def open_cases(self) -> list[CaseEntry]:
        """Every case that is open, oldest first."""
        return [entry for entry in self.cases.values() if entry.closed_at is None]

    def replay(self, records: Iterable[Record], *, boot_id: str) -> None:
        """Fold the journal's records again. What was open or in force in another run of the machine is over."""
        current, at = boot_id, 0.0
        for record in records:
            at = record.wall_at
            if record.boot_id != current:
                self._close_all(at)
                current = record.boot_id
            match record.kind, record.body_type:
                case Kind.LEVEL, "EnterLevel2":
                    self.opened(record.read(EnterLevel2), at)
                case Kind.LEVEL, "LeaveLevel2":
                    self.closed(record.read(LeaveLevel2), at)
                case Kind.DECISION, "Verdict":
                    self.decided(record.read(Verdict), at)
                case Kind.ORDERED, "Limit":
                    self.ordered(record.read(Limit), at, withheld=False)
                case Kind.WITHHELD, "Withheld":
                    self.ordered(record.read(Withheld).limit, at, withheld=True)
                case Kind.ENFORCED, "Enforcement":
                    outcome = record.read(Enforcement)
                    self.enforced(outcome.limit, at, ok=outcome.ok, detail=outcome.detail)
                case Kind.LIFTED, "LiftLimit":
                    lift = record.read(LiftLimit)
                    self.lifted(lift.limit, at, lift.reason)
                case Kind.LIFTED, "LimitEnded":
                    end = record.read(LimitEnded)
                    self.lifted(end.limit, at if end.at is None else at - (record.boot_s - end.at), end.reason)
                case Kind.OPERATOR, "OperatorCommand":
                    self._exempted(record, here=record.boot_id == boot_id)
                case _:
                    continue
        if current != boot_id:
            self._close_all(at)
        self.exempt = {vm: one for vm, one in self.exempt.items() if one.here or one.wall_at + one.for_s > at}

    def _exempted(self, record: Record, *, here: bool) -> None:
        order = record.read(OperatorCommand)
        for_s = order.arguments.get("for_s")
        if order.command != EXEMPT or record.vm is None or not isinstance(for_s, int | float):
            return
        self.exempt.pop(record.vm, None)
        if for_s > 0:
            self.exempt[record.vm] = Exemption(record.boot_s, record.wall_at, float(for_s), here)

    def _close_all(self, wall_at: float) -> None:
        for case in self.cases.values():
            case.closed_at = case.closed_at or wall_at
        for entry in self.standing():
            self.lifted(entry.limit.id, wall_at, "the host was restarted")
