"""Answers of ``hypervigil network`` made readable."""

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hypervigil.entrypoints.cli.show import row, sentences
from hypervigil.network.exposure import shortened

__all__ = ["audited", "changed", "explained", "sentences", "shown"]
_SAYS = {True: Text("allows", "green"), False: Text("denies", "red"), None: Text("leaves it")}


def explained(console: Console, body: dict[str, Any]) -> None:
    """``hypervigil network explain``."""
    word = "[green]allowed[/]" if body["allowed"] else "[red]denied[/]"
    console.print(f"{word}: ", end="")
    console.print(
        f"{body['from']} {'may' if body['allowed'] else 'may not'} begin {body['service']} with {body['to']}: "
        f"{body['text']} ({body['layer']})",
        markup=False,
    )
    several = len(body["ways"]) > 1
    for way in body["ways"]:
        if several:
            console.print(f"{way['from']} → {way['to']}", markup=False)
        table = Table.grid(padding=(0, 2))
        for step in way["steps"]:
            row(table, "", step["layer"], _SAYS[step["allowed"]], step["text"])
        console.print(table)
    for budget in body["budgets"]:
        bounds = "; ".join(f"{one['value']:,.10g} {one['name']} ({one['by']})" for one in budget["bounds"])
        console.print(f"{budget['vm']} may send at most: {bounds or 'without bound'}", markup=False)
    _notes(console, body)


def audited(console: Console, body: dict[str, Any]) -> None:
    """``hypervigil network audit``."""
    table = Table("what", "from", "may begin", "with", box=None, header_style="bold")
    for one in body["exposures"]:
        row(table, one["kind"], shortened(one["from"]), one["services"], shortened(one["to"]))
    console.print(table)
    _notes(console, body)


def shown(console: Console, body: dict[str, Any]) -> None:
    """``hypervigil network show``."""
    if not body["given"]:
        console.print("There is no network policy: who may reach whom is left to the bridges.")
    for network in body["networks"]:
        place = network["bridge"] or network["cidr"]
        reaches = [*network["reaches"], *(["the outside"] if network["outside"] else [])]
        console.print(
            Text.assemble(
                (network["name"], "bold"),
                f" ({place}): {network['forwarding']}, {network['between']}, ",
                f"reaches {', '.join(reaches) or 'nothing else'}",
            )
        )
        table = Table("VM", "tenant", "groups", "perimeter", box=None, header_style="bold")
        for member in network["members"]:
            perimeter = member["perimeter"] if member["admitted"] else "no member: passes nothing"
            name = member["name"] if member["port"] is not None else f"{member['name']} (not on this host)"
            row(table, name, member["tenant"], ", ".join(member["groups"]) or "–", perimeter or "–")
        console.print(table)
    rules = Table("rule", "name", "from", "to", "services", "by", box=None, header_style="bold")
    for rule in body["rules"]:
        ends = (shortened(rule["from"]), shortened(rule["to"]))
        row(rules, rule["kind"], rule["name"], *ends, rule["services"], rule["by"] or "the provider")
    console.print(rules)
    for floor in body["floors"]:
        words = [
            *(["isolates VMs from each other"] if floor["between"] == "isolated" else []),
            *([] if floor["outside"] else ["lets nobody outside"]),
        ]
        if words:
            console.print(f"floor of {floor['by']}: {' and '.join(words)}", markup=False)
    budgets = Table("VM", "may take at most", "", "by", box=None, header_style="bold")
    for budget in body["budgets"]:
        for one in budget["bounds"]:
            if one["by"] != "default":
                row(budgets, budget["vm"], f"{one['value']:,.10g}", one["name"], one["by"])
    if budgets.row_count:
        console.print(budgets)
    _notes(console, body)


def changed(console: Console, body: dict[str, Any]) -> None:
    """``hypervigil network diff`` and ``apply``."""
    for one in body["reach"]:
        for key, word in (("more", Text("may newly begin", "yellow")), ("less", Text("may no more begin"))):
            if one[key] is not None:
                told = f" {one[key]} with {shortened(one['to'])}"
                console.print(Text.assemble(f"{shortened(one['from'])} ", word, told))
    if not body["reach"]:
        console.print("nobody's reach changes")
    for line in body["policy"]:
        console.print(line, markup=False, style="dim")


def _notes(console: Console, body: dict[str, Any]) -> None:
    for note in body["notes"]:
        console.print("[yellow]note:[/] ", end="")
        console.print(note, markup=False)
