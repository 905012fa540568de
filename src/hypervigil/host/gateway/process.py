"""The gateway's loop: every guest in turn, each within its budget, and the monitor when it listens. One thread."""

import logging
import select
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hypervigil.host.gateway.channel import Channel
from hypervigil.host.gateway.mail import Mail
from hypervigil.host.gateway.opening import Connect, Opener, connect_directly
from hypervigil.model.ids import Instant, VmId
from hypervigil.wire.frames import FrameDecoder, ProtocolError, encode
from hypervigil.wire.gateway import ChannelLost, ChannelOpen, FromGateway, Heard, Tell, ToGateway, WatchChannels
from hypervigil.wire.guest import ToGuest, encode_to_guest

log = logging.getLogger(__name__)

TURN_S = 0.25
BEAT_S = 0.01
"""At most a hundred turns a second: what hundreds of guests say at any time is taken in batches."""
TELL_COUNTS_S = 1.0
CHANNELS = 4096
_RECONNECT_S = 0.2
_READ = 1 << 16
_OUTGOING = 1 << 18
"""Octets on their way to the monitor; what is beyond waits in its VM's queue."""
_NEWS = 1 << 20


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """Where the monitor listens, and who opens channels."""

    monitor_socket: Path
    connect: Connect = connect_directly


def boottime() -> Instant:
    """The present, in seconds of ``CLOCK_BOOTTIME``."""
    return Instant(time.clock_gettime(time.CLOCK_BOOTTIME))


class MonitorLink:
    """The connection to the monitor. News of channels go first, and then each VM's words in turn."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._socket: socket.socket | None = None
        self._decoder: FrameDecoder[ToGateway] = FrameDecoder(ToGateway)
        self._outgoing = b""
        self._news = bytearray()
        self.mail = Mail()
        self.retry_at = Instant(0.0)

    @property
    def fd(self) -> int | None:
        """The open socket's, if it is open."""
        return None if self._socket is None else self._socket.fileno()

    @property
    def writes(self) -> bool:
        """Whether something waits to be sent."""
        return bool(self._outgoing or self._news or self.mail)

    def open(self, now: Instant) -> bool:
        """Connect, if the monitor listens."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            connection.connect(str(self._path))
        except OSError:
            connection.close()
            self.retry_at = Instant(now + _RECONNECT_S)
            return False
        self._socket = connection
        self._decoder = FrameDecoder(ToGateway)
        log.info("monitor.connected")
        return True

    def tell(self, message: FromGateway) -> None:
        """News, unless nobody listens: who comes later is told the state instead."""
        if self._socket is not None:
            self._news += encode(message)

    def flush(self) -> None:
        """Send what the monitor takes now. ``OSError`` when it is gone."""
        if self._socket is None:
            return
        if len(self._news) > _NEWS:
            raise TimeoutError("the monitor does not read")
        while True:
            self._outgoing += bytes(self._news)
            self._news.clear()
            while len(self._outgoing) < _OUTGOING and (heard := self.mail.take()) is not None:
                self._outgoing += encode(heard)
            if not self._outgoing:
                return
            try:
                self._outgoing = self._outgoing[self._socket.send(self._outgoing) :]
            except BlockingIOError:
                return

    def read(self) -> list[ToGateway]:
        """What the monitor says. ``OSError`` or ``ProtocolError`` when it is of no more use."""
        if self._socket is None:
            return []
        try:
            data = self._socket.recv(_READ)
        except BlockingIOError:
            return []
        if not data:
            raise ConnectionResetError("the monitor closed the connection")
        return list(self._decoder.feed(data))

    def close(self, now: Instant) -> None:
        """Disconnect; what was half sent is gone, what waits of each VM stays."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._outgoing = b""
        self._news.clear()
        self.retry_at = Instant(now + _RECONNECT_S)


class Gateway:
    """All channels and the monitor."""

    def __init__(self, config: GatewayConfig, *, now: Callable[[], Instant] = boottime) -> None:
        self._now = now
        self._monitor = MonitorLink(config.monitor_socket)
        self._opener = Opener(config.connect)
        self._channels: dict[VmId, Channel] = {}
        self._open: dict[int, Channel] = {}
        """By descriptor."""
        self._held: set[Channel] = set()
        self._asked: dict[int, int] = {}
        """What the kernel was asked to wait for."""
        self._poll = select.epoll()
        self._poll.register(self._opener.fileno(), select.EPOLLIN)
        self._counts_at = now()
        self._turns = 0

    def run(self, stop: threading.Event) -> None:
        """Until stopped."""
        try:
            while not stop.is_set():
                began = time.monotonic()
                self.turn()
                time.sleep(max(0.0, BEAT_S - (time.monotonic() - began)))
        finally:
            for channel in self._channels.values():
                channel.close(self._now())
            self._opener.close()
            self._monitor.close(self._now())
            self._poll.close()

    def turn(self) -> None:
        """One round: everybody who has something to say is heard once, and nobody twice."""
        now = self._now()
        self._connect(now)
        for channel in [one for one in self._held if one.held_until is not None and one.held_until <= now]:
            channel.release(now)
            self._ask_for(channel)
        self._ask(self._monitor.fd, select.EPOLLIN | (select.EPOLLOUT if self._monitor.writes else 0))
        events = dict(self._poll.poll(self._patience(now)))
        ready = [fd for fd in events if fd in self._open]
        self._turns += 1
        first = self._turns % len(ready) if ready else 0
        for fd in ready[first:] + ready[:first]:
            self._serve(self._open[fd], events[fd])
        now = self._now()
        if self._monitor.fd is not None:
            if now - self._counts_at >= TELL_COUNTS_S:
                self._tell_counts(now)
            self._serve_monitor(self._monitor.fd, events, now)

    # --- guests ------------------------------------------------------------------------------------------------------
    def _serve(self, channel: Channel, event: int) -> None:
        now = self._now()
        try:
            if event & select.EPOLLOUT:
                channel.flush()
            if channel.held_until is None:
                for message in channel.read(now):
                    octets = channel.hearing.take_octets()
                    if not self._monitor.mail.put(Heard(vm=channel.vm, at=now, message=message, octets=octets)):
                        channel.hearing.counts.crowded_out += 1
            elif event & (select.EPOLLHUP | select.EPOLLERR):
                raise ConnectionResetError("the hypervisor closed the channel")
        except OSError as error:
            self._lose(channel, str(error))
        else:
            self._ask_for(channel)

    def _lose(self, channel: Channel, reason: str) -> None:
        now = self._now()
        self._shut(channel, now)
        log.debug("channel.lost vm=%s reason=%s", channel.vm, reason)
        self._monitor.tell(ChannelLost(vm=channel.vm, at=now, reason=reason))

    def _shut(self, channel: Channel, now: Instant) -> None:
        fd = channel.fd
        if fd is not None:
            self._open.pop(fd, None)
            self._forget(fd)
        self._held.discard(channel)
        channel.close(now)

    def _connect(self, now: Instant) -> None:
        if self._monitor.fd is None and self._monitor.retry_at <= now and self._monitor.open(now):
            for channel in self._open.values():
                self._monitor.tell(ChannelOpen(vm=channel.vm, at=now))
        for vm, path, opened in self._opener.take():
            self._take(vm, path, opened, now)
        if len(self._open) == len(self._channels):
            return
        for channel in self._channels.values():
            if channel.fd is None and not channel.asked and channel.retry_at <= now:
                channel.asked = True
                self._opener.ask(channel.vm, channel.path)

    def _take(self, vm: VmId, path: str, opened: socket.socket | OSError, now: Instant) -> None:
        """A channel was opened, unless nobody wants it any more."""
        channel = self._channels.get(vm)
        wanted = channel is not None and channel.path == path and channel.fd is None
        if isinstance(opened, socket.socket) and not wanted:
            opened.close()
        if channel is None or not wanted:
            return
        if isinstance(opened, OSError):
            log.debug("channel.closed vm=%s reason=%s", vm, opened)
            channel.refused(now)
            return
        channel.opened(opened)
        self._open[opened.fileno()] = channel
        self._ask_for(channel)
        log.debug("channel.open vm=%s", vm)
        self._monitor.tell(ChannelOpen(vm=vm, at=now))

    def _tell_counts(self, now: Instant) -> None:
        self._counts_at = now
        for channel in self._channels.values():
            if channel.hearing.counts.any():
                self._monitor.tell(channel.hearing.take_counts().told(channel.vm, now))

    # --- polling -----------------------------------------------------------------------------------------------------
    def _ask_for(self, channel: Channel) -> None:
        """Wait for what this channel needs now."""
        if channel.held_until is None:
            self._held.discard(channel)
        else:
            self._held.add(channel)
        reads = select.EPOLLIN if channel.held_until is None else 0
        self._ask(channel.fd, reads | (select.EPOLLOUT if channel.writes else 0))

    def _ask(self, fd: int | None, events: int) -> None:
        if fd is None or self._asked.get(fd) == events:
            return
        if fd in self._asked:
            self._poll.modify(fd, events)
        else:
            self._poll.register(fd, events)
        self._asked[fd] = events

    def _forget(self, fd: int) -> None:
        """Wait no more for what is about to be closed."""
        if self._asked.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def _patience(self, now: Instant) -> float:
        due = min((one.held_until for one in self._held if one.held_until is not None), default=Instant(now + TURN_S))
        return min(TURN_S, max(0.0, due - now))

    # --- the monitor -------------------------------------------------------------------------------------------------
    def _serve_monitor(self, fd: int, events: dict[int, int], now: Instant) -> None:
        try:
            if events.get(fd, 0) & ~select.EPOLLOUT:
                for message in self._monitor.read():
                    self._obey(message, now)
            self._monitor.flush()
        except (OSError, ProtocolError) as error:
            log.warning("monitor.gone error=%s", error)
            self._forget(fd)
            self._monitor.close(now)

    def _obey(self, message: ToGateway, now: Instant) -> None:
        match message:
            case WatchChannels(channels=channels):
                wanted = {one.vm: one.path for one in channels[:CHANNELS]}
                for vm in [vm for vm, known in self._channels.items() if wanted.get(vm) != known.path]:
                    self._shut(self._channels.pop(vm), now)
                    self._monitor.mail.forget(vm)
                for vm, path in wanted.items():
                    if vm not in self._channels:
                        self._channels[vm] = Channel(vm, path, now)
            case Tell(vm=vm, message=told):
                channel = self._channels.get(vm)
                if channel is not None:
                    self._say(channel, told)

    def _say(self, channel: Channel, message: ToGuest) -> None:
        try:
            channel.say(encode_to_guest(message))
        except ProtocolError as error:
            log.warning("tell.refused vm=%s error=%s", channel.vm, error)
        except OSError as error:
            self._lose(channel, str(error))
        else:
            if channel.fd is not None:
                self._ask_for(channel)


def run(config: GatewayConfig, stop: threading.Event | None = None) -> None:
    """Read guests until ``stop`` is set, or for ever."""
    Gateway(config).run(stop if stop is not None else threading.Event())
