"""What interleaved pairs of looks say: a mean with its 95 % interval, so that a machine's drift falls out."""

import math
import statistics
from collections.abc import Callable, Sequence

import numpy as np

T95 = {2: 12.706, 4: 3.182, 8: 2.365, 16: 2.131, 24: 2.069, 32: 2.040, 48: 2.012}
"""Student's t for a 95 % interval, by the number of pairs or blocks."""
BLOCK = 16
"""Pairs that are drawn together: what disturbs a machine lasts, so that neighbours are alike."""
_DRAWS = 2000
Pair = tuple[float, float]


def mean(values: Sequence[float]) -> tuple[float, float]:
    """The mean of two or more values, and half of its 95 % interval."""
    return statistics.fmean(values), _student(len(values)) * statistics.stdev(values) / math.sqrt(len(values))


def _student(count: int) -> float:
    return T95[max((known for known in T95 if known <= count), default=2)]


def ratio(pairs: Sequence[Pair]) -> tuple[float, float]:
    """Of pairs (plain, other): the mean ratio and the lower end of its 95 % interval."""
    middle, spread = mean([math.log(other / plain) for plain, other in pairs])
    return math.exp(middle), math.exp(middle - spread)


def middle_ratio(pairs: Sequence[Pair]) -> tuple[float, float]:
    """Of dozens of pairs (plain, other): the middle mean of ratios, and the lower end of its 95 % interval."""
    middle, spread = middle_mean([math.log(other / plain) for plain, other in pairs])
    return math.exp(middle), math.exp(middle - spread)


def middle_excess(pairs: Sequence[Pair]) -> tuple[float, float]:
    """Likewise by how much the other is more than the one, and the upper end."""
    middle, spread = middle_mean([other - one for one, other in pairs])
    return middle, middle + spread


def middle_mean(values: Sequence[float]) -> tuple[float, float]:
    """The mean of the middle half of dozens of values, and half of its 95 % interval.

    Another task that takes the CPU spoils a look by far more than what is sought, on either side alike; a quarter at
    each end is left out. The interval is Student's, with the deviation by bootstrap over blocks of neighbours.
    """
    looks = np.array(values)
    size = len(looks)
    blocks = max(2, math.ceil(size / BLOCK))
    starts = np.random.default_rng(0).integers(0, size, (_DRAWS, blocks, 1))
    drawn = looks[(starts + np.arange(BLOCK)).reshape(_DRAWS, -1)[:, :size] % size]
    cut = size // 4
    middles = np.sort(np.vstack([looks, drawn]), axis=1)[:, cut : size - cut].mean(axis=1)
    spread = _student(blocks) * middles[1:].std() * math.sqrt(blocks / (blocks - 1))
    return float(middles[0]), float(spread)


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
