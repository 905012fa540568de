"""The operator's policy as a TOML file: read strictly, compared, explained, swapped whole; the last good one stays."""

import difflib
import math
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from ipaddress import ip_address, ip_interface
from pathlib import Path
from typing import Any, TypeVar

from hypervigil.host.durable import replace_file
from hypervigil.model.policy import Bounds, Mode, NetworkPolicy, Policy, VmPolicy

MAX_BYTES = 4 * 1024 * 1024
LADDER = ("limit", "quarantine", "isolate", "pause")
MAX_ADDRESSES = 4096
_INTERFACE = re.compile(r"[A-Za-z0-9_.:@-]{1,15}")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_MAX_NAME = 255

T = TypeVar("T", Bounds, NetworkPolicy, VmPolicy)


class PolicyError(Exception):
    """One sentence: what is wrong with the policy, where, and the mend."""


class _Fault(Exception):  # noqa: N818 - never leaves this module
    """What is wrong with one value, said of it: "must be …"."""


def load(path: Path) -> Policy:
    """The policy in a file."""
    return parse(read(path), str(path))


def read(path: Path) -> str:
    """The text of a policy file. ``PolicyError`` if there is none to read."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise PolicyError(f"{path} does not exist: name the policy file") from None
    except IsADirectoryError:
        raise PolicyError(f"{path} is a folder: name the policy file in it") from None
    except PermissionError:
        raise PolicyError(f"you may not read {path}: be root, or change its permissions") from None
    except OSError as error:
        raise PolicyError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise PolicyError(f"{path} is larger than the {MAX_BYTES} bytes of a policy: is it the right file?")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise PolicyError(f"{path}, line {line}: not text in UTF-8; save it as UTF-8") from None


def parse(text: str, name: str = "the policy") -> Policy:
    """The policy that ``text`` says; ``name`` is how errors call it. ``PolicyError`` in one sentence."""
    if len(text) > MAX_BYTES:
        raise PolicyError(f"{name} is larger than the {MAX_BYTES} bytes of a policy: is it the right file?")
    try:
        # The comment gives a mistake in the last line a line of its own; TOML's parser says "end of document" else.
        document = tomllib.loads(text + "\n# end\n")
    except tomllib.TOMLDecodeError as error:
        raise PolicyError(_not_toml(name, str(error))) from None
    except RecursionError:
        raise PolicyError(f"{name}: nested far too deep to be a policy") from None
    try:
        return _Reader(text, name).policy(document)
    except _Fault as fault:
        raise PolicyError(f"{name}: {fault}") from None


def diff(old: Policy, new: Policy) -> list[str]:
    """What changes from one to the other, a sentence each; empty if nothing does."""
    changes = [
        f"{key}: {_shown(getattr(old, key))} → {_shown(getattr(new, key))}"
        for key in ("mode", "ladder")
        if getattr(old, key) != getattr(new, key)
    ]
    changes += [f"bounds, {change}" for change in _changes(old.bounds, new.bounds)]
    changes += _compared("network", {n.name: n for n in old.networks}, {n.name: n for n in new.networks})
    changes += _compared("vm", {v.name: v for v in old.vms}, {v.name: v for v in new.vms})
    return changes


def describe(policy: Policy) -> list[str]:
    """What a policy says, a line each, defaults included."""
    does = "drops nothing and says what it would do" if policy.mode is Mode.MONITOR else "acts"
    lines = [f"mode {policy.mode}: {does}", f"an attacker meets, in turn: {', '.join(policy.ladder)}"]
    bounds = (f"{key.name} {getattr(policy.bounds, key.name):g}" for key in _KEYS[Bounds])
    lines.append(f"bounds: {', '.join(bounds)}")
    lines += [f"network {network.name}: {_told(network)}" for network in policy.networks]
    lines += [f"vm {vm.name}: {_told(vm)}" for vm in policy.vms]
    return lines


class PolicyStore:
    """The last good policy, kept as its text in ``policy.toml`` of a state directory."""

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / "policy.toml"

    def load(self) -> Policy | None:
        """The last good policy, or ``None`` where none was ever applied. ``PolicyError`` if somebody spoilt it."""
        return load(self.path) if self.path.exists() else None

    def text(self) -> str | None:
        """The last good policy as it was written, comments and all."""
        return read(self.path) if self.path.exists() else None

    def apply(self, text: str, name: str = "the new policy") -> Policy:
        """Check ``text``, then swap it in whole. On ``PolicyError`` or ``OSError`` the last good one stays."""
        policy = parse(text, name)
        replace_file(self.path, text.encode("utf-8"))
        return policy


# --- values: each returns what the model takes, or says what is wrong ---
def _name(value: object) -> str:
    if not isinstance(value, str) or not value or not value.isprintable() or len(value) > _MAX_NAME:
        raise _Fault("must be text in quotes, printable and not empty")
    return value


def _interface(value: object) -> str:
    if not isinstance(value, str) or not _INTERFACE.fullmatch(value):
        raise _Fault(
            f"must be an interface's name (1 to 15 letters, digits, '_', '.', ':', '@', '-'), not {_toml(value)}"
        )
    return value


def _mac(value: object) -> str:
    text = value.lower().replace("-", ":") if isinstance(value, str) else ""
    if not _MAC.fullmatch(text):
        raise _Fault(f'must be a MAC address like "52:54:00:00:00:01", not {_toml(value)}')
    return text


def _address(value: object) -> str:
    text = value if isinstance(value, str) else ""
    try:
        address = ip_address(text)
    except ValueError:
        hint = "; write addresses one by one, without a prefix length" if "/" in text else ""
        raise _Fault(f"must be an IPv4 or IPv6 address, not {_toml(value)}{hint}") from None
    if address.is_unspecified or address.is_multicast or "%" in text:
        raise _Fault(f"must be an address that one machine can have, not {_toml(value)}")
    return str(address)


def _cidr(value: object) -> str:
    text = value if isinstance(value, str) and "/" in value else ""
    try:
        interface = ip_interface(text)
    except ValueError:
        raise _Fault(f'must be a network like "10.60.0.0/24", not {_toml(value)}') from None
    if interface.ip != interface.network.network_address:
        raise _Fault(f'names a machine, not a network: write "{interface.network}"')
    return str(interface.network)


def _mode(value: object) -> Mode:
    if isinstance(value, str) and value in set(Mode):
        return Mode(value)
    raise _Fault(f'must be "monitor" or "enforce", not {_toml(value)}')


def _rung(value: object) -> str:
    if isinstance(value, str) and value in LADDER:
        return value
    raise _Fault(f"must hold only {', '.join(LADDER)}, not {_toml(value)}")


def _positive(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise _Fault(f"must be a number above 0, not {_toml(value)}")
    return float(value)


def _several(one: Callable[[object], str], *, at_least: int = 0) -> Callable[[object], tuple[str, ...]]:
    def convert(value: object) -> tuple[str, ...]:
        if not isinstance(value, list):
            raise _Fault(f"must be a list in [ ], not {_toml(value)}")
        if not at_least <= len(value) <= MAX_ADDRESSES:
            raise _Fault(f"must hold {at_least} to {MAX_ADDRESSES} entries, not {len(value)}")
        return tuple(one(item) for item in value)

    return convert


@dataclass(frozen=True, slots=True)
class _Key:
    name: str
    convert: Callable[[object], Any]
    needed: bool = False


_KEYS: Mapping[type, tuple[_Key, ...]] = {
    Bounds: tuple(_Key(field.name, _positive) for field in fields(Bounds)),
    NetworkPolicy: (
        _Key("name", _name, needed=True),
        _Key("bridge", _interface, needed=True),
        _Key("cidr", _cidr),
        _Key("trusted_dhcp_macs", _several(_mac)),
        _Key("uplinks", _several(_interface)),
    ),
    VmPolicy: (
        _Key("name", _name, needed=True),
        _Key("tenant", _name),
        _Key("mode", _mode),
        _Key("addresses", _several(_address)),
        _Key("quarantine_allows", _several(_address)),
    ),
}
_TOP = ("mode", "ladder", "bounds", "network", "vm")

KEYS: Mapping[str, tuple[str, ...]] = {
    "": _TOP,
    "bounds": tuple(key.name for key in _KEYS[Bounds]),
    "network": tuple(key.name for key in _KEYS[NetworkPolicy]),
    "vm": tuple(key.name for key in _KEYS[VmPolicy]),
}
"""Every key of the file by table; ``docs/policy.md`` documents each."""


class _Reader:
    """One file on its way to a ``Policy``; knows the text, so that errors can say the line."""

    def __init__(self, text: str, name: str) -> None:
        self._text = text
        self._file = name

    def policy(self, document: Mapping[str, object]) -> Policy:
        self._known("", document)
        values: dict[str, Any] = {}
        if "mode" in document:
            values["mode"] = self._value("mode", "mode", _mode, document["mode"])
        if "ladder" in document:
            ladder = self._value("ladder", "ladder", _several(_rung, at_least=1), document["ladder"])
            steps = [LADDER.index(rung) for rung in ladder]
            if steps != sorted(steps):
                raise _Fault(f"ladder must not step down: the order is {', '.join(LADDER)}")
            values["ladder"] = ladder
        if "bounds" in document:
            values["bounds"] = self._bounds(document["bounds"])
        values["networks"] = self._tables("network", NetworkPolicy, document.get("network", []))
        values["vms"] = self._tables("vm", VmPolicy, document.get("vm", []))
        self._once("network", [network.name for network in values["networks"]])
        self._once("vm", [vm.name for vm in values["vms"]])
        self._shared_nowhere("bridge", "network", [(network.name, (network.bridge,)) for network in values["networks"]])
        self._shared_nowhere("address", "vm", [(vm.name, vm.addresses) for vm in values["vms"]])
        return Policy(**values)

    def _bounds(self, table: object) -> Bounds:
        bounds = self._table("bounds", Bounds, table)
        if bounds.hold_s > bounds.hold_max_s:
            raise _Fault(
                f"bounds: hold_s ({bounds.hold_s:g}) is above hold_max_s ({bounds.hold_max_s:g}): raise hold_max_s"
            )
        return bounds

    def _tables(self, kind: str, model: type[T], tables: object) -> tuple[T, ...]:
        if not isinstance(tables, list):
            raise _Fault(f"{kind} must be written as [[{kind}]], with two brackets, once for each")
        return tuple(
            self._table(f"{kind} {self._called(number, table)}", model, table, kind)
            for number, table in enumerate(tables, start=1)
        )

    def _table(self, where: str, model: type[T], table: object, kind: str | None = None) -> T:
        if not isinstance(table, dict):
            raise _Fault(f"{where} must be a table: write [{where}]")
        self._known(kind or where, table, where)
        missing = [key.name for key in _KEYS[model] if key.needed and key.name not in table]
        if missing:
            raise _Fault(f"{where} has no {missing[0]}: add {missing[0]} = …")
        values = {
            key.name: self._value(f"{where}: {key.name}", key.name, key.convert, table[key.name])
            for key in _KEYS[model]
            if key.name in table
        }
        try:
            return model(**values)
        except ValueError as error:
            raise _Fault(str(error)) from None

    def _value(self, where: str, key: str, convert: Callable[[object], Any], value: object) -> Any:
        try:
            return convert(value)
        except _Fault as fault:
            raise _Fault(f"{self._line(key, value)}{where} {fault}") from None

    def _known(self, table: str, given: Mapping[str, object], where: str = "") -> None:
        for key, value in given.items():
            if key in KEYS[table]:
                continue
            near = difflib.get_close_matches(key, KEYS[table], n=1, cutoff=0.5)
            elsewhere = [f"[{name}]" for name, keys in KEYS.items() if name and name != table and key in keys]
            if near:
                mend = f"did you mean {near[0]!r}?"
            elif elsewhere:
                mend = f"it belongs into {' or '.join(elsewhere)}"
            else:
                mend = f"known are {', '.join(KEYS[table])}"
            inside = f" in {where}" if where else ""
            raise _Fault(f"{self._line(key, value)}unknown key {_quoted(key)}{inside}: {mend}")

    def _called(self, number: int, table: object) -> str:
        name = table.get("name") if isinstance(table, dict) else None
        return _quoted(name) if isinstance(name, str) else f"number {number}"

    def _once(self, kind: str, names: Sequence[str]) -> None:
        seen: set[str] = set()
        for name in names:
            if name in seen:
                raise _Fault(f"{kind} {_quoted(name)} is there twice: remove one or rename it")
            seen.add(name)

    def _shared_nowhere(self, what: str, kind: str, owners: Sequence[tuple[str, Sequence[str]]]) -> None:
        owner_of: dict[str, str] = {}
        for owner, things in owners:
            for thing in things:
                if thing in owner_of:
                    first = owner_of[thing]
                    if first == owner:
                        raise _Fault(f"{kind} {_quoted(owner)} names {what} {thing} twice: remove one")
                    raise _Fault(
                        f"{what} {thing} is claimed by {kind} {_quoted(first)} and {_quoted(owner)}: take it from one"
                    )
                owner_of[thing] = owner

    def _line(self, key: str, value: object) -> str:
        """``line 7: `` where the file leaves no doubt which line it is."""
        assigned = rf"^\s*(?:[\w.\"'-]+\.)?[\"']?{re.escape(key)}[\"']?\s*="
        header = rf"^\s*\[\[?\s*[\"']?{re.escape(key)}[\"']?\s*\]"
        lines = [
            number
            for number, line in enumerate(self._text.splitlines(), start=1)
            if re.match(assigned, line) or re.match(header, line)
        ]
        if len(lines) > 1 and isinstance(value, str):
            texts = self._text.splitlines()
            lines = [number for number in lines if value in texts[number - 1]]
        return f"line {lines[0]}: " if len(lines) == 1 else ""


# --- words ---------------------------------------------------------------------------------------------------------
def _not_toml(name: str, complaint: str) -> str:
    found = re.fullmatch(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", complaint, re.DOTALL)
    if found is None:
        return f"{name} is not TOML: {_clean(complaint)}"
    what, line, column = found.groups()
    where = f"line {line}, column {column}" if line else "at its end"
    return f"{name}, {where}: not TOML ({_clean(what)}); mend that line"


def _clean(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)


def _quoted(text: str) -> str:
    return "'" + _clean(text if len(text) <= 60 else text[:59] + "…") + "'"


def _toml(value: object) -> str:
    """A value as the operator wrote it, or what it is."""
    match value:
        case str():
            return f'"{_clean(value if len(value) <= 60 else value[:59] + "…")}"'
        case bool():
            return "true" if value else "false"
        case int() | float():
            return f"{value:.20g}" if isinstance(value, float) else str(value)[:60]
        case list():
            return "a list"
        case dict():
            return "a table"
        case _:
            return "a date or time"


def _shown(value: object) -> str:
    match value:
        case tuple():
            return ", ".join(str(item) for item in value) or "none"
        case None:
            return "none"
        case float():
            return f"{value:g}"
        case _:
            return str(value)


def _changes(old: object, new: object) -> list[str]:
    keys = _KEYS[type(old)]
    return [
        f"{key.name}: {_shown(getattr(old, key.name))} → {_shown(getattr(new, key.name))}"
        for key in keys
        if getattr(old, key.name) != getattr(new, key.name)
    ]


def _compared(kind: str, old: Mapping[str, object], new: Mapping[str, object]) -> list[str]:
    changes = [f"{kind} {name}: removed" for name in old if name not in new]
    for name, table in new.items():
        if name not in old:
            changes.append(f"{kind} {name}: added ({_told(table)})")
        else:
            changes += [f"{kind} {name}, {change}" for change in _changes(old[name], table)]
    return changes


def _told(table: object) -> str:
    """The keys of a table that say more than its default, without its name."""
    defaults = {f.name: f.default for f in fields(table) if f.default is not MISSING}  # type: ignore[arg-type]
    told = [
        f"{key.name} {_shown(getattr(table, key.name))}"
        for key in _KEYS[type(table)]
        if key.name != "name" and getattr(table, key.name) != defaults.get(key.name, MISSING)
    ]
    return "; ".join(told) or "as by default"
