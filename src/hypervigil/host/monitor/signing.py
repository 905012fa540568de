"""When the journal's head is signed: each minute, and within a second of a decision. The enforcer has the key."""

from typing import Protocol

from hypervigil.host.journal import Kind, Record
from hypervigil.host.monitor.parts import Enforcer
from hypervigil.model.ids import NEVER, Instant
from hypervigil.wire.messages import Refused, Signed, SignHead

SIGN_S = 60.0
"""No head waits longer while the enforcer is there; who refuses one is not asked again before."""
ANSWER_S = 5.0
"""What is not answered by then is asked again."""


class Heads(Protocol):
    """The journal, as far as signing goes."""

    def head(self) -> tuple[int, bytes]:
        """Sequence and digest of the last record; sequence 0 while there is none."""

    def last(self, kind: Kind) -> Record | None:
        """The newest record of a kind."""

    def record_signature(
        self, sequence: int, digest: bytes, signature: bytes, key: str, *, now: Instant, wall_at: float
    ) -> Record | None:
        """Note that a head was signed."""


class Signing:
    """Asks for one signature at a time, so that each is recorded with the head that it belongs to."""

    def __init__(self, journal: Heads, enforcer: Enforcer) -> None:
        self._journal = journal
        self._enforcer = enforcer
        self._asked: tuple[int, int, bytes] | None = None
        """Number of the request, sequence and digest of the head."""
        self._asked_at = NEVER
        self._due_at = NEVER
        self._refused = False
        self.through = 0
        """Up to which record the journal is signed."""

    def joined(self) -> None:
        """The enforcer is there (again): whatever was asked of the one before is not answered any more."""
        self._asked, self._refused = None, False
        self._due_at = NEVER

    def tick(self, now: Instant) -> None:
        """Once a second: ask for what is due."""
        waits = self._asked is not None and now - self._asked_at < ANSWER_S
        if not waits and (now >= self._due_at or (not self._refused and self._decided())):
            self.ask(now)

    def ask(self, now: Instant) -> bool:
        """Have the head signed now, unless it is, or nobody can; whether an answer is to come."""
        sequence, digest = self._journal.head()
        if sequence <= self.through or not self._enforcer.connected:
            return False
        request = self._enforcer.next_request()
        if not self._enforcer.send(SignHead(request=request, sequence=sequence, digest=digest)):
            return False
        self._asked, self._asked_at, self._due_at = (request, sequence, digest), now, Instant(now + SIGN_S)
        return True

    def answered(self, answer: Signed | Refused, now: Instant, wall_at: float) -> bool:
        """What the enforcer says to a request, if it is the one about a head; whether it is."""
        if self._asked is None or answer.request != self._asked[0]:
            return False
        _, sequence, digest = self._asked
        self._asked, self._refused = None, isinstance(answer, Refused)
        if isinstance(answer, Signed):
            self._journal.record_signature(sequence, digest, answer.signature, answer.key_id, now=now, wall_at=wall_at)
            self.through = sequence
        return True

    def _decided(self) -> bool:
        newest = self._journal.last(Kind.DECISION)
        return newest is not None and newest.sequence > self.through
