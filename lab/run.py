"""``python -m lab run``: boots a scenario, plays its steps, and says who was judged how, and whether that was right."""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from lab.errors import LabError
from lab.guests import DOMAIN_PREFIX
from lab.image import image, image_hash
from lab.outcome import Judged, Outcome, Seen, StepSeen, outcome
from lab.paths import CACHE, make
from lab.place import Place
from lab.residue import look, residue
from lab.scenario import EXT, Scenario, load
from lab.scratch import say
from lab.stage import Act, Stage, staged
from lab.watched import Case, Product

_CONTROLS = CACHE / "controls"
_CONTROLS_KEPT = 200
_FORMAT = 1  # of a control run's outcome; raise it when counting or outcome change
_TELL_EVERY_S = 15.0
_READ_WORK_EVERY_S = 60.0
_COMMAND_S = 600.0


def arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("file", type=Path, metavar="FILE", help="a scenario, e.g. lab/scenarios/syn-flood-inside.toml")
    parser.add_argument("--control", action="store_true", help="without the product: the attack must succeed")
    parser.add_argument("--json", type=Path, metavar="OUT", help="where to write the outcome")
    parser.add_argument("--just-boot", action="store_true", help="boot its guests and let you run commands in them")


def main(options: argparse.Namespace) -> int:
    """Run it; 0 if all was right, 1 if not."""
    scenario = load(options.file)
    check_writable(options.json)
    check_root()
    if options.just_boot:
        return _just_boot(scenario, watched=not options.control)
    result = _known_control(scenario) if options.control else None
    if result is None:
        result = run(scenario, watched=not options.control)
        if result.control and result.ok:
            _keep_control(result)
    if options.json is not None:
        write(options.json, msgspec.json.format(msgspec.json.encode(result)) + b"\n")
    print("\n".join(told(result)))
    return 0 if result.ok else 1


def run(scenario: Scenario, *, watched: bool) -> Outcome:
    """Boot, play, undo, judge."""
    before = look()
    name = image().hash
    with staged(scenario, watched=watched) as stage:
        seen = play(stage)
    return outcome(seen, image=name, residue=residue(before))


def play(stage: Stage) -> Seen:
    """Warm up, take each step at its time, and say what was seen."""
    scenario = stage.scenario
    end_s = scenario.limits.duration_s
    stage.begin()
    say(f"warming up for {scenario.warmup_s:g} s of {end_s:g} s")
    for step in sorted(scenario.step, key=lambda step: step.at_s):
        _wait(stage, step.at_s)
        say(f"{stage.now_s:4.0f} s  {'attack' if step.attack else 'step'} on {step.on}: {step.run}")
        stage.act(step, end_s)
    _wait(stage, end_s)
    judged = ask(stage, stage.product) if stage.product is not None else None
    for act in stage.acts:
        stage.settle(act)
    stage.read_work()
    return Seen(
        scenario,
        tuple(step_seen(stage, act) for act in stage.acts),
        {table.name: stage.samples(table.name) for table in scenario.guest},
        judged,
    )


def _wait(stage: Stage, until_s: float) -> None:
    """Let time go by, telling of it."""
    next_word_s = (stage.now_s // _TELL_EVERY_S + 1) * _TELL_EVERY_S
    next_reading_s = (stage.now_s // _READ_WORK_EVERY_S + 1) * _READ_WORK_EVERY_S
    while (left_s := until_s - stage.now_s) > 0:
        time.sleep(min(0.2, left_s))
        if stage.now_s >= next_word_s:
            counted = sum(act.sent.total for act in stage.acts if act.sent is not None)
            say(f"{stage.now_s:4.0f} s of {stage.scenario.limits.duration_s:g} s, {counted} attack frames so far")
            next_word_s += _TELL_EVERY_S
        if stage.now_s >= next_reading_s and left_s > 5:
            stage.read_work()
            next_reading_s += _READ_WORK_EVERY_S


def ask(stage: Stage, product: Product) -> Judged:
    """The product's cases and limits, on the scenario's clock and with the scenario's names."""
    began = stage.wall_s
    cases = [_case(case, began) for case in product.cases()]
    limits = [
        msgspec.structs.replace(
            limit,
            name=_name(limit.name),
            to=limit.to - began,
            in_force_at=_later(limit.in_force_at, began),
            lifted_at=_later(limit.lifted_at, began),
        )
        for limit in product.limits()
    ]
    return Judged(tuple(cases), tuple(limits))


def _case(case: Case, began: float) -> Case:
    return msgspec.structs.replace(
        case,
        name=_name(case.name),
        target=_name(case.target),
        opened_at=case.opened_at - began,
        decided_at=_later(case.decided_at, began),
        closed_at=_later(case.closed_at, began),
        evidence=tuple(
            msgspec.structs.replace(fact, name=_name(fact.name), at=round(fact.at - began, 3)) for fact in case.evidence
        ),
    )


def _name(domain: str | None) -> str | None:
    return None if domain is None else domain.removeprefix(DOMAIN_PREFIX)


def _later(wall_s: float | None, began: float) -> float | None:
    return None if wall_s is None else wall_s - began


def step_seen(stage: Stage, act: Act) -> StepSeen:
    """A step as it went."""
    ended_s = act.ended_s if act.ended_s is not None else stage.scenario.limits.duration_s
    sent = act.sent
    if act.step.boots and sent is not None and sent.slices:
        ended_s = stage.since(sent.slices[-1].to_s)  # nobody tells when its command ended
    delivered = [part for counter in act.delivered for part in counter.slices]
    return StepSeen(
        step=act.step,
        began_s=act.began_s,
        ended_s=ended_s,
        exit=act.exit,
        problem=act.problem,
        first_s=stage.since(sent.first_at_s) if sent is not None and sent.first_at_s is not None else None,
        sent=sent.total if sent is not None else 0,
        delivered=tuple(
            replace(part, from_s=stage.since(part.from_s), to_s=stage.since(part.to_s))
            for part in sorted(delivered, key=lambda part: part.from_s)
        ),
    )


# --- the outcome for people, files and the next time ---


def told(result: Outcome) -> list[str]:
    """The outcome in a few lines."""
    lines = [f"{result.name}{' (control: without the product)' if result.control else ''}, seed {result.seed}"]
    for name, guest in result.guests.items():
        words = [f"  {name:<10}"]
        if not result.control:
            words.append(f"{guest.verdict}{f' ({guest.attack_class})' if guest.attack_class else ''}")
            words.append(f"expected {guest.expected}" if guest.expected else "nothing expected")
            times = (("Level 2", guest.level2_s), ("limit", guest.limit_s), ("verdict", guest.verdict_s))
            words += [f"{what} after {value:.2f} s" for what, value in times if value is not None]
        rates = (guest.work_before, guest.work_during, guest.work_after)
        if any(rate is not None for rate in rates):
            words.append("work/s " + " → ".join("–" if rate is None else f"{rate:.1f}" for rate in rates))
        lines.append("  ".join(words))
    for step in result.steps:
        if step.attack:
            arrived = f"{step.delivered_before_limit} + {step.delivered_after_limit} arrived (before + after limit)"
            lines.append(f"  attack by {step.on} on {step.target or 'anybody'}: {step.sent} frames sent, {arrived}")
    lines += [f"  wrong: {failure}" for failure in result.failures]
    return [*lines, "ok" if result.ok else "NOT ok"]


def check_root() -> None:
    """Before anything is booted."""
    if os.geteuid() != 0:
        raise LabError("booting guests and changing the host's network needs root: run it with sudo")


def check_writable(path: Path | None) -> None:
    """Before anything is booted."""
    if path is None:
        return
    if path.is_dir():
        raise LabError(f"{path} is a folder: name a file for the outcome")
    if not os.access(path.parent, os.W_OK):
        raise LabError(f"{path.parent} is not there or may not be written: name another place for the outcome")


def write(path: Path, content: bytes) -> None:
    """Whole or not at all."""
    fresh = path.with_name(path.name + ".new")
    try:
        fresh.write_bytes(content)
        fresh.rename(path)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise LabError(f"{path} cannot be written: {error.strerror}; make room or name another place") from None


def _control_path(scenario_hash: str, image_name: str) -> Path:
    return _CONTROLS / f"{image_name}-{scenario_hash}-{_FORMAT}.json"


def _known_control(scenario: Scenario) -> Outcome | None:
    path = _control_path(scenario.hash, image_hash())
    try:
        known = msgspec.json.decode(path.read_bytes(), type=Outcome)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    say(f"this control run was made before, with this image: its outcome is {path}; remove that to run it again")
    return known


def _keep_control(result: Outcome) -> None:
    make(_CONTROLS)
    write(_control_path(result.scenario, result.image), msgspec.json.encode(result))
    oldest_last = sorted(_CONTROLS.glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in oldest_last[_CONTROLS_KEPT:]:
        path.unlink(missing_ok=True)


# --- for people ---


def _just_boot(scenario: Scenario, *, watched: bool) -> int:
    before = look()
    with staged(scenario, watched=watched) as stage:
        boots = [step.on for step in scenario.step if step.boots]
        places = [name for name in (*stage.guests, EXT) if name not in boots]
        for name in places:
            place = stage.place(name)
            print(f"  {name:<10} {place.address:<15} {stage.interface(name):<10} {_work(scenario, name)}")
        print("Write a place and a command, e.g. 'ext ping -c 1 $ip_a'; an empty line ends it all.", flush=True)
        _obey(stage, places)
    left = residue(before)
    for thing in left:
        print(f"left on the host: {thing}")
    return 1 if left else 0


def _work(scenario: Scenario, name: str) -> str:
    return next((table.work for table in scenario.guest if table.name == name), "outside")


def _obey(stage: Stage, places: Sequence[str]) -> None:
    """Run in a place what is written, line by line."""
    for line in sys.stdin:
        name, _, command = line.strip().partition(" ")
        if not name:
            return
        if name not in places or not command:
            print(f"first a place ({', '.join(places)}), then a command", flush=True)
            continue
        place: Place = stage.place(name)
        try:
            result = place.run(stage.put_in(name, command), _COMMAND_S)
        except LabError as error:
            print(error, flush=True)
        else:
            print(f"{result.output.rstrip()}\n[{result.exit}]", flush=True)
