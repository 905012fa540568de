"""What is in force in the kernel, held against what was decided. Pure."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from hypervigil.host.monitor.grants import by_policy
from hypervigil.model.ids import Instant, LimitId, VmId
from hypervigil.model.limits import Limit


@dataclass(frozen=True, slots=True)
class Compared:
    """What both have, and what only one of them has."""

    agreed: tuple[LimitId, ...]
    stray: tuple[LimitId, ...]
    """In force, and nobody ordered them."""
    missing: tuple[Limit, ...]
    """To be put in force."""
    ended: tuple[Limit, ...]
    """Over by their own time: whoever ended them is gone as well."""


def compared(
    in_force: Iterable[Limit], standing: Iterable[Limit], now: Instant, *, spared: Callable[[VmId], bool]
) -> Compared:
    """``spared``: whether a VM is not to be limited, as in monitor mode; what it has no longer is not put again."""
    there = {limit.id for limit in in_force}
    ordered = {limit.id: limit for limit in standing}
    lacking = [limit for key, limit in ordered.items() if key not in there and not by_policy(limit)]
    return Compared(
        agreed=tuple(there & ordered.keys()),
        stray=tuple(there - ordered.keys()),
        missing=tuple(limit for limit in lacking if limit.until > now and not spared(limit.vm)),
        ended=tuple(limit for limit in lacking if limit.until <= now),
    )
