"""What agents are told: down where nobody finds anything, up when a case is open, and again when it was lost."""

from math import isfinite

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypervigil.guest import lines, words
from hypervigil.guest.vsem import usual
from hypervigil.guest.vsem.levels import LEVEL1, LEVEL2, Levels
from hypervigil.guest.vsem.usual import JUDGED
from hypervigil.host.hsem.brief import COUNTED
from hypervigil.host.hsem.ports import TOLD
from hypervigil.host.hsem.told import METRICS, MOST_USUAL, SPREADS, STATES
from hypervigil.host.monitor.guidance import (
    AGAIN_S,
    CALM_S,
    NETWORKS,
    TEACH_S,
    Guidance,
    brief_history,
    provider_networks,
)
from hypervigil.model.guest import GuestMetric, GuestReport
from hypervigil.model.ids import Instant, VmId
from hypervigil.wire.guest import HISTORY_LINE, BriefHistory, SetLevel, ToGuest, Usual, encode_to_guest, parse_to_guest

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
def test_every_metric_that_an_agent_judges_can_be_told_and_no_other() -> None:
    told = [theirs for _, theirs in COUNTED] + list(METRICS)
    assert len(told) == len(set(told))
    assert set(told) == {GuestMetric(metric) for metric in JUDGED}
    for ours, theirs in COUNTED:
        assert ours.name == theirs.name


def test_the_host_goes_by_the_agents_own_rules() -> None:
    assert SPREADS == usual.SPREADS
    assert {GuestMetric(metric) for metric in words.STATES} & set(METRICS) == STATES
    for metric, most in MOST_USUAL.items():
        _, presumed, _ = JUDGED[metric]
        assert most == 10 * presumed or metric is GuestMetric.FAIL_SHARE


@pytest.mark.req("A230")
def test_a_line_is_three_times_as_far_as_the_95th_percentile() -> None:
    history = brief_history(9, [(GuestMetric.OUT_SYN, 10.0, 14.0)])
    agent = Levels()
    agent.usual.learn(history.number, [(one.metric, one.middle, one.spread) for one in history.usual])
    assert agent.usual.lines[GuestMetric.OUT_SYN] == 22
    assert agent.usual.history == 9


_NUMBERS = st.floats(0, 1e30) | st.just(float("inf")) | st.just(float("nan"))


_TOLD = (*(theirs for _, theirs in COUNTED), *METRICS)


@pytest.mark.req("A230")
@given(
    st.lists(st.tuples(_NUMBERS, _NUMBERS), min_size=len(_TOLD), max_size=len(_TOLD)),
    st.lists(st.integers(0, 65535), max_size=TOLD),
    st.integers(0, 2**53 - 1),
)
def test_any_history_fits_its_line_whole(numbers: list[tuple[float, float]], ports: list[int], number: int) -> None:
    known = [(theirs, *one) for theirs, one in zip(_TOLD, numbers, strict=True)]
    history = brief_history(number, known, ports)
    line = encode_to_guest(history)
    assert len(line) <= HISTORY_LINE
    assert parse_to_guest(line[:-1]) == history
    assert history.ports == tuple(ports)
    assert len(history.usual) == sum(isfinite(middle) and isfinite(tail) for middle, tail in numbers)


def test_the_longest_history_of_all_fits_its_line() -> None:
    longest = brief_history(2**53 - 1, [(metric, 1e30, 2e31) for metric in _TOLD], [65535] * TOLD)
    assert {one.middle for one in longest.usual[: len(COUNTED)]} == {99_999_990, 999_999_999_990}
    assert [one.middle for one in longest.usual[len(COUNTED) :]] == [10 * most for most in MOST_USUAL.values()]
    assert len(encode_to_guest(longest)) <= HISTORY_LINE
    spread = brief_history(2**53 - 1, [(metric, 0.0, 1e30) for metric in _TOLD], [65535] * TOLD)
    worst = [Usual(a.metric, a.middle, b.spread) for a, b in zip(longest.usual, spread.usual, strict=True)]
    assert len(encode_to_guest(BriefHistory(2**53 - 1, tuple(worst), longest.ports))) <= HISTORY_LINE


@given(st.lists(st.tuples(_NUMBERS, _NUMBERS), min_size=len(_TOLD), max_size=len(_TOLD)), st.integers(1, 10**9))
def test_an_agent_makes_the_same_of_it(numbers: list[tuple[float, float]], number: int) -> None:
    """By its own parser, and by the one of an agent that was installed before the host told so much."""
    known = [(theirs, *one) for theirs, one in zip(_TOLD, numbers, strict=True)]
    history = brief_history(number, known, [80, 443])
    kind, told_number, told, ports = lines.parse(encode_to_guest(history)[:-1])
    assert (kind, told_number, ports) == ("history", number, [80, 443])
    assert [tuple(one) for one in told] == [(one.metric, one.middle, one.spread) for one in history.usual]


def test_any_number_of_networks_fits_its_line() -> None:
    cidrs = [f"2001:db8:aaaa:bbbb:cccc:{number:x}::/96" for number in range(200)]
    told = provider_networks(["2001:db8:aaaa:bbbb:cccc:dddd:eeee:0/112", *cidrs])
    assert told.networks == tuple(cidrs[:NETWORKS])
    assert parse_to_guest(encode_to_guest(told)[:-1]) == told
    assert provider_networks(["10.0.0.0/8", "10.0.0.0/8"]).networks == ("10.0.0.0/8",)
