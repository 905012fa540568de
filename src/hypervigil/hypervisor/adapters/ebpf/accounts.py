"""Which ports draw on one allowance: those of one VM, by a number that stays its while it has any port. Pure."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain, count

from hypervigil.model.ids import VmId


@dataclass(frozen=True, slots=True)
class Account:
    """What a port's place says of it."""

    number: int
    """Of its VM's allowance."""
    table: int
    """The slot whose table keeps its conversations."""


class Accounts:
    """Whose every slot is. No two VMs have one number, and each keeps its conversations at slots of its own."""

    def __init__(self, recalled: Mapping[int, Account] | None = None) -> None:
        """``recalled``: by an earlier process's doing, of slots whose VMs are not known yet."""
        self._recalled = dict(recalled or {})
        self._waiting = Counter(one.number for one in self._recalled.values())
        """How many of these have a number."""
        self._vms: dict[int, VmId] = {}
        self._slots: dict[VmId, list[int]] = {}
        self._numbers: dict[VmId, int] = {}
        self._taken: set[int] = set()
        self._keepers: dict[VmId, int] = {}

    def join(self, slot: int, vm: VmId) -> frozenset[int]:
        """A slot is a VM's: all of that VM's, and those that it leaves behind at another."""
        if self._vms.get(slot) == vm:
            return frozenset(self.siblings(slot))
        recalled = self._recalled.get(slot)
        left = self.leave(slot)
        self._vms[slot] = vm
        if vm not in self._slots:
            self._slots[vm] = []
            self._keepers[vm] = recalled.table if recalled is not None else slot
            self._numbers[vm] = number = self._number(slot, recalled)
            self._taken.add(number)
        self._slots[vm].append(slot)
        return left | frozenset(self.siblings(slot))

    def leave(self, slot: int) -> frozenset[int]:
        """A slot is nobody's any more; the VM's others."""
        recalled = self._recalled.pop(slot, None)
        if recalled is not None:
            self._waiting[recalled.number] -= 1
        vm = self._vms.pop(slot, None)
        if vm is None:
            return frozenset()
        others = self._slots[vm]
        others.remove(slot)
        if not others:
            self._taken.discard(self._numbers.pop(vm))
            del self._slots[vm], self._keepers[vm]
        elif self._keepers[vm] == slot:
            self._keepers[vm] = others[0]
        return frozenset(others)

    def siblings(self, slot: int) -> tuple[int, ...]:
        """The slots of the VM that a slot is of, itself among them, in the order in which they came."""
        return tuple(self._slots[self._vms[slot]])

    def account(self, slot: int, *, bounded: bool) -> Account:
        """A slot's; ``bounded``: its VM has a budget of conversations, so that one table keeps all of them."""
        vm = self._vms[slot]
        keeper = self._keepers[vm]
        if keeper not in self._slots[vm]:
            keeper = self._slots[vm][0]  # it kept them before, and is not bound again yet
        return Account(self._numbers[vm], keeper if bounded else slot)

    def _number(self, slot: int, recalled: Account | None) -> int:
        """The one that it had, else a free one: there are as many as slots."""
        if recalled is not None and recalled.number not in self._taken:
            return recalled.number
        return next(one for one in chain((slot,), count()) if self._free(one))

    def _free(self, number: int) -> bool:
        return number not in self._taken and not self._waiting[number]
