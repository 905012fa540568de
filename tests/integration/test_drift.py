"""What somebody else changes of ours in the kernel is back within two seconds and told, by the enforcer's process."""

from collections.abc import Callable, Iterator

import pytest

from hypervigil.model.ids import PortId, VmId
from hypervigil.model.limits import LimitKind
from hypervigil.model.policy import Mode
from hypervigil.model.port_policy import PortPolicy
from hypervigil.model.traffic import Direction, TrafficClass
from hypervigil.wire.messages import Guarding, Repaired
from tests.integration.enforcing import Driver, awaited, enforcer, now
from tests.integration.wirelab import Segment, Tap, ethernet, ipv4, namespace, run, udp

pytestmark = [pytest.mark.root, pytest.mark.req("T-CORE-4")]

A_MAC, B_MAC = "52:54:00:ad:00:01", "52:54:00:ad:00:02"
A, B = "10.78.0.1", "10.78.0.2"
WITHIN_S = 2.0


class Rig:
    def __init__(self, segment: Segment, driver: Driver) -> None:
        self.segment, self.driver = segment, driver
        self.a, self.b = segment.tap("tapa", A_MAC), segment.tap("tapb", B_MAC)
        self.pins = driver.layout.pin_dir
        driver.bind([self.policy(self.a, A), self.policy(self.b, B)], guarding=Guarding())

    @staticmethod
    def policy(tap: Tap, address: str) -> PortPolicy:
        return PortPolicy(PortId(tap.mac), VmId(tap.name), tap.name, tap.ifindex, Mode.ENFORCE, (address,))

    def passes(self, source: str = A, tap: Tap | None = None) -> bool:
        tap = tap or self.a
        frame = ethernet(tap.mac, B_MAC, 0x0800, ipv4(source, B, 17, udp(1, 2)))
        self.b.received()
        tap.send(frame)
        return self.b.gets(frame, 0.05)

    def slot(self, mac: str) -> list[str]:
        kernel = self.driver.kernel()
        try:
            return kernel.ports()[PortId(mac)].to_bytes(4, "little").hex(" ").split()
        finally:
            kernel.close()

    def map(self, name: str, verb: str, *words: str) -> None:
        run("bpftool", "map", verb, "pinned", str(self.pins / name), *words)

    def is_back(self, change: Callable[[], object], broken: Callable[[], bool], subject: str, what: str) -> None:
        """A change that shows is told, and undone in time."""
        changed = now()
        change()
        told = self.driver.notice(lambda n: isinstance(n, Repaired) and n.subject == subject, 5)
        assert isinstance(told, Repaired)
        assert told.ok
        assert what in told.detail
        assert told.at - changed <= WITHIN_S
        assert not broken()
        assert now() - changed <= WITHIN_S


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with namespace():
        segment = Segment("br0")
        with enforcer() as driver:
            yield Rig(segment, driver)
        for tap in segment.taps.values():
            tap.close()


def test_detached_programs(rig: Rig) -> None:
    def forged() -> bool:
        return rig.passes("10.78.0.99")

    def detach() -> None:
        run("bpftool", "link", "detach", "pinned", str(rig.pins / f"link-{rig.a.ifindex}-from"))
        assert forged(), "the control: without the program forgery passes"

    assert not forged()
    rig.is_back(detach, forged, A_MAC, "its programs were detached")


def test_unpinned_programs(rig: Rig) -> None:
    rig.is_back(
        (rig.pins / f"link-{rig.b.ifindex}-to").unlink,
        lambda: not (rig.pins / f"link-{rig.b.ifindex}-to").exists(),
        B_MAC,
        "its programs were detached",
    )


def test_a_deleted_policy(rig: Rig) -> None:
    def forged() -> bool:
        return rig.passes("10.78.0.99")

    def delete() -> None:
        key = ("key", "hex", *rig.a.ifindex.to_bytes(4, "little").hex(" ").split())
        rig.map("hv_near", "update", *key, "value", "hex", *(["00"] * 4))
        assert forged(), "the control"

    rig.is_back(delete, forged, A_MAC, "its policy was changed")


@pytest.mark.parametrize("kind", ["rate", "gate"])
def test_an_overwritten_limit(rig: Rig, kind: str) -> None:
    one = (
        rig.driver.limit(VmId("tapa"), LimitKind.PACKETS, 0.0, classes=frozenset({TrafficClass.UDP}))
        if kind == "rate"
        else rig.driver.limit(VmId("tapa"), LimitKind.ISOLATE)
    )
    rig.driver.put(one)
    rig.passes()  # the bucket's first token
    assert not rig.passes()

    def overwrite() -> None:
        rig.map("hv_limits", "update", "key", "hex", *rig.slot(A_MAC), "value", "hex", *(["00"] * 624))
        assert rig.passes(), "the control"

    def broken() -> bool:
        rig.passes()
        return rig.passes()

    rig.is_back(overwrite, broken, A_MAC, "its limits were changed")
    rig.driver.lift(one)
    assert rig.passes()


def test_an_overwritten_proof_of_source(rig: Rig) -> None:
    one = rig.driver.limit(VmId("tapb"), LimitKind.SOURCE_PROOF, direction=Direction.IN)
    assert "source proof" in rig.driver.put(one)
    kernel = rig.driver.kernel()

    def broken() -> bool:
        return kernel.proof(PortId(B_MAC)) <= now() * 1e9

    def overwrite() -> None:
        rig.map("hv_limits", "update", "key", "hex", *rig.slot(B_MAC), "value", "hex", *(["00"] * 624))
        assert broken(), "the control"

    assert not broken()
    rig.is_back(overwrite, broken, B_MAC, "its limits were changed")
    rig.driver.lift(one)
    assert broken(), "lifted"
    kernel.close()


@pytest.mark.parametrize("peer", [A, A_MAC])
def test_a_deleted_source(rig: Rig, peer: str) -> None:
    one = rig.driver.limit(VmId("tapb"), LimitKind.PEER, 5.0, direction=Direction.IN, peer=peer)
    assert f"source {peer} 5 packets/s" in rig.driver.put(one)
    kernel = rig.driver.kernel()
    packed = bytes(10) + bytes.fromhex(peer.replace(":", "")) if ":" in peer else bytes(10) + b"\xff\xff\x0a\x4e\0\1"

    def delete() -> None:
        rig.map("hv_sources", "delete", "key", "hex", *rig.slot(B_MAC), *packed.hex(" ").split())
        assert kernel.peers(PortId(B_MAC)) == {}, "the control"

    rig.is_back(delete, lambda: kernel.peers(PortId(B_MAC)) != {peer: 5.0}, B_MAC, f"its source {peer} was changed")
    rig.driver.lift(one)
    assert kernel.peers(PortId(B_MAC)) == {}
    kernel.close()


def test_the_guards_table(rig: Rig) -> None:
    unbound = rig.segment.tap("tapc", "52:54:00:ad:00:03")

    def delete() -> None:
        run("nft", "delete", "table", "bridge", "hypervigil")
        assert rig.passes("10.78.0.3", unbound), "the control"

    assert not rig.passes("10.78.0.3", unbound)
    rig.is_back(delete, lambda: rig.passes("10.78.0.3", unbound) or not rig.passes(), "guard", "it was gone")


def test_the_guards_elements(rig: Rig) -> None:
    unbound = rig.segment.taps["tapc"]

    def change(verb: str, index: int) -> Callable[[], object]:
        return lambda: run("nft", verb, "element", "bridge", "hypervigil", "bound", f"{{ {index} }}")

    def wrong() -> bool:
        return not rig.passes() or rig.passes("10.78.0.3", unbound)

    rig.is_back(change("delete", rig.a.ifindex), wrong, "guard", "its ports were changed")
    rig.is_back(change("add", unbound.ifindex), wrong, "guard", "its ports were changed")


def test_with_nobody_alive_changes_stay_and_the_next_enforcer_undoes_them(rig: Rig) -> None:
    one = rig.driver.limit(VmId("tapa"), LimitKind.ISOLATE)
    rig.driver.put(one)
    rig.driver.kill()
    assert not rig.passes(), "limits need nobody"
    rig.map("hv_limits", "update", "key", "hex", *rig.slot(A_MAC), "value", "hex", *(["00"] * 624))
    run("nft", "delete", "table", "bridge", "hypervigil")
    assert rig.passes(), "the control"
    rig.driver.start()
    awaited("the limit again", lambda: not rig.passes(), WITHIN_S)
    awaited("the guard again", lambda: "hypervigil" in run("nft", "list", "tables"), WITHIN_S)
    rig.driver.lift(one)
    assert rig.passes()


def test_a_tap_that_went_while_nobody_was_alive_keeps_no_enforcer_from_starting(rig: Rig) -> None:
    gone = rig.segment.tap("tapd", "52:54:00:ad:00:04")
    rig.driver.bind([rig.policy(gone, "10.78.0.4")], guarding=Guarding())
    rig.driver.kill()
    rig.segment.taps.pop("tapd").close()
    rig.driver.start()
    assert {port.port for port in rig.driver.in_force().ports} == {A_MAC, B_MAC}


def test_a_port_may_be_let_go_and_bound_again_at_once(rig: Rig) -> None:
    for _ in range(5):
        [outcome] = rig.driver.bind([rig.policy(rig.a, A)], release=[A_MAC], guarding=Guarding())
        assert outcome.ok, outcome.detail
    assert not rig.passes("10.78.0.99")
