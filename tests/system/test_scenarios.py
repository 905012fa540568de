"""Scenarios from the lab's shelf, played on real guests: judged rightly with the product, succeeding without it."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from lab.run import run
from lab.scenario import Scenario, load

pytestmark = [pytest.mark.guests, pytest.mark.root, pytest.mark.timeout(400)]

SHELF = Path(__file__).parents[2] / "lab" / "scenarios"
BROAD = ("syn-flood-inside", "benign-surge", pytest.param("many-sources", marks=pytest.mark.long))
"""One of each: attacker and victim inside, nobody to blame, a victim of invented senders outside."""
GRABS = ("block-grab", "beyond-grant", "inbound-load")
"""At others' cost, beyond what was given, and set going by others."""


@pytest.mark.req("T-CORE-3", "A206", "A210")
@pytest.mark.parametrize("name", BROAD)
def test_everybody_is_judged_rightly(name: str) -> None:
    played = run(load(SHELF / f"{name}.toml"), watched=True)
    assert played.ok, played.failures


@pytest.mark.long
@pytest.mark.req("T-CORE-12", "A253", "A254")
@pytest.mark.parametrize("name", GRABS)
def test_whoever_takes_all_it_can_is_judged_rightly(name: str) -> None:
    played = run(load(SHELF / f"{name}.toml"), watched=True)
    assert played.ok, played.failures


def soon(scenario: Scenario) -> Scenario:
    """The same with ten seconds of warm-up: without the product nobody learns what is usual."""
    earlier = scenario.warmup_s - 10.0
    steps = tuple(replace(step, at_s=step.at_s - earlier) for step in scenario.step)
    limits = replace(scenario.limits, duration_s=scenario.limits.duration_s - earlier)
    return replace(scenario, warmup_s=10.0, step=steps, limits=limits)


def test_without_the_product_the_attack_succeeds() -> None:
    played = run(soon(load(SHELF / "syn-flood-inside.toml")), watched=False)
    assert played.ok, played.failures
    (attack,) = [step for step in played.steps if step.attack]
    assert attack.delivered_before_limit is not None
    assert attack.sent is not None
    assert attack.delivered_before_limit > 0.5 * attack.sent


def test_the_shelf_is_full() -> None:
    assert len(list(SHELF.glob("*.toml"))) >= 12
