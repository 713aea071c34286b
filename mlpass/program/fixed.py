"""Weights that nobody trained, by their numbers: tables of positions, transforms, filterbanks."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_WINDOW = 64  # rows that are looked at together


def is_position_table(table: NDArray[Any]) -> bool:
    """Returns whether a table's columns are sinusoids of the row, as those of positions are.

    Any sinusoid f(p) of an integer p satisfies f(p + 1) + f(p - 1) = 2 cos(w) f(p) with one factor
    for all p, whatever its phase and amplitude. A trained table does not. A constant does, too, but
    tells no positions: what is left over is measured against how much the rows change.

    Args:
        table: (rows, ...), floats.
    """
    if table.ndim < 2 or len(table) < 8:
        return False
    last = max(0, len(table) - _WINDOW)
    windows = [
        table[start : start + _WINDOW].astype(np.float64).reshape(min(_WINDOW, len(table)), -1)
        for start in sorted({0, last // 2, last})
    ]
    if not all(np.isfinite(rows).all() for rows in windows):
        return False
    centre = np.concatenate([rows[1:-1] for rows in windows])
    neighbours = np.concatenate([rows[2:] + rows[:-2] for rows in windows])
    change = max(float(np.ptp(rows, axis=0).max(initial=0)) for rows in windows)
    power = np.sum(centre * centre, axis=0)
    live = power > 0
    if change == 0 or not live.any():
        return False
    factor = np.sum(neighbours * centre, axis=0)[live] / power[live]
    error = np.abs(neighbours[:, live] - factor * centre[:, live]).max()
    return bool(error <= 4e-3 * change and np.all(np.abs(factor) <= 2.001))
