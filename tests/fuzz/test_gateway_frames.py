"""What gateway and monitor say to each other, by the damages of the other host processes' frames."""

import random

import msgspec
import pytest

from hypervigil.model.ids import Instant, VmId
from hypervigil.wire import gateway
from hypervigil.wire.frames import FrameDecoder, ProtocolError, encode
from tests.fuzz.lines import LONG, QUICK, SEED
from tests.fuzz.words import FROM_GUEST, TO_GUEST
from tests.property.test_frames import mutated

VM = VmId("11111111-2222-3333-4444-555555555555")
FROM: tuple[gateway.FromGateway, ...] = (
    *(gateway.Heard(vm=VM, at=Instant(2.0), message=message) for message in FROM_GUEST),
    gateway.ChannelOpen(vm=VM, at=Instant(1.0)),
    gateway.ChannelLost(vm=VM, at=Instant(3.0), reason="no socket"),
    gateway.Unheard(vm=VM, at=Instant(4.0), garbage=3, held_back_ms=900),
)
TO: tuple[gateway.ToGateway, ...] = (
    gateway.WatchChannels(channels=(gateway.Channel(VM, "/run/channel.sock"),)),
    *(gateway.Tell(vm=VM, message=message) for message in TO_GUEST),
)
PROTOCOLS = ((gateway.FromGateway, FROM), (gateway.ToGateway, TO))


@pytest.mark.parametrize(("kind", "sent"), PROTOCOLS)
def test_what_is_said_arrives(kind, sent):
    decoder = FrameDecoder(kind)
    assert tuple(decoder.feed(b"".join(encode(message) for message in sent))) == sent


@pytest.mark.req("T-CORE-13")
@pytest.mark.parametrize(
    "count", [QUICK, pytest.param(LONG, marks=[pytest.mark.long, pytest.mark.timeout(3600)])], ids=["quick", "long"]
)
@pytest.mark.parametrize(("kind", "sent"), PROTOCOLS)
def test_damaged_frames_parse_or_are_refused(kind, sent, count):
    rng = random.Random(SEED)
    frames = [encode(message) for message in sent]
    refused = 0
    for _ in range(count):
        try:
            list(FrameDecoder(kind).feed(mutated(rng, rng.choice(frames))))
        except ProtocolError:
            refused += 1
    assert refused > count // 20


def test_a_guests_message_is_checked_again_by_whoever_hears_of_it():
    frame = msgspec.msgpack.encode({"is": "heard", "vm": VM, "at": 1.0, "message": ["r1", 1, 2]})
    with pytest.raises(ProtocolError):
        list(FrameDecoder(gateway.FromGateway).feed(len(frame).to_bytes(4, "big") + frame))
