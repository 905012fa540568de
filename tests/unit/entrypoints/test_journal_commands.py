"""``hypervigil journal``: what it says of a journal that may not be read, and whose heads it compares."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hypervigil.entrypoints.cli import main
from hypervigil.host.journal import Journal, Kind
from hypervigil.model.ids import Instant

NOBODY = 65_534


def written(path: Path, records: int = 5) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with Journal.open(path) as journal:
        for n in range(records):
            journal.append(Kind.FACT, {"n": n}, now=Instant(n), wall_at=float(n))
    return path


def run(*words: str) -> Result:
    return CliRunner().invoke(main, ["journal", *words])


def complaint(*words: str) -> str:
    result = run(*words)
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.output.count("\n") == 1
    return result.output


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that others may look into, which the usual one is not."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def stranger() -> Iterator[None]:
    """Who runs this is not root, from ``begin`` on."""
    yield
    if os.getuid() == 0:
        os.seteuid(0)


def begin() -> None:
    if os.getuid() == 0:
        os.seteuid(NOBODY)


@pytest.mark.parametrize("word", ["verify", "replay", "show"])
def test_who_is_not_root_is_told_to_be(folder: Path, stranger: None, word: str) -> None:
    path = written(folder / "monitor" / "journal.db")
    path.parent.chmod(0)
    begin()
    assert "you may not read the journal" in complaint(word, f"--state-dir={folder}")
    assert "run this as root" in complaint(word, "--file", str(path))
    if os.getuid() == 0:
        os.seteuid(0)
    path.parent.chmod(0o755)
    path.chmod(0)
    begin()
    assert "run this as root" in complaint(word, "--file", str(path)), "a file that is nobody's to read, likewise"


@pytest.mark.parametrize("word", ["verify", "replay", "show"])
def test_what_cannot_be_a_journal_is_refused_in_one_sentence(tmp_path: Path, word: str) -> None:
    assert "there is no journal at" in complaint(word, "--file", str(tmp_path / "none"))
    assert "is no regular file" in complaint(word, "--file", str(tmp_path))
    assert "there is no journal at" in complaint(word, "--file", str(written(tmp_path / "j.db") / "below"))


def test_a_journal_that_cannot_be_opened_is_not_called_broken(folder: Path, stranger: None) -> None:
    path = written(folder / "journal.db")
    path.chmod(0o644)
    begin()  # reading it makes a file beside it, which nobody but root may do there
    assert "cannot be opened" in complaint("verify", "--file", str(path))
