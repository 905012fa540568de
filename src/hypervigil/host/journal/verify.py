"""Finds any altered, removed, inserted, reordered or truncated record."""

import sqlite3
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from hypervigil.host.journal.opening import connect, need_journal, sentence
from hypervigil.host.journal.records import GENESIS, JournalError, chained
from hypervigil.wire.heads import DamagedHeadsError, SignedHead, head_message, parse_heads

_QUERY = (
    "SELECT sequence, boot_id, boot_s, wall_at, kind, case_number, vm, limit_number, body, digest"
    " FROM record ORDER BY sequence"
)
_NOT_TO_BE_HAD = ("SQLITE_BUSY", "SQLITE_CANTOPEN", "SQLITE_LOCKED", "SQLITE_PERM", "SQLITE_READONLY")
"""What says nothing of the records."""


@dataclass(frozen=True, slots=True)
class Verification:
    """What verification found."""

    ok: bool
    records: int
    """How many records were found whole, from the first."""
    signed: int
    """The highest sequence that a signed head proves; what follows is chained but could still be rewritten."""
    seconds: float
    first_bad: int | None = None
    """The first record that is altered, missing or, where a signed head disagrees, not proved by an earlier head."""
    problem: str | None = None
    """One sentence."""


def read_heads(path: Path) -> list[SignedHead]:
    """The signed heads in a file; none where there is no file. ``JournalError`` if it cannot be read."""
    try:
        return parse_heads(path.read_bytes())
    except FileNotFoundError:
        return []
    except DamagedHeadsError as error:
        raise JournalError(f"{error}: compare {path} with another copy of it") from error
    except OSError as error:
        raise JournalError(f"the signed heads {path} cannot be read: {error.strerror}; be root") from error


def read_public_key(path: Path) -> Ed25519PublicKey:
    """The key that checks heads. ``JournalError`` if it cannot be read."""
    try:
        key = load_pem_public_key(path.read_bytes())
    except OSError as error:
        raise JournalError(
            f"the public key {path} cannot be read: {error.strerror}; name one that you may read"
        ) from error
    except (ValueError, UnsupportedAlgorithm):
        raise JournalError(f"{path} holds no public key: take a copy from the host's enforcer") from None
    if not isinstance(key, Ed25519PublicKey):
        raise JournalError(f"{path} holds a key that is not Ed25519: take a copy from the host's enforcer")
    return key


def verify(path: Path, heads: Iterable[SignedHead] = (), public_key: Ed25519PublicKey | None = None) -> Verification:
    """Walk the whole chain and compare it with the signed heads (read those before calling: the journal may grow).

    The signature of the newest head is checked, which proves all before it, and of every head that disagrees, to tell
    a rewritten journal from a forged head. Without ``public_key`` the heads are taken at their word.
    """
    began = time.perf_counter()
    ordered = sorted(heads, key=lambda head: head.sequence)
    checked, last_proved, first_bad, problem = _walk(path, ordered, public_key)
    if problem is None and ordered:
        newest = ordered[-1]
        if not _genuine(newest, public_key):
            first_bad, problem = None, f"the signature of the newest head (record {newest.sequence}) is not genuine"
            last_proved = 0
        elif newest.sequence > checked:
            first_bad = checked + 1
            missing = newest.sequence - checked
            problem = (
                f"the journal ends at record {checked} but record {newest.sequence} was signed: "
                f"the last {missing} are gone, and what stands after record {last_proved} is not proved"
            )
    return Verification(problem is None, checked, last_proved, time.perf_counter() - began, first_bad, problem)


def _walk(
    path: Path, heads: Sequence[SignedHead], public_key: Ed25519PublicKey | None
) -> tuple[int, int, int | None, str | None]:
    """``(records found whole, last one proved by a head, first bad, problem)``."""
    by_sequence: dict[int, list[SignedHead]] = {}
    for head in heads:
        by_sequence.setdefault(head.sequence, []).append(head)
    checked, proved, digest = 0, 0, GENESIS
    need_journal(path)
    try:
        connection = connect(path, read_only=True)
    except sqlite3.Error as error:
        raise JournalError(sentence(path, error)) from error
    try:
        for row in connection.execute(_QUERY):
            sequence = row[0]
            if sequence != checked + 1:
                return checked, proved, checked + 1, _misplaced(checked, sequence)
            digest = chained(digest, row[:-1])
            if digest != row[-1]:
                problem = (
                    f"record {sequence} does not match its digest: it was altered, or put where it was not written"
                )
                return checked, proved, sequence, problem
            for head in by_sequence.get(sequence, ()):
                if head.digest != digest:
                    problem = (
                        f"record {sequence} is not the one that was signed: "
                        f"the journal was rewritten after record {proved}"
                    )
                    if not _genuine(head, public_key):
                        problem = f"the head kept for record {sequence} is forged: its signature is not genuine"
                    return checked, proved, proved + 1, problem
                proved = sequence
            checked = sequence
    except (sqlite3.Error, UnicodeDecodeError, TypeError, OverflowError) as error:
        if isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorname", "").startswith(_NOT_TO_BE_HAD):
            raise JournalError(sentence(path, error)) from error
        return checked, proved, checked + 1, f"after record {checked} the journal cannot be read: {error}"
    finally:
        connection.close()
    return checked, proved, None, None


def _misplaced(previous: int, found: object) -> str:
    if not isinstance(found, int) or found <= previous:
        return f"a record that was never written stands before record {previous + 1}"
    missing = found - previous - 1
    what = f"record {previous + 1} is" if missing == 1 else f"records {previous + 1} to {found - 1} are"
    return f"{what} missing"


def _genuine(head: SignedHead, public_key: Ed25519PublicKey | None) -> bool:
    if public_key is None:
        return True
    try:
        public_key.verify(head.signature, head_message(head.sequence, head.digest))
    except (InvalidSignature, OverflowError):
        return False
    return True
