"""What the judge makes of captures with known roles: ``python -m bench.captures [--data DIR] [--only WORD]``.

``DIR/captures/labels.csv`` says of each attack's file who attacks whom and in which role the interesting host is;
``DIR/captures/benign`` holds ordinary traffic, in which every verdict but *cleared* is false. Counts, not percentages.
"""

import argparse
import csv
import json
import os
import platform
import re
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from hypervigil.entrypoints.replay.capture import CaptureError
from hypervigil.entrypoints.replay.run import replay

DATA = Path(os.environ.get("HYPERVIGIL_DATA", "../shared/data"))
HISTORY_S = 600
"""Seconds of ordinary life that are presumed before each capture."""
ALLOWED_LEVEL2 = 1
"""Benign captures whose ordinary traffic may open a case."""
CLASSES = {
    "ddos_in": {"flood", "reflection"},
    "portscan": {"scan"},
    "arp_spoof": {"spoof"},
    "bruteforce": {"brute-force"},
    "cryptojack_net": {"mining"},
}
"""How the labels' words for attacks are called here; others are compared as they are."""

_ADDRESS = re.compile(r"\b(?:[0-9a-f]{2}:){5}[0-9a-f]{2}\b|\b\d+\.\d+\.\d+\.\d+\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Labelled:
    """One attack's capture as its label has it."""

    file: str
    attack: str
    interesting: str
    """``attacker`` or ``victim``: whose verdict is asked."""
    names: tuple[tuple[str, str], ...]
    """Role and MAC or address, where the label names one."""

    @property
    def classes(self) -> set[str]:
        """Our words for the attack."""
        return CLASSES.get(self.attack, {self.attack})


def labels(path: Path) -> list[Labelled]:
    """The labels. Of several addresses in one field the first is meant."""
    found = []
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            ends = {role: _ADDRESS.search(row[role]) for role in ("attacker", "victim")}
            names = tuple((role, match.group().lower()) for role, match in ends.items() if match)
            found.append(Labelled(row["file"], row["class"], row["role_of_interest"], names))
    return found


def judged(one: Labelled, folder: Path, history_s: int) -> dict[str, Any]:
    """An attack's capture: whether the right role was given, for the right thing, and to nobody else."""
    began = time.perf_counter()
    result = replay(folder / one.file, one.names, others=True, history_s=history_s)
    vms = result["vms"]
    asked = vms.get(
        one.interesting, {"verdict": None, "class": None, "level2_s": None, "limit_s": None, "verdict_s": None}
    )
    attackers = [name for name, vm in vms.items() if vm["verdict"] == "attacker"]
    wrong = [name for name in attackers if name != "attacker"]
    frames = asked.get("frames", {"passed_after_limit": 0, "stopped": 0})
    bystanders = [vm for name, vm in vms.items() if name not in {"attacker", "victim"}]
    return {
        "file": one.file,
        "attack": one.attack,
        "role": one.interesting,
        "verdict": asked["verdict"],
        "class": asked["class"],
        "role_right": asked["verdict"] == one.interesting,
        "class_right": asked["class"] in one.classes,
        "wrong_blames": wrong,
        "others": {name: vm["verdict"] for name, vm in vms.items() if name != one.interesting and vm["verdict"]},
        "level2_s": asked["level2_s"],
        "limit_s": asked["limit_s"],
        "verdict_s": asked["verdict_s"],
        "passed_after_limit": frames["passed_after_limit"],
        "stopped": frames["stopped"],
        "bystanders_lost": sum(vm["frames"]["stopped"] for vm in bystanders),
        "cause": asked.get("cause"),
        "frames": result["frames"],
        "took_s": round(time.perf_counter() - began, 2),
    }


def ordinary(path: Path, history_s: int) -> dict[str, Any]:
    """A benign capture: what was opened, said and stopped in vain."""
    began = time.perf_counter()
    result = replay(path, history_s=history_s)
    vms = result["vms"]
    return {
        "file": path.name,
        "vms": len(vms),
        "watched_h": result["watched_s"] / 3600,
        "vm_hours": result["vm_hours"],
        "level2": {name: vm["cases"] for name, vm in vms.items() if vm["cases"]},
        "false_verdicts": {
            name: f"{vm['verdict']} ({vm['class']}): {vm['cause']}"
            for name, vm in vms.items()
            if vm["verdict"] not in {None, "cleared"}
        },
        "roles": dict(Counter(role for vm in vms.values() for role in vm["verdicts"] if role != "cleared")),
        "stopped": sum(vm["frames"]["stopped"] for vm in vms.values()),
        "frames": result["frames"],
        "notes": result["notes"],
        "took_s": round(time.perf_counter() - began, 2),
    }


def score(folder: Path, history_s: int, only: str) -> dict[str, Any]:
    """All captures whose name has this word in it."""
    attacks = [judged(one, folder, history_s) for one in labels(folder / "labels.csv") if only in one.file]
    paths = sorted(path for path in (folder / "benign").iterdir() if only in path.name)
    benign = [ordinary(path, history_s) for path in paths]
    vm_hours = sum(one["vm_hours"] for one in benign)
    false = sum((Counter(one["roles"]) for one in benign), Counter[str]())
    summary = {
        "attacks": len(attacks),
        "role_right": sum(one["role_right"] for one in attacks),
        "role_and_class_right": sum(one["role_right"] and one["class_right"] for one in attacks),
        "wrong_blames": sum(len(one["wrong_blames"]) for one in attacks),
        "benign": len(benign),
        "benign_watched_h": round(sum(one["watched_h"] for one in benign), 2),
        "benign_vm_hours": round(vm_hours, 2),
        "benign_captures_with_level2": sum(bool(one["level2"]) for one in benign),
        "benign_level2": sum(sum(one["level2"].values()) for one in benign),
        "benign_captures_with_false_verdicts": sum(bool(one["false_verdicts"]) for one in benign),
        "benign_false_verdicts": dict(false),
        "false_verdicts_per_vm_hour": round(sum(false.values()) / vm_hours, 4) if vm_hours else None,
        "benign_frames_stopped": sum(one["stopped"] for one in benign),
    }
    return {"summary": summary, "attacks": attacks, "benign": benign}


def kept(summary: dict[str, Any]) -> bool:
    """Whether the targets are reached."""
    right = summary["role_and_class_right"] == summary["attacks"] and not summary["wrong_blames"]
    quiet = not summary["benign_false_verdicts"] and summary["benign_captures_with_level2"] <= ALLOWED_LEVEL2
    return bool(right and quiet)


def show(result: dict[str, Any]) -> None:
    """The figures as tables."""
    console = Console()
    table = Table(
        "attack's capture", "asked", "verdict", "class", "L2 s", "limit s", "verdict s", "passed", "others", ""
    )
    for one in result["attacks"]:
        good = one["role_right"] and one["class_right"] and not one["wrong_blames"]
        times = (one["level2_s"], one["limit_s"], one["verdict_s"])
        table.add_row(
            one["file"],
            f"{one['role']} {one['attack']}",
            one["verdict"] or "–",
            one["class"] or "–",
            *("–" if at is None else f"{at:.1f}" for at in times),
            f"{one['passed_after_limit']:,}" if one["limit_s"] is not None else "–",
            ", ".join(f"{name}: {verdict}" for name, verdict in one["others"].items()) or "–",
            "[green]✓[/]" if good else "[red]✗[/]",
        )
    console.print(table)
    table = Table("benign capture", "VM-hours", "false Level 2", "stopped", "false verdicts")
    for one in result["benign"]:
        if one["level2"] or one["false_verdicts"]:
            table.add_row(
                one["file"],
                f"{one['vm_hours']:.3f}",
                str(sum(one["level2"].values())),
                str(one["stopped"]),
                "; ".join(f"{name} {told}" for name, told in one["false_verdicts"].items()) or "–",
            )
    console.print(table)
    _show_summary(console, result["summary"].items())


def _show_summary(console: Console, figures: Iterable[tuple[str, Any]]) -> None:
    table = Table("figure", "value")
    for name, value in figures:
        table.add_row(name, str(value))
    console.print(table)


def main() -> None:
    """Score, print tables, write JSON; exit code 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="Else HYPERVIGIL_DATA, else ../shared/data.")
    parser.add_argument("--only", default="", metavar="WORD", help="Only captures with this word in their name.")
    parser.add_argument("--history", type=int, default=HISTORY_S, metavar="SECONDS")
    parser.add_argument("--out", type=Path, default=Path("build/bench/captures.json"))
    arguments = parser.parse_args()
    folder = arguments.data / "captures"
    if not (folder / "labels.csv").is_file():
        Console().print(f"captures: skipped, since there is no {folder}/labels.csv; set HYPERVIGIL_DATA to the data")
        return
    try:
        result = score(folder, arguments.history, arguments.only)
    except (CaptureError, OSError, KeyError) as error:
        raise SystemExit(f"captures: {error}; is {folder} whole?") from error
    result["when"] = datetime.now(UTC).isoformat(timespec="seconds")
    result["machine"] = f"{os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}"
    result["history_s"] = arguments.history
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    show(result)
    raise SystemExit(0 if kept(result["summary"]) else 1)


if __name__ == "__main__":
    main()
