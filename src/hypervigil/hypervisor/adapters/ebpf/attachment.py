"""How the two programs of a device are attached: by TCX, or by clsact where the kernel (before 6.6) has no TCX.

Both keep what is attached without any process of ours. A TCX link is pinned. A filter of clsact (``tc-bpf(8)``) is held
by its device alone, so a directory beside the pins says which devices have some, for whoever takes them off.
"""

import contextlib
import errno
import os
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path

from hypervigil.hypervisor.adapters import netlink
from hypervigil.hypervisor.adapters.ebpf import kernel
from hypervigil.model.traffic import Direction

PROGRAMS = {Direction.OUT: "hv_from_vm", Direction.IN: "hv_to_vm"}
"""By the direction that each sees, as the VM has it: what it sends comes in at its device."""


class Attachment(ABC):
    """Of all devices of one host. ``OSError`` with the kernel's reason where it refuses."""

    def __init__(self, pin_dir: Path, programs: Mapping[str, int]) -> None:
        self._pin_dir = pin_dir
        self._programs = programs

    def attach(self, ifindex: int) -> None:
        """Attach both programs; doing it again is no error, and takes no frame past them."""
        for direction, name in PROGRAMS.items():
            if not self._there(ifindex, direction):
                self._attach(ifindex, direction, self._programs[name])

    def there(self, ifindex: int) -> bool:
        """Whether both are attached, by the kernel's own word."""
        return all(self._there(ifindex, direction) for direction in PROGRAMS)

    @abstractmethod
    def detach(self, ifindex: int) -> None:
        """Take both off; no error where there are none, or no device."""

    @abstractmethod
    def _attach(self, ifindex: int, direction: Direction, program: int) -> None: ...

    @abstractmethod
    def _there(self, ifindex: int, direction: Direction) -> bool: ...


def attachment(pin_dir: Path, programs: Mapping[str, int]) -> Attachment:
    """What this kernel has."""
    has_tcx = kernel.has_tcx(next(iter(programs.values())))
    return Tcx(pin_dir, programs) if has_tcx else Clsact(pin_dir, programs)


def detach_all(pin_dir: Path) -> None:
    """Take off whatever is attached, by either way, with or without the programs at hand."""
    for path in list(pin_dir.iterdir()):
        if path.name.startswith(_LINK):
            _unlink(path)
        elif path.name.startswith(_FILTERS):
            Clsact(pin_dir, {}).detach(int(path.name.removeprefix(_FILTERS)))


# --- TCX ---

_LINK = "link-"
_TCX = {Direction.OUT: ("from", kernel.TCX_INGRESS), Direction.IN: ("to", kernel.TCX_EGRESS)}


class Tcx(Attachment):
    """Links, each of them pinned."""

    def detach(self, ifindex: int) -> None:
        """Take both off."""
        for direction in _TCX:
            _unlink(self._path(ifindex, direction))

    def _path(self, ifindex: int, direction: Direction) -> Path:
        return self._pin_dir / f"{_LINK}{ifindex}-{_TCX[direction][0]}"

    def _attach(self, ifindex: int, direction: Direction, program: int) -> None:
        path = self._path(ifindex, direction)
        _unlink(path)
        # PRIVILEGED: attaching to a device is root's.
        with kernel.hurried():
            link = kernel.attach(program, ifindex, _TCX[direction][1])
        try:
            kernel.pin(link, path)
        finally:
            os.close(link)

    def _there(self, ifindex: int, direction: Direction) -> bool:
        try:
            link = kernel.pinned(self._path(ifindex, direction))
        except OSError:
            return False
        try:
            return int(kernel.link_info(link).ifindex) == ifindex
        finally:
            os.close(link)


def _unlink(path: Path) -> None:
    """Unpin; a link is taken off its device first, so that another can come at once."""
    with contextlib.suppress(OSError):  # it is gone, or was detached by somebody else
        link = kernel.pinned(path)
        try:
            with kernel.hurried():
                kernel.detach(link)
        finally:
            os.close(link)
    path.unlink(missing_ok=True)


# --- clsact ---

_FILTERS = "clsact-"
_TC = struct.Struct("=BxHiIII")  # family, pad, index, handle, parent, info
_U32 = struct.Struct("=I")
_NEWQDISC, _DELQDISC, _NEWFILTER, _DELFILTER, _GETFILTER = 36, 37, 44, 45, 46
_KIND, _OPTIONS = 1, 2
_FD, _NAME, _FLAGS, _ID = 6, 7, 8, 11
_DIRECT = 1
_QDISC = 0xFFFF_0000
_CLSACT = 0xFFFF_FFF1
_PARENT = {Direction.OUT: 0xFFFF_FFF2, Direction.IN: 0xFFFF_FFF3}
_ALL_PROTOCOLS = 0x0300  # ETH_P_ALL, in network order
_FIRST, _OURS = 1, 0x4856
"""Priority, and a handle that tells ours from others' of the same priority: "HV"."""


class Clsact(Attachment):
    """Filters that decide by themselves (``direct-action``). They end as TCX programs do: -1 goes on to the next."""

    def detach(self, ifindex: int) -> None:
        """Take both off, and the queueing discipline that holds them if nobody else's filter is there."""
        with contextlib.suppress(FileNotFoundError):
            (self._pin_dir / f"{_FILTERS}{ifindex}").rmdir()
        with contextlib.suppress(OSError):  # the device is gone, and its filters with it
            for direction in _PARENT:
                with contextlib.suppress(FileNotFoundError, ValueError):
                    netlink.request(_DELFILTER, 0, _filter(ifindex, direction))
            if not any(_filters(ifindex, direction) for direction in _PARENT):
                netlink.request(_DELQDISC, 0, _qdisc(ifindex))

    def _attach(self, ifindex: int, direction: Direction, program: int) -> None:
        (self._pin_dir / f"{_FILTERS}{ifindex}").mkdir(exist_ok=True)
        # PRIVILEGED: attaching to a device is root's.
        try:
            netlink.request(_NEWQDISC, netlink.CREATE | netlink.EXCLUSIVE, _qdisc(ifindex))
        except OSError as error:
            if error.errno != errno.EEXIST:
                raise
        options = netlink.attribute(_FD, _U32.pack(program)) + netlink.attribute(_FLAGS, _U32.pack(_DIRECT))
        options += netlink.attribute(_NAME, PROGRAMS[direction].encode() + b"\0")
        body = _filter(ifindex, direction) + netlink.attribute(_OPTIONS, options)
        netlink.request(_NEWFILTER, netlink.CREATE, body)

    def _there(self, ifindex: int, direction: Direction) -> bool:
        wanted = kernel.program_id(self._programs[PROGRAMS[direction]])
        try:
            return any((handle, number) == (_OURS, wanted) for handle, number in _filters(ifindex, direction))
        except OSError:
            return False


def _qdisc(ifindex: int) -> bytes:
    return _TC.pack(0, 0, ifindex, _QDISC, _CLSACT, 0) + netlink.attribute(_KIND, b"clsact\0")


def _filter(ifindex: int, direction: Direction) -> bytes:
    info = _FIRST << 16 | _ALL_PROTOCOLS
    return _TC.pack(0, 0, ifindex, _OURS, _PARENT[direction], info) + netlink.attribute(_KIND, b"bpf\0")


def _filters(ifindex: int, direction: Direction) -> list[tuple[int, int]]:
    """Handle and program of every filter there; of those that are no program's, 0."""
    body = _TC.pack(0, 0, ifindex, 0, _PARENT[direction], 0)
    return [
        (handle, number)
        for kind, answer in netlink.dump(_GETFILTER, body)
        if kind == _NEWFILTER
        for handle, number in _told(answer)
    ]


def _told(answer: bytes) -> Iterator[tuple[int, int]]:
    handle = _TC.unpack_from(answer)[3]
    for kind, value in netlink.attributes(answer[_TC.size :]):
        if kind == _OPTIONS and handle:  # the kernel tells of each priority once more, as a whole
            numbers = [_U32.unpack(number)[0] for option, number in netlink.attributes(value) if option == _ID]
            yield handle, numbers[0] if numbers else 0
