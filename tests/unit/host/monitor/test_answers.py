"""What the monitor hands over is what others can reckon with."""

from io import StringIO
from types import SimpleNamespace
from typing import Any, cast

import msgspec
from rich.console import Console

from hypervigil.entrypoints.cli import show
from hypervigil.host import policyfile
from hypervigil.host.monitor.answers import Answers
from hypervigil.host.monitor.conductor import Conductor
from hypervigil.model.ids import Instant, PortId, VmId
from hypervigil.model.policy import Policy
from hypervigil.model.vm import Inventory, Nic, Vm
from hypervigil.wire import control
from hypervigil.wire.frames import FrameDecoder, encode
from tests.unit.host.test_policyfile import LAYERS

VM = Vm(VmId("u"), "db-1", 1, 1024, (Nic(PortId("52:54:00:00:00:01"), "vnet0", 5, "br-t", ("10.60.0.9",)),))


def test_status_says_what_was_shed() -> None:
    health = SimpleNamespace(blind={}, last_sweep_at=Instant(1.0), ports_bound=frozenset(), ports_failed={})
    health.sweeps, health.lost, health.repairs = 9, 0, 0
    conductor: Any = SimpleNamespace(
        health=health, policy=Policy(), vms={}, wall=float, compiled=SimpleNamespace(ports=())
    )
    conductor.enforcer = SimpleNamespace(connected=True)
    conductor.ledger = SimpleNamespace(cases={}, standing=list, withheld=0)
    conductor.hsem, conductor.hrem = SimpleNamespace(postponed=(12, 340)), SimpleNamespace(pairs_dropped=5)
    unused: Any = lambda *_args: None  # noqa: E731
    answers = Answers(
        conductor,
        sensors_connected=lambda: True,
        journal_state=lambda: {"records": 1, "signed_through": 1},
        samples=unused,
        keep_policy=unused,
        export_history=unused,
        import_history=unused,
        since_wall=0.0,
    )
    answer = answers.answer(control.ShowStatus(), Instant(1.0))
    assert isinstance(answer, control.Answer)
    assert (answer.body["looks_waiting"], answer.body["looks_postponed"], answer.body["pairs_dropped"]) == (12, 340, 5)
    console = Console(record=True, width=200, file=StringIO())
    show.status(console, answer.body)
    assert "12 VMs wait to be looked at closely" in console.export_text()


def test_policy_and_inventory_come_whole_over_the_wire() -> None:
    policy = policyfile.parse(LAYERS)
    conductor = cast("Conductor", SimpleNamespace(policy=policy, vms={VM.vm: VM}))
    unused: Any = lambda *_args: None  # noqa: E731
    answers = Answers(
        conductor,
        sensors_connected=unused,
        journal_state=unused,
        samples=unused,
        keep_policy=unused,
        export_history=unused,
        import_history=unused,
        since_wall=0.0,
    )
    answer = answers.answer(control.ShowNetwork(), Instant(1.0))
    decoder: FrameDecoder[control.Response] = FrameDecoder(control.Response)
    (there,) = decoder.feed(encode(answer))
    assert isinstance(there, control.Answer)
    assert msgspec.convert(there.body["policy"], Policy) == policy
    assert msgspec.convert(there.body["inventory"], Inventory) == Inventory((VM,))
