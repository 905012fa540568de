"""One TCP stream between two namespaces that stays open: bursts of it, each from the first octet to the last.

How much a connection gets hangs on much that protection has no part in: slow start, pacing, windows that grow, other
tasks on the same CPU. So one connection serves both sides of a comparison, with windows as the kernel grants them by
default, whatever the host says; its ends have real-time priority while they run, and a look is short. A burst begins
and ends with nothing on its way, so that its octets are all and only those whose work it took.

``python -m bench._tcp sink`` and ``… source ADDRESS CONGESTION`` are the ends; ``Stream`` starts and drives them.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

PORT = 10
CONGESTION = "cubic"
"""How a guest minds congestion, if its owner has not chosen: the kernel's default."""
_PIECE = 1 << 18
_WARM_S = 0.005
REST = 0.15
"""Of a look's length, idle behind it: the kernel takes a CPU from real-time tasks that have it for 95 % of a second."""
_SETTINGS = {"tcp_rmem": "4096 131072 6291456", "tcp_wmem": "4096 16384 4194304", "tcp_slow_start_after_idle": "0"}
"""The kernel's defaults, but that a pause costs no window: how long one lasts says nothing of protection."""


@contextlib.contextmanager
def undisturbed(priority: int = 1) -> Iterator[None]:
    """Run before all ordinary tasks; only for moments, since it gives way to none of them.

    Niceness would not do: where the kernel groups tasks by session, it counts within one's own only.
    """
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    # PRIVILEGED: real-time priority.
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, parameters)


class Stream:
    """One connection, from one network namespace to another.

    Its ends run on a CPU each, or on one, so that throughput is the inverse of CPU time per octet.
    """

    def __init__(self, sender: str, receiver: str, address: str, congestion: str, *, one_cpu: bool) -> None:
        self._sink = _start(receiver, "sink")
        self._source = _start(sender, "source", address, congestion)
        cpus = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(self._source.pid, {cpus[-1]})
        os.sched_setaffinity(self._sink.pid, {cpus[-1 if one_cpu else 0]})

    def bits_per_s(self, seconds: float) -> float:
        """What the receiver got of a burst of so many seconds, behind a shorter one that nobody counts."""
        self._burst(_WARM_S)
        rate = self._burst(seconds)
        time.sleep(seconds * REST)
        return rate

    def _burst(self, seconds: float) -> float:
        assert self._source.stdin is not None
        assert self._source.stdout is not None
        assert self._sink.stdout is not None
        self._source.stdin.write(f"{seconds}\n")
        self._source.stdin.flush()
        octets, ended = map(float, self._sink.stdout.readline().split())
        return octets * 8 / (ended - float(self._source.stdout.readline()))

    def close(self) -> None:
        """End both."""
        for end in (self._source, self._sink):
            with end:
                end.send_signal(signal.SIGTERM)


def _start(namespace: str, *arguments: str) -> "subprocess.Popen[str]":
    child = subprocess.Popen(
        ["ip", "netns", "exec", namespace, sys.executable, "-m", "bench._tcp", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    if child.stdout.readline() != "ready\n":
        child.wait()
        raise RuntimeError(f"the stream's {arguments[0]} did not start in {namespace}")
    return child


def _sink() -> None:
    """Take bursts; a burst's last octet is 1, all others are 0."""
    with socket.create_server(("", PORT)) as server:
        print("ready", flush=True)
        connection, _ = server.accept()
    buffer, clock = bytearray(_PIECE), time.perf_counter
    with connection, undisturbed():
        while count := connection.recv_into(buffer):
            octets = count
            while not buffer[count - 1]:
                if not (count := connection.recv_into(buffer)):
                    return
                octets += count
            print(octets, clock(), flush=True)


def _source(address: str, congestion: str) -> None:
    """Send a burst for as many seconds as each line of the input says."""
    piece, clock = bytes(_PIECE), time.perf_counter
    with socket.socket() as sender:
        sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion.encode())
        sender.connect((address, PORT))
        print("ready", flush=True)
        with undisturbed():
            for line in sys.stdin:
                began = clock()
                while clock() < began + float(line):
                    sender.sendall(piece)
                sender.sendall(b"\1")
                print(began, flush=True)


def main() -> None:
    """Do what the command line says."""
    for name, value in _SETTINGS.items():
        Path("/proc/sys/net/ipv4", name).write_text(value, encoding="ascii")
    if sys.argv[1] == "sink":
        _sink()
    else:
        _source(*sys.argv[2:])


if __name__ == "__main__":
    main()
