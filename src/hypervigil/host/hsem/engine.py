"""HSEM: hears HREM's reports, keeps each VM's history and level, opens cases, decides, orders limits and their end."""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import numpy as np

from hypervigil.host.hsem import explain
from hypervigil.host.hsem.crowd import BUSY_TAIL, CAPACITIES, Full, press
from hypervigil.host.hsem.facts import LEAST_PEERS, MAX_PEERS, Accusation, Dossier, Facts
from hypervigil.host.hsem.files import Files
from hypervigil.host.hsem.grabs import Grabs
from hypervigil.host.hsem.history import MOST, Remembered
from hypervigil.host.hsem.judge import HELD_S, accused_by, judge
from hypervigil.host.hsem.known import Known
from hypervigil.host.hsem.lately import Lately
from hypervigil.host.hsem.levels import CALMING, GRAVE, TRANSITIONS, VERDICTS, Event, State, step
from hypervigil.host.hsem.limiting import LEAST_CPU, hardened, muffled, provisional, relief, shared
from hypervigil.host.hsem.look import Look, limited_of, peers_of, tries_many_ports
from hypervigil.host.hsem.lookback import Finding, Lookback
from hypervigil.host.hsem.opening import SECOND_LOOK_S, cleared, grounds, suspicious
from hypervigil.host.hsem.resources import Grab, Resource
from hypervigil.host.hsem.resume import RECHECK_S, Resumed, take_up
from hypervigil.host.hsem.sides import Asked
from hypervigil.host.hsem.table import Matrix
from hypervigil.host.hsem.turns import MAX_LOOKS
from hypervigil.host.hsem.watch import Watch
from hypervigil.host.hsem.watched import Watched
from hypervigil.model.guest import GuestReport
from hypervigil.model.ids import HOST, CaseId, Instant, LimitId, VmId
from hypervigil.model.limits import Limit
from hypervigil.model.metric import Metric
from hypervigil.model.policy import Bounds
from hypervigil.model.report import Decide, Decision, EnterLevel2, HostReport, LeaveLevel2
from hypervigil.model.status import AttackClass, Evidence, Role, Verdict
from hypervigil.model.traffic import Direction
from hypervigil.model.vm import Vm

PEERS_TOGETHER = 128 * 1024
"""Peers that all suspects together may have on file, though each ``LEAST_PEERS``."""
DRAFT_S = 3.0
"""What a VM above its allowance does is kept so long to tell how it is meant, before there is reason for a case."""
FORGIVEN_S = 24 * 3600.0
"""After so long without a verdict an attack is a first one again."""


class Hsem(Known):
    """One host's judge. Every method that takes ``now`` gives the decisions that follow, in their order."""

    def __init__(
        self,
        bounds: Bounds,
        *,
        next_case: Callable[[], CaseId],
        next_limit: Callable[[], LimitId],
        ladder: Sequence[str] = ("limit",),
    ) -> None:
        super().__init__()
        self._next_case = next_case
        self._next_limit = next_limit
        self._watch = Watch(factor=bounds.factor, floor_pps=bounds.floor_pps)
        self._lookback = Lookback(self._watch)
        self._lately = Lately()
        self._grabs = Grabs()
        self._files = Files(self._history, self._watch, self._lookback.served)
        self._full = Full()
        self._accused: deque[Watched] = deque()
        """Whom a verdict of this moment names as a target, and who is still to be judged for it."""
        self._paused: set[VmId] = set()
        """Who stands still, which is no habit of theirs."""
        self._judged = 0
        """How many were judged in this report because somebody accused them."""
        self.set_policy(bounds, ladder)

    def set_policy(self, bounds: Bounds, ladder: Sequence[str]) -> None:
        """The operator's bounds, and what an attacker meets at its first, second, … verdict."""
        self._bounds = bounds
        self._ladder = tuple(ladder) or ("limit",)
        self._watch.factor, self._watch.floor_pps = bounds.factor, bounds.floor_pps

    # --- what it remembers ----
    def recall(self, known: Remembered) -> None:
        """Take over what is said of its VMs; ``ValueError`` changes nothing. What was seen over hours is gone."""
        self._usual.recall(known)
        self._lookback.keep(self._vms.keys() - set(known.vms))

    def resume(self, cases: Iterable[Resumed], repetitions: Mapping[VmId, int]) -> None:
        """Take up cases where the last process left them."""
        for vm, times in repetitions.items():
            self._record(vm).repetition = times
        for one in cases:
            take_up(self._record(one.vm), one, self._file(one.vm, one.since))
            if one.facts is not None:
                self._facts.add(one.facts)
                if one.facts.drawn:
                    self._alarms.drew(one.vm, one.since)

    def clock(self, ahead_s: float) -> None:
        """By how much UTC is ahead of ``Instant``, for what depends on the hour; ``ValueError`` if it is no number."""
        self._usual.clock(ahead_s)

    # --- what happens ----
    def inventory(self, vms: Iterable[Vm], now: Instant) -> list[Decision]:
        """These VMs run now; cases of those that are gone are closed."""
        known = list(vms)
        running = {vm.vm for vm in known} | {HOST}
        self._paused = {vm.vm for vm in known if vm.paused}
        self._grabs.keep(known)
        decisions: list[Decision] = []
        for vm in [vm for vm in self._vms if vm not in running]:
            record = self._vms.pop(vm)
            if record.dossier is not None:
                decisions += record.lift(now, "the VM is gone")
                decisions.append(LeaveLevel2(vm, record.dossier.case, now, record.role, "the VM is gone"))
        self._watch.keep(tuple(running))
        self._turns.keep(running)
        self._alarms.keep(running)
        self._lookback.keep(running)
        self._full.keep(running)
        self._usual.keep(running)
        for vm in running:
            self._record(vm)
        return decisions

    def hear(self, report: HostReport, now: Instant) -> list[Decision]:
        """A report of HREM's."""
        self._facts.forget()
        values: Matrix = np.asarray(report.values, np.float32).reshape(len(report.vms), len(Metric))
        values = np.clip(values, 0.0, MOST)  # sums and products of anything stay finite; NaN stays NaN
        if report.whole:
            return self._learn(report, values, now)
        self._grabs.stopped(report.limited)
        tails = self._history.tails(report.vms)
        excesses = {e.vm: e for e in self._watch.see(report.vms, values, report.interval_s, tails)}
        forged = {one.vm for one in report.forged if self._record(one.vm).count_forged(one, now)}
        suspects = {vm for vm, record in self._vms.items() if record.awaits(now)}
        concerned = excesses.keys() | forged | suspects | tries_many_ports(report)
        undecided = (e for e in excesses.values() if self.state(e.vm) in {State.LEVEL1, State.LEVEL2})
        looked_at = self._turns.choose([vm for vm in report.vms if vm in concerned], {e.vm: e.harm for e in undecided})
        room = max(LEAST_PEERS, min(MAX_PEERS, PEERS_TOGETHER // max(1, len(suspects))))
        peers, limited = peers_of(report, looked_at), limited_of(report)
        decisions: list[Decision] = []
        self._judged = 0
        for row, vm in enumerate(report.vms):
            if vm not in looked_at:
                continue
            look = Look(values[row], report.interval_s, excesses.get(vm), peers.get(vm, ()), limited.get(vm, ()), room)
            record = self._record(vm)
            if record.dossier is None:
                decisions += self._ask(record, look, now)
            else:
                self._files.grow(record.dossier, look, now)
                if record.dossier.by_word:
                    facts = record.dossier.facts(now, record.repetition)
                    record.dossier.drawn = not suspicious(record, facts, look, now)
            if record.dossier is not None:
                decisions += self._consider(record, now)
        if not report.partial:
            for vm, lasting in self._full.see(report.vms, values[:, Metric.CPU], report.interval_s):
                decisions += self._exhausted(self._record(vm), now, lasting=lasting)
        self._lately.add(report, values, now)
        for finding in self._lookback.see(report, values, tails, suspects, now):
            decisions += self._found(finding, now)
        if report.taken is not None:
            taken = np.asarray(report.taken, np.float32)
            for row in np.flatnonzero(taken > LEAST_CPU).tolist():
                decisions += self._record(report.vms[row]).slow(float(taken[row]), self._bounds, now, RECHECK_S)
        return decisions

    def given(self, grants: Iterable[Limit]) -> None:
        """All that is granted now: it explains more than the history, which is corrected for it."""
        self._history.given(grants)

    def bounded(self, bounds: Mapping[VmId, Mapping[Resource, float]]) -> None:
        """What VMs were given of what they might be seen to take more of."""
        self._grabs.bounded(bounds)

    def heard(self, report: GuestReport) -> None:
        """What an agent tells of now: at most something against its own VM."""
        self._grabs.heard(report)
        if report.vm in self._vms:
            self._usual.told.hear(report)
            self._alarms.reported(report)

    def told(self, fact: Evidence) -> None:
        """A fact about a VM or its agent: told with its case, and ground for none but its agent's own alarm."""
        if fact.vm in self._vms:
            self._vms[fact.vm].hear(fact)
            self._alarms.hear(fact)
            self._usual.hear(fact)

    def tick(self, now: Instant) -> list[Decision]:
        """Time has passed: ends of limits, holds, calm."""
        decisions: list[Decision] = []
        for record in self._vms.values():
            if record.dossier is None:
                continue
            record.stirred_at = min(record.stirred_at, now)
            decisions += record.expire(now)
            if record.state is State.ATTACKER and now >= record.hold_until:
                self._look_again(record, now)
            elif record.state in CALMING and now - record.stirred_at >= self._bounds.calm_s:
                decisions += self._leave(record, now, Event.CALM, f"calm for {self._bounds.calm_s:g} s")
        seconded = partial(self._seconded, now=now)
        for alarm in self._alarms.due(now, cased=self._cased, seconded=seconded, settled=self._usual.told.settled):
            decisions += self._draw(self._record(alarm.vm), alarm, now)
        return decisions

    def release(self, vm: VmId, now: Instant) -> list[Decision]:
        """The operator frees the VM."""
        record = self._record(vm)
        record.repetition = 0
        return self._leave(record, now, Event.RELEASED, "released by the operator") if record.dossier else []

    # --- Level 1 ----
    def _learn(self, report: HostReport, values: Matrix, now: Instant) -> list[Decision]:
        """A whole second: history for those who are above suspicion, and HREM's notices."""
        decisions: list[Decision] = []
        for notice in report.notices:
            decisions += self._notice(notice, now)
        tails = self._history.tails(report.vms)
        limited = {vm for vm, record in self._vms.items() if record.limits and record.held_back}
        held_back = [row for row, vm in enumerate(report.vms) if vm in limited] if limited else []
        values[np.ix_(held_back, [Metric.CPU_WAIT, Metric.BLOCK_WAIT])] = np.nan  # that is nobody else's doing
        taken = self._grabs.see(report.vms, values, tails, factor=self._bounds.factor, now=now, asks=self._asks)
        self._judged = 0
        for vm, grab in taken:
            decisions += self._take(self._record(vm), grab, now)
        if self._grabs.hurting:
            values = values.copy()
            values[:, [Metric.CPU_WAIT, Metric.BLOCK_WAIT]] = np.nan
        suspects: set[int] = set()
        hoarding = self._grabs.hoarding()
        for row, vm in enumerate(report.vms):
            if vm in hoarding or vm in self._paused:
                suspects.add(row)
            record = self._record(vm)
            if record.dossier is not None:
                suspects.add(row)
                if np.isfinite(values[row, Metric.CPU]):
                    record.dossier.cpu = float(values[row, Metric.CPU])
            if record.draft is not None and now - record.draft.opened_at > DRAFT_S:
                record.draft = None
        for fact in self._usual.learn(report.vms, values, suspects, now):
            self.told(fact)
        return decisions

    def _notice(self, notice: Evidence, now: Instant) -> list[Decision]:
        """HREM found a VM near its capacity: a case if that is unusual for it."""
        record = self._record(notice.vm)
        metric = CAPACITIES.get(notice.kind)
        if metric is None:
            if record.dossier is not None:
                record.dossier.contention = max(record.dossier.contention, notice.value)
            return []
        if not self._history.usual(notice.vm, metric) < BUSY_TAIL:
            return []
        if record.dossier is not None:
            record.dossier.near_capacity = True
            return []
        dossier = record.draft or self._file(notice.vm, now)
        dossier.opened_at = now
        dossier.near_capacity = True
        dossier.cpu = notice.value if metric is Metric.CPU else None
        return self._open(record, dossier, (notice,), now)

    def _exhausted(self, record: Watched, now: Instant, *, lasting: bool) -> list[Decision]:
        """No CPU is left to a VM: if a few ask for far more than ever, its case does not wait for HREM's notice."""
        usual = self._history.usual(record.vm, Metric.CPU)
        facts = press(record.dossier or record.draft, usual, now, lasting=lasting)
        if facts is None or record.dossier is not None or record.draft is None:
            return []
        record.draft.opened_at = now
        return self._open(record, record.draft, tuple(explain.capacity(facts)), now)

    def _take(self, record: Watched, grab: Grab, now: Instant) -> list[Decision]:
        """A VM takes far more of a resource than ever: write it down, open a case if need be, and judge."""
        decisions: list[Decision] = []
        if record.dossier is None:
            dossier = record.draft or self._file(record.vm, now)
            dossier.opened_at = now
            dossier.grabs[grab.resource] = grab
            evidence = tuple(explain.grabs(dossier.facts(now, record.repetition)))
            decisions += self._open(record, dossier, evidence, now)
        elif record.state is not State.ATTACKER:
            record.dossier.grabs[grab.resource] = grab
        record.stirred_at = now
        return decisions + self._consider(record, now)

    def _ask(self, record: Watched, look: Look, now: Instant) -> list[Decision]:
        """Open a case of a conspicuous VM at Level 1, if there is reason to."""
        draft = record.draft
        if draft is None or now - draft.opened_at > DRAFT_S:
            if look.excess is not None and not look.excess.going_on:
                return []  # what is over was asked about while it went on
            draft = record.draft = self._files.draft(record, look, self._lately.of(record.vm, now), now)
        else:
            self._files.grow(draft, look, now)
        draft.forged = record.forged.lately(now)
        facts = draft.facts(now, record.repetition)
        if not suspicious(record, facts, look, now):
            return []
        record.forged.begin()
        draft.opened_at = now
        return self._open(record, draft, tuple(grounds(facts)), now)

    def _cased(self, vm: VmId) -> bool:
        return self._record(vm).dossier is not None

    def _seconded(self, vm: VmId, now: Instant) -> bool:
        """Whether the host itself sees something unusual of a VM, though no reason for a case."""
        draft = self._record(vm).draft
        return draft is not None and now - draft.opened_at <= DRAFT_S

    def _draw(self, record: Watched, alarm: Evidence, now: Instant) -> list[Decision]:
        """A VM's own agent finds it unusual: look closely, which is all that this is reason for."""
        dossier = record.draft or self._file(record.vm, now)
        dossier.opened_at, dossier.drawn = now, True
        return self._open(record, dossier, (alarm, *explain.surges(dossier.facts(now, record.repetition))), now)

    def _found(self, finding: Finding, now: Instant) -> list[Decision]:
        """What was done over some time opens a case, or adds to one that is open."""
        record = self._record(finding.vm)
        known = record.dossier
        if record.state is State.ATTACKER:
            return []
        dossier = known or self._file(record.vm, now)
        finding.note(dossier)
        record.stirred_at = now
        facts = dossier.facts(now, record.repetition)
        decisions = [] if known else self._open(record, dossier, finding.evidence(facts), now)
        decisions += self._consider(record, now)
        decisions += record.put(finding.held(facts) if record.state in CALMING else (), now, HELD_S)
        self._lookback.forget(record.vm)  # what goes on is counted anew
        return decisions

    def _open(self, record: Watched, dossier: Dossier, evidence: tuple[Evidence, ...], now: Instant) -> list[Decision]:
        dossier.case = self._next_case()
        record.dossier, record.draft = dossier, None
        record.state = step(record.state, Event.ANOMALY)
        record.role, record.attack = Role.CLEARED, AttackClass.NONE
        record.stirred_at = now
        self._facts.add(dossier.facts(now, record.repetition))
        return [EnterLevel2(record.vm, dossier.case, now, evidence)]

    # --- Level 2 ----
    def _consider(self, record: Watched, now: Instant) -> list[Decision]:
        """Judge an open case on what is known now, and whoever that accuses.

        One after the other: a chain of attackers may be as long as there are VMs, and no stack is. Whoever is accused
        when there is no more time for it has that on file, and is judged when its turn to be looked at comes.
        """
        decisions = self._weigh(record, now)
        while self._accused and self._judged < MAX_LOOKS:
            decisions += self._weigh(self._accused.popleft(), now)
            self._judged += 1
        self._accused.clear()
        return decisions

    def _weigh(self, record: Watched, now: Instant) -> list[Decision]:
        dossier = record.dossier
        if dossier is None or record.decided_at == now:  # of one instant a case has one set of facts on record
            return []
        stirring = any(surge.last_at == now for surge in dossier.surges.values())
        if stirring:
            record.stirred_at = now
        if record.state is State.ATTACKER:
            if stirring:
                for target in record.targets & self._vms.keys():
                    self._vms[target].stirred_at = now
            return []
        dossier.held = self._grabs.held(record.vm)
        facts = dossier.facts(now, record.repetition)
        verdict = judge(facts)
        if record.state is State.LEVEL2:
            if verdict is not None:
                return self._decide(record, verdict, facts, now)
            return self._restrain(record, facts, now)
        more = verdict is not None and (
            verdict.role in GRAVE or AttackClass.MINING is verdict.attack is not record.attack
        )
        if verdict is not None and more and (record.state, VERDICTS[verdict.role]) in TRANSITIONS:
            return self._decide(record, verdict, facts, now)
        if record.state is State.VICTIM and (stirring or any(grab.last_at == now for grab in facts.grabs)):
            return record.put(relief(facts, self._bounds), now, self._bounds.hold_s)
        if stirring and record.state is State.REFLECTOR:
            return record.put(muffled(facts, self._bounds), now, self._bounds.hold_s)
        return []

    def _restrain(self, record: Watched, facts: Facts, now: Instant) -> list[Decision]:
        """Provisional limits: what is hostile or unclear is held, what turned out well is let go."""
        if facts.drawn:
            return []
        wanted = provisional(facts, self._bounds)
        decisions = record.put(wanted, now, self._bounds.provisional_s)
        if now - facts.opened_at >= SECOND_LOOK_S:
            decisions += record.lift(now, "what it sends is answered", keep={one.place for one in wanted})
        return decisions

    def _decide(self, record: Watched, verdict: Verdict, facts: Facts, now: Instant) -> list[Decision]:
        self._facts.add(facts)
        record.decided_at = now
        record.state = step(record.state, VERDICTS[verdict.role])
        record.role, record.attack = verdict.role, verdict.attack
        decisions: list[Decision] = [Decide(verdict)]
        match verdict.role:
            case Role.ATTACKER:
                decisions += self._contain(record, verdict, facts, now)
            case Role.VICTIM:
                record.stirred_at = now
                # A victim may attack as well: what it sends stays held until that is known.
                wanted = relief(facts, self._bounds)
                own = [one for one in provisional(facts, self._bounds) if one.direction is Direction.OUT]
                decisions += record.put(wanted, now, self._bounds.hold_s, whole=True)
                keep = {one.place for one in [*wanted, *own]}
                decisions += record.lift(now, "the verdict calls for others", keep=keep)
            case Role.REFLECTOR:
                decisions += record.swap(muffled(facts, self._bounds), now, self._bounds.hold_s)
            case Role.OVERLOADED:
                decisions += record.swap(shared(facts, self._bounds), now, self._bounds.hold_s)
            case Role.CLEARED:
                if not facts.drawn:
                    record.quiet = cleared(facts, now)
                    record.forged.clear(facts.forged, now)
                decisions += self._close(record, now, "cleared")
        return decisions

    def _contain(self, record: Watched, verdict: Verdict, facts: Facts, now: Instant) -> list[Decision]:
        """Limit an attacker for its hold, and tell on whom it attacks."""
        if now - record.hold_until > FORGIVEN_S:
            record.repetition = 0
        rung = self._ladder[min(record.repetition, len(self._ladder) - 1)]
        hold_s = min(self._bounds.hold_s * 2.0**record.repetition, self._bounds.hold_max_s)
        wanted = hardened(facts, verdict, self._bounds, rung)
        record.hold_until = Instant(now + hold_s)
        record.repetition += 1
        self._lookback.served.forget(record.vm)
        decisions = record.swap(wanted, now, hold_s + RECHECK_S)
        accusations = {vm: one for vm, one in accused_by(facts, verdict).items() if vm in self._vms and vm != HOST}
        record.targets = frozenset(accusations)
        for target, accusation in accusations.items():
            decisions += self._accuse(target, accusation, now)
        return decisions

    def _accuse(self, target: VmId, accusation: Accusation, now: Instant) -> list[Decision]:
        """Another VM attacks this one: open its case if need be, and have it judged."""
        record = self._record(target)
        self._accused.append(record)
        dossier = record.dossier or self._file(target, now)
        dossier.accusations[accusation.attacker] = accusation
        if accusation.attack == AttackClass.BRUTE_FORCE:
            dossier.guessed = self._lookback.guessed_by(target, accusation.attacker, now)
        if record.dossier is None:
            return self._open(record, dossier, tuple(explain.accused(dossier.facts(now, record.repetition))), now)
        record.stirred_at = now
        return []

    def _look_again(self, record: Watched, now: Instant) -> None:
        """An attacker's hold is over: the case goes on with fresh facts, its limits a little longer."""
        if record.dossier is None:
            return
        case = record.dossier.case
        record.state = step(record.state, Event.HOLD_ENDED)
        record.dossier = self._file(record.vm, now)
        record.dossier.case = case

    def _leave(self, record: Watched, now: Instant, event: Event, reason: str) -> list[Decision]:
        record.state = step(record.state, event)
        return self._close(record, now, reason)

    def _close(self, record: Watched, now: Instant, reason: str) -> list[Decision]:
        """Back to Level 1; the state is there already."""
        dossier, record.dossier = record.dossier, None
        if dossier is None:
            return []
        record.targets = frozenset()
        self._alarms.closed(record.vm, in_vain=record.role is Role.CLEARED)
        if not dossier.by_word:  # else a guest could have forgotten what it does by saying something
            self._watch.calm(record.vm)
            self._lookback.forget(record.vm)
        return [*record.lift(now, reason), LeaveLevel2(record.vm, dossier.case, now, record.role, reason)]

    # --- memory ----
    def _record(self, vm: VmId) -> Watched:
        found = self._vms.get(vm)
        if found is None:  # not by setdefault: to make one takes longer than all else here
            found = self._vms[vm] = Watched(vm, self._next_limit)
        return found

    def _asks(self, vm: VmId) -> dict[VmId, Asked]:
        return self._record(vm).asks()

    def _file(self, vm: VmId, now: Instant) -> Dossier:
        return self._files.begin(self._record(vm), now)
