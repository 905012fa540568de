"""What waits for the monitor: the newest inventory, what cannot be seen, and a bounded queue of sweeps."""

import logging
import socket
import threading
from collections import deque
from dataclasses import replace
from pathlib import Path

from hypervigil.hypervisor.sensors.clock import now
from hypervigil.hypervisor.sensors.leases import Held, joined
from hypervigil.model.ids import Instant
from hypervigil.model.observation import Sweep
from hypervigil.model.vm import Inventory
from hypervigil.wire.frames import encode
from hypervigil.wire.messages import Blind, FromSensors, InventoryChanged, Swept

log = logging.getLogger(__name__)

MAX_SWEEPS = 16
MAX_BLIND = 256
_RECONNECT_S = 0.1
_SEND_S = 2.0


class Outbox:
    """Takes from any thread, never blocks the taker, and sends from ``run``.

    A monitor that comes (again) hears the inventory and everything that is unseen first. When the queue is full the
    oldest sweep goes, and the next one sent says how many went.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._condition = threading.Condition()
        self._inventory: Inventory | None = None
        self._leases: Held = {}
        self._blind: dict[str, Instant] = {}
        self._news: list[FromSensors] = []
        self._sweeps: deque[Sweep] = deque()
        self._lost = 0
        self._connected = False

    def inventory(self, inventory: Inventory) -> None:
        """These domains run now."""
        with self._condition:
            self._inventory = inventory
            self._tell(InventoryChanged(at=now(), inventory=joined(inventory, self._leases)))

    def leases(self, leases: Held) -> None:
        """These addresses DHCP gave."""
        with self._condition:
            self._leases = leases
            if self._inventory is not None:
                self._tell(InventoryChanged(at=now(), inventory=joined(self._inventory, leases)))

    def sweep(self, sweep: Sweep) -> None:
        """One sweep."""
        with self._condition:
            if len(self._sweeps) >= MAX_SWEEPS:
                self._sweeps.popleft()
                self._lost += 1
            self._sweeps.append(sweep)
            self._condition.notify()

    def blind(self, what: str, since: Instant | None = None) -> None:
        """``what`` cannot be seen, from now or an earlier time; saying it again is no news."""
        with self._condition:
            if what in self._blind or len(self._blind) >= MAX_BLIND:
                return
            self._blind[what] = since if since is not None else now()
            log.warning("blind what=%s", what)
            self._tell(Blind(at=now(), what=what, since=self._blind[what]))

    def sees(self, what: str) -> None:
        """``what`` can be seen (again)."""
        with self._condition:
            if self._blind.pop(what, None) is not None:
                log.info("seen_again what=%s", what)
                self._tell(Blind(at=now(), what=what, since=None))

    def _tell(self, message: FromSensors) -> None:
        if self._connected:  # who comes later hears the state instead
            self._news.append(message)
        self._condition.notify()

    def run(self, stop: threading.Event) -> None:
        """Connect, send, connect again, until stopped."""
        while not stop.is_set():
            try:
                with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                    connection.settimeout(_SEND_S)
                    connection.connect(str(self._path))
                    log.info("monitor.connected")
                    self._greet()
                    while not stop.is_set():
                        for message in self._next():
                            self._send(connection, message)
            except OSError as error:
                if self._connected:
                    log.warning("monitor.gone error=%s", error)
                with self._condition:
                    self._connected = False
                    self._news.clear()
            stop.wait(_RECONNECT_S)

    def _greet(self) -> None:
        with self._condition:
            self._connected = True
            self._news = [Blind(at=now(), what=what, since=since) for what, since in self._blind.items()]
            if self._inventory is not None:
                self._news.insert(0, InventoryChanged(at=now(), inventory=joined(self._inventory, self._leases)))

    def _next(self) -> list[FromSensors]:
        """News first, then at most one sweep, so that a queue of sweeps never delays news."""
        with self._condition:
            if not self._news and not self._sweeps:
                self._condition.wait(0.5)
            messages, self._news = self._news, []
            if not messages and self._sweeps:
                messages = [Swept(sweep=replace(self._sweeps.popleft(), lost=self._lost))]
                self._lost = 0
            return messages

    def _send(self, connection: socket.socket, message: FromSensors) -> None:
        try:
            connection.sendall(encode(message))
        except OSError:
            if isinstance(message, Swept):
                with self._condition:
                    self._lost += message.sweep.lost + 1
            raise
