"""The long quiet: what is simulated, and how it is counted."""

import json
import sys

import numpy as np
import pytest

from bench import quiet
from bench._ordinary import DAY_S, STATES, TOLD_EVERY_S, Chances, Vms, Work
from bench._series import Series
from bench._tapes import Moment, Tape
from bench.quiet import Event, Lived, causes, figures, kept, live, most, result
from hypervigil.model.ids import VmId
from hypervigil.model.metric import PACKET_METRICS, Metric
from hypervigil.model.report import PairRate
from hypervigil.model.traffic import Direction

NEVER = Chances(away=0.0, gone=0.0, restart=0.0, reboot=0.0)
HALF = Series("half", np.full(500, 0.5, np.float32), cpu=True)


def _silent():
    return Tape("silence", 0.2, {0: Moment(np.zeros(Metric.CPU, np.float32), ())}, 1)


def _flood(seconds=30):
    """An application that sends a thousand SYNs a second to one host that answers none."""
    counts = np.zeros(Metric.CPU, np.float32)
    counts[Metric.OUT_SYN] = 200
    counts[Metric.FAN_OUT] = 1
    pair = PairRate(
        VmId("x"), Direction.OUT, VmId("y"), "192.0.2.9", 1000, 60_000, 1000, 0, 0, 1, new=False, services=1
    )
    return Tape("flood", 0.2, {n: Moment(counts, (pair,)) for n in range(5 * seconds)}, 5 * seconds)


def _vms(count=20, beat_s=1.0, seed=1, chances=NEVER, series=HALF):
    names = [VmId(f"v{n}") for n in range(count)]
    rng = np.random.default_rng(seed)
    return Vms(names, [series], [_silent()], seconds=3600.0, beat_s=beat_s, rng=rng, chances=chances)


def test_the_same_seed_lives_the_same():
    one, other = _vms(), _vms()
    for _ in range(30):
        np.testing.assert_array_equal(one.step().values, other.step().values)
    assert not np.array_equal(_vms(seed=2).step().values, _vms().step().values)


def test_values_are_rates_that_were_seen():
    vms = _vms(beat_s=0.2)
    for _ in range(50):
        values = vms.step().values
        assert np.isfinite(values[:, : Metric.CPU]).all()
        assert (values[:, : Metric.CPU] >= 0).all()
        packets = values[:, list(PACKET_METRICS)] * 0.2
        np.testing.assert_allclose(packets, np.rint(packets), atol=1e-3)
        assert (values[:, Metric.CPU] <= 1).all()


def test_the_load_follows_the_series():
    def sent(level):
        vms = _vms(count=60, series=Series("s", np.full(500, level, np.float32), cpu=True))
        return sum(float(vms.step().values[:, Metric.OUT_TCP].sum()) for _ in range(60))

    assert sent(0.8) > 3 * sent(0.1)


def test_the_pairs_of_a_vm_add_up_to_its_counts():
    vms = _vms(count=40)
    vms.watched[:] = True
    checked = 0
    for _ in range(40):
        step = vms.step()
        for row, vm in enumerate(vms.names):
            requests = vms.requests(row)
            if requests[Work.COPY] or requests.sum() > 8 or requests[Work.NEIGHBOURS]:
                continue  # not all peers are told, or rounded
            told = sum(p.packets for p in step.pairs if p.vm == vm and p.direction is Direction.OUT)
            out = float(step.values[row, list(PACKET_METRICS)][: len(PACKET_METRICS) // 2].sum())
            assert told == pytest.approx(out, abs=2.5)
            checked += out > 0
    assert checked > 50


@pytest.mark.parametrize(("count", "beat_s"), [(40, 1.0), (7, 1.0), (25, 0.2)])
def test_whoever_does_nothing_of_interest_is_told_of_now_and_then(count, beat_s):
    vms = _vms(count=count, beat_s=beat_s)
    vms.allowed[:] = np.inf
    whole = [{pair.vm for pair in vms.step().pairs} for _ in range(round(12 * TOLD_EVERY_S / beat_s))]
    assert len(set().union(*whole)) >= 0.8 * count, "all but who has nothing to do in that second"
    assert sum(map(len, whole)) < 0.2 * count * len(whole), "and not all the time"


def test_what_is_tried_while_it_is_gone_is_what_was_asked_before():
    one, other = _vms(count=5), _vms(count=5, chances=Chances(away=1e9, gone=0.0, restart=0.0, reboot=0.0))

    def asked(vms):
        vms.watched[:] = True
        return {p.services for _ in range(30) for p in vms.step().pairs if p.address.startswith(("100.65", "10.1."))}

    assert asked(one) & asked(other)


def test_a_server_that_is_away_answers_nothing():
    vms = _vms(count=100, chances=Chances(away=1e9, gone=0.0, restart=0.0, reboot=0.0))
    vms.step()
    values = vms.step().values
    assert values[:, Metric.IN_SYNACK].sum() == 0
    assert values[:, Metric.OUT_SYN].sum() > 0


def test_a_vm_that_boots_is_silent_first():
    vms = _vms(count=50, chances=Chances(away=0.0, gone=0.0, restart=0.0, reboot=1e9))
    assert vms.step().values[:, list(PACKET_METRICS)].sum() == 0
    assert "off" in vms.doing(0)


def test_states_are_no_rates():
    values = _vms(count=50, beat_s=0.2).step().values[:, list(STATES)]
    np.testing.assert_array_equal(values, np.rint(values))
    assert values.max() <= 64 + 12 + 3


@pytest.mark.parametrize("beat_s", [0.2, 1.0])
def test_an_attack_among_the_applications_is_found_with_its_reason(beat_s):
    often = Chances(away=0.0, gone=0.0, restart=0.0, reboot=0.0, sessions=(2000.0, 2001.0))
    lived = live(0.01, beat_s, [HALF], [_flood(20)], 3, chances=often)
    assert lived.vm_days == pytest.approx(0.01)
    attackers = [event for event in lived.events if event.verdict == "attacker"]
    assert attackers
    assert attackers[0].metric == "outbound-surge"
    assert "flood" in attackers[0].doing
    assert attackers[0].limits
    assert attackers[0].limited_s > 0
    assert attackers[0].level2_s > 0
    assert not lived.blind


def test_each_false_case_and_verdict_is_told_when_it_happens():
    often = Chances(away=0.0, gone=0.0, restart=0.0, reboot=0.0, sessions=(2000.0, 2001.0))
    told = []
    lived = live(0.005, 0.2, [HALF], [_flood(20)], 3, chances=often, say=told.append)
    cases = [sentence for sentence in told if sentence.startswith("false Level 2 of 3/vm0 (")]
    assert len(cases) == sum(not event.right for event in lived.events) > 0
    assert "outbound-surge" in cases[0]
    verdicts = [sentence for sentence in told if sentence.startswith("false verdict attacker on 3/vm0 (")]
    assert len(verdicts) == sum(event.false_verdict for event in lived.events) > 0
    assert "flood" in verdicts[0]
    assert told.index(verdicts[0]) > told.index(cases[0])


def test_vms_at_their_capacity_are_suspected_rightly():
    changing = np.where(np.arange(500) % 12 == 11, 1.0, 0.2).astype(np.float32)
    lived = live(0.1, 1.0, [Series("cpu", changing, cpu=True)], [_silent()], 1, chances=NEVER)
    capacity = [event for event in lived.events if event.metric == "cpu-near-capacity"]
    assert capacity
    assert all(event.right and not event.false_verdict for event in capacity)


def _event(vm="1/v", verdict="none", *, right=False, metric="outbound-surge", doing="web: its usual work"):
    return Event(vm, 1.0, metric, "why", doing, "series", verdict=verdict, right=right)


def test_rates_are_per_vm_day():
    lived = Lived(1.0, 10, 700.0, [_event(), _event(verdict="attacker"), _event(right=True, verdict="overloaded")])
    found = figures([lived])
    assert found["level2"] == 3
    assert found["false_level2"] == 2
    assert found["false_level2_per_vm_week"] == pytest.approx(0.02)
    assert found["false_verdicts"] == {"attacker": 1}
    assert found["false_attackers_per_1000_vm_days"] == pytest.approx(1.4286)
    assert found["vms_with_false_level2"] == 1


def test_a_busy_vm_that_is_called_an_attacker_is_a_false_verdict():
    assert _event(right=True, verdict="attacker").false_verdict
    assert not _event(right=True, verdict="overloaded").false_verdict
    assert _event(verdict="overloaded").false_verdict
    assert not _event(verdict="cleared").false_verdict


def test_bounds_are_garwood_s():
    assert most(0, 1.0) == pytest.approx(2.9957, abs=1e-3)
    assert most(1, 1.0) == pytest.approx(4.7439, abs=1e-3)
    assert most(10, 2.0) == pytest.approx(16.9622 / 2, abs=1e-3)
    assert most(500, 1.0) == pytest.approx(538.4, abs=1.0)


def test_what_is_missed_is_said():
    good = figures([Lived(1.0, 10, 3000.0, [_event(verdict="attacker")] * 3)])
    assert kept(good) == []
    bad = figures([Lived(1.0, 10, 1000.0, [_event(verdict="attacker")] * 200, blind=1)])
    assert len(kept(bad)) == 3


def test_causes_are_counted_by_what_was_done():
    events = [_event(), _event(vm="1/w"), _event(doing="web: copy"), _event(right=True)]
    assert causes(events) == [
        ("outbound-surge: its usual work (web)", 2, 2),
        ("outbound-surge: copy (web)", 1, 1),
    ]


def test_the_document_tells_both_beats_and_each_case():
    lived = [Lived(0.2, 5, 5.0, [_event()]), Lived(1.0, 10, 45.0)]
    document = json.loads(json.dumps(result(lived, 7, {"series": 1})))
    assert document["summary"]["vm_days"] == 50
    assert set(document["by_beat"]) == {"0.2 s", "1 s"}
    assert document["level2"][0]["why"] == "why"
    assert document["seed"] == 7


def test_vm_days_are_shared_among_as_many_vms_as_pay():
    assert live(0.01, 1.0, [HALF], [_silent()], 1).vms == 1
    assert DAY_S == 86_400


def test_without_data_it_is_skipped(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["quiet", "--data", str(tmp_path)])
    quiet.main()
    assert "skipped" in capsys.readouterr().out
