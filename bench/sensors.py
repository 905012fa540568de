"""How long one look takes: 500 real taps by the data plane's maps, 100 QEMU processes by libvirt's statistics.

``python -m bench.sensors [--taps N] [--domains N] [--repeat N] [--out FILE]``, as root. 0 leaves that part out.
"""

import argparse
import json
import os
import platform
import secrets
import signal
import statistics
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import libvirt
from rich.console import Console
from rich.table import Table

from hypervigil.hypervisor.adapters.ebpf.dataplane import DataPlane, remove_all
from hypervigil.hypervisor.adapters.libvirt.connection import connect, disconnect
from hypervigil.hypervisor.adapters.libvirt.statistics import ResourceMeter, read_all
from hypervigil.hypervisor.sensors.clock import now
from hypervigil.hypervisor.sensors.process import Eyes
from hypervigil.model.ids import PortId, VmId
from hypervigil.model.policy import Mode
from hypervigil.model.port_policy import PortPolicy
from lab import libvirtd
from lab.guests import DOMAIN_PREFIX
from lab.scratch import only_lab, say, told
from tests.integration.wirelab import Tap, ethernet, ipv4, namespace, udp

PROMISED_MS = 250.0
PROMISED_TAPS = 500
PROMISED_DOMAINS = 100
PEERS = 32
"""Addresses that each NIC talks to, half of them anew between two sweeps."""
_STARTS_AT_ONCE = 4

Figures = dict[str, float | int | str | bool]


def timed(repeat: int, do: Callable[[], object], between: Callable[[], object] = lambda: None) -> list[float]:
    """Milliseconds that each of so many runs took."""
    took = []
    for _ in range(repeat):
        between()
        began = time.perf_counter()
        do()
        took.append((time.perf_counter() - began) * 1000)
    return took


def summary(name: str, took: list[float]) -> Figures:
    """Median and worst, by name."""
    return {f"{name}_median_ms": round(statistics.median(took), 1), f"{name}_worst_ms": round(max(took), 1)}


# --- taps ---
def sweeps(taps: int, repeat: int) -> Figures:
    """Whole sweeps of so many taps, each with a bound policy and traffic of its own since the last sweep."""
    pin_dir = Path("/sys/fs/bpf") / f"hvb-{secrets.token_hex(4)}"
    with namespace(), ExitStack() as stack:
        stack.callback(remove_all, pin_dir)
        with told(f"making {taps} taps"):
            made = [_tap(number, stack) for number in range(taps)]
        plane = DataPlane.open(pin_dir)
        stack.callback(plane.close)
        owners = {}
        for number, tap in enumerate(made):
            port, vm = PortId(tap.mac), VmId(str(uuid.UUID(int=number)))
            plane.attach(PortPolicy(port, vm, tap.name, tap.ifindex, Mode.ENFORCE, (_address(number, 1),)))
            owners[port] = vm
        eyes = Eyes(int.from_bytes(os.urandom(8)))
        eyes.open(plane.sensor_fds())
        stack.callback(eyes.close)
        turns = iter(range(1_000_000))

        def traffic() -> None:
            turn = next(turns)
            for number, tap in enumerate(made):
                for peer in range(PEERS // 2):
                    tap.send(_frame(tap, number, 2 + (turn * PEERS // 2 + peer) % 250))

        def sweep() -> None:
            _, _, samples, seen = eyes.whole(owners)
            if len(seen) not in (0, taps) or len(samples) not in (0, taps):
                raise SystemExit(f"of {taps} taps {len(samples)} were seen: the figures would be worth nothing")

        for _ in range(3):  # the first one sees nothing, by design; then peers grow to what is usual
            traffic()
            sweep()
        took = timed(repeat, sweep, traffic)
        drift = timed(repeat, plane.drift)
        if plane.drift():
            raise SystemExit("something was changed while it was measured")
        return {"taps": taps, "peers_per_tap": PEERS, **summary("sweep", took), **summary("enforcer_look", drift)}


def _tap(number: int, stack: ExitStack) -> Tap:
    tap = Tap(f"hvb{number}", f"52:54:00:bb:{number >> 8:02x}:{number & 255:02x}")
    stack.callback(tap.close)
    return tap


def _address(number: int, last: int) -> str:
    return f"10.{100 + (number >> 8)}.{number & 255}.{last}"


def _frame(tap: Tap, number: int, last: int) -> bytes:
    payload = ipv4(_address(number, 1), _address(number, last), 17, udp(40000, 9))
    return ethernet(tap.mac, "52:54:00:bb:ff:ff", 0x0800, payload)


# --- domains ---
def statistics_of(domains: int, repeat: int) -> Figures:
    """Libvirt's statistics of so many QEMU processes, also while somebody holds the lock of one of them."""
    with ExitStack() as stack:
        stack.enter_context(only_lab())
        stack.enter_context(libvirtd.running())
        with told(f"starting {domains} QEMU processes"):
            names = stack.enter_context(_paused(domains))
        connection = connect()
        stack.callback(disconnect, connection)
        meter = ResourceMeter()

        def look() -> None:
            records = [record for record in read_all(connection) if record.vm in names]
            if len(records) != domains:
                raise SystemExit(f"of {domains} domains {len(records)} were told")
            meter.update(records, now(), time.time())

        look()
        took = timed(repeat, look)
        with _held(libvirtd.connection().lookupByUUIDString(next(iter(names)))):
            held = timed(repeat, look)
        each = round(statistics.median(took) / domains, 2)
        return {
            "domains": domains,
            **summary("statistics", took),
            "statistics_per_domain_ms": each,
            **summary("statistics_lock_held", held),
        }


@contextmanager
def _paused(count: int) -> Iterator[set[VmId]]:
    """Transient domains whose QEMU was started and whose guest never runs."""
    made: list[libvirt.virDomain] = []

    def start(number: int) -> None:
        xml = (
            f"<domain type='qemu'><name>{DOMAIN_PREFIX}bench-{number}</name><memory unit='MiB'>16</memory>"
            "<os><type arch='x86_64' machine='pc'>hvm</type></os><devices><controller type='usb' model='none'/>"
            "<memballoon model='virtio'/></devices><seclabel type='none'/></domain>"
        )
        made.append(libvirtd.connection().createXML(xml, libvirt.VIR_DOMAIN_START_PAUSED))

    try:
        with ThreadPoolExecutor(_STARTS_AT_ONCE) as pool:
            list(pool.map(start, range(count)))
        yield {VmId(domain.UUIDString()) for domain in made}
    finally:
        for domain in made:
            with suppress(libvirt.libvirtError):  # it is gone
                domain.destroy()


@contextmanager
def _held(domain: libvirt.virDomain) -> Iterator[None]:
    """Somebody waits for an answer of this domain's QEMU, which does not come, and holds its lock meanwhile."""
    pid = int(Path(f"/run/libvirt/qemu/{domain.name()}.pid").read_text(encoding="ascii"))
    os.kill(pid, signal.SIGSTOP)
    waiter = threading.Thread(target=_ask, args=(domain,))
    waiter.start()
    try:
        time.sleep(0.5)
        if not waiter.is_alive():
            raise SystemExit("the lock of a stopped domain is not held: the figure would be worth nothing")
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
        waiter.join(30)


def _ask(domain: libvirt.virDomain) -> None:
    with suppress(libvirt.libvirtError):  # what it answers in the end is of no interest
        domain.setMemoryFlags(8 * 1024, libvirt.VIR_DOMAIN_AFFECT_LIVE)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print a table, write JSON; exit code 1 if a promise is not kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--taps", type=int, default=PROMISED_TAPS)
    parser.add_argument("--domains", type=int, default=PROMISED_DOMAINS)
    parser.add_argument("--repeat", type=int, default=30)
    parser.add_argument("--out", type=Path, default=Path("build/bench/sensors.json"))
    arguments = parser.parse_args(argv)
    if min(arguments.taps, arguments.domains) < 0 or not arguments.taps + arguments.domains:
        parser.error("there is nothing to look at: give --taps or --domains, or both, more than 0")
    if arguments.repeat < 1:
        parser.error("--repeat is how often to look: give 1 or more")
    result: Figures = {
        "machine": f"{os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}",
        **(sweeps(arguments.taps, arguments.repeat) if arguments.taps else {}),
        **(statistics_of(arguments.domains, arguments.repeat) if arguments.domains else {}),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    show(result)
    promised = ("sweep_median_ms", "statistics_median_ms", "statistics_lock_held_median_ms")
    late = [name for name in promised if float(result.get(name, 0)) > PROMISED_MS]
    if late:
        say(f"later than the {PROMISED_MS:g} ms that are promised: {', '.join(late)}")
    raise SystemExit(1 if late else 0)


def show(result: Figures) -> None:
    """The figures as a table."""
    table = Table("figure", "value", title="Sensors")
    for name, value in result.items():
        table.add_row(name, str(value))
    Console().print(table)


if __name__ == "__main__":
    main()
