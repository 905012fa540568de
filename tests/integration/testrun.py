"""Runs a loaded program on one frame by bpf(2)'s BPF_PROG_TEST_RUN: no device carries it, but the maps are real."""

import ctypes
import json
import os
import struct
import subprocess
from collections.abc import Mapping

from hypervigil.hypervisor.adapters.ebpf import kernel
from hypervigil.hypervisor.adapters.ebpf.program import OBJECT

_TEST_RUN = 10
_CONTEXT = 192
_MARK, _INGRESS_IFINDEX, _IFINDEX, _GSO_SIZE = 8, 36, 40, 176
"""Offsets in ``struct __sk_buff`` (linux/bpf.h)."""


class _Attributes(ctypes.Structure):
    _fields_ = [
        ("prog_fd", ctypes.c_uint32),
        ("retval", ctypes.c_uint32),
        ("data_size_in", ctypes.c_uint32),
        ("data_size_out", ctypes.c_uint32),
        ("data_in", ctypes.c_uint64),
        ("data_out", ctypes.c_uint64),
        ("repeat", ctypes.c_uint32),
        ("duration", ctypes.c_uint32),
        ("ctx_size_in", ctypes.c_uint32),
        ("ctx_size_out", ctypes.c_uint32),
        ("ctx_in", ctypes.c_uint64),
        ("ctx_out", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("cpu", ctypes.c_uint32),
        ("batch_size", ctypes.c_uint32),
    ]


def runnable(frame: bytes) -> bool:
    """Whether the kernel takes the frame for a test run: not one that is cut off within its IP header."""
    return len(frame) >= 14 + {b"\x08\x00": 20, b"\x86\xdd": 40}.get(frame[12:14], 0)


def run_program(program_fd: int, frame: bytes, ifindex: int, gso_size: int = 0) -> int:
    """What the program returns for a frame at a device of this network namespace."""
    context = bytearray(_CONTEXT)
    struct.pack_into("=I", context, _IFINDEX, ifindex)
    struct.pack_into("=I", context, _GSO_SIZE, gso_size)
    data = ctypes.create_string_buffer(frame, len(frame))
    held = (ctypes.c_uint8 * _CONTEXT).from_buffer(context)
    attributes = _Attributes(
        prog_fd=program_fd,
        data_size_in=len(frame),
        data_in=ctypes.addressof(data),
        repeat=1,
        ctx_size_in=_CONTEXT,
        ctx_in=ctypes.addressof(held),
    )
    kernel._bpf(_TEST_RUN, attributes)
    return ctypes.c_int32(attributes.retval).value


class Clock:
    """The time by which the programs go, where all runs on the one CPU that this thread is bound to."""

    def __init__(self, maps: Mapping[str, int]) -> None:
        [cpu] = os.sched_getaffinity(0)
        done = subprocess.run(["bpftool", "-j", "btf", "dump", "file", str(OBJECT)], check=True, capture_output=True)
        [scratch] = [one for one in json.loads(done.stdout)["types"] if one.get("name") == "scratch"]
        [at] = [member["bits_offset"] // 8 for member in scratch["members"] if member["name"] == "now"]
        self._map = maps["hv_scratch"]
        self._all = (ctypes.c_uint8 * (scratch["size"] * (os.cpu_count() or 1)))()
        self._now = ctypes.c_uint64.from_buffer(self._all, cpu * scratch["size"] + at)

    def now(self) -> int:
        """What a program took for now when it ran last, ns since boot."""
        kernel.lookup(self._map, ctypes.c_uint32(0), self._all)  # type: ignore[arg-type]
        return self._now.value


class Runner:
    """Runs one program again and again, with one block of attributes and one buffer: a few microseconds a frame."""

    def __init__(self, program_fd: int) -> None:
        self._data = (ctypes.c_uint8 * 4096)()
        self._before = (ctypes.c_uint8 * _CONTEXT)()
        self._after = (ctypes.c_uint8 * _CONTEXT)()
        self._fields = [
            ctypes.c_uint32.from_buffer(self._before, at) for at in (_MARK, _INGRESS_IFINDEX, _IFINDEX, _GSO_SIZE)
        ]
        self._marked = ctypes.c_uint32.from_buffer(self._after, _MARK)
        self._attributes = _Attributes(
            prog_fd=program_fd,
            data_in=ctypes.addressof(self._data),
            repeat=1,
            ctx_size_in=_CONTEXT,
            ctx_in=ctypes.addressof(self._before),
            ctx_out=ctypes.addressof(self._after),
        )
        self._returned = ctypes.c_int32.from_buffer(self._attributes, _Attributes.retval.offset)

    def run(self, frame: bytes, ifindex: int, gso_size: int = 0, ingress: int = 0, mark: int = 0) -> tuple[int, int]:
        """What the program returns for a frame at a device, and the frame's mark then."""
        size = len(frame)
        ctypes.memmove(self._data, frame, size)
        marking, coming, at, gso = self._fields
        marking.value, coming.value, at.value, gso.value = mark, ingress, ifindex, gso_size
        self._attributes.data_size_in = size
        self._attributes.data_size_out = 0  # the kernel writes here, and would take it for the room next time
        self._attributes.ctx_size_out = _CONTEXT
        kernel._bpf(_TEST_RUN, self._attributes)
        return self._returned.value, self._marked.value
