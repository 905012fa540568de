"""What the monitor hands over is what others can reckon with."""

import random
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import numpy as np
import pytest
from rich.console import Console

from hypervigil.entrypoints.cli import show
from hypervigil.host import policyfile
from hypervigil.host.hsem.history import History
from hypervigil.host.journal.records import Kind
from hypervigil.host.monitor import histories
from hypervigil.host.monitor.answers import Answers
from hypervigil.host.monitor.conductor import Conductor
from hypervigil.model.guest import SpecialRequest
from hypervigil.model.ids import Instant, PortId, VmId
from hypervigil.model.limits import LimitKind
from hypervigil.model.metric import Metric
from hypervigil.model.policy import Mode, NetworkPolicy, Policy
from hypervigil.model.traffic import Direction
from hypervigil.model.vm import Inventory, Nic, Vm
from hypervigil.wire import control, gateway, guest
from hypervigil.wire.frames import FrameDecoder, encode
from tests.fuzz.words import SAMPLING, TALKERS, VALUES
from tests.unit.host.monitor.test_conductor import FakeHost, conducting
from tests.unit.host.test_policyfile import LAYERS

VM = Vm(VmId("u"), "db-1", 1, 1024, (Nic(PortId("52:54:00:00:00:01"), "vnet0", 5, "br-t", ("10.60.0.9",)),))


def test_status_says_what_was_shed() -> None:
    health = SimpleNamespace(blind={}, last_sweep_at=Instant(1.0), ports_bound=frozenset(), ports_failed={})
    health.sweeps, health.lost, health.repairs = 9, 0, 0
    conductor: Any = SimpleNamespace(
        health=health, policy=Policy(), vms={}, wall=float, compiled=SimpleNamespace(ports=())
    )
    conductor.enforcer = SimpleNamespace(connected=True)
    conductor.ledger = SimpleNamespace(cases={}, standing=list, withheld=0)
    conductor.hsem, conductor.hrem = SimpleNamespace(postponed=(12, 340)), SimpleNamespace(pairs_dropped=5)
    unused: Any = lambda *_args: None  # noqa: E731
    answers = Answers(
        conductor,
        sensors_connected=lambda: True,
        journal_state=lambda: {"records": 1, "signed_through": 1},
        samples=unused,
        keep_policy=unused,
        remember=unused,
        recall=unused,
        since_wall=0.0,
    )
    answer = answers.answer(control.ShowStatus(), Instant(1.0))
    assert isinstance(answer, control.Answer)
    assert (answer.body["looks_waiting"], answer.body["looks_postponed"], answer.body["pairs_dropped"]) == (12, 340, 5)
    console = Console(record=True, width=200, file=StringIO())
    show.status(console, answer.body)
    assert "12 VMs wait to be looked at closely" in console.export_text()


def answers_of(conductor: Conductor, **parts: Any) -> Answers:
    unused: Any = lambda *_args: None  # noqa: E731
    names = ("sensors_connected", "journal_state", "samples", "keep_policy", "remember", "recall")
    return Answers(conductor, **{**dict.fromkeys(names, unused), **parts}, since_wall=0.0)


def test_policy_and_inventory_come_whole_over_the_wire() -> None:
    policy = policyfile.parse(LAYERS)
    conductor = cast("Conductor", SimpleNamespace(policy=policy, vms={VM.vm: VM}))
    answer = answers_of(conductor).answer(control.ShowNetwork(), Instant(1.0))
    decoder: FrameDecoder[control.Response] = FrameDecoder(control.Response)
    (there,) = decoder.feed(encode(answer))
    assert isinstance(there, control.Answer)
    assert msgspec.convert(there.body["policy"], Policy) == policy
    assert msgspec.convert(there.body["inventory"], Inventory) == Inventory((VM,))


def test_a_policy_without_a_mode_leaves_that_of_the_start_and_one_with_it_goes_first(tmp_path: Path) -> None:
    conductor = conducting(FakeHost(), FakeHost())
    store = policyfile.PolicyStore(tmp_path, Mode.ENFORCE)
    answers = answers_of(conductor, keep_policy=store.keep, unsaid=store.unsaid)
    host = cast("FakeHost", conductor.journal)

    def applied(text: str) -> list[str]:
        answer = answers.answer(control.ApplyPolicy(text=text), Instant(1.0))
        assert isinstance(answer, control.Answer)
        sentences: list[str] = answer.body["sentences"]
        return sentences

    assert applied("") == ["nothing changes now; what it says, its mode too, counts from here on"]
    assert applied("") == ["nothing to change"]
    assert applied('mode = "enforce"\n') == ["nothing changes now; what it says, its mode too, counts from here on"]
    assert [change.text for change in host.recorded(Kind.POLICY)] == ["", 'mode = "enforce"\n'], "on record"
    assert policyfile.PolicyStore(tmp_path).load() == Policy(mode=Mode.ENFORCE), "it is kept as what the policy says"
    assert applied('mode = "monitor"\n') == ["mode: enforce → monitor"]
    loaded = policyfile.PolicyStore(tmp_path, Mode.ENFORCE).load()
    assert loaded == conductor.policy == Policy(mode=Mode.MONITOR)
    assert applied("# nothing said\n") == ["mode: monitor → enforce"]


def test_a_large_memory_goes_out_and_comes_in_as_it_is() -> None:
    """That of 10,000 VMs is 15 MB, and a frame holds 16."""
    data = random.Random(1).randbytes(15_000_000)
    (out,) = FrameDecoder(control.Response).feed(encode(control.Answer(body={"data": data, "vms": 10_000})))
    assert isinstance(out, control.Answer)
    (back,) = FrameDecoder(control.Request).feed(encode(control.ImportHistory(data=out.body["data"])))
    assert back == control.ImportHistory(data=data)


GONE = VmId("gone")


@pytest.fixture
def learned() -> History:
    history = History()
    values = np.zeros((2, len(Metric)), np.float32)
    values[:, Metric.OUT_SYN] = 30.0, 70.0
    for _ in range(60):
        history.learn([VM.vm, GONE], values)
    return history


@pytest.mark.parametrize(("names", "vms"), [((), {VM.vm, GONE}), (("db-1",), {VM.vm}), (("gone",), {GONE})])
def test_the_memory_of_one_vm_goes_out_alone(learned: History, names: tuple[str, ...], vms: set[VmId]) -> None:
    conductor = conducting(FakeHost(), FakeHost())
    conductor.inventory(Inventory((VM,)), Instant(1.0))
    answer = answers_of(conductor, remember=learned.remember).answer(control.ExportHistory(names=names), Instant(1.0))
    assert isinstance(answer, control.Answer)
    there = History()
    there.recall(histories.decode(answer.body["data"]))
    assert set(there.vms) == vms
    assert all(there.tail(vm, Metric.OUT_SYN) == learned.tail(vm, Metric.OUT_SYN) for vm in vms)
    assert answer.body["vms"] == len(vms)


def test_of_whom_nothing_is_known_nothing_is_exported(learned: History) -> None:
    conductor = conducting(FakeHost(), FakeHost())
    conductor.inventory(Inventory((VM,)), Instant(1.0))
    answers = answers_of(conductor, remember=learned.remember)
    answer = answers.answer(control.ExportHistory(names=("db-1", "nobody")), Instant(1.0))
    assert isinstance(answer, control.Denied)
    assert "no history of a VM called 'nobody'" in answer.reason
    assert "history show" in answer.reason


def test_what_comes_in_is_taken_over_and_on_record(learned: History) -> None:
    host, there = FakeHost(), History()
    answers = answers_of(conducting(host, host), recall=there.recall)
    data = histories.encode(learned.remember().of({GONE}))
    answer = answers.answer(control.ImportHistory(data=data, by="root"), Instant(1.0))
    assert isinstance(answer, control.Answer)
    assert answer.body["sentences"] == ["history of 1 VM taken over"]
    assert there.vms == (GONE,)
    (command,) = host.recorded(Kind.OPERATOR)
    assert (command.by, command.command, command.arguments["vms"]) == ("root", "history import", 1)


@pytest.mark.parametrize("spoil", [lambda data: data[:-40], lambda _data: b"", lambda data: data[40:]])
def test_what_is_no_history_changes_nothing_and_is_not_on_record(
    learned: History, spoil: Callable[[bytes], bytes]
) -> None:
    host, there = FakeHost(), History()
    answers = answers_of(conducting(host, host), recall=there.recall)
    answer = answers.answer(control.ImportHistory(data=spoil(histories.encode(learned.remember()))), Instant(1.0))
    assert isinstance(answer, control.Denied)
    assert "nothing was changed" in answer.reason
    assert there.vms == ()
    assert host.recorded(Kind.OPERATOR) == []


# --- agents ----
class Gateway:
    connected = True

    def send(self, _message: object) -> bool:
        return self.connected


@pytest.fixture
def conductor() -> Conductor:
    host = FakeHost()
    built = conducting(host, host, policy=Policy(), gateway=Gateway())
    with_port = replace(VM, vm=VmId("p"), name="web-1", channel="/run/p.sock")
    built.inventory(Inventory((VM, with_port)), Instant(1000.0))
    return built


def report(at: float) -> gateway.Heard:
    told = guest.Report1(1, 7, 1, 5_000, 2, 0, 0, 1000, VALUES, SAMPLING, TALKERS)
    return gateway.Heard(vm=VmId("p"), at=Instant(at), message=told)


def agent_of(conductor: Conductor, name: str) -> dict[str, Any]:
    answer = answers_of(conductor).answer(control.ShowVms(), Instant(1010.0))
    assert isinstance(answer, control.Answer)
    return next(vm["agent"] for vm in answer.body["vms"] if vm["name"] == name)


def test_each_vm_tells_what_is_heard_of_its_agent(conductor: Conductor) -> None:
    assert agent_of(conductor, "db-1")["hearing"] == "no-port"
    assert agent_of(conductor, "web-1")["hearing"] == "closed"
    conductor.heard(gateway.ChannelOpen(vm=VmId("p"), at=Instant(1000.0)), Instant(1000.0))
    assert agent_of(conductor, "web-1")["hearing"] == "unknown"
    conductor.heard(report(1001.0), Instant(1001.0))
    assert agent_of(conductor, "web-1") == {
        "hearing": "heard",
        "reported_at": 1_001_001.0,
        "level": 2,
        "release": None,
        "untaken": 0,
        "late": 0,
        "unnoted": 0,
        "unasked": 0,
        "notices": 0,
        "notice": None,
        "blind": [],
        "bytes_per_s": None,
    }
    conductor.tick(Instant(1005.0))
    assert agent_of(conductor, "web-1")["hearing"] == "silent"


@pytest.mark.req("A214", "A239")
def test_what_an_agent_notices_is_counted_and_the_last_of_it_told(conductor: Conductor) -> None:
    conductor.heard(gateway.ChannelOpen(vm=VmId("p"), at=Instant(1000.0)), Instant(1000.0))
    for number in range(1, 31):
        what = SpecialRequest.MODULE if number < 30 else SpecialRequest.FORWARDING
        notice = guest.Special(1, 7, number, 5_000, number, what, "x", 1)
        conductor.heard(gateway.Heard(vm=VmId("p"), at=Instant(1001.0), message=notice), Instant(1001.0))
    told = agent_of(conductor, "web-1")
    assert told["notices"] == 30, "also those that are too many for the record"
    assert (told["notice"]["at"], told["notice"]["origin"]) == (1_001_001.0, "guest-reported")
    assert told["notice"]["text"].endswith(": forwarding x")
    assert agent_of(conductor, "db-1")["notices"] == 0
    status = answers_of(conductor).status(Instant(1002.0))
    assert (status["notices"], status["noticing"]) == (30, 1)
    assert (status["cases_open"], status["level2"]) == (0, 0), "ground for none"


def test_what_an_agent_cannot_see_is_told_as_it_greeted_last(conductor: Conductor) -> None:
    def greets(*blind: str) -> None:
        hello = guest.Hello(1, 7, 1, 5_000, "0.1.0", "", 1, 0, 1, 1024, blind)
        conductor.heard(gateway.Heard(vm=VmId("p"), at=Instant(1001.0), message=hello), Instant(1001.0))

    conductor.heard(gateway.ChannelOpen(vm=VmId("p"), at=Instant(1000.0)), Instant(1000.0))
    assert answers_of(conductor).status(Instant(1000.0))["half_blind"] == 0
    greets("headers", "", "headers", "net-snmp")
    assert agent_of(conductor, "web-1")["blind"] == ["headers", "net-snmp"]
    assert agent_of(conductor, "db-1")["blind"] == []
    assert answers_of(conductor).status(Instant(1002.0))["half_blind"] == 1
    answer = answers_of(conductor).answer(control.ShowTopology(), Instant(1002.0))
    assert isinstance(answer, control.Answer)
    assert "cannot see: headers, net-snmp" in str(answer.body["units"])
    greets()
    assert agent_of(conductor, "web-1")["blind"] == []


def test_the_status_counts_agents_and_says_when_nobody_can_be_heard(conductor: Conductor) -> None:
    answers = answers_of(conductor)
    conductor.heard(gateway.ChannelOpen(vm=VmId("p"), at=Instant(1000.0)), Instant(1000.0))
    conductor.heard(report(1001.0), Instant(1001.0))
    status = answers.status(Instant(1002.0))
    assert {hearing: number for hearing, number in status["agents"].items() if number} == {"no-port": 1, "heard": 1}
    assert not [what for what in status["blind"] if "gateway" in what]
    cast("Gateway", conductor.gateway).connected = False
    assert [what for what in answers.status(Instant(1002.0))["blind"] if "gateway" in what]
    conductor.inventory(Inventory((VM,)), Instant(1003.0))
    assert not [what for what in answers.status(Instant(1003.0))["blind"] if "gateway" in what], "there is none to hear"


def test_the_topology_shows_gateway_and_agents(conductor: Conductor) -> None:
    answer = answers_of(conductor).answer(control.ShowTopology(), Instant(1001.0))
    assert isinstance(answer, control.Answer)
    units = {one["unit"]: one for one in answer.body["units"]}
    assert units["gateway"]["up"]
    assert units["VSEM+VREM db-1"] == {
        "unit": "VSEM+VREM db-1",
        "up": False,
        "text": "no port for an agent: judged from outside",
    }
    conductor.heard(gateway.ChannelOpen(vm=VmId("p"), at=Instant(1000.0)), Instant(1000.0))
    conductor.heard(report(1001.0), Instant(1001.0))
    units = {one["unit"]: one for one in answers_of(conductor)._topology()["units"]}
    assert units["VSEM+VREM web-1"]["up"]


@pytest.mark.parametrize(
    ("addresses", "leased", "servers", "binding"),
    [
        ((), ("10.0.0.5",), ("52:54:00:00:00:ff",), "MAC and leases"),
        (("10.0.0.4",), ("10.0.0.5",), ("52:54:00:00:00:ff",), "MAC, addresses and leases"),
        (("10.0.0.4",), (), (), "MAC and addresses"),
        ((), (), (), "MAC, and what is another's"),
    ],
)
def test_the_topology_shows_what_binds_a_nic_and_its_leases(
    addresses: tuple[str, ...], leased: tuple[str, ...], servers: tuple[str, ...], binding: str
) -> None:
    host = FakeHost()
    policy = Policy(networks=(NetworkPolicy("net", "br0", trusted_dhcp_macs=servers),))
    built = conducting(host, host, policy=policy)
    nic = Nic(PortId("52:54:00:00:00:0a"), "vnet0", 7, "br0", addresses, leased)
    built.inventory(Inventory((Vm(VmId("a"), "a", 1, 1, (nic,)),)), Instant(1000.0))
    [port] = answers_of(built)._topology()["ports"]
    assert port["binding"] == binding
    assert {*addresses, *leased} <= {*port["addresses"]}
    assert bool(port["addresses"]) == bool(addresses or leased)


def test_a_peer_that_is_no_address_is_refused_by_the_options_name() -> None:
    host = FakeHost()
    conductor = conducting(host, host)
    conductor.vms[VM.vm] = VM
    order = control.PutLimit(name="db-1", kind=LimitKind.PEER, value=5.0, for_s=60, peer="foo", direction=Direction.IN)
    answer = answers_of(conductor).answer(order, Instant(1.0))
    assert isinstance(answer, control.Denied)
    assert answer.reason.startswith("--peer takes the source's IPv4 or IPv6 address")
    assert "not 'foo'" in answer.reason
