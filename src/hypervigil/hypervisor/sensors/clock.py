"""The clock of everything that is observed: the same one that the data plane stamps peers and events with."""

import time

from hypervigil.model.ids import Instant


def now() -> Instant:
    """Seconds of ``CLOCK_BOOTTIME``."""
    return Instant(time.clock_gettime(time.CLOCK_BOOTTIME))
