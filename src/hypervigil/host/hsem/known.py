"""What HSEM knows of its VMs, and may be asked; nothing is decided by an answer. Pure."""

from collections.abc import Mapping

from hypervigil.host.hsem.alarms import Alarms
from hypervigil.host.hsem.brief import Brief
from hypervigil.host.hsem.facts import Facts, LastFacts
from hypervigil.host.hsem.history import Remembered
from hypervigil.host.hsem.levels import ROLES, State, level
from hypervigil.host.hsem.turns import Turns
from hypervigil.host.hsem.usual import Usual
from hypervigil.host.hsem.watched import Watched
from hypervigil.model.guest import Question
from hypervigil.model.ids import CaseId, VmId
from hypervigil.model.metric import Metric
from hypervigil.model.status import Level, Role


class Known:
    """Of one host."""

    def __init__(self) -> None:
        self._vms: dict[VmId, Watched] = {}
        self._usual = Usual()
        self._history = self._usual.history
        self._facts = LastFacts()
        self._turns = Turns()
        self._alarms = Alarms()

    def level(self, vm: VmId) -> Level:
        """The VM's level."""
        return level(self._vms[vm].state) if vm in self._vms else Level.LEVEL1

    def state(self, vm: VmId) -> State:
        """Where the VM stands in the transition table."""
        return self._vms[vm].state if vm in self._vms else State.LEVEL1

    def role(self, vm: VmId) -> Role | None:
        """What the VM is taken for: ``CLEARED`` at Level 1, ``None`` while that is not known."""
        return ROLES[self.state(vm)]

    @property
    def postponed(self) -> tuple[int, int]:
        """How many VMs wait to be looked at, and how many looks had to wait so far: what was shed for lack of time."""
        return self._turns.waiting, self._turns.postponed + self._alarms.waited

    def questions(self, vm: VmId) -> tuple[Question, ...]:
        """What it wants to know of the VM's agent, while its case is open."""
        return self._vms[vm].questions() if vm in self._vms else ()

    def facts(self, case: CaseId) -> Facts:
        """What was known at the last verdict of a case (or at its opening)."""
        return self._facts[case]

    def samples(self, vm: VmId) -> int:
        """Seconds of history that the VM has."""
        return self._history.samples(vm)

    def tail(self, vm: VmId, metric: Metric) -> float:
        """The VM's own 95th percentile of a metric (a prior while there is little history)."""
        return self._history.tail(vm, metric)

    def brief(self, vm: VmId) -> Brief:
        """What the VM's agent is to be told as usual."""
        return self._usual.brief(vm)

    def visited(self, vm: VmId, opened: Mapping[int, float], elsewhere: float) -> None:
        """What its agent says that it began at which ports, and elsewhere; of a suspect it is not learned."""
        if vm in self._vms and self._vms[vm].dossier is None:
            self._usual.ports.visited(vm, opened, elsewhere)

    def remember(self) -> Remembered:
        """The history of every VM, and its habits. Open cases are the journal's to tell."""
        return self._usual.remember()
