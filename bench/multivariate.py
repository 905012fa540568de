"""The history held against others' VMs: ``python -m bench.multivariate [--data DIR] [--out OUTDIR] [--json FILE]``.

Each ``.npz`` below ``DIR`` (or ``DIR/data``) is a VM: ``train`` and ``test``, rows × metrics, and ``label`` per row of
``test`` where anomalies are known. What its metrics keep within is learned by the product's ranges
(``host/hsem/ranges.py``) from ``train`` alone; ``test`` is scored row by row, and teaches nothing. With ``--out`` each
VM's scores are written, ``row,anomaly_score``.

A detection is a row that scores higher than all but a hundredth of the rows of ``train``'s second half: labels take no
part in it. Beside the product
stands the plainest detector, the mean square of all metrics' deviations in standard deviations of ``train``.
"""

import argparse
import csv
import json
import os
import platform
import sys
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from bench._ranges import Labels, Scores, auc_pr, events_found, f1, false_episodes, vus_pr
from hypervigil.host.hsem.ranges import Ranges
from hypervigil.model.ids import VmId

DATA = Path(os.environ.get("HYPERVIGIL_DATA", "../shared/data"))
PUBLISHED = {"smd": (60.0, 0.62), "asd": (300.0, 0.40)}
"""Known folders: seconds between two rows, and the VUS-PR to beat."""
RARE = 0.01
LEAST_DEVIATION = 0.01
"""The plain detector's: a metric that never moved in ``train`` would else outweigh all others."""

Values = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Machine:
    """One VM; ``name`` is its path below ``DIR/data`` or ``DIR``."""

    name: str
    train: Values
    test: Values
    labels: Labels | None


def read(folder: Path) -> list[Machine]:
    """All VMs in the order of their names; ``ValueError`` says what is wrong with which."""
    root = folder / "data" if (folder / "data").is_dir() else folder
    return [_machine(path, path.relative_to(root).as_posix()) for path in sorted(root.rglob("*.npz"))]


def _machine(path: Path, name: str) -> Machine:
    try:
        with np.load(path, allow_pickle=False) as stored:
            train, test = (np.asarray(stored[part], np.float32) for part in ("train", "test"))
            labels = np.asarray(stored["label"]).reshape(-1) > 0 if "label" in stored else None
    except (KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is no file of 'train' and 'test' as numbers: {error}") from error
    if train.ndim != 2 or test.ndim != 2 or train.shape[1] != test.shape[1] or not len(train) or not len(test):
        raise ValueError(f"{path}: 'train' {train.shape} and 'test' {test.shape} are not rows of the same metrics")
    if labels is not None and len(labels) != len(test):
        raise ValueError(f"{path} has {len(labels)} labels for {len(test)} rows")
    return Machine(name, train, test, labels)


def judge(machines: Sequence[Machine]) -> list[tuple[Scores, float]]:
    """Of each VM a score per row of ``test``, and what all but ``RARE`` of the second half of ``train`` stay below."""
    found: list[tuple[Scores, float]] = [(np.zeros(0), 0.0)] * len(machines)
    for metrics in {machine.train.shape[1] for machine in machines}:
        alike = [n for n, machine in enumerate(machines) if machine.train.shape[1] == metrics]
        ranges = Ranges(metrics)
        vms = [VmId(machines[n].name) for n in alike]
        learned = _side_by_side(ranges, vms, [machines[n].train for n in alike], learn=True)
        scores = _side_by_side(ranges, vms, [machines[n].test for n in alike], learn=False)
        for n, before, one in zip(alike, learned, scores, strict=True):
            found[n] = one, float(np.quantile(before[len(before) // 2 :], 1.0 - RARE))
    return found


def _side_by_side(ranges: Ranges, vms: Sequence[VmId], parts: Sequence[Values], *, learn: bool) -> list[Scores]:
    """Row after row of all VMs at once, each as long as it has rows."""
    found = [np.zeros(len(part)) for part in parts]
    order = sorted(range(len(parts)), key=lambda n: -len(parts[n]))
    for row in range(max(len(part) for part in parts)):
        while len(parts[order[-1]]) <= row:
            order.pop()
        values = np.stack([parts[n][row] for n in order])
        outside = ranges.see([vms[n] for n in order], values, np.full(len(order), learn))
        for n, one in zip(order, outside.tolist(), strict=True):
            found[n][row] = one
    return found


def plain(machine: Machine) -> Scores:
    """The mean square of the metrics' deviations."""
    off = machine.test - np.nanmean(machine.train, axis=0)
    scaled = off / np.maximum(np.nanstd(machine.train, axis=0), LEAST_DEVIATION)
    found: Scores = np.nan_to_num(np.nanmean(scaled.astype(np.float64) ** 2, axis=1))
    return found


def figures(machine: Machine, scores: Scores, threshold: float) -> dict[str, Any] | None:
    """What the labels say of the scores; nothing where no row is labelled."""
    labels = machine.labels
    if labels is None or not labels.any():
        return None
    detected = scores > threshold
    found, events = events_found(detected, labels)
    return {
        "vus_pr": round(vus_pr(scores, labels), 4),
        "auc_pr": round(auc_pr(scores, labels), 4),
        "f1": round(f1(detected, labels), 4),
        "events_found": found,
        "events": events,
        "false_episodes": false_episodes(detected, labels),
        "plain_vus_pr": round(vus_pr(plain(machine), labels), 4),
    }


def together(each: Sequence[Mapping[str, Any]], vm_days: float | None) -> dict[str, Any]:
    """Means over the VMs, and sums of what is counted."""
    means = {name: round(sum(one[name] for one in each) / len(each), 4) for name in ("vus_pr", "auc_pr", "f1")}
    means["plain_vus_pr"] = round(sum(one["plain_vus_pr"] for one in each) / len(each), 4)
    sums = {name: sum(one[name] for one in each) for name in ("events_found", "events", "false_episodes")}
    rates = {"event_recall": round(sums["events_found"] / max(sums["events"], 1), 4)}
    if vm_days:
        rates["false_episodes_per_vm_day"] = round(sums["false_episodes"] / vm_days, 3)
    return {"machines": len(each), **means, **sums, **rates}


def write(out: Path, machine: Machine, scores: Scores) -> None:
    """Scores of each row of ``test``."""
    path = (out / machine.name).with_suffix(".csv")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as stream:
        rows = csv.writer(stream, lineterminator="\n")
        rows.writerow(("row", "anomaly_score"))
        rows.writerows((row, f"{one:.9g}") for row, one in enumerate(scores.tolist()))


def measure(folder: Path, out: Path | None, step_s: float | None) -> dict[str, Any]:
    """One folder's VMs: each one's figures, and all together where labels are given."""
    machines = read(folder)
    if not machines:
        raise ValueError(f"{folder} has no .npz files, in it or in its folder 'data'")
    found: dict[str, Any] = {"machines": {}}
    days = 0.0
    began = time.process_time()
    judged = judge(machines)
    rows = sum(len(machine.train) + len(machine.test) for machine in machines)
    took = time.process_time() - began
    print(f"multivariate: {folder}: {len(machines)} VMs, {rows} rows, {took:.1f} s of processor time", file=sys.stderr)
    for machine, (scores, threshold) in zip(machines, judged, strict=True):
        if out:
            write(out, machine, scores)
        told = figures(machine, scores, threshold)
        if told:
            found["machines"][machine.name] = told
            days += len(scores) * (step_s or 0.0) / 86400
    if found["machines"]:
        found["all"] = together(list(found["machines"].values()), days)
    return found


def show(name: str, result: Mapping[str, Any]) -> None:
    """One folder's figures as a table."""
    columns = ("vus_pr", "auc_pr", "f1", "events_found", "events", "false_episodes", "plain_vus_pr")
    table = Table(name, *(column.replace("_", " ") for column in columns))
    for machine, one in [*result["machines"].items(), ("all", result["all"])]:
        table.add_row(machine, *(str(one[column]) for column in columns))
    Console().print(table)


def main() -> None:
    """Judge all VMs, write and print; exit code 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data",
        type=Path,
        action="append",
        metavar="DIR",
        help="Several times too; else smd and asd of HYPERVIGIL_DATA.",
    )
    parser.add_argument("--out", type=Path, metavar="OUTDIR", help="Write each VM's scores here.")
    parser.add_argument("--json", type=Path, default=Path("build/bench/multivariate.json"), metavar="FILE")
    arguments = parser.parse_args()
    folders = arguments.data or [DATA / name for name in PUBLISHED]
    missing = [str(folder) for folder in folders if not folder.is_dir()]
    if missing:
        Console().print(f"multivariate: skipped, since there is no {', '.join(missing)}; give --data DIR")
        raise SystemExit(2 if arguments.data else 0)
    results = {}
    missed = []
    for folder in folders:
        step_s, target = PUBLISHED.get(folder.resolve().name, (None, None))
        out = arguments.out / folder.resolve().name if arguments.out and len(folders) > 1 else arguments.out
        try:
            result = results[str(folder)] = measure(folder, out, step_s)
        except (OSError, ValueError) as error:
            raise SystemExit(f"multivariate: {error}") from error
        if "all" not in result:
            print(f"multivariate: {folder} has no labelled rows, so there is nothing to score", file=sys.stderr)
            continue
        show(folder.name, result)
        if target is not None and not result["all"]["vus_pr"] > target:
            missed.append(f"{folder.name}: VUS-PR {result['all']['vus_pr']}, wanted > {target}")
    document = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}",
        "sets": {name: result for name, result in results.items() if "all" in result},
        "missed": missed,
    }
    if document["sets"]:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    for sentence in missed:
        Console().print(f"[red]missed:[/] {sentence}")
    raise SystemExit(1 if missed else 0)


if __name__ == "__main__":
    main()
