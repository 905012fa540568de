"""Answers to the command line, as plain values with wall-clock times."""

from collections import Counter
from collections.abc import Callable, Collection
from enum import Enum
from ipaddress import ip_address
from typing import Any

from msgspec import Struct, to_builtins
from msgspec.structs import asdict

from hypervigil.host import policyfile
from hypervigil.host.hsem.history import Remembered
from hypervigil.host.journal.records import Kind, OperatorCommand, PolicyChange
from hypervigil.host.monitor import histories
from hypervigil.host.monitor.conductor import FABRIC, Conductor
from hypervigil.host.monitor.ledger import CaseEntry, LimitEntry
from hypervigil.model.guest import Hearing
from hypervigil.model.ids import HOST, OUTSIDE, CaseId, Instant, VmId
from hypervigil.model.limits import Limit
from hypervigil.model.policy import Mode
from hypervigil.model.status import Evidence, Level
from hypervigil.model.vm import Inventory, Vm
from hypervigil.wire import control

FRESH_S = 1.5
_HEARINGS = {
    Hearing.NO_PORT: "no port for an agent: judged from outside",
    Hearing.CLOSED: "its port cannot be read now",
    Hearing.UNKNOWN: "no agent has spoken yet: judged from outside",
    Hearing.HEARD: "reports",
    Hearing.CONTRADICTED: "reports, and the host counts otherwise",
    Hearing.SILENT: "has reported, and is silent",
}

Body = dict[str, Any]


class Answers:
    """What an operator may ask and order, each answered in one step."""

    def __init__(
        self,
        conductor: Conductor,
        *,
        sensors_connected: Callable[[], bool],
        journal_state: Callable[[], Body],
        samples: Callable[[VmId], int],
        keep_policy: Callable[[str], bool],
        unsaid: Mode = Mode.MONITOR,
        remember: Callable[[], Remembered],
        recall: Callable[[Remembered], None],
        since_wall: float,
    ) -> None:
        self._conductor = conductor
        self._sensors_connected = sensors_connected
        self._journal_state = journal_state
        self._samples = samples
        self._keep_policy = keep_policy
        self._unsaid = unsaid
        self._remember = remember
        self._recall = recall
        self._since_wall = since_wall

    def answer(self, request: control.Request, now: Instant) -> control.Response:
        """The answer to one request."""
        match request:
            case control.ShowStatus():
                return control.Answer(body=self.status(now))
            case control.ShowVms():
                return control.Answer(body={"vms": [self._vm(vm, now) for vm in self._sorted_vms()]})
            case control.ShowCases(closed=closed):
                entries = [e for e in reversed(self._conductor.ledger.cases.values()) if closed or e.closed_at is None]
                return control.Answer(body={"cases": [self._case(e) for e in entries]})
            case control.ShowCase(case=case):
                entry = self._conductor.ledger.cases.get(case)
                if entry is None:
                    return control.Denied(reason=f"there is no case '{case}': 'hypervigil cases' lists them")
                own = [e for e in self._conductor.ledger.limits.values() if e.limit.case == case]
                told = [self._evidence(e, self._conductor.wall) for e in entry.told.values()]
                body = {**self._case(entry), "told": told, "details": self._details(entry.case)}
                return control.Answer(body={**body, "limits": [self._limit(e) for e in own]})
            case control.ShowLimits(ended=ended):
                shown = [e for e in self._conductor.ledger.limits.values() if ended or e.standing]
                return control.Answer(body={"limits": [self._limit(e) for e in shown]})
            case control.ShowDrops(name=name):
                return self._drops(name)
            case control.ShowTopology():
                return control.Answer(body=self._topology())
            case control.ShowNetwork():
                known = Inventory(tuple(self._conductor.vms.values()))
                return control.Answer(
                    body={
                        "policy": to_builtins(self._conductor.policy),
                        "inventory": to_builtins(known),
                        "mode_unsaid": str(self._unsaid),
                    }
                )
            case control.ExportHistory(names=names):
                return self._export(names)
            case control.SignNow():
                return control.Answer(body=self._journal_state())
            case _:
                return self._order(request, now)

    def _drops(self, name: str | None) -> control.Response:
        chosen = self._sorted_vms() if name is None else [self._conductor.find(name)]
        if None in chosen:
            return control.Denied(reason=f"no running VM is called '{name}': 'hypervigil vms' lists them")
        wall = self._conductor.wall
        found = [
            {
                "name": vm.name,
                "mode": str(self._conductor.mode(vm.vm)),
                "direction": drop.direction.name.lower(),
                "reason": drop.reason,
                "count": drop.count,
                "first_at": wall(drop.first_at),
                "last_at": wall(drop.last_at),
            }
            for vm in chosen
            if vm is not None
            for drop in self._conductor.drops.of(vm.vm)
        ]
        return control.Answer(body={"since": self._since_wall, "drops": found})

    def _export(self, names: Collection[str]) -> control.Response:
        known = _of_vms(self._remember())
        if names:
            found = {name: self._conductor.find(name) for name in names}
            chosen = {name: VmId(name) if vm is None else vm.vm for name, vm in found.items()}
            for name, vm in chosen.items():
                if vm not in known.vms:
                    shown = "'hypervigil history show' lists those that run; one that does not goes by its UUID"
                    return control.Denied(reason=f"no history of a VM called '{name}': {shown}")
            known = known.of(set(chosen.values()))
        return control.Answer(body={"data": histories.encode(known), "vms": len(known.vms)})

    # --- orders ----
    def _order(self, request: control.Request, now: Instant) -> control.Response:
        match request:
            case control.ApplyPolicy():
                return self._apply(request, now)
            case control.ImportHistory():
                return self._import(request, now)
            case control.Release(name=name) | control.PutLimit(name=name) | control.Exempt(name=name):
                vm = self._conductor.find(name)
                if vm is None:
                    return control.Denied(reason=f"no running VM is called '{name}': 'hypervigil vms' lists them")
                return self._order_vm(vm, request, now)
            case _:
                return control.Denied(reason="this request is not known here")

    def _import(self, request: control.ImportHistory, now: Instant) -> control.Response:
        try:
            known = _of_vms(histories.decode(request.data))
            self._recall(known)
        except ValueError as error:
            return control.Denied(reason=f"this is not an exported history: {error}; nothing was changed")
        command = OperatorCommand(request.by, "history import", {"vms": len(known.vms), "bytes": len(request.data)})
        self._conductor.note(Kind.OPERATOR, command, now)
        self._conductor.commit()
        return _said(f"history of {len(known.vms)} VM{'' if len(known.vms) == 1 else 's'} taken over")

    def _order_vm(self, vm: Vm, request: control.Request, now: Instant) -> control.Response:
        match request:
            case control.Release(by=by):
                ended = self._conductor.release(vm, by, now)
                return _said(f"{vm.name} is released: {ended} limit{'' if ended == 1 else 's'} ended")
            case control.Exempt(for_s=for_s, by=by):
                self._conductor.exempt(vm, for_s, by, now)
                if for_s <= 0:
                    return _said(f"{vm.name} is no longer exempt")
                return _said(f"{vm.name} is judged but not limited for {for_s:,.0f} s")
            case control.PutLimit():
                return self._put(vm, request, now)
            case _:
                return control.Denied(reason="this request is not known here")

    def _put(self, vm: Vm, request: control.PutLimit, now: Instant) -> control.Response:
        if request.peer is not None and not _is_address(request.peer):
            return control.Denied(
                reason=f"--peer takes the source's IPv4 or IPv6 address, for example 198.51.100.7, not '{request.peer}'"
            )
        try:
            limit = Limit(
                id=self._conductor.journal.next_limit(),
                vm=vm.vm,
                kind=request.kind,
                since=now,
                until=Instant(now + request.for_s),
                reason=f"ordered by {request.by or 'the operator'}",
                value=request.value,
                direction=request.direction,
                classes=request.classes,
                peer=request.peer,
            )
        except ValueError as error:
            return control.Denied(reason=f"{error}")
        withheld = self._conductor.put(vm, limit, request.by, now)
        if withheld is not None:
            return _said(f"{limit.id} is withheld ({withheld}): {vm.name} is not limited; 'mode = \"enforce\"' would")
        return _said(f"{limit.id} on {vm.name} for {request.for_s:,.0f} s; 'hypervigil limits' shows what is in force")

    def _apply(self, request: control.ApplyPolicy, now: Instant) -> control.Response:
        try:
            policy = policyfile.parse(request.text, "the new policy", unsaid=self._unsaid)
        except policyfile.PolicyError as error:
            return control.Denied(reason=f"{error}; the last good policy stays in force")
        changes = policyfile.diff(self._conductor.policy, policy)
        if request.dry_run:
            return _said(*changes or ["nothing would change"])
        try:
            # Also where nothing changes now: a mode that was --enforce's is the policy's own from here on.
            kept_anew = self._keep_policy(request.text)
        except OSError as error:
            return control.Denied(reason=f"cannot keep the policy: {error}; the last good policy stays in force")
        if changes:
            self._conductor.swap_policy(policy, request.text, changes, request.by, now)
        elif kept_anew:
            self._conductor.note(Kind.POLICY, PolicyChange(request.by, (), request.text), now)
            self._conductor.commit()
            return _said("nothing changes now; what it says, its mode too, counts from here on")
        return _said(*changes or ["nothing to change"])

    # --- views ----
    def status(self, now: Instant) -> Body:
        """How the system itself is; ``ready`` when every part is connected and sees."""
        conductor = self._conductor
        health = conductor.health
        blind = [f"{what} (since {now - since:.0f} s)" for what, since in health.blind.items()]
        if not self._sensors_connected():
            blind.append("the sensors are not connected")
        elif health.last_sweep_at is None or now - health.last_sweep_at > FRESH_S:
            blind.append("no sweep for more than a second")
        if not conductor.enforcer.connected:
            blind.append("the enforcer is not connected: limits in force stay, new ones wait")
        agents = [conductor.agents.state(vm) for vm in conductor.vms]
        hearings = Counter(agent.hearing for agent in agents)
        readable = len(conductor.vms) - hearings[Hearing.NO_PORT]
        if readable and not conductor.gateway.connected:
            blind.append("the gateway is not connected: no agent is heard")
        ports = {str(p.port) for p in conductor.compiled.ports}
        waiting, postponed = conductor.hsem.postponed
        unbound = sorted(ports - conductor.health.ports_bound)
        blind += [f"port {p} is not bound: {health.ports_failed.get(p, 'not confirmed yet')}" for p in unbound]
        if FABRIC in health.ports_failed:
            blind.append(f"the network policy is not in force: {health.ports_failed[FABRIC]}")
        return {
            "ready": not blind,
            "mode": str(conductor.policy.mode),
            "since": self._since_wall,
            "now": conductor.wall(now),
            "vms": len(conductor.vms),
            "level2": sum(conductor.hsem.level(vm) is Level.LEVEL2 for vm in conductor.vms),
            "cases_open": sum(e.closed_at is None for e in conductor.ledger.cases.values()),
            "limits_in_force": len(conductor.ledger.standing()),
            "withheld": conductor.ledger.withheld,
            "agents": {str(hearing): hearings[hearing] for hearing in Hearing},
            "half_blind": sum(bool(agent.blind) for agent in agents),
            "noticing": sum(agent.notices > 0 for agent in agents),
            "notices": sum(agent.notices for agent in agents),
            "blind": blind,
            "sweeps": health.sweeps,
            "lost": health.lost,
            "looks_waiting": waiting,
            "looks_postponed": postponed,
            "pairs_dropped": conductor.hrem.pairs_dropped,
            "repairs": health.repairs,
            "journal": self._journal_state(),
        }

    def _sorted_vms(self) -> list[Vm]:
        return sorted(self._conductor.vms.values(), key=lambda vm: vm.name)

    def name(self, vm: VmId | None) -> str | None:
        """A VM's libvirt name where it runs, else its id."""
        if vm is None or vm == OUTSIDE:
            return vm
        known = self._conductor.vms.get(vm)
        return known.name if known else str(vm)

    def _vm(self, vm: Vm, now: Instant) -> Body:
        conductor = self._conductor
        case = conductor.ledger.open_case(vm.vm)
        exempt = conductor.exempt_until.get(vm.vm)
        return {
            "vm": vm.vm,
            "name": vm.name,
            "mode": str(conductor.mode(vm.vm)),
            "level": str(conductor.hsem.level(vm.vm)),
            "role": case.role if case else None,
            "case": case.case if case else None,
            "limits": len(conductor.ledger.standing(vm.vm)),
            "exempt_until": conductor.wall(exempt) if exempt is not None and exempt > now else None,
            "samples": self._samples(vm.vm),
            "agent": self._agent(vm.vm),
            "vcpus": vm.vcpus,
            "memory_kib": vm.memory_kib,
            "nics": [{"port": nic.port, "interface": nic.interface, "bridge": nic.bridge} for nic in vm.nics],
        }

    def _agent(self, vm: VmId) -> Body:
        """What is heard of a VM's agent; level and release are the guest's word."""
        state = self._conductor.agents.state(vm)
        at = state.reported_at
        return {
            "hearing": str(state.hearing),
            "reported_at": None if at is None else self._conductor.wall(at),
            "level": state.level,
            "release": state.release,
            "untaken": state.untaken,
            "late": state.late,
            "unnoted": state.unnoted,
            "unasked": state.unasked,
            "notices": state.notices,
            "notice": None if state.notice is None else self._evidence(state.notice, self._conductor.wall),
            "blind": list(state.blind),
            "bytes_per_s": None if state.octets_per_s is None else round(state.octets_per_s, 1),
        }

    def _case(self, entry: CaseEntry) -> Body:
        verdict = entry.verdict
        wall = self._conductor.wall
        return {
            "case": entry.case,
            "vm": entry.vm,
            "name": self.name(entry.vm),
            "opened_at": entry.opened_at,
            "decided_at": entry.decided_at,
            "closed_at": entry.closed_at,
            "closing_reason": entry.closing_reason,
            "role": verdict.role if verdict else None,
            "attack": verdict.attack if verdict else None,
            "confidence": verdict.confidence if verdict else None,
            "cause": self._named(verdict.cause) if verdict else None,
            "counterfactual": self._named(verdict.counterfactual) if verdict else None,
            "target": self.name(verdict.target) if verdict else None,
            "evidence": [self._evidence(e, wall) for e in (verdict.evidence if verdict else entry.opening)],
        }

    def _details(self, case: CaseId) -> Body | None:
        """The last details of an open case that its VM's agent told at Level 2: a guest's word."""
        found = self._conductor.inquiries.details(case)
        if found is None:
            return None
        at, told = found
        return {
            "at": self._conductor.wall(at),
            "interval_s": told.interval_ms / 1000,
            "flows_in_all": told.flows_in_all,
            "flows": [_named_fields(flow) for flow in told.flows],
            "transmitters": [_named_fields(one) for one in told.transmitters],
            "devices": [_named_fields(one) for one in told.devices],
        }

    def _evidence(self, evidence: Evidence, wall: Callable[[Instant], float]) -> Body:
        return {
            "name": self.name(evidence.vm),
            "kind": evidence.kind,
            "origin": str(evidence.origin),
            "at": wall(evidence.at),
            "value": evidence.value,
            "baseline": evidence.baseline,
            "unit": evidence.unit,
            "text": self._named(evidence.text),
        }

    def _named(self, text: str) -> str:
        """A sentence of the judge's, which knows only ids, with the VMs' names instead."""
        for vm in self._conductor.vms.values():
            text = text.replace(vm.vm, vm.name)
        return text

    def _limit(self, entry: LimitEntry) -> Body:
        limit = entry.limit
        return {
            "id": limit.id,
            "vm": limit.vm,
            "name": self.name(limit.vm),
            "kind": str(limit.kind),
            "classes": sorted(c.name.lower() for c in limit.classes),
            "direction": limit.direction.name.lower(),
            "value": limit.value,
            "raised_from": limit.raised_from,
            "peer": limit.peer,
            "case": limit.case,
            "from": entry.ordered_at,
            "to": entry.until_at,
            "in_force_at": entry.in_force_at,
            "lifted_at": entry.lifted_at,
            "state": entry.state,
            "detail": entry.detail,
            "reason": self._named(limit.reason),
        }

    def _topology(self) -> Body:
        conductor = self._conductor
        bridges = {network.bridge: network.name for network in conductor.policy.networks if network.bridge}
        nics = {nic.port: nic for vm in conductor.vms.values() for nic in vm.nics}
        ports = []
        for port in conductor.compiled.ports:
            nic = nics.get(port.port)
            bridge = nic.bridge if nic else None
            ports.append(
                {
                    "network": port.network or bridges.get(bridge or ""),
                    "bridge": bridge,
                    "name": self.name(port.vm),
                    "interface": port.interface,
                    "port": port.port,
                    "addresses": [*port.addresses, *port.leases],
                    "mode": str(port.mode),
                    "binding": port.bound,
                }
            )
        units = [
            {"unit": "HSEM", "up": True, "text": "judges (in the monitor)"},
            {"unit": "HREM", "up": True, "text": "observes through the sensors (in the monitor)"},
            {"unit": "sensors", "up": self._sensors_connected(), "text": "NIC counters, libvirt statistics"},
            {"unit": "enforcer", "up": conductor.enforcer.connected, "text": "limits and bindings"},
            {"unit": "gateway", "up": conductor.gateway.connected, "text": "reads guests' agents"},
        ]
        for vm in self._sorted_vms():
            state = conductor.agents.state(vm.vm)
            up = state.hearing in {Hearing.HEARD, Hearing.CONTRADICTED}
            text = _HEARINGS[state.hearing] + (f"; cannot see: {', '.join(state.blind)}" if state.blind else "")
            units.append({"unit": f"VSEM+VREM {vm.name}", "up": up, "text": text})
        return {"units": units, "ports": ports, "notes": list(conductor.compiled.notes)}


def _named_fields(item: Struct) -> Body:
    """A part of a guest's message as plain values."""
    return {name: value.name.lower() if isinstance(value, Enum) else value for name, value in asdict(item).items()}


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _of_vms(known: Remembered) -> Remembered:
    """Without the host's own, which stays where it is, wherever VMs go."""
    return known.of(set(known.vms) - {HOST})


def _said(*sentences: str) -> control.Answer:
    return control.Answer(body={"sentences": list(sentences)})
