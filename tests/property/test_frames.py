"""The decoder takes anything a process may send: parse or ``ProtocolError``, never anything else."""

import random
import time
import tracemalloc

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypervigil.model.ids import Instant, LimitId, PortId, VmId
from hypervigil.model.limits import Limit, LimitKind
from hypervigil.model.observation import ClassCounts, GreeterCount, PeerCount, PortSample, ResourceSample, Sweep
from hypervigil.model.policy import Mode
from hypervigil.model.port_policy import PortPolicy
from hypervigil.model.traffic import Direction, TrafficClass
from hypervigil.model.vm import Inventory, Nic, Vm
from hypervigil.wire import control, messages
from hypervigil.wire.frames import MAX_FRAME, FrameDecoder, ProtocolError, encode

VM = VmId("11111111-2222-3333-4444-555555555555")
PORT = PortId("52:54:00:00:00:01")
COUNTS = ClassCounts(packets=(1,) * 11, octets=(60,) * 11, limited=(0,) * 11)
PEER = PeerCount(Direction.OUT, "10.60.0.2", PORT, 9, 540, 9, 0, 0, 1, new=True)
GREETER = GreeterCount(Direction.IN, "10.60.0.2", PORT, 21, 3, 3, 2, 1, 4.5)
SWEEP = Sweep(
    sequence=7,
    at=Instant(12.5),
    interval_s=0.2,
    ports=(PortSample(VM, PORT, COUNTS, COUNTS, (0,) * 10, 1, 0, (PEER,), greeters=(GREETER,)),),
    resources=(ResourceSample(VM, cpu=0.5),),
)
LIMIT = Limit(
    id=LimitId("l1"),
    vm=VM,
    kind=LimitKind.PACKETS,
    since=Instant(1.0),
    until=Instant(31.0),
    reason="surge",
    value=20.0,
    classes=frozenset({TrafficClass.SYN}),
)
PORT_POLICY = PortPolicy(PORT, VM, "vnet0", 5, Mode.ENFORCE, ("10.60.0.11",))
INVENTORY = Inventory((Vm(VM, "a", 1, 196608, (Nic(PORT, "vnet0", 5, "br0"),)),))

SENSORS = (
    messages.Swept(sweep=SWEEP),
    messages.InventoryChanged(at=Instant(1.0), inventory=INVENTORY),
    messages.Blind(at=Instant(3.0), what="block statistics", since=Instant(2.0)),
)
TO_ENFORCER = (
    messages.BindPorts(request=1, policies=(PORT_POLICY,), release=(PORT,)),
    messages.PutLimits(request=2, limits=(LIMIT,)),
    messages.LiftLimits(request=3, limits=(LIMIT.id,)),
    messages.SetTripwires(request=4, tripwires=(messages.Tripwire(PORT, Direction.OUT, TrafficClass.SYN, 9),)),
    messages.SignHead(request=5, sequence=9, digest=bytes(32)),
    messages.Ask(request=6),
)
FROM_ENFORCER = (
    messages.Done(request=1, outcomes=(messages.Outcome("l1", ok=True, at=Instant(2.0), detail="20"),)),
    messages.Signed(request=5, signature=bytes(64), key_id="k"),
    messages.InForce(request=6, boot_id="b", ports=(PORT_POLICY,), limits=(LIMIT,)),
    messages.Repaired(at=Instant(3.0), subject="l1", ok=True, detail=""),
    messages.Ended(at=Instant(3.0), limit=LIMIT.id, vm=VM, reason="hard end"),
    messages.Refused(request=7, reason="no"),
)
REQUESTS = (
    control.ShowStatus(),
    control.ShowCases(closed=False),
    control.ShowNetwork(),
    control.PutLimit(name="a", kind=LimitKind.CPU, value=0.5, for_s=60),
    control.ApplyPolicy(text='mode = "monitor"', dry_run=True),
    control.ImportHistory(data=b"\x00" * 40),
)
PROTOCOLS = (
    (messages.FromSensors, SENSORS),
    (messages.ToEnforcer, TO_ENFORCER),
    (messages.FromEnforcer, FROM_ENFORCER),
    (control.Request, REQUESTS),
    (control.Response, (control.Answer(body={"vms": [{"name": "a", "level": 1, "limits": []}]}),)),
)
MUTATIONS = 10_000


def decoded(kind: object, stream: bytes, chunk: int | None = None) -> list[object]:
    decoder: FrameDecoder[object] = FrameDecoder(kind)
    chunk = chunk or max(1, len(stream))
    return [
        message for start in range(0, len(stream), chunk) for message in decoder.feed(stream[start : start + chunk])
    ]


@pytest.mark.parametrize(("kind", "sent"), PROTOCOLS)
@given(data=st.data())
def test_whatever_the_cuts_of_the_stream_the_same_messages_come_out(kind, sent, data):
    stream = b"".join(encode(message) for message in sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=30)))
    decoder = FrameDecoder(kind)
    received = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        received += decoder.feed(stream[start:end])
    assert tuple(received) == sent
    assert decoder.pending == 0


def mutated(rng: random.Random, frame: bytes) -> bytes:
    """One damage of the kinds that a broken or hostile peer makes; half of them keep the frame's length honest."""
    header, body = bytearray(frame[:4]), bytearray(frame[4:])
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(body) + 1)
        match rng.randrange(8):
            case 0 if body:
                body[at % len(body)] ^= 1 << rng.randrange(8)
            case 1 if body:
                body[at % len(body)] = rng.choice((0xC0, 0xC1, 0xDD, 0xDF, 0xC6, 0xDB, 0xCB, 0xCF, 0xD3, 0xFF, 0x00))
            case 2:
                del body[at : at + rng.randint(1, 16)]
            case 3:
                body[at:at] = rng.randbytes(rng.randint(1, 16))
            case 4:
                body[at:at] = rng.choice((b"\xdd", b"\xdf", b"\xc6", b"\xdb", b"\xc9")) + b"\xff\xff\xff\xff"
            case 5:
                body[at:at] = rng.choice((b"\x91", b"\x81\xa1a")) * rng.choice((10, 2_000, 20_000))
            case 6:
                body[at:at] = body[: rng.randint(0, len(body))]
            case _:
                body[at:at] = rng.choice(
                    (b"\xcb\x7f\xf0" + bytes(6), b"\xcb\x7f\xf8" + bytes(6), b"\xcf" + b"\xff" * 8)
                )
    if rng.random() < 0.5:
        header = bytearray(len(body).to_bytes(4, "big"))
    elif rng.random() < 0.3:
        header = bytearray(rng.randbytes(4))
    return bytes(header + body)


@pytest.mark.req("T-CORE-13")
@pytest.mark.parametrize(("kind", "sent"), PROTOCOLS)
def test_mutated_messages_parse_or_are_refused(kind, sent):
    rng = random.Random(20_260_101)
    parsed = waiting = 0
    complaints = []
    for _ in range(MUTATIONS // len(PROTOCOLS)):
        frame = mutated(rng, encode(rng.choice(sent)))
        decoder = FrameDecoder(kind)
        try:
            parsed += len(list(decoder.feed(frame)))
        except ProtocolError as error:
            complaints.append(str(error))
        else:
            waiting += decoder.pending > 0
    assert len(complaints) > 100
    assert all(len(complaint) < 400 and complaint.isprintable() for complaint in complaints)
    assert waiting > 0
    assert parsed > 0 or kind is control.Response


@given(st.binary(max_size=400))
def test_noise_parses_or_is_refused(noise):
    for kind, _ in PROTOCOLS:
        try:
            decoded(kind, len(noise).to_bytes(4, "big") + noise)
        except ProtocolError:
            pass


@pytest.mark.parametrize(("kind", "_sent"), PROTOCOLS)
@pytest.mark.parametrize("nest", [b"\x91", b"\x81\xa1a", b"\x81\xa4body"])
def test_nesting_without_end_is_refused(kind, _sent, nest):
    body = nest * 500_000
    with pytest.raises(ProtocolError):
        decoded(kind, len(body).to_bytes(4, "big") + body)


@pytest.mark.parametrize(
    "claim", [b"\xdd\xff\xff\xff\xff", b"\xdf\x7f\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xf0"]
)
def test_a_claimed_length_costs_no_memory(claim):
    body = b"\x82\xa2is\xa6answer\xa4body\x81\xa1x" + claim
    tracemalloc.start()
    with pytest.raises(ProtocolError):
        decoded(control.Response, len(body).to_bytes(4, "big") + body)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000


def test_a_frame_beyond_the_bound_is_refused_from_its_header_alone():
    decoder: FrameDecoder[object] = FrameDecoder(messages.ToEnforcer, max_frame=1000)
    with pytest.raises(ProtocolError, match="1001 bytes is announced"):
        list(decoder.feed((1001).to_bytes(4, "big")))


def test_a_message_too_large_to_frame_is_not_encoded():
    with pytest.raises(ProtocolError, match="larger than"):
        encode(control.ImportHistory(data=bytes(MAX_FRAME)))


def test_after_a_break_nothing_more_is_taken_or_held():
    decoder: FrameDecoder[object] = FrameDecoder(messages.ToEnforcer)
    with pytest.raises(ProtocolError):
        list(decoder.feed(b"\x00\x00\x00\x01\xc1"))
    for _ in range(3):
        with pytest.raises(ProtocolError):
            list(decoder.feed(encode(messages.Ask(request=1)) * 1000))
    assert decoder.pending == 0


def test_bytes_are_taken_also_when_nobody_iterates():
    frame = encode(messages.Ask(request=1))
    decoder: FrameDecoder[object] = FrameDecoder(messages.ToEnforcer)
    decoder.feed(frame[:3])
    assert list(decoder.feed(frame[3:])) == [messages.Ask(request=1)]


def test_the_other_ends_text_cannot_steer_a_terminal_through_the_error():
    body = msgspec.msgpack.encode({"is": "\x1b[2J\nroot: all is well" + "x" * 5000})
    with pytest.raises(ProtocolError) as caught:
        decoded(messages.ToEnforcer, len(body).to_bytes(4, "big") + body)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


def test_many_small_feeds_cost_time_in_proportion():
    stream = encode(control.ImportHistory(data=bytes(400_000))) + encode(messages.Ask(request=1)) * 20_000

    def seconds(count: int) -> float:
        decoder: FrameDecoder[object] = FrameDecoder(control.Request | messages.Ask)
        began = time.perf_counter()
        for start in range(0, count, 16):
            for _ in decoder.feed(stream[start : start + 16]):
                pass
        return time.perf_counter() - began

    small = min(seconds(len(stream) // 8) for _ in range(3))
    assert seconds(len(stream)) < 8 * small * 6 + 0.05
