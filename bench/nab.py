"""The history held against others' series: ``python -m bench.nab [--data DIR] [--out OUTDIR] [--json FILE]``.

The Numenta Anomaly Benchmark: each series as if it were a metric of a VM, judged by the product's habits
(``host/hsem/habits.py``) in one causal pass. ``DIR`` has ``data/GROUP/NAME.csv`` with ``timestamp,value`` (or the
groups themselves) and, where anomalies are known, ``windows.json``. With ``--out`` each series is written with its
``anomaly_score`` per row.

The score is stated as the benchmark's board states it, with the threshold that suits the scored data best; and with
the threshold fixed on one half of the series (every other one in the order of names) and scored on the other half;
and, since much depends on which half that is, so for many halves by chance.
"""

import argparse
import csv
import json
import math
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from bench._nab_profile import PROFILES, Scored, best, counted, probation, score
from hypervigil.host.hsem.habits import Habits, Onsets
from hypervigil.model.ids import VmId

DATA = Path(os.environ.get("HYPERVIGIL_DATA", "../shared/data")) / "nab"
TARGET = 65.8
"""The standard score of the best published detector with a threshold that was fixed on other series."""
HALF = 5.0
"""A surprise of so much is a score of one half."""

SPLITS = 60
SEED = 0

Numbers = npt.NDArray[np.float64]
Span = tuple[datetime, datetime]


@dataclass(frozen=True, slots=True, eq=False)
class File:
    """One series; ``name`` is its path below ``DIR/data`` or ``DIR``, ``values`` has NaN where there is no number."""

    name: str
    times: tuple[str, ...]
    seconds: Numbers
    values: Numbers
    written: tuple[str, ...]

    @property
    def step_s(self) -> float:
        """What usually lies between two rows, seconds."""
        return max(float(np.median(np.diff(self.seconds))), 1.0) if len(self.seconds) > 1 else 1.0


def read(folder: Path) -> list[File]:
    """All series in the order of their names; ``ValueError`` says what is wrong with which."""
    root = folder / "data" if (folder / "data").is_dir() else folder
    return [_file(path, path.relative_to(root).as_posix()) for path in sorted(root.rglob("*.csv"))]


def _file(path: Path, name: str) -> File:
    times: list[str] = []
    seconds: list[float] = []
    values: list[float] = []
    written: list[str] = []
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file)
        if not {"timestamp", "value"} <= set(rows.fieldnames or ()):
            raise ValueError(f"{path} has no columns 'timestamp' and 'value'")
        for row in rows:
            try:
                seconds.append(moment(row["timestamp"]).timestamp())
            except (TypeError, ValueError) as error:
                raise ValueError(f"{path}, line {rows.line_num}: no time: {row['timestamp']!r}") from error
            times.append(row["timestamp"])
            written.append(row["value"] or "")
            values.append(_number(row["value"]))
    return File(name, tuple(times), np.array(seconds), np.array(values), tuple(written))


def moment(text: str) -> datetime:
    """A time as the files write it, which tell no zone."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan


def windows(folder: Path) -> dict[str, list[Span]]:
    """The anomalies of each series that ``windows.json`` names; none without it. ``ValueError`` if it is no such."""
    path = folder / "windows.json"
    if not path.is_file():
        return {}
    try:
        known = json.loads(path.read_bytes())
        return {name: [(moment(low), moment(high)) for low, high in spans] for name, spans in known.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no list of windows by series: {error}") from error


def judge(files: Sequence[File]) -> list[Numbers]:
    """A score per row between 0 and 1 for each series: all of them side by side, as VMs with a single metric."""
    habits, onsets = Habits(1), Onsets()
    found = [np.zeros(len(file.values)) for file in files]
    order = sorted(range(len(files)), key=lambda n: -len(files[n].values))
    for row in range(max((len(file.values) for file in files), default=0)):
        while order and len(files[order[-1]].values) <= row:
            order.pop()
        vms = tuple(VmId(files[n].name) for n in order)
        values = np.array([[files[n].values[row]] for n in order], np.float32)
        at = np.array([files[n].seconds[row] for n in order])
        surprise = habits.see(vms, values, at, np.array([files[n].step_s for n in order]))
        for n, one in zip(order, onsets.see(vms, surprise[:, 0]).tolist(), strict=True):
            found[n][row] = one
    return [np.where(np.arange(len(one)) < probation(len(one)), 0.0, np.round(scaled(one), 6)) for one in found]


def scaled(surprise: Numbers) -> Numbers:
    """Any surprise between 0 and 1, in the same order."""
    return surprise / (surprise + HALF)


def write(out: Path, file: File, scores: Numbers) -> None:
    """The series with its scores, as text where it was text."""
    path = out / file.name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as stream:
        rows = csv.writer(stream, lineterminator="\n")
        rows.writerow(("timestamp", "value", "anomaly_score"))
        rows.writerows(zip(file.times, file.written, (f"{one:.6f}" for one in scores.tolist()), strict=True))


def labelled(
    files: Sequence[File], scores: Sequence[Numbers], known: Mapping[str, Sequence[Span]]
) -> list[tuple[str, Scored]]:
    """The series that ``windows.json`` names, also those of which it knows no anomaly."""
    found = []
    for file, one in zip(files, scores, strict=True):
        if file.name in known:
            spans = [(low.timestamp(), high.timestamp()) for low, high in known[file.name]]
            inside = [np.flatnonzero((file.seconds >= low) & (file.seconds <= high)) for low, high in sorted(spans)]
            found.append((file.name, Scored(one, tuple((int(w[0]), int(w[-1])) for w in inside if len(w)))))
    return found


def figures(known: Sequence[tuple[str, Scored]]) -> dict[str, Any]:
    """The scores; the official ones alone if a half has no window. ``ValueError`` if there is none at all."""
    every = [file for _, file in known]
    official = {}
    for name, profile in PROFILES.items():
        threshold, reached = best(every, profile)
        official[name] = {"score": round(reached, 2), "threshold": threshold}
    found: dict[str, Any] = {"series": len(every), "windows": counted(every), "official": official}
    names = ("1st, 3rd, …", "2nd, 4th, …")
    parts = (every[0::2], every[1::2])
    if not all(counted(part) for part in parts):
        return found
    standard = PROFILES["standard"]
    halves, held_out = [], 0.0
    for name, fixing, scoring in zip(names, parts, parts[::-1], strict=True):
        threshold, _ = best(fixing, standard)
        reached = score(scoring, standard, threshold)
        held_out += counted(scoring) / counted(every) * reached
        halves.append({"fixed_on": name, "threshold": threshold, "score_on_the_others": round(reached, 2)})
    return {**found, "halves": halves, "held_out": round(held_out, 2), "by_chance": _by_chance(every)}


def _by_chance(every: Sequence[Scored]) -> dict[str, float]:
    """Standard scores of one half by the other's threshold, for many halves."""
    random = np.random.default_rng(SEED)
    reached: list[float] = []
    while len(reached) < SPLITS:
        fixing, scoring = ([every[n] for n in part] for part in np.array_split(random.permutation(len(every)), 2))
        if counted(fixing) and counted(scoring):  # so it is in the halves by name, and sooner or later by chance
            reached.append(score(scoring, PROFILES["standard"], best(fixing, PROFILES["standard"])[0]))
    low, middle, high = (round(float(one), 2) for one in np.quantile(reached, (0.05, 0.5, 0.95)))
    return {"splits": SPLITS, "p5": low, "p50": middle, "p95": high}


def show(result: Mapping[str, Any]) -> None:
    """The figures as a table."""
    table = Table("score", "threshold", "of 100", title=f"{result['series']} series, {result['windows']} windows")
    for name, one in result["official"].items():
        table.add_row(f"{name}, threshold the best for it", f"{one['threshold']:.6f}", str(one["score"]))
    if "halves" in result:
        for one in result["halves"]:
            what = f"standard, threshold of the {one['fixed_on']} series, scored on the others"
            table.add_row(what, f"{one['threshold']:.6f}", str(one["score_on_the_others"]))
        table.add_row("standard, each series by the other half's threshold", "–", str(result["held_out"]))
        chance = result["by_chance"]
        what = f"standard, one half's threshold on the other, {chance['splits']} halves by chance: 5, 50, 95 %"
        table.add_row(what, "–", " ".join(str(chance[name]) for name in ("p5", "p50", "p95")))
    Console().print(table)


def main() -> None:
    """Judge all series, write and print; exit code 1 where the target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, metavar="DIR", help="Else HYPERVIGIL_DATA/nab.")
    parser.add_argument("--out", type=Path, metavar="OUTDIR", help="Write each series with its scores here.")
    parser.add_argument("--json", type=Path, default=Path("build/bench/nab.json"), metavar="FILE")
    arguments = parser.parse_args()
    if not arguments.data.is_dir():
        Console().print(f"nab: skipped, since there is no {arguments.data}; give --data DIR or set HYPERVIGIL_DATA")
        raise SystemExit(2 if arguments.data != DATA else 0)
    try:
        files, known = read(arguments.data), windows(arguments.data)
    except (OSError, ValueError) as error:
        raise SystemExit(f"nab: {error}") from error
    if not files:
        raise SystemExit(f"nab: {arguments.data} has no CSV files, in it or in its folder 'data'")
    began = time.process_time()
    scores = judge(files)
    took = time.process_time() - began
    if arguments.out:
        for file, one in zip(files, scores, strict=True):
            write(arguments.out, file, one)
    rows = sum(len(file.values) for file in files)
    print(f"nab: {len(files)} series, {rows} rows, {took:.1f} s of processor time", file=sys.stderr)
    if not known:
        print("nab: no windows.json, so there is nothing to score", file=sys.stderr)
        return
    try:
        result = figures(labelled(files, scores, known))
    except ValueError as error:
        raise SystemExit(f"nab: {error}") from error
    held_out = result.get("held_out")
    missed = [] if held_out is None or held_out > TARGET else [f"held-out standard score {held_out}, wanted > {TARGET}"]
    document = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}",
        "rows": rows,
        "processor_s": round(took, 1),
        **result,
        "missed": missed,
    }
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    show(result)
    for sentence in missed:
        Console().print(f"[red]missed:[/] {sentence}")
    raise SystemExit(1 if missed else 0)


if __name__ == "__main__":
    main()
