"""Limits end while the monitor is away: the real enforcer's loop, conductor and journal, on a clock of the test's."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hypervigil.host.journal import Journal, Kind
from hypervigil.host.monitor.conductor import Conductor
from hypervigil.host.monitor.ledger import FOLDED
from hypervigil.host.monitor.records import LimitEnded
from hypervigil.hypervisor.enforcer.process import GRACE_S
from hypervigil.model.ids import Instant
from hypervigil.model.limits import LimitKind
from hypervigil.model.report import OrderLimit
from hypervigil.wire.messages import Ask, Ended, InForce
from tests.unit.host.monitor.test_conductor import conducting
from tests.unit.host.monitor.test_conversation import Enforcer as Link
from tests.unit.hypervisor.enforcer.fakes import limit
from tests.unit.hypervisor.enforcer.test_process import MINUTE, Rig, rig

__all__ = ["rig"]

BOOT = "this-boot"
NIC = limit(LimitKind.PACKETS, 5, until=1100.0)
CPU = limit(LimitKind.CPU, 0.5, until=1100.0)
LEFT_AT = 1090.0


@contextmanager
def monitor(path: Path) -> Iterator[Conductor]:
    """Another process of the monitor, which has read the journal."""
    with Journal.open(path, boot_id=BOOT) as journal:
        made = conducting(journal, Link())
        made.ledger.replay(journal.records(kinds=FOLDED), boot_id=BOOT)
        yield made


def ends(path: Path) -> dict[str, LimitEnded]:
    """What the journal tells of limits that ended without the monitor's word."""
    with Journal.open(path, boot_id=BOOT, read_only=True) as journal:
        found = [r.read(LimitEnded) for r in journal.records(kinds=[Kind.LIFTED]) if r.body_type == "LimitEnded"]
    assert len(found) == len({one.limit for one in found}), "each is told once"
    return {one.limit: one for one in found}


def lifted_at(path: Path) -> list[float | None]:
    """When both ended, in wall-clock seconds, for a monitor that begins anew."""
    with monitor(path) as again:
        assert [again.ledger.limits[one.id].state for one in (NIC, CPU)] == ["ended", "ended"]
        return [again.ledger.limits[one.id].lifted_at for one in (NIC, CPU)]


@pytest.mark.req("T-CORE-11")
@pytest.mark.parametrize("enforcer_dies", [False, True], ids=["the enforcer stays", "the enforcer dies too"])
def test_what_ends_in_its_absence_is_in_the_journal_with_its_time(
    rig: Rig, tmp_path: Path, enforcer_dies: bool
) -> None:
    path = tmp_path / "journal.db"
    over_at = LEFT_AT + 15 * MINUTE
    back_at = over_at + 10 * MINUTE

    async def play() -> None:
        await rig.comes()
        await rig.bind()
        with monitor(path) as before:
            before.act([OrderLimit(NIC), OrderLimit(CPU)], Instant(1000.0))
            await rig.put(NIC, CPU)
        rig.at = LEFT_AT
        await rig.goes()
        assert await rig.in_force(1100.0 + GRACE_S + 1) == {NIC.id, CPU.id}, "the control: its end is over, and frozen"
        assert await rig.in_force(over_at + 1) == set()
        assert ends(path) == {}
        rig.at = back_at
        if enforcer_dies:
            rig.again()  # with all that it had to tell
        with monitor(path) as after:
            assert len(after.ledger.standing()) == 2
            await rig.comes()
            answer = await rig.ask(Ask(request=9))
            while not isinstance(answer, InForce):
                assert isinstance(answer, Ended)
                after.enforced(answer, Instant(back_at))
                answer = await rig.hear()
            after.enforced(answer, Instant(back_at))
            assert after.ledger.standing() == []
        await rig.goes()

    asyncio.run(play())
    found = ends(path)
    assert set(found) == {NIC.id, CPU.id}
    if enforcer_dies:
        assert {one.reason for one in found.values()} == {"it had ended when the monitor came back"}
        assert lifted_at(path) == [1_000_000 + back_at] * 2, "when it was found out: nobody knows better"
    else:
        assert {one.reason for one in found.values()} == {"its time is over and the monitor is away"}
        assert lifted_at(path) == [pytest.approx(1_000_000 + over_at + 1)] * 2, "when it was, not when it was told"
