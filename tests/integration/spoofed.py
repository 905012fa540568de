"""Guests in network namespaces, and a flood of SYNs from addresses that are nobody's."""

import contextlib
import ctypes
import fcntl
import json
import os
import secrets
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench._stream import Message
from tests.integration.wirelab import ethernet, ipv4, ipv6, run, tcp

_CLONE_NEWNET = 0x40000000
_SIOCETHTOOL, _ETHTOOL_STXCSUM = 0x8946, 0x17
_BATCH = 256
_libc = ctypes.CDLL(None, use_errno=True)
INVENTED4, INVENTED6 = "10.128.0.0/9", "fd66::/64"
"""Where the flood says that it comes from."""


@dataclass(frozen=True, slots=True)
class Guest:
    """A network namespace, and the host's end of its link."""

    namespace: str
    device: str
    mac: str

    @property
    def ifindex(self) -> int:
        """The host's end."""
        return socket.if_nametoindex(self.device)

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """This thread in it; sockets that are made meanwhile stay there."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        there = os.open(f"/run/netns/{self.namespace}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            assert not _libc.setns(there, _CLONE_NEWNET)
            yield
        finally:
            _libc.setns(home, _CLONE_NEWNET)
            os.close(home)
            os.close(there)

    def run(self, *arguments: str) -> str:
        """Run a program in it."""
        return run("ip", "netns", "exec", self.namespace, *arguments)

    def set(self, setting: str, value: int) -> None:
        """Write a sysctl of its own."""
        with self.inside():
            Path("/proc/sys/net", setting).write_text(str(value))

    def send(self, *frames: bytes) -> None:
        """Send frames as they are."""
        with self.inside(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as device:
            device.bind(("eth0", 0))
            for frame in frames:
                device.send(frame)

    def ask(self, frame: bytes, is_answer: Callable[[bytes], bool]) -> bytes:
        """Send a frame, and the first one of that kind that comes then."""
        with self.inside(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as device:
            device.bind(("eth0", 3))
            device.settimeout(3)
            device.send(frame)
            while True:
                got, where = device.recvfrom(2048)
                if where[2] != socket.PACKET_OUTGOING and is_answer(got):
                    return got

    def reckons_sums(self, itself: bool) -> None:
        """Whether its kernel writes checksums into frames itself, or leaves them to the device."""
        with self.inside(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            value = ctypes.create_string_buffer(struct.pack("=II", _ETHTOOL_STXCSUM, 0 if itself else 1))
            request = struct.pack("16sQ16x", b"eth0", ctypes.addressof(value))
            fcntl.ioctl(any_socket, _SIOCETHTOOL, request)


@contextlib.contextmanager
def guest(number: int, bridge: str | None, *addresses: str) -> Iterator[Guest]:
    """A guest whose device is on a bridge, or the host's own link where there is none."""
    one = Guest(f"hvs-{secrets.token_hex(3)}-{number}", f"hvs{number}", f"52:54:00:5a:00:{number:02x}")
    run("ip", "netns", "add", one.namespace)
    try:
        run("ip", "link", "add", one.device, "type", "veth", "peer", "name", "eth0", "netns", one.namespace)
        run("ip", "link", "set", one.device, *(("master", bridge) if bridge else ()), "up")
        run("ip", "-n", one.namespace, "link", "set", "eth0", "address", one.mac, "up")
        run("ip", "-n", one.namespace, "link", "set", "lo", "up")
        for address in addresses:
            run("ip", "-n", one.namespace, "address", "add", address, "dev", "eth0", *(("nodad",) * (":" in address)))
        one.set("ipv4/ip_forward", 0)  # else what is for invented addresses goes round in circles
        yield one
    finally:
        subprocess.run(["ip", "netns", "del", one.namespace], check=False, capture_output=True)


class Counter:
    """What netfilter sees, by rules; the product has no part in it."""

    def __init__(self, family: str, hook: str, at: "Guest | None" = None, **rules: str) -> None:
        self._run = at.run if at is not None else run
        self._where, self._names = (family, f"seen_{hook}"), list(rules)
        kind = f"{{ type filter hook {hook} priority -300; }}"
        self._run("nft", "add", "table", *self._where)
        self._run("nft", "add", "chain", *self._where, "c", kind)
        for rule in rules.values():
            self._run("nft", "add", "rule", *self._where, "c", *rule.split(), "counter")

    def packets(self) -> dict[str, int]:
        """How many packets met each rule."""
        listed = json.loads(self._run("nft", "-j", "list", "chain", *self._where, "c"))["nftables"]
        rules = [one["rule"]["expr"] for one in listed if "rule" in one]
        counts = [next(e["counter"]["packets"] for e in expressions if "counter" in e) for expressions in rules]
        return dict(zip(self._names, counts, strict=True))


class Server:
    """Serves one octet for one, so a client knows that it was served."""

    def __init__(self, at: Guest, port: int, backlog: int) -> None:
        with at.inside():
            self._socket = socket.create_server(
                ("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=backlog
            )
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                with connection, contextlib.suppress(OSError):
                    connection.settimeout(1)
                    connection.send(connection.recv(1))

    def close(self) -> None:
        """No more."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def served(at: Guest | None, address: str, port: int, source: str = "", timeout_s: float = 1.0) -> float | None:
    """How long a guest, or the host itself, waited to be served, seconds; ``None``: it gave up."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    began = time.monotonic()
    place = at.inside() if at is not None else contextlib.nullcontext()
    with place, socket.socket(family, socket.SOCK_STREAM) as client, contextlib.suppress(OSError):
        client.settimeout(timeout_s)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if source:
            client.bind((source, 0))
        client.connect((address, port))
        client.send(b"x")
        if client.recv(1) == b"x":
            return time.monotonic() - began
    return None


def goodput(at: Guest, address: str, port: int, per_s: float, seconds: float) -> float:
    """How many connections a second were served of those that an honest client wanted, one after the other."""
    began, number, good = time.monotonic(), 0, 0
    while (elapsed := time.monotonic() - began) < seconds:
        if number > elapsed * per_s:
            time.sleep(0.001)
            continue
        number += 1
        good += served(at, address, port) is not None
    return good / seconds


class Flood:
    """SYNs by a guest, each from another address, at a steady rate and no more than so many."""

    def __init__(self, by: Guest, to_mac: str, address: str, port: int) -> None:
        self.sent = 0
        self._stopped = threading.Event()
        self._version = 6 if ":" in address else 4
        source = INVENTED6.split("/", maxsplit=1)[0] if self._version == 6 else INVENTED4.split("/", maxsplit=1)[0]
        begins = (address, 6, tcp(0, port, 2))
        packet = ipv6(source, *begins) if self._version == 6 else ipv4(source, *begins)
        self._frame = np.frombuffer(
            ethernet(by.mac, to_mac, 0x86DD if self._version == 6 else 0x0800, packet), np.uint8
        )
        self._pseudo = _sum(ip_address(source).packed + ip_address(address).packed + b"\0\6\0\24" + tcp(0, port, 2))
        with by.inside():
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
            self._socket.bind(("eth0", 0))

    def frames(self, first: int, count: int) -> npt.NDArray[np.uint8]:
        """The SYNs of so many sources, one row each, with the sums that their receiver expects."""
        made = np.tile(self._frame, (count, 1))
        number = np.arange(first, first + count, dtype=np.uint32)
        ports = (1024 + number * 7919 % 60000).astype(np.uint32)
        at, l4 = (14 + 12, 14 + 20) if self._version == 4 else (14 + 8 + 12, 14 + 40)
        base = int.from_bytes(self._frame[at : at + 4].tobytes(), "big")
        made[:, at : at + 4] = (number + base).astype(">u4").view(np.uint8).reshape(-1, 4)
        made[:, l4 : l4 + 2] = ports.astype(">u2").view(np.uint8).reshape(-1, 2)
        changed = ((number + base) >> 16) + ((number + base) & 0xFFFF)
        total = changed + ports + np.uint32(self._pseudo) - np.uint32((base >> 16) + (base & 0xFFFF))
        made[:, l4 + 16 : l4 + 18] = _folded(total).astype(">u2").view(np.uint8).reshape(-1, 2)
        if self._version == 4:
            head = self._frame[14:34].astype(np.uint32)
            head[10:16] = 0
            words = head[0::2] * 256 + head[1::2]
            made[:, 24:26] = _folded(changed + np.uint32(words.sum())).astype(">u2").view(np.uint8).reshape(-1, 2)
        return made

    def send(self, count: int, per_s: float = 1e9, first: int = 1) -> None:
        """Send so many, or until it is stopped."""
        began, done = time.monotonic(), 0
        while done < count and not self._stopped.is_set():
            if done > (time.monotonic() - began) * per_s:
                time.sleep(0.002)
                continue
            part = self.frames(first + done, min(_BATCH, count - done))
            done += len(part)
            self._send(part)
            self.sent += len(part)

    def close(self) -> None:
        """No more."""
        self._socket.close()

    def _send(self, part: npt.NDArray[np.uint8]) -> None:
        vectors = (ctypes.c_size_t * (2 * len(part)))()
        messages = (Message * len(part))()
        for row in range(len(part)):
            vectors[2 * row], vectors[2 * row + 1] = part.ctypes.data + row * part.shape[1], part.shape[1]
            messages[row].vectors, messages[row].vector_count = ctypes.addressof(vectors) + 16 * row, 1
        at = 0
        while at < len(part):
            here = ctypes.byref(messages, at * ctypes.sizeof(Message))
            sent = _libc.sendmmsg(self._socket.fileno(), here, len(part) - at, 0)
            if sent < 0:  # its own device's queue is full
                time.sleep(0.001)
                continue
            at += sent

    @contextlib.contextmanager
    def running(self, count: int, per_s: float) -> Iterator["Flood"]:
        """Meanwhile it sends; it has begun when this begins."""
        sender = threading.Thread(target=self.send, args=(count, per_s))
        sender.start()
        try:
            while self.sent < 2 * _BATCH:
                time.sleep(0.005)
            yield self
        finally:
            self._stopped.set()
            sender.join()
            self.close()


def segment(
    source: tuple[str, str, int],
    to: tuple[str, str, int],
    *,
    flags: int,
    number: int,
    acknowledged: int = 0,
    hops: int = 64,
) -> bytes:
    """A frame with a bare TCP header, sums right; an end is MAC, address, port."""
    head = struct.pack("!HHII", source[2], to[2], number & 0xFFFFFFFF, acknowledged)
    pseudo = ip_address(source[1]).packed + ip_address(to[1]).packed + b"\0\6\0\24"
    rest = struct.pack("!BBH", 0x50, flags, 1024)
    total = np.array([_sum(pseudo + head + rest)], np.uint32)
    made = head + rest + struct.pack("!HH", int(_folded(total)[0]), 0)
    if ":" not in source[1]:
        packet = bytearray(ipv4(source[1], to[1], 6, made))
        packet[8], packet[10:12] = hops, bytes(2)
        packet[10:12] = int(_folded(np.array([_sum(bytes(packet[:20]))], np.uint32))[0]).to_bytes(2, "big")
        return ethernet(source[0], to[0], 0x0800, bytes(packet))
    packet = bytearray(ipv6(source[1], to[1], 6, made))
    packet[7] = hops
    return ethernet(source[0], to[0], 0x86DD, bytes(packet))


def _sum(data: bytes) -> int:
    return sum(struct.unpack(f"!{len(data) // 2}H", data))


def _folded(total: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    for _ in range(2):
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
