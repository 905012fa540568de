"""Figures of merit for scores per row against labels per row, where an anomaly is a range of rows. Pure.

VUS-PR is from its definition (J. Paparrizos et al., "Volume Under the Surface", PVLDB 15, 2022): the area under the
curve of precision and recall, with labels that fade out before and behind each range, averaged over how far they do.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.float64]
Labels = npt.NDArray[np.bool_]
Ranges = Sequence[tuple[int, int]]
"""First row and the row behind the last of each, in order."""

BUFFER = 100
"""Labels fade out over at most so many rows, half of them before and half behind a range."""
POINTS = 250
"""Thresholds on the curve: at these places in the order of scores, evenly spread."""


def ranges(labels: Labels) -> list[tuple[int, int]]:
    """Runs of labelled rows."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], labels, [False])).astype(np.int8)))
    return [(int(first), int(behind)) for first, behind in edges.reshape(-1, 2)]


def faded(labels: Labels, buffer: int) -> Scores:
    """Labels of 1, and of the square root of 1 - distance / buffer within half of the buffer around a range."""
    wide = labels.astype(np.float64)
    reach = np.arange(1, buffer // 2 + 1)
    values = np.sqrt(1.0 - reach / max(buffer, 1))
    for first, behind in ranges(labels):
        after = behind - 1 + reach[behind - 1 + reach < len(labels)]
        wide[after] += values[: len(after)]
        before = first - reach[first - reach >= 0]
        wide[before] += values[: len(before)]
    return np.minimum(wide, 1.0)


def range_auc_pr(scores: Scores, labels: Labels, buffer: int) -> float:
    """The area with one width of the labels' fading; ``ValueError`` without a labelled row."""
    if not labels.any():
        raise ValueError("no row is labelled")
    wide = faded(labels, buffer)
    order = np.argsort(-scores, kind="stable")
    thresholds = scores[order][np.linspace(0, len(scores) - 1, POINTS).astype(np.intp)]
    ascending = scores[order][::-1]
    flagged = len(scores) - np.searchsorted(ascending, thresholds, side="left")
    hits = np.cumsum(wide[order])[flagged - 1]
    highest = np.array([scores[first:behind].max() for first, behind in ranges(wide > 0)])
    found = (highest[None, :] >= thresholds[:, None]).mean(axis=1)
    recall = np.minimum(hits / ((labels.sum() + wide.sum()) / 2), 1.0) * found
    return float((np.diff(recall, prepend=0.0) * hits / flagged).sum())


def vus_pr(scores: Scores, labels: Labels, buffer: int = BUFFER) -> float:
    """The mean of these areas over every width up to ``buffer``."""
    return float(np.mean([range_auc_pr(scores, labels, width) for width in range(buffer + 1)]))


def auc_pr(scores: Scores, labels: Labels) -> float:
    """Average precision, row by row."""
    order = np.argsort(-scores, kind="stable")
    last_of_its_kind = np.append(np.diff(scores[order]) != 0, True)
    hits = np.cumsum(labels[order])[last_of_its_kind]
    flagged = np.flatnonzero(last_of_its_kind) + 1
    return float((np.diff(hits, prepend=0) * (hits / flagged)).sum() / max(int(labels.sum()), 1))


def f1(detected: Labels, labels: Labels) -> float:
    """Row by row, never adjusted by points."""
    both = int((detected & labels).sum())
    return 2 * both / max(int(detected.sum()) + int(labels.sum()), 1)


def events_found(detected: Labels, labels: Labels) -> tuple[int, int]:
    """How many labelled ranges have a detection in them, and how many there are."""
    known = ranges(labels)
    return sum(bool(detected[first:behind].any()) for first, behind in known), len(known)


def false_episodes(detected: Labels, labels: Labels) -> int:
    """Runs of detections that touch no labelled range."""
    return sum(not labels[first:behind].any() for first, behind in ranges(detected))
