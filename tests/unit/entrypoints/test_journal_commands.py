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
from hypervigil.hypervisor.enforcer.signing import HeadSigner
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


def signed(path: Path, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    signer = HeadSigner(folder / "head.key", folder / "heads.jsonl", folder / "head.pub")
    with Journal.open(path, read_only=True) as journal:
        sequence, digest = journal.head()
    signer.sign(sequence, digest, wall_at=1.0)


@pytest.fixture
def here(tmp_path: Path) -> str:
    """This host's own journal with its heads and key, as an option."""
    signed(written(tmp_path / "here" / "monitor" / "journal.db"), tmp_path / "here" / "enforcer")
    return f"--state-dir={tmp_path / 'here'}"


def test_another_hosts_journal_is_compared_with_the_heads_beside_it(tmp_path: Path, here: str) -> None:
    other = written(tmp_path / "copy" / "journal.db", records=9)
    result = run("verify", here, "--file", str(other))
    assert result.exit_code == 0, result.output
    assert "good: 9 records, 0 signed heads" in result.output
    assert f"there is no {other.parent / 'heads.jsonl'}: name its own with --heads" in result.output
    signed(other, other.parent)
    result = run("verify", here, "--file", str(other))
    assert result.exit_code == 0, result.output
    assert "good: 9 records, 1 signed heads" in result.output
    assert "compared" not in result.output
    assert "checked" not in result.output
    (other.parent / "head.pub").rename(other.parent / "key")
    result = run("verify", here, "--file", str(other))
    assert result.exit_code == 0, result.output
    assert "name its own key with --key" in result.output
    assert run("verify", here, "--file", str(other), "--key", str(other.parent / "key")).output.count("\n") == 1


def test_this_hosts_journal_is_compared_with_its_own_heads_however_it_is_named(tmp_path: Path, here: str) -> None:
    link = tmp_path / "link.db"
    link.symlink_to(tmp_path / "here" / "monitor" / "journal.db")
    for words in ([], ["--file", str(link)], ["--file", str(link.readlink())]):
        assert "good: 5 records, 1 signed heads" in run("verify", here, *words).output


def test_heads_of_another_host_prove_nothing_of_no_certain_record(tmp_path: Path, here: str) -> None:
    signed(tmp_path / "here" / "monitor" / "journal.db", tmp_path / "other")
    result = run("verify", here, "--heads", str(tmp_path / "other" / "heads.jsonl"))
    assert result.exit_code == 1
    assert "BROKEN: the signature" in result.output


@pytest.mark.parametrize("option", ["--heads", "--key"])
def test_heads_and_keys_that_are_named_have_to_be_there(tmp_path: Path, here: str, option: str) -> None:
    assert "does not exist: name the right file" in complaint("verify", here, option, str(tmp_path / "none"))
