"""When heads are signed, and that each signature on record is that of its own head."""

from collections.abc import Iterator
from itertools import count, pairwise
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from hypervigil.host.journal import Journal, Kind
from hypervigil.host.journal.records import Gap, HeadSignature
from hypervigil.host.journal.verify import read_heads, verify
from hypervigil.host.monitor.signing import ANSWER_S, SIGN_S, Signing
from hypervigil.hypervisor.enforcer.signing import HeadSigner
from hypervigil.model.ids import CaseId, Instant, VmId
from hypervigil.wire.heads import head_message
from hypervigil.wire.messages import Refused, Signed, SignHead, ToEnforcer


class Rig:
    """A journal, its signing, and an enforcer with a real key that answers when it is told to."""

    def __init__(self, directory: Path) -> None:
        self.at = 1000.0
        self.directory = directory
        self.journal = Journal.open(directory / "journal.db")
        self.signer = HeadSigner(directory / "head.key", directory / "heads.jsonl", directory / "head.pub")
        self.connected = True
        self.asked: list[SignHead] = []
        self._requests = count(1)
        self.signing = Signing(self.journal, self)

    def next_request(self) -> int:
        return next(self._requests)

    def send(self, message: ToEnforcer) -> bool:
        assert isinstance(message, SignHead)
        if self.connected:
            self.asked.append(message)
        return self.connected

    def record(self, kind: Kind = Kind.GAP, case: str | None = None) -> None:
        body = Gap("monitor", 1.0, 2.0, "for the test")
        vm = VmId("00000000-0000-0000-0000-00000000000a") if case else None
        self.journal.append(
            kind, body, now=Instant(self.at), wall_at=self.wall, case=CaseId(case) if case else None, vm=vm
        )

    @property
    def wall(self) -> float:
        return 1_700_000_000.0 + self.at

    def answer(self) -> None:
        """The enforcer answers all that it was asked, in order."""
        asked, self.asked = self.asked, []
        for one in asked:
            signature, key = self.signer.sign(one.sequence, one.digest, wall_at=self.wall)
            answer = Signed(request=one.request, signature=signature, key_id=key)
            self.signing.answered(answer, Instant(self.at), self.wall)

    def refuse(self) -> None:
        for one in self.asked:
            self.signing.answered(Refused(request=one.request, reason="no space"), Instant(self.at), self.wall)
        self.asked = []

    def passes(self, seconds: float) -> None:
        """So long nothing happens but looks, once a second."""
        for _ in range(int(seconds)):
            self.at += 1
            self.signing.tick(Instant(self.at))

    def signatures(self) -> list[HeadSignature]:
        return [record.read(HeadSignature) for record in self.journal.records(kinds=[Kind.SIGNATURE])]

    def key(self) -> Ed25519PublicKey:
        found = load_pem_public_key((self.directory / "head.pub").read_bytes())
        assert isinstance(found, Ed25519PublicKey)
        return found


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    yield rig
    rig.journal.close()


def test_each_minute_the_head_is_signed_and_kept_out_of_the_journals_reach(rig: Rig) -> None:
    for second in range(600):
        if second % 7 == 0:
            rig.record()
        rig.passes(1)
        rig.answer()
    heads = read_heads(rig.directory / "heads.jsonl")
    times = [head.wall_at for head in heads]
    assert len(heads) >= 10
    assert all(later - earlier <= SIGN_S + 1 for earlier, later in pairwise(times))
    assert rig.wall - times[-1] <= SIGN_S + 1
    assert len(heads) <= 11, "and not more often than that"
    found = verify(rig.directory / "journal.db", heads, rig.key())
    assert found.ok, found.problem
    for one in rig.signatures():
        rig.key().verify(one.signature, head_message(one.sequence, one.digest))


def test_a_decision_is_signed_within_a_second_also_while_an_older_head_is_being_signed(rig: Rig) -> None:
    rig.record()
    rig.passes(1)
    rig.answer()
    rig.passes(3)
    assert rig.asked == [], "nothing was decided"
    rig.record(Kind.DECISION, "c1")
    rig.passes(1)
    assert [one.sequence for one in rig.asked] == [3]
    rig.record(Kind.DECISION, "c2")
    rig.passes(1)
    assert len(rig.asked) == 1, "one at a time: else the first answer would go with the second head"
    rig.answer()
    rig.passes(1)
    rig.answer()
    assert [one.sequence for one in rig.signatures()] == [1, 3, 5]
    for one in rig.signatures():
        rig.key().verify(one.signature, head_message(one.sequence, one.digest))


def test_an_answer_to_another_request_is_none(rig: Rig) -> None:
    rig.record()
    rig.passes(1)
    [first] = rig.asked
    rig.asked = []
    rig.record()
    rig.signing.ask(Instant(rig.at))  # somebody wants it signed now, and does not wait
    [second] = rig.asked
    rig.asked = [first, second]
    rig.answer()
    [on_record] = rig.signatures()
    assert (on_record.sequence, on_record.digest) == (second.sequence, second.digest)
    assert rig.signing.through == second.sequence


def test_what_is_not_answered_is_asked_again(rig: Rig) -> None:
    rig.record(Kind.DECISION, "c1")
    rig.passes(1)
    rig.asked = []
    rig.passes(ANSWER_S - 1)
    assert rig.asked == []
    rig.passes(2)
    assert len(rig.asked) == 1


def test_who_refuses_is_asked_again_a_minute_later(rig: Rig) -> None:
    rig.record(Kind.DECISION, "c1")
    rig.passes(1)
    rig.refuse()
    rig.passes(SIGN_S - 2)
    assert rig.asked == []
    rig.passes(3)
    assert len(rig.asked) == 1
    rig.answer()
    assert rig.signing.through == 1


def test_an_enforcer_that_comes_back_signs_at_once(rig: Rig) -> None:
    rig.record()
    rig.connected = False
    rig.passes(3 * SIGN_S)
    assert rig.asked == []
    rig.connected = True
    rig.signing.joined()
    rig.passes(1)
    assert len(rig.asked) == 1
    rig.signing.joined()  # it died before it answered
    rig.asked = []
    rig.passes(1)
    rig.answer()
    assert rig.signing.through == 1
