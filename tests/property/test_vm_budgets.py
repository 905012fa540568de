"""A VM's ports draw on one allowance: as many pass as of a VM with one port, and no two VMs ever share one."""

from hypothesis import given, settings
from hypothesis import strategies as st

from hypervigil.hypervisor.adapters.ebpf.accounts import Account, Accounts
from hypervigil.hypervisor.reference.frame import read
from hypervigil.hypervisor.reference.plane import ReferencePlane
from hypervigil.model.ids import PortId, VmId
from hypervigil.model.network import Budget
from hypervigil.model.policy import Mode
from hypervigil.model.port_policy import FabricChange, PortPolicy
from hypervigil.model.traffic import Direction
from hypervigil.network.merge import strictest
from tests.integration.wirelab import arp, ethernet, ipv4, udp

NICS, MS, SECOND = 3, 10**6, 10**9
BUDGETS = st.builds(
    Budget,
    packets_per_s=st.sampled_from([None, 1.0, 50.0, 1000.0]),
    octets_per_s=st.sampled_from([None, 1000.0, 60_000.0]),
    broadcasts_per_s=st.sampled_from([None, 1.0, 20.0]),
)
FRAMES = st.lists(
    st.tuples(
        st.integers(0, NICS - 1), st.booleans(), st.integers(0, 400), st.sampled_from([0, MS, 7 * MS, 60 * MS, SECOND])
    ),
    max_size=150,
)


def _mac(nic: int) -> str:
    return f"52:54:00:00:00:{nic + 1:02x}"


def _frame(nic: int, size: int, *, to_all: bool) -> bytes:
    if to_all:
        return ethernet(_mac(nic), "ff:ff:ff:ff:ff:ff", 0x0806, arp(1, _mac(nic), "10.9.0.1", "10.9.0.2"))
    packet = ipv4("10.9.0.1", "10.9.0.2", 17, udp(5, 6, bytes(18 + size)))
    return ethernet(_mac(nic), "52:54:00:00:00:ff", 0x0800, packet)


def _plane(budget: Budget, owners: list[str]) -> ReferencePlane:
    plane = ReferencePlane(max_ports=8, max_peers=64)
    for nic, vm in enumerate(owners):
        plane.attach(PortPolicy(PortId(_mac(nic)), VmId(vm), f"v{nic}", nic + 1, Mode.ENFORCE, budget=budget))
    plane.change_fabric(FabricChange(whole=True))
    return plane


def _passes(plane: ReferencePlane, nic: int, size: int, now: int, *, to_all: bool) -> bool:
    data = _frame(nic, size, to_all=to_all)
    return plane.take(nic + 1, Direction.OUT, read(data, len(data)), now).passes


@settings(deadline=None)
@given(BUDGETS, FRAMES)
def test_ports_of_one_vm_pass_what_one_port_would(budget: Budget, frames: list[tuple[int, bool, int, int]]) -> None:
    several, one, now = _plane(budget, ["vm"] * NICS), _plane(budget, ["vm"]), 10**12
    for nic, to_all, size, later in frames:
        now += later
        assert _passes(several, nic, size, now, to_all=to_all) == _passes(one, 0, size, now, to_all=to_all)


@settings(deadline=None)
@given(BUDGETS, FRAMES)
def test_no_vm_feels_what_another_sends(budget: Budget, frames: list[tuple[int, bool, int, int]]) -> None:
    both, alone, now = _plane(budget, ["a", "b", "b"]), _plane(budget, ["a"]), 10**12
    for nic, to_all, size, later in frames:
        now += later
        passed = _passes(both, nic, size, now, to_all=to_all)
        if nic == 0:
            assert passed == _passes(alone, nic, size, now, to_all=to_all)


@settings(deadline=None)
@given(st.lists(st.tuples(BUDGETS, st.integers(0, NICS - 1)), max_size=6))
def test_ports_that_say_different_things_get_the_least_of_each(told: list[tuple[Budget, int]]) -> None:
    """As long as only a part of a VM's ports was told of another budget, none has more than before."""
    plane, said = _plane(Budget(), ["vm"] * NICS), [Budget()] * NICS
    for budget, nic in told:
        said[nic] = budget
        plane.attach(PortPolicy(PortId(_mac(nic)), VmId("vm"), f"v{nic}", nic + 1, Mode.ENFORCE, budget=budget))
        plane.change_fabric(FabricChange())
        seats = plane.fabric.directory.seats.values()
        assert len({id(seat.allowance) for seat in seats}) == 1
        assert [seat.allowance.budget for seat in seats] == [strictest(*said)] * NICS


# --- whose number is whose -------------------------------------------------------------------------------------------
SLOTS = 5
STEPS = st.lists(st.tuples(st.integers(0, SLOTS - 1), st.sampled_from(["a", "b", "c", None])), max_size=40)
RECALLED = st.dictionaries(
    st.integers(0, SLOTS - 1), st.builds(Account, st.integers(0, SLOTS - 1), st.integers(0, SLOTS - 1))
)


@settings(deadline=None)
@given(STEPS, RECALLED)
def test_numbers_and_tables_are_never_two_vms(
    steps: list[tuple[int, str | None]], recalled: dict[int, Account]
) -> None:
    accounts = Accounts(recalled)
    owners: dict[int, str] = {}
    numbers: dict[str, int] = {}
    for slot, vm in steps:
        if vm is None:
            accounts.leave(slot)
            owners.pop(slot, None)
        else:
            touched = accounts.join(slot, VmId(vm))
            assert {one for one in owners if owners[one] == vm} | {slot} <= touched
            owners[slot] = vm
        numbers = {one: number for one, number in numbers.items() if one in owners.values()}
        for one, owner in owners.items():
            own, kept = (accounts.account(one, bounded=bounded) for bounded in (False, True))
            assert own.number == kept.number == numbers.setdefault(owner, own.number), "it stays with the VM"
            assert own.number < SLOTS
            assert own.table == one
            assert owners[kept.table] == owner
            assert {accounts.account(other, bounded=True) for other in accounts.siblings(one)} == {kept}
        assert len(set(numbers.values())) == len(numbers)


@settings(deadline=None)
@given(STEPS)
def test_another_process_goes_on_with_the_same(steps: list[tuple[int, str | None]]) -> None:
    """However late it learns whose each slot is, and in any order."""
    accounts, owners = Accounts(), dict[int, str]()
    for slot, vm in steps:
        if vm is None:
            accounts.leave(slot)
            owners.pop(slot, None)
        else:
            accounts.join(slot, VmId(vm))
            owners[slot] = vm
    put = {slot: accounts.account(slot, bounded=True) for slot in owners}
    again = Accounts(put)
    for slot in sorted(owners, reverse=True):
        again.join(slot, VmId(owners[slot]))
    assert {slot: again.account(slot, bounded=True) for slot in owners} == put
