"""``python -m lab demo``: a grab, an honest surge, an attack and a lie on real guests, told live, judged, and drawn.

Four guests share a network: B serves a small page, A and C are its clients, D idles and has our agent. First D takes
all it can, then B becomes popular, then A floods it, then D's root lies about what D sends.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lab import report
from lab.accelerator import choose, qemu_version
from lab.agents import END
from lab.capture import Counter, Slice
from lab.checked import Check, Fact
from lab.clean import clean_all
from lab.demonstrated import (
    ATTACKER,
    BIN_S,
    CLIENT,
    GUESTS,
    SURGE,
    VICTIM,
    Demonstration,
    FloodAct,
    JournalSeen,
    Offer,
    SurgeAct,
    checks,
)
from lab.errors import LabError
from lab.frames import Heading, Test, View
from lab.grab import GRABBER, GrabAct
from lab.image import image
from lab.liar import LIAR, LiarAct
from lab.place import JobId
from lab.residue import look, residue
from lab.run import ask, check_root, step_seen, write
from lab.scenario import CLIENT_RATE, GuestTable, Limits, NetworkTable, Scenario, Step
from lab.scratch import say
from lab.stage import Act, Stage, staged
from lab.teller import Teller
from lab.watched import Product

NEIGHBOUR_RATE = 4
USUAL_RATE = CLIENT_RATE + NEIGHBOUR_RATE
SURGE_RATE = 6 * USUAL_RATE
GRAB_AT_S, GRAB_FOR_S = 47.0, 20.0
SURGE_AT_S, SURGE_FOR_S = 72.0, 15.0
FLOOD_AT_S, FLOOD_FOR_S = 95.0, 25.0
RECORDED = 60
"""Genuine reports of D, one a second, that are said again."""
DEAD_FOR_S, REPLAY_FOR_S, LIE_FOR_S = 6.0, 5.0, 12.0
"""Nobody speaks for D's agent; old reports are said again; and D sends besides."""
LIE_AT_S = FLOOD_AT_S + FLOOD_FOR_S + DEAD_FOR_S + REPLAY_FOR_S
LIE_RATE = 200
PATIENCE_S = 65.0
"""Afterwards limits end by themselves, by the policy's default within about a minute of the verdict."""
CORES = min(4, os.cpu_count() or 1)
"""A has as many and floods with all of them, so that whoever else is on the host has to fight for his."""
GUILTY = (ATTACKER, LIAR)
SCENARIO = Scenario(
    name="demo",
    network=(NetworkTable("net1", "10.60.0.0/24"),),
    guest=(
        GuestTable(ATTACKER, "net1", "red", vcpus=CORES, work=f"web-client:{VICTIM} --rate {NEIGHBOUR_RATE}"),
        GuestTable(VICTIM, "net1", "blue", work="web-server"),
        GuestTable(CLIENT, "net1", "green", work=f"web-client:{VICTIM}"),
        GuestTable(LIAR, "net1", "yellow", vcpus=CORES, agent=True),
    ),
    step=(
        Step(
            GRAB_AT_S,
            GRABBER,
            f"hv-hold --seconds {GRAB_FOR_S:g} & sleep 3; "
            f"for i in $(seq {CORES}); do timeout {GRAB_FOR_S - 3:g} sh -c 'while :; do :; done' & done; "
            f"timeout {GRAB_FOR_S - 3:g} sh -c "
            "'while :; do dd if=/dev/zero of=/scratch/all bs=1M count=50 oflag=direct; done' & wait",
        ),
        Step(
            FLOOD_AT_S,
            ATTACKER,
            f"for i in $(seq {CORES}); do timeout {FLOOD_FOR_S:g} hping3 -q --flood -S -p 80 $ip_{VICTIM} & done; wait",
            attack=True,
            target=VICTIM,
        ),
        Step(
            LIE_AT_S,
            LIAR,
            f"timeout {LIE_FOR_S:g} hping3 -q -i u{1_000_000 // LIE_RATE} -d 120 -S -p 80 $ip_{VICTIM}",
            attack=True,
            target=VICTIM,
        ),
    ),
    limits=Limits(LIE_AT_S + LIE_FOR_S + PATIENCE_S),
    warmup_s=45.0,
    seed=7,
)

GRAB, FLOOD, LIE = SCENARIO.step

_FILE = "report.html"
_DATA = "demo.json"
_GENUINE = "/run/genuine"
_TCP_FLAGS = {"syn": (0x16, 0x02), "synack": (0x16, 0x12), "rst": (0x04, 0x04), "tcp": (0x06, 0x00)}
"""Masks and values of a TCP header's flags, which tell the product's classes of TCP apart."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("--out", type=Path, default=Path("build/demo"), metavar="DIR", help="where the report goes")
    parser.add_argument("--again", type=Path, metavar="FILE", help="boot nothing: judge and draw what FILE recorded")


def main(options: argparse.Namespace) -> int:
    """Play it, or judge again what was played; 0 if all was right, 1 if not."""
    console = _console()
    seen = _recorded(options.again) if options.again is not None else None
    _make(options.out)
    if seen is None:
        check_root()
        seen = play(console)
        write(options.out / _DATA, msgspec.json.encode(seen) + b"\n")
    judged = checks(seen)
    write(options.out / _FILE, report.html(seen, judged).encode())
    _tell(console, judged)
    console.print(f"The whole story as a page: [bold]{escape(str((options.out / _FILE).absolute()))}[/]")
    wrong = sum(not check.ok for check in judged)
    took = seen.took_s.get("total", 0.0)
    if wrong:
        console.print(f"[bold red]{wrong} of {len(judged)} were not as promised[/] ({took:.0f} s).")
    else:
        console.print(f"[bold green]All {len(judged)} as promised[/] ({took:.0f} s).")
    return 1 if wrong else 0


def play(console: Console) -> Demonstration:
    """Boot, play all acts, undo everything, and say what was seen."""
    began, made_at = time.monotonic(), time.time()
    _introduce(console)
    for thing in clean_all():  # what a crashed run left is not this one's residue
        say(f"removed {thing}")
    before = look()
    with staged(SCENARIO, watched=True) as stage:
        started = time.monotonic()
        demonstration = _acts(stage, Teller(console, stage, SCENARIO.warmup_s))
    ended = time.monotonic()
    left = residue(before)
    disks = image()
    host = {
        "cores": str(os.cpu_count()),
        "kernel": platform.release(),
        "guests": f"{qemu_version()}, {choose(disks).name}",
        "image": disks.hash,
    }
    took = {"start": started - began, "acts": demonstration.ended_s, "total": time.monotonic() - began}
    took["end"] = ended - started - demonstration.ended_s
    return msgspec.structs.replace(demonstration, made_at=made_at, host=host, took_s=took, residue=tuple(left))


# --- the acts ---


def _acts(stage: Stage, told: Teller) -> Demonstration:
    stage.begin()
    genuine = stage.guests[LIAR].spawn(f"{END}; hv-lie relay --record {_GENUINE}")
    product = stage.product
    if product is None:
        raise LabError("the demonstration needs the product")
    told.until(GRAB_AT_S, "everybody works as ever; Hypervigil learns what is usual")
    grab = _grab(stage, told, product)
    told.until(SURGE_AT_S, "D is calm again")
    offers = _Offers(stage)
    surge = _surge(stage, told)
    counted = offers.end(surge)
    told.until(FLOOD_AT_S, "the crowd has gone")
    act = _flood(stage, told)
    flood = _flood_seen(stage, act)
    lie = _lie(stage, told, product, genuine)
    told.until(stage.now_s + PATIENCE_S, "all are calm; limits end by themselves", over=lambda: told.free(*GUILTY))
    stage.read_work()
    with suppress(LabError):
        told.crowd += [replace(one, at_s=stage.since(one.at_s)) for one in stage.ext.work_read()]
    judged = ask(stage, product)
    return Demonstration(
        made_at=0.0,
        host={},
        took_s={},
        warmup_s=SCENARIO.warmup_s,
        ended_s=stage.now_s,
        grab=grab,
        surge=surge,
        flood=flood,
        lie=lie,
        work={**{name: tuple(stage.samples(name)) for name in GUESTS}, SURGE: tuple(told.crowd)},
        offers=counted,
        busy=tuple(told.busy),
        cases=judged.cases,
        limits=judged.limits,
        journal=_journal(product),
        residue=(),
    )


def _grab(stage: Stage, told: Teller, product: Product) -> GrabAct:
    """D takes all it can, and its agent asks for more."""
    told.act(
        "Act 1: D asks for all it can",
        f"D computes on {CORES} CPUs, fills its memory and writes to its disk without pause; its agent asks for more.",
    )
    told.recorded = GRABBER
    act, began = stage.act(GRAB, stage.now_s + GRAB_FOR_S + 5.0), stage.now_s
    told.until(began + GRAB_FOR_S, "D takes all it can")
    stage.settle(act)
    told.recorded = None
    return GrabAct(began, stage.now_s, GRAB.run, _facts(stage, product, GRABBER, began))


def _facts(stage: Stage, product: Product, name: str, since_s: float) -> tuple[Fact, ...]:
    """What is on record of a guest's agent from a time on."""
    facts = [Fact(one.kind, one.at - stage.wall_s, one.text) for one in product.told({stage.guests[name].uuid: name})]
    return tuple(fact for fact in facts if fact.at_s >= since_s)


def _surge(stage: Stage, told: Teller) -> SurgeAct:
    """B is suddenly popular: many ask it from outside, all of them honestly."""
    told.act(
        "Act 2: B is suddenly popular",
        f"A crowd outside asks B for its page {SURGE_RATE} times a second; all day long B serves {USUAL_RATE}.",
    )
    began = stage.now_s
    server = stage.guests[VICTIM].address
    stage.ext.work_start(f"web-client:{server} --rate {SURGE_RATE} --seconds {SURGE_FOR_S:g} --seed {SCENARIO.seed}")
    told.until(began + SURGE_FOR_S, "B serves its crowd")
    ended = stage.now_s
    return SurgeAct(began, ended, SURGE_RATE, USUAL_RATE)


def _flood(stage: Stage, told: Teller) -> Act:
    """A floods B with connection tries at full speed."""
    told.act("Act 3: A floods B", "A sends B as many connection tries (SYN) as it can; C goes on asking B as ever.")
    step = FLOOD
    end_s = stage.now_s + FLOOD_FOR_S
    act = stage.act(step, end_s + 5.0)
    told.attack = act
    told.until(end_s, "the flood")
    stage.settle(act)
    return act


def _flood_seen(stage: Stage, act: Act) -> FloodAct:
    seen = step_seen(stage, act)
    return FloodAct(
        began_s=seen.began_s,
        ended_s=seen.ended_s,
        onset_s=seen.first_s,
        command=seen.step.run,
        sent=_sent(stage, act),
        delivered=seen.delivered,
        problem=seen.problem,
    )


def _lie(stage: Stage, told: Teller, product: Product, genuine: JobId) -> LiarAct:
    """Root of D kills the agent in it, speaks for it, and sends."""
    told.act(
        "Act 4: D lies",
        f"Root of D has recorded what Hypervigil's agent in D says. It kills the agent, says {RECORDED} s of those "
        f"reports again\nas if they were of now, with fresh numbers and times, and sends B {LIE_RATE} packets/s.",
    )
    told.recorded = LIAR
    guest, began = stage.guests[LIAR], stage.now_s
    guest.stop(genuine)  # and with it the agent that it had started
    rates = json.loads(guest.run(f"hv-lie told {_GENUINE} --last {RECORDED}").output)["packets_per_s"]
    told.until(began + DEAD_FOR_S, "D's agent is dead")
    replay, replayed = guest.spawn(f"hv-lie replay {_GENUINE} --last {RECORDED}"), stage.now_s
    told.until(replayed + REPLAY_FOR_S, "old reports are said again")
    end_s = stage.now_s + LIE_FOR_S
    act = stage.act(LIE, end_s + 5.0)
    told.attack = act
    told.until(end_s, "D sends and says that it does not")
    stage.settle(act)
    guest.stop(replay)
    seen = step_seen(stage, act)
    return LiarAct(
        began_s=began,
        ended_s=seen.ended_s,
        replayed_s=replayed,
        onset_s=seen.first_s,
        command=seen.step.run,
        told=tuple(rates),
        sent=_sent(stage, act),
        delivered=seen.delivered,
        facts=_facts(stage, product, LIAR, began),
        problem=seen.problem,
    )


def _sent(stage: Stage, act: Act) -> tuple[Slice, ...]:
    sent = act.sent.slices if act.sent is not None else ()
    return tuple(replace(part, from_s=stage.since(part.from_s), to_s=stage.since(part.to_s)) for part in sent)


def _journal(product: Product) -> JournalSeen:
    """What the product's own check of its record says; a broken one ends with an exit status, and an answer."""
    verified, replayed = (product.answer("journal", word) for word in ("verify", "replay"))
    return JournalSeen(
        ok=bool(verified.get("ok")),
        records=int(verified.get("records", 0)),
        heads=int(verified.get("heads", 0)),
        problem=verified.get("problem") or verified.get("error") or replayed.get("error"),
        verdicts=int(replayed.get("verdicts", 0)),
        mismatches=len(replayed.get("mismatches", ())),
    )


class _Offers:
    """The lab's count of what each guest offers during the surge, by classes of TCP."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._counters: list[tuple[str, str, str, Counter]] = []
        for name in GUESTS:
            for traffic, (mask, value) in _TCP_FLAGS.items():
                for direction, heading in (("out", Heading.FROM_PLACE), ("in", Heading.TO_PLACE)):
                    view = View(name, heading, [_tcp(mask, value)])
                    counter = stage.capture.count(stage.interface(name), view)
                    self._counters.append((name, direction, traffic, counter))

    def end(self, surge: SurgeAct) -> tuple[Offer, ...]:
        """Count no more; what was offered while the surge lasted."""
        self._stage.capture.end(*(counter for *_, counter in self._counters))
        return tuple(
            Offer(name, direction, traffic, _binned(self._stage, counter.slices, surge))
            for name, direction, traffic, counter in self._counters
        )


def _tcp(mask: int, value: int) -> Sequence[Test]:
    """IPv4 without options, TCP with such flags; the lab's guests send no other."""
    return (
        Test(12, 2, frozenset({0x0800})),
        Test(14, 1, frozenset({0x45})),
        Test(23, 1, frozenset({6})),
        Test(47, 1, frozenset({value}), mask=mask),
    )


def _binned(stage: Stage, slices: Sequence[Slice], surge: SurgeAct) -> tuple[int, ...]:
    counts = [0] * int((surge.ended_s - surge.began_s) / BIN_S)
    for part in slices:
        number = int((stage.since(part.to_s) - surge.began_s) / BIN_S)
        if 0 <= number < len(counts):
            counts[number] += part.frames
    return tuple(counts)


# --- what the audience sees ---


def _console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=140)


def _introduce(console: Console) -> None:
    console.print(
        "Four guests of four tenants on one virtual network: [bold]B[/] serves a small page, [bold]A[/] and "
        "[bold]C[/] are its clients,\n[bold]D[/] idles, and our agent runs in it.\nHypervigil watches from the "
        "host. It is told their names and addresses, and "
        "nothing of what will happen."
    )


def _tell(console: Console, judged: Sequence[Check]) -> None:
    """The table."""
    table = Table("", "", "expected", "decided", "when", "on which evidence", header_style="bold", title="")
    act = ""
    for check in judged:
        if check.act != act:
            act = check.act
            table.add_section()
        mark = "[green]✓[/]" if check.ok else "[bold red]✗[/]"
        decided = escape(check.decided) if check.ok else f"[bold red]{escape(check.decided)}[/]"
        table.add_row(mark, check.of, check.expected, decided, check.when, escape(check.evidence))
    console.print(table)


def _recorded(path: Path) -> Demonstration:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Demonstration)
    except OSError as error:
        raise LabError(f"{path} cannot be read: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise LabError(f"{path} is no recorded demonstration: {error}") from None


def _make(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LabError(f"{directory} cannot be made: {error.strerror}; name another place with --out") from None
