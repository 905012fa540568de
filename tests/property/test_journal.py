"""Whoever changes the journal's file behind its back is found: each of the five ways, wherever and whatever it was."""

import contextlib
import shutil
import sqlite3

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hypervigil.host.journal import Entry, Journal, Kind
from hypervigil.host.journal.records import GENESIS, chained
from hypervigil.host.journal.verify import read_heads, read_public_key, verify
from hypervigil.hypervisor.enforcer.signing import HeadSigner
from hypervigil.model.ids import CaseId, Instant, VmId

RECORDS = 60
SIGNED_EVERY = 20
FIELDS = ("boot_id", "boot_s", "wall_at", "kind", "case_number", "vm", "limit_number", "body")
COLUMNS = ("sequence", *FIELDS, "digest")
KINDS = list(Kind)

# Derandomised examples would always try the same tampering; the seed of a failure is printed.
thorough = settings(max_examples=150, deadline=None)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A journal of 60 records, its head signed at 20, 40 and 60."""
    folder = tmp_path_factory.mktemp("journal")
    signer = HeadSigner(folder / "head.key", folder / "heads.jsonl", folder / "head.pub")
    with Journal.open(folder / "journal.db", boot_id="boot") as journal:
        for n in range(1, RECORDS + 1):
            entry = Entry(
                KINDS[n % len(KINDS)],
                {"n": n},
                Instant(float(n)),
                1_700_000_000.0 + n,
                CaseId(f"c{n % 5}") if n % 2 else None,
                VmId(f"vm{n % 3}") if n % 4 else None,
            )
            journal.append_many([entry])
            if n % SIGNED_EVERY == 0:
                signer.sign(*journal.head(), wall_at=1_700_000_000.0 + n)
    # Who changes a journal behind its back takes the triggers away first: here once for all.
    with contextlib.closing(sqlite3.connect(folder / "journal.db")) as connection, connection:
        for trigger in ("no_update", "no_delete", "next_only"):
            connection.execute(f"DROP TRIGGER record_{trigger}")
    return folder


@pytest.fixture(scope="module")
def copy(original):
    """Verification of a copy after ``tamper(connection)``."""

    def tampered(tamper, *, heads=True):
        path = original / "copy.db"
        shutil.copyfile(original / "journal.db", path)
        for log in ("-wal", "-shm"):
            (original / f"copy.db{log}").unlink(missing_ok=True)
        with contextlib.closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("PRAGMA synchronous = OFF")  # a copy needs to survive nothing
            tamper(connection)
        kept = read_heads(original / "heads.jsonl") if heads else []
        return verify(path, kept, read_public_key(original / "head.pub"))

    return tampered


def read(connection, sequence):
    return list(
        connection.execute(f"SELECT {', '.join(COLUMNS)} FROM record WHERE sequence = ?", [sequence]).fetchone()
    )


def write(connection, row):
    connection.execute(f"INSERT INTO record VALUES ({', '.join('?' * len(COLUMNS))})", row)


def rechain(connection):
    """What a tamperer who knows the format does: give every record the digest that fits."""
    digest = GENESIS
    for row in connection.execute(f"SELECT {', '.join(COLUMNS)} FROM record ORDER BY sequence").fetchall():
        digest = chained(digest, row[:-1])
        connection.execute("UPDATE record SET digest = ? WHERE sequence = ?", [digest, row[0]])


def other_value(column, old):
    if column in {"boot_s", "wall_at"}:
        new = st.floats(allow_nan=False, allow_infinity=False)
    elif column in {"case_number", "limit_number"}:
        new = st.none() | st.integers(0, 2**62)
    elif column == "vm":
        new = st.none() | st.text(st.characters(codec="utf-8"))
    elif column in {"body", "digest"}:
        # One bit, one byte more, one less, or anything.
        flips = st.integers(0, len(old) * 8 - 1).map(
            lambda bit: bytes(b ^ (1 << bit % 8) if n == bit // 8 else b for n, b in enumerate(old))
        )
        new = flips | st.just(old[:-1]) | st.just(old + b"\x00") | st.binary(max_size=64)
    else:
        new = st.text(st.characters(codec="utf-8"))
    return new.filter(lambda value: value != old)


def test_untouched_it_verifies(copy):
    found = copy(lambda connection: None)
    assert (found.ok, found.records, found.signed, found.first_bad, found.problem) == (True, 60, 60, None, None)


@thorough
@given(data=st.data(), heads=st.booleans())
def test_an_altered_record_is_found_where_it_is(copy, data, heads):
    sequence = data.draw(st.integers(1, RECORDS))
    column = data.draw(st.sampled_from((*FIELDS, "digest")))

    def alter(connection):
        old = read(connection, sequence)[COLUMNS.index(column)]
        new = data.draw(other_value(column, old))
        connection.execute(f"UPDATE record SET {column} = ? WHERE sequence = ?", [new, sequence])

    found = copy(alter, heads=heads)
    assert (found.ok, found.first_bad) == (False, sequence)


@thorough
@given(data=st.data())
def test_a_removed_record_is_found_where_it_was(copy, data):
    first = data.draw(st.integers(1, RECORDS - 1))
    last = data.draw(st.integers(first, RECORDS - 1))
    found = copy(lambda c: c.execute("DELETE FROM record WHERE sequence BETWEEN ? AND ?", [first, last]), heads=False)
    assert (found.ok, found.first_bad) == (False, first)


@thorough
@given(data=st.data(), close_the_gap=st.booleans())
def test_a_removed_record_is_found_also_when_the_rest_moves_up(copy, data, close_the_gap):
    sequence = data.draw(st.integers(1, RECORDS - 1))

    def remove(connection):
        connection.execute("DELETE FROM record WHERE sequence = ?", [sequence])
        for later in range(sequence + 1, RECORDS + 1):
            connection.execute("UPDATE record SET sequence = ? WHERE sequence = ?", [later - 1, later])
        if close_the_gap:
            rechain(connection)

    found = copy(remove)
    assert not found.ok
    if close_the_gap and sequence > RECORDS - SIGNED_EVERY:
        assert (found.signed, found.first_bad) == (RECORDS - SIGNED_EVERY, RECORDS), "it became a truncated one"
    elif close_the_gap:
        assert found.first_bad == (sequence - 1) // SIGNED_EVERY * SIGNED_EVERY + 1
    else:
        assert found.first_bad == sequence


@thorough
@given(data=st.data(), fitting=st.booleans())
def test_an_inserted_record_is_found_where_it_is(copy, data, fitting):
    place = data.draw(st.integers(1, RECORDS))
    model = data.draw(st.integers(1, RECORDS))

    def slip_in(connection):
        for later in range(RECORDS, place - 1, -1):
            connection.execute("UPDATE record SET sequence = ? WHERE sequence = ?", [later + 1, later])
        row = read(connection, model + (model >= place))
        previous = read(connection, place - 1)[-1] if place > 1 else GENESIS
        row[0] = place
        row[COLUMNS.index("body")] += b"\x00"
        if fitting:
            row[-1] = chained(previous, tuple(row[:-1]))
        write(connection, row)

    found = copy(slip_in)
    assert (found.ok, found.first_bad) == (False, place + (fitting and place % SIGNED_EVERY != 0)) or (
        # A fitting record in the place of a signed one is told by the head, which names the first unproved record.
        fitting and not found.ok and found.first_bad == place - SIGNED_EVERY + 1
    )


@thorough
@given(places=st.lists(st.integers(1, RECORDS), min_size=2, max_size=2, unique=True), with_digests=st.booleans())
def test_two_records_that_changed_places_are_found(copy, places, with_digests):
    one, two = sorted(places)

    def swap(connection):
        rows = read(connection, one), read(connection, two)
        columns = (*FIELDS, "digest") if with_digests else FIELDS
        for row, sequence in zip(rows, (two, one), strict=True):
            for column in columns:
                value = row[COLUMNS.index(column)]
                connection.execute(f"UPDATE record SET {column} = ? WHERE sequence = ?", [value, sequence])

    found = copy(swap, heads=False)
    assert (found.ok, found.first_bad) == (False, one)


@thorough
@given(keep=st.integers(0, RECORDS - 1), refill=st.booleans())
def test_a_truncated_journal_is_found_by_its_heads(copy, keep, refill):
    def truncate(connection):
        rows = [read(connection, sequence) for sequence in range(keep + 1, RECORDS + 1)]
        connection.execute("DELETE FROM record WHERE sequence > ?", [keep])
        if refill:
            for row in rows:
                row[COLUMNS.index("wall_at")] += 1.0
                write(connection, row)
            rechain(connection)

    assert copy(truncate, heads=False).ok, "the chain alone cannot tell"
    found = copy(truncate)
    assert not found.ok
    assert found.signed == keep // SIGNED_EVERY * SIGNED_EVERY
    assert found.first_bad == (found.signed if refill else keep) + 1


@thorough
@given(data=st.data())
def test_a_chain_rewritten_from_the_middle_is_found_by_its_heads(copy, data):
    sequence = data.draw(st.integers(1, RECORDS))
    column = data.draw(st.sampled_from(FIELDS))

    def rewrite(connection):
        old = read(connection, sequence)[COLUMNS.index(column)]
        new = data.draw(other_value(column, old))
        connection.execute(f"UPDATE record SET {column} = ? WHERE sequence = ?", [new, sequence])
        rechain(connection)

    found = copy(rewrite)
    assert not found.ok
    assert found.first_bad == (sequence - 1) // SIGNED_EVERY * SIGNED_EVERY + 1
    assert "rewritten" in found.problem
