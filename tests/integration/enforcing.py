"""The enforcer's own process, spoken to over its socket as the monitor does; no monitor runs."""

import itertools
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from hypervigil.entrypoints.layout import Layout, make_directories
from hypervigil.hypervisor.adapters.ebpf.dataplane import DataPlane
from hypervigil.hypervisor.enforcer.undo import undo_all
from hypervigil.model.ids import Instant, LimitId, VmId
from hypervigil.model.limits import Limit, LimitKind
from hypervigil.model.port_policy import PortPolicy
from hypervigil.wire.frames import FrameDecoder, encode
from hypervigil.wire.messages import (
    Ask,
    BindPorts,
    Done,
    Ended,
    FromEnforcer,
    Guarding,
    InForce,
    LiftLimits,
    Outcome,
    PutLimits,
    Refused,
    Repaired,
    ToEnforcer,
)

T = TypeVar("T")
Notice = Repaired | Ended


def now() -> Instant:
    return Instant(time.clock_gettime(time.CLOCK_BOOTTIME))


def awaited(what: str, look: Callable[[], T | None], within_s: float) -> T:
    """Look until there is something (not None, not False), or fail saying what never came."""
    deadline = time.monotonic() + within_s
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < deadline, f"{what}: not within {within_s:g} s"
        time.sleep(0.02)


class Driver:
    """Starts the enforcer, asks it for things, and keeps what it says unasked."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.notices: list[Notice] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None
        self._numbers = itertools.count(1)
        self._limits = itertools.count(1)

    # --- the process ---
    def start(self) -> None:
        """Start the process and be its monitor. It lives in this thread's network namespace."""
        log = (self.layout.log_dir / "enforcer.log").open("ab")
        argv = [sys.executable, "-m", "hypervigil.entrypoints.enforcer", *self.layout.arguments()]
        with log:
            self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=log, cwd="/")
        awaited("the enforcer", self._listens, 60)
        self.connect()

    def _listens(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"the enforcer ended: {self.log()}"
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.layout.enforcer_socket)) == 0

    def log(self) -> str:
        return (self.layout.log_dir / "enforcer.log").read_text(errors="replace")[-3000:]

    def connect(self) -> None:
        """The monitor comes (again)."""
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.settimeout(20)
        self._connection.connect(str(self.layout.enforcer_socket))
        self._decoder: FrameDecoder[FromEnforcer] = FrameDecoder(FromEnforcer)
        self._answers: list[FromEnforcer] = []

    def hang_up(self) -> None:
        """The monitor goes."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """``kill -9`` unless told otherwise; returns when it is dead."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(20)
            self._process = None
        self.hang_up()

    # --- talking ---
    def _hear(self, within_s: float) -> None:
        assert self._connection is not None
        self._connection.settimeout(within_s)
        data = self._connection.recv(1 << 18)
        assert data, f"the enforcer hung up: {self.log()}"
        for message in self._decoder.feed(data):
            if isinstance(message, Notice):
                self.notices.append(message)
            else:
                self._answers.append(message)

    def ask(self, request: ToEnforcer, within_s: float = 20.0) -> FromEnforcer:
        """Send a request and wait for its answer."""
        assert self._connection is not None
        self._connection.sendall(encode(request))
        deadline = time.monotonic() + within_s
        while not self._answers:
            left = deadline - time.monotonic()
            assert left > 0, f"no answer to {request}: {self.log()}"
            self._hear(left)
        answer = self._answers.pop(0)
        assert not isinstance(answer, Notice)
        assert answer.request == request.request
        assert not isinstance(answer, Refused), answer.reason
        return answer

    def notice(self, wanted: Callable[[Notice], bool], within_s: float) -> Notice:
        """A notice that came or comes; it is taken away."""
        deadline = time.monotonic() + within_s
        while True:
            for notice in self.notices:
                if wanted(notice):
                    self.notices.remove(notice)
                    return notice
            left = deadline - time.monotonic()
            assert left > 0, f"not told within {within_s:g} s, only: {self.notices}"
            with suppress(TimeoutError):
                self._hear(left)

    def bind(
        self, policies: Sequence[PortPolicy] = (), release: Sequence[str] = (), guarding: Guarding | None = None
    ) -> tuple[Outcome, ...]:
        answer = self.ask(
            BindPorts(request=next(self._numbers), policies=tuple(policies), release=tuple(release), guarding=guarding)  # type: ignore[arg-type]
        )
        assert isinstance(answer, Done)
        return answer.outcomes

    def try_put(self, limit: Limit) -> Outcome:
        answer = self.ask(PutLimits(request=next(self._numbers), limits=(limit,)))
        assert isinstance(answer, Done)
        [outcome] = answer.outcomes
        assert outcome.subject == limit.id
        return outcome

    def put(self, limit: Limit) -> str:
        """Put a limit in force that must be possible; what was read back."""
        outcome = self.try_put(limit)
        assert outcome.ok, outcome.detail
        return outcome.detail

    def lift(self, *limits: Limit) -> str:
        answer = self.ask(LiftLimits(request=next(self._numbers), limits=tuple(limit.id for limit in limits)))
        assert isinstance(answer, Done)
        assert all(outcome.ok for outcome in answer.outcomes), answer.outcomes
        return "; ".join(outcome.detail for outcome in answer.outcomes)

    def in_force(self) -> InForce:
        answer = self.ask(Ask(request=next(self._numbers)))
        assert isinstance(answer, InForce)
        return answer

    def limit(self, vm: VmId, kind: LimitKind, value: float | None = None, *, lasts_s: float = 600, **more) -> Limit:
        """A limit with an id of its own that begins now."""
        since = now()
        name = LimitId(f"t{next(self._limits)}")
        return Limit(name, vm, kind, since, Instant(since + lasts_s), "a test", value, **more)

    @contextmanager
    def limited(self, vm: VmId, kind: LimitKind, value: float | None = None, **more) -> Iterator[str]:
        """Within it the limit is in force; what was read back."""
        limit = self.limit(vm, kind, value, **more)
        told = self.put(limit)
        try:
            yield told
        finally:
            self.lift(limit)

    def kernel(self) -> DataPlane:
        """What the kernel holds now, read by another process than the enforcer; the caller closes it."""
        return DataPlane.open(self.layout.pin_dir)


@contextmanager
def enforcer() -> Iterator[Driver]:
    """An enforcer of its own, in directories of its own; at the end ``hypervigil off`` and nothing is left."""
    name = f"hvt-{secrets.token_hex(4)}"
    root = Path(tempfile.mkdtemp(prefix=name, dir="/run"))
    root.chmod(0o755)
    layout = Layout(root / "run", root / "state", Path("/sys/fs/bpf") / name)
    make_directories(layout)
    driver = Driver(layout)
    try:
        driver.start()
        yield driver
    finally:
        driver.kill()
        undo_all(layout.run_dir, layout.enforcer_state, layout.pin_dir)
        shutil.rmtree(root)
        assert not os.path.lexists(layout.pin_dir)
