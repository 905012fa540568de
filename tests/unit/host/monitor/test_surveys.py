"""Agents are asked now and then where their VMs begin something; the answers come to the judge and into the brief."""

import random
from typing import Any, cast

import msgspec
import pytest

from hypervigil.host.hrem.agents import Agents
from hypervigil.host.hsem.ports import LEAST_LOOKS, UsualPorts
from hypervigil.host.monitor.guests import respond
from hypervigil.host.monitor.inquiries import Inquiries
from hypervigil.host.monitor.surveys import EVERY_S, Surveys, visits
from hypervigil.model.guest import GuestMetric, GuestReport, Question
from hypervigil.model.ids import CaseId, Instant, VmId
from hypervigil.model.traffic import Direction
from hypervigil.model.vm import Inventory, Vm
from hypervigil.wire import gateway, guest
from hypervigil.wire.frames import ProtocolError
from tests.fuzz.lines import SEED, damaged
from tests.fuzz.words import FLOW
from tests.unit.host.monitor.test_conductor import A, FakeEngines, FakeHost, conducting

T0 = 1000.0
AGENT = 7


def report(at: float, *, agent: int = AGENT) -> GuestReport:
    return GuestReport(A, Instant(at), agent, 1, at - 900.0, 1.0, (0,) * len(GuestMetric))


def flows(number: int, *ports: int, agent: int = AGENT, in_all: int | None = None) -> guest.Flows:
    named = tuple(replace_port(FLOW, port) for port in ports)
    return guest.Flows(1, agent, 5, 5_000, number, named, len(named) if in_all is None else in_all)


def replace_port(flow: guest.Flow, port: int, **fields: Any) -> guest.Flow:
    values = {name: getattr(flow, name) for name in flow.__struct_fields__}
    return guest.Flow(**{**values, "there_port": port, **fields})


def asked(inquiries: Inquiries, at: float, *, agent: int = AGENT) -> list[guest.Ask]:
    return inquiries.ask(report(at, agent=agent), (), Instant(at))


def test_an_agent_is_asked_once_in_a_while_and_only_for_what_is_new() -> None:
    inquiries = Inquiries()
    found = {second: asks for second in range(1000) if (asks := asked(inquiries, T0 + second))}
    assert list(found) == [300, 600, 900]
    for second, (one,) in found.items():
        assert one.question == Question.FLOWS
        assert one.since_ms == pytest.approx(1000 * (100 + second - EVERY_S), abs=1)
    assert len({one.number for (one,) in found.values()}) == 3


def test_a_case_comes_first() -> None:
    inquiries = Inquiries()
    asked(inquiries, T0)
    inquiries.opened(A, CaseId("c1"), Instant(T0 + 299))
    assert [asked(inquiries, T0 + second) for second in (300, 400)] == [[], []]
    inquiries.closed(A)
    assert len(asked(inquiries, T0 + 500)) == 1


def test_only_the_answer_of_who_was_asked_counts_and_only_once() -> None:
    surveys = Surveys()
    assert not surveys.due(report(T0), Instant(T0))
    assert surveys.due(report(T0 + EVERY_S), Instant(T0 + EVERY_S))
    surveys.ask(report(T0 + EVERY_S), 12, Instant(T0 + EVERY_S))
    assert not surveys.due(report(T0 + EVERY_S), Instant(T0 + EVERY_S))
    for agent, number in ((AGENT + 1, 12), (AGENT, 13)):
        assert not surveys.take(A, agent, number)
    assert not surveys.take(VmId("b"), AGENT, 12)
    assert surveys.take(A, AGENT, 12)
    assert not surveys.take(A, AGENT, 12)
    surveys.keep([])
    assert not surveys.due(report(T0 + 2 * EVERY_S), Instant(T0 + 2 * EVERY_S)), "forgotten"


def test_what_counts_is_what_the_vm_began_at_ports() -> None:
    told = flows(1, 443, 443, 53)
    others = (
        replace_port(FLOW, 8080, began=Direction.IN),
        replace_port(FLOW, 7, protocol=1),
        replace_port(FLOW, 0),
        replace_port(FLOW, 22, openings=30),
        replace_port(FLOW, 25, openings=0),
    )
    told = guest.Flows(1, AGENT, 5, 5_000, 1, told.flows + others, 20)
    assert visits(A, told) == (A, {443: 2.0, 53: 1.0, 22: 30.0, 25: 1.0}, 12.0)


class Rig:
    """The conductor between an agent that answers and a judge that listens."""

    def __init__(self) -> None:
        self.host = FakeHost()
        self.conductor = conducting(self.host, self.host, gateway=self.host)
        self.conductor.inventory(Inventory((Vm(A, "a", 1, 1024, (), False, "/run/a.sock"),)), Instant(T0))
        self.judge = cast("FakeEngines", self.conductor.hsem)
        self.hear(gateway.ChannelOpen(vm=A, at=Instant(T0)), T0)

    def hear(self, message: gateway.FromGateway, at: float) -> None:
        self.conductor.heard(message, Instant(at))

    def says(self, message: guest.FromGuest, at: float) -> None:
        self.hear(gateway.Heard(vm=A, at=Instant(at), message=message), at)

    def question(self) -> guest.Ask:
        sent = [one.message for one in self.host.log if isinstance(one, gateway.Tell)]
        return next(one for one in reversed(sent) if isinstance(one, guest.Ask))


def test_an_answer_comes_to_the_judge_and_is_no_fact_and_nothing_unasked() -> None:
    rig = Rig()
    rig.conductor.inquiries.surveys.due(report(T0), Instant(T0))
    rig.conductor._inquire(report(T0 + EVERY_S), Instant(T0 + EVERY_S))
    asked = rig.question()
    assert asked.question == "flows"
    before = len(rig.host.log)
    rig.says(flows(asked.number, 443, in_all=3), T0 + EVERY_S + 0.1)
    assert rig.judge.visits == [(A, {443: 1.0}, 2.0)]
    assert len(rig.host.log) == before, "nothing is recorded, and nothing said"
    rig.says(flows(asked.number, 25), T0 + EVERY_S + 0.2)
    assert len(rig.judge.visits) == 1
    assert rig.conductor.agents.state(A).unasked == 1


def test_who_declines_is_asked_the_next_time() -> None:
    rig = Rig()
    rig.conductor.inquiries.surveys.due(report(T0), Instant(T0))
    rig.conductor._inquire(report(T0 + EVERY_S), Instant(T0 + EVERY_S))
    rig.says(guest.Declined(1, AGENT, 5, 5_000, rig.question().number, "busy"), T0 + EVERY_S + 0.1)
    assert (rig.judge.visits, rig.conductor.agents.state(A).unasked) == ([], 0)
    assert rig.conductor.inquiries.surveys.due(report(T0 + 2 * EVERY_S), Instant(T0 + 2 * EVERY_S))


def test_a_damaged_answer_is_refused_or_gives_bounded_ports() -> None:
    rng, taken = random.Random(SEED), 0
    line = msgspec.json.encode(flows(12, 443, 53))
    for _ in range(2000):
        try:
            told = guest.parse_from_guest(damaged(rng, line))
        except ProtocolError:
            continue
        taken += look_at(told)
    assert taken, "some damage is none"


def look_at(told: guest.FromGuest) -> bool:
    agents, inquiries = Agents(), Inquiries()
    agents.inventory([Vm(A, "a", 1, 1024, (), False, "/run/a.sock")], Instant(0.0))
    inquiries.surveys.due(report(T0), Instant(T0))
    inquiries.surveys.ask(report(T0), 12, Instant(T0))
    response = respond(agents, inquiries, gateway.Heard(vm=A, at=Instant(T0), message=told), Instant(T0))
    if response.visits is None:
        return False
    vm, opened, elsewhere = response.visits
    assert vm == A, "whose word it is, the channel says"
    assert len(opened) <= 64
    ports = UsualPorts()
    for _ in range(LEAST_LOOKS):
        ports.visited(vm, opened, elsewhere)
    assert set(ports.usual(vm)) <= opened.keys()
    return True
