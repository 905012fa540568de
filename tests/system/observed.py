"""What is to be seen of a network: neighbour tables, the bridge's table, frames that arrive, ports' counters."""

import ctypes
import json
import os
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Self

from hypervigil.hypervisor.adapters.ebpf import kernel, layout
from hypervigil.model.traffic import Direction, ForgedKind
from lab.commands import call
from lab.guests import Guest
from lab.paths import GUEST_FILES, STATE, make
from tests.integration.percpu import summed
from tests.integration.wirelab import mac_bytes

WIRE = GUEST_FILES / "wire.py"
_SEEN = "/tmp/seen.json"


class Wire:
    """Every frame by a MAC that passes a device of the host, since the last look; the lab's own capture."""

    def __init__(self, device: str, mac: str) -> None:
        self._mac = mac_bytes(mac)
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self._socket.bind((device, 0))
        self._socket.setblocking(False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def seen(self) -> list[bytes]:
        """Whole frames, of at most 2,048 octets."""
        found = []
        while True:
            try:
                frame = self._socket.recv(2048)
            except BlockingIOError:
                return found
            if frame[6:12] == self._mac:
                found.append(frame)

    def close(self) -> None:
        """Look no more."""
        self._socket.close()


@dataclass(frozen=True)
class Seen:
    """What a watcher saw so far: frames by the number of their attack, and unicast frames for others."""

    by_attack: dict[int, int]
    foreign: int

    def since(self, before: "Seen") -> "Seen":
        """What came on top."""
        added = {number: count - before.by_attack.get(number, 0) for number, count in self.by_attack.items()}
        return Seen({number: count for number, count in added.items() if count}, self.foreign - before.foreign)


class Watcher:
    """Watches in a guest, in promiscuous mode, until it is ended."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._job = guest.spawn(f"hv-wire watch {_SEEN}")

    def seen(self) -> Seen:
        """What it saw so far; nothing before it began."""
        return _seen(self._guest.run(f"cat {_SEEN} || true").output)

    def end(self) -> None:
        """Watch no more."""
        self._guest.stop(self._job)
        self._guest.run(f"rm -f {_SEEN}")


def _seen(text: str) -> Seen:
    try:
        told: dict[str, Any] = json.loads(text)
    except ValueError:
        return Seen({}, -1)
    return Seen({int(number): count for number, count in told["seen"].items()}, told["foreign"])


class Gateway:
    """The host as the guests' gateway: answers at ports of all its addresses, and sees what its own hooks let pass."""

    def __init__(self, interfaces: Sequence[str], addresses: Sequence[str], ports: Sequence[int]) -> None:
        self.interfaces = tuple(interfaces)
        self.addresses = tuple(addresses)
        argv = [sys.executable, "-I", "-S", str(WIRE)]
        at = [word for address in addresses for word in ("--address", address)]
        self._seen = [make(STATE) / f"gateway-seen-{interface}.json" for interface in interfaces]
        self._processes = [
            subprocess.Popen([*argv, "serve", *at, *map(str, ports)]),
            *(
                subprocess.Popen([*argv, "watch", "--kept", "--interface", interface, str(path)])
                for interface, path in zip(interfaces, self._seen, strict=True)
            ),
        ]

    def seen(self) -> Seen:
        """What arrived so far."""
        parts = [_seen(path.read_text() if path.exists() else "") for path in self._seen]
        by_attack: Counter[int] = Counter()
        for part in parts:
            by_attack.update(part.by_attack)
        return Seen(dict(by_attack), sum(part.foreign for part in parts))

    def end(self) -> None:
        """Answer no more."""
        for process in self._processes:
            process.kill()
            process.wait()
        for path in self._seen:
            path.unlink(missing_ok=True)


def neighbours(*places: Guest | str) -> set[tuple[str, str]]:
    """The addresses, each with the MAC, that guests, or the host at interfaces, have in their tables."""
    found = set()
    for place in places:
        listed = (
            call(["ip", "-j", "neigh", "show", "dev", place])
            if isinstance(place, str)
            else place.run("ip -j neigh show dev eth0").output
        )
        found |= {(str(ip_address(e["dst"])), e["lladdr"]) for e in json.loads(listed or "[]") if "lladdr" in e}
    return found


def learned(bridge: str, prefix: str) -> int:
    """How many MACs with a prefix a bridge has learned."""
    return sum(
        entry["mac"].startswith(prefix) for entry in json.loads(call(["bridge", "-j", "fdb", "show", "br", bridge]))
    )


@dataclass(frozen=True)
class Dropped:
    """What a port's counters say of frames that were not its to send, by kind, and of those that it may not send."""

    forged: dict[ForgedKind, int]
    denied: int

    def since(self, before: "Dropped") -> "Dropped":
        """What was added."""
        forged = {kind: count - before.forged[kind] for kind, count in self.forged.items()}
        return Dropped({kind: count for kind, count in forged.items() if count}, self.denied - before.denied)


def dropped(pin_dir: Path) -> dict[str, Dropped]:
    """Of each port, by its MAC: read from the kernel, where no process of the product is asked."""
    found = {}
    with (
        _map(pin_dir, "hv_ports") as ports,
        _map(pin_dir, "hv_counters") as counters,
        _map(pin_dir, "hv_crossings") as crossings,
    ):
        for index in list(kernel.keys(ports, ctypes.c_uint32)):
            port = layout.Port()
            kernel.lookup(ports, index, port)
            counted = summed(counters, port.slot, layout.Counters)
            forged = {kind: int(counted.forged[kind]) for kind in ForgedKind}
            denied = sum(summed(crossings, port.slot, layout.Crossings).denied[Direction.OUT])
            found[layout.unpack_mac(bytes(port.mac))] = Dropped(forged, denied)
    return found


def in_force(pin_dir: Path) -> int:
    """A number that changes when the network policy in the kernel does."""
    epoch = layout.Epoch()
    with _map(pin_dir, "hv_epoch") as descriptor:
        kernel.lookup(descriptor, ctypes.c_uint32(0), epoch)
    return int(epoch.word)


@contextmanager
def _map(pin_dir: Path, name: str) -> Iterator[int]:
    descriptor = kernel.pinned(pin_dir / name, read_only=True)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
