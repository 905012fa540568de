"""Special requests are found once each."""

import pytest

from hypervigil.guest.vsem import special
from hypervigil.guest.vsem.special import Setup
from hypervigil.model.guest import SpecialRequest
from tests.unit.guest.test_snapshot import taken

PLAIN = {"promiscuous": frozenset(), "modules": frozenset({"virtio"}), "raw_sockets": 0, "forwarding": False}


@pytest.mark.req("A239")
@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"promiscuous": frozenset({"eth0"})}, ("promiscuous", "eth0", 1)),
        ({"modules": frozenset({"virtio", "msr"})}, ("module", "msr", 1)),
        ({"modules": frozenset()}, ("module", "virtio", -1)),
        ({"raw_sockets": 2}, ("raw-socket", "", 2)),
        ({"forwarding": True}, ("forwarding", "", 1)),
    ],
)
def test_each_change_of_setup_is_told_once(change, told):
    before, after = Setup(0, **PLAIN), Setup(0, **{**PLAIN, **change})
    assert special.setup_changed(before, after) == [told]
    assert special.setup_changed(after, after) == []


def test_a_clock_step_is_told_and_drift_is_not():
    assert special.setup_changed(Setup(1_000_000), Setup(1_000_020)) == []
    assert special.setup_changed(Setup(1_000_000), Setup(400_000)) == [("clock", "", -600_000)]


def test_what_becomes_visible_or_invisible_is_no_change():
    assert special.setup_changed(Setup(0), Setup(0, **PLAIN)) == []
    assert special.setup_changed(Setup(0, **PLAIN), Setup(0)) == []


@pytest.mark.req("A239")
def test_hot_plug_and_balloon_are_told():
    before, after = taken(0), taken(1000)
    del before.disks["vda"]
    before.nics = {"docker0": before.nics["docker0"]}
    after.cpu.cpus = 4
    after.memory_kib -= 65_536
    assert special.devices_changed(before, after, 16_384) == [
        ("nic", "eth0", 1),
        ("disk", "vda", 1),
        ("cpu", "", 2),
        ("balloon", "", 65_536),
    ]
    assert special.devices_changed(before, after, 0)[-1] == ("memory", "", -65_536)
    assert special.devices_changed(after, after, 0) == []


def test_kinds_are_the_models():
    kinds = {"nic", "disk", "cpu", "memory", "balloon", "promiscuous", "module", "raw-socket", "forwarding", "clock"}
    assert kinds == set(SpecialRequest)


def test_a_thousand_modules_are_not_a_thousand_notices():
    many = frozenset(f"m{number}" for number in range(1000))
    assert len(special.setup_changed(Setup(0, modules=frozenset()), Setup(0, modules=many))) == special.TOLD
