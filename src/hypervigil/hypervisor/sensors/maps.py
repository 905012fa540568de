"""Fetches the data plane's descriptors from the enforcer, and again whenever the enforcer lets the connection go."""

import contextlib
import logging
import os
import socket
import threading
from pathlib import Path

from hypervigil.hypervisor.handover import HandoverError, receive

log = logging.getLogger(__name__)

_RETRY_S = 0.2
_PATIENCE_S = 5.0


class MapsLink:
    """``take`` gives each set of descriptors once, the caller's to close."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._fresh: dict[str, int] | None = None
        self._connection: socket.socket | None = None

    def take(self) -> dict[str, int] | None:
        """Descriptors that came since the last call."""
        with self._lock:
            fresh, self._fresh = self._fresh, None
            return fresh

    def renew(self) -> None:
        """What was handed over is of no use: ask again."""
        with self._lock, contextlib.suppress(OSError):
            if self._connection is not None:
                self._connection.shutdown(socket.SHUT_RDWR)

    def run(self, stop: threading.Event) -> None:
        """Until stopped."""
        reason = ""
        while not stop.is_set():
            try:
                with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                    connection.settimeout(_PATIENCE_S)
                    connection.connect(str(self._path))
                    self._put(receive(connection), connection)
                    log.info("maps.received")
                    reason = ""
                    self._wait_for_end(connection, stop)
            except (OSError, HandoverError) as error:
                if str(error) != reason:
                    reason = str(error)
                    log.warning("maps.unavailable reason=%s", reason)
            finally:
                with self._lock:
                    self._connection = None
            stop.wait(_RETRY_S)
        self._drop(self.take())

    def _put(self, descriptors: dict[str, int], connection: socket.socket) -> None:
        with self._lock:
            old, self._fresh = self._fresh, descriptors
            self._connection = connection
        self._drop(old)

    @staticmethod
    def _wait_for_end(connection: socket.socket, stop: threading.Event) -> None:
        connection.settimeout(0.5)
        while not stop.is_set():
            try:
                if not connection.recv(64):
                    return
            except TimeoutError:
                continue

    @staticmethod
    def _drop(descriptors: dict[str, int] | None) -> None:
        for descriptor in (descriptors or {}).values():
            os.close(descriptor)
