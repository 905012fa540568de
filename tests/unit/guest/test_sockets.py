"""The kernel's socket dump: read as it is, bounded, and survived when it is strange."""

import struct
from ipaddress import ip_address

import pytest

from hypervigil.guest import sockets

INFO_SIZE = 232
DONE = struct.pack("=IHHIIi", 20, 3, 2, 1, 0, 0)


def entry(
    family: int, state: int, here: tuple[str, int], there: tuple[str, int], *, inode: int = 0, acked: int | None = None
) -> bytes:
    ends = struct.pack("!HH", here[1], there[1]) + b"".join(
        ip_address(address).packed.ljust(16, b"\0") for address, _ in (here, there)
    )
    body = struct.pack("=BBBB", family, state, 0, 0) + ends + struct.pack("=I8sIIIII", 0, b"", 0, 0, 0, 0, inode)
    if acked is not None:
        body += struct.pack("=HHB3x", 5, 8, 1)
        info = bytearray(INFO_SIZE)
        struct.pack_into("=Q", info, 120, acked)
        body += struct.pack("=HH", 4 + INFO_SIZE, 2) + info
    return struct.pack("=IHHII", 16 + len(body), 20, 2, 1, 0) + body


DUMP = (
    entry(2, 1, ("10.60.0.1", 40000), ("10.60.0.2", 80), inode=71, acked=5000)
    + entry(10, 1, ("::ffff:10.60.0.1", 80), ("::ffff:10.60.0.9", 50000), inode=72)
    + entry(10, 2, ("fd00::1", 40001), ("fd00::2", 443))
    + entry(2, 3, ("10.60.0.1", 80), ("10.60.0.7", 1234))
)


def test_sockets_are_read():
    found = sockets.Sockets()
    assert found.read(DUMP)
    assert not found.read(DONE)
    assert found.whole
    assert [found.states[state] for state in (1, 2, 3)] == [2, 1, 1]
    first, mapped, six = found.connections
    assert first.ends == (bytes((10, 60, 0, 1)), 40000, bytes((10, 60, 0, 2)), 80)
    assert (first.inode, first.acked) == (71, 5000)
    assert mapped.ends == (bytes((10, 60, 0, 1)), 80, bytes((10, 60, 0, 9)), 50000)
    assert six.there == ip_address("fd00::2").packed
    assert mapped.acked is None


def test_only_so_many_are_looked_at_and_all_are_counted():
    found = sockets.Sockets()
    one = entry(2, 1, ("10.60.0.1", 40000), ("10.60.0.2", 80), inode=71)
    for _ in range(10):
        assert found.read(one * 100)
    assert found.states[1] == 1000
    assert len(found.connections) == sockets.LOOKED_AT


def test_a_refusal_is_an_error():
    with pytest.raises(OSError, match="dumps no sockets"):
        sockets.Sockets().read(struct.pack("=IHHIIi", 36, 2, 0, 1, 0, -2) + bytes(16))


def test_the_question_has_the_kernels_layout():
    asked = sockets.question(with_info=True)
    length, kind, flags = struct.unpack_from("=IHH", asked)
    assert (length, kind, flags) == (len(asked), 18, 0x301)
    assert struct.unpack_from("=BBBB48xII", asked, 16) == (2, 0, 0, 2, sockets.STATES, 0)
