"""A VM's history goes with it to another host, where it is judged as if it had stayed."""

from dataclasses import replace

import numpy as np
import pytest

from hypervigil.host.hsem import usual
from hypervigil.host.hsem.history import Remembered
from hypervigil.host.hsem.usual import Usual
from hypervigil.host.monitor import histories
from hypervigil.model.ids import Instant, VmId
from hypervigil.model.metric import Metric
from tests.unit.host.hsem.scene import Scene
from tests.unit.host.hsem.test_told_history import told

MOVES, STAYS, OTHER = VmId("moves"), VmId("stays"), VmId("other host's")
MINUTES = 10


def rows(vms: list[VmId], n: int) -> np.ndarray:
    """A second of each, after its own fashion."""
    fashion = {MOVES: 5.0, STAYS: 900.0, OTHER: 44.0}
    values = np.zeros((len(vms), len(Metric)), np.float32)
    for row, vm in enumerate(vms):
        values[row] = fashion[vm] * (1.0 + 0.3 * (n * 7 % 5))
    return values


def lived(vms: list[VmId]) -> Usual:
    known = Usual()
    for n in range(60 * MINUTES):
        for vm in vms:
            known.told.hear(replace(told(n, FORKS=20 + n % 7), vm=vm))
        known.learn(vms, rows(vms, n), set(), Instant(float(n)))
        if n % 60 == 0:
            known.ports.visited(vms[0], {443: 2.0}, 0.0)
    return known


@pytest.fixture(scope="module")
def source() -> Remembered:
    return lived([MOVES, STAYS]).remember()


def moved(known: Remembered) -> Remembered:
    """By way of a file."""
    return histories.decode(histories.encode(known))


def same(one: Usual, other: Usual, vm: VmId) -> bool:
    """Whether they know the same of a VM."""
    parts = [histories.encode(known.remember().of({vm})) for known in (one, other)]
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
        for one, vms in ((home, [MOVES]), (there, [OTHER, MOVES])):
            one.learn(vms, rows(vms, n), set(), Instant(float(n)))
    mine, its = (known.remember().of({MOVES}) for known in (home, there))
    assert (mine.histogram == its.histogram).all()
    assert there.history.samples(MOVES) == 60 * (MINUTES + 3)


def test_what_was_known_of_it_here_before_gives_way(source: Remembered) -> None:
    there, home = lived([MOVES, OTHER]), Usual()
    home.recall(source)
    older = replace(source.of({MOVES}), habits=None, told=None, ports=None)
    there.recall(moved(older))
    assert there.brief(MOVES).ports == ()
    assert not any(array.any() for array in there.remember().of({MOVES}).habits.values())
    assert there.history.tail(MOVES, Metric.OUT_SYN) == home.history.tail(MOVES, Metric.OUT_SYN)


def test_what_a_file_says_besides_of_others_is_nobodys(source: Remembered) -> None:
    there, before = lived([OTHER]), lived([OTHER])
    wide = replace(source.of({MOVES}), told=lived([STAYS, OTHER]).remember().told)
    there.recall(moved(wide))
    assert same(there, before, OTHER)


def test_a_name_that_would_be_cut_to_anothers_is_refused() -> None:
    long = VmId("x" * 65)
    with pytest.raises(ValueError, match="too long"):
        histories._vms(np.array([long], dtype="U65"))


def test_more_vms_than_there_is_room_for_are_refused(source: Remembered, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usual, "MAX_HISTORIES", 2)
    there = lived([OTHER])
    with pytest.raises(ValueError, match="more than 2 VMs"):
        there.recall(source)
    assert there.history.vms == (OTHER,)


def test_who_stands_still_learns_nothing_of_it() -> None:
    scene = Scene("a", "b").learn(40)
    vms = scene._inventory("ab").vms
    before = [scene.hsem.samples(vm.vm) for vm in vms]
    scene.hsem.inventory([replace(vms[0], paused=True), vms[1]], scene.now)
    scene.run(20)
    grown = [scene.hsem.samples(vm.vm) - many for vm, many in zip(vms, before, strict=True)]
    assert grown[0] == 0
    assert grown[1] >= 19


def test_of_whom_nothing_is_known_nothing_goes(source: Remembered) -> None:
    assert moved(source.of(set())).vms == ()
    assert moved(source.of({OTHER})).vms == ()
