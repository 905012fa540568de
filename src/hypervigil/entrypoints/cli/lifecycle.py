"""``hypervigil up``, ``off`` and ``doctor``."""

import contextlib
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from hypervigil.entrypoints import doctor as checks
from hypervigil.entrypoints.cli import show
from hypervigil.entrypoints.cli.common import fail, layout_of, need_root, places, printer
from hypervigil.entrypoints.control_client import ControlError, ask
from hypervigil.entrypoints.layout import MONITOR_USER, Layout, make_directories, user_ids
from hypervigil.entrypoints.monitorfolder import renew_monitor_dir
from hypervigil.entrypoints.processes import read_processes, start_detached
from hypervigil.entrypoints.strangers import mend, strangers, told
from hypervigil.entrypoints.supervise import Supervisor, alive, stop_everything
from hypervigil.host import policyfile
from hypervigil.host.durable import replace_file
from hypervigil.hypervisor.adapters.ebpf.program import DEFAULT_PORTS
from hypervigil.hypervisor.enforcer.undo import undo_all
from hypervigil.model.policy import Mode
from hypervigil.wire import control

READY_WITHIN_S = 30.0
ENFORCER_BACK_WITHIN_S = 3.0
"""The unit waits half a second, and a start takes a second or two on a busy host."""


@click.command()
@click.option(
    "--enforce",
    is_flag=True,
    help="Act on verdicts where the policy says no mode; one that it says goes first. Without either nothing is "
    "dropped or limited.",
)
@click.option(
    "--policy", "policy_path", type=click.Path(path_type=Path), metavar="FILE", help="The operator's policy (TOML)."
)
@click.option(
    "--max-nics",
    type=click.IntRange(16, 65_536),
    metavar="N",
    help="Have room for so many protected NICs from now on, 85 to 90 kB of memory each (1024 unless told otherwise).",
)
@click.option("--detach", is_flag=True, help="Return as soon as everything is ready.")
@places
@click.pass_context
def up(context: click.Context, *, enforce: bool, policy_path: Path | None, max_nics: int | None, detach: bool) -> None:
    """Start watching this host's VMs (monitor mode unless told otherwise)."""
    layout = layout_of(context)
    need_root("hypervigil up")
    monitor_arguments = ["--enforce"] if enforce else []
    mode = Mode.ENFORCE if enforce else Mode.MONITOR
    policy_text = None if policy_path is None else _sound(policy_path, mode)
    for finding in checks.before_start(layout):
        if finding.needed and not finding.good:
            fail(f"{finding.what}: {finding.detail}")
    recorded = read_processes(layout)
    if recorded is not None and any(
        alive(pid, f"hypervigil.entrypoints.{name}") for name, pid in recorded.services.items()
    ):
        fail("Hypervigil runs already: see 'hypervigil status', or stop it with 'hypervigil off'")
    if found := strangers(layout, recorded):
        fail(f"{told(found)}; {mend(found)}")
    if max_nics not in {None, layout.max_nics() or DEFAULT_PORTS} and any(layout.pin_dir.glob("abi-*")):
        fail("the data plane of another size is in force: 'hypervigil off' removes it, with every limit and filter")
    try:
        for sentence in checks.make_users():
            click.echo(sentence)
        renew_monitor_dir(layout, keep_policy=True)
        make_directories(layout)
        if max_nics is not None:
            layout.max_nics_file.write_text(str(max_nics), encoding="ascii")
        if policy_text is not None:
            # PRIVILEGED: given to the monitor in its own folder, where a taken-over one may have put any link.
            replace_file(layout.handed_policy, policy_text.encode("utf-8"), owner=user_ids(MONITOR_USER))
    except OSError as error:
        fail(
            f"cannot prepare {error.filename or layout.run_dir}: {error.strerror}; free space or use other directories"
        )
    except subprocess.CalledProcessError as error:
        fail(f"cannot make the service users: {error.stderr.decode(errors='replace').strip()}")
    if policy_text is None:
        click.echo(f"Hypervigil starts in {mode} mode, or in the one that the policy applied last says.")
    else:
        mode = policyfile.parse(policy_text, unsaid=mode).mode
        click.echo(f"Hypervigil starts in {mode} mode.")
    if detach:
        start_detached(layout, monitor_arguments)
        in_force = _wait_ready(layout)
        if in_force != str(mode):
            click.echo(
                f"The mode is {in_force}, as the policy applied last says: 'hypervigil policy apply' changes it."
            )
        click.echo("ready")
        return
    os.setpriority(os.PRIO_PROCESS, 0, -11)
    Supervisor(layout, monitor_arguments).run()


def _sound(path: Path, asked: Mode) -> str:
    """The text of a policy file that is sound, read once: what was checked is what is handed over."""
    try:
        text = policyfile.read(path)
        found = policyfile.parse(text, str(path), unsaid=asked)
    except policyfile.PolicyError as error:
        fail(str(error))
    if asked is Mode.ENFORCE and found.mode is Mode.MONITOR:
        fail(f'{path} says mode = "monitor", which goes before --enforce: leave out one of the two')
    return text


def _wait_ready(layout: Layout) -> str:
    """Wait until every part sees; the mode that the host is in then."""
    deadline = time.monotonic() + READY_WITHIN_S
    reason = "nothing answered"
    while time.monotonic() < deadline:
        try:
            body = ask(layout.control_socket, control.ShowStatus(), timeout_s=2)
        except ControlError as error:
            reason = str(error)
        else:
            if body["ready"]:
                return str(body["mode"])
            reason = "; ".join(body["blind"]) or "not all parts are connected yet"
        time.sleep(0.1)
    stopped = ", and stopped again" if stop_everything(layout) else ", and nothing on record was left to stop"
    layout.stopping_file.unlink(missing_ok=True)
    return fail(
        f"not ready after {READY_WITHIN_S:g} s ({reason}){stopped}: see {layout.log_dir} and 'hypervigil doctor'"
    )


def _found_for_sure(layout: Layout) -> dict[str, int]:
    """Who runs that ``up`` did not start; where a monitor is alone, its enforcer may be about to be started again."""
    deadline = time.monotonic() + ENFORCER_BACK_WITHIN_S
    while True:
        found = strangers(layout, read_processes(layout))
        if not found or "enforcer" in found or time.monotonic() >= deadline:
            return found
        time.sleep(0.25)


@click.command()
@printer(show.sentences)
@click.pass_context
def off(context: click.Context) -> dict[str, Any]:
    """Stop everything and remove every limit, filter and pin, also when all processes are dead."""
    layout = layout_of(context)
    need_root("hypervigil off")
    # Its enforcer would put back what is taken away here, and no longer know what was before.
    found = _found_for_sure(layout)
    if "enforcer" in found:
        fail(f"{told(found)}; {mend(found)}, then run 'hypervigil off' again; nothing was changed")
    done = stop_everything(layout)
    done += undo_all(layout.run_dir, layout.enforcer_state, layout.pin_dir)
    layout.stopping_file.unlink(missing_ok=True)
    left = strangers(layout, None)
    # The folder is the monitor's: what cannot be removed from it must not keep 'off' from ending.
    with contextlib.suppress(OSError):
        if left:
            layout.handed_policy.unlink()
        else:
            renew_monitor_dir(layout, keep_policy=False)
    sentences = done or ["nothing of Hypervigil was in force"]
    return {
        "sentences": [*sentences, f"{told(left)}; {mend(left)}"] if left else sentences,
        "exit_code": 1 if left else 0,
    }


def _show_findings(console: Console, body: dict[str, Any]) -> None:
    for finding in body["findings"]:
        mark = "[green]✓[/]" if finding["good"] else ("[red]✗[/]" if finding["needed"] else "[yellow]–[/]")
        console.print(f"{mark} {finding['what']:<28} ", end="")
        console.print(finding["detail"], markup=False)


@click.command()
@printer(_show_findings)
@click.pass_context
def doctor(context: click.Context) -> dict[str, Any]:
    """Check what Hypervigil needs of this host, and whether it runs."""
    layout = layout_of(context)
    findings = [*checks.before_start(layout), *checks.running(layout)]
    bad = any(not f.good and f.needed for f in findings)
    return {
        "findings": [{"what": f.what, "good": f.good, "detail": f.detail, "needed": f.needed} for f in findings],
        "exit_code": 1 if bad else 0,
    }
