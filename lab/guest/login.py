"""A service that asks for a name and a password, and who talks to it: at work, with a stale password, or guessing.

Standard library only. The service greets, refuses in the same words each time, and lets whoever erred wait, as services
do that ask PAM. ``guess`` says what it tried when it is done; the others go on for ever.
"""

import argparse
import json
import random
import socket
import threading
import time
from collections.abc import Iterator

TOS = 0x04  # marks ordinary work, so that the lab's capture can tell it from an attack (lab/frames.py)
NAME, PASSWORD, STALE = "clerk", "meadow-and-mountain", "meadow-and-river"
_SYLLABLES = ("ba", "dom", "fi", "gus", "kel", "lo", "mir", "nat", "pe", "quin", "ro", "sul", "ta", "vor")
_PATIENCE_S = 20.0


def marked(tos: int = TOS) -> socket.socket:
    """A TCP socket whose packets carry the mark of ordinary work; so do those of the sockets that it accepts."""
    sock = socket.socket()
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, tos)
    sock.settimeout(_PATIENCE_S)
    return sock


def _lines(connection: socket.socket) -> Iterator[str]:
    held = b""
    while True:
        line, found, rest = held.partition(b"\r\n")
        if found:
            held = rest
            yield line.decode("ascii", "replace")
            continue
        more = connection.recv(512)
        if not more or len(held) > 4096:
            return
        held += more


def _attend(connection: socket.socket, options: argparse.Namespace) -> None:
    """One client from greeting to farewell."""

    def say(line: str) -> None:
        connection.sendall(line.encode() + b"\r\n")

    name, inside = "", False
    with connection:
        try:
            say("220 lab login service ready")
            for line in _lines(connection):
                word, _, rest = line.partition(" ")
                if word == "USER":
                    name = rest
                    say("331 Password required")
                elif word == "PASS":
                    inside = (name, rest) == (NAME, PASSWORD)
                    if not inside:
                        time.sleep(random.uniform(0.75, 1.25) * options.wait)
                    say("230 Logged in" if inside else "530 Login incorrect")
                elif word == "LIST" and inside:
                    say("250 " + "paper " * 40)
                elif word == "QUIT":
                    say("221 Goodbye")
                    return
                else:
                    say("500 Not understood")
        except OSError:
            return


def serve(options: argparse.Namespace) -> None:
    """Attend to whoever comes, for ever."""
    listening = marked()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.settimeout(None)
    listening.bind(("", options.port))
    listening.listen(64)
    room = threading.BoundedSemaphore(64)

    def attend(connection: socket.socket) -> None:
        with room:
            connection.settimeout(_PATIENCE_S)
            _attend(connection, options)

    while True:
        connection, _ = listening.accept()
        threading.Thread(target=attend, args=(connection,), daemon=True).start()


def log_in(options: argparse.Namespace, tos: int, name: str, password: str) -> bool:
    """Try once, in one connection; whether it was let in."""
    with marked(tos) as connection:
        connection.connect((options.host, options.port))
        answers = _lines(connection)
        next(answers, "")
        for line in (f"USER {name}", f"PASS {password}"):
            connection.sendall(line.encode() + b"\r\n")
            answer = next(answers, "")
        inside = answer.startswith("230")
        for line in ("LIST", "QUIT") if inside else ("QUIT",):
            connection.sendall(line.encode() + b"\r\n")
            next(answers, "")
        return inside


def visit(options: argparse.Namespace) -> None:
    """Log in now and then with one password, which may be stale, for ever."""
    while True:
        try:
            log_in(options, TOS, NAME, STALE if options.stale else PASSWORD)
        except OSError:
            pass  # the service may not be up yet
        time.sleep(options.every)


def guess(options: argparse.Namespace) -> None:
    """Try one password after the other, several at once, and say how many were tried."""
    dice, end = random.Random(options.seed), time.monotonic() + options.seconds
    tried = found = failed = 0
    lock = threading.Lock()

    def work() -> None:
        nonlocal tried, found, failed
        while time.monotonic() < end:
            with lock:
                password = "".join(dice.choice(_SYLLABLES) for _ in range(dice.randint(2, 4)))
            try:
                inside = log_in(options, 0, NAME, password)
            except OSError:
                with lock:
                    failed += 1
                time.sleep(0.2)
                continue
            with lock:
                tried += 1
                found += inside

    workers = [threading.Thread(target=work) for _ in range(options.at_once)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    print(json.dumps({"tried": tried, "found": found, "failed": failed}), flush=True)


def main() -> None:
    """Serve, visit or guess."""
    parser = argparse.ArgumentParser(
        prog="hv-login", description="A service that asks for a password, and its clients."
    )
    parser.add_argument("--port", type=int, default=2121)
    kinds = parser.add_subparsers(dest="kind", required=True)
    server = kinds.add_parser("serve", help="attend to whoever comes")
    server.add_argument("--wait", type=float, default=2.0, help="seconds that whoever erred has to wait, about")
    visitor = kinds.add_parser("visit", help="log in now and then")
    visitor.add_argument("host")
    visitor.add_argument("--every", type=float, default=5.0, help="seconds between two logins")
    visitor.add_argument("--stale", action="store_true", help="with a password that is not good any more")
    guesser = kinds.add_parser("guess", help="try one password after the other")
    guesser.add_argument("host")
    guesser.add_argument("--seconds", type=float, default=30.0)
    guesser.add_argument("--at-once", type=int, default=2)
    guesser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    {"serve": serve, "visit": visit, "guess": guess}[options.kind](options)


if __name__ == "__main__":
    main()
