"""What did not cross a NIC is counted by reason, and shown."""

from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from hypervigil.entrypoints.cli import show
from hypervigil.host.monitor.drops import Drops
from hypervigil.model.ids import Instant, VmId
from hypervigil.model.policy import Mode, Policy
from hypervigil.model.report import DeniedCount, ForgedCount, HostReport, LimitedCount
from hypervigil.model.traffic import DenialKind, Direction, ForgedKind, TrafficClass
from hypervigil.model.vm import Inventory, Vm
from hypervigil.wire import control
from tests.unit.host.monitor.test_answers import VM, answers_of
from tests.unit.host.monitor.test_conductor import FakeHost, conducting

WEB = Vm(VmId("w"), "web-1", 1, 1024, ())


def report(at: float, **counts: Any) -> HostReport:
    return HostReport(Instant(at), 0.2, (VM.vm, WEB.vm), memoryview(b""), **counts)


def filled() -> Drops:
    drops = Drops()
    for at in (10.0, 11.0):
        drops.saw(
            report(
                at,
                forged=(ForgedCount(VM.vm, ForgedKind.ARP, 3), ForgedCount(WEB.vm, ForgedKind.MAC, 0)),
                denied=(DeniedCount(VM.vm, Direction.IN, DenialKind.PATH, 40),),
            )
        )
    drops.saw(report(12.0, limited=(LimitedCount(VM.vm, Direction.OUT, TrafficClass.SYN, 7),)))
    return drops


def test_each_reason_is_summed_and_the_most_frequent_comes_first() -> None:
    found = [(d.direction, d.reason, d.count, d.first_at, d.last_at) for d in filled().of(VM.vm)]
    assert found == [
        (Direction.IN, "no allowed path", 80, 10.0, 11.0),
        (Direction.OUT, "a limit on syn", 7, 12.0, 12.0),
        (Direction.OUT, "forged ARP sender", 6, 10.0, 11.0),
    ]
    assert not list(filled().of(WEB.vm)), "nothing is no line"


def test_every_kind_has_its_line_and_no_guest_makes_more() -> None:
    drops = Drops()
    for at in range(3):
        drops.saw(
            report(
                float(at),
                forged=tuple(ForgedCount(VM.vm, kind, 1) for kind in ForgedKind),
                denied=tuple(DeniedCount(VM.vm, way, kind, 1) for way in Direction for kind in DenialKind),
                limited=tuple(LimitedCount(VM.vm, way, kind, 1) for way in Direction for kind in TrafficClass),
            )
        )
    lines = list(drops.of(VM.vm))
    assert len(lines) == len(ForgedKind) + 2 * len(DenialKind) + 2 * len(TrafficClass)
    assert {drop.count for drop in lines} == {3}
    drops.keep({WEB.vm})
    assert not list(drops.of(VM.vm))


@pytest.mark.parametrize("mode", Mode)
def test_an_operator_is_told_of_one_vm_or_all(mode: Mode) -> None:
    host = FakeHost()
    conductor = conducting(host, host, policy=Policy(mode=mode))
    conductor.inventory(Inventory((VM, WEB)), Instant(1.0))
    conductor.drops = filled()
    answers = answers_of(conductor)
    all_, one = (answers.answer(control.ShowDrops(name=name), Instant(20.0)) for name in (None, "db-1"))
    assert isinstance(all_, control.Answer)
    assert all_ == one
    console = Console(record=True, width=200, file=StringIO())
    show.drops(console, all_.body)
    text = console.export_text()
    assert "no allowed path" in text
    assert ("it passed" in text) is (mode is Mode.MONITOR)
    none = answers.answer(control.ShowDrops(name="web-1"), Instant(20.0))
    assert isinstance(none, control.Answer)
    show.drops(console, none.body)
    assert "nothing was stopped" in console.export_text()
    denied = answers.answer(control.ShowDrops(name="wbe"), Instant(20.0))
    assert isinstance(denied, control.Denied)
    assert "no running VM is called 'wbe'" in denied.reason
