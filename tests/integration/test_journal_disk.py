"""The journal on a file system that is really full."""

import os
import subprocess
import sys

import pytest

from hypervigil.host.journal import Journal, JournalError, Kind
from hypervigil.host.journal.records import Gap
from hypervigil.host.journal.verify import verify
from hypervigil.model.ids import Instant

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system")]

KILLED = """
import os, signal, sys
from pathlib import Path
from hypervigil.host.journal import Journal, Kind
journal = Journal.open(Path(sys.argv[1]))
for n in range(20):
    journal.append(Kind.FACT, {"n": n}, now=float(n), wall_at=float(n))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def small_disk(tmp_path):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "hvjr-disk", str(tmp_path)], check=True)
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def fill(folder) -> None:
    with (folder / "ballast").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass


def empty(folder) -> None:
    (folder / "ballast").unlink()


def append(journal, n):
    return journal.append(Kind.DECISION, {"n": n, "text": "x" * 9000}, now=Instant(n), wall_at=float(n))


@pytest.mark.req("T-CORE-11")
def test_decisions_wait_while_the_disk_is_full_and_none_is_lost(small_disk):
    path = small_disk / "journal.db"
    with Journal.open(path) as journal:
        for n in range(10):
            assert append(journal, n) is not None
        fill(small_disk)
        waiting = 0
        for n in range(10, 300):
            waiting += append(journal, n) is None
        assert waiting > 0
        assert journal.held == waiting
        assert "free some" in journal.trouble
        assert verify(path).ok, "what was written stays whole"
        empty(small_disk)
        assert not journal.flush(Instant(299.5))
        # 2 MiB do not hold all that waits: again it must neither fail nor lose.
        journal.flush(Instant(400.0))
        assert verify(path).ok
        if not journal.held:
            assert journal.last(Kind.GAP).read(Gap).held == waiting


def test_records_that_waited_are_all_there_when_space_is_back(small_disk):
    path = small_disk / "journal.db"
    with Journal.open(path) as journal:
        append(journal, 0)
        fill(small_disk)
        written = [n for n in range(1, 40) if append(journal, n)]
        waiting = journal.held
        assert waiting > 10
        empty(small_disk)
        assert journal.flush(Instant(100.0))
        told = [record.read(dict)["n"] for record in journal.records(kinds=[Kind.DECISION])]
        assert told == list(range(40))
        gap = journal.last(Kind.GAP).read(Gap)
        assert (gap.held, gap.lost) == (waiting, 0)
        assert len(written) + waiting == 39
    assert verify(path).ok


def test_a_killed_writer_comes_back_on_a_full_disk(small_disk):
    path = small_disk / "journal.db"
    subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    fill(small_disk)
    with Journal.open(path) as journal:
        assert journal.count() == 20
        append(journal, 20)
        empty(small_disk)
        journal.flush(Instant(100.0))
        assert [record.read(dict)["n"] for record in journal.records(kinds=[Kind.DECISION])] == [20]
    assert verify(path).ok


def test_a_new_journal_on_a_full_disk_says_what_to_do(small_disk):
    fill(small_disk)
    with pytest.raises(JournalError, match="free some"):
        Journal.open(small_disk / "journal.db")
    empty(small_disk)
    Journal.open(small_disk / "journal.db").close()


def test_a_journal_closed_in_order_opens_on_a_full_disk(small_disk):
    path = small_disk / "journal.db"
    with Journal.open(path) as journal:
        append(journal, 0)
    fill(small_disk)
    with Journal.open(path) as journal:
        assert (journal.count(), journal.next_case()) == (1, "c1")
        append(journal, 1)
    fill(small_disk)
    empty(small_disk)
    with Journal.open(path) as journal:
        assert journal.count() >= 1
        assert (small_disk / "journal.db.reserve").exists(), "the reserve is back with the space"


def test_without_its_reserve_it_says_what_to_do(small_disk):
    path = small_disk / "journal.db"
    Journal.open(path).close()
    (small_disk / "journal.db.reserve").unlink()
    fill(small_disk)
    with pytest.raises(JournalError, match=r"no space is left .* free some"):
        Journal.open(path)
    with pytest.raises(JournalError, match=r"no space is left .* free some"):
        Journal.open(path, read_only=True)
