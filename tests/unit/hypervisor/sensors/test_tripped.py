"""Tripwires wake the sensors at an onset, not for as long as a flood lasts."""

from hypervigil.hypervisor.sensors.tripped import MAX_WIRES, QUIET_S, SPACING_S, Tripped
from hypervigil.model.ids import Instant


def test_an_onset_is_looked_at_and_what_goes_on_is_not() -> None:
    tripped = Tripped()
    assert tripped.due is None
    at = 10.0
    tripped.spring([(3, "syn")], Instant(at))
    assert tripped.due is not None
    assert tripped.take() == {3}
    for _ in range(50):
        at += 0.1
        tripped.spring([(3, "syn")], Instant(at))
        assert tripped.due is None
    tripped.spring([(3, "udp")], Instant(at))
    assert tripped.take() == {3}, "another class is another onset"
    tripped.spring([(3, "syn")], Instant(at + QUIET_S))
    assert tripped.take() == {3}, "after a pause it is an onset again"


def test_looks_are_spaced_and_cost_at_most_a_quarter_of_the_time() -> None:
    tripped = Tripped()
    tripped.looked(Instant(10.0), 0.001)
    tripped.spring([(1, "syn")], Instant(10.0))
    assert tripped.due == 10.0 + SPACING_S
    tripped.looked(Instant(20.0), 0.1)
    assert tripped.due == 20.4


def test_what_is_remembered_is_bounded() -> None:
    tripped = Tripped()
    for step in range(3):
        tripped.spring([(slot, "syn") for slot in range(MAX_WIRES)], Instant(10.0 + step * 2))
        tripped.spring([(slot, "udp") for slot in range(MAX_WIRES)], Instant(10.0 + step * 2))
    assert len(tripped._sprang) <= 2 * MAX_WIRES
