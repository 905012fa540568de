"""Whether what is seen of a VM at Level 1 is reason for a case, and by what it is explained. Pure."""

from math import inf

from hypervigil.host.hsem import explain
from hypervigil.host.hsem.conduct import Conduct
from hypervigil.host.hsem.facts import Facts
from hypervigil.host.hsem.judge import amplified
from hypervigil.host.hsem.look import Look
from hypervigil.host.hsem.scans import scanned, swept
from hypervigil.host.hsem.watched import Quiet, Watched
from hypervigil.model.ids import Instant
from hypervigil.model.metric import Metric
from hypervigil.model.status import Evidence
from hypervigil.model.traffic import Direction, TrafficClass

FEW_TRIES = 2.0
"""Tries in vain at many ports that open a case."""
QUIET_S = 60.0
"""What was cleared opens no new case for so long, unless it doubles or is hostile for ``SECOND_LOOK_S``. Datagrams that
might be a stream may be hostile too: the word by which their receiver agreed is forgotten with the case."""
SECOND_LOOK_S = 1.0
"""A provisional limit stays so long before it is lifted without a verdict."""


def suspicious(record: Watched, facts: Facts, look: Look, now: Instant) -> bool:
    """Whether there is reason for a case."""
    if record.forged.suspicious(now):
        return True
    for surge in facts.surges:
        meant = facts.conduct(surge.direction, surge.traffic)
        known = record.quiet.get((surge.direction, surge.traffic))
        quiet = known if known is not None and known.covers(surge.rate, now) else None
        patience_s = 0.0 if quiet is None else inf if quiet.agreed else SECOND_LOOK_S
        if meant is Conduct.HOSTILE and now - facts.opened_at >= patience_s:
            return True
        if meant is Conduct.UNCLEAR and look.clearly(surge.metric) and quiet is None:
            return True
    if scanned(facts, least=FEW_TRIES) or amplified(facts):
        return True
    return look.above(Metric.NEW_DESTINATIONS) and swept(facts)


def cleared(facts: Facts, now: Instant) -> dict[tuple[Direction, TrafficClass], Quiet]:
    """What was cleared, and opens no new case for a while."""
    return {
        (s.direction, s.traffic): Quiet(
            Instant(now + QUIET_S),
            s.rate,
            s.traffic is TrafficClass.UDP and facts.conduct(s.direction, s.traffic) is Conduct.UNCLEAR,
        )
        for s in facts.surges
    }


def grounds(facts: Facts) -> list[Evidence]:
    """The evidence that a case is opened with."""
    evidence = explain.surges(facts) or explain.forged(facts)
    evidence = evidence or [e for p in scanned(facts, FEW_TRIES) for e in explain.ports(facts, p)]
    return evidence or explain.hosts(facts)
