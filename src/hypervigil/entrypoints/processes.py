"""Who runs: the record that supervisor, enforcer and command line share, and how a supervisor is started."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import IO

import msgspec

from hypervigil.entrypoints.layout import Layout

MAX_LOG_BYTES = 5_000_000


class Processes(msgspec.Struct):
    """What ``processes.json`` holds: who runs, so that a new supervisor can adopt and ``off`` can stop them."""

    supervisor: int
    services: dict[str, int]
    monitor_arguments: list[str]


def read_processes(layout: Layout) -> Processes | None:
    """The processes on record, or ``None`` where nothing was started."""
    try:
        return msgspec.json.decode(layout.processes_file.read_bytes(), type=Processes)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


@contextlib.contextmanager
def service_log(layout: Layout, name: str) -> Iterator[IO[bytes]]:
    """A process's log, open for appending; a long one is set aside."""
    path = layout.log_dir / f"{name}.log"
    if path.exists() and path.stat().st_size > MAX_LOG_BYTES:
        path.replace(path.with_suffix(".log.1"))
    with path.open("ab") as log:
        yield log


def start_detached(layout: Layout, monitor_arguments: list[str]) -> int:
    """Start a supervisor that outlives us; its process id."""
    with service_log(layout, "supervisor") as log:
        process = subprocess.Popen(
            [
                sys.executable,
                "-I",
                "-m",
                "hypervigil.entrypoints.supervise",
                json.dumps(monitor_arguments),
                *layout.arguments(),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd="/",
        )
    return process.pid
