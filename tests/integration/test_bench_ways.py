"""The ways to protect that the benchmark compares: each lets pass what the policy says, and asleep it does nothing."""

import contextlib
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench import _others
from bench._others import Conntrack, Nftables, Nwfilter, Way, own_libvirt
from bench._product import Product
from bench._segment import ADDRESSES, BRIDGE, MACS, Guest
from hypervigil.hypervisor.adapters.ebpf.dataplane import remove_all
from tests.integration.wirelab import Segment, Tap, arp, ethernet, ipv4, namespace, tcp, udp

pytestmark = pytest.mark.root
FORGED = "198.51.100.77"
Guests = tuple[Guest, Guest]
Made = Callable[[int, Guests, contextlib.ExitStack], Way]


def nftables(ports: int, guests: Guests, stack: contextlib.ExitStack) -> Way:
    table = Nftables(ports, guests)
    stack.callback(table.remove)
    return table


def conntrack(ports: int, guests: Guests, stack: contextlib.ExitStack) -> Way:
    if not Path("/proc/sys/net/bridge/bridge-nf-call-iptables").exists():
        pytest.skip("br_netfilter is not loaded")
    tracking = Conntrack(ports, guests)
    stack.callback(tracking.remove)
    return tracking


def nwfilter(ports: int, guests: Guests, stack: contextlib.ExitStack) -> Way:
    if shutil.which("libvirtd") is None:
        pytest.skip("libvirt is not installed")
    patch = stack.enter_context(pytest.MonkeyPatch.context())
    patch.setattr(_others, "BY_LIBVIRT", 2)
    return Nwfilter(stack.enter_context(own_libvirt()), ports, guests)


def hypervigil(ports: int, guests: Guests, stack: contextlib.ExitStack) -> Way:
    pin_dir = Path("/sys/fs/bpf") / f"hvb-{secrets.token_hex(4)}"
    stack.callback(remove_all, pin_dir)
    return Product(ports, guests, pin_dir, max_ports=1024)


@contextlib.contextmanager
def guests() -> Iterator[tuple[list[Tap], Guests]]:
    with namespace():
        segment = Segment(BRIDGE)
        taps = [segment.tap(f"hvp{n}", mac) for n, mac in enumerate(MACS)]
        for tap, address in zip(taps, ADDRESSES, strict=True):
            tap.send(ethernet(tap.mac, "ff:ff:ff:ff:ff:ff", 0x0806, arp(1, tap.mac, address, address)))
        try:
            one, other = (Guest(t.name, t.ifindex, MACS[n], ADDRESSES[n]) for n, t in enumerate(taps))
            yield taps, (one, other)
        finally:
            for tap in taps:
                tap.close()


@pytest.mark.parametrize(("make", "ports"), [(hypervigil, 500), (nftables, 500), (conntrack, 500), (nwfilter, 20)])
def test_forged_frames_end_where_it_is_in_force_and_honest_ones_pass(make: Made, ports: int) -> None:
    with guests() as (taps, ends), contextlib.ExitStack() as stack:

        def crosses(source: str, protocol: int, payload: bytes) -> bool:
            marker = secrets.token_bytes(8)
            frame = ethernet(*MACS, 0x0800, ipv4(source, ADDRESSES[1], protocol, payload + marker))
            taps[1].received()
            taps[0].send(frame)
            return taps[1].gets(marker, 0.05)

        way = make(ports, ends, stack)
        for in_force in (False, True, False, True):
            (way.put if in_force else way.take)()
            assert crosses(ADDRESSES[0], 17, udp(40000, 9))
            assert crosses(ADDRESSES[0], 6, tcp(40000, 80, 2))
            assert crosses(FORGED, 17, udp(40000, 9)) is not in_force
        assert (way.change_ms() or 0) > 0
        assert (way.attach_ms() or 0) > 0
        assert crosses(ADDRESSES[0], 17, udp(40000, 9)), "unharmed by what was timed"
        assert not crosses(FORGED, 17, udp(40000, 9))
