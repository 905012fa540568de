"""However many VMs are conspicuous at once, the judge keeps to its budget, says so, and finds the attacker."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hypervigil.host.hsem import engine, facts, turns
from hypervigil.host.hsem.turns import Turns
from hypervigil.model.ids import VmId
from hypervigil.model.status import Role
from tests.unit.host.hsem.behaviour import browses, floods, floods_open_port
from tests.unit.host.hsem.scene import Scene

CROWD = [f"vm{n}" for n in range(60)]


@pytest.fixture
def few_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A budget that sixty VMs are too many for."""
    monkeypatch.setattr(turns, "MAX_LOOKS", 8)
    monkeypatch.setattr(engine, "MAX_LOOKS", 8)


def looks(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many cases and drafts are looked at in each report from now on."""
    found: list[int] = []
    choose = Turns.choose

    def counted(self, asking, harm):
        chosen = choose(self, asking, harm)
        found.append(len(chosen))
        return chosen

    monkeypatch.setattr(Turns, "choose", counted)
    return found


@pytest.mark.usefixtures("few_looks")
def test_the_attacker_is_found_while_everybody_is_conspicuous(monkeypatch: pytest.MonkeyPatch) -> None:
    """All get many more requests than ever; one of them floods another."""
    scene = Scene("mallory", "web", *CROWD)
    looked = looks(scene, monkeypatch)
    scene.begin(*(browses(one, f"198.51.100.{n}", 150) for n, one in enumerate(CROWD)))
    scene.begin(floods_open_port("mallory", "web", 3000)).run(4)
    assert scene.blamed() == {"mallory"}
    assert scene.verdict("mallory").at - scene.begun_at <= 2.0, "the worst is looked at first"
    assert max(looked) == 8
    waiting, postponed = scene.hsem.postponed
    assert waiting > 0
    assert postponed > 0, "and what was shed is said"


@pytest.mark.usefixtures("few_looks")
def test_who_hides_behind_worse_attackers_is_found_when_its_turn_comes() -> None:
    scene = Scene("mallory", "web", *CROWD)
    scene.begin(*(floods(one, f"198.51.100.{n}", 4000) for n, one in enumerate(CROWD)))
    scene.begin(floods("mallory", "web", 200)).run(20)
    assert scene.blamed() == {"mallory", *CROWD}
    assert Role.VICTIM in scene.roles("web")
    assert all(scene.limits(one) for one in CROWD), "nobody is forgotten"


@pytest.mark.usefixtures("few_looks")
def test_when_the_crowd_is_gone_nobody_waits_any_more() -> None:
    scene = Scene(*CROWD)
    crowd = [floods(one, f"198.51.100.{n}", 500) for n, one in enumerate(CROWD)]
    scene.begin(*crowd).run(3)
    assert scene.hsem.postponed[0] > 0
    scene.running()
    scene.running(*CROWD[:5])
    scene.end(*crowd)
    scene.run(3)
    assert scene.hsem.postponed[0] == 0


def test_more_cases_than_are_remembered_may_open_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever records the decisions of a report asks for the facts of every one of them (so does the scene)."""
    monkeypatch.setattr(facts, "MAX_FACTS", 10)
    scene = Scene(*CROWD).begin(*(floods(one, f"198.51.100.{n}", 500) for n, one in enumerate(CROWD))).run(3)
    assert scene.blamed() == set(CROWD)


def test_many_cases_have_few_peers_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "PEERS_TOGETHER", 0)
    scene = Scene("mallory").begin(*(floods("mallory", f"198.51.100.{n}", 50) for n in range(60))).run(3)
    dossier = scene.hsem._vms[VmId("mallory")].dossier
    assert len(dossier.peers) == facts.LEAST_PEERS
    assert dossier.peers_dropped > 0


others = [VmId(f"vm{n}") for n in range(9)]
rounds = st.lists(st.lists(st.sampled_from(others), unique=True, min_size=6), min_size=8, max_size=16)


@given(rounds, st.integers(1, 3), st.dictionaries(st.sampled_from(others), st.floats(0.0, 1e6)))
@settings(deadline=None)
def test_nobody_who_goes_on_asking_waits_longer_than_the_queue_is(sequence, most, harm) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(turns, "MAX_LOOKS", 2 * most)
        queue, last = Turns(), VmId("patient")
        waited = 0
        for asking in sequence:
            chosen = queue.choose([*asking, last], harm)
            assert len(chosen) == min(2 * most, len(asking) + 1)
            waited = 0 if last in chosen else waited + 1
            assert waited <= len(others) // most, "half of each report's room is for those who wait"
