"""What waits for the monitor: a short queue for each VM, emptied in turn, so that none waits for another's. Pure."""

from collections import OrderedDict, deque

from hypervigil.model.ids import VmId
from hypervigil.wire.gateway import Heard
from hypervigil.wire.guest import Report1, Report2

MOST = 24
"""Messages that wait of one VM."""


class Mail:
    """Queues in turn."""

    def __init__(self) -> None:
        self._queues: OrderedDict[VmId, deque[Heard]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._queues)

    def put(self, heard: Heard) -> bool:
        """Queue it; false when something of the same VM had to go for it: its oldest report, or its oldest message."""
        queue = self._queues.setdefault(heard.vm, deque())
        fits = len(queue) < MOST
        if not fits:
            reports = (place for place, old in enumerate(queue) if isinstance(old.message, Report1 | Report2))
            del queue[next(reports, 0)]
        queue.append(heard)
        return fits

    def take(self) -> Heard | None:
        """The oldest of the VM whose turn it is."""
        if not self._queues:
            return None
        vm, queue = next(iter(self._queues.items()))
        heard = queue.popleft()
        if queue:
            self._queues.move_to_end(vm)
        else:
            del self._queues[vm]
        return heard

    def forget(self, vm: VmId) -> None:
        """The VM is gone."""
        self._queues.pop(vm, None)
