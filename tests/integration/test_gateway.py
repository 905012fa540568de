"""The gateway between fifty guests, one or more of them hostile, and a monitor: what is late, and whose word it is."""

import contextlib
import json
import os
import random
import select
import socket
import statistics
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from hypervigil.entrypoints.layout import Layout
from hypervigil.host.gateway import budget
from hypervigil.model.ids import VmId
from hypervigil.wire import gateway, guest
from hypervigil.wire.frames import FrameDecoder, encode
from hypervigil.wire.gateway import Channel, ChannelLost, ChannelOpen, Heard, Unheard, WatchChannels
from tests.fuzz.lines import damaged
from tests.fuzz.words import FROM_GUEST, SAMPLING, TALKERS, VALUES

GUESTS = 50
PERIOD_S = 0.2
"""Five times as often as an agent, so that a short run has many reports."""
PATIENCE_S = 20.0
GATEWAY = """
import logging, pathlib, sys
from hypervigil.entrypoints.confine import confine
from hypervigil.host.gateway.process import GatewayConfig, run
logging.basicConfig(level=logging.INFO, stream=sys.stderr)
confine(open_files=8192)
run(GatewayConfig(pathlib.Path(sys.argv[1])))
"""


def boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class FakeGuest:
    """The hypervisor's end of a channel: listens, and says what it is told to."""

    def __init__(self, directory: Path, number: int) -> None:
        self.vm = VmId(str(uuid.UUID(int=number)))
        self.path = directory / f"{number}.sock"
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(str(self.path))
        self.server.listen(4)
        self.agent = 1000 + number
        self.sequence = 0
        self.heard = b""
        self.connection: socket.socket | None = None

    def accept(self) -> None:
        self.server.settimeout(PATIENCE_S)
        self.connection = self.server.accept()[0]
        self.connection.setblocking(False)

    def report(self) -> bytes:
        """A genuine report; when it was made is in it, in microseconds."""
        self.sequence += 1
        head = (1, self.agent, self.sequence, int(boottime() * 1e6))
        return msgspec.json.encode(guest.Report1(*head, 1, 0, 0, 1000, VALUES, SAMPLING, TALKERS)) + b"\n"

    def say(self, data: bytes) -> int:
        with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
            return self.connection.send(data)
        return 0

    def listen(self) -> bytes:
        with contextlib.suppress(BlockingIOError):
            self.heard += self.connection.recv(65536)
        return self.heard

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()
        self.server.close()


class Rig:
    """Guests, a gateway in a process of its own, and the monitor's end."""

    def __init__(self, directory: Path, count: int) -> None:
        self.layout = Layout(directory / "run", directory / "state", directory / "pin")
        self.layout.monitor_dir.mkdir(parents=True)
        self.guests = [FakeGuest(directory, number) for number in range(count)]
        self.by_vm = {one.vm: one for one in self.guests}
        self.messages: list[gateway.FromGateway] = []
        self.lateness: dict[VmId, list[float]] = defaultdict(list)
        self.listen()
        # Without an enforcer that opens channels: here the gateway may do so itself.
        self.process = subprocess.Popen([sys.executable, "-I", "-c", GATEWAY, str(self.layout.gateway_socket)])
        self.join()

    def listen(self) -> None:
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(str(self.layout.gateway_socket))
        self.server.listen(4)
        self.server.settimeout(PATIENCE_S)

    def leave(self) -> None:
        """The monitor is gone."""
        self.server.close()
        self.layout.gateway_socket.unlink()
        self.monitor.close()

    def join(self) -> None:
        """The monitor is there (again)."""
        self.monitor = self.server.accept()[0]
        self.monitor.setblocking(False)
        self.decoder: FrameDecoder[gateway.FromGateway] = FrameDecoder(gateway.FromGateway)

    def watch(self) -> None:
        channels = tuple(Channel(one.vm, str(one.path)) for one in self.guests)
        self.monitor.sendall(encode(WatchChannels(channels=channels)))
        for one in self.guests:
            one.accept()
        self.until(lambda: self.count(ChannelOpen) >= len(self.guests))

    def hear(self, wait_s: float = 0.0) -> None:
        if not select.select([self.monitor], [], [], wait_s)[0]:
            return
        data = self.monitor.recv(1 << 20)
        assert data, "the gateway closed the connection"
        now = boottime()
        for message in self.decoder.feed(data):
            self.messages.append(message)
            if isinstance(message, Heard) and isinstance(message.message, guest.Report1):
                self.lateness[message.vm].append(now - message.message.at_ms / 1e6)

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, "it did not happen"
            self.hear(0.05)

    def count(self, kind: type, vm: VmId | None = None) -> int:
        return sum(isinstance(one, kind) and vm in (None, one.vm) for one in self.messages)

    def unheard(self, vm: VmId) -> Counter[str]:
        total: Counter[str] = Counter()
        for one in self.messages:
            if isinstance(one, Unheard) and one.vm == vm:
                total.update({name: getattr(one, name) for name in Unheard.__struct_fields__[2:]})
        return total

    def play(self, seconds: float, honest: list[FakeGuest], hostile: Callable[[], None] | None = None) -> int:
        """Honest guests report each period; how many reports they sent."""
        over = threading.Event()
        thread = threading.Thread(target=self._attack, args=(hostile, over)) if hostile is not None else None
        if thread is not None:
            thread.start()
        sent = 0
        began = time.monotonic()
        due = [began + PERIOD_S * place / len(honest) for place in range(len(honest))]
        try:
            while time.monotonic() < began + seconds:
                now = time.monotonic()
                for place, one in enumerate(honest):
                    if due[place] <= now:
                        one.say(one.report())
                        due[place] += PERIOD_S
                        sent += 1
                self.hear(max(0.0, min(due) - time.monotonic()))
        finally:
            over.set()
            if thread is not None:
                thread.join()
        return sent

    def _attack(self, hostile: Callable[[], None], over: threading.Event) -> None:
        while not over.is_set():
            hostile()

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory_kib(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0])

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()
        for one in self.guests:
            one.close()
        self.monitor.close()
        self.server.close()


@pytest.fixture
def rig(tmp_path, request) -> Iterator[Rig]:
    found = Rig(tmp_path, getattr(request, "param", GUESTS))
    try:
        found.watch()
        yield found
    finally:
        found.close()


def flood(one: FakeGuest) -> Callable[[], None]:
    def attack() -> None:
        if not one.say(b"".join(one.report() for _ in range(200))):
            time.sleep(0.001)

    return attack


def tiny_lines(one: FakeGuest) -> Callable[[], None]:
    def attack() -> None:
        if not one.say(b"x\n" * 30_000):
            time.sleep(0.001)

    return attack


def garbage(one: FakeGuest) -> Callable[[], None]:
    rng = random.Random(3)
    good = [msgspec.json.encode(message) for message in FROM_GUEST]

    def attack() -> None:
        if not one.say(b"\n".join(damaged(rng, rng.choice(good)) for _ in range(50)) + b"\n"):
            time.sleep(0.001)

    return attack


def endless_line(one: FakeGuest) -> Callable[[], None]:
    def attack() -> None:
        if not one.say(b"7" * 65536):
            time.sleep(0.001)

    return attack


def replay(one: FakeGuest) -> Callable[[], None]:
    recorded = b"".join(one.report() for _ in range(5))

    def attack() -> None:
        one.say(recorded)
        time.sleep(0.1)

    return attack


def forged_identity(one: FakeGuest) -> Callable[[], None]:
    victim = str(uuid.UUID(int=1))

    def attack() -> None:
        items = json.loads(one.report())
        one.say(json.dumps([*items, victim]).encode() + b"\n")
        one.say(json.dumps({"vm": victim, "is": "r1"}).encode() + b"\n")
        one.say(json.dumps([victim, *items]).encode() + b"\n")
        time.sleep(0.05)

    return attack


def trickle(one: FakeGuest) -> Callable[[], None]:
    """Half a line, a byte at a time, for ever."""

    def attack() -> None:
        one.say(b"[")
        time.sleep(0.002)

    return attack


def coming_and_going(one: FakeGuest) -> Callable[[], None]:
    one.server.settimeout(1.0)

    def attack() -> None:
        with contextlib.suppress(OSError):
            one.connection.close()
            one.connection = one.server.accept()[0]
            one.connection.setblocking(False)

    return attack


HOSTILE = {
    "flood": (flood, "held_back_ms"),
    "tiny lines": (tiny_lines, "over_rate"),
    "garbage": (garbage, "garbage"),
    "endless line": (endless_line, "too_long"),
    "replay": (replay, "replayed"),
    "forged identity": (forged_identity, "garbage"),
    "trickle": (trickle, None),
    "coming and going": (coming_and_going, None),
}


@pytest.mark.req("T-CORE-13")
@pytest.mark.parametrize("kind", HOSTILE)
def test_one_hostile_guest_delays_no_other(rig, kind):
    """Fifty guests, one of them hostile: everybody else's reports arrive, all of them, at once."""
    bad, *honest = rig.guests
    attack, counted = HOSTILE[kind]
    before_kib = rig.memory_kib()
    sent = rig.play(4.0, honest, attack(bad))
    rig.until(lambda: sum(len(rig.lateness[one.vm]) for one in honest) >= sent)
    late = sorted(late for one in honest for late in rig.lateness[one.vm])
    assert len(late) == sent, "none lost, none twice"
    assert statistics.median(late) < 0.1
    assert late[int(0.99 * len(late))] < 0.5
    for one in honest:
        assert rig.unheard(one.vm).total() == 0
        for message in rig.messages:
            if isinstance(message, Heard) and message.vm == one.vm:
                assert message.message.agent == one.agent
    if counted is not None:
        rig.until(lambda: rig.unheard(bad.vm)[counted] > 0)
    assert rig.memory_kib() - before_kib < 20_000


@pytest.mark.req("T-CORE-13")
def test_half_of_the_guests_hostile_at_once(rig):
    bad, honest = rig.guests[: GUESTS // 2], rig.guests[GUESTS // 2 :]
    attacks = [kind[0](one) for one, kind in zip(bad, list(HOSTILE.values())[:5] * 5, strict=True)]

    def attack() -> None:
        for one in attacks:
            one()

    sent = rig.play(5.0, honest, attack)
    rig.until(lambda: sum(len(rig.lateness[one.vm]) for one in honest) >= sent)
    late = sorted(late for one in honest for late in rig.lateness[one.vm])
    assert len(late) == sent
    assert late[int(0.99 * len(late))] < 1.0


@pytest.mark.req("T-CORE-10", "T-CORE-13")
def test_a_flood_is_read_no_faster_than_its_budget(rig):
    bad = rig.guests[0]
    cpu, octets = rig.cpu_s(), 0

    def attack() -> None:
        nonlocal octets
        octets += bad.say(b"".join(bad.report() for _ in range(100)))
        time.sleep(0.001)

    rig.play(5.0, rig.guests[1:], attack)
    assert octets < budget.OCTETS_BURST + 6 * budget.OCTETS_PER_S + 600_000, "what the kernel's socket holds besides"
    assert rig.cpu_s() - cpu < 2.5
    last = [one for one in rig.messages if isinstance(one, Heard) and one.vm == bad.vm]
    assert len(last) > 50, "it is heard as far as its budget goes"


@pytest.mark.req("T-CORE-13")
@pytest.mark.parametrize("rig", [3], indirect=True)
def test_a_guest_that_does_not_read_delays_no_other(rig):
    deaf, *others = rig.guests
    for number in range(5000):
        rig.monitor.setblocking(True)
        rig.monitor.sendall(encode(gateway.Tell(vm=deaf.vm, message=guest.Ask(number, "load"))))
    for one in others:
        rig.monitor.sendall(encode(gateway.Tell(vm=one.vm, message=guest.Acknowledge(7))))
    rig.monitor.setblocking(False)
    for one in others:
        rig.until(lambda one=one: b'["ack",7]\n' in one.listen())
    rig.until(lambda: rig.unheard(deaf.vm)["untold"] > 0)


@pytest.mark.parametrize("rig", [3], indirect=True)
def test_a_monitor_that_is_away_finds_the_newest_words_and_every_channel(rig):
    rig.leave()
    rig.messages.clear()
    for _ in range(60):
        for one in rig.guests:
            one.say(one.report())
        time.sleep(0.02)
    rig.listen()
    rig.join()
    rig.until(lambda: rig.count(ChannelOpen) == 3)
    rig.until(lambda: all(rig.unheard(one.vm)["crowded_out"] > 0 for one in rig.guests))
    for one in rig.guests:
        told = [m.message.sequence for m in rig.messages if isinstance(m, Heard) and m.vm == one.vm]
        assert told == sorted(told)
        assert told[-1] == 60
        assert len(told) + rig.unheard(one.vm)["crowded_out"] == 60


@pytest.mark.parametrize("rig", [3], indirect=True)
def test_a_channel_comes_back_and_a_dropped_one_does_not(rig):
    first, second, third = rig.guests
    first.connection.close()
    rig.until(lambda: rig.count(ChannelLost, first.vm) == 1)
    first.accept()
    rig.until(lambda: rig.count(ChannelOpen, first.vm) == 2)
    first.say(first.report())
    rig.until(lambda: rig.count(Heard, first.vm) == 1)
    rig.monitor.sendall(encode(WatchChannels(channels=(Channel(first.vm, str(first.path)),))))
    for one in (second, third):
        rig.until(lambda one=one: select.select([one.connection], [], [], 0)[0] != [])
        assert one.connection.recv(10) == b""
    second.server.settimeout(1.0)
    with pytest.raises(TimeoutError):
        second.server.accept()


@pytest.mark.parametrize("rig", [2], indirect=True)
def test_a_monitor_that_talks_nonsense_is_left_and_met_again(rig):
    rig.monitor.sendall(b"\x00\x00\x00\x01\xc1")
    rig.monitor.close()
    rig.join()
    rig.until(lambda: rig.count(ChannelOpen) >= 4)


@pytest.mark.parametrize("rig", [2], indirect=True)
def test_it_has_no_rights(rig):
    """Whatever the test's own user, it can win back none, and leaves no core."""
    status = Path(f"/proc/{rig.process.pid}/status").read_text()
    assert "NoNewPrivs:\t1" in status
    limits = Path(f"/proc/{rig.process.pid}/limits").read_text()
    assert limits.partition("Max core file size")[2].split()[0] == "0"
