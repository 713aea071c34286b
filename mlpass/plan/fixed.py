"""Weights that nobody trained, by their numbers: tables of positions, transforms, filterbanks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_WINDOW = 64  # rows of a table that are looked at together
_SHORTEST = 8  # samples of a wave, frequencies of a filter
_COLUMNS = 1 << 8  # of a table that are looked at together
_TURNING = 1.99  # twice the cosine of a turn from row to row; 2 is a line, -2 rows that take turns
_TOLD = 0.75  # of the rows of a table, with both neighbours, are not zero
_FEWEST = 4  # waves, or filters
_WIDEST = 5  # elements that the widest filter has at least, that a straight line may show
_ROWS = 64  # of a transform that are looked at
_NUMBERS = 64  # that the first rows of a wavelet transform have, but for their signs
_ROUNDS = 8  # in which a window is found
_AT_ONCE = 1 << 18  # elements that are asked together whether they are numbers
_LEFT_OVER = 0.02  # of a row's norm; what fp16 rounds off is far less


def is_position_table(table: NDArray[np.generic], fewest: int = _SHORTEST) -> bool:
    """Returns whether a table's columns are sinusoids of the row, as those of positions are.

    Any sinusoid f(p) of an integer p satisfies f(p + 1) + f(p - 1) = 2 cos(w) f(p) with one factor
    for all p, whatever its phase and amplitude. A trained table does not. A constant does, too, but
    tells no positions: what is left over is measured against how much the rows change. So do lines,
    and rows that take turns, of which a trained table may be: one column turns otherwise. Rows of
    zeros, as for padding, do not count.

    Args:
        table: (rows, ...), floats.
        fewest: rows that can tell.
    """
    if table.ndim < 2 or len(table) < fewest:
        return False
    last = max(0, len(table) - _WINDOW)
    windows = [
        table[start : start + _WINDOW].reshape(min(_WINDOW, len(table)), -1)
        for start in sorted({0, last // 2, last})
    ]
    if not all(np.isfinite(rows).all() for rows in windows):
        return False
    live: list[NDArray[np.bool_]] = [np.count_nonzero(rows, axis=1) > 0 for rows in windows]
    told = np.concatenate([rows[:-2] & rows[1:-1] & rows[2:] for rows in live])
    if np.count_nonzero(told) < max(fewest - 3, _TOLD * len(told)):
        return False
    ends = [(rows.max(axis=0), rows.min(axis=0)) for rows in windows]
    change = max(float((high.astype(float) - low).max(initial=0)) for high, low in ends)
    count = windows[0].shape[1]
    parts = [slice(at, at + _COLUMNS) for at in range(0, count, _COLUMNS)]
    found = (_are_sinusoids([rows[:, part] for rows in windows], told, change) for part in parts)
    turning = False
    for one in found:
        if one is None:
            return False
        turning |= one
    return change > 0 and turning


def _are_sinusoids(
    windows: list[NDArray[np.generic]], told: NDArray[np.bool_], change: float
) -> bool | None:
    """Returns whether one of some columns turns; None where one of them is not a sinusoid."""
    rows = [window.astype(np.float64) for window in windows]
    centre = np.concatenate([each[1:-1] for each in rows])[told]
    neighbours = np.concatenate([each[2:] + each[:-2] for each in rows])[told]
    power = np.sum(centre * centre, axis=0)
    moving = power > 0
    if not moving.any():
        return False
    factor = np.sum(neighbours * centre, axis=0)[moving] / power[moving]
    error = np.abs(neighbours[:, moving] - factor * centre[:, moving]).max()
    if error > 4e-3 * change or np.any(np.abs(factor) > 2.001):
        return None
    return bool(np.any(np.abs(factor) < _TURNING))


def may_be_transform(head: NDArray[np.generic]) -> bool:
    """Returns whether a matrix that begins like this may be a transform or a filterbank.

    Their first rows are of few frequencies, or few numbers, or have no negative elements. Few
    trained weights begin like that, and the rules tell them apart.
    """
    values = head.astype(np.float64)
    power = float(values @ values)
    if not np.isfinite(power) or len(values) < 2 * _SHORTEST:
        return False
    if values.min() >= 0:
        return True
    heights = np.abs(values)
    numbers = np.sort(np.rint(heights * (1000 / heights.max())))
    if 1 + np.count_nonzero(numbers[1:] != numbers[:-1]) <= min(_NUMBERS, len(values) // 2):
        return True
    return any(abs(float(values[lag:] @ values[:-lag])) > 0.4 * power for lag in (1, 2, 3, 4))


def is_wave_basis(matrix: NDArray[np.generic], parts: int = 1) -> bool:
    """Returns whether all rows are waves of one transform: Fourier's or a cosine one, windowed too.

    Row k is w(n) (a cos(o n) + b sin(o n)), with a, b and o of its own, o a multiple of one step,
    and one window w for all. So real and imaginary rows may come in any order, scaled at will. The
    window is not known: it is solved for in turn with the waves. Trained rows leave nearly all of
    themselves over.

    Args:
        matrix: (rows, samples), floats.
        parts: that each row is of, side by side, as real and imaginary ones: each is a wave.
    """
    count, length = matrix.shape[0] * parts, matrix.shape[1] // parts
    if length < _SHORTEST:
        return False
    rows = directions(spread(matrix, parts))
    half = 2 * (count - 1)  # rows of a one-sided transform, or with real and imaginary ones stacked
    near = {2 * (length - 1), 2 * (length + 1)}  # of the first cosine and sine transforms
    periods = {length, 2 * length, 4 * length, half, count, count - 2, *near}
    return rows is not None and any(
        _are_waves(rows, period) for period in sorted(periods) if length <= period <= 4 * length
    )


def is_filterbank(matrix: NDArray[np.floating]) -> bool:
    """Returns whether rows are triangles side by side, each over its neighbours, as mel's are.

    They may come in any order, scaled at will, and stand on a scale of their own; some of the
    lowest may be of one element, or empty.

    Args:
        matrix: (filters, frequencies), floats.
    """
    if matrix.shape[1] < _SHORTEST or matrix.min(initial=0) < 0 or not rises_once(matrix):
        return False
    covers = matrix > 0
    filters = matrix[covers.any(axis=1)].astype(np.float64)
    counts = np.count_nonzero(covers, axis=0)
    overlapping = np.count_nonzero(counts == 2)
    if len(filters) < _FEWEST or counts.max() > 2 or 3 * overlapping < np.count_nonzero(counts):
        return False
    widest = int(np.count_nonzero(filters, axis=1).max())
    shared = filters[:, counts == 2].sum(axis=0)  # one falls as the next rises
    if widest < _WIDEST and np.ptp(shared) > 0.01 * shared.max():
        return False
    return all(_is_triangle(row) for row in filters)


def rises_once(matrix: NDArray[np.generic], rounded: float = 0.0) -> bool:
    """Returns whether rows from all over a matrix rise to one peak each, and fall; all are numbers.

    Those of trained weights do not: of a large one no more is looked at.

    Args:
        matrix: (rows, columns), without negative elements.
        rounded: how far it may go the other way, as a share of the peak.
    """
    if not all_finite(matrix):
        return False
    rows = spread(matrix)
    rows = rows[rows.any(axis=1)]
    change = np.diff(rows, axis=1)
    rising = np.arange(change.shape[1]) < rows.argmax(axis=1)[:, None]
    least = -rounded * rows.max(axis=1, initial=0, keepdims=True)
    return bool(np.all(np.where(rising, change, -change) >= least))


def all_finite(matrix: NDArray[np.generic]) -> bool:
    """Returns whether all elements are numbers, without an array of as many answers."""
    rows = matrix.T if matrix.ndim == 2 and matrix.strides[0] < matrix.strides[1] else matrix
    step = max(1, _AT_ONCE * len(rows) // max(1, rows.size))
    return all(np.isfinite(rows[at : at + step]).all() for at in range(0, len(rows), step))


def spread(matrix: NDArray[np.generic], parts: int = 1) -> NDArray[np.float64]:
    """Returns rows, or their parts, from all over a matrix, no more than are looked at."""
    count = len(matrix) * parts
    chosen = np.linspace(0, count - 1, min(count, _ROWS)).astype(np.intp)
    split = matrix.reshape(len(matrix), parts, -1) if matrix.size else matrix[:, None]
    return split[chosen // parts, chosen % parts].astype(np.float64)


def directions(rows: NDArray[np.floating]) -> NDArray[np.float64] | None:
    """Returns the rows that are not zero, of norm 1; None where they are few, or not numbers."""
    if not np.isfinite(rows).all():
        return None
    live = rows.astype(np.float64)
    norms = np.linalg.norm(live, axis=1)
    kept = norms > 3e-3 * norms.max(initial=0)
    found: NDArray[np.float64] = live[kept] / norms[kept, None]
    return found if len(found) >= _FEWEST else None


def _are_waves(rows: NDArray[np.float64], period: int) -> bool:
    """Returns whether rows, of norm 1, are waves of frequencies j / period under one window."""
    window = np.sqrt(np.mean(rows * rows, axis=0))
    left, best = 1.0, np.zeros(1, np.intp)
    step = max(1, _AT_ONCE // period)
    for _ in range(_ROUNDS):
        parts = [
            _nearest_waves(rows[at : at + step], window, period) for at in range(0, len(rows), step)
        ]
        waves, best = (np.concatenate(each) for each in zip(*parts, strict=True))
        before, left = left, float(np.linalg.norm(rows - window * waves, axis=1).max())
        if left <= _LEFT_OVER or left > 0.9 * before:
            break
        power = np.sum(waves * waves, axis=0)
        window = np.sum(rows * waves, axis=0) / np.where(power > 0, power, 1)
    if left > _LEFT_OVER or len(np.unique(best)) < _FEWEST:
        return False
    return int(np.linalg.matrix_rank(rows, 0.1)) >= _FEWEST


def _nearest_waves(
    rows: NDArray[np.float64], window: NDArray[np.float64], period: int
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Returns the wave most like each row under a window, and its frequency times the period."""
    turns = np.arange(period // 2 + 1)
    angles = 2 * np.pi / period * np.arange(rows.shape[1])
    spectrum = np.fft.rfft(rows * window, period)
    cosine, sine = spectrum.real, -spectrum.imag  # of each row with each windowed wave
    square = np.fft.fft(window * window, period)
    double = square[2 * turns % period]
    both, total = -double.imag / 2, square[0].real
    of_cosine, of_sine = (total + double.real) / 2, (total - double.real) / 2
    determinant = of_cosine * of_sine - both * both
    single = determinant <= 1e-9 * total * total  # cosine and sine are one, or one of them is 0
    safe = np.where(single, 1, determinant)
    a = np.where(single, cosine / total, (cosine * of_sine - sine * both) / safe)
    b = np.where(single, 0, (sine * of_cosine - cosine * both) / safe)
    best = np.argmax(a * cosine + b * sine, axis=1)[:, None]
    phases = best * angles
    waves = np.take_along_axis(a, best, 1) * np.cos(phases)
    waves += np.take_along_axis(b, best, 1) * np.sin(phases)
    return waves, best


def _is_triangle(row: NDArray[np.float64]) -> bool:
    """Returns whether a row is 0 but for a straight rise to its peak and a straight fall."""
    places = np.flatnonzero(row)
    if places[-1] - places[0] + 1 != len(places):
        return False
    centre, peak = int(row.argmax()), float(row.max())
    rise, fall = row[places[0] : centre], row[centre + 1 : places[-1] + 1]  # the peak is on either
    bends = np.concatenate([np.diff(rise, n=2), np.diff(fall, n=2)])
    steps = np.concatenate([np.diff(rise), -np.diff(fall)])
    return bool(np.all(np.abs(bends) <= 0.05 * peak) and np.all(steps >= 0))
