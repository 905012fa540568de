"""Who of the agents is heard: a guest's word by the host's clock, and silence as a fact. Pure.

A report is taken for what happens now if it is no later than others of its agent lately were, by the guest's own clock:
what an agent kept while its channel was cut is old, and so is what somebody kept to say it again.

Nothing here is an accusation: an agent ends when its VM reboots, when its tenant wants so, and when an intruder does.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import isfinite

import numpy as np

from hypervigil.host.hrem.crosscheck import CrossCheck, comparable
from hypervigil.model.guest import ALARM, MISMATCH, REPLACED, SILENT, SPECIAL_REQUEST, AgentState, GuestReport, Hearing
from hypervigil.model.ids import Instant, VmId
from hypervigil.model.metric import Metric
from hypervigil.model.report import HostReport
from hypervigil.model.status import Evidence, Origin
from hypervigil.model.vm import Vm

SILENT_S = 3.0
"""Three reports that did not come."""
LATE_S = 1.0
LATELY_S = 10.0
UNTOLD = 0.25
"""A report that leaves out more of the time before it than this share of its own tells of less than was."""
OFFSETS = 128
SPOKEN_S = 30.0
SPOKEN = 256
"""Times of speaking that the rate of a channel is known from."""
NOTES = 6.0
NOTES_PER_S = 0.1
"""Facts of one agent that are recorded, at once and in the long run: no guest can fill the journal."""
BLIND = 16
"""Sources that an agent can say it does not see, as its protocol bounds them."""
MISTRUSTED = frozenset({SILENT, MISMATCH, REPLACED, ALARM, SPECIAL_REQUEST})
"""Facts that belong to a case of their VM, should there be one."""
_NOTICES = frozenset({ALARM, SPECIAL_REQUEST})
"""Why an agent goes to Level 2, or would have its VM looked at: people may want to know. What follows, HSEM decides."""
_FINDINGS = frozenset({SILENT, MISMATCH})


@dataclass(slots=True)
class _Allowance:
    left: float = NOTES
    at: Instant = field(default=Instant(0.0))

    def take(self, now: Instant) -> bool:
        self.left = min(NOTES, self.left + NOTES_PER_S * max(0.0, now - self.at))
        self.at = now
        if self.left < 1.0:
            return False
        self.left -= 1.0
        return True


@dataclass(slots=True)
class _Agent:
    channel: bool = False
    """Its domain has a port for one."""
    paused: bool = False
    listening_since: Instant | None = None
    """Since then whatever it says is heard, if it can speak at all."""
    report: GuestReport | None = None
    release: str | None = None
    blind: tuple[str, ...] = ()
    silent: bool = False
    untaken: int = 0
    late: int = 0
    unnoted: int = 0
    unasked: int = 0
    notices: int = 0
    notice: Evidence | None = None
    offsets: deque[tuple[Instant, float]] = field(default_factory=lambda: deque(maxlen=OFFSETS))
    """By how much the host's clock was ahead of the guest's when a report was heard."""
    spoken: deque[tuple[Instant, int]] = field(default_factory=lambda: deque(maxlen=SPOKEN))
    """When octets were heard at this level, and how many."""
    told: tuple[int, float] = (0, 0.0)
    """Which agent told of its time until when, by the guest's clock."""
    words: _Allowance = field(default_factory=_Allowance)
    findings: _Allowance = field(default_factory=_Allowance)
    """The host's own: what a guest says cannot use them up."""

    def octets_per_s(self) -> float | None:
        """What its channel carried in the last ``SPOKEN_S`` in which it spoke, at its present level."""
        if len(self.spoken) < 2 or self.spoken[-1][0] <= self.spoken[0][0]:
            return None
        return sum(octets for _, octets in list(self.spoken)[1:]) / (self.spoken[-1][0] - self.spoken[0][0])

    def on_time(self, report: GuestReport) -> bool:
        """Whether a report tells of now, and of all the time since the one before."""
        agent, until_s = self.told
        untold_s = report.guest_at_s - report.interval_s - until_s if agent == report.agent else 0.0
        self.told = report.agent, report.guest_at_s if agent != report.agent else max(until_s, report.guest_at_s)
        offset = report.at - report.guest_at_s
        self.offsets.append((report.at, offset))
        while report.at - self.offsets[0][0] > LATELY_S:
            self.offsets.popleft()
        late_s = offset - min(known for _, known in self.offsets)
        return late_s <= LATE_S and untold_s <= UNTOLD * report.interval_s and comparable(report)


class Agents:
    """Of one host. What returns evidence returns each fact once."""

    def __init__(self) -> None:
        self._agents: dict[VmId, _Agent] = {}
        self._check = CrossCheck()
        self._second: HostReport | None = None
        """The last whole second as the host counted it."""

    # --- what the host knows ----
    def inventory(self, vms: Iterable[Vm], now: Instant) -> None:
        """These VMs run now."""
        known, self._agents = self._agents, {}
        for vm in vms:
            agent = self._agents[vm.vm] = known.get(vm.vm) or _Agent()
            agent.channel = vm.channel is not None
            if agent.paused and not vm.paused and agent.listening_since is not None:
                self.opened(vm.vm, now)
            agent.paused = vm.paused
            if not agent.channel:
                agent.listening_since = None
        self._check.keep(set(self._agents))

    def saw(self, report: HostReport, begun: Instant) -> None:
        """What the host itself counted; ``begun`` is when it began to read."""
        self._check.saw(report, begun)
        if report.whole:
            self._second = report

    def cpu(self, vm: VmId) -> float | None:
        """What the host itself counted of its CPU in the last whole second, as a share of all its vCPUs, if it did."""
        if self._second is None or vm not in self._second.vms:
            return None
        values = np.asarray(self._second.values, np.float32).reshape(len(self._second.vms), len(Metric))
        value = float(values[self._second.vms.index(vm), Metric.CPU])
        return value if isfinite(value) else None

    def opened(self, vm: VmId, now: Instant) -> None:
        """The gateway reads its channel, from now; the guest's clock may have stood still before."""
        if vm in self._agents:
            self._agents[vm].listening_since = now
            self._agents[vm].offsets.clear()
            self._check.forget(vm)

    def closed(self, vm: VmId) -> None:
        """The gateway cannot read its channel."""
        if vm in self._agents:
            self._agents[vm].listening_since = None

    def deaf(self) -> None:
        """The gateway is gone: nobody is silent while nobody listens."""
        for agent in self._agents.values():
            agent.listening_since = None

    def untaken(self, vm: VmId, lines: int) -> None:
        """So many of its lines were not taken."""
        if vm in self._agents:
            self._agents[vm].untaken += lines

    def unasked(self, vm: VmId) -> None:
        """It answered what it was not asked."""
        if vm in self._agents:
            self._agents[vm].unasked += 1

    # --- what the guest says ----
    def read(self, vm: VmId, octets: int, at: Instant) -> None:
        """So many octets came by its channel, whatever they were."""
        if vm in self._agents:
            spoken = self._agents[vm].spoken
            spoken.append((at, octets))
            while at - spoken[0][0] > SPOKEN_S:
                spoken.popleft()

    def greeted(self, vm: VmId, release: str, blind: Sequence[str] = ()) -> None:
        """Its agent said hello, and what it cannot see."""
        if vm in self._agents:
            self._agents[vm].release = release
            self._agents[vm].blind = tuple(dict.fromkeys(word for word in blind if word))[:BLIND]

    def reported(self, report: GuestReport) -> list[Evidence]:
        """One interval of an agent's."""
        agent = self._agents.get(report.vm)
        if agent is None:
            return []
        if not agent.on_time(report):
            agent.late += 1
            return []
        contradictions = [one for fact in self._check.heard(report) for one in self.noted(fact)]
        return [*self._speaks(agent, report), *contradictions]

    def _speaks(self, agent: _Agent, report: GuestReport) -> list[Evidence]:
        """What is new about who speaks."""
        before, agent.report = agent.report, report
        was_silent, agent.silent = agent.silent, False
        if before is not None and before.level != report.level:
            agent.spoken.clear()
        if before is None:
            return self.noted(_told(report, "agent-heard", 1.0, "agents", "has an agent"))
        if was_silent:
            away = report.at - before.at
            return self.noted(
                _told(report, "agent-heard", away, "s", f"is heard again by its agent, after {away:,.0f} s")
            )
        if before.agent != report.agent:
            text = "has another agent now, or the same one was started again"
            return self.noted(_told(report, REPLACED, 1.0, "agents", text))
        return []

    def noted(self, fact: Evidence) -> list[Evidence]:
        """A fact about an agent, or nothing where it has given too many."""
        agent = self._agents.get(fact.vm)
        if agent is None:
            return []
        if fact.kind in _NOTICES:
            agent.notices, agent.notice = agent.notices + 1, fact
        allowance = agent.findings if fact.kind in _FINDINGS else agent.words
        if not allowance.take(fact.at):
            agent.unnoted += 1
            return []
        return [fact]

    # --- what is asked ----
    def tick(self, now: Instant) -> list[Evidence]:
        """Time has passed: who has fallen silent."""
        found: list[Evidence] = []
        for vm, agent in self._agents.items():
            if agent.silent or agent.paused or agent.report is None or agent.listening_since is None:
                continue
            if now - max(agent.report.at, agent.listening_since) > SILENT_S:
                agent.silent = True
                since = now - agent.report.at
                found += self.noted(
                    Evidence(
                        vm=vm,
                        kind=SILENT,
                        origin=Origin.HOST_OBSERVED,
                        at=now,
                        value=since,
                        baseline=None,
                        unit="s",
                        text=f"{vm}'s agent, which reported {since:,.1f} s ago, is silent while its VM runs",
                    )
                )
        return found

    def newest(self, vm: VmId) -> GuestReport | None:
        """The newest report that told of its time."""
        agent = self._agents.get(vm)
        return agent.report if agent is not None else None

    def speaking(self, vm: VmId) -> GuestReport | None:
        """The newest report of one that is heard."""
        return self.newest(vm) if self.state(vm).hearing in {Hearing.HEARD, Hearing.CONTRADICTED} else None

    def state(self, vm: VmId) -> AgentState:
        """What is heard of a VM's agent."""
        agent = self._agents.get(vm, _Agent())
        report = agent.report
        if not agent.channel:
            return AgentState(Hearing.NO_PORT)
        if agent.listening_since is None:
            hearing = Hearing.CLOSED
        elif report is None:
            hearing = Hearing.UNKNOWN
        elif agent.silent:
            hearing = Hearing.SILENT
        else:
            hearing = Hearing.CONTRADICTED if self._check.contradicted(vm) else Hearing.HEARD
        at, level = (report.at, report.level) if report is not None else (None, None)
        rate = agent.octets_per_s()
        counts = agent.untaken, agent.late, agent.unnoted, agent.unasked, agent.notices
        return AgentState(hearing, at, level, agent.release, *counts, agent.notice, rate, agent.blind)


def _told(report: GuestReport, kind: str, value: float, unit: str, text: str) -> Evidence:
    return Evidence(
        vm=report.vm,
        kind=kind,
        origin=Origin.GUEST_REPORTED,
        at=report.at,
        value=value,
        baseline=None,
        unit=unit,
        text=f"{report.vm} {text}",
    )
