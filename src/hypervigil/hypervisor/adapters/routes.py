"""The host's routes to VMs whose taps are no bridge's ports, its addresses there, and how such a tap behaves.

What is ours bears a protocol number of our own, in routes and addresses alike, so that it can be told from others'
after any death of ours. What others put there is never changed; where it already does what is wanted, nothing is added.
"""

import errno
import socket
import struct
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import TypeVar

from hypervigil.hypervisor.adapters import netlink
from hypervigil.model.policy import Mode
from hypervigil.model.port_policy import PortPolicy

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
_KERNELS_DELAY = "80"
_CHECKED = "ipv4/conf/{}/rp_filter"
_SIX = "ipv6/conf/{}/disable_ipv6"


@dataclass(frozen=True, slots=True)
class _Entry:
    """A route to one address by a device, or an address of the host's own there."""

    ifindex: int
    address: str
    own: bool


class RouteTable:
    """Routes, addresses and settings in the network namespace of the process."""

    def settle(self, ports: Collection[PortPolicy]) -> list[tuple[str, bool, str]]:
        """Bring the host in line with these ports: what was otherwise, as port or device, whether it is right now, and
        what it was. ``OSError`` when the kernel does not tell what it has.
        """
        ports = [policy for policy in ports if policy.routes is not None and _device(policy.ifindex)]
        names = {policy.ifindex: str(policy.port) for policy in ports}
        wanted = {entry for policy in ports for entry in _wanted(policy)}
        ours, others = _there()
        done = [
            _done(str(policy.port), f"{path.relative_to(_SYS)} was {was}", path.write_text, value)
            for policy in ports
            for path, was, value in _unlike(policy)
        ]
        done += [
            _done(names.get(entry.ifindex, "routes"), f"{_called(entry)} was not meant to be", _remove, entry)
            for entry in ours - wanted
        ]
        _reset({entry.ifindex for entry in ours} - names.keys())
        # The host's own first: what it asks a guest for from elsewhere would come from a stranger.
        done += [
            _done(names[entry.ifindex], f"{_called(entry)} was gone", _add, entry)
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
    settings = dict(_FORWARDS)
    if any(":" in entry.address for entry in _wanted(policy)):
        settings = {_SIX: "0", **settings}
    # What a device in monitor mode forges is seen and let pass.
    settings[_CHECKED] = "1" if policy.mode is Mode.ENFORCE else _default(_CHECKED)
    for setting, value in settings.items():
        path = _SYS / setting.format(_device(policy.ifindex))
        with suppress(OSError):  # a kernel without IPv6, or the device went
            if (was := path.read_text().strip()) != value:
                yield path, was, value


def _reset(ifindices: Iterable[int]) -> None:
    """Let devices behave as new ones do."""
    for name in {_device(index) for index in ifindices} - {""}:
        for setting in (*_FORWARDS, _CHECKED, _SIX):
            with suppress(OSError):  # a kernel without IPv6, or the device goes just now
                (_SYS / setting.format(name)).write_text(_default(setting))


def _default(setting: str) -> str:
    """What new devices have."""
    try:
        return (_SYS / setting.format("default")).read_text().strip()
    except FileNotFoundError:  # of ARP's delay only the first namespace has it
        return _KERNELS_DELAY


def _there() -> tuple[set[_Entry], set[_Entry]]:
    """Routes and addresses of ours, and addresses of others."""
    ours: set[_Entry] = set()
    others: set[_Entry] = set()
    for _, body in netlink.dump(_GETROUTE, _ROUTE.pack(0, 0, 0, 0, _MAIN, PROTOCOL, 0, 0, 0)):
        found = dict(netlink.attributes(body[_ROUTE.size :]))
        if _DST in found and _OIF in found:
            ours.add(_Entry(_U32.unpack(found[_OIF])[0], str(ip_address(found[_DST])), own=False))
    for _, body in netlink.dump(_GETADDR, _ADDRESS.pack(0, 0, 0, 0, 0)):
        found = dict(netlink.attributes(body[_ADDRESS.size :]))
        address = found.get(_IFA_LOCAL) or found[_IFA_ADDRESS]
        mine = found.get(_IFA_PROTO) == bytes([PROTOCOL])
        entry = _Entry(_ADDRESS.unpack_from(body)[-1], str(ip_address(address)), own=True)
        (ours if mine else others).add(entry)
    return ours, others


def _goes_there(entry: _Entry) -> bool:
    """Whether a packet to the address would leave by the device, whoever saw to that."""
    address = ip_address(entry.address)
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    asked = _ROUTE.pack(family, _length(family), 0, 0, 0, 0, 0, 0, 0) + netlink.attribute(_DST, address.packed)
    with suppress(OSError):
        for _, body in netlink.request(_GETROUTE, 0, asked):
            found = dict(netlink.attributes(body[_ROUTE.size :]))
            return found.get(_OIF) == _U32.pack(entry.ifindex)
    return False


def _device(ifindex: int) -> str:
    """The name of a device; empty where it went."""
    with suppress(OSError, OverflowError):
        return socket.if_indextoname(ifindex)
    return ""


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
        netlink.request(kind, netlink.CREATE | netlink.EXCLUSIVE, body)
    except FileExistsError:
        raise OSError(f"a route to {entry.address} that is not ours goes elsewhere: delete it") from None
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


def _called(entry: _Entry) -> str:
    return f"the host's address {entry.address}" if entry.own else f"the route to {entry.address}"
