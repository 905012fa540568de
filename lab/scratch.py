"""Progress for people and the lock that keeps two labs from one machine."""

import fcntl
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from lab.errors import LabError
from lab.paths import LOCK

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


class _Holder:
    """The lock's file while this process holds it."""

    file: IO[str] | None = None


def take_lock() -> None:
    """Be the only lab on this machine until `drop_lock` or this process's end; LabError when another one runs."""
    LOCK.parent.mkdir(parents=True, exist_ok=True)
    file = LOCK.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip()
        file.close()
        raise LabError(f"another lab runs on this machine (process {holder}): wait for its end") from None
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    _Holder.file = file


def drop_lock() -> None:
    """Let another lab run."""
    if _Holder.file is not None:
        _Holder.file.close()
        _Holder.file = None


@contextmanager
def only_lab() -> Iterator[None]:
    """Hold the lock, unless this process does already."""
    if _Holder.file is not None:
        yield
        return
    take_lock()
    try:
        yield
    finally:
        drop_lock()
