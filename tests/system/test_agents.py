"""Agents in real guests: honest ones agree with the host; what a guest's root makes of one is found out.

One boot: d, whose root is hostile, and b, a server, have our agent; c has none. The controls are made before the
product is up, at the host's end of d's port: who would believe what comes there believes lies and holds endless lines.
"""

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from hypervigil.entrypoints.control_client import ask
from hypervigil.entrypoints.layout import Layout
from hypervigil.host.hsem.history import SETTLED_SAMPLES
from hypervigil.model.guest import ALARM, GuestMetric
from hypervigil.wire import control
from lab import agents
from lab.guests import Guest
from lab.scenario import GuestTable, Limits, NetworkTable, Scenario
from lab.stage import Stage, policy, staged
from lab.watched import Case, Product, watching
from tests.system.product import wait_for

pytestmark = [pytest.mark.guests, pytest.mark.root, pytest.mark.timeout(400)]

LIAR, WITNESS, PLAIN = "d", "b", "c"
SCENARIO = Scenario(
    name="agents",
    network=(NetworkTable("net1", "10.60.0.0/24"),),
    guest=(
        GuestTable(LIAR, "net1", "red", agent=True),
        GuestTable(WITNESS, "net1", "blue", work="web-server", agent=True),
        GuestTable(PLAIN, "net1", "green"),
    ),
    limits=Limits(300.0),
    warmup_s=0.0,
)
PERIOD_S, DELAY_S = 1.0, 1.25
FOUND_S = 3 * PERIOD_S + DELAY_S
RECORD_S = 20
FEW_S = 5
STREAM = "hv-udp send {to} --port 53 --rate 200 --size 200 --seconds {seconds}"
ATTACK = "timeout {seconds} hping3 -q -i u5000 -d 120 -S -p 80 {to}"
ENDLESS_MIB = 16
FEW_MIB = 8
LIE = "pkill -9 -f '[/]lie.py'"


@dataclass
class Watch:
    """What the product says of each agent, looked at ten times a second, with its times by the host's clock."""

    layout: Layout
    seen: list[tuple[float, dict[str, dict[str, Any]]]] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)

    def look(self) -> None:
        while not self._over.wait(0.1):
            body = ask(self.layout.control_socket, control.ShowVms())
            self.seen.append((time.time(), {vm["name"].removeprefix("hvl-"): vm["agent"] for vm in body["vms"]}))

    def end(self) -> None:
        self._over.set()

    def now(self, name: str) -> dict[str, Any]:
        """The newest of one guest."""
        return self.seen[-1][1][name]

    def since(self, at: float, name: str) -> list[tuple[float, dict[str, Any]]]:
        return [(when, of[name]) for when, of in self.seen if when >= at]

    def until(self, name: str, hearing: str, since: float, within_s: float = 15.0) -> float:
        """How long after a time an agent was found to be so."""

        def so(one: dict[str, Any]) -> bool:
            old = hearing == "heard" and one["reported_at"] is not None and one["reported_at"] < since
            return one["hearing"] == hearing and not old

        def found() -> float | None:
            return next((when - since for when, one in self.since(since, name) if so(one)), None)

        return wait_for(f"{name}'s agent is {hearing}", found, within_s=within_s)

    def punctual(self, name: str, since: float) -> bool:
        """Whether reports of one came on time all the while."""
        return all(when - one["reported_at"] <= PERIOD_S + DELAY_S for when, one in self.since(since, name))


@dataclass
class Town:
    stage: Stage
    product: Product
    watch: Watch

    @property
    def liar(self) -> Guest:
        return self.stage.guests[LIAR]

    @property
    def victim(self) -> str:
        return self.stage.guests[WITNESS].address

    def facts(self, kind: str, since: float, name: str = LIAR) -> list[dict[str, Any]]:
        """What is on record of a guest's agent."""
        records = self.product.ask("journal", "show", "--last", "1000")["records"]
        vm = self.stage.guests[name].uuid
        guests = [one for one in records if one["kind"] == "guest" and one["wall_at"] >= since]
        return [one for one in guests if one["body"]["kind"] == kind and one["body"]["vm"] == vm]

    def honest(self) -> None:
        """The genuine agent alone has the port, and is heard; no limit of before holds the guest back."""
        self.product.ask("release", f"hvl-{LIAR}")
        self.liar.run(f"{LIE}; {agents.END}; true")
        began = time.time()
        agents.start(self.liar)
        self.watch.until(LIAR, "heard", began + 0.5)

    @contextmanager
    def lying(self, command: str) -> Iterator[float]:
        """The genuine agent has ended, and this has its port; since when."""
        self.liar.run(f"{LIE}; {agents.END}; true")
        job = self.liar.spawn(f"hv-lie {command}")
        try:
            yield time.time()
        finally:
            self.liar.stop(job)

    @contextmanager
    def sending(self, command: str, seconds: float) -> Iterator[float]:
        """The liar sends to the witness; since when, by the host's count of frames."""
        before = sent(self.liar)["packets"]
        job = self.liar.spawn(command.format(to=self.victim, seconds=seconds))
        wait_for("its first packets", lambda: sent(self.liar)["packets"] > before + 10, within_s=10)
        try:
            yield time.time()
        finally:
            self.liar.stop(job)


def sent(place: Guest) -> dict[str, int]:
    """What the tap's own counters say that a guest sent."""
    counters = Path(f"/sys/class/net/{place.interface}/statistics")
    return {name: int((counters / f"rx_{name}").read_text()) for name in ("packets", "bytes")}


def resident_kib(pid: int) -> int:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1])


def told(place: Guest) -> dict[str, int]:
    """What is in the genuine reports of a guest that its root has recorded so far."""
    answer: dict[str, int] = json.loads(place.run("hv-lie told /run/genuine").output)
    return answer


class Naive:
    """A host that keeps what comes until its line ends, and believes it."""

    def __init__(self, place: Guest) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(place.agent_socket))
        self._socket.settimeout(0.2)
        self.line = b""
        self.reports: list[list[Any]] = []

    def listen(self, seconds: float, enough: Callable[[], bool]) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and not enough():
            try:
                *lines, self.line = (self.line + self._socket.recv(1 << 20)).split(b"\n")
            except TimeoutError:
                continue
            self.reports += [json.loads(one) for one in lines if one.startswith(b'["r')]

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(scope="module")
def unwatched() -> Iterator[Stage]:
    """The guests without the product."""
    with staged(SCENARIO, watched=False) as stage:
        stage.begin()
        stage.guests[WITNESS].spawn("iperf3 -s")
        stage.guests[WITNESS].spawn("hv-udp serve --port 53")
        yield stage


@pytest.fixture(scope="module")
def controls(unwatched: Stage) -> dict[str, float]:
    """What lies and endless lines do to who believes and waits."""
    liar, host = unwatched.guests[LIAR], Naive(unwatched.guests[LIAR])
    try:
        liar.run(f"{agents.END}; true")
        job = liar.spawn("hv-lie relay --record /run/genuine")
        host.listen(20, lambda: len(host.reports) >= FEW_S)
        assert len(host.reports) >= FEW_S
        liar.stop(job)
        liar.run(f"{LIE}; {agents.END}; true")

        host.reports.clear()
        job = liar.spawn("hv-lie replay /run/genuine")
        host.listen(10, lambda: len(host.reports) >= 1)
        host.reports.clear()
        before = sent(liar)["bytes"]
        attack = liar.spawn(ATTACK.format(seconds=5, to=unwatched.guests[WITNESS].address))
        host.listen(5, lambda: False)
        liar.stop(attack)
        told = sum(report[9][GuestMetric.OUT_BYTES] for report in host.reports)
        really = sent(liar)["bytes"] - before
        liar.stop(job)
        liar.run(f"{LIE}; true")

        job = liar.spawn(f"hv-lie send line --seconds 30 --octets {ENDLESS_MIB << 20}")
        host.listen(30, lambda: len(host.line) >= (ENDLESS_MIB - 1) << 20)
        liar.stop(job)
        return {"told": told, "sent": really, "held": len(host.line)}
    finally:
        host.close()


@pytest.fixture(scope="module")
def town(unwatched: Stage, controls: dict[str, float]) -> Iterator[Town]:
    with ExitStack() as stack:
        unwatched.guests[LIAR].run(f"{LIE}; {agents.END}; true")
        agents.start(unwatched.guests[LIAR])
        product = stack.enter_context(watching(policy(SCENARIO, unwatched.networks, unwatched.guests)))
        watch = Watch(Layout(product.places.run_dir, product.places.state_dir, product.places.pin_dir))
        thread = threading.Thread(target=watch.look)
        stack.callback(thread.join)
        stack.callback(watch.end)
        thread.start()
        wait_for("a first look", lambda: watch.seen, within_s=10)
        yield Town(unwatched, product, watch)


def test_without_the_product_lies_are_believed_and_lines_without_end_are_kept(controls: dict[str, float]) -> None:
    assert controls["sent"] > 20_000
    assert controls["told"] < 0.1 * controls["sent"], "an idle guest, says its root"
    assert controls["held"] >= (ENDLESS_MIB - 1) << 20


@pytest.mark.req("T-CORE-7", "T-CORE-10", "A227")
def test_an_honest_agent_agrees_and_one_that_is_killed_or_tells_old_things_is_found_out(town: Town) -> None:
    watch, liar = town.watch, town.liar
    for name in (LIAR, WITNESS):
        watch.until(name, "heard", 0.0)
    assert watch.now(PLAIN)["hearing"] == "no-port"

    # Honest, and recorded by its root; then under traffic, which its own count and the tap's agree on.
    town.product.ask("exempt", f"hvl-{LIAR}", "--until", "10m")
    with town.lying("relay --record /run/genuine") as began:
        watch.until(LIAR, "heard", began + 3)
        calm = time.time()
        wait_for("genuine reports of a calm time", lambda: time.time() - calm >= RECORD_S, within_s=RECORD_S + 5)
        liar.run("cp /run/genuine /run/calm")
        quiet = watch.now(LIAR)
        print(f"level {quiet['level']}: {quiet['bytes_per_s']:.0f} bytes/s")
        assert quiet["level"] == 1
        assert quiet["bytes_per_s"] <= 1000
        before, told_before = sent(liar), told(liar)
        with town.sending("iperf3 -c {to} -t {seconds:g} >/dev/null", 8):
            wait_for("much traffic", lambda: sent(liar)["bytes"] - before["bytes"] > 1 << 20, within_s=20)
        count = told(liar)["reports"]
        wait_for("two reports after it", lambda: told(liar)["reports"] >= count + 2, within_s=10)
        really = sent(liar)["bytes"] - before["bytes"]
        share = (told(liar)["out_bytes"] - told_before["out_bytes"]) / really
        print(f"told {share:.3f} of {really:,} bytes")
        assert 0.9 <= share <= 1.05
        heard = {one["hearing"] for _, one in watch.since(calm, LIAR) + watch.since(calm, WITNESS)}
        assert heard == {"heard"}
        assert not town.facts("agent-mismatch", began)

        # Killed, and with it who stood between.
        town.product.ask("exempt", f"hvl-{LIAR}", "--until", "now")
        liar.run(agents.END)
        killed = time.time()
        found_s = watch.until(LIAR, "silent", killed)
        print(f"killed: found after {found_s:.2f} s")
        assert found_s <= FOUND_S
        assert [one for one in town.facts("agent-silent", killed) if one["body"]["value"] <= FOUND_S]

    # Its genuine reports of a calm time again, with fresh numbers and times, while it sends.
    with town.lying("replay /run/calm") as lying:
        watch.until(LIAR, "heard", lying)
        with town.sending(ATTACK, 12) as began:
            found_s = watch.until(LIAR, "contradicted", began)
            print(f"old reports: found after {found_s:.2f} s")
            assert found_s <= FOUND_S

            def blamed() -> float | None:
                cases = [case for case in town.product.cases() if case.name == f"hvl-{LIAR}"]
                return next((case.decided_at for case in cases if case.role == "attacker"), None)

            verdict_s = wait_for("the sending is judged", blamed, within_s=12) - began
            print(f"verdict after {verdict_s:.2f} s")
        assert town.facts("agent-mismatch", began)
    case = next(case for case in town.product.cases() if case.role == "attacker" and case.name == f"hvl-{LIAR}")
    assert (case.attack, case.target) == ("flood", f"hvl-{WITNESS}")
    assert watch.punctual(WITNESS, killed)
    assert not [one for one in town.product.cases() if one.role == "attacker" and one.name != f"hvl-{LIAR}"]


@pytest.mark.long
@pytest.mark.req("A214", "A239")
def test_what_never_reaches_a_nic_is_known_by_the_agent_alone(town: Town) -> None:
    """Listening to others, a module into the kernel, a gateway of one's own: the host's counts do not move."""
    plain = town.stage.guests[PLAIN]
    town.honest()
    wait_for("it has looked at its setup", lambda: len(town.watch.seen) > 0 and aged(town, 12), within_s=20)
    kinds = {
        "promiscuous eth0": "hv-wire watch /run/seen",
        "module dummy": "modprobe dummy",
        "forwarding": "echo 1 > /proc/sys/net/ipv4/ip_forward",
    }
    for words, command in kinds.items():
        began = time.time()
        for place in (town.liar, plain):
            place.spawn(command)

        def told(words: str = words, since: float = began) -> float | None:
            facts = town.facts("special-request", since)
            return next((one["wall_at"] - since for one in facts if words in one["body"]["text"]), None)

        print(f"{words}: told after {wait_for(words, told, within_s=15):.1f} s")
    assert not [case for case in town.product.cases() if case.name == f"hvl-{PLAIN}"], "of c nothing is known"


def aged(town: Town, seconds: float) -> bool:
    """Whether the genuine agent has been heard for so long without a break."""
    lately = town.watch.since(time.time() - seconds, LIAR)
    return len(lately) > 5 * seconds and all(one["hearing"] == "heard" for _, one in lately)


@pytest.mark.long
@pytest.mark.req("T-CORE-7")
def test_one_that_is_frozen_tells_less_or_tells_of_the_past_is_found_out(town: Town) -> None:
    watch, liar = town.watch, town.liar

    # Frozen, and thawed.
    town.product.ask("exempt", f"hvl-{LIAR}", "--until", "10m")  # judged, and its CPU its own
    town.honest()
    frozen = time.time()
    liar.run("pkill -STOP -f '[h]ypervigil.guest import agent'")
    found_s = watch.until(LIAR, "silent", frozen)
    print(f"frozen: found after {found_s:.2f} s")
    assert found_s <= FOUND_S
    thawed = time.time()
    liar.run("pkill -CONT -f '[h]ypervigil.guest import agent'")
    watch.until(LIAR, "heard", thawed)

    # Half of what it counted, and nothing; everything is the control.
    for share, hearing in ((1.0, "heard"), (0.5, "contradicted"), (0.0, "contradicted")):
        with town.lying(f"relay --share {share}") as lying:
            watch.until(LIAR, "heard", lying + 1)
            with town.sending(STREAM, 8) as began:
                if share == 1.0:
                    wait_for("some seconds of it", lambda at=began: time.time() - at > 6, within_s=8)
                    assert {one["hearing"] for _, one in watch.since(began, LIAR)} == {hearing}
                else:
                    found_s = watch.until(LIAR, hearing, began)
                    print(f"{share:.0%} of it told: found after {found_s:.2f} s")
                    assert found_s <= FOUND_S

    # Its genuine reports with their own times, and with their own numbers too: nothing of it is heard.
    with town.lying("relay --record /run/some") as lying:
        watch.until(LIAR, "heard", lying + 1)
        wait_for("some genuine reports", lambda: time.time() - lying > 8, within_s=10)
    with town.lying("replay --new --old-times /run/some") as lying:
        found_s = watch.until(LIAR, "silent", lying)
        print(f"with old times: silent after {found_s:.2f} s")
        late = watch.now(LIAR)["late"]
        wait_for("late reports", lambda: watch.now(LIAR)["late"] > late + 1, within_s=5)
    with town.lying("replay --verbatim /run/some") as lying:
        untaken = watch.now(LIAR)["untaken"]
        wait_for("what is not taken", lambda: watch.now(LIAR)["untaken"] > untaken + 1, within_s=5)
        assert all(one["hearing"] == "silent" for _, one in watch.since(lying, LIAR))


@pytest.mark.long
@pytest.mark.req("T-CORE-10", "A220", "A236", "A242")
def test_the_channel_costs_little_in_a_flood_too(town: Town) -> None:
    watch = town.watch
    town.product.ask("exempt", f"hvl-{LIAR}", "--until", "10m")  # judged, and its CPU its own
    town.honest()
    with town.sending("for i in 1 2; do timeout {seconds} hping3 -q --flood -S -p 80 {to} & done; wait", 30) as began:
        wait_for("its case raises the agent", lambda: watch.now(LIAR)["level"] == 2, within_s=10)
        before = sent(town.liar)["packets"]
        raised = time.time()
        wait_for("some seconds of it", lambda: time.time() - raised > 15, within_s=20)
        packets = (sent(town.liar)["packets"] - before) / (time.time() - raised)
        loud = watch.now(LIAR)
    print(f"level {loud['level']} at {packets:,.0f} packets/s: {loud['bytes_per_s']:.0f} bytes/s")
    assert loud["hearing"] == "heard"
    assert loud["bytes_per_s"] <= 20_000
    assert watch.punctual(WITNESS, began)

    town.product.ask("release", f"hvl-{LIAR}")
    calm = time.time()
    wait_for("the agent is lowered again", lambda: watch.now(LIAR)["level"] == 1, within_s=120)
    print(f"lowered {time.time() - calm:.0f} s after the release")


@pytest.mark.long
@pytest.mark.req("A222", "A238", "A240", "A241", "A245", "A246")
def test_what_an_agent_answers_and_details_is_told_with_its_case(town: Town) -> None:
    town.product.ask("exempt", f"hvl-{LIAR}", "--until", "10m")  # judged, and its CPU its own
    town.honest()
    with town.sending(ATTACK, 40) as began:

        def case() -> dict[str, Any] | None:
            opened = [one for one in town.product.cases() if one.name == f"hvl-{LIAR}" and one.opened_at > began - 1]
            return town.product.ask("case", opened[0].case) if opened else None

        def answered() -> dict[str, Any] | None:
            found = case()
            return found if found and found["told"] and found["details"] else None

        found = wait_for("answers and details of its agent", answered, within_s=30)
        wait_for("the sender's name", lambda: transmitting((case() or {}).get("details"), "hping3"), within_s=20)
        details = (case() or found)["details"]
    print([one["text"] for one in found["told"]])
    assert any(town.victim in one["text"] for one in found["told"]), "whom it sends most to"
    assert any(town.victim in str(flow) for flow in details["flows"])
    assert details["flows_in_all"] >= len(details["flows"]) >= 1


def transmitting(details: dict[str, Any] | None, name: str) -> bool:
    """Whether a program is among those of the guest that send."""
    return details is not None and any(name in str(one) for one in details["transmitters"])


REFUSED_WITHIN = """
import socket, time
while True:
    with socket.socket() as one:
        one.connect_ex(("127.0.0.1", 9))
    time.sleep(0.01)
"""


@pytest.mark.long
@pytest.mark.timeout(700)
@pytest.mark.req("A236", "A244")
def test_what_only_the_guest_sees_draws_a_close_look_and_no_limit(town: Town) -> None:
    """Connections refused within the guest: no NIC ever sees them, and they take next to no CPU."""
    town.honest()
    town.product.ask("exempt", f"hvl-{LIAR}", "--until", "now")
    wait_for("its agent has told what is usual", lambda: aged(town, SETTLED_SAMPLES + 10), within_s=420)
    began = time.time()
    job = town.liar.spawn(f"timeout 40 python3 -c '{REFUSED_WITHIN}'")

    def drawn() -> Case | None:
        new = [one for one in town.product.cases() if one.name == f"hvl-{LIAR}" and one.opened_at >= began]
        return next((one for one in new if any(fact.kind == ALARM for fact in one.evidence)), None)

    found = wait_for("a case that its agent's word drew", drawn, within_s=30)
    print(f"drawn after {found.opened_at - began:.1f} s")
    closed = wait_for("its end", lambda: (one := drawn()) is not None and one.closed_at and one, within_s=60)
    town.liar.stop(job)
    assert closed.role not in {"attacker", "victim"}
    assert not [limit for limit in town.product.limits() if limit.case == found.case]


@pytest.mark.long
@pytest.mark.req("T-CORE-13", "A226")
@pytest.mark.parametrize("what", ["garbage", "line", "forged"])
def test_whatever_comes_by_one_port_delays_no_other_and_fills_nothing(town: Town, what: str) -> None:
    # The last in this file: what it leaves in its own port's queue is read for minutes, no faster than its budget.
    watch, began = town.watch, time.time()
    gateway = town.product.pids()["gateway"]
    before = resident_kib(gateway)
    untaken = watch.now(LIAR)["untaken"], watch.now(WITNESS)["untaken"]
    with town.lying(f"send {what} --seconds 60 --name {town.stage.guests[WITNESS].uuid}"):
        wait_for("what is not taken", lambda: watch.now(LIAR)["untaken"] > untaken[0], within_s=10)
        flooding = time.time()
        wait_for("some seconds of it", lambda: time.time() - flooding > 6, within_s=8)
    print(f"{what}: the gateway grew by {resident_kib(gateway) - before} KiB")
    assert resident_kib(gateway) - before < FEW_MIB << 10
    assert watch.punctual(WITNESS, began)
    assert watch.now(WITNESS)["untaken"] == untaken[1]
    assert {one["hearing"] for _, one in watch.since(began, WITNESS)} == {"heard"}
    assert watch.now(LIAR)["hearing"] == "silent", "nothing of it was taken for a report"
