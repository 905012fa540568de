"""What an agent in a guest and the host say to each other: one line is one JSON array, its first item the type.

Lines and not frames: whoever joins a stream in the middle finds the next beginning, and an agent needs no codec.
There are whole numbers, plain words (no quote, backslash, comma or space) and arrays of them, and nothing else.
Which VM speaks is nowhere in a message: the host's socket says it.
"""

import re
from collections.abc import Iterator
from enum import Enum, auto
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta

from hypervigil.model.guest import GuestMetric, Need, SpecialRequest, Suspect, Zone
from hypervigil.model.traffic import Direction
from hypervigil.wire.frames import ProtocolError, quoted

VERSION = 1
LINE_FROM_GUEST = 16384
"""The longest line that is taken from a guest, in bytes with its end."""
LINE_TO_GUEST = 2048
HISTORY_LINE = 1024
UNSEEN = -1
_METRICS = len(GuestMetric)
T = TypeVar("T")
_NUMBER_MAX = 2**53 - 1

Number = Annotated[int, Meta(ge=0, le=_NUMBER_MAX)]
Value = Annotated[int, Meta(ge=UNSEEN, le=_NUMBER_MAX)]
"""A count, state or share; ``UNSEEN`` where the guest's kernel does not tell."""
WORD = 32
Word = Annotated[str, Meta(max_length=WORD, pattern=r"^[A-Za-z0-9_.:/@+-]*\Z")]
Address = Annotated[str, Meta(max_length=45, pattern=r"^[0-9a-f.:]*\Z")]
Port = Annotated[int, Meta(ge=0, le=65535)]
Values = Annotated[tuple[Value, ...], Meta(min_length=_METRICS, max_length=_METRICS)]
Level = Annotated[int, Meta(ge=1, le=2)]


class _Item(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """A part of a message."""


class _FromGuest(_Item, frozen=True):
    """The head of every message of an agent."""

    version: Literal[1]
    agent: Number
    """Drawn anew at each start of the agent."""
    sequence: Annotated[int, Meta(ge=1, le=_NUMBER_MAX)]
    """Grows with each line that this agent sends; a gap is lines that were lost."""
    at_ms: Number
    """The guest's own ``CLOCK_BOOTTIME`` when it saw what it tells; a line may be sent later than that."""


# --- guest → host --------------------------------------------------------------------------------------------------
class Hello(_FromGuest, frozen=True, tag="hello"):
    """Answer to the question ``hello``, and told once at the agent's start."""

    release: Word
    boot_id: Annotated[str, Meta(max_length=36, pattern=r"^[0-9a-f-]*\Z")]
    level: Level
    history: Number
    """The number of the brief history in use; 0 is none."""
    cpus: Number
    memory_kib: Number
    blind: Annotated[tuple[Word, ...], Meta(max_length=16)] = ()
    """Sources that this guest's kernel or rights do not give."""


class Talker(_Item, frozen=True):
    """One address and how many packets (of the guest's own estimate) went there or came from there."""

    direction: Direction
    address: Address
    packets: Number


class Sampling(_Item, frozen=True):
    """How the headers of one direction were sampled: each of ``read`` stands for ``weight`` packets."""

    weight: Annotated[int, Meta(ge=1, le=2**32)]
    read: Number
    passed: Number = 0
    """So many the kernel picked; what is beyond ``read`` was not read."""
    one_in: Annotated[int, Meta(ge=0, le=2**32)] = 0
    """Of so many frames it picked one; 0: an agent that does not say."""


class _Report(_FromGuest, frozen=True):
    """What both levels report."""

    level: Level
    breaches: Annotated[int, Meta(ge=0, le=_METRICS)]
    """Metrics that are above their line now, hysteresis included."""
    history: Number
    interval_ms: Annotated[int, Meta(ge=0, le=86_400_000)]
    values: Values
    """Indexed by ``GuestMetric``."""
    sampling: tuple[Sampling, Sampling]
    """Out and in."""
    talkers: Annotated[tuple[Talker, ...], Meta(max_length=16)]
    """The busiest."""


class Report1(_Report, frozen=True, tag="r1"):
    """One second at Level 1."""


class Flow(_Item, frozen=True):
    """One flow in the interval, by its headers; packets and octets are estimates where headers were sampled."""

    began: Direction
    """OUT: the guest began it, as far as it knows."""
    protocol: Annotated[int, Meta(ge=0, le=255)]
    here: Address
    here_port: Port
    there: Address
    there_port: Port
    zone: Zone
    packets_out: Number
    packets_in: Number
    octets_out: Number
    octets_in: Number
    openings: Number


class Transmitter(_Item, frozen=True):
    """One process that has sockets."""

    pid: Number
    name: Word
    octets_out: Number
    """Acknowledged TCP octets in the interval."""
    sockets: Number
    raw: Number
    """Raw and packet sockets among them: what they send is in no count of TCP."""


class Device(_Item, frozen=True):
    """One virtual device in the interval."""

    name: Word
    requests: Number
    octets: Number


class Report2(_Report, frozen=True, tag="r2"):
    """One second at Level 2: all of Level 1, and its details."""

    flows: Annotated[tuple[Flow, ...], Meta(max_length=64)]
    flows_in_all: Number
    """Before only the busiest were kept."""
    transmitters: Annotated[tuple[Transmitter, ...], Meta(max_length=16)]
    devices: Annotated[tuple[Device, ...], Meta(max_length=16)]


class _Notice(_FromGuest, frozen=True):
    """A notice is sent again until it is acknowledged."""

    number: Number


class Breach(_Item, frozen=True):
    """A metric that was above its line."""

    metric: GuestMetric
    value: Number
    line: Number


class LevelChanged(_Notice, frozen=True, tag="level"):
    """The agent's level now and why: own finding, told by the host, or taken up again after the agent's restart."""

    level: Level
    cause: Literal["breach", "told", "restart"]
    suspect: Suspect
    breaches: Annotated[tuple[Breach, ...], Meta(max_length=16)]


class Lost(_Notice, frozen=True, tag="lost"):
    """So many lines could not be kept for a channel that was cut or full."""

    lines: Number
    since_ms: Number


class Special(_Notice, frozen=True, tag="special"):
    """A special request of the guest."""

    kind: SpecialRequest
    what: Word
    amount: Annotated[int, Meta(ge=-_NUMBER_MAX, le=_NUMBER_MAX)]


class Wanted(_Notice, frozen=True, tag="wanted"):
    """The guest asks for more of a resource; ``amount`` 0 takes the wish back. In permille; memory in KiB."""

    need: Need
    has: Number
    amount: Number
    near_s: Number
    """How long it has been near its capacity."""


class _Answer(_FromGuest, frozen=True):
    """Answer to the question of this number."""

    number: Number


class Flows(_Answer, frozen=True, tag="flows"):
    """The flows since the time asked for, the busiest first."""

    flows: Annotated[tuple[Flow, ...], Meta(max_length=64)]
    flows_in_all: Number


class Top(_Answer, frozen=True, tag="top"):
    """The busiest addresses of the last ten minutes and the busiest transmitters of now."""

    talkers: Annotated[tuple[Talker, ...], Meta(max_length=32)]
    transmitters: Annotated[tuple[Transmitter, ...], Meta(max_length=16)]


class Load(_Answer, frozen=True, tag="load"):
    """Workload now, in permille, and how often and how long (seconds) each resource was near its capacity."""

    cpu: Value
    steal: Value
    memory: Value
    disk: Value
    near_times: tuple[Number, Number, Number]
    """CPU, memory, disk."""
    near_s: tuple[Number, Number, Number]


class Declined(_Answer, frozen=True, tag="declined"):
    """A question that the agent does not know, or too many of them."""

    reason: Word


FromGuest = Hello | Report1 | Report2 | LevelChanged | Lost | Special | Wanted | Flows | Top | Load | Declined


# --- host → guest --------------------------------------------------------------------------------------------------
class Ask(_Item, frozen=True, tag="ask"):
    """A question: ``hello``, ``flows`` (since a time of the guest's clock), ``top``, ``load``."""

    number: Number
    question: Word
    since_ms: Number = 0


class Acknowledge(_Item, frozen=True, tag="ack"):
    """A notice of this number was heard."""

    number: Number


class SetLevel(_Item, frozen=True, tag="set-level"):
    """Go to this level; only this message can lower it."""

    level: Level


class Usual(_Item, frozen=True):
    """What is usual of one metric, in tenths of its unit per second: its middle and how far it strays."""

    metric: GuestMetric
    middle: Number
    spread: Number


class BriefHistory(_Item, frozen=True, tag="history"):
    """What HSEM knows to be usual of this VM; at most ``HISTORY_LINE`` bytes."""

    number: Annotated[int, Meta(ge=1, le=_NUMBER_MAX)]
    usual: Annotated[tuple[Usual, ...], Meta(max_length=_METRICS)]
    ports: Annotated[tuple[Port, ...], Meta(max_length=32)] = ()
    """Ports that it usually sends to; empty: the agent goes by what it has seen itself."""


class ProviderNetworks(_Item, frozen=True, tag="networks"):
    """What counts as inside; each e.g. ``10.60.0.0/24``."""

    networks: Annotated[tuple[Word, ...], Meta(max_length=48)]


ToGuest = Ask | Acknowledge | SetLevel | BriefHistory | ProviderNetworks

_from_guest: msgspec.json.Decoder[FromGuest] = msgspec.json.Decoder(FromGuest)
_to_guest: msgspec.json.Decoder[ToGuest] = msgspec.json.Decoder(ToGuest)
_encoder = msgspec.json.Encoder()
_PLAIN = re.compile(rb'[][0-9,A-Za-z_.:/@+"-]*\Z')


def parse_from_guest(untrusted_line: bytes) -> FromGuest:
    """A line without its end: a message, or ``ProtocolError`` and never anything else."""
    return _parse(_from_guest, untrusted_line, LINE_FROM_GUEST)


def parse_to_guest(untrusted_line: bytes) -> ToGuest:
    """What an agent should make of a line; the agent has a parser of its own."""
    return _parse(_to_guest, untrusted_line, LINE_TO_GUEST)


def _parse(decoder: msgspec.json.Decoder[T], untrusted_line: bytes, longest: int) -> T:
    if len(untrusted_line) >= longest:
        raise ProtocolError(f"a line of {len(untrusted_line)} bytes is longer than the {longest} that are taken")
    try:
        return decoder.decode(untrusted_line)
    except (msgspec.DecodeError, ValueError, OverflowError, RecursionError) as error:
        raise ProtocolError(f"not a message of this protocol: {quoted(error)}") from None


def encode_to_guest(message: ToGuest) -> bytes:
    """One line with its end; ``ProtocolError`` where an agent would not take it."""
    line = _encoder.encode(message)
    longest = HISTORY_LINE if isinstance(message, BriefHistory) else LINE_TO_GUEST
    if len(line) >= longest:
        raise ProtocolError(f"a line of {len(line)} bytes is longer than the {longest} that an agent takes")
    if not _PLAIN.match(line):
        raise ProtocolError(f"a word in {type(message).__name__} is not plain")
    return line + b"\n"


class Spoilt(Enum):
    """A line that is none."""

    TOO_LONG = auto()


class LineSplitter:
    """Cuts a stream into lines of bounded length; after a line without end it goes on at the next beginning."""

    def __init__(self, longest: int = LINE_FROM_GUEST) -> None:
        self._longest = longest
        self._buffer = bytearray()
        self._skipping = False

    @property
    def pending(self) -> int:
        """Bytes of an unfinished line held so far."""
        return len(self._buffer)

    def feed(self, untrusted_bytes: bytes) -> Iterator[bytes | Spoilt]:
        """The lines that these bytes complete, without their ends, empty ones left out."""
        *ended, rest = untrusted_bytes.split(b"\n")
        lines: list[bytes | Spoilt] = []
        for part in ended:
            if self._skipping:
                self._skipping = False
                continue
            whole = bytes(self._buffer) + part if self._buffer else part
            self._buffer.clear()
            if len(whole) >= self._longest:
                lines.append(Spoilt.TOO_LONG)
            elif whole:
                lines.append(whole)
        if not self._skipping:
            self._buffer += rest
            if len(self._buffer) >= self._longest:
                self._buffer.clear()
                self._skipping = True
                lines.append(Spoilt.TOO_LONG)
        return iter(lines)
