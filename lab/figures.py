"""The few statistics that reports need. Pure."""

import math
from collections.abc import Sequence

CONFIDENCE = 0.95
_HALVINGS = 60


def percentile(values: Sequence[float | None], share: float) -> float | None:
    """The least value that ``share`` of all do not exceed; what never came (None) counts as later than everything."""
    if not values:
        return None
    ordered = sorted(math.inf if value is None else value for value in values)
    found = ordered[max(0, math.ceil(share * len(ordered)) - 1)]
    return found if math.isfinite(found) else None


def lower_bound(successes: int, trials: int, confidence: float = CONFIDENCE) -> float:
    """One-sided exact bound: at this confidence the true share of successes is at least so large.

    C. J. Clopper and E. S. Pearson, "The use of confidence or fiducial limits", Biometrika 26, 1934.
    """
    if successes == 0:
        return 0.0
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if _at_least(successes, trials, middle) < 1 - confidence:
            low = middle
        else:
            high = middle
    return low


def upper_bound(events: int, trials: int, confidence: float = CONFIDENCE) -> float:
    """One-sided exact bound: at this confidence the true share of events is at most so large."""
    return 1.0 - lower_bound(trials - events, trials, confidence) if trials else 1.0


def _at_least(successes: int, trials: int, share: float) -> float:
    """The chance of so many successes or more."""
    return math.fsum(
        math.comb(trials, k) * share**k * (1.0 - share) ** (trials - k) for k in range(successes, trials + 1)
    )
