"""Kinds of trial, and the drawing of trials from them by a seed. Pure: the same seed draws the same trials.

In the table X acts, T is who it is aimed at or has to do with, O is the third; which guests they are is drawn.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from lab.scenario import Step

GUESTS = ("a", "b", "c")
ATTACKER = frozenset({"attacker"})
VICTIM = frozenset({"victim"})
INNOCENT = frozenset({"cleared", "none"})
BUSY = INNOCENT | {"overloaded"}
"""At work as hard as it can, by itself or because many ask."""
TOUCHED = BUSY | {"victim"}
"""Aimed at by what may be stopped before it arrives."""

_PACES = ("-i u10000", "-i u5000", "-i u2000", "-i u500", "--flood")
_FAST = ("-i u500", "--flood")
_OUTSIDE_PACES = ("-i u1000", "-i u250", "--flood")


class Family(StrEnum):
    """Who is to be found by a trial."""

    ATTACKER = "attacker"
    VICTIM = "victim"
    BENIGN = "benign"


@dataclass(frozen=True)
class Kind:
    """One kind of trial. ``expect``: which verdicts are right for X, T and O."""

    name: str
    family: Family
    steps: tuple[Step, ...]
    expect: tuple[frozenset[str], frozenset[str], frozenset[str]]
    choices: tuple[str, ...] = ("",)
    """One of them takes the place of ``$choice``: a pace, a rate."""
    measured: bool = False
    """Whether what its first actor sends to T is counted, to tell which share passed."""
    restarts: bool = False
    """Whether T's web server is away for some seconds."""
    seconds: float | None = None
    """How long it takes, where that is not what its family takes."""


@dataclass(frozen=True)
class Trial:
    """One trial as drawn: steps at times from its beginning, and which verdicts are right of whom."""

    number: int
    kind: str
    family: Family
    choice: str
    actor: str
    target: str
    steps: tuple[Step, ...]
    expected: dict[str, frozenset[str]]
    measured: bool
    restarts: bool
    seconds: float | None = None

    @property
    def attackers(self) -> frozenset[str]:
        """The guests that attack."""
        return frozenset(step.on for step in self.steps if step.attack and step.on in GUESTS)

    @property
    def source(self) -> str:
        """Where the measured traffic comes from."""
        return self.steps[-1].on if self.steps else self.actor


def _attack(command: str, on: str = "X", target: str | None = "T", at_s: float = 0.5) -> Step:
    return Step(at_s, on, command, attack=True, target=target)


def _honest(command: str, on: str, at_s: float = 0.5) -> Step:
    return Step(at_s, on, command)


_FLOOD = (ATTACKER, VICTIM, INNOCENT)
_HARMLESS = (INNOCENT, INNOCENT, INNOCENT)
_FROM_OUTSIDE = (INNOCENT, VICTIM, INNOCENT)

KINDS: tuple[Kind, ...] = (
    Kind("syn-flood", Family.ATTACKER, (_attack("timeout 8 hping3 -q $choice -S -p 80 $ip_T"),), _FLOOD, _PACES),
    Kind(
        "udp-flood", Family.ATTACKER, (_attack("timeout 8 hping3 -q $choice --udp -p 9 -d 64 $ip_T"),), _FLOOD, _PACES
    ),
    Kind("icmp-flood", Family.ATTACKER, (_attack("timeout 8 hping3 -q $choice -1 $ip_T"),), _FLOOD, _PACES),
    Kind("rst-flood", Family.ATTACKER, (_attack("timeout 8 hping3 -q $choice -R -p 80 $ip_T"),), _FLOOD, _PACES),
    Kind("ack-flood", Family.ATTACKER, (_attack("timeout 8 hping3 -q $choice -A -p 80 $ip_T"),), _FLOOD, _FAST),
    Kind(
        "port-scan",
        Family.ATTACKER,
        (_attack("timeout 8 nmap -n -Pn -sS -T4 -p 1-2000 $ip_T"),),
        (ATTACKER, TOUCHED, INNOCENT),
    ),
    Kind(
        "host-sweep",
        Family.ATTACKER,
        (_attack("timeout 8 nmap -n -sn -T4 10.60.0.0/24", target=None),),
        (ATTACKER, INNOCENT, INNOCENT),
    ),
    Kind(
        "arp-spoof",
        Family.ATTACKER,
        (_attack("timeout 9 arpspoof -i eth0 -t $ip_T $gateway"),),
        (ATTACKER, TOUCHED, INNOCENT),
    ),
    Kind(
        "forged-sources",
        Family.ATTACKER,
        (_attack("timeout 8 hping3 -q $choice --rand-source -S -p 80 $ip_T"),),
        (ATTACKER, TOUCHED, INNOCENT),
        _FAST,
    ),
    Kind(
        "two-attackers",
        Family.ATTACKER,
        (
            _attack("timeout 8 hping3 -q $choice -S -p 80 $ip_T"),
            _attack("timeout 8 hping3 -q $choice --udp -p 9 $ip_T", on="O", at_s=0.6),
        ),
        (ATTACKER, VICTIM, ATTACKER),
        _FAST,
    ),
    Kind("short-burst", Family.ATTACKER, (_attack("timeout 0.5 hping3 -q --flood -S -p 80 $ip_T"),), _FLOOD),
    Kind(
        "flood-to-outside",
        Family.ATTACKER,
        (_attack("timeout 8 hping3 -q $choice -S -p 80 $ip_ext", target="ext"),),
        (ATTACKER, INNOCENT, INNOCENT),
        _FAST,
    ),
    Kind(
        "flooded-from-outside",
        Family.VICTIM,
        (_attack("timeout 8 hping3 -q $choice -S -p 80 $ip_T", on="ext"),),
        _FROM_OUTSIDE,
        _OUTSIDE_PACES,
    ),
    Kind(
        "flooded-by-many",
        Family.VICTIM,
        (_attack("timeout 8 hping3 -q $choice --rand-source -S -p 80 $ip_T", on="ext"),),
        _FROM_OUTSIDE,
        _OUTSIDE_PACES,
    ),
    Kind(
        "datagrams-from-outside",
        Family.VICTIM,
        (_attack("timeout 8 hping3 -q $choice --udp -p 9 -d 64 $ip_T", on="ext"),),
        _FROM_OUTSIDE,
        _OUTSIDE_PACES,
    ),
    Kind(
        "popular-outside",
        Family.BENIGN,
        (_honest("hv-load --rate $choice --seconds 10 --seed $seed http://$ip_T/", on="ext"),),
        (INNOCENT, BUSY, INNOCENT),
        ("32", "48", "64"),
        measured=True,
    ),
    Kind(
        "popular-inside",
        Family.BENIGN,
        (_honest("hv-load --rate $choice --seconds 10 --seed $seed http://$ip_T/", on="X"),),
        (BUSY, BUSY, INNOCENT),
        ("32", "48"),
        measured=True,
    ),
    Kind(
        "backup",
        Family.BENIGN,
        (
            _honest("timeout 12 iperf3 -s -1 -p 5201", on="T", at_s=0.1),
            _honest("timeout 10 iperf3 -c $ip_T -p 5201 -t 8 -b $choice", on="X", at_s=1.5),
        ),
        (BUSY, BUSY, INNOCENT),
        ("5M", "20M", "0"),
        measured=True,
    ),
    Kind(
        "ping-survey",
        Family.BENIGN,
        (_honest("for ip in $gateway $ip_T $ip_O $ip_ext; do ping -q -i $choice -c 40 $ip & done; wait", on="X"),),
        _HARMLESS,
        ("0.2", "0.1"),
        measured=True,
    ),
    Kind("batch", Family.BENIGN, (_honest("stress-ng --cpu 1 --timeout 10", on="X"),), (BUSY, INNOCENT, INNOCENT)),
    Kind(
        "many-questions",
        Family.BENIGN,
        (_honest("hv-udp send $ip_T --port 53 --rate $choice --seconds 10", on="X"),),
        (BUSY, BUSY, INNOCENT),
        ("50", "100", "150"),
        measured=True,
    ),
    Kind(
        "stream",
        Family.BENIGN,
        (
            _honest("hv-udp serve --port 5004 --reports 4 --size 60 --seconds 12", on="T", at_s=0.1),
            _honest(
                "hv-udp send $ip_T --port 5004 --rate $choice --size 400 --sockets 1 --seconds 9", on="X", at_s=1.5
            ),
        ),
        (BUSY, BUSY, INNOCENT),
        ("100", "200"),
        measured=True,
    ),
    Kind(
        "short-connections",
        Family.BENIGN,
        (_honest("hv-load --rate $choice --seconds 2 --seed $seed http://$ip_T/", on="X"),),
        (BUSY, BUSY, INNOCENT),
        ("40", "60"),
        measured=True,
    ),
    Kind("service-restart", Family.BENIGN, (), _HARMLESS, restarts=True),
)


def draw(count: int, seed: int, kinds: Sequence[Kind] = KINDS) -> list[Trial]:
    """``count`` trials: every kind once in random order, then again; guests and choices by chance."""
    dice = random.Random(seed)
    trials: list[Trial] = []
    while len(trials) < count:
        for kind in dice.sample(list(kinds), len(kinds)):
            trials.append(drawn(len(trials) + 1, kind, dice))
    return trials[:count]


def drawn(number: int, kind: Kind, dice: random.Random) -> Trial:
    """One trial of a kind: guests and choice by chance."""
    actor, target, other = dice.sample(GUESTS, len(GUESTS))
    choice = dice.choice(kind.choices)
    names = {"X": actor, "T": target, "O": other}

    def put_in(step: Step) -> Step:
        command = step.run.replace("$choice", choice)
        for letter, name in names.items():
            for word in ("ip", "mac"):
                command = command.replace(f"${word}_{letter}", f"${word}_{name}")
        aim = names.get(step.target, step.target) if step.target is not None else None
        return Step(step.at_s, names.get(step.on, step.on), command, step.attack, aim)

    return Trial(
        number=number,
        kind=kind.name,
        family=kind.family,
        choice=choice,
        actor=actor,
        target=target,
        steps=tuple(put_in(step) for step in kind.steps),
        expected=dict(zip((actor, target, other), kind.expect, strict=True)),
        measured=kind.measured,
        restarts=kind.restarts,
        seconds=kind.seconds,
    )
