"""Network policies by a seed over a few VMs, and what changes from one to the next: all of it, or one VM's place."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf

from hypervigil.model.ids import PortId, VmId
from hypervigil.model.network import AddressPair, Between, Budget, EndKind, Floor, Forwarding, Group, Rule, RuleEnd
from hypervigil.model.policy import Mode, NetworkPolicy, Policy, VmPolicy
from hypervigil.model.services import Services, parse
from hypervigil.model.traffic import ForgedKind
from hypervigil.model.vm import Inventory, Nic, Vm

TENANTS, GROUPS = ("blue", "red"), ("web", "db")
BRIDGES = (*("br-n1",) * 7, *("br-n2",) * 4, "br-else")
RANGES = (
    *("203.0.113.0/24", "203.0.113.128/25", "198.51.100.0/24", "198.51.100.7/32", "10.61.0.1/32", "0.0.0.0/0"),
    *("2001:db8::/32", "2001:db8:0:1::/64", "::/0"),
)
SERVICES = (
    *("any", "tcp", "tcp", "udp", "tcp/80", "tcp/443", "tcp/1-1000", "udp", "udp/53", "udp/5353", "udp/67-68"),
    *("icmp", "icmp/echo", "icmp4/3", "icmp6/1-4", "ip/47", "ip/0", "ip/40-60"),
)
ROUTER = "52:54:00:00:ff:01"
SHARED_MAC, SHARED4, SHARED6 = "00:00:5e:00:01:07", "10.61.0.100", "fd61::100"
ANOTHER4 = "10.61.0.101"
SHARED_LOCAL, NAMED_LOCAL = "fe80::100", "fe80::77"
"""Link-local addresses: one that goes about with its MAC, one that a policy gives to a VM."""
POOL = tuple(f"10.61.0.{n}" for n in range(200, 206))
"""What a DHCP server gives, besides what is somebody's."""
GATEWAYS = (("10.61.0.1", "fd61::1", "fe80::99"), ("10.62.0.1", "fd62::1", "fe80::98"))


@dataclass(frozen=True)
class Device:
    """One NIC: its device is there whether or not its VM runs."""

    vm: str
    mac: str
    name: str
    ifindex: int
    v4: str
    v6: str


def devices(names: Sequence[tuple[str, int]]) -> tuple[Device, ...]:
    """NICs on these devices, ``(name, ifindex)``: the first VM has two."""
    return tuple(
        Device(f"vm{max(n, 1)}", f"52:54:00:00:00:{n:02x}", name, ifindex, f"10.61.0.{10 + n}", f"fd61::{10 + n:x}")
        for n, (name, ifindex) in enumerate(names)
    )


class Politics:
    """The policy in force and who runs; ``turn`` makes the next."""

    def __init__(self, devices: Sequence[Device], dice: random.Random) -> None:
        self._dice = dice
        self._devices = devices
        self._vms = sorted({one.vm for one in devices})
        self._running = set(self._vms)
        self._bridges = {one.mac: dice.choice(BRIDGES) for one in devices}
        self.policy = self._whole()

    @property
    def inventory(self) -> Inventory:
        """Who runs now, and on which bridges."""
        nics = {
            vm: tuple(Nic(PortId(d.mac), d.name, d.ifindex, self._bridges[d.mac]) for d in self._devices if d.vm == vm)
            for vm in self._vms
            if vm in self._running
        }
        return Inventory(tuple(Vm(VmId(vm), vm, 1, 1, nics[vm]) for vm in nics))

    def turn(self) -> None:
        """Change all, or some one thing."""
        dice = self._dice
        what = dice.random()
        vm = dice.choice(self._vms)
        if what < 0.4:
            self.policy = self._whole()
            if dice.random() < 0.3:
                mac = dice.choice(self._devices).mac
                self._bridges[mac] = dice.choice(BRIDGES)
        elif what < 0.6:
            self._running ^= {vm}
            if not self._running:
                self._running.add(vm)
        elif what < 0.85:
            group = dice.randrange(len(GROUPS))
            old = self.policy.groups[group]
            vms = tuple(sorted({*old.vms} ^ {vm}))
            groups = tuple(replace(old, vms=vms) if one is old else one for one in self.policy.groups)
            self.policy = replace(self.policy, groups=groups)
        elif what < 0.95:
            entry = self._entry(vm)
            vms = tuple(entry if one.name == vm else one for one in self.policy.vms)
            self.policy = replace(self.policy, vms=vms)
        else:
            self._bridges[dice.choice(self._devices).mac] = dice.choice(BRIDGES)

    def _whole(self) -> Policy:
        dice = self._dice
        return Policy(
            mode=Mode.ENFORCE,
            networks=(self._network("n1", "n2", GATEWAYS[0]), self._network("n2", "n1", GATEWAYS[1])),
            vms=tuple(self._entry(vm) for vm in self._vms),
            groups=tuple(Group(name, tuple(vm for vm in self._vms if dice.random() < 0.4)) for name in GROUPS),
            paths=tuple(self._rule(f"p{n}") for n in range(dice.randrange(2, 9))),
            denials=tuple(self._rule(f"d{n}") for n in range(dice.choice((0, 0, 1, 2)))),
            floor=Floor(
                dice.choice((Between.OPEN, Between.ISOLATED)), dice.random() < 0.9, Budget(broadcasts_per_s=inf)
            ),
        )

    def _network(self, name: str, other: str, gateways: tuple[str, ...]) -> NetworkPolicy:
        dice = self._dice
        routed = dice.random() < 0.15
        servers = dice.choice(((), (), (dice.choice(self._devices).mac,), (ROUTER,), (ROUTER, ROUTER)))
        return NetworkPolicy(
            name,
            f"br-{name}",
            cidr=f"10.6{name[1]}.0.0/16" if routed else None,
            forwarding=Forwarding.ROUTED if routed else Forwarding.BRIDGED,
            trusted_dhcp_macs=servers,
            free_until_leased=bool(servers) and dice.random() < 0.4,
            members=dice.choice(((), (), (), (RuleEnd(EndKind.TENANT, "blue"),), (RuleEnd(EndKind.GROUP, "web"),))),
            between=dice.choice((None, Between.OPEN, Between.ISOLATED)),
            gateways=gateways if dice.random() < 0.7 else (),
            reaches=(other,) if dice.random() < 0.6 else (),
            outside=dice.random() < 0.8,
        )

    def _entry(self, vm: str) -> VmPolicy:
        dice = self._dice
        own = [d for d in self._devices if d.vm == vm]
        bound = dice.random() < 0.8
        named = (NAMED_LOCAL,) if dice.random() < 0.15 else ()
        allows = tuple(dice.sample([d.v4 for d in self._devices] + [d.v6 for d in self._devices], dice.randrange(3)))
        pairs = [AddressPair(SHARED4, SHARED_MAC), AddressPair(SHARED6, SHARED_MAC), AddressPair(ANOTHER4)]
        pairs.append(AddressPair(SHARED_LOCAL, SHARED_MAC))
        kinds = [kind for kind in ForgedKind if kind is not ForgedKind.UNREADABLE]
        return VmPolicy(
            vm,
            tenant=dice.choice(("blue", "blue", "red")),
            mode=Mode.MONITOR if dice.random() < 0.08 else None,
            addresses=(*(address for d in own for address in (d.v4, d.v6)), *named) if bound else (),
            quarantine_allows=allows,
            address_pairs=tuple(pair for pair in pairs if dice.random() < 0.15),
            unchecked=tuple(dice.sample(kinds, dice.choice((1, 2, 4)))) if dice.random() < 0.12 else (),
            budget=self._budget(),
        )

    def _budget(self) -> Budget:
        """Bounds that are never met, or met at once: what happens in between depends on the clock."""
        dice = self._dice
        if dice.random() < 0.5:
            return Budget()
        return Budget(
            packets_per_s=dice.choice((None, None, None, None, 4e6, 4e6, 4e6, 0.001)),
            octets_per_s=dice.choice((None, None, 4e9)),
            new_flows_per_s=dice.choice((None, None, None, 4e6, 0.001)),
            table_entries=dice.choice((None, 1, 1, 128, 256, 1000, 1024, 10**6)),
            broadcasts_per_s=dice.choice((None, None, 4e6, 4e6, 0.001)),
        )

    def _rule(self, name: str) -> Rule:
        dice = self._dice
        texts = dice.choices(SERVICES, k=dice.choice((1, 1, 2, 4)))
        services = Services.of(one for text in texts for one in parse(text).ranges)
        return Rule(name, self._ends(), self._ends(), services, dice.choice((None, None, None, None, *TENANTS)))

    def _ends(self) -> tuple[RuleEnd, ...]:
        return tuple(self._end() for _ in range(self._dice.choice((1, 1, 2))))

    def _end(self) -> RuleEnd:
        dice = self._dice
        match dice.randrange(10):
            case 0:
                return RuleEnd(EndKind.ANY)
            case 1:
                return RuleEnd(EndKind.OUTSIDE)
            case 2:
                return RuleEnd(EndKind.GATEWAY)
            case 3:
                return RuleEnd(EndKind.RANGE, dice.choice(RANGES))
            case 4:
                return RuleEnd(EndKind.TENANT, dice.choice(TENANTS))
            case 5:
                return RuleEnd(EndKind.NETWORK, dice.choice(("n1", "n2")))
            case 6 | 7:
                return RuleEnd(EndKind.VM, dice.choice(self._vms))
        return RuleEnd(EndKind.GROUP, dice.choice(GROUPS))
