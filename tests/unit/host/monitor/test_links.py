"""The monitor's end of a process's connection: one at a time, of one user, and nothing piles up."""

import asyncio
import os
from pathlib import Path

import pytest

from hypervigil.host.monitor import links
from hypervigil.host.monitor.links import InboundLink, listen
from hypervigil.model.ids import Instant, VmId
from hypervigil.wire.frames import FrameDecoder, encode
from hypervigil.wire.gateway import ChannelLost, ChannelOpen, FromGateway, ToGateway, WatchChannels

OPEN = ChannelOpen(vm=VmId("a"), at=Instant(1.0))
LOST = ChannelLost(vm=VmId("a"), at=Instant(2.0), reason="gone")


class Rig:
    def __init__(self, path: Path, uid: int | None = None) -> None:
        self.path = path
        self.log: list[object] = []
        self.link: InboundLink[FromGateway] = InboundLink(
            "gateway",
            FromGateway,
            joined=lambda: self.log.append("joined"),
            hear=self.log.append,
            gone=lambda: self.log.append("gone"),
            uids=frozenset({os.getuid() if uid is None else uid}),
        )

    async def serving(self) -> asyncio.Task[None]:
        return asyncio.create_task(self.link.serve(listen(self.path, mode=0o600)))

    async def until(self, size: int) -> None:
        while len(self.log) < size:  # noqa: ASYNC110 - what is awaited has no event
            await asyncio.sleep(0.005)


def told(path: Path, story) -> Rig:
    async def whole() -> Rig:
        rig = Rig(path)
        task = await rig.serving()
        await asyncio.wait_for(story(rig), 10)
        task.cancel()
        return rig

    return asyncio.run(whole())


def test_what_is_said_is_heard_and_what_is_answered_arrives(tmp_path: Path) -> None:
    async def story(rig: Rig) -> None:
        reader, writer = await asyncio.open_unix_connection(str(rig.path))
        writer.write(encode(OPEN) + encode(LOST))
        await rig.until(3)
        assert rig.link.connected
        assert rig.link.send(WatchChannels(channels=()))
        decoder: FrameDecoder[ToGateway] = FrameDecoder(ToGateway)
        assert list(decoder.feed(await reader.read(4096))) == [WatchChannels(channels=())]
        writer.close()
        await rig.until(4)
        assert not rig.link.send(WatchChannels(channels=())), "nobody is there"

    rig = told(tmp_path / "s", story)
    assert rig.log == ["joined", OPEN, LOST, "gone"]
    assert rig.link.dropped == 1


def test_a_newcomer_replaces_who_was_there(tmp_path: Path) -> None:
    async def story(rig: Rig) -> None:
        reader, first = await asyncio.open_unix_connection(str(rig.path))
        await rig.until(1)
        _, second = await asyncio.open_unix_connection(str(rig.path))
        assert await reader.read() == b""
        second.write(encode(OPEN))
        await rig.until(3)
        first.close()
        second.close()
        await rig.until(4)

    assert told(tmp_path / "s", story).log == ["joined", "joined", OPEN, "gone"]


def test_bytes_that_are_no_message_end_the_connection(tmp_path: Path) -> None:
    async def story(rig: Rig) -> None:
        reader, writer = await asyncio.open_unix_connection(str(rig.path))
        writer.write(b"\x00\x00\x00\x04junk")
        assert await reader.read() == b""
        writer.close()

    rig = told(tmp_path / "s", story)
    assert rig.log == ["joined", "gone"]
    assert rig.link.refused == 1


def test_another_user_is_not_heard(tmp_path: Path) -> None:
    async def story() -> Rig:
        rig = Rig(tmp_path / "s", os.getuid() + 1)
        task = await rig.serving()
        reader, writer = await asyncio.open_unix_connection(str(rig.path))
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()
        task.cancel()
        return rig

    rig = asyncio.run(story())
    assert rig.log == []
    assert rig.link.refused == 1


def test_who_does_not_read_is_sent_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "_SEND_LIMIT", 1000)

    async def story(rig: Rig) -> None:
        _, writer = await asyncio.open_unix_connection(str(rig.path))
        await rig.until(1)
        for _ in range(100_000):
            if not rig.link.send(WatchChannels(channels=())):
                break
        writer.close()

    assert told(tmp_path / "s", story).link.dropped == 1
