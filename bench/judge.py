"""What judging costs: HREM and HSEM with 10,000 VMs and all metrics, beside a plain peer.

``python -m bench.judge [--vms N] [--ticks N] [--out FILE]``. Times are processor time of one core, so that they mean
the same on a busy machine. The peer is what monitors of single metrics do: a mean and a deviation that fade, an alarm
beyond three deviations; once as a loop over VMs and metrics, once as NumPy arrays. It knows neither ends nor cases.
"""

import argparse
import ctypes
import gc
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from hypervigil.host.hrem.engine import Hrem
from hypervigil.host.hsem.engine import Hsem
from hypervigil.host.inventory import AddressBook
from hypervigil.host.monitor import histories
from hypervigil.model.ids import CaseId, Instant, LimitId, PortId, VmId
from hypervigil.model.metric import Metric
from hypervigil.model.observation import ClassCounts, PeerCount, PortSample, ResourceSample, Sweep
from hypervigil.model.policy import Bounds, Policy
from hypervigil.model.traffic import Direction, ForgedKind, TrafficClass
from hypervigil.model.vm import Inventory, Nic, Vm

PROMISED_VMS = 10_000
PROMISED_TICK_MS = 100.0
PROMISED_RESTORE_S = 2.0
PROMISED_BYTES = 8 * 1024
KEPT_TICKS = ("quiet", "busy")
"""The ticks that are promised; the others are told beside them."""
BUSY_SHARE = 0.01
PEERS = 4
WARM_TICKS = 3

Figures = dict[str, float | int | str | bool]
Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of tick: so many VMs send so."""

    name: str
    share: float
    out: dict[TrafficClass, int]
    into: dict[TrafficClass, int]
    openings: int


KINDS = (
    Kind("quiet", 0.0, {}, {}, 0),
    Kind("busy", BUSY_SHARE, {TrafficClass.SYN: 4, TrafficClass.TCP: 40}, {TrafficClass.SYNACK: 4}, 1),
    Kind("working", 1.0, {TrafficClass.SYN: 4, TrafficClass.TCP: 40}, {TrafficClass.SYNACK: 4}, 1),
    Kind("anomalous", 1.0, {TrafficClass.SYN: 2000}, {}, 500),
)


def counts(packets: dict[TrafficClass, int]) -> ClassCounts:
    """Frames by class, of 100 octets each."""
    by_class = tuple(packets.get(traffic, 0) for traffic in TrafficClass)
    return ClassCounts(by_class, tuple(100 * n for n in by_class), (0,) * len(TrafficClass))


class Host:
    """A host with so many VMs, each with one NIC."""

    def __init__(self, vms: int) -> None:
        self.names = [VmId(f"{n:08x}-2222-3333-4444-555555555555") for n in range(vms)]
        self._ports = [PortId(f"52:54:00:{n >> 16:02x}:{n >> 8 & 255:02x}:{n & 255:02x}") for n in range(vms)]
        self.inventory = Inventory(
            tuple(
                Vm(vm, vm, 1, 1 << 20, (Nic(port, f"vnet{n}", n + 1, "br0", (self._address(n),)),))
                for n, (vm, port) in enumerate(zip(self.names, self._ports, strict=True))
            )
        )
        self._resources = tuple(
            ResourceSample(vm, 0.2, 0.0, 0.5, 1e9, 1e6, 10.0, 10.0, 1e5, 100.0, 10.0, 20.0) for vm in self.names
        )

    @staticmethod
    def _address(n: int) -> str:
        return f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}"

    def sweeps(self, kind: Kind, interval_s: float) -> Iterator[Sweep]:
        """Sweeps of one kind without end; statistics come with every one."""
        ports = tuple(self._sample(n, kind) for n in range(round(kind.share * len(self.names))))
        for n in count(1):
            yield Sweep(n, Instant(1000.0 + n * interval_s), interval_s, ports, self._resources)

    def _sample(self, n: int, kind: Kind) -> PortSample:
        packets, back = (sum(side.values()) // PEERS for side in (kind.out, kind.into))
        peers = tuple(
            PeerCount(
                Direction.OUT,
                self._address((n + 1 + peer) % len(self.names)),
                "",
                packets,
                100 * packets,
                kind.openings,
                back,
                0,
                1,
                new=False,
                services=1,
            )
            for peer in range(PEERS)
        )
        forged = (0,) * len(ForgedKind)
        return PortSample(self.names[n], self._ports[n], counts(kind.out), counts(kind.into), forged, 0, 0, peers, 4, 0)


class Judge:
    """Both engines, as the monitor joins them."""

    def __init__(self, host: Host) -> None:
        cases, limits = count(1), count(1)
        book = AddressBook()
        book.update(host.inventory, Policy())
        self.hrem = Hrem(book)
        self.hsem = Hsem(
            Bounds(), next_case=lambda: CaseId(f"c{next(cases)}"), next_limit=lambda: LimitId(f"l{next(limits)}")
        )
        self.hrem.inventory(host.inventory)
        self.hsem.inventory(host.inventory.vms, Instant(1000.0))
        self.decisions = 0

    def tick(self, sweep: Sweep) -> tuple[float, float]:
        """Processor time of HREM and of HSEM, milliseconds."""
        began = time.process_time()
        reports = self.hrem.observe(sweep, sweep.at)
        between = time.process_time()
        for report in reports:
            self.decisions += len(self.hsem.hear(report, sweep.at))
        self.decisions += len(self.hsem.tick(sweep.at))
        return (between - began) * 1000, (time.process_time() - between) * 1000


def ticks(host: Host, kind: Kind, number: int, per_s: int) -> Figures:
    """Ticks of one kind: a second's work of both engines with so many sweeps in it."""
    judge = Judge(host)
    sweeps = host.sweeps(kind, 1.0 / per_s)
    first = [judge.tick(next(sweeps)) for _ in range(WARM_TICKS * per_s)]
    taken = [[judge.tick(next(sweeps)) for _ in range(per_s)] for _ in range(number)]
    hrem = [sum(tick[0] for tick in second) for second in taken]
    hsem = [sum(tick[1] for tick in second) for second in taken]
    both = [one + other for one, other in zip(hrem, hsem, strict=True)]
    return {
        "hrem_ms": round(statistics.median(hrem), 1),
        "hsem_ms": round(statistics.median(hsem), 1),
        "tick_ms": round(statistics.median(both), 1),
        "worst_ms": round(max(both), 1),
        "first_worst_ms": round(max(one + other for one, other in first), 1),
        "decisions": judge.decisions,
        "pairs_dropped": judge.hrem.pairs_dropped,
    }


# --- the plain peer ---
FADE = 0.02
ALARM = 3.0


def plain_loop(values: list[list[float]], means: list[list[float]], variances: list[list[float]]) -> int:
    """One tick, one VM and metric after the other; how many alarms."""
    alarms = 0
    for row, mean, variance in zip(values, means, variances, strict=True):
        for n, value in enumerate(row):
            off = value - mean[n]
            if off * off > ALARM * ALARM * variance[n]:
                alarms += 1
            mean[n] += FADE * off
            variance[n] = (1 - FADE) * (variance[n] + FADE * off * off)
    return alarms


def plain_arrays(values: Matrix, means: Matrix, variances: Matrix) -> int:
    """The same with arrays."""
    off = values - means
    squared = off * off
    alarms = int((squared > ALARM * ALARM * variances).sum())
    means += np.float32(FADE) * off
    variances += np.float32(FADE) * squared
    variances *= np.float32(1 - FADE)
    return alarms


def peers(vms: int, number: int) -> Figures:
    """Both forms of the peer on made-up values."""
    rng = np.random.default_rng(1)
    values = rng.gamma(2.0, 10.0, (vms, len(Metric))).astype(np.float32)
    means, variances = np.full_like(values, 20.0), np.full_like(values, 200.0)
    lists = tuple(array.tolist() for array in (values, means, variances))
    loop = _median_ms(lambda: plain_loop(*lists), max(3, number // 4))
    arrays = _median_ms(lambda: plain_arrays(values, means, variances), number)
    return {"peer_loop_ms": loop, "peer_arrays_ms": arrays, "peer_bytes_per_vm": 2 * 4 * len(Metric)}


def _median_ms(do: Callable[[], object], times: int) -> float:
    took = []
    for _ in range(times):
        began = time.process_time()
        do()
        took.append((time.process_time() - began) * 1000)
    return round(statistics.median(took), 1)


# --- memory, restart ---
def resident() -> int:
    """Bytes that this process occupies, without those that the C library merely holds back for later."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def memory(host: Host) -> tuple[Judge, int]:
    """A judge that knows every VM by a minute of its own work, and what it occupies per VM."""
    sweeps = host.sweeps(KINDS[0], 1.0)
    for sweep in (next(sweeps) for _ in range(2)):
        Judge(host).tick(sweep)  # what is loaded at first use is not the VMs'
    before = resident()
    judge = Judge(host)
    for _ in range(60):
        judge.tick(next(sweeps))
    return judge, (resident() - before) // len(host.names)


def restart(host: Host, known: Judge) -> Figures:
    """How long it takes until the history of all is back, from the file's bytes."""
    began = time.process_time()
    stored = histories.encode(known.hsem.remember())
    between = time.process_time()
    back = Judge(host)
    back.hsem.recall(histories.decode(stored))
    restored = time.process_time() - between
    same = all(
        math.isclose(back.hsem.tail(vm, Metric.CPU), known.hsem.tail(vm, Metric.CPU), rel_tol=0.1)
        for vm in (host.names[0], host.names[-1])
    )
    if not same:
        raise SystemExit("what was restored is not what was known: the figures would be worth nothing")
    return {
        "store_s": round(between - began, 2),
        "stored_bytes_per_vm": round(len(stored) / len(host.names)),
        "restore_s": round(restored, 2),
    }


def measure(vms: int, number: int) -> Figures:
    """All figures, by name with their units."""
    host = Host(vms)
    judge, bytes_per_vm = memory(host)
    result: Figures = {
        "machine": f"{os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}",
        "vms": vms,
        "metrics": len(Metric),
        "bytes_per_vm": bytes_per_vm,
        **restart(host, judge),
    }
    del judge
    for kind in KINDS:
        for name, value in ticks(host, kind, number, per_s=1).items():
            result[f"{kind.name}_{name}"] = value
    for name, value in ticks(host, KINDS[1], max(3, number // 4), per_s=5).items():
        result[f"busy_at_5_hz_{name}"] = value
    return result | peers(vms, number)


def kept(result: Figures) -> dict[str, bool]:
    """Which promises are kept; those of time grow with the number of VMs."""
    larger = float(result["vms"]) / PROMISED_VMS
    found = {f"{kind}_tick_ms": float(result[f"{kind}_tick_ms"]) <= PROMISED_TICK_MS * larger for kind in KEPT_TICKS}
    found["restore_s"] = float(result["restore_s"]) <= PROMISED_RESTORE_S * larger
    found["bytes_per_vm"] = float(result["bytes_per_vm"]) <= PROMISED_BYTES
    return found


def show(result: Figures) -> None:
    """The figures as tables."""
    console = Console()
    table = Table("tick", "HREM ms", "HSEM ms", "both ms", "worst ms", "× loop", "× arrays", title="Judge")
    for name in [*(kind.name for kind in KINDS), "busy_at_5_hz"]:
        took = float(result[f"{name}_tick_ms"])
        ratios = [f"{took / float(result[peer]):.1f}" for peer in ("peer_loop_ms", "peer_arrays_ms")]
        parts = [str(result[f"{name}_{part}"]) for part in ("hrem_ms", "hsem_ms", "tick_ms", "worst_ms")]
        table.add_row(name, *parts, *ratios)
    for name in ("loop", "arrays"):
        table.add_row(f"peer: {name}", "–", "–", str(result[f"peer_{name}_ms"]), "–", "–", "–")
    console.print(table)
    rest = Table("figure", "value")
    for name in ("vms", "metrics", "bytes_per_vm", "store_s", "stored_bytes_per_vm", "restore_s"):
        rest.add_row(name, f"{result[name]:,}")
    console.print(rest)


def main() -> None:
    """Measure, print tables, write JSON; exit code 1 if a promise is not kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vms", type=int, default=PROMISED_VMS)
    parser.add_argument("--ticks", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("build/bench/judge.json"))
    arguments = parser.parse_args()
    result = measure(arguments.vms, arguments.ticks)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    show(result)
    missed = [name for name, good in kept(result).items() if not good]
    if missed:
        Console().print(f"not as promised: {', '.join(missed)}")
    raise SystemExit(1 if missed else 0)


if __name__ == "__main__":
    main()
