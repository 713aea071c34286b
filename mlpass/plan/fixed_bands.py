"""Weights that nobody trained, by their numbers: banks of filters, each for a band of its own."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mlpass.plan.fixed import spread

_FEWEST = 4  # filters, and centres that they have
_SHORTEST = 8  # frequencies of a bump
_WAVELENGTHS = 64  # samples of a filter in time
_BAND = 0.3  # of the spectrum, at most
_OUTSIDE = 4e-3  # of a filter's power; of trained ones a hundred times that is
_CENTRES = 0.4  # of the rows have a centre of their own, where each is there twice, or nearly so
_ROUNDED = 2e-3  # of the peak: what fp16 rounds off is less


def is_bumps(matrix: NDArray[np.floating]) -> bool:
    """Returns whether each row rises to one peak and falls, and the peaks come one after the other.

    So are triangles, bells, bands and the responses of an ear, of any width, scaled at will. Half
    of the rows have several elements; rows of zeros do not count.

    Args:
        matrix: (filters, frequencies), floats.
    """
    if (
        matrix.shape[1] < 2 * _SHORTEST
        or not np.isfinite(matrix).all()
        or matrix.min(initial=0) < 0
    ):
        return False
    rows = matrix[matrix.any(axis=1)].astype(np.float64)
    if len(rows) < _FEWEST:
        return False
    rows /= rows.max(axis=1, keepdims=True)
    centres = rows.argmax(axis=1)
    steps = np.diff(centres)
    wide = np.count_nonzero(rows > _ROUNDED, axis=1)
    if len(np.unique(centres)) < _FEWEST or np.median(wide) < _SHORTEST:
        return False
    if not (np.all(steps >= 0) or np.all(steps <= 0)):
        return False
    change = np.diff(rows, axis=1)
    rising = np.arange(change.shape[1]) < centres[:, None]
    return bool(np.all(np.where(rising, change, -change) >= -_ROUNDED))


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
    rows = rows[rows.any(axis=1)]
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
