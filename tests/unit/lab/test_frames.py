"""Which frames count as an attack's: the programs are run by the kernel itself, on a socket that needs no root."""

import ctypes
import socket
import struct
from ipaddress import IPv4Address

import pytest

from lab.frames import WORK_TOS, Alternatives, Gateway, Heading, Party, Scene, View, delivered, program, sent

A, B, C = "52:54:00:0a:00:01", "52:54:00:0b:00:02", "52:54:00:0c:00:03"
HOST, OTHER_HOST = "52:54:01:00:00:01", "52:54:01:00:00:02"
SCENE = Scene(
    {
        "a": Party("a", "10.60.0.2", "net1", A),
        "b": Party("b", "10.60.0.3", "net1", B),
        "c": Party("c", "10.60.0.4", "net1", C),
        "d": Party("d", "10.61.0.2", "net2", "52:54:00:0d:00:04"),
        "ext": Party("ext", "198.51.100.2"),
    },
    {"net1": Gateway(HOST, "10.60.0.1"), "net2": Gateway(OTHER_HOST, "10.61.0.1"), None: Gateway("", "198.51.100.1")},
)


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def ip(source: str, target: str, *, by: str = A, tos: int = 0, protocol: int = 6) -> bytes:
    header = struct.pack(
        "!BBHHHBBH4s4s", 0x45, tos, 40, 1, 0, 64, protocol, 0, IPv4Address(source).packed, IPv4Address(target).packed
    )
    return mac(B) + mac(by) + b"\x08\x00" + header + bytes(20)


def arp(operation: int, sender: str, target: str, *, by: str = A) -> bytes:
    body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation)
    body += mac(by) + IPv4Address(sender).packed + bytes(6) + IPv4Address(target).packed
    return mac(B) + mac(by) + b"\x08\x06" + body


def accepts(alternatives: Alternatives, frame: bytes, heading: Heading = Heading.FROM_PLACE) -> bool:
    """Whether the kernel lets the frame through; to it, what passes here goes from a place."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, its:
        code = program(alternatives, heading)
        kept = ctypes.create_string_buffer(code, len(code))
        its.setsockopt(socket.SOL_SOCKET, 26, struct.pack("@HP", len(code) // 8, ctypes.addressof(kept)))
        its.setblocking(False)
        ours.send(frame)
        try:
            return its.recv(100) == frame[:64]
        except BlockingIOError:
            return False


def counted(view: View, frame: bytes) -> bool:
    return accepts(view.alternatives, frame)


@pytest.mark.parametrize(
    ("frame", "attack"),
    [
        (ip("10.60.0.2", "10.60.0.3"), True),
        (ip("10.60.0.2", "10.60.0.3", protocol=17), True),
        (ip("1.2.3.4", "10.60.0.3"), True),
        (ip("10.60.0.3", "10.60.0.4"), True),
        (ip("10.60.0.2", "10.60.0.3", tos=WORK_TOS), False),
        (ip("10.60.0.2", "10.60.0.3", tos=WORK_TOS | 2), False),
        (ip("10.60.0.2", "10.60.0.4"), False),
        (arp(2, "10.60.0.1", "10.60.0.3"), True),
        (arp(1, "10.60.0.1", "10.60.0.1"), True),
        (arp(1, "10.60.0.2", "10.60.0.99"), True),
        (arp(1, "10.60.0.2", "10.60.0.3"), False),
        (arp(2, "10.60.0.2", "10.60.0.3"), False),
        (mac(B) + mac(A) + b"\x86\xdd" + bytes(60), False),
        (b"\x00" * 10, False),
    ],
    ids=[
        "tcp", "udp", "forged source", "forged in the target's name", "work", "work with congestion bit", "to another",
        "claims the gateway", "announces the gateway", "asks for nobody", "asks for the target", "answers for itself",
        "ipv6", "runt",
    ],
)  # fmt: skip
def test_what_leaves_the_attacker_towards_its_target(frame: bytes, attack: bool) -> None:
    assert counted(sent(SCENE, "a", "b"), frame) is attack


def test_without_a_target_everything_unmarked_counts() -> None:
    view = sent(SCENE, "a", None)
    assert counted(view, ip("10.60.0.2", "10.60.0.4"))
    assert counted(view, ip("10.60.0.2", "8.8.8.8"))
    assert counted(view, arp(1, "10.60.0.2", "10.60.0.77"))
    assert not counted(view, ip("10.60.0.2", "10.60.0.4", tos=WORK_TOS))


def test_what_arrives_is_the_attackers_unless_somebody_elses_name_is_on_it() -> None:
    at_b, at_c, at_d = delivered(SCENE, "a", "b")
    assert (at_b.place, at_c.place, at_d.place) == ("b", "c", "d")
    assert counted(at_b, ip("10.60.0.2", "10.60.0.3"))
    assert counted(at_b, ip("9.9.9.9", "10.60.0.3"))
    assert counted(at_b, ip("9.9.9.9", "10.60.0.3", by="52:54:00:99:99:99")), "a forged MAC"
    assert not counted(at_b, ip("10.60.0.4", "10.60.0.3", by=C))
    assert not counted(at_b, ip("198.51.100.2", "10.60.0.3", by=HOST))
    assert not counted(at_b, ip("10.60.0.2", "10.60.0.3", tos=WORK_TOS))
    assert counted(at_b, arp(2, "10.60.0.1", "10.60.0.3"))
    assert not counted(at_b, arp(2, "10.60.0.1", "10.60.0.3", by=HOST)), "the gateway itself"
    assert counted(at_c, ip("10.60.0.3", "10.60.0.4")), "forged in b's name, for c to answer"
    assert not counted(at_c, ip("10.60.0.3", "10.60.0.4", by=B)), "b itself"
    assert not counted(at_c, ip("10.60.0.2", "10.60.0.4"))


def test_what_comes_routed_is_told_by_address() -> None:
    at_b = delivered(SCENE, "ext", "b")[0]
    assert counted(at_b, ip("198.51.100.2", "10.60.0.3", by=HOST))
    assert counted(at_b, ip("7.7.7.7", "10.60.0.3", by=HOST))
    assert not counted(at_b, ip("10.60.0.1", "10.60.0.3", by=HOST)), "the host"
    assert not counted(at_b, ip("10.61.0.2", "10.60.0.3", by=HOST)), "another network's guest"
    assert not counted(at_b, ip("198.51.100.2", "10.60.0.3", by=C))
    at_ext = delivered(SCENE, "a", "ext")[0]
    assert counted(at_ext, ip("10.60.0.2", "198.51.100.2", by=HOST))
    assert not counted(at_ext, ip("10.60.0.4", "198.51.100.2", by=HOST))


def test_a_sweep_is_counted_once_where_it_is_broadcast() -> None:
    views = delivered(SCENE, "a", None)
    assert {view.place for view in views} == {"b", "c", "d", "ext"}
    question = arp(1, "10.60.0.2", "10.60.0.77")
    assert sum(counted(view, question) for view in views) == 1


def test_direction_is_told() -> None:
    view = sent(SCENE, "a", "b")
    frame = ip("10.60.0.2", "10.60.0.3")
    assert accepts(view.alternatives, frame, Heading.FROM_PLACE)
    assert not accepts(view.alternatives, frame, Heading.TO_PLACE)


def test_the_work_is_marked_as_the_capture_expects() -> None:
    from tests.architecture.source import ROOT

    assert f"TOS = 0x{WORK_TOS:02x}" in (ROOT / "lab" / "guest" / "work.py").read_text()
