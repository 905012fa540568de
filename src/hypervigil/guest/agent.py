"""The agent: once a second it looks, compares, decides its level and tells the host; in between it answers."""

from __future__ import annotations

import posix
import sys
import time

from hypervigil.guest import lines, snapshot, words
from hypervigil.guest.addresses import Networks
from hypervigil.guest.eyes import Eyes
from hypervigil.guest.port import Port
from hypervigil.guest.snapshot import Snapshot
from hypervigil.guest.voice import Voice
from hypervigil.guest.vrem.load import Load
from hypervigil.guest.vsem import special
from hypervigil.guest.vsem.levels import LEVEL1, LEVEL2, LevelChange, Levels
from hypervigil.guest.vsem.recorder import Second

RELEASE = "0.1.0"
PERIOD_MS = 1000
SETUP_MS = 10_000
"""How often a guest's setup is looked at on Level 1."""
ANSWERS = 8
"""Questions answered a second."""
FLOWS, TRANSMITTERS, DEVICES, TALKERS = 64, 16, 16, 32
STATE = "/run/hypervigil-agent/level"


def now_ms() -> int:
    """Milliseconds since boot; never steps."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * 1000)


class Memory:
    """The level, where a restart of the agent finds it."""

    def __init__(self, path: str) -> None:
        self._path = path

    def recall(self) -> int:
        """The level that was last kept; Level 1 when there is none."""
        try:
            fd = posix.open(self._path, posix.O_RDONLY | posix.O_CLOEXEC)
        except OSError:
            return LEVEL1
        try:
            return LEVEL2 if posix.read(fd, 8).strip() == b"2" else LEVEL1
        except OSError:
            return LEVEL1
        finally:
            posix.close(fd)

    def keep(self, level: int) -> None:
        """Keep it, if there is a place for it."""
        try:
            fd = posix.open(self._path, posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC | posix.O_CLOEXEC, 0o600)
        except OSError:
            return
        try:
            posix.write(fd, b"%d\n" % level)
        except OSError:
            return
        finally:
            posix.close(fd)


class Agent:
    """VSEM and VREM, wired to what they see and to the host."""

    def __init__(self, port: Port, memory: Memory) -> None:
        self._port = port
        self._voice = Voice(port, int.from_bytes(posix.urandom(6), "big"))
        self._memory = memory
        self._eyes = Eyes()
        self._levels = Levels(memory.recall())
        self._load = Load()
        self._before: Snapshot | None = None
        self._setup: special.Setup | None = None
        self._setup_ms = 0
        self._answers = 0
        self._greeted = False
        change = self._levels.begin()
        if change is not None:
            self._changed(change, now_ms())

    def run(self) -> None:
        """Until killed."""
        due = now_ms()
        self._listen(0)
        while True:
            self.second(now_ms())
            due = max(due + PERIOD_MS, now_ms())
            left = due - now_ms()
            while left > 0:
                self._listen(left)
                left = due - now_ms()

    def _listen(self, timeout_ms: int) -> None:
        for line in self._port.wait(timeout_ms):
            self.hear(line, now_ms())

    def close(self) -> None:
        """Let go of everything."""
        self._eyes.close()
        self._port.close()

    def second(self, at_ms: int) -> None:
        """Look once, and tell."""
        self._answers = 0
        after, second = self._eyes.look(at_ms, detailed=self._levels.level == LEVEL2)
        before, self._before = self._before, after
        self._greet(after)
        if before is None:
            return
        interval_ms = after.at_ms - before.at_ms
        values = snapshot.changes(before, after, second)
        self._load.see(values, at_ms, interval_ms)
        change = self._levels.observe(snapshot.sure(values, second), interval_ms)
        if change is not None:
            self._changed(change, at_ms)
        for request in special.devices_changed(before, after, max(0, values[words.BALLOON])):
            self._voice.notice("special", list(request), at_ms)
        self._look_at_setup(at_ms)
        for wish in self._load.wishes(at_ms, after.memory_kib):
            self._voice.notice("wanted", list(wish), at_ms)
        self._voice.tell_notices(at_ms)
        self._report(before, after, second, values, interval_ms)

    def _look_at_setup(self, at_ms: int) -> None:
        detailed = self._levels.level == LEVEL2
        if self._setup is not None and not detailed and at_ms - self._setup_ms < SETUP_MS:
            return
        before, self._setup_ms = self._setup, at_ms
        self._setup = self._eyes.setup(int(time.time() * 1000) - now_ms(), detailed=detailed)
        if before is not None:
            for request in special.setup_changed(before, self._setup):
                self._voice.notice("special", list(request), at_ms)

    def _report(self, before: Snapshot, after: Snapshot, second: Second, values: list[int], interval_ms: int) -> None:
        usual = self._levels.usual
        fields: list[object] = [after.at_ms, self._levels.level, usual.breached, usual.history, interval_ms, values]
        fields += [list(zip(second.weights, second.read, second.passed, second.one_in)), second.talkers()]
        details: list[object] | None = None
        if self._levels.level == LEVEL2:
            transmitters = self._eyes.transmitters.busiest(TRANSMITTERS)
            devices = snapshot.devices(before, after, DEVICES)
            details = [*self._eyes.recorder.fresh_flows(FLOWS), transmitters, devices]
        self._voice.report(fields, details)

    def _greet(self, found: Snapshot) -> None:
        """Say hello to whoever has come, and what was lost meanwhile."""
        if not self._port.connected:
            self._greeted = False
        elif not self._greeted:
            self._greeted = self._hello(found)
        else:
            self._voice.own_up(found.at_ms)

    def _hello(self, found: Snapshot) -> bool:
        state: list[object] = [self._levels.level, self._levels.usual.history]
        about: list[object] = [found.cpu.cpus, found.memory_kib, self._eyes.blind()]
        head: list[object] = [found.at_ms, RELEASE, lines.plain(Eyes.boot_id(), 36)]
        return self._voice.say("hello", head + state + about)

    def _changed(self, change: LevelChange, at_ms: int) -> None:
        self._memory.keep(change.level)
        if change.level == LEVEL1:
            self._eyes.recorder.relax()
        self._voice.notice("level", change.fields(), at_ms)

    def hear(self, untrusted_line: bytes, at_ms: int) -> None:
        """One line of the host's; what is not understood is passed over."""
        try:
            kind, *fields = lines.parse(untrusted_line)
            if kind == "ask":
                self._answer(fields, at_ms)
            elif kind == "ack":
                self._voice.heard(whole(fields[0]))
            elif kind == "set-level":
                change = self._levels.told(whole(fields[0]))
                if change is not None:
                    self._changed(change, at_ms)
            elif kind == "history":
                usual = [tuple([whole(item) for item in some(entry)]) for entry in some(fields[1])]
                self._levels.usual.learn(whole(fields[0]), [(m, middle, spread) for m, middle, spread in usual])
                self._eyes.recorder.usual_ports = frozenset([whole(port) for port in some(fields[2])])
            elif kind == "networks":
                self._eyes.recorder.networks = Networks([str(word) for word in some(fields[0])])
        except (ValueError, IndexError):
            return

    def _answer(self, fields: list[object], at_ms: int) -> None:
        number, question, since_ms = whole(fields[0]), fields[1], whole(fields[2])
        self._answers += 1
        if self._answers > ANSWERS:
            self._voice.say("declined", [at_ms, number, "busy"])
        elif question == "hello" and self._before is not None:
            self._hello(self._before)
        elif question == "flows":
            self._voice.say("flows", [at_ms, number, *self._eyes.recorder.flows_since(since_ms, FLOWS)])
        elif question == "top":
            transmitters = self._eyes.transmitters.busiest(TRANSMITTERS)
            self._voice.say("top", [at_ms, number, self._eyes.recorder.talkers(TALKERS), transmitters])
        elif question == "load":
            self._voice.say("load", [at_ms, number, *self._load.answer()])
        else:
            self._voice.say("declined", [at_ms, number, "unknown"])


def whole(value: object) -> int:
    """A whole number; ``ValueError`` for anything else."""
    if isinstance(value, int):
        return value
    raise ValueError("not a number")


def some(value: object) -> list[object]:
    """A list; ``ValueError`` for anything else."""
    if isinstance(value, list):
        return value
    raise ValueError("not a list")


def main(arguments: list[str]) -> None:
    """``hypervigil-agent [PORT [STATE]]``: without PORT it looks for the channel by its name."""
    port = arguments[0] if arguments else None
    memory = Memory(arguments[1] if len(arguments) > 1 else STATE)
    Agent(Port(port), memory).run()


if __name__ == "__main__":
    main(sys.argv[1:])
