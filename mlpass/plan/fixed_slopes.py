"""Weights that nobody trained, by their numbers: distances, and slopes of attention's heads."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mlpass.plan.fixed import all_finite

_HEADS = 4  # with slopes of their own
_FEWEST = 3  # rows and columns of a table of distances
_MOST = 1 << 7  # heads, or rows of such a table
_PLACES = 1 << 12  # of a head that are looked at
_TOLERANCE = 2e-3  # of the largest element; fp16 rounds off less
_SERIES = 2 ** np.arange(8)  # heads whose slopes are 8 / n apart, as powers of two
_JUMPS = 0.25  # of the places are more than one further than the place before
_EVEN = 0.03  # of the gap between two slopes


def is_slopes(heads: NDArray[np.generic]) -> bool:
    """Returns whether heads have one row in common, times a geometric slope: biases of ALiBi.

    The row counts in equal steps, or is one number. Where all heads have the same, as where a mask
    bans, nothing is said. Of n heads the slopes are powers of two, 8 / n apart, where n may be
    rounded to a power of two, and fall from head to head, or in two runs.

    Args:
        heads: (heads, places), floats.
    """
    if not _HEADS <= len(heads) <= _MOST or not all_finite(heads):
        return False
    rows = heads[:, :_PLACES].astype(np.float64)
    rows = rows[:, np.ptp(rows, axis=0) > 0]
    if not rows.size:
        return False
    first = rows[np.abs(rows).max(axis=1).argmax()]
    slopes = rows @ first / (first @ first)
    powers = np.unique(np.log2(np.where(slopes > 0, slopes, 1)).round(4))
    if slopes.min() <= 0 or len(powers) < _HEADS:
        return False
    apart = np.abs(rows / slopes[:, None] - first).max()
    if apart > _TOLERANCE * np.abs(first).max() or not first.all():
        return False
    counts = first / first[np.abs(first).argmin()]
    uneven = np.abs(counts - np.rint(counts))
    if np.any((counts < 0) | (uneven > _TOLERANCE * (_HEADS + counts))):
        return False
    steps = np.abs(np.diff(np.rint(counts)))
    falls = np.diff(slopes) < 0
    others = min(np.count_nonzero(falls), np.count_nonzero(~falls))
    if np.count_nonzero(steps > 1) > _JUMPS * len(steps) or others > (len(slopes) not in _SERIES):
        return False
    gap = np.ptp(powers) / np.rint(np.ptp(powers) / np.diff(powers).min())
    counted = np.array([len(powers), *_SERIES])
    step = 8 / counted[np.abs(8 / counted - gap).argmin()]
    places = (powers - powers[0]) / step
    off = max(abs(gap / step - 1), np.abs(places - np.rint(places)).max())
    return bool(off <= _EVEN)


def is_distances(matrix: NDArray[np.generic]) -> bool:
    """Returns whether each element is the distance between its row and its column, times a slope.

    Tables may be below each other, each with a slope of its own.

    Args:
        matrix: (rows of one or more tables, columns), floats.
    """
    if min(matrix.shape) < _FEWEST or not all_finite(matrix):
        return False
    return all(_are_distances(matrix[:count]) for count in (_FEWEST, _MOST))


def _are_distances(matrix: NDArray[np.generic]) -> bool:
    rows = np.abs(matrix.astype(np.float64))
    zeros = rows.argmin(axis=1)
    distances = np.abs(np.arange(rows.shape[1]) - zeros[:, None])
    largest = rows.max(axis=1)
    slopes = largest / distances.max(axis=1)
    steps = np.diff(zeros)
    return bool(
        np.all(largest > 0)
        and np.all((steps == 1) | (zeros[1:] == 0))
        and 2 * np.count_nonzero(steps == 1) >= len(steps)
        and np.all(np.abs(rows - slopes[:, None] * distances) <= _TOLERANCE * largest[:, None])
    )
