"""NICs that are no taps: devices named and behaving as those of Xen's backend hold the same policy; the guard does not.

A veth stands for ``vif3.0``: its other end is the guest's, frames come from the kernel and not from a write to a tap.
No Xen is here (docs/decisions/0020-one-hypervisor-one-data-plane.md).
"""

import secrets
import socket

import pytest

from hypervigil.hypervisor.adapters.nftables.guard import Guard
from tests.integration.test_fabric import FREE, RULES, World, differences, expected, living, matrix
from tests.integration.wirelab import Segment, Tap, ethernet, ipv4, namespace, run, udp

pytestmark = pytest.mark.root
_ALL = 0x0003
_SOL_PACKET, _IGNORE_OUTGOING = 263, 23


class Vif(Tap):
    """A host's end named ``vifN.0``; we are the guest behind it, by a packet socket."""

    def __init__(self, number: int, mac: str) -> None:
        name, inside = f"vif{number}.0", f"xn{number}"
        run("ip", "link", "add", name, "type", "veth", "peer", "name", inside)
        run("ip", "link", "set", inside, "address", mac, "up")
        self.guest = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL))
        self.guest.setsockopt(_SOL_PACKET, _IGNORE_OUTGOING, 1)
        self.guest.bind((inside, _ALL))
        self.guest.setblocking(False)
        super().__init__(name, mac, fd=self.guest.fileno())

    def close(self) -> None:
        """The device goes with its namespace."""
        self.guest.close()


class Domains(World):
    """The same VMs, each with a vif."""

    @staticmethod
    def nic(number: int, mac: str) -> Tap:
        return Vif(number, mac)


@pytest.mark.req("T-NET-2", "A31", "A134")
def test_the_same_policy_gives_the_same_matrix_on_vifs_as_on_taps() -> None:
    with living(Domains) as vifs:
        vifs.put(FREE)
        assert all(matrix(vifs).values()), "the control: the bridges alone decide"
        vifs.put(RULES)
        on_vifs, wanted = matrix(vifs), expected(vifs)
        assert differences(on_vifs, wanted) == {}
    with living() as taps:
        taps.put(RULES)
        assert matrix(taps) == on_vifs


@pytest.mark.req("A31")
def test_the_guard_knows_taps_and_not_vifs() -> None:
    """What a back end for Xen would have to bring: its NICs are of another kind, and pass before they are bound."""
    guard = Guard(f"hvg{secrets.token_hex(3)}")
    with namespace():
        segment = Segment("br0")
        taps = [segment.join(Tap(f"tap{n}", f"52:54:00:ab:01:{n:02x}")) for n in (1, 2)]
        vifs = [segment.join(Vif(n, f"52:54:00:ab:02:{n:02x}")) for n in (1, 2)]

        def passes(ends: list[Tap]) -> bool:
            frame = ethernet(ends[0].mac, ends[1].mac, 0x0800, ipv4("10.1.0.1", "10.1.0.2", 17, udp(1, 2)))
            ends[1].received()
            ends[0].send(frame)
            return ends[1].gets(frame, 0.1)

        try:
            assert passes(taps)
            assert passes(vifs)
            guard.put([])
            assert not passes(taps)
            assert passes(vifs)
        finally:
            guard.remove()
            for nic in (*taps, *vifs):
                nic.close()
