"""The lab's own count of frames at taps, independent of the product.

A packet socket with a filter counts in the kernel every frame that the filter accepts, kept or not
(PACKET_STATISTICS), so a flood costs no more to count than silence. On its way in a frame is counted before the
product's programs see it, on its way out only if all of them let it pass.
"""

import ctypes
import os
import socket
import struct
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from lab.errors import LabError
from lab.frames import View, program

_EVERY_S = 0.01
_SLICES_KEPT = 100_000  # of one counter; what comes after them goes into the last
_ETH_P_ALL = 0x0003
_SOL_PACKET, _PACKET_STATISTICS = 263, 6
_SO_ATTACH_FILTER, _SO_TIMESTAMPNS = 26, 35
_NICE = -15


@dataclass(frozen=True)
class Slice:
    """``frames`` counted after ``from_s`` and not after ``to_s``, on the host's CLOCK_MONOTONIC."""

    from_s: float
    to_s: float
    frames: int


class Counter:
    """The frames of one view at one tap, from its opening to its end. Read it at any time."""

    def __init__(self, interface: str, view: View) -> None:
        self.place = view.place
        self.first_at_s: float | None = None
        self.total = 0
        self._slices: list[Slice] = []
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)  # 0: nothing yet
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)  # the least, which holds the first frame
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
            _attach(self._socket, program(view.alternatives, view.heading))
            self._socket.bind((interface, _ETH_P_ALL))
        except OSError as error:
            self._socket.close()
            raise LabError(
                f"cannot count frames at {interface}: {error.strerror}; is it there, and are you root?"
            ) from None
        self._read_s = time.monotonic()

    @property
    def slices(self) -> tuple[Slice, ...]:
        """What was counted so far, in order; empty times are left out."""
        return tuple(self._slices)

    def read(self) -> None:
        """Take over what the kernel counted since the last reading."""
        counted = self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
        frames = struct.unpack("=II", counted)[0]  # kept or not
        now = time.monotonic()
        if frames:
            if self.first_at_s is None:
                self.first_at_s = self._first(now)
            self.total += frames
            if len(self._slices) < _SLICES_KEPT:
                self._slices.append(Slice(self._read_s, now, frames))
            else:
                last = self._slices[-1]
                self._slices[-1] = Slice(last.from_s, now, last.frames + frames)
        self._read_s = now

    def _first(self, now: float) -> float:
        """When the first frame came, by the kernel's stamp."""
        with suppress(OSError):
            _, control, _, _ = self._socket.recvmsg(64, 64, socket.MSG_DONTWAIT)
            for _, kind, stamp in control:
                if kind == _SO_TIMESTAMPNS:
                    seconds, nanoseconds = struct.unpack("=qq", stamp[:16])
                    at = time.monotonic() - (time.time() - float(seconds + nanoseconds / 1e9))
                    return max(self._read_s, min(now, at))
        return now

    def close(self) -> None:
        """Count no more; what was counted stays readable."""
        self._socket.close()


class Capture:
    """All counters of a run, read a hundred times a second by one thread. A context manager."""

    def __init__(self) -> None:
        self._counters: list[Counter] = []
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._read, name="capture", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        for counter in self._counters:
            counter.close()

    def count(self, interface: str, view: View) -> Counter:
        """Count from now on."""
        counter = Counter(interface, view)
        with self._lock:
            self._counters.append(counter)
        return counter

    def end(self, *counters: Counter) -> None:
        """Read counters a last time and let go of them."""
        with self._lock:
            for counter in counters:
                if counter in self._counters:
                    self._counters.remove(counter)
                    counter.read()
                    counter.close()

    def _read(self) -> None:
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)  # slices stay short on a busy host
        while not self._over.wait(_EVERY_S):
            with self._lock:
                for counter in self._counters:
                    counter.read()


def _attach(sock: socket.socket, code: bytes) -> None:
    """Let the kernel run a classic BPF program on each frame (struct sock_fprog)."""
    instructions = ctypes.create_string_buffer(code, len(code))
    sock.setsockopt(
        socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(code) // 8, ctypes.addressof(instructions))
    )
