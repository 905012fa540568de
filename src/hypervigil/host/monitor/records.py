"""Bodies of the journal's records that only the monitor writes."""

from dataclasses import dataclass

from hypervigil.model.ids import Instant, LimitId
from hypervigil.model.limits import Limit


@dataclass(frozen=True, slots=True)
class Withheld:
    """A limit that was not put in force, and why not."""

    limit: Limit
    reason: str


@dataclass(frozen=True, slots=True)
class LimitEnded:
    """A limit that ended without the monitor's word."""

    limit: LimitId
    reason: str
    at: Instant | None = None
    """When it ended, in the host's own time, which may be long before it was heard of; older records do not say."""
