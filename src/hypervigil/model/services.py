"""What a conversation is about: protocol and destination port or ICMP type, as numbers on one line.

A service is ``protocol << 16 | port`` (ports of TCP and UDP, types of ICMP; 0 where a protocol has neither), so that a
set of services is a few ranges of numbers, and joining or taking away are plain set operations.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

ICMP, TCP, UDP, ICMP6 = 1, 6, 17, 58
NEIGHBOUR = 256 << 16
"""ARP and IPv6's neighbour and listener discovery: allowed exactly between those who may converse at all."""
LAST = NEIGHBOUR - 1
_PORTED = {"tcp": TCP, "udp": UDP}
_ICMP_FAMILIES = {"icmp": (ICMP, ICMP6), "icmp4": (ICMP,), "icmp6": (ICMP6,)}
_ICMP_NAMES = {
    "echo": {ICMP: (8, 8), ICMP6: (128, 128)},
    "unreachable": {ICMP: (3, 3), ICMP6: (1, 1)},
    "too-big": {ICMP6: (2, 2)},
    "time-exceeded": {ICMP: (11, 11), ICMP6: (3, 3)},
}
_NAMES = {TCP: "tcp", UDP: "udp", ICMP: "icmp4", ICMP6: "icmp6", NEIGHBOUR >> 16: "arp"}
_PARTED = (TCP, UDP, ICMP, ICMP6)
_WORDS = re.compile(r"(?P<name>[a-z0-9]+)(?:/(?P<first>[a-z0-9][a-z0-9-]*?)(?:-(?P<last>\d+))?)?")
_MEND = 'write for example "tcp/443", "udp/5000-5999", "icmp/echo", "ip/47" or "any"'


def service(protocol: int, port: int = 0) -> int:
    """One service: an IP protocol's number and a destination port or ICMP type."""
    return protocol << 16 | port


def canonical(one: int) -> int:
    """The service that decides about this one: neighbour and listener discovery travel as ICMPv6 and stand for ARP."""
    kind = one & 0xFFFF
    return NEIGHBOUR if one >> 16 == ICMP6 and (130 <= kind <= 137 or kind == 143) else one


@dataclass(frozen=True, slots=True)
class Services:
    """A set of services: ranges ``(first, last)``, both ends included, in order and not touching."""

    ranges: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        before = -2
        for first, last in self.ranges:
            if not before + 1 < first <= last <= NEIGHBOUR:
                raise ValueError("services must be ranges in order that neither overlap nor touch")
            before = last

    @classmethod
    def of(cls, ranges: Iterable[tuple[int, int]]) -> "Services":
        """Any ranges, brought in order and joined where they meet."""
        joined: list[tuple[int, int]] = []
        for first, last in sorted(ranges):
            if joined and first <= joined[-1][1] + 1:
                joined[-1] = (joined[-1][0], max(joined[-1][1], last))
            else:
                joined.append((first, last))
        return cls(tuple(joined))

    def __contains__(self, one: int) -> bool:
        return any(first <= one <= last for first, last in self.ranges)

    def __bool__(self) -> bool:
        return bool(self.ranges)

    def __or__(self, other: "Services") -> "Services":
        return self if self == other else Services.of((*self.ranges, *other.ranges))

    def __and__(self, other: "Services") -> "Services":
        common = []
        for first, last in self.ranges:
            for low, high in other.ranges:
                if max(first, low) <= min(last, high):
                    common.append((max(first, low), min(last, high)))
        return Services.of(common)

    def __sub__(self, other: "Services") -> "Services":
        gaps = []
        start = 0
        for first, last in other.ranges:
            if start < first:
                gaps.append((start, first - 1))
            start = last + 1
        if start <= NEIGHBOUR:
            gaps.append((start, NEIGHBOUR))
        return self & Services(tuple(gaps))

    def __str__(self) -> str:
        return ", ".join(_words(self)) or "nothing"


NOTHING = Services()
ANYTHING = Services(((0, LAST),))
"""Every IP protocol; ARP and neighbour discovery follow from it."""
ERRORS = Services.of(
    [
        *((service(ICMP, kind), service(ICMP, kind)) for kind in (3, 11, 12)),
        (service(ICMP6, 1), service(ICMP6, 4)),
    ]
)
"""ICMP's answers to what did not arrive; a conversation needs them, so they are allowed wherever one may be."""
COMPANIONS = ERRORS | Services(((NEIGHBOUR, NEIGHBOUR),))
"""What goes with every conversation, in both directions."""


def parse(text: str) -> Services:
    """``tcp``, ``tcp/443``, ``udp/5000-5999``, ``icmp/echo``, ``icmp6/1``, ``ip/47``, ``any``; else ``ValueError``."""
    if text == "any":
        return ANYTHING
    found = _WORDS.fullmatch(text)
    if found is None:
        raise ValueError(f"is no service; {_MEND}")
    name, first, last = found.group("name", "first", "last")
    if name in _ICMP_FAMILIES:
        return _icmp(name, first, last)
    if name == "ip" and first is not None:
        low, high = _numbers(first, last, 255)
        return Services(((service(low), service(high, 0xFFFF)),))
    if name in _PORTED:
        low, high = (0, 0xFFFF) if first is None else _numbers(first, last, 0xFFFF)
        return Services(((service(_PORTED[name], low), service(_PORTED[name], high)),))
    raise ValueError(f"is no service; {_MEND}")


def parse_one(text: str) -> int:
    """One service to ask about: ``tcp/443``, ``icmp/echo``, ``ip/47``, ``arp``; else ``ValueError``."""
    if text in {"arp", "nd"}:
        return NEIGHBOUR
    found = parse(text)
    (first, last), several = found.ranges[0], len(found.ranges) > 1
    protocol = first >> 16
    if protocol != last >> 16 or (protocol in _PARTED and first != last) or (several and text != "icmp/echo"):
        raise ValueError('is several services; name one, for example "tcp/443" or "icmp/echo"')
    return first


def _icmp(name: str, first: str | None, last: str | None) -> Services:
    if first is None:
        return Services.of((service(family), service(family, 0xFFFF)) for family in _ICMP_FAMILIES[name])
    if first in _ICMP_NAMES and last is None:
        named = _ICMP_NAMES[first]
        return Services.of(
            (service(family, named[family][0]), service(family, named[family][1]))
            for family in _ICMP_FAMILIES[name]
            if family in named
        )
    if name == "icmp":
        raise ValueError(
            f'names a type by number: write "icmp4/{first}" or "icmp6/{first}", or one of {", ".join(_ICMP_NAMES)}'
        )
    low, high = _numbers(first, last, 255)
    (family,) = _ICMP_FAMILIES[name]
    return Services(((service(family, low), service(family, high)),))


def _numbers(first: str, last: str | None, most: int) -> tuple[int, int]:
    if not first.isdigit() or len(first) > 5 or (last is not None and len(last) > 5):
        raise ValueError(f"is no service; {_MEND}")
    low, high = int(first), int(last if last is not None else first)
    if not low <= high <= most:
        raise ValueError(f"must go from a lower to a higher number, at most {most}")
    return low, high


def _words(services: Services) -> list[str]:
    """Ranges as people write them."""
    packets = services & ANYTHING
    missing = ANYTHING - packets
    if packets and not missing:
        return ["any"]
    if any(first >> 16 != last >> 16 and not _whole(first, last) for first, last in packets.ranges):
        return [f"any but {', '.join(_joined(missing))}"]
    return _joined(services)


def _joined(services: Services) -> list[str]:
    words = [word for first, last in services.ranges for word in _range_words(first, last)]
    for parts, whole in ((("icmp4", "icmp6"), "icmp"), (("icmp4/8", "icmp6/128"), "icmp/echo")):
        if set(parts) <= set(words):
            words = [whole if word == parts[0] else word for word in words if word != parts[1]]
    return words


def _whole(first: int, last: int) -> bool:
    """Whether a range is of whole protocols."""
    return not first & 0xFFFF and last & 0xFFFF == 0xFFFF


def _range_words(first: int, last: int) -> list[str]:
    low, high = first >> 16, last >> 16
    if low == high:
        return [_one_protocol(low, first & 0xFFFF, last & 0xFFFF)]
    if _whole(first, last):
        return [f"ip/{low}-{high}"]
    middle = service(low, 0xFFFF)
    return [*_range_words(first, middle), *_range_words(middle + 1, last)]


def _one_protocol(protocol: int, low: int, high: int) -> str:
    name = _NAMES.get(protocol, f"ip/{protocol}")
    if protocol not in _PARTED or (low, high) == (0, 0xFFFF):
        return name
    return f"{name}/{low}" if low == high else f"{name}/{low}-{high}"
