"""What the system knows of itself."""

from dataclasses import dataclass, field

from hypervigil.model.ids import Instant


@dataclass(slots=True)
class Health:
    """Counts since the monitor's start, and what is not seen or not in force now."""

    sweeps: int = 0
    lost: int = 0
    last_sweep_at: Instant | None = None
    blind: dict[str, Instant] = field(default_factory=dict)
    ports_bound: frozenset[str] = frozenset()
    ports_failed: dict[str, str] = field(default_factory=dict)
    repairs: int = 0
