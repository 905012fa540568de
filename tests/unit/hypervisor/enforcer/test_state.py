"""What the enforcer writes down."""

import os

import pytest

from hypervigil.hypervisor.enforcer import state as states
from hypervigil.hypervisor.enforcer.state import Original, State
from hypervigil.model.limits import LimitKind
from hypervigil.wire.messages import Guarding
from tests.unit.hypervisor.enforcer.fakes import BLUE, RED, limit, port


def full() -> State:
    one = limit(LimitKind.PEER, 5, peer="10.0.0.1")
    policy = port(RED)
    originals = [Original(RED, LimitKind.CPU, {"vcpu_quota": -1}), Original(BLUE, LimitKind.CPU, {"vcpu_quota": 7})]
    return State(states.this_boot(), {policy.port: policy}, {one.id: one}, originals, Guarding(("br0",), ("up0",)))


def test_everything_comes_back(tmp_path):
    states.save(tmp_path, full())
    found = states.load(tmp_path)
    assert found.ports == full().ports
    assert [x.kind for x in found.limits.values()] == [LimitKind.PEER]
    assert found.guarding == Guarding(("br0",), ("up0",))
    assert found.original(BLUE, LimitKind.CPU) == {"vcpu_quota": 7}
    found.forget(BLUE, LimitKind.CPU)
    assert found.original(BLUE, LimitKind.CPU) is None
    assert found.original(RED, LimitKind.CPU) == {"vcpu_quota": -1}
    assert found.original(RED, LimitKind.PAUSE) is None


def test_of_another_run_of_the_machine_only_the_guard_is_taken_over(tmp_path):
    state = full()
    state.boot_id = "another"
    states.save(tmp_path, state)
    assert states.load(tmp_path) == State(states.this_boot(), guarding=state.guarding)


@pytest.mark.parametrize("content", [b"", b"{", b'{"boot_id": 7}'])
def test_what_cannot_be_read_is_empty(tmp_path, content):
    (tmp_path / states.FILE).write_bytes(content)
    assert states.load(tmp_path) == State(states.this_boot())


def test_a_save_that_fails_leaves_the_old_and_no_litter(tmp_path, monkeypatch):
    states.save(tmp_path, full())

    def fails(_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="no space"):
        states.save(tmp_path, State(states.this_boot()))
    assert len(states.load(tmp_path).limits) == 1
    assert [path.name for path in tmp_path.iterdir()] == [states.FILE]
    states.remove(tmp_path)
    assert states.load(tmp_path) == State(states.this_boot())
