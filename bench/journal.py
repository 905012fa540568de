"""How fast the journal appends and verifies here: ``python -m bench.journal [--records N] [--out FILE]``."""

import argparse
import json
import os
import platform
import shutil
import sqlite3
import statistics
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from hypervigil.host.journal import Entry, Journal, Kind
from hypervigil.host.journal.verify import read_heads, read_public_key, verify
from hypervigil.hypervisor.enforcer.signing import HeadSigner
from hypervigil.model.ids import CaseId, Instant, VmId
from hypervigil.model.status import AttackClass, Evidence, Origin, Role, Verdict

BATCH = 20
PROMISED_VERIFY_S = 10.0
PROMISED_RECORDS = 1_000_000


def entries(first: int, count: int) -> list[Entry]:
    """What a host writes: for each verdict, nineteen facts of its case; bodies of some 200 to 900 bytes."""
    made = []
    for n in range(first, first + count):
        vm, case, at = (
            VmId(f"{n % 500:08x}-2222-3333-4444-555555555555"),
            CaseId(f"c{n // BATCH + 1}"),
            Instant(n * 0.05),
        )
        evidence = Evidence(
            vm, "outbound-surge", Origin.HOST_OBSERVED, at, n * 1.5, 20.0, "pps", f"sends {n} packets a second, of 20"
        )
        verdict = Verdict(case, vm, Role.ATTACKER, AttackClass.FLOOD, at, 0.97, (evidence,) * 4, "floods", "half of it")
        kind, value = (Kind.DECISION, verdict) if n % BATCH == BATCH - 1 else (Kind.FACT, evidence)
        made.append(Entry(kind, value, at, 1.7e9 + at, case, vm))
    return made


def appended_per_s(folder: Path, batch: int, seconds: float) -> tuple[float, float]:
    """``(records per second, p95 milliseconds of one commit)``, each commit safely on disk."""
    commits = []
    written = 0
    with Journal.open(folder / f"append-{batch}.db") as journal:
        ends = time.perf_counter() + seconds
        while time.perf_counter() < ends:
            wanted = entries(written, batch)
            began = time.perf_counter()
            if journal.append_many(wanted) is None:
                raise SystemExit(f"the journal could not be written: {journal.trouble}")
            commits.append(time.perf_counter() - began)
            written += batch
    return written / sum(commits), statistics.quantiles(commits, n=20)[18] * 1000


def main() -> None:
    """Measure, print a table, write JSON; exit code 1 if a promise is not kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=PROMISED_RECORDS)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("build/bench/journal.json"))
    parser.add_argument("--folder", type=Path, default=Path("build"), help="Where the journals are made (and removed).")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="bench-journal-", dir=arguments.folder))
    try:
        result = measure(folder, arguments.records, arguments.repeat)
    finally:
        shutil.rmtree(folder)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    show(result)
    kept = result["verify_s"] < PROMISED_VERIFY_S * max(1.0, arguments.records / PROMISED_RECORDS)
    raise SystemExit(0 if kept and result["tampering_found"] else 1)


def measure(folder: Path, records: int, repeat: int) -> dict[str, float | int | str | bool]:
    """All figures, by name with their units."""
    single_per_s, single_p95_ms = appended_per_s(folder, 1, 5.0)
    batch_per_s, batch_p95_ms = appended_per_s(folder, BATCH, 5.0)
    path = folder / "journal.db"
    signer = HeadSigner(folder / "head.key", folder / "heads.jsonl", folder / "head.pub")
    chunk = 5000
    began = time.perf_counter()
    with Journal.open(path) as journal:
        for first in range(0, records, chunk):
            journal.append_many(entries(first, min(chunk, records - first)))
            signer.sign(*journal.head(), wall_at=1.7e9)
        filled_s = time.perf_counter() - began
        size = journal.size_bytes()
    began = time.perf_counter()
    with Journal.open(path) as journal:
        journal.next_case()
    reopened_s = time.perf_counter() - began
    heads, key = read_heads(folder / "heads.jsonl"), read_public_key(folder / "head.pub")
    runs = [verify(path, heads, key) for _ in range(repeat)]
    if not all(run.ok and run.records == records and run.signed == records for run in runs):
        raise SystemExit(f"an untouched journal does not verify: {runs[0].problem}")
    altered = records * 9 // 10
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TRIGGER record_no_update")
        connection.execute("UPDATE record SET wall_at = wall_at + 1 WHERE sequence = ?", [altered])
    found = verify(path, heads, key)
    return {
        "machine": f"{os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}",
        "sqlite": sqlite3.sqlite_version,
        "append_single_per_s": round(single_per_s),
        "append_single_p95_ms": round(single_p95_ms, 3),
        "append_batch_of_20_per_s": round(batch_per_s),
        "append_batch_of_20_p95_ms": round(batch_p95_ms, 3),
        "fill_per_s": round(records / filled_s),
        "records": records,
        "bytes_per_record": round(size / records),
        "reopen_s": round(reopened_s, 4),
        "heads": len(heads),
        "verify_s": round(statistics.median(run.seconds for run in runs), 2),
        "verify_worst_s": round(max(run.seconds for run in runs), 2),
        "tampering_found": not found.ok and found.first_bad == altered,
    }


def show(result: dict[str, float | int | str | bool]) -> None:
    """The figures as a table."""
    table = Table("figure", "value", title="Journal")
    for name, value in result.items():
        table.add_row(
            name, f"{value:,}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
        )
    Console().print(table)


if __name__ == "__main__":
    main()
