"""Signs the journal's heads with a key that the monitor cannot read, and keeps a copy of each where it cannot write."""

import contextlib
import os
import secrets
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from hypervigil.wire.heads import (
    DIGEST_SIZE,
    DamagedHeadsError,
    SignedHead,
    encode_head,
    head_message,
    key_id,
    parse_heads,
)

MAX_HEADS_BYTES = 64 * 1024 * 1024
_TAIL_BYTES = 64 * 1024


class SigningError(Exception):
    """A head is not signed; one sentence says why and the mend."""


class HeadSigner:
    """One key, one file of heads. A head goes only forward, and one sequence has only one digest.

    So whoever takes over the monitor can add to the journal but cannot have a shortened or rewritten one signed.
    """

    def __init__(self, key: Path, heads: Path, public_key: Path, *, max_heads_bytes: int = MAX_HEADS_BYTES) -> None:
        """Load the key, or make it (0600) where there is none; write ``public_key`` (0644, PEM)."""
        self._key = _load_or_create(key)
        public = self._key.public_key()
        self.key_id = key_id(public.public_bytes(Encoding.Raw, PublicFormat.Raw))
        pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        self._heads = heads
        self._max_bytes = max_heads_bytes
        try:
            if not public_key.exists() or public_key.read_bytes() != pem:
                _replace(public_key, pem, 0o644)
            self._last = _last_head(heads)
        except OSError as error:
            raise SigningError(f"the signed heads cannot be kept at {heads}: {error.strerror}; mend that") from error

    @property
    def last(self) -> SignedHead | None:
        """The newest head signed."""
        return self._last

    def sign(self, sequence: int, digest: bytes, *, wall_at: float) -> tuple[bytes, str]:
        """``(signature, key_id)`` of a head, after its copy is safely on disk. ``SigningError`` if it goes back."""
        if sequence <= 0 or sequence >= 1 << 63 or len(digest) != DIGEST_SIZE:
            raise SigningError(f"a head has a sequence from 1 and a digest of {DIGEST_SIZE} bytes")
        last = self._last
        if last is not None:
            mend = f"keep the journal for inspection; to begin a new one, move {self._heads} aside as well"
            if sequence < last.sequence:
                raise SigningError(f"the journal went back from record {last.sequence} to {sequence}: {mend}")
            if sequence == last.sequence:
                if digest != last.digest:
                    raise SigningError(f"record {sequence} of the journal is not the one that was signed: {mend}")
                if last.key_id == self.key_id:
                    return last.signature, last.key_id
        signature = self._key.sign(head_message(sequence, digest))
        head = SignedHead(sequence=sequence, digest=digest, signature=signature, key_id=self.key_id, wall_at=wall_at)
        try:
            self._keep(head)
        except OSError as error:
            raise SigningError(f"the signed head cannot be kept at {self._heads}: {error.strerror}") from error
        self._last = head
        return signature, self.key_id

    def _keep(self, head: SignedHead) -> None:
        descriptor = os.open(self._heads, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            end = _end_of_lines(descriptor)
            os.ftruncate(descriptor, end)
            line = encode_head(head)
            os.lseek(descriptor, end, os.SEEK_SET)
            if os.write(descriptor, line) != len(line):
                os.ftruncate(descriptor, end)
                raise OSError(28, "no space left for a whole line")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if end == 0:
            _sync_directory(self._heads.parent)
        if end + len(line) > self._max_bytes:
            self._thin()

    def _thin(self) -> None:
        """Keep every second head of the older half: any later head still proves all that came before it."""
        lines = self._heads.read_bytes().splitlines(keepends=True)
        half = len(lines) // 2
        _replace(self._heads, b"".join([*lines[:half:2], *lines[half:]]), 0o644)


def _load_or_create(path: Path) -> Ed25519PrivateKey:
    try:
        if not path.exists():
            _create_key(path)
        mode = path.stat().st_mode & 0o777
        if mode & 0o077:
            raise SigningError(f"others can read the signing key {path} (mode {mode:o}): chmod 600 {path}")
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise SigningError(f"{path} holds no signing key of ours: move it aside and a new one is made") from None
    except OSError as error:
        raise SigningError(f"the signing key {path} cannot be read or made: {error.strerror}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise SigningError(f"{path} holds a key that is not Ed25519: move it aside and a new one is made")
    return key


def _create_key(path: Path) -> None:
    """Whole or not at all, and never over a key that another process made meanwhile."""
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    temporary = _write_aside(path, pem, 0o600)
    try:
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink()
    _sync_directory(path.parent)


def _replace(path: Path, data: bytes, mode: int) -> None:
    _write_aside(path, data, mode).replace(path)
    _sync_directory(path.parent)


def _write_aside(path: Path, data: bytes, mode: int) -> Path:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        temporary.unlink()
        raise
    return temporary


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _end_of_lines(descriptor: int) -> int:
    """Where the last whole line ends (a crash may have torn the one after it)."""
    size = os.fstat(descriptor).st_size
    start = max(0, size - _TAIL_BYTES)
    return start + os.pread(descriptor, _TAIL_BYTES, start).rfind(b"\n") + 1


def _last_head(path: Path) -> SignedHead | None:
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            lines = file.read().splitlines(keepends=True)
    except FileNotFoundError:
        return None
    whole = [line for line in lines if line.endswith(b"\n")]
    if not whole:
        return None
    try:
        return parse_heads(whole[-1])[0]
    except DamagedHeadsError:
        raise SigningError(f"the last line of {path} is damaged: restore it from a copy, or move it aside") from None
