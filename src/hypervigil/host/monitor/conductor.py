"""Routes: sweeps to HREM, its reports to HSEM, HSEM's decisions first to the journal and then to the enforcer.

It decides nothing about a VM. What it does hold is the order of things: a decision is committed before it is acted on;
in monitor mode, and for an exempt VM, an order is recorded as withheld and goes no further; after any restart the
journal's word and the kernel's are reconciled.
"""

import logging
from collections.abc import Callable, Iterable

from hypervigil.host.hrem.agents import MISTRUSTED, Agents
from hypervigil.host.hrem.grants import Grants
from hypervigil.host.hsem.resources import Resource
from hypervigil.host.inventory import AddressBook, Compiled, compile_ports, protected_networks
from hypervigil.host.journal import Entry, Kind
from hypervigil.host.journal.records import Blindness, Enforcement, Gap, OperatorCommand, PolicyChange, Repair
from hypervigil.host.monitor import guests
from hypervigil.host.monitor.drops import Drops
from hypervigil.host.monitor.grants import bounds, by_policy, raised, wish
from hypervigil.host.monitor.guidance import Guidance, brief_history, provider_networks
from hypervigil.host.monitor.health import Health
from hypervigil.host.monitor.inquiries import Inquiries
from hypervigil.host.monitor.ledger import EXEMPT, Ledger
from hypervigil.host.monitor.parts import Enforcer, Gateway, Journal, Judge, Observer
from hypervigil.host.monitor.reconcile import compared
from hypervigil.host.monitor.records import LimitEnded, Withheld
from hypervigil.model.grants import HostSize
from hypervigil.model.guest import ACCOUNTS, GuestReport, Hearing
from hypervigil.model.ids import CaseId, Instant, LimitId, VmId
from hypervigil.model.limits import Limit
from hypervigil.model.observation import Sweep
from hypervigil.model.policy import Mode, Policy
from hypervigil.model.port_policy import Fabric, PortPolicy
from hypervigil.model.report import Decide, Decision, EnterLevel2, LeaveLevel2, LiftLimit, OrderLimit
from hypervigil.model.status import Evidence, Level, Role
from hypervigil.model.vm import Inventory, Vm
from hypervigil.network.compile import difference
from hypervigil.wire import gateway as heard
from hypervigil.wire import messages as wire
from hypervigil.wire.guest import ToGuest

log = logging.getLogger(__name__)

FABRIC = "fabric"
"""What the enforcer calls the network policy in its outcomes."""
ENFORCER = "enforcer"
"""What is not seen while the enforcer is away."""


class Conductor:
    """One host's loop, without sockets and clocks: everything comes in as a call with ``now``."""

    def __init__(
        self,
        *,
        policy: Policy,
        hrem: Observer,
        hsem: Judge,
        book: AddressBook,
        journal: Journal,
        enforcer: Enforcer,
        gateway: Gateway,
        wall: Callable[[Instant], float],
        host: HostSize,
    ) -> None:
        self.policy = policy
        self.hrem = hrem
        self.hsem = hsem
        self.book = book
        self.journal = journal
        self.enforcer = enforcer
        self.gateway = gateway
        self.agents = Agents()
        self.guidance = Guidance()
        self.inquiries = Inquiries()
        self.drops = Drops()
        self.grants = Grants(policy, host, journal.next_limit)
        self.wall = wall
        self.ledger = Ledger()
        self.health = Health()
        self.vms: dict[VmId, Vm] = {}
        self.compiled = Compiled((), ())
        self.exempt_until: dict[VmId, Instant] = {}
        self._bound: dict[str, PortPolicy] = {}
        self._guarded: wire.Guarding | None = None
        self._fabric: Fabric | None = Fabric()
        """What the enforcer has; ``None`` where that is not known."""
        self._granted: list[Limit] = []
        """The grants that the judge and the ports know of."""
        self._bounded: dict[VmId, dict[Resource, float]] = {}
        self._entries: list[Entry] = []

    # --- what the sensors say ----
    def inventory(self, inventory: Inventory, now: Instant) -> None:
        """The running domains changed: tell the engines, compile the ports, bind them."""
        known = {vm.vm: vm for vm in inventory.vms}
        if known != self.vms:
            self.note(Kind.INVENTORY, inventory, now)
            self.commit()
            first, self.vms = not self.vms, known
            self.book.update(inventory, self.policy)
            self.hrem.inventory(inventory)
            self.act(self.hsem.inventory(inventory.vms, now), now)
            self.agents.inventory(inventory.vms, now)
            self.guidance.keep(known)
            self.inquiries.surveys.keep(known)
            self.drops.keep(known)
            self.grants.inventory(inventory.vms)
            self.gateway.send(guests.channels(inventory.vms))
            self._spare(now)
            if first:
                self.joined()  # in which mode each VM is is known only now
        self.bind(now)

    def bind(self, now: Instant) -> None:
        """Compile every port's policy and have the changed ones put into the kernel."""
        policy = raised(self.policy, self.grants.given, self.vms)
        self.compiled = compile_ports(Inventory(tuple(self.vms.values())), policy)
        wanted = {str(p.port): p for p in self.compiled.ports}
        changed = tuple(p for key, p in wanted.items() if self._bound.get(key) != p)
        release = tuple(p.port for key, p in self._bound.items() if key not in wanted)
        guarding = self._guarding()
        if not changed and not release and guarding == self._guarded and self.compiled.fabric == self._fabric:
            return
        request = wire.BindPorts(
            request=self.enforcer.next_request(),
            policies=changed,
            release=release,
            guarding=guarding,
            fabric=difference(self._fabric, self.compiled.fabric),
        )
        if self.enforcer.send(request):
            self._bound, self._guarded, self._fabric = dict(wanted), guarding, self.compiled.fabric
            log.info("ports.bind changed=%d released=%d at=%.3f", len(changed), len(release), now)

    def _guarding(self) -> wire.Guarding | None:
        """Where a port without compiled policy passes nothing, whoever is alive."""
        if not (networks := protected_networks(self.policy)):
            return None
        uplinks = tuple(uplink for network in networks for uplink in network.uplinks)
        bridges = tuple(network.bridge for network in networks if network.bridge is not None)
        return wire.Guarding(bridges=bridges, exempt=uplinks, routed=len(bridges) < len(networks))

    def swept(self, sweep: Sweep, now: Instant) -> None:
        """A sweep: observe, judge, act."""
        self.health.sweeps += 1
        self.health.lost += sweep.lost
        self.health.last_sweep_at = now
        self.told(self.grants.observe(sweep, now), now)
        for report in self.hrem.observe(sweep, now):
            self.act(self.hsem.hear(report, now), now)
            self.agents.saw(report, sweep.at)
            self.drops.saw(report)

    def blind(self, message: wire.Blind, now: Instant) -> None:
        """The sensors lost or regained sight of something."""
        if message.since is None:
            self.health.blind.pop(message.what, None)
        else:
            self.health.blind[message.what] = message.since
        self.note(Kind.BLIND, Blindness(message.what, message.since), now)
        self.commit()

    def sensors_joined(self, now: Instant) -> None:
        """The sensors are there (again): what they cannot see they say next, what their predecessors said is over."""
        for what in self.health.blind.keys() - {ENFORCER}:
            self.blind(wire.Blind(at=now, what=what, since=None), now)

    def tick(self, now: Instant) -> None:
        """Time has passed: ends of limits, holds, calm, silence."""
        self.hsem.clock(self.wall(now) - now)  # the wall's clock may be set at any time
        self.act(self.hsem.tick(now), now)
        self.told(self.agents.tick(now), now)
        for vm, until in list(self.exempt_until.items()):
            if until <= now:
                del self.exempt_until[vm]
        for entry in self.ledger.standing():
            if entry.limit.case is None and entry.limit.until <= now and not entry.limit.grants:
                self.act([LiftLimit(entry.limit.id, entry.limit.vm, now, "its time is over")], now)
        self._grant(now)
        if self._entries:
            self.commit()

    # --- grants ----
    def resume(self, now: Instant) -> None:
        """Take up the open cases, the grants in force and the exemptions that the last process left."""
        self.exempt_until = {vm: one.until(now, self.wall(now)) for vm, one in self.ledger.exempt.items()}
        for case in self.ledger.open_cases():
            self.inquiries.opened(case.vm, case.case, case.opened)
        self.grants.resume(entry.limit for entry in self.ledger.standing())
        self._granted = self.grants.given
        self.hsem.given(self._granted)

    def _grant(self, now: Instant) -> None:
        """Give and take back; what stands explains more to the judge, and raises the budgets of ports."""
        answer = self.grants.decide(now, self._status)
        self.told(answer.told, now)
        self.act(answer.decisions, now)
        for limit in self.grants.given:
            entry = self.ledger.limits.get(limit.id)
            if entry is None or not entry.standing:  # withheld, refused, ended by somebody else
                self.grants.failed(limit.id, now)
        if (bounded := bounds(self.compiled.ports, self.grants.owed(now))) != self._bounded:
            self._bounded = bounded
            self.hsem.bounded(bounded)
        if self.grants.given != self._granted:
            self._granted = self.grants.given
            self.hsem.given(self._granted)
            self.bind(now)

    def _status(self, vm: VmId) -> Role | None:
        """HSEM's status of a VM; whose agent contradicts the host's counts is under suspicion here."""
        return None if self.agents.state(vm).hearing is Hearing.CONTRADICTED else self.hsem.role(vm)

    # --- what the gateway says ----
    def gateway_joined(self) -> None:
        """The gateway is there (again): it reads what it is told to read."""
        self.gateway.send(guests.channels(self.vms.values()))

    def gateway_gone(self) -> None:
        """Nobody listens to the agents."""
        self.agents.deaf()
        self.inquiries.deaf()

    def heard(self, message: heard.FromGateway, now: Instant) -> None:
        """What was heard of a guest, or of its channel."""
        response = guests.respond(self.agents, self.inquiries, message, now)
        if (asked := wish(message, now)) is not None:
            self.grants.ask(asked)
        self.told(response.evidence, now)
        if response.visits is not None:
            self.hsem.visited(*response.visits)
        for answer in response.say:
            self.gateway.send(answer)
        report = response.report
        if report is not None:
            self.hsem.heard(report)
            case = self.hsem.level(report.vm) is Level.LEVEL2
            for said in self.guidance.after(report, case=case, lesson=lambda: self._lesson(report.vm, now)):
                self.gateway.send(heard.Tell(vm=report.vm, message=said))
        self._inquire(report, now)

    def _inquire(self, report: GuestReport | None, now: Instant) -> None:
        """Ask an agent what the judge wants to know, if it is heard."""
        if report is None:
            return
        for question in self.inquiries.ask(report, self.hsem.questions(report.vm), now):
            if not self.gateway.send(heard.Tell(vm=report.vm, message=question)):
                self.inquiries.lost(report.vm)

    def _lesson(self, vm: VmId, now: Instant) -> list[ToGuest]:
        """What is inside, and what is usual of a VM once that is known."""
        lesson: list[ToGuest] = []
        if cidrs := [network.cidr for network in self.policy.networks if network.cidr is not None]:
            lesson.append(provider_networks(cidrs))
        known = self.hsem.brief(vm)
        if known.usual:
            lesson.append(brief_history(int(now), known.usual, known.ports))
        return lesson

    def told(self, evidence: Iterable[Evidence], now: Instant) -> None:
        """Facts about agents: on record, with the case of their VM if one is open, and for whoever judges."""
        urgent = False
        for one in evidence:
            urgent |= one.kind not in ACCOUNTS
            case = self.inquiries.case(one.vm)
            self.note(Kind.GUEST, one, now, case, one.vm)
            if case is not None:
                self.ledger.told(case, one)
            if one.kind in MISTRUSTED | ACCOUNTS:
                self.hsem.told(one)
        if urgent:  # accounts can wait for the next tick: many VMs may give theirs at once
            self.commit()

    # --- decisions ----
    def mode(self, vm: VmId) -> Mode:
        """The mode in force for a VM."""
        known = self.vms.get(vm)
        return self.policy.mode_of(known.name) if known else self.policy.mode

    def act(self, decisions: Iterable[Decision], now: Instant) -> None:
        """Record every decision, commit, then carry out what is to be carried out."""
        orders: list[Limit] = []
        lifts: list[LimitId] = []
        opened: list[VmId] = []
        seen = False
        for decision in decisions:
            seen = True
            match decision:
                case EnterLevel2():
                    self.ledger.opened(decision, self.wall(now))
                    self.note(Kind.LEVEL, decision, now, decision.case, decision.vm)
                    self.note(Kind.FACT, self.hsem.facts(decision.case), now, decision.case, decision.vm)
                    self.inquiries.opened(decision.vm, decision.case, now)
                    opened.append(decision.vm)
                case Decide(verdict=verdict):
                    self.ledger.decided(verdict, self.wall(now))
                    self.note(Kind.FACT, self.hsem.facts(verdict.case), now, verdict.case, verdict.vm)
                    self.note(Kind.DECISION, verdict, now, verdict.case, verdict.vm)
                case OrderLimit(limit=limit):
                    reason = self._why_withheld(limit, now)
                    self.ledger.ordered(limit, self.wall(now), withheld=reason is not None)
                    if reason is None:
                        if not by_policy(limit):
                            orders.append(limit)
                        self.note(Kind.ORDERED, limit, now, limit.case, limit.vm, limit.id)
                    else:
                        body = Withheld(limit, reason)
                        self.note(Kind.WITHHELD, body, now, limit.case, limit.vm, limit.id)
                case LiftLimit():
                    entry = self.ledger.limits.get(decision.limit)
                    standing = entry is not None and entry.standing
                    self.ledger.lifted(decision.limit, self.wall(now), decision.reason)
                    if entry is not None and standing and not by_policy(entry.limit):
                        lifts.append(decision.limit)
                    self.note(Kind.LIFTED, decision, now, None, decision.vm, decision.limit)
                case LeaveLevel2():
                    self.ledger.closed(decision, self.wall(now))
                    self.inquiries.closed(decision.vm)
                    self.note(Kind.LEVEL, decision, now, decision.case, decision.vm)
        if not seen:
            return
        self.commit()
        # First what is new, so that a limit which replaces another leaves no gap.
        if orders:
            self.enforcer.send(wire.PutLimits(request=self.enforcer.next_request(), limits=tuple(orders)))
        if lifts:
            self.enforcer.send(wire.LiftLimits(request=self.enforcer.next_request(), limits=tuple(lifts)))
        for vm in opened:
            self._inquire(self.agents.speaking(vm), now)

    def _why_withheld(self, limit: Limit, now: Instant) -> str | None:
        if self.mode(limit.vm) is Mode.MONITOR:
            return "monitor mode"
        if limit.case is not None and self.exempt_until.get(limit.vm, now) > now:
            return "the operator exempted this VM"
        return None

    def note(  # noqa: PLR0917 - the order is that of the record
        self,
        kind: Kind,
        body: object,
        now: Instant,
        case: CaseId | None = None,
        vm: VmId | None = None,
        limit: LimitId | None = None,
    ) -> None:
        """Queue one record; nothing is acted on before ``commit``."""
        self._entries.append(Entry(kind, body, now, self.wall(now), case, vm, limit))

    def commit(self) -> None:
        """Make every queued record durable in one transaction."""
        entries, self._entries = self._entries, []
        self.journal.append_many(entries)

    # --- what the enforcer says ----
    def enforced(self, message: wire.FromEnforcer, now: Instant) -> None:
        """An answer or a notice of the enforcer's."""
        match message:
            case wire.Done(outcomes=outcomes):
                for outcome in outcomes:
                    self._outcome(outcome, now)
                self.commit()
            case wire.Repaired():
                self.health.repairs += 1
                self.note(Kind.REPAIRED, Repair(message.subject, message.ok, message.detail), now)
                self.commit()
            case wire.Ended():
                self._ended(LimitEnded(message.limit, message.reason, message.at), message.vm, now)
                self.commit()
            case wire.InForce():
                self._reconcile(message, now)
            case wire.Refused():
                log.error("enforcer.refused request=%d reason=%s", message.request, message.reason)
            case wire.Signed():
                pass

    def _ended(self, end: LimitEnded, vm: VmId, now: Instant) -> None:
        """A limit ended without our word."""
        self.ledger.lifted(end.limit, self.wall(now if end.at is None else end.at), end.reason)
        self.note(Kind.LIFTED, end, now, None, vm, end.limit)

    def _outcome(self, outcome: wire.Outcome, now: Instant) -> None:
        limit = self.ledger.limits.get(LimitId(outcome.subject))
        if limit is not None:
            if limit.standing:
                self.ledger.enforced(limit.limit.id, self.wall(outcome.at), ok=outcome.ok, detail=outcome.detail)
                body = Enforcement(limit.limit.id, outcome.ok, outcome.detail, outcome.at)
                self.note(Kind.ENFORCED, body, now, limit.limit.case, limit.limit.vm, limit.limit.id)
            return
        if outcome.ok and outcome.subject == FABRIC:
            self.health.ports_failed.pop(FABRIC, None)
        elif outcome.ok:
            self._budget_in_force(outcome, now)
            self.health.ports_bound |= {outcome.subject}
            self.health.ports_failed.pop(outcome.subject, None)
        else:
            if outcome.subject == FABRIC:
                self._fabric = None
            self.health.ports_failed[outcome.subject] = outcome.detail
            self._bound.pop(outcome.subject, None)
            self.note(Kind.REPAIRED, Repair(outcome.subject, outcome.ok, outcome.detail), now)

    def _budget_in_force(self, outcome: wire.Outcome, now: Instant) -> None:
        """A port is bound: so is what its VM was granted of packets."""
        port = self._bound.get(outcome.subject)
        for entry in self.ledger.standing(port.vm) if port is not None else ():
            limit = entry.limit
            if port is not None and entry.state == "ordered" and by_policy(limit):
                detail = f"{port.interface}: a budget of {port.budget.packets_per_s or 0:,.0f} packets/s"
                self.ledger.enforced(limit.id, self.wall(outcome.at), ok=True, detail=detail)
                body = Enforcement(limit.id, True, detail, outcome.at)
                self.note(Kind.ENFORCED, body, now, None, limit.vm, limit.id)

    def joined(self) -> None:
        """The enforcer is there (again): ask what is in force, then bring both in line."""
        self.enforcer.send(wire.Ask(request=self.enforcer.next_request()))

    def _reconcile(self, in_force: wire.InForce, now: Instant) -> None:
        """Bring the kernel in line with what was decided: lift what nobody ordered, put what is missing."""
        self._bound = {str(p.port): p for p in in_force.ports}
        self._guarded, self._fabric = in_force.guarding, in_force.fabric
        self.health.ports_failed.pop(FABRIC, None)
        self.health.ports_bound = frozenset(self._bound)
        for limit in in_force.limits:
            self.journal.never_again(limit=limit.id, case=limit.case)
        standing = [entry.limit for entry in self.ledger.standing()]
        found = compared(in_force.limits, standing, now, spared=lambda vm: self.mode(vm) is Mode.MONITOR)
        for limit in found.ended:
            self._ended(LimitEnded(limit.id, "it had ended when the monitor came back"), limit.vm, now)
        self.commit()
        for key in found.agreed:
            self.ledger.enforced(key, self.wall(now), ok=True, detail="still in force")
        if found.stray:
            self.enforcer.send(wire.LiftLimits(request=self.enforcer.next_request(), limits=found.stray))
        if found.missing:
            self.enforcer.send(wire.PutLimits(request=self.enforcer.next_request(), limits=found.missing))
        if self.vms:
            self.bind(now)

    def gap(self, since: float, until: float, reason: str, now: Instant) -> None:
        """The monitor was away; wall-clock seconds."""
        self.note(Kind.GAP, Gap("monitor", since, until, reason), now)
        self.commit()

    # --- what the operator wants ----
    def find(self, name: str) -> Vm | None:
        """The VM of this libvirt name or UUID."""
        return next((vm for vm in self.vms.values() if name in (vm.name, vm.vm)), None)

    def release(self, vm: Vm, by: str, now: Instant) -> int:
        """Free a VM; how many limits ended."""
        self.note(Kind.OPERATOR, OperatorCommand(by, "release", {"name": vm.name}), now, None, vm.vm)
        standing = [entry.limit for entry in self.ledger.standing(vm.vm) if not entry.limit.grants]
        self.act(self.hsem.release(vm.vm, now), now)
        left = [e.limit for e in self.ledger.standing(vm.vm) if not e.limit.grants]
        self.act([LiftLimit(x.id, vm.vm, now, "released by the operator") for x in left], now)
        return len(standing)

    def put(self, vm: Vm, limit: Limit, by: str, now: Instant) -> str | None:
        """An operator's own limit; the reason when it is withheld."""
        self.note(
            Kind.OPERATOR, OperatorCommand(by, "limit", {"name": vm.name, "kind": str(limit.kind)}), now, None, vm.vm
        )
        reason = self._why_withheld(limit, now)
        self.act([OrderLimit(limit)], now)
        return reason

    def exempt(self, vm: Vm, for_s: float, by: str, now: Instant) -> None:
        """Judge but do not limit a VM for so long; 0 ends it."""
        self.note(Kind.OPERATOR, OperatorCommand(by, EXEMPT, {"name": vm.name, "for_s": for_s}), now, None, vm.vm)
        if for_s <= 0:
            self.exempt_until.pop(vm.vm, None)
            return
        self.exempt_until[vm.vm] = Instant(now + for_s)
        lifts = [
            LiftLimit(entry.limit.id, vm.vm, now, "the operator exempted this VM")
            for entry in self.ledger.standing(vm.vm)
            if entry.limit.case is not None
        ]
        self.act(lifts, now)

    def swap_policy(self, policy: Policy, text: str, changes: list[str], by: str, now: Instant) -> None:
        """A new policy is in force from now."""
        self.policy = policy
        self.grants.set_policy(policy)
        self.hsem.set_policy(policy.bounds, policy.ladder)
        self.note(Kind.POLICY, PolicyChange(by, tuple(changes), text), now)
        self.book.update(Inventory(tuple(self.vms.values())), policy)
        self._spare(now)
        self.bind(now)

    def _spare(self, now: Instant) -> None:
        """Lift whatever still limits a VM that is in monitor mode."""
        limits = [e.limit for e in self.ledger.standing() if self.mode(e.limit.vm) is Mode.MONITOR]
        self.act([LiftLimit(x.id, x.vm, now, "the policy put this VM in monitor mode") for x in limits], now)
