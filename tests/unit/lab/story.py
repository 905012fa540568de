"""A demonstration as it should go, made up: four acts, four guests, every number known."""

import random
from typing import Any

import msgspec

from lab.capture import Slice
from lab.checked import Fact
from lab.demonstrated import Demonstration, FloodAct, JournalSeen, Offer, SurgeAct, Used
from lab.grab import GrabAct
from lab.liar import LiarAct
from lab.place import WorkSample
from lab.watched import Case, Evidence, Limit

BEGAN, ONSET, ENDED, OVER = 70.0, 70.4, 95.4, 180.0
KILLED, REPLAYED, LIED = 96.0, 102.0, 107.0


def work(rate: int, latency_s: float, until_s: int = int(OVER)) -> tuple[WorkSample, ...]:
    dice = random.Random(rate)
    return tuple(
        WorkSample(float(at), 1.7e9 + at, rate, 0, tuple(latency_s * dice.uniform(0.5, 1.0) for _ in range(rate)))
        for at in range(1, until_s + 1)
    )


def fact(text: str) -> Evidence:
    return Evidence("outbound-surge", "host-observed", 70.5, 9800.0, 9.0, "packets/s", text, "a")


ATTACKER = Case(
    "c1", "a", 70.47, 71.02, 139.0, "attacker", "flood", "b", (fact("hvl-a sends 9,800 SYN a second"),),
    "hvl-a sends 9,800 connection tries (SYN) a second to hvl-b, and they lead to nothing",
    "would be CLEARED if at least half of the tries were answered and then taken up", "cleared",
)  # fmt: skip
VICTIM = Case(
    "c2", "b", 70.6, 71.02, 125.0, "victim", "flood", "a", (fact("hvl-a attempted 5,400 packets (SYN) at it"),),
    "hvl-b is the target of a flood of 5,400 packets (SYN) by hvl-a",
    "would be CLEARED if hvl-a were not found to attack it", "calm",
)  # fmt: skip


LIAR = Case(
    "c3", "d", 107.6, 108.1, 172.0, "attacker", "flood", "b", (fact("hvl-d sends 140 SYN a second"),),
    "hvl-d sends 140 connection tries (SYN) a second to hvl-b, and few of them lead to something",
    "would be CLEARED if at least half of the tries were answered and then taken up", "cleared",
)  # fmt: skip
GRABBER = Case(
    "c4", "d", 32.1, 32.1, 60.0, "overloaded", None, None, (fact("hvl-d uses 98% of its CPU"),),
    "hvl-d is at its capacity by its own work, and no traffic explains it",
    "would be CLEARED if it stayed below its capacity", "calm",
)  # fmt: skip
GRAB = GrabAct(
    began_s=21.0,
    ended_s=41.0,
    command="stress-ng --cpu 2",
    facts=(
        Fact("wanted", 31.6, "D asks for 0.5 more of its CPU"),
        Fact("not-granted", 32.0, "D is granted no more cpu: the policy allows none"),
    ),
)
LIE = LiarAct(
    began_s=KILLED,
    ended_s=119.0,
    replayed_s=REPLAYED,
    onset_s=LIED,
    command="hping3 -i u5000 -S $ip_b",
    told=(0.0, 1.0) * 30,
    sent=(),
    delivered=(),
    facts=(
        Fact("agent-silent", 99.1, "D's agent, which reported 3.1 s ago, is silent while its VM runs"),
        Fact("agent-heard", 102.4, "D is heard again by its agent, after 6 s"),
        Fact("agent-mismatch", 109.9, "D's agent says that it sent 42 bytes a second, and its NICs 7,560 at least"),
    ),
)


def limit(name: str, since: float, until: float, **changed: Any) -> Limit:
    made = Limit("l1", name, "packets", 20.0, "c1", until, since, until, "ended", None, "out", ("syn",))
    return msgspec.structs.replace(made, **changed)


def slices(low_s: float, high_s: float, a_second: float) -> tuple[Slice, ...]:
    """Frames counted a hundred times a second; what is less than one waits until it is one."""
    found, owed, since = [], 0.0, low_s
    for number in range(round((high_s - low_s) * 100)):
        owed += a_second / 100
        if owed >= 1:
            at = low_s + (number + 1) / 100
            found.append(Slice(since, at, int(owed)))
            owed, since = owed - int(owed), at
    return tuple(found)


STORY = Demonstration(
    made_at=1.7e9,
    host={"cores": "2", "kernel": "6.1", "guests": "QEMU emulator version 7.2, TCG", "image": "0123"},
    took_s={"start": 9.0, "acts": OVER, "end": 8.0, "total": 160.0},
    warmup_s=45.0,
    ended_s=OVER,
    grab=GRAB,
    surge=SurgeAct(47.0, 62.0, 72.0, 12.0),
    flood=FloodAct(
        BEGAN, ENDED, ONSET, "hping3 --flood -S $ip_b", slices(ONSET, ENDED, 9800),
        (*slices(ONSET, 70.48, 9800), *slices(70.48, ENDED, 20)),
    ),
    lie=msgspec.structs.replace(
        LIE, sent=slices(LIED, 119.0, 140), delivered=(*slices(LIED, 107.7, 140), *slices(107.7, 119.0, 20))
    ),
    work={
        "a": work(4, 0.02),
        "b": tuple(
            WorkSample(float(at), 1.7e9 + at, 84 if 48 < at <= 62 else 12, 0, (0.004,))
            for at in range(1, int(OVER) + 1)
        ),
        "c": work(8, 0.02),
        "surge": tuple(WorkSample(47.0 + at, 1.7e9 + 47 + at, 72, 0, (0.012,) * 72) for at in range(1, 16)),
    },
    offers=(Offer("b", "out", "synack", (42,) * 30), Offer("b", "out", "tcp", (200,) * 30)),
    busy=tuple(Used(float(at), 0.97 if ONSET <= at <= ENDED else 0.4, 0.05) for at in range(1, int(OVER))),
    cases=(LIAR, VICTIM, ATTACKER, GRABBER),
    limits=(limit("a", 70.48, 71.02), limit("a", 71.03, 139.0), limit("d", 107.7, 172.0)),
    journal=JournalSeen(ok=True, records=412, heads=9, problem=None, verdicts=3, mismatches=0),
    residue=(),
)  # fmt: skip
