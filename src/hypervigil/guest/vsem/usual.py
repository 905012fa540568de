"""What is usual of each metric, as the brief history says or as presumed, and what is above its line. Pure."""

from __future__ import annotations

from hypervigil.guest import words
from hypervigil.guest.words import ATTACKER, UNKNOWN, VICTIM

SPREADS = 3
"""A line lies so many spreads above the middle."""
AT_ONCE = 2
"""So many times its line is a breach in the first second; between line and that, two seconds in a row are."""

# Metric: the least that its line can be, its line while there is no history, and what a breach makes of the VM.
JUDGED = {
    words.OUT_SYN: (10, 40, ATTACKER),
    words.OUT_SYNACK: (20, 100, VICTIM),
    words.OUT_RST: (10, 40, VICTIM),
    words.OUT_TCP: (200, 5000, UNKNOWN),
    words.OUT_DNS: (10, 40, ATTACKER),
    words.OUT_UDP: (20, 100, ATTACKER),
    words.OUT_ICMP: (10, 20, ATTACKER),
    words.OUT_ARP: (10, 20, ATTACKER),
    words.OUT_FRAGMENT: (10, 20, ATTACKER),
    words.OUT_MULTICAST: (10, 20, ATTACKER),
    words.OUT_OTHER: (10, 20, ATTACKER),
    words.IN_SYN: (20, 100, VICTIM),
    words.IN_SYNACK: (20, 100, VICTIM),
    words.IN_RST: (10, 40, ATTACKER),
    words.IN_TCP: (200, 5000, UNKNOWN),
    words.IN_DNS: (20, 100, VICTIM),
    words.IN_UDP: (20, 100, VICTIM),
    words.IN_ICMP: (10, 40, VICTIM),
    words.IN_ARP: (20, 100, VICTIM),
    words.IN_FRAGMENT: (10, 40, VICTIM),
    words.IN_OTHER: (10, 40, VICTIM),
    words.FAILED: (5, 20, ATTACKER),
    words.UNREACHABLE: (5, 20, ATTACKER),
    words.FAIL_SHARE: (300, 500, ATTACKER),
    words.RETRANSMITTED: (50, 200, UNKNOWN),
    words.RESETS_SENT: (10, 40, VICTIM),
    words.PENDING: (10, 40, ATTACKER),
    words.HALF_OPEN: (20, 100, VICTIM),
    words.CONNECTIONS: (100, 5000, UNKNOWN),
    words.FAN_OUT: (10, 40, ATTACKER),
    words.FAN_IN: (20, 100, VICTIM),
    words.PORTS_TRIED: (8, 16, ATTACKER),
    words.ODD_PORTS: (8, 20, ATTACKER),
    words.INTERRUPTS: (1000, 20_000, UNKNOWN),
    words.BLOCK_READS: (200, 4000, UNKNOWN),
    words.BLOCK_WRITES: (200, 4000, UNKNOWN),
    words.BLOCK_BYTES: (1 << 20, 200 << 20, UNKNOWN),
    words.BALLOON: (4096, 32_768, UNKNOWN),
    words.FORKS: (50, 400, UNKNOWN),
}


class Breach:
    """A metric at or above its line."""

    __slots__ = ("line", "metric", "value")

    def __init__(self, metric: int, value: int, line: int) -> None:
        self.metric, self.value, self.line = metric, value, line


class Usual:
    """Lines of all judged metrics, and which are breached: from the line on, until below three quarters of it."""

    __slots__ = ("_over", "_pardoned", "_seconds", "history", "lines")

    def __init__(self) -> None:
        self.history = 0
        """The number of the brief history in use."""
        self.lines = {metric: presumed for metric, (_, presumed, _) in JUDGED.items()}
        self._over: dict[int, int] = {}
        """Breached, with the highest value."""
        self._seconds: dict[int, int] = {}
        self._pardoned: dict[int, int] = {}
        """Breached when the host lowered the level: the value from which on it counts again."""

    def learn(self, history: int, usual: list[tuple[int, int, int]]) -> None:
        """Take middle and spread of metrics, in tenths; a metric that is not told keeps what is presumed."""
        self.history = history
        self.lines = {metric: presumed for metric, (_, presumed, _) in JUDGED.items()}
        for metric, middle, spread in usual:
            if metric in JUDGED:
                self.lines[metric] = max(JUDGED[metric][0], (middle + SPREADS * spread + 9) // 10)

    def judge(self, values: list[int], interval_ms: int) -> list[Breach]:
        """One second: what is newly breached."""
        fresh = []
        for metric, line in self.lines.items():
            value = values[metric]
            if value < 0:
                continue  # unseen says nothing
            if metric not in words.STATES and interval_ms > 0:
                value = value * 1000 // interval_ms
            if value * 4 < line * 3:
                self._over.pop(metric, None)
                self._pardoned.pop(metric, None)
                self._seconds.pop(metric, None)
            elif value >= line:
                if self._is_new(metric, value, line):
                    fresh.append(Breach(metric, value, line))
            else:
                self._seconds.pop(metric, None)
        return fresh

    def _is_new(self, metric: int, value: int, line: int) -> bool:
        if metric in self._over:
            self._over[metric] = max(self._over[metric], value)
            return False
        if value < self._pardoned.get(metric, 0):
            return False
        self._seconds[metric] = self._seconds.get(metric, 0) + 1
        if self._seconds[metric] < 2 and value < AT_ONCE * line:
            return False
        self._over[metric] = value
        return True

    @property
    def breached(self) -> int:
        """How many metrics are breached now."""
        return len(self._over)

    def pardon(self) -> None:
        """The host has seen what is breached now and lowered the level: it counts anew once over, or twice as high."""
        for metric, value in self._over.items():
            self._pardoned[metric] = AT_ONCE * value
        self._over.clear()
        self._seconds.clear()


def suspect(breaches: list[Breach]) -> str:
    """What the breaches make of the VM: a hint."""
    found = {JUDGED[breach.metric][2] for breach in breaches} - {UNKNOWN}
    return found.pop() if len(found) == 1 else UNKNOWN
