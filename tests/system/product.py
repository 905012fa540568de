"""The product as an operator starts it, in directories of the test's own, beside whatever else runs on the host."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from lab import watched

T = TypeVar("T")


def wait_for(what: str, look: Callable[[], T | None], *, within_s: float) -> T:
    """Look until there is something (not None, not False), or fail saying what never came."""
    deadline = time.monotonic() + within_s
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {within_s:g} s")
        time.sleep(0.05)


class Product(watched.Product):
    """The lab's hand on the product, and what only tests ask."""

    @property
    def run_dir(self) -> Path:
        """Its sockets."""
        return self.places.run_dir

    @property
    def state_dir(self) -> Path:
        """Its journal, history and keys."""
        return self.places.state_dir

    def cases_of(self, name: str) -> list[dict[str, Any]]:
        """A VM's cases, newest first."""
        return [case for case in self.ask("cases")["cases"] if case["name"] == name]


def kill(pid: int) -> None:
    """kill -9; nothing if it is gone."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


@contextmanager
def installed(root: Path, name: str) -> Iterator[Product]:
    """A place for an installation; whatever was started there is off at the end, also after a failure."""
    product = Product(watched.Places(root / name, root / f"{name}-state", Path("/sys/fs/bpf") / name))
    try:
        yield product
    finally:
        product.call("off")
