"""Near capacity is counted with hysteresis; wishes are made late and taken back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypervigil.guest import words
from hypervigil.guest.vrem import load
from hypervigil.model.guest import Need


def run(shares, column=words.CPU):
    found = load.Load()
    wishes = []
    for second, share in enumerate(shares):
        values = [words.UNSEEN] * words.METRICS
        values[column] = share
        found.see(values, second * 1000, 1000)
        wishes += [(second, *wish) for wish in found.wishes(second * 1000, 400_000)]
    return found, values, wishes


@pytest.mark.req("A247")
def test_seven_times_near_is_seven():
    _, values, _ = run([950, 950, 850, 920, 300] * 7)
    assert values[words.NEAR_CPU] == 7
    assert values[words.NEAR_MEMORY] == 0


@pytest.mark.req("A247")
@given(st.lists(st.integers(0, 1000), max_size=200))
def test_it_must_come_down_before_it_can_come_near_again(shares):
    times, near = 0, False
    for share in shares:
        if share >= load.NEAR and not near:
            times, near = times + 1, True
        elif share < load.BELOW:
            near = False
    found, _, _ = run(shares or [0])
    assert found.near[0].times == times


def test_a_wish_is_made_when_near_for_long_and_taken_back_when_calm():
    _, _, wishes = run([950] * 15 + [100] * 40)
    assert wishes == [(10, "cpu", 1000, 500, 10), (45, "cpu", 1000, 0, 0)]


def test_a_wish_that_is_not_fulfilled_is_made_again():
    _, _, wishes = run([950] * 75)
    assert [second for second, *_ in wishes] == [10, 70]


def test_memory_is_wished_for_in_what_it_has():
    _, _, wishes = run([990] * 12, words.MEMORY)
    assert wishes == [(10, "memory", 400_000, 100_000, 10)]


def test_a_short_peak_makes_no_wish():
    assert run([950] * 9 + [100] * 60)[2] == []


def test_an_unseen_resource_is_no_calm():
    found, _, wishes = run([950] * 5 + [words.UNSEEN] * 3 + [950] * 5)
    assert found.near[0].times == 1
    assert len(wishes) == 1


@pytest.mark.req("A245", "A246")
def test_the_answer_tells_the_load_of_now():
    found, _, _ = run([950] * 3)
    assert found.answer() == [950, words.UNSEEN, words.UNSEEN, words.UNSEEN, [1, 0, 0], [3, 0, 0]]


def test_resources_are_the_models():
    assert {name for name, _ in load.RESOURCES} == set(Need)
