"""The guard on real taps: an unbound one passes nothing, with nobody alive to say so."""

from collections.abc import Iterator

import pytest

from hypervigil.hypervisor.adapters.nftables.guard import Guard, GuardError
from tests.integration.wirelab import Segment, ethernet, ipv4, namespace, run, udp

pytestmark = pytest.mark.root

A_MAC, B_MAC, C_MAC = "52:54:00:ab:00:01", "52:54:00:ab:00:02", "52:54:00:ab:00:03"


@pytest.fixture
def segment() -> Iterator[Segment]:
    with namespace():
        built = Segment("br0")
        built.tap("tapa", A_MAC)
        built.tap("tapb", B_MAC)
        yield built
        for tap in built.taps.values():
            tap.close()


def passes(segment: Segment, source: str, destination: str) -> bool:
    a, b = segment.taps[source], segment.taps[destination]
    frame = ethernet(a.mac, b.mac, 0x0800, ipv4("10.1.0.1", "10.1.0.2", 17, udp(1, 2)))
    b.received()
    a.send(frame)
    return b.gets(frame, 0.05)


@pytest.mark.req("T-NET-1", "A204")
def test_only_bound_taps_pass(segment: Segment) -> None:
    a, b = (segment.taps[n].ifindex for n in ("tapa", "tapb"))
    assert passes(segment, "tapa", "tapb"), "the control: without the guard everything passes"
    guard = Guard("hvdguard")
    assert guard.bound() is None
    guard.put([a, b])
    assert guard.bound() == {a, b}
    assert passes(segment, "tapa", "tapb")
    segment.tap("tapc", C_MAC)
    assert not passes(segment, "tapc", "tapb"), "from an unbound tap"
    assert not passes(segment, "tapb", "tapc"), "to an unbound tap"
    guard.change(add=[segment.taps["tapc"].ifindex])
    assert passes(segment, "tapc", "tapb")
    guard.change(remove=[a])
    assert not passes(segment, "tapa", "tapb")
    assert guard.bound() == {b, segment.taps["tapc"].ifindex}
    assert guard.remove()
    assert not guard.remove()
    assert passes(segment, "tapa", "tapb")


def test_a_new_tap_does_not_inherit_a_dead_ones_name(segment: Segment) -> None:
    guard = Guard("hvdguard")
    guard.put(tap.ifindex for tap in segment.taps.values())
    segment.taps.pop("tapa").close()
    reborn = segment.tap("tapa", A_MAC)
    assert reborn.ifindex not in (guard.bound() or ())
    assert not passes(segment, "tapa", "tapb")


def test_a_half_guard_is_no_guard(segment: Segment) -> None:
    guard = Guard("hvdguard")
    guard.put([1])
    run("nft", "flush", "chain", "bridge", "hvdguard", "to_ports")
    assert guard.bound() is None
    guard.put([1])
    assert guard.bound() == {1}


def test_what_nftables_refuses_is_one_sentence(segment: Segment) -> None:
    with pytest.raises(GuardError, match="nftables refused: "):
        Guard("hvdguard").change(add=[1])
