"""Two guests behind one bridge, each in a network namespace of its own, and how much gets through between them."""

import contextlib
import ctypes
import os
import secrets
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hypervigil.model.ids import PortId
from tests.integration.wirelab import run

PACKET = b"x" * 18
BATCH = 256
PORT = 9
MACS = (PortId("52:54:00:be:00:01"), PortId("52:54:00:be:00:02"))
ADDRESSES = ("198.51.100.1", "198.51.100.2")
BRIDGE = "hvbr"


class _Message(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("vectors", ctypes.c_void_p),
        ("vector_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_uint64),
        ("sent", ctypes.c_uint64),
    ]


@dataclass(frozen=True, slots=True)
class Guest:
    """A namespace and the host's end of its link."""

    namespace: str
    device: str
    ifindex: int


@contextlib.contextmanager
def segment() -> Iterator[tuple[Guest, Guest]]:
    """A bridge with two guests, in the network namespace of the caller."""
    tag = secrets.token_hex(3)
    run("ip", "link", "add", BRIDGE, "type", "bridge", "mcast_snooping", "0")
    run("ip", "link", "set", BRIDGE, "up")
    guests = []
    try:
        for number, (mac, address) in enumerate(zip(MACS, ADDRESSES, strict=True)):
            name, device = f"hvb-{tag}-{number}", f"hvp{number}"
            run("ip", "netns", "add", name)
            guests.append(Guest(name, device, 0))
            run("ip", "link", "add", device, "type", "veth", "peer", "name", "eth0", "netns", name)
            run("ip", "link", "set", device, "master", BRIDGE, "up")
            run("ip", "-n", name, "link", "set", "eth0", "address", mac, "up")
            run("ip", "-n", name, "link", "set", "lo", "up")
            run("ip", "-n", name, "address", "add", f"{address}/24", "dev", "eth0")
            other = 1 - number
            run("ip", "-n", name, "neigh", "add", ADDRESSES[other], "lladdr", MACS[other], "dev", "eth0")
            guests[-1] = Guest(name, device, socket.if_nametoindex(device))
        time.sleep(0.5)
        yield guests[0], guests[1]
    finally:
        for guest in guests:
            subprocess.run(["ip", "netns", "del", guest.namespace], check=False, capture_output=True)
        subprocess.run(["ip", "link", "del", BRIDGE], check=False, capture_output=True)


class Traffic:
    """Senders and receivers in the guests' namespaces, started once and told when to run."""

    def __init__(self, sender: Guest, receiver: Guest) -> None:
        self._children = [
            subprocess.Popen(
                ["ip", "netns", "exec", guest.namespace, sys.executable, "-m", "bench._segment", role],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for role, guest in (("udp-sink", receiver), ("tcp-sink", receiver), ("source", sender))
        ]
        for child in self._children:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"

    def packets_per_s(self, seconds: float) -> float:
        """Small packets that arrived."""
        before = self._ask(0, "count")
        took = self._ask(2, f"udp {seconds}")
        return (self._ask(0, "count") - before) / took

    def bits_per_s(self, seconds: float) -> float:
        """TCP octets that arrived, in one stream, as bits."""
        took = self._ask(2, f"tcp {seconds}")
        return self._ask(1, "count") * 8 / took

    def _ask(self, child: int, order: str) -> float:
        stdin, stdout = self._children[child].stdin, self._children[child].stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(order + "\n")
        stdin.flush()
        return float(stdout.readline())

    def close(self) -> None:
        """End them."""
        for child in self._children:
            child.send_signal(signal.SIGTERM)
            child.wait(5)


def _received() -> int:
    return int(Path("/sys/class/net/eth0/statistics/rx_packets").read_text(encoding="ascii"))


def _udp_sink() -> None:
    """The socket is never read: what arrives is counted by the device and dropped by the socket."""
    sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sink.bind(("", PORT))
    print("ready", flush=True)
    for _ in sys.stdin:
        line = subprocess.run(["ip", "-s", "-o", "link", "show", "eth0"], check=True, capture_output=True, text=True)
        print(line.stdout.split("RX:")[1].split("\\")[1].split()[1], flush=True)


def _tcp_sink() -> None:
    server = socket.create_server(("", PORT))
    print("ready", flush=True)
    buffer = bytearray(1 << 20)
    for _ in iter(int, 1):
        connection, _ = server.accept()
        total = 0
        while count := connection.recv_into(buffer):
            total += count
        sys.stdin.readline()
        print(total, flush=True)


def _source() -> None:
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    os.nice(-10)
    print("ready", flush=True)
    for line in sys.stdin:
        kind, seconds = line.split()
        print((_send_udp if kind == "udp" else _send_tcp)(float(seconds)), flush=True)


def _send_udp(seconds: float) -> float:
    libc = ctypes.CDLL(None, use_errno=True)
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.connect((ADDRESSES[1], PORT))
    data = ctypes.create_string_buffer(PACKET, len(PACKET))
    vector = (ctypes.c_size_t * 2)(ctypes.addressof(data), len(PACKET))
    messages = (_Message * BATCH)(*(_Message(vectors=ctypes.addressof(vector), vector_count=1) for _ in range(BATCH)))
    descriptor, began = sender.fileno(), time.perf_counter()
    while time.perf_counter() - began < seconds:
        libc.sendmmsg(descriptor, messages, BATCH, 0)
    return time.perf_counter() - began


def _send_tcp(seconds: float) -> float:
    data = bytes(1 << 20)
    with socket.create_connection((ADDRESSES[1], PORT)) as sender:
        began = time.perf_counter()
        while time.perf_counter() - began < seconds:
            sender.sendall(data)
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 5))
    return time.perf_counter() - began


if __name__ == "__main__":
    {"udp-sink": _udp_sink, "tcp-sink": _tcp_sink, "source": _source}[sys.argv[1]]()
