"""The journal's one writer and its many readers."""

import contextlib
import fcntl
import logging
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from sqlalchemy import ColumnElement, Connection, Engine, create_engine, event, func, insert, select
from sqlalchemy import Row as SqlRow
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from hypervigil.host.durable import replace_file
from hypervigil.host.journal import tables
from hypervigil.host.journal.opening import RESERVE_BYTES, connect, need_journal, sentence
from hypervigil.host.journal.records import (
    GENESIS,
    Body,
    Entry,
    Gap,
    HeadSignature,
    JournalError,
    Kind,
    Record,
    chained,
    encode_body,
    number_of,
)
from hypervigil.host.journal.spill import MAX_HELD, MAX_HELD_BYTES, Encoded, Spill
from hypervigil.model.ids import CaseId, Instant, LimitId, VmId

log = logging.getLogger(__name__)

RETRY_S = 1.0
_PAGE = 1000
_T = tables.record.c


class Journal:
    """Append-only records in a chain; ``open`` one to write (there is only one writer) or to read.

    What cannot be written (no space, a locked or failing file) waits in bounded memory and is appended later, behind
    a ``Gap`` that says how many waited and how many were lost: judging and limiting go on. (A slow disk is waited for.)
    Methods may be called from any thread.
    """

    def __init__(self, path: Path, engine: Engine, boot_id: str, lock_file: int | None, spill: Spill) -> None:
        """Not for callers: use ``open``."""
        self.path = path
        self._engine = engine
        self._boot_id = boot_id
        self._lock_file = lock_file
        self._lock = threading.RLock()
        self._spill = spill
        self._trouble: str | None = None
        self._trouble_since: float = 0.0
        self._retry_at: Instant = Instant(0.0)
        self._writing: Connection | None = engine.connect() if lock_file is not None else None
        self._head = self._read_head()
        self._cases, self._limits = self._highest_numbers()

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        boot_id: str | None = None,
        read_only: bool = False,
        max_held: int = MAX_HELD,
        max_held_bytes: int = MAX_HELD_BYTES,
    ) -> Self:
        """The journal at ``path``, made if it is not there (but not to read). ``JournalError`` with the mend."""
        if read_only:
            need_journal(path)
        if boot_id is None:
            boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        lock_file = None if read_only else _lock(path)
        spill = Spill(max_held=max_held, max_bytes=max_held_bytes)
        engine = _engine(path, read_only=read_only)
        try:
            if lock_file is not None:
                _prepare(path, engine)
            _check_version(path, engine, write=not read_only)
            return cls(path, engine, boot_id, lock_file, spill)
        except (DBAPIError, JournalError) as error:
            if lock_file is not None:
                os.close(lock_file)
            if isinstance(error, JournalError):
                raise
            raise JournalError(sentence(path, error)) from error

    def close(self) -> None:
        """Try once more to write what waits, then let go."""
        with self._lock:
            if self._writing is not None:
                if self._spill:
                    self._write_held([])
                self._writing.close()
                self._writing = None
            self._engine.dispose()
            if self._lock_file is not None:
                os.close(self._lock_file)
                self._lock_file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    # --- writing ---------------------------------------------------------------------------------------------------
    def append(
        self,
        kind: Kind,
        value: object,
        *,
        now: Instant,
        wall_at: float,
        case: CaseId | None = None,
        vm: VmId | None = None,
        limit: LimitId | None = None,
    ) -> Record | None:
        """Append one record, safely on disk when this returns; ``None`` if it waits in memory instead."""
        written = self.append_many([Entry(kind, value, now, wall_at, case, vm, limit)])
        return written[0] if written else None

    def append_many(self, entries: Iterable[Entry]) -> tuple[Record, ...] | None:
        """Append records in one transaction, all safely on disk when this returns; ``None`` if they wait in memory.

        ``JournalError`` only for what could never be written (a body without an encoding, an id of somebody else's).
        """
        encoded = [Encoded(entry, encode_body(entry.value)) for entry in entries]
        for one in encoded:
            _check(one.entry)
        if not encoded:
            return ()
        with self._lock:
            if self._writing is None:
                raise JournalError(f"the journal {self.path} is open for reading only")
            for one in encoded:
                self._note(one.entry.case, one.entry.limit)
            if self._spill and encoded[-1].entry.now < self._retry_at:
                self._hold(encoded)
                return None
            return self._write_held(encoded)

    def flush(self, now: Instant) -> bool:
        """Try to write what waits in memory; true if nothing waits any more. Call it once a second while it does."""
        with self._lock:
            if self._spill and self._writing is not None and now >= self._retry_at:
                self._retry_at = Instant(now + RETRY_S)
                self._write_held([])
            return not self._spill

    def record_signature(
        self, sequence: int, digest: bytes, signature: bytes, key: str, *, now: Instant, wall_at: float
    ) -> Record | None:
        """Note that the head ``sequence`` was signed and copied out."""
        return self.append(Kind.SIGNATURE, HeadSignature(sequence, digest, signature, key), now=now, wall_at=wall_at)

    def next_case(self) -> CaseId:
        """An id that was never given out before, also across restarts (once a record tells of it)."""
        with self._lock:
            self._cases += 1
            return CaseId(f"c{self._cases}")

    def next_limit(self) -> LimitId:
        """An id that was never given out before, also across restarts (once a record tells of it)."""
        with self._lock:
            self._limits += 1
            return LimitId(f"l{self._limits}")

    def never_again(self, *, case: CaseId | None = None, limit: LimitId | None = None) -> None:
        """Never give out these ids or lower ones: they were found in force, though records of them may be lost."""
        with self._lock:
            self._note(case, limit)

    @property
    def held(self) -> int:
        """Records that wait in memory."""
        return len(self._spill)

    @property
    def lost(self) -> int:
        """Records that memory had no room for since the trouble began."""
        return self._spill.lost

    @property
    def trouble(self) -> str | None:
        """Why records wait, in one sentence with the mend."""
        return self._trouble if self._spill else None

    # --- reading ---------------------------------------------------------------------------------------------------
    def head(self) -> tuple[int, bytes]:
        """``(sequence, digest)`` of the last record; sequence 0 while there is none."""
        with self._lock:
            return self._head if self._writing is not None else self._read_head()

    def records(
        self,
        *,
        kinds: Iterable[Kind] = (),
        case: CaseId | None = None,
        vm: VmId | None = None,
        limit_id: LimitId | None = None,
        after: int = 0,
        before: int | None = None,
        limit: int | None = None,
        newest_first: bool = False,
    ) -> Iterator[Record]:
        """Records that fit all given conditions, in order of sequence, read page by page.

        ``after`` and ``before`` are exclusive bounds of sequence; ``limit`` is how many at most.
        """
        conditions: list[ColumnElement[bool]] = []
        if wanted := [kind.value for kind in kinds]:
            conditions.append(_T.kind.in_(wanted))
        if case is not None:
            conditions.append(_T.case_number == number_of("c", case))
        if vm is not None:
            conditions.append(_T.vm == vm)
        if limit_id is not None:
            conditions.append(_T.limit_number == number_of("l", limit_id))
        left = limit
        while left is None or left > 0:
            page = _PAGE if left is None else min(_PAGE, left)
            query = select(tables.record).where(*conditions, _T.sequence > after).limit(page)
            if before is not None:
                query = query.where(_T.sequence < before)
            query = query.order_by(_T.sequence.desc() if newest_first else _T.sequence)
            with self._reading() as connection:
                rows = connection.execute(query).all()
            for row in rows:
                yield _record(row)
            if len(rows) < page:
                return
            left = None if left is None else left - page
            if newest_first:
                before = rows[-1].sequence
            else:
                after = rows[-1].sequence

    def last(self, *kinds: Kind) -> Record | None:
        """The newest record (of these kinds)."""
        return next(self.records(kinds=kinds, limit=1, newest_first=True), None)

    def count(self) -> int:
        """How many records there are."""
        return self.head()[0]

    def size_bytes(self) -> int:
        """Bytes on disk, write-ahead log included."""
        return sum(
            candidate.stat().st_size
            for candidate in (self.path, self.path.with_name(self.path.name + "-wal"))
            if candidate.exists()
        )

    # --- within ----------------------------------------------------------------------------------------------------
    def _write_held(self, encoded: Sequence[Encoded]) -> tuple[Record, ...] | None:
        """Write all that waits, then ``encoded``; the records of ``encoded``, or ``None`` when all of it waits now."""
        batch = list(encoded)
        waiting = self._spill.waiting()
        if waiting:
            newest = encoded[-1].entry if encoded else waiting[-1].entry
            gap = Gap(
                what="journal",
                from_wall_at=self._trouble_since,
                until_wall_at=newest.wall_at,
                reason=self._trouble or "",
                held=len(waiting),
                lost=self._spill.lost,
            )
            note = Entry(Kind.GAP, gap, newest.now, newest.wall_at)
            batch = [Encoded(note, encode_body(gap)), *waiting, *encoded]
        try:
            records = self._write(batch)
        except DBAPIError as error:
            if not self._spill:
                self._trouble_since = encoded[0].entry.wall_at if encoded else 0.0
            self._trouble = sentence(self.path, error)
            if encoded:
                self._retry_at = Instant(encoded[-1].entry.now + RETRY_S)
            self._hold(encoded)
            return None
        self._spill.clear()
        self._trouble = None
        return records[len(batch) - len(encoded) :]

    def _write(self, batch: Sequence[Encoded]) -> tuple[Record, ...]:
        assert self._writing is not None
        sequence, digest = self._head
        records = []
        for one in batch:
            sequence += 1
            record = _follow(sequence, digest, self._boot_id, one)
            digest = record.digest
            records.append(record)
        try:
            with self._writing.begin():
                self._writing.execute(insert(tables.record), [_columns(record) for record in records])
        except DBAPIError:
            # A commit that failed may still be on disk, and somebody else may have written: ask the file.
            with contextlib.suppress(JournalError):
                self._head = self._read_head()
            if self._head != (sequence, digest):
                raise
        self._head = (sequence, digest)
        return tuple(records)

    def _hold(self, encoded: Sequence[Encoded]) -> None:
        for one in encoded:
            self._spill.hold(one)

    def _note(self, case: CaseId | None, limit: LimitId | None) -> None:
        self._cases = max(self._cases, number_of("c", case) or 0)
        self._limits = max(self._limits, number_of("l", limit) or 0)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Connection]:
        try:
            with self._engine.connect() as connection:
                yield connection
        except DBAPIError as error:
            raise JournalError(sentence(self.path, error)) from error

    def _read_head(self) -> tuple[int, bytes]:
        with self._reading() as connection:
            query = select(_T.sequence, _T.digest).order_by(_T.sequence.desc()).limit(1)
            row = connection.execute(query).first()
        return (0, GENESIS) if row is None else (row.sequence, row.digest)

    def _highest_numbers(self) -> tuple[int, int]:
        with self._reading() as connection:
            cases = connection.scalar(select(func.max(_T.case_number)).where(_T.case_number.is_not(None)))
            limits = connection.scalar(select(func.max(_T.limit_number)).where(_T.limit_number.is_not(None)))
        return cases or 0, limits or 0


def _check(entry: Entry) -> None:
    number_of("c", entry.case)
    number_of("l", entry.limit)
    if not (abs(entry.now) < float("inf") and abs(entry.wall_at) < float("inf")):
        raise JournalError(f"a {entry.kind} record needs finite times")
    if entry.vm is not None and not entry.vm.isprintable():
        raise JournalError(f"{entry.vm!r} is no VM id")


def _follow(sequence: int, previous: bytes, boot_id: str, one: Encoded) -> Record:
    entry = one.entry
    # SQLite stores -0.0 as 0.0, so it must be hashed as 0.0.
    boot_s, wall_at = float(entry.now) + 0.0, float(entry.wall_at) + 0.0
    case, limit = number_of("c", entry.case), number_of("l", entry.limit)
    digest = chained(
        previous, (sequence, boot_id, boot_s, wall_at, entry.kind.value, case, entry.vm, limit, bytes(one.body))
    )
    return Record(
        sequence, boot_id, Instant(boot_s), wall_at, entry.kind, entry.case, entry.vm, entry.limit, one.body, digest
    )


def _columns(record: Record) -> dict[str, object]:
    return {
        "sequence": record.sequence,
        "boot_id": record.boot_id,
        "boot_s": record.boot_s,
        "wall_at": record.wall_at,
        "kind": record.kind.value,
        "case_number": number_of("c", record.case),
        "vm": record.vm,
        "limit_number": number_of("l", record.limit),
        "body": record.body,
        "digest": record.digest,
    }


def _record(row: SqlRow[*tuple[object, ...]]) -> Record:
    try:
        return Record(
            sequence=row.sequence,
            boot_id=row.boot_id,
            boot_s=Instant(row.boot_s),
            wall_at=row.wall_at,
            kind=Kind(row.kind),
            case=None if row.case_number is None else CaseId(f"c{row.case_number}"),
            vm=None if row.vm is None else VmId(row.vm),
            limit=None if row.limit_number is None else LimitId(f"l{row.limit_number}"),
            body=Body(row.body),
            digest=row.digest,
        )
    except ValueError as error:
        raise JournalError(f"record {row.sequence} is damaged ({error}): run 'hypervigil journal verify'") from error


def _engine(path: Path, *, read_only: bool) -> Engine:
    engine = create_engine("sqlite+pysqlite://", creator=lambda: connect(path, read_only=read_only), poolclass=NullPool)
    if not read_only:

        def prepare(connection: sqlite3.Connection, _record: object) -> None:
            # FULL: a decision must survive a power failure before it is acted on; WAL: readers never stop the writer.
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA journal_size_limit = 67108864")

        event.listen(engine, "connect", prepare)
    return engine


def _lock(path: Path) -> int:
    """Be the one writer until the descriptor is closed (or the process ends, however it ends)."""
    lock = path.with_name(path.name + ".lock")
    try:
        # Made before SQLite does, so that it and its log are nobody else's to read.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise JournalError(f"the journal {path} cannot be opened to write: {error.strerror}; mend that") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise JournalError(f"another process writes the journal {path}: stop it first") from None
    return descriptor


def _prepare(path: Path, engine: Engine) -> None:
    """Make the tables if need be. SQLite cannot even open a file in WAL mode where no space at all is left, and the
    monitor must start there too: so some space is kept in reserve and given up for that.
    """
    reserve = path.with_name(path.name + ".reserve")
    try:
        tables.metadata.create_all(engine)
    except DBAPIError:
        if not reserve.exists():
            raise
        reserve.unlink()
        tables.metadata.create_all(engine)
        return
    if not reserve.exists():
        try:
            replace_file(reserve, bytes(RESERVE_BYTES))
        except OSError as error:
            log.warning("journal.no_reserve path=%s error=%s", reserve, error.strerror)


def _check_version(path: Path, engine: Engine, *, write: bool) -> None:
    with engine.begin() as connection:
        version = connection.scalar(select(tables.about.c.version))
        if version is None and write:
            connection.execute(insert(tables.about).values(version=tables.VERSION))
        elif version is None or version > tables.VERSION:
            raise JournalError(f"the journal {path} was written by a newer Hypervigil: use that one, or another folder")
