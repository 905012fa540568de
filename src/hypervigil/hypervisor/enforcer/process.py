"""The enforcer's loop: one monitor speaks, each request is carried out, read back and answered. It decides nothing."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Awaitable, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from hypervigil.hypervisor import handover
from hypervigil.hypervisor.adapters.ebpf.dataplane import DataPlane
from hypervigil.hypervisor.adapters.ebpf.program import DEFAULT_PORTS, DataPlaneError
from hypervigil.hypervisor.adapters.libvirt.limits import DomainError, DomainLimits
from hypervigil.hypervisor.adapters.nftables.guard import Guard, GuardError, bridged_taps
from hypervigil.hypervisor.adapters.nftables.routed import RoutedGuard
from hypervigil.hypervisor.adapters.routes import RouteTable
from hypervigil.hypervisor.enforcer import state as states
from hypervigil.hypervisor.enforcer.channels import ChannelDesk
from hypervigil.hypervisor.enforcer.domains import DOMAIN_KINDS, DomainSteps
from hypervigil.hypervisor.enforcer.nics import HARD_END_AFTER_S, Nics
from hypervigil.hypervisor.enforcer.ports import Domains, Gatekeeper, Plane
from hypervigil.hypervisor.enforcer.routed import RoutedLayer
from hypervigil.hypervisor.enforcer.signing import HeadSigner, SigningError
from hypervigil.model.ids import Instant, LimitId, PortId, VmId
from hypervigil.model.limits import NIC_KINDS, Limit, LimitKind
from hypervigil.model.policy import Mode
from hypervigil.model.port_policy import FabricChange
from hypervigil.model.traffic import Direction, TrafficClass
from hypervigil.wire.frames import FrameDecoder, ProtocolError, encode
from hypervigil.wire.messages import (
    Ask,
    BindPorts,
    Done,
    Ended,
    FromEnforcer,
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
)

log = logging.getLogger(__name__)

TICK_S = 0.5
GRACE_S = 2.0
DOMAIN_STEP_S = 8.0
MAX_NOTICES = 1000
_READ_SIZE = 1 << 18


@dataclass(frozen=True, slots=True)
class EnforcerConfig:
    """Where things lie and who may speak."""

    run_dir: Path
    state_dir: Path
    pin_dir: Path
    monitor_uid: int
    sensors_uid: int
    gateway_uid: int
    max_ports: int = DEFAULT_PORTS
    """For so many NICs the data plane is loaded, where none is pinned."""


def _now() -> Instant:
    return Instant(time.clock_gettime(time.CLOCK_BOOTTIME))


class Enforcer:
    """Requests in, outcomes out; the only place that changes the kernel and libvirt."""

    def __init__(
        self,
        config: EnforcerConfig,
        plane: Plane,
        guard: Gatekeeper,
        domains: Domains,
        signer: HeadSigner,
        *,
        routed: RoutedLayer,
    ) -> None:
        self._config = config
        self._plane = plane
        self._state = states.load(config.state_dir)
        self._nics = Nics(plane, guard, bridged_taps)
        self._routed = routed
        self._domains = DomainSteps(domains, self._keep)
        self._signer = signer
        self._keeping = threading.Lock()
        self._writer: asyncio.StreamWriter | None = None
        self._away_since: Instant | None = _now()
        self._notices: list[FromEnforcer] = []
        self._unheard = 0
        # One worker: steps on domains keep their order; NIC limits never wait for it.
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="libvirt")
        for problem in self._nics.recall(self._state):
            log.warning("recall.failed reason=%s", problem)

    def _keep(self) -> None:
        with self._keeping:  # the worker keeps too, and the older must not come last
            states.save(self._config.state_dir, self._state)

    # --- requests ---
    async def handle(self, request: ToEnforcer) -> FromEnforcer:
        """Carry out one request; the answer tells what is in force afterwards."""
        try:
            match request:
                case BindPorts():
                    return Done(request=request.request, outcomes=self._bind(request))
                case PutLimits(limits=limits):
                    return Done(request=request.request, outcomes=await self._put(limits))
                case LiftLimits(limits=ids):
                    return Done(request=request.request, outcomes=await self._lift(ids))
                case SetTripwires():
                    return Done(request=request.request, outcomes=self._set_tripwires(request))
                case SignHead(sequence=sequence, digest=digest):
                    signature, key_id = self._signer.sign(sequence, digest, wall_at=time.time())
                    return Signed(request=request.request, signature=signature, key_id=key_id)
                case Ask():
                    return InForce(
                        request=request.request,
                        boot_id=self._state.boot_id,
                        ports=tuple(p for p in self._state.ports.values() if self._nics.in_force([p.port])),
                        limits=tuple(self._state.limits.values()),
                        guarding=self._state.guarding,
                        fabric=self._state.fabric,
                    )
        except (SigningError, OSError) as error:
            return Refused(request=request.request, reason=str(error))
        except Exception as error:
            log.exception("request.failed")
            return Refused(
                request=request.request, reason=f"the enforcer failed at this and tells why in its log: {error!r}"
            )

    def _bind(self, request: BindPorts) -> tuple[Outcome, ...]:
        outcomes = []
        for port in request.release:
            self._nics.release(port)
            self._state.ports.pop(port, None)
        self._state.guarding = request.guarding
        for policy in request.policies:
            earlier = self._state.ports.get(policy.port)
            self._state.ports[policy.port] = policy
            try:
                detail = self._nics.bind(self._state, policy)
                outcomes.append(Outcome(policy.port, True, _now(), detail))
            except (DataPlaneError, OSError) as error:
                if earlier is None:
                    self._nics.release(policy.port)
                    del self._state.ports[policy.port]
                else:
                    self._state.ports[policy.port] = earlier
                outcomes.append(Outcome(policy.port, False, _now(), str(error)))
        try:
            self._nics.change_fabric(self._state, request.fabric)
            if request.fabric != FabricChange():
                outcomes.append(Outcome("fabric", True, _now(), f"{len(self._state.fabric.grants)} grants"))
        except (DataPlaneError, OSError) as error:
            outcomes.append(Outcome("fabric", False, _now(), str(error)))
        try:
            # Last, so that a port is only let through once its policy is compiled.
            self._nics.guard(request.guarding, self._state.ports.values())
        except GuardError as error:
            outcomes.append(Outcome("guard", False, _now(), str(error)))
        found = self._routed.settle(self._state)
        outcomes += [Outcome(subject, False, _now(), what) for subject, ok, what in found if not ok]
        self._keep()
        return tuple(outcomes)

    async def _put(self, limits: tuple[Limit, ...]) -> tuple[Outcome, ...]:
        outcomes = []
        for limit in sorted(limits, key=lambda limit: limit.kind in DOMAIN_KINDS):  # the quick ones first
            if len(self._state.limits) >= states.MAX_LIMITS and limit.id not in self._state.limits:
                told = f"{states.MAX_LIMITS} limits are in force: lift others first"
                outcomes.append(Outcome(limit.id, False, _now(), told))
            elif limit.kind in NIC_KINDS:
                outcomes.append(self._put_nic(limit))
            else:
                outcomes.append(await self._put_domain(limit))
        self._keep()
        return tuple(outcomes)

    def _put_nic(self, limit: Limit) -> Outcome:
        ports = [p for p in self._state.ports.values() if p.vm == limit.vm]
        if not ports:
            return Outcome(limit.id, False, _now(), f"{limit.vm} has no bound port: it may be gone")
        if any(p.mode is Mode.MONITOR for p in ports):
            return Outcome(limit.id, False, _now(), "its port is in monitor mode, in which nothing is limited")
        earlier = self._state.limits.get(limit.id)
        self._state.limits[limit.id] = limit
        try:
            return Outcome(limit.id, True, _now(), "; ".join(self._nics.settle(self._state, limit.vm)))
        except (DataPlaneError, OSError) as error:
            self._undo(limit, earlier)
            with contextlib.suppress(DataPlaneError, OSError):
                self._nics.settle(self._state, limit.vm)
            return Outcome(limit.id, False, _now(), str(error))

    async def _put_domain(self, limit: Limit) -> Outcome:
        earlier = self._state.limits.get(limit.id)
        self._state.limits[limit.id] = limit
        try:
            detail = await self._step(limit.vm, limit.kind)
        except (DomainError, OSError, TimeoutError) as error:
            self._undo(limit, earlier)
            return Outcome(limit.id, False, _now(), str(error) or f"libvirt did not answer within {DOMAIN_STEP_S:g} s")
        return Outcome(limit.id, True, _now(), detail)

    def _undo(self, limit: Limit, earlier: Limit | None) -> None:
        if earlier is None:
            self._state.limits.pop(limit.id, None)
        else:
            self._state.limits[limit.id] = earlier

    async def _step(self, vm: VmId, kind: LimitKind) -> str:
        loop = asyncio.get_running_loop()
        step = loop.run_in_executor(self._worker, self._domains.settle, self._state, vm, kind)
        return await asyncio.wait_for(step, DOMAIN_STEP_S)

    async def _lift(self, ids: tuple[LimitId, ...]) -> tuple[Outcome, ...]:
        outcomes = []
        for identity in ids:
            limit = self._state.limits.pop(identity, None)
            try:
                detail = "was not in force" if limit is None else await self._settle(limit)
                outcomes.append(Outcome(identity, True, _now(), detail))
            except (DataPlaneError, DomainError, OSError, TimeoutError) as error:
                outcomes.append(Outcome(identity, False, _now(), str(error) or "libvirt did not answer"))
        self._keep()
        return tuple(outcomes)

    async def _settle(self, limit: Limit) -> str:
        if limit.kind in DOMAIN_KINDS:
            return await self._step(limit.vm, limit.kind)
        return "; ".join(self._nics.settle(self._state, limit.vm)) or "its ports are gone"

    def _set_tripwires(self, request: SetTripwires) -> tuple[Outcome, ...]:
        outcomes = []
        wires: dict[PortId, list[tuple[Direction, TrafficClass, int]]] = {}
        for wire in request.tripwires:
            if wire.port in self._state.ports:
                wires.setdefault(wire.port, []).append((wire.direction, wire.traffic, wire.packets_per_100ms))
        for port, thresholds in wires.items():
            try:
                self._plane.set_tripwires(port, thresholds)
            except (DataPlaneError, OSError) as error:
                outcomes.append(Outcome(port, False, _now(), str(error)))
        return tuple(outcomes)

    # --- what recurs ---
    async def tick(self) -> None:
        """At NICs: repair what was changed, end what is over."""
        now = _now()
        for subject, ok, what in [*self._nics.repair(self._state), *self._routed.settle(self._state)]:
            log.warning("drift.repaired subject=%s ok=%s what=%s", subject, ok, what)
            self._notify(Repaired(at=now, subject=subject, ok=ok, detail=what))
        await self._end_what_is_over(NIC_KINDS)

    async def tick_domains(self) -> None:
        """The same for domains, on its own: libvirt may let one wait for long."""
        try:
            if self._state.originals or self._state.ports:
                loop = asyncio.get_running_loop()
                with contextlib.suppress(TimeoutError):
                    step = loop.run_in_executor(self._worker, self._domains.repair, self._state)
                    for subject, ok, what in await asyncio.wait_for(step, DOMAIN_STEP_S):
                        self._notify(Repaired(at=_now(), subject=subject, ok=ok, detail=what))
        finally:
            await self._end_what_is_over(DOMAIN_KINDS)

    async def _end_what_is_over(self, kinds: Collection[LimitKind]) -> None:
        now = _now()
        for limit in list(self._state.limits.values()):
            if limit.kind in kinds and now > self._end(limit):
                await self._lift((limit.id,))
                reason = "its time is over" if self._away_since is None else "its time is over and the monitor is away"
                self._notify(Ended(at=now, limit=limit.id, vm=limit.vm, reason=reason))

    def _end(self, limit: Limit) -> float:
        """While the monitor is there it lifts; while it is away, ends are frozen for at most a quarter of an hour."""
        if self._away_since is None:
            return limit.until + GRACE_S
        return min(max(limit.until, self._away_since + HARD_END_AFTER_S), limit.until + HARD_END_AFTER_S)

    def _notify(self, notice: FromEnforcer) -> None:
        if self._writer is not None:
            self._writer.write(encode(notice))
        elif len(self._notices) < MAX_NOTICES:
            self._notices.append(notice)
        else:
            self._unheard += 1

    # --- sockets ---
    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One monitor; a second one replaces the first."""
        if peer_uid(writer.get_extra_info("socket")) not in {self._config.monitor_uid, 0}:
            log.warning("monitor.refused")
            writer.close()
            return
        if self._writer is not None:
            self._writer.close()
        self._writer = writer
        self._away_since = None
        if self._unheard:
            lost = f"{self._unheard} more notices had no room while the monitor was away"
            self._notices.append(Repaired(at=_now(), subject="notices", ok=False, detail=lost))
        for notice in self._notices:
            writer.write(encode(notice))
        self._notices.clear()
        self._unheard = 0
        decoder: FrameDecoder[ToEnforcer] = FrameDecoder(ToEnforcer)
        # Requests on domains may take seconds; others go on meanwhile, each in the order in which it came.
        queue: asyncio.Queue[ToEnforcer] = asyncio.Queue(1000)
        slow = asyncio.create_task(self._answer_slow(queue, writer))
        try:
            while data := await reader.read(_READ_SIZE):
                for request in decoder.feed(data):
                    if self._is_slow(request):
                        queue.put_nowait(request)
                    else:
                        writer.write(encode(await self.handle(request)))
                await writer.drain()
        except (ProtocolError, asyncio.QueueFull, OSError) as error:
            log.warning("monitor.connection_lost error=%s", error)
        finally:
            slow.cancel()
            writer.close()
            if self._writer is writer:
                self._writer = None
                self._away_since = _now()

    def _is_slow(self, request: ToEnforcer) -> bool:
        match request:
            case PutLimits(limits=limits):
                return any(limit.kind in DOMAIN_KINDS for limit in limits)
            case LiftLimits(limits=ids):
                return any((x := self._state.limits.get(i)) is not None and x.kind in DOMAIN_KINDS for i in ids)
            case _:
                return False

    async def _answer_slow(self, queue: asyncio.Queue[ToEnforcer], writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(encode(await self.handle(await queue.get())))

    async def hand_over(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Give the sensors their descriptors; the connection then tells them how long these are of use."""
        raw: socket.socket = writer.get_extra_info("socket")
        descriptors = self._plane.sensor_fds()
        try:
            with socket.socket(fileno=os.dup(raw.fileno())) as connection:
                connection.settimeout(2)
                handover.offer(connection, descriptors, allowed_uid=self._config.sensors_uid)
        except handover.HandoverError as error:
            log.warning("maps.refused error=%s", error)
            writer.close()
            return
        finally:
            for descriptor in descriptors.values():
                os.close(descriptor)
        with contextlib.suppress(OSError):
            await reader.read(1)
        writer.close()


def peer_uid(connection: socket.socket) -> int:
    """The uid at the other end, by the kernel's word."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", raw)[1])


def _listen(path: Path, uid: int) -> socket.socket:
    path.unlink(missing_ok=True)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    server.setblocking(False)
    server.bind(str(path))
    # PRIVILEGED: the socket is handed to the one user that may speak here.
    os.chown(path, uid, -1)
    path.chmod(0o600)
    server.listen(8)
    return server


async def _serve(config: EnforcerConfig, enforcer: Enforcer, desk: ChannelDesk) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    monitor = await asyncio.start_unix_server(
        enforcer.talk, sock=_listen(config.run_dir / "enforcer.sock", config.monitor_uid), limit=_READ_SIZE
    )
    maps = await asyncio.start_unix_server(
        enforcer.hand_over, sock=_listen(config.run_dir / "maps.sock", config.sensors_uid)
    )
    channels = await asyncio.start_unix_server(
        desk.serve, sock=_listen(config.run_dir / "channels.sock", config.gateway_uid)
    )
    async with monitor, maps, channels:
        with contextlib.suppress(Exception):  # it is tried again at once, and told then
            await enforcer.tick()
        _tell_systemd()
        await asyncio.gather(_every(TICK_S, enforcer.tick, stop), _every(TICK_S, enforcer.tick_domains, stop))


def _tell_systemd() -> None:
    """The guard stands: what waits for us may start (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as there:
            there.sendto(b"READY=1", "\0" + address[1:] if address.startswith("@") else address)


async def _every(period_s: float, do: Callable[[], Awaitable[None]], stop: asyncio.Event) -> None:
    while not stop.is_set():
        try:
            await do()
        except Exception:
            log.exception("tick.failed")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), period_s)


def run(config: EnforcerConfig) -> None:
    """Serve until SIGTERM. What is in force then stays in force: 'hypervigil off' removes it."""
    signer = HeadSigner(config.state_dir / "head.key", config.state_dir / "heads.jsonl", config.state_dir / "head.pub")
    plane = DataPlane.open(config.pin_dir, max_ports=config.max_ports)
    routed = RoutedLayer(RoutedGuard(), RouteTable())
    enforcer = Enforcer(config, plane, Guard(), DomainLimits(), signer, routed=routed)
    # A connection to libvirt of its own: one thread each.
    desk = ChannelDesk(DomainLimits(), gateway_uid=config.gateway_uid)
    asyncio.run(_serve(config, enforcer, desk))
