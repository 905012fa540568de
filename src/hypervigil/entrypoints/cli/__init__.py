"""The command line: ``hypervigil``. Every command prints for people, and with ``--json`` for programs."""

from hypervigil.entrypoints.cli.commands import main

__all__ = ["main"]
