"""A lie about what a NIC shows is found; an honest report is never contradicted, whatever the traffic does."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hypervigil.host.hrem.agents import LATE_S, Agents
from hypervigil.host.hrem.crosscheck import CHAINS, LEAST_S, LONGEST_S, SHORTEST_S, CrossCheck
from hypervigil.model.guest import GuestMetric, GuestReport, Hearing, Sampled
from hypervigil.model.ids import Instant, VmId
from hypervigil.model.metric import Metric
from hypervigil.model.report import HostReport
from hypervigil.model.status import Evidence, Origin
from hypervigil.model.vm import Vm

A = VmId("a")
SWEEP_S = 0.2
Rate = Callable[[float], float]
"""Bytes a second by time."""


def host(at: float, rate: float) -> HostReport:
    values = np.zeros((1, len(Metric)), np.float32)
    values[0, Metric.OUT_BYTES] = rate
    values[0, Metric.OUT_UDP] = rate / 100.0
    return HostReport(Instant(at), SWEEP_S, (A,), values.data)


def report(at: float, sent: float, *, interval_s: float = 1.0, delay_s: float = 0.0) -> GuestReport:
    values = [0] * len(GuestMetric)
    values[GuestMetric.OUT_BYTES] = round(sent)
    return GuestReport(A, Instant(at), 7, 1, at - delay_s, interval_s, tuple(values))


def sent(rate: Rate, since: float, until: float) -> float:
    """As the sweeps see it: evenly within each."""
    total, at = 0.0, since
    while at < until - 1e-9:
        end = min(until, (int(at / SWEEP_S + 1e-6) + 1) * SWEEP_S)
        total += rate(int(at / SWEEP_S + 1e-6)) * (end - at)
        at = end
    return total


def course(rate: Rate, told: Rate, seconds: float, delay_s: float = 0.05) -> Iterator[tuple[float, list[Evidence]]]:
    """Sweeps, and each second a report of the guest's ``told``; ``rate`` and ``told`` are by number of sweep."""
    check = CrossCheck()
    check.heard(report(0.0, 0.0))
    due = 1.0
    for number in range(round(seconds / SWEEP_S)):
        at = (number + 1) * SWEEP_S
        check.saw(host(at, rate(number)), Instant(at))
        while due + delay_s <= at:
            ended = due
            due += 1.0
            yield ended + delay_s, check.heard(report(ended + delay_s, sent(told, ended - 1.0, ended)))


def steady(bytes_per_s: float) -> Rate:
    return lambda _number: bytes_per_s


def from_(second: float, before: float, after: float) -> Rate:
    return lambda number: after if number * SWEEP_S >= second - 1e-9 else before


LIES = {
    "it says nothing of 200 packets a second": (from_(10.0, 600.0, 12_000.0), steady(600.0)),
    "it says that nothing is sent": (steady(20_000.0), from_(10.0, 20_000.0, 0.0)),
    "it tells of half": (steady(20_000.0), from_(10.0, 20_000.0, 10_000.0)),
    "it plays the last minute again": (from_(10.0, 5_000.0, 60_000.0), steady(5_000.0)),
}


@pytest.mark.req("T-CORE-7", "A45")
@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("delay_s", [0.0, 0.3, 0.6, 0.9])
def test_a_lie_is_found_within_three_seconds_and_a_report(lie: str, delay_s: float) -> None:
    rate, told = LIES[lie]
    found = [(at, one) for at, evidence in course(rate, told, 20.0, delay_s) for one in evidence]
    assert found, "it is found"
    at, evidence = found[0]
    assert 10.0 < at <= 10.0 + 3.0 + delay_s
    assert (evidence.vm, evidence.kind, evidence.origin) == (A, "agent-mismatch", Origin.GUEST_REPORTED)
    assert len(found) == 1, "told once"


@settings(deadline=None)
@given(
    rates=st.lists(st.one_of(st.just(0.0), st.floats(0, 1e7)), min_size=60, max_size=60),
    delay_s=st.floats(0.0, LEAST_S),
)
def test_an_honest_report_is_never_contradicted(rates: list[float], delay_s: float) -> None:
    def rate(number: float) -> float:
        return rates[int(number)] if int(number) < len(rates) else 0.0

    assert [one for _, evidence in course(rate, rate, 12.0, delay_s) for one in evidence] == []


@settings(deadline=None)
@given(
    rates=st.lists(st.floats(0, 1e7), min_size=40, max_size=40),
    share=st.floats(0.86, 100.0),
    delay_s=st.floats(0.0, LEAST_S),
)
def test_noise_and_who_counts_more_than_reaches_its_nic_are_no_liars(
    rates: list[float], share: float, delay_s: float
) -> None:
    def rate(number: float) -> float:
        return rates[int(number)] if int(number) < len(rates) else 0.0

    told = course(rate, lambda number: share * rate(number), 8.0, delay_s)
    assert [one for _, evidence in told for one in evidence] == []


def test_what_is_too_little_to_compare_is_not_compared() -> None:
    assert not [one for _, evidence in course(steady(3_000.0), steady(0.0), 20.0) for one in evidence]


def test_what_the_host_did_not_see_contradicts_nobody() -> None:
    blind = course(lambda number: float("nan") if number > 50 else 20_000.0, from_(10.0, 20_000.0, 0.0), 20.0)
    found = [(at, one) for at, evidence in blind for one in evidence]
    assert [at for at, _ in found if at > 13.0] == []


def test_what_the_guest_cannot_see_is_no_lie() -> None:
    check = CrossCheck()
    unseen = report(5.0, 0.0)
    values = (-1,) * len(unseen.values)
    for step in range(100):
        check.saw(host(step * SWEEP_S, 50_000.0), Instant(step * SWEEP_S))
        if step % 5 == 0:
            told = GuestReport(A, Instant(step * SWEEP_S), 7, 1, step * SWEEP_S, 1.0, values)
            assert check.heard(told) == []


# --- with who is heard ----
class Rig:
    """One VM, second by second; what it sends is fixed, what it says is the test's."""

    def __init__(self) -> None:
        self.agents = Agents()
        self.at = 100.0
        self.agents.inventory([Vm(A, "a", 1, 1024, (), False, "/run/a.sock")], Instant(self.at))
        self.agents.opened(A, Instant(self.at))
        self.found: list[Evidence] = []

    def second(
        self, told: float | None, *, rate: float = 20_000.0, lag_s: float = 0.0, interval_s: float = 1.0
    ) -> None:
        for _ in range(5):
            self.at += SWEEP_S
            self.agents.saw(host(self.at, rate), Instant(self.at))
            self.found += self.agents.tick(Instant(self.at))
        if told is not None:
            self.found += self.agents.reported(report(self.at, told, delay_s=lag_s, interval_s=interval_s))

    def kinds(self) -> list[str]:
        return [one.kind for one in self.found]


def test_a_contradicted_agent_is_shown_so_until_it_tells_the_truth() -> None:
    rig = Rig()
    for _ in range(5):
        rig.second(20_000.0)
    assert rig.agents.state(A).hearing is Hearing.HEARD
    for _ in range(4):
        rig.second(0.0)
    assert rig.agents.state(A).hearing is Hearing.CONTRADICTED
    assert rig.kinds() == ["agent-heard", "agent-mismatch"]
    for _ in range(max(CHAINS)):
        rig.second(20_000.0)
    assert rig.agents.state(A).hearing is Hearing.HEARD


def test_what_was_kept_during_a_cut_is_late_and_contradicts_nobody() -> None:
    rig = Rig()
    for _ in range(5):
        rig.second(20_000.0)
    for old in range(20):
        rig.second(20_000.0)
        rig.found += rig.agents.reported(report(rig.at, 0.0, delay_s=30.0 + old))
    assert rig.kinds() == ["agent-heard"]
    assert rig.agents.state(A).late == 20


def test_old_reports_alone_are_silence() -> None:
    rig = Rig()
    for _ in range(5):
        rig.second(20_000.0)
    for _ in range(4):
        rig.second(0.0, lag_s=LATE_S + 60.0)
    assert "agent-silent" in rig.kinds()


@pytest.mark.parametrize("interval_s", [SHORTEST_S / 2, 2 * LONGEST_S])
def test_intervals_that_no_agent_measures_are_no_word(interval_s: float) -> None:
    rig = Rig()
    rig.second(20_000.0)
    for _ in range(6):
        rig.second(0.0, interval_s=interval_s)
    assert rig.kinds() == ["agent-heard", "agent-silent"]


def test_a_guest_cannot_talk_away_what_the_host_found() -> None:
    rig = Rig()
    for _ in range(5):
        rig.second(20_000.0)
    fact = Evidence(A, "special-request", Origin.GUEST_REPORTED, Instant(rig.at), 1.0, None, "", "x")
    for _ in range(1000):
        rig.agents.noted(fact)
    for _ in range(4):
        rig.second(0.0)
    for _ in range(5):
        rig.second(None)
    assert [kind for kind in rig.kinds() if kind != "agent-heard"] == ["agent-mismatch", "agent-silent"]


def test_a_clock_that_stood_still_with_its_vm_is_taken_anew() -> None:
    rig = Rig()
    for _ in range(5):
        rig.second(20_000.0)
    rig.agents.inventory([Vm(A, "a", 1, 1024, (), True, "/run/a.sock")], Instant(rig.at))
    rig.at += 60.0
    rig.agents.inventory([Vm(A, "a", 1, 1024, (), False, "/run/a.sock")], Instant(rig.at))
    for _ in range(5):
        rig.second(20_000.0, lag_s=60.0)
    assert rig.kinds() == ["agent-heard"]
    assert rig.agents.state(A).late == 0


# --- what of it is no lie, and what is ----
def counts(at: float, **columns: float) -> HostReport:
    """Rates by the names of their columns."""
    values = np.zeros((1, len(Metric)), np.float32)
    for name, rate in columns.items():
        values[0, Metric[name]] = rate
    return HostReport(Instant(at), SWEEP_S, (A,), values.data)


def told(at: float, sent: Sampled | None = None, **columns: int) -> GuestReport:
    values = [0] * len(GuestMetric)
    for name, count in columns.items():
        values[GuestMetric[name]] = count
    return GuestReport(A, Instant(at + 0.05), 7, 1, at, 1.0, tuple(values), sent)


def compared(seen: dict[str, float], said: dict[str, int], sent: Sampled | None = None) -> list[str]:
    """What is said of an agent that tells the same each second, while the host sees the same each second."""
    check, found = CrossCheck(), []
    for step in range(100):
        at = step * SWEEP_S
        check.saw(counts(at, **seen), Instant(at))
        if step % 5 == 0:
            found += check.heard(told(at, sent, **said))
    return [one.text for one in found]


ALL = Sampled(weight=1, read=30, passed=30, one_in=1)
SOME = Sampled(weight=64, read=30, passed=30, one_in=64)
LATE = Sampled(weight=64, read=30, passed=90, one_in=16)
"""More was picked than read: the last of the second may have been of any class."""


@pytest.mark.parametrize(
    ("seen", "said", "sent", "lies"),
    [
        ({"OUT_SYN": 200.0}, {"OUT_PACKETS": 200}, None, []),
        ({"OUT_SYN": 200.0}, {"OUT_PACKETS": 100}, None, ["packets"]),
        ({"OUT_TCP": 9_000.0}, {"OUT_PACKETS": 200}, None, []),
        ({"OUT_UDP": 9_000.0}, {"OUT_PACKETS": 200}, None, []),
        ({"OUT_ICMP": 30.0}, {"OUT_PACKETS": 30, "OUT_ICMP": 30}, ALL, []),
        ({"OUT_ICMP": 30.0}, {"OUT_PACKETS": 30, "OUT_ICMP": 10}, ALL, ["ICMP packets"]),
        ({"OUT_ICMP": 30.0}, {"OUT_PACKETS": 70, "OUT_ICMP": 10}, ALL, []),
        ({"OUT_DNS": 1_900.0}, {"OUT_PACKETS": 1_920, "OUT_DNS": 1_500}, SOME, []),
        ({"OUT_DNS": 1_900.0}, {"OUT_PACKETS": 1_920, "OUT_DNS": 0}, SOME, ["DNS packets"]),
        ({"OUT_DNS": 1_900.0}, {"OUT_PACKETS": 1_920, "OUT_DNS": 0}, LATE, []),
        ({"OUT_DNS": 1_900.0}, {"OUT_PACKETS": 1_920, "OUT_DNS": 0}, None, []),
        ({"OUT_BYTES": 15e6, "OUT_TCP": 1e4}, {"OUT_BYTES": 14_400_000}, None, []),
        ({"OUT_BYTES": 15e6, "OUT_TCP": 1e4}, {"OUT_BYTES": 7_500_000}, None, ["bytes"]),
        ({"OUT_BYTES": 2e6, "OUT_TCP": 1e4}, {"OUT_BYTES": 1_340_000}, None, []),
        ({"OUT_BYTES": 2e6, "OUT_UDP": 1e4}, {"OUT_BYTES": 1_340_000}, None, ["bytes"]),
        ({"OUT_BYTES": 2e6, "OUT_TCP": 1e4}, {"OUT_BYTES": 200_000}, None, ["bytes"]),
    ],
    ids=[
        "all packets",
        "half the packets",
        "large segments are cut on the way",
        "so may large datagrams be",
        "all of a class",
        "a third of a class, and every header was read",
        "its NICs counted what nobody could sample",
        "what a sample may show",
        "what no sample may show",
        "the first headers of a second are no fair sample",
        "an agent that says nothing of its sample",
        "headers are repeated in each segment",
        "half of large segments",
        "a peer that wants small segments makes nobody a liar",
        "datagrams have one header",
        "next to nothing of small segments",
    ],
)
def test_what_is_compared_and_how_much_it_may_differ(
    seen: dict[str, float], said: dict[str, int], sent: Sampled | None, lies: list[str]
) -> None:
    texts = compared(seen, said, sent)
    assert [text.split(" a second")[0].split(" ", 7)[-1] for text in texts] == lies


def test_one_fact_tells_of_a_lie_about_everything() -> None:
    seen = {"OUT_BYTES": 1e6, "OUT_SYN": 500.0, "OUT_DNS": 500.0, "OUT_ICMP": 500.0, "OUT_ARP": 500.0}
    (text,) = compared(seen, {}, Sampled(weight=1, read=0, passed=0, one_in=1))
    assert "it sent 0 bytes a second" in text
