"""What VMs do to each other, packet by packet as their NICs count it: honest work and attacks."""

from collections.abc import Callable
from itertools import cycle

from hypervigil.model.traffic import ForgedKind, TrafficClass
from tests.unit.host.hsem.scene import Behaviour, Scene

SYN, SYNACK, RST, TCP = TrafficClass.SYN, TrafficClass.SYNACK, TrafficClass.RST, TrafficClass.TCP
DNS, UDP, ICMP, ARP = TrafficClass.DNS, TrafficClass.UDP, TrafficClass.ICMP, TrafficClass.ARP
MULTICAST = TrafficClass.MULTICAST


class Pace:
    """So many a second, whole ones, whatever the length of the intervals; with ``wobble`` every other second more."""

    def __init__(self, per_s: float, wobble: float = 0.0) -> None:
        self.per_s, self.wobble = per_s, wobble
        self._time = self._left = 0.0

    def __call__(self, interval_s: float) -> int:
        factor = 1.0 + (self.wobble if int(self._time) % 2 else -self.wobble)
        self._time += interval_s
        self._left += self.per_s * factor * interval_s
        whole = int(self._left + 1e-9)
        self._left -= whole
        return whole


# --- honest work ----
def browses(
    client: str, server: str, per_s: float, *, wobble: float = 0.3, capacity: float = 1e9, service: int = 0
) -> Behaviour:
    """So many requests a second by TCP, each answered and taken up, as far as the server can."""
    pace, serves = Pace(per_s, wobble), Pace(capacity)

    def behave(scene: Scene, s: float) -> None:
        asked = scene.send(client, server, SYN, pace(s), service=service)
        accepted = scene.send(server, client, SYNACK, min(asked, serves(s)))
        scene.send(server, client, TCP, scene.send(client, server, TCP, 4 * accepted, octets=150), octets=700)

    return behave


def breaks_off(client: str, server: str, per_s: float) -> Behaviour:
    """So many requests a second, of which it breaks off every third."""
    pace = Pace(per_s)

    def behave(scene: Scene, s: float) -> None:
        accepted = scene.send(server, client, SYNACK, scene.send(client, server, SYN, pace(s)))
        scene.send(server, client, TCP, scene.send(client, server, TCP, 2 * accepted, octets=150), octets=1500)
        scene.send(client, server, RST, accepted // 3)

    return behave


def starts_again(
    server: str, clients: list[str], per_s: float, *, refuses: Callable[[float], float | None]
) -> Behaviour:
    """Many ask; where it ``refuses`` by the time that has passed, they try so many times as often."""
    pace, tried, passed = Pace(per_s), [0], [0.0]

    def behave(scene: Scene, s: float) -> None:
        passed[0] += s
        times = refuses(passed[0])
        for _ in range(round(pace(s) * (times or 1.0))):
            tried[0] += 1
            client = clients[tried[0] % len(clients)]
            arrived = scene.send(client, server, SYN, 1)
            if times is not None:
                scene.send(server, client, RST, arrived)
                continue
            scene.send(server, client, SYNACK, arrived)
            scene.send(server, client, TCP, scene.send(client, server, TCP, 4 * arrived, octets=150), octets=700)

    return behave


def finds_gone(client: str, server: str, per_s: float, *, reopens: float) -> Behaviour:
    """So many connections a second of a pool turn out to be gone; of these a part is opened anew."""
    gone, again = Pace(per_s), Pace(reopens * per_s)

    def behave(scene: Scene, s: float) -> None:
        scene.send(server, client, RST, scene.send(client, server, TCP, gone(s), octets=200))
        accepted = scene.send(server, client, SYNACK, scene.send(client, server, SYN, again(s)))
        scene.send(client, server, TCP, accepted)

    return behave


def welcomes(server: str, per_s: float) -> Behaviour:
    """So many clients a second that were never there before, one request each."""
    pace, number = Pace(per_s), [0]

    def behave(scene: Scene, s: float) -> None:
        for _ in range(pace(s)):
            number[0] += 1
            client = f"203.0.{number[0] // 250 % 250}.{number[0] % 250 + 1}"
            scene.send(server, client, SYNACK, scene.send(client, server, SYN, 1))
            scene.send(server, client, TCP, scene.send(client, server, TCP, 4, octets=150), octets=700)

    return behave


def resolves(client: str, resolver: str, per_s: float, *, times_larger: float = 2.0) -> Behaviour:
    """DNS queries and their answers."""
    pace = Pace(per_s, 0.3)

    def behave(scene: Scene, s: float) -> None:
        asked = scene.send(client, resolver, DNS, pace(s), octets=80, asks=True)
        scene.send(resolver, client, DNS, asked, octets=int(80 * times_larger), asks=False)

    return behave


def requests_by_udp(client: str, server: str, per_s: float) -> Behaviour:
    """A request, an answer."""
    pace = Pace(per_s, 0.3)

    def behave(scene: Scene, s: float) -> None:
        scene.send(server, client, UDP, scene.send(client, server, UDP, pace(s), asks=True), asks=False)

    return behave


def streams(sender: str, receiver: str, per_s: float, *, reports_per_s: float, downwards: bool = False) -> Behaviour:
    """Media by UDP, one way; the receiver tells now and then how it goes (or does not).

    ``downwards``: towards a port lower than its own, as a sender that was asked for nothing does.
    """
    pace, tells = Pace(per_s), Pace(reports_per_s)

    def behave(scene: Scene, s: float) -> None:
        scene.send(sender, receiver, UDP, pace(s), octets=1200, asks=downwards)
        scene.send(receiver, sender, UDP, tells(s), octets=90, asks=not downwards)

    return behave


def calls(caller: str, called: str, per_s: float, *, answered: float = 0.15) -> Behaviour:
    """Pictures by UDP to a relay's port; so many packets come back for each, voice and acknowledgements."""
    pace, back = Pace(per_s), Pace(per_s * answered)

    def behave(scene: Scene, s: float) -> None:
        scene.send(caller, called, UDP, pace(s), octets=900, asks=True)
        scene.send(called, caller, UDP, back(s), octets=90, asks=False)

    return behave


def meets_peers(who: str, per_s: float, *, answer_every: int = 5, tcp_every: int = 4) -> Behaviour:
    """Addresses and ports that others told, by UDP and TCP; many are long gone, with the others it talks."""
    pace, tried = Pace(per_s), [0]

    def behave(scene: Scene, s: float) -> None:
        for _ in range(pace(s)):
            tried[0] += 1
            peer = f"203.0.{tried[0] // 250 % 250}.{tried[0] % 250 + 1}"
            traffic = SYN if tried[0] % tcp_every == 0 else UDP
            asks = traffic is SYN or tried[0] % 2 == 0  # of two datagrams one goes to a higher port than its own
            arrived = scene.send(who, peer, traffic, 1, asks=asks, service=7 * tried[0])
            if tried[0] % answer_every == 0:
                scene.send(peer, who, SYNACK if traffic is SYN else UDP, arrived, asks=False)
                scene.send(who, peer, TCP, 3 * arrived)
                scene.send(peer, who, TCP, 3 * arrived)

    return behave


def casts(sender: str, receivers: list[str], per_s: float) -> Behaviour:
    """To a group: a film, a file for many. Nobody answers."""
    pace = Pace(per_s)

    def behave(scene: Scene, s: float) -> None:
        now = pace(s)
        scene.send(sender, "239.1.1.1", MULTICAST, now, octets=1350)
        for receiver in receivers:
            scene.send("239.1.1.1", receiver, MULTICAST, now, octets=1350)

    return behave


def acknowledges(who: str, whom: str, per_s: float, *, octets: int = 66) -> Behaviour:
    """TCP of which only one direction is to be seen."""
    return floods(who, whom, per_s, TCP, octets=octets)


def is_seen_from_one_side(who: str, hosts: list[str], *, begins: float, requests: float, acks: float) -> Behaviour:
    """Conversations by TCP of which only what ``who`` says comes by: so many connections, requests, ACKs a second."""
    paces = {(SYN, 74): Pace(begins), (TCP, 900): Pace(requests), (TCP, 66): Pace(acks)}
    turns = {kind: cycle(hosts) for kind in paces}

    def behave(scene: Scene, s: float) -> None:
        for (traffic, octets), pace in paces.items():
            for _ in range(pace(s)):
                scene.send(who, next(turns[traffic, octets]), traffic, 1, octets=octets)

    return behave


def copies(sender: str, receiver: str, per_s: float, *, packets_per_ack: int = 25) -> Behaviour:
    """A bulk transfer by TCP; offloading leaves few acknowledgements."""
    pace, acks = Pace(per_s), Pace(per_s / packets_per_ack)
    begun = [False]

    def behave(scene: Scene, s: float) -> None:
        if not begun[0]:
            begun[0] = True
            scene.send(receiver, sender, SYNACK, scene.send(sender, receiver, SYN, 1))
        scene.send(sender, receiver, TCP, pace(s), octets=1500)
        scene.send(receiver, sender, TCP, acks(s), octets=60)

    return behave


def in_turns(clients: list[str], friend: str, server: str, *, phase: int) -> Behaviour:
    """Two intervals of requests on new connections, one of many on one that stays; all are answered."""
    turn = [phase]

    def behave(scene: Scene, _: float) -> None:
        turn[0] += 1
        if turn[0] % 3 == 0:
            scene.send(server, friend, TCP, scene.send(friend, server, TCP, 300, octets=150), octets=700)
            return
        for client in clients:
            accepted = scene.send(server, client, SYNACK, scene.send(client, server, SYN, 8))
            scene.send(server, client, TCP, scene.send(client, server, TCP, 4 * accepted, octets=150), octets=700)

    return behave


def asks_in_vain(client: str, server: str, per_s: float) -> Behaviour:
    """Of a server that is away: each SYN is repeated after 1, 3, 7 and 15 seconds."""
    pace, due, at = Pace(per_s), dict[int, int](), [0.0]

    def behave(scene: Scene, s: float) -> None:
        new = pace(s)
        for after in (1.0, 3.0, 7.0, 15.0):
            step = round((at[0] + after) / s)
            due[step] = due.get(step, 0) + new
        scene.send(client, server, SYN, new + due.pop(round(at[0] / s), 0))
        at[0] += s

    return behave


def comes_back(client: str, server: str, per_s: float, *, after_s: float, share: float) -> Behaviour:
    """Refused until the service is back, in the middle of an interval, of whose tries it accepts this share."""
    pace, passed = Pace(per_s), [0.0]

    def behave(scene: Scene, s: float) -> None:
        began, passed[0] = passed[0], passed[0] + s
        arrived = scene.send(client, server, SYN, pace(s))
        back = 1.0 if began >= after_s - 1e-6 else share if passed[0] >= after_s - 1e-6 else 0.0
        accepted = scene.send(server, client, SYNACK, round(back * arrived))
        scene.send(server, client, RST, arrived - accepted)
        scene.send(server, client, TCP, scene.send(client, server, TCP, 4 * accepted, octets=150), octets=700)

    return behave


def talks(client: str, server: str, per_s: float) -> Behaviour:
    """On a connection that it has: a packet, an answer."""
    pace = Pace(per_s)

    def behave(scene: Scene, s: float) -> None:
        scene.send(server, client, TCP, scene.send(client, server, TCP, pace(s), octets=90), octets=90)

    return behave


def pings(who: str, targets: list[str], per_s: float) -> Behaviour:
    """Asks every one of them in turn, so many a second in all; all answer."""
    pace, turn = Pace(per_s), [0]

    def behave(scene: Scene, s: float) -> None:
        for _ in range(pace(s)):
            target = targets[turn[0] % len(targets)]
            turn[0] += 1
            scene.send(target, who, ICMP, scene.send(who, target, ICMP, 1, asks=True), asks=False)

    return behave


# --- attacks ----
def floods_open_port(attacker: str, target: str, per_s: float, *, lost: float = 0.0) -> Behaviour:
    """As hping does: SYN, a SYN-ACK comes, its kernel knows nothing of it and sends a RST.

    ``lost``: this share of what comes is dropped where it waits, unseen by the host, for a guest that is busy sending.
    """
    pace = Pace(per_s)

    def behave(scene: Scene, s: float) -> None:
        arrived = scene.send(attacker, target, SYN, pace(s), octets=60)
        scene.send(attacker, target, RST, round((1 - lost) * scene.send(target, attacker, SYNACK, arrived)))

    return behave


def fills_table(attackers: str | list[str], target: str, per_s: float, *, backlog: int) -> Behaviour:
    """SYNs, so many of each, whose answers they throw away: once so many wait, the target says anew what it said, after
    1, 3, 7 … seconds, and nothing else.
    """
    together = [attackers] if isinstance(attackers, str) else attackers
    paces, due, waiting, at = [Pace(per_s) for _ in together], dict[tuple[int, str], int](), [0], [0.0]

    def behave(scene: Scene, s: float) -> None:
        now = round(at[0] / s)
        for attacker, pace in zip(together, paces, strict=True):
            arrived = scene.send(attacker, target, SYN, pace(s), octets=60)
            taken = min(arrived, backlog - waiting[0])
            waiting[0] += taken
            for n in range(taken):  # they came spread over the interval
                for after in (1.0, 3.0, 7.0, 15.0, 31.0):
                    step = int((at[0] + after + s * n / taken) / s), attacker
                    due[step] = due.get(step, 0) + 1
            scene.send(target, attacker, SYNACK, taken + due.pop((now, attacker), 0))
        at[0] += s

    return behave


def hoards_connections(attacker: str, target: str, per_s: float) -> Behaviour:
    """Each is accepted and taken up, then nothing is said on it, until the server hangs up."""
    pace = Pace(per_s)

    def behave(scene: Scene, s: float) -> None:
        accepted = scene.send(target, attacker, SYNACK, scene.send(attacker, target, SYN, pace(s)))
        scene.send(attacker, target, TCP, accepted, octets=66)
        scene.send(target, attacker, TCP, accepted, octets=66)
        scene.send(attacker, target, TCP, 2 * accepted, octets=66)

    return behave


def floods_closed_port(attacker: str, target: str, per_s: float, *, service: int = 0) -> Behaviour:
    """SYN, RST back."""
    pace = Pace(per_s)

    def behave(scene: Scene, s: float) -> None:
        scene.send(target, attacker, RST, scene.send(attacker, target, SYN, pace(s), octets=60, service=service))

    return behave


def floods(attacker: str, target: str, per_s: float, traffic: TrafficClass = SYN, *, octets: int = 60) -> Behaviour:
    """Nobody answers."""
    pace = Pace(per_s)

    def behave(scene: Scene, s: float) -> None:
        scene.send(attacker, target, traffic, pace(s), octets=octets, asks=traffic not in {SYNACK, RST, TCP, ARP})

    return behave


def floods_by_ping(attacker: str, target: str, per_s: float) -> Behaviour:
    """One target, which answers what arrives."""
    return pings(attacker, [target], per_s)


def floods_by_udp_to_closed_port(attacker: str, target: str, per_s: float, *, at_once: int = 6) -> Behaviour:
    """The target's kernel says that nobody is there: six times at once, then once a second (``icmp_ratelimit``)."""
    pace, tells, spare = Pace(per_s), Pace(1), [at_once - 1]

    def behave(scene: Scene, s: float) -> None:
        arrived = scene.send(attacker, target, UDP, pace(s), asks=True)
        told = min(arrived, tells(s) + spare[0])
        spare[0] = max(0, spare[0] - told)
        scene.send(target, attacker, ICMP, told, asks=False, unreachable=True)

    return behave


def is_ahead_of_its_service(client: str, server: str, per_s: float, *, for_s: float) -> Behaviour:
    """Asks by UDP at once; the server's kernel refuses it until the service has started, which then answers each."""
    refused, pace, begun = floods_by_udp_to_closed_port(client, server, per_s), Pace(per_s), [0.0]

    def behave(scene: Scene, s: float) -> None:
        begun[0] += s
        if begun[0] <= for_s:
            refused(scene, s)
        else:
            scene.send(server, client, UDP, scene.send(client, server, UDP, pace(s), asks=True), asks=False)

    return behave


def floods_by_data(attacker: str, target: str, per_s: float) -> Behaviour:
    """TCP packets of no connection; the target resets each."""
    pace = Pace(per_s)

    def behave(scene: Scene, s: float) -> None:
        scene.send(target, attacker, RST, scene.send(attacker, target, TCP, pace(s)))

    return behave


def floods_from_many(sources: int, target: str, per_s: float, *, network: str = "198.18") -> Behaviour:
    """SYNs from so many (forged) addresses outside; the answers go nowhere, or where others refuse them."""
    pace, turn = Pace(per_s), [0]

    def behave(scene: Scene, s: float) -> None:
        for _ in range(pace(s)):
            source = f"{network}.{turn[0] // 250 % 250}.{turn[0] % 250 + 1}"
            turn[0] = (turn[0] + 1) % sources
            scene.send(target, source, SYNACK, scene.send(source, target, SYN, 1))

    return behave


def floods_by_udp_from_strangers(target: str, per_s: float) -> Behaviour:
    """Datagrams that ask, each from another invented sender."""
    pace, number = Pace(per_s), [0]

    def behave(scene: Scene, s: float) -> None:
        for _ in range(pace(s)):
            number[0] += 1
            scene.send(f"198.19.{number[0] // 250 % 250}.{number[0] % 250}", target, UDP, 1)

    return behave


def is_answered_by_everybody(target: str, sources: int, per_s: float) -> Behaviour:
    """What others forged requests for in its name: answers of servers that it never asked anything."""
    pace, turn = Pace(per_s), [0]

    def behave(scene: Scene, s: float) -> None:
        for _ in range(pace(s)):
            turn[0] = (turn[0] + 1) % sources
            scene.send(f"198.18.{turn[0] // 250}.{turn[0] % 250}", target, UDP, 1, octets=1000, asks=False)

    return behave


def floods_from_strangers(target: str, per_s: float, *, for_s: float = 1e9) -> Behaviour:
    """Each SYN from another invented sender; the target answers each again after 1, 3, 7 … s, as nobody takes it up."""
    pace, number = Pace(per_s), [0]
    due: list[tuple[float, str, int]] = []
    begun: list[float] = []

    def behave(scene: Scene, s: float) -> None:
        begun.append(scene.now)
        for _ in range(pace(s) if scene.now - begun[0] < for_s else 0):
            number[0] += 1
            stranger = f"198.18.{number[0] // 250 % 250}.{number[0] % 250}"
            if scene.send(stranger, target, SYN, 1, octets=60):
                due.append((scene.now, stranger, 1))
        now = [one for one in due if one[0] <= scene.now]
        due[:] = [one for one in due if one[0] > scene.now]
        for _, stranger, times in now:
            scene.send(target, stranger, SYNACK, 1, octets=60)
            if times < 6:
                due.append((scene.now + 2.0 ** (times - 1), stranger, times + 1))

    return behave


def scans_ports(attacker: str, target: str, per_s: float, *, open_ports: int = 0) -> Behaviour:
    """Port after port; most are closed."""
    pace, tried = Pace(per_s), [0]

    def behave(scene: Scene, s: float) -> None:
        now = pace(s)
        width = min(tried[0] + now, int(2 * per_s) or 1)
        before, tried[0] = tried[0], tried[0] + now
        arrived = scene.send(attacker, target, SYN, now, octets=60, ports=width)
        accepted = max(0, min(arrived, open_ports - before))
        scene.send(target, attacker, SYNACK, accepted)
        scene.send(attacker, target, RST, accepted)
        scene.send(target, attacker, RST, arrived - accepted)

    return behave


def sweeps_hosts(
    attacker: str, per_s: float, *, answer_every: int = 50, network: str = "10.70", traffic: TrafficClass = SYN
) -> Behaviour:
    """Address after address; hardly any is there."""
    pace, tried = Pace(per_s), [0]

    def behave(scene: Scene, s: float) -> None:
        for _ in range(pace(s)):
            tried[0] += 1
            target = f"{network}.{tried[0] // 250 % 250}.{tried[0] % 250 + 1}"
            arrived = scene.send(attacker, target, traffic, 1, octets=60, asks=True)
            if tried[0] % answer_every == 0:
                scene.send(target, attacker, RST, arrived)

    return behave


def crawls(who: str, per_s: float) -> Behaviour:
    """Ever new addresses, nearly all of which accept: a crawler, a mail server, a busy proxy."""
    pace, tried = Pace(per_s), [0]

    def behave(scene: Scene, s: float) -> None:
        for _ in range(pace(s)):
            tried[0] += 1
            target = f"203.{tried[0] // 60_000 % 250}.{tried[0] // 250 % 250}.{tried[0] % 250 + 1}"
            accepted = scene.send(target, who, SYNACK, scene.send(who, target, SYN, 1))
            scene.send(who, target, TCP, 4 * accepted)
            scene.send(target, who, TCP, 4 * accepted, octets=700)

    return behave


def forges(attacker: str, kind: ForgedKind, per_s: float, traffic: TrafficClass = ARP) -> Behaviour:
    """Frames that are not its to send."""
    pace = Pace(per_s)

    def behave(scene: Scene, s: float) -> None:
        scene.forge(attacker, kind, traffic, pace(s))

    return behave


def reflects(reflector: str, abused_for: str, per_s: float, *, times_larger: float) -> Behaviour:
    """Requests that bear somebody else's address, and the reflector's large answers to it."""
    pace = Pace(per_s)

    def behave(scene: Scene, s: float) -> None:
        asked = scene.send(abused_for, reflector, DNS, pace(s), octets=64, asks=True)
        scene.send(reflector, abused_for, DNS, asked, octets=int(64 * times_larger), asks=False)

    return behave


def sends_late(behaviour: Behaviour) -> Behaviour:
    """The same, but whatever answers something comes one interval later: a long way, or a slow server."""

    def behave(scene: Scene, s: float) -> None:
        scene.late = True
        behaviour(scene, s)
        scene.late = False

    return behave


def for_(seconds: float, behaviour: Behaviour) -> Behaviour:
    """Only so long."""
    left = [seconds]

    def behave(scene: Scene, s: float) -> None:
        if left[0] > 1e-9:
            left[0] -= s
            behaviour(scene, s)

    return behave
