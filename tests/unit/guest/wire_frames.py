"""Frames as they lie on a wire, made by hand."""

import struct
from ipaddress import ip_address

MAC = bytes.fromhex("525400000001")
GROUP = bytes.fromhex("01005e0000fb")


def ethernet(ethertype: int, payload: bytes, *, to: bytes = MAC) -> bytes:
    return to + MAC + struct.pack("!H", ethertype) + payload


def ipv4(source: str, destination: str, protocol: int, payload: bytes, *, fragment: int = 0, length: int = 0) -> bytes:
    total = length or 20 + len(payload)
    header = struct.pack("!BBHHHBBH", 0x45, 0, total, 1, fragment, 64, protocol, 0)
    return ethernet(0x0800, header + ip_address(source).packed + ip_address(destination).packed + payload)


def ipv6(source: str, destination: str, protocol: int, payload: bytes) -> bytes:
    header = struct.pack("!IHBB", 6 << 28, len(payload), protocol, 64)
    return ethernet(0x86DD, header + ip_address(source).packed + ip_address(destination).packed + payload)


def tcp(source: int, destination: int, flags: int) -> bytes:
    return struct.pack("!HHIIBBHHH", source, destination, 1, 1, 5 << 4, flags, 1024, 0, 0)


def udp(source: int, destination: int, content: bytes = b"x") -> bytes:
    return struct.pack("!HHHH", source, destination, 8 + len(content), 0) + content


def icmp(kind: int) -> bytes:
    return struct.pack("!BBHI", kind, 0, 0, 0)


def arp(sender: str, target: str) -> bytes:
    body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + MAC + ip_address(sender).packed + bytes(6)
    return ethernet(0x0806, body + ip_address(target).packed)
