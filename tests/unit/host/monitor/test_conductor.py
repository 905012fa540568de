"""The order of things: recorded before acted on, withheld in monitor mode, reconciled after a restart."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, cast

import pytest

from hypervigil.host.hsem.brief import Brief
from hypervigil.host.inventory import AddressBook
from hypervigil.host.journal import Entry, Journal, Kind
from hypervigil.host.monitor.conductor import Conductor
from hypervigil.host.monitor.ledger import FOLDED
from hypervigil.host.monitor.records import Withheld
from hypervigil.model.grants import HostSize
from hypervigil.model.guest import GuestMetric, Question, SpecialRequest
from hypervigil.model.ids import CaseId, Instant, LimitId, PortId, VmId
from hypervigil.model.limits import Limit, LimitKind
from hypervigil.model.network import Between, Forwarding
from hypervigil.model.policy import Mode, NetworkPolicy, Policy, VmPolicy
from hypervigil.model.port_policy import FabricChange
from hypervigil.model.report import EnterLevel2, LiftLimit, OrderLimit
from hypervigil.model.status import Level, Role
from hypervigil.model.vm import Inventory, Nic, Vm
from hypervigil.wire import gateway, guest
from hypervigil.wire import messages as wire
from tests.fuzz.words import SAMPLING, TALKERS, VALUES

A, B = (VmId(f"00000000-0000-0000-0000-00000000000{name}") for name in "ab")
T0 = Instant(1000.0)


class FakeHost:
    """Journal and enforcer in one, so that the order between them shows."""

    def __init__(self) -> None:
        self.log: list[object] = []
        self.connected = True
        self._requests = count(1)
        self._limits = count(1)

    def append_many(self, entries: Iterable[Entry]) -> None:
        self.log += [(entry.kind, entry.value) for entry in entries]

    def next_limit(self) -> LimitId:
        return LimitId(f"l{next(self._limits)}")

    def never_again(self, *, case: CaseId | None = None, limit: LimitId | None = None) -> None:
        self.known = (case, limit)

    def next_request(self) -> int:
        return next(self._requests)

    def send(self, message: wire.ToEnforcer) -> bool:
        if self.connected:
            self.log.append(message)
        return self.connected

    def sent(self, kind: type) -> list:
        return [entry for entry in self.log if isinstance(entry, kind)]

    def recorded(self, kind: Kind) -> list:
        return [entry[1] for entry in self.log if isinstance(entry, tuple) and entry[0] is kind]


class FakeGateway:
    def __init__(self) -> None:
        self.connected = True
        self.sent: list[gateway.ToGateway] = []

    def send(self, message: gateway.ToGateway) -> bool:
        self.sent.append(message)
        return True


class FakeEngines:
    pairs_dropped, postponed = 0, (0, 0)

    def inventory(self, *_args):
        return []

    def observe(self, *_args):
        return []

    hear = tick = release = observe

    def __init__(self) -> None:
        self.facts_told: list = []
        self.reports: list = []
        self.closely = Level.LEVEL1
        self.wanted: tuple[Question, ...] = ()
        self.known = Brief()
        self.visits: list = []
        self.taken_for: Role | None = Role.CLEARED
        self.explained: list[Limit] = []
        self.bounds: dict = {}

    def told(self, fact) -> None:
        self.facts_told.append(fact)

    def heard(self, report) -> None:
        self.reports.append(report)

    def level(self, _vm):
        return self.closely

    def questions(self, _vm):
        return self.wanted

    def role(self, _vm):
        return self.taken_for

    def set_policy(self, *_args):
        pass

    def bounded(self, bounds):
        self.bounds = bounds

    def given(self, grants):
        self.explained = list(grants)

    def clock(self, ahead_s):
        self.ahead_s = ahead_s

    def brief(self, _vm):
        return self.known

    def visited(self, vm, opened, elsewhere) -> None:
        self.visits.append((vm, opened, elsewhere))

    def facts(self, case):
        return {"case": case}


def limit(identity: str = "l1", *, until: float = 30.0, case: str | None = "c1") -> Limit:
    return Limit(
        LimitId(identity),
        A,
        LimitKind.PACKETS,
        T0,
        Instant(T0 + until),
        "too much",
        value=20.0,
        case=CaseId(case) if case else None,
    )


@pytest.fixture
def host() -> FakeHost:
    return FakeHost()


def conducting(
    journal: Any, enforcer: Any, *, policy: Policy | None = None, hsem: Any = None, gateway: Any = None
) -> Conductor:
    """One whose engines decide nothing by themselves; in enforce mode unless ``policy`` says otherwise."""
    return Conductor(
        policy=Policy(mode=Mode.ENFORCE) if policy is None else policy,
        hrem=FakeEngines(),
        hsem=FakeEngines() if hsem is None else hsem,
        book=AddressBook(),
        journal=journal,
        enforcer=enforcer,
        gateway=FakeGateway() if gateway is None else gateway,
        host=HostSize(4, 8e6),
        wall=lambda at: at + 1_000_000,
    )


@pytest.fixture
def conductor(host: FakeHost) -> Conductor:
    built = conducting(host, host)
    nic = Nic(PortId("52:54:00:00:00:0a"), "vnet0", 7, "br0")
    built.inventory(Inventory((Vm(A, "a", 1, 196608, (nic,)),)), T0)
    return built


def test_a_decision_is_recorded_before_it_is_acted_on(conductor: Conductor, host: FakeHost) -> None:
    conductor.act([EnterLevel2(A, CaseId("c1"), T0, ()), OrderLimit(limit())], T0)
    kinds = [entry[0] if isinstance(entry, tuple) else type(entry) for entry in host.log]
    assert kinds.index(Kind.LEVEL) < kinds.index(Kind.ORDERED) < kinds.index(wire.PutLimits)


def test_monitor_mode_withholds_and_says_so(conductor: Conductor, host: FakeHost) -> None:
    conductor.policy = Policy(vms=(VmPolicy("a", mode=Mode.MONITOR),), mode=Mode.ENFORCE)
    conductor.act([OrderLimit(limit())], T0)
    assert not host.sent(wire.PutLimits)
    assert host.recorded(Kind.WITHHELD) == [Withheld(limit(), "monitor mode")]
    assert conductor.ledger.withheld == 1
    conductor.act([LiftLimit(LimitId("l1"), A, T0, "calm")], T0)
    assert not host.sent(wire.LiftLimits), "what was never in force is not lifted in the kernel"


def test_an_exempt_vm_is_judged_but_not_limited(conductor: Conductor, host: FakeHost) -> None:
    conductor.act([OrderLimit(limit())], T0)
    vm = conductor.find("a")
    assert vm is not None
    conductor.exempt(vm, 60.0, "root", T0)
    assert host.sent(wire.LiftLimits)[-1].limits == ("l1",)
    conductor.act([OrderLimit(limit("l2"))], Instant(T0 + 1))
    assert len(host.sent(wire.PutLimits)) == 1
    conductor.tick(Instant(T0 + 61))
    conductor.act([OrderLimit(replace(limit("l3"), since=Instant(T0 + 61), until=Instant(T0 + 90)))], Instant(T0 + 61))
    assert host.sent(wire.PutLimits)[-1].limits[0].id == "l3"


def test_an_exemption_lasts_as_long_as_was_said_whoever_is_started_anew(tmp_path: Path) -> None:
    def begun(journal: Journal, now: Instant) -> tuple[Conductor, FakeHost]:
        built = conducting(journal, enforcer := FakeHost())
        built.ledger.replay(journal.records(kinds=FOLDED), boot_id="this-boot")
        built.resume(now)
        built.inventory(Inventory((Vm(A, "a", 1, 196608, ()), Vm(B, "b", 2, 196608, ()))), now)
        return built, enforcer

    with Journal.open(tmp_path / "journal.db", boot_id="this-boot") as journal:
        before, _ = begun(journal, T0)
        for name in "ab":
            vm = before.find(name)
            assert vm is not None
            before.exempt(vm, 60.0, "root", T0)
            if name == "b":
                before.exempt(vm, 0.0, "root", T0)
        before.tick(T0)
        for after_s, name, put in ((30, "a", False), (30, "b", True), (61, "a", True)):
            now = Instant(T0 + after_s)
            after, enforcer = begun(journal, now)
            after.tick(now)
            vm = after.find(name)
            assert vm is not None
            one = replace(limit(str(journal.next_limit())), vm=vm.vm, since=now, until=Instant(now + 9))
            after.act([OrderLimit(one)], now)
            assert bool(enforcer.sent(wire.PutLimits)) == put, (after_s, name)


@pytest.mark.parametrize("inventory_first", [False, True])
@pytest.mark.parametrize("there", [False, True], ids=["it was undone meanwhile", "it is still in force"])
@pytest.mark.parametrize(
    ("policy", "limited"),
    [
        (Policy(), False),
        (Policy(mode=Mode.ENFORCE), True),
        (Policy(vms=(VmPolicy("a", mode=Mode.ENFORCE),)), True),
        (Policy(vms=(VmPolicy("a", mode=Mode.MONITOR),), mode=Mode.ENFORCE), False),
    ],
    ids=["monitor", "enforce", "this VM enforce", "this VM monitor"],
)
def test_whoever_starts_in_monitor_mode_leaves_no_limit_in_force(
    policy: Policy, limited: bool, there: bool, inventory_first: bool
) -> None:
    host = FakeHost()
    conductor = conducting(host, host, policy=policy)
    one = limit()
    conductor.ledger.ordered(one, 1.0, withheld=False)
    in_force = {one.id} if there else set()

    def answer() -> None:
        conductor.enforced(wire.InForce(request=9, boot_id="b", ports=(), limits=(one,) if in_force else ()), T0)

    def came() -> None:
        conductor.inventory(Inventory((Vm(A, "a", 1, 196608, ()),)), T0)

    for step in (came, answer) if inventory_first else (answer, came):
        step()
    asked = 0
    while asked < len(host.sent(wire.Ask)):  # as the enforcer does
        asked += 1
        answer()
    for message in host.log:
        if isinstance(message, wire.PutLimits):
            in_force |= {x.id for x in message.limits}
        if isinstance(message, wire.LiftLimits):
            in_force -= set(message.limits)
    assert in_force == ({one.id} if limited else set())
    assert bool(conductor.ledger.standing(A)) == limited


def test_the_kernel_is_brought_in_line_after_a_restart(conductor: Conductor, host: FakeHost) -> None:
    conductor.act([OrderLimit(limit("l1")), OrderLimit(limit("l2"))], T0)
    host.log.clear()
    conductor.enforced(wire.InForce(request=9, boot_id="b", ports=(), limits=(limit("l2"), limit("l7"))), T0)
    assert host.sent(wire.LiftLimits)[0].limits == ("l7",), "nobody ordered l7"
    assert [one.id for one in host.sent(wire.PutLimits)[0].limits] == ["l1"], "l1 is missing in the kernel"
    assert len(host.sent(wire.BindPorts)) == 1, "the port is not bound there either"


def test_what_the_enforcer_could_not_do_is_seen(conductor: Conductor, host: FakeHost) -> None:
    conductor.act([OrderLimit(limit())], T0)
    conductor.enforced(wire.Done(request=1, outcomes=(wire.Outcome("l1", False, T0, "no such port"),)), T0)
    assert conductor.ledger.limits[LimitId("l1")].state == "failed"
    assert host.recorded(Kind.ENFORCED)[0].detail == "no such port"
    port = "52:54:00:00:00:0a"
    conductor.enforced(wire.Done(request=1, outcomes=(wire.Outcome(port, False, T0, "gone"),)), T0)
    assert conductor.health.ports_failed == {port: "gone"}
    host.log.clear()
    conductor.bind(T0)
    assert [p.port for p in host.sent(wire.BindPorts)[0].policies] == [port], "a failed port is tried again"


def test_an_operators_limit_ends_by_itself(conductor: Conductor, host: FakeHost) -> None:
    conductor.act([OrderLimit(limit(case=None))], T0)
    conductor.tick(Instant(T0 + 29))
    assert not host.sent(wire.LiftLimits)
    conductor.tick(Instant(T0 + 31))
    assert host.sent(wire.LiftLimits)[0].limits == ("l1",)


def test_the_judge_knows_how_far_ahead_the_walls_clock_is(conductor: Conductor) -> None:
    conductor.tick(T0)
    assert conductor.hsem.ahead_s == 1_000_000
    conductor.wall = lambda at: at - 3600.0
    conductor.tick(T0)
    assert conductor.hsem.ahead_s == -3600


def test_an_unreachable_enforcer_changes_nothing_that_was_decided(conductor: Conductor, host: FakeHost) -> None:
    host.connected = False
    conductor.act([OrderLimit(limit())], T0)
    assert host.recorded(Kind.ORDERED) == [limit()]
    host.connected = True
    conductor.enforced(wire.InForce(request=1, boot_id="b", ports=(), limits=()), T0)
    assert host.sent(wire.PutLimits)[0].limits == (limit(),)


def said(at: float, sequence: int, message: type = guest.Report1) -> gateway.Heard:
    head = (1, 7, sequence, 1000 * sequence)
    if message is guest.Report1:
        return gateway.Heard(
            vm=A, at=Instant(at), message=guest.Report1(*head, 1, 0, 0, 1000, VALUES, SAMPLING, TALKERS)
        )
    return gateway.Heard(vm=A, at=Instant(at), message=guest.Special(*head, sequence, SpecialRequest.MODULE, "x", 1))


def with_channel(conductor: Conductor) -> FakeGateway:
    conductor.inventory(Inventory((Vm(A, "a", 1, 196608, (), False, "/run/a.sock"),)), T0)
    fake = conductor.gateway
    assert isinstance(fake, FakeGateway)
    return fake


def test_the_gateway_is_told_whose_channels_to_read(conductor: Conductor) -> None:
    fake = with_channel(conductor)
    watch = gateway.WatchChannels(channels=(gateway.Channel(A, "/run/a.sock"),))
    assert fake.sent[-1] == watch
    fake.sent.clear()
    conductor.gateway_joined()
    assert fake.sent == [watch], "also one that comes later"


def test_what_agents_tell_and_their_silence_are_on_record(conductor: Conductor, host: FakeHost) -> None:
    fake = with_channel(conductor)
    conductor.heard(gateway.ChannelOpen(vm=A, at=T0), T0)
    conductor.heard(said(T0 + 1, 1), Instant(T0 + 1))
    conductor.heard(said(T0 + 1.5, 2, guest.Special), Instant(T0 + 1.5))
    assert [type(one.message) for one in fake.sent if isinstance(one, gateway.Tell)] == [guest.Ask, guest.Acknowledge]
    conductor.tick(Instant(T0 + 5))
    conductor.tick(Instant(T0 + 6))
    assert [one.kind for one in host.recorded(Kind.GUEST)] == ["agent-heard", "special-request", "agent-silent"]
    told = cast("FakeEngines", conductor.hsem).facts_told
    assert [one.kind for one in told] == ["special-request", "agent-silent"], "what belongs to a case"


def test_without_the_gateway_nobody_is_silent(conductor: Conductor, host: FakeHost) -> None:
    with_channel(conductor)
    conductor.heard(gateway.ChannelOpen(vm=A, at=T0), T0)
    conductor.heard(said(T0 + 1, 1), Instant(T0 + 1))
    conductor.gateway_gone()
    conductor.tick(Instant(T0 + 50))
    assert [one.kind for one in host.recorded(Kind.GUEST)] == ["agent-heard"]


def test_an_agent_is_told_what_is_usual_and_which_level(conductor: Conductor) -> None:
    fake = with_channel(conductor)
    judge = cast("FakeEngines", conductor.hsem)
    judge.known, judge.closely = Brief([(GuestMetric.OUT_SYN, 2.0, 5.0)], (80, 443)), Level.LEVEL2
    conductor.policy = Policy(networks=(NetworkPolicy("t", "br0", "10.60.0.0/24"),))
    fake.sent.clear()
    conductor.heard(said(T0 + 1, 1), Instant(T0 + 1))
    networks, history, level = (one.message for one in fake.sent if isinstance(one, gateway.Tell))
    assert networks == guest.ProviderNetworks(("10.60.0.0/24",))
    assert isinstance(history, guest.BriefHistory)
    assert history.usual == (guest.Usual(GuestMetric.OUT_SYN, 20, 30),)
    assert history.ports == (80, 443)
    assert level == guest.SetLevel(2)


def test_an_old_report_says_nothing_of_the_level(conductor: Conductor) -> None:
    fake = with_channel(conductor)
    conductor.heard(said(T0 + 1, 1_000), Instant(T0 + 1))
    cast("FakeEngines", conductor.hsem).closely = Level.LEVEL2
    fake.sent.clear()
    conductor.heard(said(T0 + 2, 900), Instant(T0 + 2))
    assert fake.sent == []
    assert [one.at for one in cast("FakeEngines", conductor.hsem).reports] == [T0 + 1], "nor anything to the judge"


def test_what_is_guarded_is_what_the_policys_networks_are_on(conductor: Conductor, host: FakeHost) -> None:
    near = NetworkPolicy("n", "br0", uplinks=("eth1",))
    far = NetworkPolicy("f", None, "10.63.0.0/24", uplinks=("tun0",), forwarding=Forwarding.ROUTED)
    for networks, guarding in (
        ((near,), wire.Guarding(("br0",), ("eth1",))),
        ((near, far), wire.Guarding(("br0",), ("eth1", "tun0"), routed=True)),
        ((far,), wire.Guarding((), ("tun0",), routed=True)),
        ((), None),
    ):
        conductor.policy = Policy(mode=Mode.ENFORCE, networks=networks)
        conductor.bind(T0)
        assert host.sent(wire.BindPorts)[-1].guarding == guarding
    conductor.policy = Policy(mode=Mode.MONITOR, networks=(near, far))
    conductor.bind(T0)
    assert host.sent(wire.BindPorts)[-1].guarding is None


def test_who_may_reach_whom_is_sent_as_a_change_and_whole_where_nothing_is_known(
    conductor: Conductor, host: FakeHost
) -> None:
    def sent() -> FabricChange:
        return host.sent(wire.BindPorts)[-1].fabric

    def swap(policy: Policy) -> None:
        conductor.policy = policy
        conductor.bind(T0)

    assert sent() == FabricChange(), "no network policy, nothing to put"
    open_net = NetworkPolicy("n", "br0", between=Between.OPEN)
    swap(Policy(mode=Mode.ENFORCE, networks=(open_net,)))
    first = conductor.compiled.fabric
    assert (sent().whole, set(sent().grants)) == (False, set(first.grants))
    assert first.grants
    swap(Policy(mode=Mode.ENFORCE, networks=(replace(open_net, between=Between.ISOLATED),)))
    assert sent().gone == (("n/default", "n/default"),)
    assert sent().grants == ()
    before = len(host.sent(wire.BindPorts))
    conductor.bind(T0)
    assert len(host.sent(wire.BindPorts)) == before, "nothing changed since"
    conductor.enforced(wire.Done(request=9, outcomes=(wire.Outcome("fabric", False, T0, "no room"),)), T0)
    assert conductor.health.ports_failed == {"fabric": "no room"}
    conductor.bind(T0)
    assert sent().whole, "what is in force there is not known"
    conductor.enforced(wire.Done(request=9, outcomes=(wire.Outcome("fabric", True, T0, ""),)), T0)
    assert conductor.health.ports_failed == {}
    assert "fabric" not in conductor.health.ports_bound
    conductor.enforced(wire.InForce(request=9, boot_id="b", ports=(), limits=(), fabric=first), T0)
    assert sent().gone == (("n/default", "n/default"),), "led on from what the enforcer says is in force"


def test_what_dhcp_gave_is_on_record_known_and_told_to_the_enforcer(host: FakeHost) -> None:
    served = NetworkPolicy("net", "br0", "10.0.0.0/24", ("52:54:00:00:00:ff",))
    built = conducting(host, host, policy=Policy(mode=Mode.ENFORCE, networks=(served,)))
    nic = Nic(PortId("52:54:00:00:00:0a"), "vnet0", 7, "br0")
    before, after = (Inventory((Vm(A, "a", 1, 196608, (one,)),)) for one in (nic, replace(nic, leased=("10.0.0.5",))))
    built.inventory(before, T0)
    assert built.book.owner("10.0.0.5") != A
    built.inventory(after, T0)
    assert built.book.owner("10.0.0.5") == A
    assert host.recorded(Kind.INVENTORY) == [before, after]
    assert [bound.policies[0].leases for bound in host.sent(wire.BindPorts)] == [(), ("10.0.0.5",)]
    built.inventory(before, T0)
    assert built.book.owner("10.0.0.5") != A, "it ended"
    assert host.sent(wire.BindPorts)[-1].policies[0].leases == ()
