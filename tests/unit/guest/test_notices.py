"""Notices are repeated until acknowledged, bounded, and a change of level is the last to go."""

from itertools import pairwise

import pytest

from hypervigil.guest.notices import AGAIN_MAX_MS, MOST, Notices


def told(notices: Notices, now_ms: int) -> list[int]:
    due = notices.due(now_ms)
    for notice in due:
        notices.told(notice, now_ms)
    return [notice.number for notice in due]


@pytest.mark.req("A236")
def test_a_notice_is_told_at_once_and_again_until_it_is_acknowledged():
    notices = Notices()
    notices.add("level", [2], 1000)
    when = [at for at in range(1000, 60_000, 100) if told(notices, at)]
    assert when[:4] == [1000, 2000, 4000, 8000]
    assert max(after - before for before, after in pairwise(when)) == AGAIN_MAX_MS
    notices.acknowledged(1)
    assert told(notices, 100_000) == []


def test_what_was_not_taken_is_due_still():
    notices = Notices()
    notices.add("level", [2], 0)
    assert [notice.number for notice in notices.due(0)] == [1]
    assert told(notices, 0) == [1]


def test_an_acknowledgement_of_another_ends_nothing():
    notices = Notices()
    notices.add("level", [2], 0)
    notices.acknowledged(7)
    assert told(notices, 0) == [1]


def test_levels_are_kept_when_there_is_no_room():
    notices = Notices()
    notices.add("level", [2], 0)
    for _ in range(3 * MOST):
        notices.add("special", ["module"], 0)
    due = notices.due(0)
    assert len(due) == MOST
    assert due[0].kind == "level"
    assert notices.take_dropped() == 2 * MOST + 1
    assert notices.take_dropped() == 0
