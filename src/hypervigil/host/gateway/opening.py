"""Opens channels in a thread of its own: opening may take long, and no guest that is heard waits for another's."""

import os
import socket
import threading
from collections import deque
from collections.abc import Callable

from hypervigil.model.ids import VmId

Connect = Callable[[VmId, str], socket.socket]
"""Opens the channel of a VM whose host's end has this path; ``OSError`` where that cannot be done. May block."""


def connect_directly(_vm: VmId, path: str) -> socket.socket:
    """Where the gateway may open the socket itself: QEMU runs as its user, or a test does."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        connection.connect(path)
    except OSError:
        connection.close()
        raise
    return connection


class Opener:
    """Asked once for each channel at a time, so what waits is no more than there are channels."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._asked: deque[tuple[VmId, str]] = deque()
        self._opened: deque[tuple[VmId, str, socket.socket | OSError]] = deque()
        self._condition = threading.Condition()
        self._closed = False
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        threading.Thread(target=self._run, daemon=True, name="opener").start()

    def fileno(self) -> int:
        """Readable when something was opened, or could not be."""
        return self._wake

    def ask(self, vm: VmId, path: str) -> None:
        """Open this one."""
        with self._condition:
            self._asked.append((vm, path))
            self._condition.notify()

    def take(self) -> list[tuple[VmId, str, socket.socket | OSError]]:
        """What was opened since the last call, the caller's to close, and what could not be."""
        with self._condition:
            try:
                os.eventfd_read(self._wake)
            except BlockingIOError:
                return []
            opened = list(self._opened)
            self._opened.clear()
            return opened

    def close(self) -> None:
        """Open no more."""
        with self._condition:
            self._closed = True
            self._condition.notify()
        for _, _, opened in self.take():
            if isinstance(opened, socket.socket):
                opened.close()

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._asked and not self._closed:
                    self._condition.wait()
                if self._closed:
                    return
                vm, path = self._asked.popleft()
            opened: socket.socket | OSError
            try:
                opened = self._connect(vm, path)
                opened.setblocking(False)
            except OSError as error:
                opened = error
            with self._condition:
                if self._closed and isinstance(opened, socket.socket):
                    opened.close()
                    return
                self._opened.append((vm, path, opened))
                os.eventfd_write(self._wake, 1)
