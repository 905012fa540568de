"""The guard: a rule of the kernel's that drops every tap on a bridge which has no compiled policy.

It needs no process of ours: a new tap passes nothing, in either direction, until the enforcer has bound it. Ports are
named by interface index, which the kernel never gives out twice, so a new tap cannot inherit the name of a dead one.
This kernel kind cannot match a frame's bridge (no ``meta ibrname``), so taps are told by their kind: macvtap and
hardware that is passed through do not cross a bridge and are not seen here.
"""

import json
import os
import socket
import subprocess
from collections.abc import Iterable
from pathlib import Path

TABLE = "hypervigil"
TIMEOUT_S = 10.0

_RULES = """\
add table bridge {table}
delete table bridge {table}
table bridge {table} {{
  counter unbound_out {{ }}
  counter unbound_in {{ }}
  set bound {{ type iface_index; {elements} }}
  chain from_ports {{
    type filter hook prerouting priority -350; policy accept;
    meta iifkind "tun" iif != @bound counter name unbound_out drop
  }}
  chain to_ports {{
    type filter hook postrouting priority 350; policy accept;
    meta oifkind "tun" oif != @bound counter name unbound_in drop
  }}
}}
"""


class GuardError(Exception):
    """One sentence: what nftables refused and the mend."""


class Guard:
    """One table of the bridge family; every change is one transaction."""

    family = "bridge"

    def __init__(self, table: str = TABLE) -> None:
        self._table = table

    def put(self, bound: Iterable[int]) -> None:
        """Put the whole guard in force, with exactly these interface indices bound."""
        # PRIVILEGED: nftables is root's.
        _nft("-f", "-", script=self._script(elements(map(str, sorted(set(bound))))))

    def _script(self, bound: str) -> str:
        return _RULES.format(table=self._table, elements=bound)

    def _whole(self, rules: int, sets: dict[str, list[object]]) -> bool:
        return rules == 2 and sets.keys() == {"bound"}

    def change(self, *, add: Iterable[int] = (), remove: Iterable[int] = ()) -> None:
        """Bind and unbind indices in one transaction."""
        lines = [f"add element {self.family} {self._table} bound {{ {index} }}" for index in add]
        lines += [f"delete element {self.family} {self._table} bound {{ {index} }}" for index in remove]
        if lines:
            _nft("-f", "-", script="\n".join(lines) + "\n")

    def bound(self) -> frozenset[int] | None:
        """The indices that the kernel holds as bound; ``None`` where the guard is not in force as a whole."""
        try:
            listed = json.loads(_nft("-j", "list", "table", self.family, self._table))["nftables"]
        except GuardError:
            return None
        rules = sum("rule" in item for item in listed)
        sets = {item["set"]["name"]: item["set"].get("elem", []) for item in listed if "set" in item}
        return frozenset(map(_index, sets["bound"])) if self._whole(rules, sets) else None

    def remove(self) -> bool:
        """Take the guard away; whether it was there."""
        if self.bound() is None and not self._there():
            return False
        _nft("delete", "table", self.family, self._table)
        return True

    def _there(self) -> bool:
        try:
            _nft("list", "table", self.family, self._table)
        except GuardError:
            return False
        return True


def elements(of: Iterable[str]) -> str:
    """What a set holds, as nft is told it."""
    listed = ", ".join(of)
    return f"elements = {{ {listed} }};" if listed else ""


def bridged_taps() -> dict[int, str]:
    """Every tap that is a bridge's port: interface index to the bridge's name."""
    found = {}
    for device in Path("/sys/class/net").iterdir():
        try:
            if (device / "tun_flags").exists() and (device / "brport").exists():
                found[int((device / "ifindex").read_text())] = (device / "master").readlink().name
        except OSError:
            continue  # it went while we looked
    return found


def _index(element: object) -> int:
    """An element as nft prints it: an index, or the name of the device that has it."""
    if isinstance(element, int):
        return element
    try:
        return socket.if_nametoindex(str(element))
    except OSError:
        return int(str(element)) if str(element).isdigit() else -1


def _nft(*arguments: str, script: str | None = None) -> str:
    try:
        done = subprocess.run(
            ["nft", *arguments],
            input=script,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
            env={"PATH": "/usr/sbin:/sbin:/usr/bin:/bin", "LC_ALL": "C", "HOME": os.environ.get("HOME", "/")},
        )
    except FileNotFoundError:
        raise GuardError("nft is missing: apt-get install nftables") from None
    except subprocess.TimeoutExpired:
        raise GuardError(f"nft did not answer within {TIMEOUT_S:g} s: look for another program that holds it") from None
    if done.returncode:
        complaint = done.stderr.strip().splitlines()
        raise GuardError(f"nftables refused: {complaint[0] if complaint else f'exit code {done.returncode}'}")
    return done.stdout
