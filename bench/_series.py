"""How busy ordinary VMs were, as others measured it: series of CPU and load, brought to one form.

Read from ``HYPERVIGIL_DATA``: PlanetLab's CPU of VMs, the parts of the Numenta Anomaly Benchmark that lie in no anomaly
window, and the points of a cloud provider's series that no expert marked.
"""

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

STEP_S = 300
LEAST_STEPS = 144
"""A shorter series tells of less than half a day."""
BUSY = 0.99
"""This quantile of a series is what its VM is built for, if the series is of no known scale."""

Levels = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """One VM's load in steps of ``STEP_S``, as a share of what it is built for."""

    name: str
    levels: Levels
    cpu: bool
    """Whether it is a share of its CPUs."""


def read(data: Path) -> list[Series]:
    """All series below the folder, in one order wherever they lie."""
    return [*_placement(data / "placement"), *_nab(data / "nab"), *_cloud(data / "cloud")]


def _placement(folder: Path) -> list[Series]:
    """VMs by their place in each day's file, which is sorted by name: the same place is mostly the same VM."""
    days = [np.load(path)["cpu_percent"] for path in sorted(folder.glob("*.npz"))]
    if not days:
        return []
    vms = min(len(day) for day in days)
    return [
        Series(
            f"placement {vm}",
            np.concatenate([day[vm * len(day) // vms] / 100 for day in days]).astype(np.float32),
            cpu=True,
        )
        for vm in range(vms)
    ]


def _nab(folder: Path) -> list[Series]:
    windows: dict[str, list[tuple[str, str]]] = {}
    if (folder / "windows.json").is_file():
        windows = json.loads((folder / "windows.json").read_bytes())
    found = []
    for path in sorted((folder / "data").glob("*/*.csv")):
        name = f"{path.parent.name}/{path.name}"
        anomalies = [(_time(low), _time(high)) for low, high in windows.get(name, [])]
        rows = [
            (at, value)
            for at, value, _ in _rows(path, "timestamp", "value")
            if not any(low <= at <= high for low, high in anomalies)
        ]
        found += _series(f"nab {name}", rows, cpu="cpu_utilization" in path.name)
    return found


def _cloud(folder: Path) -> list[Series]:
    found = []
    for path in sorted(folder.glob("*/*.csv")):
        rows = [(at, value) for at, value, label in _rows(path, "TimeStamp", "Value") if label != "1"]
        found += _series(f"cloud {path.parent.name}/{path.name}", rows, cpu=False)
    return found


def _rows(path: Path, time: str, value: str) -> Iterable[tuple[datetime, float, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        for row in csv.DictReader(file):
            try:
                yield _time(row[time]), float(row[value]), row.get("Label", "")
            except (ValueError, TypeError):
                continue  # a gap


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=None)


def _series(name: str, rows: Sequence[tuple[datetime, float]], *, cpu: bool) -> list[Series]:
    """One series, or none of what is too short or says nothing."""
    if len(rows) < 2:
        return []
    seconds = np.array([(at - rows[0][0]).total_seconds() for at, _ in rows])
    values = np.maximum(np.array([value for _, value in rows]), 0.0)
    step = float(np.median(np.diff(seconds)))
    most = 100.0 if cpu else float(np.quantile(values, BUSY))
    if most <= 0 or step <= 0:
        return []
    # Points follow each other by the usual step: what was cut out between them leaves no gap.
    per_point = max(1, round(step / STEP_S))
    grid = np.arange(len(values) * per_point) / per_point
    levels = np.interp(grid, np.arange(len(values)), values / most).astype(np.float32)
    return [Series(name, levels, cpu=cpu)] if len(levels) >= LEAST_STEPS else []
