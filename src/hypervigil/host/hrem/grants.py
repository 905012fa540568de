"""Who gets more for a time, how much, and when it is taken back. Pure.

A VM near its capacity asks, by its agent's word or by what its NICs attempt. HREM asks for HSEM's status of it, looks
whether the host sees the need too and has room, and keeps to what the operator allows. An agent's word alone gets it
nothing.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from hypervigil.model.grants import Ask, HostSize
from hypervigil.model.ids import HOST, NEVER, Instant, LimitId, VmId
from hypervigil.model.limits import Limit, LimitKind
from hypervigil.model.network import Floor
from hypervigil.model.observation import ResourceSample, Sweep
from hypervigil.model.policy import Policy, VmPolicy
from hypervigil.model.report import LiftLimit, OrderLimit
from hypervigil.model.status import Evidence, Origin, Role
from hypervigil.model.vm import Vm
from hypervigil.network.merge import budget_of, strictest

NEAR = 0.9
NEEDED = 0.75
"""Who uses less than this part of what it has, by the host's count, needs no more of it."""
HELD_S = 10.0
CALM_S = 30.0
ASKED_S = 90.0
"""An agent near its capacity asks again each minute: a wish that is older is over."""
AGAIN_S = 60.0
"""One refusal is told once, and again after so long."""
LOOK_S = 0.5
STALE_S = 5.0
TIGHT_S = 3.0
REST_S = 60.0
"""So long after a grant there is none: nobody keeps the hypervisor busy by asking and taking back, and what is told as
the VM's own is by then what it has without."""
LEAST_PART = 0.05
"""A grant gives at least this part of what the VM has, or it is not worth the change."""
GIVE_BACK_S = 60.0
"""A guest gives memory back within this time, if it does at all."""
OWED_S = 3600.0
NEW_S = 10.0
"""What was granted so lately shows in no count of the host's yet."""

Key = tuple[VmId, LimitKind]
Status = Callable[[VmId], Role | None]
"""HSEM's: the role, ``CLEARED`` at Level 1, ``None`` under suspicion."""

_WITHDRAWN = "it is near its capacity no longer"
_CALM = f"for {CALM_S:g} s it has needed no more than its own"
_GENTLE = frozenset({Role.CLEARED, Role.OVERLOADED, Role.VICTIM})
_UNITS = {LimitKind.CPU: "of a CPU", LimitKind.MEMORY: "KiB", LimitKind.PACKETS: "packets/s"}


@dataclass(slots=True)
class _Wish:
    ask: Ask
    weighed_at: Instant = NEVER


@dataclass(slots=True)
class _Sending:
    """What a VM's NICs attempt together."""

    count: int = 0
    seconds: float = 0.0
    rate: float = 0.0
    at: Instant = NEVER
    near_since: Instant | None = None


@dataclass(slots=True)
class Answer:
    """What follows now."""

    decisions: list[OrderLimit | LiftLimit] = field(default_factory=list)
    told: list[Evidence] = field(default_factory=list)
    """For the record: wishes that the host sees itself, and what is not granted and why."""


class Grants:
    """One host's. Everything it keeps is bounded by the VMs that run, three kinds each."""

    def __init__(self, policy: Policy, host: HostSize, next_limit: Callable[[], LimitId]) -> None:
        self._policy = policy
        self._host = host
        self._next_limit = next_limit
        self._vms: dict[VmId, Vm] = {}
        self._entries: dict[str, VmPolicy] = {}
        self._floors: dict[str, Floor] = {}
        """Tenants' own."""
        self._samples: dict[VmId, tuple[ResourceSample, Instant]] = {}
        self._sending: dict[VmId, _Sending] = {}
        self._wishes: dict[Key, _Wish] = {}
        self._given: dict[Key, Limit] = {}
        self._ended: dict[Key, Instant] = {}
        """When a VM's last grant ended."""
        self._refused_at: dict[Key, Instant] = {}
        self._owed: dict[VmId, tuple[float, Instant]] = {}
        """KiB that a VM had of its own before a grant of memory that it needed no longer, and when that ended."""
        self._calm_since: dict[Key, Instant] = {}
        self._tight_since: dict[LimitKind, Instant] = {}
        self._looked_at = NEVER
        self._knows_what_runs = False
        self.set_policy(policy)

    def set_policy(self, policy: Policy) -> None:
        """Another policy is in force."""
        self._policy = policy
        self._entries = {vm.name: vm for vm in policy.vms}
        self._floors = {tenant.name: tenant.floor for tenant in policy.tenants}

    def inventory(self, vms: Iterable[Vm]) -> None:
        """These VMs run now."""
        self._vms = {vm.vm: vm for vm in vms}
        known = self._vms.keys() | {HOST}
        self._samples = {vm: one for vm, one in self._samples.items() if vm in known}
        self._sending = {vm: one for vm, one in self._sending.items() if vm in known}
        self._wishes = {key: one for key, one in self._wishes.items() if key[0] in known}
        self._ended = {key: at for key, at in self._ended.items() if key[0] in known}
        self._owed = {vm: one for vm, one in self._owed.items() if vm in known}
        self._refused_at = {key: at for key, at in self._refused_at.items() if key[0] in known}
        self._knows_what_runs = True

    def resume(self, limits: Iterable[Limit]) -> None:
        """Grants that stood when the last process ended."""
        self._given |= {(limit.vm, limit.kind): limit for limit in limits if limit.grants}

    @property
    def given(self) -> list[Limit]:
        """What is granted now."""
        return list(self._given.values())

    def owed(self, now: Instant) -> dict[VmId, float]:
        """Who keeps memory that it needs no longer, and how many KiB are its own."""
        keeps: dict[VmId, float] = {}
        for vm, (own, since) in list(self._owed.items()):
            seen = self._fresh(vm, now)
            if (vm, LimitKind.MEMORY) in self._given or now - since > OWED_S:
                del self._owed[vm]
            elif now - since >= GIVE_BACK_S and seen is not None and (seen.balloon_kib or 0.0) > own * (1 + LEAST_PART):
                keeps[vm] = own
        return keeps

    def failed(self, limit: LimitId, now: Instant) -> None:
        """A grant that is not in force after all: withheld, or refused by the hypervisor."""
        for key, one in list(self._given.items()):
            if one.id == limit:
                self._drop(key, now)
                self._wishes.pop(key, None)

    # --- what is seen and heard ----
    def ask(self, ask: Ask) -> None:
        """A VM asks for more, or takes its wish back."""
        if ask.vm not in self._vms:
            return
        key = (ask.vm, ask.kind)
        wish = self._wishes.get(key)
        if wish is None:
            self._wishes[key] = _Wish(ask)
        else:
            wish.ask = ask

    def observe(self, sweep: Sweep, now: Instant) -> list[Evidence]:
        """Take in the resources, and what NICs attempt; wishes that follow from the latter."""
        for sample in sweep.resources:
            if sample.vm in self._vms or sample.vm == HOST:
                self._samples[sample.vm] = (sample, now)
        if sweep.partial or self._policy.grants.packets <= 1:
            return []
        told: list[Evidence] = []
        for port in sweep.ports:
            if port.vm in self._vms:
                sending = self._sending.setdefault(port.vm, _Sending())
                sending.count += sum(port.out.packets)
        for vm, sending in self._sending.items():
            sending.seconds += sweep.interval_s
            if sending.seconds >= 1.0:
                sending.rate = sending.count / sending.seconds
                sending.at, sending.seconds, sending.count = now, 0.0, 0
                told += self._near_budget(vm, sending, now)
        return told

    def _near_budget(self, vm: VmId, sending: _Sending, now: Instant) -> list[Evidence]:
        has = self._has(vm, LimitKind.PACKETS, now)
        if has is None or sending.rate < NEEDED * has:
            sending.near_since = None
            return []
        if sending.rate < NEAR * has:
            return []
        sending.near_since = sending.near_since or now
        wish = self._wishes.get((vm, LimitKind.PACKETS))
        lately = wish is not None and now - wish.ask.at < AGAIN_S
        if now - sending.near_since < HELD_S or lately:
            return []
        self.ask(Ask(vm, LimitKind.PACKETS, now, has / 2, Origin.HOST_OBSERVED))
        text = f"for {HELD_S:g} s {vm} has attempted {sending.rate:,.0f} packets/s, of a budget of {has:,.0f}"
        return [Evidence(vm, "wanted", Origin.HOST_OBSERVED, now, has / 2, has, "packets/s", text)]

    # --- decisions ----
    def decide(self, now: Instant, status: Status) -> Answer:
        """Take back what is to be taken back, then weigh what is asked for."""
        answer = Answer()
        if not self._knows_what_runs or now - self._looked_at < LOOK_S:
            return answer
        self._looked_at = now
        self._see_room(now)
        for key in sorted(self._given, key=lambda one: -self._given[one].since):
            self._review(key, now, status, answer)
        for key, wish in list(self._wishes.items()):
            if not wish.ask.more or now - wish.ask.at > ASKED_S:
                del self._wishes[key]
            elif now - wish.weighed_at >= 1.0 and not self._answered(key, wish):
                wish.weighed_at = now
                self._weigh(key, wish, now, status, answer)
        return answer

    def _answered(self, key: Key, wish: _Wish) -> bool:
        """Whether it was granted something since it asked."""
        return key in self._given and wish.ask.at <= self._given[key].since

    def _see_room(self, now: Instant) -> None:
        for kind in (LimitKind.CPU, LimitKind.MEMORY):
            used = self._host_uses(kind, now)
            if used is None or used < 1 - self._policy.grants.headroom / 4:
                self._tight_since.pop(kind, None)
            else:
                self._tight_since.setdefault(kind, now)

    def _review(self, key: Key, now: Instant, status: Status, answer: Answer) -> None:
        limit = self._given[key]
        reason = self._why_back(key, limit, now, status)
        if reason is not None:
            answer.decisions.append(LiftLimit(limit.id, limit.vm, now, reason))
            self._drop(key, now, needless=reason in {_CALM, _WITHDRAWN})
            return
        wish = self._wishes.get(key)
        if wish is not None and wish.ask.at > limit.since and limit.until - now < self._policy.grants.hold_s / 2:
            self._give(key, limit.value or 0.0, "it still asks for it", now, answer)

    def _why_back(self, key: Key, limit: Limit, now: Instant, status: Status) -> str | None:
        vm, kind = key
        own, role = limit.raised_from or 0.0, status(vm)
        if vm not in self._vms:
            return "the VM is gone"
        if role not in _GENTLE:
            return _suspicion(role)
        if (limit.value or 0.0) > self._cap(vm, kind, own, role) * 1.001:
            return "a victim may have less" if role is Role.VICTIM else "the policy grants less"
        if now >= limit.until:
            return "its time is over"
        wish = self._wishes.get(key)
        if wish is not None and not wish.ask.more:
            return _WITHDRAWN
        uses = self._uses(vm, kind, now)
        if uses is None or uses >= NEEDED * own:
            self._calm_since.pop(key, None)
        elif now - self._calm_since.setdefault(key, now) >= CALM_S:
            return _CALM
        place = LimitKind.MEMORY if kind is LimitKind.MEMORY else LimitKind.CPU
        if now - self._tight_since.get(place, now) >= TIGHT_S:
            self._tight_since[place] = now  # one after the other, and then look again
            return "the host has no room left"
        return None

    def _weigh(self, key: Key, wish: _Wish, now: Instant, status: Status, answer: Answer) -> None:
        found = self._worth(key, wish.ask, now, status(key[0]))
        if isinstance(found, float):
            uses, room = self._uses(*key, now) or 0.0, self._host_uses(key[1], now) or 0.0
            told = f"uses {uses:,.4g} {_UNITS[key[1]]} by the host's count"
            reason = f"asks for more and {told}; the host has {1 - room:.0%} free"
            self._give(key, found, reason, now, answer)
        elif now - self._refused_at.get(key, NEVER) >= AGAIN_S:
            self._refused_at[key] = now
            text = f"{key[0]} is granted no more {key[1]}: {found}"
            has = self._has(*key, now)
            answer.told.append(
                Evidence(key[0], "not-granted", Origin.HOST_OBSERVED, now, wish.ask.more, has, _UNITS[key[1]], text)
            )

    def _worth(self, key: Key, ask: Ask, now: Instant, role: Role | None) -> float | str:
        """How much it is to have from now, or why not more than it has."""
        vm, kind = key
        if self._policy.grants.most(kind) <= 1:
            return "the policy allows none"
        if role not in _GENTLE:
            return _suspicion(role)
        if now - self._ended.get(key, NEVER) < REST_S:
            return f"its last grant ended less than {REST_S:g} s ago"
        has, uses, host = self._has(vm, kind, now), self._uses(vm, kind, now), self._host_uses(kind, now)
        if not has:
            return "it is not bounded, or the host does not see how"
        own = self._given[key].raised_from if key in self._given else has
        cap = self._cap(vm, kind, own or has, role)
        if cap < has * (1 + LEAST_PART):
            return "it has all that it may have" + (" as a victim" if role is Role.VICTIM else "")
        if uses is None or host is None:
            return "the host does not see how much is used"
        if uses < NEEDED * has:
            return f"by the host's count it uses {uses / has:.0%} of what it has"
        room = (1 - self._policy.grants.headroom - host) * self._whole(vm, kind) - self._promised(vm, kind, now)
        more = ask.more * has if kind is LimitKind.CPU else ask.more
        wanted = min(cap, has + more, has + room)
        if wanted < has * (1 + LEAST_PART):
            return f"the host has no room for it: {host:.0%} is used"
        return wanted

    def _give(self, key: Key, value: float, reason: str, now: Instant, answer: Answer) -> None:
        vm, kind = key
        old, own = self._given.get(key), self._has(vm, kind, now)
        limit = Limit(
            id=self._next_limit(),
            vm=vm,
            kind=kind,
            since=now,
            until=Instant(now + self._policy.grants.hold_s),
            reason=reason,
            value=round(value, 3),
            raised_from=own if old is None else old.raised_from,
        )
        self._given[key] = limit
        self._calm_since.pop(key, None)
        answer.decisions.append(OrderLimit(limit))
        if old is not None:
            answer.decisions.append(LiftLimit(old.id, vm, now, f"replaced by {limit.id}"))

    def _drop(self, key: Key, now: Instant, *, needless: bool = False) -> None:
        limit = self._given.pop(key)
        self._calm_since.pop(key, None)
        if needless and key[1] is LimitKind.MEMORY:
            self._owed[key[0]] = (limit.raised_from or 0.0, now)
        if key[0] in self._vms:
            self._ended[key] = now

    # --- numbers ----
    def _cap(self, vm: VmId, kind: LimitKind, own: float, role: Role | None) -> float:
        """The most that a VM may have that has so much of its own."""
        cap = own * self._policy.grants.most(kind)
        if kind is LimitKind.CPU:
            cap = min(cap, 1.0)
        elif kind is LimitKind.MEMORY:
            cap = min(cap, float(self._vms[vm].memory_kib))
        elif (floor := self._floor(vm)) is not None:
            cap = min(cap, floor)
        return own + (max(cap, own) - own) * (self._policy.grants.victim if role is Role.VICTIM else 1.0)

    def _entry(self, vm: VmId) -> VmPolicy:
        name = self._vms[vm].name
        return self._entries.get(name) or VmPolicy(name)

    def _floor(self, vm: VmId) -> float | None:
        """Packets per second that no grant goes beyond, by the provider's word and its tenant's."""
        tenant = self._floors.get(self._entry(vm).tenant, Floor())
        return strictest(self._policy.floor.budget, tenant.budget).packets_per_s

    def _has(self, vm: VmId, kind: LimitKind, now: Instant) -> float | None:
        """What a VM may use now, its grant included; ``None``: without bound, or not seen."""
        if (vm, kind) in self._given:
            return self._given[vm, kind].value
        known, seen = self._vms.get(vm), self._fresh(vm, now)
        if known is None:
            return None
        if kind is LimitKind.CPU:
            found = known.cpu if known.cpu is not None and known.cpu < 1 else None
        elif kind is LimitKind.MEMORY:
            found = seen.balloon_kib if seen is not None else None
        else:
            entry = self._entry(vm)
            found = budget_of(self._policy.floor, self._floors.get(entry.tenant, Floor()), entry).packets_per_s
        return found

    def _uses(self, vm: VmId, kind: LimitKind, now: Instant) -> float | None:
        """By the host's count, in the unit of the kind; a balloon's driver tells of memory what the host does not."""
        if kind is LimitKind.PACKETS:
            sending = self._sending.get(vm)
            return sending.rate if sending is not None and now - sending.at < STALE_S else None
        seen = self._fresh(vm, now)
        if seen is None or kind is LimitKind.CPU:
            return None if seen is None else seen.cpu
        if seen.memory is not None and seen.balloon_kib is not None:
            return seen.memory * seen.balloon_kib
        return None if seen.memory_rss is None else seen.memory_rss / 1024

    def _host_uses(self, kind: LimitKind, now: Instant) -> float | None:
        seen = self._fresh(HOST, now)
        if seen is None:
            return None
        return seen.memory if kind is LimitKind.MEMORY else seen.cpu

    def _fresh(self, vm: VmId, now: Instant) -> ResourceSample | None:
        sample, at = self._samples.get(vm, (None, now))
        return sample if now - at < STALE_S else None

    def _whole(self, vm: VmId, kind: LimitKind) -> float:
        """The whole host in a VM's unit. Packets cost CPU, of which a share cannot be told: there is room or none."""
        if kind is LimitKind.CPU:
            return self._host.cpus / max(1, self._vms[vm].vcpus)
        return self._host.memory_kib if kind is LimitKind.MEMORY else 1e12

    def _promised(self, vm: VmId, kind: LimitKind, now: Instant) -> float:
        """What was granted lately and may not show yet, in this VM's unit."""
        if kind is LimitKind.PACKETS:
            return 0.0
        new = [
            one for one in self._given.values() if one.kind is kind and now - one.since < NEW_S and one.vm in self._vms
        ]
        more = [((one.value or 0.0) - (one.raised_from or 0.0), self._vms[one.vm].vcpus) for one in new]
        if kind is LimitKind.MEMORY:
            return sum(kib for kib, _ in more)
        return sum(part * vcpus for part, vcpus in more) / max(1, self._vms[vm].vcpus)


def _suspicion(role: Role | None) -> str:
    return f"it was found: {role}" if role is not None else "it is under suspicion"
