"""What the agent costs a guest, beside other agents of Debian's in the same run. As root.

``python -m bench.agent [--seconds N] [--out FILE]``. The others are unpacked below ``build``, not installed, and run in
the foreground with settings of their own; each is asked, or writes, once a second, as the agent reports.
"""

import argparse
import json
import os
import platform
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

import hypervigil
from hypervigil.guest.vsem.usual import JUDGED
from hypervigil.model.guest import GuestMetric
from hypervigil.wire import guest
from tests.integration.wirelab import Tap, ethernet, ipv4, namespace, run, udp

AGENT = Path(hypervigil.__file__).parent / "guest" / "hypervigil-agent"
PACKAGES = ("qemu-guest-agent", "collectd-core", "zabbix-agent2", "prometheus-node-exporter")
WINDOW_S = 10
SETTLE_S = 5
PACKETS_PER_S = 10_000
PATIENCE_S = 20.0
_DUTY_S = 0.002

LEVEL_1, LEVEL_1_BUSY, LEVEL_2 = "hypervigil, level 1", "hypervigil, level 1, busy", "hypervigil, level 2, busy"
PROMISED: dict[str, dict[str, float]] = {
    LEVEL_1: {"rss_kib": 10 * 1024, "cpu_percent": 0.15, "bytes_per_s": 1000},
    LEVEL_1_BUSY: {"bytes_per_s": 1000},
    LEVEL_2: {"cpu_percent": 2.0, "bytes_per_s": 20_000},
}


@dataclass(frozen=True, slots=True)
class Row:
    """What one agent costs."""

    agent: str
    rss_kib: int
    pss_kib: int
    cpu_percent: float
    bytes_per_s: int


def tree(pid: int) -> list[int]:
    """A process and all that it started."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text(encoding="ascii").split():
            found += tree(int(child))
    return found


def cpu_s(pids: list[int]) -> float:
    """Processor time that all threads of these have used."""
    total = 0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                total += int((task / "schedstat").read_text(encoding="ascii").split()[0])
    return total / 1e9


def memory_kib(pids: list[int]) -> tuple[int, int]:
    """Resident and proportional size."""
    sizes = {"Rss:": 0, "Pss:": 0}
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
            name, *rest = line.split()
            if name in sizes:
                sizes[name] += int(rest[0])
    return sizes["Rss:"], sizes["Pss:"]


def measure(name: str, pid: int, seconds: int, each_second: Callable[[], int]) -> Row:
    """Median of windows; ``each_second`` does what makes it work and says how many octets came."""
    for _ in range(SETTLE_S):
        each_second()
        time.sleep(1)
    shares, rates = [], []
    for _ in range(max(1, seconds // WINDOW_S)):
        began, used, octets = time.monotonic(), cpu_s(tree(pid)), 0
        for second in range(WINDOW_S):
            octets += each_second()
            time.sleep(max(0.0, began + second + 1 - time.monotonic()))
        took = time.monotonic() - began
        shares.append(100 * (cpu_s(tree(pid)) - used) / took)
        rates.append(octets / took)
    return Row(name, *memory_kib(tree(pid)), round(statistics.median(shares), 3), round(statistics.median(rates)))


@contextmanager
def running(argv: list[str], log: Path, env: dict[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A program in the foreground, ended by its own pid."""
    with log.open("wb") as output:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=env)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def until(condition: Callable[[], object], what: str, log: Path) -> None:
    """Wait for something; say what was not there, and what the program said."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        with suppress(OSError):
            if condition():
                return
        time.sleep(0.1)
    raise SystemExit(f"{what} in {PATIENCE_S:g} s; it said: {log.read_text(encoding='utf-8', errors='replace')[-600:]}")


# --- ours ------------------------------------------------------------------------------------------------------------
class Channel:
    """The host's end of the agent's channel, read at once, so that nothing of it waits."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._splitter = guest.LineSplitter()
        self._octets = 0
        self._lock = threading.Lock()
        self.kinds: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()

    def say(self, message: guest.ToGuest) -> None:
        """Tell it something."""
        self._connection.sendall(guest.encode_to_guest(message))

    def take_octets(self) -> int:
        """How many came since the last call."""
        with self._lock:
            octets, self._octets = self._octets, 0
            return octets

    def _read(self) -> None:
        with suppress(OSError):
            while data := self._connection.recv(65536):
                with self._lock:
                    self._octets += len(data)
                for line in self._splitter.feed(data):
                    if isinstance(line, bytes):
                        self._hear(guest.parse_from_guest(line))

    def _hear(self, message: guest.FromGuest) -> None:
        self.kinds.append(type(message).__name__)
        if isinstance(message, guest.LevelChanged | guest.Lost | guest.Special | guest.Wanted):
            self.say(guest.Acknowledge(message.number))

    def close(self) -> None:
        """Hear no more."""
        self._connection.close()


@contextmanager
def our_agent(directory: Path, prefix: tuple[str, ...] = ()) -> Iterator[tuple[int, Channel]]:
    """The packed agent as a guest runs it."""
    log = directory / "log"
    argv = [*prefix, str(AGENT), str(directory / "channel"), str(directory / "state" / "level")]
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(directory / "channel"))
        server.listen(1)
        server.settimeout(PATIENCE_S)
        with running(argv, log) as process:
            channel = Channel(server.accept()[0])
            try:
                until(lambda: "Report1" in channel.kinds, "the agent reported nothing", log)
                yield process.pid, channel
            finally:
                channel.close()


@contextmanager
def traffic(tap: Tap) -> Iterator[None]:
    """``PACKETS_PER_S`` small UDP packets a second, half of them in, half out, of 64 flows."""
    own, other = run("ip", "-br", "link", "show", tap.name).split()[2], "52:54:00:00:00:02"
    here, there = "10.60.0.1", "10.60.0.2"
    out = [ethernet(own, other, 0x0800, ipv4(here, there, 17, udp(5000 + flow, 9000))) for flow in range(64)]
    into = [ethernet(other, own, 0x0800, ipv4(there, here, 17, udp(9000, 5000 + flow))) for flow in range(64)]
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    raw.bind((tap.name, 0))
    over = threading.Event()

    def send() -> None:
        began, sent = time.monotonic(), 0
        while not over.is_set():
            due = int(PACKETS_PER_S / 2 * (time.monotonic() - began))
            for number in range(sent, due):
                raw.send(out[number % 64])
                tap.send(into[number % 64])
            sent = max(sent, due)
            tap.received()
            time.sleep(_DUTY_S)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        raw.close()


def ours(directory: Path, seconds: int) -> Iterator[Row]:
    """Level 1 on this machine, and both levels in a namespace with much traffic."""
    with our_agent(made(directory / "idle")) as (pid, channel):
        yield measure(LEVEL_1, pid, seconds, channel.take_octets)
        if "Report2" in channel.kinds:
            raise SystemExit("the agent went to Level 2 by itself: this machine is too busy to measure Level 1")
    own_sys = ("unshare", "--mount", "sh", "-c", 'mount -t sysfs none /sys && exec "$@"', "sh")
    with namespace():
        tap = Tap("hv-bench0", "52:54:00:00:00:01")
        run("ip", "addr", "add", "10.60.0.1/24", "dev", tap.name)
        try:
            for name, level in ((LEVEL_1_BUSY, 1), (LEVEL_2, 2)):
                with our_agent(made(directory / f"busy{level}"), own_sys) as (pid, channel), traffic(tap):
                    usual = tuple(guest.Usual(GuestMetric(metric), 10**10, 0) for metric in JUDGED)
                    channel.say(guest.BriefHistory(1, usual))
                    time.sleep(2)
                    channel.say(guest.SetLevel(level))
                    yield measure(name, pid, seconds, channel.take_octets)
                    if channel.kinds[-1] != f"Report{level}":
                        raise SystemExit(f"the agent did not stay on Level {level}")
        finally:
            tap.close()


# --- others ----------------------------------------------------------------------------------------------------------
def unpacked(directory: Path) -> Path:
    """Debian's packages with what they need, below ``directory``; nothing is installed and no service started."""
    root, archives = directory / "root", directory / "archives"
    if (directory / "done").exists():
        return root
    (archives / "partial").mkdir(parents=True, exist_ok=True)
    download = ["apt-get", "install", "--download-only", "--no-install-recommends", "-y"]
    for argv in (["apt-get", "update"], [*download, "-o", f"Dir::Cache::archives={archives}", *PACKAGES]):
        done = subprocess.run(argv, check=False, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(argv[:2])} failed: {done.stderr.strip()[-300:]}")
    for package in sorted(archives.glob("*.deb")):
        run("dpkg-deb", "--extract", str(package), str(root))
    (directory / "done").touch()
    return root


def made(directory: Path) -> Path:
    """A fresh directory."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return directory


def free_port() -> int:
    """A TCP port of this machine that nobody uses now; zabbix takes none above 32767."""
    for port in range(21_000, 32_000):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise SystemExit("no port of this machine is free")


def asked_qemu(path: Path) -> int:
    """What a host that wants to know about load asks each second."""
    octets = 0
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE_S)
        connection.connect(str(path))
        for command in (
            "guest-get-cpustats",
            "guest-get-diskstats",
            "guest-network-get-interfaces",
            "guest-get-fsinfo",
        ):
            connection.sendall(json.dumps({"execute": command}).encode() + b"\n")
            answer = b""
            while not answer.endswith(b"\n"):
                answer += connection.recv(65536)
            octets += len(answer)
    return octets


def asked_zabbix(port: int) -> int:
    """One passive check after another."""
    octets = 0
    keys = ("system.cpu.util[,user]", "system.cpu.load", "vm.memory.size[available]", "net.if.in[lo]", "net.if.out[lo]")
    for key in (*keys, "proc.num", "system.swap.size", "vfs.fs.size[/,used]"):
        with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as connection:
            connection.sendall(b"ZBXD\x01" + struct.pack("<Q", len(key)) + key.encode())
            while data := connection.recv(65536):
                octets += len(data)
    return octets


def scraped(port: int) -> int:
    """One scrape."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE_S) as answer:
        return len(answer.read())


def others(root: Path, directory: Path, seconds: int) -> Iterator[Row]:
    """Debian's agents, one after another."""
    libraries = [str(path) for path in (root / "usr/lib").glob("*-linux-gnu*")]
    env = {"PATH": os.environ["PATH"], "LD_LIBRARY_PATH": ":".join([*libraries, str(root / "usr/lib")])}

    place = made(directory / "qemu")
    path, log = place / "socket", place / "log"
    argv = [str(root / "usr/sbin/qemu-ga"), "-m", "unix-listen", "-p", str(path), "-t", str(place)]
    with running([*argv, "-f", str(place / "pid")], log, env) as process:
        until(lambda: asked_qemu(path), "qemu-ga did not answer", log)
        yield measure("qemu-guest-agent", process.pid, seconds, lambda: asked_qemu(path))

    place = made(directory / "collectd")
    csv, log = place / "csv", place / "log"
    plugins = ("cpu", "memory", "interface", "disk", "load", "processes", "swap", "tcpconns", "csv")
    config = [f'BaseDir "{place}"', f'PIDFile "{place}/pid"', f'PluginDir "{root}/usr/lib/collectd"']
    config += [f'TypesDB "{root}/usr/share/collectd/types.db"', "Interval 1", 'Hostname "bench"']
    config += [f"LoadPlugin {plugin}" for plugin in plugins]
    config += [f'<Plugin csv>\nDataDir "{csv}"\nStoreRates true\n</Plugin>']
    (place / "conf").write_text("\n".join(config) + "\n", encoding="utf-8")
    written = [0]

    def grown() -> int:
        before, written[0] = written[0], sum(path.stat().st_size for path in csv.rglob("*") if path.is_file())
        return written[0] - before

    with running([str(root / "usr/sbin/collectd"), "-f", "-C", str(place / "conf")], log, env) as process:
        until(lambda: grown() > 0, "collectd wrote nothing", log)
        yield measure("collectd", process.pid, seconds, grown)

    place, port = made(directory / "zabbix"), free_port()
    log = place / "log"
    config = ["LogType=console", "Server=127.0.0.1", "ListenIP=127.0.0.1", f"ListenPort={port}", "Hostname=bench"]
    config += [f"ControlSocket={place}/control", f"PluginSocket={place}/plugin", f"PidFile={place}/pid"]
    (place / "conf").write_text("\n".join(config) + "\n", encoding="utf-8")
    zabbix = [str(root / "usr/sbin/zabbix_agent2"), "-f", "-c", str(place / "conf")]
    with running(zabbix, log, env) as process:
        until(lambda: asked_zabbix(port), "zabbix_agent2 did not answer", log)
        yield measure("zabbix-agent2", process.pid, seconds, lambda: asked_zabbix(port))

    place, port = made(directory / "exporter"), free_port()
    log = place / "log"
    exporter = str(root / "usr/bin/prometheus-node-exporter")
    with running([exporter, f"--web.listen-address=127.0.0.1:{port}"], log, env) as process:
        until(lambda: scraped(port), "prometheus-node-exporter did not answer", log)
        yield measure("prometheus-node-exporter", process.pid, seconds, lambda: scraped(port))


def broken(rows: list[Row]) -> list[str]:
    """Promises that were not kept, one sentence each."""
    found = []
    for row in rows:
        for name, promised in PROMISED.get(row.agent, {}).items():
            if getattr(row, name) > promised:
                found.append(f"{row.agent}: {name} is {getattr(row, name)}, promised are {promised}")
    return found


def show(rows: list[Row]) -> None:
    """A table for people."""
    table = Table(
        "agent", "RSS MiB", "PSS MiB", "CPU %", "bytes/s", title=f"{platform.release()}, {os.cpu_count()} cores"
    )
    for row in rows:
        sizes = (f"{row.rss_kib / 1024:.1f}", f"{row.pss_kib / 1024:.1f}")
        table.add_row(row.agent, *sizes, f"{row.cpu_percent:.2f}", str(row.bytes_per_s))
    Console().print(table)


def main() -> None:
    """Measure, print a table, write JSON; exit code 1 if a promise is not kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="For each agent.")
    parser.add_argument("--out", type=Path, default=Path("build/bench/agent.json"))
    parser.add_argument(
        "--folder", type=Path, default=Path("build/bench/agents"), help="Where the others are unpacked."
    )
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("this reads headers and makes a network namespace: run it as root")
    root = unpacked(arguments.folder.absolute())
    rows = []
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hv-bench-agent-")))
        for made_rows in (ours(directory, arguments.seconds), others(root, directory, arguments.seconds)):
            for row in made_rows:
                rows.append(row)
                print(f"{row.agent}: done", file=sys.stderr)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    told = [{name: getattr(row, name) for name in Row.__slots__} for row in rows]
    arguments.out.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    show(rows)
    for sentence in broken(rows):
        print(sentence)
    raise SystemExit(1 if broken(rows) else 0)


if __name__ == "__main__":
    main()
