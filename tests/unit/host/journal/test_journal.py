"""The journal keeps what it is told, in order, for good; and says clearly when it cannot."""

import contextlib
import math
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from hypervigil.host.journal import Entry, Journal, JournalError, Kind
from hypervigil.host.journal.records import GENESIS, MAX_BODY, Enforcement, Gap, HeadSignature, OperatorCommand
from hypervigil.host.journal.verify import verify
from hypervigil.model.ids import CaseId, Instant, LimitId, VmId
from hypervigil.model.limits import Limit, LimitKind
from hypervigil.model.report import EnterLevel2, LiftLimit
from hypervigil.model.status import AttackClass, Evidence, Origin, Role, Verdict
from hypervigil.model.traffic import TrafficClass

A, B = VmId("vm-a"), VmId("vm-b")


def evidence(value: float = 9.0, baseline: float | None = 1.0) -> Evidence:
    return Evidence(A, "outbound-surge", Origin.HOST_OBSERVED, Instant(1.0), value, baseline, "pps", "much")


def verdict(case: CaseId, role: Role = Role.ATTACKER) -> Verdict:
    return Verdict(case, A, role, AttackClass.FLOOD, Instant(2.0), 0.9, (evidence(),), "it floods", "less", B)


def limit(limit_id: LimitId, case: CaseId | None = None) -> Limit:
    return Limit(
        limit_id, A, LimitKind.PACKETS, Instant(2.0), Instant(32.0), "surge", 20.0,
        classes=frozenset({TrafficClass.SYN, TrafficClass.UDP}), case=case,
    )  # fmt: skip


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal.db"


@pytest.fixture
def journal(path):
    with Journal.open(path) as opened:
        yield opened


def at(second: float) -> dict[str, float]:
    return {"now": Instant(second), "wall_at": 1_700_000_000.0 + second}


def rows(path) -> int:
    with sqlite3.connect(path) as connection:
        return connection.execute("SELECT count(*) FROM record").fetchone()[0]


def test_what_is_appended_is_read_back_after_a_restart(path):
    values = [
        (Kind.FACT, evidence()),
        (Kind.LEVEL, EnterLevel2(A, CaseId("c1"), Instant(1.0), (evidence(),))),
        (Kind.DECISION, verdict(CaseId("c1"))),
        (Kind.ORDERED, limit(LimitId("l1"), CaseId("c1"))),
        (Kind.ENFORCED, Enforcement(LimitId("l1"), ok=True, detail="20 pps")),
        (Kind.LIFTED, LiftLimit(LimitId("l1"), A, Instant(9.0), "calm")),
        (Kind.OPERATOR, OperatorCommand("root", "release", {"name": "a"})),
    ]
    with Journal.open(path, boot_id="boot-1") as journal:
        for second, (kind, value) in enumerate(values):
            journal.append(kind, value, case=CaseId("c1"), vm=A, limit=LimitId("l1"), **at(second))
        head = journal.head()
    with Journal.open(path, read_only=True) as again:
        records = list(again.records())
        assert again.head() == head
    assert [record.read(type(value)) for record, (_, value) in zip(records, values, strict=True)] == [
        value for _, value in values
    ]
    first = records[0]
    assert (first.sequence, first.boot_id, first.boot_s, first.kind) == (1, "boot-1", 0.0, Kind.FACT)
    assert (first.case, first.vm, first.limit, first.body_type) == ("c1", A, "l1", "Evidence")
    assert (len(records), records[-1].digest) == head


def test_floats_survive_exactly_also_the_odd_ones(journal):
    for value in (0.1 + 0.2, math.inf, -math.inf, 5e-324, -0.0):
        record = journal.append(Kind.FACT, evidence(value), **at(1))
        assert record.read(Evidence).value == value
    assert math.isnan(journal.append(Kind.FACT, evidence(math.nan), **at(1)).read(Evidence).value)
    assert journal.last().plain()["body"]["value"] is None


def test_times_of_every_sign_verify(path, journal):
    for second in (-0.0, 0.0, 5.0, 1e15, 0.1):
        journal.append(Kind.FACT, evidence(), now=Instant(second), wall_at=-0.0)
    assert verify(path).ok


def test_a_batch_is_one_transaction(path, journal, monkeypatch):
    journal.append(Kind.FACT, evidence(), **at(0))
    with pytest.raises(JournalError, match="cannot be written"):
        journal.append_many([Entry(Kind.FACT, evidence(), **at(1)), Entry(Kind.FACT, object(), **at(1))])
    assert rows(path) == 1
    written = journal.append_many(Entry(Kind.FACT, evidence(n), **at(n)) for n in range(50))
    assert [record.sequence for record in written] == list(range(2, 52))
    assert journal.append_many([]) == ()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE record SET wall_at = 0 WHERE sequence = 2",
        "DELETE FROM record WHERE sequence = 3",
        "DELETE FROM record",
        "INSERT OR REPLACE INTO record SELECT * FROM record WHERE sequence = 2",
        "INSERT INTO record SELECT 9, boot_id, boot_s, wall_at, kind, NULL, vm, NULL, body, digest FROM record LIMIT 1",
    ],
)
def test_the_database_itself_refuses_change(path, journal, statement):
    for second in range(3):
        journal.append(Kind.FACT, evidence(), **at(second))
    with sqlite3.connect(path) as connection, pytest.raises(sqlite3.IntegrityError, match="append-only"):
        connection.execute(statement)
    assert verify(path).ok


def test_records_are_found_by_kind_case_vm_limit_and_place(journal):
    entries = [
        Entry(
            Kind.DECISION if number % 100 == 0 else Kind.FACT,
            {"n": number},
            **at(number),
            case=CaseId(f"c{number % 7}"),
            vm=A if number % 2 else B,
        )
        for number in range(1, 2501)
    ]
    for start in range(0, 2500, 700):
        journal.append_many(entries[start : start + 700])

    def found(**conditions):
        return [record.sequence for record in journal.records(**conditions)]

    assert found() == list(range(1, 2501))
    assert found(newest_first=True) == list(range(2500, 0, -1))
    assert found(kinds=[Kind.DECISION]) == list(range(100, 2501, 100))
    assert found(kinds=[Kind.DECISION], after=2300) == [2400, 2500]
    assert found(kinds=[Kind.DECISION], before=300) == [100, 200]
    assert found(case=CaseId("c3"), limit=2, newest_first=True) == [2495, 2488]
    assert found(vm=B, after=2490, limit=2) == [2492, 2494]
    assert found(limit=1500) == list(range(1, 1501))
    assert found(limit=0) == []
    assert found(vm=VmId("nobody")) == []
    assert journal.last(Kind.DECISION).sequence == 2500
    assert journal.last(Kind.GAP) is None


def test_ids_are_never_given_out_twice(path):
    with Journal.open(path) as journal:
        assert (journal.next_case(), journal.next_case(), journal.next_limit()) == ("c1", "c2", "l1")
        for number in (9, 10, 2):
            journal.append(Kind.FACT, evidence(), case=CaseId(f"c{number}"), limit=LimitId(f"l{number}"), **at(0))
    with Journal.open(path) as journal:
        assert (journal.next_case(), journal.next_limit()) == ("c11", "l11")
        journal.never_again(case=CaseId("c40"), limit=LimitId("l50"))
        journal.never_again(case=CaseId("c4"), limit=LimitId("l5"))
        assert (journal.next_case(), journal.next_limit()) == ("c41", "l51")


@pytest.mark.parametrize("case", ["c", "c-1", "x1", "c1;", "c٣", "c" + "9" * 19])
def test_an_id_of_somebody_elses_is_refused(path, journal, case):
    with pytest.raises(JournalError, match="next_case"):
        journal.append(Kind.FACT, evidence(), case=CaseId(case), **at(0))
    assert rows(path) == 0


@pytest.mark.parametrize("instant", [math.nan, math.inf])
def test_a_time_that_is_none_is_refused(journal, instant):
    with pytest.raises(JournalError, match="finite"):
        journal.append(Kind.FACT, evidence(), now=Instant(instant), wall_at=0.0)


def test_a_body_beyond_the_bound_is_refused(journal):
    with pytest.raises(JournalError, match="larger than"):
        journal.append(Kind.FACT, bytes(MAX_BODY), **at(0))


def test_a_body_is_only_read_as_what_it_is(journal):
    record = journal.append(Kind.FACT, evidence(), **at(0))
    with pytest.raises(JournalError, match="holds a Evidence, not a Verdict"):
        record.read(Verdict)


def test_a_body_of_a_newer_version_is_not_misread(journal, monkeypatch):
    monkeypatch.setattr(Gap, "BODY_VERSION", 2, raising=False)
    record = journal.append(Kind.GAP, Gap("monitor", 1.0, 2.0, "killed"), **at(0))
    assert record.read(Gap).what == "monitor"
    monkeypatch.delattr(Gap, "BODY_VERSION")
    with pytest.raises(JournalError, match="newer Hypervigil"):
        record.read(Gap)


def test_there_is_one_writer(path, journal):
    with pytest.raises(JournalError, match="another process writes"):
        Journal.open(path)
    with Journal.open(path, read_only=True) as reader, pytest.raises(JournalError, match="reading only"):
        reader.append(Kind.FACT, evidence(), **at(0))


def test_the_writers_place_is_free_again_when_it_is_killed(path):
    script = (
        "import sys, time; from pathlib import Path; from hypervigil.host.journal import Journal, Kind\n"
        "j = Journal.open(Path(sys.argv[1]))\n"
        "for n in range(5): j.append(Kind.FACT, {'n': n}, now=float(n), wall_at=float(n))\n"
        "print('ready', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        process.kill()
    with Journal.open(path) as journal:
        assert journal.count() == 5
        assert journal.append(Kind.FACT, evidence(), **at(9)).sequence == 6
    assert verify(path).ok


def test_a_reader_sees_what_the_writer_appends_and_never_stops_it(path, journal):
    journal.append_many(Entry(Kind.FACT, {"n": n}, **at(n)) for n in range(1500))
    with Journal.open(path, read_only=True) as reader:
        records = reader.records()
        next(records)
        assert journal.append(Kind.FACT, {"n": "late"}, **at(1501)) is not None
        assert len(list(records)) == 1500
        assert reader.head() == journal.head()


def test_threads_may_append_at_once(path, journal):
    def write(vm: str) -> None:
        for n in range(40):
            journal.append(Kind.FACT, {"n": n}, vm=VmId(vm), **at(n))

    threads = [threading.Thread(target=write, args=(f"vm{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert journal.count() == 160
    assert verify(path).ok


def test_a_signature_is_on_record(journal):
    journal.append(Kind.FACT, evidence(), **at(0))
    sequence, digest = journal.head()
    record = journal.record_signature(sequence, digest, b"s" * 64, "key", **at(1))
    assert record.read(HeadSignature) == HeadSignature(1, digest, b"s" * 64, "key")


def test_the_file_is_its_owners_alone(path, journal):
    journal.append(Kind.FACT, evidence(), **at(0))
    for name in ("journal.db", "journal.db-wal", "journal.db.lock"):
        assert (path.parent / name).stat().st_mode & 0o077 == 0
    assert journal.size_bytes() > 0


# --- when it cannot be written -------------------------------------------------------------------------------------
def fill_up(journal: Journal) -> None:
    """SQLite's own bound on pages gives its real "database or disk is full"."""
    journal._writing.exec_driver_sql("PRAGMA max_page_count = 1")
    journal._writing.commit()


def make_room(journal: Journal) -> None:
    journal._writing.exec_driver_sql("PRAGMA max_page_count = 1000000")
    journal._writing.commit()


def big(n: float) -> dict[str, object]:
    return {"n": n, "text": "x" * 30_000}


@pytest.mark.req("T-CORE-11")
def test_on_a_full_disk_records_wait_and_follow_a_gap_that_counts_them(path, journal):
    journal.append(Kind.FACT, {"n": 0}, **at(0))
    fill_up(journal)
    assert journal.append(Kind.DECISION, big(1), case=CaseId("c7"), **at(1)) is None
    assert journal.append_many([Entry(Kind.ORDERED, big(2), **at(1.5)), Entry(Kind.FACT, big(3), **at(1.5))]) is None
    assert journal.held == 3
    assert "free some" in journal.trouble
    assert journal.next_case() == "c8"
    assert journal.flush(Instant(10.0)) is False
    make_room(journal)
    assert journal.flush(Instant(10.5)) is False, "it does not try a failing disk at every turn"
    assert journal.flush(Instant(12.0)) is True
    assert (journal.held, journal.trouble) == (0, None)
    gap = journal.last(Kind.GAP).read(Gap)
    assert (gap.what, gap.held, gap.lost, gap.from_wall_at) == ("journal", 3, 0, 1_700_000_001.0)
    assert "no space" in gap.reason
    assert [record.kind for record in journal.records()] == [
        Kind.FACT, Kind.GAP, Kind.DECISION, Kind.ORDERED, Kind.FACT,
    ]  # fmt: skip
    assert [record.boot_s for record in journal.records(after=2)] == [1, 1.5, 1.5]
    assert verify(path).ok


def test_an_append_after_the_trouble_brings_all_in(path, journal):
    fill_up(journal)
    journal.append(Kind.DECISION, big(1), **at(1))
    make_room(journal)
    record = journal.append(Kind.DECISION, {"n": 2}, **at(5))
    assert (record.sequence, record.read(dict)) == (3, {"n": 2})
    assert journal.held == 0


def test_memory_is_bounded_facts_give_way_first_and_the_lost_are_counted(tmp_path):
    with Journal.open(tmp_path / "journal.db", max_held=10) as journal:
        fill_up(journal)
        journal.append(Kind.DECISION, big(0), **at(0))
        for n in range(1, 31):
            journal.append(Kind.FACT if n % 3 else Kind.DECISION, big(n), **at(n))
        assert (journal.held, journal.lost) == (10, 21)
        make_room(journal)
        assert journal.flush(Instant(100.0))
        assert journal.last(Kind.GAP).read(Gap).lost == 21
        kept = [record.read(dict)["n"] for record in journal.records(after=1)]
        assert kept == [3, 6, 9, 12, 15, 18, 21, 24, 27, 30]


def test_memory_is_bounded_in_bytes(tmp_path):
    with Journal.open(tmp_path / "journal.db", max_held_bytes=100_000) as journal:
        fill_up(journal)
        for n in range(20):
            journal.append(Kind.FACT, big(n), **at(n))
        assert journal.held == 3
        assert journal.lost == 17
        make_room(journal)


def test_what_waits_is_written_when_the_journal_closes(path):
    journal = Journal.open(path)
    fill_up(journal)
    journal.append(Kind.DECISION, big(1), **at(1))
    make_room(journal)
    journal.close()
    assert rows(path) == 2


def test_a_file_that_somebody_locked_makes_records_wait(path, journal):
    journal.append(Kind.FACT, {"n": 0}, **at(0))
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert journal.append(Kind.DECISION, {"n": 1}, **at(1)) is None
    assert "locked" in journal.trouble
    other.rollback()
    other.close()
    assert journal.append(Kind.DECISION, {"n": 2}, **at(3)).sequence == 4
    assert verify(path).ok


def test_a_record_that_somebody_else_slipped_in_does_not_stop_the_journal_and_is_found(path, journal):
    journal.append(Kind.FACT, {"n": 0}, **at(0))
    with sqlite3.connect(path) as other:
        other.execute(
            "INSERT INTO record SELECT 2, boot_id, boot_s, wall_at, kind, case_number, vm, limit_number, body, digest"
            " FROM record"
        )
    assert journal.append(Kind.DECISION, {"n": 1}, **at(1)) is None
    assert journal.append(Kind.DECISION, {"n": 2}, **at(3)).sequence == 5
    found = verify(path)
    assert (found.ok, found.first_bad) == (False, 2)


# --- bad beginnings ------------------------------------------------------------------------------------------------
def refusal(path, **options) -> str:
    with pytest.raises(JournalError) as caught:
        Journal.open(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_no_journal_to_read_says_so(path):
    assert "there is no journal" in refusal(path, read_only=True)
    assert not path.exists()


def test_a_folder_that_is_not_there_says_so(tmp_path):
    assert "cannot be opened to write: No such file or directory" in refusal(tmp_path / "no" / "journal.db")


def test_a_file_that_is_no_journal_says_so_and_is_left_alone(path):
    path.write_bytes(b"precious" * 1000)
    assert "moving it aside" in refusal(path)
    assert "moving it aside" in refusal(path, read_only=True)
    assert path.read_bytes() == b"precious" * 1000


def test_a_journal_of_the_future_says_so(path):
    Journal.open(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE about SET version = 99")
    assert "newer Hypervigil" in refusal(path)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE about SET version = 1")
    Journal.open(path).close()


def test_an_empty_journal_has_the_first_head(journal):
    assert journal.head() == (0, GENESIS)
    assert journal.last() is None
    assert journal.count() == 0


def test_nothing_stays_open(path):
    def still_open() -> list[Path]:
        found = []
        for link in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed since the listing, such as the listing's own
                found.append(link.readlink())
        return [target for target in found if target.is_relative_to(path.parent)]

    for _ in range(3):
        with Journal.open(path) as journal:
            journal.append(Kind.FACT, {}, **at(0))
            list(journal.records())
            assert still_open()
        verify(path)
        with Journal.open(path, read_only=True) as journal:
            list(journal.records())
        assert still_open() == []
