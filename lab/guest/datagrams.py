"""Datagrams as honest services use them: asked and answered one by one, or a stream with a report now and then.

Standard library only; one thread, so that it also keeps its pace in guests under slow emulation.
"""

import argparse
import json
import select
import socket
import time

TOS = 0x04  # marks ordinary work, as in work.py
SOCKETS = 8  # ports that one who asks takes in turn
BATCH = 64


def now() -> float:
    """Seconds since boot, running on through suspension."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def marked() -> socket.socket:
    """A UDP socket whose packets carry the mark of ordinary work."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, TOS)
    sock.setblocking(False)
    return sock


def serve(options: argparse.Namespace) -> None:
    """Answer each datagram, or one of them so many times a second; for ever or so long."""
    sock = marked()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("", options.port))
    answer = bytes(options.size)
    end = now() + options.seconds if options.seconds else float("inf")
    due = 0.0
    while now() < end:
        select.select([sock], [], [], 1.0)
        for _ in range(BATCH):
            try:
                _, sender = sock.recvfrom(2048)
                if not options.reports:
                    sock.sendto(answer, sender)
                elif now() >= due:
                    sock.sendto(answer, sender)
                    due = now() + 1.0 / options.reports
            except OSError:
                break


def send(options: argparse.Namespace) -> None:
    """Send at a fixed rate whatever the answers do (open loop); tell at the end how many came."""
    socks = [marked() for _ in range(options.sockets)]
    for sock in socks:
        sock.connect((options.address, options.port))
    payload = bytes(options.size)
    end = now() + options.seconds if options.seconds else float("inf")
    sent = answered = 0
    due = now()
    while now() < end:
        while due <= now():
            try:
                socks[sent % len(socks)].send(payload)
            except OSError:
                pass  # refused or no room: the next one may pass
            sent += 1
            due += 1.0 / options.rate
        ready, _, _ = select.select(socks, [], [], max(0.0, min(due, end) - now()))
        answered += sum(map(_drain, ready))
    time.sleep(0.2)
    answered += sum(map(_drain, socks))
    print(json.dumps({"sent": sent, "answered": answered}), flush=True)


def _drain(sock: socket.socket) -> int:
    count = 0
    try:
        while count < BATCH:
            sock.recv(2048)
            count += 1
    except OSError:
        pass
    return count


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="hv-udp", description="Honest datagrams.")
    kinds = parser.add_subparsers(dest="kind", required=True)
    serving = kinds.add_parser("serve", help="answer datagrams")
    serving.add_argument("--reports", type=float, help="answer only so often a second, as who receives a stream does")
    asking = kinds.add_parser("send", help="send datagrams and count the answers")
    asking.add_argument("address")
    asking.add_argument("--rate", type=float, default=10.0, help="datagrams a second")
    asking.add_argument("--sockets", type=int, default=SOCKETS, help="from so many ports in turn; a stream has one")
    for kind in (serving, asking):
        kind.add_argument("--port", type=int, default=7)
        kind.add_argument("--seconds", type=float, default=0.0, help="0: for ever")
        kind.add_argument("--size", type=int, default=100)
    options = parser.parse_args()
    {"serve": serve, "send": send}[options.kind](options)


if __name__ == "__main__":
    main()
