"""What a guest's root can do with the port of its agent: listen, edit, play old reports again, send anything.

Standard library only. Only one process can have the port, so the agent must have ended before. A `relay` starts the
agent anew and stands between it and the port; with ``--share 1`` it is honest, which is the control of all the rest.
"""

import argparse
import contextlib
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PORT = "org.hypervigil.agent.0"
AGENT = "/usr/local/sbin/hypervigil-agent"
STATE = "/run/hypervigil-agent/level"
HERE = Path("/run/hv-lie")
READ = 65536
RECORDED_MOST = 8 << 20
REPORTS_MOST = 1 << 16
TAG, AGENT_ID, SEQUENCE, AT_MS, INTERVAL_MS, VALUES, TALKERS = 0, 2, 3, 4, 8, 9, 11  # places in a report's line
OUT_PACKETS, OUT_BYTES = 0, 1
REPORTS = ("r1", "r2")


def now_ms() -> int:
    """The guest's clock as its agent tells it."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * 1000)


def find_port() -> str:
    """The device of the agent's port."""
    for name in Path("/sys/class/virtio-ports").glob("*/name"):
        if name.read_text().strip() == PORT:
            return f"/dev/{name.parent.name}"
    raise SystemExit(f"this guest has no port {PORT}")


def take_port() -> int:
    """The port, as soon as whoever has it has ended."""
    end = time.monotonic() + 10
    while True:
        try:
            return os.open(find_port(), os.O_RDWR | os.O_NONBLOCK)
        except OSError as error:
            if time.monotonic() > end:
                raise SystemExit(f"the port is not to be had: {error}") from None
            time.sleep(0.05)


def write_all(port: int, data: bytes, until: float = float("inf")) -> int:
    """Send as the host takes it; how much of it was taken by ``until``."""
    sent = 0
    poll = select.poll()
    poll.register(port, select.POLLOUT)
    while sent < len(data) and time.monotonic() < until:
        if not poll.poll(100):
            continue
        with contextlib.suppress(BlockingIOError):
            sent += os.write(port, data[sent : sent + READ])
    return sent


# --- between the agent and the port ---


def edited(line: bytes, share: float) -> bytes:
    """A report that tells of a share of what its agent counted; any other line as it is."""
    try:
        message = json.loads(line)
    except ValueError:
        return line
    if share == 1.0 or not isinstance(message, list) or message[TAG] not in REPORTS:
        return line
    message[VALUES] = [int(value * share) if value > 0 else value for value in message[VALUES]]
    if not share:
        message[TALKERS] = []
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def relay(options: argparse.Namespace) -> None:
    """Start the agent anew and pass on what it says, perhaps edited and recorded, until killed."""
    port = take_port()
    HERE.mkdir(mode=0o700, exist_ok=True)
    (HERE / "port").unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(HERE / "port"))
        listening.listen(1)
        agent = subprocess.Popen([AGENT, str(HERE / "port"), STATE])
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        try:
            connection, _ = listening.accept()
            with contextlib.ExitStack() as stack:
                file = stack.enter_context(Path(options.record).open("wb")) if options.record else None
                pass_on(connection, port, lambda line: edited(line, options.share), file)
        finally:
            agent.kill()


def pass_on(agent: socket.socket, port: int, edit: Callable[[bytes], bytes], record: Any) -> None:
    """Lines out through ``edit`` and into ``record``, whatever comes in as it is."""
    poll = select.poll()
    poll.register(agent.fileno(), select.POLLIN)
    poll.register(port, select.POLLIN)
    rest, kept = b"", 0
    while True:
        for descriptor, events in poll.poll():
            if descriptor == port:
                if events & select.POLLHUP:
                    time.sleep(0.05)
                    continue
                with contextlib.suppress(BlockingIOError):
                    agent.sendall(os.read(port, READ))
                continue
            heard = agent.recv(READ)
            if not heard:
                return
            *lines, rest = (rest + heard).split(b"\n")
            for line in filter(None, lines):
                if record is not None and kept < RECORDED_MOST:
                    kept += record.write(line + b"\n")
                    record.flush()
                write_all(port, edit(line + b"\n"))


# --- what was said before ---


def reports(path: str, last: int) -> list[list[Any]]:
    """The last reports among recorded lines."""
    found = []
    for line in Path(path).read_bytes().splitlines():
        with contextlib.suppress(ValueError):
            message = json.loads(line)
            if message[TAG] in REPORTS:
                found.append(message)
    if not found:
        raise SystemExit(f"{path} has no report")
    return found[-last:]


def replay(options: argparse.Namespace) -> None:
    """Say recorded reports again, one a second, round and round: with fresh numbers, and perhaps with fresh times."""
    recorded = reports(options.file, options.last)
    port = take_port()
    sequence = 0 if options.new else recorded[-1][SEQUENCE]
    agent = random.randrange(1 << 48) if options.new else recorded[-1][AGENT_ID]
    due = time.monotonic()
    write_all(port, b"\n")
    for message in round_and_round(recorded):
        fresh = list(message)
        if not options.verbatim:
            sequence += 1
            fresh[AGENT_ID], fresh[SEQUENCE] = agent, sequence
            if not options.old_times:
                fresh[AT_MS] = now_ms()
        write_all(port, json.dumps(fresh, separators=(",", ":")).encode() + b"\n")
        due += 1.0
        time.sleep(max(0.0, due - time.monotonic()))


def told(options: argparse.Namespace) -> None:
    """Say how many reports were recorded, and what they tell of."""
    found = reports(options.file, options.last)
    octets = sum(one[VALUES][OUT_BYTES] for one in found)
    rates = [round(1000 * one[VALUES][OUT_PACKETS] / max(1, one[INTERVAL_MS]), 1) for one in found]
    print(json.dumps({"reports": len(found), "out_bytes": octets, "packets_per_s": rates}), flush=True)


def round_and_round(told: list[list[Any]]) -> Iterator[list[Any]]:
    """Endlessly."""
    while True:
        yield from told


# --- anything else ---


def send(options: argparse.Namespace) -> None:
    """As much as the host takes in a time; says how many octets that was."""
    dice = random.Random(options.seed)
    port = take_port()
    end = time.monotonic() + options.seconds
    octets = write_all(port, b"\n", end)
    made = {"garbage": garbage, "line": endless, "forged": forged}[options.what]
    while time.monotonic() < end and octets < options.octets:
        octets += write_all(port, made(dice, options), end)
    print(json.dumps({"octets": octets}), flush=True)


def garbage(dice: random.Random, _: argparse.Namespace) -> bytes:
    """Bytes by chance, in short lines, some of which begin like ours."""
    begins = (b"", b'["r1",1,', b'["hello",1,1,1,', b"{", b"[" * 60)
    return b"\n".join(dice.choice(begins) + dice.randbytes(dice.randrange(200)) for _ in range(100)) + b"\n"


def endless(_: random.Random, __: argparse.Namespace) -> bytes:
    """More of a line without end."""
    return b"a" * READ


def forged(dice: random.Random, options: argparse.Namespace) -> bytes:
    """Reports, well formed but for the name of another VM, in each place where one might look for it."""
    agent, sequence = dice.randrange(1 << 40), dice.randrange(1, 1 << 20)
    report = ["r1", 1, agent, sequence, now_ms(), 1, 0, 0, 1000, [0] * 58, [[1, 0], [1, 0]], []]
    named: list[object] = [
        [*report, options.name],
        ["r1", options.name, *report[1:]],
        {"is": "heard", "vm": options.name, "at": 1.0, "message": report},
        {"vm": options.name, "report": report},
        ["hello", 1, agent, sequence, now_ms(), options.name, options.name, 1, 0, 1, 1024, []],
    ]
    time.sleep(0.05)
    return b"".join(json.dumps(one, separators=(",", ":")).encode() + b"\n" for one in named)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="hv-lie", description="What a guest's root can do with its agent's port.")
    kinds = parser.add_subparsers(dest="kind", required=True)
    between = kinds.add_parser("relay", help="stand between the agent and its port")
    between.add_argument("--share", type=float, default=1.0, help="tell of this share of what the agent counted")
    between.add_argument("--record", metavar="FILE", help="keep what the agent says")
    again = kinds.add_parser("replay", help="say recorded reports again, with fresh sequence numbers and times")
    again.add_argument("file")
    again.add_argument("--last", type=int, default=REPORTS_MOST, help="only so many")
    again.add_argument("--old-times", action="store_true", help="with the times at which they were true")
    again.add_argument("--new", action="store_true", help="as an agent that has just begun")
    again.add_argument("--verbatim", action="store_true", help="with their old sequence numbers, too")
    recorded = kinds.add_parser("told", help="sum up recorded reports")
    recorded.add_argument("file")
    recorded.add_argument("--last", type=int, default=REPORTS_MOST, help="only so many")
    anything = kinds.add_parser("send", help="send something else")
    anything.add_argument("what", choices=("garbage", "line", "forged"))
    anything.add_argument("--seconds", type=float, default=10.0)
    anything.add_argument("--octets", type=int, default=1 << 30)
    anything.add_argument("--name", default="", help="of a VM, to forge")
    anything.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """Do one of them."""
    options = _options()
    {"relay": relay, "replay": replay, "told": told, "send": send}[options.kind](options)


if __name__ == "__main__":
    main()
