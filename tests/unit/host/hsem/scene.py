"""A little network in the test's hands: VMs that behave, sensors that sweep, limits that take effect.

Who behaves how is told by functions of ``behaviour``; what a NIC counts and tells is as the data plane and the sensors
do it: attempted packets before any limit, the busiest peers, what came back. Sweeps go through the real HREM.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import count

from hypervigil.host.hrem.engine import Hrem
from hypervigil.host.hsem.engine import Hsem
from hypervigil.host.hsem.resume import Resumed
from hypervigil.host.inventory import AddressBook
from hypervigil.hypervisor.reference.dialogues import CURT, LIKE_CLIENT, LIKE_SERVICE
from hypervigil.model.ids import HOST, CaseId, Instant, LimitId, PortId, VmId
from hypervigil.model.limits import Limit, LimitKind
from hypervigil.model.observation import ClassCounts, GreeterCount, PeerCount, PortSample, ResourceSample, Sweep
from hypervigil.model.policy import Bounds, Policy
from hypervigil.model.status import Level, Role, Verdict
from hypervigil.model.traffic import Direction, ForgedKind, TrafficClass
from hypervigil.model.vm import Inventory, Nic, Vm
from tests.unit.host.hsem.witness import Witness

SWEEP_S = 0.2
PORTS_S = 1.0
"""For so long at least the data plane knows which ports were tried."""
TOP_PEERS, MAX_PEERS = 16, 32
OUT, IN = Direction.OUT, Direction.IN
ASKING = frozenset({TrafficClass.SYN, TrafficClass.FRAGMENT, TrafficClass.MULTICAST, TrafficClass.OTHER})
PORTLESS = frozenset({*(TrafficClass[name] for name in ("SYNACK", "RST", "TCP", "ICMP", "ARP"))})
"""Of which no port counts as tried."""
OUTER_MAC = "52:54:00:ff:ff:01"
INVENTED = "198.18."
"""Addresses that floods invent: nobody there ever answers."""
ALL_BLOCKED = frozenset({LimitKind.ISOLATE, LimitKind.QUARANTINE, LimitKind.PAUSE})

Behaviour = Callable[["Scene", float], None]


@dataclass
class Talk:
    """One NIC with one address in one direction in one interval."""

    packets: int = 0
    octets: int = 0
    openings: int = 0
    resets: int = 0
    ports: int = 0
    new: bool = False
    services: int = 0


@dataclass
class Tally:
    """One NIC in one interval."""

    packets: dict[Direction, list[int]] = field(default_factory=lambda: {d: [0] * len(TrafficClass) for d in Direction})
    octets: dict[Direction, list[int]] = field(default_factory=lambda: {d: [0] * len(TrafficClass) for d in Direction})
    limited: dict[Direction, list[int]] = field(default_factory=lambda: {d: [0] * len(TrafficClass) for d in Direction})
    forged: list[int] = field(default_factory=lambda: [0] * len(ForgedKind))
    talks: dict[tuple[Direction, str], Talk] = field(default_factory=lambda: defaultdict(Talk))
    new_destinations: int = 0
    failures: int = 0
    greeters: dict[tuple[Direction, str, int], list[float]] = field(default_factory=dict)
    """By address and port of the service: ended, curt, alike, varied, seconds."""


class Scene:
    """Some VMs of one host, the outside, HREM and HSEM, and time."""

    def __init__(self, *names: str, bounds: Bounds | None = None, ladder: tuple[str, ...] = ("limit",)) -> None:
        self.now = Instant(1000.0)
        self.names = names
        self.addresses: dict[str, str] = {}
        self.ports: dict[str, PortId] = {}
        self._policy = (bounds or Bounds(), ladder)
        self._cases: Iterator[CaseId] = (CaseId(f"c{n}") for n in count(1))
        self._limits: Iterator[LimitId] = (LimitId(f"l{n}") for n in count(1))
        self._sequence = count(1)
        self._behaviours: list[Behaviour] = []
        self._known: set[tuple[str, Direction, str]] = set()
        self._heard: dict[tuple[str, Direction], dict[str, float]] = defaultdict(dict)
        self.late = False
        self._steps = 0
        self._speaker, self._turns = "", -1
        self._postponed: list[tuple[int, tuple[str, str, TrafficClass, int], dict[str, object]]] = []
        self._tokens: dict[LimitId, float] = {}
        self._owed: dict[tuple[LimitId, str], float] = defaultdict(float)
        self._wanted: dict[tuple[str, Direction, TrafficClass], int] = defaultdict(int)
        self._proven: set[str] = set()
        self._tried: dict[tuple[str, Direction, str], tuple[Instant, int]] = {}
        """Of what was begun last: when, and which port."""
        self._wanted_before: dict[tuple[str, Direction, TrafficClass], int] = {}
        self.cpu: dict[str, float] = {}
        self.taken: dict[str, dict[str, float | None]] = defaultdict(dict)
        """Other resources than CPU, under the names of ``ResourceSample``."""
        self._said: dict[tuple[str, Direction, str, int], tuple[int, int]] = {}
        self.unseen: set[str] = set()
        self.delivered: dict[tuple[str, str, TrafficClass], int] = defaultdict(int)
        """Packets that arrived since the scene began, by sender, receiver and class."""
        self.offered: dict[tuple[str, str, TrafficClass], int] = defaultdict(int)
        self.begun_at = self.now
        self._restart()

    def _restart(self) -> None:
        """Engines and book anew; nothing is known."""
        self._book = AddressBook()
        bounds, ladder = self._policy
        self.hrem = Hrem(self._book)
        self.hsem = Hsem(
            bounds,
            next_case=lambda: next(self._cases),
            next_limit=lambda: next(self._limits),
            ladder=ladder,
        )
        self.witness = Witness(self.hsem)
        self._tallies = {name: Tally() for name in self.names}
        self.running(*self.names)

    def _inventory(self, names: Iterable[str]) -> Inventory:
        return Inventory(
            tuple(
                Vm(VmId(n), n, 1, 196_608, (Nic(self.ports[n], f"vnet{i}", i + 1, "br0", (self.addresses[n],)),))
                for i, n in enumerate(names)
            )
        )

    # --- what happens ----
    def running(self, *names: str) -> None:
        """These VMs run from now."""
        for name in names:
            number = 10 + len(self.addresses)
            self.addresses.setdefault(name, f"10.60.{number >> 8}.{number & 255}")
            self.ports.setdefault(name, PortId(f"52:54:00:00:{number >> 8:02x}:{number & 255:02x}"))
            self.cpu.setdefault(name, 0.2)
        inventory = self._inventory(names)
        self._book.update(inventory, Policy())
        self.names = names
        self._tallies = {name: self._tallies.get(name, Tally()) for name in names}
        self.hrem.inventory(inventory)
        self.witness.hear(self.hsem.inventory(inventory.vms, self.now), self.now)

    def takes(self, name: str, **what: float | None) -> "Scene":
        """From now on it takes so much, or waits so long."""
        self.taken[name] |= what
        return self

    def begin(self, *behaviours: Behaviour) -> "Scene":
        """From now on they behave so, besides what they do already."""
        self._behaviours += behaviours
        return self

    def end(self, *behaviours: Behaviour) -> None:
        """They no longer do that."""
        for behaviour in behaviours:
            self._behaviours.remove(behaviour)

    def learn(self, seconds: int = 40) -> "Scene":
        """So much history of what they do now; what there was to judge in it is forgotten."""
        for _ in range(seconds):
            self.step(1.0)
        known = self.hsem.remember()
        self._restart()
        self.hsem.recall(known)
        self.begun_at = self.now
        self.delivered.clear()
        self.offered.clear()
        return self

    def remember_as(self, other: "Scene") -> "Scene":
        """The history of another scene that was the same."""
        self.hsem.recall(other.hsem.remember())
        self._known |= other._known
        return self

    def older(self, times: float) -> "Scene":
        """As if the history were so many times as long."""
        known = self.hsem.remember()
        self.hsem.recall(replace(known, histogram=known.histogram * times, samples=known.samples * times))
        return self

    def restart(self) -> None:
        """The monitor dies and comes back: it knows its journal and its history, the kernel its limits."""
        before, old = self.witness, self.hsem
        known = old.remember()
        self._restart()
        self.hsem.recall(known)
        self.witness = replace(before, hsem=self.hsem)
        last = {verdict.case: verdict for verdict in before.verdicts}
        opened = {one.case: one.at for one in before.opened}
        self.hsem.resume(
            [
                Resumed(
                    vm=vm,
                    case=case,
                    role=last[case].role if case in last else None,
                    since=last[case].at if case in last else opened[case],
                    facts=old.facts(case),
                    limits=tuple(self.limits(vm)),
                )
                for vm, case in before.cases.items()
            ],
            before.repetitions(),
        )

    def run(self, seconds: float) -> "Scene":
        """Let time pass."""
        for _ in range(round(seconds / SWEEP_S)):
            self.step(SWEEP_S)
        return self

    def pass_(self, seconds: float) -> "Scene":
        """The same, with one look a second: for what takes minutes."""
        for _ in range(round(seconds)):
            self.step(1.0)
        return self

    def step(self, interval_s: float, *, look_at: tuple[str, ...] | None = None) -> None:
        """One interval and its sweep; with ``look_at`` a tripwire had the sensors look at these VMs only."""
        self._refill(interval_s)
        self._steps += 1
        self._deliver_late()
        for behaviour in list(self._behaviours):
            self._speaker, self._turns = "", -1
            behaviour(self, interval_s)
        self._deliver_late()
        self.now = Instant(self.now + interval_s)
        looked = [name for name in self.names if look_at is None or name in look_at]
        tallies = {name: self._tallies[name] for name in looked}
        self._tallies |= {name: Tally() for name in looked}
        sweep = Sweep(
            sequence=next(self._sequence),
            at=self.now,
            interval_s=interval_s,
            ports=tuple(
                self._sample(name, tally)
                for name, tally in tallies.items()
                if name not in self.unseen and (tally.talks or any(tally.forged))
            ),
            resources=tuple(ResourceSample(VmId(n), **{"cpu": cpu, **self.taken[n]}) for n, cpu in self.cpu.items())
            if look_at is None
            else (),
            unseen=tuple(self.ports[n] for n in self.names if n in self.unseen),
            partial=look_at is not None,
            host_busy=self.cpu.get(HOST) if look_at is None else None,
        )
        self.swept(sweep)
        self.witness.check([VmId(name) for name in self.names], self.now)

    def swept(self, sweep: Sweep) -> None:
        """A sweep reaches the monitor, and time passes there."""
        for report in self.hrem.observe(sweep, self.now):
            self.witness.hear(self.hsem.hear(report, self.now), self.now)
        self.witness.hear(self.hsem.tick(self.now), self.now)

    # --- frames ----
    def address(self, name: str) -> str:
        """Whoever is not a VM's name is an address outside."""
        return self.addresses.get(name, name)

    def send(
        self,
        source: str,
        target: str,
        traffic: TrafficClass,
        packets: int,
        *,
        octets: int = 80,
        asks: bool | None = None,
        ports: int = 1,
        unreachable: bool = False,
        arrives: bool = True,
        service: int = 0,
    ) -> int:
        """Packets from one to the other; how many arrived (if by a NIC that is watched)."""
        if packets <= 0:
            return 0
        if self.late:
            return self._send_late(
                source, target, traffic, packets, octets=octets, asks=asks, ports=ports, unreachable=unreachable
            )
        self.offered[source, target, traffic] += packets
        asks = traffic in ASKING if asks is None else asks
        if source in self._tallies:
            self._count(source, OUT, target, traffic, packets, octets, asks, ports, service)
            packets = self._pass(source, OUT, target, traffic, packets, octets)
        if not arrives:
            return 0
        if packets and target in self._tallies:
            self._count(target, IN, source, traffic, packets, octets, asks, ports, service)
            if traffic is TrafficClass.RST or unreachable:
                self._tallies[target].failures += packets
            packets = self._pass(target, IN, source, traffic, packets, octets)
        self.delivered[source, target, traffic] += packets
        return packets

    def _send_late(self, source: str, target: str, traffic: TrafficClass, packets: int, **how: object) -> int:
        """Each turn of a conversation takes one interval; nothing is lost."""
        if source != self._speaker:
            self._speaker, self._turns = source, self._turns + 1
        self._postponed.append((self._steps + self._turns, (source, target, traffic, packets), how))
        return packets

    def _deliver_late(self) -> None:
        due = [one for one in self._postponed if one[0] <= self._steps]
        self._postponed = [one for one in self._postponed if one[0] > self._steps]
        for _, what, how in due:
            self.send(*what, **how)

    def forge(self, source: str, kind: ForgedKind, traffic: TrafficClass, frames: int) -> None:
        """Frames that are not its to send; they end at its own port."""
        if frames:
            tally = self._tallies[source]
            tally.forged[kind] += frames
            tally.packets[OUT][traffic] += frames
            tally.octets[OUT][traffic] += 60 * frames

    def _count(  # noqa: PLR0917
        self, name: str, way: Direction, other: str, traffic: TrafficClass, packets: int, octets: int, asks: bool,
        ports: int, service: int,
    ) -> None:  # fmt: skip
        tally, address = self._tallies[name], self.address(other)
        tally.packets[way][traffic] += packets
        tally.octets[way][traffic] += packets * octets
        talk = tally.talks[way, address]
        talk.packets += packets
        talk.octets += packets * octets
        talk.openings += packets if asks else 0
        talk.resets += packets if traffic is TrafficClass.RST else 0
        if traffic not in PORTLESS:
            talk.ports = max(talk.ports, min(ports, 64))
            self._tried[name, way, address] = (self.now, 1 << service % 64)
        tried_at, service = self._tried.get((name, way, address), (self.now, 0))
        if self.now - tried_at <= PORTS_S:
            talk.services |= service
        if (name, way, address) not in self._known:
            self._known.add((name, way, address))
            talk.new = True
            tally.new_destinations += way is OUT
        self._heard[name, way][address] = self.now

    def _pass(  # noqa: PLR0917
        self, name: str, way: Direction, other: str, traffic: TrafficClass, packets: int, octets: int
    ) -> int:
        wanted = self._wanted[name, way, traffic] = self._wanted[name, way, traffic] + packets
        left = packets
        for limit in self.limits(name):
            by_octets = limit.kind is LimitKind.OCTETS
            of_class = by_octets or limit.kind is LimitKind.PACKETS
            of_class &= limit.direction is way and traffic in limit.classes
            of_peer = limit.kind is LimitKind.PEER and way is IN and limit.peer == self.address(other)
            of_proof = limit.kind is LimitKind.SOURCE_PROOF and way is IN and traffic is TrafficClass.SYN
            if of_proof and other.startswith(INVENTED):
                left = 0
            elif of_proof and other not in self._proven:
                self._proven.add(other)
                left = max(0, left - 1)
            elif limit.kind in ALL_BLOCKED:
                left = 0
            elif of_class or of_peer:
                # Everybody loses the same share, by what was wanted in the interval before.
                before = max(self._wanted_before.get((name, way, traffic), wanted), 1)
                share = self._tokens[limit.id] / (before * octets if by_octets else before)
                due = self._owed[limit.id, other] + left * min(share, 1.0)
                left = min(left, int(due))
                self._owed[limit.id, other] = due - left
        self._tallies[name].limited[way][traffic] += packets - left
        return left

    def _refill(self, interval_s: float) -> None:
        self._wanted_before, self._wanted = self._wanted, defaultdict(int)
        self._tokens = {one.id: (one.value or 0.0) * interval_s for one in self.witness.standing.values()}

    def _sample(self, name: str, tally: Tally) -> PortSample:
        macs = {a: str(self.ports[n]) for n, a in self.addresses.items()}

        def peer(way: Direction, address: str, talk: Talk) -> PeerCount:
            back = tally.talks.get((IN if way is OUT else OUT, address), Talk())
            return PeerCount(
                way, address, macs.get(address, OUTER_MAC), talk.packets, talk.octets, talk.openings,
                back.packets, back.resets, talk.ports, talk.new, talk.services,
            )  # fmt: skip

        order = sorted(tally.talks.items(), key=lambda item: -item[1].packets)
        top = [item for way in Direction for item in [i for i in order if i[0][0] is way][:TOP_PEERS]]
        told = (top + [item for item in order if item[1].new and item not in top])[:MAX_PEERS]
        fans = {way: sum(at > self.now - 1.2 for at in self._heard[name, way].values()) for way in Direction}
        counts = {
            way: ClassCounts(tuple(tally.packets[way]), tuple(tally.octets[way]), tuple(tally.limited[way]))
            for way in Direction
        }
        return PortSample(
            vm=VmId(name),
            port=self.ports[name],
            out=counts[OUT],
            into=counts[IN],
            forged=tuple(tally.forged),
            new_destinations=tally.new_destinations,
            failures=tally.failures,
            peers=tuple(peer(way, address, talk) for (way, address), talk in told),
            fan_out=fans[OUT],
            fan_in=fans[IN],
            greeters=tuple(
                GreeterCount(way, address, macs.get(address, OUTER_MAC), port, *map(int, counts[:4]), counts[4])
                for (way, address, port), counts in tally.greeters.items()
            ),
        )

    def converse(
        self, client: str, service: str, said: int = 24, answered: int = 137, *, lasted_s: float = 2.0, port: int = 21
    ) -> None:
        """A TCP connection with a service that speaks first is over; either end may be an address outside."""
        self.send(client, service, TrafficClass.SYN, 1, octets=60)
        self.send(service, client, TrafficClass.SYNACK, 1, octets=60)
        self.send(client, service, TrafficClass.TCP, 6, octets=60)
        self.send(service, client, TrafficClass.TCP, 5, octets=80)
        for name, way, other in ((client, OUT, service), (service, IN, client)):
            if name not in self.names:
                continue
            key = (way, self.addresses.get(other, other), port)
            counts = self._tallies[name].greeters.setdefault(key, [0, 0, 0, 0, 0.0])
            counts[0] += 1
            if max(said, answered) > CURT:
                continue
            before = self._said.get((name, *key))
            self._said[name, *key] = said, answered
            counts[1] += 1
            if before and abs(said - before[0]) <= LIKE_CLIENT and abs(answered - before[1]) <= LIKE_SERVICE:
                counts[2] += 1
                counts[3] += said != before[0] and answered - before[1] in {0, said - before[0]}
                counts[4] += lasted_s

    # --- what is asked of it ----
    def level(self, name: str) -> Level:
        """Of a VM."""
        return self.hsem.level(VmId(name))

    def verdicts(self, name: str) -> list[Verdict]:
        """On a VM, in their order."""
        return [verdict for verdict in self.witness.verdicts if verdict.vm == name]

    def roles(self, name: str) -> list[Role]:
        """What a VM was found to be, in order."""
        return [verdict.role for verdict in self.verdicts(name)]

    def verdict(self, name: str) -> Verdict:
        """The only one on a VM."""
        (only,) = self.verdicts(name)
        return only

    def limits(self, name: str) -> list[Limit]:
        """In force on a VM now; of one place the newest."""
        return [limit for limit in self.witness.standing.values() if limit.vm == name]

    def ordered(self, name: str) -> list[Limit]:
        """Every limit that the VM ever met."""
        return [limit for limit in self.witness.ordered if limit.vm == name]

    def blamed(self) -> set[str]:
        """Who was ever found an attacker."""
        return {str(v.vm) for v in self.witness.verdicts if v.role is Role.ATTACKER}

    def limited(self) -> set[str]:
        """Who was ever limited."""
        return {str(limit.vm) for limit in self.witness.ordered}

    def suspected(self) -> set[str]:
        """Of whom there was ever a case."""
        return {str(one.vm) for one in self.witness.opened}
