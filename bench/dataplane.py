"""What protection costs between two VMs on one bridge, beside a plain bridge and other ways to protect it.

``python -m bench.dataplane [--link NAME …] [--setup NAME …] [--ports N …] [--pairs N] [--minutes N] [--out FILE]``, as
root. A run adds to what the file holds, and says at the end which targets are met. With ``--minutes`` it measures only
what the file lacks, begins no row later and names what is left, so that a whole run can be made in slices.

Each way to protect holds the same policy for 1, 50, 500 or 5,000 ports, of which the two that talk are there. What is
``nwfilter`` are rules that libvirt made, for ``ports_by_libvirt`` of them itself, and for all others copies of these.

Links: ``veth`` (network namespaces), ``tap`` (our own process behind two taps), ``guests`` (taps of two real guests).
Ratios are of interleaved pairs (bridge, other, other, bridge …), each the mean of the middle half of them (see
``_pairs.middle_ratio``) with the lower end of its 95 % interval, ``…_low``; ``…_mean_ratio`` is that of all pairs.
``ns_per_packet`` is how much longer a packet took than over the bridge of the same run; ``program_ns`` is the kernel's
own count of what our two programs took, ``program_ns_more`` by how much that is more than with the policy of one port,
in interleaved pairs again, and ``state_bytes_per_vm`` what all our maps take. Targets are judged on ``veth`` and
``tap``.

Packets are measured in four times as many pairs as are asked for, TCP in twenty times as many pairs of short bursts of
one connection (see ``_tcp.py``), between CPUs and, over ``veth``, on one CPU as well: then throughput is the inverse of
CPU time per octet.

Real guests under emulation send and take some ten thousand packets a second, a small part of what a bridge carries,
and their emulators do nearly all the work: 100 ns more for a packet are a thousandth of its time. Their ratios show
that real drivers, offloads and queues are served, and what costs many microseconds; no target is judged by them.
"""

import argparse
import contextlib
import functools
import itertools
import json
import math
import os
import platform
import re
import secrets
import signal
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench._guests import DomainFilter, lab_guests
from bench._others import BY_LIBVIRT, Bridge, Conntrack, Nftables, Nwfilter, Way, own_libvirt
from bench._pairs import Pair, interleaved, middle_excess, middle_ratio, ratio
from bench._product import Product
from bench._segment import Segment, Traffic, taps, veths
from bench._targets import Figures, judge
from bench._tcp import CONGESTION
from hypervigil.hypervisor.adapters.ebpf.dataplane import remove_all
from lab.guests import Guest as LabGuest
from tests.integration.wirelab import namespace

LINKS = ("veth", "tap", "guests")
PORTS = (1, 50, 500, 5000)
SCALES = {
    "bridge": (1,),
    "hypervigil": PORTS,
    "hypervigil-limited": (1, 5000),
    "hypervigil-unruled": (1,),
    "nftables": PORTS,
    "conntrack": PORTS,
    "nwfilter": PORTS,
}
"""Setups, and at how many ports each is measured."""
FEW = {"hypervigil-limited": (5000,), "hypervigil-unruled": ()}
"""Fewer with real guests, where a row takes minutes."""
MAX_PORTS = (1024, 8192)
"""Sizes of data plane whose memory is told; the larger one is measured."""
LOOKS, BURSTS = 4, 20
"""For each pair asked for, so many pairs of looks at packets and of bursts of TCP: other tasks spoil some."""
_BURST_S = 0.015
_Domains = tuple[LabGuest, LabGuest] | None
_KEY = ("setup", "link", "guests", "ports", "active_limit", "network_policy", "congestion")


def row(link: str, setup: str, ports: int, congestion: str) -> Figures:
    """Which row of the results one setup at one scale is: what ``_KEY`` names of it."""
    name, _, kind = setup.partition("-")
    figures: Figures = {"setup": name, "link": "tap" if link == "guests" else link, "guests": link == "guests"}
    figures |= {"ports": ports}
    if link == "veth":
        figures["congestion"] = congestion
    if name == "hypervigil":
        figures |= {"active_limit": kind == "limited", "network_policy": kind != "unruled"}
    return figures


def _key(figures: Figures) -> list[object]:
    return [figures.get(name) for name in _KEY]


def lacking(
    wanted: Sequence[tuple[str, int]], results: Sequence[Figures], link: str, congestion: str
) -> list[tuple[str, int]]:
    """What is wanted over one link that the results do not have."""
    known = [_key(one) for one in results]
    return [(setup, ports) for setup, ports in wanted if _key(row(link, setup, ports, congestion)) not in known]


def compare(traffic: Traffic, way: Way, pairs: int, seconds: float, link: str) -> Figures:
    """The bridge and a way to protect it, by packets and by TCP."""
    traffic.begin("pps")
    few = link == "guests"
    found = interleaved(lambda: traffic.packets_per_s(seconds), way.take, way.put, pairs if few else pairs * LOOKS)
    figures: Figures = {"pairs": len(found)} | _sides("pps", found)
    figures |= _ratio("pps_ratio", ratio(found) if few else middle_ratio(found))
    figures |= {} if few else _ratio("pps_mean_ratio", ratio(found))
    figures["ns_per_packet"] = round((1 / figures["pps_ratio"] - 1) * 1e9 / figures["pps_bridge"], 1)
    if few:
        traffic.begin("tcp_bps")
        found = interleaved(lambda: traffic.bits_per_s(seconds * 2), way.take, way.put, pairs)
        return figures | _sides("tcp_bps", found) | _ratio("tcp_ratio", ratio(found))
    figures["tcp_pairs"] = pairs * BURSTS
    for name in ("tcp", "tcp_one_cpu") if link == "veth" else ("tcp",):
        traffic.begin(f"{name}_bps")
        found = interleaved(lambda: traffic.bits_per_s(_BURST_S), way.take, way.put, pairs * BURSTS)
        figures |= _sides(f"{name}_bps", found) | _ratio(f"{name}_ratio", middle_ratio(found))
        figures |= _ratio(f"{name}_mean_ratio", ratio(found))
    return figures


def _sides(name: str, found: Sequence[Pair]) -> Figures:
    return {
        name: round(statistics.median(other for _, other in found)),
        f"{name}_bridge": round(statistics.median(plain for plain, _ in found)),
    }


def _ratio(name: str, found: tuple[float, float]) -> Figures:
    return {name: round(found[0], 4), f"{name}_low": round(found[1], 4)}


def programs(traffic: Traffic, product: Product, one: Product | None, pairs: int, seconds: float) -> Figures:
    """The time of our programs, and how much more of it this product takes than ``one``, which has a single port."""
    traffic.begin("pps")
    current = product

    def use(which: Product) -> None:
        nonlocal current
        current.take()
        current = which
        current.put()

    def look() -> float:
        return current.program_ns(traffic, seconds)

    if one is None:
        use(product)
        values = [look() for _ in range(2 * pairs)]
        return {"program_ns": round(statistics.median(values), 1)}
    found = interleaved(look, functools.partial(use, one), functools.partial(use, product), pairs * LOOKS)
    use(product)
    more, high = middle_excess(found)
    return {
        "program_ns": round(statistics.median(other for _, other in found), 1),
        "program_ns_more": round(more, 1),
        "program_ns_more_high": round(high, 1),
    }


class Run:
    """Everything that is measured over one link."""

    def __init__(self, link: str, pairs: int, seconds: float, congestion: str, until: float = math.inf) -> None:
        self.link = link
        self.pairs = pairs
        self.seconds = seconds
        self.congestion = congestion
        self.until = until

    def measured(self, segment: Segment, setup: str, ports: int, domains: _Domains = None) -> Figures:
        """One setup at one scale."""
        figures = row(self.link, setup, ports, self.congestion)
        with contextlib.ExitStack() as stack:
            if setup.startswith("hypervigil"):
                return figures | self._ours(segment, setup, ports, stack)
            way = self._other(segment, setup, ports, domains, stack)
            if self.pairs:
                figures |= compare(segment.traffic, way, self.pairs, self.seconds, self.link)
            way.put()
            figures |= {"change_ms": _rounded(way.change_ms()), "attach_ms": _rounded(way.attach_ms())}
            if setup == "nwfilter":
                figures["ports_by_libvirt"] = 2 if domains is not None else max(2, min(ports, BY_LIBVIRT))
            return figures

    def _ours(self, segment: Segment, setup: str, ports: int, stack: contextlib.ExitStack) -> Figures:
        def product(count: int, max_ports: int) -> Product:
            pin_dir = Path("/sys/fs/bpf") / f"hvb-{secrets.token_hex(4)}"
            stack.callback(remove_all, pin_dir)
            ruled, limited = not setup.endswith("-unruled"), setup.endswith("-limited")
            return Product(count, segment.guests, pin_dir, max_ports=max_ports, ruled=ruled, limited=limited)

        small, large = MAX_PORTS
        ours, one = product(ports, large), product(1, small)
        figures: Figures = {}
        if self.pairs:
            figures |= compare(segment.traffic, ours, self.pairs, self.seconds, self.link)
        figures |= programs(
            segment.traffic, ours, one if ports > 1 else None, max(self.pairs, 4), min(self.seconds, 0.1)
        )
        ours.put()
        return figures | {
            "change_ms": _rounded(ours.change_ms()),
            "attach_ms": _rounded(ours.attach_ms()),
            "state_bytes_per_vm": {
                str(small): round(one.state_bytes() / small),
                str(large): round(ours.state_bytes() / large),
            },
        }

    def _other(
        self,
        segment: Segment,
        setup: str,
        ports: int,
        domains: _Domains,
        stack: contextlib.ExitStack,
    ) -> Way:
        match setup:
            case "nftables":
                table = Nftables(ports, segment.guests)
                stack.callback(table.remove)
                return table
            case "conntrack":
                tracking = Conntrack(ports, segment.guests)
                stack.callback(tracking.remove)
                return tracking
            case "nwfilter" if domains is not None:
                filters = DomainFilter(domains, ports)
                stack.callback(filters.remove)
                return filters
            case "nwfilter":
                return Nwfilter(stack.enter_context(own_libvirt()), ports, segment.guests)
        return Bridge()

    def rows(self, wanted: list[tuple[str, int]]) -> Iterator[Figures]:
        """What is wanted, one by one, until it is too late to begin another.

        Each is in a network namespace of its own, but for real guests, which boot once.
        """
        if self.link == "guests":
            if not any(self._in_time(wanted)):
                return
            with lab_guests() as (segment, domains):
                for setup, ports in self._in_time(wanted):
                    yield self._timed(functools.partial(self.measured, segment, setup, ports, domains))
            return
        make = functools.partial(veths, self.congestion) if self.link == "veth" else taps
        for setup, ports in self._in_time(wanted):
            with namespace(), make() as segment:
                segment.traffic.packets_per_s(0.3)
                yield self._timed(functools.partial(self.measured, segment, setup, ports))

    def _in_time(self, wanted: list[tuple[str, int]]) -> Iterator[tuple[str, int]]:
        return itertools.takewhile(lambda _: time.monotonic() < self.until, wanted)

    @staticmethod
    def _timed(do: Callable[[], Figures]) -> Figures:
        began = time.monotonic()
        figures = do()
        return {
            **figures,
            "took_s": round(time.monotonic() - began, 1),
            "machine": f"{os.cpu_count()} cores, Linux {platform.release()}",
        }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def kept(path: Path) -> list[Figures]:
    """What earlier slices measured."""
    try:
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return []
    return [one for one in found if "guests" in one]


def keep(path: Path, results: list[Figures], figures: Figures) -> None:
    """Add one row, in place of an earlier one of the same."""
    results[:] = [one for one in results if _key(one) != _key(figures)] + [figures]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Measure, print tables, keep JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.dataplane", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--link", nargs="*", choices=LINKS, default=list(LINKS))
    parser.add_argument("--setup", nargs="*", choices=list(SCALES), default=list(SCALES))
    parser.add_argument("--ports", nargs="*", type=int, help="Only these of the scales of each setup.")
    parser.add_argument("--pairs", type=int, default=16, help="0: only what needs no comparison.")
    parser.add_argument("--seconds", type=float, default=0.15, help="Of a look; with real guests four times as long.")
    parser.add_argument(
        "--congestion", default=CONGESTION, help="How the ends of TCP over veth mind congestion, such as bbr."
    )
    parser.add_argument("--minutes", type=float, default=math.inf, help="Begin no row later, and none that FILE has.")
    parser.add_argument("--out", type=Path, default=Path("build/bench/dataplane.json"))
    arguments = parser.parse_args()
    if arguments.pairs == 1:
        parser.error("one pair has no interval: take at least two")
    if not arguments.minutes > 0:
        parser.error("--minutes: give a number above 0, such as 20")
    console, results = Console(width=160), kept(arguments.out)
    until, left = time.monotonic() + arguments.minutes * 60, []
    for link in arguments.link:
        scales = SCALES | FEW if link == "guests" else SCALES
        wanted = [
            (setup, ports)
            for setup in arguments.setup
            for ports in scales[setup]
            if arguments.ports is None or ports in arguments.ports
        ]
        if arguments.minutes < math.inf:
            wanted = lacking(wanted, results, link, arguments.congestion)
        seconds = arguments.seconds * (4 if link == "guests" else 1)
        run = Run(link, arguments.pairs, seconds, arguments.congestion, until)
        pending = [f"{link} {setup} {ports}" for setup, ports in wanted]
        for figures in run.rows(wanted):
            keep(arguments.out, results, figures)
            console.print(" ".join(f"{name}={value}" for name, value in figures.items()), highlight=False)
            pending.pop(0)
        left += pending
    show(console, results)
    if left:
        console.print(f"Not begun within {arguments.minutes:g} minutes: {', '.join(left)}. A further run goes on.")


_COLUMNS = (
    "setup",
    "link",
    "guests",
    "ports",
    "active_limit",
    "pps",
    "pps_ratio",
    "pps_ratio_low",
    "tcp_ratio",
    "tcp_ratio_low",
    "tcp_one_cpu_ratio_low",
    "ns_per_packet",
    "program_ns",
    "change_ms",
    "attach_ms",
)


def show(console: Console, results: list[Figures]) -> None:
    """The figures and the targets as tables."""
    table = Table(*_COLUMNS, title="Data plane")
    for one in results:
        table.add_row(*(re.sub("None", "–", str(one.get(name))) for name in _COLUMNS))
    console.print(table)
    targets = Table("target", "bound", "measured", "", title="Targets, by the worst row and the 95 % bound")
    for judged in judge(results):
        targets.add_row(judged.target, judged.bound, judged.figure, judged.word)
    console.print(targets)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whoever ends it: what it made here must go
    main()
