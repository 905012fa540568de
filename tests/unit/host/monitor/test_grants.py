"""The way of a grant: an agent asks, HREM weighs, it is recorded, put in force, explained, taken back."""

from dataclasses import replace

import pytest

from hypervigil.host.hsem.resources import Resource
from hypervigil.host.journal import Kind
from hypervigil.host.monitor.conductor import Conductor
from hypervigil.host.monitor.grants import bounds
from hypervigil.model.grants import GrantPolicy
from hypervigil.model.guest import Need
from hypervigil.model.ids import HOST, Instant, LimitId, PortId
from hypervigil.model.limits import Limit, LimitKind
from hypervigil.model.network import Budget
from hypervigil.model.observation import ClassCounts, PortSample, ResourceSample, Sweep
from hypervigil.model.policy import Mode, Policy, VmPolicy
from hypervigil.model.report import LiftLimit
from hypervigil.model.status import Role
from hypervigil.model.traffic import ForgedKind, TrafficClass
from hypervigil.model.vm import Inventory, Nic, Vm
from hypervigil.wire import gateway, guest
from hypervigil.wire import messages as wire
from tests.unit.host.monitor.test_conductor import A, FakeEngines, FakeGateway, FakeHost, conducting

PORT = PortId("52:54:00:00:00:0a")
POLICY = Policy(
    mode=Mode.ENFORCE,
    vms=(VmPolicy("a", budget=Budget(packets_per_s=1000.0)),),
    grants=GrantPolicy(cpu=2.0, memory=2.0, packets=2.0),
)
NOTHING = (0,) * len(TrafficClass)


class Stage:
    def __init__(self, policy: Policy = POLICY) -> None:
        self.now = Instant(1000.0)
        self.host, self.hsem, self.gateway = FakeHost(), FakeEngines(), FakeGateway()
        self.conductor = self.build(policy)
        self.start()
        self.sends, self.balloon = 0, 200_000.0

    def build(self, policy: Policy) -> Conductor:
        return conducting(self.host, self.host, policy=policy, hsem=self.hsem, gateway=self.gateway)

    def start(self) -> None:
        nic = Nic(PORT, "vnet0", 7, "br0")
        self.conductor.inventory(Inventory((Vm(A, "a", 1, 400_000, (nic,), cpu=0.5),)), self.now)

    def ask(self, need: Need = Need.CPU, amount: int = 500) -> None:
        wish = guest.Wanted(1, 7, 1, 5000, 1, need, 1000, amount, 12)
        self.conductor.heard(gateway.Heard(vm=A, at=self.now, message=wish), self.now)
        self.pass_(1.0)

    def pass_(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.5)):
            self.now = Instant(self.now + 0.5)
            busy = ResourceSample(A, cpu=0.5, memory=0.9, balloon_kib=self.balloon)
            out = ClassCounts((self.sends // 2, *NOTHING[1:]), NOTHING, NOTHING)
            nothing = ClassCounts(NOTHING, NOTHING, NOTHING)
            port = PortSample(A, PORT, out, nothing, (0,) * len(ForgedKind), 0, 0)
            host = ResourceSample(HOST, cpu=0.3, memory=0.3)
            self.conductor.swept(Sweep(1, self.now, 0.5, (port,), (busy, host)), self.now)
            self.conductor.tick(self.now)

    def answer(self, subject: str, *, ok: bool, detail: str = "") -> None:
        outcome = wire.Outcome(subject, ok, self.now, detail)
        self.conductor.enforced(wire.Done(request=1, outcomes=(outcome,)), self.now)

    @property
    def ordered(self) -> list[Limit]:
        return self.host.recorded(Kind.ORDERED)

    @property
    def budget(self) -> float | None:
        return self.host.sent(wire.BindPorts)[-1].policies[0].budget.packets_per_s


@pytest.mark.parametrize(
    ("need", "kind", "amount", "value"),
    [(Need.CPU, LimitKind.CPU, 500, 0.75), (Need.MEMORY, LimitKind.MEMORY, 50_000, 250_000.0)],
)
def test_what_an_agent_asks_for_is_recorded_then_done_then_explained(
    need: Need, kind: LimitKind, amount: int, value: float
) -> None:
    stage = Stage()
    stage.ask(need, amount)
    (limit,) = stage.ordered
    assert (limit.kind, limit.value, limit.case) == (kind, value, None)
    assert limit.reason.startswith("asks for more and uses")
    assert stage.host.sent(wire.PutLimits)[0].limits == (limit,)
    places = [entry[0] if isinstance(entry, tuple) else type(entry) for entry in stage.host.log]
    assert places.index(Kind.ORDERED) < places.index(wire.PutLimits)
    assert stage.hsem.explained == [limit]
    stage.answer(limit.id, ok=True, detail="as wanted")
    assert stage.host.recorded(Kind.ENFORCED)[-1].detail == "as wanted"
    stage.ask(need, 0)
    assert [one.reason for one in stage.host.recorded(Kind.LIFTED)] == ["it is near its capacity no longer"]
    assert stage.host.sent(wire.LiftLimits)[-1].limits == (limit.id,)
    assert stage.hsem.explained == []


def test_under_suspicion_nothing_is_given_and_it_is_on_record() -> None:
    stage = Stage()
    stage.hsem.taken_for = None
    stage.ask()
    assert stage.ordered == []
    (told,) = [one for one in stage.host.recorded(Kind.GUEST) if one.kind == "not-granted"]
    assert told.text == f"{A} is granted no more cpu: it is under suspicion"
    stage.hsem.taken_for = Role.CLEARED
    stage.ask()
    assert len(stage.ordered) == 1, "the control"


def test_monitor_mode_withholds_a_grant() -> None:
    stage = Stage(replace(POLICY, mode=Mode.MONITOR))
    stage.ask()
    stage.pass_(5)
    assert [one.reason for one in stage.host.recorded(Kind.WITHHELD)] == ["monitor mode"]
    assert stage.host.sent(wire.PutLimits) == []
    assert stage.hsem.explained == []


def test_what_the_hypervisor_refuses_explains_nothing() -> None:
    stage = Stage()
    stage.ask()
    stage.answer(stage.ordered[0].id, ok=False, detail="it has as much without a grant: nothing is changed")
    stage.pass_(1)
    assert stage.hsem.explained == []
    assert len(stage.ordered) == 1


def test_a_budget_is_raised_by_its_ports_policy_and_comes_back() -> None:
    stage = Stage()
    assert stage.budget == 1000.0
    stage.sends = 980
    stage.pass_(15)
    (limit,) = stage.ordered
    assert limit.kind is LimitKind.PACKETS
    assert stage.budget == 1500.0
    assert stage.host.sent(wire.PutLimits) == []
    assert stage.host.recorded(Kind.ENFORCED) == []
    stage.answer(PORT, ok=True)
    assert stage.host.recorded(Kind.ENFORCED)[-1].detail == "vnet0: a budget of 1,500 packets/s"
    stage.conductor.enforced(wire.InForce(request=1, boot_id="b", ports=(), limits=()), stage.now)
    assert stage.host.sent(wire.PutLimits) == [], "the enforcer knows it by the port's policy"
    assert stage.budget == 1500.0
    stage.sends = 0
    stage.pass_(35)
    assert stage.budget == 1000.0
    assert "needed no more" in stage.host.recorded(Kind.LIFTED)[-1].reason
    assert stage.host.sent(wire.LiftLimits) == []


def test_a_grant_outlives_the_monitor_and_not_the_policy() -> None:
    stage = Stage()
    stage.ask()
    (limit,) = stage.ordered
    before = stage.conductor
    stage.conductor = stage.build(POLICY)
    stage.conductor.ledger = before.ledger
    stage.hsem.explained = []
    stage.conductor.resume(stage.now)
    assert stage.hsem.explained == [limit]
    stage.pass_(2)
    assert stage.host.recorded(Kind.LIFTED) == [], "until it is known what runs"
    stage.start()
    stage.pass_(2)
    assert stage.host.recorded(Kind.LIFTED) == []
    stage.conductor.swap_policy(replace(POLICY, grants=GrantPolicy()), "", [], "root", stage.now)
    stage.pass_(1)
    assert [one.reason for one in stage.host.recorded(Kind.LIFTED)] == ["the policy grants less"]


def test_releasing_a_vm_leaves_its_grants() -> None:
    stage = Stage()
    stage.ask()
    vm = stage.conductor.find("a")
    assert vm is not None
    assert stage.conductor.release(vm, "root", stage.now) == 0
    assert stage.hsem.explained == stage.ordered


def test_what_ends_by_the_enforcer_is_given_up() -> None:
    stage = Stage()
    stage.ask()
    (limit,) = stage.ordered
    stage.conductor.enforced(wire.Ended(at=stage.now, limit=limit.id, vm=A, reason="its time is over"), stage.now)
    stage.pass_(1)
    assert stage.hsem.explained == []
    stage.conductor.act([LiftLimit(LimitId("l99"), A, stage.now, "unknown")], stage.now)
    assert stage.host.sent(wire.LiftLimits) == [], "what is not known is not lifted"


def test_the_judge_knows_what_was_given() -> None:
    some = Budget(packets_per_s=1000.0, new_flows_per_s=50.0)
    stage = Stage(replace(POLICY, vms=(VmPolicy("a", budget=some),)))
    stage.pass_(1)
    assert stage.hsem.bounds == {A: {Resource.CONNECTIONS: 50.0}}
    ports = stage.conductor.compiled.ports
    assert bounds((*ports, *ports), {}) == {A: {Resource.CONNECTIONS: 50.0}}, "two NICs have one budget"
    assert bounds([replace(port, budget=Budget()) for port in ports], {}) == {}


@pytest.mark.parametrize("needed", [True, False])
def test_memory_that_is_needed_no_longer_and_not_given_back_is_owed(*, needed: bool) -> None:
    stage = Stage()
    stage.balloon = 200_000.0
    stage.ask(Need.MEMORY, 50_000)
    stage.balloon = 250_000.0
    if needed:
        stage.hsem.taken_for = None
        stage.pass_(2)
    else:
        stage.ask(Need.MEMORY, 0)
    stage.pass_(50)
    assert stage.hsem.bounds == {}, "it has a while to give it back"
    stage.pass_(20)
    assert stage.hsem.bounds == ({} if needed else {A: {Resource.MEMORY: 1024 * 200_000.0 * 1.25}})
    stage.balloon = 200_000.0
    stage.pass_(2)
    assert stage.hsem.bounds == {}
