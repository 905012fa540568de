"""Charts over time as SVG, and the figures that are drawn in them. Pure."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from html import escape

from lab.capture import Slice
from lab.place import WorkSample

_WIDTH, _LEFT, _RIGHT, _TOP, _BOTTOM = 1040, 64, 18, 30, 26
_WINDOW_S = 5.0
_SECONDS_EVERY = 10.0

Point = tuple[float, float]


@dataclass
class Chart:
    """One chart: a scale for each axis, and the marks drawn so far."""

    title: str
    low_s: float
    high_s: float
    ticks: Sequence[tuple[float, str]]
    scale: Callable[[float], float]
    """From a value to its height, from 0 to 1."""
    height: int = 190
    time_label: Callable[[float], str] = lambda at: f"{at:.0f} s"
    every_s: float = _SECONDS_EVERY
    unit: str = ""
    parts: list[str] = field(default_factory=list)
    legend: list[tuple[str, str]] = field(default_factory=list)

    def x(self, at_s: float) -> float:
        """Where a time lies."""
        share = (at_s - self.low_s) / (self.high_s - self.low_s)
        return _LEFT + min(1.0, max(0.0, share)) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        """Where a value lies."""
        share = min(1.0, max(0.0, self.scale(value)))
        return self.height - _BOTTOM - share * (self.height - _TOP - _BOTTOM)

    def band(self, low_s: float, high_s: float, kind: str, label: str = "") -> None:
        """A shaded time."""
        left, right = self.x(low_s), self.x(high_s)
        self.parts.append(
            f'<rect class="band {kind}" x="{left:.1f}" y="{_TOP}" width="{right - left:.1f}" '
            f'height="{self.height - _TOP - _BOTTOM}"/>'
        )
        if label:
            self.parts.append(f'<text class="bandname" x="{left + 6:.1f}" y="{_TOP + 14}">{escape(label)}</text>')

    def line(self, points: Iterable[Point], kind: str, name: str = "") -> None:
        """A line through points."""
        path = " ".join(f"{self.x(at):.1f},{self.y(value):.1f}" for at, value in points)
        self.parts.append(f'<polyline class="line {kind}" points="{path}"/>')
        if name:
            self.legend.append((f"line {kind}", name))

    def steps(self, bins: Sequence[Point], width_s: float, kind: str, name: str = "", *, filled: bool = True) -> None:
        """A staircase over equal times; each point is the beginning of one of them and its value."""
        if not bins:
            return
        corners = [(at + shift, value) for at, value in bins for shift in (0.0, width_s)]
        path = " ".join(f"{self.x(at):.1f},{self.y(value):.1f}" for at, value in corners)
        if filled:
            floor = self.y(0.0)
            area = f"{self.x(corners[0][0]):.1f},{floor:.1f} {path} {self.x(corners[-1][0]):.1f},{floor:.1f}"
            self.parts.append(f'<polygon class="area {kind}" points="{area}"/>')
        self.parts.append(f'<polyline class="line {kind}" points="{path}"/>')
        if name:
            self.legend.append((f"line {kind}", name))

    def dots(self, points: Iterable[Point], kind: str, name: str = "", radius: float = 1.8) -> None:
        """Single points, as one path."""
        path = "".join(f"M{self.x(at):.1f} {self.y(value):.1f}h0" for at, value in points)
        self.parts.append(f'<path class="dots {kind}" stroke-width="{2 * radius}" d="{path}"/>')
        if name:
            self.legend.append((f"dot {kind}", name))

    def level(self, value: float, kind: str, name: str) -> None:
        """A horizontal line."""
        at = self.y(value)
        self.parts.append(f'<path class="level {kind}" d="M{_LEFT} {at:.1f}H{_WIDTH - _RIGHT}"/>')
        self.legend.append((f"level {kind}", name))

    def mark(self, at_s: float, label: str, kind: str, row: int = 0) -> None:
        """A moment; ``row`` keeps labels of near moments apart."""
        x, y = self.x(at_s), _TOP + 14 + 18 * row
        beside = f'x="{x - 6:.1f}" text-anchor="end"' if x > 0.85 * _WIDTH else f'x="{x + 6:.1f}"'
        self.parts.append(
            f'<path class="mark {kind}" d="M{x:.1f} {_TOP}V{self.height - _BOTTOM}"/>'
            f'<text class="marklabel {kind}" {beside} y="{y}">{escape(label)}</text>'
        )

    def svg(self) -> str:
        """The whole of it."""
        axis = []
        for value, words in self.ticks:
            at = self.y(value)
            axis.append(
                f'<path class="grid" d="M{_LEFT} {at:.1f}H{_WIDTH - _RIGHT}"/>'
                f'<text class="tick y" x="{_LEFT - 8}" y="{at + 4:.1f}">{escape(words)}</text>'
            )
        at_s = math.ceil(self.low_s / self.every_s - 1e-9) * self.every_s
        while at_s <= self.high_s + 1e-9:
            axis.append(
                f'<text class="tick x" x="{self.x(at_s):.1f}" y="{self.height - 8}">'
                f"{escape(self.time_label(at_s))}</text>"
            )
            at_s += self.every_s
        keys = "".join(f'<span class="key"><i class="{kind}"></i>{escape(name)}</span>' for kind, name in self.legend)
        unit = f" <small>{escape(self.unit)}</small>" if self.unit else ""
        return (
            f'<div class="chart"><p class="charthead"><b>{escape(self.title)}</b>{unit}{keys}</p>'
            f'<div class="scroll"><svg viewBox="0 {_TOP - 8} {_WIDTH} {self.height - _TOP + 8}" role="img" '
            f'aria-label="{escape(self.title)}">{"".join(axis)}{"".join(self.parts)}</svg></div></div>'
        )


def rates(parts: Iterable[Slice], low_s: float, high_s: float, width_s: float) -> list[Point]:
    """Frames a second in equal times; what was counted over several of them is spread evenly."""
    counts = [0.0] * max(1, math.ceil((high_s - low_s) / width_s))
    for part in parts:
        length = max(1e-6, part.to_s - part.from_s)
        first = max(0, math.floor((part.from_s - low_s) / width_s))
        last = min(len(counts) - 1, math.floor((part.to_s - low_s) / width_s))
        for number in range(first, last + 1):
            begin = low_s + number * width_s
            shared = max(0.0, min(part.to_s, begin + width_s) - max(part.from_s, begin))
            counts[number] += part.frames * min(1.0, shared / length)
    return [(low_s + number * width_s, count / width_s) for number, count in enumerate(counts)]


def trimmed(bins: Sequence[Point]) -> list[Point]:
    """Without the empty times at both ends."""
    busy_bins = [number for number, (_, value) in enumerate(bins) if value > 0]
    return list(bins[busy_bins[0] : busy_bins[-1] + 1]) if busy_bins else []


def rolling(seconds: Sequence[WorkSample], what: Callable[[Sequence[WorkSample]], float | None]) -> list[Point]:
    """A figure of the last ``_WINDOW_S`` seconds, at each second."""
    width = int(_WINDOW_S)
    found = []
    for end in range(width, len(seconds) + 1):
        value = what(seconds[end - width : end])
        if value is not None:
            found.append((seconds[end - 1].at_s - _WINDOW_S / 2, value))
    return found


def even(most: float) -> list[tuple[float, str]]:
    """Round ticks from nought up."""
    raw = most / 4
    base = 10.0 ** math.floor(math.log10(raw))
    step = next(base * factor for factor in (1, 2, 2.5, 5, 10) if base * factor >= raw)
    return [(number * step, f"{number * step:,.6g}") for number in range(int(most / step) + 1)]


def decades(most: float) -> list[tuple[float, str]]:
    """Ticks of powers of ten, and nought."""
    return [(0.0, "0"), *((10.0**n, f"{10**n:,}") for n in range(1, math.ceil(math.log10(most)) + 1))]


def log1(most: float) -> Callable[[float], float]:
    """A scale of powers of ten that shows nought."""
    high = math.ceil(math.log10(most))
    return lambda value: math.log10(1 + max(0.0, value)) / high


def log(low: float, high: float) -> Callable[[float], float]:
    """A scale between two powers of ten."""
    return lambda value: (math.log10(max(value, 1e-6)) - low) / (high - low)
