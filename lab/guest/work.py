"""The ordinary work of a place: a web server, an open-loop web client, batch computing, writing; and two hoarders.

Standard library only.

Each kind says ``{"ready": true}`` on standard output when it has begun, then one JSON line a second:
``{"t": boottime, "ok": n, "failed": n, "latencies": [seconds]}``.
Runs in guests under slow emulation, so one thread, one epoll, few allocations.
"""

import argparse
import collections
import errno
import hashlib
import json
import os
import random
import resource
import select
import signal
import socket
import sys
import threading
import time

LATENCIES_KEPT = 200
PAGE = b"<!doctype html><title>lab</title>" + b"<p>All is well here." * 40
RESPONSE = b"HTTP/1.0 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (
    len(PAGE),
    PAGE,
)
REQUEST = b"GET / HTTP/1.0\r\nHost: lab\r\nConnection: close\r\n\r\n"
REQUEST_TIMEOUT_S = 3.0
MOST_HEAD = 4096  # octets of a request's head, by which time it has to end
GIVEN_S = 10.0  # as has every connection
TOS = 0x04  # marks ordinary work, so that the lab's capture can tell it from an attack (lab/frames.py)
OPEN_AT_ONCE = 256


def now() -> float:
    """Seconds since boot, running on through suspension."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def marked(tos: int = TOS) -> socket.socket:
    """A TCP socket whose packets carry the mark of ordinary work; so do those of the sockets that it accepts."""
    sock = socket.socket()
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, tos)
    return sock


class Seconds:
    """Counts results and prints them second by second (unless told to be quiet), also the empty seconds."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self._print({"ready": True})
        self.ends = now() + 1.0
        self.ok = self.failed = 0
        self.latencies: list[float] = []
        self.all_ok = self.all_failed = 0
        self.all_latencies: list[float] = []

    def succeeded(self, latency: float) -> None:
        """Count a request or a unit that went well."""
        self.ok += 1
        if len(self.latencies) < LATENCIES_KEPT:
            self.latencies.append(round(latency, 6))

    def fell(self) -> None:
        """Count one that did not."""
        self.failed += 1

    def tick(self) -> None:
        """Print each second that is over. Results that come late belong to the second in which they are noticed."""
        at = now()
        while at >= self.ends:
            self._print({"t": round(self.ends, 4), "ok": self.ok, "failed": self.failed, "latencies": self.latencies})
            self.all_ok += self.ok
            self.all_failed += self.failed
            if len(self.all_latencies) < 100_000:
                self.all_latencies += self.latencies
            self.ok = self.failed = 0
            self.latencies = []
            self.ends += 1.0

    def _print(self, line: dict[str, object]) -> None:
        if self.quiet:
            return
        try:
            os.write(1, json.dumps(line).encode() + b"\n")
        except BlockingIOError:
            pass  # nobody reads: this second is lost, the work goes on

    def left(self) -> float:
        """Seconds until the next line is due."""
        return max(0.0, self.ends - now())


def web_server(options: argparse.Namespace) -> None:
    """Serve one small page to whoever asks, for ever: at the blank line that ends a request's head, as servers do."""
    listening = marked()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("", options.port))
    listening.listen(512)
    listening.setblocking(False)
    poll = select.epoll()
    poll.register(listening.fileno(), select.EPOLLIN)
    waiting: dict[int, _Asking] = {}
    seconds = Seconds()
    deaf = False
    while True:
        for descriptor, _ in poll.poll(seconds.left(), 64):
            if descriptor == listening.fileno():
                for _ in range(64):
                    try:
                        connection, _ = listening.accept()
                    except BlockingIOError:
                        break
                    except OSError as error:
                        seconds.fell()
                        if error.errno == errno.EMFILE:  # the next second may be better; to ask at once would spin
                            poll.unregister(listening.fileno())
                            deaf = True
                        break
                    connection.setblocking(False)
                    asking = _Asking(connection, now())
                    if not _answer(asking, seconds):
                        waiting[connection.fileno()] = asking
                        poll.register(connection.fileno(), select.EPOLLIN)
            elif _answer(waiting[descriptor], seconds):
                del waiting[descriptor]
        if seconds.left() == 0.0:
            seconds.tick()
            stale = now() - GIVEN_S
            for descriptor in [number for number, asking in waiting.items() if asking.began < stale]:
                waiting.pop(descriptor).socket.close()
                seconds.fell()
            if deaf:
                poll.register(listening.fileno(), select.EPOLLIN)
                deaf = False


class _Asking:
    __slots__ = ("began", "head", "socket")

    def __init__(self, connection: socket.socket, began: float) -> None:
        self.socket = connection
        self.began = began
        self.head = b""


def _answer(asking: _Asking, seconds: Seconds) -> bool:
    """Answer if the request's head is there to its end; whether this connection is done with."""
    try:
        heard = asking.socket.recv(MOST_HEAD)
        if heard:
            asking.head = asking.head + heard if asking.head else heard
            if b"\r\n\r\n" not in asking.head:
                if len(asking.head) < MOST_HEAD:
                    return False
                seconds.fell()
            else:
                asking.socket.send(RESPONSE)
                seconds.succeeded(now() - asking.began)
    except BlockingIOError:
        return False
    except OSError:
        seconds.fell()
    asking.socket.close()
    return True


class _Request:
    __slots__ = ("began", "got", "sent", "socket")

    def __init__(self, connection: socket.socket, began: float) -> None:
        self.socket = connection
        self.began = began
        self.sent = False
        self.got = False


def web_client(options: argparse.Namespace) -> None:
    """Ask at a fixed mean rate whatever the answers do (open loop), each time on a new connection."""
    target = (*_address(options.url), 0 if options.attack else TOS)
    dice = random.Random(options.seed)
    poll = select.epoll()
    running: dict[int, _Request] = {}
    seconds = Seconds(quiet=options.summary)
    end = now() + options.seconds if options.seconds else float("inf")
    due = now()
    while now() < end or (running and now() < end + REQUEST_TIMEOUT_S):
        while due <= now() < end:
            if len(running) >= OPEN_AT_ONCE:
                seconds.fell()
            else:
                _ask(target, due, poll, running, seconds)
            due += dice.uniform(0.5, 1.5) / options.rate
        wait = min(seconds.left(), max(0.0, due - now()) if now() < end else 0.1)
        for descriptor, events in poll.poll(wait, 64):
            _go_on(descriptor, events, poll, running, seconds)
        if seconds.left() == 0.0:
            late = now() - REQUEST_TIMEOUT_S
            for descriptor in [number for number, request in running.items() if request.began < late]:
                running.pop(descriptor).socket.close()
                seconds.fell()
            seconds.tick()
    for request in running.values():
        request.socket.close()
        seconds.fell()
    seconds.ends = now()
    seconds.tick()
    if options.summary:
        _summarize(seconds)


def _address(url: str) -> tuple[str, int]:
    host = url.removeprefix("http://").split("/")[0]
    name, _, port = host.partition(":")
    return name, int(port or 80)


def _ask(
    target: tuple[str, int, int], due: float, poll: select.epoll, running: dict[int, _Request], seconds: Seconds
) -> None:
    name, port, tos = target
    connection = marked(tos)
    connection.setblocking(False)
    problem = connection.connect_ex((name, port))
    if problem not in (0, errno.EINPROGRESS):
        connection.close()
        seconds.fell()
        return
    running[connection.fileno()] = _Request(connection, due)
    poll.register(connection.fileno(), select.EPOLLOUT)


def _go_on(descriptor: int, events: int, poll: select.epoll, running: dict[int, _Request], seconds: Seconds) -> None:
    request = running.get(descriptor)
    if request is None:
        return
    try:
        if not request.sent and events & select.EPOLLOUT and not events & select.EPOLLERR:
            request.socket.send(REQUEST)
            request.sent = True
            poll.modify(descriptor, select.EPOLLIN)
            return
        if request.socket.recv(65536):
            request.got = True
            return
    except BlockingIOError:
        return
    except OSError:
        request.got = False
    del running[descriptor]
    request.socket.close()
    if request.got:
        seconds.succeeded(now() - request.began)
    else:
        seconds.fell()


def _summarize(seconds: Seconds) -> None:
    ordered = sorted(seconds.all_latencies)
    line: dict[str, float] = {"requests": seconds.all_ok + seconds.all_failed, "failed": seconds.all_failed}
    for name, share in (("p50_ms", 0.5), ("p95_ms", 0.95)):
        if ordered:
            line[name] = round(1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))], 1)
    print(json.dumps(line), flush=True)
    sys.exit(0 if seconds.all_ok else 1)


def batch(options: argparse.Namespace) -> None:
    """Compute units of equal size, each on several CPUs at once, at a fixed rate; one that comes late shows it.

    With ``--rest`` the pace is not fixed but that of the computer: it rests after each unit for so many times as long
    as its fastest unit took, so that units that take longer are fewer, wherever it runs.
    """
    seconds = Seconds()
    block = bytes(16384)

    def compute() -> None:
        digest = hashlib.sha256()  # lets other threads run meanwhile
        for _ in range(options.size):
            digest.update(block)

    due = now()
    fastest = float("inf")
    while True:
        began = now()
        others = [threading.Thread(target=compute) for _ in range(options.cpus - 1)]
        for other in others:
            other.start()
        compute()
        for other in others:
            other.join()
        at = now()
        seconds.succeeded(at - due)
        seconds.tick()
        fastest = min(fastest, at - began)
        pause = options.rest * fastest if options.rest else 1.0 / options.rate
        due = at + pause if options.rest else max(due + pause, at - 1.0)  # never more than a second behind
        if due > at:
            time.sleep(due - at)


def writer(options: argparse.Namespace) -> None:
    """Write blocks to the disk at a fixed rate, each until it is there; one that comes late shows in its latency."""
    seconds = Seconds()
    block = os.urandom(options.size * 4096)
    due = now()
    file = os.open(options.path, os.O_WRONLY | os.O_CREAT | os.O_DSYNC, 0o600)
    number = 0
    while True:
        os.pwrite(file, block, number % 256 * len(block))
        number += 1
        at = now()
        seconds.succeeded(at - due)
        seconds.tick()
        due = max(due + 1.0 / options.rate, at - 1.0)
        if due > at:
            time.sleep(due - at)


def hoard(options: argparse.Namespace) -> None:
    """Open connections and say nothing on them, as many as its owner can have; the oldest go first."""
    target = _address(options.url)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # by default it has no more than the server has
    held: collections.deque[socket.socket] = collections.deque()
    seconds = Seconds(quiet=True)
    end = now() + options.seconds
    due = now()
    while now() < end:
        while due <= now():
            connection = socket.socket()  # not marked: this is no ordinary work
            connection.setblocking(False)
            if connection.connect_ex(target) in (0, errno.EINPROGRESS):
                held.append(connection)
                seconds.succeeded(0.0)
            else:
                connection.close()
                seconds.fell()
            due += 1.0 / options.rate
            if len(held) >= most - 32:
                held.popleft().close()
        time.sleep(min(0.01, max(0.0, due - now())))
    print(json.dumps({"connections": seconds.ok, "failed": seconds.failed}), flush=True)


def hold(options: argparse.Namespace) -> None:
    """Fill a share of the memory that is available, page by page, and keep it."""
    with open("/proc/meminfo") as file:  # noqa: PTH123 - pathlib would be half of what this process needs
        available = next(int(line.split()[1]) for line in file if line.startswith("MemAvailable:"))
    held = b"x" * (1024 * available * options.percent // 100)
    time.sleep(options.seconds)
    print(json.dumps({"held": len(held)}), flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="work.py", description="The ordinary work of a place of the lab.")
    kinds = parser.add_subparsers(dest="kind", required=True)
    server = kinds.add_parser("web-server", help="serve a small page")
    server.add_argument("--port", type=int, default=80)
    for name, summary in (("web-client", False), ("load", True)):
        client = kinds.add_parser(name, help="ask a web server at a fixed rate, open loop")
        client.add_argument("url", help="http://10.60.0.3/ or 10.60.0.3")
        client.add_argument("--rate", type=float, default=8.0, help="requests a second")
        client.add_argument("--seconds", type=float, default=0.0, help="0: for ever")
        client.add_argument("--seed", type=int, default=0)
        client.add_argument("--attack", action="store_true", help="not ordinary work: a flood of valid requests")
        client.set_defaults(summary=summary)
    units = kinds.add_parser("batch", help="compute units of equal size")
    units.add_argument("--rate", type=float, default=5.0, help="units a second, at most")
    units.add_argument("--size", type=int, default=8, help="blocks of 16 KiB hashed per unit, on each CPU")
    units.add_argument("--cpus", type=int, default=1, help="computes so much at once")
    units.add_argument("--rest", type=float, default=0.0, help="rests for so many times its fastest unit's time")
    blocks = kinds.add_parser("writer", help="write blocks to the disk")
    blocks.add_argument("--rate", type=float, default=5.0, help="blocks a second, at most")
    blocks.add_argument("--size", type=int, default=4, help="pages of 4 KiB per block")
    blocks.add_argument("--path", default="/scratch/written")
    hoarder = kinds.add_parser("hoard", help="open connections and say nothing on them")
    hoarder.add_argument("url", help="http://10.60.0.3/ or 10.60.0.3")
    hoarder.add_argument("--rate", type=float, default=100.0, help="connections a second")
    hoarder.add_argument("--seconds", type=float, default=20.0)
    holder = kinds.add_parser("hold", help="fill memory and keep it")
    holder.add_argument("--percent", type=int, default=87, help="of what is available")
    holder.add_argument("--seconds", type=float, default=20.0)
    return parser.parse_args()


def main() -> None:
    """Do one kind of work until killed."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    options = _options()
    if options.kind not in {"load", "hoard", "hold"}:
        os.set_blocking(1, False)
    work = {"web-server": web_server, "web-client": web_client, "load": web_client, "batch": batch, "writer": writer}
    (work | {"hoard": hoard, "hold": hold})[options.kind](options)


if __name__ == "__main__":
    main()
