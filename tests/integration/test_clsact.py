"""The data plane on a kernel without TCX: the same programs, held by clsact. TCX is hidden from ours alone."""

import json
import secrets
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from hypervigil.hypervisor.adapters.ebpf import kernel
from hypervigil.hypervisor.adapters.ebpf.attachment import Clsact, Tcx, attachment
from hypervigil.hypervisor.adapters.ebpf.dataplane import DataPlane, DataPlaneError, remove_all
from hypervigil.hypervisor.adapters.ebpf.reader import DataPlaneReader
from hypervigil.model.ids import PortId, VmId
from hypervigil.model.policy import Mode
from hypervigil.model.port_policy import PortPolicy
from hypervigil.model.traffic import Direction, ForgedKind, TrafficClass
from tests.integration.wirelab import Segment, Tap, ethernet, ipv4, namespace, run, udp

pytestmark = [pytest.mark.root, pytest.mark.req("T-CORE-4")]

A_MAC, B_MAC = "52:54:00:ac:00:01", "52:54:00:ac:00:02"
A, B, ELSE = "10.79.0.1", "10.79.0.2", "10.79.0.99"
_has_tcx = kernel.has_tcx
OTHERS = "protocol ip u32 match u32 0 0 classid 1:1"


class Rig:
    """Two taps on a bridge, both of them bound."""

    def __init__(self, segment: Segment, pin_dir: Path) -> None:
        self.segment, self.pin_dir = segment, pin_dir
        self.a, self.b = segment.tap("tapa", A_MAC), segment.tap("tapb", B_MAC)
        self.open()

    def open(self) -> None:
        """Open the data plane anew, and bind both."""
        self.plane = DataPlane.open(self.pin_dir, max_ports=64)
        self.bind(self.a, A)
        self.bind(self.b, B)

    def bind(self, tap: Tap, address: str) -> None:
        """Bind a port to one address."""
        mac = PortId(tap.mac)
        self.plane.attach(PortPolicy(mac, VmId(tap.name), tap.name, tap.ifindex, Mode.ENFORCE, (address,)))

    def passes(self, source: str) -> bool:
        """Whether b gets what a sends by this address."""
        frame = ethernet(A_MAC, B_MAC, 0x0800, ipv4(source, B, 17, udp(1, 2)))
        self.b.received()
        self.a.send(frame)
        return self.b.gets(frame, 0.05)

    def forged(self) -> int:
        """Forged frames of a, by the data plane's count."""
        reader = DataPlaneReader(self.plane.sensor_fds())
        try:
            return int(reader.counters()[self.plane.ports()[PortId(A_MAC)]]["forged"][ForgedKind.IPV4])
        finally:
            reader.close()


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    pin_dir = Path("/sys/fs/bpf") / f"hvc-{secrets.token_hex(4)}"
    with namespace(), pytest.MonkeyPatch.context() as older:
        older.setattr(kernel, "has_tcx", lambda _: False)
        segment = Segment("br0")
        try:
            yield Rig(segment, pin_dir)
        finally:
            remove_all(pin_dir)
            for tap in segment.taps.values():
                tap.close()


def disciplines(tap: Tap) -> set[str]:
    """Kinds of queueing discipline on a device."""
    return {one["kind"] for one in json.loads(run("tc", "-j", "qdisc", "show", "dev", tap.name))}


def filters(tap: Tap, end: str) -> str:
    """What filters there are at an end of a device."""
    return run("tc", "filter", "show", "dev", tap.name, end)


def test_what_a_kernel_has_is_found_by_asking_it(rig: Rig) -> None:
    program = rig.plane._programs["hv_from_vm"]
    with pytest.MonkeyPatch.context() as asked:
        asked.setattr(kernel, "has_tcx", _has_tcx)
        assert isinstance(attachment(rig.pin_dir, rig.plane._programs), Tcx)
        asked.setattr(kernel, "TCX_INGRESS", 4711)  # a kind of attachment that this kernel does not know either
        assert not kernel.has_tcx(program)
        assert isinstance(attachment(rig.pin_dir, rig.plane._programs), Clsact)


def test_forgery_is_dropped_and_counted_and_the_rest_passes(rig: Rig) -> None:
    assert "link" not in "".join(path.name for path in rig.pin_dir.iterdir())
    assert "hv_from_vm" in filters(rig.a, "ingress")
    assert "hv_to_vm" in filters(rig.a, "egress")
    before = rig.forged()
    assert rig.passes(A)
    assert not rig.passes(ELSE)
    assert rig.forged() == before + 1
    assert rig.plane.drift() == []


def test_a_limit_holds_without_any_process_and_is_found_again(rig: Rig) -> None:
    hour_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) + 3600 * 10**9
    rig.plane.set_limit(PortId(A_MAC), Direction.OUT, TrafficClass.UDP, packets_per_s=0.001, end_ns=hour_ns)
    rig.passes(A)  # the bucket's first token
    rig.plane.close()
    assert not rig.passes(A)
    rig.plane = DataPlane.open(rig.pin_dir, max_ports=64)
    assert rig.plane.drift() == []
    rig.plane.clear_limit(PortId(A_MAC), Direction.OUT, TrafficClass.UDP)
    assert rig.passes(A)


@pytest.mark.parametrize("end", ["ingress", "egress"])
def test_what_somebody_takes_off_is_seen_and_put_back(rig: Rig, end: str) -> None:
    run("tc", "filter", "del", "dev", rig.a.name, end)
    if end == "ingress":
        assert rig.passes(ELSE), "the control: without the filter forgery passes"
    assert {(drift.port, drift.what) for drift in rig.plane.drift()} == {(A_MAC, "its programs were detached")}
    rig.plane.repair(PortId(A_MAC))
    assert rig.plane.drift() == []
    assert not rig.passes(ELSE)


def test_another_program_in_its_place_is_no_program_of_ours(rig: Rig) -> None:
    to_vm = rig.pin_dir / "hv_to_vm"
    run(
        *("tc", "filter", "replace", "dev", rig.a.name, "ingress", "pref", "1", "handle", "0x4856"),
        *("bpf", "direct-action", "object-pinned", str(to_vm)),
    )
    assert [drift.what for drift in rig.plane.drift()] == ["its programs were detached"]
    rig.plane.repair(PortId(A_MAC))
    assert rig.plane.drift() == []
    assert rig.passes(A)
    assert not rig.passes(ELSE)


def test_it_leaves_what_is_others(rig: Rig) -> None:
    run("tc", "filter", "add", "dev", rig.b.name, "ingress", "pref", "9", *OTHERS.split())
    rig.plane.remove()
    assert not rig.pin_dir.exists()
    assert "clsact" not in disciplines(rig.a)
    assert "clsact" in disciplines(rig.b)
    assert "u32" in filters(rig.b, "ingress")
    assert "hv_" not in filters(rig.b, "ingress") + filters(rig.b, "egress")
    assert rig.passes(ELSE), "nobody looks any more"
    assert "hv_from_vm" not in run("bpftool", "net", "show")
    run("tc", "filter", "del", "dev", rig.b.name, "ingress", "pref", "9")
    rig.open()


def test_a_device_that_is_gone_takes_its_filters_along(rig: Rig) -> None:
    with closing(Tap("tapc", "52:54:00:ac:00:03")) as tap:
        rig.bind(tap, "10.79.0.3")
        assert "hv_to_vm" in filters(tap, "egress")
    assert rig.plane.drift() == []
    rig.plane.detach(PortId(tap.mac))
    gone = PortPolicy(PortId("52:54:00:ac:00:98"), VmId("x"), "gone", 9999, Mode.ENFORCE)
    with pytest.raises(DataPlaneError, match="is it still there"):
        rig.plane.attach(gone)
    rig.plane.detach(gone.port)
    kept = {f"clsact-{one.ifindex}" for one in (rig.a, rig.b)}
    assert {path.name for path in rig.pin_dir.glob("clsact-*")} == kept
