"""Weights that nobody trained, by their numbers: rows that follow from those before them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mlpass.plan.fixed import all_finite

_FEWEST = 8  # rows, and columns
_FEWEST_POLYNOMIALS = 4
_ROWS = 64  # that are looked at
_STEP = 5  # rows or columns that one is shifted by, at most: resizing 3 to 5 takes that many
_FOLLOWING = 0.7  # of the rows follow from the one before; those that begin a level do not
_SAYING = 3  # elements that a row has at least, where few rows are alike
_ALIKE = 0.9  # of the elements that say something; those at the edges may differ
_TOLERANCE = 4e-3  # of the largest element; fp16 rounds off less
_TINY = 0.1  # of the tolerance: what is smaller is rounded off
_LEFT_OVER = 0.02  # of a row's norm


def is_shifted(matrix: NDArray[np.generic]) -> bool:
    """Returns whether each row is an earlier one, shifted: filters as a matrix, resizing, slopes.

    So are differences, running sums, smoothing, distances, masks of what comes later, wavelets.
    Elements that are what most are say nothing, as the zeros of a sparse weight; but they are
    alike, too: what training added to an identity is not.

    Args:
        matrix: (rows, columns), floats.
    """
    if min(matrix.shape) < _FEWEST or not all_finite(matrix):
        return False
    start = max(0, (len(matrix) - _ROWS) // 2)
    rows = matrix[start : start + _ROWS].astype(np.float64)
    tells, tolerance = _saying(rows)
    if not tells.any() or np.linalg.matrix_rank(rows, 1e-2 * np.linalg.norm(rows)) < 2:
        return False
    steps = range(1, _STEP + 1)
    return any(
        _is_shift(rows, tells, down, across, tolerance)
        for down in steps
        for across in (*steps, *(-step for step in steps))
    )


def is_levels(matrix: NDArray[np.generic]) -> bool:
    """Returns whether most rows are one before, turned by a power of two: levels of wavelets.

    Or of a pyramid, whose rows are of two kinds in turn.

    Args:
        matrix: (rows, columns), floats.
    """
    if min(matrix.shape) < _FEWEST or not all_finite(matrix):
        return False
    rows = matrix[:_ROWS].astype(np.float64)
    tells, tolerance = _saying(rows)
    saying = np.count_nonzero(tells, axis=1) >= _SAYING
    return any(_follow(rows, down, saying, tolerance) for down in (1, 2))


def _saying(rows: NDArray[np.float64]) -> tuple[NDArray[np.bool_], float]:
    """Returns which elements are not what most are, and how far two that are alike may be apart.

    Both are measured by the largest difference: nearly equal elements would all be alike.
    """
    apart = np.abs(rows - np.median(rows))
    tolerance = _TOLERANCE * float(apart.max())
    return apart > tolerance, tolerance


def _follow(
    rows: NDArray[np.float64], down: int, saying: NDArray[np.bool_], tolerance: float
) -> bool:
    """Returns whether most rows are the one `down` before, turned."""
    before, after = rows[:-down], rows[down:]
    follows = np.zeros(len(after), bool)
    for power in range(int(np.log2(rows.shape[1]))):
        for step in (1 << power, -(1 << power)):
            follows |= np.abs(np.roll(before, step, axis=1) - after).max(axis=1) <= tolerance
    follows &= saying[down:] & (np.abs(after - before).max(axis=1) > tolerance)
    return bool(np.count_nonzero(follows) >= _FOLLOWING * len(follows))


def is_polynomials(matrix: NDArray[np.generic]) -> bool:
    """Returns whether each row follows from the two before it, as powers and polynomials do.

    Row k + 1 is (a x + b) row k + c row k - 1, with numbers of its own and one x for all, which the
    first two rows tell: so are Legendre's, Chebyshev's, Hermite's, under a window, too.

    Args:
        matrix: (rows, samples), floats.
    """
    count, length = matrix.shape
    if count < _FEWEST_POLYNOMIALS or length < _FEWEST or not all_finite(matrix):
        return False
    rows = matrix[:_ROWS].astype(np.float64)
    return any(_are_polynomials(way) for way in (rows, rows[::-1]))


def _are_polynomials(rows: NDArray[np.float64]) -> bool:
    norms = np.linalg.norm(rows, axis=1)
    if np.any(norms == 0) or np.any(np.abs(rows[0]) < 1e-3 * np.abs(rows[0]).max()):
        return False
    rows = rows / norms[:, None]
    places = rows[1] / rows[0]
    steps = np.diff(places)  # of decays, which are trained, they go up and down
    if np.any(steps > 0) and np.any(steps < 0):
        return False
    rank = np.linalg.matrix_rank(rows, 0.1)
    if len(np.unique(places.round(3))) < _FEWEST or rank < 3:
        return False
    powers = rows[0] * (places / np.abs(places).max()) ** np.arange(len(rows))[:, None]
    products = np.sum(rows * powers, axis=1) / np.linalg.norm(powers, axis=1)
    if np.all(products >= 1 - 1e-5):
        return True
    if rank < min(len(rows), _FEWEST):
        return False
    for before, row, after in zip(rows, rows[1:], rows[2:], strict=False):
        terms = np.stack([places * row, row, before], axis=1)
        found = np.linalg.lstsq(terms, after, rcond=None)[0]
        change = min(1.0, float(np.linalg.norm(after - row)))
        if np.linalg.norm(after - terms @ found) > _LEFT_OVER * change:
            return False
    return True


def _is_shift(
    rows: NDArray[np.float64], tells: NDArray[np.bool_], down: int, across: int, tolerance: float
) -> bool:
    """Returns whether rows are those `down` above them, moved `across`."""
    here = np.s_[down:, max(0, across) : min(0, across) or None]
    there = np.s_[:-down, max(0, -across) : -across if across > 0 else None]
    told = tells[here] | tells[there]
    apart = np.abs(rows[here] - rows[there])
    count = np.count_nonzero(told)
    enough = 2 * count >= np.count_nonzero(tells)
    if not enough or np.count_nonzero((apart <= tolerance) & told) < _ALIKE * count:
        return False
    sizes = np.maximum(np.abs(rows[here]), np.abs(rows[there]))
    exact = apart <= _TOLERANCE * np.maximum(sizes, _TINY * tolerance)
    return bool(np.count_nonzero(exact) >= _ALIKE * exact.size)
