"""The enforcer's loop with a clock, a kernel and a libvirt of the test's own: ends, absences, slowness, refusals."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hypervigil.hypervisor.adapters.ebpf.dataplane import Drift
from hypervigil.hypervisor.enforcer import process
from hypervigil.hypervisor.enforcer import state as states
from hypervigil.hypervisor.enforcer.nics import HARD_END_AFTER_S
from hypervigil.hypervisor.enforcer.process import GRACE_S, Enforcer, EnforcerConfig
from hypervigil.hypervisor.enforcer.routed import RoutedLayer
from hypervigil.hypervisor.enforcer.signing import HeadSigner
from hypervigil.hypervisor.enforcer.state import State
from hypervigil.model.ids import Instant, PerimeterId, PortId, VmId
from hypervigil.model.limits import Limit, LimitKind
from hypervigil.model.policy import Mode
from hypervigil.model.port_policy import Fabric, FabricChange, Grant, PortPolicy
from hypervigil.model.services import ANYTHING
from hypervigil.model.traffic import Direction, TrafficClass
from hypervigil.wire.frames import FrameDecoder, encode
from hypervigil.wire.messages import (
    Ask,
    BindPorts,
    Done,
    Ended,
    FromEnforcer,
    Guarding,
    InForce,
    LiftLimits,
    Outcome,
    PutLimits,
    Refused,
    Repaired,
    SetTripwires,
    Signed,
    SignHead,
    ToEnforcer,
    Tripwire,
)
from tests.unit.hypervisor.enforcer.fakes import RED, Gatekeeper, Kernel, Libvirt, Roads, RoutedKeeper, limit, port

RED1 = port(RED)
MINUTE = 60.0


class Rig:
    """An enforcer whose monitor comes and goes, and whose clock stands still unless it is set.

    ``again`` makes it.
    """

    enforcer: Enforcer

    def __init__(self, directory: Path) -> None:
        self.at = 1000.0
        self.kernel, self.guard, self.libvirt = Kernel(), Gatekeeper(), Libvirt()
        self.routed_guard, self.roads = RoutedKeeper(), Roads()
        self._directory = directory
        self._signer = HeadSigner(directory / "head.key", directory / "heads.jsonl", directory / "head.pub")
        self.heard: list[FromEnforcer] = []
        self._decoder: FrameDecoder[FromEnforcer] = FrameDecoder(FromEnforcer)

    def again(self) -> None:
        """Another process takes over."""
        config = EnforcerConfig(self._directory, self._directory, self._directory, 4711, 4712, 4713)
        routed = RoutedLayer(self.routed_guard, self.roads)
        self.enforcer = Enforcer(config, self.kernel, self.guard, self.libvirt, self._signer, routed=routed)

    async def comes(self) -> None:
        ours, its = socket.socketpair()
        reader, writer = await asyncio.open_unix_connection(sock=its)
        self._reader, self._writer = await asyncio.open_unix_connection(sock=ours)
        self._talk = asyncio.create_task(self.enforcer.talk(reader, writer))
        await asyncio.sleep(0)

    async def goes(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()
        await self._talk

    async def hear(self) -> FromEnforcer:
        while not self.heard:
            data = await asyncio.wait_for(self._reader.read(1 << 16), 5)
            assert data, "the enforcer hung up"
            self.heard += self._decoder.feed(data)
        return self.heard.pop(0)

    async def ask(self, request: ToEnforcer) -> FromEnforcer:
        self._writer.write(encode(request))
        return await self.hear()

    async def bind(self, *policies: PortPolicy) -> None:
        answer = await self.enforcer.handle(BindPorts(request=1, policies=policies or (RED1,)))
        assert isinstance(answer, Done)
        assert all(outcome.ok for outcome in answer.outcomes)

    async def put(self, *limits: Limit) -> list[Outcome]:
        answer = await self.enforcer.handle(PutLimits(request=1, limits=limits))
        assert isinstance(answer, Done)
        return list(answer.outcomes)

    async def lift(self, *limits: Limit) -> list[Outcome]:
        answer = await self.enforcer.handle(LiftLimits(request=1, limits=tuple(one.id for one in limits)))
        assert isinstance(answer, Done)
        return list(answer.outcomes)

    async def in_force(self, at: float | None = None) -> set[str]:
        """Limits that are in force at a time, after both rounds."""
        self.at = self.at if at is None else at
        await self.enforcer.tick()
        await self.enforcer.tick_domains()
        answer = await self.enforcer.handle(Ask(request=1))
        assert isinstance(answer, InForce)
        return {one.id for one in answer.limits}


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    monkeypatch.setattr(process, "_now", lambda: Instant(rig.at))
    monkeypatch.setattr(process, "peer_uid", lambda _: 4711)
    rig.again()  # only now: an enforcer looks at the clock when it is made
    yield rig
    rig.enforcer._worker.shutdown(wait=True)


NIC = limit(LimitKind.PACKETS, 5, until=1100.0)
CPU = limit(LimitKind.CPU, 0.5, until=1100.0)


# --- ends ---
def test_while_the_monitor_is_there_a_limit_ends_soon_after_its_end(rig: Rig) -> None:
    async def play() -> None:
        await rig.comes()
        await rig.bind()
        await rig.put(NIC, CPU)
        assert await rig.in_force(1100.0 + GRACE_S - 0.1) == {NIC.id, CPU.id}, "the monitor lifts, if it is in time"
        assert await rig.in_force(1100.0 + GRACE_S + 0.1) == set()
        assert rig.kernel.rate == {}
        assert rig.libvirt.now[RED, LimitKind.CPU] == Libvirt.WAS
        ended = [await rig.hear(), await rig.hear()]
        assert {(type(n), n.limit, n.reason) for n in ended} == {
            (Ended, one.id, "its time is over") for one in (NIC, CPU)
        }
        await rig.goes()

    asyncio.run(play())


def test_while_the_monitor_is_away_ends_are_frozen_for_a_quarter_of_an_hour(rig: Rig) -> None:
    async def play() -> None:
        await rig.comes()
        await rig.bind()
        await rig.put(NIC, CPU)
        rig.at = 1090.0
        await rig.goes()
        frozen_until = 1090.0 + 15 * MINUTE
        assert await rig.in_force(1100.0 + GRACE_S + 1) == {NIC.id, CPU.id}
        assert await rig.in_force(frozen_until - 1) == {NIC.id, CPU.id}
        assert await rig.in_force(frozen_until + 1) == set()
        assert rig.kernel.rate == {}
        await rig.comes()
        told = [await rig.hear(), await rig.hear()]
        assert all(isinstance(n, Ended) and n.reason.endswith("the monitor is away") for n in told), "for the journal"
        await rig.goes()

    asyncio.run(play())


def test_no_absence_makes_a_limit_outlive_its_end_by_more_than_a_quarter_of_an_hour(rig: Rig) -> None:
    async def play() -> None:
        await rig.bind()
        await rig.put(NIC)
        rig.at = 1101.0
        for _ in range(3):  # each return would freeze it anew
            await rig.comes()
            await rig.goes()
            rig.again()
        assert await rig.in_force(1100.0 + HARD_END_AFTER_S - 1) == {NIC.id}
        assert await rig.in_force(1100.0 + HARD_END_AFTER_S + 1) == set()

    asyncio.run(play())


def test_a_limit_that_ends_later_is_not_touched_by_an_absence(rig: Rig) -> None:
    async def play() -> None:
        late = limit(LimitKind.PACKETS, 5, until=1000.0 + 60 * MINUTE)
        await rig.bind()
        await rig.put(late)
        assert await rig.in_force(1000.0 + 59 * MINUTE) == {late.id}
        assert await rig.in_force(1000.0 + 61 * MINUTE) == set()

    asyncio.run(play())


def test_another_process_takes_over_what_is_in_force(rig: Rig) -> None:
    async def play() -> None:
        await rig.bind()
        await rig.put(NIC, CPU)
        rig.again()
        assert await rig.in_force() == {NIC.id, CPU.id}
        assert [outcome.ok for outcome in await rig.lift(NIC, CPU)] == [True, True]
        assert rig.kernel.rate == {}
        assert rig.libvirt.now[RED, LimitKind.CPU] == Libvirt.WAS

    asyncio.run(play())


# --- notices ---
def test_what_happens_while_the_monitor_is_away_is_told_when_it_comes_but_not_without_end(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "MAX_NOTICES", 3)

    async def play() -> None:
        await rig.bind()
        for number in range(5):
            rig.kernel.drifted = [Drift(RED1.port, f"change {number}")]
            await rig.enforcer.tick()
        rig.kernel.drifted = []
        await rig.comes()
        told = [await rig.hear() for _ in range(4)]
        assert [n.detail for n in told if isinstance(n, Repaired)] == [
            *(f"change {number}" for number in range(3)),
            "2 more notices had no room while the monitor was away",
        ]
        assert isinstance(await rig.ask(Ask(request=9)), InForce), "and no more"
        await rig.goes()
        await rig.comes()
        assert isinstance(await rig.ask(Ask(request=10)), InForce), "nothing is told twice"
        await rig.goes()

    asyncio.run(play())


# --- libvirt that is slow, or silent ---
def test_a_step_that_comes_too_late_is_no_limit_and_is_undone(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "DOMAIN_STEP_S", 0.05)
    go_on = threading.Event()
    put = rig.libvirt.put

    def slowly(vm: VmId, kind: LimitKind, value: float, above: dict[str, int] | None) -> str:
        go_on.wait(5)
        return put(vm, kind, value, above)

    rig.libvirt.put = slowly

    async def play() -> None:
        [outcome] = await rig.put(CPU)
        assert not outcome.ok
        assert "did not answer" in outcome.detail
        go_on.set()
        deadline = time.monotonic() + 5
        while rig.libvirt.now.get((RED, LimitKind.CPU)) != 0.5:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        monkeypatch.setattr(process, "DOMAIN_STEP_S", 5.0)
        assert await rig.in_force() == set()
        assert rig.libvirt.now[RED, LimitKind.CPU] == Libvirt.WAS, "what came late is taken back"

    asyncio.run(play())


def test_what_could_not_be_lifted_is_lifted_later_also_by_another_process(rig: Rig) -> None:
    async def play() -> None:
        await rig.put(CPU)
        rig.libvirt.silent = True
        [outcome] = await rig.lift(CPU)
        assert not outcome.ok
        rig.again()
        await rig.enforcer.tick_domains()
        assert rig.libvirt.now[RED, LimitKind.CPU] == 0.5, "the control"
        rig.libvirt.silent = False
        await rig.enforcer.tick_domains()
        assert rig.libvirt.now[RED, LimitKind.CPU] == Libvirt.WAS

    asyncio.run(play())


def test_nics_and_the_monitor_do_not_wait_for_libvirt(rig: Rig) -> None:
    go_on = threading.Event()

    def hangs(*_: object) -> bool:
        go_on.wait(5)
        return True

    async def play() -> None:
        await rig.comes()
        await rig.bind()
        await rig.put(CPU)
        rig.libvirt.holds = hangs
        slow = asyncio.create_task(rig.enforcer.tick_domains())
        await asyncio.sleep(0)
        began = time.monotonic()
        rig.kernel.drifted = [Drift(RED1.port, "its limits were changed")]
        await rig.enforcer.tick()
        assert isinstance(await rig.hear(), Repaired)
        assert isinstance(await rig.ask(PutLimits(request=2, limits=(NIC,))), Done)
        assert isinstance(await rig.ask(Ask(request=3)), InForce)
        assert time.monotonic() - began < 1
        assert not slow.done(), "the control: libvirt still hangs"
        go_on.set()
        await slow
        await rig.goes()

    asyncio.run(play())


# --- refusals ---
def test_what_cannot_be_is_said_per_limit_and_leaves_the_others(rig: Rig) -> None:
    async def play() -> None:
        watched = port(VmId("green"), 7, Mode.MONITOR)
        await rig.bind(RED1, watched)
        rig.libvirt.gone = {VmId("gone")}
        outcomes = await rig.put(
            limit(LimitKind.PAUSE, vm=VmId("gone")),
            limit(LimitKind.PACKETS, 5, vm=watched.vm),
            limit(LimitKind.PACKETS, 5, vm=VmId("nobody")),
            NIC,
        )
        assert [outcome.ok for outcome in outcomes] == [False, False, True, False]
        told = " ".join(outcome.detail for outcome in outcomes)
        assert "monitor mode" in told
        assert "no bound port" in told
        assert "is gone" in told
        assert await rig.in_force() == {NIC.id}

    asyncio.run(play())


def test_limits_are_bounded_but_one_in_force_may_be_replaced(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process.states, "MAX_LIMITS", 2)

    async def play() -> None:
        await rig.bind()
        assert all(outcome.ok for outcome in await rig.put(NIC, CPU))
        for kind, value in ((LimitKind.OCTETS, 5000), (LimitKind.PAUSE, None)):
            [outcome] = await rig.put(limit(kind, value))
            assert not outcome.ok
            assert "lift others first" in outcome.detail
        [outcome] = await rig.put(NIC)
        assert outcome.ok

    asyncio.run(play())


def test_a_port_that_cannot_be_bound_keeps_none(rig: Rig) -> None:
    async def play() -> None:
        rig.kernel.gone = {RED1.port}
        answer = await rig.enforcer.handle(BindPorts(request=1, policies=(RED1,)))
        assert isinstance(answer, Done)
        assert not answer.outcomes[0].ok
        assert rig.kernel.bound == {}
        answer = await rig.enforcer.handle(Ask(request=2))
        assert isinstance(answer, InForce)
        assert answer.ports == ()

    asyncio.run(play())


def test_a_failure_that_nobody_thought_of_is_answered(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    async def play() -> None:
        await rig.bind()

        def fails(*_: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(rig.enforcer._nics, "settle", fails)
        await rig.comes()
        answer = await rig.ask(PutLimits(request=5, limits=(NIC,)))
        assert isinstance(answer, Refused)
        assert answer.request == 5
        assert isinstance(await rig.ask(Ask(request=6)), InForce), "and the next request is heard"
        await rig.goes()

    asyncio.run(play())


def test_a_full_disk_is_a_refusal_and_not_a_limit_of_a_domain(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left")

    async def play() -> None:
        monkeypatch.setattr(process.states, "save", full)
        answer = await rig.enforcer.handle(PutLimits(request=1, limits=(CPU,)))
        assert isinstance(answer, Refused)
        assert "no space" in answer.reason
        assert rig.libvirt.now == {}, "nothing is changed before it is written down what was before"

    asyncio.run(play())


@pytest.mark.parametrize(("uid", "heard"), [(4711, True), (0, True), (4712, False), (1000, False)])
def test_only_the_monitor_and_root_are_heard(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, uid: int, *, heard: bool
) -> None:
    monkeypatch.setattr(process, "peer_uid", lambda _: uid)

    async def play() -> None:
        await rig.comes()
        if heard:
            assert isinstance(await rig.ask(Ask(request=1)), InForce)
        else:
            assert await asyncio.wait_for(rig._reader.read(1), 5) == b""
        await rig.goes()

    asyncio.run(play())


def test_what_is_no_message_ends_the_connection_and_the_monitor_is_away(rig: Rig) -> None:
    async def play() -> None:
        await rig.comes()
        rig._writer.write(b"\0\0\0\4nope")
        assert await asyncio.wait_for(rig._reader.read(1), 5) == b""
        await rig.goes()
        assert rig.enforcer._writer is None
        assert rig.enforcer._away_since == rig.at

    asyncio.run(play())


def test_a_second_monitor_replaces_the_first(rig: Rig) -> None:
    async def play() -> None:
        await rig.comes()
        first, first_writer, first_talk = rig._reader, rig._writer, rig._talk
        await rig.comes()
        assert await asyncio.wait_for(first.read(1), 5) == b""
        first_writer.close()
        await first_writer.wait_closed()
        await first_talk
        assert rig.enforcer._away_since is None, "the second is there"
        assert isinstance(await rig.ask(Ask(request=1)), InForce)
        await rig.goes()

    asyncio.run(play())


def test_heads_are_signed_and_what_is_behind_is_refused(rig: Rig) -> None:
    async def play() -> None:
        await rig.comes()
        assert isinstance(await rig.ask(SignHead(request=1, sequence=7, digest=b"a" * 32)), Signed)
        assert isinstance(await rig.ask(SignHead(request=2, sequence=6, digest=b"b" * 32)), Refused)
        await rig.goes()

    asyncio.run(play())


def test_tripwires_are_set_per_port_and_those_of_no_port_are_left_out(rig: Rig) -> None:
    async def play() -> None:
        await rig.bind()
        wires = [Tripwire(RED1.port, Direction.OUT, traffic, 30) for traffic in (TrafficClass.SYN, TrafficClass.UDP)]
        elsewhere = Tripwire(PortId("52:54:00:00:00:99"), Direction.OUT, TrafficClass.SYN, 30)
        request = SetTripwires(request=1, tripwires=(wires[0], elsewhere, wires[1]))
        assert await rig.enforcer.handle(request) == Done(request=1, outcomes=())
        assert rig.kernel.wires == {RED1.port: [(Direction.OUT, w.traffic, 30) for w in wires]}
        rig.kernel.refuses = {"set_tripwires"}
        answer = await rig.enforcer.handle(request)
        assert isinstance(answer, Done)
        assert [(outcome.subject, outcome.ok) for outcome in answer.outcomes] == [(RED1.port, False)]

    asyncio.run(play())


def test_a_round_that_fails_does_not_end_the_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds: list[int] = []

    async def play() -> None:
        stop = asyncio.Event()

        async def fails() -> None:
            rounds.append(1)
            if len(rounds) == 3:
                stop.set()
            raise ZeroDivisionError

        await asyncio.wait_for(process._every(0.001, fails, stop), 5)

    asyncio.run(play())
    assert len(rounds) == 3


def test_a_network_policy_that_does_not_fit_is_said_and_changes_nothing(rig: Rig) -> None:
    async def play() -> None:
        grant = Grant(PerimeterId("n/a"), PerimeterId("n/a"), ANYTHING)
        change = FabricChange((grant,))
        answer = await rig.enforcer.handle(BindPorts(request=1, policies=(RED1,), fabric=change))
        assert isinstance(answer, Done)
        assert [(o.subject, o.ok) for o in answer.outcomes] == [(RED1.port, True), ("fabric", True)]
        rig.kernel.refuses.add("change_fabric")
        answer = await rig.enforcer.handle(BindPorts(request=2, policies=(), fabric=FabricChange(whole=True)))
        assert isinstance(answer, Done)
        assert [(o.subject, o.ok, o.detail) for o in answer.outcomes] == [
            ("fabric", False, "the kernel refused change_fabric")
        ]
        there = await rig.enforcer.handle(Ask(request=3))
        assert isinstance(there, InForce)
        assert there.fabric == Fabric((grant,))

    asyncio.run(play())


# --- grants ---
GRANT = limit(LimitKind.MEMORY, 1000.0, until=1100.0, raised_from=float(Libvirt.WAS))


def test_a_grant_is_put_read_back_kept_by_another_process_and_ended(rig: Rig) -> None:
    async def play() -> None:
        [outcome] = await rig.put(GRANT)
        assert (outcome.ok, outcome.detail) == (True, "memory 1000")
        rig.again()
        await rig.comes()
        assert await rig.in_force(1050.0) == {GRANT.id}
        answer = await rig.ask(Ask(request=5))
        assert isinstance(answer, InForce)
        assert answer.limits == (GRANT,), "with what it raises from"
        assert await rig.in_force(1100.0 + GRACE_S + 1) == set()
        assert isinstance(await rig.hear(), Ended)
        assert rig.libvirt.now[RED, LimitKind.MEMORY] == Libvirt.WAS
        await rig.goes()

    asyncio.run(play())


def test_a_grant_that_gives_nothing_is_no_grant(rig: Rig) -> None:
    async def play() -> None:
        rig.libvirt.now[RED, LimitKind.MEMORY] = 5000
        [outcome] = await rig.put(GRANT)
        assert not outcome.ok
        assert "as much without a grant" in outcome.detail
        assert await rig.in_force() == set()
        assert rig.libvirt.now[RED, LimitKind.MEMORY] == 5000

    asyncio.run(play())


def test_after_a_start_of_the_machine_the_guard_stands_before_anybody_speaks(tmp_path: Path) -> None:
    """Guests that start meanwhile pass nothing where a policy was enforced; of nothing else is anything left."""
    state = State("an earlier run", guarding=Guarding(("br0",), ("up0",)))
    state.ports[RED1.port] = RED1
    states.save(tmp_path, state)
    rig = Rig(tmp_path)
    rig.again()
    assert rig.guard.bound() is None
    asyncio.run(rig.enforcer.tick())
    there = rig.guard.bound()
    assert there is not None
    assert RED1.ifindex not in there, "others are the test machine's own"
    assert not rig.kernel.bound


def test_who_waits_for_the_enforcer_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    process._tell_systemd()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        process._tell_systemd()
        assert systemd.recv(64) == b"READY=1"
    process._tell_systemd()  # nobody is there any more
