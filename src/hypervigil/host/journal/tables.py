"""The journal's tables, for SQLite now and PostgreSQL later, and the triggers that refuse change."""

from sqlalchemy import (
    DDL,
    REAL,
    BigInteger,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    event,
)
from sqlalchemy.schema import ExecutableDDLElement
from sqlalchemy.types import TypeEngine

VERSION = 1

metadata = MetaData()
_Real: TypeEngine[float] = Double().with_variant(REAL(), "sqlite")
_Number: TypeEngine[int] = BigInteger().with_variant(Integer(), "sqlite")

about = Table("about", metadata, Column("version", Integer, nullable=False))

record = Table(
    "record",
    metadata,
    Column("sequence", _Number, primary_key=True, autoincrement=False),
    Column("boot_id", Text, nullable=False),
    Column("boot_s", _Real, nullable=False),
    Column("wall_at", _Real, nullable=False),
    Column("kind", Text, nullable=False),
    Column("case_number", _Number),
    Column("vm", Text),
    Column("limit_number", _Number),
    Column("body", LargeBinary, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    sqlite_strict=True,
)

Index("record_by_kind", record.c.kind, record.c.sequence)
for _name in ("case_number", "vm", "limit_number"):
    _column = record.c[_name]
    Index(f"record_by_{_name}", _column, record.c.sequence, sqlite_where=_column.is_not(None))

# "INSERT OR REPLACE" removes a row without firing a DELETE trigger, hence the third.
_GUARDS = (
    ("no_update", "BEFORE UPDATE ON record", "the journal is append-only: nothing is changed"),
    ("no_delete", "BEFORE DELETE ON record", "the journal is append-only: nothing is removed"),
    (
        "next_only",
        "BEFORE INSERT ON record WHEN NEW.sequence <> (SELECT coalesce(max(sequence), 0) + 1 FROM record)",
        "the journal is append-only: a record goes to its end",
    ),
)
for _name, _when, _message in _GUARDS:
    _ddl: ExecutableDDLElement = DDL(  # type: ignore[no-untyped-call]
        f"CREATE TRIGGER record_{_name} {_when} BEGIN SELECT RAISE(ABORT, '{_message}'); END"
    )
    event.listen(record, "after_create", _ddl.execute_if(dialect="sqlite"))
