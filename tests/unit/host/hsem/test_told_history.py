"""What agents tell of what only a guest counts: learned robustly, never beyond a cap, and kept."""

import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hypervigil.guest.vsem import usual as agents
from hypervigil.guest.vsem.levels import Levels
from hypervigil.host.hsem.brief import COUNTED, brief
from hypervigil.host.hsem.history import LEAST_SAMPLES, MOST_SAMPLES, SETTLED_SAMPLES, History
from hypervigil.host.hsem.ports import COVERED, KEPT, LEAST_LOOKS, MOST_LOOKS, TOLD, UsualPorts
from hypervigil.host.hsem.table import Kept
from hypervigil.host.hsem.told import DOUBT_S, METRICS, MOST_USUAL, ToldHistory
from hypervigil.host.hsem.usual import MAX_HISTORIES, Usual
from hypervigil.host.monitor import histories
from hypervigil.host.monitor.guidance import brief_history
from hypervigil.model.guest import MISMATCH, GuestMetric, GuestReport
from hypervigil.model.ids import Instant, VmId
from hypervigil.model.metric import Metric
from hypervigil.model.status import Evidence, Origin
from hypervigil.wire.guest import UNSEEN
from tests.unit.guest.vsem.test_usual import benign_hour, values

A, B = VmId("a"), VmId("b")
FORKS, INTERRUPTS = GuestMetric.FORKS, GuestMetric.INTERRUPTS


def told(at: float = 0.0, *, vm: VmId = A, level: int = 1, interval_s: float = 1.0, **values: int) -> GuestReport:
    row = [0] * len(GuestMetric)
    for name, value in values.items():
        row[GuestMetric[name]] = value
    return GuestReport(vm, Instant(at), 7, level, at, interval_s, tuple(row))


def learned(reports: Iterable[GuestReport], history: ToldHistory | None = None) -> ToldHistory:
    history = history or ToldHistory()
    for one in reports:
        history.hear(one)
        history.learn(())
    return history


def of(history: ToldHistory, metric: GuestMetric, vm: VmId = A) -> tuple[float, float] | None:
    return next(((middle, tail) for known, middle, tail in history.usual(vm) if known is metric), None)


def lines(history: ToldHistory, vm: VmId = A) -> dict[int, int]:
    """What the agent makes of it."""
    made = agents.Usual()
    made.learn(1, [(one.metric, one.middle, one.spread) for one in brief_history(1, history.usual(vm)).usual])
    return made.lines


@pytest.mark.req("A230")
def test_what_is_usual_of_columns_that_only_the_guest_counts_is_learned() -> None:
    history = learned(told(n, FORKS=100 if n % 10 else 300, PENDING=4) for n in range(400))
    middle, tail = of(history, FORKS) or (0.0, 0.0)
    assert middle == pytest.approx(100, rel=0.25)
    assert tail == pytest.approx(300, rel=0.25)
    assert lines(history)[FORKS] == pytest.approx(700, rel=0.25)
    assert of(history, GuestMetric.PENDING) == pytest.approx((4, 4), rel=0.42), "two bins to the octave"
    assert history.usual(B) == []


def test_counts_are_learned_by_the_second_and_states_as_they_are() -> None:
    history = learned(told(n, interval_s=2.0, FORKS=200, CONNECTIONS=200) for n in range(60))
    assert (of(history, FORKS) or (0, 0))[0] == pytest.approx(100, rel=0.25)
    assert (of(history, GuestMetric.CONNECTIONS) or (0, 0))[0] == pytest.approx(200, rel=0.25)


def test_unseen_and_few_are_not_told() -> None:
    history = learned(told(n, FORKS=UNSEEN) for n in range(100))
    assert of(history, FORKS) is None
    assert of(history, INTERRUPTS) is not None
    assert learned(told(n) for n in range(LEAST_SAMPLES - 1)).usual(A) == []


Spoils = Callable[[ToldHistory], None]


def _in_a_case(history: ToldHistory) -> None:
    for n in range(400):
        history.hear(told(400.0 + n, FORKS=4000))
        history.learn({A})


def _at_level_2(history: ToldHistory) -> None:
    learned((told(400.0 + n, level=2, FORKS=4000) for n in range(400)), history)


def _in_doubt(history: ToldHistory) -> None:
    for n in range(400):
        if n % 30 == 0:
            history.doubt(A, Instant(400.0 + n))
        learned([told(400.0 + n, FORKS=4000)], history)


@pytest.mark.parametrize("spoils", [_in_a_case, _at_level_2, _in_doubt])
def test_what_is_told_under_suspicion_teaches_nothing(spoils: Spoils) -> None:
    history = learned(told(n, FORKS=20) for n in range(400))
    before = of(history, FORKS)
    spoils(history)
    assert of(history, FORKS) == before
    learned((told(900.0 + DOUBT_S + n, FORKS=4000) for n in range(400)), history)
    assert of(history, FORKS) != before, "the control: it would have"


def test_a_contradiction_is_doubted() -> None:
    known = Usual()
    learned((told(n, FORKS=20) for n in range(100)), known.told)
    before = of(known.told, FORKS)
    text = Evidence(A, MISMATCH, Origin.GUEST_REPORTED, Instant(100.0), 1.0, None, "", "")
    known.hear(replace(text, kind="agent-heard"))
    known.hear(text)
    learned((told(100.0 + n, FORKS=4000) for n in range(int(DOUBT_S))), known.told)
    assert of(known.told, FORKS) == before


def test_some_wild_seconds_move_no_line() -> None:
    calm = learned(told(n, FORKS=20) for n in range(2000))
    liar = learned(told(n, FORKS=20 if n % 25 else 4000) for n in range(2000))
    assert lines(liar)[FORKS] == lines(calm)[FORKS]


@pytest.mark.req("A232")
def test_no_slow_ramp_frees_an_agents_hand() -> None:
    """A lie that grows by a hundredth at a time, to far beyond what any guest does."""
    history, value = ToldHistory(), 20.0
    for n in range(3000):
        value = min(1e12, value * 1.01)
        learned([told(n, **{metric.name: int(value) for metric in METRICS})], history)
    for metric, line in lines(history).items():
        if metric in MOST_USUAL:
            assert line <= MOST_USUAL[GuestMetric(metric)] + 1
    assert lines(history)[FORKS] == pytest.approx(MOST_USUAL[FORKS], rel=0.01), "the ramp reached the cap"


VALUES = st.integers(UNSEEN, 2**53 - 1) | st.integers(0, 1000)
REPORTS = st.lists(
    st.tuples(st.lists(VALUES, min_size=len(GuestMetric), max_size=len(GuestMetric)), st.floats(0, 5), st.booleans()),
    max_size=12,
)


@pytest.mark.req("A230", "A232")
@settings(deadline=None)
@given(REPORTS, st.integers(1, 40))
def test_whatever_is_told_no_line_goes_beyond_its_cap(reports: list[tuple[list[int], float, bool]], times: int) -> None:
    history = ToldHistory()
    for n in range(times):
        for row, interval_s, suspected in reports:
            history.hear(GuestReport(A, Instant(float(n)), 7, 1, 0.0, interval_s, tuple(row)))
            history.learn({A} if suspected else ())
    for metric, middle, tail in history.usual(A):
        assert 0 <= middle <= tail
        assert middle + 3 * (tail - middle) <= MOST_USUAL[metric] * 1.001
    made = lines(history)
    for metric in METRICS:
        floor, presumed, _ = agents.JUDGED[metric]
        assert floor <= made[metric] <= max(presumed, MOST_USUAL[metric] + 1)
    assert len(history.remember().vms) <= 1


def test_a_vm_that_has_an_agent_takes_a_kilobyte_and_a_half_more() -> None:
    history, ports = learned(told(n, vm=VmId(str(n))) for n in range(16)), UsualPorts()
    for n in range(16):
        ports.visited(VmId(str(n)), {80: 1.0}, 0.0)
    taken = sum(array.nbytes for known in (history.remember(), ports.remember()) for array in known.arrays.values())
    assert taken / 16 <= 1_650


def test_what_is_old_loses_half_its_weight_and_nothing_overflows() -> None:
    history = learned(told(n, FORKS=1000) for n in range(100))
    kept = history.remember()
    history.recall(Kept(kept.vms, {name: array * (MOST_SAMPLES // 100 - 1) for name, array in kept.arrays.items()}))
    learned((told(n, FORKS=10) for n in range(150)), history)
    arrays = history.remember().arrays
    assert (arrays["weight"] == arrays["histogram"].sum(axis=2)).all()
    assert MOST_SAMPLES / 3 < arrays["weight"].max() < MOST_SAMPLES
    assert of(history, FORKS) == pytest.approx((1000, 1000), rel=0.45)


def test_who_does_not_run_is_not_heard_and_not_forgotten() -> None:
    history = learned(told(n, FORKS=20) for n in range(SETTLED_SAMPLES))
    assert history.settled(A)
    assert not history.settled(B)
    history.hear(told(0.0, vm=B))
    history.keep([A])
    history.learn(())
    assert history.remember().vms == (A,)
    history.keep([])
    assert history.settled(A), "it may be back"
    history.forget_others([B])
    assert not history.settled(A)


# --- ports ---
def visited(*answers: dict[int, float], elsewhere: float = 0.0) -> UsualPorts:
    ports = UsualPorts()
    for one in answers:
        ports.visited(A, one, elsewhere)
    return ports


@pytest.mark.req("A230", "A235")
def test_ports_that_are_named_again_and_again_are_usual() -> None:
    assert visited(*[{443: 20.0, 80: 3.0}] * LEAST_LOOKS).usual(A) == (443, 80)
    assert visited(*[{443: 20.0}] * (LEAST_LOOKS - 1)).usual(A) == ()
    assert UsualPorts().usual(A) == ()
    once = visited(*[{443: 100.0}] * LEAST_LOOKS, {6667: 1.0})
    assert once.usual(A) == (443,), "once is not usual"


def test_of_who_goes_everywhere_no_ports_are_told() -> None:
    everywhere = [{443: 1.0, **{1024 + 40 * look + n: 1.0 for n in range(40)}} for look in range(20)]
    assert visited(*everywhere).usual(A) == ()
    assert visited(*[{443: 9.0}] * 9, elsewhere=1.0).usual(A) == ()
    assert visited(*[{443: 99.0}] * 9, elsewhere=1.0).usual(A) == (443,)
    many = dict.fromkeys(range(1, KEPT + 1), 1.0)
    assert TOLD / KEPT < COVERED
    assert visited(*[many] * 9).usual(A) == ()


def test_what_is_named_once_crowds_no_usual_port_out() -> None:
    ports = visited(*[{443: 100.0, 53: 100.0}] * 9)
    ports.visited(A, {1024 + n: 0.01 for n in range(64)}, 0.0)
    assert set(ports.usual(A)) == {443, 53}


def test_what_was_usual_long_ago_is_not() -> None:
    ports = visited(*[{25: 1.0}] * 9)
    for _ in range(12 * MOST_LOOKS):
        ports.visited(A, {443: 1.0}, 0.0)
    assert ports.usual(A) == (443,)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.dictionaries(st.integers(1, 65535), st.floats(0, 1e18), max_size=64), st.floats(-1, 1e18)),
        max_size=20,
    ),
    st.integers(1, 5),
)
def test_any_answers_give_few_ports_that_were_named(answers: list[tuple[dict[int, float], float]], times: int) -> None:
    ports = UsualPorts()
    for opened, elsewhere in answers * times:
        ports.visited(A, opened, elsewhere)
    usual = ports.usual(A)
    assert len(set(usual)) == len(usual) <= TOLD
    assert set(usual) <= {port for opened, _ in answers for port in opened}
    again = UsualPorts()
    again.recall(ports.remember())
    assert again.usual(A) == usual


# --- the brief ---
def test_the_hosts_own_counts_go_by_the_hosts_own_history() -> None:
    """Whatever its agent says of them."""
    history, word = History(), learned(told(n, BLOCK_READS=9000, OUT_SYN=9000, FORKS=30) for n in range(100))
    row = np.full((1, len(Metric)), np.nan, np.float32)
    row[0, [Metric.OUT_SYN, Metric.BLOCK_READS]] = 5.0, 40.0
    for _ in range(LEAST_SAMPLES):
        history.learn([A], row)
    usual = {metric: (middle, tail) for metric, middle, tail in brief(history, word, UsualPorts(), A).usual}
    assert usual[GuestMetric.OUT_SYN] == pytest.approx((5, 5), rel=0.3)
    assert usual[GuestMetric.BLOCK_READS] == pytest.approx((40, 40), rel=0.3)
    assert set(usual) == {GuestMetric.OUT_SYN, GuestMetric.BLOCK_READS, *METRICS}, "what is unseen is not told"
    assert brief(history, ToldHistory(), UsualPorts(), B).usual == ()
    assert len(COUNTED) + len(METRICS) == len(agents.JUDGED)


def taught(rows: Iterable[list[int]]) -> tuple[History, ToldHistory]:
    """What host and agent count of these seconds, where both count right."""
    history, word = History(), ToldHistory()
    for n, row in enumerate(rows):
        values = np.full((1, len(Metric)), np.nan, np.float32)
        for ours, theirs in COUNTED:
            values[0, ours] = row[theirs]
        history.learn([A], values)
        learned([GuestReport(A, Instant(float(n)), 7, 1, float(n), 1.0, tuple(row))], word)
    return history, word


@pytest.mark.req("A230", "A231")
def test_an_agent_that_is_told_it_is_calm_in_honest_work_and_finds_what_only_it_can_see() -> None:
    rng = random.Random(7)
    usual = brief_history(1, brief(*taught(islice(benign_hour(rng), 1800)), UsualPorts(), A).usual).usual

    def agent(*, told: bool = True) -> Levels:
        levels = Levels()
        levels.usual.learn(1, [(one.metric, one.middle, one.spread) for one in usual] if told else [])
        return levels

    calm = agent()
    assert not any(calm.observe(row, 1000) for row in benign_hour(rng))
    for attack in ({"FORKS": 100}, {"INTERRUPTS": 9000}, {"HALF_OPEN": 60}, {"CONNECTIONS": 900}, {"PENDING": 20}):
        for levels, finds in ((agent(), True), (agent(told=False), False)):
            found = [levels.observe(values(**attack), 1000) for _ in range(2)]
            assert any(found) is finds, (attack, "without a history it would not")


# --- over restarts ---
def full() -> Usual:
    known = Usual()
    row = np.full((1, len(Metric)), 3.0, np.float32)
    for n in range(60):
        known.told.hear(told(n, FORKS=20 + n % 7))
        known.learn([A], row, set(), Instant(float(n)))
        known.ports.visited(A, {443: 2.0}, 0.0)
    return known


def test_it_is_kept_over_a_restart_and_by_export() -> None:
    known, again = full(), Usual()
    again.recall(histories.decode(histories.encode(known.remember())))
    assert again.brief(A) == known.brief(A)
    assert again.brief(A).ports == (443,)
    assert of(again.told, FORKS) is not None


def test_a_history_without_it_is_read() -> None:
    known = full()
    older = histories.decode(histories.encode(replace(known.remember(), told=None, ports=None)))
    assert (older.told, older.ports) == (None, None)
    known.recall(older)
    assert known.brief(A).ports == ()
    assert of(known.told, FORKS) is None


def _changed(known: Kept, name: str, value: float) -> Kept:
    array = known.arrays[name].astype(np.float32)
    array.reshape(-1)[0] = value
    return Kept(known.vms, {**known.arrays, name: array})


@pytest.mark.parametrize("part", ["told", "ports"])
@pytest.mark.parametrize(
    "spoil",
    [
        lambda kept: Kept((), kept.arrays),
        lambda kept: Kept((A, A), {name: np.concatenate([one, one]) for name, one in kept.arrays.items()}),
        lambda kept: Kept(kept.vms, {**kept.arrays, "more": np.zeros((1, 1), np.float32)}),
        *(
            lambda kept, value=value: _changed(kept, next(iter(kept.arrays)), value)
            for value in (-1.0, float("nan"), float("inf"), 1e12)
        ),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(part: str, spoil: Callable[[Kept], Kept]) -> None:
    known = full()
    before, kept = known.brief(A), known.remember()
    with pytest.raises(ValueError, match=r"^it "):
        known.recall(histories.decode(histories.encode(replace(kept, **{part: spoil(getattr(kept, part))}))))
    assert known.brief(A) == before


def test_ports_that_are_none_are_refused() -> None:
    known = full()
    for value in (80.5, 70_000.0):
        with pytest.raises(ValueError, match="impossible"):
            known.ports.recall(_changed(known.ports.remember(), "port", value))


def test_with_too_many_histories_those_that_do_not_run_are_forgotten() -> None:
    known = full()
    vms = [VmId(str(n)) for n in range(MAX_HISTORIES)]
    known.history._table.rows(tuple(vms))
    known.keep({B})
    assert known.brief(A).ports == ()
    assert known.told.remember().vms == ()
