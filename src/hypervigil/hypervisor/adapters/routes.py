"""The host's routes to VMs whose taps are no bridge's ports, its addresses there, and how such a tap behaves.

What is ours bears a protocol number of our own, in routes and addresses alike, so that it can be told from others' after
any death of ours. What others put there is never changed; where it already does what is wanted, nothing is added.
"""

import socket
import struct
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import TypeVar

from hypervigil.hypervisor.adapters import netlink
from hypervigil.model.policy import Mode
from hypervigil.model.port_policy import PortPolicy

PROTOCOL = 72
"""``ip route show proto 72``; ``ip address show proto 72``."""

T = TypeVar("T")

_NEWADDR, _DELADDR, _GETADDR, _NEWROUTE, _DELROUTE, _GETROUTE = 20, 21, 22, 24, 25, 26
_ROUTE = struct.Struct("=BBBBBBBBI")  # family, length, source's length, tos, table, protocol, scope, type, flags
_ADDRESS = struct.Struct("=BBBBI")  # family, length, flags, scope, index
_U32 = struct.Struct("=I")
_DST, _OIF = 1, 4
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS, _IFA_PROTO = 1, 2, 8, 11
_MAIN, _UNICAST, _UNIVERSE, _LINK, _NODAD = 254, 1, 0, 253, 2
_SYS = Path("/proc/sys/net")
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
_CHECKS = {"ipv4/conf/{}/rp_filter": "1"}
_SIX = {"ipv6/conf/{}/disable_ipv6": "0"}


@dataclass(frozen=True, slots=True)
class _Entry:
    """A route to one address by a device, or an address of the host's own there."""

    ifindex: int
    address: str
    own: bool


class HostRoutes:
    """Routes, addresses and settings in the network namespace of the process."""

    def settle(self, ports: Collection[PortPolicy]) -> list[tuple[str, bool, str]]:
        """Bring the host in line with these ports: what was otherwise, as port or device, whether it is right now, and
        what it was. ``OSError`` when the kernel does not tell what it has.
        """
        names = {policy.ifindex: str(policy.port) for policy in ports}
        wanted = {entry for policy in ports for entry in _wanted(policy)}
        ours, others = _there()
        done = [
            _done(names.get(entry.ifindex, "routes"), f"{_called(entry)} was not meant to be", _remove, entry)
            for entry in ours - wanted
        ]
        # The host's own first: what it asks a guest for from elsewhere would come from a stranger.
        for entry in sorted(wanted - ours - others, key=lambda entry: not entry.own):
            done.append(_done(names[entry.ifindex], f"{_called(entry)} was gone", _add, entry))
        for policy in ports:
            done += [
                _done(str(policy.port), f"{path.relative_to(_SYS)} was {was}", path.write_text, value)
                for path, was, value in _unlike(policy)
            ]
        return done

    def remove(self) -> bool:
        """Take all that is ours away, and let the taps behave as new ones do; whether there was anything."""
        ours, _ = _there()
        for index in {entry.ifindex for entry in ours if entry.own}:
            with suppress(OSError):  # it goes just now
                name = socket.if_indextoname(index)
                for setting in _FORWARDS | _CHECKS | _SIX:
                    (_SYS / setting.format(name)).write_text((_SYS / setting.format("default")).read_text())
        for entry in ours:
            _remove(entry)
        return bool(ours)


def forwards(version: int) -> bool:
    """Whether the host routes at all, as far as it is for the operator to say."""
    name = "ipv4/ip_forward" if version == 4 else "ipv6/conf/all/forwarding"
    with suppress(FileNotFoundError):
        return (_SYS / name).read_text().strip() != "0"
    return False


def _wanted(policy: PortPolicy) -> Iterator[_Entry]:
    if policy.routes is not None:
        yield from (_Entry(policy.ifindex, str(ip_address(one)), own=False) for one in policy.routes.addresses)
        yield from (_Entry(policy.ifindex, str(ip_address(one)), own=True) for one in policy.routes.gateways)


def _unlike(policy: PortPolicy) -> Iterator[tuple[Path, str, str]]:
    """Settings of a port's device that are not as they should be: file, what is there, what should be."""
    if policy.routes is None:
        return
    six = any(":" in one for one in (*policy.routes.addresses, *policy.routes.gateways))
    # What a device in monitor mode forges is seen and let pass.
    settings = (_SIX if six else {}) | _FORWARDS | (_CHECKS if policy.mode is Mode.ENFORCE else {})
    with suppress(OSError):
        name = socket.if_indextoname(policy.ifindex)
        for setting, value in settings.items():
            path = _SYS / setting.format(name)
            with suppress(FileNotFoundError):  # a kernel without IPv6, or the device went
                if (was := path.read_text().strip()) != value:
                    yield path, was, value


def _there() -> tuple[set[_Entry], set[_Entry]]:
    """What the kernel has: ours, and others'."""
    ours: set[_Entry] = set()
    others: set[_Entry] = set()
    for _, body in netlink.dump(_GETROUTE, _ROUTE.pack(0, 0, 0, 0, 0, 0, 0, 0, 0)):
        family, length, _, _, table, protocol, _, kind, _ = _ROUTE.unpack_from(body)
        found = dict(netlink.attributes(body[_ROUTE.size :]))
        if table == _MAIN and kind == _UNICAST and _DST in found and _OIF in found and length == _length(family):
            entry = _Entry(*_U32.unpack(found[_OIF]), str(ip_address(found[_DST])), own=False)
            (ours if protocol == PROTOCOL else others).add(entry)
    for _, body in netlink.dump(_GETADDR, _ADDRESS.pack(0, 0, 0, 0, 0)):
        _, _, _, _, index = _ADDRESS.unpack_from(body)
        found = dict(netlink.attributes(body[_ADDRESS.size :]))
        address = found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS)
        if address is not None:
            mine = found.get(_IFA_PROTO) == bytes([PROTOCOL])
            (ours if mine else others).add(_Entry(index, str(ip_address(address)), own=True))
    return ours, others


def _length(family: int) -> int:
    return 32 if family == socket.AF_INET else 128


def _message(entry: _Entry) -> tuple[int, int, bytes]:
    """What makes an entry, what removes it, and what both say of it."""
    address = ip_address(entry.address)
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    index = _U32.pack(entry.ifindex)
    if not entry.own:
        scope = _LINK if family == socket.AF_INET else _UNIVERSE
        head = _ROUTE.pack(family, _length(family), 0, 0, _MAIN, PROTOCOL, scope, _UNICAST, 0)
        said = netlink.attribute(_DST, address.packed) + netlink.attribute(_OIF, index)
        return _NEWROUTE, _DELROUTE, head + said
    head = _ADDRESS.pack(family, _length(family), 0, _UNIVERSE, entry.ifindex)
    said = netlink.attribute(_IFA_LOCAL, address.packed) + netlink.attribute(_IFA_ADDRESS, address.packed)
    said += netlink.attribute(_IFA_PROTO, bytes([PROTOCOL]))
    # Nobody else can have it: the only other one on this wire is the guest, whose answers are checked.
    said += netlink.attribute(_IFA_FLAGS, _U32.pack(_NODAD)) if family == socket.AF_INET6 else b""
    return _NEWADDR, _DELADDR, head + said


def _add(entry: _Entry) -> None:
    kind, _, body = _message(entry)
    try:
        # PRIVILEGED: routes and addresses are root's.
        netlink.change(kind, netlink.CREATE | netlink.EXCLUSIVE, body)
    except FileExistsError:
        raise OSError(f"a route to {entry.address} that is not ours goes elsewhere: delete it") from None


def _remove(entry: _Entry) -> None:
    _, kind, body = _message(entry)
    with suppress(ProcessLookupError):  # ESRCH: it went meanwhile
        netlink.change(kind, 0, body)


def _done(subject: str, what: str, do: Callable[[T], object], one: T) -> tuple[str, bool, str]:
    try:
        do(one)
    except OSError as error:
        return subject, False, f"{what}; {error}"
    return subject, True, what


def _called(entry: _Entry) -> str:
    return f"the host's address {entry.address}" if entry.own else f"the route to {entry.address}"
