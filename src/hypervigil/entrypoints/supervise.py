"""The launcher: starts the four services, brings back within a second whichever dies, and stops them in order.

It stands in for an init system where there is none; with systemd the units in ``packaging/systemd`` do its work.
It reads nothing from anybody: its only inputs are the deaths of its processes and signals. If it dies itself, the
enforcer's watch starts it again and it adopts the services that still run.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

from hypervigil.entrypoints.layout import GATEWAY_USER, MONITOR_USER, SENSORS_USER, Layout, make_directories, user_ids
from hypervigil.entrypoints.options import parse_layout
from hypervigil.entrypoints.processes import Processes, read_processes, service_log

RESTART_PAUSE_S = 0.1
RESTART_PAUSE_MAX_S = 0.2
"""A start takes half a second of a core, so that one that always fails uses at most two thirds of one."""
STEADY_S = 10.0
STOP_PATIENCE_S = 5.0


@dataclass(frozen=True, slots=True)
class Service:
    """One process that must always run."""

    name: str
    module: str
    user: str | None
    nice: int
    oom_score: int


# The order of start; stopped in reverse. The judge must not starve when guests fill every core, nor be the first to
# be killed for memory.
SERVICES = (
    Service("enforcer", "hypervigil.entrypoints.enforcer", None, nice=-10, oom_score=-900),
    Service("monitor", "hypervigil.entrypoints.monitor", MONITOR_USER, nice=-10, oom_score=-800),
    Service("sensors", "hypervigil.entrypoints.sensors", SENSORS_USER, nice=-10, oom_score=-800),
    # What guests say is worth less than what the host sees.
    Service("gateway", "hypervigil.entrypoints.gateway", GATEWAY_USER, nice=-5, oom_score=-500),
)


@dataclass(slots=True)
class _Running:
    service: Service
    pid: int
    pidfd: int
    started: float
    pause_s: float = RESTART_PAUSE_S
    restart_at: float | None = None


def alive(pid: int, module: str) -> bool:
    """Whether ``pid`` is a living process that runs ``module`` (a recycled pid is somebody else)."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state != "Z" and module.encode() in command


class Supervisor:
    """Starts, watches and restarts the services; one instance per installation."""

    def __init__(self, layout: Layout, monitor_arguments: list[str]) -> None:
        self._layout = layout
        self._monitor_arguments = monitor_arguments
        self._running: dict[str, _Running] = {}
        self._poll = select.poll()
        self._stop = False
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def run(self) -> None:
        """Run until SIGTERM or SIGINT; then stop the services and leave the limits in force as they are."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        self._poll.register(self._wake_read, select.POLLIN)
        self._layout.stopping_file.unlink(missing_ok=True)
        self._adopt_or_start()
        while not self._stop:
            self._wait()
            self._reap()
        self._stop_all()

    def _on_signal(self, _number: int, _frame: object) -> None:
        self._stop = True

    def _adopt_or_start(self) -> None:
        recorded = read_processes(self._layout)
        for service in SERVICES:
            pid = recorded.services.get(service.name) if recorded else None
            if pid is not None and alive(pid, service.module):
                self._watch(service, pid)
        # All that run are on record before another is started: nobody must be lost should we die in between.
        self._record()
        for service in SERVICES:
            if service.name not in self._running:
                self._start(service)

    def _start(self, service: Service, pause_s: float = RESTART_PAUSE_S) -> None:
        extra = self._monitor_arguments if service.name == "monitor" else []
        uid, gid = user_ids(service.user) if service.user else (None, None)
        with service_log(self._layout, service.name) as log:
            process = subprocess.Popen(
                [sys.executable, "-I", "-m", service.module, *self._layout.arguments(), *extra],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # PRIVILEGED: services other than the enforcer give up root here, before their first instruction.
                user=uid,
                group=gid,
                extra_groups=[] if service.user else None,
                process_group=0,
                cwd="/",
            )
        self._watch(service, process.pid, pause_s)
        # First of all, since 'off' can stop only what is on record if we die.
        self._record()
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, process.pid, service.nice)
            Path(f"/proc/{process.pid}/oom_score_adj").write_text(str(service.oom_score), encoding="ascii")

    def _watch(self, service: Service, pid: int, pause_s: float = RESTART_PAUSE_S) -> None:
        pidfd = os.pidfd_open(pid)
        self._poll.register(pidfd, select.POLLIN)
        self._running[service.name] = _Running(service, pid, pidfd, time.monotonic(), pause_s)

    def _wait(self) -> None:
        due = [r.restart_at for r in self._running.values() if r.restart_at is not None]
        timeout = max(0.0, min(due) - time.monotonic()) * 1000 if due else None
        with contextlib.suppress(InterruptedError):
            for fd, _ in self._poll.poll(timeout):
                if fd == self._wake_read:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._wake_read, 64)

    def _reap(self) -> None:
        now = time.monotonic()
        for running in list(self._running.values()):
            if running.restart_at is None and not _exited(running):
                continue
            if running.restart_at is None:
                self._poll.unregister(running.pidfd)
                os.close(running.pidfd)
                steady = now - running.started > STEADY_S
                running.pause_s = RESTART_PAUSE_S if steady else min(running.pause_s * 2, RESTART_PAUSE_MAX_S)
                running.restart_at = now + (0.0 if steady else running.pause_s)
                print(f"supervisor: {running.service.name} ended, restarting", flush=True)
            if now >= running.restart_at and not self._stop:
                self._start(running.service, running.pause_s)

    def _record(self) -> None:
        processes = Processes(
            os.getpid(), {name: running.pid for name, running in self._running.items()}, self._monitor_arguments
        )
        temporary = self._layout.processes_file.with_suffix(".new")
        try:
            temporary.write_bytes(msgspec.json.encode(processes))
            temporary.replace(self._layout.processes_file)
        except OSError as error:
            # Better all services without a record than some of them without a supervisor.
            print(f"supervisor: cannot write down who runs: {error}", flush=True)

    def _stop_all(self) -> None:
        self._layout.stopping_file.touch()
        for service in reversed(SERVICES):
            running = self._running.get(service.name)
            if running is None or running.restart_at is not None:
                continue
            stop_process(running.pid, running.pidfd)
        self._layout.processes_file.unlink(missing_ok=True)


def _exited(running: _Running) -> bool:
    poll = select.poll()
    poll.register(running.pidfd, select.POLLIN)
    if not poll.poll(0):
        return False
    with contextlib.suppress(ChildProcessError):
        os.waitpid(running.pid, os.WNOHANG)
    return True


def stop_process(pid: int, pidfd: int) -> None:
    """Ask a process to end, insist after ``STOP_PATIENCE_S``; returns when it is gone."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, number)
        if poll.poll(STOP_PATIENCE_S * 1000):
            break
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    os.close(pidfd)


def stop_everything(layout: Layout) -> list[str]:
    """Stop the supervisor and every service on record, in an order in which nothing is restarted.

    Returns one sentence per process that was stopped.
    """
    recorded = read_processes(layout)
    if recorded is None:
        return []
    if layout.run_dir.is_dir():
        layout.stopping_file.touch()
    stopped = []
    targets = [("supervisor", recorded.supervisor, "hypervigil.entrypoints.supervise")]
    targets += [(s.name, recorded.services.get(s.name, -1), s.module) for s in reversed(SERVICES)]
    for name, pid, module in targets:
        if pid > 0 and (alive(pid, module) or (name == "supervisor" and _is_up(pid))):
            with contextlib.suppress(ProcessLookupError):
                stop_process(pid, os.pidfd_open(pid))
                stopped.append(f"stopped the {name} (process {pid})")
    layout.processes_file.unlink(missing_ok=True)
    return stopped


def _is_up(pid: int) -> bool:
    """Whether ``pid`` is a ``hypervigil up`` in the foreground, which is a supervisor too."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"up" in command and any(part.endswith(b"hypervigil") for part in command)


def main(argv: list[str] | None = None) -> None:
    """``python -m hypervigil.entrypoints.supervise MONITOR_ARGUMENTS_AS_JSON --run-dir=… --state-dir=…``."""
    arguments = sys.argv[1:] if argv is None else argv
    monitor_arguments = msgspec.json.decode(arguments[0], type=list[str])
    layout, _ = parse_layout(arguments[1:])
    os.setpriority(os.PRIO_PROCESS, 0, -11)
    make_directories(layout)
    Supervisor(layout, monitor_arguments).run()


if __name__ == "__main__":
    main()
