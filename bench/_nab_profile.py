"""The score of the Numenta Anomaly Benchmark (A. Lavin, S. Ahmad, ICMLA 2015), from its definition.

Of each window only the first detection counts, the more the earlier it is; each detection outside costs, the less the
closer it follows a window. What a file's first rows say, its probation, counts for nothing. The sum is put on a scale
on which detecting nothing is 0 and detecting every window in its first row, and nothing else, is 100.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.float64]
Windows = Sequence[tuple[int, int]]
"""First and last row of each, in order, both within."""

PROBATION = 0.15
"""The share of a file that is for learning only."""
MOST_PROBATION = 750
_FAR = 3.0
"""Further behind a window, in its lengths, a false detection costs all that it can."""


@dataclass(frozen=True, slots=True)
class Profile:
    """What a detected window is worth, and a missed one and a false detection cost."""

    hit: float = 1.0
    miss: float = 1.0
    false: float = 0.11


PROFILES: Mapping[str, Profile] = {
    "standard": Profile(),
    "reward_low_FP_rate": Profile(false=0.22),
    "reward_low_FN_rate": Profile(miss=2.0),
}


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """One file: a score per row, and where its anomalies are."""

    scores: Scores
    windows: Windows


def probation(rows: int) -> int:
    """So many of a file's first rows are for learning only."""
    return min(int(PROBATION * rows), MOST_PROBATION)


def _fading(position: Scores) -> Scores:
    """+1 far ahead of a window's end, 0 at it, -1 far behind; ``position`` in lengths of the window."""
    faded: Scores = np.where(position > _FAR, -1.0, 2.0 / (1.0 + np.exp(5.0 * np.minimum(position, _FAR))) - 1.0)
    return faded


def _steps(file: Scored, profile: Profile) -> tuple[Scores, Scores, int]:
    """Thresholds at which a detection is gained or moves, what each of that adds to the sum, and how many windows."""
    rows = np.arange(len(file.scores))
    counts = rows >= probation(len(rows))
    outside = counts.copy()
    behind = np.full(len(rows), -1.0)
    thresholds: list[Scores] = []
    gains: list[Scores] = []
    windows = 0
    for first, last in file.windows:
        outside[first : last + 1] = False
        behind[last + 1 :] = _fading((rows[last + 1 :] - last) / max(last - first, 1))
        inside = rows[first : last + 1][counts[first : last + 1]]
        if not len(inside):
            continue
        windows += 1
        worth = profile.hit * _fading(-(last - inside + 1.0) / (last - first + 1)) / _fading(np.array(-1.0))
        # Only a row above all before it can be the first detection, for thresholds above theirs.
        scores = file.scores[inside]
        higher = scores > np.maximum.accumulate(np.concatenate(([-np.inf], scores[:-1])))
        thresholds.append(scores[higher])
        gains.append(worth[higher] - np.concatenate((worth[higher][1:], [-profile.miss])))
    thresholds.append(file.scores[outside])
    gains.append(profile.false * behind[outside])
    return np.concatenate(thresholds), np.concatenate(gains), windows


def counted(files: Sequence[Scored]) -> int:
    """How many windows reach beyond their series' probation."""
    return sum(last >= probation(len(file.scores)) for file in files for _, last in file.windows)


def curve(files: Sequence[Scored], profile: Profile) -> tuple[Scores, Scores]:
    """Every threshold that changes anything, highest first, and the score on the scale of 0 to 100 with it.

    ``ValueError`` if no file has a window after its probation.
    """
    parts = [_steps(file, profile) for file in files]
    windows = sum(part[2] for part in parts)
    if not windows:
        raise ValueError("no series has an anomaly window after its probation")
    thresholds = np.concatenate([part[0] for part in parts])
    order = np.argsort(-thresholds, kind="stable")
    thresholds = thresholds[order]
    sums = np.cumsum(np.concatenate([part[1] for part in parts])[order])
    last_of_its_kind = np.append(np.diff(thresholds) != 0, True)
    reached = sums[last_of_its_kind] / (windows * (profile.hit + profile.miss)) * 100
    return thresholds[last_of_its_kind], reached


def score(files: Sequence[Scored], profile: Profile, threshold: float) -> float:
    """The score with rows at or above the threshold as detections."""
    thresholds, reached = curve(files, profile)
    at = int((thresholds >= threshold).sum())
    return float(reached[at - 1]) if at else 0.0


def best(files: Sequence[Scored], profile: Profile) -> tuple[float, float]:
    """The threshold with the highest score, and the score; as the benchmark's own board has it.

    Any threshold above the next lower score gives the same: it is put in the middle, so that it suits other series.
    """
    thresholds, reached = curve(files, profile)
    at = int(reached.argmax())
    if reached[at] <= 0.0:
        return float("inf"), 0.0
    lower = thresholds[at + 1] if at + 1 < len(thresholds) else 0.0
    return float((thresholds[at] + lower) / 2), float(reached[at])
