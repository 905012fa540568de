"""The routed layer: the host's routes to VMs that no bridge carries, and the guard of what crosses the host."""

from collections.abc import Iterator

from hypervigil.hypervisor.adapters.nftables.guard import GuardError
from hypervigil.hypervisor.enforcer.ports import Roads, RoutedKeeper
from hypervigil.hypervisor.enforcer.state import State

Finding = tuple[str, bool, str]
"""What was not as it should be: the port or thing, whether it is now, and what it was."""


class RoutedLayer:
    """Brought in line with the state as a whole, whether the state changed or the kernel did."""

    def __init__(self, guard: RoutedKeeper, roads: Roads) -> None:
        self._guard = guard
        self._roads = roads
        self._failed: set[Finding] = set()
        self._unguarded = False
        """Nothing is guarded, and no table of ours is there."""

    def settle(self, state: State) -> list[Finding]:
        """Put right what is not as it should be. What fails again in the same way is told once."""
        found = [*self._routes(state), *self._guarding(state)]
        failed = {one for one in found if not one[1]}
        told = [one for one in found if one not in self._failed]
        self._failed = failed
        return told

    def _routes(self, state: State) -> list[Finding]:
        try:
            return self._roads.settle(state.ports.values())
        except OSError as error:
            return [("routes", False, f"the kernel does not tell its routes: {error}")]

    def _guarding(self, state: State) -> Iterator[Finding]:
        what = "it was gone"
        try:
            if state.guarding is None:
                if not self._unguarded and self._guard.remove():
                    yield "routed guard", True, "it was there, though nothing is guarded"
                self._unguarded = True
                return
            self._unguarded = False
            self._guard.foreign = frozenset(state.guarding.exempt) if state.guarding.routed else None
            wanted = frozenset(policy.ifindex for policy in state.ports.values())
            there = self._guard.bound()
            if there == wanted:
                return
            if there is None:
                self._guard.put(wanted)
            else:
                what = "its ports were changed"
                self._guard.change(add=sorted(wanted - there), remove=sorted(there - wanted))
            yield "routed guard", True, what
        except GuardError as error:
            yield "routed guard", False, f"{what}; {error}"
