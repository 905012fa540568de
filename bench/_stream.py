"""What a guest sends: small datagrams in batches, or one TCP stream. Standard library only, since real guests run it.

``_stream.py udp|tcp ADDRESS SECONDS`` sends for so long, ``_stream.py sink`` takes for ever what the others send.
"""

import ctypes
import select
import socket
import struct
import sys
import time

PACKET = b"x" * 18
BATCH = 256
PORT = 9
_WHOLE = 1 << 20


class Message(ctypes.Structure):
    """``struct mmsghdr`` (sendmmsg(2))."""

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


def send_udp(address: str, seconds: float) -> float:
    """Datagrams of 18 octets as fast as it goes; the seconds that it took."""
    libc = ctypes.CDLL(None, use_errno=True)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.connect((address, PORT))
        data = ctypes.create_string_buffer(PACKET, len(PACKET))
        vector = (ctypes.c_size_t * 2)(ctypes.addressof(data), len(PACKET))
        messages = (Message * BATCH)(*(Message(vectors=ctypes.addressof(vector), vector_count=1) for _ in range(BATCH)))
        descriptor, began = sender.fileno(), time.perf_counter()
        while time.perf_counter() - began < seconds:
            libc.sendmmsg(descriptor, messages, BATCH, 0)
        return time.perf_counter() - began


def send_tcp(address: str, seconds: float) -> float:
    """One TCP stream; the seconds that it took."""
    data = bytes(_WHOLE)
    with socket.create_connection((address, PORT)) as sender:
        began = time.perf_counter()
        while time.perf_counter() - began < seconds:
            sender.sendall(data)
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 5))
    return time.perf_counter() - began


def udp_sink() -> socket.socket:
    """A socket that is never read: what arrives is counted by the device and dropped by the socket."""
    sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sink.bind(("", PORT))
    return sink


def take(server: socket.socket) -> int:
    """Take one TCP stream to its end; its octets."""
    connection, _ = server.accept()
    total, buffer = 0, bytearray(_WHOLE)
    with connection:
        while count := connection.recv_into(buffer):
            total += count
    return total


def main() -> None:
    """Do what the command line says."""
    if sys.argv[1] == "sink":
        datagrams, server = udp_sink(), socket.create_server(("", PORT))
        while datagrams:
            select.select([server], [], [])
            try:
                take(server)
            except OSError:
                continue  # the sender was ended: the next one may come
    kind, address, seconds = sys.argv[1:]
    (send_udp if kind == "udp" else send_tcp)(address, float(seconds))


if __name__ == "__main__":
    main()
