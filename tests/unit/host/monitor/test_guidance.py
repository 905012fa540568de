"""What agents are told: down where nobody finds anything, up when a case is open, and again when it was lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypervigil.guest.vsem.levels import LEVEL1, LEVEL2, Levels
from hypervigil.host.monitor.guidance import (
    AGAIN_S,
    CALM_S,
    NETWORKS,
    TAUGHT,
    TEACH_S,
    Guidance,
    brief_history,
    provider_networks,
)
from hypervigil.model.guest import GuestMetric, GuestReport
from hypervigil.model.ids import Instant, VmId
from hypervigil.wire.guest import HISTORY_LINE, SetLevel, ToGuest, encode_to_guest, parse_to_guest

A = VmId("a")


def report(at: float, level: int, *, agent: int = 7) -> GuestReport:
    return GuestReport(A, Instant(at), agent, level, at, 1.0, (0,) * len(GuestMetric))


class Rig:
    def __init__(self) -> None:
        self.guidance = Guidance()
        self.lessons: list[float] = []
        self.at = 1000.0

    def second(self, level: int, *, case: bool = False, agent: int = 7) -> list[int]:
        """The levels that it is told after one more report."""
        self.at += 1.0

        def lesson() -> list[ToGuest]:
            self.lessons.append(self.at)
            return []

        said = self.guidance.after(report(self.at, level, agent=agent), case=case, lesson=lesson)
        return [one.level for one in said if isinstance(one, SetLevel)]


@pytest.mark.req("A217")
def test_an_agent_that_found_something_nobody_else_finds_is_lowered() -> None:
    rig = Rig()
    assert [rig.second(2) for _ in range(int(CALM_S))] == [[]] * int(CALM_S)
    assert rig.second(2) == [1]


@pytest.mark.req("A236", "A242")
def test_a_case_raises_its_agent_at_once_and_again_if_that_was_lost() -> None:
    rig = Rig()
    assert rig.second(1, case=True) == [2]
    said = [rig.second(1, case=True) for _ in range(10)]
    assert [bool(one) for one in said].count(True) == 10 // int(AGAIN_S)
    assert [rig.second(2, case=True) for _ in range(100)] == [[]] * 100, "as long as the case is open"
    assert [rig.second(2) for _ in range(int(CALM_S))] == [[]] * int(CALM_S), "and a while longer"
    assert rig.second(2) == [1]
    assert rig.second(1) == []


def test_every_agent_is_taught_at_first_and_now_and_then() -> None:
    rig = Rig()
    for _ in range(int(TEACH_S) + 1):
        rig.second(1)
    assert rig.lessons == [1001.0, 1001.0 + TEACH_S]
    rig.second(1, agent=8)
    assert len(rig.lessons) == 3, "another agent knows nothing"
    rig.guidance.keep([])
    rig.second(1, agent=8)
    assert len(rig.lessons) == 4


def test_being_taught_anew_takes_no_calm_away() -> None:
    rig = Rig()
    for _ in range(int(TEACH_S) - 2):
        rig.second(1)
    told = [rig.second(2) for _ in range(int(CALM_S) + 1)]
    assert told[-1] == [1]


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), max_size=300))
def test_agent_and_judge_agree_in_the_end(events: list[tuple[bool, bool, bool]]) -> None:
    """Cases come and go, agents find things, words are lost: a while after, both are at the same level."""
    rig, agent, case = Rig(), Levels(), False

    def second(*, lost: bool) -> None:
        for level in rig.second(agent.level, case=case):
            if not lost:
                agent.told(level)

    for opens, finds, lost in events:
        case = opens
        if finds:
            agent.level = LEVEL2
        second(lost=lost)
    for _ in range(int(CALM_S + 2 * AGAIN_S)):
        second(lost=False)
    assert agent.level == (LEVEL2 if case else LEVEL1)


# --- what is usual ---
def test_classes_are_told_by_their_names() -> None:
    assert len(TAUGHT) == len({theirs for _, theirs in TAUGHT}) == 24
    for ours, theirs in TAUGHT:
        assert ours.name == theirs.name


@pytest.mark.req("A230")
def test_a_line_is_three_times_as_far_as_the_95th_percentile() -> None:
    history = brief_history(9, [(GuestMetric.OUT_SYN, 10.0, 14.0)])
    agent = Levels()
    agent.usual.learn(history.number, [(one.metric, one.middle, one.spread) for one in history.usual])
    assert agent.usual.lines[GuestMetric.OUT_SYN] == 22
    assert agent.usual.history == 9


_NUMBERS = st.floats(0, 1e30) | st.just(float("inf")) | st.just(float("nan"))


@given(st.lists(st.tuples(_NUMBERS, _NUMBERS), min_size=len(TAUGHT), max_size=len(TAUGHT)), st.integers(0, 10**9))
def test_any_history_fits_its_line(numbers: list[tuple[float, float]], number: int) -> None:
    usual = [(theirs, *known) for (_, theirs), known in zip(TAUGHT, numbers, strict=True)]
    line = encode_to_guest(brief_history(number, usual))
    assert len(line) <= HISTORY_LINE


def test_any_number_of_networks_fits_its_line() -> None:
    cidrs = [f"2001:db8:aaaa:bbbb:cccc:{number:x}::/96" for number in range(200)]
    told = provider_networks(["2001:db8:aaaa:bbbb:cccc:dddd:eeee:0/112", *cidrs])
    assert told.networks == tuple(cidrs[:NETWORKS])
    assert parse_to_guest(encode_to_guest(told)[:-1]) == told
    assert provider_networks(["10.0.0.0/8", "10.0.0.0/8"]).networks == ("10.0.0.0/8",)
