"""Limits of domains, against a libvirt in memory."""

import pytest

from hypervigil.hypervisor.adapters.libvirt.limits import DomainError
from hypervigil.hypervisor.enforcer.domains import DomainSteps
from hypervigil.hypervisor.enforcer.state import State
from hypervigil.model.ids import PortId
from hypervigil.model.limits import Limit, LimitKind
from hypervigil.model.policy import Mode
from hypervigil.model.port_policy import PortPolicy
from tests.unit.hypervisor.enforcer.fakes import RED, Libvirt, limit

CPU = LimitKind.CPU


class Rig:
    def __init__(self) -> None:
        self.libvirt, self.state = Libvirt(), State("boot")
        self.kept: list[int] = []
        self.steps = DomainSteps(self.libvirt, self.keep)
        self.full = False

    def keep(self) -> None:
        if self.full:
            raise OSError("no space left")
        self.kept.append(len(self.state.originals))

    def put(self, one: Limit) -> str:
        self.state.limits[one.id] = one
        return self.steps.settle(self.state, one.vm, one.kind)

    def lift(self, one: Limit) -> str:
        self.state.limits.pop(one.id, None)
        return self.steps.settle(self.state, one.vm, one.kind)

    @property
    def now(self) -> float:
        return self.libvirt.now[RED, CPU]


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_the_strictest_holds_and_what_was_before_comes_back(rig):
    loose, strict = limit(CPU, 0.5), limit(CPU, 0.2)
    assert rig.put(loose) == "cpu 0.5"
    rig.put(strict)
    assert rig.now == 0.2
    rig.lift(strict)
    assert rig.now == 0.5
    assert rig.lift(loose) == "as before"
    assert rig.now == Libvirt.WAS
    assert rig.state.originals == []


def test_what_was_before_is_on_disk_before_anything_changes(rig):
    rig.full = True
    with pytest.raises(OSError, match="no space"):
        rig.put(limit(CPU, 0.5))
    assert rig.libvirt.now == {}


def test_a_domain_that_is_gone_is_forgotten(rig):
    one = limit(CPU, 0.5)
    rig.put(one)
    rig.libvirt.gone = {RED}
    assert rig.steps.repair(rig.state) == []
    assert rig.lift(one) == "as before"
    assert rig.state.originals == []


def test_what_somebody_changes_is_put_back_and_told(rig):
    rig.put(limit(CPU, 0.5))
    assert rig.steps.repair(rig.state) == []
    rig.libvirt.now[RED, CPU] = 1.0
    assert rig.steps.repair(rig.state) == [("red cpu", True, "it was changed; now cpu 0.5")]
    assert rig.now == 0.5


def test_what_could_not_be_restored_is_restored_later(rig):
    one = limit(CPU, 0.5)
    rig.put(one)
    rig.libvirt.silent = True
    with pytest.raises(DomainError):
        rig.lift(one)
    assert rig.steps.repair(rig.state) == []
    assert rig.now == 0.5, "the control: it is still limited"
    rig.libvirt.silent = False
    assert rig.steps.repair(rig.state) == [("red cpu", True, "its limit was left over; now as before")]
    assert rig.now == Libvirt.WAS
    assert rig.steps.repair(rig.state) == []


def test_one_domain_that_does_not_answer_hinders_no_other(rig):
    rig.put(limit(CPU, 0.5))
    rig.put(limit(LimitKind.PAUSE))
    holds = rig.libvirt.holds

    def one_hangs(vm, kind, value, above):
        if kind is CPU:
            raise DomainError("a lock is held")
        return holds(vm, kind, value, above)

    rig.libvirt.holds = one_hangs
    rig.libvirt.now[RED, LimitKind.PAUSE] = 0
    assert [subject for subject, _, _ in rig.steps.repair(rig.state)] == ["red pause"]


def grant(value: float) -> Limit:
    return limit(LimitKind.MEMORY, value, raised_from=float(Libvirt.WAS))


@pytest.mark.parametrize("first_the_limit", [True, False])
def test_a_grant_raises_and_any_limit_goes_before_it(rig, first_the_limit):
    given, taken = grant(1000.0), limit(LimitKind.MEMORY, 500.0)
    rig.put(given)
    assert rig.libvirt.now[RED, LimitKind.MEMORY] == 1000.0
    rig.put(grant(1200.0))
    assert rig.libvirt.now[RED, LimitKind.MEMORY] == 1200.0, "of several the largest"
    rig.put(taken)
    assert rig.libvirt.now[RED, LimitKind.MEMORY] == 500.0
    rest = [one for one in rig.state.limits.values() if one is not taken]
    for one in [taken, *rest] if first_the_limit else [*rest, taken]:
        rig.lift(one)
        left = list(rig.state.limits.values())
        if taken not in left and left:
            assert rig.libvirt.now[RED, LimitKind.MEMORY] == max(x.value for x in left)
    assert rig.libvirt.now[RED, LimitKind.MEMORY] == Libvirt.WAS
    assert rig.state.originals == []


def test_a_grant_of_less_than_there_was_changes_nothing(rig):
    rig.libvirt.now[RED, LimitKind.MEMORY] = 2000
    with pytest.raises(DomainError, match="as much without"):
        rig.put(grant(1000.0))
    assert rig.libvirt.now[RED, LimitKind.MEMORY] == 2000


def test_a_grant_that_somebody_changes_is_put_back(rig):
    rig.put(grant(1000.0))
    rig.libvirt.now[RED, LimitKind.MEMORY] = 3
    assert rig.steps.repair(rig.state) == [("red memory", True, "it was changed; now memory 1000")]


# --- limits that go with a domain ---
def arrived(rig: Rig, *, migrating: bool = False) -> State:
    """Another host, where the domain of the rig runs now, with what was in its definition."""
    port = PortPolicy(PortId("52:54:00:00:00:01"), RED, "vnet0", 3, Mode.ENFORCE, migrating=migrating)
    return State("another boot", ports={port.port: port})


def test_what_a_domain_had_is_written_into_it_until_it_has_it_again(rig):
    cpu, disk = limit(CPU, 0.5), limit(LimitKind.BLOCK_OCTETS, 1e6)
    rig.put(cpu)
    rig.put(disk)
    assert set(rig.libvirt.marked[RED]) == {CPU, LimitKind.BLOCK_OCTETS}
    rig.lift(cpu)
    assert rig.libvirt.marked[RED] == {LimitKind.BLOCK_OCTETS: {"was": Libvirt.WAS}}
    rig.lift(disk)
    assert rig.libvirt.marked[RED] == {}


def test_a_limit_that_came_with_a_domain_is_lifted_where_nobody_ordered_it(rig):
    rig.put(limit(CPU, 0.5))
    there = arrived(rig)
    steps = DomainSteps(rig.libvirt, lambda: None)
    assert steps.repair(there) == [("red cpu", True, "its limit was left over; now as before")]
    assert rig.now == Libvirt.WAS
    assert rig.libvirt.marked[RED] == {}
    assert steps.repair(there) == []


def test_who_is_still_on_its_way_is_looked_at_when_it_is_there(rig):
    rig.put(limit(CPU, 0.5))
    steps = DomainSteps(rig.libvirt, lambda: None)
    assert steps.repair(arrived(rig, migrating=True)) == []
    assert rig.now == 0.5
    rig.libvirt.silent = True
    there = arrived(rig)
    assert steps.repair(there) == []
    rig.libvirt.silent = False
    assert len(steps.repair(there)) == 1


def test_ones_own_limits_are_no_others_after_a_restart(rig):
    rig.put(limit(CPU, 0.5))
    rig.state.ports = arrived(rig).ports
    assert DomainSteps(rig.libvirt, rig.keep).repair(rig.state) == []
    assert rig.now == 0.5
    assert len(rig.state.originals) == 1


def test_a_limit_that_is_ordered_before_anybody_looked_does_not_take_another_hosts_for_the_domains_own(rig):
    rig.put(limit(CPU, 0.5))
    there = arrived(rig)
    steps = DomainSteps(rig.libvirt, lambda: None)
    one = limit(CPU, 0.3)
    there.limits[one.id] = one
    assert steps.settle(there, RED, CPU) == "cpu 0.3"
    there.limits.clear()
    steps.settle(there, RED, CPU)
    assert rig.now == Libvirt.WAS


def test_a_domain_that_starts_again_under_a_limit_is_marked_again(rig):
    rig.put(limit(CPU, 0.5))
    rig.libvirt.marked.clear()
    rig.libvirt.now[RED, CPU] = 1.0
    rig.state.ports = arrived(rig).ports
    assert len(rig.steps.repair(rig.state)) == 1
    assert set(rig.libvirt.marked[RED]) == {CPU}


def test_a_domain_that_cannot_be_marked_is_limited_all_the_same(rig, monkeypatch):
    def refuse(_vm, _originals):
        raise DomainError("libvirt refused: metadata is not supported")

    monkeypatch.setattr(rig.libvirt, "mark", refuse)
    assert rig.put(limit(CPU, 0.5)) == "cpu 0.5"
    assert rig.now == 0.5
