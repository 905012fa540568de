"""A network as a guest sees it: plays frames that it is given, watches what arrives, asks and answers.

Standard library only. What is watched or counted is told in a file, rewritten a few times a second, to be read then.
"""

import argparse
import collections
import json
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TAG = b"\xabHVMX"  # then one octet: the number of the attack that a frame belongs to
ALL = 0x0003
ETHERTYPES = (0x0800, 0x0806, 0x86DD, 0x88B5, 0x88CC, 0x888E, 0x8863, 0x8100, 0x88A8, 0x0004)
TOLD_EVERY_S = 0.1
PATIENCE_S = 3.0


def now() -> float:
    """Seconds on a clock that runs on through suspension."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def told(path: str, what: Any) -> None:
    """Tell it in a file, whole or not at all."""
    fresh = Path(path + ".new")
    fresh.write_text(json.dumps(what))
    fresh.rename(path)


def wire(interface: str, protocol: int = 0) -> socket.socket:
    """A socket for whole frames; without a protocol it only sends."""
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    opened.bind((interface, protocol))
    return opened


# --- frames ---
def play(options: argparse.Namespace) -> None:
    """Send frames, ``--times`` over and ``--rate`` a second; or ``--macs`` of one frame, each from another MAC."""
    sending = wire(options.interface)
    frames = [bytes.fromhex(word) for word in options.frames]
    if options.macs:
        first = frames[0]
        frames = [first[:6] + b"\x0e\0\0\0" + struct.pack("!H", n) + first[12:] for n in range(options.macs)]
    began = now()
    sent = 0
    while options.seconds == 0 or now() < began + options.seconds:
        if options.seconds == 0 and sent == options.times * len(frames):
            break
        try:
            sending.send(frames[sent % len(frames)])
            sent += 1
        except OSError:
            time.sleep(0.01)  # the device is down, or its queue full: this one again
            continue
        if options.rate:
            time.sleep(max(0.0, began + sent / options.rate - now()))
    print(json.dumps({"sent": sent}), flush=True)


def watch(options: argparse.Namespace) -> None:
    """Tell which attacks' frames arrive and how often, and how many unicast frames that are for somebody else.

    With ``--kept`` only of what the host's hooks let pass: as a protocol's receiver, not as a listener at the device.
    """
    sockets = [wire(options.interface, protocol) for protocol in (ETHERTYPES if options.kept else (ALL,))]
    for one in sockets:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        if not options.kept:
            index = socket.if_nametoindex(options.interface)
            one.setsockopt(263, 1, struct.pack("IHH8s", index, 1, 0, b""))  # SOL_PACKET, ADD_MEMBERSHIP: promiscuous
        one.setblocking(False)
    seen: collections.Counter[int] = collections.Counter()
    foreign = 0
    due = 0.0
    while True:
        for one in select.select(sockets, [], [], TOLD_EVERY_S)[0]:
            for _ in range(64):
                try:
                    frame, (_, _, kind, _, _) = one.recvfrom(2048)
                except BlockingIOError:
                    break
                if kind == socket.PACKET_OUTGOING:
                    continue
                foreign += kind == socket.PACKET_OTHERHOST and not frame[0] & 1
                at = frame.find(TAG)
                if at >= 0 and at + len(TAG) < len(frame):
                    seen[frame[at + len(TAG)]] += 1
        if now() >= due:
            told(options.file, {"seen": seen, "foreign": foreign})
            due = now() + TOLD_EVERY_S


# --- what honest guests do ---
def say(options: argparse.Namespace) -> None:
    """Send datagrams with a tag, whoever listens."""
    family = socket.AF_INET6 if ":" in options.address else socket.AF_INET
    speaking = socket.socket(family, socket.SOCK_DGRAM)
    for number in range(options.times):
        if number:
            time.sleep(1.0 / options.rate)
        try:
            speaking.sendto(TAG + bytes([options.tag]), (options.address, options.port))
        except OSError:
            pass  # its neighbour does not answer


def serve(options: argparse.Namespace) -> None:
    """Answer datagrams and connections on ports with what they bring, also at addresses that are not there yet."""
    datagrams: list[socket.socket] = []
    listening: list[socket.socket] = []
    for address in options.address or ["::"]:
        for port in options.ports:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            for kind, those in ((socket.SOCK_DGRAM, datagrams), (socket.SOCK_STREAM, listening)):
                one = socket.socket(family, kind)
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                one.setsockopt(socket.SOL_IP, 15, 1)  # IP_FREEBIND
                one.bind((address, port))
                one.setblocking(False)
                those.append(one)
    for one in listening:
        one.listen(64)
    opened = [*datagrams, *listening]
    while True:
        for one in select.select(opened, [], [])[0]:
            try:
                if one in datagrams:
                    data, sender = one.recvfrom(2048)
                    one.sendto(data, sender)
                elif one in listening:
                    opened.append(one.accept()[0])
                else:
                    data = one.recv(2048)
                    if data:
                        one.send(data)
                    else:
                        opened.remove(one)
                        one.close()
            except OSError:
                if one not in (*datagrams, *listening):
                    opened.remove(one)
                    one.close()


def udp(address: str, port: int, patience_s: float) -> bool:
    """Whether a datagram is answered."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(patience_s)
        asking.connect((address, port))
        word = os.urandom(8)
        asking.send(word)
        return asking.recv(64) == word


def tcp(address: str, port: int, patience_s: float) -> bool:
    """Whether a connection comes about and is answered."""
    with socket.create_connection((address, port), patience_s) as asking:
        asking.sendall(b"word")
        return asking.recv(64) == b"word"


def icmp(address: str, _: int, patience_s: float) -> bool:
    """Whether an echo comes back."""
    six = ":" in address
    family, protocol, asks, answers = (socket.AF_INET6, 58, 128, 129) if six else (socket.AF_INET, 1, 8, 0)
    with socket.socket(family, socket.SOCK_RAW, protocol) as asking:
        word = os.urandom(8)
        body = struct.pack("!BBHHH", asks, 0, 0, 1, 1) + word
        total = sum(struct.unpack("!8H", body))
        total = (total & 0xFFFF) + (total >> 16)
        body = body[:2] + struct.pack("!H", ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF) + body[4:]
        asking.sendto(body, (address, 0))
        return heard(asking, patience_s, lambda packet: packet.endswith(word) and packet[0 if six else 20] == answers)


def arp(address: str, _: int, patience_s: float) -> bool:
    """Whether a question for its MAC is answered."""
    with wire("eth0", 0x0806) as asking:
        mac = asking.getsockname()[4]
        mine, its = socket.inet_aton(own_address()), socket.inet_aton(address)
        question = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + mac + mine + bytes(6) + its
        asking.send(b"\xff" * 6 + mac + b"\x08\x06" + question.ljust(46, b"\0"))
        return heard(
            asking, patience_s, lambda frame: frame[:6] == mac and frame[20:22] == b"\0\2" and frame[28:32] == its
        )


def nd(address: str, _: int, patience_s: float) -> bool:
    """Whether a neighbour solicitation is answered."""
    its = socket.inet_pton(socket.AF_INET6, address)
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW, 58) as asking, wire("eth0") as device:
        mac = device.getsockname()[4]
        asking.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        asking.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
        group = socket.inet_ntop(socket.AF_INET6, bytes.fromhex("ff0200000000000000000001ff") + its[13:])
        asking.sendto(struct.pack("!BBHI", 135, 0, 0, 0) + its + b"\1\1" + mac, (group, 0))
        return heard(asking, patience_s, lambda packet: packet[0] == 136 and packet[8:24] == its)


def heard(asking: socket.socket, patience_s: float, fits: Callable[[bytes], bool]) -> bool:
    """Whether something that fits arrives in time."""
    end = now() + patience_s
    while (left := end - now()) > 0:
        asking.settimeout(left)
        if fits(asking.recv(2048)):
            return True
    return False


def own_address() -> str:
    """The address that the guest speaks from."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        any_socket.connect(("198.51.100.1", 9))  # sends nothing
        return str(any_socket.getsockname()[0])


ASKED: dict[str, Callable[[str, int, float], bool]] = {"tcp": tcp, "udp": udp, "icmp": icmp, "arp": arp, "nd": nd}


def reach(options: argparse.Namespace) -> None:
    """Ask each of ``SERVICE/ADDRESS/PORT`` at the same time, and tell how often each was asked and answered.

    Without ``--seconds`` each is asked until it answers, ``--times`` at most; with it, again and again for so long.
    With ``--refusals`` a word that nobody listens there is an answer too.
    """
    results: dict[str, list[int]] = {}
    end = now() + options.seconds

    def keep_asking(word: str) -> None:
        service, address, port = word.split("/")
        counts = results[word] = [0, 0]
        while now() < end if options.seconds else counts[0] < options.times and not counts[1]:
            began = now()
            counts[0] += 1
            try:
                counts[1] += ASKED[service](address, int(port), options.patience)
            except ConnectionRefusedError:
                counts[1] += options.refusals
            except OSError:
                pass  # nobody answers
            if options.seconds:
                time.sleep(max(0.0, began + 1.0 / options.rate - now()))

    threads = [threading.Thread(target=keep_asking, args=(word,)) for word in options.asked]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps(results), flush=True)


# --- numbered datagrams ---
def stream(options: argparse.Namespace) -> None:
    """Send numbered datagrams to each of several ports, up to ``--rate`` a second; how many of each at the end."""
    sending = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    ports = [int(port) for port in options.ports.split(",")]
    began = now()
    number = 0
    while now() < began + options.seconds:
        for port in ports:
            try:
                sending.sendto(struct.pack("!I", number), (options.address, port))
            except OSError:
                pass  # an answer says that it is denied
        number += 1
        time.sleep(max(0.0, began + number / options.rate - now()))
    print(json.dumps({"sent": number, "seconds": now() - began}), flush=True)


def count(options: argparse.Namespace) -> None:
    """Count the different numbers that arrive at each of several ports."""
    ports = [int(port) for port in options.ports.split(",")]
    sockets = {}
    for port in ports:
        one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        one.bind(("", port))
        one.setblocking(False)
        sockets[one] = set[bytes]()
    due = 0.0
    while True:
        for ready in select.select(list(sockets), [], [], TOLD_EVERY_S)[0]:
            for _ in range(64):
                try:
                    sockets[ready].add(ready.recv(64))
                except OSError:
                    break
        if now() >= due:
            told(options.file, {str(port): len(seen) for port, seen in zip(ports, sockets.values(), strict=True)})
            due = now() + TOLD_EVERY_S


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="hv-wire", description="Frames and answers.")
    kinds = parser.add_subparsers(dest="kind", required=True)
    done = {
        f.__name__: kinds.add_parser(f.__name__, help=f.__doc__)
        for f in (play, watch, say, serve, reach, stream, count)
    }
    for name in ("play", "watch"):
        done[name].add_argument("--interface", default="eth0")
    done["play"].add_argument("frames", nargs="+", help="hexadecimal")
    done["play"].add_argument("--macs", type=int, default=0)
    done["watch"].add_argument("--kept", action="store_true")
    done["say"].add_argument("--tag", type=int, required=True)
    for name in ("watch", "count"):
        done[name].add_argument("file")
    for name in ("say", "stream"):
        done[name].add_argument("address")
    done["say"].add_argument("port", type=int)
    done["serve"].add_argument("ports", type=int, nargs="+")
    done["serve"].add_argument("--address", action="append", help="default: all of them")
    done["reach"].add_argument("--refusals", action="store_true")
    for name in ("stream", "count"):
        done[name].add_argument("ports", help="PORT,PORT…")
    done["reach"].add_argument("asked", nargs="+")
    done["reach"].add_argument("--patience", type=float, default=PATIENCE_S, help="seconds that an answer may take")
    for name, times, rate in (("play", 1, 0.0), ("say", 1, 50.0), ("reach", 2, 5.0), ("stream", 1, 1000.0)):
        done[name].add_argument("--times", type=int, default=times)
        done[name].add_argument("--rate", type=float, default=rate, help="a second")
        done[name].add_argument("--seconds", type=float, default=0.0)
    options = parser.parse_args()
    {f.__name__: f for f in (play, watch, say, serve, reach, stream, count)}[options.kind](options)


if __name__ == "__main__":
    main()
