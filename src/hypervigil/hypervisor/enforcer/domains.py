"""CPU, block I/O, memory and pause: what was before is written down before anything changes, and put back after."""

from collections.abc import Callable

from hypervigil.hypervisor.adapters.libvirt.limits import DomainError, DomainGoneError
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


class DomainSteps:
    """Steps through libvirt, run in a worker thread: a domain's lock may hold one for seconds."""

    def __init__(self, domains: Domains, keep: Callable[[], None]) -> None:
        self._domains = domains
        self._keep = keep

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
            return "as before"
        if original is None:
            original = self._domains.original(vm, kind)
            state.originals.append(Original(vm, kind, original))
            self._keep()
        return self._domains.put(vm, kind, value_of(wanted), original if wanted.grants else None)

    def repair(self, state: State) -> list[tuple[str, bool, str]]:
        """Find what somebody else changed, and what could not be restored when its limit ended, and put it back."""
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
            except DomainError:
                continue  # gone, or libvirt does not answer: the next look tells
            repaired.append((f"{vm} {kind}", True, told))
        return repaired
