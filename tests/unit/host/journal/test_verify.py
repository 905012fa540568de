"""What verification says of heads, keys and files that are not as they should be."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace

from hypervigil.host.journal import Journal, JournalError, Kind
from hypervigil.host.journal.verify import read_heads, read_public_key, verify
from hypervigil.hypervisor.enforcer.signing import HeadSigner
from hypervigil.model.ids import Instant


@pytest.fixture
def journal(tmp_path):
    with Journal.open(tmp_path / "journal.db") as opened:
        for n in range(10):
            opened.append(Kind.FACT, {"n": n}, now=Instant(n), wall_at=float(n))
        yield opened


@pytest.fixture
def heads(tmp_path, journal):
    signer = HeadSigner(tmp_path / "head.key", tmp_path / "heads.jsonl", tmp_path / "head.pub")
    for record in journal.records(after=3):
        if record.sequence in {4, 8}:
            signer.sign(record.sequence, record.digest, wall_at=1.0)
    return read_heads(tmp_path / "heads.jsonl")


@pytest.fixture
def key(tmp_path, heads):
    return read_public_key(tmp_path / "head.pub")


def test_what_no_head_proves_yet_is_said(journal, heads, key):
    found = verify(journal.path, heads, key)
    assert (found.ok, found.records, found.signed) == (True, 10, 8)


def test_a_forged_newest_head_proves_nothing(journal, heads, key):
    found = verify(journal.path, [*heads[:-1], replace(heads[-1], signature=bytes(64))], key)
    assert (found.ok, found.signed) == (False, 0)
    assert "not genuine" in found.problem


def test_a_forged_older_head_is_told_from_a_rewritten_journal(journal, heads, key):
    forged = replace(heads[0], digest=bytes(32))
    assert "forged" in verify(journal.path, [forged, heads[1]], key).problem
    assert "rewritten" in verify(journal.path, [forged, heads[1]]).problem


def test_the_key_of_another_host_proves_nothing(journal, heads):
    assert not verify(journal.path, heads, Ed25519PrivateKey.generate().public_key()).ok


def test_two_heads_of_one_record_must_agree(journal, heads, key):
    assert verify(journal.path, [*heads, heads[0]], key).ok
    assert not verify(journal.path, [*heads, replace(heads[0], digest=bytes(32))], key).ok


def test_a_journal_begun_anew_is_not_the_signed_one(tmp_path, heads, key):
    with Journal.open(tmp_path / "new.db") as new:
        for n in range(10):
            new.append(Kind.FACT, {"n": n}, now=Instant(n), wall_at=100.0)
    found = verify(tmp_path / "new.db", heads, key)
    assert (found.ok, found.first_bad) == (False, 1)


def test_a_file_damaged_in_the_middle_is_reported_not_raised(tmp_path, journal):
    journal.append(Kind.FACT, {"text": "x" * 200_000}, now=Instant(10), wall_at=10.0)
    journal.close()
    data = bytearray(journal.path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 5000] = b"\xff" * 5000
    journal.path.write_bytes(data)
    found = verify(journal.path)
    assert not found.ok
    assert found.first_bad is not None
    assert "\n" not in found.problem


def test_no_journal_is_an_error(tmp_path):
    with pytest.raises(JournalError, match="there is no journal"):
        verify(tmp_path / "none.db")
    assert list(tmp_path.iterdir()) == []


def test_heads_and_keys_that_cannot_be_read_say_so(tmp_path):
    assert read_heads(tmp_path / "none") == []
    (tmp_path / "heads.jsonl").write_bytes(b"{}\n")
    with pytest.raises(JournalError, match=r"line 1 .* damaged"):
        read_heads(tmp_path / "heads.jsonl")
    with pytest.raises(JournalError, match="cannot be read"):
        read_heads(tmp_path)
    with pytest.raises(JournalError, match="cannot be read"):
        read_public_key(tmp_path / "none")
    with pytest.raises(JournalError, match="holds no public key"):
        read_public_key(tmp_path / "heads.jsonl")
