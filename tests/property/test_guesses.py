"""Whatever ends when and where: a broken row begins anew, and a client that never varies is blamed for nothing."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from hypervigil.host.hsem.guesses import HASTY, MAX_LOOKS, MAX_SERVICES, PATIENT_S, WAITS_S, Guesses, guesses
from hypervigil.model.ids import OUTSIDE, Instant, VmId
from hypervigil.model.report import DialogueCount
from hypervigil.model.traffic import Direction

VM, OTHER = VmId("a"), VmId("b")


@st.composite
def dialogues(draw: st.DrawFn) -> DialogueCount:
    """What ended at one service in one interval."""
    ended = draw(st.integers(1, 6))
    curt = draw(st.integers(0, ended))
    alike = draw(st.integers(0, curt))
    return DialogueCount(
        VM,
        draw(st.sampled_from(Direction)),
        draw(st.sampled_from((OUTSIDE, OTHER))),
        "198.51.100.9",
        draw(st.integers(1, 10)),
        ended,
        curt,
        alike,
        draw(st.integers(0, alike)),
        alike * draw(st.sampled_from((0.0, 0.5, 1.0, 3.0))),
    )


STORIES = st.lists(st.tuples(st.sampled_from((0.2, 2.0, 30.0, 700.0)), st.lists(dialogues(), max_size=4)), max_size=60)


@given(STORIES)
def test_who_is_blamed_has_reason(story: list[tuple[float, list[DialogueCount]]]) -> None:
    memory, now = Guesses(), 0.0
    since: dict[tuple[Direction, int], int] = {}
    for pause_s, counts in story:
        now += pause_s
        for count in counts:
            key = (count.direction, count.port)
            broken = count.ended > count.alike
            since[key] = (int(count.curt > 0) if broken else since.get(key, 0)) + count.alike
            for found in memory.see([count], Instant(now)):
                assert guesses(found)
                assert HASTY <= found.dialogues <= since[key] + 1
                assert found.varied
                assert found.lasted_s >= WAITS_S
                assert found.seconds <= PATIENT_S
                assert found.direction is Direction.OUT or found.other == OUTSIDE
    for record in memory._of.values():
        assert len(record.services) <= MAX_SERVICES
        assert all(len(service.at) <= MAX_LOOKS for service in record.services.values())


@given(STORIES)
def test_who_always_says_the_same_is_blamed_for_nothing(story: list[tuple[float, list[DialogueCount]]]) -> None:
    memory, now = Guesses(), 0.0
    for pause_s, counts in story:
        now += pause_s
        assert memory.see([replace(count, varied=0) for count in counts], Instant(now)) == []


@given(STORIES)
def test_who_is_never_made_to_wait_is_blamed_for_nothing(story: list[tuple[float, list[DialogueCount]]]) -> None:
    memory, now = Guesses(), 0.0
    for pause_s, counts in story:
        now += pause_s
        assert memory.see([replace(count, lasted_s=0.9 * count.alike) for count in counts], Instant(now)) == []
