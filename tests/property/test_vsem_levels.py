"""T-CORE-1 for the guest: random events against a model of the levels that knows nothing of how they are kept."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hypervigil.guest import words
from hypervigil.guest.vsem.levels import LEVEL1, LEVEL2, Levels
from hypervigil.guest.vsem.usual import JUDGED, Usual

METRICS = (words.OUT_SYN, words.IN_SYN, words.FAIL_SHARE, words.BLOCK_READS)
UNSEEN = words.UNSEEN


class Model:
    """What must be true of one metric: when it may and when it must be told."""

    def __init__(self) -> None:
        self.was_above = False
        self.over = False
        self.pardoned_above = 0
        self.highest = 0

    def see(self, value: int, line: int) -> tuple[bool, bool]:
        """``(may, must)`` be a new breach."""
        if value == UNSEEN:
            return False, False
        may = must = False
        if value * 4 < line * 3:
            self.over, self.pardoned_above = False, 0
        elif value >= line and not self.over and value >= self.pardoned_above:
            may = True
            must = value >= 2 * line or self.was_above
        self.was_above = may
        return may, must

    def breached(self, value: int) -> None:
        self.over = True
        self.highest = value

    def pardoned(self) -> None:
        if self.over:
            self.pardoned_above = 2 * self.highest
        self.over, self.was_above, self.highest = False, False, 0


class VsemLevels(RuleBasedStateMachine):
    """Events: seconds of any values, the host's word, new histories, restarts of the agent."""

    @initialize()
    def start(self) -> None:
        self.levels = Levels()
        self.level = LEVEL1
        self.kept = LEVEL1
        self.lines = {metric: JUDGED[metric][1] for metric in METRICS}
        self.models = {metric: Model() for metric in METRICS}

    def changed(self, change) -> None:
        """Whatever changes is said and kept; what is said is what is."""
        assert change is not None
        assert change.level == self.levels.level
        self.level = self.kept = change.level

    @rule(
        shares=st.tuples(*[st.sampled_from([UNSEEN, 0, 0.5, 0.7, 0.76, 0.9, 1.0, 1.1, 1.9, 2.0, 5.0])] * len(METRICS))
    )
    def second(self, shares) -> None:
        row = [UNSEEN] * words.METRICS
        for metric, share in zip(METRICS, shares, strict=True):
            row[metric] = UNSEEN if share == UNSEEN else int(share * self.lines[metric])
        allowed = {metric: self.models[metric].see(row[metric], self.lines[metric]) for metric in METRICS}
        for metric in METRICS:
            if self.models[metric].over:
                self.models[metric].highest = max(self.models[metric].highest, row[metric])
        before = self.level
        change = self.levels.observe(row, 1000)
        told = {breach.metric for breach in change.breaches} if change is not None else set()
        assert {metric for metric, (_, must) in allowed.items() if must} <= told
        assert told <= {metric for metric, (may, _) in allowed.items() if may}
        for metric in told:
            self.models[metric].breached(row[metric])
        if told:
            assert change.cause == "breach"
            self.changed(change)
            assert self.level == LEVEL2
        assert self.levels.level >= before, "it lowered its own level"

    @rule(level=st.sampled_from([LEVEL1, LEVEL2]))
    def host_says(self, level) -> None:
        change = self.levels.told(level)
        if level == self.level:
            assert change is None
        else:
            assert change.cause == "told"
            if level == LEVEL1:
                for model in self.models.values():
                    model.pardoned()
            self.changed(change)
        assert self.levels.level == level

    @rule(level=st.integers().filter(lambda level: level not in (LEVEL1, LEVEL2)))
    def host_says_nonsense(self, level) -> None:
        assert self.levels.told(level) is None

    @rule(tenths=st.integers(0, 2000))
    def host_sends_history(self, tenths) -> None:
        self.levels.usual.learn(3, [(metric, tenths, tenths // 4) for metric in METRICS])
        self.lines = {metric: max(JUDGED[metric][0], -(-(tenths + 3 * (tenths // 4)) // 10)) for metric in METRICS}
        assert {metric: self.levels.usual.lines[metric] for metric in METRICS} == self.lines

    @rule()
    def agent_restarts(self) -> None:
        self.levels = Levels(self.kept)
        self.models = {metric: Model() for metric in METRICS}
        self.lines = {metric: JUDGED[metric][1] for metric in METRICS}
        change = self.levels.begin()
        if self.kept == LEVEL2:
            assert change.cause == "restart"
            self.changed(change)
        else:
            assert change is None

    @precondition(lambda self: self.level == LEVEL2)
    @rule(seconds=st.integers(1, 40))
    def long_calm_at_level_2(self, seconds) -> None:
        for _ in range(seconds):
            assert self.levels.observe([0] * words.METRICS, 1000) is None
        for model in self.models.values():
            model.see(0, 1)
        assert self.levels.level == LEVEL2, "calm alone lowers nothing"
        assert self.levels.usual.breached == 0

    @invariant()
    def levels_are_two_and_survive(self) -> None:
        assert self.levels.level == self.level == self.kept
        assert self.level in (LEVEL1, LEVEL2)
        assert self.levels.usual.breached == sum(model.over for model in self.models.values())


VsemLevels.TestCase.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)


@pytest.mark.req("T-CORE-1", "A217")
class TestVsemLevels(VsemLevels.TestCase):
    """Collected by pytest under a name of its own."""


@pytest.mark.req("T-CORE-1")
@pytest.mark.parametrize("seconds_over", [1, 2, 3, 7])
def test_flapping_round_the_line_is_one_change(seconds_over):
    """Between three quarters and the line nothing is new, however often it crosses."""
    levels = Levels()
    line = Usual().lines[words.OUT_SYN]
    changes = 0
    for second in range(600):
        row = [0] * words.METRICS
        row[words.OUT_SYN] = line + 5 if second % (seconds_over + 1) < seconds_over else line * 4 // 5
        changes += levels.observe(row, 1000) is not None
    assert changes == (1 if seconds_over > 1 else 0)


@pytest.mark.req("T-CORE-1")
def test_after_the_host_lowered_it_the_same_excess_does_not_raise_it_again():
    levels = Levels()
    row = [0] * words.METRICS
    row[words.OUT_SYN] = 500
    assert levels.observe(row, 1000) is not None
    assert levels.told(LEVEL1) is not None
    for _ in range(100):
        assert levels.observe(row, 1000) is None
    row[words.OUT_SYN] = 1000
    assert levels.observe(row, 1000) is not None
