"""The scenario's virtual networks on the host: bridges, and the namespace ``ext`` reached by routing."""

import hashlib
import ipaddress
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any, Self

from lab.commands import call, works
from lab.errors import LabError
from lab.ext import ADDRESS as EXT_ADDRESS
from lab.ext import GATEWAY as EXT_GATEWAY
from lab.ext import INTERFACE as EXT_INTERFACE
from lab.ext import NAMESPACE as EXT_NAMESPACE
from lab.ext import PREFIX as EXT_PREFIX
from lab.paths import STATE, make
from lab.scratch import drop_lock, only_lab, take_lock

_BRIDGE_PREFIX = "hvl-"
_SETTINGS = STATE / "settings.json"
_PROC = Path("/proc/sys")
_WANTED = {
    # Bridged frames must meet the product's rules only, not what else is on the host's routed layer.
    "net/bridge/bridge-nf-call-iptables": "0",
    "net/bridge/bridge-nf-call-ip6tables": "0",
    "net/bridge/bridge-nf-call-arptables": "0",
    "net/ipv4/ip_forward": "1",
}
_PASS, _DROP = 7000, 7001  # priorities of the routing rules that keep traffic in the lab
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_INTERFACE_LENGTH = 15


@dataclass(frozen=True)
class NetworkSpec:
    """A virtual network: its name, its IPv4 range (host on the first address) and perhaps an IPv6 range.

    ``routed``: there is no bridge, the host routes to each guest (by the product, or by `Network.route` without it).
    """

    name: str
    cidr: str
    cidr6: str | None = None
    routed: bool = False


class Network:
    """One bridge, on which the host has the first address and forwards for the guests.

    ``bridge`` is its device's name, ``gateway`` the host's address, ``mac`` its MAC, ``prefix`` the prefix length; with
    IPv6 ``gateway6`` and ``prefix6``.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        if not _NAME.fullmatch(spec.name):
            raise LabError(f"network name {spec.name!r}: use at most 32 of a-z, 0-9 and -")
        try:
            self._range = ipaddress.IPv4Network(spec.cidr)
            self._range6 = ipaddress.IPv6Network(spec.cidr6) if spec.cidr6 else None
        except ValueError as error:
            raise LabError(f"network {spec.name!r}: {error}") from None
        if self._range.prefixlen > 29:
            raise LabError(f"network {spec.name!r}: {spec.cidr} has no room for guests, take /29 or wider")
        self.spec = spec
        self.gateway = str(self._range[1])
        self.prefix = self._range.prefixlen
        self.gateway6 = str(self._range6[1]) if self._range6 else None
        self.prefix6 = self._range6.prefixlen if self._range6 else None
        self.bridge = _bridge_name(spec.name)
        self.mac = "52:54:01:" + hashlib.sha256(self.bridge.encode()).digest()[:3].hex(":")

    @property
    def place(self) -> str:
        """Where it is, as the policy file says it."""
        return 'forwarding = "routed"' if self.spec.routed else f'bridge = "{self.bridge}"'

    def route(self, tap: str, index: int) -> None:
        """Route to one guest of a routed network as a stock host does, without the product."""
        lines = [
            f"addr add {self.gateway}/32 dev {tap}",
            f"link set {tap} up",
            f"route add {self.address(index)}/32 dev {tap}",
        ]
        if self._range6:
            lines += [
                f"addr add {self.gateway6}/128 dev {tap} nodad",
                f"route add {self.address6(index)}/128 dev {tap}",
            ]
        call(["ip", "-batch", "-"], stdin="\n".join(lines) + "\n")
        (_PROC / "net/ipv4/conf" / tap / "proxy_arp").write_text("1")

    def unroute(self, tap: str, index: int) -> None:
        """Undo it."""
        lines = [f"route del {self.address(index)}/32 dev {tap}", f"addr del {self.gateway}/32 dev {tap}"]
        if self._range6:
            lines += [f"route del {self.address6(index)}/128 dev {tap}", f"addr del {self.gateway6}/128 dev {tap}"]
        call(["ip", "-batch", "-"], stdin="\n".join(lines) + "\n")
        (_PROC / "net/ipv4/conf" / tap / "proxy_arp").write_text("0")

    def address(self, index: int) -> str:
        """The IPv4 address of the guest numbered ``index`` from 0 on: the host is .1, the guests begin at .2."""
        if not 0 <= index < self._range.num_addresses - 3:
            raise LabError(f"network {self.spec.name!r}: {self.spec.cidr} has no address for guest {index}")
        return str(self._range[index + 2])

    def address6(self, index: int) -> str | None:
        """Its IPv6 address, if the network has IPv6."""
        return str(self._range6[index + 2]) if self._range6 else None

    def overlaps(self, other: str) -> bool:
        """Whether an IPv4 range has addresses in common with this network."""
        return self._range.overlaps(ipaddress.IPv4Network(other))

    def up(self) -> None:
        """Make the bridge, if it has one."""
        if self.spec.routed:
            return
        lines = [
            # A bridge without a MAC of its own takes another one whenever a guest comes or goes.
            f"link add {self.bridge} address {self.mac} type bridge stp_state 0 forward_delay 0",
            f"link set {self.bridge} addrgenmode none",
            f"addr add {self.gateway}/{self.prefix} broadcast + dev {self.bridge}",
            f"link set {self.bridge} up",
        ]
        if self._range6:
            lines.append(f"addr add {self.gateway6}/{self.prefix6} dev {self.bridge} nodad")
        call(["ip", "-batch", "-"], stdin="\n".join(lines) + "\n")

    def down(self) -> None:
        """Remove the bridge, if it is there."""
        works(["ip", "link", "del", self.bridge])


class Networks:
    """All networks of one run, ``ext`` and the kernel settings they need; a context manager, undone in reverse.

    ``with Networks([NetworkSpec("net1", "10.60.0.0/24")]) as networks: networks["net1"].bridge``. While it is entered
    no other lab runs on this machine; what a crashed one left is removed first.
    """

    def __init__(self, specs: Sequence[NetworkSpec]) -> None:
        self._networks = {spec.name: Network(spec) for spec in specs}
        if len(self._networks) != len(specs):
            raise LabError("two networks have the same name")
        taken = [f"{EXT_ADDRESS}/32"]
        for network in self._networks.values():
            if any(network.overlaps(other) for other in taken):
                raise LabError(f"network {network.spec.name!r}: {network.spec.cidr} is used twice")
            taken.append(network.spec.cidr)

    def __enter__(self) -> Self:
        take_lock()
        try:
            clean_all()
            _set_and_remember()
            for network in self._networks.values():
                network.up()
            _make_ext()
            _keep_inside(list(self._networks.values()))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        _remove_rules()
        _remove_ext()
        for network in reversed(self._networks.values()):
            network.down()
        _restore()
        drop_lock()

    def __iter__(self) -> Iterator[Network]:
        return iter(self._networks.values())

    def __getitem__(self, name: str) -> Network:
        try:
            return self._networks[name]
        except KeyError:
            raise LabError(f"there is no network {name!r}") from None


def _bridge_name(name: str) -> str:
    whole = _BRIDGE_PREFIX + name
    if len(whole) <= _INTERFACE_LENGTH and whole != EXT_INTERFACE:
        return whole
    return _BRIDGE_PREFIX + "x" + hashlib.sha256(name.encode()).hexdigest()[:10]


def _make_ext() -> None:
    call(["ip", "netns", "add", EXT_NAMESPACE])
    outside = [
        f"link add {EXT_INTERFACE} type veth peer name eth0 netns {EXT_NAMESPACE}",
        f"link set {EXT_INTERFACE} addrgenmode none",
        f"addr add {EXT_GATEWAY}/{EXT_PREFIX} dev {EXT_INTERFACE}",
        f"link set {EXT_INTERFACE} up",
    ]
    inside = [
        "link set lo up",
        "link set eth0 addrgenmode none",
        f"addr add {EXT_ADDRESS}/{EXT_PREFIX} dev eth0",
        "link set eth0 up",
        f"route add default via {EXT_GATEWAY}",
    ]
    call(["ip", "-batch", "-"], stdin="\n".join(outside) + "\n")
    call(["ip", "-n", EXT_NAMESPACE, "-batch", "-"], stdin="\n".join(inside) + "\n")


def _remove_ext() -> list[str]:
    removed = []
    if works(["ip", "link", "del", EXT_INTERFACE]):
        removed.append(f"link {EXT_INTERFACE}")
    if Path("/run/netns", EXT_NAMESPACE).exists() and works(["ip", "netns", "del", EXT_NAMESPACE]):
        removed.append(f"namespace {EXT_NAMESPACE}")
    return removed


def _keep_inside(networks: Sequence[Network]) -> None:
    """Route between the lab's own networks only: answers to invented addresses must not leave by the host's uplink."""
    inside = [*(network.spec.cidr for network in networks), f"{EXT_ADDRESS}/{EXT_PREFIX}"]
    lines = []
    bridges = [network.bridge for network in networks if not network.spec.routed]
    routed = [f"from {network.spec.cidr}" for network in networks if network.spec.routed]
    for origin in [*(f"iif {device}" for device in [*bridges, EXT_INTERFACE]), *routed]:
        lines += [f"rule add priority {_PASS} {origin} to {IPv4Network(to, strict=False)} lookup main" for to in inside]
        lines.append(f"rule add priority {_DROP} {origin} blackhole")
    call(["ip", "-batch", "-"], stdin="\n".join(lines) + "\n")


def _remove_rules() -> list[str]:
    removed = []
    for rule in json.loads(call(["ip", "-j", "rule", "show"])):
        device = rule.get("iif", "")
        origin = ["iif", device] if device.startswith(_BRIDGE_PREFIX) else _routed_origin(rule)
        if origin and works(["ip", "rule", "del", "priority", str(rule["priority"]), *origin]):
            removed.append(f"routing rule for {origin[1]}")
    return removed


def _routed_origin(rule: dict[str, Any]) -> list[str]:
    """Where a rule of ours for a routed network takes packets from; nothing, if it is none."""
    ours = rule["priority"] in (_PASS, _DROP) and "iif" not in rule and "srclen" in rule
    return ["from", f"{rule['src']}/{rule['srclen']}"] if ours else []


def _set_and_remember() -> None:
    """Set what the lab needs of the kernel, after writing down what it was."""
    there = {name: _PROC / name for name in _WANTED if (_PROC / name).exists()}
    make(STATE)
    fresh = _SETTINGS.with_suffix(".new")
    fresh.write_text(json.dumps({name: path.read_text().strip() for name, path in there.items()}))
    fresh.rename(_SETTINGS)
    for name, path in there.items():
        path.write_text(_WANTED[name])


def _restore() -> list[str]:
    """Set the kernel back to what was written down; what changed by that."""
    if not _SETTINGS.exists():
        return []
    restored = []
    for name, value in json.loads(_SETTINGS.read_text()).items():
        path = _PROC / name
        if name in _WANTED and path.exists() and path.read_text().strip() != value:
            path.write_text(value)
            restored.append(f"setting {name}")
    _SETTINGS.unlink()
    return restored


def clean_all() -> list[str]:
    """Remove what any earlier run left of networks and settings, crashed ones too; what was removed, in words.

    LabError when a lab runs right now, in another process.
    """
    with only_lab():
        removed = _remove_rules() + _remove_ext()
        for link in sorted(Path("/sys/class/net").glob(f"{_BRIDGE_PREFIX}*")):
            if works(["ip", "link", "del", link.name]):
                removed.append(f"link {link.name}")
        return removed + _restore()
