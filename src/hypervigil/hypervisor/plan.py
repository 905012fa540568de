"""From limits to settings: what each port and domain must have so that every limit on it holds. Pure.

Several limits on one thing: the strictest wins, and ending one leaves the others in force.
"""

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_address

from hypervigil.model.ids import Instant
from hypervigil.model.limits import Limit, LimitKind
from hypervigil.model.traffic import Direction, TrafficClass

LEAST = 0.001
"""Packets per second of a limit of zero: in the kernel 0 means "no limit"."""


NEVER = Instant(0.0)


class Knob(Enum):
    """What can be set at a port."""

    RATE = "rate"
    NEW_DESTINATIONS = "new-destinations"
    GATE = "gate"
    PEER = "peer"
    PROOF = "proof"


@dataclass(frozen=True, slots=True)
class Place:
    """One knob of one port."""

    knob: Knob
    direction: Direction | None = None
    traffic: TrafficClass | None = None
    address: str | None = None


@dataclass(frozen=True, slots=True)
class Setting:
    """Where a knob stands. 0 is no limit of that unit."""

    packets_per_s: float = 0.0
    octets_per_s: float = 0.0
    shut: bool = False
    """Of a gate: nothing passes; otherwise only what quarantine allows."""
    until: Instant = NEVER


def port_settings(limits: Iterable[Limit]) -> dict[Place, Setting]:
    """Settings of every port of a VM under these limits."""
    settings: dict[Place, Setting] = {}
    for limit in limits:
        if limit.grants:
            continue  # a budget is part of its ports' policy
        for place, setting in _wanted(limit):
            old = settings.get(place)
            settings[place] = setting if old is None else _strictest(old, setting)
    return settings


def _wanted(limit: Limit) -> Iterable[tuple[Place, Setting]]:
    value = max(limit.value, LEAST) if limit.value is not None else 0.0
    match limit.kind:
        case LimitKind.PACKETS | LimitKind.OCTETS:
            packets = limit.kind is LimitKind.PACKETS
            setting = Setting(value if packets else 0.0, 0.0 if packets else max(value, 1.0), until=limit.until)
            for traffic in limit.classes or (None,):
                yield Place(Knob.RATE, limit.direction, traffic), setting
        case LimitKind.NEW_DESTINATIONS:
            yield Place(Knob.NEW_DESTINATIONS), Setting(value, until=limit.until)
        case LimitKind.PEER:
            yield Place(Knob.PEER, address=_as_told(limit.peer or "")), Setting(value, until=limit.until)
        case LimitKind.SOURCE_PROOF:
            yield Place(Knob.PROOF), Setting(until=limit.until)
        case LimitKind.ISOLATE:
            yield Place(Knob.GATE), Setting(shut=True, until=limit.until)
        case LimitKind.QUARANTINE:
            yield Place(Knob.GATE), Setting(until=limit.until)
        case _:
            return


def _as_told(address: str) -> str:
    """An address written as the kernel's reader writes it."""
    with contextlib.suppress(ValueError):
        return str(ip_address(address))
    return address.lower()


def _strictest(one: Setting, other: Setting) -> Setting:
    return Setting(
        _least(one.packets_per_s, other.packets_per_s),
        _least(one.octets_per_s, other.octets_per_s),
        one.shut or other.shut,
        max(one.until, other.until),
    )


def _least(one: float, other: float) -> float:
    return min(one, other) if one and other else max(one, other)


def changes(old: Mapping[Place, Setting], new: Mapping[Place, Setting]) -> tuple[dict[Place, Setting], list[Place]]:
    """What to set and what to clear to come from ``old`` to ``new``."""
    return {place: s for place, s in new.items() if old.get(place) != s}, [p for p in old if p not in new]


def prevailing(limits: Iterable[Limit], kind: LimitKind) -> Limit | None:
    """The limit that holds for a domain among these; ``None`` where none of that kind is left.

    The strictest limit, whatever was granted; without one, the largest grant.
    """
    found = [limit for limit in limits if limit.kind is kind]
    limiting = [limit for limit in found if not limit.grants]
    if limiting:
        return min(limiting, key=value_of)
    return max(found, key=value_of, default=None)


def value_of(limit: Limit) -> float:
    """A limit's value; a kind without one counts as 1."""
    return 1.0 if limit.value is None else limit.value
