"""When a VM's own agent finds it unusual: whether that is reason to look closely. Pure.

It is a guest's word, so it draws Level 2 of that VM and nothing more: no verdict, no limit, and nothing that the host
remembers is forgotten for it. An honest agent errs as well, since much that is unusual is nobody's attack: a backup,
an update, a busy day. So a word alone counts only while the agent goes on saying it for ``PERSISTS_S``, of a VM whose
agent has told enough to be told what is usual; at once where the host sees something unusual of the VM too. And a case
that comes to nothing is the last that a VM's word draws for ``AGAIN_S``: at most one false Level 2 a week and VM, by
construction, whatever the guest does. What is said meanwhile is on record, as ever.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass

from hypervigil.model.guest import ALARM, GuestReport
from hypervigil.model.ids import NEVER, Instant, VmId
from hypervigil.model.status import Evidence

PERSISTS_S = 3.0
PAUSE_S = 3.0
"""An agent that has not reported for so long does not go on saying it."""
AGAIN_S = 7 * 24 * 3600.0
MOST_AT_ONCE = 16
"""Cases open at once that agents' words drew: what happens in all guests at the same hour is not worth all cases."""

Is = Callable[[VmId], bool]


@dataclass(slots=True)
class _Alarm:
    fact: Evidence
    since: Instant
    at: Instant
    """When its agent last said it."""
    again: bool = False
    """Whether a report has said so since."""
    waits: bool = False


class Alarms:
    """Of one host; bounded by the VMs that run."""

    def __init__(self) -> None:
        self._alarms: dict[VmId, _Alarm] = {}
        self._drawn: set[VmId] = set()
        """Whose open case an agent's word drew."""
        self._spent: dict[VmId, Instant] = {}
        """When a word last drew a case that came to nothing, or to nothing yet."""
        self.waited = 0
        """How many alarms had to wait because too many had drawn cases."""

    def keep(self, running: Collection[VmId]) -> None:
        """Forget all others."""
        self._alarms = {vm: alarm for vm, alarm in self._alarms.items() if vm in running}
        self._spent = {vm: at for vm, at in self._spent.items() if vm in running}
        self._drawn &= set(running)

    def hear(self, fact: Evidence) -> None:
        """A fact of an agent: an alarm begins, or there is more to it."""
        if fact.kind != ALARM:
            return
        known = self._alarms.get(fact.vm)
        if known is None:
            self._alarms[fact.vm] = _Alarm(fact, fact.at, fact.at)
        else:
            known.fact = fact

    def reported(self, report: GuestReport) -> None:
        """A report that came in time: whether its agent goes on saying it."""
        alarm = self._alarms.get(report.vm)
        if alarm is None:
            return
        if not report.breaches or report.at - alarm.at > PAUSE_S:
            del self._alarms[report.vm]
            return
        alarm.at, alarm.again = report.at, True

    def due(self, now: Instant, *, cased: Is, seconded: Is, settled: Is) -> list[Evidence]:
        """What draws Level 2 now.

        ``cased``: whether the VM has a case already; ``seconded``: whether the host sees something unusual of it too;
        ``settled``: whether its agent was told what is usual.
        """
        found: list[Evidence] = []
        for vm, alarm in list(self._alarms.items()):
            if now - alarm.at > PAUSE_S:
                del self._alarms[vm]
            elif alarm.again and not cased(vm) and now - self._spent.get(vm, NEVER) >= AGAIN_S:
                lasts = alarm.at - alarm.since >= PERSISTS_S and settled(vm)
                if not lasts and not seconded(vm):
                    continue
                if len(self._drawn) == MOST_AT_ONCE:
                    self.waited += not alarm.waits
                    alarm.waits = True
                    continue
                self.drew(vm, now)
                found.append(alarm.fact)
        return found

    def drew(self, vm: VmId, at: Instant) -> None:
        """An agent's word drew the case that is open."""
        self._drawn.add(vm)
        self._spent[vm] = at

    def closed(self, vm: VmId, *, in_vain: bool) -> None:
        """A case of this VM is closed, whoever drew it: what its agent said before has been looked into."""
        self._alarms.pop(vm, None)
        if vm in self._drawn:
            self._drawn.discard(vm)
            if not in_vain:
                self._spent.pop(vm, None)
