"""What every command shares: where things lie, ``--json``, and how an error ends a command."""

import functools
import os
import pwd
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, ParamSpec, TypeVar

import click
import msgspec
from rich.console import Console

from hypervigil.entrypoints.control_client import ControlError, ask
from hypervigil.entrypoints.layout import DEFAULT_PIN_DIR, DEFAULT_RUN_DIR, DEFAULT_STATE_DIR, Layout
from hypervigil.wire.control import Request

P = ParamSpec("P")
R = TypeVar("R")


class Fail(click.ClickException):
    """One sentence with the mend on standard error, exit code 1."""

    def show(self, file: Any = None) -> None:
        """Print the sentence."""
        click.echo(f"hypervigil: {self.format_message()}", err=True, file=file)


def fail(sentence: str) -> NoReturn:
    """End the command with one sentence."""
    raise Fail(sentence)


def need_root(what: str) -> None:
    """End the command unless root gave it."""
    if os.geteuid() != 0:
        fail(f"{what} needs root: run it with sudo")


def operator() -> str:
    """Who gives the command, as the journal will name them."""
    name = os.environ.get("SUDO_USER")
    if name:
        return name
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def layout_of(context: click.Context) -> Layout:
    """Where things lie, by the options given to the group or the command."""
    found: Layout = context.find_root().obj
    return found


def _relocate(context: click.Context, _parameter: click.Parameter, value: Path | None) -> None:
    if value is None or _parameter.name is None:
        return
    root = context.find_root()
    current: Layout = root.obj or Layout()
    changed = {name: getattr(current, name) for name in ("run_dir", "state_dir", "pin_dir")}
    changed[_parameter.name] = value
    root.obj = Layout(**changed)


def places(command: Callable[P, R]) -> Callable[P, R]:
    """Add ``--run-dir``, ``--state-dir`` and ``--pin-dir``, for hosts with more than one installation and for tests."""
    for name, default in (("pin-dir", DEFAULT_PIN_DIR), ("state-dir", DEFAULT_STATE_DIR), ("run-dir", DEFAULT_RUN_DIR)):
        command = click.option(
            f"--{name}",
            type=click.Path(path_type=Path, resolve_path=True),  # the parts run elsewhere
            envvar=f"HYPERVIGIL_{name.replace('-', '_').upper()}",
            expose_value=False,
            is_eager=True,
            callback=_relocate,
            help=f"Instead of {default}.",
            hidden=True,
        )(command)
    return command


def printer(
    show: Callable[[Console, dict[str, Any]], None],
) -> Callable[[Callable[P, dict[str, Any]]], Callable[P, None]]:
    """Print what a command returns: by ``show`` for people, as JSON with ``--json``."""

    def decorate(command: Callable[P, dict[str, Any]]) -> Callable[P, None]:
        @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
        @places
        @functools.wraps(command)
        def run(*args: P.args, **kwargs: P.kwargs) -> None:
            as_json = kwargs.pop("as_json")
            body = command(*args, **kwargs)
            if as_json:
                sys.stdout.write(msgspec.json.format(msgspec.json.encode(body), indent=2).decode() + "\n")
            else:
                show(Console(highlight=False, emoji=False, soft_wrap=not sys.stdout.isatty()), body)
            exit_code = body.get("exit_code", 0)
            if exit_code:
                raise SystemExit(exit_code)

        return run

    return decorate


def ask_monitor(context: click.Context, request: Request) -> dict[str, Any]:
    """The monitor's answer; its refusal ends the command."""
    try:
        return ask(layout_of(context).control_socket, request)
    except ControlError as error:
        fail(str(error))
