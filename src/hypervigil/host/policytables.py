"""The tables of the policy file: which keys each has, how their values are read, and what of the model they become."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from hypervigil.host import policyvalues as v
from hypervigil.model.grants import GrantPolicy
from hypervigil.model.network import Between, Floor, Forwarding, Group, Rule, TenantPolicy
from hypervigil.model.policy import Bounds, Mode, NetworkPolicy, VmPolicy


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a table."""

    name: str
    convert: Callable[[object], Any]
    needed: bool = False
    field: str = ""
    """The model's name for it, where that is another."""

    @property
    def attribute(self) -> str:
        """The model's name for it."""
        return self.field or self.name


@dataclass(frozen=True, slots=True)
class Table:
    """One kind of table."""

    kind: str
    model: type
    keys: tuple[Key, ...]
    field: str
    """Where it goes in ``Policy``."""
    many: bool = True
    """Written as ``[[kind]]``, once for each."""


_RULE = (
    Key("name", v.name, needed=True),
    Key("from", v.some(v.rule_end), needed=True, field="sources"),
    Key("to", v.some(v.rule_end), needed=True, field="destinations"),
    Key("services", v.services, needed=True),
    Key("by", v.name),
)
_FLOOR = (Key("between", v.word(Between)), Key("outside", v.flag))
TABLES: tuple[Table, ...] = (
    Table("bounds", Bounds, tuple(Key(field.name, v.positive) for field in fields(Bounds)), "bounds", many=False),
    Table("grants", GrantPolicy, tuple(Key(f.name, v.positive) for f in fields(GrantPolicy)), "grants", many=False),
    Table(
        "network",
        NetworkPolicy,
        (
            Key("name", v.name, needed=True),
            Key("bridge", v.interface),
            Key("cidr", v.cidr),
            Key("trusted_dhcp_macs", v.several(v.mac)),
            Key("free_until_leased", v.flag),
            Key("uplinks", v.several(v.interface)),
            Key("spans_hosts", v.flag),
            Key("forwarding", v.word(Forwarding)),
            Key("members", v.some(v.rule_end)),
            Key("between", v.word(Between)),
            Key("gateways", v.several(v.address)),
            Key("reaches", v.several(v.name)),
            Key("outside", v.flag),
        ),
        "networks",
    ),
    Table(
        "vm",
        VmPolicy,
        (
            Key("name", v.name, needed=True),
            Key("tenant", v.name),
            Key("mode", v.word(Mode)),
            Key("addresses", v.several(v.address)),
            Key("quarantine_allows", v.several(v.address)),
            Key("address_pairs", v.several(v.address_pair)),
            Key("unchecked", v.several(v.forged_kind)),
            Key("budget", v.budget),
        ),
        "vms",
    ),
    Table("group", Group, (Key("name", v.name, needed=True), Key("vms", v.some(v.vm_pattern), needed=True)), "groups"),
    Table("path", Rule, _RULE, "paths"),
    Table("deny", Rule, _RULE, "denials"),
    Table(
        "tenant", TenantPolicy, (Key("name", v.name, needed=True), *_FLOOR, Key("budget", v.narrower_budget)), "tenants"
    ),
    Table("floor", Floor, (*_FLOOR, Key("budget", v.budget)), "floor", many=False),
)
TOP = ("mode", "ladder")
KEYS: Mapping[str, tuple[str, ...]] = {
    "": (*TOP, *(table.kind for table in TABLES)),
    **{table.kind: tuple(key.name for key in table.keys) for table in TABLES},
}
"""Every key of the file by table; ``docs/policy.md`` documents each."""


def keys_of(value: object) -> tuple[Key, ...]:
    """The keys that a value of the model was read from."""
    return next(table.keys for table in TABLES if table.model is type(value))
