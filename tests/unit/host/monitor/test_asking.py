"""Whole conversations of the monitor with agents while a case is open: asked, answered, silent, lying."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from hypervigil.entrypoints.cli import show
from hypervigil.host.hsem.judge import AWAIT_ANSWER_S, judge
from hypervigil.host.journal import Journal, Kind
from hypervigil.host.journal.replay import replay
from hypervigil.host.monitor.conductor import Conductor
from hypervigil.host.monitor.inquiries import Inquiries
from hypervigil.model.guest import ACCOUNTS, UNANSWERED
from hypervigil.model.ids import VmId
from hypervigil.model.observation import Sweep
from hypervigil.model.status import Evidence, Level, Origin, Role
from hypervigil.model.vm import Inventory
from hypervigil.wire import control, gateway, guest
from hypervigil.wire.frames import encode
from tests.fuzz.words import FLOW, SAMPLING, TALKERS, TRANSMITTER, VALUES
from tests.unit.host.hsem.behaviour import floods_open_port, for_, streams
from tests.unit.host.monitor.test_answers import answers_of
from tests.unit.host.monitor.test_conversation import Host

AGENT = 7
DEVICE = guest.Device("vda", 300, 4096)
SPEAKER = VmId("mallory")
Answers = Callable[[guest.Ask, tuple[Any, ...]], guest.FromGuest | None]
"""What an agent says to a question; the head of what it says ends with the question's number."""


def honest(asked: guest.Ask, head: tuple[Any, ...]) -> guest.FromGuest | None:
    match asked.question:
        case "top":
            return guest.Top(*head, TALKERS, (TRANSMITTER,))
        case "flows":
            return guest.Flows(*head, (FLOW,), 1)
        case "load":
            return guest.Load(*head, 900, 0, 400, -1, (1, 0, 0), (12, 0, 0))
    return None


def silent(_asked: guest.Ask, _head: tuple[Any, ...]) -> None:
    return None


def lying(asked: guest.Ask, head: tuple[Any, ...]) -> guest.FromGuest | None:
    return honest(asked, (*head[:-1], asked.number + 1))


class Guests(Host):
    """The same town, in which mallory has an agent."""

    def __init__(self, journal: Journal, agent: Answers | None) -> None:
        self._agent = agent
        self._next_line = 1
        self._read = 0
        self._reports_at = 0.0
        super().__init__(journal)
        self.asked: list[tuple[float, guest.Ask]] = []
        if agent is not None:
            self._hear(gateway.ChannelOpen(vm=SPEAKER, at=self.now))
        self.begun = self.now

    def _inventory(self, names) -> Inventory:
        found = super()._inventory(names).vms
        return Inventory(tuple(replace(vm, channel="/run/m.sock") if vm.vm == SPEAKER else vm for vm in found))

    def _hear(self, message: gateway.FromGateway) -> None:
        assert self.conductor is not None
        self.conductor.heard(message, self.now)

    def _say(self, kind: type, *fields: Any, answer: Any = None) -> None:
        self._next_line += 1
        message = answer
        if answer is None:
            message = kind(1, AGENT, self._next_line, int(1000 * (self.now - 900.0)), *fields)
        self._hear(gateway.Heard(vm=SPEAKER, at=self.now, message=message))

    def swept(self, sweep: Sweep) -> None:
        super().swept(sweep)
        if self.conductor is None or self._agent is None or not hasattr(self, "asked"):
            return
        said, self._read = self.enforcer.sent[self._read :], len(self.enforcer.sent)
        for told in said:
            if isinstance(told, gateway.Tell) and isinstance(told.message, guest.Ask) and told.message.number > 1:
                asked = guest.parse_to_guest(guest.encode_to_guest(told.message).rstrip())
                assert isinstance(asked, guest.Ask)
                self.asked.append((self.now - self.begun, asked))
                answer = self._agent(asked, (1, AGENT, 1, 5_000, asked.number))
                if answer is not None:
                    self._say(type(answer), answer=answer)
        if self.now - self._reports_at >= 1.0 - 1e-6:
            self._reports_at = self.now
            seen = (VALUES, SAMPLING, TALKERS)
            if self.conductor.hsem.level(SPEAKER) is Level.LEVEL2:
                self._say(guest.Report2, 2, 0, 0, 1000, *seen, (FLOW,), 3, (TRANSMITTER,), (DEVICE,))
            else:
                self._say(guest.Report1, 1, 0, 0, 1000, *seen)


@contextmanager
def talking(path: Path, agent: Answers | None) -> Iterator[Guests]:
    with Journal.open(path, boot_id="boot") as journal:
        yield Guests(journal, agent)


def attacked(path: Path, agent: Answers | None) -> tuple[Guests, list[tuple[str, Role, float]]]:
    with talking(path, agent) as host:
        host.run(3.0)
        host.begin(for_(8.0, floods_open_port("mallory", "web", 500))).run(9.0)
        return host, [(one.vm, one.role, one.at) for one in host.witness.verdicts]


def told(path: Path, case: str | None) -> list[Evidence]:
    with Journal.open(path, read_only=True) as reader:
        found = list(reader.records(kinds=[Kind.GUEST]))
        assert replay(reader, judge).ok
    return [one.read(Evidence) for one in found if one.case == case]


@pytest.mark.req("A222", "A245")
def test_a_case_asks_its_vms_agent_and_what_that_says_is_told_with_it(tmp_path: Path) -> None:
    host, verdicts = attacked(tmp_path / "j", honest)
    assert ("mallory", Role.ATTACKER) in [verdict[:2] for verdict in verdicts]
    assert [asked.question for _, asked in host.asked] == ["top", "flows"], "each once"
    (case,) = {one.case for one in host.witness.verdicts if one.vm == "mallory"}
    accounts = [one for one in told(tmp_path / "j", case) if one.kind in ACCOUNTS]
    assert [one.kind for one in accounts if one.kind.startswith("told")] == ["told-top", "told-flows"]
    assert {one.vm for one in accounts} == {"mallory"}
    assert not [one for one in told(tmp_path / "j", None) if one.kind in ACCOUNTS]


def test_what_was_told_in_time_stands_beside_what_decided(tmp_path: Path) -> None:
    host, _ = attacked(tmp_path / "j", honest)
    verdict = next(one for one in host.witness.verdicts if one.vm == "mallory")
    assert "told-top" in [one.kind for one in verdict.evidence]


@pytest.mark.req("A245")
@pytest.mark.parametrize("agent", [silent, lying])
def test_who_gives_no_answer_is_told_of_and_judged_as_ever(tmp_path: Path, agent: Answers) -> None:
    host, verdicts = attacked(tmp_path / "j", agent)
    assert [one.kind for one in told(tmp_path / "j", "c1") if one.kind in ACCOUNTS].count(UNANSWERED) == 2
    assert verdicts == attacked(tmp_path / "honest", honest)[1]
    assert host.conductor is not None
    assert host.conductor.agents.state(SPEAKER).unasked == (2 if agent is lying else 0)


def surged(path: Path, agent: Answers | None, after_s: float) -> tuple[list[Role], float]:
    """Mallory streams and soon stops; what it is found to be, and how old its case is then."""
    with talking(path, agent) as host:
        host.run(3.0 + after_s)
        host.begin(for_(2.0, streams("mallory", "alice", 300, reports_per_s=0)))
        while SPEAKER not in host.witness.cases:
            host.run(0.2)
        opened = host.now
        host.run(20.0)
        verdicts = [one for one in host.witness.verdicts if one.vm == SPEAKER]
        return [one.role for one in verdicts], verdicts[-1].at - opened


@pytest.mark.req("A245")
@pytest.mark.parametrize("after_s", [0.0, 0.6])
def test_a_surge_that_was_honest_is_cleared_later_where_the_agent_owes_an_answer(
    tmp_path: Path, after_s: float
) -> None:
    """Whenever in a second it was asked, it is known in time that there was no answer."""
    roles, without = surged(tmp_path / "none", None, after_s)
    assert surged(tmp_path / "honest", honest, after_s) == (roles, without)
    assert without < AWAIT_ANSWER_S
    for agent in (silent, lying):
        found, after = surged(tmp_path / agent.__name__, agent, after_s)
        assert found == roles == [Role.CLEARED]
        assert AWAIT_ANSWER_S <= after < AWAIT_ANSWER_S + 0.5


def test_without_an_agent_nobody_is_asked_and_the_same_is_found(tmp_path: Path) -> None:
    host, verdicts = attacked(tmp_path / "j", None)
    assert not [one for one in host.enforcer.sent if isinstance(one, gateway.Tell)]
    assert verdicts == attacked(tmp_path / "honest", honest)[1]


@pytest.mark.req("A222")
def test_a_case_shows_what_the_agent_told_after_its_verdict(tmp_path: Path) -> None:
    with talking(tmp_path / "j", honest) as host:
        host.begin(for_(8.0, floods_open_port("mallory", "web", 500))).run(9.0)
        assert isinstance(host.conductor, Conductor)
        answer = answers_of(host.conductor).answer(control.ShowCase(case=host.witness.cases[SPEAKER]), host.now)
        assert isinstance(answer, control.Answer)
        assert {"told-top", "told-flows"} <= {one["kind"] for one in answer.body["told"]}
        console = Console(record=True, width=400, file=StringIO())
        show.case(console, answer.body)
        shown = console.export_text()
    assert "tells of 1 flows since its case was opened" in shown
    assert shown.count("told-top") == 1, "told with the verdict already"


@pytest.mark.req("A238", "A240", "A241")
def test_details_at_level_2_are_on_record_with_the_case_and_shown_while_it_is_open(tmp_path: Path) -> None:
    with talking(tmp_path / "j", honest) as host:
        host.begin(for_(8.0, floods_open_port("mallory", "web", 500))).run(9.0)
        assert host.conductor is not None
        case, answers = host.witness.cases[SPEAKER], answers_of(host.conductor)
        answer = answers.answer(control.ShowCase(case=case), host.now)
        assert isinstance(answer, control.Answer)
        encode(answer)
        details = answer.body["details"]
        console = Console(record=True, width=400, file=StringIO())
        show.case(console, answer.body)
        shown = console.export_text()
        host.run(20.0)
        assert SPEAKER not in host.witness.cases
        later = answers.answer(control.ShowCase(case=case), host.now)
        assert isinstance(later, control.Answer)
    assert details["flows_in_all"] == 3
    (flow,) = details["flows"]
    assert (flow["zone"], flow["began"], flow["there"], flow["there_port"]) == ("inside", "out", "10.60.0.2", 80)
    assert details["transmitters"] == [{"pid": 412, "name": "nginx", "octets_out": 5000, "sockets": 3, "raw": 0}]
    assert details["devices"] == [{"name": "vda", "requests": 300, "octets": 4096}]
    assert "the busiest of 3 flows" in shown
    assert re.search(r"6 +out +10\.60\.0\.1 40000 +10\.60\.0\.2 80 +inside +10 +8 +5,400", shown)
    assert later.body["details"] is None
    assert {"busiest-flow", "busiest-process", "busiest-device"} <= {one["kind"] for one in later.body["told"]}
    assert "busiest-device" in [one.kind for one in told(tmp_path / "j", case)]


def test_a_restarted_monitor_goes_on_asking_of_cases_that_are_open(tmp_path: Path) -> None:
    with talking(tmp_path / "j", honest) as host:
        host.begin(for_(3.0, floods_open_port("mallory", "web", 500))).run(4.0)
        before = host.conductor
        assert before is not None
        host._hear(gateway.ChannelLost(vm=SPEAKER, at=host.now, reason="restart"))
        former, before.inquiries = before.inquiries, Inquiries()
        assert before.inquiries.case(SPEAKER) is None
        before.resume(host.now)
        assert before.inquiries.case(SPEAKER) == former.case(SPEAKER) == host.witness.cases[SPEAKER]


def test_many_accounts_are_written_together(tmp_path: Path) -> None:
    """An answer can wait for the next tick; that an agent fell silent cannot."""
    with talking(tmp_path / "j", honest) as host:
        assert host.conductor is not None
        written = host.journal.count()
        account = Evidence(SPEAKER, "told-top", Origin.GUEST_REPORTED, host.now, 1.0, None, "", "…")
        host.conductor.told([account], host.now)
        host.conductor.told([account], host.now)
        assert host.journal.count() == written
        host.conductor.tick(host.now)
        assert host.journal.count() == written + 2
        host.conductor.told([replace(account, kind="agent-silent")], host.now)
        assert host.journal.count() == written + 3
