"""The enforcer's desk for channels: one question, one answer, and libvirt says where the socket is."""

import asyncio
import contextlib
import os
import socket
import threading
from pathlib import Path

import pytest

from hypervigil.hypervisor.adapters.libvirt.limits import DomainGoneError
from hypervigil.hypervisor.channels import fetch
from hypervigil.hypervisor.enforcer import channels
from hypervigil.hypervisor.enforcer.channels import ChannelDesk
from hypervigil.model.ids import VmId

VM = VmId("d305389d-a6a9-4eda-9ac7-c6789abb0b92")
OTHER = VmId("d305389d-a6a9-4eda-9ac7-c6789abb0b93")


class Libvirt:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.held = threading.Event()
        self.held.set()

    def channel(self, vm: VmId) -> str:
        self.held.wait(5)
        if vm != VM:
            raise DomainGoneError(f"domain {vm} is gone")
        return str(self.path)


class Rig:
    def __init__(self, directory: Path, *, uid: int | None = None) -> None:
        self.at = directory / "channels.sock"
        self.guest = socket.socket(socket.AF_UNIX)
        self.guest.bind(str(directory / "agent.sock"))
        self.guest.listen(4)
        self.libvirt = Libvirt(directory / "agent.sock")
        self.desk = ChannelDesk(self.libvirt, gateway_uid=os.getuid() if uid is None else uid)

    async def fetch(self, vm: VmId) -> bool:
        """Whether the gateway got a channel."""
        try:
            opened = await asyncio.get_running_loop().run_in_executor(None, fetch, self.at, vm)
        except OSError:
            return False
        opened.close()
        return True

    @contextlib.asynccontextmanager
    async def serving(self):
        server = await asyncio.start_unix_server(self.desk.serve, path=self.at)
        async with server:
            yield
        self.guest.close()


def test_a_running_domain_has_a_channel_and_no_other(tmp_path: Path) -> None:
    async def story() -> tuple[bool, ...]:
        rig = Rig(tmp_path)
        async with rig.serving():
            return await rig.fetch(VM), await rig.fetch(OTHER), await rig.fetch(VmId("x" * 36)), await rig.fetch(VM)

    assert asyncio.run(story()) == (True, False, False, True)


def test_only_the_gateways_user_is_answered(tmp_path: Path) -> None:
    async def story() -> bool:
        rig = Rig(tmp_path, uid=os.getuid() + 1)
        async with rig.serving():
            return await rig.fetch(VM)

    assert asyncio.run(story()) is False


def test_a_libvirt_that_hangs_holds_back_no_more_than_the_desk_has_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "MOST", 1)

    async def story() -> tuple[bool, bool]:
        rig = Rig(tmp_path)
        rig.libvirt.held.clear()
        async with rig.serving():
            waiting = asyncio.create_task(rig.fetch(VM))
            while not rig.desk.asking:  # noqa: ASYNC110 - what is awaited has no event
                await asyncio.sleep(0.01)
            refused = await rig.fetch(VM)
            rig.libvirt.held.set()
            return await waiting, refused

    assert asyncio.run(story()) == (True, False)


def test_who_asks_nothing_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "ASK_S", 0.05)

    async def story() -> bytes:
        rig = Rig(tmp_path)
        async with rig.serving():
            reader, writer = await asyncio.open_unix_connection(str(rig.at))
            writer.write(b"half a question")
            told = await asyncio.wait_for(reader.read(), 5)
            writer.close()
            return told

    assert asyncio.run(story()) == b""
