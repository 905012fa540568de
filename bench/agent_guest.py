"""How much the agent slows a real guest's work: a fixed amount of it, with and without, by turns. As root.

``python -m bench.agent_guest [--rounds N] [--out FILE]``. The guest has one vCPU and nothing else to do. What is
measured is the processor time that its vCPU needs for the work, so that others on this host do not count; without the
agent it is stopped (SIGSTOP), with it at either level it runs. T-CORE-6.
"""

import argparse
import json
import os
import random
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bench._pairs import mean
from bench.agent import PATIENCE_S, Channel
from hypervigil.guest.vsem.usual import JUDGED
from hypervigil.model.guest import GuestMetric
from hypervigil.wire import guest
from lab import libvirtd
from lab.definition import GuestSpec
from lab.guests import Guest, destroy_all
from lab.network import Networks, NetworkSpec

PROMISED = {"level 1": 1.02, "level 2": 1.05}
"""Of the time without it: A213, A224."""
KINDS = ("none", *PROMISED)
MATCH = "'[h]ypervigil.guest import agent'"
_WORK = "python3 -I -S -c 'import hashlib; [hashlib.sha256(bytes(1 << 16)).digest() for _ in range({units})]'"
_UNITS_AT_FIRST = 200
_WORK_S = 4.0
"""Each look, about; the agent looks once a second."""


@contextmanager
def watched_guest() -> Iterator[tuple[Guest, Channel]]:
    """One guest with the agent, and the host's end of its channel."""
    with libvirtd.running(), Networks([NetworkSpec("bench", "10.67.0.0/24")]) as networks:
        place = Guest(GuestSpec("bench-0", "bench", "bench", 0, agent=True), networks["bench"])
        try:
            place.start()
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(str(place.agent_socket))
                yield place, Channel(connection)
        finally:
            destroy_all([place])


def vcpu_s(place: Guest) -> float:
    """Processor time that the vCPU of a guest has used."""
    total = 0
    for task in Path(f"/proc/{place.pid}/task").iterdir():
        if (task / "comm").read_text(encoding="ascii").startswith("CPU "):
            total += int((task / "schedstat").read_text(encoding="ascii").split()[0])
    return total / 1e9


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for something, or say that it never came."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"{what}: not within {PATIENCE_S:g} s")
        time.sleep(0.05)


def put(place: Guest, channel: Channel, kind: str) -> None:
    """The agent stopped, or at a level."""
    place.run(f"pkill -{'STOP' if kind == 'none' else 'CONT'} -f {MATCH}")
    if kind == "none":
        return
    level = int(kind[-1])
    channel.say(guest.SetLevel(level))
    heard = len(channel.kinds)
    until(lambda: f"Report{level}" in channel.kinds[heard:], f"a report of level {level}")


def cost_s(place: Guest, units: int) -> float:
    """What the work costs."""
    before = vcpu_s(place)
    done = place.run(_WORK.format(units=units), 120.0)
    if done.exit != 0:
        raise SystemExit(f"the work failed: {done.output}")
    return vcpu_s(place) - before


def measured(place: Guest, channel: Channel, rounds: int) -> dict[str, list[float]]:
    """Each kind once in each round, in an order drawn anew."""
    until(lambda: "Report1" in channel.kinds, "a first report")
    channel.say(guest.BriefHistory(1, tuple(guest.Usual(GuestMetric(metric), 10**10, 0) for metric in JUDGED)))
    dice = random.Random(0)
    put(place, channel, "none")
    units = round(_UNITS_AT_FIRST * _WORK_S / cost_s(place, _UNITS_AT_FIRST))
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(rounds):
        for kind in dice.sample(KINDS, len(KINDS)):
            put(place, channel, kind)
            found[kind].append(cost_s(place, units))
    return found


def main() -> None:
    """Measure, say, write JSON; exit code 1 if a promise is not kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=16)
    parser.add_argument("--out", type=Path, default=Path("build/bench/agent_guest.json"))
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("this boots a guest: run it as root")
    with watched_guest() as (place, channel):
        found = measured(place, channel, arguments.rounds)
    plain, missed, told = found["none"], False, []
    for kind, promised in PROMISED.items():
        ratios = [with_it / without for with_it, without in zip(found[kind], plain, strict=True)]
        middle, spread = mean(ratios)
        missed |= middle - spread > promised
        median = statistics.median(ratios)
        told.append({"agent": kind, "times": round(middle, 4), "within": round(spread, 4), "median": round(median, 4)})
        print(f"{kind}: {middle:.3f} ± {spread:.3f} times as long, median {median:.3f}, promised {promised:g}")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({"rounds": arguments.rounds, "rows": told, "seconds": found}, indent=2) + "\n")
    raise SystemExit(1 if missed else 0)


if __name__ == "__main__":
    main()
