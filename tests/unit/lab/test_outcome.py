"""From what was seen to the outcome: realistic runs, right and wrong in each way that matters."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from lab.capture import Slice
from lab.outcome import Judged, Outcome, Seen, StepSeen, outcome
from lab.place import WorkSample
from lab.scenario import Scenario, parse
from lab.watched import Case, Evidence, Limit

TEXT = """
name = "syn-flood-inside"
[[network]]
name = "net1"
cidr = "10.60.0.0/24"
[[guest]]
name = "a"
network = "net1"
[[guest]]
name = "b"
network = "net1"
work = "web-server"
[[guest]]
name = "c"
network = "net1"
work = "web-client:b"
[[step]]
at_s = 50
on = "a"
run = "hping3 $ip_b"
attack = true
target = "b"
[[expect]]
guest = "a"
verdict = "attacker"
class = "flood"
within_s = 10
released = false
[[expect]]
guest = "b"
verdict = "victim"
[[expect]]
guest = "c"
verdict = "innocent"
released = true
[limits]
duration_s = 90
"""
SCENARIO = parse(TEXT)
FACT = Evidence("outbound-surge", "host-observed", 51.0, 5000.0, 9.0, "packets/s", "It sends much.", "a")


def case(name: str, role: str | None, opened: float, decided: float | None, attack: str | None = "flood") -> Case:
    return Case("c1", name, opened, decided, None, role, attack if role else None, None, (FACT,))


def limit(name: str, since: float | None, until: float, lifted: float | None = None, value: float = 20.0) -> Limit:
    state = "ended" if lifted is not None else "in-force" if since is not None else "withheld"
    return Limit("l1", name, "packets", value, "c1", until, since, lifted, state)


def second(at_s: float, ok: int, latency_s: float = 0.01, failed: int = 0) -> WorkSample:
    return WorkSample(at_s, 1.7e9 + at_s, ok, failed, (latency_s,) * ok)


FLOOD = StepSeen(
    step=SCENARIO.step[0],
    began_s=50.0,
    ended_s=70.4,
    exit=124,
    first_s=50.3,
    sent=100_000,
    delivered=(
        Slice(50.30, 50.80, 2500),
        Slice(50.80, 51.02, 1000),
        Slice(51.02, 51.06, 8),
        Slice(51.06, 55.0, 80),
        Slice(55.0, 70.0, 300),
    ),
)
WORK = {
    "b": [second(at, 8) for at in range(1, 91)],
    "c": [second(at, 8, 0.2 if 51 <= at <= 70 else 0.01, failed=int(at == 60)) for at in range(1, 91)],
}
JUDGED = Judged(
    cases=(case("b", "victim", 50.9, 53.0), case("a", "attacker", 50.8, 52.3)),
    limits=(limit("a", 51.0, 81.0, 52.4), limit("a", 52.4, 112.4), limit("b", 51.2, 61.2, 61.0)),
)
SEEN = Seen(SCENARIO, (FLOOD,), WORK, JUDGED)


def judge(seen: Seen = SEEN, residue: tuple[str, ...] = ()) -> Outcome:
    return outcome(seen, image="0123", residue=residue)


def changed(**judged: Any) -> Seen:
    return replace(SEEN, judged=replace(JUDGED, **judged))


def scenario(old: str, new: str) -> Scenario:
    assert old in TEXT
    return parse(TEXT.replace(old, new))


def test_a_flood_found_and_contained() -> None:
    result = judge()
    assert (result.ok, result.failures, result.wrong_blame, result.control) == (True, [], [], False)
    a, b, c = (result.guests[name] for name in "abc")
    assert (a.verdict, a.attack_class, a.expected) == ("attacker", "flood", "attacker")
    assert (a.onset_s, a.level2_s, a.limit_s, a.verdict_s) == (50.3, 0.5, 0.7, 2.0)
    assert a.released_s is None, "it is limited still"
    assert [(x.type, x.value, x.from_s, x.to_s) for x in a.limits] == [
        ("packets", 20.0, 51.0, 52.4),
        ("packets", 20.0, 52.4, 112.4),
    ]
    assert a.evidence[0]["text"] == "It sends much."
    assert (b.verdict, b.onset_s, b.released_s) == ("victim", 50.3, 10.7)
    assert (c.verdict, c.level2_s, c.limit_s) == ("none", None, None)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('target = "b"', 'target = "b"\npasses = 0.04', None),
        ('target = "b"', 'target = "b"\npasses = 0.03', "3888 of 100000 frames arrived, 3% were allowed"),
        ('guest = "b"\nverdict', 'guest = "b"\nkeeps = 1.0\nverdict', None),
    ],
)
def test_what_may_arrive_and_what_is_kept_can_be_asked_for(old: str, new: str, said: str | None) -> None:
    file = scenario(old, new)
    result = judge(replace(SEEN, scenario=file, steps=(replace(FLOOD, step=file.step[0]),)))
    assert result.ok is (said is None)
    assert said is None or said in result.failures[0]


def test_a_victim_that_cannot_work_on_is_said_to_be() -> None:
    file = scenario('guest = "b"\nverdict', 'guest = "b"\nkeeps = 0.9\nverdict')
    work = {**WORK, "b": [second(at, 4 if 50 < at <= 71 else 8) for at in range(1, 91)]}
    result = judge(replace(SEEN, scenario=file, work=work))
    assert result.failures == ["b should keep 90% of its work, and did 4.0 a second instead of 8.0"]
    assert judge(replace(SEEN, scenario=file, work={**WORK, "b": []})).failures, "what was not seen was not kept"


def test_a_control_run_in_which_nobody_is_hurt_proves_nothing() -> None:
    file = scenario('guest = "b"\nverdict', 'guest = "b"\nloses = 0.4\nverdict')
    free = replace(SEEN, scenario=file, judged=None)
    said = "b should lose 40% of its work without the product, and did 8.0 a second instead of 8.0"
    assert said in judge(free).failures
    work = {**WORK, "b": [second(at, 4 if 50 < at <= 71 else 8) for at in range(1, 91)]}
    assert not any("should lose" in failure for failure in judge(replace(free, work=work)).failures)
    assert any("should lose" in failure for failure in judge(replace(free, work={**WORK, "b": []})).failures)


def test_frames_are_split_where_the_limit_was_in_force_with_some_grace() -> None:
    (step,) = judge().steps
    assert (step.sent, step.delivered_before_limit, step.delivered_after_limit) == (100_000, 3508, 380)


def test_against_the_outside_the_victims_limit_counts() -> None:
    outside = replace(FLOOD, step=msgspec.structs.replace(FLOOD.step, on="ext"))
    steps = (msgspec.structs.replace(SCENARIO.step[0], on="ext"),)
    seen = replace(SEEN, scenario=msgspec.structs.replace(SCENARIO, step=steps), steps=(outside,))
    (step,) = judge(seen).steps
    assert step.delivered_after_limit == 300, "the limit on b was in force at 51.2 s"


def test_work_before_during_and_after() -> None:
    c = judge().guests["c"]
    assert (c.work_before, c.work_during, c.work_after) == (8.0, 8.0, 8.0)
    assert (c.latency_p95_before_s, c.latency_p95_during_s, c.latency_p95_after_s) == (0.01, 0.2, 0.01)
    assert (c.failed_before, c.failed_during, c.failed_after) == (0, 1, 0)
    assert judge().guests["a"].work_during is None, "an idle guest"


def test_a_short_step_still_has_a_second() -> None:
    cut = replace(FLOOD, began_s=50.1, ended_s=50.4)
    result = judge(replace(SEEN, steps=(cut,)))
    assert result.guests["c"].work_during == 8.0
    endless = judge(replace(SEEN, steps=(replace(FLOOD, ended_s=90.0),)))
    assert endless.guests["c"].work_after is None


def test_the_gravest_verdict_is_the_guests() -> None:
    cases = (case("a", "victim", 55.0, 56.0), *JUDGED.cases, case("c", "cleared", 60.0, 61.0, "none"))
    result = judge(changed(cases=cases))
    assert result.ok
    assert result.guests["a"].verdict == "attacker"
    assert result.guests["c"].verdict == "cleared"


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (changed(cases=JUDGED.cases[:1]), "a should be attacker, and the verdict is none"),
        (
            changed(cases=(JUDGED.cases[0], case("a", None, 50.8, None))),
            "a should be attacker, and the verdict is none",
        ),
        (
            changed(cases=(JUDGED.cases[0], case("a", "attacker", 50.8, 52.0, "scan"))),
            "a: the class should be flood, and is scan",
        ),
        (
            changed(cases=(JUDGED.cases[0], case("a", "attacker", 50.8, 62.0))),
            "a: the verdict came 11.7 s after onset, 10 s were allowed",
        ),
        (changed(limits=()), "a is free of limits at the end"),
        (changed(limits=(*JUDGED.limits, limit("c", 60.0, 95.0))), "c is still limited at the end"),
        (replace(SEEN, steps=(replace(FLOOD, sent=0, first_s=None, delivered=()),)), "no attack was seen"),
        (replace(SEEN, steps=(replace(FLOOD, exit=127),)), "step 1 on a: its command is not there"),
    ],
)
def test_what_does_not_hold_is_said(seen: Seen, said: str) -> None:
    result = judge(seen)
    assert not result.ok
    assert any(said in failure for failure in result.failures), result.failures


def test_blame_without_an_attack_is_wrong() -> None:
    result = judge(changed(cases=(*JUDGED.cases, case("c", "attacker", 55.0, 56.0))))
    assert result.wrong_blame == ["c"]
    assert not result.ok


def test_what_is_left_is_wrong() -> None:
    result = judge(residue=("link hvl-net1",))
    assert (result.ok, result.residue) == (False, ["link hvl-net1"])


def test_a_withheld_limit_is_none() -> None:
    result = judge(changed(limits=(limit("a", None, 60.0), *JUDGED.limits)))
    assert len(result.guests["a"].limits) == 2


def test_a_control_run_must_show_the_attack_succeed() -> None:
    through = replace(FLOOD, delivered=(Slice(50.3, 70.0, 99_000),))
    result = judge(replace(SEEN, steps=(through,), judged=None))
    assert (result.ok, result.control, result.guests["a"].verdict) == (True, True, None)
    assert (result.steps[0].delivered_before_limit, result.steps[0].delivered_after_limit) == (99_000, 0)
    weak = judge(replace(SEEN, judged=None))
    assert "only 3888 of 100000 frames arrived" in weak.failures[0]


def test_an_attack_on_nobody_in_the_network_needs_no_frames() -> None:
    hog = scenario('attack = true\ntarget = "b"', "attack = true")
    seen = replace(SEEN, scenario=hog, steps=(StepSeen(hog.step[0], 50.0, 70.0, exit=0),), judged=None)
    assert judge(seen).ok
    assert judge(seen).guests["a"].onset_s == 50.0


def test_without_steps_there_is_only_before() -> None:
    calm = scenario(TEXT[TEXT.index("[[step]]") : TEXT.index("[[expect]]")], "")
    result = judge(replace(SEEN, scenario=calm, steps=(), judged=None))
    assert (result.guests["c"].work_before, result.guests["c"].work_during) == (8.0, None)
    assert result.guests["c"].onset_s is None


def test_the_document_comes_back_as_it_was() -> None:
    written = msgspec.json.encode(judge())
    assert b'"class":"flood"' in written
    assert msgspec.json.decode(written, type=Outcome) == judge()
