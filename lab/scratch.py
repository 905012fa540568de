"""Progress for people and the lock that keeps two labs from one machine."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

_QUIET_AFTER_S = 1.0


def say(message: str) -> None:
    """One plain line of progress on standard error, at once."""
    print(f"lab: {message}", file=sys.stderr, flush=True)


@contextmanager
def told(what: str) -> Iterator[None]:
    """Tell that ``what`` begins, and how long it took: ``lab: building the image … 34 s``."""
    say(f"{what} …")
    began = time.monotonic()
    yield
    took = time.monotonic() - began
    if took >= _QUIET_AFTER_S:
        say(f"{what} … {took:.0f} s")
