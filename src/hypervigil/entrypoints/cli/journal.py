"""``hypervigil journal verify|replay|show``: they read the journal's file, so they work with every process dead."""

from pathlib import Path
from typing import Any

import click

from hypervigil.entrypoints.cli import show
from hypervigil.entrypoints.cli.common import fail, layout_of, printer
from hypervigil.host.hsem.judge import judge
from hypervigil.host.journal import Journal, JournalError
from hypervigil.host.journal.replay import replay as replay_journal
from hypervigil.host.journal.verify import read_heads, read_public_key
from hypervigil.host.journal.verify import verify as verify_journal

_FILE = click.option("--file", "path", type=click.Path(path_type=Path), help="Another journal than this host's own.")


@click.group()
def journal() -> None:
    """Check the record of every decision, and judge again from it."""


def _path(context: click.Context, path: Path | None) -> Path:
    return path if path is not None else layout_of(context).journal


@journal.command()
@_FILE
@click.option("--heads", type=click.Path(path_type=Path), help="Signed heads, copied out of the monitor's reach.")
@click.option("--key", type=click.Path(path_type=Path), help="The public key that checks the heads' signatures.")
@printer(show.sentences)
@click.pass_context
def verify(context: click.Context, path: Path | None, heads: Path | None, key: Path | None) -> dict[str, Any]:
    """Find any altered, removed, inserted, reordered or truncated record."""
    layout = layout_of(context)
    heads_path = heads or layout.heads
    key_path = key or layout.public_key
    try:
        copies = read_heads(heads_path) if heads is not None or heads_path.exists() else []
        public_key = read_public_key(key_path) if key is not None or key_path.exists() else None
        result = verify_journal(_path(context, path), copies, public_key)
    except JournalError as error:
        fail(str(error))
    sentence = (
        f"good: {result.records:,} records, {len(copies)} signed heads, {result.seconds:.2f} s"
        if result.ok
        else f"BROKEN at record {result.first_bad}: {result.problem}"
    )
    notes = [] if copies else ["no signed head was compared: records cut off at the end would not show"]
    return {
        "sentences": [sentence, *notes],
        "ok": result.ok,
        "records": result.records,
        "heads": len(copies),
        "seconds": result.seconds,
        "first_bad": result.first_bad,
        "problem": result.problem,
        "exit_code": 0 if result.ok else 1,
    }


@journal.command()
@_FILE
@printer(show.sentences)
@click.pass_context
def replay(context: click.Context, path: Path | None) -> dict[str, Any]:
    """Judge every case again from its recorded facts and compare with what was decided."""
    try:
        with Journal.open(_path(context, path), read_only=True) as opened:
            result = replay_journal(opened, judge)
    except JournalError as error:
        fail(str(error))
    lines = [f"{result.verdicts} verdicts judged again, {len(result.mismatches)} differ"]
    lines += [f"record {m.sequence}: {m.problem}" for m in result.mismatches]
    return {
        "sentences": lines,
        "verdicts": result.verdicts,
        "mismatches": [{"sequence": m.sequence, "problem": m.problem} for m in result.mismatches],
        "exit_code": 1 if result.mismatches else 0,
    }


@journal.command("show")
@_FILE
@click.option("--last", "count", type=click.IntRange(1, 100_000), default=20, show_default=True, help="How many.")
@printer(show.sentences)
@click.pass_context
def show_records(context: click.Context, path: Path | None, count: int) -> dict[str, Any]:
    """Print the newest records."""
    try:
        with Journal.open(_path(context, path), read_only=True) as opened:
            records = [r.plain() for r in opened.records(limit=count, newest_first=True)][::-1]
    except JournalError as error:
        fail(str(error))
    lines = [f"{r['sequence']} {show.clock(r['wall_at'])} {r['kind']} {r['case'] or ''} {r['body']}" for r in records]
    return {"sentences": lines, "records": records}
