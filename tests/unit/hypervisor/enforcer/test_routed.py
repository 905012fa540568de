"""The routed layer follows the state, tells what was otherwise, and does not tell the same failure again and again."""

from dataclasses import replace

from hypervigil.hypervisor.enforcer.routed import RoutedLayer
from hypervigil.hypervisor.enforcer.state import State
from hypervigil.model.port_policy import HostRoutes
from hypervigil.wire.messages import Guarding
from tests.unit.hypervisor.enforcer.fakes import BLUE, RED, Roads, RoutedKeeper, port

NEAR, FAR = port(BLUE), replace(port(RED), routes=HostRoutes(("10.0.0.2",), ("10.0.0.1",)))


class Rig:
    def __init__(self) -> None:
        self.guard, self.roads = RoutedKeeper(), Roads()
        self.layer = RoutedLayer(self.guard, self.roads)
        self.state = State("here", {NEAR.port: NEAR, FAR.port: FAR}, guarding=Guarding((), ("tun0",), routed=True))


def test_routes_and_guard_follow_the_state() -> None:
    rig = Rig()
    assert rig.layer.settle(rig.state) == [(FAR.port, True, "was gone"), ("routed guard", True, "it was gone")]
    assert rig.roads.routed == {FAR.port}
    assert rig.guard.passing == {NEAR.ifindex, FAR.ifindex}
    assert rig.guard.foreign == {"tun0"}
    assert rig.layer.settle(rig.state) == []
    del rig.state.ports[FAR.port]
    rig.layer.settle(rig.state)
    assert rig.roads.routed == set()
    assert rig.guard.passing == {NEAR.ifindex}
    rig.state.guarding = Guarding(("br0",))
    rig.layer.settle(rig.state)
    assert rig.guard.foreign is None, "no network is routed"
    rig.state.guarding = None
    rig.layer.settle(rig.state)
    assert rig.guard.passing is None


def test_what_somebody_changed_is_told_once_and_a_failure_until_it_is_another() -> None:
    rig = Rig()
    rig.layer.settle(rig.state)
    assert rig.guard.passing is not None
    rig.guard.passing.discard(FAR.ifindex)
    rig.roads.routed.clear()
    rig.roads.refused = FAR.port
    failed = (FAR.port, False, "was gone")
    assert rig.layer.settle(rig.state) == [failed, ("routed guard", True, "its ports were changed")]
    assert rig.layer.settle(rig.state) == []
    rig.roads.deaf = True
    assert rig.layer.settle(rig.state) == [("routes", False, "the kernel does not tell its routes: no answer")]
    rig.roads.deaf = False
    assert rig.layer.settle(rig.state) == [failed]
