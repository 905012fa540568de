"""What is normal for a VM: robust quantiles, priors while young, remembered and recalled, refused when corrupt."""

from dataclasses import replace

import numpy as np
import pytest

from hypervigil.host.hsem.history import (
    LEAST_SAMPLES,
    MOST_SAMPLES,
    PRIOR_PPS,
    PRIORS,
    REFRESH,
    History,
    Remembered,
)
from hypervigil.host.hsem.table import Table
from hypervigil.host.monitor import histories
from hypervigil.model.ids import Instant, LimitId, VmId
from hypervigil.model.limits import Limit, LimitKind
from hypervigil.model.metric import Metric

A, B, C = VmId("a"), VmId("b"), VmId("c")


def taught(values: dict[VmId, list[float]], metric: Metric = Metric.OUT_SYN) -> History:
    """A history of one metric; all others were seen as zero."""
    history = History()
    for second in range(max(map(len, values.values()))):
        vms = [vm for vm in values if second < len(values[vm])]
        rows = np.zeros((len(vms), len(Metric)), np.float32)
        rows[:, metric] = [values[vm][second] for vm in vms]
        history.learn(vms, rows)
    return history


def test_below_thirty_samples_the_prior_counts() -> None:
    history = taught({A: [500.0] * (LEAST_SAMPLES - 1), B: [500.0] * LEAST_SAMPLES})
    assert history.tail(A, Metric.OUT_SYN) == PRIOR_PPS
    assert history.tail(B, Metric.OUT_SYN) == pytest.approx(500, rel=0.25)
    assert history.tail(C, Metric.OUT_SYN) == PRIOR_PPS, "and for whom nothing is known"
    assert history.tails([A, B, C]).shape == (3, len(Metric))
    assert (history.tails([C]) == PRIORS).all()


@pytest.mark.parametrize("typical", [1.0, 7.0, 80.0, 3000.0, 200_000.0])
def test_quantiles_are_near_the_truth(typical: float) -> None:
    chance = np.random.default_rng(5)
    values = chance.normal(typical, typical / 10, 600).clip(0)
    history = taught({A: values.tolist()})
    assert history.tail(A, Metric.OUT_SYN) == pytest.approx(np.quantile(values, 0.95), rel=0.25)
    assert history.usual(A, Metric.OUT_SYN) == history.tail(A, Metric.OUT_SYN)


def test_a_few_wild_seconds_move_nothing() -> None:
    history = taught({A: [10.0] * 580 + [1e6] * 20})
    assert history.tail(A, Metric.OUT_SYN) <= 12


def test_a_young_vm_is_usually_what_it_is_half_of_the_time() -> None:
    history = taught({A: [0.2] * 50 + [1.0] * 10}, Metric.CPU)
    assert history.usual(A, Metric.CPU) < 0.3 < history.tail(A, Metric.CPU)


def test_what_was_long_ago_loses_its_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hypervigil.host.hsem.history.MOST_SAMPLES", 100)
    history = taught({A: [1000.0] * 200 + [10.0] * 250})
    assert history.remember().histogram[0, Metric.OUT_SYN].sum() <= 110
    assert history.tail(A, Metric.OUT_SYN) <= 12, "after five half-lives less than a twentieth is left of it"
    assert history.samples(A) == 450


def test_a_vm_that_is_off_forgets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hypervigil.host.hsem.history.MOST_SAMPLES", 100)
    history = taught({A: [1000.0] * 40, B: [10.0] * 2000})
    assert history.tail(A, Metric.OUT_SYN) == pytest.approx(1000, rel=0.4)


def test_no_count_outgrows_its_bytes() -> None:
    """Neither by itself nor by a history that claims to be of more than there can be."""
    assert np.iinfo(np.uint16).max >= MOST_SAMPLES + 100 * REFRESH
    history = taught({A: [10.0] * 90 + [1000.0] * 10})
    known, before = history.remember(), history.tail(A, Metric.OUT_SYN)
    history.recall(replace(known, histogram=known.histogram * 1e6))
    assert history.remember().histogram.sum(axis=2).max() <= MOST_SAMPLES
    assert history.tail(A, Metric.OUT_SYN) == pytest.approx(before, rel=0.01)


def test_a_vm_takes_less_than_five_kilobytes() -> None:
    history = taught({VmId(str(n)): [1.0] for n in range(16)})
    taken = sum(array.nbytes for array in history._table._arrays.values())
    assert taken / 16 <= 5_000


def test_unseen_teaches_nothing_and_zero_does() -> None:
    history = History()
    row = np.full((1, len(Metric)), np.nan, np.float32)
    row[0, Metric.CPU] = 0.0
    for _ in range(40):
        history.learn([A], row)
    assert history.samples(A) == 0
    assert history.samples(A, Metric.CPU) == 40
    assert history.tail(A, Metric.CPU) == 0.0


@pytest.mark.parametrize("value", [-1.0, np.inf, -np.inf, np.nan])
def test_what_cannot_be_teaches_nothing(value: float) -> None:
    history = taught({A: [value] * 50})
    assert history.samples(A) == 0
    assert history.tail(A, Metric.OUT_SYN) == PRIOR_PPS


def test_the_largest_and_the_smallest_are_held() -> None:
    history = taught({A: [3.4e38] * 40, B: [1e-30] * 40})
    assert np.isfinite(history.tail(A, Metric.OUT_SYN))
    assert history.tail(B, Metric.OUT_SYN) < 0.5


def test_it_is_remembered_and_recalled() -> None:
    first = taught({A: [10.0] * 100, B: [1000.0] * 100})
    second = taught({C: [5.0] * 50})
    own = second.tails([C])
    second.recall(first.remember())
    assert (second.tails([A, B]) == first.tails([A, B])).all()
    assert (second.tails([C]) == own).all(), "of C nothing was said"
    assert second.samples(B) == 100
    third = History()
    third.recall(histories.decode(histories.encode(first.remember())))
    assert (third.tails([A, B]) == first.tails([A, B])).all()


def test_an_empty_one_as_well() -> None:
    history = taught({A: [10.0] * 40})
    history.recall(histories.decode(histories.encode(History().remember())))
    assert history.vms == (A,)
    assert histories.decode(histories.encode(History().remember())).vms == ()


def corrupted(known: Remembered) -> dict[str, Remembered]:
    nan, negative = known.histogram.copy(), known.histogram.copy()
    nan[0, 0, 0], negative[0, 3, 1] = np.nan, -1.0
    return {
        "fewer VMs than rows": replace(known, vms=(A,)),
        "another number of metrics": replace(known, histogram=known.histogram[:, 1:]),
        "another number of bins": replace(known, histogram=known.histogram[:, :, 1:]),
        "samples of another shape": replace(known, samples=known.samples[:, 1:]),
        "NaN": replace(known, histogram=nan),
        "less than nothing": replace(known, histogram=negative),
        "endless samples": replace(known, samples=np.full_like(known.samples, np.inf)),
        "fewer samples than nothing": replace(known, samples=-known.samples),
        "a VM twice": replace(known, vms=(A, A)),
    }


@pytest.mark.parametrize("how", corrupted(taught({A: [1.0], B: [1.0]}).remember()))
def test_a_corrupt_history_is_refused_and_changes_nothing(how: str) -> None:
    history = taught({A: [10.0] * 100, B: [1000.0] * 100})
    before = history.tails([A, B])
    with pytest.raises(ValueError, match="it is a history"):
        history.recall(corrupted(history.remember())[how])
    assert (history.tails([A, B]) == before).all()
    assert history.vms == (A, B)


@pytest.mark.parametrize(
    "untrusted",
    [b"", b"PK\x03\x04", b"nonsense" * 100, histories.encode(taught({A: [1.0]}).remember())[:-40]],
    ids=["empty", "half a zip", "nonsense", "cut off"],
)
def test_bytes_that_are_no_history_are_refused(untrusted: bytes) -> None:
    with pytest.raises(ValueError, match="no history"):
        histories.decode(untrusted)


def test_others_are_forgotten_and_their_rows_are_clean() -> None:
    history = taught({A: [10.0] * 40, B: [1000.0] * 40, C: [100.0] * 40})
    history.keep([A, C])
    assert history.tail(C, Metric.OUT_SYN) == pytest.approx(100, rel=0.4), "a bin is half an octave wide"
    assert history.tail(A, Metric.OUT_SYN) == pytest.approx(10, rel=0.4)
    assert history.samples(B) == 0, "who comes back begins anew"
    assert history.tail(B, Metric.OUT_SYN) == PRIOR_PPS


def test_a_table_grows_and_shrinks_without_mixing_rows() -> None:
    table = Table(value=(2,))
    names = [VmId(str(n)) for n in range(1000)]
    for number, name in enumerate(names):
        row = table.row(name)
        table["value"][row] = number
    table.keep(names[::3])
    assert len(table) == 334
    rows = table.rows(names[::3])
    assert table["value"][rows, 1].tolist() == list(range(0, 1000, 3))
    assert table["value"][table.row(VmId("new"))].tolist() == [0.0, 0.0]


def granted(kind: LimitKind, own: float, value: float) -> Limit:
    return Limit(LimitId("l1"), A, kind, Instant(0.0), Instant(9.0), "a test", value, raised_from=own)


@pytest.mark.parametrize(
    ("kind", "metric", "usual", "own", "value", "told"),
    [
        (LimitKind.CPU, Metric.CPU, 0.5, 0.5, 0.8, 0.8),
        (LimitKind.MEMORY, Metric.MEMORY, 0.8, 200_000.0, 400_000.0, 0.4),
        (LimitKind.PACKETS, Metric.OUT_UDP, 100.0, 1000.0, 3000.0, 300.0),
    ],
)
def test_a_grant_explains_as_much_more_as_it_gives(
    *, kind: LimitKind, metric: Metric, usual: float, own: float, value: float, told: float
) -> None:
    history = taught({A: [usual] * 60, B: [usual] * 60}, metric)
    asked = (history.tail, history.middle, history.usual, lambda vm, column: history.tails([B, vm])[1, column])
    before = [ask(A, metric) for ask in asked]
    history.given([granted(kind, own, value)])
    assert [ask(A, metric) for ask in asked] == pytest.approx([told / usual * one for one in before])
    assert [ask(B, metric) for ask in asked] == pytest.approx(before), "and nobody else's"
    history.given([])
    assert [ask(A, metric) for ask in asked] == before


@pytest.mark.parametrize(
    ("kind", "metric", "usual", "own", "value", "seen"),
    [
        (LimitKind.CPU, Metric.CPU, 0.5, 0.5, 0.9, 0.9),
        (LimitKind.MEMORY, Metric.MEMORY, 0.8, 200_000.0, 400_000.0, 0.4),
        (LimitKind.MEMORY, Metric.MEMORY_RSS, 2e8, 200_000.0, 400_000.0, 4e8),
        (LimitKind.PACKETS, Metric.OUT_UDP, 1000.0, 1000.0, 3000.0, 3000.0),
    ],
)
def test_what_is_learned_under_a_grant_is_what_it_could_have_done_without(
    *, kind: LimitKind, metric: Metric, usual: float, own: float, value: float, seen: float
) -> None:
    history, control = taught({A: [usual] * 60}, metric), taught({A: [usual] * 60}, metric)
    before = history.middle(A, metric)
    history.given([granted(kind, own, value)])
    second = np.zeros((1, len(Metric)), np.float32)
    second[0, metric] = seen
    for _ in range(600):
        history.learn((A,), second)
        control.learn((A,), second)
    assert second[0, metric] == np.float32(seen), "the report itself is left as it is"
    history.given([])
    assert history.middle(A, metric) == pytest.approx(before, rel=0.1)
    assert control.middle(A, metric) == pytest.approx(before * seen / usual, rel=0.45)


def test_a_history_of_before_the_last_metric_is_read() -> None:
    history = taught({A: [500.0] * 60})
    known = history.remember()
    older = replace(known, histogram=known.histogram[:, :-1], samples=known.samples[:, :-1])
    fresh = History()
    fresh.recall(older)
    assert fresh.tail(A, Metric.OUT_SYN) == history.tail(A, Metric.OUT_SYN)
    assert fresh.samples(A, Metric.BLOCK_WAIT) == 0
    with pytest.raises(ValueError, match="another version"):
        fresh.recall(replace(known, histogram=known.histogram[:, :-2], samples=known.samples[:, :-2]))
    with pytest.raises(ValueError, match="another version"):
        fresh.recall(replace(older, samples=known.samples[:, :3]))
