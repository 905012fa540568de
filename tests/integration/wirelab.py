"""A network namespace with real taps on a real bridge, and frames made by hand."""

import contextlib
import ctypes
import fcntl
import json
import os
import select
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import TypeVar

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
_SETTINGS = {
    "ipv6/conf/all/disable_ipv6": "1",
    "ipv6/conf/default/disable_ipv6": "1",
    # Where br_netfilter is loaded it would drop malformed packets before we can see that we do.
    "bridge/bridge-nf-call-iptables": "0",
    "bridge/bridge-nf-call-ip6tables": "0",
    "bridge/bridge-nf-call-arptables": "0",
}


def run(*arguments: str) -> str:
    """Run a program that must succeed."""
    return subprocess.run(arguments, check=True, capture_output=True, text=True).stdout


@contextlib.contextmanager
def namespace(*, ipv6: bool = False) -> Iterator[None]:
    """This thread in a network namespace of its own, which goes with the last thing in it."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    if _libc.unshare(_CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare")
    try:
        for setting, value in _SETTINGS.items():
            if ipv6 and "disable_ipv6" in setting:
                continue
            with contextlib.suppress(FileNotFoundError):
                Path("/proc/sys/net", setting).write_text(value)
        yield
    finally:
        _libc.setns(home, _CLONE_NEWNET)
        os.close(home)


def mac_of(device: str) -> str:
    """The MAC of a device of the host."""
    return str(json.loads(run("ip", "-j", "link", "show", "dev", device))[0]["address"])


class Tap:
    """A tap device; we are the guest behind it."""

    def __init__(self, name: str, mac: str, *, fd: int | None = None) -> None:
        self.name = name
        self.mac = mac
        if fd is None:
            fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", name.encode(), 0x0002 | 0x1000))
        self.fd = fd
        run("ip", "link", "set", name, "up")
        self.ifindex = socket.if_nametoindex(name)

    def send(self, frame: bytes) -> None:
        """The guest sends a frame."""
        os.write(self.fd, frame)

    def received(self, wait_s: float = 0.0) -> list[bytes]:
        """Frames that reached the guest."""
        frames = []
        deadline = time.monotonic() + wait_s
        while True:
            try:
                frames.append(os.read(self.fd, 1 << 17))
            except BlockingIOError:
                left = deadline - time.monotonic()
                if left <= 0 or not select.select([self.fd], [], [], left)[0]:
                    return frames

    def gets(self, wanted: bytes, wait_s: float) -> bool:
        """Whether a frame with these bytes reaches the guest within so long; true as soon as it does."""
        deadline = time.monotonic() + wait_s
        while not any(wanted in frame for frame in self.received()):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.fd], [], [], left)[0]:
                return False
        return True

    def close(self) -> None:
        """The device goes."""
        os.close(self.fd)


T = TypeVar("T", bound=Tap)


class Segment:
    """A bridge and its taps."""

    def __init__(self, bridge: str) -> None:
        self.bridge = bridge
        self.taps: dict[str, Tap] = {}
        run("ip", "link", "add", bridge, "type", "bridge", "mcast_snooping", "0")
        run("ip", "link", "set", bridge, "up")

    def tap(self, name: str, mac: str) -> Tap:
        """A new tap on the bridge."""
        return self.join(Tap(name, mac))

    def join(self, tap: T) -> T:
        """Put a tap on the bridge."""
        name = tap.name
        run("ip", "link", "set", name, "master", self.bridge)
        deadline = time.monotonic() + 5
        while "state forwarding" not in run("bridge", "-d", "link", "show", "dev", name):
            if time.monotonic() > deadline:
                raise AssertionError(f"{name} does not forward")
            time.sleep(0.01)
        self.taps[name] = tap
        return tap


def mac_bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def ethernet(source: str, destination: str, ethertype: int, payload: bytes) -> bytes:
    return (mac_bytes(destination) + mac_bytes(source) + struct.pack("!H", ethertype) + payload).ljust(60, b"\0")


def ipv4(source: str, destination: str, protocol: int, payload: bytes, *, fragment: int = 0) -> bytes:
    head = struct.pack(
        "!BBHHHBBH4s4s",
        0x45,
        0,
        20 + len(payload),
        1,
        fragment,
        64,
        protocol,
        0,
        ip_address(source).packed,
        ip_address(destination).packed,
    )
    return head[:10] + struct.pack("!H", ~checksum(head) & 0xFFFF) + head[12:] + payload


def ipv6(source: str, destination: str, next_header: int, payload: bytes) -> bytes:
    return (
        struct.pack("!IHBB", 6 << 28, len(payload), next_header, 255)
        + ip_address(source).packed
        + ip_address(destination).packed
        + payload
    )


def tcp(source_port: int, destination_port: int, flags: int) -> bytes:
    return struct.pack("!HHIIBBHHH", source_port, destination_port, 1, 0, 0x50, flags, 1024, 0, 0)


def udp(source_port: int, destination_port: int, payload: bytes = b"x" * 18) -> bytes:
    return struct.pack("!HHHH", source_port, destination_port, 8 + len(payload), 0) + payload


def icmp(kind: int) -> bytes:
    return struct.pack("!BBHI", kind, 0, 0, 0) + b"\0" * 24


def arp(operation: int, sender_mac: str, sender: str, target: str) -> bytes:
    return (
        struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation)
        + mac_bytes(sender_mac)
        + ip_address(sender).packed
        + b"\0" * 6
        + ip_address(target).packed
    )


def announcement(mac: str, *, operation: int = 3, of: str | None = None, address: str = "0.0.0.0") -> bytes:
    """What a hypervisor tells switches when a VM comes from another host (RFC 903, as QEMU writes it)."""
    told = mac_bytes(of or mac) + ip_address(address).packed
    return struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation) + mac_bytes(mac) + bytes(4) + told


def checksum(data: bytes) -> int:
    """The Internet checksum's sum, not yet inverted."""
    total: int = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def pseudo(source: str, destination: str, protocol: int, length: int) -> bytes:
    """What a transport's checksum covers of the addresses."""
    ends = ip_address(source).packed + ip_address(destination).packed
    return ends + (struct.pack("!BBH", 0, protocol, length) if len(ends) == 8 else struct.pack("!II", length, protocol))


def icmp6(source: str, destination: str, body: bytes) -> tuple[str, str, int, bytes]:
    """What ``ipv6`` takes: an ICMPv6 message with its checksum."""
    total = checksum(pseudo(source, destination, 58, len(body)) + body)
    return source, destination, 58, body[:2] + struct.pack("!H", ~total & 0xFFFF) + body[4:]
