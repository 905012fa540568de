"""A signed head of the journal: what the enforcer signs and keeps, and what verification reads. No I/O, no keys."""

import hashlib

import msgspec

DIGEST_SIZE = 32
_PURPOSE = b"hypervigil journal head 1\n"


class DamagedHeadsError(Exception):
    """A line of a file of heads is no head; the message is one sentence."""


class SignedHead(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One line of ``heads.jsonl`` (bytes in base64). ``wall_at`` is the signer's clock and is not signed."""

    sequence: int
    digest: bytes
    signature: bytes
    key_id: str
    wall_at: float


_decoder = msgspec.json.Decoder(SignedHead)


def head_message(sequence: int, digest: bytes) -> bytes:
    """The bytes that are signed; their beginning keeps a signature from meaning anything elsewhere."""
    return _PURPOSE + sequence.to_bytes(8, "big") + digest


def key_id(public_key: bytes) -> str:
    """A short name of a raw Ed25519 public key."""
    return hashlib.sha256(public_key).hexdigest()[:16]


def encode_head(head: SignedHead) -> bytes:
    """One line, with its end."""
    return msgspec.json.encode(head) + b"\n"


def parse_heads(untrusted_bytes: bytes) -> list[SignedHead]:
    """The heads of a file, oldest first; an unfinished last line (being written, or torn by a crash) is left out."""
    lines = untrusted_bytes[: untrusted_bytes.rfind(b"\n") + 1].splitlines()
    heads = []
    for number, line in enumerate(lines, start=1):
        try:
            heads.append(_decoder.decode(line))
        except (msgspec.DecodeError, ValueError):
            raise DamagedHeadsError(f"line {number} of the signed heads is damaged") from None
    return heads
