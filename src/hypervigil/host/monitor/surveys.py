"""Now and then an agent is asked for its flows, for the ports that its VM usually begins something at. Pure.

That is no inquiry: it belongs to no case, nothing is told of it, and who does not answer is asked again the next time.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from hypervigil.model.guest import GuestReport, Question
from hypervigil.model.ids import Instant, VmId
from hypervigil.model.traffic import Direction
from hypervigil.wire import guest

EVERY_S = 300.0
"""An answer is at most 16 kB: 55 bytes a second."""
_BEGINS = frozenset({6, 17})
"""Protocols with ports."""

Visits = tuple[VmId, dict[int, float], float]
"""A VM, how often it began something at which port, and how often elsewhere or nobody knows where."""


@dataclass(slots=True)
class _Survey:
    due: Instant
    since: Instant
    """What was begun before has been asked for."""
    waiting: tuple[int, int] | None = None
    """Agent and number of the question without an answer so far."""


class Surveys:
    """Of one host; one record of fixed size for each VM whose agent reports."""

    def __init__(self) -> None:
        self._surveys: dict[VmId, _Survey] = {}

    def keep(self, vms: Iterable[VmId]) -> None:
        """Forget all others."""
        running = set(vms)
        self._surveys = {vm: one for vm, one in self._surveys.items() if vm in running}

    def due(self, report: GuestReport, now: Instant) -> bool:
        """Whether the agent that gave this report is to be asked now."""
        known = self._surveys.get(report.vm)
        if known is None:
            self._surveys[report.vm] = _Survey(Instant(now + EVERY_S), now)
            return False
        return now >= known.due

    def ask(self, report: GuestReport, number: int, now: Instant) -> guest.Ask:
        """The question of this number."""
        known = self._surveys[report.vm]
        since, known.since, known.due = known.since, now, Instant(now + EVERY_S)
        known.waiting = report.agent, number
        return guest.Ask(number, Question.FLOWS, guests_ms(since, report))

    def take(self, vm: VmId, agent: int, number: int) -> bool:
        """Whether this answers the question that is open; it is not any more."""
        known = self._surveys.get(vm)
        if known is None or known.waiting != (agent, number):
            return False
        known.waiting = None
        return True


def visits(vm: VmId, told: guest.Flows) -> Visits:
    """What an answer says of where the VM begins something; flows that it does not name began one thing each."""
    opened: dict[int, float] = {}
    for flow in told.flows:
        if flow.began is Direction.OUT and flow.protocol in _BEGINS and flow.there_port:
            opened[flow.there_port] = opened.get(flow.there_port, 0.0) + max(1, flow.openings)
    return vm, opened, float(max(0, told.flows_in_all - len(told.flows)))


_MOST_MS = 2**53 - 1


def guests_ms(at: Instant, report: GuestReport) -> int:
    """An instant in milliseconds of the guest's clock, as far as its agent tells of that."""
    guest_s = report.guest_at_s - max(0.0, report.at - at)
    return min(_MOST_MS, max(0, int(guest_s * 1000)))
