"""Which frames are an attack's, told from the guests' ordinary work: classic BPF programs for packet sockets. Pure.

Ordinary work marks its packets (`WORK_TOS`); answers of a listening socket carry the mark on, resets and ICMP errors
copy it. What leaves the attacker towards its target unmarked is the attack's, whatever address it forges.
"""

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address

WORK_TOS = 0x04
"""IP_TOS of what `lab/guest/work.py` sends; the product does not look at it."""

_KEPT_BYTES = 64
_MOST_VALUES = 250  # a conditional jump reaches 255 instructions

# Codes of classic BPF (the kernel's Documentation/networking/filter.rst).
_LOAD = {1: 0x30, 2: 0x28, 4: 0x20}
_AND, _JUMP, _JUMP_EQUAL, _RETURN = 0x54, 0x05, 0x15, 0x06
_PACKET_TYPE = 0xFFFFF004  # SKF_AD_OFF + SKF_AD_PKTTYPE
_OUTGOING = 4


class Heading(Enum):
    """Where frames go, seen from the host: in from a place, or out to it."""

    FROM_PLACE = "from"
    TO_PLACE = "to"


@dataclass(frozen=True)
class Test:
    """Whether the ``size`` bytes at ``offset``, masked, are one of ``values``; or none of them (``among`` false)."""

    offset: int
    size: int
    values: frozenset[int]
    among: bool = True
    mask: int | None = None


Alternatives = Sequence[Sequence[Test]]
"""A frame counts when all tests of any one alternative hold."""


@dataclass(frozen=True)
class Party:
    """A place as it shows on the wire. ``ext`` has no network and no MAC here: its frames are routed."""

    name: str
    address: str
    network: str | None = None
    mac: str | None = None


@dataclass(frozen=True)
class Gateway:
    """The host on one network."""

    mac: str
    address: str


@dataclass(frozen=True)
class Scene:
    """Who is there, and the host's own end of each network and (under None) of the link to ``ext``."""

    parties: Mapping[str, Party]
    gateways: Mapping[str | None, Gateway]


@dataclass(frozen=True)
class View:
    """Frames to count at one place's tap."""

    place: str
    heading: Heading
    alternatives: Alternatives


def sent(scene: Scene, attacker: str, target: str | None) -> View:
    """What the attacker sends to its target, or in its target's name to others; to anybody where it has no target."""
    source = scene.parties[attacker]
    if target is None:
        alternatives = [_unmarked(), *_arp(scene, source)]
    else:
        aim = scene.parties[target]
        alternatives = [_unmarked(_destination(aim.address)), _unmarked(_source(aim.address))]
        if aim.network == source.network:
            alternatives += _arp(scene, source)
    return View(attacker, Heading.FROM_PLACE, alternatives)


def delivered(scene: Scene, attacker: str, target: str | None) -> list[View]:
    """The same frames where they arrive: at the target, and at others those forged in the target's name.

    At the receiver a frame is the attacker's unless it carries the MAC or, routed, the address of another party.
    """
    source = scene.parties[attacker]
    others = [party for party in scene.parties.values() if party.name not in (attacker, target)]
    if target is not None:
        aim = scene.parties[target]
        views = [_arriving(scene, source, aim, arp=True)]
        for other in others:
            if other.network is not None:
                forged = _unmarked(_source(aim.address), *_by(scene, source, other, name=aim.address))
                views.append(View(other.name, Heading.TO_PLACE, [forged]))
        return views
    near = next((other.name for other in others if other.network == source.network), None)
    return [_arriving(scene, source, other, arp=other.name == near) for other in others]


def program(alternatives: Alternatives, heading: Heading) -> bytes:
    """The instructions that accept such frames going that way, as the kernel takes them (struct sock_filter)."""
    code: list[tuple[int, int, int, int]] = []
    way = Test(_PACKET_TYPE, 4, frozenset({_OUTGOING}), among=heading is Heading.TO_PLACE)
    for tests in alternatives:
        part: list[tuple[int, int, int, int] | None] = []  # None: a jump to the next alternative
        for test in (way, *tests):
            part += _compiled(test)
        part.append((_RETURN, 0, 0, _KEPT_BYTES))
        for index, instruction in enumerate(part):
            code.append(instruction or (_JUMP, 0, 0, len(part) - index - 1))
    code.append((_RETURN, 0, 0, 0))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def _compiled(test: Test) -> Iterator[tuple[int, int, int, int] | None]:
    if len(test.values) > _MOST_VALUES:
        raise ValueError(f"a test of more than {_MOST_VALUES} values")
    yield (_LOAD[test.size], 0, 0, test.offset)
    if test.mask is not None:
        yield (_AND, 0, 0, test.mask)
    for left, value in zip(range(len(test.values), 0, -1), sorted(test.values), strict=True):
        if test.among:
            yield (_JUMP_EQUAL, left, 0, value)  # past the others and the jump behind them
        else:
            yield (_JUMP_EQUAL, 0, 1, value)
            yield None
    if test.among:
        yield None


def _arriving(scene: Scene, source: Party, aim: Party, *, arp: bool) -> View:
    by = _by(scene, source, aim)
    alternatives = [_unmarked(_destination(aim.address), *by)]
    if arp and aim.network == source.network:
        alternatives += [(*tests, *by) for tests in _arp(scene, source)]
    return View(aim.name, Heading.TO_PLACE, alternatives)


def _by(scene: Scene, source: Party, at: Party, name: str | None = None) -> tuple[Test, ...]:
    """That a frame which arrives ``at`` a place may be ``source``'s. ``name``: an address that it surely forges."""
    others = [party for party in scene.parties.values() if party.name != source.name]
    gateway = scene.gateways[at.network]
    foreign = Test(26, 4, _addresses([gateway.address, *(o.address for o in others if o.address != name)]), among=False)
    if at.network is None:
        return (foreign,)
    if source.network == at.network:
        macs = [party.mac for party in others if party.network == at.network and party.mac is not None]
        return (Test(8, 4, _mac_tails([gateway.mac, *macs]), among=False),)
    return (Test(8, 4, _mac_tails([gateway.mac])), foreign)


def _unmarked(*tests: Test) -> tuple[Test, ...]:
    return (_ethertype(0x0800), Test(15, 1, frozenset({WORK_TOS}), among=False, mask=0xFC), *tests)


def _arp(scene: Scene, source: Party) -> list[tuple[Test, ...]]:
    """ARP that a quiet guest never sends: claims of addresses not its own, questions for addresses nobody has."""
    if source.network is None:
        return []
    near = [party.address for party in scene.parties.values() if party.network == source.network]
    known = _addresses([scene.gateways[source.network].address, *near])
    claim = Test(28, 4, _addresses([source.address]), among=False)
    question = Test(20, 2, frozenset({1}))
    return [(_ethertype(0x0806), claim), (_ethertype(0x0806), question, Test(38, 4, known, among=False))]


def _ethertype(value: int) -> Test:
    return Test(12, 2, frozenset({value}))


def _source(address: str) -> Test:
    return Test(26, 4, _addresses([address]))


def _destination(address: str) -> Test:
    return Test(30, 4, _addresses([address]))


def _addresses(addresses: Iterable[str]) -> frozenset[int]:
    return frozenset(int(IPv4Address(address)) for address in addresses)


def _mac_tails(macs: Iterable[str]) -> frozenset[int]:
    """The last four bytes, which tell the lab's MACs apart in one load."""
    return frozenset(int.from_bytes(bytes.fromhex(mac.replace(":", ""))[2:]) for mac in macs)
