"""The lab's hand in a place: obeys JSON lines, runs commands, does the place's work. Standard library only.

In a guest it is process 1 and speaks on a virtio-serial port; in ``ext`` it speaks on standard input. One thread, one
poll, everything non-blocking and bounded: a host that does not read can stop neither it nor the work.

A request is ``{"id": n, "do": "run" | "spawn" | "stop" | "work" | "samples" | "configure" | "hello", …}``, its reply
carries the same id, and ``error`` instead of results where something is wrong. Replies come when they are ready.
"""

import base64
import collections
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PORT = "org.hypervigil.lab.0"
HERE = str(Path(__file__).resolve().parent)
LINE_BYTES = 65536
OUT_BYTES = 1 << 20
TAIL_BYTES = 16384
SAMPLES_KEPT = 600
JOBS_KEPT = 64
TIMED_OUT = 124
BUILT_IN_WORK = ("web-server", "web-client", "batch", "writer")


def now() -> float:
    """Seconds since boot."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _ordinary() -> None:
    """Between fork and exec: only the runner itself is preferred to others."""
    os.setpriority(os.PRIO_PROCESS, 0, 0)


class Job:
    """A shell command in a session of its own, with the tail of its output."""

    def __init__(self, argv: list[str], *, keep_output: bool = True) -> None:
        # A bare descriptor: a file object would close it once more, when it may be another job's.
        self.output, end = os.pipe()
        try:
            self.process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=end,
                stderr=end if keep_output else None,
                start_new_session=True,
                preexec_fn=_ordinary,  # noqa: PLW1509 - there is one thread
            )
        except BaseException:
            os.close(self.output)
            raise
        finally:
            os.close(end)
        os.set_blocking(self.output, False)
        self.tail = b""
        self.exit: int | None = None
        self.request: Any = None  # the request that waits for its end
        self.deadline = float("inf")

    def hear(self) -> bytes:
        """What it printed since; at the end of its output its pipe is closed."""
        if self.output < 0:
            return b""
        try:
            chunk = os.read(self.output, LINE_BYTES)
        except BlockingIOError:
            return b""
        if not chunk:
            self.close()
        return chunk

    def close(self) -> None:
        """Hear no more of it."""
        if self.output >= 0:
            os.close(self.output)
            self.output = -1

    def kill(self) -> None:
        """End it with its children."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def result(self) -> dict[str, Any]:
        """Its exit status (None while it runs) and what it printed last."""
        return {"exit": self.exit, "output": self.tail.decode(errors="replace")}


class Work:
    """The place's ordinary work and its samples."""

    def __init__(self) -> None:
        self.job: Job | None = None
        self.samples: collections.deque[dict[str, Any]] = collections.deque(maxlen=SAMPLES_KEPT)
        self.partial = b""
        self.ready = False
        self.request: Any = None  # the request that waits for its beginning

    def read(self, chunk: bytes) -> None:
        """Take samples from the work's output."""
        *lines, self.partial = (self.partial + chunk).split(b"\n")
        for line in lines:
            if line.startswith(b'{"t"'):
                self.samples.append(json.loads(line))
            elif line.startswith(b'{"ready"'):
                self.ready = True
        self.partial = self.partial[-LINE_BYTES:]


class Runner:
    """The loop."""

    def __init__(self, port: int, *, is_guest: bool) -> None:
        self.port = port
        self.is_guest = is_guest
        self.incoming = b""
        self.outgoing = b""
        self.lost = 0
        self.jobs: collections.OrderedDict[int, Job] = collections.OrderedDict()
        self.last_job = 0
        self.work = Work()
        self.silent_until = 0.0

    def serve(self) -> None:
        """Obey until the other side is gone (never, in a guest)."""
        while True:
            poll = select.poll()
            if now() >= self.silent_until:
                poll.register(self.port, select.POLLIN | (select.POLLOUT if self.outgoing else 0))
            jobs = [*self.jobs.values(), *([self.work.job] if self.work.job else [])]
            for job in jobs:
                if job.output >= 0:
                    poll.register(job.output, select.POLLIN)
            events = dict(poll.poll(250))
            if events.get(self.port):
                self._speak(events[self.port])
            for job in jobs:
                if events.get(job.output):
                    self._hear(job)
            self._reap()
            self._tell_of_work()

    def _tell_of_work(self) -> None:
        """Answer who waits for work to begin."""
        job, request = self.work.job, self.work.request
        if job is None or request is None or (not self.work.ready and job.exit is None):
            return
        self.work.request = None
        if self.work.ready:
            self._reply(request)
        else:
            self._reply(request, error=f"the work ended at once with status {job.exit}: is {request['kind']!r} right?")

    def _speak(self, events: int) -> None:
        if events & select.POLLIN:
            try:
                chunk = os.read(self.port, LINE_BYTES)
            except BlockingIOError:
                chunk = None
            if chunk:
                *lines, self.incoming = (self.incoming + chunk).split(b"\n")
                self.incoming = self.incoming[-LINE_BYTES:]
                for line in filter(None, lines):
                    self._obey(line)
            elif chunk == b"":
                self._unheard()
        elif events & select.POLLHUP:
            self._unheard()
        if self.outgoing and not events & select.POLLHUP:
            self._flush()

    def _unheard(self) -> None:
        """Nobody is on the other side: a guest waits for somebody, ``ext`` ends with all its jobs."""
        if not self.is_guest:
            for job in [*self.jobs.values(), *([self.work.job] if self.work.job else [])]:
                job.kill()
            sys.exit(0)
        self.incoming = self.outgoing = b""
        self.silent_until = now() + 0.1

    def _flush(self) -> None:
        try:
            sent = os.write(self.port if self.is_guest else 1, self.outgoing)
        except (BlockingIOError, BrokenPipeError):
            return
        self.outgoing = self.outgoing[sent:]

    def _reply(self, request: Any, **fields: Any) -> None:
        line = json.dumps({"id": request.get("id"), **fields}).encode() + b"\n"
        if len(self.outgoing) + len(line) > OUT_BYTES:
            self.lost += 1
            return
        self.outgoing += line
        self._flush()

    def _obey(self, line: bytes) -> None:
        try:
            request = json.loads(line)
            action = getattr(self, "do_" + request["do"])
        except (ValueError, KeyError, TypeError, AttributeError):
            return  # noise from before the host's greeting
        try:
            action(request)
        except (OSError, ValueError, KeyError, TypeError, subprocess.SubprocessError) as error:
            self._reply(request, error=f"{type(error).__name__}: {error}")

    def do_hello(self, request: Any) -> None:
        """Tell that it listens, and the time since boot."""
        self._reply(request, now=now(), lost=self.lost)

    def do_run(self, request: Any) -> None:
        """Run ``command`` for ``timeout_s`` at most; the reply comes at its end."""
        job = self.jobs[self._start(request["command"])]
        job.request = request
        job.deadline = now() + request["timeout_s"]

    def do_spawn(self, request: Any) -> None:
        """Start ``command``; the reply is its job's number."""
        self._reply(request, job=self._start(request["command"]))

    def do_stop(self, request: Any) -> None:
        """End a job; the reply is its result, nothing when there is no such job."""
        job = self.jobs.get(request["job"])
        if job is None:
            self._reply(request)
            return
        job.kill()
        if job.exit is None:
            job.request = request
        else:
            self._reply(request, **job.result())

    def do_work(self, request: Any) -> None:
        """Begin another kind of work, or none; the reply comes when it has begun."""
        if self.work.request is not None:
            self._reply(self.work.request, error="other work was asked for before this began")
            self.work.request = None
        self.work.ready = False
        self.work.partial = b""
        if self.work.job is not None:
            self.work.job.kill()
            self.work.job.process.wait()
            self.work.job.close()
            self.work.job = None
        kind, _, options = request["kind"].partition(" ")
        kind, _, target = kind.partition(":")
        if request["kind"] in ("idle", ""):
            pass
        elif kind in BUILT_IN_WORK:
            argv = ["/usr/bin/python3", "-I", "-S", HERE + "/work.py", kind, *([target] if target else [])]
            self.work.job = Job(argv + options.split(), keep_output=False)
            self.work.request = request
            return
        else:
            self.work.job = Job(["/bin/sh", "-c", request["kind"]])
        self._reply(request)

    def do_samples(self, request: Any) -> None:
        """Hand out the samples since the last time, as many as fit."""
        samples = []
        size = 0
        while self.work.samples and size < OUT_BYTES // 4:
            samples.append(self.work.samples.popleft())
            size += 60 + 10 * len(samples[-1]["latencies"])
        job = self.work.job
        dead = job is not None and job.exit is not None
        self._reply(request, now=now(), samples=samples, more=bool(self.work.samples), dead=dead)

    def do_configure(self, request: Any) -> None:
        """Set clock, name and network, mount the scratch disk."""
        self.configure(request)
        self._reply(request, now=now())

    def configure(self, wanted: Any) -> None:
        """``address``, ``prefix``, ``gateway``, ``hostname``, ``wall_s``; perhaps IPv6 address, prefix and gateway."""
        time.clock_settime(time.CLOCK_REALTIME, wanted["wall_s"])
        Path("/proc/sys/kernel/hostname").write_text(wanted["hostname"])
        lines = [
            "link set lo up",
            "addr flush dev eth0",
            f"addr add {wanted['address']}/{wanted['prefix']} broadcast + dev eth0",
            "link set eth0 up",
            f"route replace default via {wanted['gateway']}",
        ]
        if wanted.get("address6"):
            Path("/proc/sys/net/ipv6/conf/eth0/disable_ipv6").write_text("0")
            lines.append(f"addr add {wanted['address6']}/{wanted['prefix6']} dev eth0 nodad")
        if wanted.get("gateway6"):
            lines += [
                f"route replace {wanted['gateway6']} dev eth0",
                f"route replace default via {wanted['gateway6']} dev eth0",
            ]
        subprocess.run(["ip", "-batch", "-"], input="\n".join(lines).encode() + b"\n", check=True, timeout=30)
        if not Path("/scratch").is_mount():
            subprocess.run(["mount", "-o", "noatime", "/dev/vdb", "/scratch"], check=True, timeout=30)

    def boot(self) -> None:
        """Do what the kernel's command line says: a guest that acts before anybody can talk to it."""
        for word in Path("/proc/cmdline").read_text().split():
            if word.startswith("hv.config="):
                wanted = json.loads(base64.b64decode(word.removeprefix("hv.config=")))
                self.configure(wanted)
                if wanted.get("on_boot"):
                    self._start(wanted["on_boot"])

    def _start(self, command: str) -> int:
        for number in [number for number, job in self.jobs.items() if job.exit is not None and not job.request]:
            if len(self.jobs) < JOBS_KEPT:
                break
            self._forget(number)
        if len(self.jobs) >= JOBS_KEPT:
            raise ValueError(f"{JOBS_KEPT} jobs run already")
        self.last_job += 1
        self.jobs[self.last_job] = Job(["/bin/sh", "-c", command])
        return self.last_job

    def _forget(self, number: int) -> None:
        self.jobs.pop(number).close()

    def _hear(self, job: Job) -> None:
        chunk = job.hear()
        if job is self.work.job:
            self.work.read(chunk)
        else:
            job.tail = (job.tail + chunk)[-TAIL_BYTES:]

    def _reap(self) -> None:
        """Notice what ended or ran out of time; as process 1 also bury orphans."""
        ours = {job.process.pid: job for job in self.jobs.values()}
        if self.work.job is not None:
            ours[self.work.job.process.pid] = self.work.job
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            if pid in ours:
                ours[pid].exit = os.waitstatus_to_exitcode(status)
                ours[pid].process.returncode = ours[pid].exit
        at = now()
        for number, job in list(self.jobs.items()):
            if job.exit is None and at >= job.deadline:
                job.kill()
                job.process.wait()
                job.exit = TIMED_OUT
            if job.exit is not None and job.request is not None:
                self._hear(job)
                request, job.request = job.request, None
                self._reply(request, **job.result())
                self._forget(number)


def _find_port() -> str:
    """The device of the virtio-serial port with our name, when it is there; without udev no link has that name."""
    while True:
        for name in Path("/sys/class/virtio-ports").glob("*/name"):
            if name.read_text().strip() == PORT:
                return f"/dev/{name.parent.name}"
        time.sleep(0.05)


def main() -> None:
    """Serve a guest's port, or standard input."""
    os.environ["PATH"] = HERE + "/bin:" + os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
    is_guest = "--guest" in sys.argv
    if is_guest:
        port = os.open(_find_port(), os.O_RDWR | os.O_NONBLOCK)
        os.setpriority(os.PRIO_PROCESS, 0, -10)
    else:
        port = 0
        os.set_blocking(0, False)
        os.set_blocking(1, False)
    runner = Runner(port, is_guest=is_guest)
    if is_guest:
        runner.boot()
    runner.serve()


if __name__ == "__main__":
    main()
