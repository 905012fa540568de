"""What is counted of TCP connections: who speaks first, how much is said, and whom to believe about the end."""

import struct

import pytest

from hypervigil.hypervisor.reference.plane import ReferencePlane, ReferenceReader
from hypervigil.model.ids import PortId, VmId
from hypervigil.model.policy import Mode
from hypervigil.model.port_policy import PortPolicy
from hypervigil.model.traffic import Direction
from tests.integration.wirelab import ethernet, ipv4

MAC, OTHER_MAC = "52:54:00:00:00:01", "52:54:00:00:00:02"
OWN, OTHER = "10.0.0.1", "10.0.0.2"
FIN, SYN, RST, ACK = 1, 2, 4, 0x10
CLIENT, SERVICE = 0, 1
LOGIN = ((SERVICE, 20), (CLIENT, 11), (SERVICE, 34), (CLIENT, 13), (SERVICE, 83))
"""A greeting, a name, a password, a refusal: 24 octets and 137."""


class Line:
    """Connections of one VM with another host, told frame by frame."""

    def __init__(self, *, serves: bool = False, max_peers: int | None = None) -> None:
        self.plane = ReferencePlane(max_ports=1, max_peers=max_peers)
        self.plane.attach(PortPolicy(PortId(MAC), VmId("a"), "vnet0", 1, Mode.ENFORCE))
        self.serves = serves
        self.now = 1_000_000_000
        self.begin(40_000)

    def begin(self, client_port: int, service_port: int = 21, *, syn: bool = True) -> None:
        """One more connection."""
        self.ports = (client_port, service_port)
        self.numbers = [0xFFFF_FFF0, 7]
        if syn:
            self.say(CLIENT, SYN)
        self.numbers[CLIENT] += 1
        self.say(SERVICE, SYN | ACK)
        self.numbers[SERVICE] += 1

    def say(self, who: int, flags: int = ACK, octets: int = 0, *, ahead: int = 0) -> None:
        """One frame."""
        number, heard = (self.numbers[one] + add & 0xFFFF_FFFF for one, add in ((who, ahead), (1 - who, 0)))
        ports = self.ports if who == CLIENT else self.ports[::-1]
        head = struct.pack("!HHIIBBHHH", *ports, number, heard if flags & ACK else 0, 0x50, flags, 9, 0, 0)
        out = (who == SERVICE) == self.serves
        ends = ((MAC, OTHER_MAC), (OWN, OTHER)) if out else ((OTHER_MAC, MAC), (OTHER, OWN))
        frame = ethernet(*ends[0], 0x0800, ipv4(*ends[1], 6, head + bytes(octets)))
        self.plane.handle(1, Direction.OUT if out else Direction.IN, frame, self.now)
        self.numbers[who] += octets + bool(flags & FIN)
        self.now += 100_000_000

    def tell(self, *turns: tuple[int, int]) -> None:
        """Who says how much."""
        for who, octets in turns:
            self.say(who, ACK, octets)

    def close(self, *, first: int = CLIENT) -> None:
        """Both ends have said everything."""
        self.say(first, FIN | ACK)
        self.say(1 - first, FIN | ACK)
        self.say(first)

    def counts(self, *names: str) -> dict[str, int]:
        """What is known of the only service that greets."""
        (one,) = ReferenceReader(self.plane).greeters()
        return {name: int(one["greeter"][name]) for name in names}

    @property
    def silent(self) -> int:
        """Of the peers: dialogues in which the service said nothing yet."""
        return int(self.plane.peer_memory.records()["peer"]["silent"].sum())


@pytest.mark.parametrize("serves", [False, True])
@pytest.mark.parametrize("first", [CLIENT, SERVICE])
def test_octets_of_both_and_how_long_it_took(serves: bool, first: int) -> None:
    line = Line(serves=serves)
    for number in range(3):
        if number:
            line.begin(40_000 + number)
        line.tell(*LOGIN)
        line.close(first=first)
    known = line.counts("ended", "curt", "alike", "varied", "asked", "answered")
    assert known == {"ended": 3, "curt": 3, "alike": 2, "varied": 0, "asked": 24, "answered": 137}
    assert line.counts("lasted_ns")["lasted_ns"] == 2 * (6 + (first == CLIENT)) * 100_000_000
    (one,) = ReferenceReader(line.plane).greeters()
    assert (one["key"]["port"], one["key"]["direction"]) == (21, Direction.IN if serves else Direction.OUT)
    assert not line.plane.dialogues.held
    assert line.silent == 0


def test_who_is_asked_first_is_no_greeter() -> None:
    line = Line()
    line.tell((CLIENT, 80), (SERVICE, 400))
    line.close()
    assert not len(ReferenceReader(line.plane).greeters())
    assert not line.plane.dialogues.held


def test_a_client_may_say_its_name_at_once() -> None:
    line = Line()
    line.tell((CLIENT, 41), (SERVICE, 41), (CLIENT, 1000), (SERVICE, 900))
    line.close()
    assert line.counts("curt", "asked", "answered") == {"curt": 1, "asked": 1041, "answered": 941}


def test_how_unlike_dialogues_may_be() -> None:
    line = Line()
    for number, (asked, answered) in enumerate([(24, 137), (56, 153), (55, 153), (22, 153), (22, 170), (9, 4000)]):
        if number:
            line.begin(40_000 + number)
        line.tell((SERVICE, 20), (CLIENT, asked), (SERVICE, answered - 20))
        line.close()
    assert line.counts("ended", "curt", "alike", "varied") == {"ended": 6, "curt": 5, "alike": 2, "varied": 1}


def test_who_was_not_asked_accepts_nothing() -> None:
    line = Line()
    before = dict(line.plane.dialogues.held)
    line.ports = (41_000, 21)
    line.plane.peer_memory.find((0, Direction.OUT, bytes(10) + b"\xff\xff" + bytes([10, 0, 0, 2]))).openings = 0
    line.begin(41_000, syn=False)
    assert line.plane.dialogues.held == before


@pytest.mark.parametrize("ahead", [0, 500, 9000, 1 << 31])
def test_a_client_that_breaks_off_cannot_break_the_row(ahead: int) -> None:
    """By a reset with a number that the service does not heed; the dialogue goes on, and is counted at its end."""
    line = Line()
    for number in range(3):
        if number:
            line.begin(40_000 + number)
        if ahead:
            line.say(CLIENT, RST, ahead=ahead)
        line.tell(*LOGIN)
        if ahead:
            line.say(CLIENT, RST | ACK, ahead=ahead)
        line.close()
    known = line.counts("ended", "curt", "alike")
    assert known == {"ended": 3, "curt": 3, "alike": 2}


def test_a_client_that_resets_after_each_refusal_is_counted() -> None:
    line = Line()
    for number in range(3):
        if number:
            line.begin(40_000 + number)
        line.tell(*LOGIN)
        line.say(CLIENT, RST | ACK)
    assert line.counts("ended", "alike") == {"ended": 3, "alike": 2}


def test_who_only_looks_whether_a_port_is_open_leaves_nothing() -> None:
    line = Line()
    line.say(CLIENT, RST)
    assert not line.plane.dialogues.held
    assert line.silent == 0


def test_what_is_remembered_is_bounded_and_what_goes_is_known() -> None:
    line = Line(max_peers=64)
    for number in range(100):
        line.begin(41_000 + number)
    assert len(line.plane.dialogues.held) == 64
    for number in range(100):
        line.begin(42_000 + number, 1000 + number)
        line.tell(*LOGIN)
        line.close()
    counters = ReferenceReader(line.plane).counters()[0]
    held = len(line.plane.dialogues.held)
    assert counters["dialogues"] - counters["concluded"] - held > 0, "pushed out"
    assert (counters["greeters"], len(ReferenceReader(line.plane).greeters())) == (100, 16)
