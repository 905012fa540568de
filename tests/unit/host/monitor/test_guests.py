"""From the gateway's messages to facts: a guest's word under its channel's name, answered where it waits."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypervigil.host.hrem.agents import Agents
from hypervigil.host.monitor.guests import channels, respond
from hypervigil.host.monitor.inquiries import Inquiries
from hypervigil.model.guest import GuestMetric, GuestReport, Hearing, Need, Question, Sampled, SpecialRequest, Suspect
from hypervigil.model.ids import CaseId, Instant, VmId
from hypervigil.model.status import Origin
from hypervigil.model.vm import Vm
from hypervigil.wire import gateway as wire
from hypervigil.wire import guest
from hypervigil.wire.frames import ProtocolError
from tests.fuzz.lines import damaged
from tests.fuzz.words import FROM_GUEST, SAMPLING, TALKERS, VALUES

A = VmId("a")
AT = Instant(10.0)
HEAD = (1, 7, 1, 5_000)


def agents() -> Agents:
    made = Agents()
    made.inventory([Vm(A, "web", 1, 1024, (), False, "/run/a.sock")], Instant(0.0))
    made.opened(A, Instant(0.0))
    return made


def heard(message: guest.FromGuest, at: float = 10.0) -> wire.Heard:
    return wire.Heard(vm=A, at=Instant(at), message=message)


def test_only_domains_with_a_port_are_read() -> None:
    watch = channels([Vm(A, "web", 1, 1024, (), False, "/run/a.sock"), Vm(VmId("b"), "db", 1, 1024)])
    assert watch == wire.WatchChannels(channels=(wire.Channel(A, "/run/a.sock"),))


def test_a_report_is_a_fact_of_the_guests_under_the_channels_name() -> None:
    known = agents()
    response = respond(known, Inquiries(), heard(guest.Report1(*HEAD, 2, 1, 0, 1500, VALUES, SAMPLING, TALKERS)), AT)
    assert response.report is not None
    assert (response.report.vm, response.report.level, response.report.interval_s) == (A, 2, 1.5)
    assert response.report.guest_at_s == 5.0
    assert response.report.sent == Sampled(weight=160, read=50, passed=90, one_in=64)
    assert [one.origin for one in response.evidence] == [Origin.GUEST_REPORTED]
    assert response.say == []
    assert known.state(A).hearing is Hearing.HEARD


def test_an_agent_that_says_less_of_its_sample_is_heard_too() -> None:
    line = b'["r1",1,7,1,5000,1,0,0,1000,%s,[[1,12],[64,50]],[]]' % str(list(VALUES)).replace(" ", "").encode()
    report = respond(agents(), Inquiries(), heard(guest.parse_from_guest(line)), AT).report
    assert report is not None
    assert (report.values, report.sent) == (VALUES, None)


@pytest.mark.parametrize(
    ("notice", "kind", "says"),
    [
        (
            guest.LevelChanged(*HEAD, 3, 2, "breach", Suspect.ATTACKER, (guest.Breach(GuestMetric.OUT_SYN, 9, 2),)),
            "agent-alarm",
            "unusual (out syn) and takes it for: attacker",
        ),
        (guest.LevelChanged(*HEAD, 3, 2, "told", Suspect.UNKNOWN, ()), None, ""),
        (guest.Special(*HEAD, 3, SpecialRequest.MODULE, "dummy", 1), "special-request", "module dummy"),
        (guest.Wanted(*HEAD, 3, Need.CPU, 1000, 500, 10), "wanted", "asks for more cpu"),
        (guest.Wanted(*HEAD, 3, Need.CPU, 1000, 0, 0), None, ""),
        (guest.Lost(*HEAD, 3, 40, 0), "agent-lost", "lost 40 lines"),
    ],
)
@pytest.mark.req("A236")
def test_a_notice_is_acknowledged_and_recorded(notice: guest.FromGuest, kind: str | None, says: str) -> None:
    response = respond(agents(), Inquiries(), heard(notice), AT)
    assert response.say == [wire.Tell(vm=A, message=guest.Acknowledge(3))]
    assert [one.kind for one in response.evidence] == ([] if kind is None else [kind])
    assert all(says in one.text and one.origin is Origin.GUEST_REPORTED for one in response.evidence)


def test_a_channel_that_opens_is_greeted_and_the_answer_is_kept() -> None:
    known = agents()
    known.closed(A)
    assert respond(known, Inquiries(), wire.ChannelOpen(vm=A, at=AT), AT).say == [
        wire.Tell(vm=A, message=guest.Ask(1, "hello"))
    ]
    assert known.state(A).hearing is Hearing.UNKNOWN
    respond(known, Inquiries(), heard(guest.Hello(*HEAD, "0.1.0", "", 1, 0, 1, 1024)), AT)
    respond(known, Inquiries(), wire.Unheard(vm=A, at=AT, garbage=2, replayed=1, held_back_ms=900, untold=4), AT)
    assert (known.state(A).release, known.state(A).untaken) == ("0.1.0", 3)
    respond(known, Inquiries(), wire.ChannelLost(vm=A, at=AT, reason="gone"), AT)
    assert known.state(A).hearing is Hearing.CLOSED


def test_a_message_is_never_from_the_future() -> None:
    known = agents()
    respond(known, Inquiries(), heard(guest.Report1(*HEAD, 1, 0, 0, 1000, VALUES, SAMPLING, TALKERS), at=1e9), AT)
    assert known.state(A).reported_at == AT
    assert [one.kind for one in known.tick(Instant(14.0))] == ["agent-silent"]


@pytest.mark.req("T-CORE-13", "A226")
@given(st.sampled_from(FROM_GUEST), st.randoms(use_true_random=False))
def test_whatever_a_guest_says_is_its_own_and_bounded(message: guest.FromGuest, chance) -> None:
    line = damaged(chance, msgspec.json.encode(message))
    try:
        parsed = guest.parse_from_guest(line)
    except ProtocolError:
        return
    inquiries = Inquiries()
    inquiries.opened(A, CaseId("c1"), Instant(-10.0))
    asked = inquiries.ask(GuestReport(A, AT, message.agent, 2, 5.0, 1.0, VALUES), Question, Instant(0.009))
    assert [one.number for one in asked] == [9, 10, 11], "what the good messages answer"
    response = respond(agents(), inquiries, heard(parsed), AT)
    assert len(response.evidence) <= (4 if isinstance(parsed, guest.Report2) else 1)
    assert len(response.say) <= 1
    assert {one.vm for one in [*response.evidence, *response.say]} <= {A}
    assert all(len(one.text) < 2000 and one.text.isprintable() for one in response.evidence)
