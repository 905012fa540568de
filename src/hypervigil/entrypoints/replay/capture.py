"""pcap and pcapng files, read without trust: an index of what is in them, then frame by frame in the order of time.

Formats: draft-ietf-opsawg-pcap and draft-ietf-opsawg-pcapng. What a file says of its own sizes is bounded here.
"""

import os
import stat
import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

MAX_FRAME = 262_144
"""Bytes of one frame; tcpdump's own bound."""
MAX_BLOCK = 16 << 20
MAX_INTERFACES = 4096
KEPT = 2048
"""Of a frame so many bytes are read: more than all headers."""
_LATEST_NS = 1 << 62

_PCAP = {0xA1B2C3D4: 1000, 0xA1B23C4D: 1}
"""Nanoseconds of one tick of a record's second number."""
_SECTION, _INTERFACE, _PACKET, _SIMPLE, _ENHANCED = 0x0A0D0D0A, 1, 2, 3, 6
_BYTE_ORDER = 0x1A2B3C4D
_TSRESOL, _TSOFFSET = 9, 14
_GZIP = b"\x1f\x8b"


class CaptureError(Exception):
    """One sentence: why a file cannot be replayed, and the mend."""


@dataclass(frozen=True, slots=True)
class Captured:
    """One frame of a capture."""

    at_ns: int
    """Since the beginning of 1970."""
    link: int
    """What it begins with (LINKTYPE_ of tcpdump.org)."""
    data: bytes
    length: int
    """How long it was; ``data`` may be less."""


class _CutError(Exception):
    """The file ends, or makes no sense, here."""


@dataclass(slots=True)
class _Interface:
    link: int
    snap: int
    ticks_per_s: int = 1_000_000
    offset_s: int = 0


@dataclass(slots=True)
class _Index:
    at_ns: "array[int]" = field(default_factory=lambda: array("q"))
    offset: "array[int]" = field(default_factory=lambda: array("Q"))
    kept: "array[int]" = field(default_factory=lambda: array("L"))
    length: "array[int]" = field(default_factory=lambda: array("L"))
    link: "array[int]" = field(default_factory=lambda: array("H"))

    def add(self, at_ns: int, *, offset: int, kept: int, length: int, link: int) -> None:
        if kept > MAX_FRAME:
            raise _CutError
        self.at_ns.append(min(max(at_ns, 0), _LATEST_NS))
        self.offset.append(offset)
        self.kept.append(kept)
        self.length.append(min(max(kept, length), MAX_FRAME))
        self.link.append(link)


class Capture:
    """An indexed capture; close it."""

    def __init__(self, path: Path) -> None:
        """Index a file. ``CaptureError`` where there is no frame in it that can be read."""
        try:
            # Looked at before it is opened: to open a pipe waits for its writer.
            kind = path.stat().st_mode
            if not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):
                raise CaptureError(f"{path} is no regular file, and a capture is read twice: write it to a file first")
            self._file = path.open("rb")
        except OSError as error:
            raise CaptureError(f"cannot read {path}: {error.strerror}; give a pcap or pcapng file") from error
        self.notes: list[str] = []
        self._index = _Index()
        try:
            whole = _read_file(self._file, self._index)
        except OSError as error:
            self.close()
            raise CaptureError(f"cannot read {path}: {error.strerror}; give a pcap or pcapng file") from error
        except CaptureError as error:
            self.close()
            raise CaptureError(f"{path} {error}") from None
        if not whole:
            if not len(self):
                self.close()
                raise CaptureError(f"{path} is cut off or damaged before its first frame: take the capture again")
            self.notes.append(
                f"{path.name} is cut off or damaged after {len(self):,} frames: what follows is not judged"
            )
        times = np.frombuffer(self._index.at_ns, np.int64) if len(self) else np.zeros(0, np.int64)
        self._order: list[int] | range = range(len(self))
        if (np.diff(times) < 0).any():
            self._order = np.argsort(times, kind="stable").tolist()

    def __len__(self) -> int:
        return len(self._index.at_ns)

    @property
    def span_ns(self) -> int:
        """From the first frame to the last."""
        times = self._index.at_ns
        return max(times, default=0) - min(times, default=0)

    def __iter__(self) -> Iterator[Captured]:
        index, fd = self._index, self._file.fileno()
        for at in self._order:
            data = os.pread(fd, min(index.kept[at], KEPT), index.offset[at])
            yield Captured(index.at_ns[at], index.link[at], data, index.length[at])

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _read_file(file: BinaryIO, index: _Index) -> bool:
    """Index it; false when it ended in the middle. ``CaptureError`` (without the path) when it is no capture."""
    head = file.read(4)
    if head[:2] == _GZIP:
        raise CaptureError("is compressed: unpack it with gunzip first")
    try:
        if head == b"\x0a\x0d\x0d\x0a":
            _Sections(file, index).read()
            return True
        for order in "<>":
            if len(head) == 4 and struct.unpack(f"{order}I", head)[0] in _PCAP:
                _read_pcap(file, index, order)
                return True
    except _CutError:
        return False
    raise CaptureError("is no capture that can be read: give a pcap or pcapng file")


def _exactly(file: BinaryIO, count: int) -> bytes:
    found = file.read(count)
    if len(found) < count:
        raise _CutError
    return found


def _read_pcap(file: BinaryIO, index: _Index, order: str) -> None:
    file.seek(0)
    magic, _, _, _, _, _, link = struct.unpack(f"{order}IHHiIII", _exactly(file, 24))
    tick_ns, record, at = _PCAP[magic], struct.Struct(f"{order}IIII"), 24
    end = os.fstat(file.fileno()).st_size
    while head := file.read(16):
        if len(head) < 16:
            raise _CutError
        seconds, ticks, kept, length = record.unpack(head)
        at += 16 + kept
        if kept > MAX_FRAME or at > end:
            raise _CutError
        at_ns = seconds * 1_000_000_000 + ticks * tick_ns
        index.add(at_ns, offset=at - kept, kept=kept, length=length, link=link & 0xFFFF)
        file.seek(at)


class _Sections:
    """The blocks of a pcapng file."""

    def __init__(self, file: BinaryIO, index: _Index) -> None:
        self._file = file
        self._index = index
        self._order = "<"
        self._interfaces: list[_Interface] = []
        self._last_ns = 0
        self._end = os.fstat(file.fileno()).st_size

    def read(self) -> None:
        at = 0
        while at < self._end:
            self._file.seek(at)
            head = _exactly(self._file, 12)
            if head[:4] == b"\x0a\x0d\x0d\x0a":
                self._order = _order_of(head[8:12])
                self._interfaces = []
            kind, size = struct.unpack(f"{self._order}II", head[:8])
            if size < 12 or size % 4 or size > MAX_BLOCK or at + size > self._end:
                raise _CutError
            self._block(kind, at + 8, size - 12)
            at += size

    def _block(self, kind: int, at: int, size: int) -> None:
        """``size`` bytes of a block's body, which begins at ``at``."""
        self._file.seek(at)
        match kind:
            case 1:
                self._interface(_exactly(self._file, min(size, 4096)))
            case 6:
                number, high, low, kept, length = self._fields("IIIII", 20, size)
                self._frame(
                    self._numbered(number), high << 32 | low, at=at + 20, room=size - 20, kept=kept, length=length
                )
            case 2:
                number, _, high, low, kept, length = self._fields("HHIIII", 20, size)
                self._frame(
                    self._numbered(number), high << 32 | low, at=at + 20, room=size - 20, kept=kept, length=length
                )
            case 3:
                (length,) = self._fields("I", 4, size)
                interface = self._numbered(0)
                kept = min(length, interface.snap or length)
                self._frame(interface, None, at=at + 4, room=size - 4, kept=kept, length=length)

    def _fields(self, form: str, count: int, size: int) -> tuple[int, ...]:
        if size < count:
            raise _CutError
        return struct.unpack(self._order + form, _exactly(self._file, count))

    def _numbered(self, number: int) -> _Interface:
        if number >= len(self._interfaces):
            raise _CutError
        return self._interfaces[number]

    def _interface(self, body: bytes) -> None:
        if len(body) < 8 or len(self._interfaces) >= MAX_INTERFACES:
            raise _CutError
        link, _, snap = struct.unpack(f"{self._order}HHI", body[:8])
        interface = _Interface(link, snap)
        at = 8
        while at + 4 <= len(body):
            code, size = struct.unpack(f"{self._order}HH", body[at : at + 4])
            value = body[at + 4 : at + 4 + size]
            if code == 0:
                break
            if code == _TSRESOL and len(value) == 1:
                base, exponent = (2, value[0] & 0x7F) if value[0] & 0x80 else (10, value[0])
                interface.ticks_per_s = base**exponent
            elif code == _TSOFFSET and len(value) == 8:
                (interface.offset_s,) = struct.unpack(f"{self._order}q", value)
            at += 4 + (size + 3 & ~3)
        self._interfaces.append(interface)

    def _frame(self, interface: _Interface, ticks: int | None, *, at: int, room: int, kept: int, length: int) -> None:
        if kept > room:
            raise _CutError
        if ticks is not None:  # a simple packet block has no time of its own
            self._last_ns = interface.offset_s * 1_000_000_000 + ticks * 1_000_000_000 // interface.ticks_per_s
        self._index.add(self._last_ns, offset=at, kept=kept, length=length, link=interface.link)


def _order_of(magic: bytes) -> str:
    for order in "<>":
        if struct.unpack(f"{order}I", magic)[0] == _BYTE_ORDER:
            return order
    raise _CutError
