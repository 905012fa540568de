"""What DHCP gave, as it is told: by port, only what runs, and not more often than people can read."""

import numpy as np

from hypervigil.hypervisor.adapters.ebpf import layout
from hypervigil.hypervisor.adapters.ebpf.reader import LEASES
from hypervigil.hypervisor.sensors.leases import BURST, LEAST_S, REFILL_S, Told, held, joined
from hypervigil.model.ids import Instant, PortId, VmId
from hypervigil.model.vm import Inventory, Nic, Vm

A, B = PortId("52:54:00:00:00:0a"), PortId("52:54:00:00:00:0b")


def records(**by_slot: list[tuple[str, float]]) -> np.ndarray:
    """Leases of slots ``s0``, ``s1`` …: addresses and their ends."""
    found = np.zeros(4, LEASES)
    for slot, leases in by_slot.items():
        for row, (address, end) in zip(found[int(slot[1:])]["lease"], leases, strict=False):
            row["address"] = list(layout.pack_address(address))
            row["end_ns"] = int(end * 1e9)
    return found


def test_what_runs_is_told_by_port_in_order() -> None:
    leases = records(s1=[("10.0.0.9", 100.0), ("10.0.0.3", 51.0), ("10.0.0.5", 49.0)], s2=[("10.0.0.7", 99.0)])
    assert held(leases, {1: A, 3: B}, Instant(50.0)) == {A: ("10.0.0.3", "10.0.0.9")}
    assert held(leases, {1: A, 2: B}, Instant(98.0)) == {A: ("10.0.0.9",), B: ("10.0.0.7",)}
    assert held(leases, {1: A, 2: B}, Instant(100.0)) == {}


def test_the_inventory_has_them_at_their_nics() -> None:
    nics = (Nic(A, "vnet0", 5, "br0", ("10.0.0.2",)), Nic(B, "vnet1", 6, "br0", leased=("10.0.0.8",)))
    [vm] = joined(Inventory((Vm(VmId("a"), "a", 1, 1, nics),)), {A: ("10.0.0.9",)}).vms
    assert [nic.leased for nic in vm.nics] == [("10.0.0.9",), ()]
    assert vm.nics[0].addresses == ("10.0.0.2",)


def test_changes_are_told_and_at_most_once_in_a_while() -> None:
    told = Told()
    assert told.news({}, Instant(1.0)) is None, "nothing yet, as is known"
    assert told.news({A: ("10.0.0.9",)}, Instant(1.2)) == {A: ("10.0.0.9",)}
    assert told.news({A: ("10.0.0.9",)}, Instant(9.0)) is None
    assert told.news({}, Instant(9.2)) == {}
    assert [told.due(Instant(at)) for at in (9.2, 9.4, 9.2 + LEAST_S, 10.4)] == [True, False, True, False]


def test_a_guest_that_asks_and_gives_back_all_day_fills_no_record_and_hides_no_other() -> None:
    told = Told()
    count = 0
    for second in range(3600):
        leases = {A: ("10.0.0.9",)} if second % 2 else {}
        count += told.news(leases, Instant(float(second))) is not None
    assert BURST < count <= BURST + 3600 / REFILL_S
    known = told.news({A: ("10.0.0.7",), B: ("10.0.0.8",)}, Instant(3601.0))
    assert known is not None
    assert known[B] == ("10.0.0.8",)


def test_who_calms_down_is_told_of_in_the_end() -> None:
    told = Told()
    for second in range(9):
        told.news({A: (f"10.0.0.{second}",)}, Instant(float(second)))
    assert told.news({A: ("10.0.0.8",)}, Instant(10.0)) is None
    assert told.news({A: ("10.0.0.8",)}, Instant(10.0 + REFILL_S)) == {A: ("10.0.0.8",)}
