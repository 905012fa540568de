"""What of a demonstration is as promised: the good story, and each way in which it can go wrong."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from lab.capture import Slice
from lab.checked import Check, named
from lab.demonstrated import Demonstration, allowed_latency_s, checks, stretch
from lab.place import WorkSample
from tests.unit.lab.story import (
    ATTACKER,
    ENDED,
    GRABBER,
    KILLED,
    LIAR,
    LIED,
    ONSET,
    REPLAYED,
    STORY,
    VICTIM,
    limit,
    slices,
    work,
)


def changed(**fields: Any) -> Demonstration:
    return msgspec.structs.replace(STORY, **fields)


def wrong(seen: Demonstration) -> list[tuple[str, str]]:
    return [(check.of, check.expected) for check in checks(seen) if not check.ok]


def row(seen: Demonstration, of: str, begins: str, act: str = "") -> Check:
    rows = (check for check in checks(seen) if check.act.startswith(act) and check.of == of)
    return next(check for check in rows if check.expected.startswith(begins))


def slower(low_s: float, high_s: float, **fields: Any) -> dict[str, tuple[WorkSample, ...]]:
    """C's work with some seconds as they should not be."""
    seconds = tuple(
        replace(one, **{k: v(one) for k, v in fields.items()}) if low_s <= one.at_s <= high_s else one
        for one in STORY.work["c"]
    )
    return {**STORY.work, "c": seconds}


def test_a_story_as_it_should_be() -> None:
    assert wrong(STORY) == []
    assert len(checks(STORY)) == 27


def test_words_and_numbers_of_the_table() -> None:
    attacker = row(STORY, "A", "attacker")
    assert (attacker.decided, attacker.when) == ("attacker: flood", "+0.62 s")
    assert attacker.evidence == "A sends 9,800 connection tries (SYN) a second to B, and they lead to nothing"
    assert row(STORY, "A", "limited within").when == "+0.08 s"
    assert row(STORY, "B", "victim").decided == "victim of A"
    assert row(STORY, "C", "≥ 95%", "flood").decided == "100%"
    assert "97%" in row(STORY, "C", "≥ 95%", "flood").evidence
    assert row(STORY, "the crowd", "no request").decided == "0 of 1,080 failed"
    assert row(STORY, "A", "free").when == "+68.60 s"


def test_it_survives_the_file() -> None:
    again = msgspec.json.decode(msgspec.json.encode(STORY), type=Demonstration)
    assert checks(again) == checks(STORY)


# --- the grab ---


def test_a_grab_that_nobody_found() -> None:
    cases = tuple(case for case in STORY.cases if case is not GRABBER)
    assert wrong(changed(cases=cases)) == [("D", "overloaded, found within 18 s")]


@pytest.mark.parametrize("change", [{"role": "attacker"}, {"role": "cleared"}, {"decided_at": 39.1}])
def test_a_grab_that_is_misjudged_or_found_late(change: dict[str, Any]) -> None:
    case = msgspec.structs.replace(GRABBER, **change)
    cases = tuple(case if one is GRABBER else one for one in STORY.cases)
    assert ("D", "overloaded, found within 18 s") in wrong(changed(cases=cases))


@pytest.mark.parametrize("kind", ["wanted", "not-granted"])
def test_a_wish_that_is_not_on_record(kind: str) -> None:
    facts = tuple(fact for fact in STORY.grab.facts if fact.kind != kind)
    grab = msgspec.structs.replace(STORY.grab, facts=facts)
    assert wrong(changed(grab=grab)) == [("D", "asks for more, and is told why it gets none")]


def test_whoever_takes_all_may_have_to_share_and_no_more() -> None:
    shares = limit("d", 34.0, 40.0, kind="cpu", value=0.5, classes=())
    assert row(changed(limits=(*STORY.limits, shares)), "D", "at most").decided == "shares"
    held = limit("d", 34.0, 40.0)
    assert wrong(changed(limits=(*STORY.limits, held))) == [("D", "at most has to share")]


def test_a_neighbour_that_a_grab_slows_down() -> None:
    assert wrong(changed(work=slower(22.0, 40.0, ok=lambda _: 7))) == [("C", "≥ 95% of its rate")]


# --- the surge ---


def test_an_innocent_blamed_for_the_surge() -> None:
    case = msgspec.structs.replace(ATTACKER, name="b", opened_at=50.0, decided_at=51.0)
    assert wrong(changed(cases=(*STORY.cases, case))) == [("B", "innocent"), ("all", "nobody is wrongly blamed")]


def test_a_cleared_case_is_no_blame() -> None:
    case = msgspec.structs.replace(ATTACKER, name="b", role="cleared", attack=None, opened_at=50.0, decided_at=53.0)
    assert wrong(changed(cases=(*STORY.cases, case))) == []


@pytest.mark.parametrize(("value", "right"), [(43.0, True), (41.0, False)])
def test_a_limit_in_the_surge_leaves_half_of_what_is_offered(value: float, right: bool) -> None:
    held = limit("b", 50.0, 55.0, value=value, classes=("synack",))  # of 84 a second
    got = row(changed(limits=(*STORY.limits, held)), "all", "no limit below")
    assert (got.ok, got.decided) == (right, f"1 limit, the smallest {value / 84:.0%}")


def test_a_limit_without_a_rate_leaves_nothing() -> None:
    held = limit("b", 50.0, 55.0, kind="isolate", value=None)
    assert wrong(changed(limits=(*STORY.limits, held))) == [("all", "no limit below 50% of what is offered")]


def test_whoever_is_limited_when_the_surge_is_over() -> None:
    held = limit("b", 50.0, 64.0, value=60.0, classes=("synack",))
    assert wrong(changed(limits=(*STORY.limits, held))) == [("all", "nobody is limited at its end")]


def test_a_failed_request() -> None:
    work_of = slower(50.0, 50.0, failed=lambda _: 1)
    assert wrong(changed(work=work_of)) == [("C", "no request fails")]
    crowd = (*STORY.work["surge"][:-1], replace(STORY.work["surge"][-1], failed=2))
    assert wrong(changed(work={**STORY.work, "surge": crowd})) == [("the crowd", "no request fails")]


def test_a_crowd_that_never_came_proves_nothing() -> None:
    assert wrong(changed(work={**STORY.work, "surge": ()})) == [("the crowd", "no request fails")]


# --- the flood ---


def test_an_attacker_not_found() -> None:
    missed = wrong(changed(cases=(), limits=()))
    assert ("A", "attacker: flood") in missed
    assert ("A", "limited within 2 s") in missed
    assert ("B", "victim of A") in missed
    assert ("A", "free again once it is calm") in missed, "who was never limited cannot be set free"


def test_a_limit_that_came_late() -> None:
    late = (limit("a", ONSET + 2.1, 139.0),)
    assert ("A", "limited within 2 s") in wrong(changed(limits=late))


def test_a_limit_that_leaks() -> None:
    leaky = (*slices(ONSET, 70.48, 9800), *slices(70.6, ENDED, 30))
    flood = msgspec.structs.replace(STORY.flood, delivered=leaky)
    assert [of for of, _ in wrong(changed(flood=flood))] == ["A"]


def test_the_gap_between_two_limits_counts() -> None:
    burst = (*STORY.flood.delivered, Slice(71.02, 71.03, 300))
    flood = msgspec.structs.replace(STORY.flood, delivered=burst)
    assert [of for of, _ in wrong(changed(flood=flood))] == ["A"]


def test_the_wrong_victim_or_the_wrong_culprit() -> None:
    other = msgspec.structs.replace(VICTIM, target="c")
    assert wrong(changed(cases=(LIAR, ATTACKER, other, GRABBER))) == [("B", "victim of A")]
    scan = msgspec.structs.replace(ATTACKER, attack="scan")
    assert wrong(changed(cases=(LIAR, scan, VICTIM, GRABBER))) == [("A", "attacker: flood")]


def test_a_disturbed_client() -> None:
    starved = wrong(changed(work=slower(71.0, 95.0, ok=lambda _: 7)))
    assert [of for of, what in starved if "rate" in what] == ["C"]
    slow = slower(71.0, 95.0, latencies_s=lambda one: tuple(0.03 + latency for latency in one.latencies_s))
    assert wrong(changed(work=slow)) == [("C", "p95 ≤ 1.5 ×")]
    limited = (*STORY.limits, limit("c", 72.0, 80.0))
    assert wrong(changed(limits=limited)) == [("C", "innocent, not limited")]


def test_a_client_that_got_no_answer_at_all() -> None:
    dead = slower(70.0, 140.0, ok=lambda _: 0, latencies_s=lambda _: ())
    assert [of for of, _ in wrong(changed(work=dead))] == ["C", "C"]


def test_latency_may_grow_by_half_or_by_twenty_milliseconds() -> None:
    assert allowed_latency_s(0.010) == pytest.approx(0.015)
    assert allowed_latency_s(0.100) == pytest.approx(0.150)


# --- the lie ---


def lie(**fields: Any) -> Demonstration:
    return changed(lie=msgspec.structs.replace(STORY.lie, **fields))


def test_words_of_the_lie() -> None:
    silent, told = row(STORY, "D", "its silence"), row(STORY, "D", "the lie")
    assert (silent.decided, silent.when) == ("silent", "+3.10 s")
    assert (told.decided, told.when) == ("contradicted", "+2.90 s")
    assert told.evidence == "D's agent says that it sent 42 bytes a second, and its NICs 7,560 at least"
    assert row(STORY, "D", "attacker").when == "+1.10 s"


def test_a_silence_or_a_lie_that_nobody_noticed_or_too_late() -> None:
    silent, heard, mismatch = STORY.lie.facts
    silence, found = ("D", "its silence on record within 4.25 s"), ("D", "the lie on record within 4.25 s")
    assert wrong(lie(facts=(heard, mismatch))) == [silence]
    assert wrong(lie(facts=(silent, heard))) == [found]
    assert wrong(lie(facts=(msgspec.structs.replace(silent, at_s=KILLED + 4.3), heard, mismatch))) == [silence]
    assert wrong(lie(facts=(silent, heard, msgspec.structs.replace(mismatch, at_s=LIED + 4.3)))) == [found]
    before = msgspec.structs.replace(mismatch, at_s=REPLAYED - 1)
    assert wrong(lie(facts=(silent, before))) == [found], "what was found before it lied is no finding"


def test_a_liar_who_is_believed_or_not_limited() -> None:
    believed = wrong(changed(cases=(VICTIM, ATTACKER, GRABBER)))
    assert believed == [("D", "attacker: flood")]
    free = wrong(changed(limits=STORY.limits[:2]))
    assert free == [("D", "limited within 2 s"), ("D", "free again once it is calm")]


def test_a_liar_blamed_before_it_lied() -> None:
    early = msgspec.structs.replace(LIAR, opened_at=80.0, decided_at=81.0)
    assert ("all", "nobody is wrongly blamed") in wrong(changed(cases=(early, *STORY.cases)))


# --- afterwards ---


def test_an_attacker_limited_for_ever() -> None:
    standing = (limit("a", 70.48, 200.0, lifted_at=None, state="in-force"), *STORY.limits[2:])
    assert wrong(changed(limits=standing)) == [("A", "free again once it is calm")]


@pytest.mark.parametrize(
    "journal", [{"ok": False, "problem": "record 7 was altered"}, {"mismatches": 1}, {"records": 0}, {"verdicts": 0}]
)
def test_a_journal_that_does_not_hold(journal: dict[str, Any]) -> None:
    broken = msgspec.structs.replace(STORY.journal, **journal)
    assert [of for of, _ in wrong(changed(journal=broken))] == ["journal"]


def test_something_left_on_the_host() -> None:
    got = row(changed(residue=("link vnet7",)), "host", "nothing")
    assert (got.ok, got.decided, got.evidence) == (False, "1 thing left", "link vnet7")


# --- small things ---


def test_names_as_the_audience_knows_them() -> None:
    assert named("hvl-a sends much to hvl-b, not to hvl-backup") == "A sends much to B, not to hvl-backup"


def test_seconds_belong_to_the_time_in_which_most_of_them_lies() -> None:
    got = stretch(work(8, 0.02, 10), 2.4, 5.4)
    assert (got.ok, got.rate) == (24, 8.0), "those that end at 3, 4, 5 s; the one at 6 s begins at 5 s"
