"""Answers made readable: tables and sentences on a terminal. JSON is printed elsewhere, untouched."""

from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

_COLOUR = {"attacker": "red", "victim": "yellow", "reflector": "yellow", "overloaded": "magenta", "cleared": "green"}

SHOWN = 8
"""Of each kind of an agent's details; JSON has all."""


def clock(wall_at: float | None) -> str:
    """A wall-clock time of today as people read it."""
    if wall_at is None:
        return "–"
    return datetime.fromtimestamp(wall_at).astimezone().strftime("%H:%M:%S")


def row(table: Table, *cells: str | Text) -> None:
    """Add a row as it is written: names and sentences are others' to choose, and may look like markup."""
    table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells))


def role(name: str | None) -> Text:
    """A role with its colour."""
    return Text(name, _COLOUR.get(name, "white")) if name else Text("–")


def value(limit: dict[str, Any]) -> str:
    """A limit's value with its unit."""
    units = {
        "packets": "packets/s",
        "octets": "bytes/s",
        "new-destinations": "new destinations/s",
        "peer": "packets/s",
        "cpu": "of a core per vCPU",
        "block-operations": "operations/s",
        "block-octets": "bytes/s",
        "memory": "KiB",
    }
    if limit["value"] is None:
        return str(limit["kind"])
    shown = f"{limit['value']:,.6g} {units.get(limit['kind'], '')}"
    raised_from = limit.get("raised_from")
    return shown if raised_from is None else f"grant of {shown}, from {raised_from:,.6g}"


def agent(one: dict[str, Any]) -> str | Text:
    """What is heard of a VM's agent; its level is the guest's word."""
    match one["hearing"]:
        case "no-port":
            return "–"
        case "heard":
            rate = one["bytes_per_s"]
            return f"heard, level {one['level']}" + ("" if rate is None else f", {rate:,.0f} bytes/s")
        case "contradicted":
            return Text("contradicted", "yellow")
        case "silent":
            return Text(f"silent since {clock(one['reported_at'])}", "yellow")
        case "unknown":
            return "none heard"
        case other:
            return str(other)


def status(console: Console, body: dict[str, Any]) -> None:
    """``hypervigil status``."""
    word = "[green]ready[/]" if body["ready"] else "[red]not ready[/]"
    console.print(f"Hypervigil is {word}, mode [bold]{body['mode']}[/], since {clock(body['since'])}.")
    console.print(
        f"{body['vms']} VMs, {body['level2']} at Level 2, {body['cases_open']} open cases, "
        f"{body['limits_in_force']} limits in force, {body['withheld']} actions withheld."
    )
    agents = body["agents"]
    if ports := sum(agents.values()) - agents["no-port"]:
        console.print(
            f"{ports} VMs have a port for an agent: {agents['heard']} heard, {agents['contradicted']} contradicted, "
            f"{agents['silent']} silent, {agents['unknown']} never heard, {agents['closed']} closed."
        )
    if body["half_blind"]:
        console.print(
            f"[yellow]half blind:[/] {body['half_blind']:,} agents say that they cannot see all of their guests: "
            "'hypervigil vms' shows what."
        )
    if body["notices"]:
        console.print(
            f"Agents noticed something {body['notices']:,} times in {body['noticing']:,} VMs, in their own word: "
            "'hypervigil vms' shows the last of each."
        )
    for what in body["blind"]:
        console.print(Text.assemble(("cannot see:", "red"), f" {what}"))
    if body["looks_waiting"]:
        console.print(
            f"[yellow]busy:[/] {body['looks_waiting']:,} VMs wait to be looked at closely, the worst go first; "
            f"{body['looks_postponed']:,} looks had to wait, {body['pairs_dropped']:,} pairs were left out."
        )
    console.print(
        f"sweeps {body['sweeps']} ({body['lost']} lost), journal {body['journal']['records']} records, "
        f"signed through {body['journal']['signed_through']}."
    )


def vms(console: Console, body: dict[str, Any]) -> None:
    """``hypervigil vms``."""
    table = Table("VM", "mode", "level", "role", "case", "limits", "agent", "NICs", box=None, header_style="bold")
    for vm in body["vms"]:
        row(
            table,
            vm["name"],
            vm["mode"] + (" (exempt)" if vm["exempt_until"] else ""),
            vm["level"],
            role(vm["role"]),
            vm["case"] or "–",
            str(vm["limits"]),
            agent(vm["agent"]),
            ", ".join(nic["interface"] for nic in vm["nics"]) or "–",
        )
    console.print(table)
    for vm in body["vms"]:
        if blind := vm["agent"]["blind"]:
            console.print(f"{vm['name']}: its agent says that it cannot see: {', '.join(blind)}", markup=False)
        if (notice := vm["agent"]["notice"]) is not None:
            count = f"{vm['agent']['notices']:,} notices, the last at {clock(notice['at'])}"
            console.print(f"{vm['name']}: {count}: {notice['text']}", markup=False)


def cases(console: Console, body: dict[str, Any]) -> None:
    """``hypervigil cases``."""
    table = Table("case", "VM", "opened", "role", "class", "decided", "closed", "cause", box=None, header_style="bold")
    for case in body["cases"]:
        row(
            table,
            case["case"],
            case["name"],
            clock(case["opened_at"]),
            role(case["role"]),
            case["attack"] or "–",
            clock(case["decided_at"]),
            clock(case["closed_at"]),
            case["cause"] or "under investigation",
        )
    console.print(table)


def case(console: Console, body: dict[str, Any]) -> None:
    """``hypervigil case ID``."""
    console.print(
        Text.assemble(
            (body["case"], "bold"),
            f": {body['name']}, opened {clock(body['opened_at'])}, role ",
            role(body["role"]),
        )
    )
    if body["cause"]:
        console.print(Text(body["cause"]))
        console.print(Text(str(body["counterfactual"]), "dim"))
    table = Table("evidence", "from", "value", "its history", "in words", box=None, header_style="bold")
    since = [item for item in body["told"] if item not in body["evidence"]]
    for item in body["evidence"] + since:
        baseline = "–" if item["baseline"] is None else f"{item['baseline']:,.4g}"
        row(table, item["kind"], item["origin"], f"{item['value']:,.4g} {item['unit']}", baseline, item["text"])
    console.print(table)
    if body["details"] is not None:
        details(console, body["details"])
    limits(console, body)


def details(console: Console, body: dict[str, Any]) -> None:
    """What an agent told at Level 2, the busiest first."""
    console.print(f"Its agent's word at {clock(body['at'])}: the busiest of {body['flows_in_all']:,} flows, and more.")
    flows = Table("protocol", "began", "here", "there", "zone", "sent", "got", "bytes", box=None, header_style="bold")
    for flow in sorted(body["flows"], key=lambda one: -one["packets_out"] - one["packets_in"])[:SHOWN]:
        row(
            flows,
            str(flow["protocol"]),
            flow["began"],
            f"{flow['here']} {flow['here_port']}",
            f"{flow['there']} {flow['there_port']}",
            flow["zone"],
            f"{flow['packets_out']:,}",
            f"{flow['packets_in']:,}",
            f"{flow['octets_out'] + flow['octets_in']:,}",
        )
    senders = Table("process", "pid", "bytes sent", "sockets", "raw", box=None, header_style="bold")
    for one in body["transmitters"][:SHOWN]:
        counts = (f"{one[name]:,}" for name in ("octets_out", "sockets", "raw"))
        row(senders, one["name"], str(one["pid"]), *counts)
    devices = Table("device", "requests", "bytes", box=None, header_style="bold")
    for one in body["devices"][:SHOWN]:
        row(devices, one["name"], f"{one['requests']:,}", f"{one['octets']:,}")
    for table in (flows, senders, devices):
        if table.row_count:
            console.print(table)


def limits(console: Console, body: dict[str, Any]) -> None:
    """``hypervigil limits``."""
    table = Table("limit", "VM", "what", "classes", "direction", "from", "until", "state", "reason", box=None)
    table.header_style = "bold"
    for limit in body["limits"]:
        row(
            table,
            limit["id"],
            limit["name"],
            value(limit),
            ", ".join(limit["classes"]) or "all",
            limit["direction"],
            clock(limit["in_force_at"] or limit["from"]),
            clock(limit["lifted_at"] or limit["to"]),
            limit["state"],
            limit["reason"],
        )
    console.print(table)


def drops(console: Console, body: dict[str, Any]) -> None:
    """``hypervigil drops``."""
    if not body["drops"]:
        console.print(f"nothing was stopped at any NIC since {clock(body['since'])}")
        return
    table = Table("VM", "direction", "packets", "reason", "first", "last", box=None, header_style="bold")
    table.columns[2].justify = "right"
    for drop in body["drops"]:
        reason = drop["reason"] + ("" if drop["mode"] == "enforce" else " (monitor mode: it passed)")
        first, last = clock(drop["first_at"]), clock(drop["last_at"])
        row(table, drop["name"], drop["direction"], f"{drop['count']:,}", reason, first, last)
    console.print(table)


def topology(console: Console, body: dict[str, Any]) -> None:
    """``hypervigil topology``."""
    for unit in body["units"]:
        mark = ("●", "green" if unit["up"] else "red")
        console.print(Text.assemble(mark, f" {unit['unit']:<18} {unit['text']}"))
    table = Table("network", "bridge", "VM", "NIC", "MAC", "addresses", "binding", box=None, header_style="bold")
    for port in body["ports"]:
        row(
            table,
            port["network"] or "–",
            port["bridge"] or "–",
            port["name"],
            port["interface"],
            port["port"],
            ", ".join(port["addresses"]) or "–",
            port["binding"],
        )
    console.print(table)
    for note in body["notes"]:
        console.print(Text.assemble(("note:", "yellow"), f" {note}"))


def sentences(console: Console, body: dict[str, Any]) -> None:
    """Anything whose answer is sentences."""
    for line in body["sentences"]:
        console.print(line, markup=False)
