"""What people see of cases and limits, folded again from the journal: what the operator exempted, and until when."""

from pathlib import Path

import pytest

from hypervigil.host.journal import Journal, Kind
from hypervigil.host.journal.records import OperatorCommand
from hypervigil.host.monitor.ledger import EXEMPT, FOLDED, Ledger
from hypervigil.model.ids import Instant, VmId

A = VmId("a")


class Machine:
    """A journal, and a machine that may be started again and whose clock may be wrong."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.boot = "first"
        self.ahead_s = 1e9
        """By so much the wall clock is ahead of the machine's own time."""

    def order(self, at: float, **arguments: object) -> None:
        with Journal.open(self._path, boot_id=self.boot) as journal:
            body = OperatorCommand("root", EXEMPT, {"name": "a", **arguments})
            journal.append(Kind.OPERATOR, body, now=Instant(at), wall_at=at + self.ahead_s, vm=A)

    def exempt_until(self, now: float) -> float | None:
        """For a monitor that begins at this time; ``None`` where the VM is limited."""
        ledger = Ledger()
        with Journal.open(self._path, boot_id=self.boot) as journal:
            ledger.replay(journal.records(kinds=FOLDED), boot_id=self.boot)
        one = ledger.exempt.get(A)
        until = one.until(Instant(now), now + self.ahead_s) if one is not None else now
        return until if until > now else None


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "journal.db")


def test_an_exemption_of_this_run_ends_by_the_machines_own_time(machine: Machine) -> None:
    machine.order(100.0, for_s=60.0)
    for ahead_s in (1e9, 1e9 - 3600, 1e9 + 3600):
        machine.ahead_s = ahead_s
        assert machine.exempt_until(130.0) == 160.0, "whoever sets the clock meanwhile"
        assert machine.exempt_until(161.0) is None


def test_what_was_ended_is_over_whatever_the_clock_says_later(machine: Machine) -> None:
    machine.order(100.0, for_s=60.0)
    machine.order(110.0, for_s=0.0)
    machine.ahead_s -= 3600
    machine.boot = "second"
    assert machine.exempt_until(5.0) is None


def test_in_another_run_it_ends_by_the_wall_clock(machine: Machine) -> None:
    machine.order(100.0, for_s=600.0)
    machine.boot, machine.ahead_s = "second", machine.ahead_s + 400.0
    assert machine.exempt_until(5.0) == 300.0
    assert machine.exempt_until(301.0) is None


def test_a_machine_whose_clock_is_behind_exempts_nobody_for_years(machine: Machine) -> None:
    machine.order(100.0, for_s=600.0)
    machine.boot, machine.ahead_s = "second", 0.0
    assert machine.exempt_until(5.0) == 605.0
    machine.boot, machine.ahead_s = "first", 1e9
    machine.order(900.0, for_s=1.0, name="another order later")
    machine.boot, machine.ahead_s = "second", 0.0
    assert machine.exempt_until(5.0) == 6.0, "the order before was over by then"


@pytest.mark.parametrize("arguments", [{}, {"for_s": "soon"}, {"for_s": None}])
def test_an_order_that_says_no_time_exempts_nobody(machine: Machine, arguments: dict[str, object]) -> None:
    machine.order(100.0, **arguments)
    assert machine.exempt_until(101.0) is None
