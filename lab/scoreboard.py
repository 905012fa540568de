"""``python -m lab scoreboard``: every attack and look-alike at each of its rates, on guests that stay booted."""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from lab.board import Board, Cell, Played, board, played
from lab.cells import CELLS, cells
from lab.errors import LabError
from lab.image import image
from lab.kinds import Trial
from lab.residue import look, residue
from lab.rounds import history_path, known, warm_up
from lab.run import check_root, check_writable, write
from lab.stage import staged
from lab.trials import WARMUP_S, begin_work, play, scenario

_UNFINISHED = "it was stopped before its end"


def arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("--kind", action="append", metavar="KIND", help="only cells of this kind; may be repeated")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="how often each cell is tried (default 1)")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn (default 0)")
    parser.add_argument("--agents", action="store_true", help="our agent runs in every guest")
    parser.add_argument("--json", type=Path, metavar="OUT", help="where to write the outcome")


def main(options: argparse.Namespace) -> int:
    """Run them; 0 if nobody was blamed wrongly and every trial was carried out, 1 if not."""
    trials = cells(check_kinds(options.kind or ()), options.repeat, options.seed)
    check_writable(options.json)
    check_root()

    def keep(result: Board) -> None:
        if options.json is not None:
            write(options.json, msgspec.json.format(msgspec.json.encode(result)) + b"\n")

    result = run(trials, options.seed, keep, agents=options.agents)
    keep(result)
    print("\n".join(told(result)))
    return 0 if result.ok else 1


def check_kinds(kinds: Sequence[str]) -> Sequence[str]:
    """The kinds that are asked for; LabError where there is none of that name."""
    every = sorted(kind.name for kind in CELLS)
    for name in kinds:
        if name not in every:
            raise LabError(f"there is no kind '{name}': name one of {', '.join(every)}")
    return kinds


def run(trials: Sequence[Trial], seed: int, keep: Callable[[Board], None], *, agents: bool) -> Board:
    """Boot once, warm up once, make each trial, undo, judge; ``keep`` is given what there is after each trial."""
    before = look()
    image()
    those: list[Played] = []
    try:
        with staged(scenario("scoreboard", seed, agents=agents), watched=True) as stage:
            stage.begin()
            begin_work(stage)
            warm_up(stage, WARMUP_S)
            print(_HEADINGS, flush=True)
            for trial in trials:
                began = time.time()
                one = played(play(stage, trial))
                if stage.product is not None and not one.outcome.right:
                    outcome = msgspec.structs.replace(one.outcome, known=known(stage.product, began))
                    one = msgspec.structs.replace(one, outcome=outcome)
                those.append(one)
                print(_row(one), flush=True)
                keep(board(those, seed, [_UNFINISHED]))
    finally:
        history_path().unlink(missing_ok=True)
    return board(those, seed, [f"left on the host: {thing}" for thing in residue(before)])


# --- for people ---

_HEADINGS = f"{'':>4} {'kind':<18}{'rate':<18}{'X→T':<6}{'judged':<42}{'limit':>8}{'after':>9}{'kept':>7}"


def _row(one: Played) -> str:
    outcome = one.outcome
    judged = " ".join(f"{name} {role}" for name, role in outcome.judged.items())
    limit = seconds(one.limit_s) if one.limit_s is not None else ""
    after = f"{one.delivered_after}" if one.delivered_after is not None else ""
    kept = f"{outcome.kept:.0%}" if outcome.kept is not None else ""
    wrong = f"  wrong: {', '.join(outcome.missed)}"
    mark = "  WRONG BLAME" if outcome.wrong_blame else "" if outcome.right else wrong
    problems = f"  {'; '.join(outcome.problems)}" if outcome.problems else ""
    whom = f"{outcome.actor}→{outcome.target}"
    line = f"{outcome.number:>4} {outcome.kind:<18}{outcome.choice:<18}{whom:<6}{judged:<42}"
    return f"{line}{limit:>8}{after:>9}{kept:>7}{mark}{problems}"


def seconds(value: float | None) -> str:
    """A time as people read it."""
    return "–" if value is None else f"{value:.2f} s"


def told(result: Board) -> list[str]:
    """The summary in a line per cell."""
    lines = [f"scoreboard, seed {result.seed}"]
    lines += [f"  {_cell_line(cell)}" for cell in result.cells]
    lines.append(
        f"  right {result.right} of {result.trials}, with 95 % confidence at least {result.right_at_least:.1%}; wrong "
        f"blame {result.wrong_blame}, at most {result.wrong_blame_at_most:.1%}"
    )
    lines += [f"  missed: {sentence}" for sentence in result.missed]
    lines += [f"  wrong: {problem}" for problem in result.problems]
    return [*lines, "ok" if result.ok else "NOT ok"]


def _cell_line(cell: Cell) -> str:
    times = " ".join(
        f"{name} {seconds(p50)} / {seconds(p95)}"
        for name, p50, p95 in (
            ("Level 2", cell.level2_p50_s, cell.level2_p95_s),
            ("limit", cell.limit_p50_s, cell.limit_p95_s),
            ("verdict", cell.verdict_p50_s, cell.verdict_p95_s),
        )
    )
    kept = f", kept at least {cell.kept_least:.0%}" if cell.kept_least is not None else ""
    right = f"right {cell.right} of {cell.trials}, wrong blame {cell.wrong_blame}"
    return f"{cell.kind:<18}{cell.rate:<18}{right}; {times}{kept}"
