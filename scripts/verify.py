"""The full matrix in slices: runs what is missing for this code, keeps each result, writes ``reports/verify-*.md``.

A slice's result holds while the code that it runs is the same; the report tells at which commit each was run.

``verify.py`` runs as many slices as 85 minutes hold and can be called again until all are done;
``verify.py NAME`` runs that slice anew; ``verify.py --list`` shows them.
Exit code 0: the slices asked for are done and right, 1: something is wrong, 2: some are still to do.
"""

import argparse
import hashlib
import json
import os
import platform
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BUDGET_S = 85 * 60.0
LAB = ("src", "lab", "requirements.lock")
"""What a slice in the lab runs."""
CODE = (*LAB, "bench", "tests", "scripts", "Makefile", "pyproject.toml")
MASS = "tests/integration/test_mass.py"
TAIL_LINES = 25
QUIET_PARTS, QUIET_VM_DAYS = 3, 1000
"""The long quiet, 3,000 VM-days, in parts that an interruption does not cost."""
GUEST_PARTS = 3
"""Each tries every cell of the scoreboard once."""
_SCORED = {"quiet", "captures"}
"""Benchmarks that are parts of the scoreboard."""
_OURS = ("bridge", "hypervigil", "hypervigil-limited", "hypervigil-unruled")
_BENCH_PARTS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "dataplane": {
        f"{link}-{part}": ("--link", link, "--setup", *setups)
        for link in ("veth", "tap", "guests")
        for part, setups in (("ours", _OURS), ("rules", ("nftables", "conntrack")), ("nwfilter", ("nwfilter",)))
    }
}
"""Benchmarks that take too long for one slice, and what is measured in each of theirs."""


@dataclass(frozen=True, slots=True)
class Slice:
    """One part of the matrix: a program that ends within ``minutes`` and exits 0 if all was right."""

    name: str
    minutes: float
    argv: tuple[str, ...]
    """``{json}`` stands for a file that the program may write its result to."""
    seed: int | None = None
    code: tuple[str, ...] = LAB
    """The files and folders whose change makes a result void."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one slice went."""

    name: str
    ok: bool
    seconds: float
    finished: str
    command: str
    seed: int | None
    result: Any
    tail: tuple[str, ...]
    commit: str = ""


def slices() -> tuple[Slice, ...]:
    """Everything, in the order in which it is run."""
    lab = (sys.executable, "-m", "lab")
    pulses = tuple(
        Slice(f"pulses-{rate}", 25, (*lab, "pulses", "--rate", rate, "--count", "30", "--json", "{json}"))
        for rate in ("100", "200", "2000", "full")
    )
    trials = tuple(
        Slice(
            f"trials-{part}",
            35,
            (*lab, "trials", "--count", "30", "--seed", str(1000 + part), "--json", "{json}"),
            1000 + part,
        )
        for part in (1, 2, 3)
    )
    # The same as the first part, with our agent in every guest: nothing may be later or worse.
    agents = (*lab, "trials", "--count", "30", "--seed", "1001", "--agents", "--json", "{json}")
    trials = (*trials, Slice("trials-agents", 35, agents, 1001))
    paths = sorted((ROOT / "lab" / "scenarios").glob("*.toml"))
    scenarios = tuple(_scenario("scenario", path) for path in paths)
    controls = tuple(_scenario("control", path, "--control") for path in paths if _attacks(path))
    pytest = (sys.executable, "-m", "pytest", "--complete", "-m", "long")
    long = (
        Slice("long-fuzz", 80, (*pytest, "tests/fuzz"), code=CODE),
        Slice("long-mass", 80, (*pytest, MASS), code=CODE),
        Slice("long", 80, (*pytest, "--ignore=tests/fuzz", f"--ignore={MASS}", "tests"), code=CODE),
    )
    bench, code = (sys.executable, "-m"), (*LAB, "bench")
    benches = tuple(
        Slice(
            "-".join(filter(None, ("bench", path.stem, part))), 30, (*bench, f"bench.{path.stem}", *options), code=code
        )
        for path in sorted((ROOT / "bench").glob("[!_]*.py"))
        if path.stem not in _SCORED
        for part, options in _BENCH_PARTS.get(path.stem, {"": ()}).items()
    )
    return (*pulses, *trials, *scoreboard(), *scenarios, *controls, *long, *benches)


def scoreboard() -> tuple[Slice, ...]:
    """What `make scoreboard` tells of: ordinary days, captures, real guests."""
    python, code = (sys.executable, "-m"), (*LAB, "bench")
    days = ("--vm-days", str(QUIET_VM_DAYS))
    quiet = tuple(
        Slice(
            f"scoreboard-quiet-{seed}",
            80,
            (*python, "bench.quiet", *days, "--seed", str(seed), "--json", "{json}"),
            seed,
            code,
        )
        for seed in range(1, QUIET_PARTS + 1)
    )
    captures = Slice("scoreboard-captures", 30, (*python, "bench.captures", "--out", "{json}"), code=code)
    guests = tuple(
        Slice(
            f"scoreboard-guests-{part}",
            75,
            (*python, "lab", "scoreboard", "--seed", str(2000 + part), "--json", "{json}"),
            2000 + part,
        )
        for part in range(1, GUEST_PARTS + 1)
    )
    return (*quiet, captures, *guests)


def _scenario(kind: str, path: Path, *options: str) -> Slice:
    lab = (sys.executable, "-m", "lab", "run", str(path.relative_to(ROOT)))
    return Slice(f"{kind}-{path.stem}", 8, (*lab, *options, "--json", "{json}"))


def _attacks(path: Path) -> bool:
    steps = tomllib.loads(path.read_text(encoding="utf-8")).get("step", [])
    return any(step.get("attack", False) for step in steps)


def run_slice(part: Slice, directory: Path, commit: str = "") -> Outcome:
    """Run it, show its output live, end it (and what it started) when its time is over."""
    result_path = directory / f"{part.name}.result.json"
    result_path.unlink(missing_ok=True)
    argv = [word.replace("{json}", str(result_path)) for word in part.argv]
    log_path = directory / f"{part.name}.log"
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell's job in the background ignores it, and so would the slice, which ends by it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    started = time.monotonic()
    with log_path.open("wb") as log:
        process = subprocess.Popen(argv, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            code = process.wait(part.minutes * 60)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGINT)
            try:
                process.wait(60)  # a lab takes down its guests
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            log.write(f"\nverify: ended after {part.minutes:g} minutes\n".encode())
            code = -1
    try:
        result = json.loads(result_path.read_bytes())
    except (OSError, ValueError):
        result = None
    lines = log_path.read_text(encoding="utf-8", errors="replace").splitlines()
    return Outcome(
        part.name,
        code == 0,
        round(time.monotonic() - started, 1),
        datetime.now(UTC).isoformat(timespec="seconds"),
        " ".join(argv).replace(sys.executable, "python").replace(f"{ROOT}/", ""),
        part.seed,
        result,
        tuple(lines[-TAIL_LINES:]),
        commit[:12],
    )


def load(parts: Iterable[Slice], directory: Path) -> dict[str, Outcome]:
    """What was done so far with the code that each slice runs."""
    found = {}
    for part in parts:
        path = _kept(part, directory)
        if path.exists():
            fields = json.loads(path.read_bytes())
            found[part.name] = Outcome(**{**fields, "tail": tuple(fields["tail"])})
    return found


def save(part: Slice, outcome: Outcome, directory: Path) -> None:
    """Keep one outcome; atomic, so that an interruption leaves the last one whole."""
    path = _kept(part, directory)
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(asdict(outcome), indent=1), encoding="utf-8")
    fresh.replace(path)


def _kept(part: Slice, directory: Path) -> Path:
    code, clean = fingerprint(part.code)
    return directory / f"{part.name}.{code}{'' if clean else '-changed'}.outcome.json"


def choose(parts: Sequence[Slice], done: Mapping[str, Outcome], spent_s: float) -> Slice | None:
    """The next slice that is not done and still fits into the budget."""
    for part in parts:
        if part.name not in done and spent_s + part.minutes * 60 <= BUDGET_S:
            return part
    return None


def scalars(value: Any, prefix: str = "", depth: int = 3) -> Iterable[tuple[str, str]]:
    """The numbers and words of a result, named by their path; long lists are counted only."""
    match value:
        case dict() if depth:
            for key, inner in value.items():
                yield from scalars(inner, f"{prefix}.{key}" if prefix else str(key), depth - 1)
        case list():
            yield prefix, f"{len(value)} entries"
        case float():
            yield prefix, f"{value:.4g}"
        case str() | int() | None:
            yield prefix, str(value)


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    release = Path("/etc/debian_version").read_text(encoding="utf-8").strip()
    model = next((line.split(":", 1)[1].strip() for line in cpuinfo if line.startswith("model name")), "unknown")
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cores": str(os.cpu_count()),
        "CPU": model,
        "memory": f"{pages / 2**30:.1f} GiB",
        "kernel": platform.release(),
        "system": f"Debian {release}",
        "Python": platform.python_version(),
    }


def report(code: str, commit: str, on: Mapping[str, str], parts: Sequence[Slice], done: Mapping[str, Outcome]) -> str:
    """The report as Markdown."""
    lines = [f"# Verification of code {code}", ""]
    lines += [f"- date: {max((o.finished for o in done.values()), default='nothing run')}"]
    lines += [f"- commit: {commit}{' with uncommitted changes' if code.endswith('-changed') else ''}"]
    lines += [f"- {key}: {value}" for key, value in on.items()]
    right = sum(outcome.ok for outcome in done.values())
    lines += [f"- slices: {len(parts)}, done {len(done)}, right {right}", ""]
    lines += ["| slice | result | seconds | seed | finished | commit |", "|---|---|---|---|---|---|"]
    for part in parts:
        outcome = done.get(part.name)
        if outcome is None:
            lines.append(f"| {part.name} | not run | | {part.seed or ''} | | |")
        else:
            word = "right" if outcome.ok else "**wrong**"
            when = f"{part.seed or ''} | {outcome.finished} | {outcome.commit}"
            lines.append(f"| {part.name} | {word} | {outcome.seconds:g} | {when} |")
    for part in parts:
        outcome = done.get(part.name)
        if outcome is None:
            continue
        lines += ["", f"## {part.name}", "", f"`{outcome.command}`", ""]
        values = list(scalars(outcome.result)) if outcome.result is not None else []
        if values:
            lines += ["| what | value |", "|---|---|", *(f"| {what} | {value} |" for what, value in values)]
        if not values or not outcome.ok:
            lines += ["```", *(line.replace("```", "'''") for line in outcome.tail), "```"]
    return "\n".join(lines) + "\n"


def commit() -> str:
    """The commit that is checked out."""
    return _git("rev-parse", "HEAD")


def fingerprint(of: Sequence[str]) -> tuple[str, bool]:
    """A name for this code of the commit, and whether nothing of it was changed since."""
    trees = _git("ls-tree", "HEAD", *of)
    changed = _git("status", "--porcelain", "--", *of)
    return hashlib.sha256(trees.encode()).hexdigest()[:12], not changed


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def main(
    argv: Sequence[str] | None = None, parts: Sequence[Slice] | None = None, say: Callable[[str], None] = print
) -> int:
    """Run what was asked for; the exit code."""
    parser = argparse.ArgumentParser(prog="make verify", description="The full matrix, in slices.")
    parser.add_argument("slice", nargs="*", help="run these anew, whatever was done")
    parser.add_argument("--list", action="store_true", help="show the slices and what was done")
    options = parser.parse_args(argv)
    every = slices() if parts is None else tuple(parts)
    commit, (code, clean) = _git("rev-parse", "HEAD"), fingerprint(CODE)
    code += "" if clean else "-changed"
    directory = ROOT / "build" / "verify"
    directory.mkdir(parents=True, exist_ok=True)
    done = load(every, directory)
    if options.list:
        for part in every:
            state = "to do" if part.name not in done else "right" if done[part.name].ok else "wrong"
            say(f"{part.name:<32} {state:<6} ≤ {part.minutes:g} min")
        return 0
    known = {part.name: part for part in every}
    if unknown := [name for name in options.slice if name not in known]:
        say(f"verify: there is no slice {', '.join(unknown)}; 'scripts/verify.py --list' shows them")
        return 1
    path = ROOT / "reports" / f"verify-{code}.md"
    path.parent.mkdir(exist_ok=True)

    def write() -> None:
        told = report(code, commit, machine(), every, done)
        path.write_text(told.replace(str(ROOT), "."), encoding="utf-8")  # where it lay is nobody's matter

    started = time.monotonic()
    queue = [known[name] for name in options.slice]
    asked = set(options.slice) or set(known)
    while True:
        chosen = next(iter(queue), None) if options.slice else choose(every, done, time.monotonic() - started)
        if chosen is None:
            break
        queue = queue[1:]
        say(f"verify: {chosen.name} (≤ {chosen.minutes:g} min; output in {directory / chosen.name}.log)")
        outcome = run_slice(chosen, directory, commit)
        save(chosen, outcome, directory)
        done[chosen.name] = outcome
        write()
        say(f"verify: {chosen.name} {'right' if outcome.ok else 'WRONG'} after {outcome.seconds:g} s; {path}")
    write()
    wrong = sorted(name for name in asked & done.keys() if not done[name].ok)
    if wrong:
        say(f"verify: wrong: {', '.join(wrong)}")
        return 1
    if missing := sorted(asked - done.keys()):
        say(f"verify: still to do: {', '.join(missing)}; run 'make verify' again")
        return 2
    say("verify: all right")
    return 0


if __name__ == "__main__":
    sys.exit(main())
