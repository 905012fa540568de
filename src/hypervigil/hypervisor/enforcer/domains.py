"""CPU, block I/O, memory and pause: what was before is written down before anything changes, and put back after."""

import logging
from collections.abc import Callable

from hypervigil.hypervisor.adapters.libvirt.limits import DomainError, DomainGoneError
from hypervigil.hypervisor.adapters.libvirt.marks import MARKED
from hypervigil.hypervisor.enforcer.ports import Domains
from hypervigil.hypervisor.enforcer.state import Original, State
from hypervigil.hypervisor.plan import prevailing, value_of
from hypervigil.model.ids import VmId
from hypervigil.model.limits import LimitKind

DOMAIN_KINDS = (
    LimitKind.CPU,
    LimitKind.BLOCK_OPERATIONS,
    LimitKind.BLOCK_OCTETS,
    LimitKind.MEMORY,
    LimitKind.PAUSE,
)
LOOKS = 20
"""Domains whose marks are read at a time: each takes libvirt a millisecond, and limits wait meanwhile."""

log = logging.getLogger(__name__)


class DomainSteps:
    """Steps through libvirt, run in a worker thread: a domain's lock may hold one for seconds."""

    def __init__(self, domains: Domains, keep: Callable[[], None]) -> None:
        self._domains = domains
        self._keep = keep
        self._looked: set[tuple[VmId, int]] = set()
        """By their NICs, whose marks of other enforcers were read."""
        self._turn = 0

    def settle(self, state: State, vm: VmId, kind: LimitKind) -> str:
        """Bring one domain in line with its limits of one kind; what libvirt then says. Raises ``DomainError``."""
        wanted = prevailing(state.of(vm), kind)
        original = state.original(vm, kind)
        if wanted is None:
            if original is not None:
                try:
                    self._domains.restore(vm, kind, original)
                except DomainGoneError:
                    pass  # what is gone has no limit any more
                state.forget(vm, kind)
                self._keep()
                self._mark(state, vm)
            return "as before"
        above = original if original is not None else self._before(state, vm, kind)
        told = self._domains.put(vm, kind, value_of(wanted), above if wanted.grants else None)
        if original is None:
            self._mark(state, vm)
        return told

    def _before(self, state: State, vm: VmId, kind: LimitKind) -> dict[str, int]:
        """What a domain has, written down; what came with it, and is another host's limit, is not its own."""
        self._take_up(state, vm)
        known = state.original(vm, kind)
        if known is None:
            known = self._domains.original(vm, kind)
            state.originals.append(Original(vm, kind, known))
            self._keep()
        return known

    def _mark(self, state: State, vm: VmId) -> None:
        """Write into the domain what it had, so that it can be put back on whatever host it runs then."""
        try:
            self._domains.mark(vm, {o.kind: o.was for o in state.originals if o.vm == vm})
        except DomainGoneError:
            pass
        except DomainError as error:
            log.warning("domain.unmarked vm=%s reason=%s", vm, error)

    def _take_up(self, state: State, vm: VmId) -> None:
        """What is written into the domain and not known here: of limits that nobody here ordered."""
        marks = self._domains.marks(vm)
        ours = {original.kind for original in state.originals if original.vm == vm}
        found = [Original(vm, kind, was) for kind, was in marks.items() if kind not in ours]
        if found:
            state.originals += found
            self._keep()
        if (ours & MARKED) - marks.keys():
            self._mark(state, vm)

    def adopt(self, state: State) -> None:
        """Take up what limits came with domains from other hosts, or from a file; each once a start, some at a time."""
        here = {(port.vm, port.ifindex) for port in list(state.ports.values()) if not port.migrating}
        self._looked &= here
        waiting = sorted(here - self._looked)
        self._turn = (self._turn + LOOKS) % max(1, len(waiting))
        for vm, ifindex in [*waiting[self._turn :], *waiting[: self._turn]][:LOOKS]:
            try:
                self._take_up(state, vm)
            except DomainError:
                continue  # gone, on its way, or libvirt does not answer: another look tells
            self._looked.add((vm, ifindex))

    def repair(self, state: State) -> list[tuple[str, bool, str]]:
        """Find what somebody else changed, and what could not be restored when its limit ended, and put it back."""
        self.adopt(state)
        repaired = []
        limited = {(limit.vm, limit.kind) for limit in list(state.limits.values()) if limit.kind in DOMAIN_KINDS}
        for vm, kind in limited | {(original.vm, original.kind) for original in state.originals}:
            wanted = prevailing(state.of(vm), kind)
            above = state.original(vm, kind) if wanted is not None and wanted.grants else None
            try:
                if wanted is None:
                    told = f"its limit was left over; now {self.settle(state, vm, kind)}"
                elif self._domains.holds(vm, kind, value_of(wanted), above):
                    continue
                else:
                    told = f"it was changed; now {self._domains.put(vm, kind, value_of(wanted), above)}"
                    self._mark(state, vm)
            except DomainError:
                continue  # gone, or libvirt does not answer: the next look tells
            repaired.append((f"{vm} {kind}", True, told))
        return repaired
