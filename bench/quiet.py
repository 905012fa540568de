"""How often ordinary VMs are suspected: ``python -m bench.quiet [--data DIR] [--vm-days N] [--seed S] [--json FILE]``.

Ordinary VMs (``bench/_ordinary.py``) live through days before the product's judge, HSEM, and HREM's notices of
overload, as in monitor mode: limits are ordered and stop nothing. Every Level 2 is false, but that of a VM that really
is at its capacity; so is every verdict but *cleared* and, of such a VM, *overloaded*. VMs begin without a history.
Each false one is told when it happens. Hosts are left out of which a capture shows only one direction of their TCP: the
NIC of a VM carries both, and what else it does is seen from both sides.

A tenth of the VM-days is lived at the sensors' beat of five looks a second. The rest has one look a second, which
shows every packet and is coarser as to bursts of less than a second; both are told apart.
"""

import argparse
import itertools
import json
import math
import os
import platform
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from bench._ordinary import DAY_S, Chances, Matrix, Step, Vms
from bench._series import Series
from bench._series import read as read_series
from bench._tapes import BEAT_S, STATES, Tape, record, seen_from_one_side, slower
from hypervigil.entrypoints.replay.capture import CaptureError
from hypervigil.host.hrem.overload import NEAR_CAPACITY, Overload
from hypervigil.host.hsem.engine import Hsem
from hypervigil.model.ids import CaseId, Instant, LimitId, VmId
from hypervigil.model.metric import PACKET_METRICS, Metric
from hypervigil.model.policy import Bounds
from hypervigil.model.report import (
    Decide,
    Decision,
    EnterLevel2,
    HostReport,
    LeaveLevel2,
    LiftLimit,
    OrderLimit,
)
from hypervigil.model.status import Role
from hypervigil.model.vm import Vm

DATA = Path(os.environ.get("HYPERVIGIL_DATA", "../shared/data"))
VM_DAYS = 3000.0
FINE = 0.1
"""This share of the VM-days is lived at the sensors' own beat."""
LIFE_DAYS = 7.0
LEAST_DAYS = 1 / 3
"""A VM lives no shorter for the sake of more at once: a working day with its beginning."""
TOGETHER = 400
"""So many VMs are simulated at once where there are days enough for each: it costs little more than one."""
MOST_ATTACKERS = 1 / 1000
"""A VM-day."""
MOST_LEVEL2 = 1 / 7
"""A VM-day."""
LEARN_S = 60.0
"""Each VM's own history is looked up this often, to know whose peers need to be told."""
NEAR = 0.7
"""Of what the judge allows, what makes a VM's peers be told."""
TELL_S = 20.0
CONFIDENCE = 0.95
BEGIN_S = 1000.0

_CAPACITY = set(NEAR_CAPACITY.values())
_GRAVITY = (Role.CLEARED, Role.OVERLOADED, Role.REFLECTOR, Role.VICTIM, Role.ATTACKER)


@dataclass(slots=True)
class Event:
    """One case of one VM. ``day`` is of its life."""

    vm: str
    day: float
    metric: str
    """The kind of the first evidence."""
    why: str
    """Its sentence."""
    doing: str
    """What the VM was made to do."""
    source: str
    """Whose series its load follows."""
    verdict: str = "none"
    cause: str = ""
    level2_s: float = 0.0
    limits: int = 0
    """Provisional and later ones."""
    limited_s: float = 0.0
    beat_s: float = 1.0
    right: bool = False
    """It was at its capacity, and nothing worse was said."""

    @property
    def false_verdict(self) -> bool:
        """Whether it is called something that it is not."""
        return self.verdict not in ({"none", "cleared", "overloaded"} if self.right else {"none", "cleared"})


@dataclass(slots=True)
class Lived:
    """What became of some VMs at one beat."""

    beat_s: float
    vms: int
    vm_days: float = 0.0
    events: list[Event] = field(default_factory=list)
    judge_s: float = 0.0
    """Processor time of the judge."""
    simulation_s: float = 0.0
    """Processor time of the VMs."""
    blind: int = 0
    """Cases that were opened when nobody had told with whom the VM talks: the simulation must not have any."""


Say = Callable[[str], None]
"""Told each false Level 2 and each false verdict when it happens, in one sentence."""


class Watched:
    """Some VMs and their judge."""

    def __init__(self, vms: Vms, *, seed: int, say: Say = lambda _: None) -> None:
        self._vms = vms
        self._say = say
        self._seed = seed
        cases, limits = itertools.count(1), itertools.count(1)
        self._bounds = Bounds()
        self._hsem = Hsem(
            self._bounds, next_case=lambda: CaseId(f"c{next(cases)}"), next_limit=lambda: LimitId(f"l{next(limits)}")
        )
        self._overload = Overload()
        self._rows = {vm: row for row, vm in enumerate(vms.names)}
        self._open: dict[VmId, Event] = {}
        self._since: dict[VmId, float] = {}
        self._limits: dict[LimitId, tuple[Event, float]] = {}
        self._second: list[Matrix] = []
        self._per_second = round(1.0 / vms.beat_s)
        self._learned = itertools.cycle(range(len(vms.names)))
        self.lived = Lived(vms.beat_s, len(vms.names))
        self._hsem.inventory([Vm(vm, vm, 1, 1 << 20) for vm in vms.names], Instant(BEGIN_S))

    def step(self) -> None:
        """One interval: the VMs, then the judge."""
        began = time.process_time()
        step = self._vms.step()
        self._look_up()
        between = time.process_time()
        now = Instant(BEGIN_S + self._vms.now_s)
        told = {pair.vm for pair in step.pairs}
        decisions = self._hsem.hear(
            HostReport(now, self._vms.beat_s, self._vms.names, step.values.data, step.pairs, forged=step.forged), now
        )
        self._note(decisions, now, told)
        self._whole(step, now)
        self._note(self._hsem.tick(now), now, told)
        self.lived.judge_s += time.process_time() - between
        self.lived.simulation_s += between - began
        self.lived.vm_days += len(self._vms.names) * self._vms.beat_s / DAY_S

    def finish(self) -> Lived:
        """Close the books on cases and limits that are still open."""
        now = BEGIN_S + self._vms.now_s
        for vm in list(self._open):
            self._left(vm, now)
        for limit in list(self._limits):
            self._lifted(limit, now)
        return self.lived

    def _whole(self, step: Step, now: Instant) -> None:
        """A second, as HREM sums it up."""
        self._second.append(step.values)
        if len(self._second) < self._per_second:
            return
        values = step.values
        if len(self._second) > 1:
            values = np.mean(self._second, axis=0, dtype=np.float32)
            values[:, Metric.CPU :] = step.values[:, Metric.CPU :]
            for state in STATES:
                values[:, state] = np.max([one[:, state] for one in self._second], axis=0)
        self._second = []
        notices = self._overload.see(self._vms.names, values, now)
        report = HostReport(now, 1.0, self._vms.names, values.data, notices=tuple(notices), whole=True)
        self._note(self._hsem.hear(report, now), now, set(self._rows))

    def _look_up(self) -> None:
        """What is usual of a few VMs: below it nobody asks with whom they talk."""
        share = len(self._vms.names) * self._vms.beat_s / LEARN_S
        young = self._vms.now_s < LEARN_S
        for _ in range(math.ceil(share) if not young else 0):
            row = next(self._learned)
            vm = self._vms.names[row]
            # Less than what the judge allows: what it knows a minute later may be less than what is looked up here.
            tails = [self._hsem.tail(vm, metric) for metric in PACKET_METRICS]
            self._vms.allowed[row] = [NEAR * max(self._bounds.factor * tail, self._bounds.floor_pps) for tail in tails]

    def _note(self, decisions: Sequence[Decision], now: Instant, told: set[VmId]) -> None:
        for decision in decisions:
            match decision:
                case EnterLevel2():
                    self._entered(decision, told)
                case Decide(verdict=verdict):
                    event = self._open.get(verdict.vm)
                    if event is not None and _graver(verdict.role, event.verdict):
                        event.verdict, event.cause = str(verdict.role), verdict.cause
                        if event.false_verdict:
                            self._say(f"false verdict {event.verdict} on {_where(event)}: {event.cause}")
                case LeaveLevel2():
                    self._left(decision.vm, now)
                case OrderLimit(limit=limit):
                    event = self._open.get(limit.vm)
                    if event is not None:
                        event.limits += 1
                        self._limits[limit.id] = (event, now)
                case LiftLimit():
                    self._lifted(decision.limit, now)

    def _entered(self, decision: EnterLevel2, told: set[VmId]) -> None:
        row = self._rows[decision.vm]
        first = decision.evidence[0] if decision.evidence else None
        event = Event(
            vm=f"{self._seed}/{decision.vm}",
            day=round((decision.at - BEGIN_S) / DAY_S, 5),
            metric=first.kind if first is not None else "unknown",
            why=first.text if first is not None else "",
            doing=self._vms.doing(row),
            source=self._vms.sources[row],
            beat_s=self._vms.beat_s,
            right=first is not None and first.kind in _CAPACITY,
        )
        self.lived.events.append(event)
        self.lived.blind += decision.vm not in told
        if not event.right:
            self._say(f"false Level 2 of {_where(event)}: {event.metric}: {event.why}")
        self._open[decision.vm], self._since[decision.vm] = event, decision.at
        self._vms.watched[row] = True

    def _left(self, vm: VmId, now: float) -> None:
        event = self._open.pop(vm, None)
        if event is not None:
            event.level2_s = round(now - self._since.pop(vm), 2)
            self._vms.watched[self._rows[vm]] = False

    def _lifted(self, limit: LimitId, now: float) -> None:
        event, since = self._limits.pop(limit, (None, now))
        if event is not None:
            event.limited_s = round(event.limited_s + now - since, 2)


def _where(event: Event) -> str:
    return f"{event.vm} ({event.doing}; {event.source}) on day {event.day:.3f} at {event.beat_s:g} s"


def _graver(role: Role, verdict: str) -> bool:
    known = [str(one) for one in _GRAVITY]
    return verdict not in known or known.index(str(role)) > known.index(verdict)


Progress = Callable[[Lived, float], None]
"""Told what there is so far, and which share of these VM-days is lived."""


def live(
    vm_days: float,
    beat_s: float,
    series: Sequence[Series],
    tapes: Sequence[Tape],
    seed: int,
    *,
    chances: Chances | None = None,
    say: Say = lambda _: None,
    tell: Progress = lambda _lived, _share: None,
) -> Lived:
    """So many VM-days at one beat."""
    vms = max(1, math.ceil(max(vm_days / LIFE_DAYS, min(TOGETHER, vm_days / LEAST_DAYS))))
    seconds = vm_days / vms * DAY_S
    ordinary = Vms(
        [VmId(f"vm{n}") for n in range(vms)],
        series,
        [slower(tape, round(beat_s / BEAT_S)) for tape in tapes],
        seconds=seconds,
        beat_s=beat_s,
        rng=np.random.default_rng([seed, round(beat_s * 1000)]),
        chances=chances or Chances(),
    )
    watched = Watched(ordinary, seed=seed, say=say)
    told_at = time.monotonic()
    for _ in range(max(1, round(seconds / beat_s))):
        watched.step()
        if time.monotonic() - told_at >= TELL_S:
            told_at = time.monotonic()
            tell(watched.lived, ordinary.now_s / seconds)
    return watched.finish()


# --- what it says. Pure ---


def most(events: int, per: float, confidence: float = CONFIDENCE) -> float:
    """One-sided exact bound of a rate: at this confidence it is at most so large.

    F. Garwood, "Fiducial limits for the Poisson distribution", Biometrika 28, 1936.
    """
    low, high = 0.0, 10.0 + 3.0 * events
    for _ in range(60):
        middle = (low + high) / 2
        fewer = math.fsum(
            math.exp(k * math.log(middle) - middle - math.lgamma(k + 1)) if middle else float(k == 0)
            for k in range(events + 1)
        )
        low, high = (middle, high) if fewer > 1 - confidence else (low, middle)
    return high / per if per else math.inf


def figures(lived: Sequence[Lived]) -> dict[str, Any]:
    """The rates of some VM-days."""
    days = sum(one.vm_days for one in lived)
    events = [event for one in lived for event in one.events]
    false = [event for event in events if not event.right]
    verdicts = Counter(event.verdict for event in events if event.false_verdict)
    return {
        "vm_days": round(days, 1),
        "level2": len(events),
        "level2_at_capacity": len(events) - len(false),
        "false_level2": len(false),
        "false_level2_per_vm_week": _rate(len(false), days, 7),
        "false_level2_per_vm_week_at_most": round(7 * most(len(false), days), 4),
        "vms_with_false_level2": len({event.vm for event in false}),
        "vms": sum(one.vms for one in lived),
        "false_verdicts": dict(verdicts),
        "false_attackers_per_1000_vm_days": _rate(verdicts["attacker"], days, 1000),
        "false_attackers_per_1000_vm_days_at_most": round(1000 * most(verdicts["attacker"], days), 3),
        "level2_seconds_per_vm_day": _rate(sum(event.level2_s for event in events), days, 1),
        "limits_per_vm_day": _rate(sum(event.limits for event in events), days, 1),
        "limited_seconds_per_vm_day": _rate(sum(event.limited_s for event in events), days, 1),
        "judge_us_per_vm_second": _rate(sum(one.judge_s for one in lived), days, 1e6 / DAY_S),
        "blind": sum(one.blind for one in lived),
    }


def _rate(amount: float, days: float, per: float) -> float:
    return round(amount / days * per, 4) if days else 0.0


def causes(events: Sequence[Event]) -> list[tuple[str, int, int]]:
    """What false Level 2 came of: evidence and what the VM was made to do, how often, of how many VMs; most first."""
    found: dict[str, list[Event]] = {}
    for event in events:
        if not event.right:
            role, _, doing = event.doing.partition(": ")
            found.setdefault(f"{event.metric}: {doing} ({role})", []).append(event)
    counted = [(what, len(those), len({event.vm for event in those})) for what, those in found.items()]
    return sorted(counted, key=lambda one: (-one[1], one[0]))


def kept(summary: dict[str, Any]) -> list[str]:
    """What of the targets is missed, in sentences."""
    missed = []
    if summary["false_level2_per_vm_week"] > MOST_LEVEL2 * 7:
        missed.append(f"false Level 2: {summary['false_level2_per_vm_week']} a VM-week, promised is at most 1")
    if summary["false_attackers_per_1000_vm_days"] > MOST_ATTACKERS * 1000:
        rate = summary["false_attackers_per_1000_vm_days"]
        missed.append(f"false attackers: {rate} in 1,000 VM-days, promised is at most 1")
    if summary["blind"]:
        missed.append(f"{summary['blind']} cases were opened without word of the VM's peers: the simulation is wrong")
    return missed


def result(lived: Sequence[Lived], seed: int, sources: dict[str, int]) -> dict[str, Any]:
    """The whole document."""
    summary = figures(lived)
    events = [event for one in lived for event in one.events]
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}",
        "seed": seed,
        "sources": sources,
        "summary": summary,
        "by_beat": {f"{one.beat_s:g} s": figures([one]) for one in lived},
        "missed": kept(summary),
        "causes": [{"what": what, "level2": many, "vms": vms} for what, many, vms in causes(events)],
        "level2": [asdict(event) for event in sorted(events, key=lambda e: (e.right, not e.false_verdict, e.vm))],
    }


# --- for people ---


_UNFINISHED = "it was stopped before its end"
_LEFT = "hosts seen from one side, left out"


def _tell(sentence: str) -> None:
    print(f"quiet: {sentence}", file=sys.stderr, flush=True)


def _progress(
    done: Sequence[Lived], all_days: float, began: float, keep: Callable[[Sequence[Lived]], object]
) -> Progress:
    before = tuple(done)

    def tell(lived: Lived, _share: float) -> None:
        days = sum(one.vm_days for one in before) + lived.vm_days
        keep((*before, lived))
        false = sum(not event.right for event in lived.events)
        verdicts = sum(event.false_verdict for event in lived.events)
        left = (time.monotonic() - began) * (all_days / days - 1) / 60
        _tell(
            f"{days:,.0f} of {all_days:,.0f} VM-days at {lived.beat_s:g} s: {false} false Level 2, "
            f"{verdicts} false verdicts; about {left:.0f} min left"
        )

    return tell


def show(document: dict[str, Any]) -> None:
    """The figures as short tables."""
    console = Console()
    table = Table("figure", "all", *document["by_beat"])
    for name, value in document["summary"].items():
        table.add_row(name, str(value), *(str(one[name]) for one in document["by_beat"].values()))
    console.print(table)
    if document["causes"]:
        table = Table("false Level 2 came of", "times", "VMs")
        for one in document["causes"][:15]:
            table.add_row(one["what"], str(one["level2"]), str(one["vms"]))
        console.print(table)
    for sentence in document["missed"]:
        console.print(f"[red]missed:[/] {sentence}")


def main() -> None:
    """Simulate, print tables, write JSON; exit code 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="Else HYPERVIGIL_DATA, else ../shared/data.")
    parser.add_argument("--vm-days", type=float, default=VM_DAYS, metavar="N")
    parser.add_argument(
        "--fine", type=float, default=FINE, metavar="SHARE", help="Of the VM-days, at five looks a second."
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, default=Path("build/bench/quiet.json"))
    arguments = parser.parse_args()
    if not (arguments.data / "captures" / "benign").is_dir():
        Console().print(f"quiet: skipped, since there is no {arguments.data}/captures/benign; set HYPERVIGIL_DATA")
        return
    try:
        series = read_series(arguments.data)
        tapes = [tape for path in sorted((arguments.data / "captures" / "benign").iterdir()) for tape in record(path)]
    except (CaptureError, OSError, KeyError, ValueError) as error:
        raise SystemExit(f"quiet: {error}; is {arguments.data} whole?") from error
    whole = [tape for tape in tapes if not seen_from_one_side(tape)]
    if not series or not whole:
        raise SystemExit(f"quiet: {arguments.data} has no series or no captures; set HYPERVIGIL_DATA to the data")
    sources = {
        "series": len(series),
        "captures' hosts": len(whole),
        _LEFT: len(tapes) - len(whole),
    }
    _tell(f"VMs are made of {len(series)} series and {len(whole)} hosts of captures; one side only of {sources[_LEFT]}")

    def keep(those: Sequence[Lived], *, finished: bool = False) -> dict[str, Any]:
        document = result(those, arguments.seed, sources)
        document["missed"] += [] if finished else [_UNFINISHED]
        fresh = arguments.json.with_suffix(".new")
        fresh.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        fresh.replace(arguments.json)
        return document

    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    lived: list[Lived] = []
    began = time.monotonic()
    for share, beat_s in ((arguments.fine, BEAT_S), (1.0 - arguments.fine, 1.0)):
        if share > 0:
            tell = _progress(lived, arguments.vm_days, began, keep)
            days = share * arguments.vm_days
            lived.append(live(days, beat_s, series, whole, arguments.seed, say=_tell, tell=tell))
    document = keep(lived, finished=True)
    show(document)
    raise SystemExit(1 if document["missed"] else 0)


if __name__ == "__main__":
    main()
