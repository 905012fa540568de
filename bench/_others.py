"""Other ways to protect two VMs on a bridge: none, nftables, connection tracking, and libvirt's ``clean-traffic``."""

import contextlib
import itertools
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import libvirt

from bench._product import PER_TENANT
from bench._segment import Guest
from tests.integration.wirelab import run

BY_LIBVIRT = 50
"""Ports whose rules libvirt makes itself; it takes about a second for each, so what is beyond is copied from them."""
_TABLE = "hvbench"
_BRIDGE_NF = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
_LIBVIRT_WAIT_S = 30.0
_REPEAT = 10


class Way(Protocol):
    """A way to protect, in force or not."""

    def put(self) -> None:
        """Put it in force."""
        ...

    def take(self) -> None:
        """Leave the plain bridge."""
        ...

    def change_ms(self) -> float | None:
        """How long it takes to change what one VM may do, at the median."""
        ...

    def attach_ms(self) -> float | None:
        """How long it takes to protect one more VM, at the median."""
        ...


class Bridge:
    """Nothing: the bridge beside itself tells how far chance alone takes a ratio from 1."""

    def put(self) -> None:
        """Nothing to do."""

    def take(self) -> None:
        """Nothing to do."""

    def change_ms(self) -> float | None:
        """There is nothing to change."""
        return None

    def attach_ms(self) -> float | None:
        """There is nothing to attach."""
        return None


def _nft(script: str) -> None:
    subprocess.run(["nft", "-f", "-"], input=script, text=True, check=True)


def _timed(turns: int, do: Callable[[int], None]) -> float:
    took = []
    for turn in range(turns):
        began = time.perf_counter()
        do(turn)
        took.append((time.perf_counter() - began) * 1000)
    return statistics.median(took)


def _path_changed_ms(family: str, path: Callable[[int], str]) -> float:
    """One path takes another's place, in one transaction; each turn has a ``path`` of its own."""
    paths = f"element {family} {_TABLE} paths"
    _nft(f"add {paths} {{ {path(0)} : accept }}")
    return _timed(
        _REPEAT,
        lambda turn: _nft(f"delete {paths} {{ {path(turn)} }}\nadd {paths} {{ {path(turn + 1)} : accept }}"),
    )


# --- nftables ---------------------------------------------------------------------------------------------------------
def _address(number: int) -> str:
    return f"10.{number // 62500}.{number // 250 % 250}.{number % 250}"


def _mac(number: int) -> str:
    return f"52:54:00:00:{number >> 8:02x}:{number & 255:02x}"


def reaching(ports: int) -> Iterator[tuple[int, int]]:
    """Who may reach whom among so many VMs, as in our own policy: ordered pairs of each tenant's."""
    count = max(ports, 2)
    for first in range(0, count, PER_TENANT):
        yield from itertools.permutations(range(first, min(first + PER_TENANT, count)), 2)


def _serving(ends: Sequence[str]) -> list[str]:
    """Those that the outside may reach, as in our own policy."""
    return [end for n, end in enumerate(ends) if n % PER_TENANT < PER_TENANT // 2]


def pipeline(ports: int, guests: tuple[Guest, Guest]) -> str:
    """A bridge table of the same policy: who may send from where, and who may talk to whom, by sets and maps.

    Only the guests' frames are ever dropped by it, since a host may have other VMs.
    """
    theirs = f'iifname {{ "{guests[0].device}", "{guests[1].device}" }}'
    devices = [guest.device for guest in guests] + [f"fake{n}" for n in range(2, ports)]
    bound = [f'"{guest.device}" . {guest.mac} . {guest.address}' for guest in guests]
    bound += [f'"fake{n}" . {_mac(n)} . {_address(n)}' for n in range(2, ports)]
    pairs = [f'"{devices[one]}" . "{devices[other]}" : accept' for one, other in reaching(ports)]
    web = [f'"{device}"' for device in _serving(devices)]
    return f"""
table bridge {_TABLE} {{
  set bound {{ type ifname . ether_addr . ipv4_addr; elements = {{ {", ".join(bound)} }} }}
  set web {{ type ifname; elements = {{ {", ".join(web)} }} }}
  map paths {{ type ifname . ifname : verdict; elements = {{ {", ".join(pairs)} }} }}
  chain prerouting {{
    type filter hook prerouting priority -300; policy accept;
    ether type arp accept
    ether type ip iifname . ether saddr . ip saddr != @bound {theirs} drop
    ip protocol udp udp sport 67 {theirs} drop
  }}
  chain forward {{
    type filter hook forward priority 0; policy accept;
    ether type arp accept
    iifname . oifname vmap @paths
    tcp dport 443 oifname @web accept
    {theirs} drop
  }}
}}
"""


class Nftables:
    """One table, asleep while it is not in force."""

    def __init__(self, ports: int, guests: tuple[Guest, Guest]) -> None:
        _nft(f"add table bridge {_TABLE}; delete table bridge {_TABLE}\n{pipeline(ports, guests)}")

    def put(self) -> None:
        """Wake it."""
        _nft(f"add table bridge {_TABLE}")

    def take(self) -> None:
        """Put it to sleep: its chains leave their hooks."""
        _nft(f"add table bridge {_TABLE} {{ flags dormant; }}")

    def change_ms(self) -> float | None:
        """One VM's path is replaced, in one transaction."""
        return _path_changed_ms("bridge", lambda turn: f'"moved{turn}" . "web"')

    def attach_ms(self) -> float | None:
        """One more VM's addresses and path, in one transaction."""

        def attach(turn: int) -> None:
            _nft(
                f'add element bridge {_TABLE} bound {{ "more{turn}" . 52:54:00:fe:00:{turn:02x} . 10.9.9.{turn} }}\n'
                f'add element bridge {_TABLE} paths {{ "more{turn}" . "web" : accept }}'
            )

        return _timed(_REPEAT, attach)

    @staticmethod
    def remove() -> None:
        """Nothing of it stays."""
        _nft(f"add table bridge {_TABLE}; delete table bridge {_TABLE}")


def tracked(ports: int, guests: tuple[Guest, Guest]) -> str:
    """The same policy by address behind connection tracking: rules of routed packets know no ports of a bridge."""
    addresses = [guest.address for guest in guests] + [_address(n) for n in range(2, ports)]
    pairs = [f"{addresses[one]} . {addresses[other]} : accept" for one, other in reaching(ports)]
    theirs = f"{{ {guests[0].address}, {guests[1].address} }}"
    return f"""
table inet {_TABLE} {{
  set web {{ type ipv4_addr; elements = {{ {", ".join(_serving(addresses))} }} }}
  map paths {{ type ipv4_addr . ipv4_addr : verdict; elements = {{ {", ".join(pairs)} }} }}
  chain forward {{
    type filter hook forward priority 0; policy accept;
    ct state established,related accept
    ip saddr . ip daddr vmap @paths
    tcp dport 443 ip daddr @web accept
    ip saddr {theirs} drop
    ip daddr {theirs} drop
  }}
}}
"""


class Conntrack:
    """Connection tracking of bridged frames by br_netfilter, and the policy for what begins a connection."""

    def __init__(self, ports: int, guests: tuple[Guest, Guest]) -> None:
        if not _BRIDGE_NF.exists():
            raise RuntimeError("bridged frames are not tracked here: modprobe br_netfilter")
        self._was = _BRIDGE_NF.read_text(encoding="ascii")
        _nft(f"add table inet {_TABLE}; delete table inet {_TABLE}\n{tracked(ports, guests)}")

    def put(self) -> None:
        """Bridged frames go through it."""
        _nft(f"add table inet {_TABLE}")
        _BRIDGE_NF.write_text("1", encoding="ascii")

    def take(self) -> None:
        """They do not, and nothing is tracked."""
        _BRIDGE_NF.write_text("0", encoding="ascii")
        _nft(f"add table inet {_TABLE} {{ flags dormant; }}")

    def change_ms(self) -> float | None:
        """One VM's path is replaced, in one transaction."""
        return _path_changed_ms("inet", lambda turn: f"10.9.8.{turn} . 10.9.9.0")

    def attach_ms(self) -> float | None:
        """One more VM's path, in one transaction."""

        def attach(turn: int) -> None:
            _nft(f"add element inet {_TABLE} paths {{ 10.9.10.{turn} . 10.9.9.0 : accept }}")

        return _timed(_REPEAT, attach)

    def remove(self) -> None:
        """Nothing of it stays."""
        _BRIDGE_NF.write_text(self._was, encoding="ascii")
        _nft(f"add table inet {_TABLE}; delete table inet {_TABLE}")


# --- libvirt's filters ------------------------------------------------------------------------------------------------
def filterref(address: str) -> str:
    """What a domain's interface says to have libvirt keep it to its MAC and this address."""
    return f"<filterref filter='clean-traffic'><parameter name='IP' value='{address}'/></filterref>"


class Dormant:
    """Libvirt's table of bridged frames, off its hooks while it is not in force."""

    def put(self) -> None:
        """Wake its rules."""
        _nft("add table bridge nat")

    def take(self) -> None:
        """Put them to sleep."""
        _nft("add table bridge nat { flags dormant; }")


@contextlib.contextmanager
def own_libvirt() -> Iterator[libvirt.virConnect]:
    """A libvirt of our own in this network namespace, which sees nothing of the host's and leaves nothing there."""
    Path("/run/libvirt").mkdir(exist_ok=True)
    script = """
for place in /run/libvirt /var/lib/libvirt /etc/libvirt/qemu; do [ ! -d $place ] || mount -t tmpfs hvbench $place; done
exec libvirtd -f "$1/libvirtd.conf" -p "$1/pid"
"""
    with tempfile.TemporaryDirectory(prefix="hvbench-") as place:
        # A socket at a place of its own: at the usual one the host's libvirt answers until ours has mounted over it.
        Path(place, "libvirtd.conf").write_text(f'unix_sock_dir = "{place}"\n', encoding="ascii")
        # PRIVILEGED: mounts of its own, and what libvirt needs.
        daemon = subprocess.Popen(
            ["unshare", "--mount", "sh", "-ec", script, "sh", place],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield _connected(daemon, Path(place, "libvirt-sock"))
        finally:
            daemon.terminate()
            daemon.wait(30)


def _connected(daemon: "subprocess.Popen[bytes]", socket: Path) -> libvirt.virConnect:
    deadline = time.monotonic() + _LIBVIRT_WAIT_S
    while True:
        try:
            return libvirt.open(f"nwfilter+unix:///system?socket={socket}")
        except libvirt.libvirtError:
            if daemon.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("libvirt does not start: is it installed (scripts/install-lab-packages)?") from None
            time.sleep(0.05)


class Nwfilter(Dormant):
    """Libvirt's ``clean-traffic`` on both guests' devices and on so many others, made by libvirt.

    Up to ``BY_LIBVIRT`` ports have a binding each. Libvirt starts dozens of programs for one, a second's work and more
    as the rules grow, so that hundreds take long: beyond that bound libvirt's own rules are copied under other names.
    The guests' rules lie in the middle of the lists, where an ordinary VM's are.
    """

    def __init__(self, connection: libvirt.virConnect, ports: int, guests: tuple[Guest, Guest]) -> None:
        self._connection = connection
        self._last = guests[1]
        others = range(2, min(ports, BY_LIBVIRT))
        before, after = others[: len(others) // 2], others[len(others) // 2 :]
        self._took = [self._bind_another(n) for n in before]
        self._took += [self._bind(guest.device, guest.mac, guest.address) for guest in guests]
        self._took += [self._bind_another(n) for n in after]
        if ports > BY_LIBVIRT:
            copy_rules(range(BY_LIBVIRT, ports), guests[0])
        self.take()

    def change_ms(self) -> float | None:
        """One VM's address is another one, for which libvirt takes away all its rules and makes them again."""
        took = []
        for address in ("198.51.100.99", self._last.address):
            began = time.perf_counter()
            self._connection.nwfilterBindingLookupByPortDev(self._last.device).delete()
            self._bind(self._last.device, self._last.mac, address)
            took.append((time.perf_counter() - began) * 1000)
        return statistics.median(took)

    def attach_ms(self) -> float | None:
        """One more VM."""
        return self._bind_another(9999)

    def _bind_another(self, number: int) -> float:
        device = f"fake{number}"
        run("ip", "tuntap", "add", device, "mode", "tap")
        return self._bind(device, _mac(number), _address(number))

    def _bind(self, device: str, mac: str, address: str) -> float:
        """Milliseconds that it took."""
        identity = f"5b1f4c1e-62f0-4ad4-9f0c-{mac.replace(':', '')}"
        xml = (
            f"<filterbinding><owner><name>{device}</name><uuid>{identity}</uuid></owner><portdev name='{device}'/>"
            f"<mac address='{mac}'/>{filterref(address)}</filterbinding>"
        )
        began = time.perf_counter()
        self._connection.nwfilterBindingCreateXML(xml)
        return (time.perf_counter() - began) * 1000


def copy_rules(numbers: range, model: Guest) -> None:
    """Libvirt's rules of one guest again for each number of a VM that is not there."""
    script = copied(run("ebtables-save"), model, [(f"fake{n}", _mac(n), _address(n)) for n in numbers])
    subprocess.run(["ebtables-restore"], input=script, text=True, check=True)


def copied(saved: str, model: Guest, others: list[tuple[str, str, str]]) -> str:
    """Libvirt's rules, as ``ebtables-save`` tells them, with those of ``model`` again for each (device, MAC, address).

    The jumps of the first half come before all that are there, those of the second half after them.
    """
    lines = saved.splitlines()
    start = lines.index("*nat")
    end = next((n for n in range(start + 1, len(lines)) if lines[n].startswith("*")), len(lines))
    table = [line for line in lines[start:end] if line]
    word = re.compile(rf"(?<![\w]){re.escape(model.device)}(?![\w])")
    own = [line for line in table if word.search(line)]

    def renamed(line: str, device: str, mac: str, address: str) -> str:
        return word.sub(device, line).replace(model.mac, mac).replace(model.address, address)

    new = [[renamed(line, *other) for line in own] for other in others]
    half = len(new) // 2
    chains = [line for line in table[1:] if line.startswith(":")]
    rules = [line for line in table[1:] if not line.startswith(":")]
    return "\n".join(
        [
            table[0],
            *chains,
            *(line for block in new for line in block if line.startswith(":")),
            *(line for block in new[:half] for line in block if not line.startswith(":")),
            *rules,
            *(line for block in new[half:] for line in block if not line.startswith(":")),
            "",
        ]
    )
