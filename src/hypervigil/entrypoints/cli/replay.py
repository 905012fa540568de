"""``hypervigil replay``: a capture through counting, engines and limits; needs neither rights nor a running monitor."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from hypervigil.entrypoints.cli.common import fail
from hypervigil.entrypoints.cli.show import role, row
from hypervigil.entrypoints.replay.capture import CaptureError
from hypervigil.entrypoints.replay.run import replay as replay_capture
from hypervigil.model.ids import HOST, OUTSIDE

MAX_HISTORY_S = 7 * 24 * 3600
STANDARD_OUTPUT = "-"


@click.command()
@click.argument("capture", type=click.Path(path_type=Path))
@click.argument("more", nargs=-1, metavar="")
@click.option("--vm", "vms", multiple=True, metavar="NAME=MAC_OR_IP", help="Judge this VM; else every host seen.")
@click.option(
    "--history",
    type=click.IntRange(0, MAX_HISTORY_S),
    default=0,
    metavar="SECONDS",
    help="Presume so many ordinary seconds before; without, priors judge.",
)
@click.option(
    "--json", "out", is_flag=False, flag_value=STANDARD_OUTPUT, metavar="OUT", help="Write JSON to a file ('-': here)."
)
def replay(capture: Path, more: tuple[str, ...], vms: tuple[str, ...], history: int, out: str | None) -> None:
    """Say what would have been judged and limited in a pcap or pcapng file."""
    names = [_name(text) for text in (*vms, *more)]
    try:
        with _progress() as begin:
            result = replay_capture(capture, names, history_s=history, begin=begin)
    except CaptureError as error:
        fail(str(error))
    data = msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n"
    if out == STANDARD_OUTPUT:
        click.echo(data, nl=False)
        return
    _show(Console(highlight=False), result)
    if out is not None:
        try:
            Path(out).write_bytes(data)
        except OSError as error:
            fail(f"cannot write {out}: {error.strerror}; choose another place")


def _name(text: str) -> tuple[str, str]:
    name, _, where = text.partition("=")
    if not name or not where:
        fail(f"'{text}' names no VM: write NAME=MAC or NAME=ADDRESS")
    if name in {HOST, OUTSIDE}:
        fail(f"'{name}' has a meaning of its own: choose another name")
    return name, where


@contextmanager
def _progress() -> Iterator[Callable[[int], Callable[[int], None]]]:
    """A bar on standard error while somebody looks at it."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:

        def begin(frames: int) -> Callable[[int], None]:
            task = bar.add_task("frames", total=frames)
            return lambda done: bar.advance(task, done)

        yield begin


def _show(console: Console, result: dict[str, Any]) -> None:
    console.print(
        f"{result['capture']}: {result['frames']:,} frames in {result['seconds']:,.1f} s; {len(result['vms'])} VMs "
        f"watched for {result['watched_s']:,.0f} s",
        markup=False,
    )
    for note in result["notes"]:
        console.print(note, markup=False)
    table = Table("VM", "verdict", "class", "Level 2", "limit", "verdict at", "cause", box=None, header_style="bold")
    for name, vm in result["vms"].items():
        times = (vm["level2_s"], vm["limit_s"], vm["verdict_s"])
        row(
            table,
            name,
            role(vm["verdict"]),
            vm["class"] or "–",
            *("–" if at is None else f"{at:,.1f} s" for at in times),
            vm["cause"] or "–",
        )
    console.print(table)
