"""What the agents of VMs whose case is open are asked, whether they answer, and their details at Level 2. Pure.

HSEM says what it wants to know. Only who reports is asked, and ever more seldom as a case goes on. An answer is a
guest's word, told with the case of its VM and ground for nothing. That an agent goes on reporting and does not answer
is the host's own finding: no accusation, and no all-clear either.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from hypervigil.host.monitor.accounts import QUESTIONS, Answer, answered, detailed, fact
from hypervigil.host.monitor.surveys import Surveys, guests_ms
from hypervigil.model.guest import UNANSWERED, GuestReport, Question
from hypervigil.model.ids import NEVER, CaseId, Instant, VmId
from hypervigil.model.status import Evidence, Origin
from hypervigil.wire import guest

ANSWER_S = 2.0
SOON_S = 1.5
"""Reports so close to each other show that the agent was running in between; whoever stood still had no time."""
AGAIN_S, SELDOM_S = 15.0, 600.0
"""So long after the first time it is the second, and twice as long from time to time, up to the latter."""
_AFTER_S = {Question.FLOWS: 3.0}
"""So long after its opening there may be something to tell of a case."""


@dataclass(slots=True)
class Turn:
    """When it is time for something that is done ever more seldom."""

    due: Instant
    every_s: float = AGAIN_S

    def take(self, now: Instant) -> bool:
        """Whether it is time; if so, it was done."""
        if now < self.due:
            return False
        self.due = Instant(now + self.every_s)
        self.every_s = min(SELDOM_S, 2 * self.every_s)
        return True


@dataclass(slots=True)
class _Waiting:
    """A question without an answer so far."""

    number: int
    agent: int
    at: Instant
    heard_at: Instant = NEVER
    """When its agent last reported since."""
    overdue: bool = False


@dataclass(slots=True)
class _Case:
    case: CaseId
    opened: Instant
    turns: dict[Question, Turn] = field(default_factory=dict)
    waiting: dict[Question, _Waiting] = field(default_factory=dict)
    details: tuple[Instant, guest.Report2] | None = None
    """The last ones that its agent told at Level 2."""
    telling: Turn = field(init=False)
    """When they are written down."""

    def __post_init__(self) -> None:
        self.telling = Turn(self.opened)


class Inquiries:
    """Of one host. Bounded by the VMs that run, and the kinds of questions that there are."""

    def __init__(self) -> None:
        self._cases: dict[VmId, _Case] = {}
        self._last = 0
        self.surveys = Surveys()

    # --- what the judge does ----
    def opened(self, vm: VmId, case: CaseId, at: Instant) -> None:
        """The VM's case was opened then."""
        self._cases[vm] = _Case(case, at)

    def closed(self, vm: VmId) -> None:
        """It has no open case any more."""
        self._cases.pop(vm, None)

    def case(self, vm: VmId) -> CaseId | None:
        """Its open case."""
        return self._cases[vm].case if vm in self._cases else None

    # --- questions ----
    def ask(self, report: GuestReport, wanted: Iterable[Question], now: Instant) -> list[guest.Ask]:
        """What the agent that gave this report, its newest, is to be asked now."""
        known = self._cases.get(report.vm)
        if known is None:
            due = self.surveys.due(report, now)
            return [self.surveys.ask(report, self._number(now), now)] if due else []
        asks: list[guest.Ask] = []
        for question in wanted:
            turn = known.turns.setdefault(question, Turn(Instant(known.opened + _AFTER_S.get(question, 0.0))))
            if turn.take(now):
                number = self._number(now)
                known.waiting[question] = _Waiting(number, report.agent, now)
                since = guests_ms(known.opened, report) if question is Question.FLOWS else 0
                asks.append(guest.Ask(number, question, since))
        return asks

    def _number(self, now: Instant) -> int:
        """Never the number of another question, whoever asked it before: time goes on when we are restarted."""
        self._last = max(self._last + 1, int(now * 1000))
        return self._last

    def lost(self, vm: VmId) -> None:
        """What it said may not have come to us, or what we said not to it: it owes no answer."""
        self._waiting(vm).clear()

    def deaf(self) -> None:
        """The same of all."""
        for known in self._cases.values():
            known.waiting.clear()

    # --- what agents say ----
    def reported(self, report: GuestReport) -> list[Evidence]:
        """An agent reports: if it was there all the while and has not answered in time, that is a fact, once."""
        waiting = self._waiting(report.vm)
        found: list[Evidence] = []
        for question, one in list(waiting.items()):
            if one.agent != report.agent:
                del waiting[question]
                continue
            there = report.at - one.heard_at <= SOON_S
            one.heard_at = report.at
            if not one.overdue and there and report.at - one.at >= ANSWER_S:
                one.overdue = True
                found.append(_unanswered(report.vm, question, report.at - one.at, report.at))
        return found

    def detailed(self, vm: VmId, told: guest.Report2, at: Instant) -> list[Evidence]:
        """Keep the details of a report that tells of now while the VM's case is open; at times they are facts."""
        known = self._cases.get(vm)
        if known is None:
            return []
        known.details = at, told
        return detailed(vm, told, at) if known.telling.take(at) else []

    def details(self, case: CaseId) -> tuple[Instant, guest.Report2] | None:
        """The last details that were told in this case, while it is open, and when."""
        return next((one.details for one in self._cases.values() if one.case == case), None)

    def answered(
        self, vm: VmId, answer: Answer | guest.Declined, at: Instant, *, cpu: float | None
    ) -> list[Evidence] | None:
        """What an answer says, and of CPU what the host counts; ``None`` if this agent was not asked that."""
        waiting = self._waiting(vm)
        for question, one in waiting.items():
            if (one.number, one.agent) != (answer.number, answer.agent):
                continue
            if isinstance(answer, guest.Declined):
                del waiting[question]
                return [_declined(vm, question, answer.reason, at)]
            if QUESTIONS[type(answer)] is question:
                del waiting[question]
                return [answered(vm, answer, at, cpu)]
        return None

    def _waiting(self, vm: VmId) -> dict[Question, _Waiting]:
        return self._cases[vm].waiting if vm in self._cases else {}


def _unanswered(vm: VmId, question: Question, waited_s: float, at: Instant) -> Evidence:
    text = f"{vm}'s agent reports and has not answered the question for its {question} for {waited_s:,.1f} s"
    return Evidence(vm, UNANSWERED, Origin.HOST_OBSERVED, at, waited_s, None, "s", text)


def _declined(vm: VmId, question: Question, reason: str, at: Instant) -> Evidence:
    text = f"declines to answer the question for its {question} ({reason or 'without a reason'})"
    return fact(vm, UNANSWERED, at, text, value=0.0, unit="s")
