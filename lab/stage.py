"""A scenario's places, booted: networks, guests and ``ext``, the lab's capture, and the product where it is wanted.

One boot serves as many steps as one likes: a scenario is played on a stage once, trials and pulses many times.
"""

import json
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace

from lab import ext, libvirtd
from lab.capture import Capture, Counter
from lab.definition import GuestSpec
from lab.errors import LabError
from lab.ext import Ext
from lab.frames import Gateway, Party, Scene, View, delivered, sent
from lab.guests import Guest, destroy_all, start_all
from lab.network import Networks
from lab.place import Place, WorkSample
from lab.scenario import CLIENT_RATE, EXT, GuestTable, Names, Scenario, Step, is_client
from lab.scratch import say, told
from lab.storage import Storage
from lab.watched import Places, Product, watching

_MEASURED_WORK = ("web-server", "web-client", "batch", "writer")


@dataclass
class Act:
    """One step under way or over. Times are seconds since warm-up began."""

    step: Step
    began_s: float
    ended_s: float | None = None
    exit: int | None = None
    output: str = ""
    problem: str | None = None
    sent: Counter | None = None
    delivered: list[Counter] = field(default_factory=list)
    running: Future[None] | None = None


class Stage:
    """The booted places. Made by `staged`."""

    def __init__(
        self, scenario: Scenario, networks: Networks, guests: Mapping[str, Guest], outside: Ext, capture: Capture
    ) -> None:
        self.scenario = scenario
        self.networks = networks
        self.guests = guests
        self.ext = outside
        self.capture = capture
        self.product: Product | None = None
        self.acts: list[Act] = []
        self.scene = _scene(networks, guests)
        self._samples: dict[str, list[WorkSample]] = {}
        self._began = time.monotonic()
        self._over = threading.Event()
        self._pool = ThreadPoolExecutor(max_workers=64, thread_name_prefix="step")

    @property
    def now_s(self) -> float:
        """Seconds since warm-up began."""
        return time.monotonic() - self._began

    @property
    def wall_s(self) -> float:
        """When warm-up began, as Unix time."""
        return time.time() - self.now_s

    def since(self, monotonic_s: float) -> float:
        """A time of CLOCK_MONOTONIC as seconds since warm-up began."""
        return monotonic_s - self._began

    def begin(self) -> None:
        """Let warm-up begin now: everything else is timed from here."""
        self._began = time.monotonic()

    def place(self, name: str) -> Place:
        """A guest, or ``ext``."""
        return self.ext if name == EXT else self.guests[name]

    def interface(self, place: str) -> str:
        """The host's end of a place's link."""
        return ext.INTERFACE if place == EXT else self.guests[place].interface

    def put_in(self, place: str, command: str) -> str:
        """A command for a place, with addresses for its names."""
        parties = self.scene.parties.values()
        return Names(
            {party.name: party.address for party in parties},
            {party.name: party.mac for party in parties if party.mac is not None},
            self.scene.gateways[self.scene.parties[place].network].address,
            self.scenario.seed,
        ).put_in(command)

    def start_work(self, guest: str) -> None:
        """Let a guest begin its ordinary work."""
        table = next(table for table in self.scenario.guest if table.name == guest)
        kind = table.work
        target = is_client(kind)
        if target is not None:
            _, _, options = kind.partition(" ")
            seed = self.scenario.seed + self.scenario.guest.index(table)
            kind = f"web-client:{self.guests[target].address} --rate {CLIENT_RATE} --seed {seed} {options}".strip()
        self.guests[guest].work_start(self.put_in(guest, kind))

    def read_work(self) -> None:
        """Fetch what the guests did; one that does not answer now is asked the next time."""
        for table in self.scenario.guest:
            if table.work.split(":")[0].split(" ")[0] not in _MEASURED_WORK:
                continue
            try:
                read = self.guests[table.name].work_read()
            except LabError as error:
                say(f"no word of the work of {table.name}: {error}")
                continue
            self._samples.setdefault(table.name, []).extend(
                replace(sample, at_s=self.since(sample.at_s)) for sample in read
            )

    def samples(self, guest: str) -> list[WorkSample]:
        """A guest's work as read so far; ``at_s`` is seconds since warm-up began."""
        return self._samples.get(guest, [])

    def act(self, step: Step, until_s: float) -> Act:
        """Begin a step, with an eye on its frames, and return at once; it ends by itself or is ended at ``until_s``."""
        act = Act(step, self.now_s)
        self.acts.append(act)
        try:
            if step.attack:
                self._watch(act)
        except LabError as error:
            act.problem, act.ended_s = str(error), self.now_s
            return act
        act.running = self._pool.submit(self._perform, act, until_s)
        return act

    def settle(self, act: Act) -> None:
        """Wait for the end of a step whose time is over, and count its frames no more."""
        if act.running is not None:
            act.running.result()
        self.capture.end(*([act.sent] if act.sent else []), *act.delivered)

    def close(self) -> None:
        """End all steps; for use when the guests are gone."""
        self._over.set()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _watch(self, act: Act) -> None:
        """Count an attack's frames where they leave and where they arrive; who boots with it has no tap yet."""
        if not act.step.boots:
            act.sent = self._count(sent(self.scene, act.step.on, act.step.target))
        for view in delivered(self.scene, act.step.on, act.step.target):
            if view.place == EXT or self.guests[view.place].runs:
                act.delivered.append(self._count(view))

    def _count(self, view: View) -> Counter:
        return self.capture.count(self.interface(view.place), view)

    def _perform(self, act: Act, until_s: float) -> None:
        command = self.put_in(act.step.on, act.step.run)
        try:
            if act.step.boots:
                self._boot(act, command, until_s)
                return
            result = self.place(act.step.on).run(command, max(0.1, until_s - self.now_s))
            act.exit, act.output = result.exit, result.output
        except LabError as error:
            act.problem = str(error)
        finally:
            act.ended_s = min(self.now_s, until_s)

    def _boot(self, act: Act, command: str, until_s: float) -> None:
        """Start a guest cold that acts by itself; its frames are counted from before its first one."""
        guest = self.guests[act.step.on]
        view = sent(self.scene, act.step.on, act.step.target)

        def watch(created: Guest) -> None:
            act.sent = self.capture.count(created.interface, view)

        guest.start(cold=True, on_boot=command, on_created=watch)
        self.start_work(guest.name)
        job = guest.boot_job
        if self._over.wait(max(0.0, until_s - self.now_s)):
            return
        result = guest.stop(job) if job is not None else None
        if result is not None:
            act.exit, act.output = result.exit, result.output


@contextmanager
def staged(scenario: Scenario, *, watched: bool, places: Places | None = None) -> Iterator[Stage]:
    """Boot a scenario's places, start the product if it shall watch, then the work; undo everything at the end."""
    with ExitStack() as stack:
        stack.enter_context(libvirtd.running())
        networks = stack.enter_context(Networks(scenario.network_specs()))
        if scenario.storage is not None:
            names = [table.name for table in scenario.guest]
            stack.enter_context(Storage(scenario.storage.requests_per_s, names))
        guests = {table.name: Guest(_spec(scenario, table), networks[table.network]) for table in scenario.guest}
        outside = Ext()
        stack.callback(outside.close)
        capture = stack.enter_context(Capture())
        stage = Stage(scenario, networks, guests, outside, capture)
        everybody = list(guests.values())
        stack.callback(destroy_all, everybody)  # once more: one may have been booting
        stack.callback(stage.close)
        stack.callback(destroy_all, everybody)
        booting = {step.on for step in scenario.step if step.boots}
        present = [guest for name, guest in guests.items() if name not in booting]
        with told(f"starting {', '.join(guest.name for guest in present) or 'no guest yet'}"):
            start_all(present)
        if watched:
            with told("starting Hypervigil"):
                stage.product = stack.enter_context(watching(policy(scenario, networks, guests), places))
        clients_last = sorted(scenario.guest, key=lambda table: is_client(table.work) is not None)
        for table in clients_last:
            if table.name not in booting:
                stage.start_work(table.name)
        yield stage


def _spec(scenario: Scenario, table: GuestTable) -> GuestSpec:
    return GuestSpec(
        table.name,
        table.tenant,
        table.network,
        scenario.index(table),
        table.memory_mib,
        table.vcpus,
        table.work,
        table.agent,
        shares_storage=scenario.storage is not None,
    )


def _scene(networks: Networks, guests: Mapping[str, Guest]) -> Scene:
    parties = {name: Party(name, guest.address, guest.spec.network, guest.mac) for name, guest in guests.items()}
    parties[EXT] = Party(EXT, ext.ADDRESS)
    names = {guest.spec.network for guest in guests.values()}
    gateways: dict[str | None, Gateway] = {name: Gateway(networks[name].mac, networks[name].gateway) for name in names}
    gateways[None] = Gateway("", ext.GATEWAY)
    return Scene(parties, gateways)


def policy(scenario: Scenario, networks: Networks, guests: Mapping[str, Guest]) -> str:
    """What the operator of such a host would write: networks, tenants, addresses. Nothing of what will happen."""
    lines = ['mode = "enforce"']
    for table in scenario.network:
        network = networks[table.name]
        lines += ["[[network]]", *_keys(name=table.name, bridge=network.bridge, cidr=table.cidr)]
    given = {table.name: table.new_flows_per_s for table in scenario.guest}
    for guest in guests.values():
        lines += ["[[vm]]", *_keys(name=guest.domain, tenant=guest.spec.tenant, addresses=[guest.address])]
        if (flows := given[guest.spec.name]) is not None:
            lines.append(f"budget = {{ new_flows_per_s = {flows} }}")
    return "\n".join(lines) + "\n"


def _keys(**values: str | list[str]) -> list[str]:
    """JSON's strings and lists of them are TOML's too."""
    return [f"{key} = {json.dumps(value)}" for key, value in values.items()]
