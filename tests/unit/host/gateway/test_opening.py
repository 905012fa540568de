"""Channels are opened beside the loop: slowness and refusals cost no guest that is heard."""

import select
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hypervigil.host.gateway.opening import Opener, connect_directly
from hypervigil.host.gateway.process import Gateway, GatewayConfig
from hypervigil.model.ids import Instant, VmId
from hypervigil.wire.frames import FrameDecoder, encode
from hypervigil.wire.gateway import Channel, ChannelLost, ChannelOpen, FromGateway, Heard, WatchChannels

A, B = VmId("a"), VmId("b")
HELLO = b'["hello",1,7,%d,1000,"0.1.0","",1,0,1,1024,[]]\n'


def listening(path: Path) -> socket.socket:
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen(4)
    server.settimeout(5)
    return server


class Rig:
    """A gateway that is turned by hand, its monitor and its guests."""

    def __init__(self, directory: Path) -> None:
        self.at = 1000.0
        self.held = threading.Event()
        self.directory = directory
        self.guests = {vm: listening(directory / vm) for vm in (A, B)}
        self._listener = listening(directory / "monitor")
        self.gateway = Gateway(GatewayConfig(directory / "monitor", self._connect), now=lambda: Instant(self.at))
        self._turn()
        self.monitor, _ = self._listener.accept()
        self.monitor.setblocking(False)
        self._decoder: FrameDecoder[FromGateway] = FrameDecoder(FromGateway)
        self.told: list[FromGateway] = []

    def _connect(self, vm: VmId, path: str) -> socket.socket:
        if vm == B:
            self.held.wait(5)
        return connect_directly(vm, path)

    def _turn(self) -> None:
        self.gateway.turn()
        self.at += 0.05

    def watch(self, *vms: VmId) -> None:
        channels = tuple(Channel(vm, str(self.directory / vm)) for vm in vms)
        self.monitor.sendall(encode(WatchChannels(channels=channels)))

    def until(self, kind: type, vm: VmId) -> FromGateway:
        for _ in range(400):
            self._turn()
            try:
                self.told += self._decoder.feed(self.monitor.recv(65536))
            except BlockingIOError:
                pass
            found = next((one for one in self.told if isinstance(one, kind) and one.vm == vm), None)
            if found is not None:
                return found
        raise AssertionError(f"no {kind.__name__} of {vm}")

    def close(self) -> None:
        self.held.set()
        stop = threading.Event()
        stop.set()
        self.gateway.run(stop)
        for one in (*self.guests.values(), self._listener, self.monitor):
            one.close()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.close()


def test_a_guest_is_heard_while_anothers_channel_is_still_being_opened(rig: Rig) -> None:
    rig.watch(B, A)
    rig.held.set()
    rig.until(ChannelOpen, A)
    there, _ = rig.guests[A].accept()
    with there:
        there.sendall(HELLO % 1)
        heard = rig.until(Heard, A)
    assert isinstance(heard, Heard)
    assert heard.message.sequence == 1
    rig.until(ChannelLost, A)
    rig.until(ChannelOpen, B)


def test_a_hanging_opener_keeps_nobody_from_being_heard(rig: Rig) -> None:
    rig.watch(A)
    rig.until(ChannelOpen, A)
    rig.watch(A, B)
    there, _ = rig.guests[A].accept()
    with there:
        for sequence in range(1, 4):
            there.sendall(HELLO % sequence)
            rig.told.clear()
            heard = rig.until(Heard, A)
            assert heard.message.sequence == sequence
        assert not any(isinstance(one, ChannelOpen) for one in rig.told)
        rig.held.set()
        rig.until(ChannelOpen, B)


def test_what_nobody_wants_any_more_is_closed(rig: Rig) -> None:
    rig.watch(B)
    for _ in range(5):
        rig.gateway.turn()
    rig.watch(A)
    rig.until(ChannelOpen, A)
    rig.held.set()
    there, _ = rig.guests[B].accept()
    with there:
        there.settimeout(5)
        for _ in range(100):
            rig.gateway.turn()
            if select.select([there], [], [], 0)[0]:
                break
        assert there.recv(64) == b"", "the gateway let it go"


def test_what_cannot_be_opened_is_tried_again_and_not_at_once() -> None:
    tries: list[VmId] = []

    def refuse(vm: VmId, _path: str) -> socket.socket:
        tries.append(vm)
        raise ConnectionRefusedError("no")

    opener = Opener(refuse)
    opener.ask(A, "/a")
    assert select.select([opener.fileno()], [], [], 5)[0]
    ((vm, path, opened),) = opener.take()
    assert (vm, path) == (A, "/a")
    assert isinstance(opened, ConnectionRefusedError)
    assert opener.take() == []
    opener.close()
    assert tries == [A]
