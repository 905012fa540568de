"""The lab's real guests as the two ends of a bridge."""

import base64
import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import quoteattr

from bench import _stream
from bench._others import Dormant, copy_rules, filterref
from bench._segment import Guest, Segment
from hypervigil.model.ids import PortId
from lab import libvirtd
from lab.commands import call
from lab.definition import GuestSpec
from lab.guests import Guest as LabGuest
from lab.guests import destroy_all, start_all
from lab.network import Networks, NetworkSpec
from lab.place import JobId

_STREAM = "/tmp/stream.py"  # noqa: S108 - the guest's own
_LONGEST_S = 1200
_FLOWS_WITHIN_S = 30.0
_LIBVIRTS = "table bridge nat"


@contextlib.contextmanager
def lab_guests() -> Iterator[tuple[Segment, tuple[LabGuest, LabGuest]]]:
    """Two guests of the lab on one bridge of the host."""
    with libvirtd.running(), Networks([NetworkSpec("bench", "10.67.0.0/24")]) as networks:
        network = networks["bench"]
        one, other = (LabGuest(GuestSpec(f"bench-{n}", "bench", "bench", n), network) for n in (0, 1))
        try:
            start_all([one, other])
            script = base64.b64encode(Path(_stream.__file__).read_bytes()).decode()
            for guest in (one, other):
                guest.run(f"echo {script} | base64 -d >{_STREAM}")
            other.spawn(f"exec python3 -I -S {_STREAM} sink")
            ends = [
                Guest(guest.interface, socket.if_nametoindex(guest.interface), PortId(guest.mac), guest.address,
                      network.bridge)
                for guest in (one, other)
            ]  # fmt: skip
            yield Segment((ends[0], ends[1]), BetweenGuests(one, other)), (one, other)
        finally:
            destroy_all([one, other])


class BetweenGuests:
    """One guest sends without a pause; a look is what reached the other one meanwhile, by its tap's counters."""

    def __init__(self, sender: LabGuest, receiver: LabGuest) -> None:
        self._sender = sender
        self._receiver = receiver
        self._job: JobId | None = None
        self._kind = ""

    def begin(self, measure: str) -> None:
        """See ``Traffic``; waits until it arrives."""
        kind = "udp" if measure == "pps" else "tcp"
        if kind == self._kind:
            return
        self.end()
        self._kind = kind
        command = f"exec python3 -I -S {_STREAM} {kind} {self._receiver.address} {_LONGEST_S}"
        self._job = self._sender.spawn(command)
        deadline = time.monotonic() + _FLOWS_WITHIN_S
        while self._rate("packets", 0.5) < 100:
            if time.monotonic() > deadline:
                found = self._sender.stop(self._job)
                raise TimeoutError(f"nothing gets from {self._sender.name} to {self._receiver.name}: {found}")

    def end(self) -> None:
        """Send no more."""
        if self._job is not None:
            self._sender.stop(self._job)
            self._job = None
            self._kind = ""

    def packets_per_s(self, seconds: float) -> float:
        """See ``Traffic``."""
        return self._rate("packets", seconds)

    def bits_per_s(self, seconds: float) -> float:
        """See ``Traffic``; with the headers."""
        return self._rate("bytes", seconds) * 8

    def _rate(self, unit: str, seconds: float) -> float:
        path = Path(f"/sys/class/net/{self._receiver.interface}/statistics/tx_{unit}")
        before, began = int(path.read_text(encoding="ascii")), time.perf_counter()
        time.sleep(seconds)
        after, took = int(path.read_text(encoding="ascii")), time.perf_counter() - began
        return (after - before) / took


class DomainFilter(Dormant):
    """``clean-traffic`` in the domains' own definitions, put there while they run: libvirt makes their taps' rules.

    More ports have copies of these, half before and half behind them.
    """

    def __init__(self, guests: tuple[LabGuest, LabGuest], ports: int) -> None:
        self._guests = guests
        self._tables = call(["nft", "list", "tables"])
        if ports > len(guests) and _LIBVIRTS in self._tables:
            raise RuntimeError("libvirt filters other domains here, and copies among their rules would stay: end them")
        self._took = [self._update(guest, filterref(guest.address)) for guest in guests]
        if ports > len(guests):
            one = guests[0]
            model = Guest(one.interface, socket.if_nametoindex(one.interface), PortId(one.mac), one.address)
            copy_rules(range(len(guests), ports), model)
        self.take()

    def change_ms(self) -> float | None:
        """One domain's address is another one, and its own again."""
        other = self._update(self._guests[1], filterref("10.67.0.99"))
        return (other + self._update(self._guests[1], filterref(self._guests[1].address))) / 2

    def attach_ms(self) -> float | None:
        """The rules of a second domain."""
        return self._took[1]

    def remove(self) -> None:
        """Nothing of it stays."""
        for guest in self._guests:
            self._update(guest, "")
        if _LIBVIRTS not in self._tables:
            call(["nft", f"delete {_LIBVIRTS}"])

    @staticmethod
    def _update(guest: LabGuest, reference: str) -> float:
        """Milliseconds that it took."""
        xml = (
            f"<interface type='bridge'><mac address={quoteattr(guest.mac)}/>"
            f"<source bridge={quoteattr(guest.network.bridge)}/><target dev={quoteattr(guest.interface)}/>"
            f"<model type='virtio'/>{reference}</interface>"
        )
        domain = libvirtd.connection().lookupByName(guest.domain)
        began = time.perf_counter()
        domain.updateDeviceFlags(xml)
        return (time.perf_counter() - began) * 1000
