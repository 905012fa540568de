"""A record of the journal: its kinds, its bodies, its place in the chain. Pure."""

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NewType, TypeVar

import msgspec

from hypervigil.model.ids import CaseId, Instant, LimitId, VmId

MAX_BODY = 8 * 1024 * 1024
GENESIS = hashlib.sha256(b"hypervigil journal 1").digest()
"""What the first record's digest follows."""

T = TypeVar("T")
Body = NewType("Body", bytes)
"""msgpack of ``[type name, version, value]``: exact for every float, NaN and infinity included."""


class JournalError(Exception):
    """One sentence: what is wrong with the journal and the mend."""


class Kind(StrEnum):
    """What a record tells; in parentheses the type of its body."""

    FACT = "fact"
    """What decided (evidence, or whatever the judge takes)."""
    LEVEL = "level"
    """(``EnterLevel2``, ``LeaveLevel2``)"""
    DECISION = "decision"
    """(``Verdict``)"""
    ORDERED = "ordered"
    """A limit is to be put in force (``Limit``)."""
    ENFORCED = "enforced"
    """How that ended, as read back (``Enforcement``)."""
    WITHHELD = "withheld"
    """What monitor mode would have put in force (``Limit``)."""
    LIFTED = "lifted"
    """(``LiftLimit``)"""
    GAP = "gap"
    """A time of which the journal tells less than all (``Gap``)."""
    OPERATOR = "operator"
    """(``OperatorCommand``)"""
    POLICY = "policy"
    """(``PolicyChange``)"""
    INVENTORY = "inventory"
    """(``Inventory``)"""
    REPAIRED = "repaired"
    """(``Repair``)"""
    BLIND = "blind"
    """(``Blindness``)"""
    GUEST = "guest"
    """What an agent in a guest told, or that it fell silent (``Evidence``); with the open case of its VM."""
    SIGNATURE = "signature"
    """(``HeadSignature``)"""


@dataclass(frozen=True, slots=True)
class Enforcement:
    """How putting one limit in force (or lifting it) ended."""

    limit: LimitId
    ok: bool
    detail: str
    """The value read back, or the error and its mend."""
    at: Instant | None = None


@dataclass(frozen=True, slots=True)
class Gap:
    """Somebody was away, or the journal could not be written."""

    what: str
    """``monitor``, ``sensors``, ``journal`` …"""
    from_wall_at: float
    until_wall_at: float
    reason: str
    held: int = 0
    """Records that waited in memory and follow this one."""
    lost: int = 0
    """Records that memory had no room for."""


@dataclass(frozen=True, slots=True)
class OperatorCommand:
    """Somebody told us to."""

    by: str
    command: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class PolicyChange:
    """A policy came into force."""

    by: str
    changes: tuple[str, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Repair:
    """What somebody else had changed is back, or could not be put back."""

    subject: str
    ok: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Blindness:
    """Something is not seen since then; with ``since`` None it is seen again."""

    what: str
    since: Instant | None


@dataclass(frozen=True, slots=True)
class HeadSignature:
    """The record ``sequence`` with this digest was signed and copied out."""

    sequence: int
    digest: bytes
    signature: bytes
    key_id: str


def _plain(value: object) -> object:
    if hasattr(value, "item"):  # a numpy scalar
        return value.item()
    raise NotImplementedError


_encoder = msgspec.msgpack.Encoder(order="deterministic", enc_hook=_plain)
_envelope = msgspec.msgpack.Decoder(tuple[str, int, msgspec.Raw])
_chain_encode = msgspec.msgpack.Encoder().encode
_sha256 = hashlib.sha256


def encode_body(value: object) -> Body:
    """The body of a model value (dataclass, msgspec struct) or of plain builtins. ``JournalError`` if it has none."""
    version = getattr(type(value), "BODY_VERSION", 1)
    try:
        body = _encoder.encode((type(value).__name__, version, value))
    except (TypeError, ValueError, NotImplementedError, OverflowError, RecursionError) as error:
        raise JournalError(f"a {type(value).__name__} cannot be written to the journal: {error}") from error
    if len(body) > MAX_BODY:
        raise JournalError(f"a {type(value).__name__} of {len(body)} bytes is larger than the {MAX_BODY} of a record")
    return Body(body)


@dataclass(frozen=True, slots=True)
class Entry:
    """A record to be: everything but its place in the chain. ``value`` is a model value or plain builtins."""

    kind: Kind
    value: object
    now: Instant
    wall_at: float
    case: CaseId | None = None
    vm: VmId | None = None
    limit: LimitId | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """One record as it stands in the journal."""

    sequence: int
    boot_id: str
    boot_s: Instant
    wall_at: float
    kind: Kind
    case: CaseId | None
    vm: VmId | None
    limit: LimitId | None
    body: Body
    digest: bytes

    @property
    def body_type(self) -> str:
        """The name of the body's type."""
        return _open(self)[0]

    def read(self, kind: type[T]) -> T:
        """The body as ``kind``; fields added since it was written get their defaults. ``JournalError`` otherwise."""
        name, version, raw = _open(self)
        if name != kind.__name__:
            raise JournalError(f"record {self.sequence} holds a {name}, not a {kind.__name__}")
        if version > getattr(kind, "BODY_VERSION", 1):
            raise JournalError(f"record {self.sequence} was written by a newer Hypervigil: read it with that one")
        try:
            return msgspec.msgpack.decode(raw, type=kind)
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise JournalError(f"record {self.sequence} holds no {name}: {error}") from error

    def plain(self) -> dict[str, Any]:
        """All of it as builtins, for people and JSON; NaN and infinities become ``None``."""
        name, _, raw = _open(self)
        return {
            "sequence": self.sequence,
            "boot_id": self.boot_id,
            "boot_s": self.boot_s,
            "wall_at": self.wall_at,
            "kind": self.kind.value,
            "case": self.case,
            "vm": self.vm,
            "limit": self.limit,
            "type": name,
            "body": msgspec.json.decode(msgspec.json.encode(msgspec.msgpack.decode(raw))),
            "digest": self.digest.hex(),
        }


def _open(record: Record) -> tuple[str, int, msgspec.Raw]:
    try:
        return _envelope.decode(record.body)
    except (msgspec.DecodeError, ValueError) as error:
        raise JournalError(f"record {record.sequence} is damaged ({error}): run 'hypervigil journal verify'") from error


Row = tuple[int, str, float, float, str, int | None, str | None, int | None, bytes]
"""All columns but the digest, in the order of the table."""


def chained(previous: bytes, row: Row) -> bytes:
    """The digest of a row that follows ``previous``: SHA-256 of it and of the row as one msgpack array.

    msgpack writes each value's type and length, so no two different rows have the same bytes.
    """
    return _sha256(previous + _chain_encode(row)).digest()


def number_of(prefix: str, name: str | None) -> int | None:
    """``c12`` → 12. Ids are kept as numbers, so that the highest ever given out is found at once."""
    if name is None:
        return None
    digits = name[len(prefix) :]
    if not (name.startswith(prefix) and digits.isdecimal() and digits.isascii() and len(digits) <= 18):
        raise JournalError(f"{name!r} is no id of the journal's; take them from next_case() and next_limit()")
    return int(digits)
