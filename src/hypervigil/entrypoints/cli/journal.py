"""``hypervigil journal verify|replay|show``: they read the journal's file, so they work with every process dead."""

import os
from pathlib import Path
from typing import Any

import click

from hypervigil.entrypoints.cli import show
from hypervigil.entrypoints.cli.common import fail, layout_of, printer
from hypervigil.host.hsem.judge import judge
from hypervigil.host.journal import Journal, JournalError
from hypervigil.host.journal.opening import need_journal
from hypervigil.host.journal.replay import replay as replay_journal
from hypervigil.host.journal.verify import read_heads, read_public_key
from hypervigil.host.journal.verify import verify as verify_journal

_FILE = click.option("--file", "path", type=click.Path(path_type=Path), help="Another journal than this host's own.")


@click.group()
def journal() -> None:
    """Check the record of every decision, and judge again from it."""


def _path(context: click.Context, path: Path | None) -> Path:
    return path if path is not None else layout_of(context).journal


def _there(path: Path, named: Path | None) -> bool:
    """Whether there is such a file. One that was named has to be there; one that may not be seen, reading tells."""
    try:
        there = path.exists()
    except PermissionError:
        return True
    if not there and named is not None:
        fail(f"{path} does not exist: name the right file, or leave it out to take the one beside the journal")
    return there


@journal.command()
@_FILE
@click.option(
    "--heads", type=click.Path(path_type=Path), help="Signed heads; else this host's, or with --file those beside it."
)
@click.option("--key", type=click.Path(path_type=Path), help="The public key that checks the heads; else likewise.")
@printer(show.sentences)
@click.pass_context
def verify(context: click.Context, path: Path | None, heads: Path | None, key: Path | None) -> dict[str, Any]:
    """Find any altered, removed, inserted, reordered or truncated record."""
    own = layout_of(context)
    heads_path, key_path = own.heads, own.public_key
    if path is not None and os.path.realpath(path) != os.path.realpath(own.journal):
        # Another host's: what this one's enforcer signed says nothing of it.
        heads_path, key_path = path.parent / own.heads.name, path.parent / own.public_key.name
    journal_path, heads_path, key_path = path or own.journal, heads or heads_path, key or key_path
    try:
        need_journal(journal_path)
        with_heads, with_key = _there(heads_path, heads), _there(key_path, key)
        copies = read_heads(heads_path) if with_heads else []
        public_key = read_public_key(key_path) if with_key else None
        result = verify_journal(journal_path, copies, public_key)
    except JournalError as error:
        fail(str(error))
    where = "" if result.first_bad is None else f" at record {result.first_bad}"
    sentence = (
        f"good: {result.records:,} records, {len(copies)} signed heads, {result.seconds:.2f} s"
        if result.ok
        else f"BROKEN{where}: {result.problem}"
    )
    notes = []
    if not copies:
        lack = (
            f"{heads_path} holds none"
            if with_heads
            else f"there is no {heads_path}: name its own with --heads and --key"
        )
        notes = [f"no signed head was compared ({lack}): records cut off at the end would not show"]
    elif public_key is None:
        notes = [f"no signature was checked (there is no {key_path}: name its own key with --key): heads may be forged"]
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
