"""``hypervigil network``: who may reach whom, and why. Reckoned here, from a policy and an inventory."""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from hypervigil.entrypoints.cli import network_show as show
from hypervigil.entrypoints.cli.common import ask_monitor, fail, layout_of, operator, printer
from hypervigil.entrypoints.control_client import ControlError, ask
from hypervigil.host import policyfile
from hypervigil.host.inventory import compile_ports
from hypervigil.host.inventory.saved import SavedError, read_saved
from hypervigil.model.policy import Mode, Policy
from hypervigil.model.services import parse_one
from hypervigil.model.vm import Inventory
from hypervigil.network.compile import perimeter_of
from hypervigil.network.decide import Decision, decide
from hypervigil.network.ends import Directory, End, Gateway, Member, Outside, elsewhere, everybody, imagined
from hypervigil.network.exposure import Change, changes, exposures, idle
from hypervigil.network.merge import bounds_of, of_network
from hypervigil.wire import control

C = TypeVar("C", bound=Callable[..., Any])
_PATH = click.Path(path_type=Path)
_NO_VM = "neither '{}' nor '{}' is a VM of this host: name one at least"
_IMAGINED = "no host is at hand: this is about the VMs that the policy names, on the networks that hold their addresses"


@dataclass(frozen=True, slots=True)
class _World:
    """What the answers are about."""

    policy: Policy
    inventory: Inventory
    notes: tuple[str, ...] = ()


def _about(command: C) -> C:
    """Add the options that say what a question is about."""
    command = click.option(
        "--inventory",
        "inventory_path",
        type=_PATH,
        metavar="FILE",
        help="VMs of 'network show --json', not of this host.",
    )(command)
    return click.option("--file", "policy_path", type=_PATH, metavar="FILE", help="This policy, not the one in force.")(
        command
    )


@click.group()
def network() -> None:
    """Say who may reach whom, and why."""


@network.command()
@click.argument("source", metavar="FROM")
@click.argument("destination", metavar="TO")
@click.argument("service", metavar="SERVICE")
@_about
@printer(show.explained)
@click.pass_context
def explain(
    context: click.Context, /, source: str, destination: str, service: str, **about: Path | None
) -> dict[str, Any]:
    """Say whether FROM may begin SERVICE with TO, which rule of which layer decides, and how much FROM may send.

    FROM and TO are VMs, addresses, 'gateway' or 'outside'; SERVICE is for example tcp/443, icmp/echo, arp or ip/47.
    """
    try:
        wanted = parse_one(service)
    except ValueError as error:
        fail(f"'{service}' {error}")
    world = _world(context, **about)
    sources = _ends(world, source)
    destinations = _ends(world, destination)
    ways = [
        (one, other, decide(world.policy, one, other, wanted))
        for one in _gateways(sources, destinations)
        for other in _gateways(destinations, sources)
        if one != other
    ]
    if not ways:
        fail(_no_way(source, destination, sources, destinations))
    if not any(isinstance(end, Member) for one, other, _ in ways for end in (one, other)):
        fail(_NO_VM.format(source, destination))
    _, _, best = next((way for way in ways if way[2].allowed), ways[0])
    return {
        "from": source,
        "to": destination,
        "service": service,
        **_decision(best),
        "budgets": _budgets(world, {end.vm for end in sources if isinstance(end, Member)}),
        "ways": [{"from": _place(one), "to": _place(other), **_decision(found)} for one, other, found in ways],
        "notes": [*world.notes, *_withheld(world, sources, destinations, allowed=best.allowed)],
    }


@network.command()
@_about
@click.option("--vm", "only", metavar="VM", help="Only what touches this VM.")
@printer(show.audited)
@click.pass_context
def audit(context: click.Context, /, only: str | None, **about: Path | None) -> dict[str, Any]:
    """List who is exposed to whom, the gravest first, and what is weaker than it could be."""
    world = _world(context, **about)
    if only is not None:
        _ends(world, only)
    found = [
        {
            "kind": str(one.kind),
            "from": list(one.sources),
            "to": list(one.destinations),
            "services": str(one.services),
        }
        for one in exposures(world.policy, world.inventory)
        if only is None or only in (*one.sources, *one.destinations)
    ]
    notes = [*world.notes, *compile_ports(world.inventory, world.policy).notes]
    if not world.policy.ruled:
        notes.append("there is no network policy: who may reach whom is left to the bridges")
    return {"exposures": found, "notes": notes}


@network.command("show")
@_about
@printer(show.shown)
@click.pass_context
def show_network(context: click.Context, /, **about: Path | None) -> dict[str, Any]:
    """Show the networks, their members, groups, rules and budgets."""
    world = _world(context, **about)
    here = everybody(world.policy, world.inventory)
    compiled = compile_ports(world.inventory, world.policy)
    perimeters = {str(port.port): port.perimeter for port in compiled.ports}
    networks = []
    for one in world.policy.networks:
        floor = of_network(world.policy, one)
        networks.append(
            {
                "name": one.name,
                "bridge": one.bridge,
                "cidr": one.cidr,
                "forwarding": str(one.forwarding),
                "between": str(floor.between),
                "gateways": list(one.gateways),
                "reaches": list(one.reaches),
                "outside": floor.outside,
                "members": [
                    {
                        "name": member.vm,
                        "port": member.port or None,
                        "tenant": member.tenant,
                        "groups": sorted(member.groups),
                        "perimeter": perimeters.get(member.port) or perimeter_of(world.policy, member),
                        "admitted": member.admitted,
                    }
                    for member in here
                    if member.network == one.name
                ],
            }
        )
    rules = [
        {
            "kind": kind,
            "name": rule.name,
            "from": [str(end) for end in rule.sources],
            "to": [str(end) for end in rule.destinations],
            "services": str(rule.services),
            "by": rule.by,
        }
        for kind, several in (("path", world.policy.paths), ("deny", world.policy.denials))
        for rule in several
    ]
    return {
        "given": world.policy.ruled,
        "networks": networks,
        "rules": rules,
        "floors": [
            {"by": by, "between": str(floor.between), "outside": floor.outside}
            for by, floor in (
                ("provider", world.policy.floor),
                *((f"tenant {tenant.name}", tenant.floor) for tenant in world.policy.tenants),
            )
        ],
        "budgets": _budgets(world, {vm.name for vm in world.inventory.vms}),
        "grants": len(compiled.fabric.grants),
        "inventory": msgspec.to_builtins(world.inventory),
        "notes": [*world.notes, *compiled.notes],
    }


@network.command()
@click.argument("path", metavar="FILE", type=_PATH)
@click.option("--inventory", "inventory_path", type=_PATH, metavar="FILE", help="VMs of 'network show --json'.")
@printer(show.sentences)
@click.pass_context
def check(context: click.Context, path: Path, inventory_path: Path | None) -> dict[str, Any]:
    """Say whether a policy's network part is sound, and what of it comes to nothing."""
    world = _world(context, path, inventory_path)
    said = list(idle(world.policy, world.inventory))
    given = (
        "a network policy is given" if world.policy.ruled else "no network policy is given: the bridges alone decide"
    )
    return {"sentences": [f"{path}: good; {given}.", *said, *world.notes], "idle": said}


@network.command()
@click.argument("path", metavar="FILE", type=_PATH)
@printer(show.changed)
@click.pass_context
def diff(context: click.Context, path: Path) -> dict[str, Any]:
    """Say whose reach a policy file would change; change nothing."""
    _, text = _policy(path)
    return _difference(context, path, text)


@network.command("apply")
@click.argument("path", metavar="FILE", type=_PATH)
@click.option("--dry-run", is_flag=True, help="Only say whose reach would change.")
@printer(show.changed)
@click.pass_context
def apply_network(context: click.Context, path: Path, *, dry_run: bool) -> dict[str, Any]:
    """Swap the policy in one step, and say whose reach that changes; one that is not sound changes nothing."""
    _, text = _policy(path)
    body = _difference(context, path, text)
    if not dry_run:
        ask_monitor(context, control.ApplyPolicy(text=text, by=operator()))
    return body


# --- what it is about ------------------------------------------------------------------------------------------------
def _world(context: click.Context, policy_path: Path | None = None, inventory_path: Path | None = None) -> _World:
    """The policy and the VMs that a question is about; a file goes before what is in force."""
    if policy_path is None:
        in_force = _in_force(ask_monitor(context, control.ShowNetwork()))
        if inventory_path is None:
            return in_force
        return _World(in_force.policy, _saved(inventory_path))
    policy, text = _policy(policy_path)
    if inventory_path is not None:
        return _World(policy, _saved(inventory_path))
    try:
        body = ask(layout_of(context).control_socket, control.ShowNetwork())
    except ControlError:
        return _World(policy, imagined(policy), (_IMAGINED,))
    return _World(policyfile.parse(text, str(policy_path), unsaid=_unsaid(body)), _in_force(body).inventory)


def _in_force(body: dict[str, Any]) -> _World:
    return _World(msgspec.convert(body["policy"], Policy), msgspec.convert(body["inventory"], Inventory))


def _unsaid(body: dict[str, Any]) -> Mode:
    """The mode that a policy which says none would have under the monitor that answered."""
    return Mode(body.get("mode_unsaid", Mode.MONITOR))


def _policy(path: Path) -> tuple[Policy, str]:
    try:
        return policyfile.load_text(path)
    except policyfile.PolicyError as error:
        fail(str(error))


def _saved(path: Path) -> Inventory:
    try:
        return read_saved(path.read_bytes())
    except OSError as error:
        fail(f"cannot read {path}: {error.strerror}; name a file that 'hypervigil network show --json' made")
    except SavedError as error:
        fail(f"{path} {error}: make one with 'hypervigil network show --json'")


def _difference(context: click.Context, path: Path, text: str) -> dict[str, Any]:
    body = ask_monitor(context, control.ShowNetwork())
    new, world = policyfile.parse(text, str(path), unsaid=_unsaid(body)), _in_force(body)
    return {
        "reach": [_change(one) for one in changes(world.policy, new, world.inventory)],
        "policy": policyfile.diff(world.policy, new),
    }


def _change(one: Change) -> dict[str, Any]:
    more, less = (str(services) if services else None for services in (one.more, one.less))
    return {"from": list(one.sources), "to": list(one.destinations), "more": more, "less": less}


# --- ends ------------------------------------------------------------------------------------------------------------
_ANY_GATEWAY = Gateway("")


def _ends(world: _World, word: str) -> list[End]:
    """The ends that a word means: a VM's NICs, who has an address, the gateway, the outside."""
    if word == "outside":
        return [Outside()]
    if word == "gateway":
        return [_ANY_GATEWAY]
    here = everybody(world.policy, world.inventory)
    names = {vm.vm: vm.name for vm in world.inventory.vms}
    found = [member for member in here if member.vm == names.get(word, word)]  # type: ignore[call-overload]
    if found:
        return [*found]
    try:
        address = str(ip_address(word))
    except ValueError:
        known = sorted(names.values())
        if word in known:
            fail(f"{word} has no NIC on any network: give it an address or a NIC there")
        near = difflib.get_close_matches(word, known, n=1)
        mend = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known) or 'none'}"
        fail(f"no VM is called '{word}': {mend}")
    ports = compile_ports(world.inventory, world.policy).ports
    owners = {a: port.port for port in ports for a in (*port.addresses, *port.leases)}
    mine = [member for member in here if member.port == owners.get(address)]
    mine += [one.member for one in elsewhere(world.policy, world.inventory) if address in one.addresses]
    gateways = [one for one in world.policy.networks if address in one.gateways]
    return [*mine] or [Gateway(gateways[0].name)] if mine or gateways else [Outside(address)]


def _gateways(ends: Sequence[End], others: Sequence[End]) -> list[End]:
    """The same ends, with 'gateway' read as that of the other end's networks."""
    if list(ends) != [_ANY_GATEWAY]:
        return list(ends)
    return [Gateway(end.network) for end in others if isinstance(end, Member) and end.network is not None]


def _no_way(source: str, destination: str, sources: Sequence[End], destinations: Sequence[End]) -> str:
    """Why there is nothing between two ends: they are one, or a gateway is asked for where there is none."""
    if sources == destinations:
        return f"'{source}' and '{destination}' are the same: name two ends"
    word, others = (source, sources) if list(destinations) == [_ANY_GATEWAY] else (destination, destinations)
    if not any(isinstance(end, Member) for end in others):
        return _NO_VM.format(source, destination)
    return f"'{word}' is on no network of the policy, and so has no gateway: put it on one with a [[network]]"


def _place(end: End) -> str:
    return f"{end} on {end.network or 'no network of the policy'}" if isinstance(end, Member) else str(end)


def _budgets(world: _World, names: set[str]) -> list[dict[str, Any]]:
    """What each of these VMs may send, all its NICs together, and whose word each bound is."""
    directory = Directory(world.policy)
    return [
        {"vm": name, "bounds": [msgspec.to_builtins(one) for one in bounds_of(world.policy, directory.entry(name))]}
        for name in sorted(names)
    ]


def _decision(decision: Decision) -> dict[str, Any]:
    return {
        "allowed": decision.allowed,
        "layer": str(decision.layer),
        "rule": decision.rule,
        "text": decision.text,
        "steps": [
            {"layer": str(step.layer), "allowed": step.allowed, "rule": step.rule, "text": step.text}
            for step in decision.steps
        ],
    }


def _withheld(world: _World, *sides: Sequence[End], allowed: bool) -> list[str]:
    """A sentence where nothing is dropped in spite of a denial."""
    vms = dict.fromkeys(end.vm for side in sides for end in side if isinstance(end, Member))
    idle_vms = [name for name in vms if world.policy.mode_of(name) is Mode.MONITOR]
    if allowed or not idle_vms:
        return []
    return [f"in monitor mode nothing is dropped at a port: that is so for {', '.join(idle_vms)}"]
