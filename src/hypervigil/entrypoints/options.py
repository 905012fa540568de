"""The options that every process of ours takes."""

import argparse
from pathlib import Path

from hypervigil.entrypoints.layout import DEFAULT_PIN_DIR, DEFAULT_RUN_DIR, DEFAULT_STATE_DIR, Layout


def parse_layout(argv: list[str]) -> tuple[Layout, list[str]]:
    """Where things lie, and the options that are left over."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--run-dir", type=Path, default=DEFAULT_RUN_DIR)
    parser.add_argument("--state-dir", type=Path, default=DEFAULT_STATE_DIR)
    parser.add_argument("--pin-dir", type=Path, default=DEFAULT_PIN_DIR)
    known, rest = parser.parse_known_args(argv)
    return Layout(known.run_dir, known.state_dir, known.pin_dir), rest


def layout_alone(argv: list[str]) -> Layout:
    """Where things lie, for a process that takes no other option: an unknown one ends it."""
    layout, rest = parse_layout(argv)
    argparse.ArgumentParser().parse_args(rest)
    return layout
