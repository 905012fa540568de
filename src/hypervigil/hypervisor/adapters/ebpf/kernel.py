"""bpf(2) by ctypes: maps, pins and links. No compiler, no library but libc, no licence to inherit."""

import contextlib
import ctypes
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

_NR_BPF = {"x86_64": 321, "aarch64": 280, "riscv64": 280}.get(os.uname().machine, 321)
_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long

LOOKUP, UPDATE, DELETE, NEXT_KEY, OBJ_PIN, OBJ_GET = 1, 2, 3, 4, 6, 7
OBJ_GET_INFO, LOOKUP_BATCH, UPDATE_BATCH, DELETE_BATCH, LINK_CREATE, LINK_DETACH = 15, 24, 26, 27, 28, 34
READ_ONLY, LOCKED = 1 << 3, 1 << 2
TCX_INGRESS, TCX_EGRESS = 46, 47
_NO_DEVICE = 0x7FFF_FFFF

_RCU_EXPEDITED = Path("/sys/kernel/rcu_expedited")

Data = ctypes.Structure | ctypes.c_uint32
Key = TypeVar("Key", bound=Data)


def _bpf(command: int, attributes: ctypes.Structure) -> int:
    result = int(_syscall(_NR_BPF, command, ctypes.byref(attributes), ctypes.sizeof(attributes)))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


class _Element(ctypes.Structure):
    _fields_ = [
        ("map_fd", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
        ("key", ctypes.c_uint64),
        ("value", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
    ]


class _Batch(ctypes.Structure):
    _fields_ = [
        ("in_batch", ctypes.c_uint64),
        ("out_batch", ctypes.c_uint64),
        ("keys", ctypes.c_uint64),
        ("values", ctypes.c_uint64),
        ("count", ctypes.c_uint32),
        ("map_fd", ctypes.c_uint32),
        ("elem_flags", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
    ]


class _Object(ctypes.Structure):
    _fields_ = [("pathname", ctypes.c_uint64), ("bpf_fd", ctypes.c_uint32), ("file_flags", ctypes.c_uint32)]


class _Link(ctypes.Structure):
    _fields_ = [
        ("prog_fd", ctypes.c_uint32),
        ("target_ifindex", ctypes.c_uint32),
        ("attach_type", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("rest", ctypes.c_uint64 * 4),
    ]


class _Info(ctypes.Structure):
    _fields_ = [("bpf_fd", ctypes.c_uint32), ("info_len", ctypes.c_uint32), ("info", ctypes.c_uint64)]


class LinkInfo(ctypes.Structure):
    """The head of ``struct bpf_link_info`` and its ``tcx`` part."""

    _fields_ = [
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("prog_id", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
        ("ifindex", ctypes.c_uint32),
        ("attach_type", ctypes.c_uint32),
        ("rest", ctypes.c_uint8 * 64),
    ]


def _address(data: Data) -> int:
    return ctypes.addressof(data)


def update(map_fd: int, key: Data, value: Data, *, locked: bool = False) -> None:
    """Write one element, in one atomic step; ``locked``: under the element's own lock, as programs write it."""
    _bpf(UPDATE, _Element(map_fd, 0, _address(key), _address(value), LOCKED if locked else 0))


def lookup(map_fd: int, key: Data, value: Data) -> bool:
    """Read one element into ``value``; false where there is none."""
    try:
        _bpf(LOOKUP, _Element(map_fd, 0, _address(key), _address(value), 0))
    except FileNotFoundError:
        return False
    return True


def delete(map_fd: int, key: Data) -> None:
    """Delete one element; no error where there is none."""
    try:
        _bpf(DELETE, _Element(map_fd, 0, _address(key), 0, 0))
    except FileNotFoundError:
        return


def keys(map_fd: int, kind: type[Key]) -> Iterator[Key]:
    """Every key of a small hash map."""
    following = kind()
    try:
        _bpf(NEXT_KEY, _Element(map_fd, 0, 0, _address(following), 0))
        while True:
            yield following
            current, following = following, kind()
            _bpf(NEXT_KEY, _Element(map_fd, 0, _address(current), _address(following), 0))
    except FileNotFoundError:
        return


def read_batch(
    map_fd: int, keys_at: int, values_at: int, count: int, state: ctypes.Array[ctypes.c_uint8], *, first: bool
) -> tuple[int, bool]:
    """Read up to ``count`` elements to the given addresses: how many came, and whether there may be more."""
    attributes = _Batch(
        0 if first else ctypes.addressof(state), ctypes.addressof(state), keys_at, values_at, count, map_fd, 0, 0
    )
    try:
        _bpf(LOOKUP_BATCH, attributes)
    except FileNotFoundError:
        return int(attributes.count), False
    return int(attributes.count), True


def write_batch(map_fd: int, keys: ctypes.Array[Any], values: ctypes.Array[Any] | None) -> None:
    """Write elements (or, without values, delete them) in one call."""
    if not len(keys):
        return
    at = 0 if values is None else ctypes.addressof(values)
    batch = _Batch(0, 0, ctypes.addressof(keys), at, len(keys), map_fd, 0, 0)
    _bpf(DELETE_BATCH if values is None else UPDATE_BATCH, batch)


def max_entries(map_fd: int) -> int:
    """How many elements a map holds."""
    for line in Path(f"/proc/self/fdinfo/{map_fd}").read_text(encoding="ascii").splitlines():
        if line.startswith("max_entries:"):
            return int(line.split()[1])
    raise OSError(f"descriptor {map_fd} is no BPF map")


def pin(fd: int, path: Path) -> None:
    """Keep an object alive under a name."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    _bpf(OBJ_PIN, _Object(ctypes.addressof(name), fd, 0))


def pinned(path: Path, *, read_only: bool = False) -> int:
    """A descriptor of a pinned object."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    return _bpf(OBJ_GET, _Object(ctypes.addressof(name), 0, READ_ONLY if read_only else 0))


@contextlib.contextmanager
def hurried() -> Iterator[None]:
    """Let the kernel end its grace periods at once meanwhile: each attachment waits for one, 8 to 15 ms when idle."""
    before = _expedite("1")
    try:
        yield
    finally:
        if before is not None:
            _expedite(before)


def _expedite(value: str) -> str | None:
    """Change the kernel's setting; what it was, or ``None`` where it cannot be changed and all is just slower."""
    try:
        before = _RCU_EXPEDITED.read_text(encoding="ascii")
        # PRIVILEGED: a setting of the kernel's, for less than a millisecond.
        _RCU_EXPEDITED.write_text(value, encoding="ascii")
    except OSError:
        return None
    return before


def has_tcx(program_fd: int) -> bool:
    """Whether the kernel attaches programs by TCX (6.6 and newer): whether it looks for a device that is none."""
    try:
        os.close(attach(program_fd, _NO_DEVICE, TCX_INGRESS))
    except OSError as error:
        return error.errno == errno.ENODEV
    return True


def attach(program_fd: int, ifindex: int, attach_type: int) -> int:
    """Attach a program to a device by TCX; the link's descriptor."""
    return _bpf(LINK_CREATE, _Link(program_fd, ifindex, attach_type, 0))


def detach(link_fd: int) -> None:
    """Take a link off its device, now: the kernel would do it some time after the last reference went."""
    _bpf(LINK_DETACH, _Link(link_fd, 0, 0, 0))


def link_info(link_fd: int) -> LinkInfo:
    """Where a link is attached; ``ifindex`` 0 when its device is gone or it was detached."""
    info = LinkInfo()
    _bpf(OBJ_GET_INFO, _Info(link_fd, ctypes.sizeof(info), ctypes.addressof(info)))
    return info


def program_id(program_fd: int) -> int:
    """By which number the kernel tells of a program."""
    head = (ctypes.c_uint32 * 2)()  # of ``struct bpf_prog_info``: type and number
    _bpf(OBJ_GET_INFO, _Info(program_fd, ctypes.sizeof(head), ctypes.addressof(head)))
    return int(head[1])
