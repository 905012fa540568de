"""The guest's end of the channel: a virtio-serial port, or a unix socket. Never blocks on the other end."""

from __future__ import annotations

import posix
from _socket import AF_UNIX, SOCK_STREAM, socket
from select import POLLIN, poll
from time import sleep

from hypervigil.guest import lines

NAME = "org.hypervigil.agent.0"
_PORTS = "/sys/class/virtio-ports/"
_READ = 8192
_IS_SOCKET, _KIND = 0o140000, 0o170000


def find() -> str | None:
    """The port's device; without udev no link has its name."""
    try:
        for entry in posix.listdir(_PORTS):
            fd = posix.open(_PORTS + entry + "/name", posix.O_RDONLY | posix.O_CLOEXEC)
            try:
                if posix.read(fd, 256).strip() == NAME.encode():
                    return "/dev/" + entry
            finally:
                posix.close(fd)
    except OSError:
        return None
    return None


class Port:
    """Lines out and in; whoever is at the other end may come and go."""

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._fd = -1
        self._socket: socket | None = None
        self._poll = poll()
        self._unsent = b""
        self._heard = b""
        self.connected = False
        """Somebody is at the other end, as far as is known."""

    def write(self, line: bytes) -> bool:
        """Send one line. False when nothing of it was taken; once a part was, the rest goes before anything else."""
        if not self.connected:
            return False
        try:
            while self._unsent:
                self._unsent = self._unsent[posix.write(self._fd, self._unsent) :]
            taken = posix.write(self._fd, line)
        except BlockingIOError:
            return False
        except OSError:
            self.close()
            return False
        self._unsent = line[taken:]
        return taken > 0

    def wait(self, timeout_ms: int) -> list[bytes]:
        """Wait for so long, or until the host has said something: its lines."""
        if self._fd >= 0 or self._open():
            events = self._poll.poll(timeout_ms)
            state = events[0][1] if events else 0
            if not state:
                self._meet()
                return []
            heard = self._read() if state & POLLIN else b""
            if heard:
                self._meet()
                return self._split(heard)
            self._part()
        sleep(timeout_ms / 1000)
        return []

    def _open(self) -> bool:
        path = self._path if self._path is not None else find()
        if path is None:
            return False
        try:
            if posix.stat(path).st_mode & _KIND == _IS_SOCKET:
                self._socket = socket(AF_UNIX, SOCK_STREAM)
                self._socket.connect(path)
                self._socket.setblocking(False)
                self._fd = self._socket.fileno()
            else:
                flags = posix.O_RDWR | posix.O_NONBLOCK | posix.O_NOCTTY | posix.O_CLOEXEC
                self._fd = posix.open(path, flags)
        except OSError:
            self.close()
            return False
        self._poll.register(self._fd, POLLIN)
        return True

    def _read(self) -> bytes:
        try:
            return posix.read(self._fd, _READ)
        except BlockingIOError:
            return b""
        except OSError:
            self.close()
            return b""

    def _split(self, heard: bytes) -> list[bytes]:
        *whole, rest = (self._heard + heard).split(b"\n")
        self._heard = rest if len(rest) <= lines.LONGEST else b""
        return [line for line in whole if line]

    def _meet(self) -> None:
        if not self.connected:
            self.connected = True
            self._unsent = b"\n"  # ends what an agent before may have left half said

    def _part(self) -> None:
        """Nobody is at the other end. A port stays open and waits; a socket is of no more use."""
        self.connected = False
        self._unsent = self._heard = b""
        if self._socket is not None:
            self.close()

    def close(self) -> None:
        """Let go of it; the next wait opens it again."""
        self.connected = False
        self._unsent = self._heard = b""
        if self._fd >= 0:
            self._poll.unregister(self._fd)
            if self._socket is None:
                posix.close(self._fd)
            self._fd = -1
        if self._socket is not None:
            self._socket.close()
            self._socket = None
