"""Real TCP with a service that asks for a password: what the data plane counts of it, and whom the judge names."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from hypervigil.host.hrem.engine import Hrem
from hypervigil.host.hsem.engine import Hsem
from hypervigil.host.inventory import AddressBook
from hypervigil.hypervisor.adapters.ebpf import kernel, layout
from hypervigil.hypervisor.sensors.sweep import Snapshot, compare
from hypervigil.model.ids import CaseId, Instant, LimitId, PortId, VmId
from hypervigil.model.observation import Sweep
from hypervigil.model.policy import Bounds, Mode, Policy
from hypervigil.model.port_policy import PortPolicy
from hypervigil.model.report import Decide, Decision
from hypervigil.model.status import AttackClass, Role, Verdict
from hypervigil.model.traffic import Direction
from hypervigil.model.vm import Inventory, Nic, Vm
from tests.integration.proving import CLIENT, SERVER, Rig, now_ns, rigged
from tests.integration.spoofed import Guest

pytestmark = pytest.mark.root

LAB = Path(__file__).parents[2] / "lab" / "guest"
PORT = 2121
OUT, IN = Direction.OUT, Direction.IN


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    """The server's and the client's port, both bound."""
    with rigged() as made:
        port = PortPolicy(
            PortId(made.client.mac), VmId("client"), made.client.device, made.client.ifindex, Mode.ENFORCE, (CLIENT,)
        )
        made.plane.attach(port)
        yield made


@pytest.fixture
def service(rig: Rig) -> Iterator[None]:
    """A login service that lets whoever erred wait for a second and a half; nothing was counted of it before."""
    for key in list(kernel.keys(rig.plane._maps["hv_greeters"], layout.GreeterKey)):
        kernel.delete(rig.plane._maps["hv_greeters"], key)
    process = start(rig.server, "serve", "--wait", "1.6")
    deadline = time.monotonic() + 10
    while not listens(rig):
        assert time.monotonic() < deadline, "the service does not listen"
        assert process.poll() is None
        time.sleep(0.05)
    yield
    process.kill()
    process.wait()


def listens(rig: Rig) -> bool:
    return f":{PORT} " in rig.server.run("ss", "-Hltn")


def start(at: Guest, *arguments: str, program: str = "login.py") -> subprocess.Popen[bytes]:
    command = ["ip", "netns", "exec", at.namespace, sys.executable, "-I", "-S", str(LAB / program)]
    return subprocess.Popen([*command, *arguments], stdout=subprocess.DEVNULL)


def counters(rig: Rig) -> np.void:
    """Of the client's port."""
    return rig.reader.counters()[rig.plane.ports()[PortId(rig.client.mac)]]


def greeters(rig: Rig) -> dict[Direction, dict[str, int]]:
    """What is counted of the service, as its client's port has it and as its own has it."""
    found = {}
    for one in rig.reader.greeters():
        assert one["key"]["port"] == PORT
        names = ("ended", "curt", "alike", "varied", "lasted_ns", "asked", "answered")
        found[Direction(int(one["key"]["direction"]))] = {name: int(one["greeter"][name]) for name in names}
    return found


def wait(done: Callable[[], bool], seconds: float = 40.0) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.1)


class Judge:
    """Sensors, HREM and HSEM on the rig's maps."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        nics = ((rig.server, "server", SERVER), (rig.client, "client", CLIENT))
        inventory = Inventory(
            tuple(
                Vm(VmId(name), name, 1, 1 << 20, (Nic(PortId(at.mac), at.device, at.ifindex, "br0", (address,)),))
                for at, name, address in nics
            )
        )
        self._owners = {PortId(at.mac): VmId(name) for at, name, _ in nics}
        book = AddressBook()
        book.update(inventory, Policy())
        self._hrem = Hrem(book)
        self._hrem.inventory(inventory)
        cases, limits = count(), count()
        self._hsem = Hsem(
            Bounds(), next_case=lambda: CaseId(f"c{next(cases)}"), next_limit=lambda: LimitId(f"l{next(limits)}")
        )
        self._hsem.inventory(inventory.vms, Instant(now_ns() / 1e9))
        self._before = self._look()
        self.decisions: list[Decision] = []

    def _look(self) -> Snapshot:
        reader, at = self._rig.reader, Instant(now_ns() / 1e9)
        counted = reader.ports(), reader.counters(), reader.peers()
        return Snapshot(at, *counted, seed=5, greeters=reader.greeters())

    def sweep(self) -> None:
        """One more look."""
        after, at = self._look(), Instant(now_ns() / 1e9)
        samples = compare(self._before, after, self._owners)
        self._before = after
        for report in self._hrem.observe(Sweep(1, at, 0.2, samples), at):
            self.decisions += self._hsem.hear(report, at)

    @property
    def verdicts(self) -> dict[VmId, Verdict]:
        """So far."""
        return {one.verdict.vm: one.verdict for one in self.decisions if isinstance(one, Decide)}


@pytest.mark.usefixtures("service")
def test_guesses_by_a_real_client_are_counted_alike_at_both_ends_and_judged(rig: Rig) -> None:
    judge, guesser = Judge(rig), start(rig.client, "guess", SERVER, "--seconds", "30")

    def judged() -> bool:
        judge.sweep()
        return len(judge.verdicts) == 2

    wait(judged)
    guesser.kill()
    guesser.wait()
    attacker, victim = judge.verdicts[VmId("client")], judge.verdicts[VmId("server")]
    assert (attacker.role, attacker.attack, attacker.target) == (Role.ATTACKER, AttackClass.BRUTE_FORCE, "server")
    assert (victim.role, victim.attack, victim.target) == (Role.VICTIM, AttackClass.BRUTE_FORCE, "client")
    known = greeters(rig)
    for way in (OUT, IN):
        assert 12 <= known[way]["ended"] == known[way]["curt"] == known[way]["alike"] + 1
        assert 1 <= known[way]["varied"] <= known[way]["alike"]
        assert known[way]["lasted_ns"] >= known[way]["alike"] * 10**9
        assert 24 <= known[way]["asked"] <= 40
    said = ("220 lab login service ready", "331 Password required", "530 Login incorrect", "221 Goodbye")
    assert {known[way]["answered"] for way in (OUT, IN)} == {sum(len(line) + 2 for line in said)}


@pytest.mark.usefixtures("service")
def test_a_real_client_with_a_stale_password_never_varies(rig: Rig) -> None:
    judge, visitor = Judge(rig), start(rig.client, "visit", SERVER, "--every", "0.1", "--stale")

    def enough() -> bool:
        judge.sweep()
        return greeters(rig).get(OUT, {}).get("ended", 0) >= 14

    wait(enough)
    visitor.kill()
    visitor.wait()
    assert not judge.decisions
    assert {known["varied"] for known in greeters(rig).values()} == {0}


def test_who_is_asked_first_is_not_counted(rig: Rig) -> None:
    before, begun = rig.reader.greeters().tobytes(), counters(rig)["dialogues"]
    held = len(list(kernel.keys(rig.plane._maps["hv_dialogues"], layout.DialogueKey)))
    server = start(rig.server, "web-server", "--port", "80", program="work.py")
    wait(lambda: ":80 " in rig.server.run("ss", "-Hltn"))
    client = rig.client.run(
        sys.executable, "-I", "-S", str(LAB / "work.py"), "load", "--seconds", "2", f"http://{SERVER}/"
    )
    server.kill()
    server.wait()
    answer = json.loads(client.splitlines()[-1])
    assert answer["requests"] - answer["failed"] > 8
    assert counters(rig)["dialogues"] - begun > 8
    assert rig.reader.greeters().tobytes() == before
    wait(lambda: len(list(kernel.keys(rig.plane._maps["hv_dialogues"], layout.DialogueKey))) <= held)
