"""The public scoreboard: runs what is missing of it for this code and writes ``reports/scoreboard-*.md``.

``scoreboard.py`` runs all parts, ``scoreboard.py PART`` one of ``quiet``, ``captures`` and ``guests`` (which needs
root), ``scoreboard.py --report`` none: it only tells what there is. The parts are the slices ``scoreboard-*`` of
``scripts/verify.py``, and results are shared with it.
Exit code 0: all asked for is done and no target is missed, 1: a target is missed, 2: not all is done.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

import msgspec  # noqa: E402
import verify  # noqa: E402

from bench.quiet import Event, Lived, causes, figures, kept  # noqa: E402
from lab.board import Board, Played, board  # noqa: E402

PARTS = ("quiet", "captures", "guests")
_FIGURES = (
    ("vm_days", "VM-days"),
    ("vms", "VMs"),
    ("level2", "Level 2"),
    ("level2_at_capacity", "of these at their capacity"),
    ("false_level2", "false Level 2"),
    ("vms_with_false_level2", "VMs with false Level 2"),
    ("false_level2_per_vm_week", "false Level 2 per VM-week"),
    ("false_level2_per_vm_week_at_most", "the same, at most"),
    ("false_verdicts", "false verdicts"),
    ("false_attackers_per_1000_vm_days", "false attackers per 1,000 VM-days"),
    ("false_attackers_per_1000_vm_days_at_most", "the same, at most"),
    ("level2_seconds_per_vm_day", "seconds at Level 2 per VM-day"),
    ("limits_per_vm_day", "limits per VM-day"),
    ("limited_seconds_per_vm_day", "seconds limited per VM-day"),
    ("judge_us_per_vm_second", "judge's µs of processor time per VM-second"),
)
_SHOWN_CAUSES = 20


def part_of(name: str) -> str:
    """Which part of the scoreboard a slice belongs to."""
    return name.split("-")[1]


def lived(documents: Sequence[Mapping[str, Any]]) -> list[Lived]:
    """What several runs of ``bench.quiet`` lived through, as if it had been one."""
    found = []
    for document in documents:
        events = [Event(**event) for event in document["level2"]]
        for beat, one in document["by_beat"].items():
            own = [event for event in events if event.beat_s == float(beat.removesuffix(" s"))]
            seconds = one["judge_us_per_vm_second"] * one["vm_days"] * 86_400 / 1e6
            found.append(
                Lived(
                    float(beat.removesuffix(" s")), one["vms"], one["vm_days"], own, judge_s=seconds, blind=one["blind"]
                )
            )
    return found


def quiet_lines(documents: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[str]]:
    """The long quiet's section, and what it misses."""
    days = lived(documents)
    by_beat: dict[float, list[Lived]] = {}
    for one in days:
        by_beat.setdefault(one.beat_s, []).append(one)
    columns = {"all": figures(days), **{f"{beat:g} s": figures(those) for beat, those in sorted(by_beat.items())}}
    told = (
        "VMs made up of real series and captures, from their first second on, before the product's judge; limits stop "
        "nothing. Bounds are one-sided, at 95 % confidence, and take VM-days for independent: they are made of fewer "
        "series and captures than there are VMs."
    )
    lines = [
        told,
        "",
        f"| figure | {' | '.join(columns)} |",
        f"|---|{'---|' * len(columns)}",
    ]
    lines += [f"| {word} | {' | '.join(_cell(column[key]) for column in columns.values())} |" for key, word in _FIGURES]
    found = causes([event for one in days for event in one.events])
    if found:
        lines += ["", "| false Level 2 came of | times | VMs |", "|---|---|---|"]
        lines += [f"| {what} | {many} | {vms} |" for what, many, vms in found[:_SHOWN_CAUSES]]
    events = [event for one in days for event in one.events if event.false_verdict]
    if events:
        lines += ["", "| false verdict | VM | day | metric | why | it did |", "|---|---|---|---|---|---|"]
        lines += [
            f"| {e.verdict} | {e.vm} | {e.day:.2f} | {e.metric} | {e.cause or e.why} | {e.doing} |" for e in events[:50]
        ]
    return lines, kept(columns["all"])


def captures_lines(document: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The captures' section, and what they miss."""
    summary = document["summary"]
    lines = ["| figure | value |", "|---|---|", *(f"| {name} | {_cell(value)} |" for name, value in summary.items())]
    missed = [
        f"{one['file']}: {one['role']} of {one['attack']} asked, found {one['verdict'] or 'nothing'} "
        f"of class {one['class'] or 'none'}"
        for one in document["attacks"]
        if not (one["role_right"] and one["class_right"])
    ]
    missed += [
        f"{one['file']}: wrong blame of {', '.join(one['wrong_blames'])}"
        for one in document["attacks"]
        if one["wrong_blames"]
    ]
    missed += [
        f"{one['file']} (ordinary): {', '.join(one['false_verdicts'].values())}"
        for one in document["benign"]
        if one["false_verdicts"]
    ]
    level2 = [one["file"] for one in document["benign"] if one["level2"]]
    if len(level2) > 1:
        missed.append(f"false Level 2 in {len(level2)} ordinary captures, promised is at most 1: {', '.join(level2)}")
    return lines, missed


def guests_lines(documents: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[str]]:
    """The real guests' section, and what they miss."""
    boards = [msgspec.convert(document, Board) for document in documents]
    played: list[Played] = [one for each in boards for one in each.played]
    problems = [problem for each in boards for problem in each.problems if not problem.startswith("trial ")]
    whole = board(played, boards[0].seed, problems)
    told = (
        f"Right in {whole.right} of {whole.trials} trials (with 95 % confidence at least {whole.right_at_least:.1%}), "
        f"wrong blame in {whole.wrong_blame} (at most {whole.wrong_blame_at_most:.1%}). Times are seconds from the "
        "first attack packet, p50 / p95; bounds in brackets."
    )
    lines = [
        told,
        "",
        "| kind | rate | right | wrong blame | Level 2 | limit | verdict | sent | after limit | kept |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for cell in whole.cells:
        times = [
            f"{_time(p50)} / {_time(p95)}"
            for p50, p95 in (
                (cell.level2_p50_s, cell.level2_p95_s),
                (cell.limit_p50_s, cell.limit_p95_s),
                (cell.verdict_p50_s, cell.verdict_p95_s),
            )
        ]
        after = "–" if cell.delivered_after is None else f"{cell.delivered_after:,}"
        least = "–" if cell.kept_least is None else f"{cell.kept_least:.0%}"
        lines.append(
            f"| {cell.kind} | {cell.rate} | {cell.right} of {cell.trials} (≥ {cell.right_at_least:.0%}) "
            f"| {cell.wrong_blame} (≤ {cell.wrong_blame_at_most:.0%}) | {' | '.join(times)} "
            f"| {cell.sent:,} | {after} | {least} |"
        )
    return lines, [*whole.missed, *whole.problems]


def _time(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _cell(value: Any) -> str:
    match value:
        case dict():
            return ", ".join(f"{name} {count}" for name, count in value.items()) or "0"
        case float():
            return f"{value:,.4g}" if value < 1000 else f"{value:,.0f}"
        case int():
            return f"{value:,}"
    return str(value)


TITLES = {"quiet": "Long quiet", "captures": "Captures", "guests": "Real guests"}


def report(
    parts: Sequence[verify.Slice],
    done: Mapping[str, verify.Outcome],
    on: Mapping[str, str],
    commit: str,
) -> tuple[str, list[str]]:
    """The report as Markdown, and the targets that are missed."""
    lines = ["# Scoreboard", ""]
    lines += [f"- date: {max((o.finished for o in done.values()), default='nothing run')}", f"- commit: {commit}"]
    lines += [f"- {key}: {value}" for key, value in on.items()]
    all_missed: list[str] = []
    sections: list[str] = []
    for part in PARTS:
        own = [one for one in parts if part_of(one.name) == part]
        ran = [done[one.name] for one in own if one.name in done]
        results = [outcome.result for outcome in ran if outcome.result is not None]
        seeds = ", ".join(str(outcome.seed) for outcome in ran if outcome.seed is not None)
        sections += ["", f"## {TITLES[part]}", ""]
        sections += [f"{len(ran)} of {len(own)} parts were run" + (f", seeds {seeds}." if seeds else "."), ""]
        failed = [f"{outcome.name} gave no result" for outcome in ran if outcome.result is None]
        missed: list[str] = []
        if results:
            told, missed = _section(part, results)
            sections += told
        missed = [f"{TITLES[part]}: {sentence}" for sentence in (*failed, *missed)]
        all_missed += missed
    lines += ["", "## Targets that are missed", ""]
    lines += [f"- {sentence}" for sentence in all_missed] or ["None of what was run."]
    return "\n".join([*lines, *sections]) + "\n", all_missed


def _section(part: str, results: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[str]]:
    match part:
        case "quiet":
            return quiet_lines(results)
        case "captures":
            return captures_lines(results[0])
    return guests_lines(results)


def main(argv: Sequence[str] | None = None) -> int:
    """Run what was asked for and is missing; the exit code."""
    parser = argparse.ArgumentParser(prog="make scoreboard", description="The public scoreboard.")
    parser.add_argument("part", nargs="*", choices=[*PARTS, []], help="only these parts")
    parser.add_argument("--report", action="store_true", help="run nothing, tell what there is")
    options = parser.parse_args(argv)
    every = verify.scoreboard()
    wanted = [one for one in every if not options.part or part_of(one.name) in options.part]
    directory = ROOT / "build" / "verify"
    directory.mkdir(parents=True, exist_ok=True)
    done = verify.load(every, directory)
    commit = verify.commit()
    code, clean = verify.fingerprint(verify.CODE)
    path = ROOT / "reports" / f"scoreboard-{code}{'' if clean else '-changed'}.md"
    path.parent.mkdir(exist_ok=True)
    missed: list[str] = []

    def tell() -> None:
        nonlocal missed
        text, missed = report(every, done, verify.machine(), f"{commit}{'' if clean else ' with uncommitted changes'}")
        path.write_text(text, encoding="utf-8")

    for one in [] if options.report else wanted:
        if one.name not in done:
            print(f"scoreboard: {one.name} (≤ {one.minutes:g} min; output in {directory / one.name}.log)", flush=True)
            outcome = verify.run_slice(one, directory, commit)
            verify.save(one, outcome, directory)
            done[one.name] = outcome
            tell()
    tell()
    for sentence in missed:
        print(f"scoreboard: missed: {sentence}")
    print(f"scoreboard: {path}")
    if any(one.name not in done for one in wanted):
        return 2
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
