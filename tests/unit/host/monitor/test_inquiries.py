"""What agents are asked while a case is open: once, seldom, and who does not answer is told of and not blamed."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypervigil.guest.agent import Agent, Memory
from hypervigil.guest.port import Port
from hypervigil.host.monitor.inquiries import AGAIN_S, ANSWER_S, SELDOM_S, SOON_S, Inquiries
from hypervigil.model.guest import ACCOUNTS, UNANSWERED, GuestMetric, GuestReport, Question, Zone
from hypervigil.model.ids import CaseId, Instant, VmId
from hypervigil.model.status import Evidence, Origin
from hypervigil.model.traffic import Direction
from hypervigil.wire import guest
from hypervigil.wire.guest import encode_to_guest, parse_from_guest

A, B = VmId("a"), VmId("b")
AGENT = 7
ALL = tuple(Question)
OPENED = 1000.0
GUEST_BEHIND_S = 900.0
"""The guest's clock began so much later than the host's."""


def report(at: float, *, agent: int = AGENT, vm: VmId = A) -> GuestReport:
    return GuestReport(vm, Instant(at), agent, 2, at - GUEST_BEHIND_S, 1.0, (0,) * len(GuestMetric))


def head(number: int, *, agent: int = AGENT) -> tuple[int, int, int, int, int]:
    return (1, agent, 1, 5_000, number)


def top(number: int, *, agent: int = AGENT) -> guest.Top:
    talkers = (guest.Talker(Direction.IN, "10.60.0.2", 12), guest.Talker(Direction.OUT, "198.51.100.9", 900))
    senders = (guest.Transmitter(9, "sniffer", 0, 2, 1), guest.Transmitter(412, "nginx", 5000, 3, 0))
    return guest.Top(*head(number, agent=agent), talkers, senders)


def flow(there: str, packets: int, zone: Zone = Zone.OUTSIDE) -> guest.Flow:
    return guest.Flow(Direction.OUT, 6, "10.60.0.1", 40000, there, 80, zone, packets, 8, 5000, 400, 1)


class Rig:
    """One case of one VM, whose agent reports once a second."""

    def __init__(self) -> None:
        self.inquiries = Inquiries()
        self.inquiries.opened(A, CaseId("c1"), Instant(OPENED))
        self.at = OPENED
        self.asked: list[tuple[float, guest.Ask]] = []
        self.found: list[Evidence] = []

    def ask(self, wanted: tuple[Question, ...] = ALL, *, agent: int = AGENT) -> list[guest.Ask]:
        asks = self.inquiries.ask(report(self.at, agent=agent), wanted, Instant(self.at))
        self.asked += [(self.at, one) for one in asks]
        return asks

    def report(self, after_s: float = 1.0, *, agent: int = AGENT) -> list[Evidence]:
        self.at += after_s
        found = self.inquiries.reported(report(self.at, agent=agent))
        self.found += found
        return found

    def answer(
        self, message: guest.Top | guest.Flows | guest.Load | guest.Declined, *, cpu: float | None = None
    ) -> list[Evidence] | None:
        return self.inquiries.answered(A, message, Instant(self.at), cpu=cpu)


@pytest.mark.req("A222", "A245")
def test_at_its_opening_a_case_asks_who_is_busiest_and_later_for_its_flows() -> None:
    rig = Rig()
    assert [one.question for one in rig.ask()] == ["top", "load"]
    assert rig.ask() == []
    for _ in range(10):
        rig.report()
        rig.ask()
    flows = [(at, one) for at, one in rig.asked if one.question == "flows"]
    assert [at for at, _ in flows] == [OPENED + 3.0]
    assert flows[0][1].since_ms == (OPENED - GUEST_BEHIND_S) * 1000, "since the case was opened, by the guest's clock"
    assert all(encode_to_guest(one) for _, one in rig.asked)
    assert len({one.number for _, one in rig.asked}) == len(rig.asked)


def test_nobody_is_asked_without_a_case_nor_what_nobody_wants_to_know() -> None:
    rig = Rig()
    assert rig.inquiries.ask(report(OPENED, vm=B), ALL, Instant(OPENED)) == []
    assert rig.ask(()) == []
    rig.inquiries.closed(A)
    assert rig.ask() == []
    assert rig.report() == []
    assert rig.answer(top(1)) is None


def test_the_longer_a_case_lasts_the_more_seldom_it_asks() -> None:
    rig = Rig()
    for _ in range(3 * 3600):
        rig.ask((Question.TOP,))
        rig.report()
    pauses = [after - before for (before, _), (after, _) in pairwise(rig.asked)]
    assert pauses[:3] == [AGAIN_S, 2 * AGAIN_S, 4 * AGAIN_S]
    assert pauses[-1] == SELDOM_S
    assert len(rig.asked) < 30


@pytest.mark.req("A222")
def test_an_answer_is_the_guests_word_about_itself() -> None:
    rig = Rig()
    number = rig.ask()[0].number
    (fact,) = rig.answer(top(number)) or []
    assert (fact.vm, fact.kind, fact.origin, fact.value) == (A, "told-top", Origin.GUEST_REPORTED, 900.0)
    assert "to 198.51.100.9: 900" in fact.text
    assert "process 412 (nginx) transmits most, 5,000 bytes" in fact.text
    assert "process 9 (sniffer) holds 1 raw sockets" in fact.text


def test_flows_are_told_by_the_busiest_and_where_they_lead() -> None:
    rig = Rig()
    rig.at += 5.0
    number = next(one.number for one in rig.ask() if one.question == "flows")
    flows = (flow("10.60.0.2", 40, Zone.INSIDE), flow("198.51.100.9", 900))
    (fact,) = rig.answer(guest.Flows(*head(number), flows, 70)) or []
    assert "70 flows since its case was opened, the busiest TCP from 10.60.0.1 port 40000" in fact.text
    assert "to 198.51.100.9 port 80 outside with 900 packets sent" in fact.text
    assert "of the 2 that it names 1 lead outside" in fact.text


@pytest.mark.req("A246")
@pytest.mark.parametrize(
    ("cpu", "says"),
    [
        (0.95, "97.0% of its CPU in use (as the host counts 95.0%)"),
        (0.40, "97.0% of its CPU in use (while the host counts 40.0%)"),
        (None, "97.0% of its CPU in use and"),
    ],
)
def test_load_is_told_beside_what_the_host_counts(cpu: float | None, says: str) -> None:
    rig = Rig()
    number = next(one.number for one in rig.ask() if one.question == "load")
    (fact,) = rig.answer(guest.Load(*head(number), 970, 20, 400, -1, (0, 0, 0), (0, 0, 0)), cpu=cpu) or []
    assert says in fact.text


@pytest.mark.req("A246")
def test_load_is_told_with_how_often_it_was_near_its_capacity() -> None:
    rig = Rig()
    number = next(one.number for one in rig.ask() if one.question == "load")
    (fact,) = rig.answer(guest.Load(*head(number), 970, 20, 400, -1, (3, 0, 1), (40, 0, 2))) or []
    assert (fact.kind, fact.value) == ("told-load", 0.97)
    assert "97.0% of its CPU in use and 2.0% waited for, 40.0% of its memory, an unknown share of its disk" in fact.text
    assert fact.text.endswith("near its capacity: CPU 3 times (40 s), disk 1 times (2 s)")


class Wire(Port):
    """Keeps what the agent says."""

    def __init__(self) -> None:
        super().__init__(None)
        self.lines: list[bytes] = []

    def write(self, line: bytes) -> bool:
        self.lines.append(line)
        return True


@pytest.mark.req("A222", "A245", "A246")
def test_our_agent_answers_all_that_may_be_asked(tmp_path) -> None:
    port, rig = Wire(), Rig()
    agent = Agent(port, Memory(str(tmp_path / "level")))
    rig.at += 5.0
    for asked in rig.ask(agent=agent._voice._agent):
        agent.hear(encode_to_guest(asked).rstrip(), 5_000)
    agent.close()
    found = []
    for line in port.lines:
        answer = parse_from_guest(line.rstrip())
        assert isinstance(answer, guest.Flows | guest.Top | guest.Load)
        found += rig.answer(answer) or []
    assert sorted(one.kind for one in found) == ["told-flows", "told-load", "told-top"]
    assert len(found) == len(Question)


def test_what_was_not_asked_is_no_answer() -> None:
    rig = Rig()
    number = rig.ask((Question.TOP,))[0].number
    assert rig.answer(top(number + 1)) is None, "a number that it invented"
    assert rig.answer(top(number, agent=AGENT + 1)) is None, "another agent than the one that was asked"
    assert rig.answer(guest.Load(*head(number), 0, 0, 0, 0, (0, 0, 0), (0, 0, 0))) is None, "an answer to another one"
    assert rig.answer(top(number)) is not None
    assert rig.answer(top(number)) is None, "a second time"


@pytest.mark.req("A245")
def test_who_reports_and_does_not_answer_is_told_of_once() -> None:
    rig = Rig()
    rig.ask((Question.TOP,))
    while not rig.report():
        assert rig.at < OPENED + 10
    assert rig.at <= OPENED + ANSWER_S + 1.0, "two seconds and a report"
    for _ in range(10):
        rig.report()
    (fact,) = rig.found
    assert (fact.kind, fact.origin, fact.value) == (UNANSWERED, Origin.HOST_OBSERVED, rig.found[0].at - OPENED)
    assert "reports and has not answered the question for its top" in fact.text


def test_a_late_answer_is_still_told() -> None:
    rig = Rig()
    number = rig.ask((Question.TOP,))[0].number
    for _ in range(5):
        rig.report()
    assert [one.kind for one in rig.answer(top(number)) or []] == ["told-top"]


@pytest.mark.req("A245")
def test_to_decline_is_no_answer_either() -> None:
    rig = Rig()
    number = rig.ask((Question.TOP,))[0].number
    (fact,) = rig.answer(guest.Declined(*head(number), "busy")) or []
    assert (fact.kind, fact.origin) == (UNANSWERED, Origin.GUEST_REPORTED)
    assert "declines to answer the question for its top (busy)" in fact.text
    assert [rig.report() for _ in range(10)] == [[]] * 10


@pytest.mark.parametrize("stood_still_s", [3.0, 60.0])
def test_who_stood_still_had_no_time_to_answer(stood_still_s: float) -> None:
    """A paused VM, or one that waits for a CPU: its first report may come before its answer."""
    rig = Rig()
    number = rig.ask((Question.TOP,))[0].number
    assert rig.report(stood_still_s) == []
    assert rig.answer(top(number)) is not None
    assert rig.report() == []


def test_another_agent_owes_no_answer() -> None:
    rig = Rig()
    rig.ask((Question.TOP,))
    assert [rig.report(agent=AGENT + 1) for _ in range(10)] == [[]] * 10


@pytest.mark.parametrize("lost", [lambda one: one.lost(A), lambda one: one.deaf()])
def test_what_may_have_been_lost_on_the_way_owes_no_answer(lost) -> None:
    rig = Rig()
    rig.ask()
    lost(rig.inquiries)
    assert [rig.report() for _ in range(10)] == [[]] * 10


def test_numbers_of_a_former_process_are_not_given_again() -> None:
    before, after = Rig(), Rig()
    number = before.ask((Question.TOP,))[0].number
    after.at += 1.0
    after.ask((Question.TOP,))
    assert after.answer(top(number)) is None


# --- details at Level 2 ----
def report2(*, flows: int = 2, transmitters: bool = True, devices: bool = True) -> guest.Report2:
    known = (flow("10.60.0.2", 40, Zone.INSIDE), flow("198.51.100.9", 900))[:flows]
    sampling = (guest.Sampling(1, 0), guest.Sampling(1, 0))
    senders = top(0).transmitters if transmitters else ()
    asks = (guest.Device("vda", 3, 4096), guest.Device("virtio1-input", 800, 0)) if devices else ()
    head_ = (1, AGENT, 1, 5_000, 2, 0, 0, 1000, (0,) * len(GuestMetric), sampling, ())
    return guest.Report2(*head_, known, 70 if flows else 0, senders, asks)


@pytest.mark.req("A238", "A240", "A241")
def test_details_say_the_busiest_flow_who_sends_most_and_what_asks_most() -> None:
    rig = Rig()
    facts = {one.kind: one for one in rig.inquiries.detailed(A, report2(), Instant(rig.at))}
    assert set(facts) == {"busiest-flow", "busiest-process", "busiest-device"} <= ACCOUNTS
    assert {(one.vm, one.origin) for one in facts.values()} == {(A, Origin.GUEST_REPORTED)}
    assert "70 flows since its report before, the busiest TCP from 10.60.0.1 port 40000 to 198.51.100.9 port 80" in (
        facts["busiest-flow"].text
    )
    assert "of the 2 that it names 1 lead outside" in facts["busiest-flow"].text
    assert "its process 412 (nginx) transmits most, 5,000 bytes" in facts["busiest-process"].text
    assert "its process 9 (sniffer) holds 1 raw sockets" in facts["busiest-process"].text
    assert "its virtio1-input asks most of the hypervisor: 800 requests and 0 bytes in 1.0 s" in (
        facts["busiest-device"].text
    )
    assert [facts[kind].value for kind in sorted(facts)] == [800.0, 908.0, 5000.0]


def test_of_what_there_is_nothing_nothing_is_said() -> None:
    rig = Rig()
    assert rig.inquiries.detailed(A, report2(flows=0, transmitters=False, devices=False), Instant(rig.at)) == []


def test_details_are_kept_of_each_second_and_written_down_ever_more_seldom() -> None:
    rig = Rig()
    written = [second for second in range(120) if rig.inquiries.detailed(A, report2(), Instant(OPENED + second))]
    assert written == [0, 15, 45, 105]
    at, kept = rig.inquiries.details(CaseId("c1")) or (None, None)
    assert (at, kept) == (OPENED + 119, report2())


def test_without_a_case_no_details_are_kept() -> None:
    rig = Rig()
    assert rig.inquiries.detailed(B, report2(), Instant(rig.at)) == []
    rig.inquiries.detailed(A, report2(), Instant(rig.at))
    rig.inquiries.closed(A)
    assert rig.inquiries.details(CaseId("c1")) is None
    assert rig.inquiries.detailed(A, report2(), Instant(rig.at)) == []


@given(st.lists(st.tuples(st.sampled_from(["ask", "report", "still", "answer", "invent", "other"]), st.integers(0, 5))))
def test_whatever_a_guest_does_little_is_kept_and_little_is_told(steps: list[tuple[str, int]]) -> None:
    rig = Rig()
    told = 0
    for step, number in steps:
        match step:
            case "ask":
                rig.ask()
            case "report" | "still":
                told += len(rig.report(1.0 if step == "report" else 2 * SOON_S))
            case "other":
                rig.report(agent=AGENT + number)
            case _:
                known = rig.asked[-1 - number][1].number if len(rig.asked) > number else 0
                answer = replace_number(top(0), known if step == "answer" else number)
                told += len(rig.answer(answer) or [])
        assert len(rig.inquiries._waiting(A)) <= len(Question)
    assert told <= 2 * len(rig.asked), "an answer, and before it that it was missing"
    assert {one.kind for one in rig.found} <= ACCOUNTS


def replace_number(answer: guest.Top, number: int) -> guest.Top:
    return guest.Top(*head(number), answer.talkers, answer.transmitters)


@given(st.floats(0, 1e7), st.integers(0, 2**53 - 1))
def test_flows_are_asked_for_since_a_time_that_any_agent_takes(age_s: float, guest_at_ms: int) -> None:
    rig = Rig()
    rig.at += age_s + 3.0
    told = replace(report(rig.at), guest_at_s=guest_at_ms / 1000)
    (asked,) = rig.inquiries.ask(told, (Question.FLOWS,), Instant(rig.at))
    assert 0 <= asked.since_ms <= 2**53 - 1
