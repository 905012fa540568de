"""The product as an operator starts it, in directories of the test's own, beside whatever else runs on the host."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

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


@dataclass(frozen=True)
class Product:
    """A running installation."""

    run_dir: Path
    state_dir: Path
    pin_dir: Path

    @property
    def _places(self) -> list[str]:
        return [f"--run-dir={self.run_dir}", f"--state-dir={self.state_dir}", f"--pin-dir={self.pin_dir}"]

    def call(self, *arguments: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run ``hypervigil ARGUMENTS``."""
        program = Path(sys.executable).parent / "hypervigil"
        return subprocess.run(
            [str(program), *self._places, *arguments], capture_output=True, text=True, timeout=timeout_s, check=False
        )

    def ask(self, *arguments: str) -> dict[str, Any]:
        """The JSON answer of a command that must succeed."""
        done = self.call(*arguments, "--json")
        assert done.returncode == 0, f"{arguments}: {done.stderr or done.stdout}"
        return json.loads(done.stdout)

    def up(self, policy: str, *, enforce: bool = True) -> None:
        """Start and wait until ready."""
        self.run_dir.parent.mkdir(parents=True, exist_ok=True)
        path = self.run_dir.parent / f"{self.run_dir.name}.toml"
        path.write_text(policy, encoding="utf-8")
        done = self.call("up", "--detach", "--policy", str(path), *(["--enforce"] if enforce else []))
        assert done.returncode == 0, done.stderr + done.stdout + self.logs()

    def off(self) -> None:
        """Stop and remove everything."""
        done = self.call("off")
        assert done.returncode == 0, done.stderr + done.stdout

    def logs(self) -> str:
        """The tail of every process's log."""
        log_dir = self.run_dir / "log"
        if not log_dir.is_dir():
            return ""
        return "".join(
            f"--- {p.name}\n{p.read_text(errors='replace')[-2000:]}\n" for p in sorted(log_dir.glob("*.log"))
        )

    def pids(self) -> dict[str, int]:
        """Process ids of the services and the supervisor."""
        processes = json.loads((self.run_dir / "processes.json").read_text())
        return {**processes["services"], "supervisor": processes["supervisor"]}

    def vm(self, name: str) -> dict[str, Any]:
        """One line of ``hypervigil vms``."""
        return next(vm for vm in self.ask("vms")["vms"] if vm["name"] == name)

    def cases_of(self, name: str) -> list[dict[str, Any]]:
        """A VM's cases, newest first."""
        return [case for case in self.ask("cases")["cases"] if case["name"] == name]

    def ready(self) -> bool:
        """Whether every part is connected and sees."""
        done = self.call("status", "--json")
        return done.returncode == 0 and json.loads(done.stdout)["ready"]


def kill(pid: int) -> None:
    """kill -9; nothing if it is gone."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


@contextmanager
def installed(root: Path, name: str) -> Iterator[Product]:
    """A place for an installation; whatever was started there is off at the end, also after a failure."""
    product = Product(root / name, root / f"{name}-state", Path("/sys/fs/bpf") / name)
    try:
        yield product
    finally:
        product.call("off")
