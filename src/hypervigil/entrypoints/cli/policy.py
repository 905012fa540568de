"""``hypervigil policy check|diff|apply``."""

from pathlib import Path
from typing import Any

import click

from hypervigil.entrypoints.cli import show
from hypervigil.entrypoints.cli.common import ask_monitor, fail, operator, printer
from hypervigil.host import policyfile
from hypervigil.model.policy import Mode, Policy
from hypervigil.wire import control

_FILE = click.argument("path", metavar="FILE", type=click.Path(path_type=Path))


@click.group()
def policy() -> None:
    """Check, compare and apply the policy."""


def _read(path: Path) -> tuple[Policy, str]:
    try:
        return policyfile.load_text(path)
    except policyfile.PolicyError as error:
        fail(str(error))


@policy.command()
@_FILE
@printer(show.sentences)
def check(path: Path) -> dict[str, Any]:
    """Say whether a policy file is sound."""
    found, text = _read(path)
    mode_said = found == policyfile.parse(text, str(path), unsaid=Mode.ENFORCE)
    return {"sentences": [f"{path}: good.", *policyfile.describe(found, mode_said=mode_said)]}


@policy.command()
@_FILE
@printer(show.sentences)
@click.pass_context
def diff(context: click.Context, path: Path) -> dict[str, Any]:
    """Say what applying a policy file would change; change nothing."""
    _, text = _read(path)
    return ask_monitor(context, control.ApplyPolicy(text=text, dry_run=True))


@policy.command("apply")
@_FILE
@click.option("--dry-run", is_flag=True, help="Only say what would change.")
@printer(show.sentences)
@click.pass_context
def apply_policy(context: click.Context, path: Path, *, dry_run: bool) -> dict[str, Any]:
    """Swap the policy in one step; a policy that is not sound changes nothing."""
    _, text = _read(path)
    return ask_monitor(context, control.ApplyPolicy(text=text, dry_run=dry_run, by=operator()))
