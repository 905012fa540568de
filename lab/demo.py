"""``python -m lab demo``: an honest surge and an attack on real guests, told live, judged, and drawn.

Three guests share a network: B serves a small page, A and C are its clients. First B becomes popular, then A floods it.
"""

import argparse
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from lab import report
from lab.accelerator import choose, qemu_version
from lab.capture import Counter, Slice
from lab.clean import clean_all
from lab.demonstrated import (
    ATTACKER,
    BIN_S,
    CLIENT,
    GUESTS,
    SURGE,
    VICTIM,
    Check,
    Demonstration,
    FloodAct,
    JournalSeen,
    Offer,
    SurgeAct,
    Used,
    checks,
    named,
)
from lab.errors import LabError
from lab.frames import Heading, Test, View
from lab.image import image
from lab.place import WorkSample
from lab.residue import look, residue
from lab.run import ask, check_root, step_seen, write
from lab.scenario import CLIENT_RATE, GuestTable, Limits, NetworkTable, Scenario, Step
from lab.scratch import say
from lab.stage import Act, Stage, staged
from lab.watched import Case, Product

NEIGHBOUR_RATE = 4
USUAL_RATE = CLIENT_RATE + NEIGHBOUR_RATE
SURGE_RATE = 6 * USUAL_RATE
SURGE_AT_S, SURGE_FOR_S = 47.0, 15.0
FLOOD_AT_S, FLOOD_FOR_S = 70.0, 25.0
PATIENCE_S = 60.0
"""After the flood A's limits end by themselves, by the policy's default within about a minute of the verdict."""
CORES = min(4, os.cpu_count() or 1)
"""A has as many and floods with all of them, so that whoever else is on the host has to fight for his."""
SCENARIO = Scenario(
    name="demo",
    network=(NetworkTable("net1", "10.60.0.0/24"),),
    guest=(
        GuestTable(ATTACKER, "net1", "red", vcpus=CORES, work=f"web-client:{VICTIM} --rate {NEIGHBOUR_RATE}"),
        GuestTable(VICTIM, "net1", "blue", work="web-server"),
        GuestTable(CLIENT, "net1", "green", work=f"web-client:{VICTIM}"),
    ),
    step=(
        Step(
            FLOOD_AT_S,
            ATTACKER,
            f"for i in $(seq {CORES}); do timeout {FLOOD_FOR_S:g} hping3 -q --flood -S -p 80 $ip_{VICTIM} & done; wait",
            attack=True,
            target=VICTIM,
        ),
    ),
    limits=Limits(FLOOD_AT_S + FLOOD_FOR_S + PATIENCE_S),
    warmup_s=45.0,
    seed=7,
)

_FILE = "report.html"
_DATA = "demo.json"
_CALM_POLL_S, _TENSE_POLL_S = 5.0, 1.0
_TENSE_FOR_S = 4.0
"""From the beginning of an act on; the command line costs a third of a second of a core, which C needs as well."""
_POLITELY = 10
"""Asking must not take the guests' cores while their latency is measured."""
_TELL_EVERY_S = 15.0
_TICK_S = 0.25
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
    """Boot, play both acts, undo everything, and say what was seen."""
    began, made_at = time.monotonic(), time.time()
    _introduce(console)
    for thing in clean_all():  # what a crashed run left is not this one's residue
        say(f"removed {thing}")
    before = look()
    with staged(SCENARIO, watched=True) as stage:
        started = time.monotonic()
        demonstration = _acts(stage, _Teller(console, stage))
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


def _acts(stage: Stage, told: "_Teller") -> Demonstration:
    stage.begin()
    product = stage.product
    if product is None:
        raise LabError("the demonstration needs the product")
    told.until(SURGE_AT_S, "everybody works as ever; Hypervigil learns what is usual")
    offers = _Offers(stage)
    surge = _surge(stage, told)
    counted = offers.end(surge)
    told.until(FLOOD_AT_S, "the crowd has gone")
    act = _flood(stage, told)
    flood = _flood_seen(stage, act)
    told.until(stage.now_s + PATIENCE_S, "A is calm; its limits end by themselves", over=lambda: told.free(ATTACKER))
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
        surge=surge,
        flood=flood,
        work={**{name: tuple(stage.samples(name)) for name in GUESTS}, SURGE: tuple(told.crowd)},
        offers=counted,
        busy=tuple(told.busy),
        cases=judged.cases,
        limits=judged.limits,
        journal=_journal(product),
        residue=(),
    )


def _surge(stage: Stage, told: "_Teller") -> SurgeAct:
    """B is suddenly popular: many ask it from outside, all of them honestly."""
    told.act(
        "Act 1: B is suddenly popular",
        f"A crowd outside asks B for its page {SURGE_RATE} times a second; all day long B serves {USUAL_RATE}.",
    )
    began = stage.now_s
    server = stage.guests[VICTIM].address
    stage.ext.work_start(f"web-client:{server} --rate {SURGE_RATE} --seconds {SURGE_FOR_S:g} --seed {SCENARIO.seed}")
    told.until(began + SURGE_FOR_S, "B serves its crowd")
    ended = stage.now_s
    return SurgeAct(began, ended, SURGE_RATE, USUAL_RATE)


def _flood(stage: Stage, told: "_Teller") -> Act:
    """A floods B with connection tries at full speed."""
    told.act("Act 2: A floods B", "A sends B as many connection tries (SYN) as it can; C goes on asking B as ever.")
    step = SCENARIO.step[0]
    end_s = stage.now_s + FLOOD_FOR_S
    act = stage.act(step, end_s + 5.0)
    told.flood = act
    told.until(end_s, "the flood")
    stage.settle(act)
    return act


def _flood_seen(stage: Stage, act: Act) -> FloodAct:
    seen = step_seen(stage, act)
    sent = act.sent.slices if act.sent is not None else ()
    return FloodAct(
        began_s=seen.began_s,
        ended_s=seen.ended_s,
        onset_s=seen.first_s,
        command=seen.step.run,
        sent=tuple(replace(part, from_s=stage.since(part.from_s), to_s=stage.since(part.to_s)) for part in sent),
        delivered=seen.delivered,
        problem=seen.problem,
    )


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
        "Three guests of three tenants on one virtual network: [bold]B[/] serves a small page, [bold]A[/] and "
        "[bold]C[/] are its clients.\nHypervigil watches from the host. It is told their names and addresses, and "
        "nothing of what will happen."
    )


@dataclass
class _Teller:
    """Tells what happens while it happens, on a terminal with progress, and keeps what is seen in passing."""

    console: Console
    stage: Stage
    flood: Act | None = None
    crowd: list[WorkSample] = field(default_factory=list)
    busy: list[Used] = field(default_factory=list)
    _act_s: float = 0.0
    _told: set[tuple[str, str]] = field(default_factory=set)
    _next_poll_s: float = 0.0
    _free: set[str] = field(default_factory=set)
    _ticks: tuple[int, int, int] = (0, 0, 0)
    _own: list[int] | None = None
    _rates: tuple[float, int, int] = (0.0, 0, 0)

    def act(self, title: str, sentence: str) -> None:
        """A new act begins."""
        self._act_s = self.stage.now_s
        self._next_poll_s = self._act_s + _TENSE_POLL_S
        self.console.print(f"\n[bold]{title}[/]\n{sentence}")

    def until(self, end_s: float, what: str, over: Callable[[], bool] | None = None) -> None:
        """Let time go by and tell of it; ``over`` ends it before its time."""
        began_s = self.stage.now_s
        next_line_s = began_s
        with self._progress() as progress:
            task = progress.add_task(what, total=end_s - began_s) if progress is not None else None
            while (now_s := self.stage.now_s) < end_s and not (over is not None and over()):
                self._measure()
                words = f"{what}{self._counted()}"
                if progress is not None:
                    progress.update(TaskID(task or 0), completed=now_s - began_s, description=words)
                elif now_s >= next_line_s:
                    self.console.print(f"  {now_s:4.0f} s  {words}")
                    next_line_s += _TELL_EVERY_S
                if now_s >= self._next_poll_s and now_s > SCENARIO.warmup_s:
                    self._look()
                time.sleep(max(0.0, min(_TICK_S, end_s - self.stage.now_s)))

    def free(self, name: str) -> bool:
        """Whether a guest's case is closed again."""
        return name in self._free

    @contextmanager
    def _progress(self) -> Iterator[Progress | None]:
        if not self.console.is_terminal:
            yield None
            return
        columns = (TextColumn("  {task.description}"), BarColumn(30), TimeRemainingColumn(compact=True))
        with Progress(*columns, console=self.console, transient=True, refresh_per_second=4) as progress:
            yield progress

    def _counted(self) -> str:
        """The rates of the flood by the lab's own count, of the last second or so."""
        act = self.flood
        if act is None or act.sent is None or act.ended_s is not None:
            return ""
        now, sent, arrived = time.monotonic(), act.sent.total, sum(counter.total for counter in act.delivered)
        then, sent_then, arrived_then = self._rates
        if sent:
            self._rates = (now, sent, arrived)
        if sent <= sent_then or not then:
            return ""
        passed = now - then
        return (
            f": A sends {(sent - sent_then) / passed:,.0f} packets/s, B gets {(arrived - arrived_then) / passed:,.0f}"
        )

    def _measure(self) -> None:
        """How much of the host's CPU was in use since the last time, and how much of that by nobody of ours."""
        with Path("/proc/stat").open() as file:
            ticks = [int(word) for word in file.readline().split()[1:9]]
        total, idle, own = sum(ticks), ticks[3] + ticks[4], sum(_ticks_of(pid) for pid in self._pids())
        then, idle_then, own_then = self._ticks
        passed = total - then
        if passed >= os.sysconf("SC_CLK_TCK"):
            if then:
                used = passed - (idle - idle_then)
                others = max(0, used - max(0, own - own_then))
                self.busy.append(Used(round(self.stage.now_s, 2), round(used / passed, 3), round(others / passed, 3)))
            self._ticks = (total, idle, own)

    def _pids(self) -> list[int]:
        """The lab itself, the guests and the product."""
        if self._own is None:
            product = self.stage.product
            pids = product.pids().values() if product is not None else ()
            self._own = [os.getpid(), *pids, *(guest.pid for guest in self.stage.guests.values())]
        return self._own

    def _look(self) -> None:
        """Ask the product what it decided, and tell what is new, in the order in which it happened."""
        if self.stage.product is None:
            return
        product = replace(self.stage.product, nice=_POLITELY)
        found = [event for case in product.cases() for event in self._events(product, case)]
        began, onset = self.stage.wall_s, self._onset_s()
        for event in sorted(found):
            if (event.case, event.what) not in self._told:
                self._told.add((event.case, event.what))
                self.console.print(f"  [bold]{event.wall_s - began - onset:+6.2f} s[/]  {event.words}", soft_wrap=True)
        tense = self.stage.now_s - self._act_s < _TENSE_FOR_S
        self._next_poll_s = self.stage.now_s + (_TENSE_POLL_S if tense else _CALM_POLL_S)

    def _onset_s(self) -> float:
        """From when on times are told: the flood's first packet, else the beginning of the act."""
        sent = self.flood.sent if self.flood is not None else None
        return self._act_s if sent is None or sent.first_at_s is None else self.stage.since(sent.first_at_s)

    def _events(self, product: Product, case: Case) -> Iterator["_Event"]:
        who = "the host" if case.name == "host" else named(case.name or "?")
        yield _Event(case.opened_at, case.case, "opened", f"{who} behaves unusually: a case is opened")
        if case.role is not None and case.decided_at is not None:
            colour = {"attacker": "red", "victim": "yellow", "cleared": "green"}.get(case.role, "magenta")
            words = f"{who} is found [{colour}]{case.role}[/]: {escape(named(case.cause or ''))}"
            yield _Event(case.decided_at, case.case, case.role, words)
            if case.role == "attacker" and (case.case, "limited") not in self._told:
                yield from self._limited(product, case, who)
        if case.closed_at is not None:
            yield _Event(case.closed_at, case.case, "closed", f"{who} is back to normal: {case.closing_reason}")
            self._free.add(who.lower())

    def _limited(self, product: Product, case: Case, who: str) -> Iterator["_Event"]:
        """What an attacker met first."""
        for limit in product.limits():
            if limit.case == case.case and limit.in_force_at is not None:
                value = f" to {limit.value:g} packets/s" if limit.value is not None else ""
                classes = f" of {', '.join(limit.classes).upper()}" if limit.classes else ""
                yield _Event(
                    limit.in_force_at, case.case, "limited", f"{who} is limited{value}{classes}, provisionally"
                )


@dataclass(frozen=True, order=True)
class _Event:
    """Something that the product did. Of two with the same ``what`` in a case only the first is told."""

    wall_s: float
    case: str
    what: str
    words: str


def _ticks_of(pid: int) -> int:
    """The CPU time of a process and of its children that ended."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return sum(int(word) for word in words[11:15])


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
