"""What the monitor hands over is what others can reckon with."""

from types import SimpleNamespace
from typing import Any, cast

import msgspec

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
