"""The host's end of the lab's runner in a place: requests out, replies in, each with a deadline."""

import itertools
import json
import socket
import threading
import time
from collections import deque
from queue import Empty, SimpleQueue
from typing import Any

from lab.errors import LabError
from lab.place import CommandResult, JobId, WorkSample

_GREETING_S, _GREETING_MOST_S = 0.3, 2.0
_SLACK_S = 20.0  # a flooded guest under emulation takes its time
_LINE_BYTES = 4 << 20
_OFFSETS_KEPT = 16


class UnansweredError(LabError):
    """A place's runner did not answer in time; it may yet, e.g. when a paused guest goes on."""


class GoneError(LabError):
    """A place's runner is gone for good, with its guest."""


class Runner:
    """A connection to one runner. Any thread may call; replies find their caller by number."""

    def __init__(self, name: str, connection: socket.socket) -> None:
        self._name = name
        self._connection = connection
        self._numbers = itertools.count(int(time.monotonic() * 1000))
        self._waiting: dict[int, SimpleQueue[dict[str, Any] | None]] = {}
        self._lock = threading.Lock()
        self._gone = False
        self._offsets: deque[float] = deque(maxlen=_OFFSETS_KEPT)
        threading.Thread(target=self._read, name=f"runner-{name}", daemon=True).start()

    def greet(self, timeout_s: float) -> None:
        """Wait until the runner answers."""
        end = time.monotonic() + timeout_s
        patience_s = _GREETING_S
        while True:
            try:
                self.call("hello", patience_s)
            except UnansweredError:
                # Nobody reads until the guest is up: some eighty greetings fill the socket, and it would be given up.
                patience_s = min(2 * patience_s, _GREETING_MOST_S)
                if time.monotonic() >= end:
                    message = f"{self._name} did not come up within {timeout_s:.0f} s"
                    raise UnansweredError(message) from None
            else:
                return

    def call(self, do: str, within_s: float = _SLACK_S, **fields: Any) -> dict[str, Any]:
        """Ask for one thing and wait for its reply; LabError in the runner's own words where it refuses."""
        number = next(self._numbers)
        reply: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
        with self._lock:
            if self._gone:
                raise GoneError(f"{self._name} is gone")
            self._waiting[number] = reply
            self._connection.settimeout(within_s)
            try:
                self._connection.sendall(b"\n" + json.dumps({"id": number, "do": do, **fields}).encode() + b"\n")
            except TimeoutError:
                self._shut()  # half a line may be out: nothing after it would be understood
                raise UnansweredError(f"{self._name} took no request within {within_s:.0f} s") from None
            except OSError as error:
                self._shut()
                raise GoneError(f"{self._name} is gone: {error}") from None
        try:
            answer = reply.get(timeout=within_s)
        except Empty:
            raise UnansweredError(f"{self._name} did not answer '{do}' within {within_s:.0f} s") from None
        finally:
            with self._lock:
                self._waiting.pop(number, None)
        if answer is None:
            raise GoneError(f"{self._name} is gone")
        if "error" in answer:
            raise LabError(f"{self._name}, asked to {do}: {answer['error']}")
        if "now" in answer:
            self._offsets.append(time.monotonic() - answer["now"])
        return answer

    def run(self, command: str, timeout_s: float = 30.0) -> CommandResult:
        """See `lab.place.Place.run`."""
        answer = self.call("run", timeout_s + _SLACK_S, command=command, timeout_s=timeout_s)
        return CommandResult(answer["exit"], answer["output"])

    def spawn(self, command: str) -> JobId:
        """See `lab.place.Place.spawn`."""
        return JobId(self.call("spawn", command=command)["job"])

    def stop(self, job: JobId) -> CommandResult | None:
        """See `lab.place.Place.stop`."""
        answer = self.call("stop", job=job)
        return CommandResult(answer["exit"], answer["output"]) if "exit" in answer else None

    def work_start(self, kind: str) -> None:
        """See `lab.place.Place.work_start`."""
        self.call("work", kind=kind)

    def work_read(self) -> list[WorkSample]:
        """See `lab.place.Place.work_read`; LabError when built-in work ended, which it never does by itself."""
        samples: list[WorkSample] = []
        more = True
        while more:
            answer = self.call("samples")
            # Replies only ever come late: the least difference of the clocks seen lately is the truest.
            offset = min(self._offsets)
            to_wall = time.time() - time.monotonic()
            for sample in answer["samples"]:
                at = sample["t"] + offset
                latencies = tuple(sample["latencies"])
                samples.append(WorkSample(at, at + to_wall, sample["ok"], sample["failed"], latencies))
            more = answer["more"]
            if answer["dead"] and not samples:
                raise LabError(f"the work of {self._name} ended by itself")
        return samples

    def close(self) -> None:
        """Let go of the connection; callers that still wait learn that it is gone."""
        with self._lock:
            self._shut()

    def _shut(self) -> None:
        self._gone = True
        try:
            self._connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it was closed from the other side
        for reply in self._waiting.values():
            reply.put(None)

    def _read(self) -> None:
        incoming = b""
        while True:
            try:
                chunk = self._connection.recv(1 << 16)
            except TimeoutError:
                continue
            except OSError:
                chunk = b""
            if not chunk:
                break
            *lines, incoming = (incoming + chunk).split(b"\n")
            incoming = incoming[-_LINE_BYTES:]
            for line in lines:
                self._deliver(line)
        self.close()
        self._connection.close()

    def _deliver(self, line: bytes) -> None:
        try:
            answer = json.loads(line)
            number = answer["id"]
        except (ValueError, KeyError, TypeError):
            return  # the end of a reply to somebody before us
        with self._lock:
            reply = self._waiting.get(number)
        if reply is not None:
            reply.put(answer)
