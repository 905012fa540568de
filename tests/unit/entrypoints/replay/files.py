"""Capture files made by hand."""

import struct
from collections.abc import Iterable
from pathlib import Path

ETHERNET = 1
Timed = tuple[float, bytes]


def pcap(
    frames: Iterable[Timed], *, order: str = "<", nanoseconds: bool = False, link: int = ETHERNET, snap: int = 65535
) -> bytes:
    ticks = 1_000_000_000 if nanoseconds else 1_000_000
    magic = 0xA1B23C4D if nanoseconds else 0xA1B2C3D4
    made = struct.pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, snap, link)
    for at, frame in frames:
        kept = frame[:snap]
        whole = round(at * ticks)
        made += struct.pack(f"{order}IIII", whole // ticks, whole % ticks, len(kept), len(frame)) + kept
    return made


def block(kind: int, body: bytes, order: str = "<") -> bytes:
    body += bytes(-len(body) % 4)
    size = struct.pack(f"{order}I", len(body) + 12)
    return struct.pack(f"{order}I", kind) + size + body + size


def section(order: str = "<") -> bytes:
    return block(0x0A0D0D0A, struct.pack(f"{order}IHHq", 0x1A2B3C4D, 1, 0, -1), order)


def interface(link: int = ETHERNET, *, order: str = "<", resolution: int | None = None, offset_s: int = 0) -> bytes:
    options = b"" if resolution is None else struct.pack(f"{order}HHBxxx", 9, 1, resolution)
    if offset_s:
        options += struct.pack(f"{order}HHq", 14, 8, offset_s)
    return block(1, struct.pack(f"{order}HHI", link, 0, 0) + options + bytes(4), order)


def enhanced(ticks: int, frame: bytes, *, order: str = "<", number: int = 0, length: int | None = None) -> bytes:
    head = struct.pack(
        f"{order}IIIII", number, ticks >> 32, ticks & 0xFFFFFFFF, len(frame), len(frame) if length is None else length
    )
    return block(6, head + frame, order)


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path
