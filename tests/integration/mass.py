"""The kernel's programs and the reference model side by side, at the speed that a million frames need.

What depends on the clock (time stamps, tokens that refill, windows of wires) is compared by ``test_reference.py``,
frame by frame; here limits and budgets are such that they are never met, or met at once, and the model is told the time
that the program went by. A *world* is 20,000 frames
by one seed, with another policy every few hundred; what both hold is compared as often, and where it differs the world
is lived through again, closer and closer, until the one frame is found.
"""

import contextlib
import ctypes
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from hypervigil.host.inventory import compile_ports
from hypervigil.hypervisor.adapters.ebpf import fabric as fabric_maps
from hypervigil.hypervisor.adapters.ebpf import kernel, layout
from hypervigil.hypervisor.adapters.ebpf.dataplane import DataPlane, DataPlaneError, Gate
from hypervigil.hypervisor.adapters.ebpf.reader import DataPlaneReader, Records
from hypervigil.hypervisor.reference.bucket import Bucket
from hypervigil.hypervisor.reference.conversations import Way
from hypervigil.hypervisor.reference.fabric import Crossings, Fabric
from hypervigil.hypervisor.reference.frame import read
from hypervigil.hypervisor.reference.leases import Held
from hypervigil.hypervisor.reference.neighbours import Holder, Place
from hypervigil.hypervisor.reference.plane import ReferencePlane, ReferenceReader
from hypervigil.hypervisor.reference.port import Fate, Handover, Slot, Told
from hypervigil.model.policy import Mode
from hypervigil.model.port_policy import Fabric as Granted
from hypervigil.model.port_policy import FabricChange, PortPolicy
from hypervigil.model.traffic import Direction, ForgedKind, TrafficClass
from hypervigil.network.compile import difference
from tests.integration.dhcp import end_leases, held_leases
from tests.integration.mass_dialogues import exact_dialogues, held_dialogues
from tests.integration.mass_frames import Library, Mill, Shot
from tests.integration.mass_policies import Device, Politics
from tests.integration.percpu import CPUS, of_each_cpu, summed
from tests.integration.testrun import Clock, Runner

WORLD, TURN = 20_000, 400
"""Frames of a world, and of one policy."""
PASS, DROP, REDIRECT = -1, 2, 7
DECIDED, TICKET, DONE, PASSED = 0x4856_0000, 0xFFFF, 0x4857_0000, 0x4858_0000
HOUR_NS, SECOND_NS = 3600 * 10**9, 10**9
PORTS = 1024
EXACT_PEER = ("packets", "octets", "openings", "resets", "mac", "admitted", "silent")
"""What of a peer does not depend on the clock."""


class _Flow(ctypes.Structure):
    _fields_ = [("tag", ctypes.c_uint32), ("tick", ctypes.c_uint32), ("key", ctypes.c_uint8 * 40)]


class _FlowSet(ctypes.Structure):
    _fields_ = [("lock", ctypes.c_uint32), ("pad", ctypes.c_uint32), ("way", _Flow * layout.FLOW_WAYS)]


class DifferError(AssertionError):
    """The programs and the model do not agree."""


@dataclass
class Tally:
    """What was met, so that a test can ask for all of it."""

    frames: int = 0
    turns: int = 0
    swaps: int = 0
    """Turns that swapped the banks."""
    refused: int = 0
    """Turns that the data plane refused for want of room."""
    verdicts: dict[int, int] = field(default_factory=dict)
    denied: np.ndarray = field(default_factory=lambda: np.zeros((2, layout.DENIALS), np.int64))
    forged: np.ndarray = field(default_factory=lambda: np.zeros(layout.FORGED_KINDS, np.int64))
    classes: np.ndarray = field(default_factory=lambda: np.zeros((2, layout.CLASSES), np.int64))
    limited: int = 0
    answered: int = 0
    dialogues: int = 0
    concluded: int = 0
    greeters: int = 0
    flows: int = 0
    evicted: int = 0
    leases: int = 0
    refused_leases: int = 0
    """Both as held at the end of each turn: what follows takes leases, and what is counted with them, from a port."""
    handovers: dict[Handover, int] = field(default_factory=dict)


class Scene:
    """A loaded data plane and the devices that frames are at. ``world`` gives both sides a fresh start."""

    def __init__(self, plane: DataPlane, devices: Sequence[Device], uplink: int, *, seed: int = 1) -> None:
        self.plane = plane
        self.devices = devices
        self.library = Library(devices, uplink, seed)
        self.reader = DataPlaneReader(plane.sensor_fds())
        self.maps = plane._maps
        self.runners = tuple(Runner(plane._programs[name]) for name in ("hv_from_vm", "hv_to_vm"))
        self._used: set[int] = set()
        self.greeters: list[int] = []
        """Services that greeted, of each part that was lived."""
        self.clock = Clock(self.maps)

    def clear(self) -> None:
        """Nothing bound, counted or remembered."""
        for port in list(self.plane.ports()):
            self.plane.detach(port)
        self.plane.change_fabric(FabricChange(whole=True))
        for slot in self._used:
            number = ctypes.c_uint32(slot)
            kernel.update(self.maps["hv_counters"], number, (layout.Counters * CPUS)())  # type: ignore[arg-type]
            kernel.update(self.maps["hv_crossings"], number, (layout.Crossings * CPUS)())  # type: ignore[arg-type]
            kernel.update(self.maps["hv_buckets"], number, layout.Buckets())
            sets = range(slot * layout.FLOW_SETS, (slot + 1) * layout.FLOW_SETS)
            kernel.write_batch(
                self.maps["hv_flows"], (ctypes.c_uint32 * len(sets))(*sets), (_FlowSet * layout.FLOW_SETS)()
            )
        keys = list(kernel.keys(self.maps["hv_peers"], layout.PeerKey))
        kernel.write_batch(self.maps["hv_peers"], (layout.PeerKey * len(keys))(*keys), None)
        for name, shape in (("hv_dialogues", layout.DialogueKey), ("hv_greeters", layout.GreeterKey)):
            for key in list(kernel.keys(self.maps[name], shape)):
                kernel.delete(self.maps[name], key)
        for router in list(kernel.keys(self.maps["hv_routers"], layout.LocalKey)):
            kernel.delete(self.maps["hv_routers"], router)
        self._used.clear()
        self.plane._generation = 0

    def use(self, slot: int) -> None:
        """A slot to be cleared some day."""
        self._used.add(slot)

    @property
    def used(self) -> list[int]:
        """Slots that a port had in this world."""
        return sorted(self._used)

    # --- what the kernel holds ---
    def counters(self, slot: int) -> bytes:
        return bytes(summed(self.maps["hv_counters"], slot, layout.Counters))

    def crossings(self, slot: int) -> tuple[Crossings, layout.Last]:
        raw = of_each_cpu(self.maps["hv_crossings"], slot, layout.Crossings)
        denied = [[sum(one.denied[way][why] for one in raw) for why in range(layout.DENIALS)] for way in Direction]
        sums = [sum(getattr(one, name) for one in raw) for name in ("straight", "flows", "evicted")]
        last = max((one.last for one in raw), key=lambda last: int(last.word))
        return Crossings(denied, *sums), last

    def flows(self, slot: int) -> dict[int, list[tuple[int, int, bytes] | None]]:
        """Remembered conversations of a slot by set: tag, tick and key of each way."""
        found = {}
        held = _FlowSet()
        for number in range(layout.FLOW_SETS):
            kernel.lookup(self.maps["hv_flows"], ctypes.c_uint32(slot * layout.FLOW_SETS + number), held)
            ways = [(way.tag, way.tick, bytes(way.key)) if way.tag else None for way in held.way]
            if any(ways):
                found[number] = ways
        return found

    def holders(self) -> dict[Place, Holder]:
        """Who holds which link-local address."""
        found = {}
        for key in kernel.keys(self.maps["hv_holders"], layout.LocalKey):
            there = layout.Holder()
            kernel.lookup(self.maps["hv_holders"], key, there)
            found[key.segment, bytes(key.address)] = Holder(there.slot, there.tick)
        return found

    def generation(self, slot: int) -> int:
        place = layout.Place()
        kernel.lookup(self.maps["hv_places"], ctypes.c_uint32(slot), place)
        return int(place.generation)


class World:
    """One seed's frames through both."""

    def __init__(self, scene: Scene, seed: int, tally: Tally) -> None:
        scene.clear()
        self.scene = scene
        self.seed = seed
        self.tally = tally
        epoch = layout.Epoch()
        kernel.lookup(scene.maps["hv_epoch"], ctypes.c_uint32(0), epoch)
        self.model = ReferencePlane(max_ports=PORTS, fabric=Fabric(epoch.seed, scene.generation))
        self.dice = random.Random(f"orders {seed}")
        self.politics = Politics(scene.devices, random.Random(f"policies {seed}"))
        self.mill = Mill(scene.library, seed)
        self.frames = 0
        self.policies: dict[str, PortPolicy] = {}
        self.granted = Granted()
        self._strict: set[int] = set()
        """Devices where what passes was allowed."""
        self._mark = 0
        self._shot: Shot | None = None

    # --- orders ---
    def turn(self) -> None:
        """Another policy, other limits."""
        self._sum_leases()
        self.politics.turn()
        compiled = compile_ports(self.politics.inventory, self.politics.policy)
        wanted = {policy.port: policy for policy in compiled.ports}
        for port in self.policies.keys() - wanted.keys():
            self.both("detach", port)
        for port, policy in wanted.items():
            if self.policies.get(port) != policy:
                slot = self.scene.plane.attach(policy)
                self.model.attach(policy, slot)
                self.scene.use(slot)
        self.policies = dict(wanted)
        change = difference(self.granted, compiled.fabric)
        if self.dice.random() < 0.1:
            change = difference(None, compiled.fabric)
        bank = self.scene.plane._fabric._bank.index
        try:
            self.both("change_fabric", change)
            self.granted = compiled.fabric
        except DataPlaneError:
            self.tally.refused += 1
        self.tally.turns += 1
        self.tally.swaps += self.scene.plane._fabric._bank.index != bank
        for port in wanted:
            if self.dice.random() < 0.3:
                self._limit(port)
        self._fill_buckets()
        ruled = (p for p in wanted.values() if p.perimeter is not None and p.mode is Mode.ENFORCE)
        self._strict = {policy.ifindex for policy in ruled}
        self.mill.learn({p.ifindex: (p.network, p.perimeter) for p in wanted.values()}, compiled.fabric)

    def both(self, what: str, *arguments: object, **named: object) -> None:
        for plane in (self.scene.plane, self.model):
            getattr(plane, what)(*arguments, **named)

    def _limit(self, port: str) -> None:
        """Other limits on one port. Half the time it has none, so that frames can go straight to it."""
        dice, now = self.dice, _now()
        ends = (now + HOUR_NS, now + HOUR_NS, now + HOUR_NS, now - SECOND_NS)
        held = self.scene.plane.rates(port)
        for rate in held:
            if rate.direction is None:
                self.both("clear_new_destinations", port)
            else:
                self.both("clear_limit", port, rate.direction, rate.traffic)
        for address in self.scene.plane.peers(port):
            self.both("clear_peer", port, address)
        self.both("set_gate", port, Gate.OPEN, 0)
        self.both("set_proof", port, 0)
        if dice.random() < 0.5:
            return
        for _ in range(dice.randrange(4)):
            packets, octets = dice.choice(((0.001, 0), (4e6, 0), (0, 4e9), (4e6, 4e9)))
            traffic = dice.choice((*TrafficClass, None))
            self.both(
                "set_limit",
                port,
                dice.choice(tuple(Direction)),
                traffic,
                packets_per_s=packets,
                octets_per_s=octets,
                end_ns=dice.choice(ends),
            )
        if dice.random() < 0.3:
            self.both("set_new_destinations", port, dice.choice((0.001, 4e6)), dice.choice(ends))
        if dice.random() < 0.3:
            self.both("set_gate", port, dice.choice(tuple(Gate)), dice.choice(ends))
        if dice.random() < 0.6:
            self.both("set_proof", port, dice.choice(ends))
        addresses = [address for d in self.scene.devices for address in (d.v4, d.v6, d.mac)]
        for address in dice.sample(addresses, dice.randrange(4)):
            self.both("set_peer", port, address, dice.choice((0, 0.001, 4e6)), dice.choice(ends))

    def _fill_buckets(self) -> None:
        """The same few tokens on both sides: what is left of another limit depends on the clock."""
        now = _now() - 2 * SECOND_NS
        for policy in self.policies.values():
            slot = self.slot(policy)
            packets = self.dice.choice((0, 1_000_000))
            raw = layout.Buckets()
            for way in Direction:
                for traffic in (*TrafficClass, None):
                    index = layout.ALL if traffic is None else int(traffic)
                    raw.bucket[way][index] = layout.Bucket(now, packets, 0)
                    slot.buckets[way, traffic] = Bucket(now, packets, 0)
            raw.new_destinations = layout.Bucket(now, packets, 0)
            slot.fresh_bucket = Bucket(now, packets, 0)
            kernel.update(self.scene.maps["hv_buckets"], ctypes.c_uint32(slot.number), raw)

    def slot(self, policy: PortPolicy) -> Slot:
        return self.model._ports[policy.ifindex].slot

    # --- frames ---
    def step(self) -> None:
        """The next frame, and what follows from it."""
        shot = self.mill.shot()
        fate = self._take(shot)
        if not fate.passes:
            return
        if shot.ifindex in self._strict or self.mill.dice.random() < 0.05:
            self.mill.went(shot)
        if shot.direction is Direction.IN:
            return
        if fate.device:
            mark = DONE if fate.handover is Handover.DONE else self._mark
            if fate.handover is Handover.DECIDED and self.mill.dice.random() < 0.2:
                mark = DECIDED | (mark + 1 & TICKET)
            self._take(self.mill.forwarded(shot, fate.device, mark), fate.handover)
        elif shot.other and self.mill.dice.random() < 0.5:
            self._take(self.mill.forwarded(shot, shot.other, 0))

    def _take(self, shot: Shot, handover: Handover = Handover.NOTHING) -> Fate:
        self.frames += 1
        self._shot = shot
        returned, self._mark = self.scene.runners[shot.direction].run(
            shot.frame, shot.ifindex, shot.gso_size, shot.ingress, shot.mark
        )
        now = self.scene.clock.now()
        frame = read(shot.frame, len(shot.frame), gso_size=shot.gso_size, ingress=shot.ingress)
        fate = self.model.take(shot.ifindex, shot.direction, frame, now, handover)
        if shot.direction is Direction.IN and returned == REDIRECT:
            returned = DROP  # it is not delivered, but answered in its port's place: see what was counted
        wanted = DROP if not fate.passes else REDIRECT if fate.device else PASS
        if returned != wanted:
            raise DifferError(self.told(f"the program returns {returned}, the model {fate}"))
        marked = {Told.NOTHING: 0, Told.PASSED: PASSED, Told.ELSEWHERE: PASSED | 1}[fate.told]
        if returned == PASS and shot.direction is Direction.OUT and self._mark != marked:
            raise DifferError(self.told(f"the program's mark is {self._mark:#x}, the model's {fate.told}"))
        if returned == REDIRECT:
            self._check_redirection(shot, fate)
        verdicts = self.tally.verdicts
        verdicts[returned] = verdicts.get(returned, 0) + 1
        return fate

    def _check_redirection(self, shot: Shot, fate: Fate) -> None:
        mark = DONE if fate.handover is Handover.DONE else DECIDED
        if self._mark & ~TICKET != mark:
            raise DifferError(self.told(f"the program's mark is {self._mark:#x}, the model's {fate.handover}"))
        number = self.model._ports[shot.ifindex].slot.number
        device = self.scene.crossings(number)[1].ifindex
        if device != fate.device:
            raise DifferError(self.told(f"the program sends it to device {device}, the model to {fate.device}"))
        self.tally.handovers[fate.handover] = self.tally.handovers.get(fate.handover, 0) + 1

    def told(self, what: str) -> str:
        """A difference, with the frame that was the last."""
        return f"seed {self.seed}, frame {self.frames}, {self._shot}: {what}"

    # --- what both hold ---
    def compare(self, *, whole: bool) -> str | None:
        """How counts differ; with ``whole`` also peers and conversations."""
        for slot in self.scene.used:
            theirs, mine = self.scene.counters(slot), self.model._slots[slot].counters
            if theirs != bytes(mine):
                return f"slot {slot}: {unlike(theirs, mine)}"
            leases, mine_ = held_leases(self.scene.maps, slot), self.model.leases.held.get(slot, Held())
            if leases != mine_:
                return f"slot {slot}: kernel {leases}, model {mine_}"
            seat = self.model.fabric.directory.seats.get(slot)
            if seat is not None and self.scene.generation(slot) != seat.generation:
                return f"slot {slot}: kernel's generation {self.scene.generation(slot)}, model's {seat.generation}"
            crossings, wanted = self.scene.crossings(slot)[0], self.model.fabric.crossings[slot]
            if crossings != wanted:
                return f"slot {slot}: kernel {crossings}, model {wanted}"
        held, wanted_ = self.scene.holders(), self.model.neighbours.holders
        if held != wanted_:
            places = sorted(place for place in held.keys() | wanted_.keys() if held.get(place) != wanted_.get(place))
            segment, address = places[0]
            return f"{address.hex()} in {segment}: kernel {held.get(places[0])}, model {wanted_.get(places[0])}"
        return (self._peers_differ() or self._dialogues_differ() or self._flows_differ()) if whole else None

    def _peers_differ(self) -> str | None:
        theirs, mine = (exact_peers(one.peers()) for one in (self.scene.reader, ReferenceReader(self.model)))
        odd = sorted(set(theirs) ^ set(mine))
        return f"peers: {[one.hex() for one in odd[:4]]}" if odd else None

    def _dialogues_differ(self) -> str | None:
        theirs, mine = (
            exact_dialogues(held_dialogues(self.scene.maps), self.scene.reader.greeters()),
            exact_dialogues(self.model.dialogues.held, ReferenceReader(self.model).greeters()),
        )
        odd = sorted(theirs ^ mine)
        return f"dialogues: {odd[:4]}" if odd else None

    def _flows_differ(self) -> str | None:
        for slot in self.scene.used:
            seat = self.model.fabric.directory.seats.get(slot)
            sets: dict[int, list[Way | None]] = seat.own.sets if seat is not None else {}
            mine = {n: [(w.tag, w.tick, w.key) if w is not None else None for w in ways] for n, ways in sets.items()}
            theirs = self.scene.flows(slot)
            if mine != theirs:
                odd = [n for n in mine.keys() | theirs.keys() if mine.get(n) != theirs.get(n)]
                return (
                    f"slot {slot}: set {odd[0]} of conversations: kernel {theirs.get(odd[0])}, model {mine.get(odd[0])}"
                )
        return None

    def age(self) -> None:
        """Let conversations be silent for long, and leases end, on both sides: the clock itself cannot be turned."""
        dice = self.dice
        for slot, mine in self.model.leases.held.items():
            if dice.random() < 0.5:
                end_leases(self.scene.maps, slot, mine, _now())
        held = _FlowSet()
        for slot in self.scene.used:
            seat = self.model.fabric.directory.seats.get(slot)
            for number, ways in seat.own.sets.items() if seat is not None else ():
                if dice.random() > 0.3:
                    continue
                key = ctypes.c_uint32(slot * layout.FLOW_SETS + number)
                kernel.lookup(self.scene.maps["hv_flows"], key, held)
                for way, there in zip(ways, held.way, strict=True):
                    if way is not None:
                        there.tick = way.tick = way.tick - dice.choice((1, 5, 167, 168, 169, 3352, 3353)) & 0xFFFF_FFFF
                kernel.update(self.scene.maps["hv_flows"], key, held)

    def summed(self) -> None:
        """Add what was counted to the tally."""
        tally = self.tally
        tally.frames += self.frames
        counters = ReferenceReader(self.model).counters()
        tally.forged += counters["forged"].sum(axis=0).astype(np.int64)
        tally.classes += counters["by_class"]["packets"].sum(axis=0).astype(np.int64)
        tally.limited += int(counters["by_class"]["limited"].sum())
        tally.dialogues += int(counters["dialogues"].sum())
        tally.concluded += int(counters["concluded"].sum())
        tally.greeters += int(counters["greeters"].sum())
        tally.answered += int(counters["answered"].sum())
        self._sum_leases()
        for crossings in self.model.fabric.crossings.values():
            tally.denied += np.array(crossings.denied)
            tally.flows += crossings.flows
            tally.evicted += crossings.evicted

    def _sum_leases(self) -> None:
        for held in self.model.leases.held.values():
            self.tally.leases += sum(bool(lease.end_ns) for lease in held.leases)
            self.tally.refused_leases += held.refused


def live(scene: Scene, seed: int, frames: int, tally: Tally) -> None:
    """One world; ``DifferError`` names the first frame after which the two sides differ."""
    found = _differs(scene, seed, frames, tally)
    if found is None:
        return
    # Once more, with everything compared at each turn; then after each frame of the turn that is wrong.
    rough = _differs(scene, seed, found[0], Tally(), whole=True) or found
    exact = _differs(scene, seed, rough[0], Tally(), close=range(rough[0] - TURN - 2, rough[0] + 1))
    if exact is None:
        # What was used longest ago goes by the clock, so no world is quite like its twin: any such frame will do.
        exact = _differs(scene, seed, frames, Tally(), close=range(frames))
    raise DifferError(exact[1] if exact is not None else f"{found[1]}; it does not come again frame by frame")


def _differs(
    scene: Scene, seed: int, frames: int, tally: Tally, *, close: range = range(0), whole: bool = False
) -> tuple[int, str] | None:
    """How many frames a world lived until a difference was seen, and which."""
    with _numbered(seed):
        world = World(scene, seed, tally)
        turn_at = 0
        while world.frames < frames:
            if world.frames >= turn_at:
                what = world.compare(whole=whole)
                if what is not None:
                    return world.frames, f"seed {seed}, before frame {world.frames}: {what}"
                world.turn()
                if world.dice.random() < 0.2:
                    world.age()
                turn_at = world.frames + TURN
            world.step()
            if world.frames in close:
                what = world.compare(whole=len(close) < WORLD)
                if what is not None:
                    return world.frames, world.told(what)
        what = world.compare(whole=True)
        world.summed()
        return None if what is None else (world.frames, f"seed {seed}, before frame {world.frames}: {what}")


@contextlib.contextmanager
def _numbered(seed: int) -> Iterator[None]:
    """The data plane's dice by a seed, so that conversations come to lie where they did before; it never repeats."""
    numbers = iter(range(1 + seed % 1000, 1 << 16))
    drawn = fabric_maps.secrets.randbits
    fabric_maps.secrets.randbits = lambda _: next(numbers)  # type: ignore[assignment]
    try:
        yield
    finally:
        fabric_maps.secrets.randbits = drawn  # type: ignore[assignment]


def _now() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def exact_peers(records: Records) -> list[bytes]:
    """Each peer with what does not depend on the clock."""
    parts = [records["key"].tobytes(), *(np.ascontiguousarray(records["peer"][name]).tobytes() for name in EXACT_PEER)]
    sizes = [len(part) // max(len(records), 1) for part in parts]
    return [
        b"".join(part[n * size : (n + 1) * size] for part, size in zip(parts, sizes, strict=True))
        for n in range(len(records))
    ]


def unlike(theirs: bytes, mine: layout.Counters) -> list[str]:
    """Each count that differs: the kernel's, the model's."""
    there = layout.Counters.from_buffer_copy(theirs)
    counts = [
        (f"{way.name} {traffic.name} {unit}", *(getattr(one.by_class[way][traffic], unit) for one in (there, mine)))
        for way in Direction
        for traffic in TrafficClass
        for unit in ("packets", "octets", "limited")
    ]
    counts += [(f"forged {kind.name}", there.forged[kind], mine.forged[kind]) for kind in ForgedKind]
    names = ("new_destinations", "failures", "peers_created", "events_lost", "answered", "proven")
    names += ("dialogues", "concluded", "greeters")
    counts += [(name, getattr(there, name), getattr(mine, name)) for name in names]
    return [f"{what}: {one}, {other}" for what, one, other in counts if one != other]
