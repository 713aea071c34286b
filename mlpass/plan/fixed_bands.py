"""Weights that nobody trained, by their numbers: banks of filters, each for a band of its own."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mlpass.plan.fixed import all_finite, rises_once, spread

_FEWEST = 4  # filters, and centres that they have
_SHORTEST = 8  # frequencies of a bump
_WAVELENGTHS = 64  # samples of a filter in time
_BAND = 0.3  # of the spectrum, at most
_NOTHING = 1e-6  # of the largest element: a row of less is what rounding left of zeros
_OUTSIDE = 4e-3  # of a filter's power; of trained ones a hundred times that is
_CENTRES = 0.4  # of the rows have a centre of their own, where each is there twice, or nearly so
_DEGREE = 8  # of a tone's envelope, as a polynomial
_HEARD = 1e-2  # of a tone's peak: what is softer, before and after it, is not looked at
_LEFT_OVER = 0.02  # of a row's norm
_ROUNDED = 2e-3  # of the peak: what fp16 rounds off is less
_FALLS = 0.5  # of the peak, to which a bump falls somewhere
_RIPPLE = 0.03  # of the peak, beside it: what a window of a spectrum leaves there


def is_bumps(matrix: NDArray[np.floating]) -> bool:
    """Returns whether each row rises to one peak and falls, and the peaks are at several places.

    So are triangles, bells, bands and the responses of an ear, of any width, scaled at will, in any
    order. Half of the rows have several elements; rows of zeros do not count.

    Args:
        matrix: (filters, frequencies), floats.
    """
    if matrix.shape[1] < 2 * _SHORTEST or matrix.min(initial=0) < 0:
        return False
    if not rises_once(matrix, _RIPPLE):
        return False
    rows = matrix[matrix.any(axis=1)].astype(np.float64)
    if len(rows) < _FEWEST:
        return False
    rows /= rows.max(axis=1, keepdims=True)
    centres = rows.argmax(axis=1)
    wide = np.count_nonzero(rows > _ROUNDED, axis=1)
    if len(np.unique(centres)) < _FEWEST or np.median(wide) < _SHORTEST:
        return False
    if np.median(rows.min(axis=1)) > _FALLS:  # means that were trained a little
        return False
    change = np.diff(rows, axis=1)
    rising = np.arange(change.shape[1]) < centres[:, None]
    return bool(np.all(np.where(rising, change, -change) >= -_RIPPLE))


def is_narrow_bands(matrix: NDArray[np.floating]) -> bool:
    """Returns whether each row's spectrum lies within a narrow band: gammatones, constant-Q.

    Trained filters are of many frequencies, and noise, which is of all; where they are smooth, most
    are of the same low ones.

    Args:
        matrix: (filters, samples), floats.
    """
    count, length = matrix.shape
    if length < _WAVELENGTHS or count < _FEWEST:
        return False
    rows = spread(matrix)
    if not np.isfinite(rows).all():
        return False
    sizes = np.abs(rows).max(axis=1, initial=0)
    rows = rows[sizes > _NOTHING * sizes.max(initial=0)]
    if len(rows) < _FEWEST:
        return False
    power = np.abs(np.fft.rfft(rows / np.abs(rows).max(axis=1, keepdims=True), axis=1)) ** 2
    total = np.cumsum(np.pad(power, ((0, 0), (1, 0))), axis=1)
    width = max(1, int(_BAND * power.shape[1]))
    within = (total[:, width:] - total[:, :-width]).max(axis=1)
    centres = np.unique(power.argmax(axis=1))
    if len(centres) < max(_FEWEST, _CENTRES * len(rows)):
        return False
    return bool(np.all(within >= (1 - _OUTSIDE) * total[:, -1]))


def is_tones(matrix: NDArray[np.floating]) -> bool:
    """Returns whether each row is a tone that swells and fades: short gammatones, Morlets.

    Within few samples their spectra are wide; but each is a wave times an envelope that a
    polynomial of low degree follows. Rows too short to tell do not count.

    Args:
        matrix: (filters, samples), floats.
    """
    if min(matrix.shape) < _FEWEST or not all_finite(matrix):
        return False
    rows = spread(matrix)
    rows = rows[rows.any(axis=1)]
    peaks = [_peak_of(row, matrix.shape[1]) for row in map(_heard, rows) if row is not None]
    if 2 * len(peaks) < len(rows) or None in peaks:
        return False
    return len(set(peaks)) >= max(_FEWEST, _CENTRES * len(peaks))


def _heard(row: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Returns the samples of a tone that are loud enough; None where they are too few to tell."""
    loud = np.flatnonzero(np.abs(row) > _HEARD * np.abs(row).max())
    part = row[loud[0] : loud[-1] + 1]
    return part if len(part) >= 4 * (_DEGREE + 1) else None


def _peak_of(row: NDArray[np.float64], length: int) -> int | None:
    """Returns the number of periods that a tone has in a length; None where it is not a tone."""
    fine = 4 * len(row)
    middle = int(np.abs(np.fft.rfft(row, fine)).argmax())
    envelope = np.polynomial.chebyshev.chebvander(np.linspace(-1, 1, len(row)), _DEGREE)
    for peak in sorted(range(max(0, middle - 4), middle + 5), key=lambda one: abs(one - middle)):
        angles = 2 * np.pi * peak / fine * np.arange(len(row))
        terms = np.hstack([envelope * np.cos(angles)[:, None], envelope * np.sin(angles)[:, None]])
        found = np.linalg.lstsq(terms, row, rcond=None)[0]
        if np.linalg.norm(row - terms @ found) <= _LEFT_OVER * np.linalg.norm(row):
            return round(middle * length / fine)
    return None
