"""A VM's history goes with it to another host, where it is judged as if it had stayed."""

from dataclasses import replace

import numpy as np
import pytest

from hypervigil.host.hsem.history import Remembered
from hypervigil.host.hsem.usual import Usual
from hypervigil.host.monitor import histories
from hypervigil.model.ids import Instant, VmId
from hypervigil.model.metric import Metric
from tests.unit.host.hsem.test_told_history import told

MOVES, STAYS, OTHER = VmId("moves"), VmId("stays"), VmId("other host's")
MINUTES = 30


def rows(vms: list[VmId], n: int) -> np.ndarray:
    """A second of each, after its own fashion."""
    fashion = {MOVES: 5.0, STAYS: 900.0, OTHER: 44.0}
    values = np.zeros((len(vms), len(Metric)), np.float32)
    for row, vm in enumerate(vms):
        values[row] = fashion[vm] * (1.0 + 0.3 * (n * 7 % 5))
    return values


def lived(vms: list[VmId]) -> Usual:
    usual = Usual()
    for n in range(60 * MINUTES):
        for vm in vms:
            usual.told.hear(replace(told(n, FORKS=20 + n % 7), vm=vm))
        usual.learn(vms, rows(vms, n), set(), Instant(float(n)))
        if n % 60 == 0:
            usual.ports.visited(vms[0], {443: 2.0}, 0.0)
    return usual


@pytest.fixture(scope="module")
def source() -> Remembered:
    return lived([MOVES, STAYS]).remember()


def moved(known: Remembered) -> Remembered:
    """By way of a file."""
    return histories.decode(histories.encode(known))


def same(one: Usual, other: Usual, vm: VmId) -> bool:
    """Whether they know the same of a VM."""
    parts = [histories.encode(usual.remember().of({vm})) for usual in (one, other)]
    return parts[0] == parts[1]


def test_it_arrives_whole_and_alone(source: Remembered) -> None:
    there, before, home = lived([OTHER]), lived([OTHER]), Usual()
    home.recall(source)
    there.recall(moved(source.of({MOVES})))
    assert same(there, home, MOVES)
    assert same(there, before, OTHER)
    assert STAYS not in there.history.vms
    assert there.brief(MOVES) == home.brief(MOVES)
    assert there.brief(MOVES).ports == (443,)


def test_it_goes_on_as_if_it_had_stayed() -> None:
    home, there = lived([MOVES]), lived([OTHER])
    there.recall(moved(home.remember()))
    for n in range(60 * MINUTES, 60 * (MINUTES + 3)):
        for usual, vms in ((home, [MOVES]), (there, [OTHER, MOVES])):
            usual.learn(vms, rows(vms, n), set(), Instant(float(n)))
    one, other = (usual.remember().of({MOVES}) for usual in (home, there))
    assert (one.histogram == other.histogram).all()
    assert there.history.samples(MOVES) == 60 * (MINUTES + 3)


def test_what_was_known_of_it_here_before_gives_way(source: Remembered) -> None:
    there, home = lived([MOVES, OTHER]), Usual()
    home.recall(source)
    older = replace(source.of({MOVES}), habits=None, told=None, ports=None)
    there.recall(moved(older))
    assert there.brief(MOVES).ports == ()
    assert not any(array.any() for array in there.remember().of({MOVES}).habits.values())
    assert there.history.tail(MOVES, Metric.OUT_SYN) == home.history.tail(MOVES, Metric.OUT_SYN)


def test_of_whom_nothing_is_known_nothing_goes(source: Remembered) -> None:
    assert moved(source.of(set())).vms == ()
    assert moved(source.of({OTHER})).vms == ()
