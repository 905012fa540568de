"""How far a VM is from its habits, and how far outside its ranges."""

import numpy as np
import pytest

from hypervigil.host.hsem.habits import DAY_S, HOUR_S, Habits, Onsets
from hypervigil.host.hsem.ranges import Ranges
from hypervigil.host.hsem.table import MOST_COUNTED
from hypervigil.model.ids import VmId

A, B = VmId("a"), VmId("b")
STEP_S = 300.0
A_DAY = int(DAY_S / STEP_S)


def lived(*series, step_s=STEP_S, frozen_from=()):
    """The surprise of each value of series of one length, each as if it were a VM's only metric; together for speed.

    ``frozen_from``: from which row on a VM, by its place, is under suspicion.
    """
    habits, vms = Habits(1), tuple(VmId(str(n)) for n in range(len(series)))
    found = np.zeros((len(series[0]), len(series)))
    since = np.array([dict(frozen_from).get(n, np.inf) for n in range(len(series))])
    for n, values in enumerate(np.stack(series, axis=1).astype(np.float32)):
        at, step = np.full(len(vms), n * step_s), np.full(len(vms), step_s)
        found[n] = habits.see(vms, values[:, None], at, step, n < since)[:, 0]
    return tuple(found.T)


def noise(rows, seed=1):
    return np.random.default_rng(seed).normal(100.0, 5.0, rows)


def test_a_spike_is_more_surprising_the_higher_it_is():
    series = [noise(1300) for _ in range(4)]
    for one, height in zip(series, (0.0, 40.0, 80.0, 160.0), strict=True):
        one[1200] += height
    ordinary, *spikes = lived(*series)
    peaks = [one[1200] for one in spikes]
    assert peaks == sorted(peaks)
    assert peaks[0] > ordinary[500:].max()


def test_a_lasting_shift_surprises_though_no_single_value_does():
    values = noise(1600)
    shifted = values.copy()
    shifted[1500:] += 8.0  # not two of the values' own deviations
    usual, unusual = lived(values, shifted)
    assert unusual[1500:1560].max() > usual[500:].max() + 2


def test_what_lasts_becomes_the_habit():
    values = noise(4000)
    values[1000:] += 60.0
    (found,) = lived(values)
    assert found[1000:1100].max() > 8
    assert np.median(found[3500:]) < 2


def test_the_hour_of_the_day_is_known_after_some_days():
    """Each night at the same hour a backup runs; the one night on which it does not is the surprise."""
    rows = 12 * A_DAY
    values = noise(rows)
    at_night = (np.arange(rows) * STEP_S % DAY_S) // HOUR_S == 3
    values[at_night] += 300.0
    without = values.copy()
    missed = at_night & (np.arange(rows) >= 10 * A_DAY) & (np.arange(rows) < 11 * A_DAY)
    without[missed] -= 300.0
    usual, unusual = lived(values, without)
    assert unusual[missed].max() > usual[8 * A_DAY :].max() + 1


def test_the_day_of_the_week_is_known_after_some_weeks():
    step_s = HOUR_S
    rows = 24 * 7 * 20
    hours = np.arange(rows)
    workday = (hours // 24) % 7 < 5
    values = np.random.default_rng(2).normal(50.0, 2.0, rows) + 100.0 * workday
    holiday = values.copy()
    free = (hours // 24) == 7 * 19 + 2
    holiday[free] -= 100.0
    usual, unusual = lived(values, holiday, step_s=step_s)
    assert unusual[free].max() > usual[24 * 7 * 12 :].max() + 1


def test_heavy_tails_surprise_less_often_than_their_rank_says():
    """One threshold for all: of what is wild by nature about as few values are above it as of what is tame."""
    random = np.random.default_rng(3)
    tame, wild = lived(random.normal(100, 5, 4000), random.lognormal(3, 1.5, 4000))
    assert (tame[1000:] > 6).mean() < 0.01
    assert (wild[1000:] > 6).mean() < 0.01


def test_a_vm_under_suspicion_teaches_nothing():
    values = noise(3000)
    values[1000:] += 500.0
    frozen, learned = lived(values, values, frozen_from={0: 1000}.items())
    assert frozen[2900:].min() > 10, "after half an attack it is as surprising as ever"
    assert learned[2900:].max() < frozen[2900:].min()


def test_the_first_stray_of_what_never_strayed_is_as_rare_as_it_has_samples():
    values = np.full(1000, 7.0)
    values[900] = 8.0
    (found,) = lived(values)
    assert (found[:900] == 0).all()
    assert found[900] == pytest.approx(2 * np.log10(901), rel=0.01)


def test_what_is_unseen_is_no_surprise_and_changes_nothing():
    values = noise(800)
    gaps = np.insert(values, 400, [np.nan, np.inf, np.nan])
    (found,) = lived(gaps)
    assert (found[400:403] == 0).all()
    assert found[403:].max() < 12


def test_no_count_outgrows_its_bytes():
    habits, one, step = Habits(1), np.ones((1, 1), np.float32), np.full(1, STEP_S)
    habits.see([A], one, np.zeros(1), step)
    for name in ("tried", "visits"):
        habits._table.counts(name)[:] = MOST_COUNTED
    habits.see([A], one, np.zeros(1), step)
    for name in ("tried", "visits"):
        assert (habits._table.counts(name) == MOST_COUNTED).all()


def test_of_a_stretch_the_onset_counts():
    onsets = Onsets(calm=3)
    seen = [onsets.see([A], np.array([one], np.float32))[0] for one in (1, 5, 4, 3, 6, 2, 2, 2, 2, 2)]
    assert seen == [1, 5, 0, 0, 6, 0, 0, 0, 0, 2], "armed again after three calm ones"


# --- ranges ---
def outside(*machines, frozen_from=()):
    """How far VMs with as many rows and metrics are outside their ranges, row by row; together for speed."""
    ranges, vms = Ranges(machines[0].shape[1]), tuple(VmId(str(n)) for n in range(len(machines)))
    since = np.array([dict(frozen_from).get(n, np.inf) for n in range(len(machines))])
    rows = np.stack(machines, axis=1).astype(np.float32)
    return tuple(np.array([ranges.see(vms, values, n < since) for n, values in enumerate(rows)]).T)


def many(rows, metrics=20, *, seed=1):
    return np.random.default_rng(seed).gamma(4.0, 10.0, (rows, metrics))


def test_metrics_that_agree_weigh_more_than_one_of_them():
    machines = [many(2000) for _ in range(4)]
    for one, metrics in zip(machines, (0, 1, 5, 20), strict=True):
        one[1900:1920, :metrics] += 200.0
    found = outside(*machines, frozen_from=dict.fromkeys(range(4), 1900).items())
    calm, *peaks = (one[1000:].max() for one in found)
    assert calm < peaks[0] < peaks[1] < peaks[2]


def test_a_blow_shows_within_the_range_of_the_values():
    """Of a metric that is idle for long and busy for long: what it does for a moment, not where that moment lies."""
    tide = 5000.0 * np.interp(np.arange(6000), np.arange(6) * 1000 + 500, [0, 1, 0, 1, 0, 1])
    values = many(6000, 1) + tide[:, None]
    blow = values.copy()
    blow[4000] -= 2000.0
    assert values[:4000].min() < blow[4000, 0] < values[:4000].max(), "its value is nothing special"
    usual, seen = outside(values, blow)
    assert seen[4000:4005].max() > usual[3500:4500].max() + 0.5


def test_ranges_do_not_grow_while_a_vm_is_under_suspicion():
    values = many(3000, 5)
    values[1000:] += 500.0
    frozen, learned = outside(values, values, frozen_from={0: 1000}.items())
    assert frozen[2900:].min() > 1.0
    assert learned[2900:].mean() < frozen[2900:].mean() / 2


def test_unseen_metrics_leave_the_others_theirs():
    values = many(2000)
    values[:, 3] = np.nan
    values[1900:1920, 0] += 500.0
    (found,) = outside(values)
    assert np.isfinite(found).all()
    assert found[1900:1920].max() > found[1000:1900].max()
    blind = np.full((1, 20), np.nan, np.float32)
    ranges = Ranges(20)
    assert ranges.see([A], blind)[0] == 0.0


def test_what_never_moved_and_moves_is_one_width_outside():
    values = np.full((500, 4), 5.0)
    values[400:, 0] = 9e9
    (found,) = outside(values, frozen_from={0: 400}.items())
    assert found[:400].max() == 0.0
    assert 0 < found[400:].max() < 1.0


def test_others_are_forgotten():
    ranges, habits = Ranges(2), Habits(2)
    one = np.ones((2, 2), np.float32)
    for _ in range(5):
        ranges.see([A, B], one)
        habits.see([A, B], one, np.zeros(2), np.full(2, STEP_S))
    ranges.keep([B])
    habits.keep([B])
    assert ranges.vms == habits.vms == (B,)
    assert ranges.see([], np.zeros((0, 2), np.float32)).shape == (0,)
    assert habits.see([], np.zeros((0, 2), np.float32), np.zeros(0), np.zeros(0)).shape == (0, 2)
