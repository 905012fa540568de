"""Run in a guest whose kernel is older than TCX: the data plane as the enforcer opens it. Tells as one line of JSON."""

import ctypes
import json
import os
import time
from pathlib import Path

from hypervigil.hypervisor.adapters.ebpf import kernel, layout
from hypervigil.hypervisor.adapters.ebpf.dataplane import DataPlane
from hypervigil.model.ids import PortId, VmId
from hypervigil.model.policy import Mode
from hypervigil.model.port_policy import PortPolicy
from hypervigil.model.traffic import Direction, ForgedKind, TrafficClass
from tests.integration.wirelab import Segment, ethernet, ipv4, run, udp

A_MAC, B_MAC = "52:54:00:ae:00:01", "52:54:00:ae:00:02"
A, B, ELSE = "10.80.0.1", "10.80.0.2", "10.80.0.99"
WAIT_S = 1.0


def main() -> dict[str, object]:
    """What it is like there."""
    for module in ("tun", "bridge", "sch_ingress", "cls_bpf"):
        run("modprobe", module)
    segment = Segment("br0")
    a, b = segment.tap("tapa", A_MAC), segment.tap("tapb", B_MAC)

    def passes(source: str, frames: int = 1) -> int:
        b.received()
        frame = ethernet(A_MAC, B_MAC, 0x0800, ipv4(source, B, 17, udp(1, 2)))
        for _ in range(frames):
            a.send(frame)
        got, end = 0, time.monotonic() + WAIT_S
        while got < frames and time.monotonic() < end:
            got += sum(frame in one for one in b.received(0.05))
        return got

    told: dict[str, object] = {"kernel": os.uname().release, "unprotected": passes(ELSE)}
    began = time.monotonic()
    plane = DataPlane.open(Path("/sys/fs/bpf/hypervigil"), max_ports=64)
    told["load_s"] = round(time.monotonic() - began, 2)
    told["tcx"] = kernel.has_tcx(plane._programs["hv_from_vm"])
    for tap, address in ((a, A), (b, B)):
        plane.attach(PortPolicy(PortId(tap.mac), VmId(tap.name), tap.name, tap.ifindex, Mode.ENFORCE, (address,)))
    told["own"], told["forged"] = passes(A), passes(ELSE)
    slot = plane.ports()[PortId(A_MAC)]
    cpus = int(Path("/sys/devices/system/cpu/possible").read_text().strip().split("-")[-1]) + 1
    counters = (layout.Counters * cpus)()
    kernel.lookup(plane._maps["hv_counters"], ctypes.c_uint32(slot), counters)  # type: ignore[arg-type]
    told["counted"] = sum(int(one.forged[ForgedKind.IPV4]) for one in counters)
    end_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) + 3600 * 10**9
    plane.set_limit(PortId(A_MAC), Direction.OUT, TrafficClass.UDP, packets_per_s=1, end_ns=end_ns)
    told["limited"] = passes(A, 50)
    told["drift"] = [drift.what for drift in plane.drift()]
    run("tc", "filter", "del", "dev", a.name, "ingress")
    told["taken off"] = [drift.what for drift in plane.drift()]
    plane.repair(PortId(A_MAC))
    told["repaired"] = passes(ELSE)
    plane.remove()
    told["removed"] = passes(ELSE)
    told["left"] = run("tc", "filter", "show", "dev", a.name, "ingress").strip()
    return told


if __name__ == "__main__":
    print("told:", json.dumps(main()), flush=True)
