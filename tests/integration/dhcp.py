"""DHCP as clients and servers speak it, and what goes wrong by a seed; what programs and model hold of leases."""

import random
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address

from hypervigil.hypervisor.adapters.ebpf import kernel, layout
from hypervigil.hypervisor.reference.leases import Held, Lease
from tests.integration.wirelab import ethernet, ipv4, mac_bytes, udp

DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE, INFORM = range(1, 9)
BROADCAST = "ff:ff:ff:ff:ff:ff"
COOKIE = bytes((99, 130, 83, 99))
ODD = ("0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", "10.62.0.200", "8.8.8.8")


def option(code: int, value: bytes) -> bytes:
    """One option."""
    return bytes((code, len(value))) + value


def message(
    kind: int,
    mac: str,
    *,
    own: str = "0.0.0.0",
    yours: str = "0.0.0.0",
    requested: str | None = None,
    lease_s: int | None = None,
    xid: int = 7,
    server: str | None = None,
) -> bytes:
    """A message: of a server's kinds an answer, of the others a request."""
    answers = kind in {OFFER, ACK, NAK}
    addresses = b"".join(IPv4Address(one).packed for one in (own, yours, "0.0.0.0", "0.0.0.0"))
    head = bytes((2 if answers else 1, 1, 6, 0)) + xid.to_bytes(4) + bytes(4) + addresses
    options = option(53, bytes((kind,)))
    if requested is not None:
        options += option(50, IPv4Address(requested).packed)
    if lease_s is not None:
        options += option(51, lease_s.to_bytes(4))
    if server is not None:
        options += option(54, IPv4Address(server).packed)
    return head + mac_bytes(mac).ljust(16, b"\0") + bytes(192) + COOKIE + options + b"\xff"


def request(
    mac: str, said: bytes, *, by: str = "0.0.0.0", to: str = "255.255.255.255", to_mac: str = BROADCAST
) -> bytes:
    """A client's frame."""
    return ethernet(mac, to_mac, 0x0800, ipv4(by, to, 17, udp(68, 67, said)))


def answer(server_mac: str, said: bytes, *, by: str, to: str = "255.255.255.255", to_mac: str = BROADCAST) -> bytes:
    """A server's frame."""
    return ethernet(server_mac, to_mac, 0x0800, ipv4(by, to, 17, udp(67, 68, said)))


def anything(dice: random.Random, mac: str, servers: Sequence[str], pool: Sequence[str], *, out: bool) -> bytes:
    """A frame from or to the client with this MAC: mostly what it should be."""
    about = mac if dice.random() < 0.9 else dice.choice(servers)
    address = dice.choice(pool) if dice.random() < 0.85 else dice.choice(ODD)
    if out:
        kind = dice.choice((DISCOVER, REQUEST, REQUEST, RELEASE, RELEASE, DECLINE, INFORM))
        own = address if kind == RELEASE or dice.random() < 0.3 else "0.0.0.0"
        said = message(kind, about, own=own, requested=address if dice.random() < 0.7 else None)
        source = own if dice.random() < 0.8 else "0.0.0.0"
        frame = request(mac, _damaged(dice, said), by=source)
    else:
        kind = dice.choice((ACK, ACK, ACK, ACK, ACK, OFFER, NAK))
        lease_s = dice.choice((1, 3600, 3600, 3600, 86400, 0xFFFFFFFF, 0, None))
        said = message(kind, about, yours=address, lease_s=lease_s, server="10.61.0.1")
        to = mac if dice.random() < 0.5 else BROADCAST
        frame = answer(dice.choice(servers), _damaged(dice, said), by="10.61.0.1", to_mac=to)
    return frame if dice.random() < 0.95 else frame[: dice.randrange(34, len(frame))]


def _damaged(dice: random.Random, said: bytes) -> bytes:
    """The same with something else among its options, mostly nothing."""
    what, head, options = dice.random(), said[:240], said[240:]
    if what < 0.6:
        return said
    if what < 0.7:
        return head + bytes(dice.choice((1, 30, 70))) + options
    if what < 0.8:
        return head + b"".join(option(12, b"x" * dice.randrange(9)) for _ in range(dice.choice((1, 40, 62)))) + options
    if what < 0.85:
        return said[:-1]
    if what < 0.9:
        return said[:-1] + option(dice.choice((50, 51, 53)), bytes(dice.choice((1, 4)))) + b"\xff"
    at = dice.randrange(236 if dice.random() < 0.8 else 0, len(said))
    return said[:at] + bytes((dice.randrange(256),)) + said[at + 1 :]


def held_leases(maps: Mapping[str, int], slot: int) -> Held:
    """A slot's leases as the kernel has them."""
    there = layout.Leases()
    kernel.lookup(maps["hv_leases"], layout.Number(slot), there)
    return Held(
        evicted=int(there.evicted),
        refused=int(there.refused),
        leases=[Lease(bytes(one.address), int(one.at_ns), int(one.end_ns)) for one in there.lease],
    )


def end_leases(maps: Mapping[str, int], slot: int, mine: Held, now_ns: int) -> None:
    """A slot's leases ended just now, in the kernel and in the model."""
    there = layout.Leases()
    kernel.lookup(maps["hv_leases"], layout.Number(slot), there)
    for one, lease in zip(there.lease, mine.leases, strict=True):
        one.end_ns = lease.end_ns = min(lease.end_ns, now_ns)
    kernel.update(maps["hv_leases"], layout.Number(slot), there)
