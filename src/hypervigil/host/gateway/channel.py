"""The host's end of one VM's virtio-serial port. Whose it is says who opened it for us, not what is heard."""

import contextlib
import socket
from collections.abc import Iterator

from hypervigil.host.gateway.hearing import Hearing
from hypervigil.model.ids import Instant, VmId
from hypervigil.wire.guest import FromGuest

READ = 8192
"""Octets read of one guest before the others have their turn."""
OUTGOING = 8192
RETRY_S, RETRY_MAX_S = 0.2, 2.0


class Channel:
    """Reads within the guest's budget, writes what fits. Never blocks."""

    def __init__(self, vm: VmId, path: str, now: Instant) -> None:
        self.vm = vm
        self.path = path
        self.hearing = Hearing(now)
        self.retry_at = now
        self.asked = False
        """It is being opened."""
        self.held_until: Instant | None = None
        """Not read before then: the guest has spent its budget."""
        self._held_since = now
        self._socket: socket.socket | None = None
        self._outgoing = b""
        self._pause_s = RETRY_S

    @property
    def fd(self) -> int | None:
        """The open socket's, if it is open."""
        return None if self._socket is None else self._socket.fileno()

    @property
    def writes(self) -> bool:
        """Whether something waits to be written."""
        return bool(self._outgoing)

    def opened(self, connection: socket.socket) -> None:
        """It is open now."""
        self.asked = False
        self._socket = connection
        self.hearing.joined()

    def refused(self, now: Instant) -> None:
        """It cannot be opened now."""
        self.asked = False
        self.retry_at = Instant(now + self._pause_s)
        self._pause_s = min(2 * self._pause_s, RETRY_MAX_S)

    def read(self, now: Instant) -> Iterator[FromGuest]:
        """What was heard. ``OSError`` when the other end is gone."""
        may = self.hearing.budget.octets(now)
        if self._socket is None or not may:
            self.hold(now)
            return
        try:
            untrusted_bytes = self._socket.recv(min(READ, may))
        except BlockingIOError:
            return
        if not untrusted_bytes:
            raise ConnectionResetError("the hypervisor closed the channel")
        self._pause_s = RETRY_S
        yield from self.hearing.hear(untrusted_bytes)
        if not self.hearing.budget.octets(now):
            self.hold(now)

    def hold(self, now: Instant) -> None:
        """Read no more until the budget allows it."""
        self.held_until = self.hearing.budget.again_at(now)
        self._held_since = now

    def release(self, now: Instant) -> None:
        """Read again."""
        self.held_until = None
        self.hearing.counts.held_back_ms += int(1000 * (now - self._held_since))

    def say(self, line: bytes) -> None:
        """Send a line, or count that the guest does not take it."""
        if self._socket is None or len(self._outgoing) + len(line) > OUTGOING:
            self.hearing.counts.untold += 1
            return
        self._outgoing += line
        self.flush()

    def flush(self) -> None:
        """Write what the guest takes now."""
        if self._socket is not None and self._outgoing:
            with contextlib.suppress(BlockingIOError):
                self._outgoing = self._outgoing[self._socket.send(self._outgoing) :]

    def close(self, now: Instant) -> None:
        """Disconnect; it may be opened again later."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._outgoing = b""
        self.held_until = None
        self.retry_at = Instant(now + self._pause_s)
        self._pause_s = min(2 * self._pause_s, RETRY_MAX_S)
