"""Limits and bindings at NICs, against a kernel in memory."""

import socket

import pytest

from hypervigil.hypervisor.adapters.ebpf.dataplane import Drift, Gate
from hypervigil.hypervisor.adapters.ebpf.program import DataPlaneError
from hypervigil.hypervisor.enforcer.nics import HARD_END_AFTER_S, Nics
from hypervigil.hypervisor.enforcer.state import State
from hypervigil.model.ids import PerimeterId, VmId
from hypervigil.model.limits import Limit, LimitKind
from hypervigil.model.port_policy import AddressRange, Fabric, FabricChange, Grant
from hypervigil.model.services import ANYTHING
from hypervigil.model.traffic import Direction, TrafficClass
from hypervigil.wire.messages import Guarding
from tests.unit.hypervisor.enforcer.fakes import BLUE, RED, Gatekeeper, Kernel, limit, port

RED1, RED2, BLUE1 = port(RED, 1), port(RED, 2), port(BLUE, 3)
UDP = frozenset({TrafficClass.UDP})
LO = socket.if_nametoindex("lo")


class Rig:
    def __init__(self) -> None:
        self.kernel, self.guard, self.state = Kernel(), Gatekeeper(), State("boot")
        self.taps: dict[int, str] = {}
        self.nics = Nics(self.kernel, self.guard, lambda: self.taps)
        for policy in (RED1, RED2, BLUE1):
            self.state.ports[policy.port] = policy
            self.nics.bind(self.state, policy)

    def put(self, *limits: Limit) -> list[str]:
        for one in limits:
            self.state.limits[one.id] = one
        return self.nics.settle(self.state, limits[0].vm)

    def lift(self, one: Limit) -> list[str]:
        del self.state.limits[one.id]
        return self.nics.settle(self.state, one.vm)

    def again(self) -> list[str]:
        """The enforcer died and another takes over."""
        self.nics = Nics(self.kernel, self.guard, lambda: self.taps)
        return self.nics.recall(self.state)


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_a_limit_is_at_every_port_of_its_vm_and_at_no_other(rig):
    told = rig.put(limit(LimitKind.PACKETS, 50, classes=UDP))
    assert rig.kernel.out(RED1, TrafficClass.UDP) == rig.kernel.out(RED2, TrafficClass.UDP) == 50
    assert rig.kernel.rates(BLUE1.port) == []
    assert len(told) == 2
    assert "50 packets/s" in told[0]


def test_the_strictest_holds_and_lifting_it_leaves_the_other(rig):
    loose, strict = limit(LimitKind.PACKETS, 50, classes=UDP), limit(LimitKind.PACKETS, 5, classes=UDP)
    rig.put(loose, strict)
    assert rig.kernel.out(RED1, TrafficClass.UDP) == 5
    rig.lift(strict)
    assert rig.kernel.out(RED1, TrafficClass.UDP) == 50
    assert "no limit" in rig.lift(loose)[0]
    assert rig.kernel.rate == {}


def test_the_kernel_lets_go_by_itself_a_while_after_the_end(rig):
    rig.put(limit(LimitKind.PACKETS, 5, until=100.0))
    [rate] = rig.kernel.rates(RED1.port)
    assert rate.end_ns == (100 + HARD_END_AFTER_S) * 10**9


@pytest.mark.parametrize(
    "one",
    [
        limit(LimitKind.PACKETS, 5),
        limit(LimitKind.OCTETS, 5000),
        limit(LimitKind.NEW_DESTINATIONS, 5),
        limit(LimitKind.PEER, 5, direction=Direction.IN, peer="10.0.0.1"),
        limit(LimitKind.SOURCE_PROOF, direction=Direction.IN),
        limit(LimitKind.ISOLATE),
        limit(LimitKind.QUARANTINE),
    ],
    ids=lambda one: one.kind,
)
def test_what_cannot_be_read_back_is_not_in_force(rig, one):
    rig.kernel.deaf = True
    with pytest.raises(DataPlaneError, match="not what was put"):
        rig.put(one)
    rig.kernel.deaf = False
    rig.nics = Nics(rig.kernel, rig.guard, dict)
    rig.put(one)
    rig.lift(one)
    assert rig.kernel.rate == rig.kernel.source == {}
    assert rig.kernel.gate(RED1.port) is Gate.OPEN
    assert rig.kernel.proof(RED1.port) == 0


def test_what_was_done_before_a_failure_is_undone(rig):
    half, fails = limit(LimitKind.PACKETS, 5), limit(LimitKind.ISOLATE)
    rig.kernel.refuses = {"set_gate"}
    with pytest.raises(DataPlaneError):
        rig.put(half, fails)
    assert rig.kernel.out(RED1) == 5, "the control: the first step was done"
    del rig.state.limits[half.id]
    rig.lift(fails)
    assert rig.kernel.rate == {}


def test_a_new_nic_of_a_limited_vm_is_limited(rig):
    rig.put(limit(LimitKind.PACKETS, 5))
    hot = port(RED, 9)
    rig.state.ports[hot.port] = hot
    rig.nics.bind(rig.state, hot)
    assert rig.kernel.out(hot) == 5


# --- another process takes over ---
def test_limits_are_found_again_and_what_nobody_knows_is_cleared(rig):
    kept = limit(LimitKind.PACKETS, 5, classes=UDP)
    unknown = [
        limit(LimitKind.PACKETS, 7),
        limit(LimitKind.NEW_DESTINATIONS, 5),
        limit(LimitKind.ISOLATE),
        limit(LimitKind.SOURCE_PROOF, direction=Direction.IN),
        limit(LimitKind.PEER, 5, direction=Direction.IN, peer="10.0.0.1"),
    ]
    rig.put(kept, *unknown)
    for one in unknown:  # put in the kernel by a process that died before it wrote that down
        del rig.state.limits[one.id]
    assert rig.again() == []
    assert list(rig.kernel.rate) == [(p.port, Direction.OUT, TrafficClass.UDP) for p in (RED1, RED2)]
    assert rig.kernel.gate(RED1.port) is Gate.OPEN
    assert rig.kernel.proof(RED1.port) == 0
    assert rig.kernel.source == {}


def test_a_source_is_one_source_however_it_is_written(rig):
    one = limit(LimitKind.PEER, 5, direction=Direction.IN, peer="FD00:0::1")
    rig.put(one, limit(LimitKind.PEER, 9, direction=Direction.IN, peer="fd00::0001"))
    assert rig.kernel.peers(RED1.port) == {"fd00::1": 5}
    assert rig.again() == []
    assert rig.kernel.peers(RED1.port) == {"fd00::1": 5}


def test_a_port_whose_device_went_meanwhile_is_let_go_and_hinders_nobody(rig):
    rig.put(limit(LimitKind.PACKETS, 5, vm=BLUE))
    rig.kernel.gone = {RED1.port}
    [problem] = rig.again()
    assert "still there" in problem
    assert set(rig.state.ports) == set(rig.kernel.bound) == {RED2.port, BLUE1.port}
    assert rig.kernel.out(BLUE1) == 5


def test_a_port_that_nobody_knows_is_let_go(rig):
    del rig.state.ports[RED1.port]
    rig.again()
    assert set(rig.kernel.bound) == {RED2.port, BLUE1.port}


# --- drift and guard ---
def test_drift_is_repaired_and_told_also_where_it_could_not(rig):
    rig.kernel.drifted = [Drift(RED1.port, "its limits were changed")]
    assert rig.nics.repair(rig.state) == [(RED1.port, True, "its limits were changed")]
    rig.kernel.refuses = {"repair"}
    [(_, ok, what)] = rig.nics.repair(rig.state)
    assert not ok
    assert what == "its limits were changed; the kernel refused repair"


def guarded(rig: Rig, *bridges: str, exempt: tuple[str, ...] = ()) -> None:
    rig.state.guarding = Guarding(bridges or None, exempt)
    rig.nics.guard(rig.state.guarding, rig.state.ports.values())


BOUND = {RED1.ifindex, RED2.ifindex, BLUE1.ifindex}


def test_the_guard_passes_bound_ports_exempt_ones_and_those_of_other_bridges(rig):
    rig.taps = {5001: "tenants", 5002: "office"}
    guarded(rig, exempt=("lo", "not-there"))
    assert rig.guard.passing == BOUND | {LO}
    guarded(rig, "tenants")
    assert rig.guard.passing == BOUND | {5002}
    rig.nics.guard(Guarding(bridges=()), rig.state.ports.values())
    assert rig.guard.passing == BOUND | {5001, 5002}, "where no network of the policy has a bridge, none is guarded"
    rig.nics.guard(None, rig.state.ports.values())
    assert rig.guard.passing is None


def test_a_tap_that_comes_to_another_bridge_passes_and_nobody_is_accused(rig):
    guarded(rig, "tenants")
    rig.taps = {5001: "tenants", 5002: "office"}
    assert rig.nics.repair(rig.state) == []
    assert rig.guard.passing == BOUND | {5002}


def test_a_tap_that_moves_to_a_guarded_bridge_passes_no_more(rig):
    rig.taps = {LO: "office"}
    guarded(rig, "tenants")
    assert rig.guard.passing == BOUND | {LO}
    rig.taps = {LO: "tenants"}
    assert rig.nics.repair(rig.state) == []
    assert rig.guard.passing == BOUND


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        (None, "it was gone"),
        (BOUND - {RED1.ifindex}, "its ports were changed"),
        (BOUND | {LO}, "its ports were changed"),
    ],
    ids=["deleted", "an element deleted", "an element added"],
)
def test_a_guard_that_somebody_changed_is_back(rig, changed, what):
    guarded(rig)
    assert rig.nics.repair(rig.state) == []
    rig.guard.passing = changed
    assert rig.nics.repair(rig.state) == [("guard", True, what)]
    assert rig.guard.passing == BOUND
    assert rig.nics.repair(rig.state) == []


def test_a_new_enforcer_sees_what_was_changed_while_there_was_none(rig):
    guarded(rig)
    rig.guard.passing = BOUND - {RED1.ifindex}
    rig.again()
    assert rig.nics.repair(rig.state) == [("guard", True, "its ports were changed")]


def test_settling_a_vm_without_ports_does_nothing(rig):
    assert rig.put(limit(LimitKind.PACKETS, 5, vm=VmId("nobody"))) == []


def test_who_may_reach_whom_is_put_remembered_and_taken_up_again(rig):
    a, b = PerimeterId("n/a"), PerimeterId("n/b")
    grants = (Grant(a, b, ANYTHING), Grant(b, a, ANYTHING))
    ranges = (AddressRange("10.0.0.0/8", b),)
    rig.nics.change_fabric(rig.state, FabricChange(grants, addresses=ranges))
    rig.nics.change_fabric(rig.state, FabricChange(gone=((b, a),)))
    assert rig.state.fabric == rig.kernel.fabric == Fabric(grants[:1], ranges)
    rig.kernel.refuses.add("change_fabric")
    with pytest.raises(DataPlaneError):
        rig.nics.change_fabric(rig.state, FabricChange(whole=True))
    assert rig.state.fabric == Fabric(grants[:1], ranges), "what is in force stays on record"
    assert rig.again() == ["the kernel refused change_fabric"]
    rig.kernel.refuses.clear()
    rig.kernel.fabric = Fabric()
    assert rig.again() == []
    assert rig.kernel.fabric == Fabric(grants[:1], ranges)
