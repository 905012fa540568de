"""Writes ``docs/commands.md``: what each command of ``hypervigil`` says of itself."""

from pathlib import Path

import click
from click.testing import CliRunner

from hypervigil.entrypoints.cli import main

INTRODUCTION = """
Every command that speaks to an installation, or starts one, also takes `--run-dir`, `--state-dir` and `--pin-dir`,
or finds them in `HYPERVIGIL_RUN_DIR`, `HYPERVIGIL_STATE_DIR` and `HYPERVIGIL_PIN_DIR`: for a second installation on
one host, which then has to be named so each time.
"""
TARGET = Path(__file__).resolve().parent.parent / "docs" / "commands.md"
WIDTH = 110


def commands(words: list[str], command: click.Command) -> list[list[str]]:
    """One command and all below it, in the order in which people look for them."""
    found = [words]
    if isinstance(command, click.Group):
        for name in sorted(command.commands):
            found += commands([*words, name], command.commands[name])
    return found


def reference() -> str:
    """The document."""
    lines = ["# Commands", "", "Made by `make reference`; `make check` tells when it is out of date.", INTRODUCTION]
    for words in commands(["hypervigil"], main):
        shown = CliRunner().invoke(main, [*words[1:], "--help"], prog_name="hypervigil", terminal_width=WIDTH).output
        lines += [f"## {' '.join(words)}", "", "```", f"$ {' '.join(words)} --help", shown.rstrip(), "```", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    TARGET.write_text(reference(), encoding="utf-8")
