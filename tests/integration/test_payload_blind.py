"""Whatever a payload is, the programs decide and count the same: nothing behind the headers is an input of theirs.

So what is told of plaintext is told of ciphertext (T-NET-6). The two planes get one policy and the same frames, but for
the bytes behind the headers, which are drawn anew.
"""

import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from hypervigil.hypervisor.adapters.ebpf import layout
from hypervigil.hypervisor.adapters.ebpf.dataplane import DataPlane, remove_all
from hypervigil.hypervisor.reference.frame import ARP, ETH_HLEN, RARP, Frame, read
from hypervigil.model.ids import PortId, VmId
from hypervigil.model.policy import Mode
from hypervigil.model.port_policy import PortPolicy
from hypervigil.model.traffic import Direction
from tests.integration.anyframe import Cast, Maker
from tests.integration.percpu import summed
from tests.integration.testrun import run_program, runnable
from tests.integration.wirelab import Segment, namespace

pytestmark = [pytest.mark.root, pytest.mark.req("T-NET-6", "A200", "A201")]

MAC = "52:54:00:ab:00:01"
CAST = Cast(
    macs=(MAC, "52:54:00:ab:00:02"),
    v4=("10.78.0.1", "10.78.0.2", "10.78.0.3"),
    v6=("fd78::1", "fd78::2", "fe80::5054:ff:feab:1"),
)
HEADERS = {6: 20, 17: 8, 1: 8, 58: 8}
"""Of TCP without its options, UDP, and an echo with its identifier."""


def payload_at(frame: Frame) -> int | None:
    """Where nothing but payload follows; ``None`` where that cannot be said, or where nothing is payload."""
    if not frame.readable or frame.ethertype in {ARP, RARP} or frame.neighbour_discovery:
        return None
    if frame.ethertype not in {0x0800, 0x86DD}:
        return ETH_HLEN
    if not frame.l4:
        return None
    header = HEADERS.get(frame.protocol, 0)
    if frame.protocol == 6:
        words = frame.load(frame.l4, 14)
        header = max(header, (words[12] >> 4) * 4) if words is not None else header
    return frame.l4 + header


class Plane:
    """One data plane with a port of the namespace."""

    def __init__(self, ifindex: int, interface: str, pin_dir: Path) -> None:
        self.ifindex = ifindex
        self.plane = DataPlane.open(pin_dir, max_ports=64)
        policy = PortPolicy(PortId(MAC), VmId("vm"), interface, ifindex, Mode.ENFORCE, (CAST.v4[0], CAST.v6[0]))
        self.slot = self.plane.attach(policy)

    def take(self, direction: Direction, frame: bytes) -> int:
        """What the program returns."""
        program = self.plane._programs["hv_from_vm" if direction is Direction.OUT else "hv_to_vm"]
        return run_program(program, frame, self.ifindex)

    def counters(self) -> bytes:
        """Of all CPUs together."""
        return bytes(summed(self.plane._maps["hv_counters"], self.slot, layout.Counters))


@pytest.fixture
def planes() -> Iterator[tuple[Plane, Plane]]:
    with ExitStack() as stack:
        stack.enter_context(namespace())
        tap = Segment("br0").tap("tapb", MAC)
        stack.callback(tap.close)
        made = []
        for _ in range(2):
            pin_dir = Path("/sys/fs/bpf") / f"hvb-{secrets.token_hex(4)}"
            stack.callback(remove_all, pin_dir)
            made.append(Plane(tap.ifindex, tap.name, pin_dir))
            stack.callback(made[-1].plane.close)
        yield made[0], made[1]


def test_bytes_behind_the_headers_decide_nothing(planes: tuple[Plane, Plane]) -> None:
    maker = Maker(CAST, 5)
    changed = 0
    for number in range(4000):
        frame = maker.frame() + maker.dice.randbytes(maker.dice.choice((0, 40, 400)))
        if not runnable(frame):
            continue
        at = payload_at(read(frame, len(frame)))
        other = frame if at is None else frame[:at] + maker.dice.randbytes(max(0, len(frame) - at))
        changed += other != frame
        direction = maker.dice.choice(tuple(Direction))
        returned = [plane.take(direction, data) for plane, data in zip(planes, (frame, other), strict=True)]
        assert returned[0] == returned[1], f"frame {number}: {frame.hex()} and {other.hex()}"
    assert planes[0].counters() == planes[1].counters()
    assert changed > 1500, "the control: payloads did differ"
    assert any(planes[0].counters()), "the control: frames were counted"


def test_bytes_of_the_headers_do_decide(planes: tuple[Plane, Plane]) -> None:
    """The control: were the sender's address not read, the comparison above would show nothing."""
    maker = Maker(CAST, 6)
    while True:
        frame = maker.frame()
        if runnable(frame) and frame[6:12] == bytes.fromhex(MAC.replace(":", "")):
            break
    forged = frame[:6] + b"\x52\x54\x00\xab\x00\x99" + frame[12:]
    planes[0].take(Direction.OUT, frame)
    planes[1].take(Direction.OUT, forged)
    assert planes[0].counters() != planes[1].counters()
