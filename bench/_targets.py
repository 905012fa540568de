"""What the data plane is to reach, held against what was measured."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

Figures = dict[str, Any]
MOST_PORTS = 5000
LEAST_PAIRS = 16
JUDGED = ("veth", "tap")
"""Links whose looks tell a hundredth; emulated guests do not."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A target, what was measured of it, and whether that is enough; ``met`` None: not measured as it has to be."""

    target: str
    bound: str
    figure: str
    met: bool | None

    @property
    def word(self) -> str:
        """For people."""
        return "not measured" if self.met is None else "met" if self.met else "missed"


def judge(results: Iterable[Figures]) -> list[Judged]:
    """Every target by the worst row that it is about."""
    rows = [one for one in results if one["setup"] == "hypervigil"]
    found = []
    for link in JUDGED:
        here = [one for one in rows if one["link"] == link and not one.get("guests") and one.get("network_policy")]
        paired = [*filter(_paired, here)]
        plain = [one for one in paired if not one["active_limit"]]
        limited = [one for one in paired if one["active_limit"]]
        far = [one for one in here if one["ports"] >= MOST_PORTS and not one["active_limit"]]
        found += [
            _least(f"{link}: packets/s at Level 1, of the bridge's", 1.0, "pps_ratio_low", plain),
            _least(f"{link}: packets/s with an active limit", 0.97, "pps_ratio_low", limited),
            _least(f"{link}: TCP, of the bridge's", 0.98, "low", [*_tcp(plain), *_tcp(limited)]),
            _most(
                f"{link}: more ns per packet at {MOST_PORTS} ports than at 1",
                10.0,
                "program_ns_more_high",
                [*filter(_paired, far)],
            ),
            _most(f"{link}: change of one VM's policy at {MOST_PORTS} ports, ms", 5.0, "change_ms", far),
            _most(f"{link}: attach at {MOST_PORTS} ports, ms", 20.0, "attach_ms", far),
        ]
    return found


def _paired(row: Figures) -> bool:
    return bool(row.get("pairs", 0) >= LEAST_PAIRS)


def _tcp(rows: Sequence[Figures]) -> Iterable[Figures]:
    """Lower bounds: between CPUs, and on one CPU where that was measured."""
    return ({"low": row.get(name)} for row in rows for name in ("tcp_ratio_low", "tcp_one_cpu_ratio_low"))


def _least(target: str, bound: float, name: str, rows: Sequence[Figures]) -> Judged:
    return _judged(target, bound, name, rows, min)


def _most(target: str, bound: float, name: str, rows: Sequence[Figures]) -> Judged:
    return _judged(target, bound, name, rows, max)


def _judged(
    target: str, bound: float, name: str, rows: Sequence[Figures], worst: Callable[[Sequence[float]], float]
) -> Judged:
    shown = f"{'≥' if worst is min else '≤'} {bound:g}"
    values = [one[name] for one in rows if one.get(name) is not None]
    if not values:
        return Judged(target, shown, "–", None)
    value = worst(values)
    return Judged(target, shown, f"{value:.4g}", value >= bound if worst is min else value <= bound)
