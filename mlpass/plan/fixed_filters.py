"""Weights that nobody trained, by their numbers: filters that repeat, signs, and choices."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from mlpass.plan.fixed import all_finite, spread

_FEWEST = 4  # rows of a table of signs or choices
_MOST = 4  # filters that take turns, as those of wavelets do
_POSITIONS = 5  # of a filter that may be turned
_NUMBERS = 6  # but for their signs, that a matrix has that is turned as a whole
_PAIRS = 4  # of positions that are alike after a turn; of trained fp16 numbers one in 500 is
_ALIKE = 12  # such pairs of one magnitude that are not zeros; of signs each second is by chance
_TOLD = 48  # signs; 4 by 4 that were drawn by chance are at right angles once in twenty times
_TURNS = 3  # channels that each of them has at least
_KINDS = 16  # filters, but for their scale, that may be of all frequencies
_WIDE = 1e-2  # of the power of a filter of few frequencies, that the weaker half of them has
_FLAT = 5e-3  # of a direction: what is left of a mean that was trained a little
_TOLERANCE = 2e-3  # of a magnitude, or of a direction; fp16 rounds off less


def is_repeated_filter(filters: NDArray[np.generic]) -> bool:
    """Returns whether all channels have one filter, or a few in turn: blurs, edges, upsampling.

    Each may be scaled at will. Channels that are zero do not count, as off the diagonal of a dense
    convolution. Means (one number everywhere), single elements and weights of one magnitude, as
    binary networks have, say nothing. Nor does one filter that a product of two small weights has
    in common: each is there turned around, too, as it is itself or, of wavelets, every other sign.

    Args:
        filters: (channels, positions), floats.
    """
    found = _directions(filters)
    return found is not None and found[0] * _TURNS <= found[1]


def is_turned(filters: NDArray[np.generic]) -> bool:
    """Returns whether each filter turned by half is itself, but for its sign: Gabors, edges, bells.

    Of an even number the first position may lie before the turn. Means and single elements say
    nothing; nor do few positions. One filter of 3 by 3 is enough; of one magnitude, as those of
    binary and ternary networks are, it takes a few. Filters that were trained to be symmetric are
    so, too; but there are many of them, and of all frequencies.

    Args:
        filters: (channels, positions), floats.
    """
    if filters.shape[1] < _POSITIONS or not np.isfinite(filters).all():
        return False
    live = filters[filters.any(axis=1)].astype(np.float64)
    halves = live[:, : filters.shape[1] // 2] != 0
    told = np.count_nonzero(halves | (live[:, : -halves.shape[1] - 1 : -1] != 0))
    if halves.size < _PAIRS or (_one_magnitude(live) and told < _ALIKE):
        return False
    live /= np.abs(live).max(axis=1, keepdims=True)
    if np.any(np.count_nonzero(live, axis=1) < 2) or np.all(np.ptp(live, axis=1) <= _FLAT):
        return False
    if len(live) > _KINDS and not _is_narrow(live):
        return False
    return any(
        np.minimum(*(np.abs(part - sign * part[:, ::-1]).max(axis=1) for sign in (1, -1))).max()
        <= _TOLERANCE
        for part in ((live, live[:, 1:]) if live.shape[1] % 2 == 0 else (live,))
    )


def _is_narrow(filters: NDArray[np.float64]) -> bool:
    """Returns whether each filter has few frequencies, or there are few but for their scale."""
    power = np.sort(np.abs(np.fft.rfft(filters, axis=1)) ** 2, axis=1)
    weaker = power[:, : power.shape[1] // 2].sum(axis=1)
    wide = filters[weaker > _WIDE * power.sum(axis=1)]
    kinds = 0
    while len(wide):
        kinds += 1
        if kinds > _KINDS:
            return False
        first = wide[0]
        wide = wide[~_like(wide, first)]
    return True


def is_turned_whole(matrix: NDArray[np.generic]) -> bool:
    """Returns whether a square matrix turned by half is itself, but for its sign.

    So are matrices that differentiate, smooth or filter between two ends that are alike. Those of
    few numbers may be so by chance.

    Args:
        matrix: (rows, columns), floats.
    """
    rows, columns = matrix.shape
    if rows != columns or rows < _FEWEST or not all_finite(matrix):
        return False
    ends = matrix[[0, -1]].astype(np.float64)
    most = _TOLERANCE * max(float(matrix.max()), -float(matrix.min()))
    if min(np.abs(ends[0] - sign * ends[1, ::-1]).max() for sign in (1, -1)) > most:
        return False
    values = matrix.astype(np.float64)
    largest = np.abs(values).max()
    numbers = np.unique((np.abs(values) / max(largest, 1e-30)).round(3))
    sums = np.abs(values.sum(axis=1))  # of a derivative 0, of a mean 1; of trained ones anything
    if np.ptp(sums) > _TOLERANCE * rows * largest:
        return False
    turned = values[::-1, ::-1]
    off = min(np.abs(values - turned).max(), np.abs(values + turned).max())
    return bool(largest > 0 and len(numbers) >= _NUMBERS and off <= _TOLERANCE * largest)


def may_repeat(filters: NDArray[np.generic]) -> bool:
    """Returns whether filters that begin like these may be few that repeat.

    Args:
        filters: (channels, positions), the first ones of a weight.
    """
    if not np.isfinite(filters).all():
        return False
    return not filters.any() or _directions(filters) is not None


def is_signs(matrix: NDArray[np.generic]) -> bool:
    """Returns whether rows are signs of one magnitude at right angles: Hadamard's, Haar's.

    Each row has a magnitude of its own, and may have zeros, as those of wavelets of several levels
    do, where it meets others. Those of a trained binary or ternary network are not at right angles,
    but of few signs any may be by chance: they say nothing. A row may come again.

    Args:
        matrix: (rows, columns), floats.
    """
    if min(matrix.shape) < _FEWEST or not all_finite(matrix):
        return False
    first = np.abs(matrix[:_FEWEST].astype(np.float64))
    most = first.max(axis=1, keepdims=True)
    if np.any((first > _TOLERANCE * most) & (first < (1 - _TOLERANCE) * most)):
        return False
    rows = matrix[: 1 << 8].astype(np.float64)
    rows = rows[np.count_nonzero(rows, axis=1) > 1]
    sizes = np.abs(rows).max(axis=1, initial=0, keepdims=True)
    signs = np.abs(rows) > _TOLERANCE * sizes
    if (
        len(rows) < _FEWEST
        or rows.size < _TOLD
        or np.any(signs & (np.abs(rows) < (1 - _TOLERANCE) * sizes))
    ):
        return False
    rows = np.where(signs, np.sign(rows), 0)
    products, meeting = np.abs(rows @ rows.T), signs.astype(np.float64) @ signs.T
    again = products == np.maximum(*np.meshgrid(*[np.count_nonzero(rows, axis=1)] * 2))
    apart = products == 0
    return bool(np.all(apart | again) and np.all((apart & (meeting > 0)).any(axis=1)))


def is_choice(matrix: NDArray[np.generic]) -> bool:
    """Returns whether each row is one column chosen, by the same number: identity, one-hot rows.

    Up to half of the rows may be zero: columns that nobody chooses.

    Args:
        matrix: (rows, columns), floats.
    """
    if min(matrix.shape) < _FEWEST:
        return False
    for rows in (matrix[: 1 << 6], matrix):  # of most weights a few are enough
        counts = np.count_nonzero(rows, axis=1)
        if counts.max() > 1:
            return False
    if 2 * np.count_nonzero(counts) < len(matrix):
        return False
    return _one_magnitude(matrix) and bool(np.count_nonzero(matrix.any(axis=0)) >= _FEWEST)


def is_means(matrix: NDArray[np.generic]) -> bool:
    """Returns whether each row is a mean: equal elements of two columns or more that add up to 1.

    Rows of zeros do not count, as off the diagonal of a dense convolution.

    Args:
        matrix: (rows, columns), floats.
    """
    if not matrix.any() or not all_finite(matrix):
        return False
    return _means(spread(matrix)) and _means(matrix)  # of most weights a few rows are enough


def _means(rows: NDArray[np.generic]) -> bool:
    counts = np.count_nonzero(rows, axis=1)
    if np.any(counts == 1):
        return False
    each = 1 / np.maximum(counts, 1)[:, None]
    return bool(np.all((rows == 0) | (np.abs(rows - each) <= _TOLERANCE * each)))


def _one_magnitude(matrix: NDArray[np.generic]) -> bool:
    """Returns whether all elements that are not zero have one magnitude."""
    if not np.isfinite(matrix).all():
        return False
    sizes = np.abs(matrix[matrix != 0].astype(np.float64))
    if not sizes.size:
        return False
    return bool(np.ptp(sizes) <= _TOLERANCE * sizes.max())


def _directions(filters: NDArray[np.generic]) -> tuple[int, int] | None:
    """Returns how many filters there are but for their scale, and how many channels have one.

    It is None where there are many, or one of them says nothing, or is not there turned around.
    """
    if not np.isfinite(filters).all():
        return None
    live = filters[filters.any(axis=1)].astype(np.float64)
    if not len(live) or not np.isfinite(live).all() or _one_magnitude(live):
        return None
    left = live / np.linalg.norm(live, axis=1)[:, None]
    found: list[NDArray[np.float64]] = []
    while len(left):
        first = left[0]
        if np.ptp(first) <= _FLAT or np.count_nonzero(first) < 2 or len(found) == _MOST:
            return None
        left = left[~_like(left, first)]
        found.append(first)
    known = np.stack(found)
    pairs = np.stack([known * signs for signs in _alternating(known.shape[1])])
    if not all(_like(pairs, one[::-1]).any() for one in found):
        return None
    return len(found), len(live)


def _alternating(positions: int) -> list[NDArray[np.float64]]:
    """Returns signs that take turns along a filter, or along one side or both of a square one."""
    places = np.arange(positions, dtype=np.float64)
    side = math.isqrt(positions)
    turns = [np.zeros(positions), places]
    if side * side == positions:
        turns += [places // side, places % side, places // side + places % side]
    return [1.0 - 2 * (turn % 2) for turn in turns]


def _like(filters: NDArray[np.float64], one: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Returns which filters are one of them, but for its sign."""
    off = np.minimum(np.abs(filters - one).max(axis=-1), np.abs(filters + one).max(axis=-1))
    like: NDArray[np.bool_] = off <= _TOLERANCE
    return like
