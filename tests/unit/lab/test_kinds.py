"""Trials are drawn the same by the same seed, mixed, and say of every guest what is right."""

import re

import pytest

from lab.kinds import GUESTS, KINDS, Family, draw

SEEDS = (0, 1001, 1002, 1003)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_same_seed_draws_the_same_trials(seed: int) -> None:
    assert draw(30, seed) == draw(30, seed)
    assert draw(30, seed)[:10] == draw(10, seed)
    assert draw(30, seed) != draw(30, seed + 1)


@pytest.mark.parametrize("seed", SEEDS)
def test_thirty_trials_hold_every_kind(seed: int) -> None:
    trials = draw(30, seed)
    assert [trial.number for trial in trials] == list(range(1, 31))
    assert {trial.kind for trial in trials} == {kind.name for kind in KINDS}
    assert {trial.family for trial in trials} == set(Family)


def test_ninety_trials_permute_the_guests() -> None:
    trials = [trial for seed in SEEDS[1:] for trial in draw(30, seed)]
    assert {(trial.actor, trial.target) for trial in trials} == {(x, t) for x in GUESTS for t in GUESTS if x != t}


@pytest.mark.parametrize("trial", [trial for seed in SEEDS for trial in draw(30, seed)], ids=lambda t: t.kind)
def test_a_drawn_trial_is_complete(trial) -> None:
    assert trial.actor != trial.target
    assert set(trial.expected) == set(GUESTS)
    for name in GUESTS:
        blamed = "attacker" in trial.expected[name]
        assert blamed == (name in trial.attackers), "who attacks is to be blamed, and nobody else"
    for step in trial.steps:
        assert step.on in {*GUESTS, "ext"}
        assert step.target in {*GUESTS, "ext", None}
        assert not step.boots
        assert "$choice" not in step.run
        assert not re.search(r"\$ip_[XTO]", step.run)
        assert "timeout" in step.run or "--seconds" in step.run or "-c 40" in step.run or "--timeout" in step.run
    if trial.family is Family.BENIGN:
        assert not any(step.attack for step in trial.steps)
    if trial.measured:
        assert trial.source != trial.target


def test_names_of_kinds_are_unique() -> None:
    assert len({kind.name for kind in KINDS}) == len(KINDS)
