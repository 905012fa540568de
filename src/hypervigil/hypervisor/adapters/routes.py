"""The host's routes to VMs whose taps are no bridge's ports, its addresses there, and how such a tap behaves.

What is ours bears a protocol number of our own, in routes and addresses alike, so that it can be told from others'
after any death of ours. What others put there is never changed; where it already does what is wanted, nothing is added.
"""

import errno
import os
import socket
import struct
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from functools import lru_cache
from ipaddress import ip_address
from itertools import product
from pathlib import Path
from typing import NamedTuple, TypeVar

from hypervigil.hypervisor.adapters import netlink
from hypervigil.model.policy import Mode
from hypervigil.model.port_policy import HostRoutes, PortPolicy

PROTOCOL = 72
"""``ip route show proto 72``."""

T = TypeVar("T")

_NEWLINK, _NEWADDR, _DELADDR, _GETADDR, _NEWROUTE, _DELROUTE, _GETROUTE = 16, 20, 21, 22, 24, 25, 26
_UP = 1
_ROUTE = struct.Struct("=BBBBBBBBI")  # family, length, source's length, tos, table, protocol, scope, type, flags
_INTERFACE = struct.Struct("=BxHiII")  # family, type, index, flags, change
_ADDRESS = struct.Struct("=BBBBI")  # family, length, flags, scope, index
_U32 = struct.Struct("=I")
_DST, _OIF = 1, 4
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS, _IFA_PROTO = 1, 2, 8, 11
_MAIN, _UNICAST, _UNIVERSE, _LINK, _NODAD = 254, 1, 0, 253, 2
_SYS = "/proc/sys/net/"
_SIX_OCTETS = 16
_FORWARDS = {
    "ipv4/conf/{}/forwarding": "1",
    "ipv4/conf/{}/proxy_arp": "1",  # for guests that take the whole network for their segment
    "ipv4/neigh/{}/proxy_delay": "0",
    "ipv4/conf/{}/accept_redirects": "0",
    "ipv4/conf/{}/send_redirects": "0",
    "ipv6/conf/{}/forwarding": "1",
    "ipv6/conf/{}/accept_ra": "0",
    "ipv6/conf/{}/autoconf": "0",
    "ipv6/conf/{}/accept_redirects": "0",
}
_KERNELS_DELAY = "80"
_CHECKED = "ipv4/conf/{}/rp_filter"
_SIX = "ipv6/conf/{}/disable_ipv6"


class _Entry(NamedTuple):
    """A route to one address by a device, or an address of the host's own there."""

    ifindex: int
    address: bytes
    own: bool

    def __str__(self) -> str:
        kind = "the host's address" if self.own else "the route to"
        return f"{kind} {ip_address(self.address)}"


class RouteTable:
    """Routes, addresses and settings in the network namespace of the process."""

    def __init__(self) -> None:
        self._idle = False
        """Nothing is routed and nothing of ours is there: a host's whole table need not be gone through for that."""

    def settle(self, ports: Collection[PortPolicy]) -> list[tuple[str, bool, str]]:
        """Bring the host in line with these ports: what was otherwise, as port or device, whether it is right now, and
        what it was. ``OSError`` when the kernel does not tell what it has.
        """
        devices = dict(socket.if_nameindex())
        names = {policy.ifindex: str(policy.port) for policy in ports if policy.routes and policy.ifindex in devices}
        there = [policy for policy in ports if policy.ifindex in names]
        wanted = {entry for policy in there for entry in _wanted(policy.ifindex, policy.routes)}
        if not wanted and self._idle:
            return []
        ours, others = _there()
        self._idle = not wanted and not ours
        done = [
            _done(str(policy.port), f"{setting} was {was}", lambda to: _write(*to), (setting, value))
            for policy in there
            for setting, was, value in _unlike(policy, devices[policy.ifindex])
        ]
        done += [
            _done(names.get(entry.ifindex, "routes"), f"{entry} was not meant to be", _remove, entry)
            for entry in ours - wanted
        ]
        _reset({entry.ifindex for entry in ours} - names.keys())
        # The host's own first: what it asks a guest for from elsewhere would come from a stranger.
        done += [
            _done(names[entry.ifindex], f"{entry} was gone", _add, entry)
            for entry in sorted(wanted - ours - others, key=lambda entry: not entry.own)
            if entry.own or not _goes_there(entry)
        ]
        return done

    def remove(self) -> bool:
        """Take all that is ours away, and let the taps behave as new ones do; whether there was anything."""
        ours, _ = _there()
        for entry in ours:
            _remove(entry)
        _reset(entry.ifindex for entry in ours)
        return bool(ours)


@lru_cache(4096)
def _wanted(ifindex: int, routes: HostRoutes | None) -> tuple[_Entry, ...]:
    if routes is None:
        return ()
    return (
        *(_Entry(ifindex, ip_address(one).packed, own=False) for one in routes.addresses),
        *(_Entry(ifindex, ip_address(one).packed, own=True) for one in routes.gateways),
    )


def _unlike(policy: PortPolicy, device: str) -> Iterator[tuple[str, str, str]]:
    """Settings of a port's device that are not as they should be: which, what is there, what should be."""
    settings = dict(_FORWARDS)
    if any(len(entry.address) == _SIX_OCTETS for entry in _wanted(policy.ifindex, policy.routes)):
        settings = {_SIX: "0", **settings}
    # What a device in monitor mode forges is seen and let pass.
    settings[_CHECKED] = "1" if policy.mode is Mode.ENFORCE else _default(_CHECKED)
    for setting, value in settings.items():
        one = setting.format(device)
        with suppress(OSError):  # a kernel without IPv6, or the device went
            if (was := _read(one)) != value:
                yield one, was, value


def _read(setting: str) -> str:
    descriptor = os.open(_SYS + setting, os.O_RDONLY | os.O_CLOEXEC)  # thousands of them twice a second
    try:
        return os.read(descriptor, 32).decode("ascii").strip()
    finally:
        os.close(descriptor)


def _write(setting: str, value: str) -> None:
    # PRIVILEGED: of the taps of bound ports alone.
    Path(_SYS + setting).write_text(value, encoding="ascii")


def _reset(ifindices: Iterable[int]) -> None:
    """Let devices behave as new ones do."""
    for index, setting in product(ifindices, (*_FORWARDS, _CHECKED, _SIX)):
        with suppress(OSError):  # a kernel without IPv6, or the device went
            _write(setting.format(socket.if_indextoname(index)), _default(setting))


def _default(setting: str) -> str:
    """What new devices have."""
    try:
        return _read(setting.format("default"))
    except FileNotFoundError:  # of ARP's delay only the first namespace has it
        return _KERNELS_DELAY


def _there() -> tuple[set[_Entry], set[_Entry]]:
    """Routes and addresses of ours, and addresses of others."""
    ours: set[_Entry] = set()
    others: set[_Entry] = set()
    for _, body in netlink.dump(_GETROUTE, _ROUTE.pack(0, 0, 0, 0, _MAIN, PROTOCOL, 0, 0, 0)):
        found = dict(netlink.attributes(body[_ROUTE.size :]))
        if _DST in found and _OIF in found:
            ours.add(_Entry(_U32.unpack(found[_OIF])[0], found[_DST], own=False))
    for _, body in netlink.dump(_GETADDR, _ADDRESS.pack(0, 0, 0, 0, 0)):
        found = dict(netlink.attributes(body[_ADDRESS.size :]))
        address = found.get(_IFA_LOCAL) or found[_IFA_ADDRESS]
        mine = found.get(_IFA_PROTO) == bytes([PROTOCOL])
        entry = _Entry(_ADDRESS.unpack_from(body)[-1], address, own=True)
        (ours if mine else others).add(entry)
    return ours, others


def _goes_there(entry: _Entry) -> bool:
    """Whether a packet to the address would leave by the device, whoever saw to that."""
    head = _ROUTE.pack(_family(entry), len(entry.address) * 8, 0, 0, 0, 0, 0, 0, 0)
    asked = head + netlink.attribute(_DST, entry.address)
    with suppress(OSError):
        for _, body in netlink.request(_GETROUTE, 0, asked):
            found = dict(netlink.attributes(body[_ROUTE.size :]))
            return found.get(_OIF) == _U32.pack(entry.ifindex)
    return False


def _family(entry: _Entry) -> int:
    return socket.AF_INET6 if len(entry.address) == _SIX_OCTETS else socket.AF_INET


def _message(entry: _Entry) -> tuple[int, int, bytes]:
    """What makes an entry, what removes it, and what both say of it."""
    family, length = _family(entry), len(entry.address) * 8
    if not entry.own:
        scope = _LINK if family == socket.AF_INET else _UNIVERSE
        head = _ROUTE.pack(family, length, 0, 0, _MAIN, PROTOCOL, scope, _UNICAST, 0)
        said = netlink.attribute(_DST, entry.address) + netlink.attribute(_OIF, _U32.pack(entry.ifindex))
        return _NEWROUTE, _DELROUTE, head + said
    head = _ADDRESS.pack(family, length, 0, _UNIVERSE, entry.ifindex)
    said = netlink.attribute(_IFA_LOCAL, entry.address) + netlink.attribute(_IFA_ADDRESS, entry.address)
    said += netlink.attribute(_IFA_PROTO, bytes([PROTOCOL]))
    # Nobody else can have it: the only other one on this wire is the guest, whose answers are checked.
    said += netlink.attribute(_IFA_FLAGS, _U32.pack(_NODAD)) if family == socket.AF_INET6 else b""
    return _NEWADDR, _DELADDR, head + said


def _add(entry: _Entry) -> None:
    kind, _, body = _message(entry)
    try:
        # PRIVILEGED: routes and addresses are root's.
        netlink.request(kind, netlink.CREATE | netlink.EXCLUSIVE, body)
    except FileExistsError:
        raise OSError(f"a route to {ip_address(entry.address)} that is not ours goes elsewhere: delete it") from None
    except OSError as error:
        if error.errno != errno.ENETDOWN:
            raise
        netlink.request(_NEWLINK, 0, _INTERFACE.pack(0, 0, entry.ifindex, _UP, _UP))  # not every libvirt does it
        netlink.request(kind, netlink.CREATE | netlink.EXCLUSIVE, body)


def _remove(entry: _Entry) -> None:
    _, kind, body = _message(entry)
    try:
        netlink.request(kind, 0, body)
    except OSError as error:
        if error.errno not in {errno.ESRCH, errno.ENODEV, errno.EADDRNOTAVAIL}:  # it went meanwhile
            raise


def _done(subject: str, what: str, do: Callable[[T], object], one: T) -> tuple[str, bool, str]:
    try:
        do(one)
    except OSError as error:
        return subject, False, f"{what}; {error}"
    return subject, True, what
