"""Weights that nobody trained, by their numbers: grids, resizing, notes, delays and masks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mlpass.plan.fixed import all_finite, is_position_table, spread

_FEWEST = 4  # rows, and columns of two kinds
_SHORTEST = 6  # places along a side of a plane
_TOLERANCE = 4e-3  # of the largest element; fp16 rounds off less
_PLANES = 1 << 14  # places of a plane at most
_FLAT = 8  # columns of a table of places at most
_PLACES = 16  # places that it has at least
_STEPS = 0.7  # of the steps are one
_BANNED = -99.0  # and below: what a mask adds where it bans
_NOTES = 6  # of a wheel
_BROAD = 3  # notes that a row sounds at least
_TURNS = 0.9  # of the steps stay on a note, or go one up
_LONG = 32  # samples of a delayed pulse
_ALIKE = 0.02  # of the largest magnitude of a spectrum
_OFF = 0.25  # samples that a centre is off its place
_STRAIGHT = 0.6  # of the rows are that close: all but those at the edges


def is_plane_of_positions(table: NDArray[np.generic]) -> bool:
    """Returns whether rows are places of a plane, and columns sinusoids across it or down.

    The first row may be another: that of a class.

    Args:
        table: (places, columns), floats.
    """
    if table.ndim != 2 or len(table) > _PLANES or table.shape[1] < 2 * _FEWEST:
        return False
    if not all_finite(table):
        return False
    for rows in (table, table[1:]):
        count = len(rows)
        for width in range(_SHORTEST, count // _SHORTEST + 1):
            if count % width == 0 and _is_plane(rows.reshape(count // width, width, -1)):
                return True
    return False


def _is_plane(plane: NDArray[np.generic]) -> bool:
    tolerance = _TOLERANCE * max(float(plane[0].max()), -float(plane[0].min()))
    first = plane[:, :, :1]  # of a trained one a column tells already
    ways = first, first.transpose(1, 0, 2)
    if not tolerance or min(_uneven(way)[0] for way in ways) > tolerance:
        return False
    values = plane.astype(np.float64)
    across = _uneven(values) <= tolerance  # the same in all rows of the plane
    down = _uneven(values.transpose(1, 0, 2)) <= tolerance
    if not np.all(across | down) or min(across.sum(), down.sum()) < _FEWEST:
        return False
    sides = values[0][:, across & ~down], values[:, 0][:, down & ~across]
    return all(is_position_table(side, _SHORTEST) for side in sides)


def _uneven(rows: NDArray[np.generic]) -> NDArray[np.float64]:
    """Returns how much each column of each place differs between rows, at most."""
    spans: NDArray[np.float64] = np.ptp(rows.astype(np.float64), axis=0).max(axis=0)
    return spans


def is_places(matrix: NDArray[np.generic]) -> bool:
    """Returns whether a few columns count in equal steps, and begin again: grids, anchors.

    Args:
        matrix: (places, columns), floats.
    """
    count, columns = matrix.shape
    if not 2 <= columns <= _FLAT or count < _PLACES or not all_finite(matrix):
        return False
    steps = np.diff(matrix.astype(np.float64), axis=0)
    usual = np.median(steps, axis=0)
    off = np.abs(steps - usual) <= _TOLERANCE * np.abs(matrix.astype(np.float64)).max(axis=0)
    if np.all(off):  # lines without an end, as a trained weight of rank one may have
        return False
    return bool(np.all(off.mean(axis=0) >= _STEPS) and _counts(usual, matrix))


def _counts(usual: NDArray[np.float64], matrix: NDArray[np.generic]) -> bool:
    """Returns whether some column moves on with each step, further than is rounded off."""
    largest = np.abs(matrix.astype(np.float64)).max(axis=0)
    return bool(np.any(np.abs(usual) > 2 * _TOLERANCE * largest))


def is_mask(matrix: NDArray[np.generic]) -> bool:
    """Returns whether all elements are 0, or one number that bans in attention.

    Args:
        matrix: (rows, columns), floats.
    """
    least = float(matrix.min(initial=0))
    if not least <= _BANNED or matrix.max(initial=0) > 0:
        return False
    rows = matrix[:_FEWEST]
    return all(
        bool(np.all((one == 0) | (one == matrix.dtype.type(least)))) for one in (rows, matrix)
    )


def is_wheel(matrix: NDArray[np.generic]) -> bool:
    """Returns whether each row rises once and falls around a wheel, and peaks go around: chroma.

    Args:
        matrix: (frequencies, notes), floats.
    """
    count, notes = matrix.shape
    if notes < _NOTES or count < 2 * notes or matrix.min() < 0 or not all_finite(matrix):
        return False
    if not _go_round(spread(matrix)):
        return False
    rows = matrix.astype(np.float64)
    rows = rows[rows.any(axis=1)]
    if np.median(np.count_nonzero(rows, axis=1)) < _BROAD:  # a diagonal
        return False
    peaks = rows.argmax(axis=1)
    steps = np.diff(peaks) % notes
    return bool(
        _go_round(rows)
        and len(np.unique(peaks)) == notes
        and np.mean((steps == 0) | (steps == 1)) >= _TURNS
    )


def _go_round(rows: NDArray[np.float64]) -> bool:
    rows = rows[rows.any(axis=1)]
    if len(rows) < _FEWEST:
        return False
    turned = (rows.argmin(axis=1)[:, None] + np.arange(rows.shape[1])) % rows.shape[1]
    rows = np.take_along_axis(rows, turned, axis=1)
    change = np.diff(rows, axis=1)
    rising = np.arange(change.shape[1]) < rows.argmax(axis=1)[:, None]
    least = -_TOLERANCE * rows.max(axis=1, keepdims=True)
    return bool(np.mean(np.all(np.where(rising, change, -change) >= least, axis=1)) >= _TURNS)


def is_delays(matrix: NDArray[np.generic]) -> bool:
    """Returns whether rows are one pulse at other times, by fractions of a sample: resampling.

    Their spectra have the same magnitudes. Those of trained rows do not.

    Args:
        matrix: (rows, samples), floats.
    """
    if len(matrix) < _FEWEST or not _LONG <= matrix.shape[1] <= _PLANES:
        return False
    rows = spread(matrix)
    if not np.isfinite(rows).all() or np.any(np.count_nonzero(rows, axis=1) < _FEWEST):
        return False
    saying = np.abs(rows) > _TOLERANCE * np.abs(rows).max(axis=1, keepdims=True)
    if np.median(np.count_nonzero(saying, axis=1)) < _FEWEST:  # an identity that hardly changed
        return False
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    sizes = np.abs(np.fft.rfft(rows, axis=1))[:, 1:]  # the means of positive rows say nothing
    if np.abs(sizes - sizes[0]).max() > _ALIKE * sizes.max():
        return False
    return int(np.linalg.matrix_rank(rows, 0.1)) >= _FEWEST


def is_resizing(matrix: NDArray[np.generic]) -> bool:
    """Returns whether rows are means of neighbours, and their centres move on evenly: resizing.

    Each row adds up to 1, and straight lines stay straight, but for the edges. Rows may be those of
    a plane.

    Args:
        matrix: (places, places before), floats.
    """
    count, before = matrix.shape
    if min(count, before) < 2 * _FEWEST or max(count, before) > _PLANES:
        return False
    rows = spread(matrix)
    if not np.isfinite(rows).all() or np.abs(rows.sum(axis=1) - 1).max() > _TOLERANCE:
        return False
    if np.count_nonzero(rows) > rows.size // 2 or not all_finite(matrix):
        return False
    values = matrix.astype(np.float64)
    return any(
        _moves_evenly(values, width)
        for width in range(_FEWEST, count + 1)
        if count % width == 0 and (width == count or count // width >= _FEWEST)
    )


def _moves_evenly(values: NDArray[np.float64], width: int) -> bool:
    centres = (values @ np.arange(values.shape[1])).reshape(-1, width)
    for way in (centres, centres.T):
        count = way.shape[1]
        if count < _FEWEST:
            continue
        step = float(np.median(np.diff(way, axis=1)))
        off = way - step * np.arange(count)
        off = np.abs(off - np.median(off, axis=1, keepdims=True))
        if abs(step) * count < _FEWEST - 1 or np.mean(off <= _OFF * max(1, abs(step))) < _STRAIGHT:
            return False
    return True
