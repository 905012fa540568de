"""Follows which domains run: woken by libvirt's events and by the kernel's network devices, and looks anyway now and
then, because either may fail silently.
"""

import logging
import os
import select
import threading

from hypervigil.hypervisor.adapters.libvirt.connection import LibvirtUnreachableError, connect
from hypervigil.hypervisor.adapters.libvirt.inventory import DomainReader, Look
from hypervigil.hypervisor.adapters.links import LinksError, LinkWatch, links
from hypervigil.hypervisor.sensors.clock import now
from hypervigil.hypervisor.sensors.outbox import Outbox
from hypervigil.model.ids import Instant
from hypervigil.model.vm import Inventory

log = logging.getLogger(__name__)

LIBVIRT = "libvirt"
LOOK_ANYWAY_S = 2.0
LASTING_S = 1.0
"""What is unseen for a shorter time is a domain that starts or ends."""
_SETTLE_S = 0.01
_AWAIT_S = 0.05
_RETRY_S = 1.0


class InventoryWatch:
    """Tells the outbox of every change; ``inventory`` is the newest, also while libvirt does not answer."""

    def __init__(self, uri: str, outbox: Outbox) -> None:
        self._uri = uri
        self._outbox = outbox
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._unseen: dict[str, Instant] = {}
        self.inventory: Inventory | None = None

    def run(self, stop: threading.Event) -> None:
        """Until stopped."""
        reason = ""
        with LinkWatch() as watch:
            while not stop.is_set():
                try:
                    with DomainReader(connect(self._uri), self.wake) as reader:
                        self._follow(reader, watch, stop)
                except (LibvirtUnreachableError, LinksError) as error:
                    self._outbox.blind(LIBVIRT)
                    if str(error) != reason:
                        reason = str(error)
                        log.warning("inventory.blind reason=%s", reason)
                    stop.wait(_RETRY_S)

    def wake(self) -> None:
        """Look now; from any thread."""
        os.eventfd_write(self._wake, 1)

    def _follow(self, reader: DomainReader, watch: LinkWatch, stop: threading.Event) -> None:
        patience = _AWAIT_S
        while not stop.is_set():
            look = reader.look(links())
            self._take(look)
            patience = min(patience * 2, LOOK_ANYWAY_S) if look.expects_more else _AWAIT_S
            woken, _, _ = select.select(
                [watch.fileno(), self._wake], [], [], patience if look.expects_more else LOOK_ANYWAY_S
            )
            if woken:
                stop.wait(_SETTLE_S)  # a device that comes up changes several times at once
                watch.drain()
                try:
                    os.eventfd_read(self._wake)
                    patience = _AWAIT_S
                except BlockingIOError:
                    pass

    def _take(self, look: Look) -> None:
        if look.inventory != self.inventory:
            self.inventory = look.inventory
            self._outbox.inventory(look.inventory)
        self._outbox.sees(LIBVIRT)
        at = now()
        for what in self._unseen.keys() - set(look.unseen):
            self._outbox.sees(what)
        self._unseen = {what: self._unseen.get(what, at) for what in look.unseen}
        for what, since in self._unseen.items():
            if at - since >= LASTING_S:
                self._outbox.blind(what, since)
