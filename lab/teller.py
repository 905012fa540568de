"""The demonstration told while it happens: what the audience sees, and what is seen in passing."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from lab.checked import named
from lab.demonstrated import Used
from lab.place import WorkSample
from lab.stage import Act, Stage
from lab.watched import Case, Product

STORY = ("agent-heard", "agent-silent", "agent-replaced", "agent-mismatch", "wanted", "not-granted")
"""Facts of an agent that are told."""
_CALM_POLL_S, _TENSE_POLL_S = 5.0, 1.0
_TENSE_FOR_S = 4.0
"""From the beginning of an act on; the command line costs a third of a second of a core, which C needs as well."""
_POLITELY = 10
"""Asking must not take the guests' cores while their latency is measured."""
_TELL_EVERY_S = 15.0
_TICK_S = 0.25


@dataclass
class Teller:
    """Tells what happens while it happens, on a terminal with progress, and keeps what is seen in passing."""

    console: Console
    stage: Stage
    warmup_s: float
    attack: Act | None = None
    """Under way: its rates are told, and times count from its first packet."""
    recorded: str | None = None
    """Of whose agent is told what is on record, too."""
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
        self.attack = None
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
                if now_s >= self._next_poll_s and now_s > self.warmup_s:
                    self._look()
                time.sleep(max(0.0, min(_TICK_S, end_s - self.stage.now_s)))

    def free(self, *names: str) -> bool:
        """Whether the last cases of these guests are closed."""
        return self._free.issuperset(names)

    @contextmanager
    def _progress(self) -> Iterator[Progress | None]:
        if not self.console.is_terminal:
            yield None
            return
        columns = (TextColumn("  {task.description}"), BarColumn(30), TimeRemainingColumn(compact=True))
        with Progress(*columns, console=self.console, transient=True, refresh_per_second=4) as progress:
            yield progress

    def _counted(self) -> str:
        """The rates of the attack by the lab's own count, of the last second or so."""
        act = self.attack
        if act is None or act.sent is None or act.ended_s is not None:
            return ""
        now, sent, arrived = time.monotonic(), act.sent.total, sum(counter.total for counter in act.delivered)
        then, sent_then, arrived_then = self._rates
        if sent:
            self._rates = (now, sent, arrived)
        if sent <= sent_then or not then:
            return ""
        passed = now - then
        source, target = act.step.on.upper(), (act.step.target or "?").upper()
        rates = ((sent - sent_then) / passed, (arrived - arrived_then) / passed)
        return f": {source} sends {rates[0]:,.0f} packets/s, {target} gets {rates[1]:,.0f}"

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
        cases = product.cases()
        last = {case.name: case for case in sorted(cases, key=lambda one: one.opened_at)}
        self._free = {named(name).lower() for name, case in last.items() if name and case.closed_at is not None}
        found = [event for case in cases for event in self._events(product, case)]
        found += self._facts(product)
        began, onset = self.stage.wall_s, self._onset_s()
        for event in sorted(found):
            if (event.case, event.what) not in self._told:
                self._told.add((event.case, event.what))
                self.console.print(f"  [bold]{event.wall_s - began - onset:+6.2f} s[/]  {event.words}", soft_wrap=True)
        tense = self.stage.now_s - self._act_s < _TENSE_FOR_S
        self._next_poll_s = self.stage.now_s + (_TENSE_POLL_S if tense else _CALM_POLL_S)

    def _onset_s(self) -> float:
        """From when on times are told: the attack's first packet, else the beginning of the act."""
        sent = self.attack.sent if self.attack is not None else None
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

    def _facts(self, product: Product) -> Iterator["_Event"]:
        """What is on record of a guest's agent since the act began."""
        if self.recorded is None:
            return
        for fact in product.told({self.stage.guests[self.recorded].uuid: self.recorded}):
            if fact.kind in STORY and fact.at - self.stage.wall_s >= self._act_s:
                yield _Event(fact.at, f"{fact.at:.3f}", fact.kind, f"on record: {escape(fact.text)}")

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
