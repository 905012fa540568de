"""From a TOML document to a ``Policy``: strict, and every complaint says the line where the file leaves no doubt."""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any

from hypervigil.host import policyvalues as v
from hypervigil.host.policytables import KEYS, TABLES, Table
from hypervigil.host.policyvalues import Fault, quoted
from hypervigil.model.network import EndKind, Forwarding, Rule, RuleEnd
from hypervigil.model.policy import Bounds, Mode, NetworkPolicy, Policy, VmPolicy

_MEMBERS = (EndKind.VM, EndKind.GROUP, EndKind.TENANT)
_NAMED_AS = {EndKind.GROUP: "group", EndKind.NETWORK: "network", EndKind.TENANT: "tenant"}


@dataclass(frozen=True, slots=True)
class _Place:
    """One table of the file: its kind, which of its kind it is, and how errors call it."""

    kind: str = ""
    number: int = 0
    called: str = ""


class Reader:
    """One file on its way to a ``Policy``. ``policyvalues.Fault`` says what is wrong."""

    def __init__(self, text: str, unsaid: Mode = Mode.MONITOR) -> None:
        self._unsaid = unsaid
        self._lines = text.splitlines()

    def policy(self, document: Mapping[str, object]) -> Policy:
        """The policy that a document says."""
        self._known(_Place(), document)
        values: dict[str, Any] = {"mode": self._unsaid}
        if "mode" in document:
            values["mode"] = self._value(_Place(), "mode", v.word(Mode), document["mode"])
        if "ladder" in document:
            values["ladder"] = self._ladder(document["ladder"])
        for table in TABLES:
            if table.kind in document:
                values[table.field] = self._tables(table, document[table.kind])
        policy = Policy(**values)
        self._bounds(policy.bounds)
        self._once(policy)
        bridges = [(n.name, (n.bridge,) if n.bridge else ()) for n in policy.networks]
        self._shared_nowhere("bridge", "network", "bridge", bridges)
        self._addresses(policy)
        self._references(policy)
        return policy

    def _ladder(self, value: object) -> tuple[str, ...]:
        ladder: tuple[str, ...] = self._value(_Place(), "ladder", v.several(v.rung, at_least=1), value)
        steps = [v.LADDER.index(rung) for rung in ladder]
        if steps != sorted(steps):
            line = self._line("ladder", None, _Place())
            raise Fault(f"{line}ladder must not step down: the order is {', '.join(v.LADDER)}")
        return ladder

    # --- tables ---
    def _tables(self, table: Table, given: object) -> Any:
        if not table.many:
            return self._table(table, _Place(table.kind, 1, table.kind), given)
        if not isinstance(given, list):
            line = self._line(table.kind, given, _Place())
            raise Fault(f"{line}{table.kind} must be written as [[{table.kind}]], with two brackets, once for each")
        return tuple(
            self._table(table, _Place(table.kind, number, f"{table.kind} {_called(number, one)}"), one)
            for number, one in enumerate(given, start=1)
        )

    def _table(self, table: Table, place: _Place, given: object) -> Any:
        if not isinstance(given, dict):
            raise Fault(f"{self._header(place)}{place.called} must be a table: write [{place.called}]")
        self._known(place, given)
        missing = [key.name for key in table.keys if key.needed and key.name not in given]
        if table.model is NetworkPolicy and "bridge" not in given:
            where = "cidr" if given.get("forwarding") == Forwarding.ROUTED else "bridge"
            missing += [where] if where not in given else []
        if missing:
            raise Fault(f"{self._header(place)}{place.called} has no {missing[0]}: add {missing[0]} = …")
        values = {
            key.attribute: self._value(place, key.name, key.convert, given[key.name])
            for key in table.keys
            if key.name in given
        }
        if table.model is NetworkPolicy:
            values.setdefault("bridge", None)
        try:
            return table.model(**values)
        except ValueError as error:
            said = str(error).removeprefix(f"{place.kind} {given.get('name')}: ")
            spoken_of = [key for key in given if re.search(rf"\b{re.escape(key)}\b", said)]
            line = self._line(spoken_of[0], None, place) if len(spoken_of) == 1 else ""
            raise Fault(f"{line or self._header(place)}{error}") from None

    def _value(self, place: _Place, key: str, convert: Callable[[object], Any], value: object) -> Any:
        where = f"{place.called}: {key}" if place.called else key
        try:
            return convert(value)
        except Fault as fault:
            raise Fault(f"{self._line(key, value, place)}{where} {fault}") from None

    def _known(self, place: _Place, given: Mapping[str, object]) -> None:
        for key, value in given.items():
            if key in KEYS[place.kind]:
                continue
            near = difflib.get_close_matches(key, KEYS[place.kind], n=1, cutoff=0.5)
            elsewhere = [f"[{name}]" for name, keys in KEYS.items() if name and name != place.kind and key in keys]
            if elsewhere:
                mend = f"it belongs into {' or '.join(elsewhere)}"
            elif near:
                mend = f"did you mean {near[0]!r}?"
            else:
                mend = f"known are {', '.join(KEYS[place.kind])}"
            inside = f" in {place.called}" if place.called else ""
            raise Fault(f"{self._line(key, value, place)}unknown key {quoted(key)}{inside}: {mend}")

    # --- what must agree between tables ---
    def _bounds(self, bounds: Bounds) -> None:
        if bounds.hold_s > bounds.hold_max_s:
            place = _Place("bounds", 1)
            line = self._line("hold_s", None, place) or self._line("hold_max_s", None, place)
            raise Fault(
                f"{line}bounds: hold_s ({bounds.hold_s:g}) is above hold_max_s ({bounds.hold_max_s:g}): "
                "raise hold_max_s"
            )

    def _once(self, policy: Policy) -> None:
        for table in TABLES:
            names = [one.name for one in getattr(policy, table.field)] if table.many else []
            seen: set[str] = set()
            for number, name in enumerate(names, start=1):
                if name in seen:
                    line = self._line("name", None, _Place(table.kind, number))
                    raise Fault(f"{line}{table.kind} {quoted(name)} is there twice: remove one or rename it")
                seen.add(name)

    def _shared_nowhere(self, what: str, kind: str, key: str, owners: Sequence[tuple[str, Sequence[str]]]) -> None:
        """``owners`` are all tables of this kind, in order, and what each says under ``key``."""
        owner_of: dict[str, str] = {}
        for number, (owner, things) in enumerate(owners, start=1):
            for thing in things:
                if thing in owner_of:
                    first, line = owner_of[thing], self._line(key, None, _Place(kind, number))
                    if first == owner:
                        raise Fault(f"{line}{kind} {quoted(owner)} names {what} {thing} twice: remove one")
                    raise Fault(
                        f"{line}{what} {thing} is claimed by {kind} {quoted(first)} and {quoted(owner)}: "
                        "take it from one"
                    )
                owner_of[thing] = owner

    def _addresses(self, policy: Policy) -> None:
        self._shared_nowhere("address", "vm", "addresses", [(vm.name, vm.addresses) for vm in policy.vms])
        # Each network may have the same link-local one: it means nothing beyond it.
        far = [(n.name, [one for one in n.gateways if not ip_address(one).is_link_local]) for n in policy.networks]
        self._shared_nowhere("gateway", "network", "gateways", far)
        owners = {address: vm.name for vm in policy.vms for address in vm.addresses}
        for number, network in enumerate(policy.networks, start=1):
            place = _Place("network", number, f"network {quoted(network.name)}")
            for gateway in network.gateways:
                if gateway in owners:
                    raise Fault(
                        f"{self._line('gateways', None, place)}{place.called}: gateway {gateway} is the address of vm "
                        f"{quoted(owners[gateway])}: a router that is a VM needs a path, not this entry"
                    )
                if network.cidr is not None and not _may_hold(network.cidr, gateway):
                    raise Fault(
                        f"{self._line('gateways', None, place)}{place.called}: gateway {gateway} is not in "
                        f"{network.cidr}: correct one of them"
                    )
        for number, vm in enumerate(policy.vms, start=1):
            for pair in vm.address_pairs:
                if pair.address in owners and owners[pair.address] != vm.name:
                    place = _Place("vm", number, f"vm {quoted(vm.name)}")
                    raise Fault(
                        f"{self._line('address_pairs', None, place)}{place.called}: {pair.address} is the own address "
                        f"of vm {quoted(owners[pair.address])}: take it out of that one's addresses to share it"
                    )

    def _references(self, policy: Policy) -> None:
        known = {
            EndKind.GROUP: [group.name for group in policy.groups],
            EndKind.NETWORK: [network.name for network in policy.networks],
            EndKind.TENANT: sorted({VmPolicy("").tenant, *(vm.tenant for vm in policy.vms)}),
        }
        for number, tenant in enumerate(policy.tenants, start=1):
            place = _Place("tenant", number, f"tenant {quoted(tenant.name)}")
            self._exist(place, "name", [RuleEnd(EndKind.TENANT, tenant.name)], known)
        for number, network in enumerate(policy.networks, start=1):
            place = _Place("network", number, f"network {quoted(network.name)}")
            for end in network.members:
                if end.kind not in _MEMBERS:
                    raise Fault(
                        f"{self._line('members', None, place)}{place.called}: members are VMs, groups and tenants, "
                        f"not {quoted(str(end))}"
                    )
            self._exist(place, "members", network.members, known)
            self._exist(place, "reaches", [RuleEnd(EndKind.NETWORK, name) for name in network.reaches], known)
        ranges = [(n.name, n.cidr) for n in policy.networks if n.cidr is not None]
        for kind, rules in (("path", policy.paths), ("deny", policy.denials)):
            for number, rule in enumerate(rules, start=1):
                self._rule(_Place(kind, number, f"{kind} {quoted(rule.name)}"), rule, known, ranges)

    def _rule(
        self, place: _Place, rule: Rule, known: Mapping[EndKind, Sequence[str]], ranges: Iterable[tuple[str, str]]
    ) -> None:
        for key, ends in (("from", rule.sources), ("to", rule.destinations)):
            self._exist(place, key, ends, known)
            for end in ends:
                for name, cidr in ranges:
                    if end.kind is EndKind.RANGE and _overlap(end.name, cidr):
                        raise Fault(
                            f"{self._line(key, None, place)}{place.called}: {end.name} lies in network {quoted(name)}: "
                            f'ranges are of the outside; write "network:{name}", a group or a VM'
                        )
        if rule.by is not None:
            self._exist(place, "by", [RuleEnd(EndKind.TENANT, rule.by)], known)
        inside = (*_NAMED_AS, EndKind.VM)
        if not any(end.kind in inside or end.kind is EndKind.ANY for end in (*rule.sources, *rule.destinations)):
            raise Fault(
                f"{self._line('from', None, place)}{place.called} goes past every VM: name one, or a group of them"
            )

    def _exist(self, place: _Place, key: str, ends: Iterable[RuleEnd], known: Mapping[EndKind, Sequence[str]]) -> None:
        for end in ends:
            if end.kind not in known or end.name in known[end.kind]:
                continue
            word = _NAMED_AS[end.kind]
            near = difflib.get_close_matches(end.name, known[end.kind], n=1, cutoff=0.5)
            lacks = (
                f"no vm has tenant {quoted(end.name)}" if word == "tenant" else f"there is no {word} {quoted(end.name)}"
            )
            mend = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known[end.kind]) or 'none yet'}"
            raise Fault(f"{self._line(key, None, place)}{place.called}: {key}: {lacks}: {mend}")

    # --- lines ---
    def _header(self, place: _Place) -> str:
        """``line 7: `` of a table as a whole: where it begins, or where its kind is given a value."""
        headers = self._headers(place.kind)
        if len(headers) >= place.number:
            return f"line {headers[place.number - 1]}: "
        return self._line(place.kind, None, _Place())

    def _line(self, key: str, value: object, place: _Place) -> str:
        """``line 7: `` where the file leaves no doubt which line it is."""
        assigned = rf"^\s*(?:[\w.\"'-]+\.)?[\"']?{re.escape(key)}[\"']?\s*="
        header = rf"^\s*\[\[?\s*[\"']?{re.escape(key)}[\"']?\s*\]"
        first, last = self._region(place)
        lines = [
            number
            for number in range(first, last + 1)
            if re.match(assigned, self._lines[number - 1]) or re.match(header, self._lines[number - 1])
        ]
        if len(lines) > 1 and isinstance(value, str):
            lines = [number for number in lines if value in self._lines[number - 1]]
        return f"line {lines[0]}: " if len(lines) == 1 else ""

    def _region(self, place: _Place) -> tuple[int, int]:
        """The lines of a table, where it has a header of its own; else the whole file."""
        whole = (1, len(self._lines))
        headers = [n for n, line in enumerate(self._lines, start=1) if re.match(r"\s*\[", line)]
        mine = self._headers(place.kind)
        if not place.kind or len(mine) < place.number:
            return whole
        start = mine[place.number - 1]
        return start, next((n - 1 for n in headers if n > start), whole[1])

    def _headers(self, kind: str) -> list[int]:
        """The lines where a table of this kind begins."""
        pattern = rf"\s*\[\[?\s*[\"']?{re.escape(kind)}[\"']?\s*\]"
        return [n for n, line in enumerate(self._lines, start=1) if re.match(pattern, line)]


def _called(number: int, table: object) -> str:
    name = table.get("name") if isinstance(table, dict) else None
    return quoted(name) if isinstance(name, str) else f"number {number}"


def _may_hold(cidr: str, address: str) -> bool:
    network, one = ip_network(cidr), ip_address(address)
    return network.version != one.version or one in network or one.is_link_local


def _overlap(one: str, other: str) -> bool:
    first, second = ip_network(one), ip_network(other)
    return first.version == second.version and first.overlaps(second)
