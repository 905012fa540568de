"""Whatever is measured: surprises and distances are finite, and no VM's depend on another's or on their order."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hypervigil.host.hsem.habits import Habits, Onsets
from hypervigil.host.hsem.ranges import Ranges
from hypervigil.model.ids import VmId

VMS = tuple(VmId(str(n)) for n in range(3))
METRICS = 2
anything = st.one_of(
    st.sampled_from([0.0, 1.0, -1.0, 1e-30, 3e38, -3e38, float("nan"), float("inf"), float("-inf")]),
    st.floats(width=32),
)
series = st.integers(1, 60).flatmap(lambda rows: arrays(np.float32, (rows, len(VMS), METRICS), elements=anything))
flags = st.lists(st.booleans(), min_size=60, max_size=60)


def _judge(values, vms, learn):
    """Surprises, onsets and distances of these VMs (places in ``VMS``), row by row."""
    habits, onsets, ranges = Habits(METRICS), Onsets(5), Ranges(METRICS)
    names = tuple(VMS[n] for n in vms)
    found = []
    for row, values_now in enumerate(values[:, vms]):
        may = np.full(len(vms), learn[row])
        surprise = habits.see(names, values_now, np.full(len(vms), row * 3600.0), np.full(len(vms), 3600.0), may)
        found.append((surprise, onsets.see(names, surprise[:, 0]), ranges.see(names, values_now, may)))
    return [np.stack(part) for part in zip(*found, strict=True)]


@given(series, flags)
@settings(deadline=None, max_examples=40)
def test_whatever_comes_is_finite_and_not_negative(values, learn):
    with np.errstate(all="raise", under="ignore"):
        for part in _judge(values, [0, 1, 2], learn):
            assert np.isfinite(part).all()
            assert (part >= 0).all()


@given(series, flags, st.permutations([0, 1, 2]))
@settings(deadline=None, max_examples=40)
def test_no_vm_depends_on_another(values, learn, order):
    together = _judge(values, order, learn)
    for place, vm in enumerate(order):
        alone = _judge(values, [vm], learn)
        for one, all_ in zip(alone, together, strict=True):
            assert (one[:, 0] == all_[:, place]).all()


@given(series)
@settings(deadline=None, max_examples=40)
def test_what_is_not_learned_leaves_no_trace(values):
    """Habits that saw something under suspicion forecast afterwards what they did before."""
    rows = len(values)
    calm = np.ones((60, *values.shape[1:]), np.float32)
    told = np.concatenate((calm, values, calm))
    habits = Habits(METRICS)
    other = Habits(METRICS)
    for row, now in enumerate(told):
        suspected = 60 <= row < 60 + rows
        may, at, step = np.full(len(VMS), not suspected), np.full(len(VMS), row * 60.0), np.full(len(VMS), 60.0)
        habits.see(VMS, now, at, step, may)
        if not suspected:
            other.see(VMS, now, at, step, may)
    for name in ("samples", "level", "seasons", "errors", "visits"):
        assert (habits._table[name][:3] == other._table[name][:3]).all(), name


@given(series, series)
@settings(deadline=None, max_examples=40)
def test_a_look_at_what_is_above_changes_nothing_and_finds_no_more_than_taking_it_in(values, looked):
    habits = Habits(METRICS)
    at, step = np.full(len(VMS), 60.0), np.full(len(VMS), 60.0)
    for now in values:
        habits.see(VMS, now, at, step)
    before = habits.remember(VMS)
    for now in looked:
        with np.errstate(all="raise", under="ignore"):
            above = habits.above(VMS, now, at, step).surprise
        assert all((habits.remember(VMS)[name] == array).all() for name, array in before.items())
        assert np.isfinite(above).all()
        other = Habits(METRICS)
        other.recall(VMS, before)
        taught = before["samples"] > 0
        assert (above <= other.see(VMS, now, at, step))[taught].all()


@given(series, series)
@settings(deadline=None, max_examples=40)
def test_who_is_recalled_goes_on_as_if_nothing_had_been(values, more):
    habits = Habits(METRICS)
    rows = [np.full(len(VMS), 3600.0 * row) for row in range(len(values) + len(more))]
    step = np.full(len(VMS), 3600.0)
    for now, at in zip(values, rows, strict=False):
        habits.see(VMS, now, at, step)
    other = Habits(METRICS)
    other.see(VMS[:1], more[0][:1], rows[0][:1], step[:1])
    other.recall(VMS[::-1], habits.remember(VMS[::-1]))
    for now, at in zip(more, rows[len(values) :], strict=True):
        assert (habits.see(VMS, now, at, step) == other.see(VMS, now, at, step)).all()
