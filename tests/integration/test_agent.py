"""The packed agent as a guest runs it, with the host's end of its channel in the test's hand."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import hypervigil
from hypervigil.guest.vsem.usual import JUDGED
from hypervigil.model.guest import GuestMetric
from hypervigil.wire import guest
from hypervigil.wire.guest import (
    Ask,
    Hello,
    LevelChanged,
    Report1,
    Report2,
    SetLevel,
    encode_to_guest,
    parse_from_guest,
)

pytestmark = pytest.mark.long  # seconds pass in it; the agent is not part of an installation yet

AGENT = Path(hypervigil.__file__).parent / "guest" / "hypervigil-agent"
PATIENCE_S = 20.0


def interpreters() -> dict[str, str]:
    """Every Python of this machine that an agent must run on, by name."""
    found = {}
    for name in ("python3", *(f"python3.{minor}" for minor in range(7, 15))):
        program = shutil.which(name)
        asked = [program or "", "-c", "import sys; print(sys.executable)"]
        if program is not None and (told := subprocess.run(asked, check=False, capture_output=True, text=True)).stdout:
            found[name] = told.stdout.strip()
    return found


class Channel:
    """The host's end."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "channel"
        self.appear()
        self.connection: socket.socket | None = None
        self.heard: list[guest.FromGuest] = []
        self._waiting: list[guest.FromGuest] = []
        self.octets = 0

    def appear(self) -> None:
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(self.path))
        self._server.listen(4)
        self._server.settimeout(PATIENCE_S)

    def vanish(self) -> None:
        self._server.close()
        self.path.unlink()
        self.cut()

    def accept(self) -> None:
        self.connection = self._server.accept()[0]
        self._splitter = guest.LineSplitter()
        self._waiting.clear()
        self.connection.settimeout(PATIENCE_S)

    def cut(self) -> None:
        self.connection.close()

    def say(self, message: guest.ToGuest) -> None:
        self.connection.sendall(encode_to_guest(message))

    def calm(self, *but: GuestMetric) -> None:
        """Nothing is unusual but these: what else this machine does meanwhile is not the test's matter."""
        told = [GuestMetric(metric) for metric in JUDGED if metric not in but]
        self.say(guest.BriefHistory(7, tuple(guest.Usual(metric, 10**9, 0) for metric in told)))

    def settle(self, *but: GuestMetric) -> None:
        """On Level 1 by what is usual from now on, whatever the first seconds brought."""
        self.calm(*but)
        self.say(SetLevel(1))
        self.until(Report1, lambda one: one.history == 7)
        for message in self.heard:
            if isinstance(message, LevelChanged):
                self.say(guest.Acknowledge(message.number))
        self.until(Report1)
        self.heard.clear()

    def until(self, kind: type | tuple[type, ...], which: Callable[..., bool] = lambda _: True):
        """The next such message; those before it are in ``heard``."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            while self._waiting:
                message = self._waiting.pop(0)
                self.heard.append(message)
                if isinstance(message, kind) and which(message):
                    return message
            data = self.connection.recv(65536)
            assert data, "the agent has gone"
            self.octets += len(data)
            self._waiting += [parse_from_guest(line) for line in self._splitter.feed(data)]
        raise AssertionError(f"no {kind} in {PATIENCE_S:g} s; last heard: {self.heard[-4:]}")

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()
        self._server.close()


@pytest.fixture
def channel(tmp_path: Path) -> Iterator[Channel]:
    found = Channel(tmp_path)
    yield found
    found.close()


@pytest.fixture
def start(channel: Channel, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts agents and ends them."""
    running: list[subprocess.Popen[bytes]] = []

    def begin(path: str | None = None, *, settle: bool = True) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "PATH": path or os.environ["PATH"]}
        state = tmp_path / "state" / "level"
        process = subprocess.Popen([str(AGENT), str(channel.path), str(state)], env=environment)
        running.append(process)
        channel.accept()
        if settle:
            channel.settle(GuestMetric.FAILED)
        return process

    yield begin
    for process in running:
        process.kill()
        process.wait()


def test_it_says_hello_and_reports_each_second(channel, start):
    start(settle=False)
    hello = channel.until(Hello)
    assert hello.level == 1
    assert hello.memory_kib > 0
    channel.settle()
    first = channel.until(Report1)
    second = channel.until(Report1)
    assert first.agent == second.agent == hello.agent
    assert hello.sequence == 1
    assert second.sequence > first.sequence
    assert 700 <= second.at_ms - first.at_ms <= 3000
    assert second.values[GuestMetric.MEMORY] > 0


@pytest.mark.req("T-CORE-10", "A220")
def test_level_1_costs_less_than_a_kilobyte_a_second(channel, start):
    start()
    before, began = channel.octets, time.monotonic()
    for _ in range(5):
        channel.until(Report1)
    assert (channel.octets - before) / (time.monotonic() - began) <= 1000


@pytest.mark.req("T-CORE-1", "A236", "A242")
def test_level_2_is_the_hosts_to_end_and_survives_a_restart(channel, start):
    process = start()
    channel.until(Report1)
    channel.say(SetLevel(2))
    change = channel.until(LevelChanged)
    assert (change.level, change.cause) == (2, "told")
    channel.say(guest.Acknowledge(change.number))
    assert channel.until(Report2).level == 2
    process.send_signal(signal.SIGKILL)
    process.wait()
    channel.cut()
    channel.heard.clear()
    start(settle=False)
    channel.calm()
    channel.until(Report2)
    hello = next(one for one in channel.heard if isinstance(one, Hello))
    again = next(one for one in channel.heard if isinstance(one, LevelChanged))
    assert (hello.level, again.level, again.cause) == (2, 2, "restart")
    channel.say(guest.Acknowledge(again.number))
    assert channel.until(Report2).agent == again.agent != change.agent
    channel.say(SetLevel(1))
    assert channel.until(LevelChanged, lambda one: one.cause == "told").level == 1
    assert channel.until(Report1).level == 1


@pytest.mark.req("A236")
def test_a_notice_is_repeated_until_it_is_acknowledged(channel, start):
    start()
    channel.say(SetLevel(2))
    first = channel.until(LevelChanged)
    again = channel.until(LevelChanged)
    assert (first.number, first.at_ms) == (again.number, again.at_ms)
    assert again.sequence > first.sequence
    channel.say(guest.Acknowledge(first.number))
    channel.say(Ask(1, "hello"))
    channel.until(Hello)
    for _ in range(5):
        channel.until(Report2)
    told = [one for one in channel.heard if isinstance(one, LevelChanged) and one.number == first.number]
    assert len(told) <= 3, "repeated after it was acknowledged"


@pytest.mark.req("A222", "A245")
def test_questions_are_answered_and_unknown_ones_declined(channel, start):
    start()
    for number, (question, answer) in enumerate(
        (("flows", guest.Flows), ("top", guest.Top), ("load", guest.Load), ("hello", Hello)), start=1
    ):
        began = time.monotonic()
        channel.say(Ask(number, question))
        reply = channel.until(answer)
        assert time.monotonic() - began < 2
        assert isinstance(reply, Hello) or reply.number == number
    channel.say(Ask(9, "passwords"))
    assert channel.until(guest.Declined).reason == "unknown"
    for number in range(20, 60):
        channel.say(Ask(number, "load"))
    assert channel.until(guest.Declined).reason == "busy"


@pytest.mark.req("A230")
def test_it_says_which_history_it_goes_by(channel, start):
    start()
    channel.say(guest.BriefHistory(42, (guest.Usual(GuestMetric.OUT_SYN, 20, 5),), (80,)))
    channel.until((Report1, Report2), lambda one: one.history == 42)


def refused_connections(count: int) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = taken.getsockname()
        for _ in range(count):
            with socket.socket() as one:
                one.connect_ex(address)


@pytest.mark.req("A216", "A228")
def test_it_decides_while_the_channel_is_cut_and_tells_when_it_is_back(channel, start):
    start()
    before = channel.until(Report1)
    channel.vanish()
    until = time.monotonic() + 5
    while time.monotonic() < until:
        refused_connections(100)
        time.sleep(0.5)
    channel.heard.clear()
    channel.appear()
    channel.accept()
    change = channel.until(LevelChanged)
    assert (change.level, change.cause) == (2, "breach")
    assert [breach.metric for breach in change.breaches] == [GuestMetric.FAILED]
    live = channel.until(Report2)
    kept = [channel.until(Report1) for _ in range(3)]
    assert before.at_ms < change.at_ms < live.at_ms
    assert before.at_ms < kept[0].at_ms < kept[1].at_ms < kept[2].at_ms < live.at_ms
    assert sum(one.values[GuestMetric.FAILED] for one in kept) >= 200


@pytest.mark.parametrize("python", interpreters().values(), ids=interpreters().keys())
def test_it_runs_on_the_python_that_a_guest_has(python, channel, start, tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python3").symlink_to(python)
    start(f"{tmp_path / 'bin'}:/usr/bin:/bin")
    channel.say(SetLevel(2))
    channel.until(Report2)


def test_it_runs_from_its_archive_where_nothing_can_be_unpacked(channel, tmp_path):
    blocked = tmp_path / "blocked"
    blocked.write_bytes(b"")
    process = subprocess.Popen([str(AGENT), str(channel.path), str(blocked / "level")])
    try:
        channel.accept()
        channel.settle()
    finally:
        process.kill()
        process.wait()


def test_a_second_start_compiles_nothing(channel, tmp_path):
    place = tmp_path / "place"
    compiled = []
    for _ in range(2):
        process = subprocess.Popen([str(AGENT), str(channel.path), str(place / "level")])
        try:
            channel.accept()
            channel.settle()
            channel.cut()
            compiled.append({path: path.stat().st_mtime_ns for path in place.rglob("*.py*")})
        finally:
            process.kill()
            process.wait()
    assert compiled[0]
    assert compiled[0] == compiled[1]


def test_others_cannot_put_code_in_its_place(channel, tmp_path):
    place = tmp_path / "open"
    place.mkdir()
    place.chmod(0o777)
    process = subprocess.Popen([str(AGENT), str(channel.path), str(place / "level")])
    try:
        channel.accept()
        channel.settle()
        assert not list(place.glob("code-*"))
    finally:
        process.kill()
        process.wait()
