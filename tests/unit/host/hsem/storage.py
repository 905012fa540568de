"""A storage that VMs share: one queue, so many requests a second, and whoever has more under way is served more."""

from dataclasses import dataclass, field

from hypervigil.model.limits import LimitKind
from tests.unit.host.hsem.scene import Scene

AT_REST_S = 0.0006
"""What a request takes where nobody else asks: as measured of a guest's disk on a storage of QEMU's."""
JITTER = (1.0, 0.87, 1.1, 0.93, 1.15, 0.95)
"""Of what each second's requests take."""


@dataclass
class Storage:
    """A behaviour: in each interval what everybody has served, and how long it waits for that."""

    per_s: float
    writers: dict[str, tuple[float, float]] = field(default_factory=dict)
    """By name: how many requests a second it has at most, and how many of them under way."""
    served: dict[str, float] = field(default_factory=dict)
    wait_s: dict[str, float] = field(default_factory=dict)
    octets: float = 4096.0
    turn: int = 0

    def asks(self, name: str, rate: float, under_way: float = 1.0) -> "Storage":
        """From now on it asks for so much."""
        self.writers[name] = rate, under_way
        return self

    def __call__(self, scene: Scene, _: float) -> None:
        """One interval; a limit on requests counts at whoever asks."""
        bounds = {
            str(one.vm): one.value or 0.0
            for name in self.writers
            for one in scene.limits(name)
            if one.kind is LimitKind.BLOCK_OPERATIONS
        }
        asked = {name: (min(rate, bounds.get(name, rate)), depth) for name, (rate, depth) in self.writers.items()}
        low, high = AT_REST_S, 100.0
        for _ in range(50):
            wait = (low * high) ** 0.5
            more = sum(min(rate, depth / wait) for rate, depth in asked.values()) > self.per_s
            low, high = (wait, high) if more else (low, wait)
        self.turn += 1
        took = high * JITTER[self.turn // 5 % len(JITTER)]
        for name, (rate, depth) in asked.items():
            served = self.served[name] = min(rate, depth / took)
            # Who asks for more than a limit of its own allows waits there, with all that it has under way.
            waits = self.wait_s[name] = depth / bounds[name] if rate < self.writers[name][0] else took
            scene.takes(name, block_reads=0.0, block_writes=served, block_bytes=served * self.octets)
            scene.takes(name, block_wait=waits if served else None)
