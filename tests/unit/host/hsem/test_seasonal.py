"""What a VM does at an hour at which it never does it is told with its case; nothing is decided by it."""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest

from hypervigil.host.hsem import seasonal, usual
from hypervigil.host.hsem.habits import DAY_S, HOUR_S
from hypervigil.host.hsem.history import Remembered
from hypervigil.host.hsem.seasonal import METRICS, Seasonal
from hypervigil.host.hsem.turns import MAX_LOOKS
from hypervigil.host.hsem.usual import Usual
from hypervigil.host.monitor import histories
from hypervigil.model.ids import Instant, VmId
from hypervigil.model.metric import Metric
from hypervigil.model.status import Evidence
from hypervigil.model.traffic import TrafficClass
from tests.unit.host.hsem.behaviour import browses, floods, requests_by_udp
from tests.unit.host.hsem.scene import Scene

KIND = "unusual-for-the-hour"
WEB, DB = VMS = (VmId("web"), VmId("db"))
STEP_S = seasonal.MINUTE_S
LIVED_S = 7 * DAY_S
BACKUP = 3
"""The hour, in UTC, of everybody's nightly backup."""
AS_A_BACKUP = 5e6
BEFORE = LIVED_S + HOUR_S
NIGHT = LIVED_S + BACKUP * HOUR_S + 2 * STEP_S
AHEAD_S = 5 * HOUR_S - 1000 * 7 * DAY_S
TURNS = seasonal.SECONDS


@pytest.fixture(scope="module", autouse=True)
def _quickly() -> Iterator[None]:
    """Each second stands for a minute, so that days go by."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seasonal, "SECONDS", 1)
        patch.setattr(seasonal, "LEAST_SEEN", 1)
        yield


def second(at: float, out: float | None = None):
    """What both VMs do at a time of UTC; web sends ``out`` if that is told."""
    values = np.random.default_rng(int(at)).gamma(100.0, 1 / 100, (2, len(Metric))).astype(np.float32)
    values[:, Metric.CPU] *= 0.1
    values[:, [Metric.OUT_BYTES, Metric.IN_BYTES, Metric.BLOCK_BYTES]] *= 0.4e6
    if at % DAY_S // HOUR_S == BACKUP:
        values[:, Metric.OUT_BYTES] *= AS_A_BACKUP / 0.4e6
    if out is not None:
        values[0, Metric.OUT_BYTES] = out
    return values


class Days:
    """Both VMs' time, seconds of UTC since a midnight."""

    def __init__(self, *, lived_s: float = 0.0) -> None:
        self.usual = Usual()
        self.at = 0.0
        self.wrong_s = 0.0
        """By how much the host's clock is wrong."""
        self.usual.clock(AHEAD_S)
        while self.at < lived_s:
            self.usual._seasonal.see(VMS, second(self.at), (), self.now)
            self.at += STEP_S

    @property
    def now(self) -> Instant:
        """The host has run for some time, since five in the morning."""
        return Instant(self.at - AHEAD_S)

    def live(self, until: float, *, suspects: tuple[int, ...] = (), out: float | None = None) -> list[Evidence]:
        """What is told until then."""
        told = []
        while self.at < until:
            self.usual.clock(AHEAD_S + self.wrong_s)
            told += self.usual.learn(VMS, second(self.at, out), set(suspects), self.now)
            self.at += STEP_S
        return [fact for fact in told if fact.kind == KIND]

    @property
    def arrays(self):
        """All that is known of both."""
        return self.usual.remember().habits


@pytest.fixture(scope="module")
def _lived() -> Days:
    days = Days(lived_s=LIVED_S)
    days.live(LIVED_S + STEP_S)
    return days


@pytest.fixture
def days(_lived: Days) -> Days:
    return deepcopy(_lived)


def test_ordinary_days_and_nights_are_hardly_ever_worth_a_word(days: Days) -> None:
    assert len(days.live(LIVED_S + DAY_S)) <= 1


def test_the_load_of_one_hour_is_told_at_another(days: Days) -> None:
    assert days.live(BEFORE) == []
    fact, *_ = days.live(BEFORE + 10 * STEP_S, out=AS_A_BACKUP)
    assert (fact.vm, fact.unit, fact.value) == (WEB, "bytes/s", AS_A_BACKUP)
    assert fact.baseline == pytest.approx(0.4e6, rel=0.2)
    assert fact.text.startswith("web sends 5.0 MB/s, at this hour usually about 0.4 MB/s: of ")
    assert fact.text.endswith("minutes one is so far from that") or "not one is" in fact.text


def test_of_a_suspect_it_is_told_each_time(days: Days) -> None:
    assert days.live(BEFORE) == []
    other = deepcopy(days)
    told = days.live(BEFORE + 10 * STEP_S, suspects=(0, 1), out=AS_A_BACKUP)
    assert [fact.at for fact in told] == [days.now - n * STEP_S for n in range(len(told), 0, -1)]
    assert {fact.vm for fact in told} == {WEB}
    assert len(told) >= 3
    assert "sends at least 5.0 MB/s" in told[0].text
    other.live(NIGHT)
    assert other.live(NIGHT + 10 * STEP_S, suspects=(0, 1), out=AS_A_BACKUP) == [], "at night that is what it does"


def test_less_than_usual_is_told_of_nobody_who_is_suspected(days: Days) -> None:
    """What a suspect has done of its minute is less than the whole of it will be."""
    days.live(BEFORE)
    assert days.live(BEFORE + 3 * STEP_S, suspects=(0,), out=0.0) == []


def test_a_suspect_is_told_of_within_its_minute(days: Days, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seasonal, "SECONDS", 60)
    monkeypatch.setattr(seasonal, "LEAST_SEEN", 30)
    days.live(BEFORE)
    days.usual.keep([])  # a new minute
    quiet, loud = deepcopy(days), days
    assert quiet.live(BEFORE + STEP_S, suspects=(0,), out=60e6) == []
    (fact,) = loud.live(BEFORE + STEP_S, suspects=(0,), out=900e6)
    assert fact.value == pytest.approx(15e6), "the rest of the minute counts as silent"


def test_a_suspect_teaches_nothing(days: Days) -> None:
    before = days.arrays
    days.live(LIVED_S + DAY_S / 4, suspects=(0, 1), out=AS_A_BACKUP)
    for name, after in days.arrays.items():
        assert name == "recent" or (after == before[name]).all(), name


def test_nor_does_a_minute_of_which_it_was_one_for_a_second(days: Days, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seasonal, "SECONDS", TURNS)
    before = days.arrays["samples"]
    for minute in range(3):
        for n in range(TURNS):
            suspects = {0} if minute == 1 and n == TURNS // 2 else set()
            days.usual.learn(VMS, second(days.at), suspects, days.now)
    learned = (days.arrays["samples"] - before).max(axis=1)
    assert learned.tolist() in ([2, 3], [1, 3]), "a turn may begin in the middle"
    assert learned[0] < learned[1]


def test_before_a_day_nothing_is_told() -> None:
    young = Days(lived_s=DAY_S - 10 * STEP_S)
    old = deepcopy(young)
    old.live(DAY_S + 10 * STEP_S)
    for suspects in ((), (0,)):
        assert deepcopy(young).live(young.at + 5 * STEP_S, suspects=suspects, out=1e9) == []
        assert deepcopy(old).live(old.at + 5 * STEP_S, suspects=suspects, out=1e9) != []


def test_what_is_not_seen_is_no_minute(days: Days) -> None:
    before = days.arrays
    for _ in range(20):
        unseen = np.full((2, len(Metric)), np.nan, np.float32)
        assert days.usual.learn(VMS, unseen, {1}, days.now) == []
    assert all((after == before[name]).all() for name, after in days.arrays.items())


def test_it_survives_a_restart(days: Days) -> None:
    stored = histories.encode(days.usual.remember())
    again = Days()
    again.at = days.at
    again.usual.recall(histories.decode(stored))
    for one in (days, again):
        one.live(BEFORE)
    told = [one.live(BEFORE + 10 * STEP_S, out=AS_A_BACKUP) for one in (days, again)]
    assert told[0] == told[1] != []


def test_a_history_without_habits_is_read(days: Days) -> None:
    old = replace(days.usual.remember(), habits=None)
    known = histories.decode(histories.encode(old))
    assert known.habits is None
    days.usual.recall(known)
    assert days.usual.history.samples(WEB) > 0
    assert not any(array.any() for array in days.arrays.values()), "and they begin anew"
    assert days.live(LIVED_S + 5 * STEP_S, out=1e9) == []


def spoilt(known: Remembered) -> dict[str, Remembered]:
    """Histories with habits that cannot be."""

    def but(**arrays) -> Remembered:
        return replace(known, habits={**known.habits, **arrays})

    def spoilt_in(name: str, value: float):
        array = known.habits[name].astype(np.float32)
        array.flat[0] = value
        return but(**{name: array})

    return {
        "NaN": spoilt_in("level", np.nan),
        "an endless error": spoilt_in("errors", np.inf),
        "a level beyond everything": spoilt_in("level", -3e38),
        "a limit below nothing": spoilt_in("limit", -1.0),
        "more visits than are counted": spoilt_in("visits", 70_000.0),
        "fewer metrics": but(level=known.habits["level"][:, 1:]),
        "fewer VMs": but(level=known.habits["level"][1:]),
        "an array too many": but(more=known.habits["level"]),
        "an array too few": replace(known, habits={"level": known.habits["level"]}),
    }


KNOWN = Remembered((WEB,), np.zeros((1, 1, 1), np.float32), np.zeros((1, 1), np.float32), Seasonal().remember([WEB]))


@pytest.mark.parametrize("how", spoilt(KNOWN))
def test_impossible_habits_are_refused_and_change_nothing(days: Days, how: str) -> None:
    before = days.usual.remember()
    with pytest.raises(ValueError, match="its habits"):
        days.usual.recall(histories.decode(histories.encode(spoilt(before)[how])))
    after = days.usual.remember()
    assert after.vms == before.vms
    assert (after.histogram == before.histogram).all()
    assert all((after.habits[name] == array).all() for name, array in before.habits.items())


def test_an_impossible_history_leaves_the_habits(days: Days) -> None:
    before = days.usual.remember()
    with pytest.raises(ValueError, match="it is a history"):
        days.usual.recall(replace(before, samples=-before.samples, habits=Seasonal().remember(VMS)))
    assert all((days.arrays[name] == array).all() for name, array in before.habits.items())


def test_a_clock_that_is_set_does_no_harm(days: Days) -> None:
    """For an hour it is wrong by half a day, and the backup's load is taken for the afternoon's."""
    afternoon = LIVED_S + (BACKUP + 12) * HOUR_S
    days.live(LIVED_S + BACKUP * HOUR_S)
    days.wrong_s = DAY_S / 2
    assert days.live(LIVED_S + (BACKUP + 1) * HOUR_S) != []
    days.wrong_s = 0.0
    days.live(afternoon)
    fact, *_ = days.live(afternoon + 10 * STEP_S, suspects=(0,), out=4 * AS_A_BACKUP)
    assert fact.baseline < AS_A_BACKUP / 2
    for wrong in (-1e18, 1e18):
        days.usual.clock(wrong)
        days.usual.learn(VMS, second(0.0), {0}, Instant(1.0))
    assert all(np.isfinite(array).all() for array in days.arrays.values())


@pytest.mark.parametrize("ahead_s", [np.nan, np.inf])
def test_a_clock_that_is_none_is_refused(ahead_s: float) -> None:
    with pytest.raises(ValueError, match="clock"):
        Seasonal().clock(ahead_s)


def test_a_vm_that_is_off_keeps_its_habits_while_there_is_room(days: Days, monkeypatch: pytest.MonkeyPatch) -> None:
    before = days.arrays["level"]
    days.usual.keep([DB])
    assert (days.arrays["level"] == before).all()
    monkeypatch.setattr(usual, "MAX_HISTORIES", 1)
    days.usual.keep([DB])
    assert days.usual.remember().vms == (DB,)
    assert (days.arrays["level"] == before[1:]).all()


def test_a_second_has_a_sixtieth_of_the_vms_to_look_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seasonal, "SECONDS", TURNS)
    monkeypatch.setattr(seasonal, "LEAST_SEEN", 1)
    judge, vms = Seasonal(), tuple(VmId(str(n)) for n in range(10 * TURNS))
    values = np.ones((len(vms), len(Metric)), np.float32)
    for n in range(1, TURNS + 1):
        judge.see(vms, values, (), Instant(float(n)))
        assert len(judge._habits.vms) == 10 * n


def test_with_every_vm_under_suspicion_a_second_has_room_for_some_and_all_get_their_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(seasonal, "LEAST_MINUTES", 0)
    monkeypatch.setattr(seasonal, "SURPRISING", 1.0)
    vms = tuple(VmId(str(n)) for n in range(3 * MAX_LOOKS + 9))
    judge, values = Seasonal(), np.ones((len(vms), len(Metric)), np.float32)
    for n in range(50):
        judge.see(vms, values, (), Instant(60.0 * n))
    told = [judge.see(vms, values * 1e6, range(len(vms)), Instant(3000.0 + n)) for n in range(6)]
    assert max(map(len, told)) == MAX_LOOKS
    assert {fact.vm for facts in told for fact in facts} == set(vms)


def test_no_minute_lasts_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a VM that is never there when it is its turn."""
    monkeypatch.setattr(seasonal, "SECONDS", TURNS)
    judge, one = Seasonal(), np.ones((1, len(Metric)), np.float32)
    for n in range(10 * TURNS):
        judge.see((VMS[n % 2],), one, (), Instant(float(n)))
        assert judge._minute.counts("seen")[:2].max() < 2 * TURNS
    assert set(judge._habits.vms) == set(VMS)


def test_it_costs_a_vm_less_than_nine_hundred_bytes() -> None:
    judge = Seasonal()
    tables = (judge._habits._table, judge._minute)
    arrays = [array for table in tables for array in table._arrays.values()]
    assert sum(array.itemsize * int(np.prod(array.shape[1:])) for array in arrays) < 900
    assert len(set(METRICS)) == 4


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """What lasts a minute lasts ten seconds, and little is needed to be said."""
    monkeypatch.setattr(seasonal, "SECONDS", 10)
    monkeypatch.setattr(seasonal, "SURPRISING", 2.5)
    monkeypatch.setattr(seasonal, "LEAST_MINUTES", 20)
    return monkeypatch


def town() -> Scene:
    """Five minutes of what mallory and alice ask of web."""
    scene = Scene("mallory", "web", "alice")
    scene.begin(browses("alice", "web", 10), requests_by_udp("mallory", "web", 10))
    return scene.pass_(300)


def test_it_stands_beside_what_decided_and_decides_nothing(soon: pytest.MonkeyPatch) -> None:
    def judged(least: int) -> Scene:
        soon.setattr(seasonal, "LEAST_MINUTES", least)
        return town().begin(floods("mallory", "web", 400, TrafficClass.UDP)).run(10.0)

    with_it, without = judged(20), judged(10**9)
    for name in ("mallory", "web"):
        one, other = with_it.verdict(name), without.verdict(name)
        assert (one.role, one.attack, one.at, one.confidence) == (other.role, other.attack, other.at, other.confidence)
        assert [fact for fact in one.evidence if fact.kind != KIND] == list(other.evidence)
        assert any(fact.kind == KIND for fact in one.evidence)


@pytest.mark.usefixtures("soon")
def test_an_onset_is_told_with_a_case_that_begins_within_a_minute_and_opens_none() -> None:
    def told(waits_s: float) -> list[str]:
        scene = town()
        scene.cpu["mallory"] = 0.5
        scene.pass_(10 + waits_s)
        assert scene.witness.opened == []
        scene.begin(floods("mallory", "web", 400, TrafficClass.UDP)).run(10.0)
        told = [fact.text for fact in scene.verdict("mallory").evidence if fact.kind == KIND]
        return [text for text in told if "of its CPU" in text and "at least" not in text]

    onset, *_ = told(20)
    assert "usually about 20% of its CPU" in onset
    assert told(90) == []
