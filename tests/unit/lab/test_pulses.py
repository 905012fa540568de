"""From what was counted of pulses to latencies, shares and whether the promise holds."""

import subprocess
from dataclasses import replace

import msgspec
import pytest

from lab.capture import Slice
from lab.frames import Gateway, Party, Scene, program
from lab.outcome import Judged
from lab.pulses import PROFILES, PulseSeen, PulsesOutcome, attack_views, command, measured, summed, work_views
from lab.watched import Case, Limit

SCENE = Scene(
    {
        "a": Party("a", "10.60.0.2", "net1", "52:54:00:00:00:0a"),
        "b": Party("b", "10.60.0.3", "net1", "52:54:00:00:00:0b"),
        "c": Party("c", "10.60.0.4", "net1", "52:54:00:00:00:0c"),
        "ext": Party("ext", "198.51.100.2"),
    },
    {"net1": Gateway("52:54:01:00:00:01", "10.60.0.1"), None: Gateway("", "198.51.100.1")},
)


def limit(since: float, lifted: float | None, value: float = 20.0, **other: object) -> Limit:
    base = Limit("l1", "a", "packets", value, "c1", 200.0, since, lifted, "ended", None, "out", ("syn",))
    return msgspec.structs.replace(base, **other)


def case(name: str, role: str | None, decided: float = 102.0) -> Case:
    return Case("c1", name, 101.0, decided if role else None, None, role, "flood", None, ())


SEEN = PulseSeen(
    number=1,
    flood="syn",
    ended_s=106.0,
    onset_s=100.5,
    sent=(Slice(100.49, 100.51, 1), Slice(100.51, 106.0, 549)),
    delivered=(Slice(100.5, 101.2, 70), Slice(101.2, 101.26, 5), Slice(101.26, 104.2, 55), Slice(104.3, 106.0, 34)),
    others_sent=(Slice(100.0, 101.0, 20), Slice(101.3, 104.0, 54)),
    others_delivered=(Slice(100.0, 101.0, 20), Slice(101.3, 104.0, 52)),
    judged=Judged((case("a", "attacker"), case("b", "victim")), (limit(101.2, 102.1), limit(102.0, None))),
)


def test_a_pulse_is_timed_from_its_onset() -> None:
    one = measured(SEEN)
    assert (one.level2_s, one.limit_s, one.verdict_s) == (0.5, 0.7, 1.5)
    assert (one.sent, one.sent_pps) == (550, 100.0)
    assert (one.right, one.wrong_blame, one.problems) == (True, [], [])


def test_what_is_delivered_after_the_limit_is_held_against_the_limit() -> None:
    one = measured(SEEN)
    assert (one.limit_value, one.delivered_after) == (20.0, 55), "not what was under way, nor what comes after 3 s"
    assert one.allowed_after == pytest.approx(60.0)
    assert one.delivered_share == pytest.approx(55 / 60, abs=1e-3)
    assert (one.others_sent, one.others_delivered) == (54, 52)


def test_a_stricter_limit_counts_from_when_it_is_in_force() -> None:
    judged = Judged(SEEN.judged.cases, (limit(101.2, 103.25, 50.0), limit(102.25, None, 20.0)))
    assert measured(replace(SEEN, judged=judged)).allowed_after == pytest.approx(50 * 1.0 + 20 * 2.0)


@pytest.mark.parametrize("other", [{"name": "b"}, {"classes": ("udp",)}, {"direction": "in"}, {"kind": "cpu"}])
def test_a_limit_on_something_else_is_none(other: dict[str, object]) -> None:
    one = measured(replace(SEEN, judged=Judged(SEEN.judged.cases, (limit(101.2, None, **other),))))
    assert measured(
        replace(SEEN, judged=Judged(SEEN.judged.cases, (*SEEN.judged.limits, limit(102.0, None, **other))))
    ) == (measured(SEEN))
    assert (one.limit_s, one.limit_value, one.delivered_share) == (None, None, None)


@pytest.mark.parametrize(
    ("cases", "right", "wrong"),
    [
        ((case("a", "attacker"), case("b", "victim"), case("c", "cleared")), True, []),
        ((case("a", "attacker"),), False, []),
        ((case("a", None), case("b", "victim")), False, []),
        ((case("a", "attacker"), case("b", "attacker")), False, ["b"]),
        ((case("a", "attacker"), case("b", "victim"), case("c", "victim")), False, []),
        ((case("a", "attacker"), case("b", "victim"), case("c", "attacker")), False, ["c"]),
    ],
)
def test_the_verdict_is_right_only_if_all_are(cases: tuple[Case, ...], *, right: bool, wrong: list[str]) -> None:
    one = measured(replace(SEEN, judged=Judged(cases, SEEN.judged.limits)))
    assert (one.right, one.wrong_blame) == (right, wrong)


def test_a_pulse_without_packets_is_a_problem() -> None:
    one = measured(replace(SEEN, onset_s=None, sent=()))
    assert one.problems == ["no packet of the flood was seen"]


def total(*pulses: PulseSeen) -> PulsesOutcome:
    return summed("100", 0, [measured(pulse) for pulse in pulses], [])


def test_the_promise_holds() -> None:
    result = total(*[SEEN] * 4)
    assert (result.ok, result.failures) == (True, [])
    assert (result.limit_p50_s, result.limit_p95_s, result.limited, result.right) == (0.7, 0.7, 4, 4)
    assert result.others_kept == pytest.approx(52 / 54, abs=1e-4)


@pytest.mark.parametrize(
    ("pulse", "said"),
    [
        (replace(SEEN, judged=Judged((), ())), "no limit came into force"),
        (replace(SEEN, onset_s=99.0), "p50 is 2.20 s"),
        (replace(SEEN, delivered=(Slice(101.3, 104.2, 100),)), "up to 1.67 times the limit"),
        (replace(SEEN, others_delivered=(Slice(101.3, 104.0, 40),)), "other classes kept"),
        (replace(SEEN, judged=Judged((case("c", "attacker"),), SEEN.judged.limits)), "c is blamed"),
        (
            replace(SEEN, judged=Judged((case("a", "attacker"),), SEEN.judged.limits)),
            "judged a attacker, b none, c none",
        ),
    ],
)
def test_what_does_not_hold_is_said(pulse: PulseSeen, said: str) -> None:
    result = total(pulse, pulse)
    assert not result.ok
    assert any(said in failure for failure in result.failures), result.failures


def test_what_is_left_is_wrong() -> None:
    assert not summed("100", 0, [measured(SEEN)], ["link hvl-net1"]).ok


@pytest.mark.parametrize("flood", ["syn", "udp", "icmp"])
def test_views_become_programs(flood: str) -> None:
    for group in (*attack_views(SCENE, flood), *work_views(SCENE, flood)):
        for view in group:
            assert view.alternatives
            assert program(view.alternatives, view.heading)


@pytest.mark.parametrize("rate", PROFILES)
@pytest.mark.parametrize("flood", ["syn", "udp", "icmp"])
def test_a_flood_is_a_command_of_the_shell(rate: str, flood: str) -> None:
    words = command(flood, PROFILES[rate])
    assert subprocess.run(["sh", "-n", "-c", words], check=False).returncode == 0
    assert words.count("hping3") + words.count("python3") == 1
    assert "$pace" not in words
    assert ("seq" in words) == (PROFILES[rate].at_once > 1)
