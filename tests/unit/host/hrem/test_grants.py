"""Who is granted what, why not more, and when it is taken back."""

from dataclasses import replace
from itertools import count

import pytest

from hypervigil.host.hrem.grants import ASKED_S, CALM_S, HELD_S, REST_S, Answer, Grants
from hypervigil.model.grants import Ask, GrantPolicy, HostSize
from hypervigil.model.ids import HOST, Instant, LimitId, PortId, VmId
from hypervigil.model.limits import Limit, LimitKind
from hypervigil.model.network import Budget, Floor
from hypervigil.model.observation import ClassCounts, PortSample, ResourceSample, Sweep
from hypervigil.model.policy import Policy, VmPolicy
from hypervigil.model.report import LiftLimit, OrderLimit
from hypervigil.model.status import Origin, Role
from hypervigil.model.traffic import ForgedKind, TrafficClass
from hypervigil.model.vm import Vm

A, B = VmId("a"), VmId("b")
CPU, MEMORY, PACKETS = LimitKind.CPU, LimitKind.MEMORY, LimitKind.PACKETS
ALL = GrantPolicy(cpu=2.0, memory=2.0, packets=2.0)
NOTHING = (0,) * len(TrafficClass)


class Stage:
    """A host of four CPUs and 8,000,000 KiB with two VMs: half a CPU each of two, 200,000 of 1,000,000 KiB."""

    def __init__(self, grants: GrantPolicy = ALL, floor: Budget | None = None) -> None:
        self.policy = Policy(
            vms=(VmPolicy("a", budget=Budget(packets_per_s=1000.0)),),
            grants=grants,
            floor=Floor(budget=floor or Budget()),
        )
        numbers = count(1)
        self.grants = Grants(self.policy, HostSize(4, 8e6), lambda: LimitId(f"l{next(numbers)}"))
        self.now = Instant(1000.0)
        self.roles: dict[VmId, Role | None] = {A: Role.CLEARED, B: Role.CLEARED}
        self.resources = {
            HOST: ResourceSample(HOST, cpu=0.3, memory=0.4),
            A: ResourceSample(A, cpu=0.48, memory=0.95, balloon_kib=200_000.0),
            B: ResourceSample(B, cpu=0.48, memory=0.95, balloon_kib=200_000.0),
        }
        self.sends = 0.0
        self.nics = 1
        self.wanted: list[object] = []
        self.run_vms(A, B)

    def run_vms(self, *names: VmId) -> None:
        self.grants.inventory([Vm(name, str(name), 2, 1_000_000, cpu=0.5) for name in names])

    def ask(self, kind: LimitKind = CPU, more: float | None = None, vm: VmId = A) -> Answer:
        usual = {CPU: 0.5, MEMORY: 50_000.0, PACKETS: 500.0}[kind]
        self.grants.ask(Ask(vm, kind, self.now, usual if more is None else more, Origin.GUEST_REPORTED))
        return self.pass_(1.0)

    def sees(self, vm: VmId, **what: float | None) -> None:
        self.resources[vm] = replace(self.resources[vm], **what)

    def pass_(self, seconds: float) -> Answer:
        """Time passes; all that was decided in it."""
        all_ = Answer()
        for _ in range(round(seconds / 0.5)):
            self.now = Instant(self.now + 0.5)
            out = ClassCounts((round(self.sends / 2 / self.nics), *NOTHING[1:]), NOTHING, NOTHING)
            empty, forged = ClassCounts(NOTHING, NOTHING, NOTHING), (0,) * len(ForgedKind)
            ports = tuple(PortSample(A, PortId(f"p{n}"), out, empty, forged, 0, 0) for n in range(self.nics))
            resources = tuple(one for one in self.resources.values())
            all_.told += self.grants.observe(Sweep(1, self.now, 0.5, ports, resources), self.now)
            answer = self.grants.decide(self.now, self.roles.get)
            all_.decisions += answer.decisions
            all_.told += answer.told
        return all_


def given(answer: Answer) -> list[Limit]:
    return [one.limit for one in answer.decisions if isinstance(one, OrderLimit)]


def back(answer: Answer) -> list[str]:
    return [one.reason for one in answer.decisions if isinstance(one, LiftLimit)]


def refusals(answer: Answer) -> list[str]:
    return [one.text for one in answer.told if one.kind == "not-granted"]


def test_honest_load_gets_more_of_each_kind_and_why_is_said() -> None:
    stage = Stage()
    (cpu,) = given(stage.ask(CPU))
    (memory,) = given(stage.ask(MEMORY))
    assert (cpu.kind, cpu.raised_from, cpu.value) == (CPU, 0.5, 0.75), "half as much again, as it asked"
    assert (memory.raised_from, memory.value) == (200_000.0, 250_000.0)
    assert cpu.until - cpu.since == ALL.hold_s
    assert "uses 0.48 of a CPU by the host's count; the host has 70% free" in cpu.reason
    stage.sends = 950.0
    told = stage.pass_(HELD_S + 5)
    (packets,) = given(told)
    assert (packets.raised_from, packets.value) == (1000.0, 1500.0)
    assert [one.kind for one in told.told] == ["wanted"]
    assert told.told[0].origin is Origin.HOST_OBSERVED, "a NIC asks by what it attempts"


def test_nics_of_one_vm_need_more_of_their_one_budget_together() -> None:
    stage = Stage()
    stage.nics, stage.sends = 2, 952.0
    told = stage.pass_(HELD_S + 5)
    (packets,) = given(told)
    assert (packets.raised_from, packets.value) == (1000.0, 1500.0)
    assert told.told[0].text == "for 10 s a has attempted 952 packets/s, of a budget of 1,000"


def test_without_the_operators_word_nothing_is_granted() -> None:
    stage = Stage(GrantPolicy())
    answer = stage.ask()
    assert given(answer) == []
    assert refusals(answer) == ["a is granted no more cpu: the policy allows none"]
    stage.sends = 5000.0
    assert given(stage.pass_(30)) == []


@pytest.mark.parametrize(
    ("role", "why"),
    [
        (None, "it is under suspicion"),
        (Role.ATTACKER, "it was found: attacker"),
        (Role.REFLECTOR, "it was found: reflector"),
    ],
)
@pytest.mark.parametrize("kind", [CPU, MEMORY])
def test_suspects_and_attackers_get_nothing_and_lose_what_they_have(
    kind: LimitKind, role: Role | None, why: str
) -> None:
    stage = Stage()
    assert given(stage.ask(kind)), "the control: above suspicion it gets some"
    stage.roles[A] = role
    answer = stage.ask(kind)
    assert given(answer) == []
    assert back(answer) == [why]
    assert refusals(answer) == [f"a is granted no more {kind}: {why}"]


def test_a_victim_gets_up_to_its_cap_and_one_that_becomes_it_keeps_no_more() -> None:
    stage = Stage(replace(ALL, victim=0.25))
    stage.roles[A] = Role.VICTIM
    (limit,) = given(stage.ask(CPU, 5.0))
    assert limit.value == 0.5 + 0.25 * 0.5
    stage.sees(A, cpu=limit.value)
    answer = stage.ask(CPU, 5.0)
    assert refusals(answer) == ["a is granted no more cpu: it has all that it may have as a victim"]
    (other,) = given(stage.ask(CPU, 5.0, vm=B))
    assert other.value == 1.0
    stage.roles[B] = Role.VICTIM
    assert back(stage.pass_(1)) == ["a victim may have less"]


@pytest.mark.parametrize(
    ("kind", "grants", "floor", "most"),
    [
        (CPU, ALL, None, 1.0),
        (CPU, GrantPolicy(cpu=1.5), None, 0.75),
        (CPU, GrantPolicy(cpu=50), None, 1.0),
        (MEMORY, GrantPolicy(memory=3), None, 600_000.0),
        (MEMORY, GrantPolicy(memory=50, headroom=0.01), None, 1_000_000.0),
        (PACKETS, GrantPolicy(packets=50), Budget(packets_per_s=1200.0), 1200.0),
    ],
)
def test_the_operators_word_and_the_definition_bound_it(
    kind: LimitKind, grants: GrantPolicy, floor: Budget | None, most: float
) -> None:
    stage = Stage(grants, floor)
    stage.sends = 1000.0
    stage.pass_(2)
    (limit,) = given(stage.ask(kind, 1e9))
    assert limit.value == most
    stage.sees(A, cpu=1.0, memory=0.99, balloon_kib=most)
    stage.sends = 1e6
    answer = stage.ask(kind, 1e9)
    assert given(answer) == []
    assert refusals(answer) == [f"a is granted no more {kind}: it has all that it may have"]


def test_an_agents_word_alone_gets_nothing() -> None:
    stage = Stage()
    stage.sees(A, cpu=0.1, memory=0.2)
    for kind, seen in ((CPU, "20%"), (MEMORY, "20%")):
        assert refusals(stage.ask(kind)) == [
            f"a is granted no more {kind}: by the host's count it uses {seen} of what it has"
        ]
    stage.sees(A, cpu=None, memory=None)
    stage.pass_(ASKED_S + 61)
    answer = stage.ask()
    assert given(answer) == []
    assert refusals(answer) == ["a is granted no more cpu: the host does not see how much is used"]


def test_what_is_not_bounded_needs_no_grant() -> None:
    stage = Stage()
    stage.grants.inventory([Vm(A, "a", 2, 1_000_000)])
    assert "not bounded" in refusals(stage.ask())[0]


def test_only_within_the_hosts_headroom() -> None:
    stage = Stage()
    stage.sees(HOST, cpu=0.75)
    (limit,) = given(stage.ask(CPU, 5.0))
    assert limit.value == pytest.approx(0.5 + 0.05 * 4 / 2), "what is free above the headroom, of both its CPUs"
    assert given(stage.ask(CPU, 5.0, vm=B)) == [], "and what was just granted counts as used"
    stage.sees(HOST, cpu=0.9)
    stage.pass_(ASKED_S + 61)
    assert "no room" in refusals(stage.ask(CPU, vm=B))[0]
    stage.sees(HOST, memory=0.81)
    assert "no room" in refusals(stage.ask(MEMORY))[0]
    stage.sees(HOST, cpu=None)
    stage.pass_(ASKED_S + 61)
    assert "does not see" in refusals(stage.ask(CPU, vm=B))[0]


def test_when_the_host_has_no_room_left_the_newest_goes_first() -> None:
    stage = Stage()
    (first,) = given(stage.ask(CPU))
    (second,) = given(stage.ask(CPU, vm=B))
    stage.sees(HOST, cpu=0.97)
    answer = stage.pass_(4)
    assert [one.limit for one in answer.decisions] == [second.id]
    assert back(answer) == ["the host has no room left"]
    answer = stage.pass_(4)
    assert [one.limit for one in answer.decisions] == [first.id]


def test_it_is_taken_back_when_the_need_is_over() -> None:
    stage = Stage()
    stage.ask(CPU)
    assert back(stage.ask(CPU, 0.0)) == ["it is near its capacity no longer"]
    stage = Stage()
    stage.ask(CPU)
    stage.sees(A, cpu=0.2)
    assert back(stage.pass_(CALM_S - 2)) == []
    assert back(stage.pass_(4)) == ["for 30 s it has needed no more than its own"]
    stage = Stage()
    stage.ask(CPU)
    stage.run_vms(B)
    assert back(stage.pass_(1)) == ["the VM is gone"]


def test_it_ends_unless_it_is_asked_for_again() -> None:
    stage = Stage(replace(ALL, hold_s=100.0))
    stage.ask(CPU, 5.0)
    stage.pass_(ASKED_S)
    assert back(stage.pass_(15)) == ["its time is over"], "an agent that is silent keeps nothing"
    stage = Stage(replace(ALL, hold_s=100.0))
    (limit,) = given(stage.ask(CPU, 5.0))
    stage.sees(A, cpu=0.98)
    for _ in range(8):
        answer = stage.pass_(60)
        assert all("replaced by" in reason for reason in back(answer))
        stage.ask(CPU, 5.0)
    (now,) = stage.grants.given
    assert (now.value, now.raised_from) == (limit.value, limit.raised_from), "as much as ever, and from the same"


def test_one_wish_is_answered_once() -> None:
    stage = Stage()
    stage.ask(CPU, 0.2)
    assert stage.pass_(50).decisions == []
    stage.sees(A, cpu=0.4)
    assert given(stage.ask(CPU, 0.2)) == [], "it does not use what it has"
    stage.sees(A, cpu=0.6)
    (more,) = given(stage.ask(CPU, 0.2))
    assert (more.raised_from, more.value) == (0.5, pytest.approx(0.72))


def test_a_refusal_is_told_once_a_minute() -> None:
    stage = Stage()
    stage.roles[A] = None
    told = [refusals(stage.ask(CPU, 0.5 * (n % 2))) for n in range(100)]
    assert sum(map(len, told)) == 2


def test_what_the_hypervisor_refused_is_not_asked_of_it_again_at_once() -> None:
    stage = Stage()
    (limit,) = given(stage.ask())
    stage.grants.failed(limit.id, stage.now)
    assert stage.grants.given == []
    assert stage.ask().decisions == []
    assert given(stage.pass_(REST_S)), "but later, as it still asks"


@pytest.mark.parametrize("kind", [CPU, MEMORY])
def test_a_guest_that_asks_and_takes_back_keeps_nobody_busy(kind: LimitKind) -> None:
    stage = Stage()
    decisions = [stage.ask(kind, float(n % 2) * 1e6).decisions for n in range(1, 300)]
    assert sum(map(len, decisions)) <= 2 * (300 / REST_S + 1)
    assert sum(map(len, decisions)) >= 4, "and yet it gets what it asks for"


def test_grants_outlive_the_process() -> None:
    stage = Stage()
    (limit,) = given(stage.ask())
    other = Stage()
    other.now = stage.now
    fresh = Grants(other.policy, HostSize(4, 8e6), lambda: LimitId("l9"))
    fresh.resume([limit])
    other.grants = fresh
    assert other.pass_(5).decisions == [], "before it is known what runs nothing is taken back"
    other.run_vms(A, B)
    assert other.pass_(5).decisions == []
    other.roles[A] = None
    assert back(other.pass_(1)) == ["it is under suspicion"]


def test_a_policy_that_allows_less_takes_back() -> None:
    stage = Stage()
    stage.ask()
    stage.grants.set_policy(replace(stage.policy, grants=GrantPolicy(cpu=1.2)))
    assert back(stage.pass_(1)) == ["the policy grants less"]
