"""Who of the agents is heard: silence is a fact only while somebody listens, and no guest can fill the record."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypervigil.host.hrem.agents import NOTES, SILENT_S, Agents
from hypervigil.model.guest import GuestMetric, GuestReport, Hearing
from hypervigil.model.ids import Instant, VmId
from hypervigil.model.metric import Metric
from hypervigil.model.report import HostReport
from hypervigil.model.status import Evidence, Origin
from hypervigil.model.vm import Vm

A, B = VmId("a"), VmId("b")
VALUES = (0,) * len(GuestMetric)


def vm(name: VmId = A, *, paused: bool = False, channel: str | None = "/run/a.sock") -> Vm:
    return Vm(name, str(name), 1, 1024, (), paused, channel)


def report(at: float, *, name: VmId = A, agent: int = 7, level: int = 1) -> GuestReport:
    return GuestReport(name, Instant(at), agent, level, at, 1.0, VALUES)


def kinds(found: list[Evidence]) -> list[str]:
    return [one.kind for one in found]


@pytest.fixture
def agents() -> Agents:
    made = Agents()
    made.inventory([vm(), vm(B, channel=None)], Instant(0.0))
    made.opened(A, Instant(0.0))
    return made


def counted(share: float, *, whole: bool = True) -> HostReport:
    values = np.zeros((2, len(Metric)), np.float32)
    values[:, Metric.CPU] = 0.1, share
    return HostReport(Instant(1.0), 1.0, (B, A), values.data, whole=whole)


@pytest.mark.req("A246")
def test_the_hosts_own_count_of_cpu_is_known_of_the_last_whole_second(agents: Agents) -> None:
    assert agents.cpu(A) is None
    agents.saw(counted(0.5, whole=False), Instant(1.0))
    assert agents.cpu(A) is None
    agents.saw(counted(0.75), Instant(1.0))
    assert (agents.cpu(A), agents.cpu(VmId("gone"))) == (0.75, None)
    agents.saw(counted(float("nan")), Instant(1.0))
    assert agents.cpu(A) is None, "unseen"


def test_a_vm_without_an_agent_is_an_ordinary_vm(agents: Agents) -> None:
    assert agents.state(B).hearing is Hearing.NO_PORT
    assert agents.state(A).hearing is Hearing.UNKNOWN
    assert agents.state(VmId("gone")).hearing is Hearing.NO_PORT
    assert agents.tick(Instant(100.0)) == [], "who never spoke is not silent"


@pytest.mark.req("A219")
def test_an_agent_that_spoke_and_does_not_is_silent_within_three_reports(agents: Agents) -> None:
    assert kinds(agents.reported(report(1.0))) == ["agent-heard"]
    assert agents.state(A).hearing is Hearing.HEARD
    assert agents.tick(Instant(1.0 + SILENT_S)) == []
    (silent,) = agents.tick(Instant(1.1 + SILENT_S))
    assert (silent.kind, silent.origin, silent.vm) == ("agent-silent", Origin.HOST_OBSERVED, A)
    assert agents.state(A).hearing is Hearing.SILENT
    assert agents.tick(Instant(50.0)) == [], "told once"
    assert agents.reported(report(51.0)) == [], "it tells nothing of the time before"
    (back,) = agents.reported(report(52.0))
    assert (back.kind, back.value) == ("agent-heard", 51.0)
    assert agents.state(A).hearing is Hearing.HEARD


@pytest.mark.req("T-CORE-10", "A223")
def test_what_a_channel_carries_is_told_of_the_last_half_minute(agents: Agents) -> None:
    agents.read(A, 5_000, Instant(1.0))
    assert agents.state(A).octets_per_s is None, "nobody knows in how long these came"
    for second in range(2, 40):
        agents.read(A, 400, Instant(float(second)))
    assert agents.state(A).octets_per_s == pytest.approx(400)
    for second in range(40, 70):
        agents.read(A, 800, Instant(float(second)))
    assert agents.state(A).octets_per_s == pytest.approx(800)
    agents.reported(report(70.0))
    agents.reported(report(71.0, level=2))
    assert agents.state(A).octets_per_s is None, "the other level costs otherwise"
    assert agents.state(B).octets_per_s is None


@pytest.mark.req("T-CORE-7")
def test_an_agent_that_tells_of_half_the_time_tells_of_nothing(agents: Agents) -> None:
    agents.reported(report(1.0))
    for second in range(2, 8):
        assert agents.reported(replace(report(float(second)), interval_s=0.6)) == []
    assert agents.state(A).late == 6
    assert kinds(agents.tick(Instant(7.5))) == ["agent-silent"]
    (back,) = agents.reported(report(8.0))
    assert back.kind == "agent-heard", "and once it tells of all of it, it is heard"


def test_one_lost_report_is_no_silence(agents: Agents) -> None:
    for second in (1.0, 2.0, 4.0, 5.0):
        agents.reported(report(second))
    assert agents.state(A).hearing is Hearing.HEARD
    assert agents.state(A).late == 1, "the one after the gap"


def test_nobody_is_silent_while_nobody_listens(agents: Agents) -> None:
    agents.reported(report(1.0))
    agents.deaf()
    assert agents.tick(Instant(60.0)) == []
    assert agents.state(A).hearing is Hearing.CLOSED
    agents.opened(A, Instant(60.0))
    assert agents.tick(Instant(62.9)) == [], "it has as long again to speak"
    assert kinds(agents.tick(Instant(63.1))) == ["agent-silent"]


def test_a_paused_vm_cannot_speak(agents: Agents) -> None:
    agents.reported(report(1.0))
    agents.inventory([vm(paused=True)], Instant(2.0))
    assert agents.tick(Instant(60.0)) == []
    agents.inventory([vm()], Instant(60.0))
    assert agents.tick(Instant(62.0)) == []
    assert kinds(agents.tick(Instant(64.0))) == ["agent-silent"]


def test_a_closed_channel_is_not_the_guests_silence(agents: Agents) -> None:
    agents.reported(report(1.0))
    agents.closed(A)
    assert agents.tick(Instant(60.0)) == []
    assert agents.state(A).hearing is Hearing.CLOSED


def test_another_agent_is_told(agents: Agents) -> None:
    agents.reported(report(1.0))
    assert kinds(agents.reported(report(2.0, agent=8))) == ["agent-replaced"]
    assert agents.reported(report(3.0, agent=8)) == []


def test_a_vm_that_is_gone_is_forgotten(agents: Agents) -> None:
    agents.reported(report(1.0))
    agents.inventory([vm(B)], Instant(2.0))
    assert agents.reported(report(3.0)) == []
    assert agents.state(A).hearing is Hearing.NO_PORT
    agents.opened(A, Instant(4.0))
    agents.untaken(A, 3)
    agents.greeted(A, "0.1.0")


def test_what_is_known_of_it_is_shown(agents: Agents) -> None:
    agents.greeted(A, "0.1.0")
    agents.untaken(A, 3)
    agents.reported(report(1.0, level=2))
    state = agents.state(A)
    assert (state.reported_at, state.level, state.release, state.untaken) == (1.0, 2, "0.1.0", 3)


def test_no_guest_fills_the_record(agents: Agents) -> None:
    """Sixty-four notices a second for a minute."""
    kept = sum(len(agents.reported(report(1.0 + step / 64, agent=step))) for step in range(64 * 60))
    assert kept <= NOTES + 7
    assert agents.state(A).unnoted >= 64 * 60 - kept - 1


@given(
    st.lists(st.tuples(st.sampled_from(["report", "tick", "open", "close", "deaf", "pause", "run"]), st.floats(0, 9)))
)
def test_any_course_of_events_alternates_between_silence_and_speech(events: list[tuple[str, float]]) -> None:
    agents, at, silent = Agents(), 0.0, False
    agents.inventory([vm()], Instant(0.0))
    for what, passed in events:
        at += passed
        found: list[Evidence] = []
        match what:
            case "report":
                found = agents.reported(report(at))
                silent = False
            case "tick":
                found = agents.tick(Instant(at))
            case "open":
                agents.opened(A, Instant(at))
            case "close":
                agents.closed(A)
            case "deaf":
                agents.deaf()
            case "pause" | "run":
                agents.inventory([vm(paused=what == "pause")], Instant(at))
        for one in found:
            assert one.kind in {"agent-heard", "agent-silent"}
            if one.kind == "agent-silent":
                assert not silent
                silent = True
