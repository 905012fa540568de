"""The commands an operator has, each a few lines: ask the monitor, print the answer."""

from datetime import datetime
from pathlib import Path
from typing import Any

import click

from hypervigil import __version__
from hypervigil.entrypoints.cli import show
from hypervigil.entrypoints.cli.agent import agent
from hypervigil.entrypoints.cli.common import ask_monitor, fail, operator, places, printer
from hypervigil.entrypoints.cli.journal import journal
from hypervigil.entrypoints.cli.lifecycle import doctor, off, up
from hypervigil.entrypoints.cli.network import network
from hypervigil.entrypoints.cli.policy import policy
from hypervigil.entrypoints.cli.replay import replay
from hypervigil.entrypoints.cli.times import parse_duration, parse_until
from hypervigil.entrypoints.layout import Layout
from hypervigil.model.ids import CaseId
from hypervigil.model.limits import LimitKind
from hypervigil.model.traffic import Direction, TrafficClass
from hypervigil.wire import control


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="hypervigil")
@places
@click.pass_context
def main(context: click.Context) -> None:
    """Watch every virtual machine of this host; tell attackers from victims; limit only until that is known."""
    if context.obj is None:
        context.obj = Layout()


@main.command()
@printer(show.status)
@click.pass_context
def status(context: click.Context) -> dict[str, Any]:
    """Say how Hypervigil itself is."""
    return ask_monitor(context, control.ShowStatus())


@main.command()
@printer(show.vms)
@click.pass_context
def vms(context: click.Context) -> dict[str, Any]:
    """List the VMs with level, role, mode, limits, and what is heard of their agents."""
    return ask_monitor(context, control.ShowVms())


@main.command()
@click.option("--open", "only_open", is_flag=True, help="Only cases that are not closed.")
@printer(show.cases)
@click.pass_context
def cases(context: click.Context, *, only_open: bool) -> dict[str, Any]:
    """List cases, newest first."""
    return ask_monitor(context, control.ShowCases(closed=not only_open))


@main.command()
@click.argument("case_id", metavar="ID")
@printer(show.case)
@click.pass_context
def case(context: click.Context, case_id: str) -> dict[str, Any]:
    """Show one case with its evidence and what would have cleared it."""
    return ask_monitor(context, control.ShowCase(case=CaseId(case_id)))


@main.command()
@click.option("--all", "ended", is_flag=True, help="Those that have ended too.")
@printer(show.limits)
@click.pass_context
def limits(context: click.Context, *, ended: bool) -> dict[str, Any]:
    """List the limits in force."""
    return ask_monitor(context, control.ShowLimits(ended=ended))


@main.command()
@click.argument("name", metavar="[VM]", required=False)
@printer(show.drops)
@click.pass_context
def drops(context: click.Context, name: str | None) -> dict[str, Any]:
    """Count what did not cross the NICs of a VM, or of all, and say why."""
    return ask_monitor(context, control.ShowDrops(name=name))


@main.command()
@printer(show.topology)
@click.pass_context
def topology(context: click.Context) -> dict[str, Any]:
    """Show units, networks, ports and what is bound to them."""
    return ask_monitor(context, control.ShowTopology())


@main.command()
@click.argument("name", metavar="VM")
@printer(show.sentences)
@click.pass_context
def release(context: click.Context, name: str) -> dict[str, Any]:
    """End every limit of a VM and close its case."""
    return ask_monitor(context, control.Release(name=name, by=operator()))


_VALUED = {
    "packets": (LimitKind.PACKETS, "packets per second"),
    "octets": (LimitKind.OCTETS, "bytes per second"),
    "new-destinations": (LimitKind.NEW_DESTINATIONS, "new destinations per second"),
    "cpu": (LimitKind.CPU, "of one core per vCPU, 0 to 1"),
    "block-operations": (LimitKind.BLOCK_OPERATIONS, "operations per second and disk"),
    "block-octets": (LimitKind.BLOCK_OCTETS, "bytes per second and disk"),
    "memory": (LimitKind.MEMORY, "balloon target in KiB"),
}
_FLAGS = {
    "source-proof": (LimitKind.SOURCE_PROOF, "Inbound: who begins a TCP connection has to prove its address."),
    "isolate": (LimitKind.ISOLATE, "No traffic at all."),
    "quarantine": (LimitKind.QUARANTINE, "No traffic but with the addresses that the policy allows."),
    "pause": (LimitKind.PAUSE, "The VM stands still."),
}
_MOST = {LimitKind.CPU: 1.0}
"""What is a share is at most all of it."""
_BY_CLASS = {LimitKind.PACKETS, LimitKind.OCTETS}
_INBOUND = {LimitKind.PEER, LimitKind.SOURCE_PROOF}


def _limit_options(command: Any) -> Any:
    for name, (kind, unit) in reversed(_VALUED.items()):
        span = click.FloatRange(min=0, max=_MOST.get(kind))
        command = click.option(f"--{name}", type=span, help=unit + ".")(command)
    for name, (_, what) in reversed(_FLAGS.items()):
        command = click.option(f"--{name}", is_flag=True, help=what)(command)
    return command


@main.command()
@click.argument("name", metavar="VM")
@_limit_options
@click.option("--peer", metavar="ADDRESS", help="With --packets: inbound, from this one source only.")
@click.option(
    "--class",
    "classes",
    multiple=True,
    type=click.Choice([c.name.lower() for c in TrafficClass]),
    help="With --packets or --octets: only this class; may be repeated.",
)
@click.option("--direction", type=click.Choice(["out", "in"]), help="With --packets or --octets; out if left out.")
@click.option("--for", "duration", required=True, metavar="TIME", help="How long: 90s, 10m, 1h30m.")
@printer(show.sentences)
@click.pass_context
def limit(context: click.Context, /, name: str, duration: str, **options: Any) -> dict[str, Any]:
    """Put a limit of your own on a VM."""
    chosen = [(kind, options[key.replace("-", "_")]) for key, (kind, _) in _VALUED.items()]
    wanted = [(kind, value) for kind, value in chosen if value is not None]
    wanted += [(kind, None) for key, (kind, _) in _FLAGS.items() if options[key.replace("-", "_")]]
    if len(wanted) != 1:
        fail("say exactly one thing to limit, for example --packets 100, --cpu 0.5 or --isolate")
    kind, value = wanted[0]
    if options["peer"] is not None:
        if kind is not LimitKind.PACKETS:
            fail("--peer goes with --packets: it limits the packets that come from one source")
        kind = LimitKind.PEER
    if kind not in _BY_CLASS and (options["classes"] or options["direction"]):
        fail(
            "--class and --direction go with --packets and --octets alone, and not with --peer: "
            "leave them out, this limit is the same without them"
        )
    try:
        for_s = parse_duration(duration)
    except ValueError as error:
        fail(str(error))
    request = control.PutLimit(
        name=name,
        kind=kind,
        value=value,
        for_s=for_s,
        direction=Direction.IN if kind in _INBOUND else Direction[(options["direction"] or "out").upper()],
        classes=frozenset(TrafficClass[c.upper()] for c in options["classes"]),
        peer=options["peer"],
        by=operator(),
    )
    return ask_monitor(context, request)


@main.command()
@click.argument("name", metavar="VM")
@click.option("--until", required=True, metavar="TIME", help="A clock time, a date and time, a duration, or 'now'.")
@printer(show.sentences)
@click.pass_context
def exempt(context: click.Context, name: str, until: str) -> dict[str, Any]:
    """Judge a VM as always but limit it not, until a time ('now' ends it)."""
    try:
        for_s = 0.0 if until == "now" else parse_until(until, datetime.now().astimezone())
    except ValueError as error:
        fail(str(error))
    return ask_monitor(context, control.Exempt(name=name, for_s=for_s, by=operator()))


@main.group()
def history() -> None:
    """Keep or move what the judge has learned."""


@history.command("show")
@printer(show.sentences)
@click.pass_context
def history_show(context: click.Context) -> dict[str, Any]:
    """Say how much history each VM has."""
    body = ask_monitor(context, control.ShowVms())
    lines = [f"{vm['name']}: {vm['samples']} seconds learned" for vm in body["vms"]]
    return {"sentences": lines, "vms": [{"name": vm["name"], "samples": vm["samples"]} for vm in body["vms"]]}


@history.command("export")
@click.argument("path", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--vm", "names", metavar="NAME", multiple=True, help="Only of this VM, by name or UUID; may be repeated.")
@printer(show.sentences)
@click.pass_context
def history_export(context: click.Context, path: Path, names: tuple[str, ...]) -> dict[str, Any]:
    """Write what the judge has learned to a file, to keep it or to take it with a VM to another host."""
    body = ask_monitor(context, control.ExportHistory(names=names))
    data: bytes = body["data"]
    try:
        path.write_bytes(data)
    except OSError as error:
        fail(f"cannot write {path}: {error.strerror}; choose another place")
    vms = f"{body['vms']} VM{'' if body['vms'] == 1 else 's'}"
    return {"sentences": [f"wrote the history of {vms} to {path}"], "vms": body["vms"], "bytes": len(data)}


@history.command("import")
@click.argument("path", type=click.Path(dir_okay=False, path_type=Path))
@printer(show.sentences)
@click.pass_context
def history_import(context: click.Context, path: Path) -> dict[str, Any]:
    """Take over what an exported file says of its VMs; nothing changes for others."""
    try:
        data = path.read_bytes()
    except OSError as error:
        fail(f"cannot read {path}: {error.strerror}; give a file that 'hypervigil history export' wrote")
    return ask_monitor(context, control.ImportHistory(data=data, by=operator()))


for _command in (up, off, doctor, agent, journal, network, policy, replay):
    main.add_command(_command)

if __name__ == "__main__":
    main()
