"""``python -m lab trials``: many short attacks and honest tasks on guests that stay booted; who is blamed."""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from lab.capture import Counter, Slice
from lab.frames import Heading, Party, Test, View
from lab.image import image
from lab.kinds import GUESTS, Family, Trial, draw
from lab.outcome import Judged
from lab.residue import look, residue
from lab.rounds import history_path, known, recall, release, warm_up
from lab.run import ask, check_root, check_writable, write
from lab.scenario import EXT, GuestTable, Limits, NetworkTable, Scenario
from lab.score import Flow, Summary, TrialOutcome, TrialSeen, score, summary
from lab.stage import Act, Stage, staged

WARMUP_S = 60.0
_ATTACK_S = 11.0
_BENIGN_S = 15.0
_AWAY_S = 3.0
_UNFINISHED = "it was stopped before its end"
_LOAD_RATE = 4  # requests a second of each of the two clients of a guest


def arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("--count", type=int, default=30, metavar="N", help="how many trials (default 30)")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn (default 0)")
    parser.add_argument("--kind", action="append", metavar="KIND", help="only trials of this kind; may be repeated")
    parser.add_argument("--control", action="store_true", help="without the product: the attacks must succeed")
    parser.add_argument("--agents", action="store_true", help="our agent runs in every guest")
    parser.add_argument("--json", type=Path, metavar="OUT", help="where to write the outcome")


def main(options: argparse.Namespace) -> int:
    """Run them; 0 if nobody was blamed wrongly and every trial was carried out, 1 if not."""
    trials = [trial for trial in draw(options.count, options.seed) if not options.kind or trial.kind in options.kind]
    check_writable(options.json)
    check_root()

    def keep(result: Summary) -> None:
        if options.json is not None:
            write(options.json, msgspec.json.format(msgspec.json.encode(result)) + b"\n")

    result = run(trials, options.seed, control=options.control, agents=options.agents, keep=keep)
    keep(result)
    print("\n".join(told(result)))
    return 0 if result.ok else 1


def run(trials: Sequence[Trial], seed: int, *, control: bool, agents: bool, keep: Callable[[Summary], None]) -> Summary:
    """Boot once, warm up once, make each trial, undo, judge; ``keep`` is given what there is after each trial."""
    before = look()
    image()
    outcomes = []
    try:
        with staged(scenario("trials", seed, agents=agents), watched=not control) as stage:
            stage.begin()
            begin_work(stage)
            warm_up(stage, WARMUP_S)
            print(_HEADINGS, flush=True)
            for trial in trials:
                began = time.time()
                outcome = score(play(stage, trial))
                if stage.product is not None and not outcome.right:
                    outcome = msgspec.structs.replace(outcome, known=known(stage.product, began))
                outcomes.append(outcome)
                print(_row(outcome), flush=True)
                keep(summary(outcomes, seed, control=control, problems=[_UNFINISHED]))
    finally:
        history_path().unlink(missing_ok=True)
    left = [f"left on the host: {thing}" for thing in residue(before)]
    return summary(outcomes, seed, control=control, problems=left)


def play(stage: Stage, trial: Trial) -> TrialSeen:
    """Make one trial and wait until all is calm again."""
    began = stage.now_s
    end = began + (trial.seconds or (_BENIGN_S if trial.family is Family.BENIGN else _ATTACK_S))
    measured = _measure(stage, trial) if trial.measured else None
    acts: list[Act] = []
    if trial.restarts:
        stage.guests[trial.target].work_stop()
        time.sleep(_AWAY_S)
        stage.start_work(trial.target)
    for step in sorted(trial.steps, key=lambda step: step.at_s):
        time.sleep(max(0.0, began + step.at_s - stage.now_s))
        acts.append(stage.act(step, end))
    time.sleep(max(0.0, end - stage.now_s))
    for act in acts:
        stage.settle(act)
    honest = None
    if measured is not None:
        stage.capture.end(*measured)
        honest = Flow(trial.source, measured[0].total, sum(counter.total for counter in measured[1:]), None)
    judged, problems = _judged(stage, began) if stage.product is not None else (None, [])
    return TrialSeen(
        trial=trial,
        began_s=began,
        ended_s=stage.now_s,
        attacks=tuple(_flow(stage, act) for act in acts if act.step.attack),
        honest=honest,
        cases=judged.cases if judged is not None else None,
        limits=judged.limits if judged is not None else (),
        problems=(*problems, *(problem for act in acts if (problem := _problem(act)) is not None)),
    )


def _judged(stage: Stage, began: float) -> tuple[Judged, list[str]]:
    """Release everybody, then say what was decided since, and what was limited; the same history again for all."""
    product = stage.product
    assert product is not None
    release(product)
    problems = []
    if not product.ready():
        problems.append("the product is not ready")
    judged = ask(stage, product)
    recall(product)
    return (
        Judged(
            tuple(case for case in judged.cases if case.opened_at >= began),
            tuple(limit for limit in judged.limits if limit.in_force_at is not None and limit.in_force_at >= began),
        ),
        problems,
    )


def scenario(name: str, seed: int, *, agents: bool) -> Scenario:
    """Three guests, each of them a server, perhaps with our agent in it."""
    return Scenario(
        name=name,
        network=(NetworkTable("net1", "10.60.0.0/24"),),
        guest=tuple(GuestTable(guest, "net1", f"tenant-{guest}", work="web-server", agent=agents) for guest in GUESTS),
        limits=Limits(3600.0),
        seed=seed,
    )


def begin_work(stage: Stage) -> None:
    """What everybody does all day: each guest asks the next one, answers, pings; clients outside ask too."""
    for name, asked in zip(GUESTS, (*GUESTS[1:], GUESTS[0]), strict=True):
        guest = stage.guests[name]
        guest.spawn("hv-udp serve --port 53")
        for command in (
            f"hv-load --rate {_LOAD_RATE} --seconds 7200 http://$ip_{asked}/",
            f"hv-udp send $ip_{asked} --port 53 --rate 2",
            f"ping -q -Q 4 -i 1 $ip_{asked}",
        ):
            guest.spawn(stage.put_in(name, command))
        stage.ext.spawn(stage.put_in(EXT, f"hv-load --rate {_LOAD_RATE} --seconds 7200 http://$ip_{name}/"))


def _measure(stage: Stage, trial: Trial) -> list[Counter]:
    """Count what goes from the trial's source to its target, where it leaves and where it arrives."""
    source, target = stage.scene.parties[trial.source], stage.scene.parties[trial.target]
    tests = (Test(12, 2, frozenset({0x0800})), _address(26, source), _address(30, target))
    views = (View(source.name, Heading.FROM_PLACE, [tests]), View(target.name, Heading.TO_PLACE, [tests]))
    return [stage.capture.count(stage.interface(view.place), view) for view in views]


def _address(offset: int, party: Party) -> Test:
    return Test(offset, 4, frozenset({int.from_bytes(bytes(map(int, party.address.split("."))))}))


def _flow(stage: Stage, act: Act) -> Flow:
    sent = act.sent
    first = stage.since(sent.first_at_s) if sent is not None and sent.first_at_s is not None else None
    arrived = tuple(
        Slice(stage.since(part.from_s), stage.since(part.to_s), part.frames)
        for counter in act.delivered
        for part in counter.slices
    )
    return Flow(act.step.on, sent.total if sent else 0, sum(counter.total for counter in act.delivered), first, arrived)


def _problem(act: Act) -> str | None:
    """Why a step did not do what it should, if so."""
    if act.problem is not None:
        return f"{act.step.on}: {act.problem}"
    if act.exit in {126, 127}:
        return f"{act.step.on}: '{act.step.run}' could not be run: {act.output[-200:].strip()}"
    return None


_HEADINGS = f"{'':>4} {'kind':<24}{'choice':<12}{'X→T':<6}{'judged':<42}{'verdict':>8}{'kept':>7}{'limited':>9}"


def _row(one: TrialOutcome) -> str:
    judged = " ".join(f"{name} {role}" for name, role in one.judged.items())
    times = [latency.verdict_s for latency in one.latency if latency.verdict_s is not None]
    verdict = f"{min(times):.2f} s" if times else ""
    kept = f"{one.kept:.0%}" if one.kept is not None else ""
    limited = f"{one.limited_s:.1f} s" if one.limited_s else ""
    mark = "  WRONG BLAME" if one.wrong_blame else "" if one.right else f"  wrong: {', '.join(one.missed)}"
    whom = f"{one.actor}→{one.target}"
    problems = f"  {'; '.join(one.problems)}" if one.problems else ""
    line = f"{one.number:>4} {one.kind:<24}{one.choice:<12}{whom:<6}{judged:<42}{verdict:>8}{kept:>7}{limited:>9}"
    return f"{line}{mark}{problems}"


def told(result: Summary) -> list[str]:
    """The summary in a few lines."""
    lines = [f"trials{' (control: without the product)' if result.control else ''}, seed {result.seed}"]
    if not result.control:
        lines.append(
            f"  right {result.right} of {result.count}: {result.right_share:.1%}, with 95 % confidence at least "
            f"{result.right_at_least:.1%}"
        )
        lines.append(
            f"  wrong blame {result.wrong_blame} of {result.count}, with 95 % confidence at most "
            f"{result.wrong_blame_at_most:.1%}"
        )
        if result.kept_least is not None:
            lines.append(
                f"  honest: kept at least {result.kept_least:.0%}, limited at most {result.limited_most_s:.1f} s"
            )
    lines += [f"  wrong: {problem}" for problem in result.problems]
    return [*lines, "ok" if result.ok else "NOT ok"]
