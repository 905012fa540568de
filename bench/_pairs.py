"""What interleaved pairs of looks say: a mean with its 95 % interval, so that a machine's drift falls out."""

import math
import statistics
from collections.abc import Callable, Sequence

T95 = {2: 12.706, 4: 3.182, 8: 2.365, 16: 2.131, 24: 2.069, 32: 2.040, 48: 2.012}
"""Student's t for a 95 % interval, by the number of pairs."""
Pair = tuple[float, float]


def mean(values: Sequence[float]) -> tuple[float, float]:
    """The mean of two or more values, and half of its 95 % interval."""
    nearest = max((count for count in T95 if count <= len(values)), default=2)
    return statistics.fmean(values), T95[nearest] * statistics.stdev(values) / math.sqrt(len(values))


def ratio(pairs: Sequence[Pair]) -> tuple[float, float]:
    """Of pairs (plain, other): the mean ratio and the lower end of its 95 % interval."""
    middle, spread = mean([math.log(other / plain) for plain, other in pairs])
    return math.exp(middle), math.exp(middle - spread)


def excess(pairs: Sequence[Pair]) -> tuple[float, float]:
    """Of pairs (one, other): by how much the other is more, and the upper end of its 95 % interval."""
    middle, spread = mean([other - one for one, other in pairs])
    return middle, middle + spread


def interleaved(
    measure: Callable[[], float], one: Callable[[], None], other: Callable[[], None], pairs: int
) -> list[Pair]:
    """So many pairs, each of two looks at either side in mirrored order; at the end it is as ``one`` makes it."""
    found = []
    for turn in range(pairs):
        looks: dict[bool, list[float]] = {False: [], True: []}
        for is_other in (False, True, True, False) if turn % 2 == 0 else (True, False, False, True):
            (other if is_other else one)()
            looks[is_other].append(measure())
        found.append((statistics.fmean(looks[False]), statistics.fmean(looks[True])))
    one()
    return found
