"""Heads are signed forward only, by a key that only its owner reads."""

import os
import stat

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from hypervigil.hypervisor.enforcer import signing
from hypervigil.hypervisor.enforcer.signing import HeadSigner, SigningError
from hypervigil.wire.heads import DamagedHeadsError, head_message, parse_heads

A, B = b"a" * 32, b"b" * 32


def signer(folder, **options) -> HeadSigner:
    return HeadSigner(folder / "head.key", folder / "heads.jsonl", folder / "head.pub", **options)


def test_the_signature_is_that_of_the_public_key(tmp_path):
    signature, name = signer(tmp_path).sign(7, A, wall_at=1.0)
    public = load_pem_public_key((tmp_path / "head.pub").read_bytes())
    public.verify(signature, head_message(7, A))
    (head,) = parse_heads((tmp_path / "heads.jsonl").read_bytes())
    assert (head.sequence, head.digest, head.signature, head.key_id, head.wall_at) == (7, A, signature, name, 1.0)


def test_the_key_is_made_once_and_private(tmp_path):
    first = signer(tmp_path)
    assert stat.S_IMODE((tmp_path / "head.key").stat().st_mode) == 0o600
    assert signer(tmp_path).key_id == first.key_id
    assert sorted(p.name for p in tmp_path.iterdir()) == ["head.key", "head.pub"]


def test_a_key_that_others_can_read_is_refused(tmp_path):
    signer(tmp_path)
    (tmp_path / "head.key").chmod(0o640)
    with pytest.raises(SigningError, match="chmod 600"):
        signer(tmp_path)


def test_a_file_that_is_no_key_is_refused(tmp_path):
    (tmp_path / "head.key").write_text("hello")
    (tmp_path / "head.key").chmod(0o600)
    with pytest.raises(SigningError, match="move it aside"):
        signer(tmp_path)


def test_two_that_make_the_key_at_once_agree(tmp_path, monkeypatch):
    real_link = os.link

    def another_is_first(source, target):
        monkeypatch.setattr(os, "link", real_link)
        signing._create_key(tmp_path / "head.key")
        real_link(source, target)

    monkeypatch.setattr(os, "link", another_is_first)
    late = signer(tmp_path)
    assert late.key_id == signer(tmp_path).key_id


@pytest.mark.parametrize("restart", [False, True])
def test_a_head_never_goes_back_nor_changes(tmp_path, restart):
    one = signer(tmp_path)
    signature, _ = one.sign(10, A, wall_at=1.0)
    if restart:
        one = signer(tmp_path)
    with pytest.raises(SigningError, match="went back from record 10 to 9"):
        one.sign(9, A, wall_at=2.0)
    with pytest.raises(SigningError, match="not the one that was signed"):
        one.sign(10, B, wall_at=2.0)
    assert one.sign(10, A, wall_at=2.0)[0] == signature
    one.sign(11, B, wall_at=3.0)
    assert [h.sequence for h in parse_heads((tmp_path / "heads.jsonl").read_bytes())] == [10, 11]


@pytest.mark.parametrize(("sequence", "digest"), [(0, A), (-1, A), (1 << 63, A), (1, b"short")])
def test_what_is_no_head_is_not_signed(tmp_path, sequence, digest):
    with pytest.raises(SigningError):
        signer(tmp_path).sign(sequence, digest, wall_at=1.0)


def test_a_line_torn_by_a_crash_is_cut_off_and_signing_goes_on(tmp_path):
    signer(tmp_path).sign(1, A, wall_at=1.0)
    with (tmp_path / "heads.jsonl").open("ab") as file:
        file.write(b'{"sequence":2,"dig')
    again = signer(tmp_path)
    assert again.last is not None
    assert again.last.sequence == 1
    again.sign(3, B, wall_at=2.0)
    assert [h.sequence for h in parse_heads((tmp_path / "heads.jsonl").read_bytes())] == [1, 3]


def test_a_damaged_last_head_stops_signing_rather_than_forgetting(tmp_path):
    signer(tmp_path).sign(5, A, wall_at=1.0)
    (tmp_path / "heads.jsonl").write_bytes(b"garbage\n")
    with pytest.raises(SigningError, match="restore it"):
        signer(tmp_path)
    with pytest.raises(DamagedHeadsError, match="line 1"):
        parse_heads(b"garbage\n")


def test_the_file_of_heads_is_bounded_and_keeps_first_and_last(tmp_path):
    one = signer(tmp_path, max_heads_bytes=20_000)
    for sequence in range(1, 400):
        one.sign(sequence, A, wall_at=1.0)
    kept = [h.sequence for h in parse_heads((tmp_path / "heads.jsonl").read_bytes())]
    assert (tmp_path / "heads.jsonl").stat().st_size <= 20_500
    assert kept[0] == 1
    assert kept[-1] == 399
    assert kept == sorted(kept)
    assert signer(tmp_path).last == one.last


def test_heads_that_cannot_be_written_are_not_signed(tmp_path):
    one = signer(tmp_path)
    (tmp_path / "heads.jsonl").mkdir()
    with pytest.raises(SigningError, match="cannot be kept"):
        one.sign(1, A, wall_at=1.0)
    assert one.last is None
