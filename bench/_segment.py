"""Two guests on one bridge, and how much gets through between them: namespaces, or our process behind two taps."""

import contextlib
import fcntl
import json
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
from typing import Protocol

from bench._stream import PACKET, PORT, send_udp, udp_sink
from bench._tcp import CONGESTION, REST, Stream, undisturbed
from hypervigil.model.ids import PortId
from tests.integration.wirelab import ethernet, ipv4, run, tcp, udp

MACS = (PortId("52:54:00:be:00:01"), PortId("52:54:00:be:00:02"))
ADDRESSES = ("198.51.100.1", "198.51.100.2")
BRIDGE = "hvbr"
_SEGMENT, _OCTETS = 1448, 64_000
"""Of what a guest with TSO sends: octets of a packet on the wire, and of one frame."""
_TUNSETIFF, _TUNSETOFFLOAD = 0x400454CA, 0x400454D0
_TAP_WITH_HEADER = 0x0002 | 0x1000 | 0x4000
_CHECKSUM_AND_TSO = 1 | 2 | 4
_QUEUE = 1000
_WRITES = 64
"""Frames between two looks at the clock."""
_DROPPED = 11
"""The column of frames not sent in /proc/net/dev."""


@dataclass(frozen=True, slots=True)
class Guest:
    """One end: its host device, and what it may call itself."""

    device: str
    ifindex: int
    mac: PortId
    address: str
    bridge: str = BRIDGE
    namespace: str = ""


class Traffic(Protocol):
    """From the first guest to the second one."""

    def begin(self, measure: str) -> None:
        """What is asked for next is ``pps``, ``tcp_bps``, or that with both ends on one CPU, ``tcp_one_cpu_bps``."""
        ...

    def packets_per_s(self, seconds: float) -> float:
        """Small packets that arrived."""
        ...

    def bits_per_s(self, seconds: float) -> float:
        """TCP octets that arrived, as bits."""
        ...


@dataclass(frozen=True, slots=True)
class Segment:
    """Two guests and what runs between them."""

    guests: tuple[Guest, Guest]
    traffic: Traffic


@contextlib.contextmanager
def _bridge() -> Iterator[None]:
    run("ip", "link", "add", BRIDGE, "type", "bridge", "mcast_snooping", "0")
    run("ip", "link", "set", BRIDGE, "up")
    try:
        yield
    finally:
        subprocess.run(["ip", "link", "del", BRIDGE], check=False, capture_output=True)


def _await_forwarding(device: str) -> None:
    deadline = time.monotonic() + 5
    while "state forwarding" not in run("bridge", "-d", "link", "show", "dev", device):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{device} does not forward")
        time.sleep(0.01)


# --- namespaces -------------------------------------------------------------------------------------------------------
@contextlib.contextmanager
def veths(congestion: str = CONGESTION) -> Iterator[Segment]:
    """A bridge with two namespaces as guests, in the network namespace of the caller."""
    tag, names = secrets.token_hex(3), []
    with _bridge(), contextlib.ExitStack() as stack:
        for number, (mac, address) in enumerate(zip(MACS, ADDRESSES, strict=True)):
            name, device, other = f"hvb-{tag}-{number}", f"hvp{number}", 1 - number
            run("ip", "netns", "add", name)
            stack.callback(subprocess.run, ["ip", "netns", "del", name], check=False, capture_output=True)
            names.append(name)
            run("ip", "link", "add", device, "type", "veth", "peer", "name", "eth0", "netns", name)
            run("ip", "link", "set", device, "master", BRIDGE, "up")
            run("ip", "-n", name, "link", "set", "eth0", "address", mac, "up")
            run("ip", "-n", name, "link", "set", "lo", "up")
            run("ip", "-n", name, "address", "add", f"{address}/24", "dev", "eth0")
            run("ip", "-n", name, "neigh", "add", ADDRESSES[other], "lladdr", MACS[other], "dev", "eth0")
            _await_forwarding(device)
        one, other_one = (
            Guest(f"hvp{n}", socket.if_nametoindex(f"hvp{n}"), MACS[n], ADDRESSES[n], namespace=names[n])
            for n in (0, 1)
        )
        traffic = _BetweenNamespaces(one, other_one, congestion)
        stack.callback(traffic.close)
        yield Segment((one, other_one), traffic)


class _BetweenNamespaces:
    """Senders and receivers in the guests' namespaces, started once and told when to run."""

    def __init__(self, sender: Guest, receiver: Guest, congestion: str) -> None:
        self._children = [
            subprocess.Popen(
                ["ip", "netns", "exec", guest.namespace, sys.executable, "-m", "bench._segment", role],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for role, guest in (("sink", receiver), ("source", sender))
        ]
        for child in self._children:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
        self._ends = (sender.namespace, receiver.namespace, receiver.address)
        self._congestion = congestion
        self._stream: Stream | None = None

    def begin(self, measure: str) -> None:
        """See ``Traffic``; each measure has a stream of its own, since one remembers what it met."""
        self._hang_up()
        if measure != "pps":
            self._stream = Stream(*self._ends, self._congestion, one_cpu=measure == "tcp_one_cpu_bps")

    def packets_per_s(self, seconds: float) -> float:
        """See ``Traffic``; by the receiving device."""
        before = self._ask(0, "count")
        took = self._ask(1, str(seconds))
        return (self._ask(0, "count") - before) / took

    def bits_per_s(self, seconds: float) -> float:
        """See ``Traffic``; one stream, by its receiver."""
        assert self._stream is not None, "begin() was not asked for TCP"
        return self._stream.bits_per_s(seconds)

    def _ask(self, child: int, order: str) -> float:
        stdin, stdout = self._children[child].stdin, self._children[child].stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(order + "\n")
        stdin.flush()
        return float(stdout.readline())

    def _hang_up(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def close(self) -> None:
        """End them."""
        self._hang_up()
        for child in self._children:
            with child:
                child.send_signal(signal.SIGTERM)


def _count_datagrams() -> None:
    with udp_sink():
        print("ready", flush=True)
        for _ in sys.stdin:
            (eth0,) = json.loads(run("ip", "-j", "-s", "link", "show", "eth0"))
            print(eth0["stats64"]["rx"]["packets"], flush=True)


def _send() -> None:
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    print("ready", flush=True)
    for line in sys.stdin:
        with undisturbed():
            took = send_udp(ADDRESSES[1], float(line))
        print(took, flush=True)
        time.sleep(took * REST)


# --- taps -------------------------------------------------------------------------------------------------------------
@contextlib.contextmanager
def taps() -> Iterator[Segment]:
    """A bridge with two taps and our process behind both, in the network namespace of the caller."""
    with _bridge(), contextlib.ExitStack() as stack:
        descriptors, guests = [], []
        for number, (mac, address) in enumerate(zip(MACS, ADDRESSES, strict=True)):
            device = f"hvp{number}"
            descriptors.append(_open_tap(device))
            stack.callback(os.close, descriptors[-1])
            run("ip", "link", "set", device, "txqueuelen", str(_QUEUE), "master", BRIDGE, "up")
            _await_forwarding(device)
            guests.append(Guest(device, socket.if_nametoindex(device), mac, address))
        # The bridge must know where both are, and the queue that nobody reads be full: then all that comes is counted.
        for descriptor, forth in zip(descriptors[::-1], (False, True), strict=True):
            frame = ethernet(*(MACS if forth else MACS[::-1]), 0x0800, _packet(forth=forth))
            for _ in range(_QUEUE + 1 if forth else 1):
                os.write(descriptor, bytes(10) + frame)
        affinity = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {max(affinity)})
        stack.callback(os.sched_setaffinity, 0, affinity)
        yield Segment((guests[0], guests[1]), _BetweenTaps(descriptors[0], guests[1].device))


def _open_tap(device: str) -> int:
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", device.encode(), _TAP_WITH_HEADER))
    fcntl.ioctl(descriptor, _TUNSETOFFLOAD, _CHECKSUM_AND_TSO)
    return descriptor


def _packet(*, forth: bool) -> bytes:
    return ipv4(*(ADDRESSES if forth else ADDRESSES[::-1]), 17, udp(40000, PORT, PACKET))


class _BetweenTaps:
    """Frames as a guest's driver hands them over, a write for each: what arrived is what came to the other tap's queue.

    Nobody reads that queue, as nobody reads the socket between namespaces, so what is measured is the sender's way: the
    copy of the frame, the bridge, and what protects. TCP is a guest's with TSO, in frames of 64,000 octets, that waits
    for no acknowledgement.
    """

    def __init__(self, descriptor: int, device: str) -> None:
        self._descriptor = descriptor
        self._device = device
        header = struct.pack("=BBHHHH", 1, 0, 0, 0, 34, 6)  # a datagram whose checksum the card is to reckon
        self._small = header + ethernet(*MACS, 0x0800, _packet(forth=True))
        header = struct.pack("=BBHHHH", 1, 1, 54, _SEGMENT, 34, 16)  # TCP over IPv4, to be cut into packets
        payload = tcp(40000, PORT, 0x10) + bytes(_OCTETS)
        self._large = header + ethernet(*MACS, 0x0800, ipv4(*ADDRESSES, 6, payload))

    def begin(self, measure: str) -> None:
        """Both are ready from the start."""

    def packets_per_s(self, seconds: float) -> float:
        """See ``Traffic``."""
        return self._frames_per_s(self._small, seconds)

    def bits_per_s(self, seconds: float) -> float:
        """See ``Traffic``."""
        return self._frames_per_s(self._large, seconds) * _OCTETS * 8

    def _frames_per_s(self, frame: bytes, seconds: float) -> float:
        write, descriptor, clock = os.write, self._descriptor, time.perf_counter
        before, began = self._arrived(), clock()
        with undisturbed():
            while clock() - began < seconds:
                for _ in range(_WRITES):
                    write(descriptor, frame)
            took = clock() - began
        arrived = self._arrived()
        time.sleep(took * REST)
        return (arrived - before) / took

    def _arrived(self) -> int:
        """Frames that came to the tap since its queue is full."""
        for line in Path("/proc/thread-self/net/dev").read_text(encoding="ascii").splitlines():
            device, _, counts = line.strip().partition(":")
            if device == self._device:
                return int(counts.split()[_DROPPED])
        raise RuntimeError(f"{self._device} is gone")


if __name__ == "__main__":
    {"sink": _count_datagrams, "source": _send}[sys.argv[1]]()
