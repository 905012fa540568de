"""Frames that are not a VM's to send: which of them play somebody's part, and how many are reason to ask. Pure.

They are counted, and stopped, at the port that they come from, so nobody else can be behind them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from hypervigil.model.ids import NEVER, Instant
from hypervigil.model.report import ForgedCount
from hypervigil.model.traffic import ForgedKind

PARTS = (ForgedKind.ARP, ForgedKind.ND, ForgedKind.DHCP_SERVER, ForgedKind.ROUTER_ADVERTISEMENT)
SENDERS = (ForgedKind.MAC, ForgedKind.IPV4, ForgedKind.IPV6, ForgedKind.VLAN, ForgedKind.ETHERTYPE)
MIN_PARTS = 3
"""Somebody's part that is played so often is no slip; one frame of it opens a case."""
MIN_SENDERS = 30
SENDERS_TO_ASK = 10
"""Forged senders in a short time that open a case; fewer are a misconfiguration's."""
AGAIN_S = 10.0
"""Whoever played a part waits so long for being cleared: who would have it believed says it every other second."""
TOGETHER_S = 10.0
"""Frames within this time are counted together."""
SLIPS_S = 3600.0
"""Whoever played a part and was cleared is asked about it only when that is an attack, for so long."""


def played(frames: Sequence[int]) -> int:
    """By how many of them somebody's part is played: another's address is claimed, routes or addresses are offered.

    ``frames``: by ``ForgedKind``.
    """
    return sum(frames[kind] for kind in PARTS)


def senders(frames: Sequence[int]) -> int:
    """How many of them bear a sender that is not the VM's."""
    return sum(frames[kind] for kind in SENDERS)


def nothing_forged() -> list[int]:
    """No frame of any kind."""
    return [0] * len(ForgedKind)


@dataclass(slots=True)
class Forged:
    """What one VM forged of late, while it has no case."""

    frames: list[int] = field(default_factory=nothing_forged)
    since: Instant = NEVER
    slips_until: Instant = NEVER

    def add(self, one: ForgedCount, now: Instant) -> None:
        """Some more."""
        if now - self.since > TOGETHER_S:
            self.frames, self.since = nothing_forged(), now
        self.frames[one.kind] += one.frames

    def lately(self, now: Instant) -> list[int]:
        """What is not too old to be counted together."""
        return list(self.frames) if now - self.since <= TOGETHER_S else nothing_forged()

    def suspicious(self, now: Instant) -> bool:
        """Whether that is reason to ask."""
        frames = self.lately(now)
        return played(frames) >= (MIN_PARTS if now < self.slips_until else 1) or senders(frames) >= SENDERS_TO_ASK

    def begin(self) -> None:
        """A case has it on file now."""
        self.frames = nothing_forged()

    def clear(self, frames: Sequence[int], now: Instant) -> None:
        """A case with these was cleared."""
        if played(frames):
            self.slips_until = Instant(now + SLIPS_S)
