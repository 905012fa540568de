"""Single values of the policy file: each converter returns what the model takes, or says what is wrong with it."""

import math
import re
import sys
from collections.abc import Callable, Iterable
from enum import StrEnum
from ipaddress import ip_address, ip_interface, ip_network
from typing import TypeVar

from hypervigil.model.network import NAMED_ENDS, AddressPair, Budget, EndKind, RuleEnd
from hypervigil.model.services import Services
from hypervigil.model.services import parse as parse_services
from hypervigil.model.traffic import ForgedKind

LADDER = ("limit", "quarantine", "isolate", "pause")
MAX_ADDRESSES = 4096
_INTERFACE = re.compile(r"[A-Za-z0-9_.:@-]{1,15}")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_MAX_NAME = 255
_TOO_MANY = 1 << 31
_DIGITS = 30
_LONG = 10**_DIGITS
_UNCHECKED = {kind.name.lower(): kind for kind in ForgedKind if kind is not ForgedKind.UNREADABLE}
_ENDS = '"any", "outside", "gateway", "vm:NAME", "group:NAME", "tenant:NAME", "network:NAME" or an address range'

V = TypeVar("V")
Word = TypeVar("Word", bound=StrEnum)


class Fault(Exception):  # noqa: N818 - never leaves the reader
    """What is wrong with one value, said of it: "must be …"."""


def name(value: object) -> str:
    """Any printable name."""
    if not isinstance(value, str) or not value or not value.isprintable():
        raise Fault("must be text in quotes, printable and not empty")
    if len(value) > _MAX_NAME:
        raise Fault(f"must have at most {_MAX_NAME} characters, not {len(value):,}: write a shorter name")
    return value


def vm_pattern(value: object) -> str:
    """A VM's name, or the beginning of several with a ``*``."""
    text = name(value)
    if "*" in text[:-1]:
        raise Fault(f"may have a * at its end only, not {toml(text)}")
    return text


def interface(value: object) -> str:
    """The name of a network device."""
    if not isinstance(value, str) or not _INTERFACE.fullmatch(value):
        raise Fault(
            f"must be an interface's name (1 to 15 letters, digits, '_', '.', ':', '@', '-'), not {toml(value)}"
        )
    return value


def mac(value: object) -> str:
    """A MAC address, in lower case with colons."""
    text = value.lower().replace("-", ":") if isinstance(value, str) else ""
    if not _MAC.fullmatch(text):
        raise Fault(f'must be a MAC address like "52:54:00:00:00:01", not {toml(value)}')
    return text


def address(value: object) -> str:
    """An IP address that one machine can have."""
    text = value if isinstance(value, str) else ""
    try:
        found = ip_address(text)
    except ValueError:
        hint = "; write addresses one by one, without a prefix length" if "/" in text else ""
        raise Fault(f"must be an IPv4 or IPv6 address, not {toml(value)}{hint}") from None
    if found.is_unspecified or found.is_multicast or "%" in text:
        raise Fault(f"must be an address that one machine can have, not {toml(value)}")
    return str(found)


def cidr(value: object) -> str:
    """A network's address and prefix length."""
    text = value if isinstance(value, str) and "/" in value else ""
    try:
        found = ip_interface(text)
    except ValueError:
        raise Fault(f'must be a network like "10.60.0.0/24", not {toml(value)}') from None
    if found.ip != found.network.network_address:
        raise Fault(f'names a machine, not a network: write "{found.network}"')
    return str(found.network)


def flag(value: object) -> bool:
    """Yes or no."""
    if not isinstance(value, bool):
        raise Fault(f"must be true or false, not {toml(value)}")
    return value


def rung(value: object) -> str:
    """A rung of the ladder."""
    if isinstance(value, str) and value in LADDER:
        return value
    raise Fault(f"must hold only {', '.join(LADDER)}, not {toml(value)}")


def positive(value: object) -> float:
    """A finite number above 0."""
    # Compared, not converted: a whole number in the file may be larger than any float.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise Fault(f"must be a number above 0, not {toml(value)}")
    if value > sys.float_info.max:
        raise Fault(f"is too large ({toml(value)}): write a smaller number")
    return float(value)


def count(value: object) -> int:
    """A whole number above 0."""
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise Fault(f"must be a whole number above 0, not {toml(value)}")
    if value >= _TOO_MANY:
        raise Fault(f"is too large ({toml(value)}): write a number below {_TOO_MANY:,}")
    return value


def forged_kind(value: object) -> ForgedKind:
    """A kind of forgery by its name."""
    if isinstance(value, str) and value in _UNCHECKED:
        return _UNCHECKED[value]
    raise Fault(f"must hold only {', '.join(_UNCHECKED)}, not {toml(value)}")


def rule_end(value: object) -> RuleEnd:
    """One end of a rule."""
    text = value if isinstance(value, str) else ""
    if text in {EndKind.ANY, EndKind.OUTSIDE, EndKind.GATEWAY}:
        return RuleEnd(EndKind(text))
    kind, colon, called = text.partition(":")
    if colon and kind in set(NAMED_ENDS) and called:
        return RuleEnd(EndKind(kind), name(called))
    try:
        found = ip_network(text)
    except ValueError:
        if "/" in text:
            cidr(text)  # says why
        raise Fault(f"must be {_ENDS}, not {toml(value)}") from None
    return RuleEnd(EndKind.RANGE, str(found))


def services(value: object) -> Services:
    """What a rule is about."""
    return Services.of(one for part in some(_services)(value) for one in part.ranges)


def _services(value: object) -> Services:
    if not isinstance(value, str):
        raise Fault(f'must hold services like "tcp/443", not {toml(value)}')
    try:
        return parse_services(value)
    except ValueError as error:
        raise Fault(f"holds {toml(value)}, which {error}") from None


def positive_or_unbounded(value: object) -> float:
    """A number above 0, or infinity for ``"unbounded"``."""
    if value == "unbounded":
        return math.inf
    try:
        return positive(value)
    except Fault as fault:
        raise Fault(f'{fault}; "unbounded" is no bound') from None


def budget(value: object) -> Budget:
    """What a VM may take."""
    return Budget(**_table(value, _BUDGET | {"broadcasts_per_s": positive_or_unbounded}))  # type: ignore[arg-type]


def narrower_budget(value: object) -> Budget:
    """What a tenant wants its VMs to take at most: it takes off no bound."""
    return Budget(**_table(value, _BUDGET))  # type: ignore[arg-type]


_BUDGET: dict[str, Callable[[object], float]] = {
    "packets_per_s": positive,
    "octets_per_s": positive,
    "new_flows_per_s": positive,
    "table_entries": count,
    "broadcasts_per_s": positive,
}


def address_pair(value: object) -> AddressPair:
    """An address that a NIC may use besides its own, with its MAC if that is special."""
    keys: dict[str, Callable[[object], str]] = {"address": address, "mac": mac}
    found = _table(value, keys)
    if "address" not in found:
        raise Fault('must hold tables like { address = "10.60.0.100" }, with an address each')
    return AddressPair(**found)


def _table(value: object, keys: dict[str, Callable[[object], V]]) -> dict[str, V]:
    if not isinstance(value, dict):
        raise Fault(f"must be a table in {{ }} with {', '.join(keys)}, not {toml(value)}")
    found = {}
    for key, item in value.items():
        if key not in keys:
            raise Fault(f"has the unknown key {quoted(key)}: known are {', '.join(keys)}")
        try:
            found[key] = keys[key](item)
        except Fault as fault:
            raise Fault(f"has a {key} that {fault}") from None
    return found


def several(one: Callable[[object], V], *, at_least: int = 0) -> Callable[[object], tuple[V, ...]]:
    """A list of such values."""

    def convert(value: object) -> tuple[V, ...]:
        if not isinstance(value, list):
            raise Fault(f"must be a list in [ ], not {toml(value)}")
        if not at_least <= len(value) <= MAX_ADDRESSES:
            raise Fault(f"must hold {at_least} to {MAX_ADDRESSES} entries, not {len(value)}")
        return tuple(one(item) for item in value)

    return convert


def some(one: Callable[[object], V]) -> Callable[[object], tuple[V, ...]]:
    """One such value, or a list of at least one."""
    listed = several(one, at_least=1)
    return lambda value: listed(value) if isinstance(value, list) else (one(value),)


def word(kind: type[Word]) -> Callable[[object], Word]:
    """One of a few words."""

    def convert(value: object) -> Word:
        if isinstance(value, str) and value in set(kind):
            return kind(value)
        raise Fault(f"must be {' or '.join(toml(str(one)) for one in kind)}, not {toml(value)}")

    return convert


# --- words -----------------------------------------------------------------------------------------------------------
def clean(text: str) -> str:
    """Text that a terminal can show."""
    return "".join(c if c.isprintable() else "?" for c in text)


def quoted(text: str) -> str:
    """A name of the operator's, short and clean."""
    return "'" + clean(text if len(text) <= 60 else text[:59] + "…") + "'"


def toml(value: object) -> str:
    """A value as the operator wrote it, or what it is."""
    match value:
        case str():
            return f'"{clean(value if len(value) <= 60 else value[:59] + "…")}"'
        case bool():
            return "true" if value else "false"
        case float():
            return f"{value:.20g}"
        case int():
            # Python writes out no number of thousands of digits, and nobody wants to read one.
            return str(value) if abs(value) < _LONG else f"a number of more than {_DIGITS} digits"
        case list():
            return "a list"
        case dict():
            return "a table"
        case _:
            return "a date or time"


def shown(value: object) -> str:
    """A value of the model as people read it."""
    match value:
        case ForgedKind():
            return value.name.lower()
        case tuple():
            return ", ".join(shown(item) for item in value) or "none"
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:g}"
        case Budget():
            return ", ".join(f"{key} {_bound(bound)}" for key, bound in _bounds(value)) or "none"
        case AddressPair(address=one, mac=special):
            return f"{one} at {special}" if special else one
        case _:
            return str(value)


def _bounds(value: Budget) -> Iterable[tuple[str, float]]:
    for key in ("packets_per_s", "octets_per_s", "new_flows_per_s", "table_entries", "broadcasts_per_s"):
        bound = getattr(value, key)
        if bound is not None:
            yield key, bound


def _bound(value: float) -> str:
    return "unbounded" if value == math.inf else f"{value:g}"
