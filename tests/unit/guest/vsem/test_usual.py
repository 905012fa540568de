"""What is a breach: against the brief history, against what is presumed, with hysteresis."""

import random

import pytest

from hypervigil.guest import words
from hypervigil.guest.vsem.levels import LEVEL1, LEVEL2, Levels
from hypervigil.guest.vsem.recorder import Recorder
from hypervigil.guest.vsem.usual import JUDGED, Breach, Usual, suspect
from hypervigil.model.guest import GuestMetric, Suspect
from tests.unit.guest.vsem.test_recorder import seen, syn

MIDDLE, SPREAD = 3000, 200
REQUESTS = (words.BLOCK_READS, words.INTERRUPTS)


def values(**named: int) -> list[int]:
    found = [0] * words.METRICS
    for name, value in named.items():
        found[getattr(words, name)] = value
    return found


def after_seconds(usual: Usual, rows) -> int | None:
    """In which second a breach was found."""
    for second, row in enumerate(rows, start=1):
        if usual.judge(row, 1000):
            return second
    return None


@pytest.mark.req("A233")
@pytest.mark.parametrize("metric", REQUESTS, ids=lambda metric: GuestMetric(metric).name)
def test_a_step_of_three_spreads_is_a_breach_and_one_of_one_is_not(metric):
    def stepped(spreads: float):
        usual = Usual()
        usual.learn(1, [(metric, 10 * MIDDLE, 10 * SPREAD)])
        row = [0] * words.METRICS
        row[metric] = MIDDLE
        high = list(row)
        high[metric] = int(MIDDLE + spreads * SPREAD)
        return after_seconds(usual, [row] * 60 + [high] * 60)

    assert stepped(3) == 62
    assert stepped(1) is None


@pytest.mark.req("A236")
def test_a_clear_breach_needs_one_second_and_a_slight_one_two():
    assert after_seconds(Usual(), [values(OUT_SYN=80)]) == 1
    assert after_seconds(Usual(), [values(OUT_SYN=45)] * 3) == 2
    assert after_seconds(Usual(), [values(OUT_SYN=45), values()] * 30) is None


@pytest.mark.req("A235")
def test_other_ports_at_the_same_rate_are_a_breach():
    """Openings go on at 30 a second, first to one port and then through many."""
    record, levels = Recorder(), Levels()
    levels.usual.learn(1, [(words.OUT_SYN, 300, 20), (words.FAN_OUT, 20, 10), (words.PORTS_TRIED, 10, 0)])
    record.usual_ports = frozenset({80})
    for second in range(20):
        for number in range(30):
            seen(record, syn("10.60.0.2", 80 if second < 15 else 445 + number))
        over = record.take_second()
        row = values(ODD_PORTS=over.odd_ports, PORTS_TRIED=max(len(ports) for ports in over.ports.values()))
        row[words.OUT_SYN] = over.classes[words.OUT][words.SYN]
        if levels.observe(row, 1000) is not None:
            assert second == 15
            break
    assert levels.level == LEVEL2


@pytest.mark.req("A235")
def test_a_share_of_failures_is_a_breach():
    assert after_seconds(Usual(), [values(FAIL_SHARE=200)] * 30) is None
    assert after_seconds(Usual(), [values(FAIL_SHARE=700)] * 2) == 2


def test_unseen_is_never_a_breach_nor_calm():
    usual = Usual()
    assert usual.judge(values(OUT_SYN=100), 1000)
    usual.judge([words.UNSEEN] * words.METRICS, 1000)
    assert usual.breached == 1


def test_counts_are_judged_by_the_second_and_states_as_they_are():
    assert after_seconds(Usual(), [values(OUT_SYN=90)]) == 1
    usual = Usual()
    assert usual.judge(values(OUT_SYN=90), 10_000) == []
    assert [breach.metric for breach in usual.judge(values(PORTS_TRIED=40), 10_000)] == [words.PORTS_TRIED]


def test_a_breach_lasts_until_three_quarters():
    usual = Usual()
    usual.judge(values(OUT_SYN=100), 1000)
    for value in (39, 31, 45, 100):
        assert usual.judge(values(OUT_SYN=value), 1000) == []
        assert usual.breached == 1
    usual.judge(values(OUT_SYN=29), 1000)
    assert usual.breached == 0
    assert usual.judge(values(OUT_SYN=100), 1000)


def test_a_line_is_never_below_its_floor():
    usual = Usual()
    usual.learn(1, [(metric, 0, 0) for metric in range(words.METRICS)])
    assert usual.lines == {metric: floor for metric, (floor, _, _) in JUDGED.items()}


@pytest.mark.req("A234")
def test_what_a_breach_makes_of_the_vm():
    def of(*metrics):
        return suspect([Breach(metric, 9, 1) for metric in metrics])

    assert of(words.OUT_SYN, words.FAN_OUT, words.BLOCK_READS) == Suspect.ATTACKER
    assert of(words.IN_SYN, words.HALF_OPEN) == Suspect.VICTIM
    assert of(words.OUT_SYN, words.IN_SYN) == Suspect.UNKNOWN
    assert of(words.FORKS) == Suspect.UNKNOWN
    assert {hint for _, _, hint in JUDGED.values()} <= set(Suspect)


def benign_hour(rng: random.Random):
    """An hour of a made-up web server: a daily swing, bursts with a heavy tail, a batch job."""
    for second in range(3600):
        swing = 1 + 0.3 * (second / 3600)
        burst = min(4.0, rng.paretovariate(4))
        clients = swing * burst * rng.gauss(60, 6)
        batch = 1500 if 1200 <= second < 1500 else 30
        yield values(
            OUT_SYNACK=max(0, int(clients)),
            IN_SYN=max(0, int(clients)),
            OUT_TCP=max(0, int(9 * clients)),
            IN_TCP=max(0, int(8 * clients)),
            FAN_IN=max(0, int(clients / 2)),
            OUT_DNS=rng.choice((0, 0, 1, 2)),
            FORKS=rng.choice((0, 1, 5)),
            BLOCK_WRITES=int(batch * rng.uniform(0.7, 1.3)),
            INTERRUPTS=int(20 * clients),
        )


def told_by(rows):
    """The brief history of these seconds: middle by the median, a spread that three of reach the 99.9th percentile."""
    found = []
    for metric in JUDGED:
        column = sorted(row[metric] for row in rows)
        middle, tail = column[len(column) // 2], column[int(0.999 * len(column))]
        found.append((metric, 10 * middle, (10 * (tail - middle) + 2) // 3))
    return found


@pytest.mark.req("A231")
def test_an_hour_of_honest_work_raises_at_most_one_alarm_and_attacks_in_it_do():
    rng = random.Random(7)
    usual = told_by(list(benign_hour(rng)))
    levels = Levels()
    levels.usual.learn(1, usual)
    alarms = 0
    for row in benign_hour(rng):
        alarms += levels.observe(row, 1000) is not None and levels.level == LEVEL2
        levels.told(LEVEL1)
    assert alarms <= 1

    attacks = (
        {"OUT_SYN": 200}, {"OUT_UDP": 200}, {"OUT_ICMP": 50}, {"OUT_ARP": 60}, {"FAN_OUT": 60, "FAILED": 40},
        {"PORTS_TRIED": 60, "FAILED": 60}, {"IN_SYN": 2000, "HALF_OPEN": 200}, {"IN_UDP": 500}, {"FORKS": 900},
        {"BLOCK_WRITES": 9000},
    )  # fmt: skip
    found = 0
    for attack in attacks:
        levels = Levels()
        levels.usual.learn(1, usual)
        honest = benign_hour(random.Random(9))
        for _ in range(30):
            assert levels.observe(next(honest), 1000) is None
        for _ in range(2):
            row = [max(pair) for pair in zip(next(honest), values(**attack), strict=True)]
            if levels.observe(row, 1000) is not None:
                found += 1
                break
    assert found == len(attacks)
