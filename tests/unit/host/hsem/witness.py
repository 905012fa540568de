"""Holds every decision of the judge to what must be true of all of them, whatever happened."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from hypervigil.host.hsem.engine import Hsem
from hypervigil.host.hsem.judge import judge
from hypervigil.model.ids import CaseId, Instant, LimitId, VmId
from hypervigil.model.limits import Limit
from hypervigil.model.report import Decide, Decision, EnterLevel2, LeaveLevel2, LiftLimit, OrderLimit
from hypervigil.model.status import Level, Role, Verdict


@dataclass
class Witness:
    """Knows the judge by its decisions only, as journal and enforcer do."""

    hsem: Hsem
    cases: dict[VmId, CaseId] = field(default_factory=dict)
    """Open ones."""
    standing: dict[LimitId, Limit] = field(default_factory=dict)
    opened: list[EnterLevel2] = field(default_factory=list)
    closed: list[LeaveLevel2] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    ordered: list[Limit] = field(default_factory=list)
    lifted: list[LiftLimit] = field(default_factory=list)

    def hear(self, decisions: Iterable[Decision], now: Instant) -> None:
        """Check and note."""
        for decision in decisions:
            match decision:
                case EnterLevel2(vm=vm, case=case):
                    assert vm not in self.cases, "one case per VM"
                    assert case not in {one.case for one in self.opened}, "a case's name is given out once"
                    assert self.hsem.facts(case).case == case
                    self.cases[vm] = case
                    self.opened.append(decision)
                case OrderLimit(limit=limit):
                    assert limit.id not in {one.id for one in self.ordered}, "a limit's name is given out once"
                    assert limit.since == now < limit.until, "a limit begins now and has an end"
                    assert limit.case == self.cases[limit.vm], "a limit belongs to the open case"
                    assert limit.reason
                    self.standing[limit.id] = limit
                    self.ordered.append(limit)
                case LiftLimit(vm=vm):
                    assert self.standing.pop(decision.limit).vm == vm, "only what stands is lifted"
                    assert decision.reason
                    self.lifted.append(decision)
                case Decide(verdict=verdict):
                    assert verdict.case == self.cases[verdict.vm]
                    assert judge(self.hsem.facts(verdict.case)) == verdict, "its facts give the verdict again"
                    assert verdict.cause
                    assert verdict.counterfactual
                    assert 0 < verdict.confidence <= 1
                    if verdict.role in {Role.ATTACKER, Role.VICTIM}:
                        assert verdict.evidence
                    self.verdicts.append(verdict)
                case LeaveLevel2(vm=vm):
                    assert self.cases.pop(vm) == decision.case
                    assert not [one for one in self.standing.values() if one.vm == vm], "nothing outlasts its case"
                    self.closed.append(decision)

    def repetitions(self) -> dict[VmId, int]:
        """In how many cases each VM was found an attacker, as a ledger of cases tells it."""
        cases = {(one.vm, one.case) for one in self.verdicts if one.role is Role.ATTACKER}
        return Counter(vm for vm, _ in cases)

    def check(self, vms: Iterable[VmId], now: Instant) -> None:
        """After a tick: Level 2 if and only if there is a case, and nothing stands beyond its end."""
        for vm in vms:
            assert (self.hsem.level(vm) is Level.LEVEL2) == (vm in self.cases), vm
        assert not [limit for limit in self.standing.values() if limit.until <= now]
