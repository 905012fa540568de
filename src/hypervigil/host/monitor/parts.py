"""What the conductor needs of the engines, the journal and the links, so that tests can stand in for them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from hypervigil.host.hsem.brief import Brief
from hypervigil.host.hsem.resources import Resource
from hypervigil.host.journal import Entry
from hypervigil.model.guest import GuestReport, Question
from hypervigil.model.ids import CaseId, Instant, LimitId, VmId
from hypervigil.model.limits import Limit
from hypervigil.model.observation import Sweep
from hypervigil.model.policy import Bounds
from hypervigil.model.report import Decision, HostReport
from hypervigil.model.status import Evidence, Level, Role
from hypervigil.model.vm import Inventory, Vm
from hypervigil.wire import gateway as heard
from hypervigil.wire import messages as wire


class Observer(Protocol):
    """HREM, as the conductor needs it."""

    pairs_dropped: int
    """Pairs that a report had no room for, in all."""

    def inventory(self, inventory: Inventory) -> None:
        """These VMs run now."""

    def observe(self, sweep: Sweep, now: Instant) -> list[HostReport]:
        """What a sweep says."""


class Judge(Protocol):
    """HSEM, as the conductor needs it."""

    @property
    def postponed(self) -> tuple[int, int]:
        """How many VMs wait to be looked at, and how many looks had to wait so far."""

    def inventory(self, vms: Iterable[Vm], now: Instant) -> list[Decision]:
        """These VMs run now."""

    def clock(self, ahead_s: float) -> None:
        """By how much UTC is ahead of ``Instant``."""

    def hear(self, report: HostReport, now: Instant) -> list[Decision]:
        """A report of HREM's."""

    def tick(self, now: Instant) -> list[Decision]:
        """Time has passed."""

    def release(self, vm: VmId, now: Instant) -> list[Decision]:
        """The operator frees the VM."""

    def told(self, fact: Evidence) -> None:
        """A fact about a VM's agent."""

    def heard(self, report: GuestReport) -> None:
        """What an agent tells of now: at most something against its own VM."""

    def visited(self, vm: VmId, opened: Mapping[int, float], elsewhere: float) -> None:
        """What an agent says that its VM began at which ports, and elsewhere."""

    def brief(self, vm: VmId) -> Brief:
        """What the VM's agent is to be told as usual."""

    def questions(self, vm: VmId) -> tuple[Question, ...]:
        """What it wants to know of the VM's agent, while its case is open."""

    def level(self, vm: VmId) -> Level:
        """The VM's level."""

    def facts(self, case: CaseId) -> object:
        """Everything that the judge knew of a case when it was opened or last judged: enough to judge it again."""

    def role(self, vm: VmId) -> Role | None:
        """What it takes the VM for: ``CLEARED`` at Level 1, ``None`` under suspicion."""

    def given(self, grants: Iterable[Limit]) -> None:
        """All that is granted now: it explains more than the history."""

    def bounded(self, bounds: Mapping[VmId, Mapping[Resource, float]]) -> None:
        """What VMs were given of what they might be seen to take more of."""

    def set_policy(self, bounds: Bounds, ladder: Sequence[str]) -> None:
        """The operator's bounds and ladder."""


class Journal(Protocol):
    """The journal, as the conductor needs it."""

    def append_many(self, entries: Iterable[Entry]) -> object:
        """Make these records durable in one transaction."""

    def next_limit(self) -> LimitId:
        """An id never given out before."""

    def never_again(self, *, case: CaseId | None = None, limit: LimitId | None = None) -> None:
        """Never give out these ids."""


class Enforcer(Protocol):
    """The way to the enforcer, as the conductor needs it."""

    @property
    def connected(self) -> bool:
        """Whether it is there."""

    def next_request(self) -> int:
        """A request's number."""

    def send(self, message: wire.ToEnforcer) -> bool:
        """Send; false when it could not be sent."""


class Gateway(Protocol):
    """The way to the guests' agents, as the conductor needs it."""

    @property
    def connected(self) -> bool:
        """Whether it is there."""

    def send(self, message: heard.ToGateway) -> bool:
        """Send; false when it could not be sent."""
