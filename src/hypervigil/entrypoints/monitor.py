"""The monitor's process: HSEM and HREM on one loop, the journal, the answers. No rights, no collector."""

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from hypervigil.entrypoints.confine import confine
from hypervigil.entrypoints.layout import GATEWAY_USER, MONITOR_USER, SENSORS_USER, Layout, user_ids
from hypervigil.entrypoints.options import parse_layout
from hypervigil.entrypoints.starting import starting_policy
from hypervigil.host import policyfile
from hypervigil.host.durable import replace_file
from hypervigil.host.hrem.engine import Hrem
from hypervigil.host.hsem.engine import Hsem
from hypervigil.host.hsem.facts import Facts
from hypervigil.host.hsem.resume import Resumed
from hypervigil.host.inventory import AddressBook
from hypervigil.host.journal import Journal, JournalError, Kind
from hypervigil.host.journal.records import PolicyChange
from hypervigil.host.monitor import histories
from hypervigil.host.monitor.answers import Answers
from hypervigil.host.monitor.conductor import ENFORCER, Conductor
from hypervigil.host.monitor.ledger import FOLDED
from hypervigil.host.monitor.links import ControlLink, EnforcerLink, InboundLink, listen
from hypervigil.host.monitor.signing import Signing
from hypervigil.host.monitor.tripwires import changed_tripwires
from hypervigil.model.grants import HostSize
from hypervigil.model.ids import CaseId, Instant
from hypervigil.model.policy import Mode, Policy
from hypervigil.model.status import Evidence, Role
from hypervigil.wire import control
from hypervigil.wire.gateway import FromGateway
from hypervigil.wire.messages import (
    Blind,
    FromEnforcer,
    FromSensors,
    InventoryChanged,
    Refused,
    SetTripwires,
    Signed,
    Swept,
    Tripwire,
)

log = logging.getLogger(__name__)

TICK_S = 0.1
ALIVE_S = 0.5
HISTORY_S = 10.0
LOOK_S = 1.0
SIGN_NOW_S = 2.0
TRIPWIRES_S = 5.0
GAP_S = 1.0
TOLD = 100
"""Facts about an agent that are read again of each open case."""


def now() -> Instant:
    """The present, in seconds of ``CLOCK_BOOTTIME``."""
    return Instant(time.clock_gettime(time.CLOCK_BOOTTIME))


def wall(at: Instant) -> float:
    """The wall-clock time of an instant, by today's difference of the clocks."""
    return at + (time.time() - now())


def boot_id() -> str:
    """Which run of this machine it is: instants of another one mean nothing."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def host_size() -> HostSize:
    """What this host has to give."""
    pages, page = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return HostSize(os.cpu_count() or 1, pages * page / 1024)


class Monitor:
    """Everything of one monitor process, wired."""

    def __init__(self, layout: Layout, policy: Policy, store: policyfile.PolicyStore) -> None:
        self._layout = layout
        self._store = store
        self._boot_id = boot_id()
        self._history_path = layout.monitor_state / "history.npz"
        self._alive_path = layout.monitor_state / "alive"
        self.journal = Journal.open(layout.journal)
        self._book = AddressBook()
        self._hsem = Hsem(
            policy.bounds,
            next_case=self.journal.next_case,
            next_limit=self.journal.next_limit,
            ladder=policy.ladder,
        )
        self._enforcer = EnforcerLink(
            layout.enforcer_socket, joined=self._joined, hear=self._from_enforcer, gone=self._enforcer_gone
        )
        self._gateway: InboundLink[FromGateway] = InboundLink(
            "gateway",
            FromGateway,
            joined=self._gateway_joined,
            hear=self._from_gateway,
            gone=self._gateway_gone,
            uids=frozenset({user_ids(GATEWAY_USER)[0]}),
        )
        self.conductor = Conductor(
            policy=policy,
            hrem=Hrem(self._book),
            hsem=self._hsem,
            book=self._book,
            journal=self.journal,
            enforcer=self._enforcer,
            gateway=self._gateway,
            wall=wall,
            host=host_size(),
        )
        self._sensors: InboundLink[FromSensors] = InboundLink(
            "sensors",
            FromSensors,
            joined=lambda: self.conductor.sensors_joined(now()),
            hear=self._from_sensors,
            gone=self._sensors_gone,
            uids=frozenset({user_ids(SENSORS_USER)[0]}),
        )
        self._signing = Signing(self.journal, self._enforcer)
        self._head_answered = asyncio.Event()
        self._tripwires: dict[tuple[object, ...], Tripwire] = {}
        self._answers = Answers(
            self.conductor,
            sensors_connected=lambda: self._sensors.connected,
            journal_state=self._journal_state,
            samples=self._hsem.samples,
            keep_policy=self._store.keep,
            unsaid=self._store.unsaid,
            remember=self._hsem.remember,
            recall=self._hsem.recall,
            since_wall=time.time(),
        )

    # --- coming back ----
    def recover(self) -> None:
        """Take up where the last process left off: cases and limits from the journal, memory from the snapshot."""
        self.conductor.ledger.replay(self.journal.records(kinds=FOLDED), boot_id=self._boot_id)
        self._record_policy()
        try:
            self._hsem.recall(histories.decode(self._history_path.read_bytes()))
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            log.warning("history.unreadable error=%s: the judge begins with what the policy presumes", error)
        self._resume()
        for case in self.conductor.ledger.open_cases():
            self._recall_told(case.case)
        self.conductor.resume(now())
        try:
            last = self._alive_path.stat().st_mtime
        except FileNotFoundError:
            return
        if time.time() - last > GAP_S or self.journal.count():
            self.conductor.gap(last, time.time(), "the monitor was not running", now())

    def _record_policy(self) -> None:
        """A policy that this start took from a file, on record as one that is applied is."""
        try:
            before, text = self.journal.last(Kind.POLICY), self._store.text()
            if text is not None and (before is None or before.read(PolicyChange).text != text):
                change = PolicyChange("the monitor's start", ("taken as the monitor started",), text)
                self.conductor.note(Kind.POLICY, change, now())
        except (JournalError, policyfile.PolicyError) as error:
            log.warning("policy.not_recorded error=%s", error)

    def _resume(self) -> None:
        """Give the judge the cases that the last process left open, and the attackers that it found."""
        ledger = self.conductor.ledger
        self._hsem.resume(
            [
                Resumed(
                    vm=entry.vm,
                    case=entry.case,
                    role=entry.last_verdict.role if entry.last_verdict else None,
                    since=entry.last_verdict.at if entry.last_verdict else entry.opened,
                    facts=self._facts(entry.case),
                    limits=tuple(e.limit for e in ledger.limits.values() if e.limit.case == entry.case and e.lasts),
                )
                for entry in ledger.open_cases()
            ],
            Counter(entry.vm for entry in ledger.cases.values() if entry.role is Role.ATTACKER),
        )

    def _recall_told(self, case: CaseId) -> None:
        """What agents lately told while this case was open."""
        told = list(self.journal.records(kinds=[Kind.GUEST], case=case, newest_first=True, limit=TOLD))
        for record in reversed(told):
            self.conductor.ledger.told(case, record.read(Evidence))

    def _facts(self, case: CaseId) -> Facts | None:
        """The last facts of a case on record."""
        newest = next(iter(self.journal.records(kinds=[Kind.FACT], case=case, newest_first=True, limit=1)), None)
        try:
            return newest.read(Facts) if newest is not None else None
        except JournalError as error:
            log.warning("facts.unreadable case=%s error=%s: the case goes on with new ones", case, error)
            return None

    # --- what comes in ----
    def _from_sensors(self, message: FromSensors) -> None:
        match message:
            case Swept(sweep=sweep):
                self.conductor.swept(sweep, now())
            case InventoryChanged(inventory=inventory):
                self.conductor.inventory(inventory, now())
            case Blind():
                self.conductor.blind(message, now())

    def _sensors_gone(self) -> None:
        self.conductor.blind(Blind(at=now(), what="sensors", since=now()), now())

    def _gateway_joined(self) -> None:
        self.conductor.gateway_joined()

    def _from_gateway(self, message: FromGateway) -> None:
        self.conductor.heard(message, now())

    def _gateway_gone(self) -> None:
        self.conductor.gateway_gone()

    def _joined(self) -> None:
        self.conductor.blind(Blind(at=now(), what=ENFORCER, since=None), now())
        self._tripwires.clear()
        self._signing.joined()
        self.conductor.joined()

    def _enforcer_gone(self) -> None:
        self.conductor.blind(Blind(at=now(), what=ENFORCER, since=now()), now())

    def _from_enforcer(self, message: FromEnforcer) -> None:
        if isinstance(message, Signed | Refused) and self._signing.answered(message, now(), time.time()):
            self._head_answered.set()
        self.conductor.enforced(message, now())

    # --- what recurs ----
    async def run(self) -> None:
        """Serve until SIGTERM."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        _, sensors_gid = user_ids(SENSORS_USER)
        sensors_socket = listen(self._layout.sensors_socket, mode=0o666, gid=sensors_gid)
        _, gateway_gid = user_ids(GATEWAY_USER)
        gateway_socket = listen(self._layout.gateway_socket, mode=0o666, gid=gateway_gid)
        control_socket = listen(self._layout.control_socket, mode=0o666)
        allowed = frozenset({0, os.getuid()})
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._sensors.serve(sensors_socket)),
                group.create_task(self._gateway.serve(gateway_socket)),
                group.create_task(ControlLink(self._answer, uids=allowed).serve(control_socket)),
                group.create_task(self._enforcer.run()),
                group.create_task(_every(TICK_S, self._tick)),
                group.create_task(_every(ALIVE_S, self._alive)),
                group.create_task(_every(HISTORY_S, self.save)),
                group.create_task(_every(TRIPWIRES_S, self._set_tripwires)),
                group.create_task(_every(LOOK_S, lambda: self._signing.tick(now()))),
            ]
            await stop.wait()
            for task in tasks:
                task.cancel()
        self.save()
        self.journal.close()

    async def _answer(self, request: control.Request) -> control.Response:
        if isinstance(request, control.SignNow):
            await self._sign_now()
        try:
            return self._answers.answer(request, now())
        except Exception:
            log.exception("control.failed request=%s", type(request).__name__)
            return control.Denied(reason="this request failed inside the monitor; its log says why")

    def _tick(self) -> None:
        self.conductor.tick(now())
        self.journal.flush(now())

    def _alive(self) -> None:
        with contextlib.suppress(OSError):
            self._alive_path.touch()

    def save(self) -> None:
        """Write the judge's history to disk, whole or not at all."""
        try:
            replace_file(self._history_path, histories.encode(self._hsem.remember()))
        except OSError as error:
            log.warning("history.not_written error=%s", error)

    async def _sign_now(self) -> None:
        """Have the head signed that there is, and wait for it a moment; the answer tells how far it came."""
        self._head_answered.clear()
        if self._signing.ask(now()):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._head_answered.wait(), SIGN_NOW_S)

    def _set_tripwires(self) -> None:
        changed = changed_tripwires(self.conductor, self._hsem, self._tripwires)
        if changed and self._enforcer.connected:
            self._enforcer.send(SetTripwires(request=self._enforcer.next_request(), tripwires=tuple(changed)))

    def _journal_state(self) -> dict[str, Any]:
        sequence, digest = self.journal.head()
        return {
            "records": sequence,
            "head": digest.hex(),
            "signed_through": self._signing.through,
            "waiting": self.journal.held,
            "trouble": self.journal.trouble,
        }


async def _every(period_s: float, do: Callable[[], None] | Callable[[], Awaitable[None]]) -> None:
    """Call ``do`` each period; one failure is logged, not the end of the loop."""
    while True:
        try:
            result = do()
            if result is not None:
                await result
        except Exception:
            log.exception("loop.failed what=%s", getattr(do, "__name__", do))
        await asyncio.sleep(period_s)


def main(argv: list[str] | None = None) -> None:
    """``python -m hypervigil.entrypoints.monitor --run-dir=… --state-dir=… --pin-dir=… [--enforce] [--policy=…]``."""
    layout, rest = parse_layout(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser()
    parser.add_argument("--enforce", action="store_true")
    parser.add_argument("--policy", type=Path, metavar="FILE")
    arguments = parser.parse_args(rest)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    confine()
    user_ids(MONITOR_USER)
    store = policyfile.PolicyStore(
        layout.monitor_state,
        Mode.ENFORCE if arguments.enforce else Mode.MONITOR,
        file=arguments.policy,
        handed=layout.handed_policy,
    )
    try:
        monitor = Monitor(layout, starting_policy(store), store)
    except (JournalError, policyfile.PolicyError, OSError) as error:
        sys.exit(f"hypervigil monitor: {error}")
    monitor.recover()
    asyncio.run(monitor.run())


if __name__ == "__main__":
    main()
